"""A service has a name outside of its cluster once somebody leads from there; until then it says what is missing."""

from __future__ import annotations

from typing import Any

import pytest

import schemas
from lmops.plan import Manifest, Plan, Ref, Refusal
from lmops.serving.exposure import KINDS as ENTRANCES
from lmops.serving.exposure import entrance
from lmops.serving.monitoring import KINDS as MONITORS
from lmops.trimming import trimmed
from serving.builders import URL, A, after, child, holds, job, pod, service, serving, told

HOST = "reviews.example.com"
INGRESS: dict[str, Any] = {"host": HOST, "tlsSecretName": "reviews-tls", "ingressClassName": "nginx"}
ROUTE: dict[str, Any] = {"host": HOST, "gateway": {"name": "web", "namespace": "edge", "listener": "https"}}
UNTIL = f" Until then it answers at {URL} alone."


def seen(expose: dict[str, Any], status: dict[str, Any] | None = None) -> Manifest:
    """What leads to the service, with what its controller says of it, as the operator keeps it."""
    made = entrance(service(expose=expose))
    assert made
    metadata = {**made["metadata"], "uid": "u-expose", "generation": 2, "managedFields": [{"manager": "lmops"}]}
    return trimmed({**made, "metadata": metadata, "status": status or {}})


def planned(expose: dict[str, Any] | None, *there: Manifest, **observed: Any) -> Plan[Any]:
    """What happens next to a service that serves."""
    of = serving(A, **({"expose": expose} if expose else {}))
    return after(of, job(A), child(of, A), pod(of, A), *there, **observed)


def parents(*conditions: dict[str, Any], name: str = "web") -> dict[str, Any]:
    """What a Gateway says of a route."""
    given = [{"observedGeneration": 2, **condition} for condition in conditions]
    return {"parents": [{"parentRef": {"name": name}, "controllerName": "x.example/gateway", "conditions": given}]}


@pytest.mark.parametrize(
    "expose",
    [INGRESS, {"host": HOST, "ingressClassName": "nginx"}, ROUTE, {"host": HOST, "gateway": {"name": "web"}}],
    ids=["an Ingress", "one without a certificate", "an HTTPRoute", "one to a Gateway beside it"],
)
def test_an_api_server_would_take_it(expose: dict[str, Any]):
    made = entrance(service(expose=expose))

    assert made
    schemas.check(made)


def test_an_ingress_leads_from_the_host_to_kserves_service():
    (written,) = planned({**INGRESS, "annotations": {"cert-manager.io/cluster-issuer": "ours"}}).apply

    backend = {"service": {"name": "reviews-predictor", "port": {"number": 80}}}
    assert written["spec"] == {
        "ingressClassName": "nginx",
        "tls": [{"hosts": [HOST], "secretName": "reviews-tls"}],
        "rules": [{"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
    }
    assert (written["kind"], written["metadata"]["name"]) == ("Ingress", "reviews-expose")
    assert written["metadata"]["annotations"]["cert-manager.io/cluster-issuer"] == "ours"
    assert [owner["uid"] for owner in written["metadata"]["ownerReferences"]] == ["u-3"]


def test_a_route_leads_from_a_gateway_to_kserves_service_and_lets_an_answer_take_its_time():
    of = serving(A, expose=ROUTE, limits={"timeoutSeconds": 900})
    (written,) = after(of, job(A), child(of, A), pod(of, A)).apply

    assert written["spec"] == {
        "parentRefs": [{"name": "web", "namespace": "edge", "sectionName": "https"}],
        "hostnames": [HOST],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "reviews-predictor", "port": 80}],
                "timeouts": {"request": "900s"},
            }
        ],
    }


@pytest.mark.parametrize(
    ("expose", "status", "url"),
    [
        (INGRESS, {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}, f"https://{HOST}"),
        ({"host": HOST, "ingressClassName": "nginx"}, {"loadBalancer": {"ingress": [{"ip": "::1"}]}}, f"http://{HOST}"),
        (ROUTE, parents({"type": "Accepted", "status": "True"}), f"https://{HOST}"),
        (
            {"host": HOST, "gateway": {"name": "web", "protocol": "HTTP"}},
            parents({"type": "Accepted", "status": "True"}, {"type": "ResolvedRefs", "status": "True"}),
            f"http://{HOST}",
        ),
    ],
    ids=["an Ingress", "one without a certificate", "an HTTPRoute", "one without encryption"],
)
def test_the_url_is_the_name_outside_once_that_leads_to_it(expose: dict[str, Any], status: dict[str, Any], url: str):
    plan = planned(expose, seen(expose, status))

    assert (plan.apply, plan.status.url) == ((), url)
    assert told(plan, "Exposed") == ("True", "Admitted", "")


