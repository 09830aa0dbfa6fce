"""Traffic like the held-out rows is near them, and other traffic is far: told by the metrics of a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import prometheus
import served
from builders import SETTINGS
from lmops.api import LanguageModelService
from lmops.serving.monitoring import prometheusrule
from lmops_server.drift import HELD_OUT, LAST, LEAST, PLACES, Drift, drift
from lmops_server.opened import Opened
from lmops_server.probes import HEADER
from lmops_trainer.drift import Baseline, Embedding, Seen, baseline
from served import Server, Volumes
from volumes import raw

SERVICE = {"metadata": {"name": "reviews", "namespace": "default"}, "spec": {"model": {"from": {"uri": "pvc://m/r"}}}}
GROUPS = prometheusrule(LanguageModelService.model_validate(SERVICE), SETTINGS)["spec"]["groups"]
LABELS = ["negative", "positive"]
LIMITS = {"psi": 0.25, "unknown": 0.05, "distance": 0.5}
"""Those of a service that says nothing."""


@pytest.fixture(scope="module")
def pictured(volumes: Volumes, scratch: Path) -> str:
    """The URI of a classifier with the picture of its held-out rows."""
    return served.pictured(volumes, scratch)


@pytest.fixture
def server(volumes: Volumes, pictured: str, tmp_path: Path) -> Iterator[Server]:
    """A server that has been asked nothing yet."""
    with served.serving(volumes, served.document(pictured), tmp_path) as started:
        yield started


def ask(server: Server, texts: list[str], **headers: str) -> None:
    with server.client() as client:
        for start in range(0, len(texts), 10):
            done = client.post("/v1/classify", json={"input": texts[start : start + 10]}, headers=headers)
            assert done.status_code == 200, done.text


def figures(server: Server) -> dict[str, float]:
    """The figures of drift, each by its name and what it is of."""
    with server.client() as client:
        text = client.get("/metrics").text
    return {
        sample.name.removeprefix("lmops_drift_")
        + "".join(f":{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("lmops_drift_")
    }


def far(found: dict[str, float]) -> set[str]:
    """The figures that are beyond what a service allows by default."""
    limits = {"psi": 0.25, "unknown_tokens": 0.05, "embedding_distance": 0.5}
    return {name for name, value in found.items() if value > limits.get(name.partition(":")[0], 1e9)}


def test_nothing_is_told_of_few_inputs(server: Server):
    ask(server, served.held_out()[: LEAST - 1])

    assert figures(server) == {"baseline": 1, "rows": LEAST - 1}
    ask(server, served.held_out()[:1])
    assert len(figures(server)) > 2


def test_the_held_out_rows_themselves_are_near(server: Server, tmp_path: Path):
    ask(server, served.held_out())

    found = figures(server)

    assert set(found) == {
        "baseline", "rows", "psi:tokenLength", "psi:labels", "psi:confidence", "unknown_tokens", "embedding_distance",
    }  # fmt: skip
    assert found["psi:labels"] == pytest.approx(0, abs=1e-3)
    assert found["psi:confidence"] == pytest.approx(0, abs=0.01)
    assert found["psi:tokenLength"] == pytest.approx(0, abs=1e-3)
    assert found["unknown_tokens"] == pytest.approx(0, abs=1e-4)
    assert found["embedding_distance"] < 0.3  # of one row in each pass
    assert far(found) == set()
    assert raised(found, tmp_path) == set()


def raised(found: dict[str, float], folder: Path) -> set[str]:
    """What the alert of a service is about, after an hour with these figures: told by promtool, one guess at a time."""
    target = {"namespace": "default", "job": "default/reviews-metrics", "pod": "a"}
    names = {name: name.partition(":") for name in found}
    series = [
        prometheus.series(f"lmops_drift_{name}", target | ({"of": of} if of else {}), f"{found[key]}x60")
        for key, (name, _, of) in names.items()
    ]
    (rule,) = [rule for group in GROUPS for rule in group["rules"] if rule.get("alert") == "LanguageModelServiceDrift"]
    probe = {"record": "raised", "expr": rule["expr"]}
    group = [{"name": "g", "rules": [probe]}]
    about = {"tokenLength", "labels", "confidence", "unknownTokens", "embedding"}
    fires = set()
    for of in about:
        asked = [{"expr": f'count(raised{{of="{of}"}}) or vector(0)', "eval_time": "60m"}]
        told = asked[0] | {"exp_samples": [{"labels": "{}", "value": 1}]}
        try:
            prometheus.run(group, [{"interval": "1m", "input_series": series, "promql_expr_test": [told]}], folder)
        except AssertionError:
            continue
        fires.add(of)
    return fires


def test_half_of_the_held_out_rows_are_near(server: Server):
    ask(server, served.held_out()[:300])

    assert far(figures(server)) == set()


def test_text_of_another_language_is_far(server: Server, tmp_path: Path):
    ask(server, raw("neg.txt").read_text("utf-8").splitlines()[:300])

    found = figures(server)
    assert far(found) >= {"unknown_tokens", "embedding_distance", "psi:tokenLength"}
    assert raised(found, tmp_path) >= {"unknownTokens", "embedding", "tokenLength"}


def test_what_a_gate_asks_moves_nothing(server: Server):
    ask(server, served.held_out())
    before = figures(server)

    ask(server, raw("neg.txt").read_text("utf-8").splitlines()[:300], **{HEADER: "1"})

    assert "embedding_distance" in before
    assert figures(server) == before


def test_code_is_far(server: Server):
    lines = [line.strip() for file in sorted(Path(served.__file__).parent.glob("*.py")) for line in file.open()]
    ask(server, [line for line in lines if len(line) > 8][:400])

    assert far(figures(server)) >= {"embedding_distance", "psi:tokenLength"}


def test_rows_of_one_class_are_far_in_their_labels(server: Server):
    texts = served.held_out()
    with server.client() as client:
        told = client.post("/v1/classify", json={"input": texts[:240]}).json()["data"]
    good = [text for text, one in zip(texts, told, strict=False) if one["label"] == "positive"]
    before = figures(server)
    assert "psi:labels" not in far(before)

    ask(server, (good * 20)[:LAST])  # and what came before is forgotten

    after = figures(server)
    assert "psi:labels" in far(after)
    assert after["rows"] == LAST


def test_a_model_without_a_picture_says_so_and_what_to_do(classifier: Server, volumes: Volumes, reviews: str):
    assert figures(classifier) == {"baseline": 0}
    with classifier.client() as client:
        told = client.get("/stats").json()["drift"]

    assert told == {
        "unavailable": f"{reviews} has no baseline.json beside it, so there is nothing to hold its traffic against. "
        "Serve a model that a TrainingJob or a QuantizeJob of this version has published."
    }


def test_figures_are_told_to_who_asks_for_no_metrics(server: Server):
    ask(server, served.held_out())

    with server.client() as client:
        told = client.get("/stats").json()["drift"]

    assert told["rows"] == len(served.held_out())
    assert set(told["psi"]) == {"tokenLength", "labels", "confidence"}
    assert told["embedding"] < 0.3


def told(server: Server, route: str, bodies: list[dict[str, Any]]) -> list[int]:
    """The statuses of requests that are sent together."""

    async def all_of_them() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            found = await asyncio.gather(*(http.post(route, json=body) for body in bodies))
        return [each.status_code for each in found]

    return asyncio.run(all_of_them())


def rows(server: Server) -> int:
    with server.client() as client:
        return int(client.get("/stats").json()["drift"]["rows"])


def test_a_text_that_is_refused_is_no_traffic(volumes: Volumes, pictured: str, tmp_path: Path):
    limits, texts = {"queue": 4, "inputTokens": 40}, served.held_out()[:4]
    with served.serving(volumes, served.document(pictured, limits=limits), tmp_path) as server:
        wrong = [{"input": "a film " * 60}, {"input": [*texts, "a film"]}, {"input": ["a film", "a film " * 60]}]
        assert set(told(server, "/v1/classify", wrong)) == {400}
        assert rows(server) == 0
        statuses = told(server, "/v1/classify", [{"input": texts}] * 24)

        assert set(statuses) == {200, 429}
        assert rows(server) == 4 * statuses.count(200)


def test_a_prompt_that_is_refused_is_no_traffic(volumes: Volumes, tmp_path: Path):
    nothing_else = {"predictions": None, "labels": None, "confidence": None, "embedding": None}
    beside = {"baseline.json": picture().model_copy(update=nothing_else).written()}
    uri = served.untrained(volumes, tmp_path, "pictured-gpt2", beside)
    good = {"model": served.NAME, "prompt": "The police", "max_tokens": 40, "ignore_eos": True}
    wrong = [{"prompt": "The police " * 400}, {"prompt": [1 << 20]}, {"n": 5}, {"prompt": ""}]
    with served.serving(volumes, served.document(uri, limits={"queue": 4}), tmp_path) as server:
        assert set(told(server, "/v1/completions", [good | each for each in wrong])) == {400}
        assert rows(server) == 0
        statuses = told(server, "/v1/completions", [good | {"stream": number % 2 == 0} for number in range(24)])

        assert set(statuses) == {200, 429}
        assert rows(server) == statuses.count(200)


def opened(tmp_path: Path, **changes: Any) -> Opened:
    """A classifier's folder, or that of another model."""
    about = {"name": "x", "uri": "pvc://models/x", "folder": tmp_path, "task": "SequenceClassification"}
    about |= {"artefact": "safetensors", "engine": "Transformers", "device": "cpu", "digest": None, "labels": LABELS}
    about |= {"window": 64, "vocabulary": 99, "max_length": 64, "dataset": None, "passport": {}}
    return Opened(**{**about, "trust_remote_code": False, **changes})  # type: ignore[arg-type]


