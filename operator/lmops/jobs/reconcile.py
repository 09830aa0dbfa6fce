"""What a job needs next, given what is there and what its ledger remembers."""

from __future__ import annotations

from datetime import datetime

from lmops.api.status import Stage
from lmops.jobs import status
from lmops.jobs.attempts import active, begun, leaving, queued, waits, withheld
from lmops.jobs.endings import deadline, done, expired, failed, left_over, lost, suspended, tidied
from lmops.jobs.runs import Active, Done, Finished, Leaving, Lost, Queued, State, Wanted, look
from lmops.jobs.status import Plan
from lmops.jobs.work import AnyWork, Standing
from lmops.plan import Manifest, Observed, Refusal
from lmops.settings import Settings


def reconcile(work: AnyWork, observed: Observed, now: datetime) -> Plan:
    """The whole decision: refuse, stop, wait, or move the first unfinished stage one step; or report the end."""
    if work.job.status.phase in status.ENDED:
        return tidied(work, observed, now)
    if not work.job.status.runs and (refusal := work.refusal(observed)):
        return failed(work, refusal, now, accepted=False)
    stage, state = unfinished(work, observed, now)
    if overtime := deadline(work, state, now):
        return expired(work, stage, state, overtime, now)
    if work.job.spec.suspend:
        return suspended(work, stage, state, now)
    match state:
        case Wanted(attempt, Refusal() as reason):
            return withheld(work, stage, attempt, reason, now)
        case Wanted(attempt):
            found = work.resolved(observed)
            return waits(work, found, now) if isinstance(found, Standing) else begun(found, stage, attempt, now)
        case Queued():
            return queued(work, stage, state, now)
        case Active():
            return active(work, stage, state, now)
        case Done():
            return done(work, stage, state, now)
        case Lost():
            return lost(work, stage, state, now)
        case Leaving():
            return leaving(work, stage, state, now)
        case Finished():
            return Plan(status=work.job.status)


def is_settled(job: Manifest, observed: Observed, settings: Settings) -> bool:
    """Whether a job has ended and nothing of it is left to do. It takes the bare manifest: most jobs have ended."""
    status_ = job.get("status", {})
    phase, is_seen = status_.get("phase"), status_.get("observedGeneration") == job["metadata"].get("generation")
    ttl = job["spec"].get("ttlSecondsAfterFinished", settings.defaults.ttl_seconds_after_finished)
    has_time = ttl is None or not observed.children
    return phase in status.ENDED and is_seen and has_time and not left_over(phase, observed)


def unfinished(work: AnyWork, observed: Observed, now: datetime) -> tuple[Stage, State]:
    """The first stage without a result, and where it stands."""
    every = work.stages()
    states = ((stage, look(work, stage, observed, now)) for stage in every)
    return next(((stage, state) for stage, state in states if not isinstance(state, Finished)), (every[-1], Finished()))
