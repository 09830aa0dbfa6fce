"""The gate asks two servers the same in turn and says how alike they answer; what cannot be asked lets nobody pass."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import served
from lmops.api import Gate, GateEnding
from lmops.api.servicestatus import GateFigures
from lmops.serving.alerts import ANSWERS
from lmops_server import gate as gates
from lmops_server.__main__ import main
from served import Server, Volumes

DEAD = "http://127.0.0.1:9"
ROWS = [{"text": f"film {number}"} for number in range(8)]
Answer = tuple[int, dict[str, Any]]


@contextmanager
def stand_in(
    answers: Callable[[str], Answer], task: str = "SequenceClassification", seconds: float = 0.0, key: str = ""
) -> Iterator[str]:
    """A server that answers each text so, after so long."""

    def answer(path: str, authorization: str | None, body: dict[str, Any] | None) -> Answer:
        if body is None:
            return 200, {"properties": {"task": task}}
        if key and authorization != f"Bearer {key}":
            return 401, {}
        time.sleep(seconds)
        return answers(body.get("input") or body.get("prompt"))  # type: ignore[arg-type]

    with listening(answer) as url:
        yield url


@contextmanager
def listening(answer: Callable[[str, str | None, dict[str, Any] | None], Answer]) -> Iterator[str]:
    """A server that answers a path, a key and a body so; without a body it was only looked at."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.tell(*answer(self.path, self.headers.get("Authorization"), None))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.tell(*answer(self.path, self.headers.get("Authorization"), body))

        def tell(self, status: int, told: dict[str, Any]) -> None:
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def labelled(label: str) -> Callable[[str], Answer]:
    """Everything is of this class."""
    return lambda text: (200, {"data": [{"label": label}]})


def compared(running: str, candidate: str, **more: Any) -> GateFigures:
    """What the gate measures."""
    return gates.compared(document(running, candidate, **more))


def document(running: str, candidate: str, model: str = "hf://nobody/none", **more: Any) -> Gate:
    """What it is told."""
    service = {"name": served.NAME, "namespace": "default", "uid": "u-1"}
    told = {"service": service, "running": running, "candidate": candidate, "model": model}
    return Gate.model_validate({**told, "rows": ROWS, "timeoutSeconds": 10, **more})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody waits a minute here for a server that is not there."""
    monkeypatch.setattr(gates, "PATIENCE", 1.0)
    monkeypatch.setenv("LMOPS_SCRATCH", str(tmp_path))


@contextmanager
def vllm(tokens: str, key: str = "", owner: str = "vllm") -> Iterator[str]:
    """A server that answers as vLLM 0.32 does: OpenAI's routes alone, and a list of models where ours has a page."""

    def answer(path: str, authorization: str | None, body: dict[str, Any] | None) -> Answer:
        if key and authorization != f"Bearer {key}":
            return 401, {"error": "Unauthorized"}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": served.NAME, "object": "model", "owned_by": owner}]}
        if path != "/v1/completions" or body is None:
            return 404, {"detail": "Not Found"}
        return 200, {"choices": [{"index": 0, "text": tokens, "logprobs": {"tokens": tokens.split()}}]}

    with listening(answer) as url:
        yield url


def test_two_of_vllm_are_asked_by_the_routes_that_it_has():
    with vllm("a b c d") as running, vllm("a b c e") as candidate:
        figures = compared(running, candidate)

    assert (figures.task, figures.error_ratio, figures.agreement) == ("CausalLM", 0.0, 0.75)


def test_one_of_ours_and_one_of_vllm_are_compared():
    def writes(text: str) -> Answer:
        return 200, {"choices": [{"logprobs": {"tokens": ["a", "b"]}}]}

    with stand_in(writes, task="CausalLM") as running, vllm("a b") as candidate:
        assert compared(running, candidate).agreement == 1.0


def test_one_of_vllm_wants_the_key_for_the_list_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_text("k")
    monkeypatch.setenv("LMOPS_API_KEYS", str(tmp_path))
    with vllm("a b", key="k") as running, vllm("a b", key="k") as candidate:
        assert compared(running, candidate).error_ratio == 0.0


def test_a_list_of_somebody_elses_models_is_no_answer():
    with stand_in(labelled("good")) as running, vllm("a", owner="somebody") as candidate:
        figures = compared(running, candidate)

    assert (figures.error_ratio, figures.fault) == (
        1.0,
        f'/v2/models/{served.NAME} answered 404: {{"detail": "Not Found"}}',
    )