def picture(rows: int = 500, width: int = 4) -> Baseline:
    """Of rows whose lengths and classes are spread evenly."""
    draw = np.random.default_rng(1)
    chances = draw.uniform(size=(rows, 1))
    seen = Seen(draw.integers(1, 60, rows), 0, Embedding(mean=[0.0] * width, spread=1.0))
    return baseline(seen, "test", rows, LABELS, np.arange(rows) % 2, np.hstack([chances, 1 - chances]))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (picture(HELD_OUT - 1).written(), "The baseline.json of pvc://models/x is of 99 test rows, too few to tell"),
        ("{}", "pvc://models/x: baseline.json is not of the form that is read here: split: Field required. Train or"),
    ],
)
def test_a_picture_that_is_of_no_use_is_told_in_a_sentence(content: str, why: str, tmp_path: Path):
    (tmp_path / "baseline.json").write_text(content)

    found, told = drift(opened(tmp_path))

    assert found is None
    assert told.startswith(why)


def test_a_language_model_tells_how_long_prompts_are_and_what_it_cannot_write(tmp_path: Path):
    seen = picture().model_copy(update={"predictions": None, "labels": None, "confidence": None, "embedding": None})
    window = Drift(seen, opened(tmp_path, task="CausalLM", labels=[]), unknown=3)
    window.read([[3, 1, 2, 1]] * LEAST)

    found = window.figures()

    assert set(found.psi) == {"promptLength"}
    assert found.psi["promptLength"] > 1
    assert found.unknown_tokens == 0.25
    assert (window.placed, found.embedding) == (None, None)


