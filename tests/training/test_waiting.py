"""State in, Plan out: queues, pods that cannot start, groups that lose a pod, and runs that stand still."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from builders import NOON, SETTINGS, World, ended_pod, pod, reconcile, running_pod, said, trainingjob
from lmops.api import TrainingJobStatus
from lmops.jobs.reconcile import is_settled
from lmops.plan import Manifest, Observed, Ref
from lmops.settings import Defaults, Settings

DATA = {"class": "Data", "reason": "UnknownColumn", "message": 'No column "txet".', "remedy": 'Did you mean "text"?'}
TRAINING = Ref("PyTorchJob", "reviews-train-a0")
OWN = {
    "trainer": {"image": "registry.example/t:1", "command": ["torchrun", "train.py"]},
    "model": None,
    "dataset": None,
}


def training(settings: Settings = SETTINGS, **spec: object) -> World:
    """A job whose training was created."""
    world = World(trainingjob(**spec), settings)
    world.settle()
    if not world.job.spec.trainer:
        world.complete("prepare")
    world.settle()
    return world


def at(moment: datetime, pod: Manifest, **metadata: str) -> Manifest:
    """A pod that was created then."""
    return {**pod, "metadata": {**pod["metadata"], "creationTimestamp": moment.isoformat(), **metadata}}


def group(world: World, count: int, **changes: Any) -> list[Manifest]:
    """The running pods of the training, created at noon."""
    return [at(NOON, running_pod(world.job, "train", index=i)) for i in range(count)]


def reported(world: World, **progress: Any) -> None:
    """The training's progress, as the endpoint writes it."""
    told = {"stage": "train", "runs": {TRAINING.name: {"attempt": 0, **progress}}}
    status = TrainingJobStatus.model_validate({**world.job.status.manifest(), "progress": told})
    world.job = world.job.model_copy(update={"status": status})


# Queues


