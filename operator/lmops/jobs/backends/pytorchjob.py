"""Kubeflow's PyTorchJob (training-operator 1.9): torchrun on one node, or on several that meet by c10d."""

from __future__ import annotations

import copy

from lmops.plan import Manifest

KIND = "PyTorchJob"
CONTAINER = "pytorch"  # the controller insists on this name
HEALS = 3
"""How often torchrun may replace lost ranks in place, before the attempt is over."""


def render(metadata: Manifest, template: Manifest, nodes: int, processes: int, held: bool = False) -> Manifest:
    """The workload of one attempt. A single node is a Master alone: it needs no rendezvous.

    `restartPolicy` is Never, so that a failed pod stays to be read and restarts have one owner, the operator.
    """
    pod = copy.deepcopy(template)
    pod["spec"]["containers"][0]["env"] += [
        # Without it a lost rank comes back to stale addresses in the store, and mostly fails to rejoin.
        {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"},
        {
            "name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
            "value": str(max(5, pod["spec"]["terminationGracePeriodSeconds"] - 10)),
        },
    ]
    replicas = {"replicas": nodes, "restartPolicy": "Never", "template": pod}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": KIND,
        "metadata": metadata,
        "spec": {
            "nprocPerNode": str(processes),
            "runPolicy": {"cleanPodPolicy": "None", **({"suspend": True} if held else {})},
            **({"elasticPolicy": _rendezvous(metadata, nodes)} if nodes > 1 else {}),
            "pytorchReplicaSpecs": {"Worker" if nodes > 1 else "Master": replicas},
        },
    }


def _rendezvous(metadata: Manifest, nodes: int) -> Manifest:
    return {
        "rdzvBackend": "c10d",
        "rdzvId": f"{metadata['ownerReferences'][0]['uid']}-{metadata['name']}",
        "minReplicas": nodes,
        "maxReplicas": nodes,
        "maxRestarts": HEALS,
    }


def is_held(child: Manifest) -> bool:
    """Whether it is suspended, as before its queue admits it and after its queue has taken its place back."""
    return bool(child["spec"].get("runPolicy", {}).get("suspend"))


def read(child: Manifest) -> Manifest:
    """The condition that ended the workload, `{}` while it goes on.

    `replicaStatuses` prove nothing: the controller says Succeeded when any one elastic worker has, and then stops
    counting.
    """
    conditions = child.get("status", {}).get("conditions", [])
    ends = {c["type"]: c for c in conditions if c["type"] in ("Succeeded", "Failed") and c["status"] == "True"}
    return ends.get("Failed") or ends.get("Succeeded") or {}


def wanted_pods(child: Manifest) -> int:
    """How many pods its controller is to make."""
    return sum(replica.get("replicas", 1) for replica in child["spec"].get("pytorchReplicaSpecs", {}).values())
