"""By what name a service answers outside of its cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import HOST, Model, Word, exactly_one, rules
from lmops.api.pod import OURS, DnsName, none_of

Host = Annotated[str, Field(pattern=HOST, max_length=253)]


class Gateway(Model):
    """A Gateway of the Gateway API that leads to it."""

    name: DnsName
    """Its name."""
    namespace: DnsName | None = None
    """Its namespace: it has to allow routes from here. Default: that of the service."""
    listener: DnsName | None = None
    """The one of its listeners that is meant. Default: all that take the host."""
    protocol: Literal["HTTP", "HTTPS"] = "HTTPS"
    """What is spoken there: the address of the service begins with it."""


class Expose(Model):
    """A name outside of the cluster, and what leads from there to the service."""

    model_config = rules(
        exactly_one("ingressClassName", "gateway"),
        (
            "!has(self.tlsSecretName) || !has(self.gateway)",
            "a Gateway has the certificates at its listeners: leave tlsSecretName out",
        ),
        (none_of("annotations", OURS), f"annotations that begin with {', '.join(OURS)} are set by controllers"),
    )

    host: Host
    """The name that it answers by, such as reviews.example.com. It has to lead to the ingress or the gateway."""
    ingress_class_name: DnsName | None = None
    """The IngressClass whose controller leads to it, by an Ingress."""
    tls_secret_name: DnsName | None = None
    """The Secret with the certificate of the host, for an Ingress. Default: it answers by http, without one."""
    gateway: Gateway | None = None
    """The Gateway that leads to it, by an HTTPRoute."""
    annotations: Annotated[dict[Word, Annotated[str, Field(max_length=4096)]], Field(max_length=32)] = {}
    """Annotations of the Ingress or HTTPRoute, which its controller and cert-manager go by."""
