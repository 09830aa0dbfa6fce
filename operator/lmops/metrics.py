"""The operator's own metrics, under controller-runtime's names, so that stock dashboards and alerts fit."""

from __future__ import annotations

import time
from collections import Counter as Counted
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from lmops.cache import Standing
from lmops.plan import Key
from lmops.queue import Observer

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TROUBLES = ("Hung", "Failed", "Degraded")
TRAINS = "Running"
"""The phase of a TrainingJob that makes steps."""
RECENT = timedelta(hours=1)
"""How long a failure is news: whoever is told of it then looks at the job."""
LASTS = "~"
"""Instead of the time of an end, of what has not ended: it is later than any."""
MOST = 100
"""Resources that have a series of their own. Where more are in trouble, they have one cause."""
QUEUE_BUCKETS = tuple(10.0**power for power in range(-8, 4))
"""Those of client-go."""


class Metrics(Observer[Key]):
    """Counters of one process. A controller, and its queue, bear the name of its kind in small letters."""

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
        self.active = Gauge(
            "controller_runtime_active_workers", "Workers that reconcile.", ["controller"], registry=registry
        )
        self.workers = Gauge(
            "controller_runtime_max_concurrent_reconciles", "Workers there are.", ["controller"], registry=registry
        )
        self.depth = Gauge("workqueue_depth", "Keys that wait for a worker.", ["name"], registry=registry)
        self.adds = Counter("workqueue_adds", "Keys that were added.", ["name"], registry=registry)
        self.retries = Counter("workqueue_retries", "Keys that come back after a failure.", ["name"], registry=registry)
        self.waits = Histogram(
            "workqueue_queue_duration_seconds",
            "Seconds a key waited for a worker.",
            ["name"],
            registry=registry,
            buckets=QUEUE_BUCKETS,
        )
        self.works = Histogram(
            "workqueue_work_duration_seconds",
            "Seconds a key was worked on.",
            ["name"],
            registry=registry,
            buckets=QUEUE_BUCKETS,
        )
        self.unfinished = Gauge(
            "workqueue_unfinished_work_seconds", "Seconds of all work under way.", ["name"], registry=registry
        )
        self.longest = Gauge(
            "workqueue_longest_running_processor_seconds", "Seconds of the oldest.", ["name"], registry=registry
        )
        self.leads = Gauge("leader_election_master_status", "1 where this replica leads.", ["name"], registry=registry)
        self.readable = Gauge(
            "lmops_namespace_readable", "1 where a watched namespace can be read.", ["namespace"], registry=registry
        )
        self.resources = Gauge(
            "lmops_resources", "Resources by phase.", ["kind", "namespace", "phase"], registry=registry
        )
        self.troubles = Gauge(
            "lmops_resource_trouble",
            "1 for a resource that hangs, serves badly, or has failed within the hour: the newest of them.",
            ["kind", "namespace", "name", "phase", "reason"],
            registry=registry,
        )
        self.refusals = Gauge(
            "lmops_gate_failed",
            "1 for a service whose latest candidate has failed its gate within the hour: the newest of them.",
            ["namespace", "name", "reason"],
            registry=registry,
        )
        self.uses = Gauge(
            "lmops_accelerator_use",
            "Use of the accelerator of a training job's first process, 0 to 1: of those that use theirs least.",
            ["namespace", "name"],
            registry=registry,
        )
        ProcessCollector(registry=registry)

    def serves(self, kinds: Iterable[str], workers: int) -> None:
        """Shows each kind's series from the first scrape on, though nothing has happened yet."""
        for name in map(str.lower, kinds):
            self.workers.labels(name).set(workers)
            for metric in (self.active, self.depth, self.adds, self.retries, self.waits, self.works, self.errors):
                metric.labels(name)

    def added(self, key: Key) -> None:
        self.adds.labels(key.kind.lower()).inc()
        self.depth.labels(key.kind.lower()).inc()

    def began(self, key: Key, waited: float) -> None:
        self.depth.labels(key.kind.lower()).dec()
        self.waits.labels(key.kind.lower()).observe(waited)
        self.active.labels(key.kind.lower()).inc()

    def ended(self, key: Key, worked: float) -> None:
        self.active.labels(key.kind.lower()).dec()
        self.works.labels(key.kind.lower()).observe(worked)

    def retried(self, key: Key) -> None:
        self.retries.labels(key.kind.lower()).inc()

    def working(self, kinds: Iterable[str], busy: Mapping[Key, float]) -> None:
        """The gauges of the work that is under way, and since when."""
        now = time.monotonic()
        for kind in kinds:
            seconds = [now - since for key, since in busy.items() if key.kind == kind]
            self.unfinished.labels(kind.lower()).set(sum(seconds))
            self.longest.labels(kind.lower()).set(max(seconds, default=0))

    def stand(self, standings: Iterable[tuple[Key, Standing]], now: datetime) -> None:
        """The gauges of where resources stand. One that is in trouble has a series of its own."""
        known = list(standings)
        self.resources.clear()
        for (kind, namespace, phase), count in Counted((k.kind, k.namespace, s.phase) for k, s in known).items():
            self.resources.labels(kind, namespace, phase).set(count)
        since = (now - RECENT).strftime("%Y-%m-%dT%H:%M:%SZ")
        troubled = [(s.ended or LASTS, k, s) for k, s in known if s.phase in TROUBLES and (s.ended or LASTS) >= since]
        self.troubles.clear()
        for _, key, standing in sorted(troubled, reverse=True)[:MOST]:
            self.troubles.labels(key.kind, key.namespace, key.name, standing.phase, standing.reason).set(1)
        self.refusals.clear()
        refused = [(s.refused, k, s) for k, s in known if s.refused >= since]
        for _, key, standing in sorted(refused, reverse=True)[:MOST]:
            self.refusals.labels(key.namespace, key.name, standing.refusal).set(1)
        self.uses.clear()
        using = [(s.accelerator_use, k) for k, s in known if s.phase == TRAINS and s.accelerator_use is not None]
        for use, key in sorted(using)[:MOST]:
            self.uses.labels(key.namespace, key.name).set(use)

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
