"""A search tries each combination once, gives more rows to the better ones, and ranks what it has found."""

from __future__ import annotations

from typing import Any

import pytest

from lmops.api.compression import Search, Step
from lmops_compressor import space
from lmops_compressor.search import halved, nothing_within
from lmops_compressor.space import Point
from lmops_compressor.trials import Trials


def prune(method: str, **how: Any) -> dict[str, Any]:
    return {"prune": {"method": method, **how}}


def quantize(method: str, **how: Any) -> dict[str, Any]:
    return {"quantize": {"method": method, **how}}


def search(*places: dict[str, Any], **settings: Any) -> Search:
    if not places:
        places = ({"oneOf": [quantize("Dynamic")]},)
    return Search.model_validate({"steps": list(places), **settings})


def steps(number: int) -> tuple[Step, ...]:
    """One combination of many."""
    return (Step.model_validate(prune("Wanda", sparsity=round(0.01 * (number + 1), 2))),)


def test_steps_that_differ_in_what_goes_without_saying_are_the_same_trial():
    alike = {"oneOf": [prune("Wanda"), prune("Wanda", sparsity=0.5), prune("Wanda", sparsity=0.6)]}

    assert len(space.combinations(search(alike))) == 2


def point(
    number: int, rows: int = 128, size: float = 2, latency: float = 0.5, quality: float = 0.0, **more: Any
) -> Point:
    return Point(steps(number), rows, size_ratio=size, latency_ratio=latency, quality=quality, **more)


@pytest.mark.parametrize(
    ("places", "found"),
    [
        (
            [{"oneOf": [prune("Wanda"), prune("Neurons")]}, {"oneOf": [quantize("Dynamic"), quantize("Static")]}],
            [
                "Wanda 50% + Dynamic 8 bit",
                "Wanda 50% + Static 8 bit",
                "Neurons 25% + Dynamic 8 bit",
                "Neurons 25% + Static 8 bit",
            ],
        ),
        # nothing at all is no combination
        (
            [{"oneOf": [prune("Wanda")], "optional": True}, {"oneOf": [quantize("Dynamic")], "optional": True}],
            ["Dynamic 8 bit", "Wanda 50%", "Wanda 50% + Dynamic 8 bit"],
        ),
        # what is quantized is neither pruned nor quantized again
        (
            [{"oneOf": [quantize("Dynamic"), prune("Wanda")]}, {"oneOf": [prune("Neurons"), quantize("Static")]}],
            ["Wanda 50% + Neurons 25%", "Wanda 50% + Static 8 bit"],
        ),
        # one can tell them apart
        (
            [{"oneOf": [quantize("WeightOnly"), quantize("WeightOnly", groupSize=128)]}],
            ["WeightOnly 4 bit", "WeightOnly 4 bit g128"],
        ),
        # each once
        (
            [{"oneOf": [prune("Wanda")], "optional": True}, {"oneOf": [prune("Wanda")], "optional": True}],
            ["Wanda 50%", "Wanda 50% + Wanda 50%"],
        ),
        ([{"oneOf": [quantize("Dynamic")]}, {"oneOf": [prune("Wanda")]}], []),
    ],
)
def test_combinations_are_those_that_can_be_done(places: list[dict[str, Any]], found: list[str]):
    assert [space.words(list(each)) for each in space.combinations(search(*places))] == found


def test_where_there_are_more_than_trials_a_seed_draws_them():
    many = [steps(number) for number in range(40)]

    assert space.drawn(many, 40, seed=1) == many
    few = space.drawn(many, 7, seed=1)
    assert (len(few), few) == (7, sorted(few, key=many.index))
    assert space.drawn(many, 7, seed=1) == few != space.drawn(many, 7, seed=2)


@pytest.mark.parametrize(
    ("trials", "rows", "found"),
    [
        (1, 128, [(1, 128)]),
        (4, 128, [(4, 128)]),
        (5, 128, [(5, 64), (4, 128)]),
        (16, 128, [(16, 32), (8, 64), (4, 128)]),
        (100, 128, [(100, 8), (50, 8), (25, 16), (13, 32), (7, 64), (4, 128)]),
        (16, 6, [(16, 6), (8, 6), (4, 6)]),
    ],
)
def test_half_as_many_are_scored_on_twice_the_rows(trials: int, rows: int, found: list[tuple[int, int]]):
    assert space.rounds(trials, rows) == found


@pytest.mark.parametrize(
    ("objective", "order"), [("Size", [1, 0, 2, 3, 4]), ("Latency", [0, 1, 2, 3, 4]), ("Memory", [1, 0, 2, 3, 4])]
)
def test_those_within_the_limits_come_first_by_the_objective_then_by_how_little_they_miss(
    objective: str, order: list[int]
):
    points = [
        point(0, size=2, latency=0.3, memory_ratio=0.9),
        point(1, size=3, latency=0.4, memory_ratio=0.8),
        point(2, size=9, latency=0.1, quality=-0.02, memory_ratio=0.1),
        point(3, size=9, latency=0.1, quality=-0.2, memory_ratio=0.1),
        Point(steps(4), 128, failure="Unfit: no"),
    ]

    ranked = space.ranked(reversed(points), search(objective=objective))

    assert [points.index(each) for each in ranked] == order


