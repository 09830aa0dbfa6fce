"""KServe's V1 protocol: instances in, predictions out."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from lmops_server.web import tasks
from lmops_server.web.endpoint import Call
from lmops_server.web.forms import Form, Input, TopK


class Parameters(Form):
    """How all instances are answered."""

    top_k: TopK | None = None
    """Classes, or words for a mask."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens that are written."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """How freely tokens are drawn."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Tokens are drawn from the likeliest that together are this probable."""
    seed: int | None = None
    """The same seed, the same text."""
    stop: str | list[str] | None = None
    """Where a text ends."""


class Predict(Form):
    """Instances to answer."""

    instances: Annotated[list[Input], Field(min_length=1, max_length=4096)]
    """Texts, or `{text, pair}`."""
    parameters: Parameters = Parameters()
    """How they are answered."""


async def predict(call: Call) -> dict[str, Any]:
    """`POST /v1/models/{model}:predict`."""
    call.service.named(call.path["model"])
    form = call.read(Predict)
    answers = await tasks.answered(call, form.instances, form.parameters.model_dump(exclude_none=True))
    return {"predictions": [answer.told for answer in answers]}
