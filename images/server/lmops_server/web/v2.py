"""KServe's V2 protocol, the Open Inference Protocol: named tensors in, named tensors out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from lmops_server.faults import wrong
from lmops_server.texts import Asked
from lmops_server.web import tasks
from lmops_server.web.endpoint import Call
from lmops_server.web.forms import Form, Pair
from lmops_server.web.v1 import Parameters

HEADER = b"inference-header-content-length"
"""How long the JSON in front of tensors in binary is."""
OUTPUTS: dict[str, list[tuple[str, str, list[int]]]] = {
    "SequenceClassification": [
        ("label", "BYTES", [-1]), ("confidence", "FP32", [-1]),
        ("classes", "BYTES", [-1, -1]), ("probabilities", "FP32", [-1, -1]),
    ],
    "MaskedLM": [("row", "INT64", [-1]), ("tokens", "BYTES", [-1, -1]), ("probabilities", "FP32", [-1, -1])],
    "FeatureExtraction": [("embedding", "FP32", [-1, -1])],
    "CausalLM": [("generated", "BYTES", [-1]), ("finish_reason", "BYTES", [-1])],
}  # fmt: skip
"""The tensors of each task's answer. Masks are told one a row, with the input that each is of."""


class Tensor(Form):
    """Texts, as a tensor of BYTES."""

    name: Literal["text", "pair"]
    """`text`, and beside it `pair` where two texts belong together."""
    datatype: Literal["BYTES"] = "BYTES"
    """Texts are BYTES."""
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=2)]
    """`[n]`, or `[n, 1]`."""
    data: list[str] | list[list[str]] | None = None
    """The texts."""
    parameters: Annotated[dict[str, Any], Field(default_factory=dict)]
    """`binary_data_size`: the bytes behind the JSON, in place of `data`."""


class Wanted(Form):
    """A tensor of the answer."""

    name: str
    """Its name."""
    parameters: Annotated[dict[str, Any], Field(default_factory=dict)]
    """`binary_data: true` is answered with JSON all the same, which clients read as well."""


class Protocol(Parameters):
    """How all inputs are answered."""

    binary_data_output: bool | None = None
    """Answers are JSON, which clients read as well."""


class Infer(Form):
    """Tensors to answer."""

    id: str | None = None
    """Comes back with the answer."""
    model_name: str | None = None
    """The name of the model once more, as KServe's client sends it."""
    inputs: Annotated[list[Tensor], Field(min_length=1, max_length=2)]
    """`text`, and `pair`."""
    outputs: list[Wanted] | None = None
    """The tensors that are wanted. Default: all."""
    parameters: Protocol = Protocol()
    """How they are answered."""


async def infer(call: Call) -> dict[str, Any]:
    """`POST /v2/models/{model}/infer`."""
    call.service.named(call.path["model"])
    form, binary = _parted(call)
    if form.model_name is not None:
        call.service.named(form.model_name, "model_name")
    asked = _asked(form.inputs, binary)
    settings = form.parameters.model_dump(exclude_none=True, exclude={"binary_data_output"})
    answers = await tasks.answered(call, [Pair(text=one.text, pair=one.pair) for one in asked], settings)
    task = call.service.opened.task
    outputs = [_tensor(name, kind, shape, answers) for name, kind, shape in OUTPUTS[task] if _is_wanted(form, name)]
    if unknown := {one.name for one in form.outputs or []} - {name for name, _, _ in OUTPUTS[task]}:
        names = ", ".join(name for name, _, _ in OUTPUTS[task])
        raise wrong(f"There is no output {min(unknown)!r}; this model has {names}.", "outputs")
    return {"model_name": call.service.opened.name, "id": form.id or "", "outputs": outputs}


def metadata(call: Call) -> dict[str, Any]:
    """What `GET /v2/models/{model}` tells."""
    opened = call.service.opened
    outputs = [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in OUTPUTS[opened.task]]
    return {
        "name": opened.name,
        "versions": [opened.digest] if opened.digest else [],
        "platform": f"{opened.artefact}_{opened.engine.lower()}",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        + ([{"name": "pair", "datatype": "BYTES", "shape": [-1]}] if opened.task != "CausalLM" else []),
        "outputs": outputs,
        "properties": {"task": opened.task, "labels": opened.labels, "window": opened.window},
    }


def _parted(call: Call) -> tuple[Infer, bytes]:
    """The JSON, and the tensors behind it."""
    header = dict(call.scope["headers"]).get(HEADER)
    if header is None:
        return call.read(Infer), b""
    length = int(header) if header.isdigit() and len(header) < 12 else -1
    if not 0 < length <= len(call.body):
        raise wrong("The header Inference-Header-Content-Length is not the length of the JSON in the body.")
    return call.read(Infer, call.body[:length]), call.body[length:]


def _asked(tensors: Sequence[Tensor], binary: bytes) -> list[Asked]:
    columns: dict[str, list[str]] = {}
    for tensor in tensors:
        size = tensor.parameters.get("binary_data_size")
        if isinstance(size, int) and not isinstance(size, bool):
            columns[tensor.name] = _unpacked(tensor, binary[:size] if 0 <= size <= len(binary) else b"")
            binary = binary[max(0, size) :]
        else:
            flat = [one[0] if isinstance(one, list) and one else one for one in tensor.data or []]
            columns[tensor.name] = [one for one in flat if isinstance(one, str)]
        if len(columns[tensor.name]) != tensor.shape[0] or tensor.shape[1:] not in ([], [1]):
            raise wrong(f"The input {tensor.name!r} has not as many texts as its shape says.", f"inputs.{tensor.name}")
    if "text" not in columns:
        raise wrong("There is no input named 'text'.", "inputs")
    pairs = columns.get("pair", [None] * len(columns["text"]))
    if len(pairs) != len(columns["text"]):
        raise wrong("The inputs 'text' and 'pair' differ in length.", "inputs")
    return [Asked(text, pair) for text, pair in zip(columns["text"], pairs, strict=True)]


def _unpacked(tensor: Tensor, data: bytes) -> list[str]:
    """Texts that each have their length in front, as four bytes."""
    found: list[str] = []
    try:
        while data:
            [length] = struct.unpack_from("<I", data)
            if length > len(data) - 4:
                raise ValueError
            found.append(data[4 : 4 + length].decode("utf-8"))
            data = data[4 + length :]
    except (struct.error, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise wrong(
            f"The binary data of the input {tensor.name!r} is not what its size says, or not UTF-8.",
            f"inputs.{tensor.name}",
        ) from error
    return found


def _tensor(name: str, kind: str, shape: list[int], answers: Sequence[tasks.Answer]) -> dict[str, Any]:
    rows = [row for answer in answers for row in answer.tensors[name]]
    if len(shape) == 1:
        return {"name": name, "datatype": kind, "shape": [len(rows)], "data": rows}
    width = len(rows[0]) if rows else 0
    return {
        "name": name,
        "datatype": kind,
        "shape": [len(rows), width],
        "data": [value for row in rows for value in row],
    }


def _is_wanted(form: Infer, name: str) -> bool:
    return form.outputs is None or any(one.name == name for one in form.outputs)
