"""The endpoint that pods post their progress to, and the pure function behind it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from aiohttp import web
from pydantic import Field, ValidationError

from lmops.api.base import Report
from lmops.api.status import Metrics, Progress, RunProgress, RunRecord, Stage, TrainingJobStatus
from lmops.api.trainingjob import TrainingJob
from lmops.patches import difference
from lmops.training.stages import DONE_AFTER, STAGES

THROTTLE = timedelta(seconds=10)
BODY_LIMIT = 64 * 1024
RUNS = 64
TRIES = 5
HELD = 1000
"""Runs whose metrics are kept for their next post, at the most."""

NAMED = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "tokens_per_second": "tokens_per_second",
    "rows_per_second": "rows_per_second",
    "memory_bytes": "memory_bytes",
    "accelerator_memory_bytes": "accelerator_memory_bytes",
    "accelerator_use": "accelerator_use",
}
"""Posted metrics by the field of `status.metrics` that they become."""
WHOLE = ("memory_bytes", "accelerator_memory_bytes")
LEADING = ("f1", "accuracy", "perplexity", "maskedPerplexity", "loss")
"""What leads where the spec names no metric: the first of these that was evaluated."""


class _Value(Report):
    name: str
    value: str | float


class _TrainerStatus(Report):
    progress_percentage: float | None = None
    estimated_remaining_seconds: float | None = None
    metrics: list[_Value] = Field(default=[], max_length=256)


class Post(Report):
    """What a pod posts, in the protocol that transformers speaks."""

    trainer_status: _TrainerStatus

    def figures(self) -> dict[str, float]:
        """The metrics that are finite numbers, by name."""
        found = {}
        for metric in self.trainer_status.metrics:
            try:
                number = float(metric.value)
            except ValueError:
                continue
            if math.isfinite(number):
                found[metric.name] = number
        return found


def advance(
    status: TrainingJobStatus,
    run: str,
    post: dict[str, Any],
    now: datetime,
    throttle: timedelta = THROTTLE,
    metric: str | None = None,
) -> dict[str, Any] | None:
    """The merge patch of `status` that a post makes; `None` where it is late, goes backward, or comes too soon.

    Raises `LookupError` for a run that the ledger does not know, `ValueError` for a body that is not a post.
    """
    record = next((row for row in status.runs if row.name == run), None)
    if record is None:
        raise LookupError(run)
    told = Post.model_validate(post)
    if not _is_current(status, record) or _comes_too_soon(status.progress, record, now, throttle):
        return None
    before = status.progress.runs.get(run, RunProgress(attempt=record.attempt))
    after = _run_progress(before, record, told, now)
    if (after.step or 0) < (before.step or 0) or (after.step == before.step and after.percent < before.percent):
        return None
    progress = _whole(status.progress, record, after, now)
    metrics = _metrics(status.metrics if status.progress.stage == record.stage else Metrics(), told)
    return {
        "progress": difference(status.progress.manifest(), progress.manifest()),
        "metrics": difference(status.metrics.manifest(), metrics.manifest()),
        "display": {"progress": f"{progress.percent}%", **_displayed(metrics, metric)},
    }


def _is_current(status: TrainingJobStatus, record: RunRecord) -> bool:
    """Whether the run goes on, and no later attempt at its stage has begun."""
    latest = max(row.attempt for row in status.runs if row.stage == record.stage)
    return record.state in ("Pending", "Running") and record.attempt == latest


def _comes_too_soon(progress: Progress, record: RunRecord, now: datetime, throttle: timedelta) -> bool:
    """Whether the job was written a moment ago; the first post of a run is always taken."""
    known = progress.runs.get(record.name)
    return bool(known and known.updated_at and progress.updated_at and now - progress.updated_at < throttle)


def _run_progress(before: RunProgress, record: RunRecord, told: Post, now: datetime) -> RunProgress:
    figures, percent = told.figures(), told.trainer_status.progress_percentage
    remaining = told.trainer_status.estimated_remaining_seconds
    counts = {"step": "current_step", "steps": "total_steps", "checkpoint": "checkpoint_step"}
    return before.model_copy(
        update={
            "attempt": record.attempt,
            "percent": before.percent if percent is None else round(min(100.0, max(0.0, percent))),
            "seconds_remaining": None if remaining is None else max(0, round(remaining)),
            "updated_at": now.astimezone(UTC).replace(microsecond=0),
            **{field: int(figures[name]) for field, name in counts.items() if name in figures},
            **({"epoch": figures["current_epoch"]} if "current_epoch" in figures else {}),
        }
    )


def _whole(progress: Progress, record: RunRecord, run: RunProgress, now: datetime) -> Progress:
    """The whole job's progress: the stages before in full, this one by its share."""
    runs = {**progress.runs, record.name: run}
    for name in list(runs)[:-RUNS]:
        del runs[name]
    start = _done_before(record.stage)
    percent = start + (DONE_AFTER[record.stage] - start) * run.percent / 100
    return progress.model_copy(
        update={
            "stage": record.stage,
            "percent": int(percent),
            "seconds_remaining": run.seconds_remaining,
            "updated_at": run.updated_at,
            "runs": runs,
        }
    )


