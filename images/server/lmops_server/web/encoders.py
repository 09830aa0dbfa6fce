"""Routes of encoders in OpenAI's manner: classify, fill the mask, embed; and tokens, for every model."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lmops_server.faults import wrong
from lmops_server.metrics import Usage
from lmops_server.texts import Asked, Read, classes, masks
from lmops_server.web import kept
from lmops_server.web.endpoint import Call
from lmops_server.web.forms import Form, Inputs, TopK, asked

Tokens = Annotated[list[int], Field(min_length=1, max_length=1 << 20)]
Texts = str | Annotated[list[str], Field(min_length=1, max_length=4096)]


class Classify(Form):
    """Texts to classify."""

    model: str | None = None
    """The name of the model. Default: the one that is served."""
    input: Inputs
    """A text, a pair of texts, or a list of these."""
    top_k: TopK | None = None
    """How many of the likeliest classes are told. Default: all."""


class FillMask(Form):
    """Texts with masks."""

    model: str | None = None
    """The name of the model. Default: the one that is served."""
    input: Inputs
    """A text with `[MASK]` in it, or a list of these."""
    top_k: TopK = 5
    """Words for each mask."""


class Embeddings(Form):
    """Texts to embed, as OpenAI's clients ask."""

    model: str
    """The name of the model."""
    input: Texts | Tokens | Annotated[list[Tokens], Field(min_length=1, max_length=4096)]
    """Texts, or lists of this model's tokens."""
    encoding_format: Literal["float", "base64"] = "float"
    """How a vector is written."""
    dimensions: int | None = None
    """The width of the vectors, which this model fixes."""
    user: str | None = None
    """Who asks; taken and not looked at."""


class Tokenize(Form):
    """Texts to see as tokens."""

    model: str | None = None
    """The name of the model. Default: the one that is served."""
    input: Texts
    """A text, or a list of texts."""
    add_special_tokens: bool = True
    """Whether tokens that begin and end a text are added."""


async def classify(call: Call) -> dict[str, Any]:
    """`POST /v1/classify`."""
    form = _named(call, call.read(Classify))
    texts = call.service.encoder("SequenceClassification")
    inputs = asked(form.input)
    with call.service.admission.take(len(inputs)):
        found = await texts.classify(inputs)
    call.usage = _usage("classification", found.read)
    told = classes(call.service.opened.labels, found, form.top_k)
    kept.classified(call, inputs, told)
    return _list(call, told, found.read)


async def fill_mask(call: Call) -> dict[str, Any]:
    """`POST /v1/fill-mask`."""
    form = _named(call, call.read(FillMask))
    texts = call.service.encoder("MaskedLM")
    inputs = asked(form.input)
    with call.service.admission.take(len(inputs)):
        found = await texts.fill(inputs, form.top_k)
    call.usage = _usage("fill_mask", found.read)
    kept.read(call, inputs)
    return _list(call, masks(found), found.read)


async def embeddings(call: Call) -> dict[str, Any]:
    """`POST /v1/embeddings`."""
    form = _named(call, call.read(Embeddings))
    texts = call.service.encoder()
    inputs = _inputs(form)
    with call.service.admission.take(len(inputs)):
        found = await texts.embed(inputs)
    call.usage = _usage("embeddings", found.read)
    kept.read(call, inputs)
    width = found.vectors.shape[1]
    if form.dimensions not in (None, width):
        raise wrong(f"The vectors of this model have {width} dimensions; leave dimensions out.", "dimensions")
    vectors = found.vectors.astype(np.float32)
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, form.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    used = {"prompt_tokens": found.read.tokens, "total_tokens": found.read.tokens}
    return {"object": "list", "data": data, "model": call.service.opened.name, "usage": used}


async def tokenize(call: Call) -> dict[str, Any]:
    """`POST /v1/tokenize`: the tokens of texts, and how they read."""
    form = _named(call, call.read(Tokenize))
    given = [form.input] if isinstance(form.input, str) else form.input
    encode = call.service.tokenizer.backend_tokenizer.encode
    found = await call.beside(lambda: [encode(one, add_special_tokens=form.add_special_tokens) for one in given])
    data = [
        {"object": "tokens", "index": index, "count": len(one.ids), "tokens": one.ids, "text": one.tokens}
        for index, one in enumerate(found)
    ]
    return {"object": "list", "data": data, "model": call.service.opened.name, "window": call.service.opened.window}


def _named(call: Call, form: Any) -> Any:
    if form.model is not None:
        call.service.named(form.model)
    return form


def _inputs(form: Embeddings) -> list[Asked | list[int]]:
    if isinstance(form.input, str):
        return [Asked(form.input)]
    if isinstance(form.input[0], int):
        return [form.input]
    return [Asked(one) if isinstance(one, str) else one for one in form.input]


def _written(vector: Any, how: str) -> Any:
    return base64.b64encode(vector.tobytes()).decode() if how == "base64" else vector.tolist()


def _list(call: Call, found: list[dict[str, Any]], read: Read) -> dict[str, Any]:
    data = [{"index": index, **one} for index, one in enumerate(found)]
    used = {"prompt_tokens": read.tokens, "total_tokens": read.tokens}
    return {"object": "list", "data": data, "model": call.service.opened.name, "usage": used}


def _usage(operation: str, read: Read) -> Usage:
    return Usage(operation, read.tokens)
