"""Measures our server beside `transformers serve` and the server that one writes by hand, on the same models.

PYTHONPATH=tests LMOPS_TEST_VOLUMES=folder python tests/bench/serving.py [--models FOLDER] [--rounds 3] [--record]

The models are those of the examples reviews and gpt2, trained first unless they lie in --models since an earlier run.
All servers of a model run at once and are asked in turn, each with as many threads, by clients in a process of their
own. The table goes to standard output, and with --record into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import compression
import httpx
import numpy as np
import psutil
import torch
import transformers
from table import grid, processors, record

import clients
import served
import training
import tuned
from lmops.api.compression import Step
from lmops_compressor import rows
from lmops_compressor.source import Source
from lmops_compressor.steps import applied
from lmops_trainer.log import quiet_libraries
from lmops_trainer.publish import fingerprint, publish

HERE = Path(__file__).parent
CLIENTS, TOKENS, WARM = 16, 32, 2.0
"""Requests that are open at a time, tokens to be written for each, and seconds before anything counts."""
TEXTS = 256
"""Different ones that are asked."""
ROUTES_SECONDS = 0.001
"""What our routes may cost a request."""
MALFORMED = (
    b"", b"{", b"[" * 50_000, b"[]",
    b'{"instances": ["\xff\xfe"]}', b'{"instances": ["\\ud800"]}', b'{"instances": [NaN]}',
    b'{"instances": ["' + b"a" * (100 << 20) + b'"]}',
)  # fmt: skip
"""Bodies that no server should take: the last is of 100 MB."""

ABOUT = (
    f"{CLIENTS} clients keep a connection each and ask again as soon as they are answered; sides take turns, and "
    "figures are medians over the rounds. By hand is FastAPI around a `pipeline` of transformers that one thread at a "
    f"time may use. Texts are held-out reviews; prompts are their beginnings, of 4 to 24 words, and {TOKENS} tokens "
    "are written for each, greedily. First token: the median wait for the first piece of a stream. MB: the most "
    "resident memory of its process. Start: from the process's start to its first answer. Who has the lower p95 "
    "could take more clients before they wait as long: at equal p95 its ratio would be no smaller."
)
HEADER = ["", "requests/s", "tokens/s", "p50 ms", "p95 ms", "first token ms", "MB", "start s", "beside", "goal"]


@dataclass(frozen=True)
class Side:
    """A server: how it is started and asked, and what an answer tells."""

    name: str
    command: Callable[[int], list[str]]
    health: str
    path: str
    body: Callable[[str], dict[str, Any]]
    tokens: Callable[[Any], int] = lambda answer: 0
    streams: bool = False


@dataclass
class Running:
    """A server that answers."""

    side: Side
    url: str
    process: psutil.Process
    start: float
    """Seconds to its first answer."""
    rounds: list[Round] = field(default_factory=list)
    first: float | None = None
    """Seconds to the first piece of a stream."""
    peak: float = 0.0
    """MB."""


@dataclass
class Round:
    """What clients saw for a while."""

    seconds: float
    waits: list[float]
    tokens: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.waits) / self.seconds


@contextmanager
def running(side: Side, folder: Path, root: Path, text: str) -> Iterator[Running]:
    """The server, from its start to its end."""
    port = served.free_port()
    settings = {
        "LMOPS_VOLUMES": str(root), "LMOPS_PORT": str(port), "LMOPS_SCRATCH": str(folder), "LMOPS_DRAIN_SECONDS": "0",
        "LMOPS_TERMINATION_LOG": str(folder / "termination"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    log, began = folder / f"{port}.log", time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(side.command(port), env={**os.environ, **settings}, stdout=file, stderr=file)
    try:
        url = f"http://127.0.0.1:{port}"
        _await(process, url + side.health, log)
        answer = httpx.post(url + side.path, json=side.body(text), timeout=120)
        assert answer.status_code == 200, f"{side.name}: {answer.text[:500]}\n{log.read_text()[-2000:]}"
        yield Running(side, url, psutil.Process(process.pid), time.monotonic() - began)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"{url} is not ready:\n{log.read_text()[-3000:]}")


async def load(server: Running, texts: Sequence[str], seconds: float, clients: int = CLIENTS) -> Round:
    """Clients that ask again as soon as they are answered. What comes before they are warm does not count."""
    given, waits, tokens = cycle(texts), list[float](), 0
    begins = time.monotonic() + WARM
    ends = begins + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal tokens
        while (began := time.monotonic()) < ends:
            async with session.post(server.url + server.side.path, json=server.side.body(next(given))) as answer:
                told = await answer.json()
                assert answer.status == 200, told
            now = time.monotonic()
            if began >= begins and now <= ends:
                waits.append(now - began)
                tokens += server.side.tokens(told)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return Round(seconds, waits, tokens)


async def first(server: Running, texts: Sequence[str]) -> float:
    """The median wait for the first piece, with as many clients."""
    waits = list[float]()

    async def client(session: aiohttp.ClientSession, mine: Sequence[str]) -> None:
        for text in mine:
            began = time.monotonic()
            body = server.side.body(text) | {"stream": True}
            async with session.post(server.url + server.side.path, json=body) as answer:
                assert answer.status == 200
                async for line in answer.content:
                    if line.startswith(b"data: {") and any(
                        choice.get("text") for choice in json.loads(line[6:])["choices"]
                    ):
                        waits.append(time.monotonic() - began)
                        break
                await answer.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session, texts[number::CLIENTS][:4]) for number in range(CLIENTS)))
    return median(waits)


def ours(name: str, uri: str, path: str, body: Callable[[str], dict[str, Any]], **more: Any) -> Side:
    """Our server with a model."""
    document = served.document(uri).document()
    command = [sys.executable, "-m", "lmops_server", "serve", document]
    return Side(name, lambda port: command, "/v2/health/ready", path, body, **more)


def by_hand(folder: Path, task: str, **more: Any) -> Side:
    """The server of `plain.py`."""
    command = [sys.executable, str(HERE / "plain.py"), str(folder), task]
    return Side(
        "FastAPI and pipeline",
        lambda port: [*command, str(port)],
        "/health",
        "/ask",
        lambda text: {"input": text},
        **more,
    )


def classifiers(uri: str, int8: str, folder: Path) -> list[Side]:
    """The first is what the others are held against, the second what the goal is for."""

    def body(text: str) -> dict[str, Any]:
        return {"input": text}

    return [
        by_hand(folder, "text-classification"),
        ours("lmops, int8", int8, "/v1/classify", body),
        ours("lmops, fp32", uri, "/v1/classify", body),
    ]


def writers(uri: str, folder: Path) -> list[Side]:
    """The same."""

    def counted(answer: Any) -> int:
        return int(answer["usage"]["completion_tokens"])

    def body(model: str) -> Callable[[str], dict[str, Any]]:
        return lambda text: {"model": model, "prompt": text, "max_tokens": TOKENS, "temperature": 0}

    serve = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--continuous-batching"]
    return [
        by_hand(folder, "text-generation", tokens=lambda answer: TOKENS),
        ours("lmops", uri, "/v1/completions", body(served.NAME), tokens=counted, streams=True),
        Side(
            "transformers serve, continuous batching",
            lambda port: [*serve, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)],
            "/health", "/v1/completions", body(str(folder)), counted, streams=True,
        ),
    ]  # fmt: skip


def measured(sides: Sequence[Side], texts: Sequence[str], root: Path, chosen: argparse.Namespace) -> list[Running]:
    """All servers up at once, and asked in turn."""
    with tempfile.TemporaryDirectory(prefix="lmops-bench-") as folder, ExitStack() as stack:
        servers = [stack.enter_context(running(side, Path(folder), root, texts[0])) for side in sides]
        for _ in range(chosen.rounds):
            for server in servers:
                server.rounds.append(asyncio.run(load(server, texts, chosen.seconds)))
                print(f"{server.side.name}: {server.rounds[-1].rate:.1f} requests/s", file=sys.stderr)
        for server in servers:
            server.first = asyncio.run(first(server, texts)) if server.side.streams else None
            server.peak = peak(server.process)
    return servers


def peak(process: psutil.Process) -> float:
    """The most resident memory of a process and those it has started, in MB, as the kernel has counted it."""
    every = [process, *process.children(recursive=True)]
    lines = [line for one in every for line in Path(f"/proc/{one.pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def lines(servers: Sequence[Running], goals: Mapping[str, Sequence[tuple[str, float]]]) -> Iterator[list[str]]:
    """A line of the table each. A goal is a side to be held against, and how many times its rate."""
    rates = {server.side.name: [round.rate for round in server.rounds] for server in servers}
    for server in servers:
        waits = [wait for round in server.rounds for wait in round.waits]
        p50, p95 = np.percentile(waits, (50, 95)) * 1000
        tokens = median(round.tokens / round.seconds for round in server.rounds)
        compared, said = list[str](), list[str]()
        for other, least in goals.get(server.side.name, ()):
            each = [mine / theirs for mine, theirs in zip(rates[server.side.name], rates[other], strict=True)]
            compared.append(f"{median(each):.2f} x {other} ({min(each):.2f} to {max(each):.2f})")
            if least:
                said.append(f"≥ {least:g} x: {'ok' if median(each) >= least else 'missed'}")
        yield [
            server.side.name, f"{median(rates[server.side.name]):.1f}", f"{tokens:.0f}" if tokens else "",
            f"{p50:.0f}", f"{p95:.0f}", f"{server.first * 1000:.0f}" if server.first else "", f"{server.peak:.0f}",
            f"{server.start:.1f}", "; ".join(compared), "; ".join(said),
        ]  # fmt: skip


def routes(uri: str, texts: Sequence[str], root: Path, chosen: argparse.Namespace) -> str:
    """What is left of a request where the model does nothing: one client, one connection. Beside it KServe's own."""
    command = [sys.executable, str(HERE / "idle.py"), served.document(uri).document()]
    path = f"/v1/models/{served.NAME}:predict"
    ours = Side("lmops", lambda port: command, "/v2/health/ready", path, lambda text: {"instances": [text]})
    beside = [str(clients.python()), str(HERE / "idle_kserve.py"), served.NAME]
    theirs = Side("KServe", lambda port: [*beside, str(port)], "/v2/health/ready", path, ours.body)
    with tempfile.TemporaryDirectory(prefix="lmops-bench-") as folder, ExitStack() as stack:
        servers = [stack.enter_context(running(side, Path(folder), root, texts[0])) for side in (ours, theirs)]
        for _ in range(chosen.rounds):
            for server in servers:
                server.rounds.append(asyncio.run(load(server, texts, chosen.seconds, 1)))
        (p50, other), (refused, other_refused) = [
            [of(server) for server in servers]
            for of in (lambda one: median(wait for round in one.rounds for wait in round.waits), refusals)
        ]
        mb, other_mb = (peak(server.process) for server in servers)
    return (
        f"Our routes, with a model that does nothing, one client: {p50 * 1000:.2f} ms a request (p50), tokenizer and "
        f"client included; goal ≤ {ROUTES_SECONDS * 1000:g} ms: {'ok' if p50 <= ROUTES_SECONDS else 'missed'}. "
        f"KServe's ModelServer, asked by that client, with a model that does nothing and no tokenizer: "
        f"{other * 1000:.2f} ms. Of {len(MALFORMED)} malformed bodies, one of 100 MB, ours refuses {refused} "
        f"by a 4xx and KServe's {other_refused}; afterwards they have had {mb:.0f} and {other_mb:.0f} MB at the most."
    )


