"""The Job of a gate, which is created once and asks both models, and what it has found."""

from __future__ import annotations

import json
from datetime import datetime

from pydantic import ValidationError

from lmops.api import Failure, Gate, GateEnding, LanguageModelService
from lmops.api.reference import ResolvedModel
from lmops.api.run import ServiceId
from lmops.api.servicestatus import GateFigures
from lmops.jobs.backends import job as plain
from lmops.jobs.failure import failure, failure_of, terminated_of
from lmops.jobs.group import pods_of
from lmops.jobs.runs import RESULT_WITHIN
from lmops.parts import Program, child_name, claims, labels, owned, pod_template
from lmops.plan import Manifest, Observed, Ref
from lmops.serving.inferenceservice import KEYS
from lmops.settings import Settings

KIND = plain.KIND
STAGE = "gate"
RETRIES = 3
"""How often a gate that could not ask is tried again: nothing that it does is to be undone."""
SECONDS = 3600
"""How long all its tries may take."""
MEMORY = "512Mi"
UNWELL = "RunningUnwell"
"""The gate's word where the running model did not answer: that says nothing of the candidate."""


def ref(service: LanguageModelService, revision: str) -> Ref:
    """The Job that compares this revision with the running one."""
    return Ref(KIND, f"{child_name(service.metadata.name, STAGE)}-{revision}")


def gatejob(
    service: LanguageModelService,
    model: ResolvedModel,
    revision: str,
    running: str,
    candidate: str,
    settings: Settings,
) -> Manifest:
    """What asks both."""
    spec, name = service.spec, ref(service, revision).name
    ours = labels(service.kind, service.metadata.name, name, STAGE, 0)
    program = Program(
        container=STAGE,
        image=settings.server_image,
        command=["python", "-m", "lmops_server", "gate"],
        arguments=[document(service, model, running, candidate)],
        env={"HF_HUB_OFFLINE": "1", **({"LMOPS_API_KEYS": KEYS} if spec.api_keys else {})},
        limits={"memory": MEMORY},
        requests={"cpu": "100m"},
        claims=claims(model),
        secrets={KEYS: spec.api_keys.secret_name} if spec.api_keys else {},
    )
    template = pod_template(program, ours, spec.pod.over(settings.defaults.pod), settings)
    made = plain.render(owned(service.kind, service.metadata, name, ours), template, retries=RETRIES)
    return {**made, "spec": {**made["spec"], "activeDeadlineSeconds": SECONDS}}


def document(service: LanguageModelService, model: ResolvedModel, running: str, candidate: str) -> str:
    """All that it is told."""
    metadata, gates = service.metadata, service.spec.rollout.gates
    return Gate(
        service=ServiceId(name=metadata.name, namespace=metadata.namespace, uid=metadata.uid),
        running=running,
        candidate=candidate,
        model=model.uri,
        rows=gates.rows if gates else [],
        timeout_seconds=service.spec.limits.timeout_seconds,
    ).document()


def found(this: Ref, job: Manifest | None, observed: Observed, now: datetime) -> GateFigures | Failure | None:
    """What its pod has found, or why it could not; `None` while it goes on or is not there."""
    pods = pods_of(observed, this.name)
    for ending in filter(None, map(_ending, pods)):
        if ending.figures:
            return ending.figures
    end = plain.read(job) if job else {}
    if not end:
        return None
    told = [ending.failure for ending in map(_ending, pods) if ending and ending.failure]
    unwell = next((why for why in told if why.reason == UNWELL), None)  # one try of several is enough to wait for it
    if why := unwell or next(iter(told), None) or next(filter(None, map(failure_of, pods)), None):
        return failure(why.class_, why.reason, why.message, why.evidence, why.remedy)
    if now < datetime.fromisoformat(end["lastTransitionTime"]) + RESULT_WITHIN:  # its pod may be seen a moment later
        return None
    words = end.get("message") or "it has left no figures"
    return failure("Code", end.get("reason") or "NoFigures", f"{this.kind} {this.name} could not compare: {words}")


def _ending(pod: Manifest) -> GateEnding | None:
    """What a gate said at its end."""
    try:
        return GateEnding.model_validate(json.loads(terminated_of(pod).get("message", "")))
    except (ValueError, ValidationError):
        return None
