"""What of a request goes into the request log: rows with the names that a TrainingJob asks for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lmops_server.texts import Asked
from lmops_server.web.endpoint import Call

Row = dict[str, Any]


def classified(call: Call, inputs: Sequence[Asked], told: Sequence[dict[str, Any]]) -> None:
    """Texts, and what the model takes them for."""
    if call.is_kept:
        answers = ({"label": one["label"], "confidence": one["confidence"]} for one in told)
        _keep(call, [_asked(one) | answer for one, answer in zip(inputs, answers, strict=True)])


def read(call: Call, inputs: Sequence[Asked | list[int]]) -> None:
    """Texts alone."""
    if call.is_kept:
        _keep(call, [_asked(one) if isinstance(one, Asked) else {"text": decoded(call, one)} for one in inputs])


def written(call: Call, prompts: Sequence[list[int]], answers: Sequence[str]) -> None:
    """Prompts, and how the model went on."""
    if call.is_kept:
        pairs = zip(prompts, answers, strict=True)
        _keep(call, [{"text": decoded(call, prompt), "answer": answer} for prompt, answer in pairs])


def decoded(call: Call, ids: list[int]) -> str:
    """The text of tokens, without those that are no text."""
    return str(call.service.tokenizer.decode(ids, skip_special_tokens=True))


def _asked(one: Asked) -> Row:
    return {"text": one.text} | ({} if one.pair is None else {"pair": one.pair})


def _keep(call: Call, rows: list[Row]) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = (call.service.opened.digest or "").removeprefix("sha256:")[:12]
    call.rows = [{"time": now, "model": digest, **row} for row in rows]