def refusals(server: Running) -> int:
    """How many malformed bodies get a 4xx."""
    found = list[int]()
    for body in MALFORMED:
        try:
            found.append(httpx.post(server.url + server.side.path, content=body, timeout=60).status_code)
        except httpx.TransportError:  # closed in the middle of the body, with or without an answer
            found.append(0)
        print(f"{server.side.name}: {body[:20]!r} {found[-1]}", file=sys.stderr)
    return sum(400 <= status < 500 for status in found)


def int8(uri: str, root: Path) -> str:
    """The URI of the model as int8."""
    run = compression.document(compression.CASES["MiniLM (reviews)"], uri, 5, None)
    source, folder = Source.open(run), root / "work" / "int8"
    step = Step.model_validate({"quantize": {"method": "Dynamic"}})
    applied(run, source, [step], lambda: rows.calibration(run, source), folder, lambda _: None)
    known = json.loads((source.folder / "lmops.json").read_text())
    made = fingerprint(folder)
    about = {"kind": "Passport", "digest": made.digest, "task": source.task, "labels": source.labels}
    about |= {"files": dict(made.files), "format": "onnx", "maxLength": known.get("maxLength", 128)}
    home = publish(made, root / "work" / "served", "bench", about, {})
    return f"pvc://work/served/{home.name}"


