"""State in, Plan out: what a TrainingJob does next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import NOON, SETTINGS, World, ended_pod, pod, reconcile, running_pod, said, succeeded_pod, trainingjob
from lmops.api import TrainingJobStatus
from lmops.jobs.failure import table
from lmops.plan import Observed, Ref, Refusal

KILLED = {"class": "WorkerLost", "reason": "RankKilled", "message": "Rank 1 was killed by SIGKILL.", "remedy": "-"}
DATA = {"class": "Data", "reason": "UnknownColumn", "message": 'No column "txet".', "remedy": 'Did you mean "text"?'}


def world(**spec: object) -> World:
    begun = World(trainingjob(**spec))
    begun.settle()
    return begun


def training(**spec: object) -> World:
    """A job whose data is prepared and whose training runs."""
    begun = world(**spec)
    begun.complete("prepare")
    begun.settle()
    nodes = begun.job.spec.resources.nodes
    begun.put(*(running_pod(begun.job, "train", index=i) for i in range(nodes)))
    return begun


def conditions(world: World) -> dict[str, str]:
    return {c.type: c.status for c in world.job.status.conditions}


def test_a_new_job_begins_with_the_preparation_of_its_data():
    plan = reconcile(trainingjob(), Observed(), NOON, SETTINGS)

    assert [Ref.of(child) for child in plan.create] == [("Job", "reviews-prepare-a0")]
    assert [(run.name, run.state) for run in plan.status.runs] == [("reviews-prepare-a0", "Pending")]
    assert plan.status.phase == "Pending"


def test_a_child_without_pods_yet_is_no_news():
    new = World(trainingjob())
    new.reconcile()
    told = new.job.status
    new.reconcile()

    assert new.job.status == told
    assert told.display.reason == "waiting for its pods"


def test_a_whole_life_runs_three_stages_and_ends_with_a_published_model():
    life = world()
    life.complete("prepare", "train", "evaluate")

    assert life.created == ["reviews-prepare-a0", "reviews-train-a0", "reviews-evaluate-a0"]
    assert life.deleted == []
    assert (life.job.status.phase, life.job.status.display.reason) == ("Succeeded", "")
    assert life.job.status.model.uri == "pvc://models/reviews/0123456789ab"
    assert life.job.status.progress.percent == 100
    assert conditions(life) == {
        "Accepted": "True",
        "Progressing": "False",
        "Complete": "True",
        "Failed": "False",
        "Suspended": "False",
        "Reconciling": "False",
        "Stalled": "False",
    }


@pytest.mark.parametrize(
    ("stage", "phase"), [("prepare", "Preparing"), ("train", "Running"), ("evaluate", "Evaluating")]
)
def test_the_phase_names_what_runs(stage: str, phase: str):
    life = world()
    life.complete(*{"prepare": (), "train": ("prepare",), "evaluate": ("prepare", "train")}[stage])
    life.put(running_pod(life.job, stage))

    assert (life.job.status.phase, life.job.status.display.nodes) == (phase, "1/1")


def test_a_pod_that_cannot_start_says_why_in_the_schedulers_own_words():
    life = world()
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes: no GPU",
    }
    life.put(pod(life.job, "prepare", phase="Pending", conditions=[unschedulable]))

    assert (life.job.status.phase, life.job.status.display.reason) == ("Pending", "Unschedulable: 0/3 nodes: no GPU")


def test_an_image_that_cannot_be_pulled_is_said_in_the_kubelets_own_words():
    life = world()
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}}
    life.put(pod(life.job, "prepare", phase="Pending", containerStatuses=[{"state": waiting}]))

    assert life.job.status.display.reason == 'ImagePullBackOff: Back-off pulling image "x"'


def test_a_lost_worker_is_recorded_before_anything_is_deleted():
    life = training()
    lost = ended_pod(life.job, "train", code=1, message=said("train", checkpoint=800, failure=KILLED))
    life.pods[lost["metadata"]["name"]] = lost

    plan = life.reconcile()

    assert (plan.create, plan.delete) == ((), ())
    row = plan.status.runs[-1]
    assert (row.state, row.reason, row.checkpoint, row.finished_at) == ("Failed", "RankKilled", 800, NOON)
    assert plan.status.phase == "Restarting"
    assert plan.status.display.reason == "RankKilled: restart 1 of 3 from step 800"


def test_what_was_recorded_is_deleted_then_awaited_then_replaced():
    life = training()
    lost = ended_pod(life.job, "train", code=1, message=said("train", checkpoint=800, failure=KILLED))
    life.pods[lost["metadata"]["name"]] = lost
    life.reconcile()

    second = life.reconcile()
    third = life.reconcile()

    assert (second.create, second.delete) == ((), (("PyTorchJob", "reviews-train-a0"),))
    assert [Ref.of(child).name for child in third.create] == ["reviews-train-a1"]


def test_nothing_is_created_while_pods_of_the_last_attempt_are_leaving():
    life = training()
    lost = ended_pod(life.job, "train", code=1, message=said("train", failure=KILLED))
    life.pods[lost["metadata"]["name"]] = lost
    life.reconcile()
    leaving = {**lost, "metadata": {**lost["metadata"], "deletionTimestamp": NOON.isoformat()}}
    life.children.clear()
    life.pods = {lost["metadata"]["name"]: leaving}

    waiting = life.reconcile()
    life.pass_time(minutes=3)
    moving_on = life.reconcile()

    assert (waiting.create, waiting.delete) == ((), ())
    assert [Ref.of(child).name for child in moving_on.create] == ["reviews-train-a1"]


def test_the_retry_budget_ends():
    life = training(retry={"restarts": 2})
    for attempt in range(3):
        life.put(running_pod(life.job, "train", attempt))
        life.put(ended_pod(life.job, "train", attempt, code=1, message=said("train", attempt, failure=KILLED)))

    assert life.created[1:] == ["reviews-train-a0", "reviews-train-a1", "reviews-train-a2"]
    assert (life.job.status.phase, life.job.status.restarts) == ("Failed", 2)
    assert life.job.status.failure.message == (
        "Rank 1 was killed by SIGKILL. It was restarted 2 times, as often as retry.restarts allows."
    )


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_an_unusable_input_fails_at_once_and_keeps_its_pods(stage: str):
    life = world()
    life.complete(*{"prepare": (), "train": ("prepare",), "evaluate": ("prepare", "train")}[stage])
    life.put(ended_pod(life.job, stage, code=1, message=said(stage, failure=DATA)))

    assert life.job.status.phase == "Failed"
    assert life.job.status.failure.manifest() == {**DATA, "evidence": []}
    assert life.deleted == []
    assert conditions(life)["Failed"] == conditions(life)["Stalled"] == "True"


def test_a_stop_from_outside_is_not_counted():
    life = training()
    stopped = said("train", checkpoint=120, stopped={"signal": "SIGTERM", "step": 120})
    life.put(ended_pod(life.job, "train", code=0, message=stopped))

    assert life.created[-1] == "reviews-train-a1"
    assert (life.job.status.restarts, life.job.status.runs[1].state) == (0, "Stopped")
    assert life.job.status.display.reason == "Stopped: goes on from step 120"


def test_stops_without_a_newer_checkpoint_come_to_an_end():
    life = training()
    for attempt in range(3):
        stopped = said("train", attempt, checkpoint=120, stopped={"signal": "SIGTERM", "step": 120})
        life.put(ended_pod(life.job, "train", attempt, message=stopped))

    assert life.job.status.phase == "Failed"
    assert life.job.status.failure.message.startswith(
        "The run was stopped 3 times in a row without a newer checkpoint."
    )


def test_stops_with_newer_checkpoints_go_on_for_ever():
    life = training()
    for attempt in range(10):
        stopped = said("train", attempt, checkpoint=attempt, stopped={"signal": "SIGTERM", "step": attempt})
        life.put(ended_pod(life.job, "train", attempt, message=stopped))

    assert (life.job.status.phase, life.created[-1]) == ("Restarting", "reviews-train-a10")


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (
            {"reason": "Evicted", "message": "The node was low on resource: memory. "},
            "Evicted",
            "The run was stopped by SIGTERM: The node was low on resource: memory. A checkpoint of step 120 was saved.",
        ),
        (
            {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                             "message": "default-scheduler: preempting to accommodate a higher priority pod"}]},
            "PreemptionByScheduler",
            "The run was stopped by SIGTERM: default-scheduler: preempting to accommodate a higher priority pod."
            " A checkpoint of step 120 was saved.",
        ),
    ],
)  # fmt: skip
def test_an_eviction_is_told_in_the_words_of_who_evicted(status: dict[str, Any], reason: str, message: str):
    life = training()
    stopped = said("train", checkpoint=120, stopped={"signal": "SIGTERM", "step": 120})
    pod = ended_pod(life.job, "train", code=143, message=stopped)
    life.put({**pod, "status": {**pod["status"], **status}})

    row = life.job.status.runs[1]
    assert (row.reason, row.message) == (reason, message)


def test_an_evicted_pod_that_could_not_speak_is_not_counted():
    life = training()
    life.put(ended_pod(life.job, "train", code=137, phase="Failed", reason="Evicted", message="low on memory"))

    assert (life.job.status.restarts, life.job.status.runs[1].reason) == (0, "Evicted")


@pytest.mark.parametrize(
    ("pod", "class_", "reason"),
    [
        ({"code": 137, "why": "OOMKilled"}, "OutOfMemory", "OOMKilled"),
        ({"code": 137}, "WorkerLost", "PodKilled"),
        ({"code": 1, "message": "torch.OutOfMemoryError: CUDA out of memory"}, "OutOfMemory", "OutOfMemory"),
        ({"code": 1, "message": "OSError: [Errno 28] No space left on device"}, "Disk", "DiskFull"),
        ({"code": 1, "message": "RuntimeError: NCCL error in: x"}, "Communication", "NcclTimeout"),
        ({"code": 1, "message": "OSError: We couldn't connect to 'https://hub'"}, "Communication", "HubUnreachable"),
        ({"code": 1, "message": "[gloo] Connection closed by peer"}, "Communication", "GlooTimeout"),
        ({"code": 1, "message": "KeyError: 'x'"}, "Code", "ExitCode"),
        ({"code": 1, "reason": "NodeLost"}, "NodeLost", "NodeLost"),
    ],
)
def test_a_pod_that_could_not_speak_is_read_from_what_it_left(pod: dict[str, object], class_: str, reason: str):
    life = training()
    fallen = ended_pod(life.job, "train", **pod)
    life.pods[fallen["metadata"]["name"]] = fallen
    plan = life.reconcile()

    assert (plan.status.failure.class_, plan.status.failure.reason) == (class_, reason)


def test_the_cause_is_told_and_not_its_echo():
    life = training(resources={"nodes": 2})
    echo = {"class": "Communication", "reason": "GlooTimeout", "message": "closed by peer", "remedy": "-"}
    cause = {"class": "Diverged", "reason": "LossNotFinite", "message": "The loss became NaN.", "remedy": "-"}
    first = ended_pod(life.job, "train", index=0, code=1, message=said("train", failure=echo))
    second = ended_pod(life.job, "train", index=1, code=1, message=said("train", failure=cause))
    life.put(first, second)

    assert life.job.status.failure.reason == "LossNotFinite"


def test_a_child_deleted_while_it_runs_is_a_new_attempt():
    life = training()
    life.children.pop(Ref("PyTorchJob", "reviews-train-a0"))
    life.pods = {k: p for k, p in life.pods.items() if "train" not in k}
    life.settle()

    assert life.created[-1] == "reviews-train-a1"
    assert life.job.status.runs[1].reason == "Deleted"


def test_a_child_deleted_after_its_end_changes_nothing():
    life = world()
    life.complete("prepare", "train", "evaluate")
    life.children.clear()
    life.pods.clear()
    life.settle()

    assert len(life.created) == 3
    assert life.job.status.phase == "Succeeded"


def test_a_created_child_that_the_ledger_does_not_know_is_not_created_twice():
    job = trainingjob()
    plan = reconcile(job, Observed(), NOON, SETTINGS)

    again = reconcile(job, Observed.of(plan.create), NOON, SETTINGS)

    assert again.create == ()
    assert [run.name for run in again.status.runs] == ["reviews-prepare-a0"]


def test_a_result_counts_even_when_a_pod_of_the_group_has_failed():
    life = training(resources={"nodes": 2})
    life.put(
        ended_pod(life.job, "train", index=1, code=1, message="recvVector failed"), succeeded_pod(life.job, "train")
    )

    assert life.job.status.best.value == 0.838


def test_success_without_a_result_is_a_failure_after_a_minute():
    life = training()
    child = life.children[Ref("PyTorchJob", "reviews-train-a0")]
    child["status"] = {"conditions": [{"type": "Succeeded", "status": "True", "lastTransitionTime": NOON.isoformat()}]}
    life.put(ended_pod(life.job, "train", message=""))
    early = life.job.status.phase
    life.pass_time(seconds=61)
    life.settle()

    assert (early, life.job.status.phase) == ("Running", "Failed")
    assert life.job.status.failure.reason == "ResultMissing"


def test_suspending_stops_the_run_and_resuming_starts_an_uncounted_attempt():
    life = training()
    life.job = life.job.model_copy(update={"spec": life.job.spec.model_copy(update={"suspend": True})})
    life.settle()
    suspended = (life.job.status.phase, life.deleted[:], conditions(life)["Suspended"])
    life.job = life.job.model_copy(update={"spec": life.job.spec.model_copy(update={"suspend": False})})
    life.settle()

    assert suspended == ("Suspended", ["reviews-train-a0"], "True")
    assert (life.created[-1], life.job.status.restarts) == ("reviews-train-a1", 0)


def test_a_job_past_its_deadline_stops_and_fails():
    life = training(retry={"deadlineSeconds": 600})
    life.pass_time(seconds=601)
    life.settle()

    assert (life.job.status.phase, life.deleted) == ("Failed", ["reviews-train-a0"])
    assert life.job.status.failure.reason == "DeadlineExceeded"


def test_a_deadline_names_the_checkpoint_that_is_kept():
    life = training(retry={"deadlineSeconds": 600})
    progress = {"stage": "train", "runs": {"reviews-train-a0": {"attempt": 0, "percent": 40, "checkpoint": 120}}}
    status = TrainingJobStatus.model_validate({**life.job.status.manifest(), "progress": progress})
    life.job = life.job.model_copy(update={"status": status})
    life.pass_time(seconds=601)
    life.settle()

    assert life.job.status.failure.message == (
        "The job has worked longer than the 600 s that it may. The checkpoint of step 120 is kept."
    )


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [
        ("prepare", "Raise resources.perNode.memory."),
        ("train", "Raise resources.perNode.memory, or lower training.microBatchSize or dataset.maxLength."),
    ],
)
def test_the_remedy_for_too_little_memory_is_one_that_helps_the_stage(stage: str, remedy: str):
    life = world()
    life.complete(*{"prepare": (), "train": ("prepare",)}[stage])
    life.put(ended_pod(life.job, stage, code=137, why="OOMKilled"))

    assert life.job.status.failure.remedy == remedy


def test_waiting_for_pods_does_not_use_up_the_deadline():
    life = world(retry={"deadlineSeconds": 600})
    life.pass_time(hours=5)
    life.settle()

    assert life.job.status.phase == "Pending"


@pytest.mark.parametrize(
    ("spec", "reason", "remedy"),
    [
        (
            {"resources": {"nodes": 3}},
            "BatchDoesNotDivide",
            "Set training.batchSize to 30 or 33.",
        ),
        (
            {"training": {"batchSize": 6, "microBatchSize": 4}},
            "BatchDoesNotDivide",
            "Set training.batchSize to 4 or 8.",
        ),
        (
            {"evaluation": {"metric": "perplexity"}},
            "MetricDoesNotSuit",
            "Set evaluation.metric to loss, accuracy, precision, recall, f1 or mcc.",
        ),
        (
            {"training": {"precision": "fp16"}},
            "PrecisionNeedsAccelerator",
            "Ask for an accelerator, or leave training.precision out.",
        ),
        (
            {
                "dataset": {
                    "train": {
                        "sources": [{"uris": [f"pvc://data/{i}/{'x' * 480}" for i in range(64)]} for _ in range(4)]
                    }
                }
            },
            "SpecTooLarge",
            "Name folders or globs instead of single files.",
        ),
    ],
)
def test_a_spec_that_cannot_work_is_refused_before_anything_starts(spec: dict[str, object], reason: str, remedy: str):
    plan = reconcile(trainingjob(**spec), Observed(), NOON, SETTINGS)

    assert plan.create == ()
    assert (plan.status.failure.reason, plan.status.failure.remedy) == (reason, remedy)
    assert {c.type: c.status for c in plan.status.conditions}["Accepted"] == "False"


def test_one_process_is_told_in_the_singular():
    plan = reconcile(trainingjob(training={"batchSize": 8, "microBatchSize": 3}), Observed(), NOON, SETTINGS)

    assert plan.status.failure.message == "training.batchSize 8 does not divide into 1 process with 3 rows on each."


def test_a_condition_keeps_its_time_until_it_flips():
    life = training()
    before = {c.type: c.last_transition_time for c in life.job.status.conditions}
    life.pass_time(minutes=5)
    life.put(succeeded_pod(life.job, "train"))

    after = {c.type: c.last_transition_time for c in life.job.status.conditions}
    assert before == after


def test_reconciling_what_is_settled_changes_nothing():
    life = training()
    before = life.job.status
    life.pass_time(minutes=1)
    plan = life.reconcile()

    assert plan.status == before
    assert (plan.create, plan.delete, plan.events) == ((), (), ())


def test_events_tell_the_story_once():
    life = training()
    life.put(ended_pod(life.job, "train", code=1, message=said("train", checkpoint=800, failure=KILLED)))

    assert life.events == [
        ("Normal", "Started"),
        ("Normal", "StageCompleted"),
        ("Normal", "Started"),
        ("Warning", "Restarting"),
    ]


def test_a_policy_judges_a_job_before_it_begins_and_never_again():
    life = training()
    stricter = life.job.model_copy(
        update={
            "spec": life.job.spec.model_copy(update={"training": trainingjob(training={"batchSize": 7}).spec.training})
        }
    )
    life.job = stricter.model_copy(
        update={
            "spec": stricter.spec.model_copy(update={"resources": trainingjob(resources={"nodes": 3}).spec.resources})
        }
    )
    life.settle()

    assert (life.job.status.phase, life.deleted) == ("Running", [])


def test_what_still_runs_of_a_failed_job_is_deleted():
    life = training(resources={"nodes": 2})
    life.put(ended_pod(life.job, "train", index=1, code=1, message=said("train", failure=DATA)))

    assert (life.job.status.phase, life.deleted) == ("Failed", ["reviews-train-a0"])


def test_the_pods_of_a_failed_job_that_have_ended_stay_to_be_looked_at():
    life = training()
    life.put(ended_pod(life.job, "train", code=1, message=said("train", failure=DATA)))

    assert (life.job.status.phase, life.deleted) == ("Failed", [])


def test_a_run_that_ended_long_before_that_was_noticed_has_not_worked_since():
    life = training(retry={"deadlineSeconds": 600})
    life.pass_time(hours=9)
    life.put(ended_pod(life.job, "train", code=1, message=said("train", checkpoint=100, failure=KILLED)))

    assert life.job.status.phase == "Restarting"
    assert life.job.status.runs[1].finished_at == NOON


def test_stops_that_the_owner_asked_for_do_not_count_as_vain():
    life = training()
    for attempt in range(4):
        life.put(running_pod(life.job, "train", attempt))
        life.job = life.job.model_copy(update={"spec": life.job.spec.model_copy(update={"suspend": True})})
        life.settle()
        life.job = life.job.model_copy(update={"spec": life.job.spec.model_copy(update={"suspend": False})})
        life.settle()
    life.put(running_pod(life.job, "train", 4))
    life.put(ended_pod(life.job, "train", 4, code=143, message=said("train", 4, stopped={"signal": "SIGTERM"})))

    assert life.job.status.phase == "Restarting"


def test_a_second_attempt_at_the_data_begins_at_0_percent():
    life = world()
    progress = {"stage": "prepare", "runs": {"reviews-prepare-a0": {"attempt": 0, "percent": 80}}}
    life.job = life.job.model_copy(
        update={"status": TrainingJobStatus.model_validate({**life.job.status.manifest(), "progress": progress})}
    )
    life.put(running_pod(life.job, "prepare"))
    life.put(ended_pod(life.job, "prepare", code=137, why="Error"))

    assert life.job.status.progress.runs["reviews-prepare-a1"].percent == 0


def test_a_metric_of_nothing_is_shown():
    life = world()
    life.complete("prepare")
    life.settle()
    nothing = {"best": {"step": 1, "metric": "mcc", "value": 0.0}}
    life.put(running_pod(life.job, "train"))
    life.put(ended_pod(life.job, "train", message=said("train", result=nothing)))

    assert life.job.status.display.metric == "mcc=0.00"


QUOTA = Refusal("Forbidden", "Job reviews-prepare-a0 does not fit the namespace's quota: exceeded quota: cpu.")
INVALID = Refusal("Invalid", "Kubernetes refused Job reviews-prepare-a0: spec.template: wrong.", is_final=True)


def test_a_child_that_is_refused_is_asked_for_again_and_the_status_says_why():
    job = world().job
    plan = reconcile(job, Observed(refused={Ref("Job", "reviews-prepare-a0"): QUOTA}), NOON, SETTINGS)

    assert [Ref.of(child) for child in plan.create] == [("Job", "reviews-prepare-a0")]
    assert (plan.status.phase, plan.status.display.reason) == ("Pending", f"Forbidden: {QUOTA.message}"[:120])
    assert plan.events == (("Warning", "Forbidden", QUOTA.message),)


def test_a_child_that_would_always_be_refused_fails_the_job():
    job = world().job
    plan = reconcile(job, Observed(refused={Ref("Job", "reviews-prepare-a0"): INVALID}), NOON, SETTINGS)

    assert plan.create == ()
    assert (plan.status.phase, plan.status.failure.message) == ("Failed", INVALID.message)


def test_a_failed_workload_whose_pods_say_nothing_is_lost_after_a_minute_even_if_one_of_them_runs_on():
    life = training(resources={"nodes": 2})
    ref = Ref("PyTorchJob", "reviews-train-a0")
    ended = {"type": "Failed", "status": "True", "reason": "PyTorchJobFailed", "lastTransitionTime": NOON.isoformat()}
    life.children[ref] = {**life.children[ref], "status": {"conditions": [ended]}}
    life.settle()
    at_first = life.job.status.phase
    life.pass_time(seconds=61)
    life.settle()

    assert (at_first, life.job.status.phase, life.deleted) == ("Running", "Restarting", ["reviews-train-a0"])


def test_the_page_of_failure_classes_is_the_one_that_the_table_makes():
    assert (Path(__file__).parents[2] / "docs/failures.md").read_text() == table(), "run `make crds`"
