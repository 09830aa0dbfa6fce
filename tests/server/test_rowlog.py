"""What is asked and answered is kept to train on: without what tells who somebody is, and without harm to requests."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import served
from lmops.api import Run
from lmops.api.requestlog import RequestLog
from lmops_server import rowlog
from lmops_server.redaction import Redaction
from lmops_server.rowlog import RowLog
from lmops_trainer.data.prepared import Prepared
from lmops_trainer.failures import Refusal
from lmops_trainer.prepare import prepare
from lmops_trainer.uris import path
from served import Server, Volumes
from trained import SILENT

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve-reviews"


def logging(**more: Any) -> dict[str, Any]:
    """A request log of everything."""
    return {"requestLog": {"uri": "pvc://logs/reviews", "fraction": 1, **more}}


@pytest.fixture
def logs(volumes: Volumes) -> Iterator[Path]:
    """The folder of a volume that is made anew."""
    folder = volumes.root / "logs"
    folder.mkdir()
    yield folder / "reviews"
    subprocess.run(["umount", folder], capture_output=True, check=False)
    subprocess.run(["rm", "-r", folder], check=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    """All that was kept; each line of each file is whole."""
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def kept(server: Server) -> dict[str, float]:
    """How many rows were written and dropped."""
    with server.client() as client:
        text = client.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {s.labels["outcome"]: s.value for s in samples if s.name == "lmops_request_log_rows_total"}


def eventually(server: Server, outcome: str, count: int) -> None:
    end = time.monotonic() + 10
    while kept(server).get(outcome, 0) < count:
        assert time.monotonic() < end, kept(server)
        time.sleep(0.05)


REDACTED = {
    "write to anna.b+c@mail.example.org today": "write to [mail] today",
    "card 4111 1111 1111 1111, thanks": "card [card], thanks",
    "mistyped 4111-1111-1111-1112, thanks": "mistyped [card], thanks",
    "call +49 (0)30 1234567 now": "call [phone] now",
    "call (555) 123-4567": "call [phone]",
    "电话13812345678。": "电话[phone]。",
    "0171/2345678": "[phone]",
    "made in 1999, for 12,000,000 dollars, 3.14159265 of 10": "made in 1999, for 12,000,000 dollars, 3.14159265 of 10",
    "order ACCT-0042 and ACCT-7": "order [redacted] and [redacted]",
}


@pytest.mark.parametrize(("text", "left"), REDACTED.items())
def test_what_tells_who_somebody_is_is_taken_out(text: str, left: str):
    assert Redaction([r"ACCT-\d+"])(text) == left


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(Refusal, match=r"requestLog.redact: '\(' is no regular expression"):
        Redaction(["("])


def test_its_files_are_a_source_to_train_on_as_they_are(volumes: Volumes, reviews: str, logs: Path, tmp_path: Path):
    texts = served.held_out()[:60]
    texts[0] += " Write to me@example.com, order ACCT-0042."
    document = served.document(reviews, **logging(redact=[r"ACCT-\d+"]))
    with served.serving(volumes, document, tmp_path) as server, server.client() as client:
        told = client.post("/v1/classify", json={"input": texts[:40]}).json()["data"]
        instances = client.post("/v1/models/served:predict", json={"instances": texts[40:]}).json()["predictions"]
        assert client.post("/v1/classify", json={"input": 3}).status_code == 400
    found = rows(logs)
    labels = [one["label"] for one in (*told, *instances)]
    assert [row["label"] for row in found] == labels
    assert found[0]["text"].endswith(" Write to [mail], order [redacted].")
    assert [row["text"] for row in found[1:]] == texts[1:]
    assert found[0].keys() == {"time", "model", "text", "label", "confidence"}

    job = yaml.safe_load((EXAMPLE / "retrain.yaml").read_text())["spec"]
    spec = job | {"model": {"from": {"uri": reviews}, "task": "SequenceClassification"}}
    spec |= {"output": {"uri": "pvc://models/again"}}
    run = {"job": "again", "uid": "u-9", "stage": "prepare"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LMOPS_VOLUMES", str(volumes.root))
        result = prepare(Run.model_validate({"spec": spec, "run": run}), SILENT)
        assert result.dataset is not None
        prepared = Prepared.open(path(result.dataset.uri))

    counted = Counter(label for split in ("train", "validation") for label in prepared.rows(split)["label"].to_pylist())
    assert counted == Counter(labels)


def test_a_language_model_keeps_prompts_and_answers_streamed_ones_too(
    volumes: Volumes, gpt2: str, logs: Path, tmp_path: Path
):
    ask = {"model": served.NAME, "prompt": "The news of +49 30 1234567", "max_tokens": 4, "seed": 1, "temperature": 0}
    with served.serving(volumes, served.document(gpt2, **logging()), tmp_path) as server, server.client() as client:
        whole = client.post("/v1/completions", json=ask).json()["choices"][0]["text"]
        assert client.post("/v1/completions", json=ask | {"stream": True}).status_code == 200

    assert [(row["text"], row["answer"]) for row in rows(logs)] == [("The news of [phone]", whole)] * 2


def test_a_full_disk_fails_no_request_and_what_is_there_stays_whole(
    volumes: Volumes, reviews: str, logs: Path, tmp_path: Path
):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(logs.parent)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    with served.serving(volumes, served.document(reviews, **logging()), tmp_path) as server, server.client() as client:
        for _ in range(20):
            answer = client.post("/v1/classify", json={"input": [f"a long film {'and on ' * 40}"] * 10})
            assert answer.status_code == 200
        eventually(server, "dropped", 1)
        count = kept(server)
        log = server.log.read_text()

    found = rows(logs)
    assert 0 < len(found) <= count["written"] < 200
    assert log.count("the request log in pvc://logs/reviews cannot be written: [Errno 28] No space left") == 1


def test_a_pattern_that_takes_forever_lets_nothing_through_and_holds_nobody_up(
    volumes: Volumes, reviews: str, logs: Path, tmp_path: Path
):
    document = served.document(reviews, **logging(redact=["(?:a|aa)+$"]))
    with served.serving(volumes, document, tmp_path) as server, server.client() as client:
        began = time.monotonic()
        for text in ("a" * 60 + "!", "good"):
            assert client.post("/v1/classify", json={"input": text}).status_code == 200
        assert time.monotonic() - began < 5
        eventually(server, "written", 1)

    assert len(rows(logs)) == 1
    assert "takes too long" in server.log.read_text()


def filled(folder: Path, monkeypatch: pytest.MonkeyPatch, requests: int, **more: Any) -> Counter[str]:
    """What became of so many requests of about 1,000 bytes."""
    monkeypatch.setenv("LMOPS_VOLUMES", str(folder))
    counted = Counter[str]()
    log = RowLog(RequestLog(uri="pvc://logs/a", fraction=1, **more), lambda word, rows: counted.update({word: rows}))
    for number in range(requests):
        while log._queue.full():  # a test asks faster than a server is asked
            time.sleep(0.001)
        log.add([{"text": f"{number} " + "x" * 1000}])
    log.close()
    return counted


def test_the_oldest_files_go_when_there_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "logs").mkdir()

    counted = filled(tmp_path, monkeypatch, 3000, max_bytes=2**20)

    files = sorted((tmp_path / "logs" / "a").glob("*.jsonl"))
    assert counted == {"written": 3000, "dropped": 0}
    assert len(files) > 4
    assert all(file.stat().st_size <= 2**17 for file in files)
    assert 2**19 < sum(file.stat().st_size for file in files) <= 2**20
    numbers = [int(row["text"].split()[0]) for row in rows(tmp_path / "logs" / "a")]
    assert numbers == list(range(3000 - len(numbers), 3000))


def test_a_file_that_another_server_has_removed_meanwhile_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "logs" / "a"
    folder.mkdir(parents=True)
    (folder / "requests-gone.jsonl").symlink_to(tmp_path / "gone")

    assert filled(tmp_path, monkeypatch, 3) == {"written": 3, "dropped": 0}


def test_more_than_can_be_written_is_dropped_and_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path))
    monkeypatch.setattr(rowlog, "WAITING", 10)
    disk = threading.Event()
    monkeypatch.setattr(RowLog, "_write", lambda self, lines: disk.wait())
    counted = Counter[str]()
    log = RowLog(RequestLog(uri="pvc://logs/a", fraction=1), lambda word, rows: counted.update({word: rows}))

    for _ in range(100):
        log.add([{"text": "x"}])  # would never come back if it waited for the disk
    dropped = counted["dropped"]
    disk.set()
    log.close()

    assert dropped in (89, 90)  # the one that is being written may have left its place


def test_a_text_that_is_very_long_is_left_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(rowlog, "LONGEST", 500)

    assert filled(tmp_path, monkeypatch, 3) == {"dropped": 3}


def test_a_part_of_the_requests_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path))
    log = RowLog(RequestLog(uri="pvc://logs/a", fraction=0.2))

    assert 1600 < sum(log.draws() for _ in range(10_000)) < 2400
