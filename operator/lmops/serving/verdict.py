"""What the figures of a candidate are worth: they pass the gates of a service, or fail them in words."""

from __future__ import annotations

from collections.abc import Iterator

from lmops.api import Failure
from lmops.api.languagemodelservice import Gates
from lmops.api.servicestatus import GateFigures
from lmops.jobs.failure import failure

AGREEMENT = 0.8
"""How alike answers must be where nobody says, but for models that write."""
WRITES = "CausalLM"


def broken(figures: GateFigures, gates: Gates) -> Failure | None:
    """Why the figures do not pass; what was not measured does not."""
    least = gates.min_agreement
    if least is None and figures.task != WRITES:
        least = AGREEMENT
    found = list(_broken(figures, gates, least))
    if not found:
        return None
    return failure("Verdict", found[0][0], f"{'; '.join(said for _, said in found)}. {_counted(figures)}.")


def _broken(figures: GateFigures, gates: Gates, least: float | None) -> Iterator[tuple[str, str]]:
    """The limits that are not kept, each with a word and in words."""
    if figures.requests == 0:
        yield "NothingMeasured", "nothing was asked that the running model answers"
        return
    if figures.error_ratio > gates.max_error_ratio:
        fault = f" ({figures.fault})" if figures.fault else ""
        yield (
            "Errors",
            f"{figures.error_ratio:.1%} of its requests have no answer{fault}, at most {gates.max_error_ratio:.1%} may",
        )
    if least is not None and (figures.agreement is None or figures.agreement < least):
        found = "was not measured" if figures.agreement is None else f"is {figures.agreement:.3f}"
        yield "Agreement", f"agreement {found}, and must be at least {least:g}"
    if figures.latency_ratio is None:
        yield "Latency", "its latency was not measured"
    elif figures.latency_ratio > gates.max_latency_ratio:
        yield (
            "Latency",
            f"it takes {figures.latency_ratio:.2f} times as long, at most {gates.max_latency_ratio:g} times is allowed",
        )


def told(figures: GateFigures) -> str:
    """The figures in words."""
    alike = "" if figures.agreement is None else f", agreement {figures.agreement:.3f}"
    slower = "" if figures.latency_ratio is None else f", {figures.latency_ratio:.2f} times the latency"
    return f"{figures.error_ratio:.1%} errors{alike}{slower}, in {_counted(figures)}"


def _counted(figures: GateFigures) -> str:
    return f"{figures.requests} requests of {figures.rows} rows"
