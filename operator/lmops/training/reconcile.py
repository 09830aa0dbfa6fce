"""What a TrainingJob needs next, given what is there and what its ledger remembers."""

from __future__ import annotations

from datetime import datetime

from lmops.api import TrainingJob
from lmops.api.status import Stage
from lmops.plan import Manifest, Observed, Refusal
from lmops.settings import Settings
from lmops.training import status
from lmops.training.attempts import active, begun, leaving, queued, withheld
from lmops.training.endings import deadline, done, expired, failed, left_over, lost, suspended, tidied
from lmops.training.policies import refusal as refused
from lmops.training.runs import Active, Done, Finished, Leaving, Lost, Queued, State, Wanted, look
from lmops.training.stages import stages
from lmops.training.status import Plan


def reconcile(job: TrainingJob, observed: Observed, now: datetime, settings: Settings) -> Plan:
    """The whole decision: refuse, stop, or move the first unfinished stage one step; or report the end."""
    if job.status.phase in status.ENDED:
        return tidied(job, observed, now, settings)
    if not job.status.runs and (refusal := refused(job, observed)):
        return failed(job, refusal, now, accepted=False)
    stage, state = unfinished(job, observed, now)
    if overtime := deadline(job, state, now):
        return expired(job, stage, state, overtime, now)
    if job.spec.suspend:
        return suspended(job, stage, state, now, settings)
    match state:
        case Wanted(attempt, Refusal() as reason):
            return withheld(job, stage, attempt, reason, now, settings)
        case Wanted(attempt):
            return begun(job, stage, attempt, now, settings)
        case Queued():
            return queued(job, stage, state, now, settings)
        case Active():
            return active(job, stage, state, now, settings)
        case Done():
            return done(job, stage, state, now)
        case Lost():
            return lost(job, stage, state, now, settings)
        case Leaving():
            return leaving(job, stage, state, now)
        case Finished():
            return Plan(status=job.status)


def is_settled(job: Manifest, observed: Observed, settings: Settings) -> bool:
    """Whether a job has ended and nothing of it is left to do. It takes the bare manifest: most jobs have ended."""
    status_ = job.get("status", {})
    phase, is_seen = status_.get("phase"), status_.get("observedGeneration") == job["metadata"].get("generation")
    ttl = job["spec"].get("ttlSecondsAfterFinished", settings.defaults.ttl_seconds_after_finished)
    has_time = ttl is None or not observed.children
    return phase in status.ENDED and is_seen and has_time and not left_over(phase, observed)


def unfinished(job: TrainingJob, observed: Observed, now: datetime) -> tuple[Stage, State]:
    """The first stage without a result, and where it stands."""
    every = stages(job)
    states = ((stage, look(job, stage, observed, now)) for stage in every)
    return next(((stage, state) for stage, state in states if not isinstance(state, Finished)), (every[-1], Finished()))
