"""A service waits for a model, serves it, follows its source as it was told to, and says what is wrong."""

from __future__ import annotations

from datetime import timedelta

import pytest

from builders import NOON
from lmops.plan import Manifest, Refusal
from lmops.serving.inferenceservice import REVISION
from serving.builders import (
    ISVC,
    URL,
    A,
    B,
    C,
    after,
    child,
    crashed,
    digests,
    holds,
    job,
    kept,
    last_words,
    model,
    pod,
    service,
    serving,
    told,
)

PENDING = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available."}


def waiting(ready_pod: Manifest, word: str, sentence: str = "") -> Manifest:
    """A pod that does not start."""
    state = {"waiting": {"reason": word, "message": sentence}}
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": NOON.isoformat()}]
    status = {"phase": "Pending", "conditions": conditions, "containerStatuses": [{"state": state}]}
    return {**ready_pod, "status": status}


def test_a_service_waits_for_the_first_model_in_words():
    plan = after(service())

    sentence = "QuantizeJob small is not there: apply it in this namespace."
    assert (plan.apply, plan.status.phase, plan.status.display.reason) == ((), "Pending", sentence)
    assert told(plan, "Following") == ("False", "SourceMissing", sentence)
    assert (holds(plan)["Accepted"], holds(plan)["Ready"], holds(plan)["Stalled"]) == ("True", "Unknown", "False")
    assert [(event.type, event.reason) for event in plan.events] == [("Normal", "SourceMissing")]
    assert plan.again == timedelta(seconds=60)


def test_a_model_at_hand_is_served_at_once():
    plan = after(service(model={"from": {"uri": "pvc://models/minilm"}}))

    (written,) = plan.apply
    assert (written["kind"], written["metadata"]["name"]) == ("InferenceService", "reviews")
    assert "uid" not in written["metadata"]
    assert (plan.status.phase, plan.status.rollout.state) == ("Starting", "InProgress")
    assert "Following" not in holds(plan)


def test_it_serves_only_once_somebody_can_be_told_where():
    starts = kept(service(), after(service(), job(A)))

    plan = after(starts, job(A), child(starts, A, address={}), pod(starts, A))

    assert (plan.status.phase, plan.status.url, holds(plan)["Ready"]) == ("Starting", None, "Unknown")
    assert plan.status.display.reason == "1 of 1 replicas is ready. KServe has not told yet where they are asked."


def test_it_starts_serves_and_then_rests():
    new = service()
    starts = kept(new, after(new, job(A)))
    there = (job(A), child(starts, A))

    loads = after(starts, *there, pod(starts, A, ready=False))
    assert (loads.apply, loads.status.phase, loads.status.url) == ((), "Starting", URL)
    assert loads.status.display.reason == "aaaaaaaaaaaa is being loaded: 0 of 1 replicas are ready."

    serves = after(starts, *there, pod(starts, A))
    assert (serves.status.phase, serves.status.model, serves.status.history) == ("Serving", model(A), [model(A)])
    assert serves.status.display.manifest() == {
        "model": "aaaaaaaaaaaa", "replicas": "1/1", "load": "", "reason": "",
    }  # fmt: skip
    assert holds(serves) == {
        "Accepted": "True",
        "Ready": "True",
        "Progressing": "False",
        "Degraded": "False",
        "Reconciling": "False",
        "Stalled": "False",
        "Following": "True",
    }
    assert [event.reason for event in serves.events] == ["RolloutComplete"]

    rests = after(kept(starts, serves), *there, pod(starts, A), now=NOON + timedelta(hours=1))
    assert (rests.apply, rests.events, rests.status) == ((), (), serves.status)


