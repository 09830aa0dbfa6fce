"""A cluster as a test sees it: kubectl with a kubeconfig, whoever runs the cluster."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.builds import program

Manifest = dict[str, Any]

BACK_OFF = 120
"""Seconds within which Kubernetes' own controllers look again at an API server that was away."""


class KubectlError(Exception):
    """What kubectl said when it failed."""


class Cluster:
    """A Kubernetes that is there."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that is to work with this cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *arguments: str | Path, stdin: str = "") -> str:
        """What kubectl prints; raises `KubectlError` when it fails."""
        command = [str(program("kubectl")), "--cache-dir", f"{self.kubeconfig}.cache", *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise KubectlError(done.stderr.strip())
        return done.stdout

    @contextmanager
    def watching(self, *arguments: str) -> Iterator[list[str]]:
        """The lines that `kubectl ... -w` shows during a block; they are there once it is left."""
        command = [str(program("kubectl")), "--cache-dir", f"{self.kubeconfig}.cache", *arguments, "--watch"]
        shown: list[str] = []
        with tempfile.TemporaryFile("w+") as screen:
            process = subprocess.Popen(command, env=self.environment, stdout=screen, stderr=screen)
            try:
                yield shown
            finally:
                process.terminate()
                process.wait(10)
                screen.seek(0)
                shown += screen.read().splitlines()

    def answers(self, *arguments: str) -> bool:
        """Whether kubectl succeeds."""
        try:
            self.kubectl(*arguments)
        except KubectlError:
            return False
        return True

    def apply(self, *manifests: Manifest, namespace: str = "") -> None:
        """Applies manifests on the server's side: each in its own namespace, or all of them in this one."""
        where = ("-n", namespace) if namespace else ()
        content = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", "--force-conflicts", *where, "-f", "-", stdin=json.dumps(content))

    def get(self, kind: str, name: str, namespace: str = "default") -> Manifest:
        """One object."""
        found: Manifest = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def list(self, kind: str, namespace: str = "default", selector: str = "") -> list[Manifest]:
        """All objects of a kind."""
        text = self.kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json")
        found: list[Manifest] = json.loads(text)["items"]
        return found

    def until(
        self,
        kind: str,
        name: str,
        happened: Callable[[Manifest], bool],
        namespace: str = "default",
        seconds: float = 60,
    ) -> Manifest:
        """An object, once it is there and something has happened to it."""
        end, seen = time.monotonic() + seconds, {}
        while time.monotonic() < end:
            listed = self.list(kind, namespace)
            seen = next((each for each in listed if each["metadata"]["name"] == name), {})
            if seen and happened(seen):
                return seen
            time.sleep(0.2)
        status = json.dumps(seen.get("status"), indent=1)
        raise TimeoutError(f"{kind} {namespace}/{name} has come no further in {seconds:.0f} s than:\n{status}")

    def install_crds(self, *files: Path) -> None:
        """Installs CRDs, and waits until they are served."""
        named = [argument for file in files for argument in ("-f", file)]
        self.kubectl("apply", "--server-side", "--force-conflicts", *named)
        end = time.monotonic() + 30
        # repeated, for `wait` fails at once on a CRD that has no conditions yet
        while not self.answers("wait", "--for=condition=Established", "--timeout=10s", "crd", "--all"):
            if time.monotonic() > end:
                raise TimeoutError(f"CRDs are not established: {', '.join(file.name for file in files)}")
            time.sleep(0.1)

    @contextmanager
    def namespace(self, prefix: str = "test") -> Iterator[str]:
        """A namespace of a test's own. It leaves in its own time."""
        name = f"{prefix}-{secrets.token_hex(3)}"
        self.kubectl("create", "namespace", name)
        self._wait_for_account(name)
        yield name
        self.kubectl("delete", "namespace", name, "--wait=false")

    @contextmanager
    def restricted(self) -> Iterator[str]:
        """A namespace whose pods must run restricted."""
        with self.namespace() as name:
            self.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
            yield name

    def _wait_for_account(self, namespace: str) -> None:
        """No pod can be made before the namespace's default ServiceAccount. Its maker is slow after an outage."""
        end = time.monotonic() + BACK_OFF
        while not self.answers("get", "serviceaccount", "default", "-n", namespace):
            if time.monotonic() > end:
                raise TimeoutError(f"namespace {namespace} has no default ServiceAccount")
            time.sleep(0.1)