def test_two_that_answer_alike_agree():
    with stand_in(labelled("good")) as running, stand_in(labelled("good")) as candidate:
        figures = compared(running, candidate)

    assert (figures.task, figures.rows, figures.requests) == ("SequenceClassification", 8, gates.REQUESTS)
    assert (figures.error_ratio, figures.fault, figures.agreement) == (0.0, None, 1.0)
    assert figures.running
    assert 0 < figures.running.p50_ms <= figures.running.p95_ms


def test_one_that_answers_otherwise_does_not():
    def sometimes(text: str) -> Answer:
        return labelled("bad" if text in ("film 1", "film 2") else "good")(text)

    with stand_in(labelled("good")) as running, stand_in(sometimes) as candidate:
        assert compared(running, candidate).agreement == 0.75


def test_one_that_is_slow_is_seen_to_be():
    with stand_in(labelled("good"), seconds=0.005) as running, stand_in(labelled("good"), seconds=0.05) as candidate:
        figures = compared(running, candidate)

    assert figures.latency_ratio
    assert figures.latency_ratio > 3


def test_one_that_is_not_there_has_no_answer_to_anything():
    with stand_in(labelled("good")) as running:
        figures = compared(running, DEAD)

    assert (figures.error_ratio, figures.agreement, figures.latency_ratio) == (1.0, None, None)
    assert "refused" in str(figures.fault)


def test_what_only_the_candidate_refuses_is_an_error_and_what_both_refuse_says_nothing():
    def strict(text: str) -> Answer:
        return (400, {}) if text in ("film 0", "film 1") else labelled("good")(text)

    def stricter(text: str) -> Answer:
        return (400, {}) if text in ("film 0", "film 1", "film 2") else labelled("good")(text)

    with stand_in(strict) as running, stand_in(stricter) as candidate:
        figures = compared(running, candidate)

    assert (figures.rows, figures.requests) == (6, gates.REQUESTS * 6 // 8)
    assert figures.error_ratio == pytest.approx(1 / 6)
    assert "answered 400" in str(figures.fault)


def test_a_running_model_that_does_not_answer_is_no_fault_of_the_candidate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("LMOPS_TERMINATION_LOG", str(tmp_path / "words"))
    asked = list[str]()

    def silent(text: str) -> Answer:
        asked.append(text)
        return 500, {}

    with stand_in(silent) as running, stand_in(labelled("good")) as candidate:
        unwell = main(["gate", document(running, candidate).document()])
        gone = main(["gate", document(DEAD, candidate).document()])

    assert (unwell, gone) == (1, 1)  # another try may do better
    assert len(asked) == 1 + gates.SILENT  # one that hangs takes minutes for each
    ending = GateEnding.model_validate_json((tmp_path / "words").read_text())
    assert ending.failure
    assert (ending.figures, ending.failure.reason) == (None, "RunningUnwell")


def test_one_that_does_something_else_is_not_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LMOPS_TERMINATION_LOG", str(tmp_path / "words"))

    with stand_in(labelled("good")) as running, stand_in(labelled("good"), task="MaskedLM") as candidate:
        code = main(["gate", document(running, candidate).document()])

    ending = GateEnding.model_validate_json((tmp_path / "words").read_text())
    assert ending.failure
    assert (code, ending.failure.reason) == (0, "AnotherTask")


@pytest.mark.parametrize("passport", [None, {"sample": []}, {}])
def test_without_rows_there_is_nothing_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passport: Any):
    monkeypatch.setenv("LMOPS_TERMINATION_LOG", str(tmp_path / "words"))
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path))
    (tmp_path / "models/a").mkdir(parents=True)
    if passport is not None:
        (tmp_path / "models/a/lmops.json").write_text(json.dumps(passport))

    code = main(["gate", document(DEAD, DEAD, "pvc://models/a", rows=[]).document()])

    ending = GateEnding.model_validate_json((tmp_path / "words").read_text())
    assert ending.failure
    assert (code, ending.failure.reason) == (0, "RowsMissing")


