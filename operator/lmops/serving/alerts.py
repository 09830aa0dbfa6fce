"""What is worth telling somebody of one service: rules for Prometheus, made of its promises and its limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from lmops.api import LanguageModelService
from lmops.api.slo import DURATION_BUCKETS, Latency
from lmops.plan import Manifest
from lmops.serving.remedies import REMEDIES

PAGES = "docs/runbooks"
"""Where the source of lmops has the page of each alert."""
ANSWERS = "gen_ai_server_request_duration_seconds"
GOOD = 'error_type=""'
FAILED = 'error_type=~"5..|429"'
COUNTED = 'error_type=~"|5..|429"'
"""Answers that are good, that failed, and both: wrong requests, and clients that left, are no fault of the service."""
DRIFT = "LanguageModelServiceDrift"
PROMPTS = '"promptLength"'
"""What is shown and raises nothing: prompts are beginnings, and as long as their authors like."""
SATURATED, NEAR = 0.8, 0.9
"""Shares of the inputs, and of the memory, that a replica may have at the most: from here on it is close to that."""


class Burn(NamedTuple):
    """A pace at which errors are spent too fast, as a multiple of what lasts 30 days.

    It has to be so in a long window, which makes sure of it, and in a short one, which tells soon that it is over.
    """

    pace: float
    long: str
    short: str
    severity: Literal["critical", "warning"]


BURNS = (
    Burn(14.4, "1h", "5m", "critical"),  # 2 % of what 30 days allow, in an hour
    Burn(6, "6h", "30m", "critical"),  # 5 % in six hours
    Burn(1, "3d", "6h", "warning"),  # 10 % in three days
)
"""The paces and windows of Google's SRE Workbook, chapter "Alerting on SLOs", table 5-8."""
WINDOWS = ("5m", "30m", "1h", "6h", "3d")


class Alert(NamedTuple):
    """A rule that tells somebody. Critical: users notice it. Warning: they soon may, or a part of it is wasted."""

    name: str
    severity: Literal["critical", "warning"]
    expression: str
    summary: str
    description: str
    lasts: str = "0m"
    """How long it must hold."""


def groups(service: LanguageModelService, target: str, runbooks: str, by_vllm: bool = False) -> list[Manifest]:
    """The rules of a service. `target` selects what was scraped of its replicas.

    vLLM tells nothing of its inputs, and of the memory that of one of its processes: of these nobody could be told.
    """
    name, latency = service.metadata.name, service.spec.slo.latency
    recorded = [_recorded(service, "failed", window, failed(target, window)) for window in WINDOWS]
    if latency:
        recorded += [_recorded(service, "slow", window, slow(latency, target, window)) for window in WINDOWS]
    told = [*_promises(service), *_health(service, target, by_vllm), *(() if by_vllm else (_drift(service, target),))]
    return [
        {"name": f"{name}.shares", "rules": recorded},
        {"name": f"{name}.alerts", "rules": [_rule(service, alert, runbooks) for alert in told]},
    ]


def failed(target: str, window: str) -> str:
    """The share of requests that failed."""
    return f"{_rate(f'{ANSWERS}_count', target, FAILED, window)} / {_rate(f'{ANSWERS}_count', target, COUNTED, window)}"


def slow(latency: Latency, target: str, window: str) -> str:
    """The share of answers that took too long: within a bucket they are taken to be spread evenly."""
    upper = next(bucket for bucket in DURATION_BUCKETS if bucket >= latency.seconds)
    lower = max((bucket for bucket in DURATION_BUCKETS if bucket < upper), default=0.0)
    part = (latency.seconds - lower) / (upper - lower)
    weighed = [(upper, part), *([(lower, 1 - part)] if lower and part < 1 else [])]
    counts = [
        (weight, _rate(f"{ANSWERS}_bucket", target, f'{GOOD},le="{bucket}"', window)) for bucket, weight in weighed
    ]
    in_time = [count if weight == 1 else f"{weight:.6g} * {count}" for weight, count in counts]
    return f"1 - ({' + '.join(in_time)}) / {_rate(f'{ANSWERS}_count', target, GOOD, window)}"


def threshold(pace: float, allowed: float) -> float:
    """The share of requests at which errors are spent at this pace; halfway to all of them where it would be beyond."""
    return min(pace * allowed, (1 + allowed) / 2)


def _promises(service: LanguageModelService) -> Iterator[Alert]:
    """The alerts of what users can count on."""
    slo, title = service.spec.slo, _title(service)
    yield from _burning(
        service,
        "failed",
        slo.error_ratio,
        "LanguageModelServiceErrors",
        f"{title} fails more often than it may",
        f"{{{{ $value | humanizePercentage }}}} of the requests fail (5xx, or 429 for want of room); "
        f"slo.errorRatio allows that of {slo.error_ratio * 100:.4g} % over 30 days.",
    )
    if slo.latency:
        seconds, percentile = slo.latency.seconds, slo.latency.percentile
        yield from _burning(
            service,
            "slow",
            1 - percentile / 100,
            "LanguageModelServiceSlow",
            f"{title} is slower than it may be",
            f"{{{{ $value | humanizePercentage }}}} of the answers take longer than {seconds:g} s; "
            f"slo.latency allows that of {100 - percentile:.4g} % over 30 days.",
        )


def _burning(
    service: LanguageModelService, kind: str, allowed: float, name: str, summary: str, description: str
) -> Iterator[Alert]:
    """An alert for each severity."""
    for severity in ("critical", "warning"):
        burns = [burn for burn in BURNS if burn.severity == severity]
        conditions = [
            " and ".join(
                f"{_share(service, kind, window)} > {threshold(burn.pace, allowed):.6g}"
                for window in (burn.long, burn.short)
            )
            for burn in burns
        ]
        yield Alert(name, burns[0].severity, " or ".join(f"({each})" for each in conditions), summary, description)


