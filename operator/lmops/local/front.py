"""A service's own address on a laptop: it stays, and leads each connection to a replica that is ready."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress

from lmops.local.home import Folder, Home, read_json, write_json

HOST = "127.0.0.1"
PORTS = range(8080, 8180)
"""The ports that a new service takes the first free one of."""
CHUNK = 64 * 1024
NOBODY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    b'{"error": {"message": "No replica is ready; lmops local get lms says why."}}\n'
)


class Front:
    """What a cluster's Service does, for one service: connections that are open stay where they are."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.port: int = listening.getsockname()[1]
        self.replicas: tuple[int, ...] = ()
        """The ports of those that are ready."""
        self._turn = 0
        self._server: asyncio.Server | None = None
        self._open = set[asyncio.Task[None]]()
        """Those who pass on now: nothing else holds them, and streams hold each other only weakly."""

    @classmethod
    async def opened(cls, home: Home, folder: Folder) -> Front:
        """Listens at the address that the service has, or at a new one where it has none or has lost it."""
        front = cls(_bound(_ports(home, folder)))
        write_json(folder.path / "port.json", front.port)
        front._server = await asyncio.start_server(front._taken, sock=front.listening)
        return front

    def lead(self, replicas: Sequence[int]) -> None:
        """From now on new connections go to these."""
        self.replicas = tuple(replicas)

    def close(self) -> None:
        """Takes no more connections."""
        if self._server:
            self._server.close()

    def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connected(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await self._replica()
        try:
            if there is None:
                with suppress(TimeoutError):  # an answer to what was not read is lost on its way
                    await asyncio.wait_for(reader.read(CHUNK), 1.0)
                writer.write(NOBODY)
                await writer.drain()
                return
            async with asyncio.TaskGroup() as both:
                both.create_task(_pumped(reader, there[1]))
                both.create_task(_pumped(there[0], writer))
        except* OSError:  # one of the two has gone: so does the other
            pass
        finally:
            writer.close()
            if there:
                there[1].close()

    async def _replica(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the next replica in turn that takes one."""
        for _ in self.replicas:
            self._turn += 1
            with suppress(OSError):
                return await asyncio.open_connection(HOST, self.replicas[self._turn % len(self.replicas)])
        return None


async def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes on all that comes, and its end."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _ports(home: Home, folder: Folder) -> list[int]:
    """The service's own port first, then those that no other service has, then any."""
    kept: int | None = read_json(folder.path / "port.json")
    others = {read_json(file) for file in home.root.glob("resources/*/*/*/port.json")}
    return [*([kept] if kept else []), *(port for port in PORTS if port not in others), 0]


def _bound(ports: list[int]) -> socket.socket:
    for port in ports[:-1]:
        with suppress(OSError):
            return socket.create_server((HOST, port))
    return socket.create_server((HOST, ports[-1]))
