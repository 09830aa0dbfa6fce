"""The name of a service outside of its cluster: an Ingress or an HTTPRoute, and whether somebody leads through it."""

from __future__ import annotations

from typing import NamedTuple

from lmops.api import LanguageModelService
from lmops.api.expose import Expose, Gateway
from lmops.parts import child_name, labels, owned
from lmops.plan import Manifest, Observed, Ref
from lmops.serving.inferenceservice import service_of
from lmops.serving.kept import stamped, writing

KINDS = ("Ingress", "HTTPRoute")
NO_EFFECT = "NoEffect"
"""Why nothing leads to a service where there is no network that it could be led in from."""


class Told(NamedTuple):
    """Whether the name leads to the service, why, and in a sentence."""

    holds: bool
    reason: str
    message: str


class Exposure(NamedTuple):
    """What is to be written and removed, and what is to be said; `None` where nothing is to be exposed."""

    apply: tuple[Manifest, ...] = ()
    delete: tuple[Ref, ...] = ()
    told: Told | None = None
    url: str | None = None
    """The address outside, once somebody leads from there."""


def exposure(service: LanguageModelService, observed: Observed, inside: str | None, path: str = "/") -> Exposure:
    """What leads to the service from outside, to what lies below `path`; `inside` is its address in the cluster."""
    wanted = entrance(service, path)
    this = Ref.of(wanted) if wanted else None
    gone = tuple(ref for ref, child in observed.children.items() if ref.kind in KINDS and ref != this and _stays(child))
    if wanted is None or this is None or service.spec.expose is None:
        return Exposure(delete=gone)
    told = _told(service.spec.expose, this, observed)
    apply = () if this.kind in observed.absent else writing(wanted, observed.children.get(this))
    if told.holds:
        return Exposure(apply, gone, told, address(service.spec.expose))
    until = f" Until then it answers at {inside} alone." if inside and told.reason != NO_EFFECT else ""
    return Exposure(apply, gone, told._replace(message=told.message + until))


def entrance(service: LanguageModelService, path: str = "/") -> Manifest | None:
    """What is to lead to the service from outside."""
    if (expose := service.spec.expose) is None:
        return None
    gateway = expose.gateway
    return httproute(service, expose, gateway, path) if gateway else ingress(service, expose, path)


def address(expose: Expose) -> str:
    """Where it answers outside."""
    spoken = expose.gateway.protocol == "HTTPS" if expose.gateway else expose.tls_secret_name is not None
    return f"{'https' if spoken else 'http'}://{expose.host}"


def ingress(service: LanguageModelService, expose: Expose, path: str = "/") -> Manifest:
    """Tells the controller of a class which host leads to the service."""
    leads = {"service": {"name": service_of(service), "port": {"number": 80}}}
    certificate = {"hosts": [expose.host], "secretName": expose.tls_secret_name}
    return _child(
        service,
        expose,
        "networking.k8s.io/v1",
        "Ingress",
        {
            "ingressClassName": expose.ingress_class_name,
            **({"tls": [certificate]} if expose.tls_secret_name else {}),
            "rules": [
                {"host": expose.host, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": leads}]}}
            ],
        },
    )


def httproute(service: LanguageModelService, expose: Expose, gateway: Gateway, path: str = "/") -> Manifest:
    """Tells a Gateway which host leads to the service. An answer may take there as long as the server lets it take."""
    named = {"name": gateway.name, "namespace": gateway.namespace, "sectionName": gateway.listener}
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "backendRefs": [{"name": service_of(service), "port": 80}],
        "timeouts": {"request": f"{service.spec.limits.timeout_seconds}s"},
    }
    parent = {name: value for name, value in named.items() if value}
    spec = {"parentRefs": [parent], "hostnames": [expose.host], "rules": [rule]}
    return _child(service, expose, "gateway.networking.k8s.io/v1", "HTTPRoute", spec)


def _child(service: LanguageModelService, expose: Expose, api_version: str, kind: str, spec: Manifest) -> Manifest:
    name = child_name(service.metadata.name, "expose")
    metadata = owned(
        service.kind, service.metadata, name, labels(service.kind, service.metadata.name, name, "expose", 0)
    )
    given = {"annotations": dict(expose.annotations)} if expose.annotations else {}
    return stamped({"apiVersion": api_version, "kind": kind, "metadata": {**metadata, **given}, "spec": spec})


def _stays(child: Manifest) -> bool:
    return "deletionTimestamp" not in child["metadata"]


def _told(expose: Expose, this: Ref, observed: Observed) -> Told:
    """Whether somebody leads from the host to the service, or what that waits for."""
    if observed.absent.issuperset(KINDS):
        return Told(False, NO_EFFECT, f"expose has no effect on a laptop: {expose.host} leads nowhere.")
    if this.kind in observed.absent:
        remedy = "install the Gateway API (gateway.networking.k8s.io/v1), or set expose.ingressClassName instead"
        return Told(False, "NotInstalled", f"HTTPRoutes are unknown here, so {expose.host} leads nowhere: {remedy}.")
    if refusal := observed.refused.get(this):
        return Told(False, refusal.reason, refusal.message)
    child = observed.children.get(this, {})
    return _by_ingress(expose, this, child) if expose.gateway is None else _by_route(expose.gateway, this, child)


def _by_ingress(expose: Expose, this: Ref, child: Manifest) -> Told:
    """The controller of a class says where it listens once it has taken an Ingress."""
    if child.get("status", {}).get("loadBalancer", {}).get("ingress"):
        return Told(True, "Admitted", "")
    waits = f"Ingress {this.name} waits for a controller of IngressClass {expose.ingress_class_name} to admit it."
    return Told(False, "AwaitingIngress", waits)


def _by_route(gateway: Gateway, this: Ref, child: Manifest) -> Told:
    """A Gateway says of each route whether it takes it, and whether that leads anywhere."""
    generation = child.get("metadata", {}).get("generation", 0)
    said = {
        condition["type"]: condition
        for parent in child.get("status", {}).get("parents") or ()
        if parent["parentRef"]["name"] == gateway.name
        for condition in parent.get("conditions") or ()
        if condition.get("observedGeneration", generation) >= generation
    }
    for false in (each for each in said.values() if each["status"] == "False"):
        if false["type"] in ("Accepted", "ResolvedRefs"):
            why = f"Gateway {gateway.name} does not lead there: {false.get('message') or false['reason']}"
            return Told(False, false["reason"], why.rstrip(".") + ".")
    if said.get("Accepted", {}).get("status") == "True":
        return Told(True, "Admitted", "")
    return Told(False, "AwaitingGateway", f"HTTPRoute {this.name} waits for Gateway {gateway.name} to accept it.")