def test_a_newer_model_takes_over_once_its_replicas_are_ready():
    old = serving(A)
    there = (job(B), child(old, A), pod(old, A))

    rolls = after(old, *there)
    assert (digests(rolls), rolls.apply[0]["metadata"]["uid"]) == ([B], "u-isvc")
    assert (rolls.status.phase, rolls.status.model, rolls.status.rollout.model) == ("RollingOut", model(A), model(B))
    assert rolls.status.display.model == "aaaaaaaaaaaa > bbbbbbbbbbbb"
    assert [event.message for event in rolls.events] == ["Rolls out bbbbbbbbbbbb."]

    rolling = kept(old, rolls)
    both = after(rolling, job(B), child(rolling, B), pod(rolling, A, "old"), pod(rolling, B, "new"))
    assert (both.status.phase, both.status.model) == ("RollingOut", model(A))

    over = after(rolling, job(B), child(rolling, B), pod(rolling, B, "new"))
    assert (over.status.phase, over.status.model, over.status.history) == ("Serving", model(B), [model(A), model(B)])


@pytest.mark.parametrize(
    ("container", "reason", "sentence"),
    [
        (
            crashed(message=last_words("Model", "WeightsMissing", "The folder has no weights.")),
            "WeightsMissing",
            "The folder has no weights.",
        ),
        (crashed(137, "OOMKilled"), "OOMKilled", "new needed more than its share of memory."),
        (crashed(message="Traceback\nValueError: no"), "ExitCode", "new ended with exit code 1: ValueError: no"),
    ],
)
def test_a_model_that_does_not_come_up_is_told_and_the_old_one_stays(container: Manifest, reason: str, sentence: str):
    old = serving(A)
    rolling = kept(old, after(old, job(B), child(old, A), pod(old, A)))
    there = (job(B), child(rolling, B), pod(rolling, A, "old"))

    fails = after(rolling, *there, pod(rolling, B, "new", ready=False, **container))

    assert (fails.status.phase, fails.status.failure.reason) == ("Degraded", reason)
    assert fails.status.rollout.state == "Failed"
    assert fails.status.rollout.message == (
        f"bbbbbbbbbbbb does not come up: {sentence} aaaaaaaaaaaa goes on to serve: set model.digest to keep it."
    )
    assert (holds(fails)["Ready"], holds(fails)["Degraded"], holds(fails)["Stalled"]) == ("True", "True", "True")
    assert {(event.type, event.reason) for event in fails.events} == {("Warning", "RolloutFailed"), ("Warning", reason)}

    mends = after(kept(rolling, fails), *there, pod(rolling, B, "new"))
    assert (mends.status.failure, mends.status.rollout.state, mends.status.phase) == (None, "InProgress", "RollingOut")
    assert "Recovered" in {event.reason for event in mends.events}


def test_a_first_model_that_does_not_come_up_has_failed():
    new = service()
    starts = kept(new, after(new, job(A)))

    plan = after(starts, job(A), child(starts, A), pod(starts, A, ready=False, **crashed(137, "OOMKilled")))

    assert (plan.status.phase, plan.status.display.reason) == (
        "Failed",
        "OOMKilled: p needed more than its share of memory.",
    )
    assert (holds(plan)["Ready"], holds(plan)["Stalled"]) == ("False", "True")


def test_what_waits_for_a_node_says_so_and_has_not_failed():
    new = service()
    starts = kept(new, after(new, job(A)))
    unscheduled = {**pod(starts, A), "status": {"phase": "Pending", "conditions": [PENDING]}}

    plan = after(starts, job(A), child(starts, A), unscheduled)

    assert (plan.status.phase, plan.status.failure.reason) == ("Starting", "Unschedulable")
    assert "0/3 nodes are available." in plan.status.display.reason
    assert (plan.status.rollout.state, holds(plan)["Stalled"]) == ("InProgress", "False")


def test_an_image_that_cannot_be_had_fails_the_rollout():
    old = serving(A)
    rolling = kept(old, after(old, job(B), child(old, A), pod(old, A)))
    pulls = waiting(pod(rolling, B, "new"), "ErrImagePull", "not found")

    plan = after(rolling, job(B), child(rolling, B), pod(rolling, A, "old"), pulls)

    assert (plan.status.failure.class_, plan.status.failure.reason) == ("Image", "ImagePullBackOff")
    assert (plan.status.phase, plan.status.rollout.state) == ("Degraded", "Failed")


