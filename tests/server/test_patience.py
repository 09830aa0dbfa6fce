"""A client may be slow, but it may not hold a connection for nothing: what it does not send or read has its time."""

from __future__ import annotations

import gc
import json
import logging
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from tokenizers import Encoding

from lmops_server.serve import listening, loaded
from lmops_server.web import connection, endpoint
from lmops_server.web.asking import Chat, chat_prompt, tokens
from lmops_server.web.service import Service
from served import NAME, Volumes, document

SHORT = 1
"""Seconds that a client has here."""
MANY = {"model": NAME, "prompt": "The police", "max_tokens": 300, "ignore_eos": True, "n": 4, "logprobs": 20}
"""An answer of a megabyte: more than is held for a client that does not read."""


@pytest.fixture(scope="module")
def service(volumes: Volumes, gpt2: str) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMOPS_VOLUMES", str(volumes.root))
        yield loaded(document(gpt2, generation={"chatTemplate": "{{ messages[0].content }}"}))
    gc.unfreeze()


@pytest.fixture
def hasty(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server that waits for nobody, on a machine that holds little for those who do not read."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", SHORT)
    monkeypatch.setattr(connection, "UNREAD_SECONDS", SHORT)
    server = uvicorn.Server(listening(service))
    with socket.create_server(("127.0.0.1", 0)) as listens:
        listens.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listens]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield int(listens.getsockname()[1])
        server.should_exit = True
        thread.join(30)


@contextmanager
def client(port: int, sends: bytes, room: int | None = None) -> Iterator[socket.socket]:
    """One that has sent something, with room for so many bytes."""
    with socket.socket() as made:
        if room:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        made.connect(("127.0.0.1", port))
        made.sendall(sends)
        yield made


def post(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def hung_up_after(connected: socket.socket, most: float = 10) -> float:
    """The seconds until nobody is at the other end, without a byte being read."""
    began = time.monotonic()
    while is_open(connected):
        assert time.monotonic() - began < most, f"the connection is there after {most:g} s"
        time.sleep(0.05)
    return time.monotonic() - began


def is_open(connected: socket.socket) -> bool:
    """Whether the server's end of a connection is there, in whatever state, as the kernel says."""
    ends = [f":{address[1]:04X}" for address in (connected.getpeername(), connected.getsockname())]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any([row[1][-5:], row[2][-5:]] == ends for row in rows)


def ends(port: int, path: str = "/v1/completions") -> Counter[int]:
    """How requests have ended: how often with which status."""
    figures = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    line = re.escape('lmops_requests_total{route="' + path.replace(NAME, "{model}")) + r'",status="(\d+)"} (\S+)'
    return Counter({int(status): int(float(count)) for status, count in re.findall(line, figures)})


def next_end(port: int, before: Counter[int], path: str = "/v1/completions") -> int:
    """The status of the one request that has ended since."""
    end = time.monotonic() + 10
    while not (more := ends(port, path) - before):
        assert time.monotonic() < end, "no request has ended"
        time.sleep(0.05)
    [status] = more.elements()
    return status


def test_a_stream_that_nobody_reads_is_ended_and_counted_as_left(
    hasty: int, service: Service, caplog: pytest.LogCaptureFixture
):
    before = ends(hasty)

    with client(hasty, post("/v1/completions", MANY | {"stream": True}), room=4096) as idle:
        assert idle.recv(12) == b"HTTP/1.1 200"
        seconds = hung_up_after(idle)

    assert seconds > SHORT * 0.5
    assert next_end(hasty, before) == 499
    assert service.admission.taken == 0
    assert httpx.get(f"http://127.0.0.1:{hasty}/stats").json()["working"] == 0
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_a_stream_that_nobody_reads_is_no_fault_of_the_server_when_its_time_is_over(
    hasty: int, service: Service, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(service, "serving", document(service.opened.uri, limits={"timeoutSeconds": 3}))
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 4)
    before = ends(hasty)

    with client(hasty, post("/v1/completions", MANY | {"stream": True}), room=4096) as idle:
        assert idle.recv(12) == b"HTTP/1.1 200"
        hung_up_after(idle)

    assert next_end(hasty, before) == 499
    assert service.admission.taken == 0


def test_an_answer_that_nobody_reads_does_not_outlive_its_connection(hasty: int):
    with client(hasty, post("/v1/completions", MANY), room=4096) as idle:
        assert idle.recv(12) == b"HTTP/1.1 200"
        hung_up_after(idle)


def test_who_reads_slowly_is_told_all(hasty: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 3)
    body = MANY | {"stream": True, "n": 2}
    text, began = b"", time.monotonic()
    with client(hasty, post("/v1/completions", body), room=65536) as slow:
        while not text.endswith(b"0\r\n\r\n"):
            part = slow.recv(50_000)
            assert part, "it was hung up on"
            text += part
            time.sleep(0.3)

    assert text.count(b'"finish_reason":"length"') == 2
    assert time.monotonic() - began > 3


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"],
    ids=["nothing", "an empty line", "half a head"],
)
def test_who_sends_no_whole_head_is_hung_up_on(hasty: int, sent: bytes):
    with client(hasty, sent) as idle:
        idle.settimeout(10)
        began = time.monotonic()

        assert idle.recv(100) == b""

        assert SHORT * 0.5 < time.monotonic() - began < SHORT * 5


