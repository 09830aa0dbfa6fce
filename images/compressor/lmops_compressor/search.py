"""The search for steps: many combinations on few rows, ever fewer on more, and the best of those within the limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lmops.api import Compression
from lmops.api.compression import Search, Step
from lmops.api.compressionreport import SearchReport, Trial
from lmops_compressor import space
from lmops_compressor.methods import Tell, part
from lmops_compressor.source import Source
from lmops_compressor.space import Point
from lmops_compressor.steps import Compressed
from lmops_compressor.trials import Trials, home
from lmops_trainer.endings import replace
from lmops_trainer.failures import Refusal
from lmops_trainer.log import log

TABLE = "table.json"
TRIED = 0.8
"""The share of the work that is done when the best is found, which may have to be made again."""


def searched(
    run: Compression, source: Source, folder: Path, tell: Tell
) -> tuple[list[Step], Compressed, SearchReport]:  # fmt: skip
    """The best steps within the limits, the model they make, and what was tried. A Refusal with the nearest where none
    is within them.

    What an earlier attempt has measured is not measured again. `folder` is for scratch.
    """
    search = run.spec.search
    assert search
    found = space.combinations(search)
    if not found:
        raise Refusal(
            "Settings",
            "NothingToTry",
            "search.steps holds no combination that can be done: a step is missing, or quantize is not the last one.",
            "Put the places of quantize steps last, or mark them optional.",
        )
    places = folder / "search"
    places.mkdir()
    with Trials(run, source, places) as trials:
        drawn = space.drawn(found, search.trials, run.spec.calibration.seed)
        chosen = halved(drawn, search, trials, part(tell, 0, TRIED))
        judged = space.judged(trials.points, chosen, search)
        replace(home(run) / TABLE, json.dumps([trial.manifest() for trial in judged]))
        if chosen is None:
            raise nothing_within(search, trials.points, trials.metric)
        log.info("search: chosen of %d: %s", len(judged), chosen.method)
        made = trials.made(chosen.steps, part(tell, TRIED, 1))
    return list(chosen.steps), made, space.reported(judged, len(found))


def tried(run: Compression) -> list[Trial]:
    """All points of this job's search, for the page."""
    file = home(run) / TABLE
    return [Trial.model_validate(trial) for trial in json.loads(file.read_text())] if file.is_file() else []


def nothing_within(search: Search, points: list[Point], metric: str) -> Refusal:
    """No combination keeps the limits: the nearest is told."""
    last = space.latest(points)
    failed = [f"{point.method}: {point.failure}" for point in last if point.failure]
    nearest = next((point for point in space.ranked(last, search) if not point.failure), None)
    if nearest is None:
        message, remedy = (
            f"None of {len(last)} combinations could be measured.",
            "See the evidence; search other methods.",
        )
    else:
        message = (
            f"None of {len(last)} combinations is within search.limits; the nearest is {nearest.method}, "
            f"of which {nearest.missed(search.limits, metric)}."
        )
        remedy = "Loosen search.limits, or search milder steps."
    return Refusal("Verdict", "NothingWithinLimits", message, remedy, failed)


def halved(
    candidates: list[tuple[Step, ...]], search: Search, trials: Trials, tell: Callable[[float], None]
) -> Point | None:
    """The best within the limits. Where the finalists are not, those that were out before are given all rows too."""
    plan = space.rounds(len(candidates), len(trials.rows))
    alive, done, whole = list(candidates), 0, sum(count for count, _ in plan)
    for number, (count, few) in enumerate(plan):
        for steps in alive[count:]:
            trials.forget(steps)
        found = []
        for steps in alive[:count]:
            if trials.is_over:
                return space.best(trials.points, search)
            found.append(trials.point(steps, few))
            done += 1
            tell(done / whole)
        alive = [point.steps for point in space.ranked(found, search) if not point.failure]
        log.info("search: round %d of %d is done", number + 1, len(plan))
    scored = [point for point in trials.points if point.rows == plan[-1][1]]
    for point in space.ranked(space.latest(trials.points), search):
        if trials.is_over or any(not one.excess(search.limits) for one in scored):
            break
        if point not in scored and not point.failure:
            scored.append(trials.point(point.steps, plan[-1][1]))
            trials.forget(point.steps)
    return space.best(trials.points, search)
