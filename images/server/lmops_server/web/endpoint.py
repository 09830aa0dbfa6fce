"""One route: who may ask, how much is read, how long it may take, and what is told when something is wrong."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from lmops_server.faults import Fault, wrong
from lmops_server.metrics import Usage
from lmops_server.probes import is_of_a_gate, of_a_gate
from lmops_server.texts import QUICK
from lmops_server.web.service import Service
from lmops_trainer.failures import Refusal
from lmops_trainer.log import log

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Protocol = Literal["openai", "kserve"]
BODY_SECONDS = 30
"""How long a client may take to send its request."""
GONE = 499
"""The status in log and metrics of a request whose client did not wait for the answer."""
TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    404: "not_found_error",
    408: "timeout_error",
    504: "timeout_error",
}


@dataclass
class Call:
    """A request that is being answered."""

    service: Service
    scope: Scope
    body: bytes
    began: float
    usage: Usage | None = None
    """What it has used, once that is known."""
    headers: dict[str, str] = field(default_factory=dict)
    is_kept: bool = False
    """Whether it is one of those that go into the request log."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What of it goes there."""

    @property
    def path(self) -> dict[str, str]:
        """The parts of the path that have names."""
        return self.scope.get("path_params", {})  # type: ignore[no-any-return]

    def read(self, form: type[M], body: bytes | None = None) -> M:
        """The body in its form; a sentence where it has not."""
        try:
            return form.model_validate_json(self.body if body is None else body)
        except ValidationError as error:
            raise _malformed(error) from error

    async def beside(self, make: Callable[[], T]) -> T:
        """Makes tokens of what was sent; of much beside the loop, so that others do not wait for it."""
        return make() if len(self.body) <= QUICK else await asyncio.to_thread(make)


@dataclass(frozen=True)
class Stream:
    """An answer that comes in parts, as server-sent events."""

    events: AsyncIterator[dict[str, Any]]
    last: str | None = "[DONE]"


Handler = Callable[[Call], Awaitable[Response | Stream | dict[str, Any]]]


class Endpoint:
    """An ASGI application for one route."""

    def __init__(self, service: Service, route: str, handler: Handler, operation: str | None = None) -> None:
        self.service, self.route, self.handler, self.operation = service, route, handler, operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, whatever happens, and says how it went."""
        metrics = self.service.metrics
        kept = self.service.rowlog
        of_a_gate.set(asked := is_of_a_gate(scope["headers"]))
        is_kept = kept is not None and not asked and kept.draws()
        call = Call(self.service, scope, b"", time.perf_counter(), is_kept=is_kept)
        told = _Told(send, closing=self.service.draining)
        metrics.began()
        spans = self.service.traces if scope["method"] == "POST" else None
        span = spans.begin("POST", self.route, self.operation, scope["headers"]) if spans else None
        status = GONE
        try:
            await self._answered(call, receive, told)
            status = told.status
        except ClientDisconnect:
            pass
        except Exception as error:
            status = await self._refused(error, receive, told)
        finally:
            seconds = time.perf_counter() - call.began
            metrics.ended(self.route, status, seconds, None if asked else self.operation, call.usage)
            if not asked:
                self.service.requests.add(self.route, status, seconds, call.usage)
            if spans and span:
                spans.end(span, status, call.usage)
            if kept and call.rows and status == 200:
                kept.add(call.rows)

    async def _answered(self, call: Call, receive: Receive, told: _Told) -> None:
        request = Request(call.scope, receive)
        self._authorised(request)
        if call.scope["method"] == "POST":
            call.body = await self._body(request)
        left = self.service.limits.timeout_seconds - (time.perf_counter() - call.began)
        async with _apart(_gone(receive, told)) as gone, _apart(self._told(call, told)) as work:
            done, _ = await asyncio.wait({work, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if work in done:
                return work.result()
            if gone in done:
                raise ClientDisconnect
            raise Fault(
                504,
                f"The answer took longer than {self.service.limits.timeout_seconds} s (limits.timeoutSeconds). "
                "Ask for less, or try again when the server is less busy.",
                code="timeout",
            )

    async def _told(self, call: Call, told: _Told) -> None:
        found = await self.handler(call)
        if isinstance(found, Stream):
            await told.stream(found)
        elif isinstance(found, Response):
            await told.response(found)
        else:
            await told.json(200, found, call.headers)

    async def _refused(self, error: Exception, receive: Receive, told: _Told) -> int:
        """Tells what is wrong in the words of the protocol, as far as the answer has not begun."""
        fault = _fault(error)
        if fault.status >= 500:
            log.error("%s: %s", self.route, fault.message, exc_info=None if isinstance(error, Fault) else error)
        content = shaped(fault, protocol_of(self.route))
        try:
            if told.status:
                async with _apart(_gone(receive, told)):
                    await told.end(content)
            else:
                await told.json(fault.status, content, fault.headers)
        except (OSError, ClientDisconnect):  # nobody is there to be told
            return GONE
        return fault.status

    def _authorised(self, request: Request) -> None:
        keys = self.service.keys()
        if keys is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
        if scheme.lower() != "bearer" or not any(known):
            raise Fault(
                401,
                "The request carries no key of this service. Send the header `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, request: Request) -> bytes:
        """All of it, or as much as shows that it is too long."""
        most = self.service.limits.body_bytes
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        parts: list[bytes] = []
        size = 0
        seconds = min(BODY_SECONDS, self.service.limits.timeout_seconds)
        try:
            async with asyncio.timeout(seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise _too_large(most)
                    parts.append(part)
        except TimeoutError as error:
            raise Fault(
                408,
                f"The request was not sent within {seconds} s. Send it again, and all of it at once.",
                code="timeout",
                headers={"Connection": "close"},
            ) from error
        return b"".join(parts)


class _Told:
    """What was sent of an answer so far."""

    def __init__(self, send: Send, closing: bool) -> None:
        self._to_client, self._closing = send, closing
        self.status = 0
        """0 as long as nothing was sent."""
        self.is_left = False
        """Whether the client has hung up before the end."""

    async def response(self, response: Response) -> None:
        """An answer that is whole."""
        if self._closing:
            response.headers["Connection"] = "close"
        await self._begin(response.status_code, response.raw_headers)
        await self._send({"type": "http.response.body", "body": response.body})

    async def json(self, status: int, content: dict[str, Any], headers: dict[str, str]) -> None:
        """An answer as JSON."""
        await self.response(Response(as_json(content), status, headers, "application/json"))

    async def stream(self, stream: Stream) -> None:
        """The first event decides the status: until it is there, the request can still be refused."""
        try:
            async for event in stream.events:
                if not self.status:
                    await self._begin(200, _EVENTS)
                await self._event(as_json(event))
            if stream.last is not None:
                await self._event(stream.last.encode())
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            await stream.events.aclose()  # type: ignore[attr-defined]

    async def end(self, content: dict[str, Any]) -> None:
        """Ends an answer that has begun with what went wrong."""
        await self._event(as_json(content))
        await self._send({"type": "http.response.body", "body": b""})

    async def _send(self, message: Message) -> None:
        """Waits until the client has room for more. The server says nothing where it hangs up meanwhile."""
        await self._to_client(message)
        if self.is_left:
            raise ClientDisconnect

    async def _event(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": b"data: %s\n\n" % data, "more_body": True})

    async def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        message: Message = {"type": "http.response.start", "status": status, "headers": headers}
        await self._send(message)


_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def as_json(content: dict[str, Any]) -> bytes:
    """As it is sent."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def shaped(fault: Fault, protocol: Protocol) -> dict[str, Any]:
    """The fault as clients of the protocol expect it."""
    if protocol == "kserve":
        return {"error": fault.message}
    kind = TYPES.get(fault.status, "invalid_request_error" if fault.status < 500 else "server_error")
    return {"error": {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code}}


