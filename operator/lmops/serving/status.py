"""The status of a service: a phase, conditions and a line for `kubectl get`, all told from one standing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lmops.api import Failure, LanguageModelService, LanguageModelServiceStatus
from lmops.api.base import Condition
from lmops.api.reference import ResolvedModel
from lmops.api.servicestatus import GateReport, RolloutReport, ServiceDisplay, ServicePhase
from lmops.plan import Event
from lmops.serving.exposure import Exposure
from lmops.serving.figures import Traffic, load
from lmops.serving.following import Choice, is_same, title
from lmops.serving.monitoring import Monitoring

Truth = Literal["True", "False", "Unknown"]
TOLD_ELSEWHERE = ("Newest", "Gating", "GateFailed")
"""What is no news of what a service follows, or told by the gate itself."""
UNTOLD = "DriftUnavailable"
DIFFERS = "EngineDiffers"
REMEMBERED = 10
"""How many models a service remembers, so that `model.digest` leads back to them."""


@dataclass(frozen=True)
class Standing:
    """Where a service stands, from which all conditions follow."""

    phase: ServicePhase
    reason: str
    message: str
    accepted: bool = True
    answers: bool = False
    moves: bool = False
    """Whether something is on its way that needs nobody."""
    failure: Failure | None = None
    rollout_failed: bool = False


def told(
    service: LanguageModelService,
    standing: Standing,
    choice: Choice,
    now: datetime,
    monitors: Monitoring | None = None,
    entrance: Exposure | None = None,
    heard: Traffic | None = None,
    differs: str | None = None,
    **changes: Any,
) -> LanguageModelServiceStatus:
    """The whole new status: the standing told in conditions, the changes, and everything else as it was."""
    if heard:
        changes["metrics"] = heard.metrics
    new = service.status.model_copy(update={"failure": standing.failure, **changes})
    return new.model_copy(
        update={
            "phase": standing.phase,
            "conditions": [
                *_conditions(service, standing, choice, monitors, entrance, now),
                *_drift(service, heard, now),
                *_engine(service, differs, now),
            ],
            "observed_generation": service.metadata.generation,
            "display": _display(new, standing),
        }
    )


def news(service: LanguageModelService, new: LanguageModelServiceStatus) -> Iterator[Event]:
    """What has changed since the last status."""
    old, rollout = service.status, new.rollout
    if rollout and _way(old.rollout) != _way(rollout):
        yield _rolled(rollout, old.rollout is None)
    if (gate := rollout.gate if rollout else None) and _at(old.rollout.gate if old.rollout else None) != _at(gate):
        yield _gated(gate, rollout)
    if new.failure and (old.failure is None or old.failure.reason != new.failure.reason):
        yield Event("Warning", new.failure.reason, f"{new.failure.message} {new.failure.remedy}".strip())
    if old.failure and new.failure is None:
        yield Event("Normal", "Recovered", f"{old.failure.reason} is over.")
    said, before = _following(new.conditions), _following(old.conditions)
    is_told = said is None or not said.message or said.reason in TOLD_ELSEWHERE
    if said and not is_told and (before is None or said.message != before.message):
        yield Event("Normal", said.reason, said.message)


def remembered(history: list[ResolvedModel], model: ResolvedModel) -> list[ResolvedModel]:
    """The models that have answered with this one as the latest."""
    return [*(other for other in history if not is_same(other, model)), model][-REMEMBERED:]


def _way(rollout: RolloutReport | None) -> tuple[str, str] | None:
    return (rollout.state, rollout.revision) if rollout else None


def _rolled(rollout: RolloutReport, first: bool) -> Event:
    name = title(rollout.model)
    match rollout.state:
        case "Complete":
            return Event("Normal", "RolloutComplete", f"All replicas serve {name}.")
        case "Failed":
            return Event("Warning", "RolloutFailed", rollout.message)
        case _:
            return Event("Normal", "RolloutStarted", f"{'Serves' if first else 'Rolls out'} {name}.")


def _at(gate: GateReport | None) -> tuple[str, str, Any] | None:
    return (gate.state, gate.revision, gate.started_at) if gate else None


def _gated(gate: GateReport, rollout: RolloutReport | None) -> Event:
    name, running = title(gate.model), title(rollout.model) if rollout else ""
    match gate.state:
        case "Starting":
            return Event("Normal", "GateStarted", f"{name} starts as a candidate beside {running}.")
        case "Comparing":
            return Event("Normal", "Gating", f"{name} is compared with {running}.")
        case "Waiting":
            return Event("Warning", "GateWaits", gate.verdict)
        case "Passed":
            return Event("Normal", "GatePassed", gate.verdict)
        case _:
            return Event("Warning", "GateFailed", gate.verdict)


def _following(conditions: list[Condition]) -> Condition | None:
    return next((condition for condition in conditions if condition.type == "Following"), None)


def _display(new: LanguageModelServiceStatus, standing: Standing) -> ServiceDisplay:
    model, coming = new.model, new.rollout.model if new.rollout else None
    names = [title(each) for each in (model, None if is_same(model, coming) else coming) if each]
    replicas = f"{new.replicas.ready}/{new.replicas.wanted}" if new.replicas.wanted else ""
    why = standing.failure
    reason = f"{why.reason}: {why.message}" if why else standing.message
    busy = load(new.metrics) if new.metrics and standing.answers else ""
    return ServiceDisplay(model=" > ".join(names), replicas=replicas, load=busy, reason=reason)


def _conditions(
    service: LanguageModelService,
    standing: Standing,
    choice: Choice,
    monitors: Monitoring | None,
    entrance: Exposure | None,
    now: datetime,
) -> list[Condition]:
    failed = standing.phase == "Failed"
    unsure: Truth = "False" if failed or not standing.moves else "Unknown"
    holds: dict[str, Truth] = {
        "Accepted": _truth(standing.accepted),
        "Ready": "True" if standing.answers else unsure,
        "Progressing": _truth(standing.moves),
        "Degraded": _truth(standing.failure is not None),
        "Reconciling": _truth(standing.moves and not standing.rollout_failed),
        "Stalled": _truth(failed or standing.rollout_failed),
    }
    before = {condition.type: condition for condition in service.status.conditions}
    reasons = {"Accepted": ("Valid", "")} if standing.accepted else {}
    found = [
        _condition(
            service, before.get(type_), type_, truth, *reasons.get(type_, (standing.reason, standing.message)), now
        )
        for type_, truth in holds.items()
    ]
    if service.spec.model.from_.uri is None:
        truth = _truth(choice.follows)
        found.append(
            _condition(service, before.get("Following"), "Following", truth, choice.reason, choice.message, now)
        )
    if monitors is None or entrance is None:  # it is not served now: what watches it and leads to it stays as it was
        return [*found, *filter(None, map(before.get, ("Monitored", "Exposed")))]
    if monitors.is_there:
        reason, message = monitors.lacks[:2] if monitors.lacks else ("Monitored", "")
        truth = _truth(monitors.lacks is None)
        found.append(_condition(service, before.get("Monitored"), "Monitored", truth, reason, message, now))
    if says := entrance.told:
        truth = _truth(says.holds)
        found.append(_condition(service, before.get("Exposed"), "Exposed", truth, says.reason, says.message, now))
    return found


def _drift(service: LanguageModelService, heard: Traffic | None, now: datetime) -> list[Condition]:
    """Whether drift can be told; as long as nobody answers it stays as it was."""
    before = next((each for each in service.status.conditions if each.type == UNTOLD), None)
    return [_condition(service, before, UNTOLD, *heard.drift, now)] if heard else [before] if before else []


def _engine(service: LanguageModelService, differs: str | None, now: datetime) -> list[Condition]:
    """What its engine makes otherwise than the spec says; as long as it is not served it stays as it was."""
    before = next((each for each in service.status.conditions if each.type == DIFFERS), None)
    if differs is None:
        return [before] if before else []
    return [_condition(service, before, DIFFERS, "True", "ServedByVLLM", differs, now)] if differs else []


def _condition(
    service: LanguageModelService,
    before: Condition | None,
    type_: str,
    truth: Truth,
    reason: str,
    message: str,
    now: datetime,
) -> Condition:
    """A condition whose transition time moves only when it flips."""
    return Condition(
        type=type_,
        status=truth,
        reason=reason,
        message=message,
        last_transition_time=before.last_transition_time if before and before.status == truth else now,
        observed_generation=service.metadata.generation,
    )


def _truth(holds: bool) -> Truth:
    return "True" if holds else "False"
