"""Each alert of a service is raised by what it is for, and by nothing less: told by promtool."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import prometheus
from builders import SETTINGS
from lmops.api import LanguageModelService
from lmops.plan import Manifest
from lmops.serving.alerts import ANSWERS, threshold
from lmops.serving.monitoring import prometheusrule
from lmops.serving.remedies import REMEDIES
from serving.builders import service

ROOT = Path(__file__).parents[2]
TARGET = {"namespace": "default", "job": "default/reviews-metrics"}
WATCHED = service(
    slo={"errorRatio": 0.01, "latency": {"percentile": 95, "seconds": 0.5}},
    monitoring={"noTrafficMinutes": 30, "alertLabels": {"team": "search"}},
)
"""A service with every alert."""
Series = tuple[str, dict[str, str], str]
"""A metric, its labels, and a value each minute."""
COUNT, BUCKET = f"{ANSWERS}_count", f"{ANSWERS}_bucket"
GIB = 2**30


def groups(of: LanguageModelService = WATCHED) -> list[Manifest]:
    """The rules of a service."""
    found: list[Manifest] = prometheusrule(of, SETTINGS)["spec"]["groups"]
    return found


def alerts(of: LanguageModelService = WATCHED) -> list[Manifest]:
    """Those of them that tell somebody."""
    return [rule for group in groups(of) for rule in group["rules"] if "alert" in rule]


def shares(good: str, failed: str, error: str = "500") -> tuple[Series, ...]:
    """Requests that are answered, and such that are not: in all, each minute."""
    return (COUNT, {}, good), (COUNT, {"error_type": error}, failed)


def pace(fast: str, within: str, everything: str) -> tuple[Series, ...]:
    """Answers within 0.32 s, within 0.64 s, and all of them."""
    return (BUCKET, {"le": "0.32"}, fast), (BUCKET, {"le": "0.64"}, within), (COUNT, {}, everything)


def memory(pod: str, has: float, may: float) -> tuple[Series, ...]:
    """What a replica has of the memory that it may have, in GiB."""
    return (
        ("process_resident_memory_bytes", {"pod": pod}, f"{has * GIB}x30"),
        ("lmops_memory_limit_bytes", {"pod": pod}, f"{may * GIB}x30"),
    )


class Case(NamedTuple):
    """What happens, when it is looked at, and the severities of what is raised, each with its description."""

    alert: str
    happens: tuple[Series, ...]
    at: str
    raised: dict[str, str]
    labels: dict[str, str] | None = None
    of: LanguageModelService = WATCHED


def failing(percent: str) -> str:
    return (
        f"{percent}% of the requests fail (5xx, or 429 for want of room); "
        "slo.errorRatio allows that of 1 % over 30 days."
    )


def slow(percent: str) -> str:
    return f"{percent}% of the answers take longer than 0.5 s; slo.latency allows that of 5 % over 30 days."


def drifted(of: str, by: str) -> str:
    return (
        "For half an hour its inputs have not been like the rows that the model was evaluated on: "
        f"{of} is off by {by}, more than monitoring.drift allows."
    )


ERRORS, SLOW = "LanguageModelServiceErrors", "LanguageModelServiceSlow"
DOWN, QUEUE, FULL = "LanguageModelServiceDown", "LanguageModelServiceQueue", "LanguageModelServiceSaturated"
MEMORY, RESTARTS = "LanguageModelServiceMemory", "LanguageModelServiceRestarts"
QUIET = "LanguageModelServiceNoTraffic"
DRIFT = "LanguageModelServiceDrift"
NOBODY = "It is up, and has had no request for 30 minutes (monitoring.noTrafficMinutes)."
UP: Series = ("up", {"pod": "a"}, "1x600")
CASES = {
    "one request in five fails": Case(
        ERRORS, shares("0+80x90", "0+20x90"), "70m", {"critical": failing("20"), "warning": failing("20")}
    ),
    "one in five is refused": Case(
        ERRORS, shares("0+80x90", "0+20x90", "429"), "70m", {"critical": failing("20"), "warning": failing("20")}
    ),
    "seven in a hundred fail for hours": Case(
        ERRORS, shares("0+93x500", "0+7x500"), "420m", {"critical": failing("7"), "warning": failing("7")}
    ),
    "two in a hundred fail for hours": Case(ERRORS, shares("0+98x500", "0+2x500"), "420m", {"warning": failing("2")}),
    "fewer fail than may": Case(ERRORS, shares("0+995x500", "0+5x500"), "420m", {}),
    "a fault that is over": Case(
        ERRORS, shares("0+80x120 9600+0x60", "0+20x120 2400+0x60"), "165m", {"warning": failing("20")}
    ),
    "requests that are wrong": Case(ERRORS, shares("0+50x90", "0+50x90", "400"), "70m", {}),
    "clients that do not wait": Case(ERRORS, shares("0+50x90", "0+50x90", "499"), "70m", {}),
    "nobody asks": Case(ERRORS, shares("100x90", "10x90"), "70m", {}),
    "most answers are slow": Case(
        SLOW, pace("0+20x90", "0+20x90", "0+100x90"), "70m", {"critical": slow("80"), "warning": slow("80")}
    ),
    "some answers are slow for hours": Case(
        SLOW, pace("0+80x500", "0+80x500", "0+100x500"), "420m", {"warning": slow("20")}
    ),
    "between two buckets answers are spread evenly": Case(
        SLOW, pace("0+0x500", "0+160x500", "0+160x500"), "420m", {"critical": slow("43.75"), "warning": slow("43.75")}
    ),
    "answers in time": Case(SLOW, pace("0+96x500", "0+99x500", "0+100x500"), "420m", {}),
    "no replica is up": Case(
        DOWN,
        (("up", {"pod": "a"}, "1x5 0x30"),),
        "16m",
        {"critical": "No replica could be asked for its metrics in the last ten minutes."},
    ),
    "no replica is there": Case(
        DOWN, (), "10m", {"critical": "No replica could be asked for its metrics in the last ten minutes."}
    ),
    "one of two is up": Case(DOWN, (("up", {"pod": "a"}, "0x30"), ("up", {"pod": "b"}, "1x30")), "16m", {}),
    "down for a moment": Case(DOWN, (("up", {"pod": "a"}, "1x5 0x30"),), "15m", {}),
    "all replicas have a queue": Case(
        QUEUE,
        (("lmops_inputs_waiting", {"pod": "a"}, "9x30"), ("lmops_inputs_waiting", {"pod": "b"}, "3x30")),
        "10m",
        {"warning": "For ten minutes inputs have waited at every replica (3 at the least busy one)."},
    ),
    "one replica has none": Case(
        QUEUE,
        (("lmops_inputs_waiting", {"pod": "a"}, "9x30"), ("lmops_inputs_waiting", {"pod": "b"}, "0x30")),
        "15m",
        {},
    ),
    "the replicas are full": Case(
        FULL,
        (("lmops_inputs_working", {"pod": "a"}, "90x30"), ("lmops_inputs_most", {"pod": "a"}, "100x30")),
        "5m",
        {"critical": "Its replicas work on 90% of the inputs that they take on (limits.queue)."},
    ),
    "the replicas have room": Case(
        FULL,
        (
            ("lmops_inputs_working", {"pod": "a"}, "100x30"),
            ("lmops_inputs_most", {"pod": "a"}, "100x30"),
            ("lmops_inputs_working", {"pod": "b"}, "50x30"),
            ("lmops_inputs_most", {"pod": "b"}, "100x30"),
        ),
        "5m",
        {},
    ),
    "memory is short": Case(
        MEMORY,
        (*memory("a", 3.8, 4), *memory("b", 3.8, 8)),
        "10m",
        {"warning": "a has 95% of the memory that it may have; beyond that it is killed."},
        {"pod": "a"},
    ),
    "memory is enough": Case(MEMORY, memory("a", 3.5, 4), "10m", {}),
    "a replica starts twice more": Case(
        RESTARTS,
        (("process_start_time_seconds", {"pod": "a"}, "100x9 200x9 300x9"),),
        "25m",
        {"warning": "a has started anew 2 times within an hour."},
        {"pod": "a"},
    ),
    "another replica takes over": Case(
        RESTARTS,
        (
            ("process_start_time_seconds", {"pod": "a"}, "100x9"),
            ("process_start_time_seconds", {"pod": "b"}, "200x30"),
            ("process_start_time_seconds", {"pod": "c"}, "300x9 400x9"),
        ),
        "25m",
        {},
    ),
    "no traffic for long": Case(QUIET, (UP, (COUNT, {}, "0+9x30 270x90")), "66m", {"warning": NOBODY}),
    "no request ever": Case(QUIET, (UP,), "30m", {"warning": NOBODY}),
    "nobody but a gate asks": Case(
        QUIET,
        (UP, ("lmops_requests_total", {"route": "/v1/classify", "status": "200"}, "0+9x90")),
        "66m",
        {"warning": NOBODY},
    ),
    "a request a minute": Case(QUIET, (UP, (COUNT, {}, "0+1x90")), "66m", {}),
    "labels of another kind": Case(
        DRIFT,
        (
            ("lmops_drift_psi", {"pod": "a", "of": "labels"}, "0.1x9 0.61x60"),
            ("lmops_drift_psi", {"pod": "b", "of": "labels"}, "0.1x70"),
            ("lmops_drift_psi", {"pod": "a", "of": "tokenLength"}, "0.2x70"),
        ),
        "41m",
        {"warning": drifted("labels", "0.61")},
        {"of": "labels"},
    ),
    "words of another language": Case(
        DRIFT,
        (("lmops_drift_unknown_tokens", {"pod": "a"}, "0.31x60"),),
        "31m",
        {"warning": drifted("unknownTokens", "0.31")},
        {"of": "unknownTokens"},
    ),
    "texts of another kind": Case(
        DRIFT,
        (("lmops_drift_embedding_distance", {"pod": "a"}, "1.5x60"),),
        "31m",
        {"warning": drifted("embedding", "1.50")},
        {"of": "embedding"},
    ),
    "more drift is allowed": Case(
        DRIFT,
        (
            ("lmops_drift_psi", {"pod": "a", "of": "labels"}, "0.61x60"),
            ("lmops_drift_unknown_tokens", {"pod": "a"}, "0.31x60"),
            ("lmops_drift_embedding_distance", {"pod": "a"}, "1.5x60"),
        ),
        "41m",
        {},
        of=service(monitoring={"drift": {"maxPSI": 0.7, "maxUnknownTokens": 0.4, "maxEmbeddingDistance": 2}}),
    ),
    "long prompts": Case(DRIFT, (("lmops_drift_psi", {"pod": "a", "of": "promptLength"}, "9x60"),), "41m", {}),
    "drift of a moment": Case(DRIFT, (("lmops_drift_psi", {"pod": "a", "of": "labels"}, "0.61x9 0.1x60"),), "41m", {}),
    "no traffic as it is down": Case(QUIET, (("up", {"pod": "a"}, "0x90"),), "66m", {}),
}


def promtool(case: Case) -> dict[str, Any]:
    """A case in promtool's words."""
    expected = []
    for rule in alerts(case.of):
        severity = rule["labels"]["severity"]
        if rule["alert"] == case.alert and severity in case.raised:
            description = f"{case.raised[severity]} {REMEDIES[case.alert]}"
            annotations = {**rule["annotations"], "description": description}
            expected.append({"exp_labels": {**rule["labels"], **(case.labels or {})}, "exp_annotations": annotations})
    assert len(expected) == len(case.raised)
    return {
        "interval": "1m",
        "input_series": [
            prometheus.series(name, {**TARGET, **labels}, values) for name, labels, values in case.happens
        ],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected}],
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_raised_by_what_it_is_for_and_by_nothing_less(case: Case, tmp_path: Path):
    prometheus.run(groups(case.of), [promtool(case)], tmp_path)


