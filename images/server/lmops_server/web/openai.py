"""OpenAI's completions and chats, whole or streamed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from starlette.responses import Response

from lmops_server.faults import wrong
from lmops_server.metrics import Usage
from lmops_server.web import kept
from lmops_server.web.asking import Chat, Completion, Sampling, asks, chat_prompt, prompts
from lmops_server.web.endpoint import Call, Stream, as_json
from lmops_server.writing import Ask, Finish, Piece, Scored
from lmops_server.writing.writer import Writing

Parts = dict[str, Any]


@dataclass
class Text:
    """A text that was written."""

    text: str = ""
    tokens: int = 0
    scored: list[Scored] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        """Takes the next piece."""
        self.text += piece.text
        self.tokens = piece.tokens
        self.scored += piece.scored
        self.finish = piece.finish


@dataclass(frozen=True)
class Job:
    """A request, with what all of its answers begin with."""

    call: Call
    form: Sampling
    asks: list[Ask]
    prompts: list[list[int]]
    operation: str
    head: Parts


async def completions(call: Call) -> Response | Stream:
    """`POST /v1/completions`."""
    form = call.read(Completion)
    call.service.named(form.model)
    call.service.writing()
    given = await call.beside(lambda: prompts(call.service, form))
    job = _job(call, form, given, form.max_tokens, form.logprobs, "text_completion")
    echoed = [str(call.service.tokenizer.decode(ask.prompt)) if form.echo else "" for ask in job.asks]
    if form.stream:
        begins = [len(text) for text in echoed]
        return Stream(
            _events(job, lambda place, piece, first: _completion_piece(job, place, piece, first, echoed, begins))
        )
    return await _answer(
        job,
        lambda place, one: {
            "index": place,
            "text": echoed[place] + one.text,
            "logprobs": _completion_logprobs(call, form, one.scored, len(echoed[place])),
            "finish_reason": one.finish,
        },
    )


async def chat(call: Call) -> Response | Stream:
    """`POST /v1/chat/completions`."""
    form = call.read(Chat)
    call.service.named(form.model)
    call.service.writing()
    if form.top_logprobs is not None and not form.logprobs:
        raise wrong("top_logprobs goes with logprobs: true.", "top_logprobs")
    new = form.max_completion_tokens if form.max_completion_tokens is not None else form.max_tokens
    scored = (form.top_logprobs or 0) if form.logprobs else None
    prompt = await call.beside(lambda: chat_prompt(call.service, form))
    job = _job(call, form, [prompt], new, scored, "chat")
    if form.stream:
        return Stream(_events(job, lambda place, piece, first: _chat_piece(job, place, piece, first)))
    return await _answer(
        job,
        lambda place, one: {
            "index": place,
            "message": {"role": "assistant", "content": one.text, "refusal": None},
            "logprobs": _chat_logprobs(call, one.scored) if form.logprobs else None,
            "finish_reason": one.finish,
        },
    )


async def texts(call: Call, form: Sampling, given: list[list[int]], new: int | None, operation: str) -> list[Text]:
    """The texts alone, for the protocols of KServe."""
    return await _whole(_job(call, form, given, new, None, operation))


def _job(
    call: Call, form: Sampling, given: list[list[int]], new: int | None, logprobs: int | None, operation: str
) -> Job:
    if form.stream_options is not None and not form.stream:
        raise wrong("stream_options goes with stream: true.", "stream_options")
    kind = "chat.completion" if operation == "chat" else "text_completion"
    head = {
        "id": f"{'chatcmpl' if operation == 'chat' else 'cmpl'}-{uuid.uuid4().hex}",
        "object": f"{kind}.chunk" if operation == "chat" and form.stream else kind,
        "created": int(time.time()),
        "model": call.service.opened.name,
        "system_fingerprint": (call.service.opened.digest or "sha256:none").removeprefix("sha256:")[:12],
    }
    return Job(call, form, asks(call.service, form, given, new, logprobs), given, operation, head)


def _watched(job: Job) -> None:
    """What is refused for want of room is no input of the model's."""
    if job.call.service.drift:
        job.call.service.drift.read(job.prompts)


async def _whole(job: Job) -> list[Text]:
    found = [Text() for _ in job.asks]
    with job.call.service.admission.take(len(job.asks)):
        _watched(job)
        written, pieces = job.call.service.writing().begin(job.asks, streamed=False)
        async with aclosing(pieces):  # type: ignore[type-var]
            async for place, piece in pieces:
                found[place].add(piece)
    _used(job, written)
    kept.written(job.call, [ask.prompt for ask in job.asks], [one.text for one in found])
    return found


