"""What a server tells Prometheus: OpenTelemetry's names for generative models, and the state of its queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
NEXT_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
"""The buckets that the semantic conventions of OpenTelemetry for generative models advise."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)
PROVIDER = "lmops"
GENAI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


@dataclass(frozen=True)
class Usage:
    """What one request has used, and when."""

    operation: str
    """`chat`, `text_completion`, `embeddings`; for what OpenTelemetry has no word, `classification` and `fill_mask`."""
    input_tokens: int = 0
    output_tokens: int = 0
    first_token: float | None = None
    """Seconds until the first token was written."""
    per_token: float | None = None
    """Seconds for each token after the first."""


class Metrics:
    """The figures of one server."""

    def __init__(self, model: str, digest: str | None, engine: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._model = model
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds", "Time from a request to the end of its answer.",
            (*GENAI, "error_type"), buckets=DURATION, registry=registry,
        )  # fmt: skip
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds", "Time from a request to the first token of its answer.",
            GENAI, buckets=FIRST_TOKEN, registry=registry,
        )  # fmt: skip
        self._next = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Time for each token after the first.",
            GENAI, buckets=NEXT_TOKEN, registry=registry,
        )  # fmt: skip
        self._tokens = Histogram(
            "gen_ai_client_token_usage", "Tokens read and written, by request.",
            (*GENAI, "gen_ai_token_type"), buckets=TOKENS, registry=registry,
        )  # fmt: skip
        self._requests = Counter(
            "lmops_requests", "Requests, by route and status.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "lmops_request_seconds", "Time from a request to the end of its answer, by route.",
            ("route",), buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._in_flight = Gauge("lmops_requests_in_flight", "Requests that are being answered.", registry=registry)
        self._batch = Histogram(
            "lmops_batch_rows", "Inputs that one pass of the model takes.", buckets=ROWS, registry=registry
        )
        self._kept = Counter(
            "lmops_request_log_rows", "Rows for the request log, written or dropped.", ("outcome",), registry=registry
        )
        Gauge("lmops_model_info", "The model that is served.", ("model", "digest", "engine"), registry=registry).labels(
            model, digest or "", engine
        ).set(1)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A figure that is asked for when it is read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def took(self, rows: int) -> None:
        """A pass of the model begins."""
        self._batch.observe(rows)

    def kept(self, outcome: str, rows: int) -> None:
        """Rows of the request log are written, or dropped."""
        if rows:
            self._kept.labels(outcome).inc(rows)

    def began(self) -> None:
        """A request has come."""
        self._in_flight.inc()

    def ended(self, route: str, status: int, seconds: float, operation: str | None, usage: Usage | None) -> None:
        """A request is answered, refused or abandoned. Without an operation it is none of a user's to the model."""
        self._in_flight.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if operation is None:
            return
        names = (operation, PROVIDER, self._model)
        self._duration.labels(*names, str(status) if status >= 400 else "").observe(seconds)
        if usage is None:
            return
        self._tokens.labels(*names, "input").observe(usage.input_tokens)
        if usage.output_tokens:
            self._tokens.labels(*names, "output").observe(usage.output_tokens)
        if usage.first_token is not None:
            self._first.labels(*names).observe(usage.first_token)
        if usage.per_token is not None:
            self._next.labels(*names).observe(usage.per_token)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
