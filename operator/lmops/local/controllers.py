"""The controllers that a laptop lacks, Kubernetes' for Jobs, Kubeflow's and KServe's, as pure functions."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from lmops.local.home import rfc3339
from lmops.local.pods import from_template, has_ended, is_leaving, is_ready, phase
from lmops.plan import Manifest

PREFIX = "training.kubeflow.org"
HASH = "pod-template-hash"


class Wanted(NamedTuple):
    """The new status of a child, and the pods to create and to delete."""

    status: Manifest
    create: tuple[Manifest, ...] = ()
    delete: tuple[str, ...] = ()


Controller = Callable[[Manifest, list[Manifest], int, datetime], Wanted]
"""(child, its pods, a free port of its own, now) -> what is wanted."""


def job(child: Manifest, pods: list[Manifest], port: int, now: datetime) -> Wanted:
    """Kubernetes' Job of one completion: a pod, and another for each that fails, up to `backoffLimit`."""
    status, limit = child.get("status", {}), child["spec"].get("backoffLimit", 6)
    failed = sum(phase(pod) == "Failed" for pod in pods)
    active = [pod for pod in pods if not has_ended(pod)]
    counts = {"active": len(active), "succeeded": sum(phase(pod) == "Succeeded" for pod in pods), "failed": failed}
    status = {**status, "startTime": status.get("startTime", rfc3339(now)), **counts}
    if child["spec"].get("suspend"):
        stopped = _set(status, now, "Suspended", "JobSuspended", "Job suspended")
        return Wanted(stopped, delete=tuple(pod["metadata"]["name"] for pod in active))
    if counts["succeeded"]:
        done = {**status, "completionTime": rfc3339(now)}
        return Wanted(_set(done, now, "Complete", "CompletionsReached", "Reached expected number of succeeded pods"))
    if failed > limit:
        return Wanted(
            _set(status, now, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        )
    if active:
        return Wanted(status)
    name = child["metadata"]["name"]
    suffix = uuid.uuid5(uuid.UUID(child["metadata"]["uid"]), str(failed)).hex[:5]
    labels = {"batch.kubernetes.io/job-name": name, "job-name": name}
    return Wanted(status, create=(from_template(child, child["spec"]["template"], f"{name}-{suffix}", labels),))


def pytorchjob(child: Manifest, pods: list[Manifest], port: int, now: datetime) -> Wanted:
    """Kubeflow's PyTorchJob (training-operator 1.9): a pod for each replica, and conditions by its own rules."""
    status = _set(
        child.get("status", {}), now, "Created", "PyTorchJobCreated", f"PyTorchJob {_name(child)} is created."
    )
    status.setdefault("startTime", rfc3339(now))
    if child["spec"].get("runPolicy", {}).get("suspend"):
        suspended = _set(status, now, "Suspended", "PyTorchJobSuspended", f"PyTorchJob {_name(child)} is suspended.")
        return Wanted(suspended, delete=tuple(pod["metadata"]["name"] for pod in pods))
    replicas = child["spec"]["pytorchReplicaSpecs"]
    by_role = {role: [pod for pod in pods if _role(pod) == role.lower()] for role in replicas}
    again = [p for role, mine in by_role.items() for p in mine if _is_retried(p, replicas[role]["restartPolicy"])]
    status["replicaStatuses"] = {role: _counted(mine) for role, mine in by_role.items()}
    there = {pod["metadata"]["name"] for pod in pods}
    create = tuple(pod for pod in _pods(child, port) if pod["metadata"]["name"] not in there)
    return Wanted(_conditions(child, status, bool(again), now), create, tuple(pod["metadata"]["name"] for pod in again))


def inferenceservice(child: Manifest, pods: list[Manifest], port: int, now: datetime) -> Wanted:
    """KServe's InferenceService in Standard mode: what its Deployment does to keep replicas, and to replace them."""
    predictor = child["spec"]["predictor"]
    metadata = {name: predictor.get(name, {}) for name in ("labels", "annotations")}
    template = {"metadata": metadata, "spec": _pod(predictor)}
    mark, replicas = _hash(template), int(predictor.get("minReplicas", 1))
    staying = [pod for pod in pods if not is_leaving(pod) and not has_ended(pod)]
    new = [pod for pod in staying if pod["metadata"]["labels"].get(HASH) == mark]
    old = sorted((pod for pod in staying if pod not in new), key=is_ready)
    limits = predictor.get("deploymentStrategy", {}).get("rollingUpdate", {})
    room = replicas + int(limits.get("maxSurge", 1)) - len(staying)
    spare = max(0, sum(map(is_ready, staying)) - replicas + int(limits.get("maxUnavailable", 0)))
    gone = [*new[replicas:], *old[: spare + sum(not is_ready(pod) for pod in old)], *filter(has_ended, pods)]
    names = [f"{_name(child)}-predictor-{uuid.uuid4().hex[:8]}" for _ in range(min(room, replicas - len(new)))]
    create = tuple(from_template(child, template, name, {HASH: mark}) for name in names)
    return Wanted(_served(child, new, old, port, now), create, tuple(pod["metadata"]["name"] for pod in gone))


def _served(child: Manifest, new: list[Manifest], old: list[Manifest], port: int, now: datetime) -> Manifest:
    """Whether anything answers, and where."""
    ready = any(map(is_ready, (*new, *old)))
    status = {"type": "Ready", "status": "True" if ready else "False"}
    before: Manifest = next(iter(child.get("status", {}).get("conditions", ())), {})
    since = before["lastTransitionTime"] if before.get("status") == status["status"] else rfc3339(now)
    return {"conditions": [{**status, "lastTransitionTime": since}], "address": {"url": f"http://127.0.0.1:{port}"}}


def _pod(predictor: Manifest) -> Manifest:
    """The pod's part of a predictor."""
    own = ("labels", "annotations", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy")
    return {name: value for name, value in predictor.items() if name not in own}


def _hash(template: Manifest) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


CONTROLLERS: dict[str, Controller] = {"Job": job, "PyTorchJob": pytorchjob, "InferenceService": inferenceservice}


def is_finished(child: Manifest) -> bool:
    """Whether its controller looks at it no more."""
    ends = ("Complete", "Failed", "Succeeded")
    return any(c["type"] in ends and c["status"] == "True" for c in child.get("status", {}).get("conditions", ()))


def _conditions(child: Manifest, status: Manifest, restarting: bool, now: datetime) -> Manifest:
    """One Succeeded among elastic workers is enough; a Master alone decides where there is one."""
    replicas, name = child["spec"]["pytorchReplicaSpecs"], _name(child)
    role = "Master" if "Master" in replicas else "Worker"
    counts, wanted = status["replicaStatuses"][role], int(replicas[role].get("replicas", 1))
    if counts["succeeded"] >= (1 if role == "Worker" and "elasticPolicy" in child["spec"] else wanted):
        done = {**status, "completionTime": rfc3339(now)}
        return _set(done, now, "Succeeded", "PyTorchJobSucceeded", f"PyTorchJob {name} is successfully completed.")
    if restarting:
        return _set(status, now, "Restarting", "PyTorchJobRestarting", f"PyTorchJob {name} is restarting.")
    failed = {r: c["failed"] for r, c in status["replicaStatuses"].items() if c["failed"]}
    if failed:
        text = f"PyTorchJob {name} is failed because {sum(failed.values())} {'/'.join(failed)} replica(s) failed."
        return _set({**status, "completionTime": rfc3339(now)}, now, "Failed", "PyTorchJobFailed", text)
    if counts["active"]:
        return _set(status, now, "Running", "PyTorchJobRunning", f"PyTorchJob {name} is running.")
    return status


def _set(status: Manifest, now: datetime, type_: str, reason: str, message: str) -> Manifest:
    """The status with this condition True. Running, Restarting and an end replace each other."""
    passing = ("Running", "Restarting") if type_ != "Created" else ()
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    for other in passing:
        if other != type_ and conditions.get(other, {}).get("status") == "True":
            conditions[other] = {**conditions[other], "status": "False", "lastTransitionTime": rfc3339(now)}
    if conditions.get(type_, {}).get("status") != "True":
        fresh = {"status": "True", "reason": reason, "message": message, "lastTransitionTime": rfc3339(now)}
        conditions[type_] = {"type": type_, **fresh}
    return {**status, "conditions": list(conditions.values())}


def _pods(child: Manifest, port: int) -> list[Manifest]:
    """The pods of all replicas, Masters first, with the environment that makes them one group."""
    replicas = child["spec"]["pytorchReplicaSpecs"]
    roles = [role for role in ("Master", "Worker") if role in replicas]
    ranked = [(role, index) for role in roles for index in range(int(replicas[role].get("replicas", 1)))]
    found = []
    for rank, (role, index) in enumerate(ranked):
        labels = {
            f"{PREFIX}/operator-name": "pytorchjob-controller",
            f"{PREFIX}/job-name": _name(child),
            f"{PREFIX}/replica-type": role.lower(),
            f"{PREFIX}/replica-index": str(index),
            **({f"{PREFIX}/job-role": "master"} if role == "Master" else {}),
        }
        pod = from_template(child, replicas[role]["template"], f"{_name(child)}-{role.lower()}-{index}", labels)
        policy = replicas[role].get("restartPolicy", "OnFailure")
        pod["spec"]["restartPolicy"] = "Never" if policy == "ExitCode" else policy
        for main in pod["spec"]["containers"]:
            main["env"] = [*main.get("env", ()), *_environment(child, rank, len(ranked), port)]
        found.append(pod)
    return found


def _environment(child: Manifest, rank: int, world: int, port: int) -> list[dict[str, str]]:
    """What the controller tells each pod; here the pods meet on 127.0.0.1, where a cluster has their DNS names."""
    spec = child["spec"]
    processes = str(spec.get("nprocPerNode", "auto"))
    env: dict[str, Any] = {"PYTHONUNBUFFERED": 1, "PET_NPROC_PER_NODE": processes}
    if "Master" in spec["pytorchReplicaSpecs"]:
        size = world * (int(processes) if processes.isdigit() else 1)
        env |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": port,
        }
        env |= {"WORLD_SIZE": size, "RANK": rank, "PET_NODE_RANK": rank}
    if elastic := spec.get("elasticPolicy"):
        env["PET_RDZV_ENDPOINT"] = f"127.0.0.1:{port}"
        env["PET_NNODES"] = f"{elastic.get('minReplicas', world)}:{elastic.get('maxReplicas', world)}"
        named = {"PET_RDZV_BACKEND": "rdzvBackend", "PET_RDZV_ID": "rdzvId", "PET_MAX_RESTARTS": "maxRestarts"}
        env |= {name: elastic[key] for name, key in named.items() if key in elastic}
        if conf := elastic.get("rdzvConf"):
            env["PET_RDZV_CONF"] = ",".join(f"{entry['key']}={entry['value']}" for entry in conf)
    else:
        env["PET_NNODES"] = world
    return [{"name": name, "value": str(value)} for name, value in env.items()]


def _counted(pods: list[Manifest]) -> dict[str, int]:
    """Pods by what became of them; one that is deleted while it runs counts as failed."""
    failed = [pod for pod in pods if phase(pod) == "Failed" or (is_leaving(pod) and phase(pod) == "Running")]
    return {
        "active": sum(phase(pod) == "Running" and not is_leaving(pod) for pod in pods),
        "succeeded": sum(phase(pod) == "Succeeded" for pod in pods),
        "failed": len(failed),
    }


def _is_retried(pod: Manifest, policy: str) -> bool:
    """Whether the controller replaces a failed pod by itself."""
    if phase(pod) != "Failed" or policy == "Never":
        return False
    state = (pod["status"].get("containerStatuses") or [{}])[0].get("state", {})
    return policy != "ExitCode" or int(state.get("terminated", {}).get("exitCode", 0xBEEF)) >= 128


def _role(pod: Manifest) -> str:
    return str(pod["metadata"]["labels"].get(f"{PREFIX}/replica-type"))


def _name(child: Manifest) -> str:
    return str(child["metadata"]["name"])