def _done_before(stage: Stage) -> int:
    index = STAGES.index(stage)
    return DONE_AFTER[STAGES[index - 1]] if index else 0


def _metrics(before: Metrics, told: Post) -> Metrics:
    """The latest values; what a post does not say stays, but a loss that is said to be no number goes."""
    figures = told.figures()
    said = {metric.name for metric in told.trainer_status.metrics}
    latest: dict[str, Any] = {field: figures.get(name) for name, field in NAMED.items() if name in said}
    latest |= {field: int(latest[field]) for field in WHOLE if latest.get(field) is not None}
    if "current_step" in figures:
        latest["step"] = int(figures["current_step"])
    evaluated = {name.removeprefix("eval_"): value for name, value in figures.items() if name.startswith("eval_")}
    return before.model_copy(update={**latest, "evaluation": {**before.evaluation, **evaluated}})


def _displayed(metrics: Metrics, metric: str | None) -> dict[str, str]:
    """The leading metric of the last evaluation; before the first one the training loss."""
    leading = next((name for name in (metric, *LEADING) if name in metrics.evaluation), None)
    if leading is not None:
        return {"metric": f"{leading}={metrics.evaluation[leading]:.2f}"}
    return {} if metrics.loss is None else {"metric": f"loss={metrics.loss:.2f}"}


class ConflictError(Exception):
    """The job has changed since it was read."""


class Store(Protocol):
    """Where jobs are read, and their status written."""

    async def read(self, namespace: str, job: str) -> tuple[TrainingJob, str]:
        """A job and its version; `LookupError` where there is none."""

    async def write(self, namespace: str, job: str, status: dict[str, Any], version: str) -> None:
        """Merges a patch into the status; `ConflictError` when the job is no longer of that version."""


Guard = Callable[[web.Request], Awaitable[bool]]
"""Whether a request may speak for the run that it names."""


async def anyone(request: web.Request) -> bool:
    """The guard of a laptop, where the endpoint listens on 127.0.0.1 alone."""
    return True


def application(store: Store, throttle: timedelta = THROTTLE, base: str = "", guard: Guard = anyone) -> web.Application:
    """Serves POST `<base>/namespaces/{namespace}/trainingjobs/{job}/runs/{run}`."""
    held: dict[str, list[dict[str, Any]]] = {}

    async def post(request: web.Request) -> web.Response:
        if not await guard(request):
            raise web.HTTPForbidden(text="this pod does not belong to that run\n")
        return await _answer(request, store, throttle, held)

    app = web.Application(client_max_size=BODY_LIMIT)
    app.router.add_post(base + "/namespaces/{namespace}/trainingjobs/{job}/runs/{run}", post)
    return app


async def _answer(
    request: web.Request, store: Store, throttle: timedelta, held: dict[str, list[dict[str, Any]]]
) -> web.Response:
    """Writes a post, or keeps its metrics for the next one that is written: an evaluation is posted only once."""
    namespace, name, run = (request.match_info[part] for part in ("namespace", "job", "run"))
    key = f"{namespace}/{name}/{run}"
    try:
        body = await request.json()
        for _ in range(TRIES):
            job, version = await store.read(namespace, name)
            whole, metric = _with(held.get(key, []), body), job.spec.evaluation.metric
            patch = advance(job.status, run, whole, datetime.now(UTC), throttle, metric)
            if patch is None:
                held[key] = _evaluated(held.pop(key, []), body)
                while len(held) > HELD:
                    del held[next(iter(held))]  # the run that was heard of longest ago
                return web.json_response({"written": False})
            try:
                await store.write(namespace, name, patch, version)
            except ConflictError:
                continue
            held.pop(key, None)
            return web.json_response({"written": True})
        return web.json_response({"written": False}, status=409)
    except LookupError as error:
        raise web.HTTPNotFound(text=f"{key}: no such run\n") from error
    except (ValueError, ValidationError) as error:
        raise web.HTTPBadRequest(text="the body is no trainer status\n") from error


def _evaluated(held: list[dict[str, Any]], body: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluation metrics that were not written yet, the latest of each name."""
    fresh = [m for m in body["trainerStatus"].get("metrics", ()) if str(m["name"]).startswith("eval_")]
    return list({m["name"]: m for m in [*held, *fresh]}.values())[:64]


def _with(held: list[dict[str, Any]], body: Any) -> Any:
    if not held or not isinstance(body, dict) or "trainerStatus" not in body:
        return body
    told = body["trainerStatus"]
    return {**body, "trainerStatus": {**told, "metrics": [*held, *told.get("metrics", ())]}}
