"""Who collects traces has a span of every request, by the variables that OpenTelemetry's SDKs go by."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import served
from lmops_server.tracing import traces, wanted
from served import NAME, Volumes, document

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CLIENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SERVER_KIND, ERROR = 2, 2


class Collector:
    """An OTLP receiver, as a collector listens at port 4318."""

    def __init__(self) -> None:
        self.resources: list[dict[str, Any]] = []
        self.spans: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                assert self.path == "/v1/traces"
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What a server is told of it."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def take(self, request: Any) -> None:
        """Spans have come."""
        for resource in request.resource_spans:
            self.resources.append(told(resource.resource))
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def until(self, count: int) -> list[Any]:
        """The spans, once there are so many."""
        end = time.monotonic() + 20
        while len(self.spans) < count and time.monotonic() < end:
            time.sleep(0.05)
        return self.spans


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def told(of: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    values = ((each.key, each.value) for each in of.attributes)
    return {key: getattr(value, str(value.WhichOneof("value"))) for key, value in values}


def test_a_request_has_a_span_below_that_of_its_client(
    volumes: Volumes, reviews: str, tmp_path: Path, collector: Collector
):
    with served.serving(volumes, document(reviews), tmp_path, collector.environment) as server, server.client() as http:
        asked = http.post("/v1/classify", json={"input": "A slow start."}, headers=CLIENT)
        assert asked.status_code == 200
        (span,) = collector.until(1)
        wrong = http.post("/v1/classify", json={"input": 7})
        assert wrong.status_code == 400
        http.get("/v1/models")
        http.get("/metrics")
    (_, refused) = collector.spans

    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, SERVER_KIND)
    assert span.name == f"classification {NAME}"
    assert told(span) == {
        "http.request.method": "POST",
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "classification",
        "gen_ai.provider.name": "lmops",
        "gen_ai.request.model": NAME,
        "gen_ai.usage.input_tokens": asked.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 0,
    }
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    assert (refused.parent_span_id, refused.status.code, told(refused)["error.type"]) == (b"", 0, "400")
    assert {key: collector.resources[0][key] for key in ("service.name", "service.namespace")} == {
        "service.name": NAME,
        "service.namespace": "default",
    }


def test_a_stream_is_one_span_to_its_end(volumes: Volumes, gpt2: str, tmp_path: Path, collector: Collector):
    named = {**collector.environment, "OTEL_SERVICE_NAME": "films", "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    ask = {"model": NAME, "prompt": "Once", "max_tokens": 5, "stream": True}
    with served.serving(volumes, document(gpt2), tmp_path, named) as server, server.client() as http:
        http.post("/v1/completions", json=ask)  # nobody samples it
        http.post("/v1/completions", json=ask, headers=CLIENT)

    (span,) = collector.spans
    assert (span.name, span.parent_span_id.hex()) == (f"text_completion {NAME}", PARENT)
    assert told(span)["gen_ai.usage.output_tokens"] == 5
    assert collector.resources[0]["service.name"] == "films"


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ["otlp"]),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp", "console"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, []),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, []),
    ],
    ids=["nobody", "an endpoint", "two by their names", "none", "switched off"],
)
def test_traces_are_made_where_somebody_wants_them(
    environment: dict[str, str], exporters: list[str], monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert wanted() == exporters


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is zipkin; set it to otlp, console or none."),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is grpc; set it to http/protobuf, which collectors take at port 4318.",
        ),
    ],
)
def test_what_is_not_known_here_is_told_and_no_reason_not_to_serve(
    environment: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lmops_server.tracing.log.propagate", True)

    assert traces(document("pvc://models/a").service, NAME) is None
    assert caplog.messages == [f"no traces: {sentence}"]


def test_nothing_of_opentelemetry_is_loaded_where_nobody_wants_it():
    script = "import sys, lmops_server.serve; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
