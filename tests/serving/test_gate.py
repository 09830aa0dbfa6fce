"""A gated rollout: a candidate proves itself beside the running model, and each step may be cut off and taken again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from builders import NOON, SETTINGS
from lmops.api import Gate, LanguageModelService
from lmops.api.servicestatus import GateFigures
from lmops.kinds import KINDS
from lmops.plan import Manifest, Plan, Ref, Refusal
from lmops.serving.gatejob import ref as job_ref
from lmops.serving.inferenceservice import REVISION, candidate, inferenceservice, revision_of
from serving.builders import (
    ISVC,
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
    serving,
    told,
)
from serving.builders import service as any_service

GATED = {"strategy": "Gated"}
BESIDE = Ref("InferenceService", "reviews-candidate")
ADDRESS = "http://reviews-candidate-predictor.default.svc.cluster.local"
GOOD = {
    "task": "SequenceClassification",
    "rows": 64,
    "requests": 128,
    "errorRatio": 0.0,
    "agreement": 0.97,
    "running": {"p50Ms": 10.0, "p95Ms": 12.0},
    "candidate": {"p50Ms": 11.0, "p95Ms": 12.0},
    "latencyRatio": 1.1,
}
STARTS = "bbbbbbbbbbbb starts beside aaaaaaaaaaaa, which goes on to serve."
COMPARES = "bbbbbbbbbbbb is compared with aaaaaaaaaaaa on the sample in its passport."


def beside(of: LanguageModelService, digest: str = B, **metadata: Any) -> Manifest:
    """The candidate's InferenceService, as KServe answers for it."""
    made = candidate(of, model(digest), SETTINGS)
    return {
        **made,
        "metadata": {**made["metadata"], "uid": "u-beside", **metadata},
        "status": {"address": {"url": ADDRESS}},
    }


def beside_pod(of: LanguageModelService, digest: str = B, ready: bool = True, **container: Any) -> Manifest:
    """The candidate's pod."""
    made = pod(of, digest, "candidate", ready, **container)
    labels = {"lmops.dev/run": BESIDE.name, REVISION: revision_of(candidate(of, model(digest), SETTINGS))}
    return {**made, "metadata": {**made["metadata"], "labels": labels}}


def gate_ref(of: LanguageModelService, digest: str = B) -> Ref:
    """The Job that compares."""
    return job_ref(of, revision_of(inferenceservice(of, model(digest), SETTINGS)))


def gate_job(of: LanguageModelService, digest: str = B, end: str = "", **metadata: Any) -> Manifest:
    """The Job as Kubernetes keeps it."""
    name = gate_ref(of, digest).name
    conditions = [{"type": end, "status": "True", "reason": "Ended", "lastTransitionTime": NOON.isoformat()}]
    status = {"conditions": conditions} if end else {}
    return {"kind": "Job", "metadata": {"name": name, "uid": "u-gate", **metadata}, "spec": {}, "status": status}


def gate_pod(of: LanguageModelService, words: Any, code: int = 0, digest: str = B) -> Manifest:
    """The pod of a gate that has ended with these words."""
    said = words if isinstance(words, str) else json.dumps(words)
    state = {"terminated": {"exitCode": code, "message": said}}
    labels = {"lmops.dev/run": gate_ref(of, digest).name}
    status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"state": state}]}
    return {"kind": "Pod", "metadata": {"name": "gate-1", "labels": labels}, "spec": {}, "status": status}


def running(**spec: Any) -> LanguageModelService:
    """A gated service that has served A for a while."""
    return serving(A, **{"rollout": GATED, **spec})


def main(of: LanguageModelService, digest: str = A) -> tuple[Manifest, ...]:
    """The job that has made B, and what serves A."""
    return job(B), child(of, digest), pod(of, digest)


def starting(**spec: Any) -> LanguageModelService:
    """B was chosen, and its candidate is wanted."""
    old = running(**spec)
    return kept(old, after(old, *main(old)))


def comparing(**spec: Any) -> LanguageModelService:
    """The candidate answers, and the Job is wanted."""
    old = starting(**spec)
    return kept(old, after(old, *main(old), beside(old), beside_pod(old)))


def compared(old: LanguageModelService, words: Any, **container: Any) -> Plan[Any]:
    """What follows from the words of the gate."""
    return after(old, *main(old), beside(old), beside_pod(old), gate_job(old, end="Complete"), gate_pod(old, words))


