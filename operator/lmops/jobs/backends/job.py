"""Kubernetes' own Job: one pod, once."""

from __future__ import annotations

from lmops.plan import Manifest

KIND = "Job"
ENDS = {"Failed": "Failed", "Complete": "Succeeded"}


def render(metadata: Manifest, template: Manifest, held: bool = False, retries: int = 0) -> Manifest:
    """The workload of one attempt. A failed pod stays to be read: restarts have one owner, mostly the operator."""
    return {
        "apiVersion": "batch/v1",
        "kind": KIND,
        "metadata": metadata,
        "spec": {"backoffLimit": retries, **({"suspend": True} if held else {}), "template": template},
    }


def is_held(child: Manifest) -> bool:
    """Whether it is suspended."""
    return bool(child["spec"].get("suspend"))


def read(child: Manifest) -> Manifest:
    """The condition that ended it, `{}` while it goes on."""
    conditions = child.get("status", {}).get("conditions", [])
    return next(({**c, "type": ENDS[c["type"]]} for c in conditions if c["type"] in ENDS and c["status"] == "True"), {})


def wanted_pods(child: Manifest) -> int:
    """How many pods its controller is to make."""
    return 1
