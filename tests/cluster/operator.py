"""The operator as a process beside a cluster, with a ServiceAccount, that account's token and the rules bound to it."""

from __future__ import annotations

import json
import sys
import urllib.request
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import helm
from cluster.certificates import kubeconfig
from cluster.client import Cluster, Manifest
from cluster.processes import Daemons, free_ports

HOME = "lmops-system"
RULES = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


class Operator:
    """A replica of the operator."""

    def __init__(self, daemons: Daemons, port: int) -> None:
        self.daemons, self.url = daemons, f"http://127.0.0.1:{port}"

    @property
    def log(self) -> str:
        """What it has said."""
        return self.daemons.log("operator")

    def is_ready(self) -> bool:
        """Whether it says so itself."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def running(cluster: Cluster, folder: Path, manifests: Iterable[Manifest], *arguments: str) -> Iterator[Operator]:
    """An operator, until the end of the block. The manifests hold its namespace, ServiceAccount and rules."""
    account = install(cluster, manifests)
    user = token_kubeconfig(cluster, account, folder / "operator.kubeconfig")
    port, posts = free_ports(2)
    with Daemons(folder) as daemons:
        operator = Operator(daemons, port)
        namespace = account["metadata"]["namespace"]
        daemons.start(
            "operator", sys.executable, "-m", "lmops", "operator", "run",
            "--port", str(port), "--progress-port", str(posts), "--lease-namespace", namespace, *arguments,
            environment={**cluster.environment, "KUBECONFIG": str(user)},
        )  # fmt: skip
        daemons.wait("ready operator", operator.is_ready)
        yield operator


def rules() -> list[Manifest]:
    """The namespace of the operator, and the ServiceAccount and rules that the chart gives it."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}}
    return [namespace, *(each for each in helm.rendered(namespace=HOME) if each["kind"] in RULES)]


def install(cluster: Cluster, manifests: Iterable[Manifest]) -> Manifest:
    """Applies an operator's namespace, ServiceAccount and rules, whoever wrote them; returns the ServiceAccount."""
    applied = list(manifests)
    cluster.apply(*applied)
    (account,) = (each for each in applied if each["kind"] == "ServiceAccount")
    return account


def token_kubeconfig(cluster: Cluster, account: Manifest, file: Path) -> Path:
    """A kubeconfig with a token of a ServiceAccount."""
    name, namespace = account["metadata"]["name"], account["metadata"]["namespace"]
    token = cluster.kubectl("create", "token", name, "-n", namespace, "--duration=8h").strip()
    admin = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "-o", "json"))["clusters"][0]["cluster"]
    return kubeconfig(file, admin["server"], b64decode(admin["certificate-authority-data"]), {"token": token})