def held(world: World, suspend: bool = True) -> None:
    """Kueue holds the training back, or lets it go."""
    child = world.children[TRAINING]
    policy = {**child["spec"]["runPolicy"], "suspend": suspend}
    world.children[TRAINING] = {**child, "spec": {**child["spec"], "runPolicy": policy}}


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_every_run_of_a_job_with_a_queue_is_born_held_back(stage: str):
    world = World(trainingjob(queueName="gpu"))
    plan = world.reconcile()
    if stage == "train":
        world = training(queueName="gpu")
        (child,) = [child for ref, child in world.children.items() if ref == TRAINING]
    else:
        (child,) = plan.create

    assert child["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert (child["spec"] if stage == "prepare" else child["spec"]["runPolicy"])["suspend"] is True


def test_a_run_that_waits_in_its_queue_says_in_which():
    world = training(queueName="gpu")

    assert (world.job.status.phase, world.job.status.display.reason) == ("Queued", "waits in queue gpu")
    assert world.events[-1] == ("Normal", "Queued")


def test_time_in_a_queue_does_not_use_up_the_deadline():
    world = training(queueName="gpu", retry={"deadlineSeconds": 60})
    world.pass_time(days=3)
    world.settle()

    assert world.job.status.phase == "Queued"


def test_a_run_that_its_queue_admits_runs():
    world = training(queueName="gpu")
    held(world, False)
    world.put(*group(world, 1))

    assert world.job.status.phase == "Running"


def test_a_run_that_gives_its_place_back_is_an_uncounted_attempt_that_queues_again():
    world = training(queueName="gpu")
    held(world, False)
    world.put(*group(world, 1))
    reported(world, step=120, checkpoint=100)
    held(world)
    world.pods.clear()
    world.settle()

    row = world.job.status.runs[1]
    assert (row.state, row.reason, row.checkpoint) == ("Stopped", "ReturnedToQueue", 100)
    assert (world.created[-1], world.job.status.phase) == ("reviews-train-a1", "Queued")
    assert world.job.status.restarts == 0


def test_a_queued_run_is_removed_when_its_owner_suspends_the_job():
    world = training(queueName="gpu")
    world.job = world.job.model_copy(update={"spec": world.job.spec.model_copy(update={"suspend": True})})
    world.settle()

    assert (world.job.status.phase, world.deleted) == ("Suspended", ["reviews-train-a0"])


def test_the_operators_queue_holds_for_jobs_that_name_none():
    settings = Settings(defaults=Defaults(queue_name="shared"))
    plan = reconcile(trainingjob(), Observed(), NOON, settings)

    assert plan.create[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "shared"


# Pods that cannot start


def waiting(world: World, reason: str, message: str = "in the kubelet's words") -> Manifest:
    """A pod of the training that waits since noon."""
    state = {"waiting": {"reason": reason, "message": message}}
    return at(NOON, pod(world.job, "train", phase="Pending", containerStatuses=[{"state": state}]))


def unschedulable(world: World) -> Manifest:
    """A pod of the training that no node takes since noon."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no GPU"}
    return at(NOON, pod(world.job, "train", phase="Pending", conditions=[condition]))


def test_a_wait_for_a_node_is_not_counted_against_an_image():
    world = training()
    pod = waiting(world, "ErrImagePull")
    world.pass_time(hours=2)
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": world.now.isoformat()}
    world.put({**pod, "status": {**pod["status"], "conditions": [scheduled]}})

    assert world.job.status.phase == "Pending"


def test_an_image_that_cannot_be_had_fails_the_job_after_a_quarter_of_an_hour():
    world = training()
    world.put(waiting(world, "ImagePullBackOff"))
    plan = world.reconcile()
    world.pass_time(minutes=15)
    world.settle()

    assert plan.again == timedelta(minutes=15)
    assert (world.job.status.failure.class_, world.job.status.failure.reason) == ("Image", "ImagePullBackOff")
    assert world.job.status.failure.message == "reviews-train-a0-0 could not start: in the kubelet's words."
    assert (world.job.status.phase, world.deleted) == ("Failed", ["reviews-train-a0"])


def test_a_kubelet_that_pulls_in_vain_is_quoted_once():
    world = training()
    for word, told in [("ErrImagePull", "not found"), ("ImagePullBackOff", "Back-off"), ("ErrImagePull", "not found")]:
        world.put(waiting(world, word, told))

    assert world.job.status.display.reason == "ImagePullBackOff: not found"
    assert world.events.count(("Warning", "ImagePullBackOff")) == 1


def test_a_claim_that_is_not_there_is_no_want_of_nodes():
    world = training(retry={"pendingSeconds": 60})
    pod = unschedulable(world)
    pod["status"]["conditions"][0]["message"] = 'persistentvolumeclaim "data" not found'
    world.put(pod)
    world.pass_time(seconds=60)
    world.settle()

    assert world.job.status.failure.class_ == "Volume"
    assert world.events.count(("Warning", "Unschedulable")) == 2  # while it waits, and when it fails


def test_a_node_is_waited_for_as_long_as_it_takes():
    world = training()
    world.put(unschedulable(world))
    world.pass_time(days=9)
    world.settle()

    assert (world.job.status.phase, world.job.status.display.reason) == ("Pending", "Unschedulable: 0/3 nodes: no GPU")


@pytest.mark.parametrize(
    ("made", "class_"),
    [
        (unschedulable, "Unschedulable"),
        (lambda world: waiting(world, "CreateContainerConfigError", 'secret "hub" not found'), "Credentials"),
        (lambda world: waiting(world, "CreateContainerConfigError", "image has non-numeric user"), "Settings"),
        (lambda world: at(NOON, pod(world.job, "train", phase="Pending")), "Volume"),
    ],
)
def test_who_does_not_want_to_wait_says_how_long(made: Any, class_: str):
    world = training(retry={"pendingSeconds": 60})
    world.put(made(world))
    world.pass_time(seconds=60)
    world.settle()

    assert (world.job.status.phase, world.job.status.failure.class_) == ("Failed", class_)


# Groups that lose a pod


def test_a_pod_that_was_deleted_and_replaced_ends_the_attempt():
    world = training(resources={"nodes": 2})
    first, second = group(world, 2)
    world.put(first, second)
    reported(world, step=120, checkpoint=100)
    later = NOON + timedelta(seconds=30)
    world.put(at(later, pod(world.job, "train", index=1, phase="Pending")))

    row = world.job.status.runs[1]
    assert (row.state, row.reason, row.checkpoint) == ("Failed", "PodDeleted", 100)
    assert row.message == "reviews-train-a0-1 was deleted while it ran, and another pod has taken its place."
    assert world.job.status.display.reason == "PodDeleted: restart 1 of 3 from step 100, 20 steps lost"
    assert world.created[-1] == "reviews-train-a1"


def test_a_pod_that_is_gone_ends_the_attempt():
    world = training(resources={"nodes": 2})
    world.put(*group(world, 2))
    world.pods.pop("reviews-train-a0-1")
    world.settle()

    assert world.job.status.runs[1].message == "A pod was deleted while it ran: 1 of 2 are left."


def test_a_group_that_was_never_complete_takes_a_late_pod_in():
    world = training(resources={"nodes": 2})
    world.put(*group(world, 1))
    world.put(at(NOON + timedelta(minutes=5), running_pod(world.job, "train", index=1)))

    assert (world.job.status.phase, world.job.status.display.nodes) == ("Running", "2/2")


def test_a_pod_that_is_told_to_go_may_save_its_checkpoint_first():
    world = training(resources={"nodes": 2})
    first, second = group(world, 2)
    world.put(first, second)
    world.put(at(NOON, second, deletionTimestamp=(NOON + timedelta(seconds=60)).isoformat()))
    before = world.job.status.phase
    stopped = said("train", checkpoint=130, stopped={"signal": "SIGTERM", "step": 130})
    world.put(ended_pod(world.job, "train", index=1, code=143, message=stopped))

    assert before == "Running"
    assert (world.job.status.runs[1].state, world.job.status.runs[1].checkpoint) == ("Stopped", 130)


def test_a_node_that_does_not_answer_is_given_up():
    world = training(resources={"nodes": 2})
    first, second = group(world, 2)
    world.put(first, at(NOON, second, deletionTimestamp=NOON.isoformat()))
    plan = world.reconcile()
    world.pass_time(seconds=121)
    world.settle()

    assert plan.again == timedelta(minutes=2)
    assert world.job.status.runs[1].reason == "NodeLost"


# Runs that stand still


def test_a_run_that_makes_no_step_is_called_hung():
    world = training()
    world.put(*group(world, 1))
    reported(world, step=120, updated_at=(NOON + timedelta(minutes=10)).isoformat())
    early = world.reconcile()
    world.pass_time(minutes=41)
    world.settle()

    assert early.again == timedelta(minutes=40)
    assert (world.job.status.phase, world.events[-1]) == ("Hung", ("Warning", "NoProgress"))
    assert (
        world.job.status.display.reason == "NoProgress: No report since 2026-11-23 12:10:00 UTC. It stands at step 120."
    )


def test_a_hung_run_that_goes_on_is_well_again():
    world = training()
    world.put(*group(world, 1))
    reported(world, step=0, updated_at=NOON.isoformat())
    world.pass_time(minutes=31)
    world.settle()
    hung = world.job.status.phase
    reported(world, step=1, updated_at=world.now.isoformat())
    world.settle()

    assert (hung, world.job.status.phase, world.job.status.display.reason) == ("Hung", "Running", "")


def test_a_run_that_stays_hung_is_lost_and_starts_again_from_its_checkpoint():
    world = training()
    world.put(*group(world, 1))
    reported(world, step=120, checkpoint=100, updated_at=NOON.isoformat())
    world.pass_time(minutes=61)
    world.settle()

    row = world.job.status.runs[1]
    assert (row.state, row.reason, row.checkpoint) == ("Failed", "NoProgress", 100)
    assert (world.created[-1], world.job.status.restarts) == ("reviews-train-a1", 1)


def test_a_pod_that_waits_is_not_called_hung():
    world = training(resources={"nodes": 2})
    world.put(*group(world, 1))
    world.pass_time(hours=5)
    world.settle()

    assert world.job.status.phase == "Running"


def test_a_run_that_has_never_reported_is_not_called_hung():
    world = training()
    world.put(*group(world, 1))
    world.pass_time(hours=5)
    world.settle()

    assert world.job.status.phase == "Running"


def test_the_silence_of_a_time_in_which_nobody_listened_means_nothing():
    world = training()
    world.put(*group(world, 1))
    reported(world, step=120, updated_at=NOON.isoformat())
    world.pass_time(hours=2)
    there = Observed(dict(world.children), tuple(world.pods.values()), since=world.now)
    plan = reconcile(world.job, there, world.now, SETTINGS)

    assert (plan.status.phase, plan.again) == ("Running", timedelta(minutes=30))


def test_a_run_is_not_hung_before_all_its_pods_have_begun():
    world = training(resources={"nodes": 2}, retry={"hungAfterSeconds": 60})
    first, second = group(world, 2)
    world.put(first)
    reported(world, step=0, updated_at=NOON.isoformat())
    world.pass_time(minutes=3)
    begun = {"state": {"running": {"startedAt": world.now.isoformat()}}}
    world.put({**second, "status": {"phase": "Running", "containerStatuses": [begun]}})

    assert world.job.status.phase == "Running"


# A trainer of the user's own


def own(world: World, *phases: str) -> None:
    """The pods of a trainer of the user's own."""
    world.put(*(at(NOON, pod(world.job, "train", index=i, phase=phase)) for i, phase in enumerate(phases)))


def test_a_trainer_of_the_users_own_trains_and_nothing_else():
    world = training(**OWN)
    world.put(*group(world, 1))
    running = (world.job.status.phase, world.created[:])
    own(world, "Succeeded")

    completed = next(c for c in world.job.status.conditions if c.type == "Complete")
    assert running == ("Running", ["reviews-train-a0"])
    assert completed.message == "The output is at pvc://models/reviews."
    assert (world.job.status.phase, world.job.status.progress.percent, len(world.created)) == ("Succeeded", 100, 1)


def test_it_has_succeeded_when_all_its_pods_have():
    world = training(**OWN, resources={"nodes": 2})
    own(world, "Succeeded", "Running")
    one = world.job.status.phase
    own(world, "Succeeded", "Succeeded")

    assert (one, world.job.status.phase) == ("Running", "Succeeded")


@pytest.mark.parametrize("code", [0, 1, 143])
@pytest.mark.parametrize("by", ["its queue", "somebody"])
def test_its_end_is_no_verdict_when_it_was_told_to_go(code: int, by: str):
    world = training(**OWN, queueName="gpu")
    held(world, False)
    world.put(*group(world, 1))
    if by == "its queue":
        held(world)
    end = at(
        NOON, ended_pod(world.job, "train", code=code), deletionTimestamp=(NOON + timedelta(minutes=1)).isoformat()
    )
    world.pods[end["metadata"]["name"]] = end
    world.reconcile()

    assert (world.job.status.phase, world.job.status.restarts) == ("Restarting", 0)


def test_it_has_not_succeeded_when_a_pod_has_failed():
    world = training(**OWN, resources={"nodes": 2})
    child = world.children[TRAINING]
    child["status"] = {"conditions": [{"type": "Succeeded", "status": "True", "lastTransitionTime": NOON.isoformat()}]}
    world.put(
        at(NOON, pod(world.job, "train", index=1, phase="Succeeded")),
        at(NOON, ended_pod(world.job, "train", code=1, message="OSError: [Errno 28] No space left on device")),
    )

    assert (world.job.status.phase, world.job.status.failure.class_) == ("Failed", "Disk")


def test_what_it_does_not_use_does_not_have_to_suit():
    world = training(**OWN, resources={"nodes": 3})

    assert world.created == ["reviews-train-a0"]


def test_a_rank_that_was_killed_is_tried_again():
    world = training(**OWN)
    world.put(ended_pod(world.job, "train", code=1, message="exitcode: -9\nSignal 9 (SIGKILL) received by PID 42"))

    assert (world.job.status.runs[0].reason, world.created[-1]) == ("RankKilled", "reviews-train-a1")


def test_a_silent_trainer_is_never_called_hung():
    world = training(**OWN)
    world.put(*group(world, 1))
    world.pass_time(hours=5)
    world.settle()

    assert world.job.status.phase == "Running"


def test_its_failure_is_read_from_what_its_pods_left():
    world = training(**OWN)
    world.put(ended_pod(world.job, "train", code=1, message="Traceback\nKeyError: 'labels'"))

    why = world.job.status.failure
    assert (why.class_, why.evidence) == ("Code", ["Traceback", "KeyError: 'labels'"])
    assert why.remedy == "The evidence shows where the program failed."


# What becomes of it all in the end


def finished(**spec: object) -> World:
    """A job that has succeeded."""
    world = World(trainingjob(**spec))
    world.settle()
    world.complete("prepare", "train", "evaluate")
    return world


def test_children_stay_for_as_long_as_the_job_says():
    world = finished(ttlSecondsAfterFinished=60)
    plan = world.reconcile()
    stayed = len(world.children)
    world.pass_time(seconds=60)
    world.settle()

    assert (stayed, plan.again) == (3, timedelta(seconds=60))
    assert (world.children, world.job.status.phase) == ({}, "Succeeded")


@pytest.mark.parametrize(("ttl", "settled"), [(None, True), (60, False)])
def test_a_job_is_settled_when_no_time_runs_any_more(ttl: int | None, settled: bool):
    world = finished(**({} if ttl is None else {"ttlSecondsAfterFinished": ttl}))
    job = {**world.job.manifest(), "metadata": {"generation": 1}}
    there = Observed(world.children)

    assert is_settled(job, there, SETTINGS) is settled
    assert is_settled(job, Observed(), SETTINGS)
    assert not is_settled({**job, "metadata": {"generation": 2}}, Observed(), SETTINGS)
    assert not is_settled(job, there, Settings(defaults=Defaults(ttl_seconds_after_finished=1)))


def test_a_container_that_has_ended_is_not_taken_for_one_that_runs():
    """A kubelet tells of the container a moment before the pod's phase follows."""
    world = training()
    end = ended_pod(world.job, "train", code=1, message=said("train", failure=DATA))
    world.put(at(NOON, {**end, "status": {**end["status"], "phase": "Running"}}))

    assert (world.job.status.phase, world.deleted) == ("Failed", [])


def test_a_job_that_goes_on_after_a_rest_says_where():
    world = training()
    world.put(*group(world, 1))
    reported(world, step=120, checkpoint=100)
    for suspend in (True, False):
        world.job = world.job.model_copy(update={"spec": world.job.spec.model_copy(update={"suspend": suspend})})
        world.settle()

    assert (world.job.status.phase, world.job.status.display.reason) == (
        "Restarting", "Suspended: goes on from step 100"
    )  # fmt: skip


def test_what_could_still_begin_does_not_outlive_a_failed_job():
    world = training(queueName="gpu", retry={"deadlineSeconds": 60})
    job = world.job.model_copy(update={"status": world.job.status.model_copy(update={"phase": "Failed"})})
    plan = reconcile(job, Observed(dict(world.children)), NOON, SETTINGS)

    assert TRAINING in plan.delete


# Volumes and edits


@pytest.mark.parametrize(
    ("nodes", "modes", "phase"),
    [
        (2, {"data": ("ReadWriteMany",), "models": ("ReadWriteOnce",)}, "Failed"),
        (2, {"data": ("ReadWriteMany",), "models": ("ReadWriteMany",)}, "Pending"),
        (2, {}, "Pending"),
        (1, {"data": ("ReadWriteOnce",), "models": ("ReadWriteOnce",)}, "Pending"),
    ],
)
def test_nodes_that_run_at_once_need_a_volume_for_many(nodes: int, modes: dict[str, Any], phase: str):
    job = trainingjob(resources={"nodes": nodes})
    plan = reconcile(job, Observed(modes=modes), NOON, SETTINGS)

    assert plan.status.phase == phase
    if phase == "Failed":
        assert plan.status.failure.message == "2 nodes mount models, which is not ReadWriteMany."


def test_an_edited_label_does_not_count_attempts():
    world = training()
    child = world.children[TRAINING]
    labels = {**child["metadata"]["labels"], "lmops.dev/attempt": "many"}
    world.children[TRAINING] = {**child, "metadata": {**child["metadata"], "labels": labels}}
    world.put(*group(world, 1))

    assert world.job.status.phase == "Running"


def test_words_without_end_are_cut():
    world = training()
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node, " * 999}
    world.put(at(NOON, pod(world.job, "train", phase="Pending", conditions=[condition])))

    assert [len(c.message) for c in world.job.status.conditions if c.type == "Progressing"] == [4096]
    assert (len(world.job.status.display.reason), world.job.status.display.reason[-1]) == (120, "…")


def test_a_failed_job_leaves_no_run_open():
    world = training(retry={"deadlineSeconds": 600})
    world.put(*group(world, 1))
    world.pass_time(seconds=601)
    world.settle()

    assert {run.state for run in world.job.status.runs} == {"Succeeded", "Failed"}


def test_a_failure_that_is_seen_while_a_job_is_suspended_keeps_its_evidence():
    world = training()
    world.put(*group(world, 1))
    world.job = world.job.model_copy(update={"spec": world.job.spec.model_copy(update={"suspend": True})})
    world.put(ended_pod(world.job, "train", code=137, message="Killed"))

    row = world.job.status.runs[1]
    assert (row.reason, row.evidence, world.job.status.phase) == ("PodKilled", ["Killed"], "Suspended")


def test_an_ended_job_has_seen_its_last_edit():
    world = finished()
    metadata = world.job.metadata.model_copy(update={"generation": 7})
    world.job = world.job.model_copy(update={"metadata": metadata})
    world.settle()

    assert world.job.status.observed_generation == 7


def test_a_workload_that_somebody_edited_is_reported_and_stays_as_it_is():
    world = training()
    child = world.children[TRAINING]
    world.children[TRAINING] = {**child, "metadata": {**child["metadata"], "editors": ["kubectl-edit"]}}
    world.put(*group(world, 1))
    world.settle()

    progressing = next(c for c in world.job.status.conditions if c.type == "Progressing")
    assert progressing.message == "1 of 1 pods run. PyTorchJob reviews-train-a0 was edited by kubectl-edit."
    assert world.events.count(("Warning", "Edited")) == 1
    assert world.deleted == []
