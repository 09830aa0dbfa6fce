"""What all requests have in common: strict types, and no field that nobody looks at."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lmops_server.texts import Asked


class Form(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Pair(Form):
    """A text, or two that belong together."""

    text: str
    """The text, or the first of two."""
    pair: str | None = None
    """The second text."""


Input = str | Pair
Inputs = Input | Annotated[list[Input], Field(min_length=1, max_length=4096)]
TopK = Annotated[int, Field(ge=1, le=1000)]


def asked(given: Inputs) -> list[Asked]:
    """The inputs, one by one."""
    several = given if isinstance(given, list) else [given]
    return [Asked(one) if isinstance(one, str) else Asked(one.text, one.pair) for one in several]
