"""A job's whole life under faults that are put exactly where they hurt."""

from __future__ import annotations

import asyncio
import copy
from contextlib import suppress

import pytest

from faults import NONE, Fault, Faults, crash, lose_reply
from lives import KEY, Life, fails_once, succeeds
from lmops.cluster import RefusedError
from lmops.controller import NotCreatedError
from lmops.plan import Manifest, Ref

CALM = Life(fails_once).run()
ENDS = {
    "phase": "Succeeded",
    "runs": [
        ("reviews-prepare-a0", "Succeeded", "Completed"),
        ("reviews-train-a0", "Failed", "RankKilled"),
        ("reviews-train-a1", "Succeeded", "Completed"),
        ("reviews-evaluate-a0", "Succeeded", "Completed"),
    ],
    "children": ["reviews-evaluate-a0", "reviews-prepare-a0", "reviews-train-a1"],
    "made": {"reviews-prepare-a0": 1, "reviews-train-a0": 1, "reviews-train-a1": 1, "reviews-evaluate-a0": 1},
    "restarts": 1,
}


def test_a_life_without_faults_makes_every_child_once():
    assert CALM.outcome() == ENDS


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", range(1, CALM.server.requests + 1))
def test_row_1_a_crash_at_any_request_changes_nothing(request_number: int, when: str):
    life = Life(fails_once)
    life.server.faults = crash(request_number, when)

    assert (life.run().outcome(), life.crashes) == (ENDS, 1)


@pytest.mark.parametrize("request_number", range(1, CALM.server.requests + 1))
def test_row_2_a_lost_reply_changes_nothing(request_number: int):
    life = Life(fails_once)
    life.server.faults = lose_reply(request_number)

    assert life.run().outcome() == ENDS


@pytest.mark.parametrize("event", range(1, CALM.hidden + 1))
def test_row_4_an_event_that_the_watch_loses_changes_nothing(event: int):
    life = Life(fails_once)
    life.hide = lambda number: number == event

    assert life.run().outcome() == ENDS


def test_two_requests_and_an_event_bring_the_first_child():
    life = Life()
    asyncio.run(_first_reconcile(life))

    assert dict(life.server.writes) == {"patch": 1, "create": 2}
    assert life.store.made == {Ref("TrainingJob", "reviews"): 1, Ref("Job", "reviews-prepare-a0"): 1} | {
        ref: 1 for ref in life.store.made if ref.kind == "Event"
    }


async def _first_reconcile(life: Life) -> None:
    life.watch()
    await life.controller.reconcile(KEY)


def test_a_settled_job_is_not_written_again():
    life = Life(succeeds).run()
    before = life.store.version
    life.start_again()
    life.run()

    assert life.store.version == before


def test_row_11_a_child_that_is_deleted_while_it_runs_is_a_new_attempt():
    life = Life()
    gone = []

    def script(stage: str, attempt: int) -> dict[str, object]:
        if (stage, attempt) == ("train", 0) and not gone:
            gone.append(stage)
            child = life.store.objects["PyTorchJob", "default", "reviews-train-a0"]
            life.store.put({**child, "metadata": {**child["metadata"], "deletionTimestamp": "2026-11-23T12:00:00Z"}})
            return {"stopped": {"signal": "SIGTERM", "step": 7}, "checkpoint": 7}
        return succeeds(stage, attempt)

    life.nodes.script = script
    life.run()

    assert [run["name"] for run in life.status["runs"]][1:3] == ["reviews-train-a0", "reviews-train-a1"]
    assert (life.status["phase"], life.status["restarts"]) == ("Succeeded", 0)


def test_row_11_a_child_that_is_deleted_after_its_end_is_not_missed():
    life = Life().run()
    made = dict(life.store.made)
    for child in life.store.of("Job", "PyTorchJob"):
        life.store.remove(child)
    before = life.store.version
    life.run()

    assert (life.status["phase"], dict(life.store.made), life.store.version) == ("Succeeded", made, before)


def test_row_11_a_child_that_lost_our_label_is_still_there():
    life = Life()
    stripped = []

    def script(stage: str, attempt: int) -> dict[str, object]:
        if stage == "train" and not stripped:
            stripped.append(stage)
            child = life.store.objects["PyTorchJob", "default", "reviews-train-a0"]
            life.store.tell("DELETED", copy.deepcopy(child))  # what a watch with a selector tells
        return succeeds(stage, attempt)

    life.nodes.script = script
    life.run()

    assert life.outcome()["made"]["reviews-train-a0"] == 1
    assert "reviews-train-a1" not in life.outcome()["made"]


