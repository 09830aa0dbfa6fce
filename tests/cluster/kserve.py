"""KServe's controller beside a control plane, in Standard mode, with its CRDs and its webhooks."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from typing import Any

import yaml

from cluster.builds import program, source
from cluster.client import Manifest
from cluster.controlplane import ControlPlane
from cluster.kubeflow import is_ready
from cluster.processes import free_ports

MODULE = "github.com/kserve/kserve"
NAMESPACE = "kserve"
HELPER = {
    "image": "localhost/none:1",
    "memoryRequest": "10Mi",
    "memoryLimit": "100Mi",
    "cpuRequest": "10m",
    "cpuLimit": "1",
}
"""Of containers that it would inject, and that it reads the sizes of at its start."""
CONFIG: dict[str, dict[str, Any]] = {
    "deploy": {"defaultDeploymentMode": "Standard"},
    "ingress": {
        "ingressGateway": "kserve/none",
        "ingressDomain": "example.test",
        "ingressClassName": "none",
        "disableIngressCreation": True,
        "disableIstioVirtualHost": True,
    },
    "inferenceService": {
        "resource": {
            "cpuLimit": "1",
            "memoryLimit": "2Gi",
            "cpuRequest": "1",
            "memoryRequest": "2Gi",
        }  # as it is shipped
    },
    "storageInitializer": HELPER,
    "logger": {**HELPER, "defaultUrl": "http://default-broker"},
    "batcher": HELPER,
    "agent": HELPER,
}


def start(plane: ControlPlane) -> None:
    """Starts it, and returns when it is ready and its webhooks are called."""
    webhook, health = free_ports(2, plane.address)
    crds = source(MODULE, "kserve") / "config/crd/full"
    plane.install_crds(
        *crds.glob("serving.kserve.io_*.yaml"), *(crds / "clusterstoragecontainer").glob("serving*.yaml")
    )
    plane.apply(*_settings())
    temporary = plane.folder / "kserve"
    certificates = temporary / "k8s-webhook-server/serving-certs"
    certificates.mkdir(parents=True)
    pair = plane.authority.issue("kserve", hosts=(f"kserve-webhook-server-service.{NAMESPACE}.svc", plane.address))
    pair.write(certificates, "tls")
    plane.daemons.start(
        "kserve", program("kserve"), "--webhook-port", str(webhook), "--metrics-addr", "0",
        "--health-probe-addr", f"{plane.address}:{health}",
        environment={
            **os.environ, "KUBECONFIG": str(plane.user("test:kserve", "system:masters")),
            "POD_NAMESPACE": NAMESPACE, "TMPDIR": str(temporary),
        },
    )  # fmt: skip
    plane.daemons.wait("kserve", lambda: is_ready(f"http://{plane.address}:{health}/readyz"))
    plane.apply(*_webhooks(f"https://{plane.address}:{webhook}", plane.authority.pair.certificate))


def _settings() -> list[Manifest]:
    """Its namespace and its configuration."""
    data = {name: json.dumps(section) for name, section in CONFIG.items()}
    metadata = {"name": "inferenceservice-config", "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data},
    ]


def _webhooks(url: str, authority: bytes) -> list[Manifest]:
    """Its own webhook configurations, called at an address instead of a Service."""
    found = list(yaml.safe_load_all((source(MODULE, "kserve") / "config/webhook/manifests.yaml").read_text()))
    for manifest in found:
        manifest["metadata"].pop("creationTimestamp", None)
        for webhook in manifest["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": url + path, "caBundle": b64encode(authority).decode()}
            webhook["timeoutSeconds"] = 10
    return found
