"""What a LanguageModelService needs next, given what is there and which models it has had."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from lmops.api import Failure, LanguageModelService, LanguageModelServiceStatus
from lmops.api.reference import ResolvedModel
from lmops.api.servicestatus import RolloutReport, ServicePhase
from lmops.jobs.failure import failure
from lmops.jobs.runs import not_created
from lmops.plan import Manifest, Observed, Ref, Refusal
from lmops.plan import Plan as AnyPlan
from lmops.serving import vllm
from lmops.serving.exposure import Exposure, exposure
from lmops.serving.figures import FRESH, Traffic, traffic
from lmops.serving.following import Choice, chosen, is_same, title
from lmops.serving.gate import expected as of_gate
from lmops.serving.gate import gated, url
from lmops.serving.inferenceservice import inferenceservice, ref, revision_of
from lmops.serving.kept import writing
from lmops.serving.monitoring import Monitoring, monitoring
from lmops.serving.policies import refusal
from lmops.serving.replicas import Pods, has_crashed, without_pods
from lmops.serving.status import Standing, news, remembered, told
from lmops.settings import Settings

Plan = AnyPlan[LanguageModelServiceStatus]
UNHEARD = timedelta(seconds=60)
"""How soon what a service waits for is looked at again, should nobody say that it has come."""
NO_ROOM = "With rollout.surge 0 an old replica makes room first."


def reconcile(service: LanguageModelService, observed: Observed, now: datetime, settings: Settings) -> Plan:
    """The whole decision: wait for a model, refuse, or keep the InferenceService as it should be and tell how it is."""
    step = gated(service, chosen(service, observed.sources), observed, now, settings)
    choice = step.choice
    if choice.model is None:
        return _planned(service, Standing("Pending", choice.reason, choice.message, moves=True), choice, now)
    wanted, child = inferenceservice(service, choice.model, settings), observed.children.get(ref(service))
    pods = Pods.of(service, observed, revision_of(wanted))
    if why := refusal(service, choice.model, observed, settings):
        again = UNHEARD if why.class_ == "Volume" else None  # nobody says that there is another claim
        return _planned(service, _refused(why, pods.ready > 0), choice, now, again=again, replicas=pods.report())
    if withheld := observed.refused.get(ref(service)):
        standing = _withheld(withheld, answers=pods.ready > 0)
        return _planned(service, standing, choice, now, apply=(wanted,), replicas=pods.report())
    by_vllm, inside = vllm.serves(service, choice.model, settings), url(child)
    monitors = monitoring(service, observed, settings, by_vllm)
    entrance = exposure(service, observed, inside, vllm.GUARDED if by_vllm and service.spec.api_keys else "/")
    why = pods.failure(now) or _unmade(service, observed, pods, now)
    rollout = _rollout(service, choice.model, revision_of(wanted), pods, why, now)
    rollout = rollout.model_copy(update={"gate": step.report})
    address = entrance.url or inside or service.status.url
    plan = _planned(
        service,
        _standing(pods, rollout, why, choice, address),
        choice,
        now,
        apply=(*writing(wanted, child), *monitors.apply, *entrance.apply),
        monitors=monitors,
        entrance=entrance,
        differs=vllm.differs(service) if by_vllm else "",
        again=_soonest(pods.patience(now) if pods.new else UNHEARD, step.again, FRESH if pods.ready else None),
        heard=traffic(pods.told(observed), service.spec.monitoring.drift),
        rollout=rollout,
        replicas=pods.report(),
        url=address,
        refused=service.status.refused if step.refused is None else step.refused,
        **_answering(service, choice.model, rollout),
    )
    return replace(plan, apply=(*plan.apply, *step.apply), create=step.create, delete=(*step.delete, *entrance.delete))


def _unmade(service: LanguageModelService, observed: Observed, pods: Pods, now: datetime) -> Failure | None:
    """Why there are fewer pods than there should be: in the words of Kubernetes, or of KServe."""
    this = ref(service)
    if (obstacle := observed.obstacles.get(this)) and len(pods.new) < pods.wanted:
        return not_created(this, obstacle)
    child = observed.children.get(this)
    return without_pods(child, now) if child and not (pods.new or pods.old) else None


def expected(service: LanguageModelService, settings: Settings) -> tuple[Ref, ...]:
    """The children that its status says are there."""
    return (ref(service), *of_gate(service)) if service.status.rollout else ()


def _planned(
    service: LanguageModelService,
    standing: Standing,
    choice: Choice,
    now: datetime,
    apply: tuple[Manifest, ...] = (),
    again: timedelta | None = None,
    monitors: Monitoring | None = None,
    entrance: Exposure | None = None,
    heard: Traffic | None = None,
    differs: str | None = None,
    **changes: object,
) -> Plan:
    new = told(service, standing, choice, now, monitors, entrance, heard, differs, **changes)
    waits = UNHEARD if not choice.follows else None
    return Plan(status=new, apply=apply, events=tuple(news(service, new)), again=_soonest(again, waits))


def _soonest(*waits: timedelta | None) -> timedelta | None:
    return min((wait for wait in waits if wait is not None), default=None)


def _refused(why: Failure, answers: bool) -> Standing:
    """A spec that nothing is made of."""
    phase: ServicePhase = "Degraded" if answers else "Failed"
    said = f"{why.message} {why.remedy}"
    return Standing(phase, why.reason, said, accepted=False, answers=answers, failure=why)


def _withheld(refusal: Refusal, answers: bool) -> Standing:
    """What could not be written is tried again; what was written before goes on to serve."""
    phase: ServicePhase = "Degraded" if answers else "Pending"
    again = "Change the spec." if refusal.is_final else "Nothing: it is tried again."
    why = failure("Settings", refusal.reason, refusal.message, remedy=again) if answers else None
    accepted = not refusal.is_final
    return Standing(phase, refusal.reason, refusal.message, accepted, answers=answers, moves=accepted, failure=why)


def _rollout(
    service: LanguageModelService,
    model: ResolvedModel,
    revision: str,
    pods: Pods,
    why: Failure | None,
    now: datetime,
) -> RolloutReport:
    """The way of the newest revision. Once it has come, a replica that is lost is no rollout any more."""
    before = service.status.rollout
    this = before if before and before.revision == revision else None
    if this and this.state == "Complete":
        return this.model_copy(update={"model": model})
    new = RolloutReport(state="InProgress", model=model, revision=revision, started_at=this.started_at if this else now)
    if pods.is_rolled_out:
        return new.model_copy(update={"state": "Complete", "completed_at": now})
    if why is None:
        return new
    if not has_crashed(why):
        room = f" {NO_ROOM}" if why.class_ == "Unschedulable" and pods.old else ""
        return new.model_copy(update={"message": f"{why.message} {why.remedy}{room}"})
    kept = service.status.model
    stays = (
        f" {title(kept)} goes on to serve: set model.digest to keep it." if kept and not is_same(kept, model) else ""
    )
    return new.model_copy(
        update={"state": "Failed", "message": f"{title(model)} does not come up: {why.message}{stays}"}
    )


def _answering(service: LanguageModelService, model: ResolvedModel, rollout: RolloutReport) -> dict[str, object]:
    """The model that answers, once its rollout is complete, and the memory of it."""
    if rollout.state != "Complete":
        return {}
    return {"model": model, "history": remembered(service.status.history, model)}


def _standing(pods: Pods, rollout: RolloutReport, why: Failure | None, choice: Choice, address: str | None) -> Standing:
    """Where a service stands that has a model."""
    counted = f"{pods.ready} of {pods.wanted} replicas {'is' if pods.ready == 1 else 'are'} ready."
    answers, complete, name = pods.ready > 0, rollout.state == "Complete", title(rollout.model)
    failed = rollout.state == "Failed"
    if why and (has_crashed(why) or answers):
        phase: ServicePhase = "Degraded" if answers else "Failed"
        said = rollout.message or f"{why.message} {why.remedy}"
        return Standing(phase, why.reason, said, answers=answers, moves=not failed, failure=why, rollout_failed=failed)
    if why:
        return Standing("Starting", why.reason, why.message, moves=True, failure=why)
    if not answers:
        said = f"{name} is being loaded: {counted}" if pods.new else "waiting for its pods"
        return Standing("Starting", "Starting", said, moves=True)
    if not address:
        return Standing("Starting", "NoAddress", f"{counted} KServe has not told yet where they are asked.", moves=True)
    if not complete:
        updated = f"{name} takes over: {pods.updated} of {pods.wanted} replicas have it."
        return Standing("RollingOut", "RollingOut", updated, answers=True, moves=True)
    short = pods.ready < pods.wanted
    if choice.reason == "Gating" and not short:
        return Standing("Gating", "Gating", choice.message, answers=True, moves=True)
    if choice.reason == "GateFailed" and not short:
        return Standing("Serving", "GateFailed", choice.message, answers=True, rollout_failed=True)
    said = counted if short else choice.brief if not choice.follows else ""
    return Standing("Serving", "ReplicasMissing" if short else "Serving", said, answers=True, moves=short)