def test_a_slow_volume_is_given_its_time():
    new = service()
    starts = kept(new, after(new, job(A)))
    slow = (job(A), child(starts, A), waiting(pod(starts, A), "ContainerCreating"))

    early, late = after(starts, *slow), after(starts, *slow, now=NOON + timedelta(minutes=3))

    assert (early.status.failure, early.again) == (None, timedelta(minutes=2))
    assert late.status.failure.reason == "ContainerCreating"


def test_kserves_own_words_are_told_where_it_makes_no_pods():
    new = service()
    starts = kept(new, after(new, job(A)))
    said = {"type": "PredictorReady", "status": "False", "reason": "ReplicaFailure", "message": "exceeded quota"}
    held = child(starts, A, conditions=[{**said, "lastTransitionTime": NOON.isoformat()}])

    assert after(starts, job(A), held).status.failure is None
    late = after(starts, job(A), held, now=NOON + timedelta(minutes=1))
    assert (late.status.failure.reason, late.status.failure.message) == ("ReplicaFailure", "exceeded quota")


def test_what_would_not_make_the_pods_is_told_in_its_own_words():
    old = serving(A)
    rolling = kept(old, after(old, job(B), child(old, A), pod(old, A)))
    obstacle = Refusal("FailedCreate", "exceeded quota: small, requested: limits.memory=8Gi")

    plan = after(rolling, job(B), child(rolling, B), pod(rolling, A), obstacles={ISVC: obstacle})

    assert (plan.status.phase, plan.status.failure.class_, plan.status.failure.reason) == (
        "Degraded",
        "Unschedulable",
        "FailedCreate",
    )
    assert "InferenceService reviews has no pods: exceeded quota: small" in plan.status.rollout.message
    assert plan.status.rollout.message.endswith("With rollout.surge 0 an old replica makes room first.")


def test_a_replica_that_is_lost_later_is_no_rollout():
    one = serving(A, scaling={"minReplicas": 2})
    starts = (job(A), child(one, A))
    two = kept(one, after(one, *starts, pod(one, A, "p"), pod(one, A, "q")))

    plan = after(two, *starts, pod(two, A, "p"), pod(two, A, "q", ready=False, **crashed(137, "OOMKilled")))

    assert (plan.status.phase, plan.status.rollout.state, plan.status.display.replicas) == (
        "Degraded",
        "Complete",
        "1/2",
    )
    assert plan.status.model == model(A)


def test_an_evicted_pod_has_a_successor_and_is_no_trouble():
    old = serving(A)
    state = {"terminated": {"exitCode": 137, "reason": "Error"}}
    status = {"phase": "Failed", "reason": "Evicted", "containerStatuses": [{"state": state}]}
    evicted = {**pod(old, A, "gone"), "status": status}

    plan = after(old, job(A), child(old, A), evicted, pod(old, A, "next"))

    assert (plan.status.phase, plan.status.failure) == ("Serving", None)


def test_a_source_that_is_gone_leaves_the_service_running():
    old = serving(A)

    plan = after(old, child(old, A), pod(old, A))

    assert (plan.apply, plan.status.phase, plan.status.model) == ((), "Serving", model(A))
    assert told(plan, "Following")[:2] == ("False", "SourceMissing")
    assert holds(plan)["Ready"] == "True"


def test_a_newest_source_that_is_gone_leads_nobody_back_to_an_older_one():
    follows = service(model={"from": {"quantizeJob": {"selector": {"matchLabels": {"app": "reviews"}}}}})
    older, newer = job(A, "first", at=10, app="reviews"), job(B, "second", at=11, app="reviews")
    serves = kept(follows, after(follows, older, newer))

    plan = after(serves, older)

    assert plan.status.rollout.model == model(B, "second", at=11)
    assert told(plan, "Following")[:2] == ("False", "SourceMissing")
    assert told(plan, "Following")[2].startswith("QuantizeJob second is gone, its model stays; aaaaaaaaaaaa of ")
    newest = after(serves, older, job(C, "third", at=12, app="reviews"))
    assert newest.status.rollout.model == model(C, "third", at=12)


