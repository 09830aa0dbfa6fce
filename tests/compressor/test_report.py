"""The report of a compression: one page that needs no other file, shows both models, and shows texts as texts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from lmops.api.compressionreport import (
    Change,
    Interval,
    SearchReport,
    Trial,
)
from lmops_compressor.report import page, plot
from lmops_trainer.plots import Spot, scatter
from measuring import run
from reports import MODEL, check, model, report

VOID = {"meta", "br", "link", "img", "hr", "input", "path", "use"}


class Page(HTMLParser):
    """What a browser makes of the page: tables by their captions, words and ids; tags must close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "table":
            self._rows: list[list[str]] = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "caption":
            self.tables[data] = self._rows
        elif {"td", "th"} & set(self.open):
            self._rows[-1][-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_an_interval_that_is_not_known_is_left_out():
    few = {"quality": Interval(value=-0.003), "agreement": Interval(value=0.991)}

    text = Page(page(run("pvc://data/models/reviews"), MODEL, report(**few))).text

    assert "-0.003 too few rows to be sure" in text
    assert "None" not in text


def test_both_models_stand_side_by_side():
    found = Page(page(run("pvc://data/models/reviews"), MODEL, report()))

    takes = found.tables["What they take, on 1 thread of the same machine, in turn"]
    assert [row[:4] for row in takes[1:]] == [
        ["runs in", "transformers", "ONNX Runtime", ""],
        ["weights on disk", "91 MB", "23.2 MB", "3.92x smaller"],
        ["parameters", "22.7 M", "22.7 M", ""],
        ["of these zero", "3.1%", "3.1%", ""],
        ["latency, 1 x 128 tokens", "30 ms", "13 ms", "2.31x faster"],
        ["", "60 ms", "26 ms", ""],
        ["rows a second", "33.3", "76.9", ""],
        ["load time", "3.20 s", "3.20 s", "as fast"],
        ["peak memory", "620 MB", "250 MB", "2.48x less"],
    ]
    says = found.tables["What they say of the same 1,061 validation rows; intervals at 0.95"]
    assert [row[:4] for row in says[1:]] == [
        ["f1", "0.8430", "0.8400", "-0.0030 (-0.0110 to +0.0040)"],
        ["accuracy", "0.8530", "0.8500", "-0.0030"],
        ["same predictions", "", "99.10%", "0.9910 (0.9850 to 0.9960)"],
    ]
    assert found.tables["Counted in the result"][1:] == [["Dynamic 8 bit", "38", "38 of 38 matrices in int8"]]
    assert "✓ Passed 3.92x smaller, 2.31x faster" in found.text
    assert "✓ kept: f1 is 0.003 worse, and maxQualityDrop is 0.01" in found.text
    assert "Energy was not measured" in found.text
    assert "On AMD EPYC (avx2, avx512f, avx512_vnni)." in found.text


def test_a_loss_too_small_to_be_seen_has_no_sign_of_one():
    lost = report(
        compressed=model(23_200_000, 13.0, 0.84297, format="onnx"),
        quality=Interval(value=-0.00003, low=-0.00004, high=0.004),
    )
    tried = [Trial(method="Static", rows=64, size_ratio=3.8, quality=-0.00003, outcome="Pareto")]

    found = Page(page(run("pvc://data/models/reviews"), MODEL, lost, SearchReport(combinations=1, tried=1), tried))

    assert "+0.0000 (+0.0000 to +0.0040)" in found.text
    assert "+0.000 +0.000 to +0.004" in " ".join(found.text.split())
    assert "-0.000" not in found.text


def test_the_page_needs_no_other_file_and_its_ids_are_its_own():
    html = page(run("pvc://data/models/reviews"), MODEL, report())
    found = Page(html)

    assert [link for link in found.links if not link.startswith("#")] == []
    assert "url(http" not in html
    assert len(found.ids) == len(set(found.ids))


def test_what_failed_says_so_and_without_limits_there_is_no_verdict():
    broken = report(
        verdict="NotPassed", checks=[check("memory is 0.62 of the original's, and maxMemoryRatio is 0.5", kept=False)]
    )

    assert "✗ not kept: memory is 0.62" in Page(page(run("pvc://data/m"), MODEL, broken)).text
    assert "No limits were set" in Page(page(run("pvc://data/m"), MODEL, report(checks=[]))).text


def test_texts_are_shown_as_texts():
    evil = "<script>alert(1)</script>&\"'"
    html = page(
        run("pvc://data/m"),
        MODEL,
        report(method=evil, notes=[evil], changes=[Change(step=evil, layers=1, detail=evil)], checks=[check(evil)]),
        SearchReport(combinations=1, tried=1),
        [Trial(method=evil, rows=8, size_ratio=2, latency_ratio=0.5, quality=0, outcome="Pareto")],
    )

    assert "<script" not in html
    assert Page(html).tables["Counted in the result"][1] == [evil, "1", evil]


def test_a_search_shows_its_pareto_table_and_all_points():
    tried = [
        Trial(method="Dynamic", rows=128, size_ratio=3.9, latency_ratio=0.4, quality=-0.002, outcome="Chosen"),
        Trial(
            method="Neurons", rows=64, size_ratio=1.2, latency_ratio=0.8, memory_ratio=0.9, quality=0, outcome="Pareto"
        ),
        Trial(method="Static", rows=64, size_ratio=3.8, latency_ratio=0.5, quality=-0.02, outcome="OutsideLimits"),
        Trial(method="FP8", rows=32, outcome="Failed"),
    ]
    found = Page(
        page(run("pvc://data/m"), MODEL, report(), SearchReport(combinations=9, tried=4, trials=tried[:2]), tried)
    )

    pareto = found.tables["The Pareto table: what no other, scored on as many rows, is better than in all respects"]
    assert pareto[1:] == [
        ["Dynamic", "Chosen", "128", "3.90x smaller", "2.50x faster", "", "-0.0020"],
        ["Neurons", "Pareto", "64", "1.20x smaller", "1.25x faster", "1.11x less", "+0.0000"],
    ]
    assert [row[:3] for row in found.tables["Everything that was tried"][1:]] == [
        ["Dynamic", "Chosen", "128"],
        ["Neurons", "Pareto", "64"],
        ["Static", "OutsideLimits", "64"],
        ["FP8", "Failed", "32"],
    ]
    assert "4 of 9 combinations were tried" in found.text


def test_the_plot_tells_in_words_what_it_shows():
    svg = plot(
        report(), [Trial(method="Neurons", rows=64, size_ratio=1.2, latency_ratio=0.8, quality=0.001, outcome="Pareto")]
    )

    said = re.search(r'aria-label="([^"]*)"', svg)
    assert said
    assert said.group(1) == (
        "Size, latency and quality. "
        "original: latency, as a share of the original's 1, gain in f1, points 0. "
        "Dynamic 8 bit: latency, as a share of the original's 0.433, gain in f1, points -0.003. "
        "Neurons: latency, as a share of the original's 0.8, gain in f1, points 0.001."
    )
    assert plot(report(latency_ratio=None)) == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_spot_that_stands_nowhere_is_left_out(value: float):
    assert scatter("p", "Spots", [Spot("a", value, 1, 1, "a")], "x", "y") == ""
    assert "fill: #" not in scatter("p", "Spots", [Spot("a", 1, 1, 1, "a"), Spot("b", value, 1, 1, "b")], "x", "y")
