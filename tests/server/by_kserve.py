"""Asks a server as KServe's own client does: `by_kserve.py URL MODEL TEXT...` prints what it was told, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


async def told(url: str, model: str, texts: list[str]) -> dict[str, Any]:
    """The answers by V1, and by V2 with the texts in JSON and in binary."""
    async with (
        InferenceRESTClient(RESTConfig(protocol="v1")) as v1,
        InferenceRESTClient(RESTConfig(protocol="v2")) as v2,
    ):
        return {
            "live": [await client.is_server_live(url) for client in (v1, v2)],
            "ready": await v2.is_server_ready(url),
            "modelReady": [await client.is_model_ready(url, model) for client in (v1, v2)],
            "otherReady": await v2.is_model_ready(url, "other"),
            "v1": (await v1.infer(url, {"instances": texts}, model))["predictions"],
            "json": outputs(await v2.infer(url, request(model, texts, binary=False), model)),
            "binary": outputs(await v2.infer(url, request(model, texts, binary=True), model)),
            "wrong": await refusal(v1, url, model),
        }


def request(model: str, texts: list[str], binary: bool) -> InferRequest:
    """The texts as a tensor."""
    tensor = InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(numpy.array([text.encode() for text in texts], dtype=object), binary_data=binary)
    wanted = [RequestedOutput(name, {"binary_data": binary}) for name in ("label", "confidence")]
    return InferRequest(model, [tensor], request_id="7", request_outputs=wanted)


def outputs(response: Any) -> dict[str, Any]:
    """The tensors of an answer, as its readers get them: in numpy."""
    found = {output.name: output.as_numpy().tolist() for output in response.outputs}
    return {"id": response.id, "model": response.model_name, **found}


async def refusal(client: InferenceRESTClient, url: str, model: str) -> str:
    """What the client says where a request is wrong."""
    try:
        await client.infer(url, {"instances": [7]}, model)
    except httpx.HTTPStatusError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print(json.dumps(asyncio.run(told(sys.argv[1], sys.argv[2], sys.argv[3:]))))
