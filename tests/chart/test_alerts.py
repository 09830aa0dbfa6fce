"""The alerts on jobs and on the operator itself: each is raised by what it is for, and by nothing less."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import helm
import prometheus
from builders import NOON
from lmops.cache import Standing
from lmops.metrics import Metrics
from lmops.plan import Key
from schemas import check

ROOT = Path(__file__).parents[2]
GROUPS: list[dict[str, Any]] = yaml.safe_load((helm.CHART / "files" / "alerts.yaml").read_text())["groups"]
RULES = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
INSTALLED = ("monitoring.coreos.com/v1/PodMonitor", "monitoring.coreos.com/v1/PrometheusRule")
TROUBLE, LEADS, READABLE = "lmops_resource_trouble", "leader_election_master_status", "lmops_namespace_readable"
REFUSED, USE = "lmops_gate_failed", "lmops_accelerator_use"
MINE: dict[str, str] = {"namespace": "ml", "name": "reviews"}


class Case(NamedTuple):
    """What happens, when it is looked at, and what is raised: its labels and what it tells."""

    alert: str
    happens: tuple[tuple[str, dict[str, str], str], ...]
    at: str
    labels: dict[str, str] | None = None
    told: str = ""


def trouble(kind: str, phase: str, reason: str = "", minutes: str = "1x20", **more: str) -> tuple[Any, ...]:
    """A resource in trouble, by each of two replicas of which the one has just taken over."""
    labels = {**MINE, "kind": kind, "phase": phase, "reason": reason}
    return (TROUBLE, {**labels, "pod": "a"}, minutes), (TROUBLE, {**labels, "pod": "b"}, minutes)


def leading(value: str) -> tuple[Any, ...]:
    return (
        (LEADS, {"name": "lmops-operator", "pod": "a"}, value),
        (LEADS, {"name": "lmops-operator", "pod": "b"}, "0x20"),
    )


JOB = {**MINE, "kind": "TrainingJob"}
CASES = {
    "a job hangs": Case(
        "LmopsJobStalled", trouble("TrainingJob", "Hung"), "1m", JOB, "TrainingJob ml/reviews makes no steps"
    ),
    "a job has failed": Case("LmopsJobStalled", trouble("TrainingJob", "Failed", "Hung"), "1m"),
    "a card has little to do": Case(
        "LmopsAcceleratorIdle",
        ((USE, {**MINE, "pod": "a"}, "0.1x60"),),
        "30m",
        MINE,
        "The accelerator of TrainingJob ml/reviews has little to do",
    ),
    "a card rests for a moment": Case(
        "LmopsAcceleratorIdle", ((USE, {**MINE, "pod": "a"}, "0.9x20 0.1x5 0.9x30"),), "40m"
    ),
    "a job runs out of memory": Case(
        "LmopsJobFailed",
        trouble("TrainingJob", "Failed", "OOMKilled"),
        "1m",
        {**JOB, "reason": "OOMKilled"},
        "TrainingJob ml/reviews has failed",
    ),
    "a failure has its own alert": Case("LmopsJobFailed", trouble("TrainingJob", "Failed", "LossNotFinite"), "1m"),
    "a verdict has its own alert": Case("LmopsJobFailed", trouble("QuantizeJob", "Failed", "NotPassed"), "1m"),
    "a failure is an hour old": Case(
        "LmopsJobFailed", trouble("TrainingJob", "Failed", "OOMKilled", "1x3 stale"), "5m"
    ),
    "a loss is no number": Case(
        "LmopsLossNotFinite",
        trouble("TrainingJob", "Failed", "LossNotFinite"),
        "1m",
        JOB,
        "The loss of TrainingJob ml/reviews is no longer a number",
    ),
    "another failure": Case("LmopsLossNotFinite", trouble("TrainingJob", "Failed", "OOMKilled"), "1m"),
    "a model does not pass": Case(
        "LmopsVerdictNotPassed",
        trouble("QuantizeJob", "Failed", "NotPassed"),
        "1m",
        MINE,
        "The model of QuantizeJob ml/reviews did not pass",
    ),
    "a compression fails": Case("LmopsVerdictNotPassed", trouble("QuantizeJob", "Failed", "OOMKilled"), "1m"),
    "a service does not come up": Case(
        "LmopsServiceUnhealthy",
        trouble("LanguageModelService", "Degraded", "ImagePullBackOff"),
        "5m",
        {**MINE, "phase": "Degraded", "reason": "ImagePullBackOff"},
        "LanguageModelService ml/reviews is Degraded",
    ),
    "a service is ill for a moment": Case(
        "LmopsServiceUnhealthy", trouble("LanguageModelService", "Degraded", "OOMKilled", "1x3 stale"), "5m"
    ),
    "a candidate fails its gate": Case(
        "LmopsGateFailed",
        tuple((REFUSED, {**MINE, "reason": "Agreement", "pod": pod}, "1x20") for pod in ("a", "b")),
        "1m",
        {**MINE, "reason": "Agreement"},
        "A new model did not pass the gate of LanguageModelService ml/reviews",
    ),
    "a gate failed an hour ago": Case(
        "LmopsGateFailed", ((REFUSED, {**MINE, "reason": "Agreement"}, "1x3 stale"),), "5m"
    ),
    "nobody leads": Case("LmopsOperatorDown", leading("0x20"), "5m", {}, "The operator of lmops does not work"),
    "no operator is there": Case("LmopsOperatorDown", (), "5m", {}, "The operator of lmops does not work"),
    "one of two leads": Case("LmopsOperatorDown", leading("1x20"), "10m"),
    "a namespace may not be read": Case(
        "LmopsNamespaceUnreadable",
        ((READABLE, {"namespace": "ml"}, "0x20"), (READABLE, {"namespace": "web"}, "1x20")),
        "10m",
        {"namespace": "ml"},
        "The operator of lmops may not read namespace ml",
    ),
    "all namespaces can be read": Case("LmopsNamespaceUnreadable", ((READABLE, {"namespace": "ml"}, "1x20"),), "10m"),
}


def promtool(case: Case) -> dict[str, Any]:
    """A case in promtool's words."""
    rule, expected = RULES[case.alert], []
    if case.labels is not None:
        description = rule["annotations"]["description"].replace("{{ $labels.reason }}", case.labels.get("reason", ""))
        description = description.replace("{{ $value | humanizePercentage }}", "10%")
        told = {**rule["annotations"], "summary": case.told, "description": description}
        expected = [{"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": told}]
    return {
        "interval": "1m",
        "input_series": [prometheus.series(*each) for each in case.happens],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected}],
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_raised_by_what_it_is_for_and_by_nothing_less(case: Case, tmp_path: Path):
    prometheus.run(GROUPS, [promtool(case)], tmp_path)