def main() -> None:
    """Measures, prints, records."""
    parser = argparse.ArgumentParser(description="Our server beside those that a user would run instead.")
    parser.add_argument("--models", type=Path, help="where the models are kept (default: they are gone afterwards)")
    parser.add_argument("--steps", type=int, help="at most so many steps of training")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server")
    parser.add_argument("--seconds", type=float, default=10, help="of each turn")
    parser.add_argument("--record", action="store_true", help="put the table into docs/benchmarks.md")
    chosen = parser.parse_args()
    if "LMOPS_TEST_VOLUMES" not in os.environ:
        parser.error("Set LMOPS_TEST_VOLUMES to the folder that holds data/ and models/, or run `make bench`.")
    threads = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    quiet_libraries()
    volumes = Path(os.environ["LMOPS_TEST_VOLUMES"])
    command = shlex.join(["python", "tests/bench/serving.py", *sys.argv[1:]])
    parts = [
        f"`{command}` on {processors()}, {os.environ['OMP_NUM_THREADS']} threads each, torch {torch.__version__}, "
        f"transformers {transformers.__version__}:"
    ]
    texts = tuned.texts(TEXTS, skip=served.LEARNED)
    prompts = [" ".join(text.split()[: 4 + 4 * (number % 6)]) for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory(prefix="lmops-bench-") as temporary:
        for name, case in compression.CASES.items():
            root = (chosen.models or Path(temporary)) / case.example
            uri = training.trained(case.example, volumes, root, chosen.steps or case.steps)
            os.environ["LMOPS_VOLUMES"] = str(root)
            folder = root / uri.removeprefix("pvc://")
            if case.example == "reviews":
                servers = measured(classifiers(uri, int8(uri, root), folder), texts, root, chosen)
                hand = "FastAPI and pipeline"
                goals = {"lmops, int8": [(hand, 3.0)], "lmops, fp32": [(hand, 0.0)]}
                said = routes(uri, texts, root, chosen)
            else:
                servers = measured(writers(uri, folder), prompts, root, chosen)
                other = "transformers serve, continuous batching"
                goals, said = {"lmops": [("FastAPI and pipeline", 3.0), (other, 0.95)]}, ""
            parts += [f"{name}:", grid([HEADER, *lines(servers, goals)]), *([said] if said else [])]
    table = "\n\n".join([*parts, ABOUT])
    print(table)
    if chosen.record:
        record(training.PAGE, "serving", table)


if __name__ == "__main__":
    main()
