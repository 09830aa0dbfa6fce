"""What is refused of a service before anything starts, in a sentence that says what to change."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builders import NOON, SETTINGS
from lmops.api.engines import ENGINES, table
from lmops.kinds import KINDS
from lmops.plan import Manifest, Observed
from serving.builders import A, B, after, child, holds, job, model, pod, service, serving, told

ALONE = {"models": ("ReadWriteOnce",)}


def refused(*there: Manifest, modes: dict[str, tuple[str, ...]] = ALONE, **spec: Any) -> str:
    """Why a service is not accepted, in words; empty where it is."""
    plan = after(service(**spec), *(there or (job(A),)), modes=modes)
    truth, reason, message = told(plan, "Accepted")
    if truth == "True":
        return ""
    assert (reason, plan.apply, plan.status.phase, holds(plan)["Stalled"]) == ("VolumeNotShared", (), "Failed", "True")
    assert plan.again == timedelta(seconds=60)
    return message


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            {"scaling": {"minReplicas": 2}},
            "2 replicas mount models, which is not ReadWriteMany. "
            "Use a claim with access mode ReadWriteMany, or keep scaling at one replica.",
        ),
        (
            {"scaling": {"maxReplicas": 4}},
            "4 replicas mount models, which is not ReadWriteMany. "
            "Use a claim with access mode ReadWriteMany, or keep scaling at one replica.",
        ),
        (
            {"rollout": {"strategy": "Gated"}},
            "A candidate and the running model mount models, which is not ReadWriteMany. "
            "Use a claim with access mode ReadWriteMany, or set rollout.strategy to Immediate or Manual.",
        ),
    ],
    ids=["several replicas", "as many as an autoscaler may make", "a candidate beside the running model"],
)
def test_pods_that_run_at_once_need_a_volume_that_all_can_mount(spec: dict[str, Any], sentence: str):
    assert refused(**spec) == sentence
    assert refused(**spec, model={"from": {"uri": "pvc://models/a"}}) == sentence
    for mode in ("ReadWriteMany", "ReadOnlyMany"):
        assert refused(modes={"models": ("ReadWriteOnce", mode)}, **spec) == ""
    assert refused(modes={}, **spec) == "", "a claim that is not there yet may come"
    assert refused(model={"from": {"uri": "hf://owner/name"}}, **spec) == ""


def test_several_replicas_need_a_log_that_all_can_mount_and_a_candidate_keeps_none():
    modes = {"models": ("ReadWriteMany",), "logs": ("ReadWriteOnce",)}
    log = {"uri": "pvc://logs/reviews"}

    assert refused(modes=modes, requestLog=log, scaling={"minReplicas": 2}).startswith("2 replicas mount logs, ")
    assert refused(modes=modes, requestLog=log, rollout={"strategy": "Gated"}) == ""


def test_one_replica_needs_nobody_to_share_with():
    one = service()

    assert refused() == ""
    assert KINDS["LanguageModelService"].claims(one, (job(A),)) == (), "nobody is asked for what does not matter"


def of_format(format_: str) -> Manifest:
    """A QuantizeJob that has stored its model so."""
    made = job(A)
    return {**made, "status": {**made["status"], "report": {"compressed": {"format": format_}}}}


TRAINED = {**job(A, "films"), "kind": "TrainingJob"}
GPU = {"resources": {"accelerator": {"perNode": 1}}}


@pytest.mark.parametrize(
    ("made", "spec", "reason", "sentence"),
    [
        (
            of_format("executorch"),
            {},
            "FormatUnfit",
            "pvc://models/aaaaaaaaaaaa is a program of executorch, made for phones: no engine here serves it. "
            "Serve the model that it was made of, or one that was compressed by another method.",
        ),
        (
            of_format("onnx"),
            {"engine": "Transformers"},
            "EngineUnfit",
            "The engine Transformers does not serve onnx, which pvc://models/aaaaaaaaaaaa is in. "
            "Set engine to Auto or ONNX.",
        ),
        (
            of_format("safetensors"),
            {"engine": "ONNX", **GPU},
            "EngineUnfit",
            "The engine ONNX does not serve safetensors, which pvc://models/aaaaaaaaaaaa is in. "
            "Set engine to Auto or Transformers.",
        ),
    ],
    ids=["a phone's program", "a graph", "weights"],
)
def test_what_no_engine_serves_is_refused_before_it_starts(
    made: Manifest, spec: dict[str, Any], reason: str, sentence: str
):
    plan = after(service(**spec), made)

    assert (plan.apply, told(plan, "Accepted")) == ((), ("False", reason, sentence))


@pytest.mark.parametrize("engine", ["Auto", "ONNX"])
def test_an_engine_that_fits_is_taken(engine: str):
    assert told(after(service(engine=engine), of_format("onnx")), "Accepted")[0] == "True"


def test_a_training_job_makes_weights():
    trains = {"model": {"from": {"trainingJob": {"name": "films"}}}, "engine": "ONNX"}
    observed = Observed(sources=(TRAINED,), absent=frozenset(KINDS["LanguageModelService"].children))
    plan = KINDS["LanguageModelService"].reconcile(service(**trains), observed, NOON, SETTINGS)

    assert told(plan, "Accepted")[1] == "EngineUnfit"


def test_a_newer_model_that_no_engine_serves_leaves_the_running_one():
    old = serving(A)
    newer = {
        **of_format("executorch"),
        "status": {**of_format("executorch")["status"], "model": job(B)["status"]["model"]},
    }
    plan = after(old, newer, child(old, A), pod(old, A))

    assert (plan.apply, plan.status.phase, plan.status.model) == ((), "Degraded", model(A))
    assert told(plan, "Accepted")[1] == "FormatUnfit"


def test_a_candidate_that_no_engine_serves_fails_its_gate_and_is_never_started():
    old = serving(A, rollout={"strategy": "Gated"})
    newer = {
        **of_format("executorch"),
        "status": {**of_format("executorch")["status"], "model": job(B)["status"]["model"]},
    }
    plan = after(old, newer, child(old, A), pod(old, A))

    assert (plan.apply, plan.status.phase, plan.status.rollout.gate.reason) == ((), "Serving", "FormatUnfit")


def test_the_page_of_engines_is_made_of_the_table():
    page = Path(__file__).parents[2] / "docs/engines.md"

    assert page.read_text() == table()
    assert all(f"`{pair.engine}`" in page.read_text() for pair in ENGINES)
