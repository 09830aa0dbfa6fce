"""A job that waits for another's model is woken when that has come, and lives as well as any other."""

from __future__ import annotations

import asyncio

import pytest

from faults import crash
from lives import Life, outcome, submit_quantization
from lmops.plan import Key, Ref


def both() -> Life:
    """A TrainingJob, and a QuantizeJob that waits for it."""
    life = Life()
    life.keys.append(submit_quantization(life.store))
    return life


def test_a_waiting_job_is_woken_by_the_end_of_what_it_waits_for():
    life = Life()
    waiting = submit_quantization(life.store)
    woken: list[tuple[Key, str]] = []
    life.controller.changed = lambda key: woken.append((key, life.status.get("phase", "")))
    asyncio.run(life.controller.resync())
    asyncio.run(life.controller.reconcile(waiting))
    assert life.store.objects[waiting]["status"]["display"]["reason"].startswith("SourceNotReady: ")

    life.run()

    assert {key for key, _ in woken} == {waiting}
    asyncio.run(life.controller.reconcile(waiting))
    assert Ref("Job", "small-compress-a0") in life.store.made
    asyncio.run(life.controller.reconcile(waiting))
    assert life.controller.waiting == {}


def test_both_come_to_their_end():
    life = both().run()

    assert outcome(life.store, life.keys[1]) == {
        "phase": "Succeeded",
        "runs": [("small-compress-a0", "Succeeded", "Completed")],
        "children": ["small-compress-a0"],
        "made": {"small-compress-a0": 1},
        "restarts": 0,
    }


def test_who_has_failed_waits_for_nobody_any_more():
    life = Life()
    excluded = [f"{number:03}-{'x' * 250}" for number in range(64)]
    steps = [{"prune": {"method": "Magnitude", "exclude": excluded}}] * 7
    too_large = submit_quantization(life.store, steps=steps)
    asyncio.run(life.controller.resync())
    asyncio.run(life.controller.reconcile(too_large))
    assert life.store.objects[too_large]["status"]["failure"]["reason"] == "SpecTooLarge"

    asyncio.run(life.controller.reconcile(too_large))

    assert life.controller.waiting == {}


WHOLE = both().run()
ENDS = [outcome(WHOLE.store, key) for key in WHOLE.keys]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", range(1, WHOLE.server.requests + 1))
def test_row_1_a_crash_at_any_request_of_two_jobs_changes_nothing(request_number: int, when: str):
    life = both()
    life.server.faults = crash(request_number, when)

    assert [outcome(lived.store, key) for lived in [life.run()] for key in life.keys] == ENDS
