"""A server's life: open the model, load it, warm it up, answer, and end in order."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from lmops.api import Failure, LastWords, Serving
from lmops_server import memory, threads
from lmops_server.admission import Admission
from lmops_server.drift import Exposed, drift
from lmops_server.encoders import Example
from lmops_server.metrics import Metrics
from lmops_server.opened import Opened
from lmops_server.requestlog import Requests
from lmops_server.rowlog import RowLog
from lmops_server.texts import Texts
from lmops_server.tracing import traces
from lmops_server.web.app import app
from lmops_server.web.asking import try_template
from lmops_server.web.connection import Connection
from lmops_server.web.endpoint import keys_in
from lmops_server.web.service import Service
from lmops_server.writing import Ask
from lmops_trainer import endings
from lmops_trainer.failures import Refusal, failure, failure_of
from lmops_trainer.log import log, open_log, quiet_libraries
from lmops_trainer.models import BODY

if TYPE_CHECKING:
    from lmops_server.writing.writer import Writer

KEEP_ALIVE = 75
"""Seconds: longer than the proxies in front, which must not find a connection closed that they just use."""
BACKLOG = 2048


def serve(serving: Serving) -> int:
    """The exit code: 0 when asked to end, 1 when the model cannot be served."""
    open_log("serve")
    try:
        quiet_libraries()
        service = loaded(serving)
        uvloop.run(_answering(service))
        if service.traces:
            service.traces.close()
        if service.rowlog:
            service.rowlog.close()
    except (Exception, SystemExit) as error:
        failed = failure_of(error) if isinstance(error, Exception) else _port_taken()
        log.error("%s: %s %s", failed.reason, failed.message, failed.remedy)
        if failed.evidence:
            log.error("\n".join(failed.evidence))
        endings.write(LastWords(failure=failed))
        return 1
    return 0


def loaded(serving: Serving) -> Service:
    """The model in memory, warm."""
    began = time.monotonic()
    opened = Opened.open(serving)
    metrics = Metrics(opened.name, opened.digest, opened.engine)
    limits = serving.spec.limits
    folder = os.environ.get("LMOPS_API_KEYS")
    service = Service(
        serving=serving,
        opened=opened,
        metrics=metrics,
        admission=Admission(limits.queue),
        requests=Requests(float(os.environ.get("LMOPS_LOG_SAMPLE", "0.01"))),
        keys=keys_in(Path(folder) if folder else None),
        tokenizer=opened.tokenizer(),
        traces=traces(serving.service, opened.name),
    )
    if spec := serving.spec.request_log:
        service.rowlog = RowLog(spec, metrics.kept)
    try_template(service)
    _with_engine(service)
    _watch(service)
    metrics.gauge("lmops_inputs_working", "Inputs that wait or are worked on.", lambda: service.admission.taken)
    metrics.gauge("lmops_inputs_most", "Inputs that are taken on at most.", lambda: service.admission.most)
    metrics.gauge("lmops_memory_limit_bytes", "Memory that it may have: beyond that it is killed.", memory.limit)
    log.info(
        "%s (%s, %s) is loaded by %s on %s in %.1f s",
        opened.uri, opened.task, (opened.digest or "no digest")[:19], opened.engine, opened.device,
        time.monotonic() - began,
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # or long answers would wait for all that is loaded to be looked through for garbage
    return service


def _with_engine(service: Service) -> None:
    """Loads the weights. What an engine needs is imported by those alone that use it."""
    opened, metrics, count = service.opened, service.metrics, threads.threads()
    waiting = "lmops_inputs_waiting", "Inputs that no pass has taken yet."
    if opened.task == "CausalLM":
        from lmops_server.writing.decoders import decoder
        from lmops_server.writing.writer import Writer

        writer = Writer(decoder(opened, count), opened.tokenizer(), _ends(service), metrics.took)
        metrics.gauge(*waiting, lambda: writer.waiting)
        service.writer = writer
        _warm(opened, _warm_writer(writer, opened))
        return
    from lmops_server.encoders import encoder

    texts = Texts(opened, encoder(opened, count), service.limits.input_tokens, metrics.took)
    metrics.gauge(*waiting, lambda: texts.batcher.waiting)
    service.texts = texts
    _warm(opened, _warm_texts(texts))


def _warm(opened: Opened, answering: Coroutine[Any, Any, None]) -> None:
    """Lets it answer before anybody asks. A model that cannot is not served; what it lacks room for is told as that."""
    try:
        asyncio.run(answering)
    except Exception as error:
        failed = failure_of(error)
        if failed.class_ != "Code":
            raise
        raise Refusal(
            "Model",
            "WarmUpFailed",
            f"{opened.uri} was loaded by {opened.engine}, but cannot answer: {failed.message.rstrip('.')}.",
            "Its config.json or its passport does not fit its weights: publish it again, or set another engine.",
            failed.evidence,
        ) from error


def _watch(service: Service) -> None:
    """Once the model is warm: what warms it is no traffic."""
    service.drift, service.no_drift = drift(service.opened)
    service.metrics.registry.register(Exposed(service.drift))
    if service.drift is None:
        log.warning("no drift is told: %s", service.no_drift)
    elif service.texts:
        service.texts.watch(service.drift)


def _ends(service: Service) -> set[int]:
    """The tokens that end a text, whoever names them."""
    found = {service.tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        file = service.opened.folder / name
        told = json.loads(file.read_text("utf-8")).get("eos_token_id") if file.is_file() else None
        found |= set(told) if isinstance(told, list) else {told}
    return {int(token) for token in found if token is not None}


async def _warm_texts(texts: Texts) -> None:
    """A first answer, short and long: what is allocated and compiled once is so before anybody waits for it."""
    word = texts.tokenizer.mask_token_id or 0
    for length in (1, texts.longest):
        example = Example([word, *[0] * (length - 1)], None, embed=texts.opened.task == BODY)
        await texts.batcher.ask([example])


async def _warm_writer(writer: Writer, opened: Opened) -> None:
    """As `_warm_texts`: two texts of different length, with probabilities."""
    for length in (1, max(1, min(64, opened.window - 4))):
        ask = Ask([1] * length, 3, temperature=1.0, top_p=0.95, top_k=60, seed=(0,), logprobs=1, ignore_end=True)
        _, pieces = writer.begin([ask, ask], streamed=False)
        async for _ in pieces:
            pass


async def _answering(service: Service) -> None:
    await _Server(listening(service), service).serve()
    log.info("ended, with every request answered")


def listening(service: Service) -> uvicorn.Config:
    """Where it listens, and how long it waits for clients."""
    return uvicorn.Config(
        app(service),
        host=os.environ.get("LMOPS_HOST", "0.0.0.0"),
        port=int(os.environ.get("LMOPS_PORT", "8080")),
        http=Connection,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=service.limits.timeout_seconds,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
    )


class _Server(uvicorn.Server):
    """On SIGTERM it goes on for a moment, not ready: those who route requests need time to notice."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("ready: http://%s:%s", self.config.host, self.config.port)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _end(self, number: signal.Signals) -> None:
        if self._service.draining:  # asked twice
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        wait = float(os.environ.get("LMOPS_DRAIN_SECONDS", "5")) if number == signal.SIGTERM else 0
        log.info("%s: no longer ready; ends in %g s, when all requests are answered", number.name, wait)
        asyncio.get_running_loop().call_later(wait, setattr, self, "should_exit", True)


def _port_taken() -> Failure:
    return failure(
        "Settings",
        "PortTaken",
        f"Port {os.environ.get('LMOPS_PORT', '8080')} cannot be listened on.",
        "Set LMOPS_PORT to one that is free.",
    )
