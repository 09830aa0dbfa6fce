"""A Grafana dashboard of one service: what its users feel, what its replicas do, and which model does it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from lmops.api import LanguageModelService
from lmops.serving.alerts import ANSWERS, GOOD, failed
from lmops.serving.kept import fingerprint

SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 8, 7
"""Of a panel: three stand in a row of 24."""


class Curve(NamedTuple):
    """An expression, and what its lines are called."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """One picture."""

    title: str
    unit: str
    curves: tuple[Curve, ...]


def panels(target: str, by_vllm: bool = False) -> tuple[Panel, ...]:
    """The pictures, in the order in which one looks at them. `target` selects what was scraped of the replicas."""
    return (*_answers(target), *(_of_vllm(target) if by_vllm else _of_ours(target)))


def _answers(target: str) -> tuple[Panel, ...]:
    """What users feel."""
    return (
        Panel("Requests", "reqps", (Curve(_rate(f"{ANSWERS}_count", target, "error_type"), "{{error_type}}"),)),
        Panel("Failed", "percentunit", (Curve(failed(target, "$__rate_interval"), "5xx and 429"),)),
        Panel("Time to the end of an answer", "s", _quantiles(ANSWERS, f"{target},{GOOD}")),
        Panel("Time to the first token", "s", _quantiles("gen_ai_server_time_to_first_token_seconds", target)),
        Panel("Time for each further token", "s", _quantiles("gen_ai_server_time_per_output_token_seconds", target)),
        Panel(
            "Tokens",
            "short",
            (
                Curve(
                    _rate("gen_ai_client_token_usage_sum", target, "gen_ai_token_type"),
                    "{{gen_ai_token_type}} a second",
                ),
            ),
        ),
    )


def _inputs(target: str) -> tuple[Curve, ...]:
    return (
        Curve(f"sum(lmops_inputs_working{{{target}}})", "taken on"),
        Curve(f"sum(lmops_inputs_waiting{{{target}}})", "waiting"),
    )


def _of_vllm(target: str) -> tuple[Panel, ...]:
    """What replicas of vLLM do: what has no name of ours stands under its own."""
    hits, asked = (
        f"sum(rate(vllm:prefix_cache_{what}_total{{{target}}}[$__rate_interval]))" for what in ("hits", "queries")
    )
    return (
        Panel("Inputs", "short", _inputs(target)),
        Panel("Cache of keys and values", "percentunit", (Curve(f"vllm:kv_cache_usage_perc{{{target}}}", "{{pod}}"),)),
        Panel("Prompts found in the cache", "percentunit", (Curve(f"{hits} / {asked}", "of their tokens"),)),
        Panel(
            "Put back for want of cache",
            "short",
            (Curve(_rate("vllm:num_preemptions_total", target, "pod"), "{{pod}}"),),
        ),
        Panel(
            "Replicas",
            "short",
            (Curve(f"count by (lmops_dev_revision) (up{{{target}}} == 1)", "{{lmops_dev_revision}}"),),
        ),
    )


def _of_ours(target: str) -> tuple[Panel, ...]:
    """What replicas of our own server do, and how far their inputs have drifted."""
    return (
        Panel("Inputs", "short", (*_inputs(target), Curve(f"sum(lmops_inputs_most{{{target}}})", "at most"))),
        Panel("Inputs in one pass", "short", _quantiles("lmops_batch_rows", target)),
        Panel("Requests under way", "short", (Curve(f"lmops_requests_in_flight{{{target}}}", "{{pod}}"),)),
        Panel(
            "Memory",
            "bytes",
            (
                Curve(f"process_resident_memory_bytes{{{target}}}", "{{pod}}"),
                Curve(f"min(lmops_memory_limit_bytes{{{target}}})", "at most"),
            ),
        ),
        Panel("Cores", "short", (Curve(_rate("process_cpu_seconds_total", target, "pod"), "{{pod}}"),)),
        Panel(
            "Drift: stability index",
            "short",
            (Curve(f"max by (of) (lmops_drift_psi{{{target}}})", "{{of}}"),),
        ),
        Panel(
            "Drift: embeddings and unknown tokens",
            "short",
            (
                Curve(f"max(lmops_drift_embedding_distance{{{target}}})", "distance in spreads"),
                Curve(f"max(lmops_drift_unknown_tokens{{{target}}})", "unknown tokens, more than at evaluation"),
            ),
        ),
        Panel("Drift: inputs it is told of", "short", (Curve(f"lmops_drift_rows{{{target}}}", "{{pod}}"),)),
        Panel(
            "Replicas",
            "short",
            (Curve(f"count by (lmops_dev_revision, digest) (lmops_model_info{{{target}}})", "{{digest}}"),),
        ),
    )


def dashboard(service: LanguageModelService, target: str, by_vllm: bool = False) -> str:
    """The dashboard as Grafana imports it."""
    name, namespace = service.metadata.name, service.metadata.namespace
    document: dict[str, Any] = {
        "uid": f"lmops-{fingerprint([namespace, name])}",
        "title": f"{namespace}/{name}",
        "tags": ["lmops"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_drawn(panel, place) for place, panel in enumerate(panels(target, by_vllm))],
    }
    return json.dumps(document, indent=1, sort_keys=True)


def _drawn(panel: Panel, place: int) -> dict[str, Any]:
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": {"x": place % 3 * WIDTH, "y": place // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": "ABC"[number], "datasource": SOURCE, "expr": curve.expression, "legendFormat": curve.legend}
            for number, curve in enumerate(panel.curves)
        ],
    }


def _quantiles(metric: str, target: str) -> tuple[Curve, ...]:
    """The median, and what only one in twenty and in a hundred exceeds."""
    rate = f"sum by (le) (rate({metric}_bucket{{{target}}}[$__rate_interval]))"
    return tuple(Curve(f"histogram_quantile(0.{percent}, {rate})", f"p{percent}") for percent in (50, 95, 99))


def _rate(metric: str, target: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{target}}}[$__rate_interval]))"
