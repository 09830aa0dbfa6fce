"""What watches a service: each monitor where its kind is installed, and a condition that says what is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

import schemas
from builders import SETTINGS
from lmops.api import LanguageModelService
from lmops.kinds import KINDS, kinds
from lmops.plan import Manifest, Ref, Refusal
from lmops.serving.alerts import groups
from lmops.serving.monitoring import KINDS as MONITORS
from lmops.serving.monitoring import configmap, monitors, podmonitor, prometheusrule, target
from lmops.serving.remedies import REMEDIES
from lmops.settings import Monitoring
from serving.builders import A, after, child, holds, job, pod, service, serving, told

NOTHING = frozenset[str]()
OURS = {"labels": {"release": "prometheus"}, "dashboards": False}


def there(of: LanguageModelService) -> list[Manifest]:
    """The InferenceService, its pod and all that watches them, as they were written."""
    written = [{**each, "metadata": {**each["metadata"], "uid": each["kind"]}} for each in monitors(of, SETTINGS)]
    return [child(of, A), pod(of, A), *written]


def written(of: LanguageModelService, *seen: Manifest, absent: frozenset[str] = NOTHING) -> list[str]:
    """The kinds that a plan writes."""
    return [manifest["kind"] for manifest in after(of, job(A), *seen, absent=absent).apply]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {
            "slo": {"errorRatio": 0.001, "latency": {"percentile": 99, "seconds": 2.5}},
            "monitoring": {"scrapeSeconds": 15},
        },
    ],
    ids=["the defaults", "all of it"],
)
def test_an_api_server_would_take_all_of_it(spec: dict[str, Any]):
    for manifest in monitors(service(**spec), SETTINGS):
        schemas.check(manifest)


def test_what_prometheus_scrapes_are_the_pods_of_the_service_by_their_port():
    wanted = service(monitoring={"scrapeSeconds": 15})
    spec, serves = podmonitor(wanted, SETTINGS)["spec"], child(wanted, A)["spec"]["predictor"]

    assert spec["selector"]["matchLabels"].items() <= serves["labels"].items()
    assert set(spec["podTargetLabels"]) <= set(serves["labels"])
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint == {"port": serves["containers"][0]["ports"][0]["name"], "path": "/metrics", "interval": "15s"}


def test_what_watches_a_service_is_its_own_and_carries_the_labels_that_prometheus_looks_for():
    settings = SETTINGS.model_copy(update={"monitoring": Monitoring.model_validate(OURS)})
    monitor, rule = monitors(service(), settings)

    for manifest in (monitor, rule):
        metadata = manifest["metadata"]
        assert metadata["labels"]["release"] == "prometheus"
        assert [owner["uid"] for owner in metadata["ownerReferences"]] == ["u-3"]
    assert [monitor["metadata"]["name"], rule["metadata"]["name"]] == ["reviews-metrics", "reviews-alerts"]


def test_a_dashboard_is_found_by_grafanas_sidecar_and_is_another_for_each_service():
    made = configmap(service(), SETTINGS)
    (file,) = made["data"]
    dashboard = json.loads(made["data"][file])
    panels = dashboard["panels"]

    assert (file, dashboard["title"]) == ("default-reviews.json", "default/reviews")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}) == len(panels)
    for panel in panels:
        for curve in panel["targets"]:
            assert target(service()) in curve["expr"]


def test_a_service_is_watched_as_soon_as_it_is_served_and_then_rests():
    old = serving(A)
    plan = after(old, job(A), child(old, A), pod(old, A), absent=NOTHING)

    assert [manifest["kind"] for manifest in plan.apply] == list(MONITORS)
    assert told(plan, "Monitored") == ("True", "Monitored", "")
    assert written(old, *there(old)) == []


def test_other_promises_are_written_and_no_pod_is_replaced():
    old = serving(A)
    new = service(old.status.manifest(), slo={"errorRatio": 0.05}, monitoring={"alertLabels": {"team": "search"}})

    assert written(new, *there(old)) == ["PrometheusRule"]


def test_what_somebody_edits_is_written_again():
    old = serving(A)
    seen = there(old)
    for manifest in seen:
        if manifest["kind"] == "ConfigMap":
            manifest["data"] = {"default-reviews.json": "{}"}
        if manifest["kind"] == "PrometheusRule":
            manifest["spec"] = {"groups": []}

    applied = after(old, job(A), *seen, absent=NOTHING).apply
    assert [(manifest["kind"], manifest["metadata"]["uid"]) for manifest in applied] == [
        ("PrometheusRule", "PrometheusRule"),
        ("ConfigMap", "ConfigMap"),
    ]


@pytest.mark.parametrize(
    ("absent", "sentence"),
    [
        ({"PodMonitor"}, "PodMonitors are unknown here"),
        ({"PodMonitor", "PrometheusRule"}, "PodMonitors and PrometheusRules are unknown here"),
    ],
    ids=["one", "both"],
)
def test_what_is_not_installed_is_left_out_and_told(absent: set[str], sentence: str):
    old = serving(A)
    plan = after(old, job(A), child(old, A), pod(old, A), absent=frozenset(absent))

    assert {manifest["kind"] for manifest in plan.apply} == set(MONITORS) - absent
    status, reason, message = told(plan, "Monitored")
    assert (status, reason) == ("False", "NotInstalled")
    assert message == (
        f"{sentence}, so nobody is told when something is wrong: "
        "install Prometheus' operator (monitoring.coreos.com/v1)."
    )
    assert holds(plan)["Ready"] == "True"


def test_where_nothing_could_watch_it_there_is_nothing_to_say():
    old = serving(A)
    plan = after(old, job(A), child(old, A), pod(old, A), absent=frozenset(MONITORS))

    assert plan.apply == ()
    assert "Monitored" not in holds(plan)


def test_a_monitor_that_is_refused_is_told_and_hinders_nothing():
    old = serving(A)
    refusal = Refusal("NameConflict", "PodMonitor reviews-metrics is there already and is not ours")
    seen = [each for each in there(old) if each["kind"] != "PodMonitor"]
    plan = after(old, job(A), *seen, absent=NOTHING, refused={Ref("PodMonitor", "reviews-metrics"): refusal})

    assert told(plan, "Monitored") == ("False", *refusal[:2])
    assert (plan.status.phase, [manifest["kind"] for manifest in plan.apply]) == ("Serving", ["PodMonitor"])


def test_without_a_model_there_is_nothing_to_watch():
    plan = after(service(), absent=NOTHING)

    assert (plan.apply, "Monitored" in holds(plan)) == ((), False)


def test_without_dashboards_no_configmap_is_looked_at():
    settings = SETTINGS.model_copy(update={"monitoring": Monitoring(dashboards=False)})

    assert kinds(SETTINGS) is KINDS
    with_them, without = (kinds(each)["LanguageModelService"].children for each in (SETTINGS, settings))
    assert set(with_them) - set(without) == {"ConfigMap"}


def test_runbooks_are_named_by_where_the_platform_team_keeps_them():
    found = groups(service(), target(service()), "https://docs.example.com/runbooks/")
    pages = [rule["annotations"]["runbook_url"] for group in found for rule in group["rules"] if "alert" in rule]

    assert pages[0] == "https://docs.example.com/runbooks/LanguageModelServiceErrors.md"


def test_where_they_are_kept_nowhere_an_alert_has_no_link_and_says_itself_what_to_do():
    told = prometheusrule(service(), SETTINGS)["spec"]["groups"][1]["rules"][0]["annotations"]

    assert "runbook_url" not in told
    assert told["runbook"] == "docs/runbooks/LanguageModelServiceErrors.md"
    assert told["description"].endswith(REMEDIES["LanguageModelServiceErrors"])


@pytest.mark.parametrize("runbooks", ["docs/runbooks", "runbooks.example.com", "https://"])
def test_what_no_mail_could_lead_to_is_no_place_for_runbooks(runbooks: str):
    with pytest.raises(ValidationError, match="runbooks"):
        Monitoring(runbooks=runbooks)