def test_row_12_a_foreign_object_of_the_same_name_is_never_adopted():
    life = Life()
    foreign = {"kind": "Job", "metadata": {"name": "reviews-prepare-a0", "namespace": "default"}, "status": {"x": 1}}
    life.store.put_new(foreign)
    life.run()

    assert life.status["display"]["reason"].startswith("NameConflict: Job reviews-prepare-a0 is there already")
    life.store.remove(life.store.objects["Job", "default", "reviews-prepare-a0"])
    life.run()

    assert life.status["phase"] == "Succeeded"


def test_row_8_a_kind_that_is_not_installed_is_waited_for():
    life = Life()
    life.server.faults = Faults(Fault("answer", 404, "NotFound", kinds=frozenset({"PyTorchJob"})))
    life.run()
    told = life.status["display"]["reason"]
    life.server.faults = NONE
    life.run()

    assert told == "NotFound: PyTorchJobs are unknown here: install Kubeflow's training operator (1.9)."
    assert life.status["phase"] == "Succeeded"


def test_a_refusal_whose_figures_change_is_told_once_and_then_backs_off():
    life = Life()
    answers = _refused(life, [f"dial tcp 10.0.0.5:{port}: connection reset" for port in range(40000, 40005)])

    assert answers == [0, 3.0, 3.0, 3.0, 3.0]
    assert life.server.writes["patch"] == 2
    assert [event["reason"] for event in life.store.of("Event")].count("InternalError") == 1


def test_a_refusal_in_new_words_is_told_when_it_is_tried_again():
    life = Life()
    answers = _refused(life, ["no", "the quota is used up", "the quota is used up"])

    assert answers == [0, 3.0, 3.0]
    assert (
        life.status["display"]["reason"]
        == "InternalError: Kubernetes refused Job reviews-prepare-a0: the quota is used up"
    )


def _refused(life: Life, words: list[str]) -> list[float | None]:
    """What comes of reconciles each of which is refused in the next words."""
    create, told = life.server.create, iter(words)

    async def refuse(manifest: Manifest) -> Manifest:
        if manifest["kind"] == "Event":
            return await create(manifest)
        raise RefusedError(500, "InternalError", next(told), retry_after=3.0)

    async def play() -> list[float | None]:
        life.server.create = refuse  # type: ignore[method-assign]
        await life.controller.resync()
        answers: list[float | None] = []
        for _ in words:
            try:
                answers.append(await life.controller.reconcile(KEY))
            except NotCreatedError as error:
                answers.append(error.retry_after)
        return answers

    return asyncio.run(play())


def test_row_3_a_plan_made_of_a_stale_view_does_nothing():
    life = Life()
    stale = dict(life.job)
    life.run()
    made = dict(life.store.made)
    for child in life.store.of("Job", "PyTorchJob"):
        life.store.remove(child)
    life.start_again()
    life.controller.cache.take(stale)
    life.told = life.store.version
    asyncio.run(life.controller.reconcile(KEY))

    assert life.store.made == made


def test_a_resource_of_another_form_is_told_so_once():
    life = Life()
    life.store.put({**life.job, "spec": {**life.job["spec"], "model": "a sentence"}})
    life.run()

    condition = life.status["conditions"][0]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Accepted", "False", "Unreadable")
    assert condition["message"].startswith("spec.model: ")


def test_a_status_does_not_go_on_about_what_was_refused_and_came():
    life = Life(queueName="gpu")
    refuse, create = [True], life.server.create

    async def creating(manifest: Manifest) -> Manifest:
        if manifest["kind"] == "Job" and refuse:
            raise RefusedError(500, "InternalError", "failed calling webhook")
        return await create(manifest)

    async def look(count: int) -> None:
        for _ in range(count):
            life.watch()
            with suppress(NotCreatedError):
                await life.controller.reconcile(KEY)

    life.server.create = creating  # type: ignore[method-assign]
    asyncio.run(look(3))
    told, events = life.status["display"]["reason"], [event["reason"] for event in life.store.of("Event")]
    refuse.clear()
    again = asyncio.run(life.controller.reconcile(KEY))
    asyncio.run(look(1))

    assert (told[:15], events) == ("InternalError: ", ["InternalError"])
    assert "Created" in [event["reason"] for event in life.store.of("Event")]
    assert (again, life.status["display"]["reason"]) == (0, "waits in queue gpu")
