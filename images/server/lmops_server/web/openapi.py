"""The OpenAPI document of the server, made of the forms that requests are read by and of those of its answers."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lmops_server.web import answers
from lmops_server.web.asking import Chat, Completion
from lmops_server.web.encoders import Classify, Embeddings, FillMask, Tokenize
from lmops_server.web.endpoint import Protocol, protocol_of
from lmops_server.web.forms import Form
from lmops_server.web.service import Service
from lmops_server.web.v1 import Predict
from lmops_server.web.v2 import Infer


class Get(NamedTuple):
    """A route that is read."""

    summary: str
    answer: type[BaseModel] | str
    """A form, or a media type that has none."""


class Post(NamedTuple):
    """A route that is asked."""

    summary: str
    form: type[Form]
    example: dict[str, Any]
    answer: type[BaseModel]
    event: type[BaseModel] | None = None
    """Of a stream."""


GETS = {
    "/": Get("A page for people; for programs, whether the server lives", answers.Alive),
    "/healthz": Get("Whether the server lives", answers.Live),
    "/metrics": Get("Figures for Prometheus", "text/plain"),
    "/openapi.json": Get("This document", "application/json"),
    "/passport": Get("What the model came from", answers.Passport),
    "/stats": Get("Rate and latency of the last minute, and drift", answers.Pace),
    "/v1/models": Get("The model, in a list", answers.Cards),
    "/v1/models/{model}": Get("The model", answers.NamedCard),
    "/v2": Get("The server", answers.Server),
    "/v2/health/live": Get("Whether the server lives", answers.Live),
    "/v2/health/ready": Get("Whether the server answers", answers.Ready),
    "/v2/models/{model}": Get("The model, by KServe's V2 protocol", answers.Metadata),
    "/v2/models/{model}/ready": Get("Whether the model answers", answers.ModelReady),
}
REVIEW = "A slow start, and then I could not look away."
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [REVIEW]}
CHAT = {"messages": [{"role": "user", "content": "What did the police say?"}], "max_tokens": 16}
POSTS = {
    "/v1/models/{model}:predict": Post(
        "Predictions, by KServe's V1 protocol", Predict, {"instances": [REVIEW]}, answers.Predictions
    ),
    "/v2/models/{model}/infer": Post("Tensors, by KServe's V2 protocol", Infer, {"inputs": [TENSOR]}, answers.Inferred),
    "/v1/classify": Post("The classes of texts", Classify, {"input": REVIEW}, answers.Classified),
    "/v1/fill-mask": Post("Words for the masks of texts", FillMask, {"input": "A [MASK] start."}, answers.Filled),
    "/v1/embeddings": Post("The embeddings of texts", Embeddings, {"input": [REVIEW]}, answers.Embedded),
    "/v1/completions": Post(
        "Texts that go on", Completion, {"prompt": "The police", "max_tokens": 16}, answers.Completed, answers.Completed
    ),
    "/v1/chat/completions": Post("The answer to a chat", Chat, CHAT, answers.Chatted, answers.Chunk),
    "/v1/tokenize": Post("The tokens of texts", Tokenize, {"input": REVIEW}, answers.Tokenized),
}
OPEN = {"/", "/healthz", "/metrics", "/openapi.json", "/stats", "/v2/health/live", "/v2/health/ready"}
"""Those that need no key."""
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
ERRORS: dict[Protocol, type[BaseModel]] = {"openai": answers.Refused, "kserve": answers.RefusedByKServe}
LATER = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "required": True, "description": "Seconds"}}


def openapi(service: Service) -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": service.opened.name, "version": service.version},
        "paths": {path: {"get": _get(service, path, route)} for path, route in GETS.items()}
        | {path: {"post": _post(service, path, route)} for path, route in POSTS.items()},
        "components": {
            "schemas": _schemas(service.opened.name),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(name: str) -> dict[str, Any]:
    """All forms. Of models there is the one."""
    forms: list[type[BaseModel]] = [post.form for post in POSTS.values()]
    told = [get.answer for get in GETS.values() if not isinstance(get.answer, str)]
    told += [form for post in POSTS.values() for form in (post.answer, post.event) if form]
    models: list[Any] = [(form, "validation") for form in dict.fromkeys([*forms, *told, *ERRORS.values()])]
    _, made = models_json_schema(models, ref_template="#/components/schemas/{model}")
    schemas: dict[str, Any] = made["$defs"]
    for form in forms:
        fields = schemas[form.__name__]["properties"]
        for field in {"model", "model_name"} & set(fields):
            _only(fields[field], name)
    return schemas


def _only(field: dict[str, Any], name: str) -> None:
    for kind in field.get("anyOf", [field]):
        if kind.get("type") == "string":
            kind["enum"] = [name]


def _get(service: Service, path: str, route: Get) -> dict[str, Any]:
    if isinstance(route.answer, str):
        told: dict[str, Any] = {route.answer: {"schema": {"type": "object" if "json" in route.answer else "string"}}}
    else:
        told = _json(route.answer)
    if path == "/":
        told |= {"text/html": {"schema": {"type": "string"}}}
    statuses = ["401"] * _is_closed(service, path) + ["404"] * ("{model}" in path) + ["503"] * path.endswith("/ready")
    made = _operation(service, path, route.summary, told, statuses)
    if path == "/v2/health/ready":
        made["responses"]["503"]["content"] = _json(answers.Ready)
    return made


def _post(service: Service, path: str, route: Post) -> dict[str, Any]:
    told = _json(route.answer)
    if route.event:
        data = {"type": "string", "contentMediaType": "application/json", "contentSchema": _named(route.event)}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        told |= {"text/event-stream": {"schema": event}}
    unsaid = {"503"} if _is_closed(service, path) else {"401", "503"}
    statuses = [status for status in REFUSALS if status not in unsaid]
    asked = _json(route.form)
    named = {"model": service.opened.name} if "model" in route.form.model_fields else {}
    asked["application/json"]["example"] = named | route.example
    return _operation(service, path, route.summary, told, statuses) | {
        "requestBody": {"required": True, "content": asked}
    }


def _operation(service: Service, path: str, summary: str, told: dict[str, Any], statuses: list[str]) -> dict[str, Any]:
    refused = _json(ERRORS[protocol_of(path)])
    refusals = {status: {"description": REFUSALS[status], "content": refused.copy()} for status in statuses}
    if "429" in refusals:
        refusals["429"]["headers"] = LATER
    made: dict[str, Any] = {"summary": summary, "responses": {"200": {"description": "The answer", "content": told}}}
    made["responses"] |= refusals
    if "{model}" in path:
        named = {"type": "string", "enum": [service.opened.name]}
        made["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": named}]
    if _is_closed(service, path):
        made["security"] = [{"key": []}]
    return made


def _is_closed(service: Service, path: str) -> bool:
    return path not in OPEN and service.keys() is not None


def _json(form: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": _named(form)}}


def _named(form: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{form.__name__}"}