def test_classes_of_other_names_are_not_compared(tmp_path: Path):
    window = Drift(picture(), opened(tmp_path, labels=["bad", "good"]), unknown=None)
    window.read([[1, 2]] * LEAST)
    window.classified(np.array([[0.1, 0.9]] * LEAST))

    assert set(window.figures().psi) == {"tokenLength"}


def test_the_window_slides_and_its_memory_is_bounded(tmp_path: Path):
    window = Drift(picture(), opened(tmp_path), unknown=7)
    assert window.placed
    for place in range(3 * LAST):
        old = place < 2 * LAST
        window.read([[7] * 5 if old else [1] * 30])
        window.classified(np.array([[0.9, 0.1] if old else [0.2, 0.8]]))
        window.placed(np.full(4, 9.0 if old else 1.0))
    fresh = Drift(picture(), opened(tmp_path), unknown=7)
    assert fresh.placed
    for _ in range(LAST):
        fresh.read([[1] * 30])
        fresh.classified(np.array([[0.2, 0.8]]))
        fresh.placed(np.full(4, 1.0))

    assert window.figures() == fresh.figures()
    assert window.figures().rows == LAST
    assert window.figures().embedding == pytest.approx(2)
    assert PLACES < LAST


def test_watching_costs_little(tmp_path: Path):
    wide = replace(opened(tmp_path), max_length=512)
    window = Drift(picture(width=768), wide, unknown=7)
    assert window.placed
    ids, chances, vector = list(range(128)), np.array([[0.4, 0.6]]), np.zeros(768, np.float32)
    began, rounds = time.process_time(), 4000
    for _ in range(rounds):
        window.read([ids])
        window.classified(chances)
        window.placed(vector)

    assert (time.process_time() - began) / rounds < 50e-6