async def _answer(job: Job, choice: Callable[[int, Text], Parts]) -> Response:
    """All of it at once. Probabilities are many and are spelled beside the loop. A choice at a time is written: while
    that lasts, the process does nothing else."""
    texts = await _whole(job)

    def written() -> bytes:
        choices = b",".join(as_json(choice(place, one)) for place, one in enumerate(texts))
        more = as_json(job.head | {"usage": _usage(job, sum(one.tokens for one in texts))})
        return b'%s,"choices":[%s]}' % (more[:-1], choices)

    is_long = any(one.scored for one in texts)
    return Response(await asyncio.to_thread(written) if is_long else written(), media_type="application/json")


async def _events(job: Job, shaped: Any) -> AsyncIterator[Parts]:
    """The events of a stream; the last one tells the usage, where it is asked for."""
    options = job.form.stream_options
    begun: set[int] = set()
    said = [""] * len(job.asks)
    with job.call.service.admission.take(len(job.asks)):
        _watched(job)
        written, pieces = job.call.service.writing().begin(job.asks, streamed=True)
        try:
            async with aclosing(pieces):  # type: ignore[type-var]
                async for place, piece in pieces:
                    choice = shaped(place, piece, place not in begun)
                    begun.add(place)
                    said[place] += piece.text
                    more = {"usage": None} if options and options.include_usage else {}
                    yield job.head | {"choices": [choice]} | more
        finally:
            _used(job, written)
    kept.written(job.call, [ask.prompt for ask in job.asks], said)
    if options and options.include_usage:
        yield job.head | {"choices": [], "usage": _usage(job, sum(one.tokens for one in written))}


def _completion_piece(
    job: Job, place: int, piece: Piece, first: bool, echoed: Sequence[str], begins: list[int]
) -> Parts:
    """A piece of a text; where its tokens begin in the whole is counted on in `begins`."""
    assert isinstance(job.form, Completion)
    logprobs = _completion_logprobs(job.call, job.form, piece.scored, begins[place])
    if logprobs:
        begins[place] += sum(map(len, logprobs["tokens"]))
    return {
        "index": place,
        "text": (echoed[place] if first else "") + piece.text,
        "logprobs": logprobs,
        "finish_reason": piece.finish,
    }


def _chat_piece(job: Job, place: int, piece: Piece, first: bool) -> Parts:
    assert isinstance(job.form, Chat)
    return {
        "index": place,
        "delta": ({"role": "assistant"} if first else {}) | {"content": piece.text},
        "logprobs": _chat_logprobs(job.call, piece.scored) if job.form.logprobs else None,
        "finish_reason": piece.finish,
    }


def _completion_logprobs(call: Call, form: Completion, scored: Sequence[Scored], begin: int) -> Parts | None:
    if form.logprobs is None:
        return None
    spelled = call.service.spelled
    tokens = [spelled(one.id) for one in scored]
    return {
        "tokens": tokens,
        "token_logprobs": [one.logprob for one in scored],
        "top_logprobs": [{spelled(token): value for token, value in one.top} for one in scored],
        "text_offset": [*accumulate(map(len, tokens[:-1]), initial=begin)][: len(tokens)],
    }


def _chat_logprobs(call: Call, scored: Sequence[Scored]) -> Parts:
    def told(token: int, logprob: float) -> Parts:
        text = call.service.spelled(token)
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

    content = [told(one.id, one.logprob) | {"top_logprobs": [told(*other) for other in one.top]} for one in scored]
    return {"content": content, "refusal": None}


def _usage(job: Job, written: int) -> Parts:
    read = sum(map(len, job.prompts))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _used(job: Job, written: Sequence[Writing]) -> None:
    """Leaves the figures of this request."""
    tokens = sum(one.tokens for one in written)
    firsts = [one.first_at for one in written if one.first_at]
    ended = max((one.ended_at for one in written if one.ended_at), default=None)
    paces = [
        (one.ended_at - one.first_at) / (one.tokens - 1)
        for one in written
        if one.first_at and one.ended_at and one.tokens > 1
    ]
    job.call.usage = Usage(
        job.operation,
        sum(map(len, job.prompts)),
        tokens,
        min(firsts) - job.call.began if firsts else None,
        sum(paces) / len(paces) if paces and ended else None,
    )