def test_a_job_that_is_named_is_served_though_it_is_older():
    named, older = ({"from": {"quantizeJob": {"name": name}}} for name in ("second", "first"))
    serves = kept(service(model=named), after(service(model=named), job(B, "second", at=11)))
    renamed = serves.model_copy(update={"spec": service(model=older).spec})

    plan = after(renamed, job(A, "first", at=10))

    assert plan.status.rollout.model == model(A, "first", at=10)


def test_what_was_wrong_with_the_pods_of_before_is_not_said_of_those_that_follow():
    old = service(model={"from": {"uri": "pvc://models/none"}})
    broken = pod(old, A, ready=False, **crashed())
    broken["metadata"]["labels"][REVISION] = "before"
    mended = service({"observedGeneration": 1}, model={"from": {"uri": "pvc://models/some"}})

    plan = after(mended, broken)

    assert (plan.status.rollout.state, plan.status.phase) == ("InProgress", "Starting")
    assert not [event for event in plan.events if event.type == "Warning"]


def test_a_manual_rollout_waits_for_its_approval_and_says_how():
    old = serving(A, rollout={"strategy": "Manual"})

    plan = after(old, job(B), child(old, A), pod(old, A))

    sentence = f"bbbbbbbbbbbb of QuantizeJob small waits to be approved: set model.digest to {B}"
    assert (plan.apply, plan.status.phase, plan.status.model) == ((), "Serving", model(A))
    assert told(plan, "Following") == ("False", "AwaitingApproval", sentence)
    assert plan.status.display.reason == "bbbbbbbbbbbb waits to be approved: describe says how to have it"
    assert [event.reason for event in plan.events] == ["AwaitingApproval"]


def test_a_digest_approves_and_pins():
    pinned = {"model": {"from": {"quantizeJob": {"name": "small"}}, "digest": B}, "rollout": {"strategy": "Manual"}}
    old = serving(A, rollout={"strategy": "Manual"})
    approved = service(old.status.manifest(), **pinned)

    plan = after(approved, job(B), child(old, A), pod(old, A))
    assert (digests(plan), told(plan, "Following")[:2]) == ([B], ("True", "Newest"))

    later = after(kept(approved, plan), job(C), child(approved, B), pod(approved, B))
    assert (later.apply, told(later, "Following")[:2]) == ((), ("False", "Pinned"))
    assert C in told(later, "Following")[2]


def test_a_digest_leads_back_to_a_model_that_was_served_before():
    old = serving(A)
    rolling = kept(old, after(old, job(B), child(old, A), pod(old, A)))
    newer = kept(rolling, after(rolling, job(B), child(rolling, B), pod(rolling, B)))
    back = service(newer.status.manifest(), model={"from": {"quantizeJob": {"name": "small"}}, "digest": A})

    plan = after(back, job(B), child(newer, B), pod(newer, B))

    assert (digests(plan), plan.status.rollout.model.digest) == ([A], A)


def test_a_digest_that_nobody_knows_changes_nothing():
    old = serving(A)
    wrong = service(old.status.manifest(), model={"from": {"quantizeJob": {"name": "small"}}, "digest": C})

    plan = after(wrong, job(A), child(old, A), pod(old, A))

    assert (plan.apply, plan.status.model) == ((), model(A))
    assert told(plan, "Following") == (
        "False",
        "DigestUnknown",
        "There is no model of digest sha256:cccccccccccc: no job that it follows has made it, and it was not served"
        " before. Correct model.digest, or name its folder with model.from.uri.",
    )


