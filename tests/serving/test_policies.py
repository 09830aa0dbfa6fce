"""What is refused of a service before anything starts, in a sentence that says what to change."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lmops.kinds import KINDS
from lmops.plan import Manifest
from serving.builders import A, after, holds, job, service, told

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


def test_one_replica_needs_nobody_to_share_with():
    one = service()

    assert refused() == ""
    assert KINDS["LanguageModelService"].claims(one, (job(A),)) == (), "nobody is asked for what does not matter"
