"""The report: one page that needs no other file, tells the figures honestly, and shows texts as texts."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from lmops.api import Run
from lmops.api.status import ModelReport
from lmops.api.trainingstatus import ClassReport, DatasetReport, EvaluationReport, SplitReport
from lmops_trainer.plots import Line, chart, smoothed, spelled
from lmops_trainer.report import Story, card, charts, history, page

VOID = {"meta", "br", "link", "img", "hr", "input", "path", "use"}


class Page(HTMLParser):
    """What a browser makes of the page: its words, headings, captions and ids; tags must close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.found: dict[str, list[str]] = {"h1": [], "h2": [], "caption": [], "figcaption": []}
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] in self.found:
            self.found[self.open[-1]].append(data.strip())

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def story(task: str = "SequenceClassification", **changes: Any) -> Story:
    """A small job's report; keywords replace parts of it."""
    run = Run.model_validate(
        {
            "spec": {
                "model": {"from": {"uri": "pvc://models/minilm"}, "task": task},
                "dataset": {"train": {"uri": "pvc://data/reviews.csv"}},
                "output": {"uri": "pvc://models/reviews"},
            },
            "run": {"job": "reviews", "uid": "u-1", "stage": "evaluate"},
        }
    )
    evaluation = EvaluationReport(
        split="test",
        rows=1060,
        metrics={"accuracy": 0.84, "f1": 0.838},
        classes={"bad": ClassReport(precision=0.8, recall=0.9, f1=0.85, rows=530)}
        | {"good": ClassReport(precision=0.9, recall=0.8, f1=0.83, rows=530)},
        confusion=[[480, 50], [120, 410]],
        baseline={"accuracy": 0.79, "f1": 0.781},
        beats_baseline=True,
        verdict="f1 0.838 on 1,060 test rows beats the linear baseline's 0.781",
    )
    split = SplitReport(rows=1060, examples=1060, tokens=28000, truncated=3, labels={"bad": 530, "good": 530})
    dataset = DatasetReport(
        uri="pvc://x", hash="sha256:ab", rows_read=10605, dropped={"duplicate": 2}, test=split, notes=["A note."]
    )
    parts: dict[str, Any] = {
        "run": run,
        "model": ModelReport(
            uri="pvc://models/reviews/0123456789ab",
            digest="sha256:" + "0" * 64,
            size_bytes=91_000_000,
            parameters=22_700_000,
        ),
        "evaluation": evaluation,
        "dataset": dataset,
        "worst": [{"row": 7, "text": "fine", "label": "good", "prediction": "bad", "confidence": 0.99}],
        "history": LOGGED,
        "passport": {
            "createdAt": "now", "maxLength": 512, "labels": ["bad", "good"], "versions": {"torch": "2.13"},
            "checkpoint": {"step": 282},
        },
    }  # fmt: skip
    return Story(**(parts | changes))


def language_story() -> Story:
    evaluation = EvaluationReport(
        split="validation", rows=9, metrics={"loss": 3.0, "perplexity": 20.1}, verdict="loss 3"
    )
    return story("CausalLM", evaluation=evaluation, worst=[{"row": 1, "text": "odd", "loss": 9.0, "tokens": 31}])


LOGGED = [
    {
        "step": step, "loss": 1 / step, "learning_rate": 1e-4, "grad_norm": 2.0, "tokens_per_second": 3000,
        "memory_bytes": 1e9,
    }
    for step in range(1, 50)
] + [{"step": 49, "eval_loss": 0.5, "eval_f1": 0.838}]  # fmt: skip


@pytest.mark.parametrize("made", [story, language_story])
def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(made: Any):
    html = page(made())

    shown = Page(html)
    assert shown.open == []
    assert len(shown.ids) == len(set(shown.ids))
    assert not re.search(r"https?://|@import|<script|<link|<img", html)
    assert [
        value for _, name, value in shown.attributes if name in ("src", "href") and not str(value).startswith("#")
    ] == []
    assert len(html) < 300_000