def test_no_alert_is_without_a_case_that_raises_it_and_one_that_does_not():
    known = {rule["alert"] for rule in alerts()}

    assert {case.alert for case in CASES.values() if case.raised} == known
    assert {case.alert for case in CASES.values() if not case.raised} == known
    assert set(REMEDIES) == known


def test_every_alert_has_a_page_that_says_what_to_do():
    for rule in alerts():
        page = (ROOT / rule["annotations"]["runbook"]).read_text()

        assert page.startswith(f"# {rule['alert']}\n")
        assert [line for line in page.splitlines() if line.startswith("## ")] == [
            "## What it means",
            "## How to look",
            "## What to do",
        ]


def test_no_page_is_left_of_an_alert_that_is_none():
    chart = yaml.safe_load((ROOT / "charts/lmops/files/alerts.yaml").read_text())["groups"]
    known = {rule["alert"] for group in (*groups(), *chart) for rule in group["rules"] if "alert" in rule}

    assert {page.stem for page in (ROOT / "docs/runbooks").iterdir()} == known


@pytest.mark.parametrize(
    "slo",
    [{}, {"latency": {"seconds": 0.001}}, {"latency": {"seconds": 0.64}}, {"latency": {"seconds": 81.92}}],
    ids=str,
)
def test_prometheus_loads_the_rules_of_any_promise(slo: dict[str, Any], tmp_path: Path):
    prometheus.check(groups(service(slo=slo)), tmp_path)


def test_a_pace_that_no_share_could_reach_is_brought_halfway():
    assert threshold(14.4, 0.01) == pytest.approx(0.144)
    assert threshold(14.4, 0.5) == 0.75


def test_what_is_not_promised_raises_nothing():
    names = {rule["alert"] for rule in alerts(service())}

    assert names == {ERRORS, DOWN, QUEUE, FULL, MEMORY, RESTARTS, DRIFT}
