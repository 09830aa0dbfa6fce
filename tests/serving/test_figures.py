"""What replicas tell of their traffic becomes figures of the service, and whether drift can be told a condition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from builders import NOON
from lmops.api.slo import Drift
from lmops.figures import Figures
from lmops.plan import Manifest
from lmops.serving.figures import FRESH, traffic
from lmops.serving.inferenceservice import ENGINE
from lmops.serving.vllm import UNTOLD
from lmops.trimming import trimmed
from serving.builders import A, after, child, holds, job, kept, pod, service, serving, told

NEAR = {"rows": 600, "least": 200, "psi": {"tokenLength": 0.02, "labels": 0.01, "confidence": 0.03}}
NEAR |= {"unknownTokens": 0.0, "embedding": 0.08}
FAR = NEAR | {"psi": {"tokenLength": 0.02, "labels": 0.61, "confidence": 0.3}, "embedding": 1.2}
ALIKE = ("False", "Near", "The inputs are like the held-out rows.")
UNAVAILABLE = {"unavailable": "pvc://models/a has no baseline.json beside it. Train it again."}
DRIFT = "DriftUnavailable"


def stats(drift: dict[str, Any] = NEAR, requests: float = 120, failed: float = 0, p95: float = 0.04) -> Manifest:
    """What a replica answers at /stats."""
    latency = {"p50": 0.01, "p95": p95, "p99": 0.1}
    told = {"seconds": 60, "requests": requests, "requestsPerSecond": requests / 60, "failed": failed, "refused": 0}
    return told | {"tokensPerSecond": 0.0, "latencySeconds": latency, "working": 0, "draining": False, "drift": drift}


def served(*answers: Manifest, **spec: Any) -> Any:
    """What is planned for a service of as many replicas, each of which has answered this."""
    of = serving(**spec)
    pods = [pod(of, A, name=f"p{number}") for number in range(len(answers))]
    return after(of, job(A), child(of, A), *pods, figures={f"p{n}": each for n, each in enumerate(answers)})


def test_rates_are_added_and_of_latencies_and_drift_the_worst_is_told():
    plan = served(stats(), stats(FAR, requests=60, failed=18, p95=0.09))

    metrics = plan.status.metrics.manifest()
    assert metrics == {
        "replicas": 2, "requestsPerSecond": 3.0, "tokensPerSecond": 0.0, "errorRatio": 0.1,
        "p50Seconds": 0.01, "p95Seconds": 0.09,
        "drift": {
            "rows": 1200, "tokenLength": 0.02, "labels": 0.61, "confidence": 0.3, "unknownTokens": 0.0,
            "embedding": 1.2,
        },
    }  # fmt: skip
    assert plan.status.display.load == "3/s, p95 90 ms"


@pytest.mark.parametrize(
    ("drift", "limits", "expected"),
    [
        (NEAR, {}, ALIKE),
        (
            FAR,
            {},
            (
                "False",
                "Drifted",
                "The inputs are not like the held-out rows: labels 0.61 (at most 0.25), confidence 0.30 (at most "
                "0.25), embeddings 1.20 (at most 0.5).",
            ),
        ),
        (FAR, {"maxPSI": 0.7, "maxEmbeddingDistance": 2}, ALIKE),
        (
            NEAR | {"unknownTokens": 0.2},
            {},
            ("False", "Drifted", "The inputs are not like the held-out rows: unknown tokens 0.20 (at most 0.05)."),
        ),
        (
            {"rows": 30, "least": 200, "psi": {}},
            {},
            ("False", "Collecting", "Drift is told once a replica has had 200 inputs."),
        ),
        ({"rows": 900, "least": 200, "psi": {"promptLength": 4}, "unknownTokens": 0}, {}, ALIKE),
        (UNAVAILABLE, {}, ("True", "NoBaseline", UNAVAILABLE["unavailable"])),
    ],
    ids=["near", "far", "far, and allowed", "unknown", "too few", "prompts", "no baseline"],
)
def test_whether_drift_can_be_told_is_a_condition_with_a_sentence(
    drift: dict[str, Any], limits: dict[str, Any], expected: tuple[str, str, str]
):
    plan = served(stats(drift), monitoring={"drift": limits})

    assert told(plan, DRIFT) == expected
    assert holds(plan)["Ready"] == "True"


def test_what_was_heard_stays_until_something_else_is():
    before = served(stats(UNAVAILABLE))
    of = kept(serving(), before)

    silent = after(of, job(A), child(of, A), pod(of, A), now=NOON + timedelta(minutes=5))
    assert (silent.status.metrics, told(silent, DRIFT)) == (before.status.metrics, told(before, DRIFT))
    again = after(of, job(A), child(of, A), pod(of, A), now=NOON + timedelta(minutes=5), figures={"p": stats()})
    assert (told(again, DRIFT)[0], again.events) == ("False", ())


def test_a_service_that_answers_is_looked_at_again_soon():
    assert served(stats()).again == FRESH


def test_who_answers_something_else_is_not_counted():
    assert traffic([{"model": "x"}, {"requests": "many"}], Drift()) is None
    found = traffic([{"model": "x"}, stats()], Drift())
    assert found is not None
    assert found.metrics.replicas == 1


@asynccontextmanager
async def answering(answer: Any) -> AsyncIterator[tuple[int, list[str]]]:
    """A server on this machine: its port, and what it was asked."""
    asked: list[str] = []

    async def said(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text=answer, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{any:.*}", said)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1], asked
    finally:
        await runner.cleanup()


def at(address: str, name: str = "p", ready: bool = True) -> Manifest:
    """A pod at an address, as it is kept in memory."""
    found = pod(service(), A, name=name, ready=ready)
    metadata = {**found["metadata"], "uid": f"u-{name}", "labels": {"lmops.dev/stage": "serve"}}
    return trimmed({**found, "metadata": metadata, "status": {**found["status"], "podIP": address}})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [('{"requests": 1}', {"p": {"requests": 1}}), ("[]", {}), ("{", {}), ("x" * 200_000, {})],
    ids=["an object", "a list", "half of one", "very much"],
)
def test_a_pod_that_serves_is_asked_once_in_a_while(answer: str, expected: dict[str, Any]):
    async def run() -> None:
        async with answering(answer) as (port, asked):
            figures = Figures(port)
            for _ in range(3):
                assert await figures.of([at("127.0.0.1"), at("127.0.0.1", "starts", ready=False)]) == expected
            assert asked == ["/stats"]

    asyncio.run(run())


def test_a_replica_of_vllm_is_looked_at_twice_as_it_only_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lmops.figures.FRESH", 0.5)
    pods = [at("127.0.0.1")]
    pods[0]["metadata"]["labels"][ENGINE] = "VLLM"

    async def run() -> None:
        async with answering((Path(__file__).parent / "vllm-0.32.metrics").read_text()) as (port, asked):
            figures = Figures(port)
            assert await figures.of(pods) == {}
            await asyncio.sleep(0.6)
            found = (await figures.of(pods))["p"]
            assert (asked, found["requests"], found["drift"]) == (["/metrics"] * 2, 0, {"unavailable": UNTOLD})

    asyncio.run(run())


def test_a_pod_that_does_not_answer_is_left_out_and_not_asked_at_once_again():
    async def run() -> None:
        async with answering('{"requests": 1}') as (port, _):
            figures = Figures(port)
            pods = [at("127.0.0.1"), at("127.0.0.2", "silent"), pod(service(), A, name="without an address")]
            assert await figures.of(pods) == {"p": {"requests": 1}}

    asyncio.run(run())