def protocol_of(path: str) -> Protocol:
    """Whose words a path is answered in."""
    return "openai" if path.startswith("/v1/") and not path.endswith(":predict") else "kserve"


def keys_in(folder: Path | None) -> Callable[[], list[str] | None]:
    """Reads the keys of a mounted Secret, one a file; a changed one counts within seconds. None: everybody may ask."""
    if folder is None:
        return lambda: None
    known: list[str] = []
    read_at = -1e9

    def keys() -> list[str]:
        nonlocal known, read_at
        if time.monotonic() - read_at > 5:
            files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
            known = [text for file in files if (text := file.read_text("utf-8").strip())]
            read_at = time.monotonic()
        return known

    return keys


async def _gone(receive: Receive, told: _Told) -> None:
    """Until the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    told.is_left = True


@asynccontextmanager
async def _apart(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Work that goes on beside what is done within, and no longer."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _fault(error: Exception) -> Fault:
    if isinstance(error, Fault):
        return error
    if isinstance(error, ValidationError):
        return _malformed(error)
    if isinstance(error, Refusal):
        return wrong(f"{error.message} {error.remedy}".strip())
    return Fault(500, "The server has a fault of its own; its log says which.")


def _too_large(most: int) -> Fault:
    return Fault(
        413,
        f"The body is longer than {most:,} bytes (limits.bodyBytes). Send less at a time.",
        headers={"Connection": "close"},
    )


def _malformed(error: ValidationError) -> Fault:
    every = error.errors()
    place = _place(every[0])
    first = max((each for each in every if _place(each)[: len(place)] == place), key=_tells)
    where = ".".join(_place(first))
    if first["type"] == "json_invalid":
        return wrong(f"The body is not JSON: {first['ctx']['error']}.")
    if first["type"] == "extra_forbidden":
        return wrong(f"There is no field {where!r} here; leave it out.", where, "unknown_parameter")
    return wrong(f"{where or 'The body'}: {first['msg'][:1].lower()}{first['msg'][1:]}.", where or None)


def _place(error: ErrorDetails) -> list[str]:
    """Where in the body it is. A field that is not there may look like a type."""
    *way, last = map(str, error["loc"]) if error["loc"] else [""]
    kept = [last] if last and (error["type"] == "extra_forbidden" or not _is_type(last)) else []
    return [part for part in way if not _is_type(part)] + kept


def _tells(error: ErrorDetails) -> tuple[int, bool]:
    """How much an error tells of a value that might have several forms: it is held against each of them."""
    return len(_place(error)), not error["type"].endswith("_type")


def _is_type(part: str) -> bool:
    """Whether it names what a value might have been, and no place in the body."""
    return part[:1].isupper() or "[" in part or part in ("str", "int")
