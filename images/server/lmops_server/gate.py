"""The gate of a rollout: asks a candidate and the running model the same in turn, and measures both.

By hand: LMOPS_VOLUMES=folder python -m lmops_server gate '{"service": {"name": "reviews", "namespace": "default",
"uid": "1"}, "running": "http://127.0.0.1:8080", "candidate": "http://127.0.0.1:8081", "model": "pvc://models/new"}'
"""

from __future__ import annotations

import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lmops.api import Gate, GateEnding
from lmops.api.languagemodelservice import GateRow
from lmops.api.servicestatus import GateFigures, Latency
from lmops_server.probes import HEADER
from lmops_trainer import endings, uris
from lmops_trainer.failures import Refusal, failure_of
from lmops_trainer.log import log, open_log

REQUESTS = 128
"""How many requests each is sent, unless there are more rows: a percentile of few says little."""
SECONDS = 120.0
"""How long rows are asked again, to come to that number."""
PATIENCE = 60.0
"""How long an address may take to lead to a server that is ready."""
SILENT = 3
"""After how many requests without an answer a running model is given up that has answered no more than these."""
BUSY = (429, 503)
TRIES = 5
TOKENS = 32
"""What a model writes to each row."""
BEGINNING = 100
"""Characters of a row that a model goes on with."""
WORDS = 24
"""Words of a row that a mask is put into."""
MASK = "[MASK]"
Json = dict[str, Any]


class Answer(NamedTuple):
    """What came of a request."""

    status: int
    """0 where nothing came."""
    seconds: float
    body: Json
    fault: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether the request itself is called wrong."""
        return 400 <= self.status < 500

    @property
    def is_good(self) -> bool:
        """Whether it is an answer."""
        return self.status == 200


class Question(NamedTuple):
    """How a task is asked, and how alike two answers are."""

    path: str
    body: Callable[[str, GateRow], Json]
    alike: Callable[[Json, Json], float]


@dataclass(frozen=True)
class Server:
    """One of the two."""

    url: str
    headers: dict[str, str]
    timeout: float

    def ask(self, path: str, body: Json | None = None) -> Answer:
        """Asks until it is answered with more than that the server is busy."""
        for attempt in range(1, TRIES + 1):
            answer, wait = self._asked(path, body)
            if answer.status not in BUSY or attempt == TRIES:
                break
            time.sleep(wait)
        return answer

    def task(self, name: str) -> Answer:
        """What it serves, once it answers."""
        end = time.monotonic() + PATIENCE
        while True:
            answer, _ = self._asked(f"/v2/models/{name}", None)
            if answer.status == 404:  # as vLLM says, which knows OpenAI's routes alone
                answer = _of_vllm(self._asked("/v1/models", None)[0], name) or answer
            if answer.is_good or answer.is_refusal or time.monotonic() >= end:
                return answer
            time.sleep(0.5)

    def _asked(self, path: str, body: Json | None) -> tuple[Answer, float]:
        """One request, and how long a busy server wants to be left alone."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.url.rstrip('/')}{path}", data, self.headers)
        began = time.perf_counter()
        try:
            with DIRECT.open(asked, timeout=self.timeout) as told:
                text = told.read()
                seconds = time.perf_counter() - began
            return Answer(200, seconds, json.loads(text)), 0.0
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            wait = error.headers.get("Retry-After") or "1"
            found = Answer(error.code, time.perf_counter() - began, {}, f"{path} answered {error.code}: {said}")
            return found, min(5.0, float(wait) if wait.isdigit() else 1.0)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            return Answer(0, time.perf_counter() - began, {}, f"{path}: {reason}"), 0.0


