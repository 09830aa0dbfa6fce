"""A LanguageModelService in words."""

from __future__ import annotations

from lmops.api import LanguageModelServiceStatus
from lmops.local.stories import Chapter, Ending, Moment, Story
from lmops.local.volumes import Volumes
from lmops.plan import Manifest
from lmops.serving.exposure import NO_EFFECT

STAGES = {"RollingOut": "rollout"}
"""Phases that read better in another word."""


class ServingStory(Story):
    """How a service is told: it has no end but the one that somebody gives it."""

    parting = "requests under way are answered first"

    def moment(self, status: Manifest) -> Moment:
        """Where it answers, or what it waits for."""
        service = LanguageModelServiceStatus.model_validate(status)
        stage, shown = STAGES.get(service.phase or "Pending", (service.phase or "Pending").lower()), service.display
        if _refusal(service):
            return Moment(stage, details=(shown.reason,))  # a line has told it already
        if service.phase != "Serving":
            return Moment(stage, waiting=shown.reason)
        replicas = f"{shown.replicas} ready" if service.replicas.wanted > 1 else ""
        details = (service.url, shown.model, replicas, shown.load, shown.reason)
        return Moment(stage, details=tuple(filter(None, details)))

    def chapters(self, status: Manifest) -> list[Chapter]:
        """The rollout, its gate, the model that waits to be approved, and why the spec is not accepted."""
        service = LanguageModelServiceStatus.model_validate(status)
        rollout, found = service.rollout, []
        if rollout and (gate := rollout.gate):
            key = f"{gate.revision} {gate.started_at} {gate.state}"
            if gate.state in ("Passed", "Failed"):
                found.append(Chapter(key, "gate", gate.verdict, ended=True))
            else:
                found.append(Chapter(key, "gate", service.display.reason, ended=False))
        if rollout:
            key = f"{rollout.revision} {rollout.started_at}"
            name = rollout.model.uri
            found.append(Chapter(f"{key} started", "starting", name, ended=False))
            if rollout.state == "Complete":
                found.append(Chapter(f"{key} complete", "serving", f"{name} at {service.url}", ended=True))
            if rollout.state == "Failed":
                found.append(Chapter(f"{key} {rollout.message}", "failed", rollout.message, ended=True))
        vain = next((c.message for c in service.conditions if c.type == "Exposed" and c.reason == NO_EFFECT), None)
        found += [Chapter(vain, "expose", vain, ended=True)] if vain else []
        offers = (c.message for c in service.conditions if c.type == "Following" and c.reason == "AwaitingApproval")
        found += [Chapter(why, "refused", why, ended=True)] if (why := _refusal(service)) else []
        return [*found, *(Chapter(offer, "waiting", offer, ended=True) for offer in offers)]

    def ending(self, name: str, status: Manifest, volumes: Volumes) -> Ending:
        """There is none."""
        return Ending((), (), ())

    def is_over(self, status: Manifest) -> bool:
        """Never: even what fails is tried again."""
        return False

    def succeeded(self, status: Manifest) -> bool:
        """Whether it serves."""
        return status.get("phase") == "Serving"

    def left(self, status: Manifest) -> str:
        """Its address is kept for it."""
        url = status.get("url")
        return f"nothing answers at {url} any more" if url else "before it answered"


def _refusal(service: LanguageModelServiceStatus) -> str:
    """Why nothing is made of the spec as it is, and what to do; empty where it is accepted."""
    return next((c.message for c in service.conditions if c.type == "Accepted" and c.status == "False"), "")


SERVING = ServingStory()