def test_its_own_rows_are_those_of_the_passport_and_it_shows_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path))
    monkeypatch.setenv("LMOPS_API_KEYS", str(tmp_path / "keys"))
    for name in ("models/a", "keys"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "keys/alice").write_text("open-sesame\n")
    (tmp_path / "models/a/lmops.json").write_text(json.dumps({"sample": [{"text": "one", "label": "x"}]}))
    seen = set[str]()

    def heard(text: str) -> Answer:
        seen.add(text)
        return labelled("good")(text)

    with stand_in(heard, key="open-sesame") as running, stand_in(heard, key="open-sesame") as candidate:
        figures = compared(running, candidate, model="pvc://models/a", rows=[])

    assert (figures.rows, figures.agreement, seen) == (1, 1.0, {"one"})


def test_one_that_is_busy_is_asked_again():
    turns = iter(range(1000))

    def busy(text: str) -> Answer:
        return (429, {}) if next(turns) in (3, 9) else labelled("good")(text)

    with stand_in(labelled("good")) as running, stand_in(busy) as candidate:
        assert compared(running, candidate).error_ratio == 0.0


def test_vectors_agree_by_their_direction_and_none_with_those_of_another_space():
    def told(*vector: float) -> dict[str, Any]:
        return {"data": [{"embedding": vector}]}

    alike = gates.QUESTIONS["FeatureExtraction"].alike
    assert alike(told(1, 0), told(2, 0)) == pytest.approx(1)
    assert alike(told(1, 0), told(0, 3)) == pytest.approx(0)
    assert alike(told(1, 0), told(1, 0, 0)) == 0


def test_two_real_classifiers_are_compared(volumes: Volumes, classifier: Server, reviews: str, tmp_path: Path):
    rows = [{"text": text} for text in ("a triumph, moving and funny", "dull and far too long", "so bad")]

    with served.serving(volumes, served.document(reviews), tmp_path) as candidate:
        figures = compared(classifier.url, candidate.url, rows=rows)

    assert (figures.task, figures.error_ratio, figures.agreement) == ("SequenceClassification", 0.0, 1.0)


def test_what_a_gate_asks_is_no_traffic(volumes: Volumes, scratch: Path, tmp_path: Path):
    asked = served.document(served.pictured(volumes, scratch), requestLog={"uri": "pvc://models/kept", "fraction": 1})
    with served.serving(volumes, asked, tmp_path) as server, server.client() as client:
        figures = compared(server.url, server.url, rows=[{"text": text} for text in served.held_out()[:5]])
        before, counted = client.get("/stats").json(), client.get("/metrics").text
        client.post("/v1/classify", json={"input": "a triumph"})
        after, more = client.get("/stats").json(), client.get("/metrics").text
    kept = [line for file in (volumes.models / "kept").glob("*.jsonl") for line in file.read_text().splitlines()]

    assert (figures.rows, figures.error_ratio) == (5, 0.0)
    assert [(told["drift"]["rows"], told["requests"]) for told in (before, after)] == [(0, 0), (1, 1)]
    assert [number(each, ANSWERS + "_count", error_type="") for each in (counted, more)] == [0, 1]
    asked = 2 * (figures.requests + 1)  # both are warmed up by one
    by_route = {"route": "/v1/classify", "status": "200"}
    assert [number(each, "lmops_requests_total", **by_route) for each in (counted, more)] == [asked, asked + 1]
    assert [json.loads(line)["text"] for line in kept] == ["a triumph"]


def number(metrics: str, name: str, **labels: str) -> float:
    """What a counter with these labels has come to."""
    samples = (sample for family in text_string_to_metric_families(metrics) for sample in family.samples)
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def test_one_real_language_model_writes_what_it_writes(writer: Server):
    figures = compared(writer.url, writer.url, rows=[{"text": "The prime minister"}, {"text": "漢字"}])

    assert (figures.task, figures.error_ratio, figures.agreement) == ("CausalLM", 0.0, 1.0)


def test_a_real_model_is_asked_for_a_word_and_for_a_vector(volumes: Volumes, masked: str, tmp_path: Path):
    rows = [{"text": "The prime minister said so."}, {"text": "the [MASK] of it"}, {"text": "one"}]
    for task in (None, "FeatureExtraction"):
        with served.serving(volumes, served.document(masked, task=task), tmp_path) as server:
            figures = compared(server.url, server.url, rows=rows)

        assert (figures.task, figures.error_ratio, figures.fault) == (task or "MaskedLM", 0.0, None)
        assert figures.agreement == pytest.approx(1.0)