def _of_vllm(answer: Answer, name: str) -> Answer | None:
    """Its list of models as an answer of ours, where it has this one: it is taken for models that write alone."""
    models = answer.body.get("data") or ()
    known = any((each.get("id"), each.get("owned_by")) == (name, "vllm") for each in models)
    return answer._replace(body={"properties": {"task": "CausalLM"}}) if known else None


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Both are in the cluster: no proxy leads there."""


@dataclass
class Tally:
    """What has been seen so far."""

    asked: int = 0
    rows: set[int] = field(default_factory=set)
    errors: int = 0
    fault: str | None = None
    unanswered: int = 0
    """Requests that the running model left without an answer, which is no fault of the candidate."""
    silence: str = ""
    alike: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    candidate: list[float] = field(default_factory=list)

    @property
    def is_unwell(self) -> bool:
        """Whether the running model leaves most without an answer."""
        return self.unanswered * 2 > self.asked

    def add(self, row: int, one: Answer, other: Answer, alike: Callable[[Json, Json], float]) -> None:
        """Takes the answers of both. What both refuse is not for these models, and says nothing of either."""
        if one.is_refusal and other.is_refusal:
            return
        self.asked += 1
        self.rows.add(row)
        if not other.is_good:
            self.errors += 1
            self.fault = self.fault or other.fault
        if not (one.is_good or one.is_refusal):
            self.unanswered += 1
            self.silence = self.silence or one.fault
        if one.is_good and other.is_good:
            self.alike.append(alike(one.body, other.body))
            self.running.append(one.seconds)
            self.candidate.append(other.seconds)


def gate(document: Gate) -> int:
    """The exit code: 0 when there is something to judge by, or nothing to be had by another try; else 1."""
    open_log("gate")
    try:
        figures = compared(document)
    except Exception as error:
        failed = failure_of(error)
        log.error("%s: %s %s", failed.reason, failed.message, failed.remedy)
        endings.write(GateEnding(failure=failed))
        return 1 if failed.class_ in ("Communication", "Code", "Volume") else 0
    log.info("%s", figures.model_dump_json(exclude_none=True))
    endings.write(GateEnding(figures=figures))
    return 0


def compared(document: Gate) -> GateFigures:
    """Both asked in turn."""
    headers = {"Content-Type": "application/json", HEADER: "1", **_key()}
    running, candidate = (
        Server(url, headers, float(document.timeout_seconds)) for url in (document.running, document.candidate)
    )
    name, rows = document.service.name, _rows(document)
    known, found = running.task(name), candidate.task(name)
    if not known.is_good:
        raise _unwell(known.fault)
    task = str(known.body["properties"]["task"])
    if not found.is_good:
        return GateFigures(task=task, rows=len(rows), requests=1, error_ratio=1.0, fault=found.fault)
    if (other := str(found.body["properties"]["task"])) != task:
        raise Refusal(
            "Model",
            "AnotherTask",
            f"The candidate is made for {other}, and the running model for {task}.",
            "Serve it by a service of its own, or name it with model.digest.",
        )
    question, tally = QUESTIONS[task], Tally()
    for server in (running, candidate):
        server.ask(question.path, question.body(name, rows[0]))  # what is made once is made before anything is timed
    for turn, number in _turns(len(rows)):
        body = question.body(name, rows[number])
        order = (running, candidate) if turn % 2 == 0 else (candidate, running)
        answers = {server.url: server.ask(question.path, body) for server in order}
        tally.add(number, answers[running.url], answers[candidate.url], question.alike)
        if tally.unanswered >= SILENT and tally.is_unwell:  # each may have taken as long as a request may
            break
    return _figures(task, tally)


def _turns(rows: int) -> Iterator[tuple[int, int]]:
    """Every row once, and again until it is enough; each with the number of the turn."""
    end = time.monotonic() + SECONDS
    turn = 0
    while turn < rows or (turn < REQUESTS and time.monotonic() < end):
        yield turn, turn % rows
        turn += 1


def _figures(task: str, tally: Tally) -> GateFigures:
    if tally.is_unwell:
        raise _unwell(tally.silence)
    running, candidate = _latency(tally.running), _latency(tally.candidate)
    ratio = None
    if running and candidate:
        ratio = max(candidate.p50_ms / running.p50_ms, candidate.p95_ms / running.p95_ms)
    return GateFigures(
        task=task,
        rows=len(tally.rows),
        requests=tally.asked,
        error_ratio=tally.errors / tally.asked if tally.asked else 0.0,
        fault=tally.fault,
        agreement=round(math.fsum(tally.alike) / len(tally.alike), 6) if tally.alike else None,
        running=running,
        candidate=candidate,
        latency_ratio=None if ratio is None else round(ratio, 4),
    )


def _latency(seconds: list[float]) -> Latency | None:
    if not seconds:
        return None
    ordered = sorted(1000 * each for each in seconds)
    half, most = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95))
    return Latency(p50_ms=round(half, 3), p95_ms=round(most, 3))


def _rows(document: Gate) -> list[GateRow]:
    """The declared rows, or those that training has left."""
    if document.rows:
        return document.rows
    if not uris.is_hub(document.model):
        passport = uris.mounted(document.model) / "lmops.json"
        sample = json.loads(passport.read_text("utf-8")).get("sample") if passport.is_file() else None
        if rows := [_row(each) for each in sample or [] if str(each.get("text") or "").strip()]:
            return rows
    raise Refusal(
        "Settings",
        "RowsMissing",
        f"There is nothing to ask: the passport of {document.model} has no sample, and no rows are given.",
        "Give some in rollout.gates.rows.",
    )


def _row(found: Json) -> GateRow:
    return GateRow(text=str(found["text"])[:2000], pair=str(found["pair"])[:2000] if found.get("pair") else None)


def _key() -> dict[str, str]:
    """The first key of the service."""
    if (folder := os.environ.get("LMOPS_API_KEYS")) is None:
        return {}
    files = sorted(file for file in Path(folder).iterdir() if file.is_file() and not file.name.startswith("."))
    keys = [text for file in files if (text := file.read_text("utf-8").strip())]
    return {"Authorization": f"Bearer {keys[0]}"} if keys else {}


def _unwell(fault: str) -> Refusal:
    return Refusal(
        "Communication",
        "RunningUnwell",
        f"The running model does not answer, so nothing can be compared with it: {fault}",
        "Look at the running model, or name another with model.digest.",
    )


def _classify(name: str, row: GateRow) -> Json:
    return {"model": name, "input": {"text": row.text, "pair": row.pair} if row.pair else row.text, "top_k": 1}


def _fill(name: str, row: GateRow) -> Json:
    """A text that has no mask gets one in the middle of its beginning."""
    if MASK in row.text:
        return {"model": name, "input": row.text, "top_k": 1}
    words = row.text.split()[:WORDS]
    parts, between = (words, " ") if len(words) > 1 else ([*row.text[:WORDS]], "")
    middle = len(parts) // 2
    return {"model": name, "input": between.join([*parts[:middle], MASK, *parts[middle + 1 :]]), "top_k": 1}


def _embed(name: str, row: GateRow) -> Json:
    return {"model": name, "input": row.text}


def _write(name: str, row: GateRow) -> Json:
    text = row.text[:BEGINNING]
    return {"model": name, "prompt": text, "max_tokens": TOKENS, "temperature": 0, "seed": 0, "logprobs": 0}


def _same_label(one: Json, other: Json) -> float:
    return float(one["data"][0]["label"] == other["data"][0]["label"])


def _same_words(one: Json, other: Json) -> float:
    first, second = ([mask[0]["token"] for mask in body["data"][0]["masks"]] for body in (one, other))
    return _share(first, second)


def _same_tokens(one: Json, other: Json) -> float:
    first, second = (body["choices"][0]["logprobs"]["tokens"] for body in (one, other))
    return _share(first, second)


def _cosine(one: Json, other: Json) -> float:
    """How near two vectors are; those of different width are not of one space."""
    first, second = (body["data"][0]["embedding"] for body in (one, other))
    if len(first) != len(second):
        return 0.0
    lengths = math.hypot(*first) * math.hypot(*second)
    return math.fsum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 0.0


def _share(first: list[str], second: list[str]) -> float:
    """The share of places with the same in both."""
    same = sum(a == b for a, b in zip(first, second, strict=False))
    return same / max(len(first), len(second), 1)


QUESTIONS = {
    "SequenceClassification": Question("/v1/classify", _classify, _same_label),
    "MaskedLM": Question("/v1/fill-mask", _fill, _same_words),
    "FeatureExtraction": Question("/v1/embeddings", _embed, _cosine),
    "CausalLM": Question("/v1/completions", _write, _same_tokens),
}
"""What is asked of a model, by its task."""
