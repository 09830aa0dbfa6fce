"""The Gateway API beside a control plane: its CRD of routes, whose Gateway a test plays."""

from __future__ import annotations

import json

from cluster.builds import source
from cluster.client import Cluster, Manifest

MODULE = "sigs.k8s.io/gateway-api"
"""Of the version that KServe is built with."""


def install(cluster: Cluster) -> None:
    """From now on routes are known."""
    crds = source(MODULE, "kserve") / "config/crd/standard"
    cluster.install_crds(crds / "gateway.networking.k8s.io_httproutes.yaml")


def says(cluster: Cluster, route: Manifest, accepted: bool) -> None:
    """What the controller of its Gateway makes of a route."""
    metadata = route["metadata"]
    truths = {"Accepted": accepted, "ResolvedRefs": True}
    told = [
        {
            "type": kind,
            "status": str(holds),
            "reason": kind if holds else "NotAllowedByListeners",
            "message": "" if holds else "No listener takes routes of this namespace",
            "observedGeneration": metadata["generation"],
            "lastTransitionTime": "2026-11-23T12:00:00Z",
        }
        for kind, holds in truths.items()
    ]
    (parent,) = route["spec"]["parentRefs"]
    status = {"parents": [{"parentRef": parent, "controllerName": "example.com/gateway", "conditions": told}]}
    which = ("patch", "httproute", metadata["name"], "-n", metadata["namespace"], "--subresource=status")
    cluster.kubectl(*which, "--type=merge", "-p", json.dumps({"status": status}))