def test_of_several_jobs_the_newest_good_one_is_followed():
    new = service(model={"from": {"quantizeJob": {"selector": {"matchLabels": {"team": "nlp"}}}}})
    jobs = (
        job(A, "one", at=10, team="nlp"),
        job(B, "two", at=12, team="nlp"),
        job(C, "three", at=14, team="other"),
        job(C, "four", "Failed", at=14, team="nlp"),
    )

    assert digests(after(new, *jobs)) == [B]


def test_another_setting_replaces_replicas_and_the_number_of_them_does_not():
    old = serving(A)
    there = (job(A), child(old, A), pod(old, A))
    wider = service(old.status.manifest(), scaling={"minReplicas": 2})
    other = service(old.status.manifest(), generation={"maxNewTokens": 8})

    scales, rolls = after(wider, *there), after(other, *there)

    assert scales.apply[0]["spec"]["predictor"]["labels"] == child(old, A)["spec"]["predictor"]["labels"]
    assert (scales.status.phase, scales.status.rollout.state) == ("Serving", "Complete")
    assert (rolls.status.phase, rolls.status.rollout.state, rolls.status.model) == (
        "RollingOut",
        "InProgress",
        model(A),
    )


def test_what_somebody_edits_is_written_again_and_what_others_add_stays():
    old = serving(A)
    edited, added = child(old, A), child(old, A)
    edited["spec"] = {"predictor": {**edited["spec"]["predictor"], "minReplicas": 5}}
    added["metadata"]["annotations"] = {**added["metadata"]["annotations"], "team": "nlp"}

    assert after(old, job(A), edited, pod(old, A)).apply[0]["spec"]["predictor"]["minReplicas"] == 1
    assert after(old, job(A), added, pod(old, A)).apply == ()


def test_what_is_no_longer_wanted_is_written_away():
    keyed = serving(A, pod={"nodeSelector": {"disk": "ssd"}})
    plain = service(keyed.status.manifest())

    (written,) = after(plain, job(A), child(keyed, A), pod(keyed, A)).apply

    assert "nodeSelector" not in written["spec"]["predictor"]


def test_a_child_that_is_leaving_is_waited_for():
    old = serving(A)
    leaving = child(old, A)
    leaving["metadata"]["deletionTimestamp"] = NOON.isoformat()

    assert after(old, job(B), leaving, pod(old, A)).apply == ()


def test_what_the_server_refuses_is_told_and_tried_again():
    refusal = Refusal("NotFound", "InferenceServices are unknown here: install KServe (0.20).")

    plan = after(service(), job(A), refused={ISVC: refusal})

    assert (len(plan.apply), plan.status.phase, plan.status.display.reason) == (1, "Pending", refusal.message)
    assert told(plan, "Progressing") == ("True", "NotFound", refusal.message)


def test_an_update_that_is_refused_leaves_what_serves_as_it_is():
    old = serving(A)
    refusal = Refusal("InternalError", "failed calling webhook: connection refused")

    plan = after(old, job(B), child(old, A), pod(old, A), refused={ISVC: refusal})

    assert (plan.status.phase, plan.status.model, plan.status.display.replicas) == ("Degraded", model(A), "1/1")
    assert (holds(plan)["Accepted"], holds(plan)["Ready"], holds(plan)["Degraded"]) == ("True", "True", "True")
    assert plan.status.display.reason == "InternalError: failed calling webhook: connection refused"
    assert digests(plan) == [B]


def test_a_spec_that_no_process_could_be_told_is_refused():
    plan = after(service(generation={"chatTemplate": "$" * 16_384}, model={"from": {"uri": "pvc://models/a"}}))

    assert (plan.apply, plan.status.phase, plan.status.failure.reason) == ((), "Failed", "SpecTooLarge")
    assert (holds(plan)["Accepted"], holds(plan)["Stalled"]) == ("False", "True")

    old = serving(A)
    edited = service(old.status.manifest(), generation={"chatTemplate": "$" * 16_384})
    later = after(edited, job(A), child(old, A), pod(old, A))
    assert (later.apply, later.status.phase, holds(later)["Accepted"], holds(later)["Ready"]) == (
        (),
        "Degraded",
        "False",
        "True",
    )
