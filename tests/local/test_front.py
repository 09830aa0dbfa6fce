"""The address in front of a service's replicas."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from lmops.local.front import HOST, Front
from lmops.local.home import Folder, Home

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@asynccontextmanager
async def front(home: Path, name: str = "films") -> AsyncIterator[Front]:
    """A front of this service."""
    made = await Front.opened(Home(home), folder(home, name))
    yield made
    made.close()


def folder(home: Path, name: str) -> Folder:
    """The folder of a service that was applied."""
    found = Home(home).folder("default", "LanguageModelService", name)
    found.apply({"kind": "LanguageModelService", "metadata": {"name": name}, "spec": {}}, datetime.now(UTC))
    return found


@asynccontextmanager
async def replica(name: str) -> AsyncIterator[int]:
    """A replica that answers each line with its name; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(name.encode() + b" " + line)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def asked(port: int, line: bytes = b"who\n") -> bytes:
    """The first line of the answer to a new connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(line)
    answer = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return answer


def test_connections_go_to_the_replicas_in_turn_and_past_those_that_are_gone(tmp_path: Path) -> None:
    async def play() -> list[bytes]:
        async with front(tmp_path) as door, replica("one") as one, replica("two") as two:
            door.lead([one, two])
            before = [await asked(door.port) for _ in range(4)]
            with socket.socket() as gone:
                gone.bind((HOST, 0))
                door.lead([gone.getsockname()[1], two])
                return [*sorted(before), *[await asked(door.port) for _ in range(3)]]

    assert asyncio.run(play()) == [b"one who\n"] * 2 + [b"two who\n"] * 2 + [b"two who\n"] * 3


def test_a_connection_stays_where_it_is_when_others_are_led_elsewhere(tmp_path: Path) -> None:
    async def play() -> tuple[bytes, bytes]:
        async with front(tmp_path) as door, replica("old") as old, replica("new") as new:
            door.lead([old])
            reader, writer = await asyncio.open_connection(HOST, door.port)
            writer.write(b"1\n")
            await reader.readline()
            door.lead([new])
            writer.write(b"2\n")
            stays = await asyncio.wait_for(reader.readline(), 5)
            writer.close()
            return stays, await asked(door.port)

    assert asyncio.run(play()) == (b"old 2\n", b"new who\n")


def test_a_replica_that_is_slow_to_notice_is_waited_for_without_a_word(tmp_path: Path) -> None:
    complaints: list[object] = []

    async def play() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            await asyncio.sleep(1)
            writer.close()

        server = await asyncio.start_server(answer, HOST, 0)
        async with front(tmp_path) as door, server:
            door.lead([server.sockets[0].getsockname()[1]])
            _, writer = await asyncio.open_connection(HOST, door.port)
            writer.write(b"who\n")
            writer.close()
            await asyncio.sleep(0.3)
            gc.collect()
            await asyncio.sleep(1)

    asyncio.run(play())
    assert complaints == []


def test_a_client_that_goes_away_is_gone_for_the_replica_too(tmp_path: Path) -> None:
    async def play() -> None:
        gone = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:  # a stream that has no end of its own
                    writer.write(b"word\n" * 1000)
                    await writer.drain()
                    await asyncio.sleep(0.01)
            except OSError:
                gone.set()

        server = await asyncio.start_server(answer, HOST, 0)
        async with front(tmp_path) as door, server:
            door.lead([server.sockets[0].getsockname()[1]])
            reader, writer = await asyncio.open_connection(HOST, door.port)
            await reader.readline()
            writer.transport.abort()
            await asyncio.wait_for(gone.wait(), 5)

    asyncio.run(play())


def test_without_a_replica_the_answer_is_a_sentence(tmp_path: Path) -> None:
    async def play() -> bytes:
        async with front(tmp_path) as door:
            reader, writer = await asyncio.open_connection(HOST, door.port)
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer

    told = asyncio.run(play())
    assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"No replica is ready" in told


def test_a_service_keeps_its_port_and_takes_nobody_elses(tmp_path: Path) -> None:
    async def play() -> tuple[list[int], int]:
        ports = []
        for name in ("films", "books", "films"):
            async with front(tmp_path, name) as door:
                ports.append(door.port)
        with socket.create_server((HOST, ports[0])):
            async with front(tmp_path, "films") as door:
                return ports, door.port

    (films, books, again), elsewhere = asyncio.run(play())
    assert (films == again, films != books, elsewhere not in (films, books)) == (True, True, True)