@pytest.mark.parametrize(
    ("expose", "status", "reason", "sentence"),
    [
        (
            INGRESS,
            {"loadBalancer": {}},
            "AwaitingIngress",
            "Ingress reviews-expose waits for a controller of IngressClass nginx to admit it.",
        ),
        (
            ROUTE,
            {},
            "AwaitingGateway",
            "HTTPRoute reviews-expose waits for Gateway web to accept it.",
        ),
        (
            ROUTE,
            parents({"type": "Accepted", "status": "True"}, name="another"),
            "AwaitingGateway",
            "HTTPRoute reviews-expose waits for Gateway web to accept it.",
        ),
        (
            ROUTE,
            parents({"type": "Accepted", "status": "True", "observedGeneration": 1}),
            "AwaitingGateway",
            "HTTPRoute reviews-expose waits for Gateway web to accept it.",
        ),
        (
            ROUTE,
            parents(
                {"type": "Accepted", "status": "False", "reason": "NotAllowedByListeners", "message": "no route here."}
            ),
            "NotAllowedByListeners",
            "Gateway web does not lead there: no route here.",
        ),
        (
            ROUTE,
            parents(
                {"type": "Accepted", "status": "True"},
                {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": ""},
            ),
            "BackendNotFound",
            "Gateway web does not lead there: BackendNotFound.",
        ),
    ],
    ids=["no controller", "nobody", "another Gateway", "what it was before", "not allowed", "leads nowhere"],
)
def test_until_then_it_says_what_it_waits_for(
    expose: dict[str, Any], status: dict[str, Any], reason: str, sentence: str
):
    plan = planned(expose, seen(expose, status))

    assert plan.status.url == URL
    assert told(plan, "Exposed") == ("False", reason, sentence + UNTIL)
    assert (plan.status.phase, holds(plan)["Ready"]) == ("Serving", "True")


def test_without_the_gateway_api_it_is_told_and_nothing_is_written():
    plan = planned(ROUTE, absent=frozenset({*MONITORS, "HTTPRoute"}))

    assert (plan.apply, plan.status.url) == ((), URL)
    assert told(plan, "Exposed") == (
        "False",
        "NotInstalled",
        f"HTTPRoutes are unknown here, so {HOST} leads nowhere: install the Gateway API (gateway.networking.k8s.io/v1),"
        f" or set expose.ingressClassName instead.{UNTIL}",
    )


def test_on_a_laptop_it_has_no_effect_and_that_is_told():
    plan = planned(INGRESS, absent=frozenset({*MONITORS, *ENTRANCES}))

    assert (plan.apply, plan.status.url) == ((), URL)
    assert told(plan, "Exposed")[1:] == ("NoEffect", f"expose has no effect on a laptop: {HOST} leads nowhere.")


def test_what_is_refused_is_told_and_hinders_nothing():
    refusal = Refusal("Invalid", "host reviews.example.com is already defined in ingress other/web")
    plan = planned(INGRESS, refused={Ref("Ingress", "reviews-expose"): refusal})

    assert told(plan, "Exposed") == ("False", "Invalid", refusal.message + UNTIL)
    assert (plan.status.phase, [each["kind"] for each in plan.apply]) == ("Serving", ["Ingress"])


def test_what_somebody_edits_is_written_again():
    edited = seen(INGRESS)
    edited["spec"]["rules"][0]["host"] = "other.example.com"

    assert [each["metadata"]["uid"] for each in planned(INGRESS, edited).apply] == ["u-expose"]


@pytest.mark.parametrize("expose", [None, ROUTE], ids=["by nothing", "by a Gateway"])
def test_what_no_longer_leads_to_it_goes(expose: dict[str, Any] | None):
    admitted = seen(INGRESS, {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}})
    plan = planned(expose, admitted)

    assert (plan.delete, plan.status.url) == ((Ref("Ingress", "reviews-expose"),), URL)
    assert ("Exposed" in holds(plan)) == (expose is not None)
    leaves = {**admitted, "metadata": {**admitted["metadata"], "deletionTimestamp": "2026-11-23T12:00:00Z"}}
    assert planned(expose, leaves).delete == ()


def test_a_service_that_is_refused_keeps_its_name():
    of = serving(A, expose=INGRESS)
    there = [job(A), child(of, A), pod(of, A), seen(INGRESS, {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}})]
    admitted = after(of, *there).status.manifest()
    new = service(admitted, expose=INGRESS, generation={"chatTemplate": "x" * 16_000})
    refused = after(new, *there, refused={Ref("InferenceService", "reviews"): Refusal("Invalid", "no", is_final=True)})

    assert (refused.status.url, told(refused, "Exposed")[0]) == (f"https://{HOST}", "True")
