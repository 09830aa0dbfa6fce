"""What watches a service: a PodMonitor, a PrometheusRule and a dashboard, each where somebody is there to read it."""

from __future__ import annotations

from typing import NamedTuple

from lmops.api import LanguageModelService
from lmops.parts import child_name, labels, owned
from lmops.plan import Manifest, Observed, Ref, Refusal
from lmops.serving.alerts import groups
from lmops.serving.dashboard import dashboard
from lmops.serving.inferenceservice import REVISION, ref
from lmops.serving.kept import stamped, writing
from lmops.serving.vllmmetrics import relabelings
from lmops.settings import Settings

KINDS = ("PodMonitor", "PrometheusRule", "ConfigMap")
OPERATED = KINDS[:2]
"""Those of Prometheus' operator."""


class Monitoring(NamedTuple):
    """What is to be written, and why something is not; `None` where there is nothing to say, as on a laptop."""

    apply: tuple[Manifest, ...]
    lacks: Refusal | None = None
    is_there: bool = True
    """Whether anything here could watch a service."""


def monitoring(
    service: LanguageModelService, observed: Observed, settings: Settings, by_vllm: bool = False
) -> Monitoring:
    """What is to be written of the monitors whose kinds are installed, and what is missing."""
    if observed.absent.issuperset(KINDS):
        return Monitoring((), is_there=False)
    wanted = [each for each in monitors(service, settings, by_vllm) if each["kind"] not in observed.absent]
    apply = tuple(new for each in wanted for new in writing(each, observed.children.get(Ref.of(each))))
    refused = [observed.refused[one] for each in wanted if (one := Ref.of(each)) in observed.refused]
    unknown = [f"{kind}s" for kind in OPERATED if kind in observed.absent]
    if unknown:
        return Monitoring(apply, Refusal("NotInstalled", _unknown(unknown)))
    return Monitoring(apply, refused[0] if refused else None)


def monitors(service: LanguageModelService, settings: Settings, by_vllm: bool = False) -> list[Manifest]:
    """All that watches a service."""
    found = [podmonitor(service, settings, by_vllm), prometheusrule(service, settings, by_vllm)]
    return [*found, configmap(service, settings, by_vllm)] if settings.monitoring.dashboards else found


def podmonitor(service: LanguageModelService, settings: Settings, by_vllm: bool = False) -> Manifest:
    """Tells Prometheus to scrape every pod of the service, the old and the new of a rollout."""
    name, spec = service.metadata.name, service.spec.monitoring
    ours = labels(service.kind, name, ref(service).name, "serve", 0)
    chosen = {label: value for label, value in ours.items() if not label.endswith("/attempt")}
    renamed = {"metricRelabelings": relabelings()} if by_vllm else {}
    endpoint = {"port": "http", "path": "/metrics", "interval": f"{spec.scrape_seconds}s", **renamed}
    return _child(
        service,
        "PodMonitor",
        "monitoring.coreos.com/v1",
        settings.monitoring.labels,
        spec={
            "selector": {"matchLabels": chosen},
            "podTargetLabels": [REVISION],
            "podMetricsEndpoints": [endpoint],
        },
    )


def prometheusrule(service: LanguageModelService, settings: Settings, by_vllm: bool = False) -> Manifest:
    """Tells Prometheus what is worth an alert."""
    rules = groups(service, target(service), settings.monitoring.runbooks, by_vllm)
    made = {"groups": rules}
    return _child(service, "PrometheusRule", "monitoring.coreos.com/v1", settings.monitoring.labels, spec=made)


def configmap(service: LanguageModelService, settings: Settings, by_vllm: bool = False) -> Manifest:
    """The dashboard, where Grafana's sidecar looks for it."""
    name, given = service.metadata.name, settings.monitoring.dashboard_labels
    file = f"{service.metadata.namespace}-{name}.json"  # the sidecar puts those of all namespaces into one folder
    return _child(service, "ConfigMap", "v1", given, data={file: dashboard(service, target(service), by_vllm)})


def target(service: LanguageModelService) -> str:
    """Selects what was scraped by its PodMonitor: Prometheus' operator names the job after that."""
    namespace = service.metadata.namespace
    return f'namespace="{namespace}",job="{namespace}/{_name(service, "PodMonitor")}"'


def _name(service: LanguageModelService, kind: str) -> str:
    return child_name(service.metadata.name, NAMES[kind])


NAMES = {"PodMonitor": "metrics", "PrometheusRule": "alerts", "ConfigMap": "dashboard"}


def _child(
    service: LanguageModelService, kind: str, api_version: str, given: dict[str, str], **content: Manifest
) -> Manifest:
    name = _name(service, kind)
    ours = labels(service.kind, service.metadata.name, name, "monitor", 0)
    metadata = owned(service.kind, service.metadata, name, {**given, **ours})
    return stamped({"apiVersion": api_version, "kind": kind, "metadata": metadata, **content})


def _unknown(kinds: list[str]) -> str:
    return (
        f"{' and '.join(kinds)} are unknown here, so nobody is told when something is wrong: "
        "install Prometheus' operator (monitoring.coreos.com/v1)."
    )
