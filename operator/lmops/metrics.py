"""The operator's own metrics, under controller-runtime's names, so that stock dashboards and alerts fit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "controller_runtime_reconcile", "Reconciles by result.", ["controller", "result"], registry=registry
        )
        self.errors = Counter(
            "controller_runtime_reconcile_errors", "Reconciles that failed.", ["controller"], registry=registry
        )
        self.seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Seconds a reconcile took.",
            ["controller"],
            registry=registry,
            buckets=BUCKETS,
        )
        self.requests = Counter(
            "rest_client_requests", "Requests to the API server.", ["method", "code"], registry=registry
        )
        self.depth = Gauge("workqueue_depth", "Keys that wait for a worker.", ["name"], registry=registry)
        self.oldest = Gauge(
            "workqueue_longest_waiting_seconds", "How long the first of them waits.", ["name"], registry=registry
        )
        self.retries = Counter("workqueue_retries", "Keys that come back after a failure.", ["name"], registry=registry)
        self.leads = Gauge("leader_election_master_status", "1 where this replica leads.", ["name"], registry=registry)

    def sent(self, method: str, status: int) -> None:
        """Counts a request; status 0 is no answer."""
        self.requests.labels(method, str(status) if status else "<error>").inc()

    @contextmanager
    def reconciling(self, controller: str) -> Iterator[None]:
        """Times a reconcile."""
        began = time.perf_counter()
        try:
            yield
        except Exception:
            self.reconciles.labels(controller, "error").inc()
            self.errors.labels(controller).inc()
            raise
        else:
            self.reconciles.labels(controller, "success").inc()
        finally:
            self.seconds.labels(controller).observe(time.perf_counter() - began)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
