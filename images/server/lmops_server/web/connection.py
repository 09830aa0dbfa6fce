"""A connection: whoever sends no whole head, or reads nothing of what is said, is hung up on."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 30
"""How long the head of a request may take, from the connection's beginning or from what comes first after an answer."""
UNREAD_SECONDS = 30
"""How long a client may read nothing of what waits for it."""


class Connection(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, which would wait for these for ever."""

    _head: asyncio.TimerHandle | None = None
    """What ends the wait for a head."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Leaves what is not read to the kernel, which knows of every byte, after the connection is closed as well."""
        super().connection_made(transport)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            channel = transport.get_extra_info("socket")
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * UNREAD_SECONDS))
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """What comes between two requests begins the head of the next one, be it no more than an empty line."""
        super().data_received(data)
        if self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def on_headers_complete(self) -> None:
        """The wait is over."""
        self._have_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """And here too."""
        self._have_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _have_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