def test_what_cannot_be_measured_is_not_within_a_limit():
    unknown = Point(steps(0), 128, size_ratio=2, quality=0.0)

    assert unknown.excess(search(limits={"maxLatencyRatio": 1}).limits) == float("inf")
    assert unknown.excess(search(limits={"minSizeRatio": 2}).limits) == 0


def test_pareto_is_what_none_of_as_many_rows_is_better_than():
    wanted = search(limits={"maxQualityDrop": 0.05})
    points = [
        point(0, size=4, latency=0.4, quality=-0.01),
        point(1, size=3, latency=0.3, quality=-0.01),
        point(2, size=3, latency=0.35, quality=-0.02),
        point(3, size=9, latency=0.1, quality=-0.5),
        point(4, rows=32, size=1, latency=1, quality=-0.03),
        Point(steps(5), 32, failure="Unfit: no"),
    ]
    chosen = space.best(points, wanted)

    found = space.judged(points, chosen, wanted)

    assert chosen == points[0]
    assert [(trial.outcome, trial.rows, trial.size_ratio) for trial in found] == [
        ("Chosen", 128, 4),
        ("Pareto", 128, 3),
        ("Pareto", 32, 1),
        ("Dominated", 128, 3),
        ("OutsideLimits", 128, 9),
        ("Failed", 32, None),
    ]


def test_a_combination_is_told_once_by_its_most_rows():
    points = [point(0, rows=32, quality=-0.5), point(0, rows=64), point(1, rows=32)]

    assert space.latest(points) == points[1:]
    assert [trial.rows for trial in space.judged(points, None, search())] == [64, 32]


def test_a_report_of_a_long_search_is_small():
    trials = space.judged([point(number) for number in range(99)], None, search())

    found = space.reported(trials, 300)

    assert (found.combinations, found.tried, len(found.trials)) == (300, 99, 12)


class Known(Trials):
    """Trials whose outcomes are known beforehand: by combination and rows."""

    def __init__(self, quality: Any, rows: int = 128, last: int = 999) -> None:
        self.quality, self.rows, self.last = quality, range(rows), last  # type: ignore[assignment]
        self.points, self.gone = [], []

    @property
    def is_over(self) -> bool:
        return len(self.points) >= self.last

    def point(self, steps: tuple[Step, ...], count: int) -> Point:
        number = round(100 * (steps[0].prune.sparsity or 0)) - 1 if steps[0].prune else 0
        found = self.quality(number, count)
        measured = {"failure": found} if isinstance(found, str) else {"quality": found, "size_ratio": 1.0 + number}
        self.points.append(Point(steps, count, latency_ratio=0.5, **measured))  # type: ignore[arg-type]
        return self.points[-1]

    def forget(self, steps: tuple[Step, ...]) -> None:
        self.gone.append(steps)


def chosen(trials: Known, count: int = 16) -> int | None:
    """The number of the combination that is chosen."""
    found = halved([steps(number) for number in range(count)], search(), trials, lambda _: None)
    return [steps(number) for number in range(count)].index(found.steps) if found else None


def test_the_smallest_within_the_limits_is_chosen_and_few_see_all_rows():
    trials = Known(lambda number, rows: -0.002 * number)

    assert chosen(trials) == 5
    assert [sum(point.rows == rows for point in trials.points) for rows in (32, 64, 128)] == [16, 8, 4]
    assert len(trials.gone) == 12


def test_what_failed_is_left_out_and_the_search_goes_on():
    trials = Known(lambda number, rows: "Unfit: no" if number % 2 else -0.002 * number)

    assert chosen(trials) == 4


def test_where_the_finalists_do_not_keep_their_promise_the_others_are_given_all_rows():
    trials = Known(lambda number, rows: 0.0 if rows < 128 or number == 3 else -0.5)

    assert chosen(trials) == 3
    assert [point.rows for point in trials.points].count(128) < 16


def test_nothing_is_begun_when_the_time_is_up_and_the_best_so_far_is_chosen():
    trials = Known(lambda number, rows: -0.002 * number, last=20)

    assert chosen(trials) == 5
    assert len(trials.points) == 20


def test_when_nothing_is_within_the_limits_the_nearest_is_told():
    trials = Known(lambda number, rows: "Unfit: no" if number == 2 else -0.02 - 0.01 * number)

    assert chosen(trials, 4) is None
    refusal = nothing_within(search(), trials.points, "f1")

    assert (refusal.class_, refusal.reason) == ("Verdict", "NothingWithinLimits")
    assert refusal.message == (
        "None of 4 combinations is within search.limits; the nearest is Wanda 1%, "
        "of which f1 is 0.02 worse, and maxQualityDrop is 0.01."
    )
    assert refusal.evidence == ["Wanda 3%: Unfit: no"]
