"""Claims in a namespace that are bound to folders of this machine: the fetched data, and models to add ours to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cluster.client import Cluster, Manifest


def bound(node: Cluster, namespace: str, folder: Path) -> Path:
    """Makes the claims `data` and `models` in a namespace, and lays what they hold below a folder."""
    fetched = Path(os.environ.get("LMOPS_TEST_VOLUMES", ""))
    if not (fetched / "models").is_dir():
        absent = pytest.fail if os.environ.get("CI") else pytest.skip
        absent("LMOPS_TEST_VOLUMES is not set: nothing was trained on the node; `make test` fetches what it needs")
    shutil.copytree(fetched / "models/minilm", folder / "models/minilm")
    (folder / "models").chmod(0o777)  # pods have a user of their own
    (folder / "data").symlink_to(fetched / "data")
    node.apply(*_claim("data", fetched / "data", namespace), *_claim("models", folder / "models", namespace))
    for claim in ("data", "models"):
        node.until("persistentvolumeclaim", claim, lambda found: found["status"].get("phase") == "Bound", namespace)
    return folder


def _claim(name: str, folder: Path, namespace: str) -> list[Manifest]:
    """A claim, and the volume that is bound to it: a folder of this machine."""
    size = {"storage": "1Gi"}
    access = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    reference = {"name": name, "namespace": namespace}
    volume = {"hostPath": {"path": str(folder)}, "capacity": size, "claimRef": reference}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{namespace}-{name}"},
            "spec": {**access, **volume, "persistentVolumeReclaimPolicy": "Retain"},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": reference,
            "spec": {**access, "resources": {"requests": size}, "volumeName": f"{namespace}-{name}"},
        },
    ]
