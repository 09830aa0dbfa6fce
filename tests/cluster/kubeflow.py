"""Kubeflow's training-operator beside a control plane, with the CRD of PyTorchJobs and its validating webhook."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

from cluster.builds import program, source
from cluster.certificates import Pair
from cluster.client import Manifest
from cluster.controlplane import ControlPlane
from cluster.processes import free_ports

MODULE = "github.com/kubeflow/training-operator"
NAMESPACE = "kubeflow"
WAITED_FOR = Path("/tmp/k8s-webhook-server/serving-certs")
"""Where it waits for its certificate to appear: fixed in its code. What it serves is read below TMPDIR."""


def start(plane: ControlPlane) -> None:
    """Starts it, and returns when it is ready and its webhook is called."""
    webhook, health = free_ports(2, plane.address)
    pair = plane.authority.issue("training-operator", hosts=(f"training-operator.{NAMESPACE}.svc", plane.address))
    plane.install_crds(source(MODULE, "kubernetes") / "manifests/base/crds/kubeflow.org_pytorchjobs.yaml")
    url = f"https://{plane.address}:{webhook}/validate-kubeflow-org-v1-pytorchjob"
    plane.apply(*_manifests(plane.authority.pair, pair, url))
    temporary = _serving_certificates(plane, pair)
    plane.daemons.start(
        "training-operator", program("training-operator"), "--enable-scheme=pytorchjob",
        f"--webhook-server-port={webhook}", "--metrics-bind-address=0",
        f"--health-probe-bind-address={plane.address}:{health}",
        environment={
            **os.environ, "KUBECONFIG": str(plane.user("test:training-operator", "system:masters")),
            "MY_POD_NAMESPACE": NAMESPACE, "TMPDIR": str(temporary),
        },
    )  # fmt: skip
    plane.daemons.wait("training-operator", lambda: is_ready(f"http://{plane.address}:{health}/readyz"))


def _manifests(authority: Pair, pair: Pair, url: str) -> list[Manifest]:
    """Its namespace, the Secret of its certificate, and the webhook, called at an address instead of a Service."""
    files = {
        "ca.crt": authority.certificate,
        "ca.key": authority.key,
        "tls.crt": pair.certificate,
        "tls.key": pair.key,
    }
    rule = {
        "apiGroups": ["kubeflow.org"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["pytorchjobs"],
    }
    webhook = {
        "name": "validator.pytorchjob.training-operator.kubeflow.org",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {"url": url, "caBundle": b64encode(authority.certificate).decode()},
        "rules": [rule],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "training-operator-webhook-cert", "namespace": NAMESPACE},
            "data": {name: b64encode(content).decode() for name, content in files.items()},
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "validator.training-operator.kubeflow.org"},
            "webhooks": [webhook],
        },
    ]


def _serving_certificates(plane: ControlPlane, pair: Pair) -> Path:
    """Lays the certificate where it is served from, and a copy where it is only waited for."""
    temporary = plane.folder / "kubeflow"
    for folder in (temporary / WAITED_FOR.relative_to("/tmp"), WAITED_FOR):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "tls.crt").exists():
            for name, content in {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": b""}.items():
                (folder / name).write_bytes(content or plane.authority.pair.certificate)
    return temporary


def is_ready(url: str) -> bool:
    """Whether a daemon says so itself."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
