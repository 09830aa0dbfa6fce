"""All routes of the server, and what each is told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lmops_server.faults import Fault
from lmops_server.web import encoders, v1, v2
from lmops_server.web.endpoint import Call, Endpoint, Handler, protocol_of, shaped
from lmops_server.web.openai import chat, completions
from lmops_server.web.openapi import openapi
from lmops_server.web.service import Service
from lmops_trainer.log import log

PAGE = Path(__file__).with_name("page.html")


def app(service: Service) -> Starlette:
    """The application."""

    def get(path: str, handler: Handler) -> Route:
        return Route(path, Endpoint(service, path, handler), methods=["GET"])

    def post(path: str, handler: Handler, operation: str | None = None) -> Route:
        return Route(path, Endpoint(service, path, handler, operation), methods=["POST"])

    async def health(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        open_ = not service.draining
        return JSONResponse({"ready": open_, "status": "ready" if open_ else "ending"}, 200 if open_ else 503)

    async def figures(request: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def stats(request: Request) -> Response:
        """Rate and latency of the last minute, and drift: as open as the metrics, which say the same."""
        drift = service.drift.figures().manifest() if service.drift else {"unavailable": service.no_drift}
        working = {"working": service.admission.taken, "draining": service.draining}
        return JSONResponse({**service.requests.pace(), **working, "drift": drift})

    async def root(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):  # a person; KServe's V1 asks here whether the server lives
            return HTMLResponse(PAGE.read_text("utf-8"), headers={"Vary": "Accept"})
        return JSONResponse({"status": "alive"}, headers={"Vary": "Accept"})

    async def described_all(request: Request) -> Response:
        return JSONResponse(openapi(service))

    operation = OPERATIONS[service.opened.task]
    return Starlette(
        routes=[
            Route("/", root),
            Route("/metrics", figures),
            Route("/openapi.json", described_all),
            Route("/v2/health/live", health),
            Route("/v2/health/ready", ready),
            Route("/healthz", health),
            get("/passport", passport),
            Route("/stats", stats),
            get("/v1/models", models),
            post("/v1/models/{model}:predict", v1.predict, operation),
            get("/v1/models/{model}", model),
            get("/v2", server),
            get("/v2/models/{model}", described),
            get("/v2/models/{model}/ready", is_ready),
            post("/v2/models/{model}/infer", v2.infer, operation),
            post("/v1/classify", encoders.classify, "classification"),
            post("/v1/fill-mask", encoders.fill_mask, "fill_mask"),
            post("/v1/embeddings", encoders.embeddings, "embeddings"),
            post("/v1/completions", completions, "text_completion"),
            post("/v1/chat/completions", chat, "chat"),
            post("/v1/tokenize", encoders.tokenize),
        ],
        exception_handlers={HTTPException: _missing, Exception: _broken},
    )


OPERATIONS = {
    "SequenceClassification": "classification",
    "MaskedLM": "fill_mask",
    "FeatureExtraction": "embeddings",
    "CausalLM": "text_completion",
}
"""What the metrics call a request in KServe's protocols."""


async def models(call: Call) -> dict[str, Any]:
    """`GET /v1/models`, for OpenAI's clients and for those of V1."""
    return {"object": "list", "data": [_model(call)], "models": [call.service.opened.name]}


async def model(call: Call) -> dict[str, Any]:
    """`GET /v1/models/{model}`, for both as well."""
    call.service.named(call.path["model"])
    return _model(call) | {"name": call.service.opened.name, "ready": not call.service.draining}


async def described(call: Call) -> dict[str, Any]:
    """`GET /v2/models/{model}`."""
    call.service.named(call.path["model"])
    return v2.metadata(call)


async def is_ready(call: Call) -> dict[str, Any]:
    """`GET /v2/models/{model}/ready`."""
    call.service.named(call.path["model"])
    if call.service.draining:
        raise Fault(503, "The server is about to end; ask another replica.")
    return {"name": call.service.opened.name, "ready": True}


async def server(call: Call) -> dict[str, Any]:
    """`GET /v2`."""
    return {"name": "lmops", "version": call.service.version, "extensions": ["binary_tensor_data"]}


async def passport(call: Call) -> dict[str, Any]:
    """`GET /passport`: what the model came from and what it is worth, without the rows of its sample."""
    opened = call.service.opened
    known = {name: value for name, value in opened.passport.items() if name != "sample"}
    return {
        "service": call.service.serving.service.manifest(),
        "model": {"uri": opened.uri, "digest": opened.digest, "task": opened.task, "labels": opened.labels},
        "engine": {"name": opened.engine, "artefact": opened.artefact, "device": opened.device},
        "window": opened.window,
        "generation": call.service.serving.spec.generation.manifest() if opened.task == "CausalLM" else None,
        "passport": known,
    }


def _model(call: Call) -> dict[str, Any]:
    opened = call.service.opened
    return {"id": opened.name, "object": "model", "created": call.service.started, "owned_by": "lmops"}


async def _missing(request: Request, error: Exception) -> Response:
    """A path or a method that is not there."""
    assert isinstance(error, HTTPException)
    what = {
        404: f"There is no {request.url.path} here; GET /openapi.json says what there is.",
        405: f"{request.url.path} does not take {request.method}.",
    }
    fault = Fault(error.status_code, what.get(error.status_code, error.detail))
    return JSONResponse(shaped(fault, protocol_of(request.url.path)), error.status_code, dict(error.headers or {}))


async def _broken(request: Request, error: Exception) -> Response:
    log.error("%s", request.url.path, exc_info=error)
    return Response(json.dumps({"error": "The server has a fault of its own."}), 500, media_type="application/json")
