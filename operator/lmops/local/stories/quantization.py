"""A QuantizeJob in words."""

from __future__ import annotations

from collections.abc import Iterator

from lmops.api.compressionreport import CompressionReport, Interval, QuantizeJobStatus
from lmops.api.status import RunRecord
from lmops.api.wording import count, times
from lmops.local.stories import Ending, JobStory, failed, figure, size
from lmops.local.volumes import Volumes
from lmops.plan import Manifest


class QuantizationStory(JobStory[QuantizeJobStatus]):
    """How a QuantizeJob is told."""

    form = QuantizeJobStatus

    def details(self, job: QuantizeJobStatus, row: RunRecord) -> tuple[str, ...]:
        """The steps."""
        return (job.display.method,) if job.display.method else ()

    def made(self, job: QuantizeJobStatus, row: RunRecord) -> str:
        """The verdict."""
        return job.report.sentence if job.report else "done"

    def ending(self, name: str, status: Manifest, volumes: Volumes) -> Ending:
        """How it ended. One that has not passed shows its figures as well: it is they that are looked at then."""
        job = self.form.model_validate(status)
        if job.phase != "Failed" or not job.report:
            return super().ending(name, status, volumes)
        return _side_by_side(job.report, (*failed(job), *_noted(job.report), *_published(name, job, volumes)))

    def good_end(self, name: str, job: QuantizeJobStatus, volumes: Volumes) -> Ending:
        """Both models side by side."""
        published = tuple(_published(name, job, volumes))
        if not job.report:
            return Ending((), (), published)
        return _side_by_side(job.report, (*_judged(job.report), *_noted(job.report), *published))


QUANTIZATION = QuantizationStory()


def _side_by_side(report: CompressionReport, lines: tuple[tuple[str, str], ...]) -> Ending:
    return Ending(("", "original", "compressed", ""), tuple(_table(report)), lines)


def _table(report: CompressionReport) -> Iterator[tuple[str, ...]]:
    """A row a figure: what was, what is, and how they compare."""
    before, after = report.original, report.compressed
    yield "runs in", before.format, after.format, ""
    yield "on disk", size(before.size_bytes), size(after.size_bytes), times(report.size_ratio, "smaller")
    yield "non-zero weights", count(before.non_zero_parameters), count(after.non_zero_parameters), ""
    for one, other in zip(before.latency, after.latency, strict=True):
        faster = times(one.p50_milliseconds / other.p50_milliseconds, "faster")
        yield (
            f"latency, {one.batch_size} x {one.length}",
            f"{one.p50_milliseconds:.1f} ms",
            f"{other.p50_milliseconds:.1f} ms",
            faster,
        )
    if before.peak_memory_bytes and after.peak_memory_bytes:
        yield "peak memory", size(before.peak_memory_bytes), size(after.peak_memory_bytes), ""
    if report.metric in before.metrics and report.metric in after.metrics:
        was, now = before.metrics[report.metric], after.metrics[report.metric]
        yield report.metric, figure(was), figure(now), _interval(report.quality, "+z.3f")
    yield "same predictions", "", f"{report.agreement.value:.1%}", _interval(report.agreement, ".3f")


def _interval(found: Interval, form: str) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:{form}}"
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"


def _judged(report: CompressionReport) -> Iterator[tuple[str, str]]:
    yield "verdict", report.sentence
    for check in report.checks:
        yield "", f"{'ok' if check.kept else 'not kept'}: {check.sentence}"


def _noted(report: CompressionReport) -> Iterator[tuple[str, str]]:
    for note in report.notes:
        yield "note", note


def _published(name: str, job: QuantizeJobStatus, volumes: Volumes) -> Iterator[tuple[str, str]]:
    if job.search:
        yield "search", f"{job.search.tried} of {job.search.combinations} combinations were tried"
        for trial in job.search.trials[:5]:
            yield "", f"{trial.outcome}: {trial.method}"
    if job.model:
        path = volumes.path(job.model.uri)
        yield "model", f"{path} ({size(job.model.size_bytes)})"
        own = path / f"report-{name.rpartition('/')[2]}.html"  # where another job has made the very same model before
        yield "report", str(own if own.is_file() else path / "report.html")
    yield "next", f"lmops local describe {name}"
    yield "", f"lmops local logs {name}"