def _health(service: LanguageModelService, target: str, by_vllm: bool) -> Iterator[Alert]:
    """The alerts of what replicas are short of."""
    title, quiet = _title(service), service.spec.monitoring.no_traffic_minutes
    most = f"({service.spec.limits.queue} * sum(up{{{target}}}))" if by_vllm else f"sum(lmops_inputs_most{{{target}}})"
    yield Alert(
        "LanguageModelServiceDown",
        "critical",
        f"absent(up{{{target}}} == 1)",
        f"{title} does not answer",
        "No replica could be asked for its metrics in the last ten minutes.",
        "10m",
    )
    yield Alert(
        "LanguageModelServiceQueue",
        "warning",
        f"min(lmops_inputs_waiting{{{target}}}) > 0",
        f"{title} has more to do than it can",
        "For ten minutes inputs have waited at every replica ({{ $value }} at the least busy one).",
        "10m",
    )
    yield Alert(
        "LanguageModelServiceSaturated",
        "critical",
        f"sum(lmops_inputs_working{{{target}}}) / {most} > {SATURATED}",
        f"{title} is about to turn requests away",
        "Its replicas work on {{ $value | humanizePercentage }} of the inputs that they take on (limits.queue).",
        "5m",
    )
    if not by_vllm:
        yield Alert(
            "LanguageModelServiceMemory",
            "warning",
            f"max by (pod) (process_resident_memory_bytes{{{target}}} / lmops_memory_limit_bytes{{{target}}}) > {NEAR}",
            f"{title} is short of memory",
            "{{ $labels.pod }} has {{ $value | humanizePercentage }} of the memory that it may have; beyond that it is "
            "killed.",
            "10m",
        )
    yield Alert(
        "LanguageModelServiceRestarts",
        "warning",
        f"max by (pod) (changes(process_start_time_seconds{{{target}}}[1h])) >= 2",
        f"{title} starts again and again",
        "{{ $labels.pod }} has started anew {{ $value }} times within an hour.",
    )
    if quiet:
        asked = _rate(f"{ANSWERS}_count", target, "", "5m")
        yield Alert(
            "LanguageModelServiceNoTraffic",
            "warning",
            f"({asked} or vector(0)) == 0 and on () max(up{{{target}}}) == 1",
            f"Nobody asks {title}",
            f"It is up, and has had no request for {quiet} minutes (monitoring.noTrafficMinutes).",
            f"{quiet}m",
        )


def _drift(service: LanguageModelService, target: str) -> Alert:
    """That inputs are not like those that the model was evaluated on, at one replica at the least."""
    most = service.spec.monitoring.drift
    measures = (
        (f"max by (of) (lmops_drift_psi{{{target},of!={PROMPTS}}})", most.max_psi),
        (_named("unknownTokens", f"max(lmops_drift_unknown_tokens{{{target}}})"), most.max_unknown_tokens),
        (_named("embedding", f"max(lmops_drift_embedding_distance{{{target}}})"), most.max_embedding_distance),
    )
    return Alert(
        DRIFT,
        "warning",
        " or ".join(f"{measure} > {limit:g}" for measure, limit in measures),
        f"{_title(service)} is asked other things than it learned",
        "For half an hour its inputs have not been like the rows that the model was evaluated on: {{ $labels.of }} is "
        'off by {{ $value | printf "%.2f" }}, more than monitoring.drift allows.',
        "30m",
    )


def _named(of: str, expression: str) -> str:
    """A figure with the label that others have by themselves."""
    return f'label_replace({expression}, "of", "{of}", "", "")'


def _rule(service: LanguageModelService, alert: Alert, runbooks: str) -> Manifest:
    """An alert in Prometheus' words, with labels by which Alertmanager finds whom to tell."""
    own = {"severity": alert.severity, "namespace": service.metadata.namespace, "service": service.metadata.name}
    return {
        "alert": alert.name,
        "expr": alert.expression,
        **({"for": alert.lasts} if alert.lasts != "0m" else {}),
        "labels": {**service.spec.monitoring.alert_labels, **own},
        "annotations": {
            "summary": alert.summary,
            "description": f"{alert.description} {REMEDIES[alert.name]}",
            **_page(alert.name, runbooks),
        },
    }


def _page(name: str, runbooks: str) -> dict[str, str]:
    """Where more is said of an alert. Without an address there is no link that a mail could lead by."""
    return {"runbook_url": f"{runbooks.rstrip('/')}/{name}.md"} if runbooks else {"runbook": f"{PAGES}/{name}.md"}


def _recorded(service: LanguageModelService, kind: str, window: str, expression: str) -> Manifest:
    """A share of requests, computed once for all the rules that look at it."""
    labels = {"namespace": service.metadata.namespace, "service": service.metadata.name}
    return {"record": _name(kind, window), "expr": expression, "labels": labels}


def _share(service: LanguageModelService, kind: str, window: str) -> str:
    """A share that was recorded."""
    return f'{_name(kind, window)}{{namespace="{service.metadata.namespace}",service="{service.metadata.name}"}}'


def _name(kind: str, window: str) -> str:
    return f"lmops_service:{kind}:ratio_rate{window}"


def _rate(metric: str, target: str, which: str, window: str) -> str:
    return f"sum(rate({metric}{{{','.join(filter(None, (target, which)))}}}[{window}]))"


def _title(service: LanguageModelService) -> str:
    return f"LanguageModelService {service.metadata.namespace}/{service.metadata.name}"