def test_no_alert_is_without_a_case_that_raises_it_and_one_that_does_not():
    assert {case.alert for case in CASES.values() if case.labels is not None} == set(RULES)
    assert {case.alert for case in CASES.values() if case.labels is None} == set(RULES)


def test_prometheus_loads_them(tmp_path: Path):
    prometheus.check(GROUPS, tmp_path)


def test_no_metric_of_an_alert_is_unknown_to_the_operator():
    metrics = Metrics()
    metrics.readable.labels("ml").set(1)
    metrics.leads.labels("lmops-operator").set(1)
    metrics.stand(
        [
            (Key("TrainingJob", "ml", "reviews"), Standing("Hung", "", "")),
            (
                Key("LanguageModelService", "ml", "reviews"),
                Standing("Serving", "", "", "Agreement", f"{NOON:%Y-%m-%dT%H:%M:%SZ}"),
            ),
        ],
        NOON,
    )
    names, labels = prometheus.exposed(metrics.text().decode())

    for rule in RULES.values():
        assert prometheus.metrics(rule["expr"]) - {"1", "0"} <= names, rule["alert"]
        assert prometheus.labels(rule["expr"]) <= labels, rule["alert"]


def test_every_page_is_that_of_an_alert_and_every_alert_has_one():
    for rule in RULES.values():
        page = (ROOT / rule["annotations"]["runbook"]).read_text()

        assert page.startswith(f"# {rule['alert']}\n")
        assert [line for line in page.splitlines() if line.startswith("## ")] == [
            "## What it means",
            "## How to look",
            "## What to do",
        ]


