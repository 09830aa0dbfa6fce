"""The operator in virtual time, under faults that come at random: rows 5, 11, 14, 16, 17 and 18."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from faults import NONE, weather
from lives import fails_once, outcome, submit
from simulation import Simulation, virtually

JOBS = 12


def writes(rate: float, seed: int = 0) -> tuple[int, list[dict[str, Any]]]:
    """The writes that a dozen jobs took in this weather, and how they ended."""

    async def play() -> tuple[int, list[dict[str, Any]]]:
        world = Simulation(fails_once)
        one = world.operator(weather(rate, seed))
        jobs = world.submit(JOBS)
        await world.ended(jobs)
        assert one.service.queue.failures.total() <= 1
        return one.server.writes.total(), [outcome(world.store, job) for job in jobs]

    return virtually(play())


CALM, ENDS = writes(0.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("percent", [1, 3, 10, 30])
def test_row_5_random_refusals_and_lost_replies_change_no_end_and_cost_few_writes(percent: int, seed: int):
    needed, ends = writes(percent / 100, seed)

    assert ends == ENDS
    assert needed <= 3 * CALM


@pytest.mark.parametrize("hours", [1, 24])
def test_row_14_after_hours_of_bad_weather_the_operator_falls_silent(hours: int):
    async def play() -> None:
        world = Simulation(fails_once, seconds=240, step=15)
        one, dice = world.operator(weather(0.2, seed=hours)), random.Random(hours)
        one.deaf = 0.05
        for hour in range(hours):
            for old in world.store.of("Event", *(["TrainingJob"] if hour % 3 == 0 else [])):
                world.store.remove(old)
            jobs = world.submit(4, f"hour-{hour}")
            await asyncio.sleep(dice.uniform(600, 3000))
            if dice.random() < 0.5:
                await one.stop()
                one.start()
            await asyncio.sleep(600)
            await world.ended(jobs)
        one.server.faults, one.deaf = NONE, 0.0
        await asyncio.sleep(900)
        before = one.server.writes.total(), world.store.version
        await asyncio.sleep(600)

        assert (one.server.writes.total(), world.store.version) == before
        assert {world.phase(job) for job in jobs} == {"Succeeded"}
        assert world.twice() == []
        assert (one.service.queue.failures, one.service.controller.refused) == ({}, {})
        assert set(one.service.controller.cache._parts) <= set(one.service.controller.cache)

    virtually(play())


POISON: dict[str, Any] = {
    "of another form": {"model": "a sentence"},
    "of no form": None,
    "huge": {"output": {"uri": "pvc://models/" + "x" * 500_000}},
    "odd": {"output": {"uri": "pvc://\u0000\ud7ff\u202e💣/$(HOME)"}},
}


def test_row_17_poison_slows_nobody_down_and_is_tried_ever_more_rarely():
    async def play(poison: bool) -> float:
        world = Simulation()
        if poison:
            for number, spec in enumerate(POISON.values()):
                key = submit(world.store, f"poison-{number}")
                world.store.put({**world.store.objects[key], "spec": spec})
        one = world.operator()
        await asyncio.sleep(5.2)
        if poison:
            victim = submit(world.store, "victim")
            await asyncio.sleep(0.2)  # its child is there, and has no pod yet
            for child in world.store.of("Job"):
                if child["metadata"]["labels"]["lmops.dev/job"] == victim.name:
                    world.store.put({**child, "status": {"conditions": [{"odd": 1}], "phase": []}})
        took = await world.ended(world.submit(JOBS))
        before = one.server.writes.total()
        await asyncio.sleep(3600)
        assert one.server.writes.total() == before
        assert (3600 / 60 < max(one.service.queue.failures.values(), default=0) < 3600 / 30 + 20) == poison
        return took

    assert virtually(play(poison=True)) <= virtually(play(poison=False)) + 1


def test_row_18_two_versions_side_by_side_neither_flap_nor_create_twice():
    async def play() -> None:
        world = Simulation(fails_once, seconds=5)
        old, new = world.operator(trainer_image="trainer:1"), world.operator(trainer_image="trainer:2", user=2000)
        jobs = world.submit(JOBS)
        await world.ended(jobs)
        await asyncio.sleep(60)
        before = world.store.version
        await asyncio.sleep(600)

        assert world.store.version == before
        assert [outcome(world.store, job) for job in jobs] == ENDS
        assert old.server.writes.total() + new.server.writes.total() <= 2 * CALM

    virtually(play())


def test_row_16_fields_of_a_newer_version_restart_nothing():
    async def play() -> None:
        world = Simulation(seconds=120)
        world.operator()
        job = world.submit(1)[0]
        await asyncio.sleep(150)
        found = world.store.objects[job]
        newer = {"spec": {**found["spec"], "shiny": True}, "status": {**found["status"], "shinier": {"a": 1}}}
        world.store.put({**found, **newer})
        await asyncio.sleep(60)
        found = world.store.objects[job]
        older = {"spec": {k: v for k, v in found["spec"].items() if k != "shiny"}}
        world.store.put({**found, **older})
        await world.ended([job])

        assert (world.phase(job), world.store.objects[job]["status"]["restarts"], world.twice()) == ("Succeeded", 0, [])
        assert [run["name"] for run in world.store.objects[job]["status"]["runs"]] == [
            "job-0-prepare-a0",
            "job-0-train-a0",
            "job-0-evaluate-a0",
        ]

    virtually(play())
