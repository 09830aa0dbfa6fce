"""The work of a QuantizeJob: one run, which compresses, measures and judges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from lmops.api import Compression, Failure, JobStatus, QuantizeJob, RunId
from lmops.api.compression import words
from lmops.api.compressionreport import CompressionReport, QuantizeJobStatus
from lmops.api.reference import ResolvedModel
from lmops.api.status import Phase, Stage
from lmops.jobs.failure import failure
from lmops.jobs.policies import fits
from lmops.jobs.work import Standing, Work
from lmops.parts import Program, claims, limits, offline, progress_url, threads
from lmops.plan import Observed, Ref
from lmops.references import Waiting, jobs_of, resolved

ANSWERS = frozenset({"maxQualityDrop", "minAgreement"})
"""The limits on what a model answers; the others are on what it takes."""


class Quantization(Work[QuantizeJob]):
    """A QuantizeJob at work."""

    PHASES: ClassVar[Mapping[Stage, Phase]] = {"compress": "Running"}

    @property
    def metric(self) -> str | None:
        """What quality means."""
        return self.job.spec.evaluation.metric

    def stages(self) -> tuple[Stage, ...]:
        """The one stage."""
        return ("compress",)

    def share(self, stage: Stage) -> tuple[int, int]:
        """All of the job."""
        return 0, 100

    def refusal(self, observed: Observed) -> Failure | None:
        """What is wrong with the job before anything of it starts."""
        remedy = "Name layers by patterns in exclude instead of one by one, or search fewer steps."
        return fits(document(self.job, ResolvedModel(uri=""), 0), remedy)

    def resolved(self, observed: Observed) -> Work[QuantizeJob] | Standing:
        """The work with its source written down, once that is there."""
        if self.job.status.source:
            return self
        found = resolved(self.job.spec.model.from_, observed.sources)
        if isinstance(found, Waiting):
            return Standing("Pending", *found, display=": ".join(found))
        return self.having(source=found)

    def program(self, stage: Stage, attempt: int) -> Program:
        """What the pod of an attempt runs."""
        job, spec, settings = self.job, self.job.spec, self.settings
        secret, model = spec.credentials or settings.defaults.credentials, job.status.source
        assert model
        return Program(
            container="compressor",
            image=settings.compressor_image,
            command=["python", "-m", "lmops_compressor", stage],
            arguments=[document(job, model, attempt)],
            env={
                **offline(spec),
                **progress_url("quantizejobs", job.metadata, self.ref(stage, attempt).name, settings),
                **threads(spec.resources),
            },
            secret=secret.secret_name if secret else None,
            limits=limits(spec.resources, settings),
            requests={"cpu": spec.resources.per_node.cpu} if spec.resources.per_node.cpu else {},
            claims=sorted({*claims(spec), *claims(model)}),
        )

    def shown(self, status: JobStatus) -> dict[str, str]:
        """The steps, and what they were worth."""
        spec = self.job.spec
        steps = words(spec.steps) if spec.steps else f"search for {spec.search.objective}" if spec.search else ""
        report = status.report if isinstance(status, QuantizeJobStatus) else None
        return {"method": steps} if report is None else _figures(report)

    def verdict(self) -> Standing | Failure:
        """Whether the result keeps the limits. One that does not has failed, and stays to be looked at."""
        report = self.job.status.report
        if report is None:
            return failure("Code", "ReportMissing", "The run has left no report.")
        if report.verdict == "Passed":
            return Standing("Succeeded", "Passed", report.sentence)
        broken = [check for check in report.checks if not check.kept]
        sure = bool(self.job.spec.accept and self.job.spec.accept.confidence)
        remedy = _remedy({check.limit for check in broken}, unsure=sure and report.quality.low is None)
        said = [check.sentence for check in broken]
        return failure("Verdict", "NotPassed", f"{report.sentence}.", evidence=said, remedy=remedy)


def sources(job: QuantizeJob) -> tuple[Ref, ...]:
    """The job whose model it waits for, or all jobs of a kind; none once it has found its model."""
    return () if job.status.source else jobs_of(job.spec.model.from_)


def document(job: QuantizeJob, model: ResolvedModel, attempt: int) -> str:
    """All that our runtime is told: the spec, which run it is, and the model."""
    run = RunId(job=job.metadata.name, uid=job.metadata.uid, stage="compress", attempt=attempt)
    return Compression(spec=job.spec, run=run, source=model).document()


def _remedy(broken: set[str], unsure: bool) -> str:
    """What helps against the limits that were not kept; where they pull in two directions, other steps do."""
    worse, large = broken & ANSWERS, broken - ANSWERS
    if worse and large:
        way = "Take other steps"
    elif worse:
        way = "Score more rows" if unsure else "Compress less"
    else:
        way = "Compress more"
    return f"{way}, or loosen {', '.join(sorted(broken))}; status.report has the figures."


def _figures(report: CompressionReport) -> dict[str, str]:
    """What a compression was worth, a column each."""
    faster = f"{1 / report.latency_ratio:.2f}x" if report.latency_ratio else ""
    return {
        "method": report.method,
        "size": f"{report.size_ratio:.2f}x",
        "speedup": faster,
        "quality": report.change,
        "verdict": report.verdict,
    }
