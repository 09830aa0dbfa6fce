"""A QuantizeJob waits for its model, compresses it once, and passes or fails by what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from builders import MODEL, NOON, SETTINGS, ended_pod, quantizejob, reconcile, report, running_pod, said, trainingjob
from lmops.api import QuantizeJob
from lmops.api.base import Condition
from lmops.plan import Manifest, Observed, Plan, Ref

TRAINED = {"phase": "Succeeded", "completionTime": "2026-11-23T10:00:00Z", "model": MODEL}
DATASET = {"uri": "pvc://models/reviews/.lmops/data", "hash": "sha256:00", "rowsRead": 1}


def after(job: QuantizeJob, *sources: Manifest, **seen: Any) -> Plan[Any]:
    """What the operator would do, with these other jobs in the namespace."""
    return reconcile(job, Observed(sources=sources, **seen), NOON, SETTINGS)


def source(kind: str = "TrainingJob", name: str = "reviews", team: str = "", **status: Any) -> Manifest:
    """Another job, as the cache has it."""
    labels = {"team": team, "tier": "gold"} if team else {}
    metadata = {"name": name, "namespace": "default", "uid": f"u-{name}", "labels": labels}
    return {"kind": kind, "metadata": metadata, "status": status}


def condition(plan: Plan[Any], type_: str) -> Condition:
    """A condition of the new status."""
    found: Condition = next(c for c in plan.status.conditions if c.type == type_)
    return found


def test_a_model_at_hand_is_compressed_at_once():
    plan = after(quantizejob(model={"from": {"uri": "pvc://models/minilm"}}))

    (child,) = plan.create
    assert (child["kind"], child["metadata"]["name"]) == ("Job", "small-compress-a0")
    assert plan.status.source.manifest() == {"uri": "pvc://models/minilm"}
    assert plan.status.display.method == "Dynamic 8 bit"


@pytest.mark.parametrize(
    ("others", "reason", "message"),
    [
        ((), "SourceMissing", "TrainingJob reviews is not there: apply it in this namespace."),
        (
            (source(phase="Running", display={"progress": "42%"}),),
            "SourceNotReady",
            "TrainingJob reviews is not done yet: Running.",
        ),
        ((source(),), "SourceNotReady", "TrainingJob reviews is not done yet: Pending."),
        (
            (source(phase="Failed", display={"reason": "DiskFull: The disk is full."}),),
            "SourceFailed",
            "TrainingJob reviews has failed: DiskFull: The disk is full. A new one of that name is waited for.",
        ),
        (
            (source(phase="Succeeded"),),
            "SourceWithoutModel",
            "TrainingJob reviews has published no model of ours: name its folder with model.from.uri.",
        ),
        (
            (source("QuantizeJob", **TRAINED),),
            "SourceMissing",
            "TrainingJob reviews is not there: apply it in this namespace.",
        ),
    ],
)
def test_what_is_not_there_yet_is_waited_for_in_words(others: tuple[Any, ...], reason: str, message: str):
    plan = after(quantizejob(), *others)

    assert (plan.create, plan.status.phase, plan.status.failure) == ((), "Pending", None)
    assert (condition(plan, "Progressing").status, condition(plan, "Progressing").reason) == ("True", reason)
    assert condition(plan, "Progressing").message == message
    assert plan.status.display.reason == f"{reason}: {message}"
    assert [(event.type, event.reason) for event in plan.events] == [("Normal", reason)]
    assert plan.again


def test_a_wait_is_told_once():
    waiting = quantizejob(status=after(quantizejob()).status.manifest())

    assert after(waiting).events == ()


def test_a_job_is_resolved_once_and_never_followed():
    job = quantizejob()
    found = after(job, source(**TRAINED, dataset=DATASET)).status

    assert found.source.manifest() == {
        "uri": MODEL["uri"],
        "digest": MODEL["digest"],
        "format": "safetensors",
        "dataset": DATASET["uri"],
        "kind": "TrainingJob",
        "name": "reviews",
        "uid": "u-reviews",
        "completedAt": "2026-11-23T10:00:00Z",
    }
    newer = source(**TRAINED | {"model": {**MODEL, "uri": "pvc://models/reviews/newer"}})
    assert after(quantizejob(status=found.manifest()), newer).status.source == found.source


def test_of_several_the_newest_that_came_to_a_good_end_is_taken():
    job = quantizejob(model={"from": {"trainingJob": {"selector": {"matchLabels": {"team": "nlp"}}}}})
    others = [
        source(name="old", team="nlp", **TRAINED),
        source(name="new", team="nlp", **TRAINED | {"completionTime": "2026-11-23T11:00:00Z"}),
        source(name="broken", team="nlp", phase="Failed"),
        source(name="foreign", team="cv", **TRAINED | {"completionTime": "2026-11-23T12:00:00Z"}),
    ]

    assert after(job, *others).status.source.name == "new"
    assert condition(after(job, others[2]), "Progressing").message == (
        "No TrainingJob with the labels team=nlp has come to a good end yet: broken."
    )
    assert condition(after(job, others[3]), "Progressing").message == (
        "There is no TrainingJob with the labels team=nlp: apply one in this namespace."
    )


def test_a_quantized_model_that_did_not_pass_is_not_taken_further():
    job = quantizejob(model={"from": {"quantizeJob": {"name": "pruned"}}})
    not_passed = source(
        "QuantizeJob", "pruned", phase="Failed", model=MODEL, display={"reason": "NotPassed: too slow."}
    )

    assert condition(after(job, not_passed), "Progressing").reason == "SourceFailed"
    assert after(job, source("QuantizeJob", "pruned", **TRAINED)).status.source.kind == "QuantizeJob"


def test_the_pod_mounts_the_model_its_data_and_its_output():
    (child,) = after(quantizejob(), source(**TRAINED, dataset={**DATASET, "uri": "pvc://work/data"})).create

    volumes = child["spec"]["template"]["spec"]["volumes"]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v]
    assert claims == ["models", "work"]


def begun(**spec: Any) -> QuantizeJob:
    """A job whose run goes on."""
    return quantizejob(**spec, status=after(quantizejob(**spec), source(**TRAINED)).status.manifest())


def ended(job: QuantizeJob, **result: Any) -> Plan[Any]:
    """What is done when its pod has left this result."""
    (child,) = after(quantizejob(), source(**TRAINED)).create
    pod = ended_pod(job, "compress", message=said("compress", result=result))
    return reconcile(job, Observed({Ref.of(child): child}, (pod,)), NOON, SETTINGS)


def test_a_run_that_goes_on_shows_what_it_does():
    job = begun()
    (child,) = after(quantizejob(), source(**TRAINED)).create

    plan = reconcile(job, Observed({Ref.of(child): child}, (running_pod(job, "compress"),)), NOON, SETTINGS)

    assert (plan.status.phase, plan.status.display.nodes) == ("Running", "1/1")


def test_a_model_that_keeps_its_limits_has_passed():
    plan = ended(begun(), model=MODEL, report=report())

    assert plan.status.phase == "Succeeded"
    assert (condition(plan, "Complete").status, condition(plan, "Complete").reason) == ("True", "Passed")
    assert plan.status.display.manifest() == {
        "progress": "100%",
        "metric": "",
        "nodes": "",
        "reason": "",
        "method": "Dynamic 8 bit",
        "size": "3.92x",
        "speedup": "2.00x",
        "quality": "f1 -0.003",
        "verdict": "Passed",
    }
    assert plan.status.model.uri == MODEL["uri"]


def test_a_language_model_that_is_worse_is_not_shown_as_if_its_perplexity_had_fallen():
    worse = report(metric="perplexity", change="perplexity 1.20% worse", quality={"value": -0.012})

    assert ended(begun(), model=MODEL, report=worse).status.display.quality == "perplexity 1.20% worse"


def test_a_model_that_does_not_is_kept_and_the_job_has_failed():
    said = "latency is 0.5 of the original's, and maxLatencyRatio is 0.4"
    checks = [
        {"limit": "minSizeRatio", "kept": True, "sentence": "size"},
        {"limit": "maxLatencyRatio", "kept": False, "sentence": said},
    ]
    plan = ended(begun(), model=MODEL, report=report(verdict="NotPassed", checks=checks))

    assert (plan.status.phase, plan.status.model.uri) == ("Failed", MODEL["uri"])
    assert (condition(plan, "Failed").reason, condition(plan, "Stalled").status) == ("NotPassed", "True")
    assert (plan.status.failure.class_, plan.status.failure.evidence) == ("Verdict", [said])
    assert plan.status.failure.remedy == "Compress more, or loosen maxLatencyRatio; status.report has the figures."
    assert (plan.status.display.verdict, plan.status.runs[0].state) == ("NotPassed", "Succeeded")
    assert plan.delete == ()


@pytest.mark.parametrize(
    ("broken", "accept", "remedy"),
    [
        (["maxQualityDrop"], {"maxQualityDrop": 0.01}, "Compress less, or loosen maxQualityDrop"),
        (["maxQualityDrop"], {"maxQualityDrop": 0.01, "confidence": 0.95}, "Score more rows, or loosen maxQualityDrop"),
        (
            ["minSizeRatio", "minAgreement"],
            {"minSizeRatio": 9, "minAgreement": 1},
            "Take other steps, or loosen minAgreement, minSizeRatio",
        ),
    ],
)
def test_what_helps_is_told_by_the_limits_that_were_not_kept(broken: list[str], accept: dict[str, float], remedy: str):
    checks = [{"limit": limit, "kept": False, "sentence": limit} for limit in broken]
    job = begun(accept=accept)
    plan = ended(job, model=MODEL, report=report(verdict="NotPassed", checks=checks, quality={"value": -0.1}))

    assert plan.status.failure.remedy == f"{remedy}; status.report has the figures."


def test_a_job_names_the_jobs_that_it_waits_for_until_it_has_found_one():
    from lmops.quantization.work import sources

    assert sources(quantizejob()) == (Ref("TrainingJob", "reviews"),)
    assert sources(quantizejob(model={"from": {"uri": "pvc://models/a"}})) == ()
    assert sources(begun()) == ()


def test_a_training_job_waits_for_nobody():
    assert after(trainingjob()).create  # type: ignore[arg-type]
