"""A thousand clients at once, many of whom do wrong or go away, neither mislead nor wear out a server."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import served
from served import Server, Volumes

CLIENTS, SECONDS = 1000, float(os.environ.get("LMOPS_TEST_LOAD_SECONDS", "60"))
QUEUE = 256
FEW = 0.03
"""By how much a probability may differ where an input shares its pass with others."""
MORE = 1.1
"""What the memory may grow by between a time after the start and the end."""

pytestmark = pytest.mark.slow
Heard = Counter[str]


class Client:
    """One of them: its own connection, over and over."""

    def __init__(self, server: Server, known: dict[str, float], number: int) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self.host, self.port, self.known = host, int(port), known
        self.random = random.Random(number)

    async def once(self, heard: Heard) -> None:
        """Asks well, or does one of the things that clients do."""
        ways: list[Callable[[Heard], Awaitable[None]]] = [self.right] * 6 + [self.wrong, self.broken, self.leave]
        reader, self.writer = await asyncio.open_connection(self.host, self.port)
        self.reader = reader
        try:
            await self.random.choice(ways)(heard)
        finally:
            self.writer.close()

    async def right(self, heard: Heard) -> None:
        """A text whose answer is known; it is that, or the server is busy and says for how long."""
        text = self.random.choice(list(self.known))
        status, headers, body = await self.ask(json.dumps({"input": text}).encode())
        if status == 429:
            assert 1 <= int(headers["retry-after"]) <= 30
            heard["busy"] += 1
            await asyncio.sleep(self.random.uniform(0, 0.5))
            return
        assert status == 200, body
        (told,) = body["data"]
        positive = told["confidence"] if told["label"] == "positive" else 1 - told["confidence"]
        assert positive == pytest.approx(self.known[text], abs=FEW), text
        heard["answered"] += 1

    async def wrong(self, heard: Heard) -> None:
        """Something that no model takes."""
        status, _, body = await self.ask(self.random.choice([b'{"input": 7}', b'{"input"', b"\xff\xfe", b"[]", b""]))
        assert (status, "error" in body) == (400, True), body
        heard["refused"] += 1

    async def broken(self, heard: Heard) -> None:
        """Half of a request, and then nothing more."""
        self.writer.write(self.head(10_000) + b'{"input": "half')
        await self.writer.drain()
        await asyncio.sleep(self.random.uniform(0, 1))
        heard["broken off"] += 1

    async def leave(self, heard: Heard) -> None:
        """A whole request, and nobody who waits for its answer."""
        body = json.dumps({"input": self.random.choice(list(self.known))}).encode()
        self.writer.write(self.head(len(body)) + body)
        await self.writer.drain()
        await asyncio.sleep(self.random.uniform(0, 0.05))
        heard["left"] += 1

    def head(self, length: int) -> bytes:
        """The lines before a body."""
        return f"POST /v1/classify HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {length}\r\n\r\n".encode()

    async def ask(self, body: bytes) -> tuple[int, dict[str, str], Any]:
        """A request, and its answer."""
        self.writer.write(self.head(len(body)) + body)
        status = int((await self.reader.readline()).split()[1])
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        return status, headers, json.loads(await self.reader.readexactly(int(headers["content-length"])))


async def crowd(server: Server, known: dict[str, float], seconds: float) -> Heard:
    """All of them, for a while. One who is told something wrong ends the test."""
    heard, end = Heard(), time.monotonic() + seconds

    async def client(number: int) -> None:
        mine = Client(server, known, number)
        while time.monotonic() < end:
            await mine.once(heard)

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(number))
    return heard


def gauge(server: Server, name: str) -> float:
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def test_a_thousand_clients_with_faults_mixed_in(volumes: Volumes, reviews_int8: str, tmp_path: Path):
    texts = served.held_out()[:200]
    with served.serving(volumes, served.document(reviews_int8, limits={"queue": QUEUE}), tmp_path) as server:
        with server.client() as http:
            told = [http.post("/v1/classify", json={"input": text}).json()["data"][0] for text in texts]
        known = {
            text: one["confidence"] if one["label"] == "positive" else 1 - one["confidence"]
            for text, one in zip(texts, told, strict=True)
        }
        process = psutil.Process(server.process.pid)

        warm = asyncio.run(crowd(server, known, SECONDS / 4))
        before = process.memory_info().rss
        heard = asyncio.run(crowd(server, known, SECONDS))
        after = process.memory_info().rss

        end = time.monotonic() + 30  # those who have left at the very end are found gone
        while gauge(server, "lmops_inputs_working") or gauge(server, "lmops_inputs_waiting"):
            assert time.monotonic() < end, "places are never given back"
            time.sleep(0.1)
        with server.client() as http:
            last = http.post("/v1/classify", json={"input": texts[:QUEUE]})
        failed = [line for line in server.log.read_text().splitlines() if "Traceback" in line]

    assert last.json()["data"][0]["label"] == told[0]["label"]
    assert last.status_code == 200
    assert min(heard[way] for way in ("answered", "busy", "refused", "broken off", "left")) > 0, (warm, heard)
    assert after < before * MORE, f"{before / 1e6:.0f} MB became {after / 1e6:.0f} MB"
    assert failed == []
