"""Many clients at once, of whom some do wrong, go away or never read, neither mislead nor wear out a server."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import served
from served import Server, Volumes

CLIENTS, READERS, SECONDS = 1000, 300, float(os.environ.get("LMOPS_TEST_LOAD_SECONDS", "60"))
QUEUE = 256
FEW = 0.03
"""By how much a probability may differ where an input shares its pass with others."""
MORE = 1.1
"""What the memory may grow by between a time after the start and the end."""

LIKELIEST = {"temperature": 0, "max_tokens": 16, "ignore_eos": True}
"""How a text is asked for that is the same whenever it is written."""

pytestmark = pytest.mark.slow
Heard = Counter[str]
Way = Callable[[Heard], Awaitable[None]]


class Client:
    """One of them: its own connection, over and over."""

    route = "/v1/classify"

    def __init__(self, server: Server, known: Mapping[str, Any], number: int) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self.host, self.port, self.known = host, int(port), known
        self.random = random.Random(number)

    @property
    def ways(self) -> list[Way]:
        """The things that it does, the usual ones more often."""
        return [self.right] * 6 + [self.wrong, self.broken, self.leave]

    async def once(self, heard: Heard) -> None:
        """Asks well, or does one of the things that clients do."""
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        try:
            await self.random.choice(self.ways)(heard)
        finally:
            self.writer.close()

    def asks(self, text: str, **_: Any) -> bytes:
        """A request."""
        return json.dumps({"input": text}).encode()

    async def right(self, heard: Heard) -> None:
        """A text whose answer is known; it is that, or the server is busy and says for how long."""
        text = self.random.choice(list(self.known))
        status, headers, body = await self.ask(self.asks(text))
        if status == 429:
            await self.wait(headers, heard)
            return
        assert status == 200, body
        (told,) = body["data"]
        positive = told["confidence"] if told["label"] == "positive" else 1 - told["confidence"]
        assert positive == pytest.approx(self.known[text], abs=FEW), text
        heard["answered"] += 1

    async def wait(self, headers: dict[str, str], heard: Heard) -> None:
        """The server is busy, and says for how long."""
        assert 1 <= int(headers["retry-after"]) <= 30
        heard["busy"] += 1
        await asyncio.sleep(self.random.uniform(0, 0.5))

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
        body = self.asks(self.random.choice(list(self.known)))
        self.writer.write(self.head(len(body)) + body)
        await self.writer.drain()
        await asyncio.sleep(self.random.uniform(0, 0.05))
        heard["left"] += 1

    def head(self, length: int) -> bytes:
        """The lines before a body."""
        return f"POST {self.route} HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {length}\r\n\r\n".encode()

    async def ask(self, body: bytes) -> tuple[int, dict[str, str], Any]:
        """A request, and its answer."""
        status, headers = await self.begun(body)
        return status, headers, json.loads(await self.reader.readexactly(int(headers["content-length"])))

    async def begun(self, body: bytes) -> tuple[int, dict[str, str]]:
        """A request, and the head of its answer."""
        self.writer.write(self.head(len(body)) + body)
        status = int((await self.reader.readline()).split()[1])
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        return status, {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }


class Reader(Client):
    """One who has texts written, and reads them as they come."""

    route = "/v1/completions"

    @property
    def ways(self) -> list[Way]:
        return [self.right] * 5 + [self.whole, self.wrong, self.broken, self.leave, self.hang_up, self.read_nothing]

    def asks(self, prompt: str, **more: Any) -> bytes:
        """A request for the likeliest text."""
        return json.dumps({"model": served.NAME, "prompt": prompt, **LIKELIEST, **more}).encode()

    async def right(self, heard: Heard) -> None:
        """A text as a stream: all of it is what was written for the one who asked for it alone."""
        prompt = self.random.choice(list(self.known))
        status, headers = await self.begun(self.asks(prompt, stream=True))
        if status == 429:
            await self.wait(headers, heard)
            return
        assert status == 200
        events = [event async for event in self.events()]
        assert events.pop() == "[DONE]"
        assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == self.known[prompt]
        heard["read"] += 1

    async def whole(self, heard: Heard) -> None:
        """The same in one piece."""
        prompt = self.random.choice(list(self.known))
        status, headers, body = await self.ask(self.asks(prompt))
        if status == 429:
            await self.wait(headers, heard)
            return
        assert (status, body["choices"][0]["text"]) == (200, self.known[prompt])
        heard["answered"] += 1

    async def hang_up(self, heard: Heard) -> None:
        """A long text, of which the first words are enough."""
        prompt = self.random.choice(list(self.known))
        status, headers = await self.begun(self.asks(prompt, stream=True, max_tokens=200))
        if status == 429:
            await self.wait(headers, heard)
            return
        async for _ in self.events():
            if self.random.random() < 0.3:
                break
        heard["hung up"] += 1

    async def read_nothing(self, heard: Heard) -> None:
        """A long text, and nobody who reads it for a while."""
        self.writer.transport.pause_reading()
        body = self.asks(self.random.choice(list(self.known)), stream=True, max_tokens=200, logprobs=5)
        self.writer.write(self.head(len(body)) + body)
        await asyncio.sleep(self.random.uniform(0, 3))
        heard["not read"] += 1

    async def events(self) -> AsyncIterator[str]:
        """What comes, chunk by chunk."""
        text = b""
        while length := int(await self.reader.readline(), 16):
            text += (await self.reader.readexactly(length + 2))[:-2]
            *whole, text = text.split(b"\n\n")
            for event in whole:
                yield event.decode().removeprefix("data: ")


async def crowd(clients: Sequence[Client], seconds: float) -> Heard:
    """All of them, for a while. One who is told something wrong ends the test."""
    heard, end = Heard(), time.monotonic() + seconds

    async def again_and_again(client: Client) -> None:
        while time.monotonic() < end:
            await client.once(heard)

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(again_and_again(client))
    return heard


def gauge(server: Server, name: str) -> float:
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def until_all_is_given_back(server: Server) -> None:
    """Those who have left at the very end are found gone."""
    end = time.monotonic() + 30
    while any(gauge(server, f"lmops_{name}") for name in ("inputs_working", "inputs_waiting", "requests_in_flight")):
        assert time.monotonic() < end, "places are never given back"
        time.sleep(0.1)


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
        clients = [Client(server, known, number) for number in range(CLIENTS)]

        warm = asyncio.run(crowd(clients, SECONDS / 4))
        before = process.memory_info().rss
        heard = asyncio.run(crowd(clients, SECONDS))
        after = process.memory_info().rss

        until_all_is_given_back(server)
        with server.client() as http:
            last = http.post("/v1/classify", json={"input": texts[:QUEUE]})
        failed = [line for line in server.log.read_text().splitlines() if "Traceback" in line]

    assert last.json()["data"][0]["label"] == told[0]["label"]
    assert last.status_code == 200
    assert min(heard[way] for way in ("answered", "busy", "refused", "broken off", "left")) > 0, (warm, heard)
    assert after < before * MORE, f"{before / 1e6:.0f} MB became {after / 1e6:.0f} MB"
    assert failed == []


def test_hundreds_who_read_streams_while_others_hang_up_or_never_read(volumes: Volumes, tmp_path: Path):
    document = served.document(served.untrained(volumes, tmp_path), limits={"queue": QUEUE})
    words = " ".join(served.held_out()[:40]).split()
    prompts = [" ".join(words[20 * place :][: 1 + 7 * place % 40]) for place in range(24)]
    with served.serving(volumes, document, tmp_path) as server:
        with server.client() as http:
            asked = [{"model": served.NAME, "prompt": prompt, **LIKELIEST} for prompt in prompts]
            alone = [http.post("/v1/completions", json=body).json()["choices"][0]["text"] for body in asked]
        known = dict(zip(prompts, alone, strict=True))
        process = psutil.Process(server.process.pid)
        readers = [Reader(server, known, number) for number in range(READERS)]

        warm = asyncio.run(crowd(readers, SECONDS / 6))
        before = process.memory_info().rss
        heard = asyncio.run(crowd(readers, SECONDS / 2))
        after = process.memory_info().rss

        until_all_is_given_back(server)
        time.sleep(0.5)  # a row that nobody waits for has left with the step that was being made
        passes = gauge(server, "lmops_batch_rows_count")
        time.sleep(1)
        assert gauge(server, "lmops_batch_rows_count") == passes, "somebody is written for who has gone"
        with server.client() as http:
            last = http.post("/v1/completions", json=asked[0]).json()["choices"][0]["text"]
        failed = [line for line in server.log.read_text().splitlines() if "Traceback" in line]

    assert last == alone[0]
    assert len(set(alone)) > len(alone) / 2
    ways = ("read", "answered", "busy", "refused", "broken off", "left", "hung up", "not read")
    assert min(heard[way] for way in ways) > 0, (warm, heard)
    assert after < before * MORE, f"{before / 1e6:.0f} MB became {after / 1e6:.0f} MB"
    assert failed == []
