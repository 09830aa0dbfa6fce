"""Services, their InferenceServices and pods, as the tests of serving like to say them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from builders import NOON, SETTINGS
from lmops.api import LanguageModelService, LanguageModelServiceStatus
from lmops.api.reference import ResolvedModel
from lmops.kinds import KINDS
from lmops.plan import Manifest, Observed, Plan, Ref
from lmops.serving.inferenceservice import REVISION, inferenceservice, revision_of
from lmops.serving.monitoring import KINDS as MONITORS

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
URL = "http://reviews-predictor.default.svc.cluster.local"


def service(status: dict[str, Any] | None = None, **spec: Any) -> LanguageModelService:
    """A valid service that follows QuantizeJob small; keywords replace whole sections of its spec."""
    sections = {"model": {"from": {"quantizeJob": {"name": "small"}}}, **spec}
    metadata = {"name": "reviews", "namespace": "default", "uid": "u-3", "generation": 1}
    return LanguageModelService.model_validate({"metadata": metadata, "spec": sections, "status": status or {}})


def job(digest: str, name: str = "small", phase: str = "Succeeded", at: int = 10, **labels: str) -> Manifest:
    """A QuantizeJob that has published a model at that hour."""
    metadata = {"name": name, "namespace": "default", "uid": f"u-{name}", "labels": labels}
    model = {"uri": f"pvc://models/{digest[7:19]}", "digest": digest}
    status = {"phase": phase, "completionTime": f"2026-11-23T{at}:00:00Z", "model": model}
    return {"kind": "QuantizeJob", "metadata": metadata, "status": status}


def model(digest: str, name: str = "small", at: int = 10) -> ResolvedModel:
    """The model that such a job has published."""
    found = {"uri": f"pvc://models/{digest[7:19]}", "digest": digest, "kind": "QuantizeJob"}
    found |= {"name": name, "uid": f"u-{name}", "completedAt": f"2026-11-23T{at}:00:00Z"}
    return ResolvedModel.model_validate(found)


def child(of: LanguageModelService, digest: str, **status: Any) -> Manifest:
    """The InferenceService of a service with this model, as KServe answers for it."""
    made = inferenceservice(of, model(digest), SETTINGS)
    told = {"address": {"url": URL}, "conditions": [], **status}
    return {**made, "metadata": {**made["metadata"], "uid": "u-isvc"}, "status": told}


def revision(of: LanguageModelService, digest: str) -> str:
    """What the pods of this model and these settings carry."""
    return revision_of(inferenceservice(of, model(digest), SETTINGS))


def pod(of: LanguageModelService, digest: str, name: str = "p", ready: bool = True, **container: Any) -> Manifest:
    """A pod that runs with this model."""
    labels = {"lmops.dev/run": "reviews", REVISION: revision(of, digest)}
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": NOON.isoformat()}
    conditions = [scheduled, {"type": "Ready", "status": "True" if ready else "False"}]
    state = container or {"state": {"running": {"startedAt": NOON.isoformat()}}}
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": [state]}
    metadata = {"name": name, "labels": labels, "creationTimestamp": NOON.isoformat()}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [{"resources": {}}]}, "status": status}


def crashed(code: int = 1, reason: str = "Error", message: str = "") -> dict[str, Any]:
    """The container of a pod that starts again and again."""
    end = {"exitCode": code, "reason": reason, "message": message}
    return {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": end}}


def last_words(class_: str, reason: str, message: str) -> str:
    """What a server leaves that could not go on."""
    return json.dumps({"failure": {"class": class_, "reason": reason, "message": message, "remedy": "Do it again."}})


def after(of: LanguageModelService, *seen: Manifest, now: datetime = NOON, **observed: Any) -> Plan[Any]:
    """What the operator would do, with these jobs, children and pods in the namespace; unwatched, unless it is said."""
    jobs = tuple(each for each in seen if each["kind"] == "QuantizeJob")
    found = Observed.of(each for each in seen if each["kind"] != "QuantizeJob")
    there = Observed(found.children, found.pods, sources=jobs, **{"absent": frozenset(MONITORS), **observed})
    return KINDS["LanguageModelService"].reconcile(of, there, now, SETTINGS)


def kept(of: LanguageModelService, plan: Plan[Any]) -> LanguageModelService:
    """The service once its new status was written."""
    status = LanguageModelServiceStatus.model_validate(plan.status.manifest())
    return of.model_copy(update={"status": status})


def serving(digest: str = A, **spec: Any) -> LanguageModelService:
    """A service that has served this model for a while."""
    new = service(**spec)
    starts = kept(new, after(new, job(digest)))
    return kept(starts, after(starts, job(digest), child(starts, digest), pod(starts, digest)))


def holds(plan: Plan[Any]) -> dict[str, str]:
    """Each condition's truth."""
    return {condition.type: condition.status for condition in plan.status.conditions}


def told(plan: Plan[Any], type_: str) -> tuple[str, str, str]:
    """A condition's truth, reason and message."""
    found = next(condition for condition in plan.status.conditions if condition.type == type_)
    return found.status, found.reason, found.message


def digests(plan: Plan[Any]) -> list[str]:
    """The models of all that the plan writes."""
    documents = (each["spec"]["predictor"]["containers"][0]["args"][0] for each in plan.apply)
    return [json.loads(document)["model"]["digest"] for document in documents]


ISVC = Ref("InferenceService", "reviews")