def test_a_head_that_comes_byte_by_byte_gains_no_time(hasty: int):
    began = time.monotonic()
    with client(hasty, b"GET /healthz HTTP/1.1\r\nX: ") as slow, suppress(OSError):
        while time.monotonic() - began < 10:
            slow.sendall(b"x")
            time.sleep(0.1)

    assert time.monotonic() - began < SHORT * 5


@pytest.mark.parametrize("more", [b"\r\n", b"GET /healthz"], ids=["an empty line", "half a head"])
def test_the_head_of_a_second_request_has_its_time_as_well(hasty: int, more: bytes):
    with client(hasty, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as idle:
        idle.settimeout(10)
        assert b'{"live":true}' in idle.recv(1000)
        idle.sendall(more)

        assert idle.recv(100) == b""


def test_who_waits_between_requests_or_for_an_answer_is_not_hung_up_on(hasty: int):
    with httpx.Client(base_url=f"http://127.0.0.1:{hasty}", timeout=60) as http:
        first = http.get("/healthz").extensions["network_stream"]
        time.sleep(SHORT * 2)
        second = http.get("/healthz").extensions["network_stream"]
        long = http.post("/v1/completions", json=MANY | {"logprobs": None, "n": 24})

    assert first is second
    assert long.elapsed.total_seconds() > SHORT
    assert len(long.json()["choices"]) == 24


TOO_SLOW = "The request was not sent within 1 s. Send it again, and all of it at once."
OPENAI = {"error": {"message": TOO_SLOW, "type": "timeout_error", "param": None, "code": "timeout"}}
KSERVE = {"error": TOO_SLOW}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/completions", OPENAI),
        ("/v1/chat/completions", OPENAI),
        ("/v1/tokenize", OPENAI),
        (f"/v1/models/{NAME}:predict", KSERVE),
        (f"/v2/models/{NAME}/infer", KSERVE),
    ],
)
@pytest.mark.parametrize("limit", ["of a body", "of a request"])
def test_a_body_that_does_not_come_is_refused_in_the_words_of_its_protocol(
    hasty: int, service: Service, path: str, told: dict[str, Any], limit: str, monkeypatch: pytest.MonkeyPatch
):
    if limit == "of a body":
        monkeypatch.setattr(endpoint, "BODY_SECONDS", SHORT)
    else:
        monkeypatch.setattr(service, "serving", document(service.opened.uri, limits={"timeoutSeconds": SHORT}))
    before = ends(hasty, path)
    with client(hasty, post(path, {"some": "words"})[:-1]) as slow:
        slow.settimeout(10)
        answer = b"".join(iter(lambda: slow.recv(10_000), b""))  # until it is hung up on

    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head.lower()
    assert json.loads(content) == told
    assert httpx.get(f"http://127.0.0.1:{hasty}/stats").json()["working"] == 0
    assert next_end(hasty, before, path) == 408


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "The police", "logprobs": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "The police"}], "logprobs": True}),
    ],
    ids=["a text", "a chat"],
)
def test_others_are_answered_while_probabilities_are_spelled(
    hasty: int, service: Service, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    begun, answered = threading.Event(), threading.Event()
    decode = service.tokenizer.decode

    def spelled(ids: list[int]) -> str:
        begun.set()
        assert answered.wait(30)
        return str(decode(ids))

    monkeypatch.setattr(service.tokenizer, "decode", spelled)
    monkeypatch.setattr(service, "_spelled", {})
    url = f"http://127.0.0.1:{hasty}"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, url + path, json={"model": NAME, "max_tokens": 8, **body}, timeout=60)
        try:
            assert begun.wait(30)
            assert httpx.get(f"{url}/healthz", timeout=5).json() == {"live": True}
        finally:
            answered.set()
        assert asked.result().status_code == 200


def test_what_is_loaded_is_looked_through_for_garbage_once(service: Service):
    assert gc.get_freeze_count() > 100_000


def test_many_threads_may_read_with_one_tokenizer(service: Service):
    texts = [f"{word} said the police of the city " * 20 for word in ("this", "that", "naught")]
    chat = Chat.model_validate({"model": NAME, "messages": [{"role": "user", "content": texts[0]}]})
    work: list[Callable[[], Any]] = [
        *(partial(service.tokenizer.backend_tokenizer.encode, text) for text in texts),
        *(partial(tokens, service, text, 0) for text in texts),
        partial(chat_prompt, service, chat),
        partial(service.tokenizer.decode, [*range(1000)]),
    ]

    def done() -> list[Any]:
        found = [one() for one in work]
        return [one.ids if isinstance(one, Encoding) else one for one in found]

    alone = done()
    with ThreadPoolExecutor(16) as pool:
        together = [pool.submit(done) for _ in range(400)]

    assert all(one.result() == alone for one in together)
