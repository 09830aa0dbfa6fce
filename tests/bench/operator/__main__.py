"""Measures the operator against a reference controller on client-go, each with a real API server of its own.

PYTHONPATH=tests python -m bench.operator [--sizes 100 1000] [--paced 15] [--idle 15] [--churn 100] [--rounds 1]

Both do the same work in turn: the first child of each TrainingJob, its status, and an Event. The table goes to standard
output, and with --record into docs/benchmarks.md. The figures there are those of
--sizes 100 1000 10000 --paced 60 --idle 600 --churn 1000 --record
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml

from bench.operator.meters import Requests
from bench.operator.scenarios import Figures, World, large, steady
from bench.operator.sides import Side, ours, reference
from bench.table import Figure, limit, page, processors, ratio, record
from cluster.builds import build
from lmops import documents

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "benchmarks.md"
EXAMPLE = ROOT / "examples" / "reviews" / "trainingjob.yaml"
RATIOS = {("burst of 10,000", "seconds to the last child"): 1.4, ("burst of 10,000", "peak MB"): 0.5}
"""Goals for ours divided by the reference's."""
LIMITS = {
    ("burst", "requests an object"): 3.0, ("burst", "MB before"): 80.0, ("20 a second", "p99 ms to the child"): 60.0,
    ("restart with 10,000 ended", "seconds until it rests"): 12.0, ("restart", "writes"): 0.0, ("idle", "writes"): 0.0,
}  # fmt: skip
"""Goals for ours alone, for the scenarios whose names begin so."""
ABOUT = (
    "Ours against a hundred lines of client-go (informers, a work queue, no rate limit) that send the same documents: "
    "the Job of the stage prepare, the status and an Event for each TrainingJob. Each side has a fresh etcd and "
    "kube-apiserver in every measurement; both share the cores with these and with the client that creates the jobs: "
    "ratios say more than seconds. A time to the child begins when the job is sent and ends when a watch shows the "
    "child. Requests are the API server's own count (`apiserver_request_total`), without lists, watches and the Lease. "
    "There is no kubelet and no other controller, so pods appear only in the churn, where they are created, run and "
    "change, and progress is written."
)
Trials = dict[str, list[dict[str, Figures]]]


def main() -> None:
    """Measures, prints, records."""
    parser = argparse.ArgumentParser(description="The operator against a reference controller on client-go.")
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 1000], help="jobs created at once")
    parser.add_argument("--paced", type=float, default=15, help="seconds of 20 jobs a second; 0 leaves it out")
    parser.add_argument("--idle", type=float, default=15, help="seconds of idleness after the largest burst")
    parser.add_argument("--churn", type=int, default=100, help="jobs of the largest burst whose pods change")
    parser.add_argument("--rounds", type=int, default=1, help="how often all of it is done")
    parser.add_argument("--only", choices=["ours", "reference"], help="one side alone, as for a profile")
    parser.add_argument("--record", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    chosen = parser.parse_args()
    build(("etcd", "kube-apiserver", "kubectl"), partial(print, file=sys.stderr))
    with tempfile.TemporaryDirectory(prefix="lmops-bench-") as folder:
        trials, sent = asyncio.run(measured(chosen, Path(folder)))
    if chosen.only:
        print(yaml.safe_dump(trials[chosen.only], sort_keys=False))
        return
    command = shlex.join(["python", "-m", "bench.operator", *sys.argv[1:]])
    results = {job: list(figures(job, trials)) for job in trials["ours"][0]}
    table = page(
        "client-go", results, [*(counts(*pair) for pair in sent.items()), ABOUT], f"`{command}` on {processors()}:"
    )
    print(table)
    if chosen.record:
        record(PAGE, "operator", table)


async def measured(chosen: argparse.Namespace, folder: Path) -> tuple[Trials, dict[str, Requests]]:
    """All trials of both sides, in turn and with another one first in each round; and what the largest burst sent."""
    spec = documents.parse(EXAMPLE.read_text())["spec"]
    makers = {"ours": ours, "reference": partial(reference, folder, spec)}
    sides = [make() for name, make in makers.items() if chosen.only in (None, name)]
    trials: Trials = {side.name: [{} for _ in range(chosen.rounds)] for side in sides}
    sent: dict[str, Requests] = {}
    for turn in range(chosen.rounds):
        world = World(folder / str(turn), spec, ROOT / "crds")
        world.folder.mkdir()
        for size in chosen.sizes:
            more = (chosen.idle, chosen.churn) if size == max(chosen.sizes) else (0, 0)
            for side in sides[:: -1 if turn % 2 else 1]:
                found, sent[side.name] = await large(side, world, size, *more)
                trials[side.name][turn] |= told(side, found)
        for side in sides[:: -1 if turn % 2 else 1] if chosen.paced else ():
            trials[side.name][turn] |= told(side, await steady(side, world, chosen.paced))
    return trials, sent


def told(side: Side, found: dict[str, Figures]) -> dict[str, Figures]:
    """Says on the way what was found."""
    for job, values in found.items():
        print(side.name, job, *(f"{name} {value:.4g}" for name, value in values.items()), sep=" · ", file=sys.stderr)
    return found


def figures(job: str, trials: Trials) -> Iterator[Figure]:
    """What the table says of one scenario."""
    for name in trials["ours"][0][job]:
        sides = tuple([each[job][name] for each in trials[side]] for side in ("ours", "reference"))
        ceiling = next((most for (start, of), most in LIMITS.items() if of == name and job.startswith(start)), None)
        if ceiling is not None or not all(sides[1]):  # nothing can be divided by nothing
            yield limit(name, (sides[0], sides[1]), ceiling)
        else:
            yield ratio(name, (sides[0], sides[1]), at_most=RATIOS.get((job, name)))


def counts(side: str, sent: Requests) -> str:
    """What one side has asked for, by verb and resource."""
    total = max(sent["POST", "jobs"], 1)
    each = sorted(((count / total, verb, name) for (verb, name), count in sent.items()), reverse=True)
    return f"Requests an object, {side}: {', '.join(f'{count:.2f} {verb} {name}' for count, verb, name in each)}."


if __name__ == "__main__":
    main()