def test_the_page_tells_the_verdict_the_figures_the_data_and_the_errors():
    shown = Page(page(story()))

    assert shown.found["h1"] == ["reviews"]
    assert shown.found["h2"] == ["Summary", "Training", "Figures", "Data", "Worst errors", "Where it comes from"]
    for told in (
        "✓ Beats the baseline f1 0.838 on 1,060 test rows beats the linear baseline's 0.781.",
        "0.8380 0.7810 +0.0570",
        "10,605 rows read; dropped: 2 duplicate",
        "bad 530 · good 530",
        "A note.",
        "7 fine good bad 0.990",
    ):
        assert told in shown.text


def test_a_model_that_does_not_beat_its_baseline_is_shown_so():
    evaluation = story().evaluation.model_copy(update={"beats_baseline": False, "verdict": "f1 0.7 does not"})

    html = page(story(evaluation=evaluation))

    assert 'class="verdict bad"' in html
    assert "✗ Does not beat the baseline f1 0.7 does not." in Page(html).text


def test_figures_that_flatter_are_said_to():
    assert "the figures flatter the model" in Page(page(language_story())).text


def test_each_chart_is_told_in_words_and_takes_its_colours_from_the_page():
    html = page(story())

    assert Page(html).found["figcaption"] == [
        "Loss", "f1 on the validation rows", "Learning rate", "Norm of the gradient", "Tokens per second", "Memory, GB",
    ]  # fmt: skip
    assert 'aria-label="Loss. training: 1 at step 1, ' in html
    assert "validation: 0.5 at step 49." in html
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--series-1)" in drawn
    assert not re.search(r"#[0-9a-f]{6}", drawn)


def test_every_table_has_a_caption():
    html = page(story())

    assert html.count("<table") == html.count("<caption>") == 6


def test_texts_are_shown_as_texts():
    evil = {"row": 1, "text": "<script>alert(1)</script>", "label": "a&b", "prediction": "<b>", "confidence": 0.9}

    html = page(story(worst=[evil]))

    assert "<script" not in html
    assert "<script>alert(1)</script> a&b <b>" in Page(html).text


def test_a_job_that_logged_nothing_has_a_page_without_charts():
    assert "Training" not in Page(page(story(history=[]))).found["h2"]


def test_history_leaves_out_lines_cut_short_and_counts_a_step_that_ran_again_once():
    lines = [
        '{"step": 1, "loss": 3}',
        '{"step": 2, "loss": 2}',
        '{"step": 1, "loss": 4}',
        '{"step": 1, "eval_f1": 0.5}',
        '{"st',
    ]

    assert history(lines) == [{"step": 1, "loss": 4}, {"step": 1, "eval_f1": 0.5}, {"step": 2, "loss": 2}]


def test_values_that_are_no_numbers_are_not_drawn():
    records = [{"step": 1, "loss": math.nan}, {"step": 2, "loss": None}, {"step": 3, "loss": 0.5}]

    assert [title for title, _ in charts(records, "f1")] == ["Loss"]


def test_a_long_run_is_drawn_with_few_points():
    line = Line("loss", [(step, math.sin(step)) for step in range(100_000)])

    assert len(chart("c", "Loss", [line])) < 40_000


def test_a_moving_average_spans_a_twentieth_of_the_points():
    assert smoothed([(step, float(step % 2)) for step in range(40)])[10:12] == [(10, 0.5), (11, 0.5)]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (3e-05, "3e-05"), (12000, "12k"), (1.5e9, "1.5G")]
)
def test_axes_spell_numbers_shortly(value: float, text: str):
    assert spelled(value) == text


def test_the_card_opens_with_front_matter_and_says_how_to_use_the_model():
    text = card(story())

    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["lmops"],
    }
    assert "**f1 0.838 on 1,060 test rows beats the linear baseline's 0.781.**" in body
    assert (
        "| figure | model | linear baseline |\n|---|--:|--:|\n"
        "| accuracy | 0.8400 | 0.7900 |\n| f1 | 0.8380 | 0.7810 |\n" in body
    )
    assert 'pipeline("text-classification", model="0123456789ab")' in body


def test_the_card_of_a_language_model_has_no_baseline():
    assert "| figure | model |\n|---|--:|\n| loss | 3.0000 |\n" in card(language_story())
