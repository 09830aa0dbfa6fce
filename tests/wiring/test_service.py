"""What a replica says of itself, and where its pods find the progress endpoint."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from builders import NOON
from lives import KEY
from lmops.leader import Leader
from lmops.metrics import Metrics
from lmops.plan import Manifest
from lmops.progress.secret import Certificates
from lmops.progress.server import Server
from lmops.service import Service, addressed
from lmops.settings import Settings
from posts import Objects

SETTINGS = Settings(namespace="lmops", progress_port=0)


def replica(settings: Settings = SETTINGS, leads: bool = True) -> tuple[Service, Server]:
    """A replica beside a cluster in memory."""
    objects = Objects()
    progress = Server(settings, objects, Certificates(objects, settings, lambda: leads))
    leader = Leader(objects, "lmops", "lmops-operator", "one")
    return Service(settings, objects, leader, Metrics(), progress), progress


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (Settings(namespace="lmops"), "https://lmops-progress.lmops.svc:8443"),
        (Settings(namespace="ml", progress_service="p", progress_port=443), "https://p.ml.svc:443"),
        (Settings(progress_url="https://elsewhere"), "https://elsewhere"),
    ],
)
def test_pods_are_sent_to_the_service_where_no_url_is_set(settings: Settings, url: str):
    assert addressed(settings).progress_url == url


def test_a_replica_is_ready_once_its_endpoint_has_a_certificate_that_pods_are_told_of():
    service, progress = replica(addressed(SETTINGS))

    async def play() -> list[str]:
        said = [service.waits()]
        async with progress.serving(service.trust):
            await progress.published(10)
            said.append(service.waits())
        return said

    assert asyncio.run(play()) == ["the progress endpoint has no certificate yet", ""]
    assert service.controller.settings.progress_ca.startswith("-----BEGIN CERTIFICATE-----")
    assert service.controller.settings.tells_progress


def test_jobs_do_not_wait_for_a_certificate_for_ever():
    service, progress = replica(leads=False)

    async def play() -> str:
        async with progress.serving(service.trust):
            await progress.published(0.01)
            return service.waits()

    assert asyncio.run(asyncio.wait_for(play(), 10)) == "the progress endpoint has no certificate yet"
    assert not service.controller.settings.tells_progress


def test_an_endpoint_that_has_ended_is_unwell(monkeypatch: pytest.MonkeyPatch):
    service, progress = replica()

    async def fails(now: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(progress.certificates, "current", fails)

    async def play() -> str:
        async with progress.serving(service.trust):
            await asyncio.wait({progress._task}, timeout=10)
            return service.problem()

    assert asyncio.run(play()) == "the progress endpoint has ended"


def samples(service: Service) -> dict[str, float]:
    """What a scrape shows of our controller."""
    families = text_string_to_metric_families(service.exposed().decode())
    mine = ({"controller": "trainingjob"}, {"name": "trainingjob"})
    return {s.name: s.value for family in families for s in family.samples if s.labels in mine}


def test_a_dashboard_for_controller_runtime_finds_its_series_before_and_while_something_is_done(
    monkeypatch: pytest.MonkeyPatch,
):
    service, _ = replica()
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    seen = [samples(service)]

    async def work(key: object) -> None:
        clock[0] += 4
        seen.append(samples(service))
        raise ConnectionError

    async def play() -> None:
        service.queue.work = work
        service.queue.add(KEY)
        clock[0] += 2
        running = asyncio.create_task(service.queue.run())
        for _ in range(20):
            await asyncio.sleep(0)
        running.cancel()
        seen.append(samples(service))

    asyncio.run(play())
    rows = {
        "controller_runtime_max_concurrent_reconciles": (16, 16, 16),
        "controller_runtime_active_workers": (0, 1, 0),
        "workqueue_depth": (0, 0, 0),
        "workqueue_adds_total": (0, 1, 1),
        "workqueue_queue_duration_seconds_sum": (0, 2, 2),
        "workqueue_work_duration_seconds_sum": (0, 0, 4),
        "workqueue_unfinished_work_seconds": (0, 4, 0),
        "workqueue_longest_running_processor_seconds": (0, 4, 0),
        "workqueue_retries_total": (0, 0, 1),
    }
    assert {name: tuple(moment[name] for moment in seen) for name in rows} == rows
    assert "process_resident_memory_bytes" in service.exposed().decode()


def trouble(text: str) -> dict[str, tuple[str, ...]]:
    """The resources with a series of their own, and what it says of each."""
    families = text_string_to_metric_families(text)
    found = (s.labels for family in families for s in family.samples if s.name == "lmops_resource_trouble")
    return {labels["name"]: (labels["kind"], labels["phase"], labels["reason"]) for labels in found}


def resource(
    name: str, phase: str, minutes: int | None = None, reason: str = "", kind: str = "TrainingJob"
) -> Manifest:
    """A resource that ended so many minutes before noon, or has not."""
    metadata = {"name": name, "namespace": "ml", "uid": name, "resourceVersion": "1"}
    ended = {"completionTime": f"{NOON - timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}"} if minutes is not None else {}
    failure = {"failure": {"reason": reason}} if reason else {}
    return {"kind": kind, "metadata": metadata, "spec": {}, "status": {"phase": phase, **ended, **failure}}


def test_a_scrape_tells_how_many_resources_stand_where_and_which_of_them_are_in_trouble():
    service, _ = replica()
    service.controller.now = lambda: NOON
    for manifest in (
        resource("new", "Failed", 59, "LossNotFinite"),
        resource("old", "Failed", 61, "OOMKilled"),
        resource("done", "Succeeded", 1),
        resource("hangs", "Hung"),
        resource("ill", "Degraded", reason="OOMKilled", kind="LanguageModelService"),
    ):
        service.controller.cache.take(manifest)

    text = service.exposed().decode()
    assert trouble(text) == {
        "new": ("TrainingJob", "Failed", "LossNotFinite"),
        "hangs": ("TrainingJob", "Hung", ""),
        "ill": ("LanguageModelService", "Degraded", "OOMKilled"),
    }
    assert 'lmops_resources{kind="TrainingJob",namespace="ml",phase="Failed"} 2.0' in text

    service.controller.cache.take({**resource("hangs", "Running"), "metadata": {
        "name": "hangs", "namespace": "ml", "uid": "hangs", "resourceVersion": "2"
    }})  # fmt: skip
    assert "hangs" not in trouble(service.exposed().decode())


def test_however_many_fail_at_once_a_scrape_stays_small():
    service, _ = replica()
    service.controller.now = lambda: NOON
    for number in range(300):
        service.controller.cache.take(resource(f"job-{number}", "Failed", number % 60, "ImagePullBackOff"))

    text = service.exposed().decode()
    assert len(trouble(text)) == 100
    assert "job-0" in trouble(text)
    assert "job-59" not in trouble(text)
    assert 'phase="Failed"} 300.0' in text
