"""What is refused of a service before anything starts, each with the sentence that says what to change."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lmops.api import Failure, LanguageModelService
from lmops.api.engines import unfit
from lmops.api.reference import ResolvedModel
from lmops.jobs.failure import failure
from lmops.jobs.policies import fits, volumes_are_shared
from lmops.parts import claims
from lmops.plan import Manifest, Observed
from lmops.serving import vllm
from lmops.serving.following import chosen
from lmops.serving.inferenceservice import document
from lmops.settings import Settings


def refusal(
    service: LanguageModelService, model: ResolvedModel, observed: Observed, settings: Settings
) -> Failure | None:
    """The first policy that the service with this model does not meet."""
    return (
        fits(document(service, model))
        or patterns_are_read(service)
        or engine_fits(service, model, settings)
        or replicas_share_volumes(service, observed)
    )


def patterns_are_read(service: LanguageModelService) -> Failure | None:
    """What shall be redacted must be found: a pattern that is none would let all of it through."""
    log = service.spec.request_log
    for place, pattern in enumerate(log.redact if log else ()):
        try:
            re.compile(pattern)
        except re.error as error:
            return failure(
                "Settings",
                "PatternUnreadable",
                f"requestLog.redact[{place}] is no regular expression: {error}.",
                remedy="Correct it, or leave it out.",
            )
    return None


def engine_fits(service: LanguageModelService, model: ResolvedModel, settings: Settings) -> Failure | None:
    """There is an engine for what the model is stored as, where its job has told that; else the server finds out.

    Of what vLLM is to serve nobody else has looked at the folder: it is taken to be of the one form that vLLM reads.
    """
    spec = service.spec
    by_vllm = spec.engine == "VLLM"
    if by_vllm and not (model.format or spec.resources.accelerator):
        said = "The engine VLLM serves on accelerators, and the service asks for none."
        return failure("Settings", "EngineUnfit", said, remedy="Set engine to Auto, or resources.accelerator.")
    device, stored = "cuda" if spec.resources.accelerator else "cpu", model.format or ("safetensors" if by_vllm else "")
    if stored and (why := unfit(stored, device, spec.engine, model.uri, spec.model.task or model.task)):
        return failure(why.class_, why.reason, why.message, remedy=why.remedy)
    return vllm.refusal(service, settings) if by_vllm else None


def replicas_share_volumes(service: LanguageModelService, observed: Observed) -> Failure | None:
    """Several replicas run at once, and so do a candidate and the model that it is compared with."""
    named = shared_claims(service, observed.sources)
    if (most := _most(service)) > 1:
        return volumes_are_shared(f"{most} replicas", named, observed, "keep scaling at one replica")
    beside = "A candidate and the running model"
    return volumes_are_shared(beside, named, observed, "set rollout.strategy to Immediate or Manual")


def shared_claims(service: LanguageModelService, sources: Sequence[Manifest]) -> tuple[str, ...]:
    """The claims whose access modes matter: those of what several pods have at once. A candidate keeps no log."""
    several = _most(service) > 1
    if not several and service.spec.rollout.strategy != "Gated":
        return ()
    rollout, log = service.status.rollout, service.spec.request_log if several else None
    used = (chosen(service, sources).model, rollout.model if rollout else None, log)
    return tuple(sorted({claim for some in used if some for claim in claims(some)}))


def _most(service: LanguageModelService) -> int:
    """How many replicas there may be."""
    return service.spec.scaling.max_replicas or service.spec.scaling.min_replicas
