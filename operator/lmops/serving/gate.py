"""The gate of a rollout: a candidate beside the running model, a Job that asks both, and a verdict that is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from lmops.api import Failure, LanguageModelService
from lmops.api.languagemodelservice import Gates
from lmops.api.reference import ResolvedModel
from lmops.api.servicestatus import GateFigures, GateReport, RefusedModel
from lmops.jobs.failure import failure
from lmops.jobs.policies import fits
from lmops.plan import Manifest, Observed, Ref
from lmops.serving import gatejob
from lmops.serving.following import Choice, is_same, title
from lmops.serving.inferenceservice import candidate, candidate_ref, inferenceservice, revision_of
from lmops.serving.inferenceservice import ref as main
from lmops.serving.kept import writing
from lmops.serving.policies import engine_fits
from lmops.serving.replicas import Pods, fetches, has_crashed, is_ready
from lmops.serving.verdict import broken, told
from lmops.settings import Settings

REMEMBERED = 10
"""How many models that were refused are remembered."""
PAUSE = timedelta(minutes=5)
"""How soon such a running model is asked again."""


@dataclass(frozen=True)
class Step:
    """What the gate wants now, and whether the running model stays meanwhile."""

    choice: Choice
    """The model to serve, for now."""
    report: GateReport | None = None
    refused: list[RefusedModel] | None = None
    """The models that were refused, where one was added."""
    apply: tuple[Manifest, ...] = ()
    create: tuple[Manifest, ...] = ()
    delete: tuple[Ref, ...] = ()
    again: timedelta | None = None


@dataclass(frozen=True)
class Candidate:
    """A service and a model that is to take over there, at one moment."""

    service: LanguageModelService
    model: ResolvedModel
    observed: Observed
    now: datetime
    settings: Settings

    @property
    def running(self) -> ResolvedModel:
        """The model that stays until the gate is passed."""
        rollout = self.service.status.rollout
        assert rollout
        return rollout.model

    @property
    def revision(self) -> str:
        """What the service would become."""
        return revision_of(inferenceservice(self.service, self.model, self.settings))

    def step(self) -> Step:
        """The next step: each is written down first, so that one that is taken twice does no harm."""
        if refusal := refused(self.service, self.model):
            return self._failed(refusal)
        report = self.service.status.rollout.gate if self.service.status.rollout else None
        if report is None or report.revision != self.revision or not is_same(report.model, self.model):
            report = None
        if report and report.state == "Passed":
            return self._passed(report)
        if report and report.state == "Failed" and (left := gone(self.service, self.observed)).there:
            said = f"{title(self.model)} is tried again once its candidate of before is gone."
            return Step(self._stays("Gating", said), report, delete=left.delete)
        if report is None or report.state == "Failed":  # under another spec
            report = GateReport(state="Starting", revision=self.revision, model=self.model, started_at=self.now)
        return self._compared(report) if report.state == "Comparing" else self._started(report)

    def _started(self, report: GateReport) -> Step:
        """The candidate starts; once both answer, and a Job of before has gone, they are compared."""
        pods = self._pods()
        if why := engine_fits(self.service, self.model, self.settings) or self._crashed(pods):
            return self._ended(report, None, why)
        left = jobs_left(self.observed)
        address, lacks = self._address(pods), self._lacks(pods)
        rests = _rests(report, self.now)
        if address is None or lacks or left.there or rests:
            starts = f"{title(self.model)} starts beside {title(self.running)}, which goes on to serve."
            return self._goes_on(report, lacks or report.verdict or starts, pods, delete=left.delete, again=rests)
        compares = report.model_copy(update={"state": "Comparing", "reason": None, "verdict": "", "ended_at": None})
        if why := fits(gatejob.document(self.service, self.model, *address), "Give fewer or shorter rows."):
            return self._ended(report, None, why)
        return self._goes_on(compares, self._compares, pods)

    def _compared(self, report: GateReport) -> Step:
        """The Job asks both; what it finds is judged here, by the spec as it is now."""
        pods, this = self._pods(), gatejob.ref(self.service, self.revision)
        if why := self._crashed(pods):
            return self._ended(report, None, why)
        job, address = self.observed.children.get(this), self._address(pods)
        found = gatejob.found(this, job, self.observed, self.now)
        if isinstance(found, Failure) and found.reason == gatejob.UNWELL:
            return self._waits(report, found, pods)
        if isinstance(found, Failure):
            return self._ended(report, None, found)
        if found:
            return self._ended(report, found, broken(found, gates_of(self.service)))
        left = jobs_left(self.observed, but=this)
        if job is not None:
            return self._goes_on(report, self._said_of(this) or self._compares, pods, delete=left.delete)
        if address is None:
            return self._goes_on(report, self._lacks(pods) or f"{title(self.model)} does not answer now.", pods)
        made = gatejob.gatejob(self.service, self.model, self.revision, *address, self.settings)
        return self._goes_on(report, self._said_of(this) or self._compares, pods, create=(made,), delete=left.delete)

    def _waits(self, report: GateReport, why: Failure, pods: Pods) -> Step:
        """Writes down that nothing could be compared, which is no verdict: the candidate stays, and is asked again."""
        said = f"{title(self.model)} waits: {why.message.rstrip('. ')}. It is asked again; {self._without}"
        waits = _over(report, "Waiting", None, said, self.now).model_copy(update={"reason": why.reason})
        return self._goes_on(waits, said, pods, again=timedelta(0))

    def _passed(self, report: GateReport) -> Step:
        """First the candidate goes, then the running model is replaced: there may be no room for three."""
        left = gone(self.service, self.observed)
        if not left.there:
            return Step(Choice(self.model), report)
        said = f"{report.verdict} It takes over once its candidate is gone."
        return Step(self._stays("Gating", said), report, delete=left.delete)

    def _failed(self, refusal: RefusedModel) -> Step:
        left, rollout = gone(self.service, self.observed), self.service.status.rollout
        report = rollout.gate if rollout and rollout.gate and is_same(rollout.gate.model, self.model) else None
        return Step(self._stays("GateFailed", f"{refusal.verdict} {self._way_out}"), report, delete=left.delete)

    def _ended(self, report: GateReport, figures: GateFigures | None, why: Failure | None) -> Step:
        """Writes the verdict down; only then is anything removed."""
        if why is None:
            assert figures
            said = f"{title(self.model)} passes beside {title(self.running)}: {told(figures)}."
            passed = _over(report, "Passed", figures, said, self.now)
            return Step(self._stays("Gating", said), passed, again=timedelta(0))
        said = f"{title(self.model)} does not take over from {title(self.running)}: {why.message}"
        over = _over(report, "Failed", figures, said, self.now).model_copy(update={"reason": why.reason})
        generation = self.service.metadata.generation or 0
        refusal = RefusedModel(model=self.model, generation=generation, reason=why.reason, verdict=said, at=self.now)
        others = [each for each in self.service.status.refused if not is_same(each.model, self.model)]
        choice = self._stays("GateFailed", f"{said} {self._way_out}")
        return Step(choice, over, [*others, refusal][-REMEMBERED:], again=timedelta(0))

    def _goes_on(
        self,
        report: GateReport,
        said: str,
        pods: Pods,
        create: tuple[Manifest, ...] = (),
        delete: tuple[Ref, ...] = (),
        again: timedelta | None = None,
    ) -> Step:
        """The candidate is kept as it should be meanwhile."""
        wanted = candidate(self.service, self.model, self.settings)
        apply = writing(wanted, self.observed.children.get(candidate_ref(self.service)))
        choice = self._stays("Gating", said)
        waits = [each for each in (pods.patience(self.now), *map(self._fetches, pods.new)) if each]
        waits += [] if again is None else [again]
        return Step(choice, report, None, apply, create, delete, again=min(waits, default=None))

    def _stays(self, reason: str, message: str) -> Choice:
        return Choice(self.running, reason, message)

    def _pods(self) -> Pods:
        """The pods of the candidate."""
        wanted = candidate(self.service, self.model, self.settings)
        return Pods.beside(candidate_ref(self.service).name, self.observed, revision_of(wanted))

    def _crashed(self, pods: Pods) -> Failure | None:
        """Why the candidate will not come up."""
        given_up = (pod for pod in pods.new if not self._fetches(pod))
        why = next(filter(None, (Pods((pod,), (), 1).failure(self.now) for pod in given_up)), None)
        if why is None or not has_crashed(why):
            return None
        return failure(why.class_, why.reason, f"it does not come up: {why.message}", why.evidence, why.remedy)

    def _fetches(self, pod: Manifest) -> timedelta:
        """How long a pod may go on to ask for its image, or its model, in vain."""
        since = fetches(pod, self.now)
        until = since + timedelta(seconds=self.settings.image_pull_seconds) if since else self.now
        return max(timedelta(0), until - self.now)

    def _address(self, pods: Pods) -> tuple[str, str] | None:
        """Where the running model and the candidate answer, once the candidate does, and nothing of an earlier one."""
        running, beside = (
            url(self.observed.children.get(each)) for each in (main(self.service), candidate_ref(self.service))
        )
        answers = pods.updated and not any(map(is_ready, pods.old))
        return (running, beside) if answers and running and beside else None

    def _lacks(self, pods: Pods) -> str:
        """What keeps both from being compared, in words."""
        this = candidate_ref(self.service)
        if said := self._said_of(this):
            return said
        if why := pods.failure(self.now):
            return f"{title(self.model)} waits: {why.message}"
        rollout = self.service.status.rollout
        if rollout and rollout.state == "InProgress":
            return f"{title(self.model)} waits until {title(self.running)} is there to be compared with."
        if not Pods.beside(self.service.metadata.name, self.observed, "").ready:
            waits = f"{title(self.model)} waits until {title(self.running)} answers, to be compared with it"
            return f"{waits}; {self._without}"
        return ""

    def _said_of(self, child: Ref) -> str:
        """Why a child is not there, or has no pods."""
        why = self.observed.refused.get(child) or self.observed.obstacles.get(child)
        return f"{child.kind} {child.name}: {why.message}" if why else ""

    @property
    def _compares(self) -> str:
        gates = gates_of(self.service)
        rows = f"on {len(gates.rows)} rows" if gates.rows else "on the sample in its passport"
        return f"{title(self.model)} is compared with {title(self.running)} {rows}."

    @property
    def _way_out(self) -> str:
        return f"{title(self.running)} stays; another spec tries it again, and {self._without}"

    @property
    def _without(self) -> str:
        by = f"model.digest: {self.model.digest}" if self.model.digest else "rollout.strategy: Immediate"
        return f"{by} takes {title(self.model)} without a gate."


@dataclass(frozen=True)
class Left:
    """What is left of a gate."""

    there: tuple[Ref, ...]

    delete: tuple[Ref, ...]
    """What nobody has told to go yet."""


def gated(service: LanguageModelService, choice: Choice, observed: Observed, now: datetime, settings: Settings) -> Step:
    """The model to serve now: the chosen one, or the running one as long as the chosen one has not passed its gate."""
    if choice.model and needs_gate(service, choice.model):
        return Candidate(service, choice.model, observed, now, settings).step()
    report = service.status.rollout.gate if service.status.rollout else None
    kept = report if report and report.state == "Passed" and is_same(report.model, choice.model) else None
    return Step(choice, kept, delete=gone(service, observed).delete)


def needs_gate(service: LanguageModelService, model: ResolvedModel) -> bool:
    """Whether a model has to prove itself: not the first, nor one that somebody names by its digest."""
    spec, status = service.spec, service.status
    if spec.rollout.strategy != "Gated" or spec.model.digest or status.model is None or status.rollout is None:
        return False
    return not is_same(model, status.rollout.model)


def refused(service: LanguageModelService, model: ResolvedModel) -> RefusedModel | None:
    """How this model has failed under the spec as it is."""
    mine = (each for each in service.status.refused if is_same(each.model, model) or _digests(each.model, model))
    return next((each for each in mine if each.generation == service.metadata.generation), None)


def gates_of(service: LanguageModelService) -> Gates:
    """The limits of a service."""
    return service.spec.rollout.gates or Gates()


def jobs_left(observed: Observed, but: Ref | None = None) -> Left:
    """The Jobs of gates, but for one that goes on."""
    jobs = [each for each in observed.children if each.kind == gatejob.KIND and each != but]
    return Left(tuple(jobs), tuple(each for each in jobs if not _goes(observed.children[each])))


def gone(service: LanguageModelService, observed: Observed) -> Left:
    """All that a gate leaves behind."""
    jobs, this = jobs_left(observed), candidate_ref(service)
    if (child := observed.children.get(this)) is None:
        return jobs
    return Left((*jobs.there, this), jobs.delete if _goes(child) else (*jobs.delete, this))


def expected(service: LanguageModelService) -> tuple[Ref, ...]:
    """The children that the status of a gate says are there."""
    report = service.status.rollout.gate if service.status.rollout else None
    if report is None or report.state not in ("Starting", "Comparing", "Waiting"):
        return ()
    job = (gatejob.ref(service, report.revision),) if report.state == "Comparing" else ()
    return (candidate_ref(service), *job)


def url(child: Manifest | None) -> str | None:
    """Where KServe says that it answers, inside the cluster."""
    address = ((child or {}).get("status", {}).get("address") or {}).get("url")
    return str(address) if address else None


def _over(report: GateReport, state: str, figures: GateFigures | None, said: str, now: datetime) -> GateReport:
    return report.model_copy(update={"state": state, "figures": figures, "verdict": said, "ended_at": now})


def _rests(report: GateReport, now: datetime) -> timedelta | None:
    """How long a running model that did not answer is left alone yet."""
    left = report.ended_at + PAUSE - now if report.state == "Waiting" and report.ended_at else timedelta(0)
    return left if left > timedelta(0) else None


def _digests(one: ResolvedModel, other: ResolvedModel) -> bool:
    return bool(one.digest and one.digest == other.digest)


def _goes(child: Manifest) -> bool:
    return "deletionTimestamp" in child["metadata"]
