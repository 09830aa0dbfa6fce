"""Spans of requests for those who collect traces, as OTEL_* variables say; else nothing of it is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lmops.api.run import ServiceId
from lmops_server.metrics import PROVIDER, Usage
from lmops_trainer.log import log

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"


def wanted() -> list[str]:
    """The exporters that the environment asks for: an endpoint alone asks for OTLP."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    named = [name.strip().lower() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",")]
    if named == [""]:
        return ["otlp"] if any(map(os.environ.get, ENDPOINTS)) else []
    return [name for name in named if name not in ("", "none")]


def traces(service: ServiceId, model: str) -> Traces | None:
    """What makes spans, where somebody wants them. What is not known here is told, and no reason not to serve."""
    names = wanted()
    told = [sentence for name in names if (sentence := _unknown(name))]
    for sentence in told:
        log.warning("no traces: %s", sentence)
    return Traces(service, model, names) if names and not told else None


class Traces:
    """The spans of one server. Sampling, batches, headers and limits are the SDK's, by its own variables."""

    def __init__(self, service: ServiceId, model: str, exporters: Sequence[str]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        known = {"service.namespace": service.namespace, "service.instance.id": os.environ.get("HOSTNAME", "")}
        given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in given:
            known["service.name"] = service.name
        ours = {name: value for name, value in known.items() if value and f"{name}=" not in given}
        self._model = model
        self._provider: TracerProvider = TracerProvider(resource=Resource.create(ours), shutdown_on_exit=False)
        for name in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
        self._tracer = self._provider.get_tracer("lmops_server")

    def begin(self, method: str, route: str, operation: str | None, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        """The span of a request, below that of the client where the request names it."""
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        carried = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
        attributes = {"http.request.method": method, "http.route": route}
        if operation:
            attributes |= {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.request.model": self._model,
            }
        return self._tracer.start_span(
            f"{operation} {self._model}" if operation else f"{method} {route}",
            context=propagate.extract(carried),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )

    def end(self, span: Span, status: int, usage: Usage | None) -> None:
        """How the request went. A request that is wrong is no fault of the server's."""
        from opentelemetry.trace import StatusCode

        span.set_attribute("http.response.status_code", status)
        if status >= 400:
            span.set_attribute("error.type", str(status))
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        if usage is not None:
            span.set_attribute("gen_ai.usage.input_tokens", usage.input_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", usage.output_tokens)
        span.end()

    def close(self) -> None:
        """Sends what is not sent yet."""
        self._provider.shutdown()


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _unknown(exporter: str) -> str | None:
    """What of the environment is not known here, and what to do."""
    if exporter not in ("otlp", "console"):
        return f"OTEL_TRACES_EXPORTER is {exporter}; set it to otlp, console or none."
    spoken = next((variable for variable in PROTOCOLS if os.environ.get(variable)), None)
    if exporter == "otlp" and spoken and os.environ[spoken] != SPOKEN:
        return f"{spoken} is {os.environ[spoken]}; set it to {SPOKEN}, which collectors take at port 4318."
    return None