def test_they_come_with_the_chart_where_prometheus_operator_is_installed():
    known = {"release": "prometheus"}
    monitoring = {"labels": known, "runbooks": "https://docs.example.com/runbooks/"}
    made = helm.rendered({"settings": {"monitoring": monitoring}}, installed=INSTALLED)
    monitor, rules = (next(m for m in made if m["kind"] == kind) for kind in ("PodMonitor", "PrometheusRule"))
    (deployment,) = (m for m in made if m["kind"] == "Deployment")

    for manifest in (monitor, rules):
        check(manifest)
        assert known.items() <= manifest["metadata"]["labels"].items()
    template = deployment["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    assert endpoint["honorLabels"]
    pages = [rule["annotations"]["runbook_url"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert pages == [f"https://docs.example.com/runbooks/{alert}.md" for alert in RULES]


def test_without_an_address_there_is_no_link_that_leads_nowhere():
    made = helm.rendered({"settings": {"monitoring": {"runbooks": ""}}}, installed=INSTALLED)
    (rules,) = (m for m in made if m["kind"] == "PrometheusRule")

    assert rules["spec"]["groups"] == GROUPS
    assert all("runbook_url" not in rule["annotations"] for rule in RULES.values())


@pytest.mark.parametrize(
    ("values", "installed"),
    [({}, ()), ({"metrics": {"monitor": False, "alerts": False}}, INSTALLED)],
    ids=["not installed", "not wanted"],
)
def test_without_them_nothing_of_it_is_made(values: dict[str, Any], installed: tuple[str, ...]):
    kinds = {manifest["kind"] for manifest in helm.rendered(values, installed=installed)}

    assert not kinds & {"PodMonitor", "PrometheusRule"}


def test_without_dashboards_the_operator_has_no_right_to_configmaps():
    def resources(**monitoring: bool) -> set[str]:
        made = helm.rendered({"settings": {"monitoring": monitoring}})
        (role,) = (m for m in made if m["kind"] == "ClusterRole" and m["metadata"]["name"] == "lmops-operator")
        return {resource for rule in role["rules"] for resource in rule["resources"]}

    assert resources() - resources(dashboards=False) == {"configmaps"}


def test_a_gate_that_failed_is_told_for_an_hour():
    def told(at: datetime) -> bool:
        metrics = Metrics()
        service = {"status": {"phase": "Serving", "refused": [{"reason": "Agreement", "at": "2026-03-01T12:00:00Z"}]}}
        metrics.stand([(Key("LanguageModelService", "ml", "reviews"), Standing.of(service))], at)
        return 'lmops_gate_failed{name="reviews",namespace="ml",reason="Agreement"} 1.0' in metrics.text().decode()

    assert told(datetime(2026, 3, 1, 12, 59, tzinfo=UTC))
    assert not told(datetime(2026, 3, 1, 13, 1, tzinfo=UTC))


def test_an_accelerator_is_told_of_while_its_job_trains():
    def told(phase: str) -> bool:
        metrics = Metrics()
        job = {"status": {"phase": phase, "metrics": {"acceleratorUse": 0.25}}}
        metrics.stand([(Key("TrainingJob", "ml", "reviews"), Standing.of(job))], NOON)
        return 'lmops_accelerator_use{name="reviews",namespace="ml"} 0.25' in metrics.text().decode()

    assert told("Running")
    assert not told("Succeeded")