def passed() -> LanguageModelService:
    """B has passed, and its candidate is still there."""
    old = comparing()
    return kept(old, compared(old, {"figures": GOOD}))


def failed() -> LanguageModelService:
    """B has failed, and its candidate is still there."""
    old = comparing()
    return kept(old, compared(old, {"figures": {**GOOD, "agreement": 0.4}}))


def names(plan: Plan[Any]) -> list[str]:
    """All that the plan writes."""
    return [each["metadata"]["name"] for each in (*plan.apply, *plan.create)]


def test_the_first_model_needs_no_gate():
    plan = after(any_service(rollout=GATED), job(A))

    assert (names(plan), digests(plan), plan.status.rollout.gate) == (["reviews"], [A], None)


def test_a_newer_model_starts_as_a_candidate_of_one_replica_and_the_running_one_stays():
    new = running(scaling={"minReplicas": 3, "maxReplicas": 5})
    replicas = tuple(pod(new, A, name) for name in "pqr")
    old = kept(new, after(new, job(A), child(new, A), *replicas))

    plan = after(old, job(B), child(old, A), *replicas)

    (written,) = plan.apply
    predictor = written["spec"]["predictor"]
    assert (names(plan), digests(plan), plan.delete) == ([BESIDE.name], [B], ())
    assert (predictor["minReplicas"], predictor["maxReplicas"], "scaleMetric" in predictor) == (1, 1, False)
    assert written["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "none"
    assert written["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    assert predictor["labels"]["lmops.dev/run"] == BESIDE.name
    assert (plan.status.phase, plan.status.display.reason, plan.status.display.model) == (
        "Gating",
        STARTS,
        "aaaaaaaaaaaa",
    )
    assert (plan.status.model, plan.status.rollout.model, plan.status.rollout.gate.model) == (
        model(A),
        model(A),
        model(B),
    )
    assert told(plan, "Following") == ("False", "Gating", STARTS)
    assert (holds(plan)["Ready"], holds(plan)["Progressing"], holds(plan)["Stalled"]) == ("True", "True", "False")
    assert [(event.type, event.reason) for event in plan.events] == [("Normal", "GateStarted")]


def test_its_server_is_told_the_same_but_for_the_model():
    old = running()
    documents = [
        json.loads(made["spec"]["predictor"]["containers"][0]["args"][0])
        for made in (inferenceservice(old, model(A), SETTINGS), candidate(old, model(B), SETTINGS))
    ]

    assert documents[0].pop("model") != documents[1].pop("model")
    assert documents[0] == documents[1]


def test_once_it_answers_one_job_asks_both():
    old = starting()

    loads = after(old, *main(old), beside(old), beside_pod(old, ready=False))
    assert (names(loads), loads.status.rollout.gate.state) == ([], "Starting")

    plan = after(old, *main(old), beside(old), beside_pod(old))
    assert (names(plan), plan.status.rollout.gate.state, plan.status.display.reason) == ([], "Comparing", COMPARES)
    assert [event.reason for event in plan.events] == ["Gating"]

    asks = kept(old, plan)
    creates = after(asks, *main(asks), beside(asks), beside_pod(asks))
    (made,) = creates.create
    document = Gate.model_validate_json(made["spec"]["template"]["spec"]["containers"][0]["args"][0])
    assert (made["kind"], made["metadata"]["name"]) == gate_ref(asks)
    assert document.manifest() == {
        "service": {"name": "reviews", "namespace": "default", "uid": "u-3"},
        "running": "http://reviews-predictor.default.svc.cluster.local",
        "candidate": ADDRESS,
        "model": "pvc://models/bbbbbbbbbbbb",
        "rows": [],
        "timeoutSeconds": 300,
    }
    goes_on = after(asks, *main(asks), beside(asks), beside_pod(asks), gate_job(asks))
    assert (names(goes_on), goes_on.delete, goes_on.events) == ([], (), ())


def test_a_gate_has_the_key_and_the_volume_that_it_needs():
    old = comparing(apiKeys={"secretName": "keys"})

    (made,) = after(old, *main(old), beside(old), beside_pod(old)).create

    (main_container,) = made["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in main_container["volumeMounts"]}
    assert {"/volumes/models", "/var/run/lmops/api-keys"} <= mounts
    assert main_container["command"] == ["python", "-m", "lmops_server", "gate"]
    assert made["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_a_candidate_keeps_no_log_of_what_the_gate_asks():
    asked = running(requestLog={"uri": "pvc://logs/reviews"})

    kept_by = [json.dumps(made(asked, model(B), SETTINGS)) for made in (inferenceservice, candidate)]

    assert ["pvc://logs" in each for each in kept_by] == [True, False]
    assert ['"claimName": "logs"' in each for each in kept_by] == [True, False]


def test_passed_the_candidate_goes_and_only_then_the_running_one_is_changed():
    old = comparing()

    plan = compared(old, {"figures": GOOD})
    assert (names(plan), plan.delete, plan.status.rollout.gate.state) == ([], (), "Passed")
    assert plan.status.rollout.gate.figures == GateFigures.model_validate(GOOD)
    assert plan.status.rollout.gate.verdict == (
        "bbbbbbbbbbbb passes beside aaaaaaaaaaaa: 0.0% errors, agreement 0.970, 1.10 times the latency, in 128 requests"
        " of 64 rows."
    )
    assert [event.reason for event in plan.events] == ["GatePassed"]

    over = kept(old, plan)
    goes = after(over, *main(over), beside(over), beside_pod(over), gate_job(over, end="Complete"))
    assert (names(goes), set(goes.delete)) == ([], {BESIDE, gate_ref(over)})

    leaving = beside(over, deletionTimestamp=NOON.isoformat())
    waits = after(over, *main(over), leaving)
    assert (names(waits), waits.delete, waits.status.rollout.model) == ([], (), model(A))

    rolls = after(over, *main(over))
    assert (names(rolls), digests(rolls), rolls.status.rollout.model) == (["reviews"], [B], model(B))
    assert (rolls.status.phase, rolls.status.rollout.gate.state) == ("RollingOut", "Passed")

    rolling = kept(over, rolls)
    done = after(rolling, job(B), child(rolling, B), pod(rolling, B))
    assert (done.status.phase, done.status.model, done.status.display.reason) == ("Serving", model(B), "")
    assert done.status.rollout.gate.figures.agreement == 0.97
    again = after(kept(rolling, done), job(B), child(rolling, B), pod(rolling, B))
    assert (names(again), again.delete, again.events) == ([], (), ())


@pytest.mark.parametrize(
    ("change", "gates", "reason", "sentence"),
    [
        ({"agreement": 0.4}, {}, "Agreement", "agreement is 0.400, and must be at least 0.8"),
        ({"agreement": None}, {}, "Agreement", "agreement was not measured, and must be at least 0.8"),
        ({"agreement": 0.97}, {"minAgreement": 0.99}, "Agreement", "agreement is 0.970, and must be at least 0.99"),
        (
            {"errorRatio": 0.5, "fault": "/v1/classify: Connection refused"},
            {"maxErrorRatio": 0.1},
            "Errors",
            "50.0% of its requests have no answer (/v1/classify: Connection refused), at most 10.0% may",
        ),
        ({"latencyRatio": 3.0}, {}, "Latency", "it takes 3.00 times as long, at most 2 times is allowed"),
        ({"latencyRatio": None}, {}, "Latency", "its latency was not measured"),
        ({"requests": 0}, {}, "NothingMeasured", "nothing was asked that the running model answers"),
        ({"task": "CausalLM", "agreement": 0.1}, {"minAgreement": 0.5}, "Agreement", "agreement is 0.100"),
    ],
)
def test_what_does_not_keep_a_limit_is_refused(change: Any, gates: Any, reason: str, sentence: str):
    old = comparing(rollout={**GATED, "gates": gates})

    plan = compared(old, {"figures": {**GOOD, **change}})

    gate = plan.status.rollout.gate
    assert (gate.state, gate.reason, names(plan), plan.delete) == ("Failed", reason, [], ())
    assert gate.verdict.startswith(f"bbbbbbbbbbbb does not take over from aaaaaaaaaaaa: {sentence}")
    assert [(event.type, event.reason) for event in plan.events] == [("Warning", "GateFailed")]


@pytest.mark.parametrize(
    ("change", "gates"),
    [
        ({"task": "CausalLM", "agreement": 0.01}, {}),
        ({"errorRatio": 0.01}, {"maxErrorRatio": 0.01}),
        ({"latencyRatio": 5.0}, {"maxLatencyRatio": 5}),
        ({"agreement": 0.5}, {"minAgreement": 0.5}),
    ],
)
def test_what_keeps_them_passes(change: Any, gates: Any):
    old = comparing(rollout={**GATED, "gates": gates})

    assert compared(old, {"figures": {**GOOD, **change}}).status.rollout.gate.state == "Passed"


def test_refused_the_running_model_stays_the_candidate_goes_and_is_not_tried_again():
    over = failed()

    goes = after(over, *main(over), beside(over), beside_pod(over), gate_job(over, end="Complete"))
    assert (names(goes), set(goes.delete)) == ([], {BESIDE, gate_ref(over)})
    assert (goes.status.phase, goes.status.model, holds(goes)["Ready"]) == ("Serving", model(A), "True")
    assert (holds(goes)["Stalled"], holds(goes)["Progressing"], holds(goes)["Degraded"]) == ("True", "False", "False")
    assert told(goes, "Following") == (
        "False",
        "GateFailed",
        "bbbbbbbbbbbb does not take over from aaaaaaaaaaaa: agreement is 0.400, and must be at least 0.8. 128 requests"
        f" of 64 rows. aaaaaaaaaaaa stays; another spec tries it again, and model.digest: {B} takes"
        " bbbbbbbbbbbb without a gate.",
    )
    assert [(each.model, each.reason, each.generation) for each in goes.status.refused] == [(model(B), "Agreement", 1)]

    rests = after(kept(over, goes), *main(over), now=NOON + timedelta(hours=1))
    assert (names(rests), rests.delete, rests.events) == ([], (), ())
    assert rests.status.rollout.gate.figures.agreement == 0.4


def edited(of: LanguageModelService, generation: int = 2, **spec: Any) -> LanguageModelService:
    """The same service after an edit."""
    sections = {"model": {"from": {"quantizeJob": {"name": "small"}}}, "rollout": GATED, **spec}
    new = any_service(of.status.manifest(), **sections)
    return new.model_copy(update={"metadata": new.metadata.model_copy(update={"generation": generation})})


def test_another_spec_tries_it_again_once_the_candidate_of_before_is_gone():
    over = edited(failed(), rollout={**GATED, "gates": {"minAgreement": 0.3}})

    waits = after(over, *main(over), beside(over), beside_pod(over, ready=False, **crashed()))
    assert (names(waits), waits.delete, waits.status.phase) == ([], (BESIDE,), "Gating")

    plan = after(over, *main(over))
    assert (names(plan), plan.status.rollout.gate.state) == ([BESIDE.name], "Starting")
    assert plan.status.rollout.gate.figures is None


def test_a_digest_takes_what_was_refused_without_a_gate():
    over = edited(failed(), model={"from": {"quantizeJob": {"name": "small"}}, "digest": B})

    plan = after(over, *main(over))

    assert (names(plan), digests(plan), plan.status.rollout.gate) == (["reviews"], [B], None)


def test_after_one_was_refused_the_next_one_has_its_own_gate():
    over = failed()

    plan = after(over, job(C), child(over, A), pod(over, A), beside(over, B), gate_job(over, B, end="Complete"))

    assert (digests(plan), plan.apply[0]["metadata"]["uid"], plan.delete) == ([C], "u-beside", (gate_ref(over, B),))
    assert (plan.status.rollout.gate.model, plan.status.rollout.gate.state) == (model(C), "Starting")


@pytest.mark.parametrize("before", [starting, comparing])
@pytest.mark.parametrize(
    ("container", "reason", "sentence"),
    [
        (
            crashed(message=last_words("Model", "WeightsMissing", "The folder has no weights.")),
            "WeightsMissing",
            "it does not come up: The folder has no weights.",
        ),
        (
            crashed(137, "OOMKilled"),
            "OOMKilled",
            "it does not come up: candidate needed more than its share of memory.",
        ),
    ],
)
def test_a_candidate_that_crashes_has_failed(before: Callable[[], Any], container: Any, reason: str, sentence: str):
    old = before()

    plan = after(old, *main(old), beside(old), beside_pod(old, ready=False, **container))

    assert (plan.status.phase, plan.status.failure, plan.status.rollout.gate.reason) == ("Serving", None, reason)
    assert plan.status.refused[-1].verdict == f"bbbbbbbbbbbb does not take over from aaaaaaaaaaaa: {sentence}"


def test_a_candidate_without_a_node_waits_and_says_so():
    old = starting()
    pending = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes."}
    waits = {**beside_pod(old), "status": {"phase": "Pending", "conditions": [pending]}}

    plan = after(old, *main(old), beside(old), waits)

    assert (plan.status.phase, plan.status.refused) == ("Gating", [])
    assert plan.status.display.reason == "bbbbbbbbbbbb waits: candidate could not start: 0/3 nodes."


def test_a_candidate_whose_image_cannot_be_had_is_given_time():
    old = starting()
    pulls = beside_pod(old, ready=False, state={"waiting": {"reason": "ErrImagePull", "message": "no route to host"}})
    pulls["status"]["phase"] = "Pending"

    early, late = (
        after(old, *main(old), beside(old), pulls, now=NOON + timedelta(seconds=SETTINGS.image_pull_seconds + more))
        for more in (-20, 0)
    )

    assert (early.status.phase, early.status.refused) == ("Gating", [])
    assert early.status.display.reason == "bbbbbbbbbbbb waits: candidate could not start: no route to host."
    assert early.again == timedelta(seconds=20)
    assert late.status.refused[-1].reason == "ImagePullBackOff"


FETCHED = "hf://owner/reviews could not be fetched from the hub."
VLLMS = """  File "/usr/lib/transformers/utils/hub.py", line 620, in cached_files
OSError: We couldn't connect to 'https://hub.example.com' to load the files, and couldn't find them in the cached files.
Check your internet connection or see how to run the library in offline mode."""


@pytest.mark.parametrize("before", [starting, comparing])
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (last_words("Model", "HubUnreachable", FETCHED), "HubUnreachable"),
        (last_words("Model", "HubFailed", "The hub answers with an error (HTTP 503)."), "HubFailed"),
        (VLLMS, "HubUnreachable"),
    ],
    ids=["away", "in trouble", "vLLM's"],
)
def test_a_candidate_that_does_not_reach_the_hub_is_given_time(
    before: Callable[[], LanguageModelService], words: str, reason: str
):
    old = before()
    again = beside_pod(old, ready=False, **crashed(message=words), restartCount=3)

    early, late = (
        after(old, *main(old), beside(old), again, now=NOON + timedelta(seconds=SETTINGS.image_pull_seconds + more))
        for more in (-20, 0)
    )

    assert (early.status.phase, early.status.refused, early.again) == ("Gating", [], timedelta(seconds=20))
    assert late.status.refused[-1].reason == reason


def test_it_says_what_it_waits_for():
    old = starting()
    again = beside_pod(old, ready=False, **crashed(message=last_words("Model", "HubUnreachable", FETCHED)))

    plan = after(old, *main(old), beside(old), again)

    assert plan.status.display.reason == f"bbbbbbbbbbbb waits: {FETCHED}"


def test_a_download_that_breaks_off_after_long_is_taken_up_once_more_at_the_least():
    old, words = starting(), last_words("Model", "HubUnreachable", FETCHED)
    broke = NOON + timedelta(hours=2)
    end = {"terminated": {"exitCode": 1, "message": words, "finishedAt": broke.isoformat()}}
    rests = beside_pod(old, ready=False, state=end, restartCount=0)
    loads = beside_pod(old, ready=False, state={"running": {}}, lastState=end, restartCount=1)

    plans = [after(old, *main(old), beside(old), each, now=broke + timedelta(minutes=1)) for each in (rests, loads)]

    assert [(plan.status.phase, plan.status.refused) for plan in plans] == [("Gating", []), ("Gating", [])]


@pytest.mark.parametrize("reason", ["HubRefused", "ModelDamaged", "AnotherTask"])
def test_what_no_time_will_mend_is_refused_at_once(reason: str):
    old = starting()
    container = crashed(message=last_words("Model", reason, "No."))

    plan = after(old, *main(old), beside(old), beside_pod(old, ready=False, **container))

    assert plan.status.refused[-1].reason == reason


@pytest.mark.parametrize(("before", "child_of"), [(starting, "InferenceService"), (comparing, "Job")])
def test_what_may_not_be_made_is_told(before: Callable[[], LanguageModelService], child_of: str):
    old = before()
    ref = BESIDE if child_of == "InferenceService" else gate_ref(old)
    seen = () if ref == BESIDE else (beside(old), beside_pod(old))

    plan = after(old, *main(old), *seen, refused={ref: Refusal("Forbidden", "exceeded quota")})

    assert (plan.status.phase, plan.status.display.reason) == ("Gating", f"{ref.kind} {ref.name}: exceeded quota")
    assert names(plan) == [ref.name]


def test_nothing_is_compared_with_a_model_that_does_not_answer():
    old = starting()
    down = pod(old, A, ready=False)

    plan = after(old, job(B), child(old, A), down, beside(old), beside_pod(old))

    assert (names(plan), plan.status.rollout.gate.state) == ([], "Starting")
    assert told(plan, "Following")[2] == (
        "bbbbbbbbbbbb waits until aaaaaaaaaaaa answers, to be compared with it; "
        f"model.digest: {B} takes bbbbbbbbbbbb without a gate."
    )


SILENT = "The running model does not answer, so nothing can be compared with it: /v1/classify: timed out"
UNWELL = {"failure": {"class": "Communication", "reason": "RunningUnwell", "message": SILENT}}


def unanswered(old: LanguageModelService) -> Plan[Any]:
    """The gate has given up: the running model did not answer it."""
    seen = (*main(old), beside(old), beside_pod(old), gate_job(old, end="Failed"), gate_pod(old, UNWELL, 1))
    return after(old, *seen)


def waiting() -> LanguageModelService:
    """A, which serves, did not answer the gate."""
    old = comparing()
    return kept(old, unanswered(old))


def test_a_running_model_that_leaves_the_gate_without_an_answer_costs_the_candidate_nothing():
    plan = unanswered(comparing())

    gate = plan.status.rollout.gate
    said = f"bbbbbbbbbbbb waits: {SILENT}. It is asked again; model.digest: {B} takes bbbbbbbbbbbb without a gate."
    assert (gate.state, gate.reason, gate.verdict, plan.status.refused) == ("Waiting", "RunningUnwell", said, [])
    assert (names(plan), plan.delete, plan.again) == ([], (), timedelta(0))  # it is written down first
    assert (plan.status.phase, told(plan, "Following")) == ("Gating", ("False", "Gating", said))
    assert [(event.type, event.reason, event.message) for event in plan.events] == [("Warning", "GateWaits", said)]


@pytest.mark.parametrize(
    ("before", "more"),
    [(running, []), (starting, [BESIDE]), (comparing, [BESIDE, "Job"]), (waiting, [BESIDE]), (failed, [])],
)
def test_what_is_there_by_its_status_is_looked_for(before: Callable[[], LanguageModelService], more: list[Any]):
    old = before()

    expected = KINDS["LanguageModelService"].expected(old, SETTINGS)

    assert [*expected] == [ISVC, *(gate_ref(old) if each == "Job" else each for each in more)]


def test_it_is_compared_again_after_a_while_by_a_job_of_its_own():
    old = waiting()
    seen, later = (*main(old), beside(old), beside_pod(old)), NOON + timedelta(minutes=5)

    goes = after(old, *seen, gate_job(old, end="Failed"), now=NOON + timedelta(minutes=2))
    assert (names(goes), goes.delete, goes.status.rollout.gate.state) == ([], (gate_ref(old),), "Waiting")
    rests = after(old, *seen, now=NOON + timedelta(seconds=290))
    assert (names(rests), rests.delete, rests.status.rollout.gate.state) == ([], (), "Waiting")
    assert (rests.again, rests.events) == (timedelta(seconds=10), ())

    tries = after(old, *seen, now=later)
    gate = tries.status.rollout.gate
    assert (gate.state, gate.reason, gate.verdict, gate.ended_at) == ("Comparing", None, "", None)
    made = after(kept(old, tries), *seen, now=later)
    assert names(made) == [gate_ref(old).name]
    passes = compared(kept(old, tries), {"figures": GOOD})
    assert passes.status.rollout.gate.state == "Passed"


def test_a_candidate_that_breaks_while_it_waits_is_refused():
    old = waiting()

    plan = after(old, *main(old), beside(old), beside_pod(old, ready=False, **crashed(137, "OOMKilled")))

    assert plan.status.refused[-1].reason == "OOMKilled"


@pytest.mark.parametrize(
    ("words", "code", "end", "reason"),
    [
        ({"failure": {"class": "Settings", "reason": "RowsMissing", "message": "No."}}, 0, "Complete", "RowsMissing"),
        ({"failure": {"class": "Model", "reason": "AnotherTask", "message": "No."}}, 0, "Complete", "AnotherTask"),
        ("Traceback\nValueError: no", 1, "Failed", "ExitCode"),
    ],
)
def test_a_gate_that_could_not_ask_lets_nobody_pass(words: Any, code: int, end: str, reason: str):
    old = comparing()
    seen = (*main(old), beside(old), beside_pod(old))

    tries = after(old, *seen, gate_job(old), gate_pod(old, words, 1))
    assert tries.status.rollout.gate.state == "Comparing"

    plan = after(old, *seen, gate_job(old, end=end), gate_pod(old, words, code))
    assert (plan.status.rollout.gate.state, plan.status.refused[-1].reason) == ("Failed", reason)


def test_a_job_that_has_ended_without_a_word_is_given_a_moment():
    old = comparing()
    seen = (*main(old), beside(old), beside_pod(old), gate_job(old, end="Complete"))

    early, late = after(old, *seen), after(old, *seen, now=NOON + timedelta(minutes=2))

    assert early.status.rollout.gate.state == "Comparing"
    assert (late.status.rollout.gate.state, late.status.rollout.gate.reason) == ("Failed", "Ended")


def test_a_newer_model_takes_the_candidates_place():
    old = comparing()

    plan = after(old, job(C), child(old, A), pod(old, A), beside(old), beside_pod(old), gate_job(old))

    assert (digests(plan), plan.delete, plan.status.rollout.gate.model) == ([C], (gate_ref(old),), model(C))
    later = kept(old, plan)
    both = after(later, job(C), child(later, A), pod(later, A), beside(later, C), beside_pod(later, B))
    assert both.status.rollout.gate.state == "Starting"  # what answers there is not C yet


@pytest.mark.parametrize("before", [starting, comparing, waiting])
@pytest.mark.parametrize("way", [{"rollout": {"strategy": "Manual"}}, {"rollout": {"strategy": "Immediate"}}])
def test_without_a_gate_nothing_of_it_is_left(before: Callable[[], Any], way: Any):
    over = edited(before(), **way)

    plan = after(over, *main(over), beside(over), beside_pod(over), gate_job(over))

    assert (set(plan.delete), plan.status.rollout.gate) == ({BESIDE, gate_ref(over)}, None)
    assert digests(plan) == ([B] if way["rollout"]["strategy"] == "Immediate" else [])


@pytest.mark.parametrize("before", [starting, comparing, waiting, passed, failed])
def test_a_step_that_was_cut_off_is_taken_again(before: Callable[[], LanguageModelService]):
    """The status is written first: an operator that dies after that finds nothing done, and does it."""
    old = before()
    for seen in ((), (beside(old),), (beside(old), beside_pod(old))):
        plan = after(old, *main(old), *seen)
        again = after(kept(old, plan), *main(old), *seen)
        settled = after(kept(old, again), *main(old), *seen)
        assert digests(settled) in ([], [B])
        assert (names(settled), settled.delete) == (names(again), again.delete)
        assert "reviews" not in names(plan) or not seen  # never before the candidate is gone


def test_those_who_say_their_rows_are_told_how_many():
    rows = [{"text": "a triumph"}, {"text": "so dull"}]
    old = comparing(rollout={**GATED, "gates": {"rows": rows}})

    plan = after(old, *main(old), beside(old), beside_pod(old))

    assert plan.status.display.reason == "bbbbbbbbbbbb is compared with aaaaaaaaaaaa on 2 rows."
    (made,) = plan.create
    assert json.loads(made["spec"]["template"]["spec"]["containers"][0]["args"][0])["rows"] == rows


def test_rows_that_no_process_can_be_told_are_refused():
    old = starting(rollout={**GATED, "gates": {"rows": [{"text": "漢" * 2000}] * 64}})

    plan = after(old, *main(old), beside(old), beside_pod(old))

    assert (plan.status.rollout.gate.state, plan.status.rollout.gate.reason) == ("Failed", "SpecTooLarge")
