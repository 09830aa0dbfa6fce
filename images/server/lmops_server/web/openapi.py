"""The OpenAPI document of the server, made of the forms that requests are read by."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from lmops_server.web.asking import Chat, Completion
from lmops_server.web.encoders import Classify, Embeddings, FillMask, Tokenize
from lmops_server.web.forms import Form
from lmops_server.web.service import Service
from lmops_server.web.v1 import Predict
from lmops_server.web.v2 import Infer

POSTS: dict[str, tuple[type[Form], str]] = {
    "/v1/models/{model}:predict": (Predict, "Predictions, by KServe's V1 protocol"),
    "/v2/models/{model}/infer": (Infer, "Tensors, by KServe's V2 protocol"),
    "/v1/classify": (Classify, "The classes of texts"),
    "/v1/fill-mask": (FillMask, "Words for the masks of texts"),
    "/v1/embeddings": (Embeddings, "The embeddings of texts"),
    "/v1/completions": (Completion, "Texts that go on"),
    "/v1/chat/completions": (Chat, "The answer to a chat"),
    "/v1/tokenize": (Tokenize, "The tokens of texts"),
}
GETS = {
    "/v1/models": "The model, in a list",
    "/v1/models/{model}": "The model",
    "/v2": "The server",
    "/v2/models/{model}": "The model, by KServe's V2 protocol",
    "/v2/models/{model}/ready": "Whether the model answers",
    "/v2/health/live": "Whether the server lives",
    "/v2/health/ready": "Whether the server answers",
    "/passport": "What the model came from",
    "/stats": "Rate and latency of the last minute, and drift",
}
REFUSALS = {
    "400": "The request is wrong; the sentence says how",
    "401": "A key is missing",
    "404": "There is no such model",
    "408": "The request was not sent in time",
    "413": "The body is too long",
    "429": "The server is full; `Retry-After` says when to come back",
    "503": "The server is about to end",
    "504": "The answer took too long",
}


def openapi(service: Service) -> dict[str, Any]:
    """The document."""
    forms = [(form, "validation") for form, _ in POSTS.values()]
    _, schemas = models_json_schema(forms, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    names = [service.opened.name]
    return {
        "openapi": "3.1.0",
        "info": {"title": service.opened.name, "version": service.version},
        "paths": {path: {"get": _operation(path, summary, names)} for path, summary in GETS.items()}
        | {path: {"post": _operation(path, summary, names, form.__name__)} for path, (form, summary) in POSTS.items()},
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    } | ({"security": [{"key": []}]} if service.keys() is not None else {})


def _operation(path: str, summary: str, names: list[str], form: str | None = None) -> dict[str, Any]:
    answers = {"200": {"description": "The answer", "content": {"application/json": {"schema": {"type": "object"}}}}}
    refusals = {status: {"description": text} for status, text in REFUSALS.items()}
    found: dict[str, Any] = {"summary": summary, "responses": answers | refusals}
    if "{model}" in path:
        named = {"type": "string", "examples": names}
        found["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": named}]
    if form:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{form}"}}}
        found["requestBody"] = {"required": True, "content": content}
    return found
