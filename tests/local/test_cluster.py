"""The laptop's Jobs and PyTorchJobs, with processes of a line or two as their containers."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from lmops.local.accelerators import Accelerators
from lmops.local.cluster import Cluster
from lmops.local.home import Home
from lmops.local.kubelet import Kubelet, Node
from lmops.local.sandbox import expanded
from lmops.plan import Manifest, Ref

JOB, TRAIN = Ref("Job", "demo-prepare-a0"), Ref("PyTorchJob", "demo-train-a0")


def cluster(home: Path, gpus: tuple[str, ...] = (), name: str = "demo") -> Cluster:
    """A cluster for a resource, as an engine of its own has it."""
    folder = Home(home).folder("default", "TrainingJob", name)
    return Cluster(folder, Kubelet(Home(home), folder, Node(Accelerators(gpus, home / "gpus"), "http://127.0.0.1:1")))


def template(script: str, **container: Any) -> Manifest:
    """A pod that runs a line of Python."""
    main = {
        "name": "pytorch",
        "command": ["python", "-c", script],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "data", "mountPath": "/volumes/data"}],
        **container,
    }
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    return {
        "metadata": {"labels": {"lmops.dev/stage": "train"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [main],
            "volumes": [{"name": "scratch", "emptyDir": {}}, claim],
        },
    }


def job(script: str, **container: Any) -> Manifest:
    """A Job of one pod."""
    spec = {"backoffLimit": 0, "template": template(script, **container)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": JOB.name, "namespace": "default"},
        "spec": spec,
    }


def pytorchjob(script: str, nodes: int = 1, policy: str = "Never") -> Manifest:
    """A PyTorchJob as the operator renders it: a Master alone, or elastic Workers."""
    replicas = {"replicas": nodes, "restartPolicy": policy, "template": template(script)}
    elastic = {"rdzvBackend": "c10d", "rdzvId": "x", "minReplicas": nodes, "maxReplicas": nodes, "maxRestarts": 3}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": TRAIN.name, "namespace": "default"},
        "spec": {
            "nprocPerNode": "2",
            **({"elasticPolicy": elastic} if nodes > 1 else {}),
            "pytorchReplicaSpecs": {"Worker" if nodes > 1 else "Master": replicas},
        },
    }


def run(found: Cluster, seconds: float = 15, until: Any = None) -> Cluster:
    """Lets the cluster work until no process runs and nothing changes, or until something holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        changed = found.step(datetime.now(UTC))
        if until(found) if until else not changed and found.is_quiet():
            return found
        time.sleep(0.05)
    raise AssertionError("the cluster did not come to rest in time")


def ran(home: Path, manifest: Manifest) -> Cluster:
    """A cluster in which a child has run to its end."""
    found = cluster(home)
    found.create(manifest, datetime.now(UTC))
    return run(found)


def ends(found: Cluster) -> dict[str, tuple[int, str, str]]:
    """Exit code, reason and termination message of each pod."""
    states = {name: pod["status"]["containerStatuses"][0]["state"]["terminated"] for name, pod in found.pods.items()}
    return {name: (s["exitCode"], s["reason"], s.get("message", "")) for name, s in states.items()}


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_up(found: Cluster) -> bool:
    """Whether a container has said so."""
    return any("up" in file.read_text() for file in found.folder.pods.glob("*/log"))


def conditions(found: Cluster, ref: Ref) -> dict[str, str]:
    """The conditions of a child."""
    return {c["type"]: c["status"] for c in found.children[ref]["status"]["conditions"]}


def test_a_job_completes_and_keeps_what_its_container_said_last(tmp_path: Path) -> None:
    found = ran(tmp_path, job("import os; open(os.environ['LMOPS_TERMINATION_LOG'], 'w').write('said and done')"))

    assert list(ends(found).values()) == [(0, "Completed", "said and done")]
    assert conditions(found, JOB) == {"Complete": "True"}


def test_a_container_that_fails_without_a_word_is_quoted_from_its_log(tmp_path: Path) -> None:
    found = ran(tmp_path, job("print('why'); exit(3)"))

    assert list(ends(found).values()) == [(3, "Error", "why")]
    assert conditions(found, JOB) == {"Failed": "True"}


def test_a_command_that_is_not_there_is_a_start_error(tmp_path: Path) -> None:
    found = ran(tmp_path, job("", command=["no-such-program"]))

    code, reason, message = next(iter(ends(found).values()))
    assert (code, reason) == (128, "StartError")
    assert "no-such-program" in message


def test_a_master_gets_the_environment_of_a_world_of_one_node(tmp_path: Path) -> None:
    ours = "{k: v for k, v in os.environ.items() if k[:4] in ('PET_', 'RANK', 'WORL')}"
    script = f"import os, json; print(json.dumps({ours}))"
    found = ran(tmp_path, pytorchjob(script))

    env = json.loads((found.folder.pod("demo-train-a0-master-0") / "log").read_text())
    port = env.pop("PET_MASTER_PORT")
    assert env == {
        "PET_LOCAL_ADDR": "127.0.0.1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_NNODES": "1",
        "PET_NODE_RANK": "0",
        "PET_NPROC_PER_NODE": "2",
        "RANK": "0",
        "WORLD_SIZE": "2",
    }
    assert 1024 < int(port) < 65536
    assert conditions(found, TRAIN) == {"Created": "True", "Running": "False", "Succeeded": "True"}


def test_two_pods_meet_at_the_address_that_their_environment_names(tmp_path: Path) -> None:
    script = (
        "import os, socket; here = os.environ['PET_RDZV_ENDPOINT'].split(':')\n"
        "try: door = socket.create_server((here[0], int(here[1]))); door.accept()\n"
        "except OSError: socket.create_connection(here, 5)\n"
        "print(os.environ['PET_NNODES'], os.environ['PET_RDZV_BACKEND'], os.environ['PET_MAX_RESTARTS'])"
    )
    found = ran(tmp_path, pytorchjob(script, nodes=2))

    logs = {name: (found.folder.pod(name) / "log").read_text() for name in found.pods}
    assert logs == {"demo-train-a0-worker-0": "2:2 c10d 3\n", "demo-train-a0-worker-1": "2:2 c10d 3\n"}
    labels = found.pods["demo-train-a0-worker-1"]["metadata"]["labels"]
    assert labels["training.kubeflow.org/replica-index"] == "1"
    assert labels["lmops.dev/stage"] == "train"


def test_one_elastic_worker_that_succeeds_is_enough_for_succeeded(tmp_path: Path) -> None:
    script = "import os, time; time.sleep(0 if os.environ['HOME'].count('worker-0') else 30)"
    found = cluster(tmp_path)
    found.create(pytorchjob(script.replace("'HOME'", "'LMOPS_TERMINATION_LOG'"), nodes=2), datetime.now(UTC))

    run(found, until=lambda c: c.children and conditions(c, TRAIN).get("Succeeded") == "True")

    phases = {name[-8:]: pod["status"]["phase"] for name, pod in found.pods.items()}
    assert phases == {"worker-0": "Succeeded", "worker-1": "Running"}
    found.kubelet.kill_all()


def test_one_worker_that_fails_fails_the_job(tmp_path: Path) -> None:
    found = ran(tmp_path, pytorchjob("exit(1)", nodes=2))

    assert conditions(found, TRAIN)["Failed"] == "True"
    assert found.children[TRAIN]["status"]["replicaStatuses"]["Worker"]["failed"] >= 1


def test_on_failure_the_container_starts_again_in_its_pod(tmp_path: Path) -> None:
    (tmp_path / "volumes" / "data").mkdir(parents=True)
    script = "import os; file = os.environ['MARKER']\nif not os.path.exists(file): open(file, 'w'); exit(1)"
    manifest = pytorchjob(script, policy="OnFailure")
    main = manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    main["env"] = [{"name": "MARKER", "value": "/volumes/data/marker"}]
    found = cluster(tmp_path)
    found.create(manifest, datetime.now(UTC))

    run(found, until=lambda c: c.children and conditions(c, TRAIN).get("Succeeded") == "True")

    assert found.pods["demo-train-a0-master-0"]["status"]["containerStatuses"][0]["restartCount"] == 1
    assert (tmp_path / "volumes" / "data" / "marker").exists()


def test_a_process_tree_over_its_limit_is_killed_for_its_memory(tmp_path: Path) -> None:
    hog = "import time; hoard = b'x' * 200_000_000; time.sleep(30)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hog!r}])"
    found = ran(tmp_path, job(script, resources={"limits": {"memory": "120Mi"}}))

    assert list(ends(found).values()) == [(137, "OOMKilled", "")]


def test_a_sigkill_from_elsewhere_is_no_memory_kill(tmp_path: Path) -> None:
    found = ran(tmp_path, job("import os; os.kill(os.getpid(), 9)"))

    assert list(ends(found).values()) == [(137, "Error", "")]


def test_processes_that_outlive_their_container_are_ended_with_it(tmp_path: Path) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid)"
    found = ran(tmp_path, job(script))

    assert not is_alive(int((found.folder.pod(next(iter(found.pods))) / "log").read_text()))


@pytest.mark.parametrize(
    ("gpus", "wanted", "said"),
    [
        ((), 1, "the pod asks for 1 nvidia.com/gpu and this machine has none; add --cpu to run it on the processor"),
        (("0",), 2, "the pod asks for 2 nvidia.com/gpu and this machine has 1; add --cpu to run it on the processor"),
    ],
)
def test_gpus_that_are_not_there_leave_the_pod_pending(
    tmp_path: Path, gpus: tuple[str, ...], wanted: int, said: str
) -> None:
    found = cluster(tmp_path, gpus)
    found.create(job("", resources={"limits": {"nvidia.com/gpu": wanted}}), datetime.now(UTC))
    run(found)

    (pod,) = found.pods.values()
    condition = {key: pod["status"]["conditions"][0][key] for key in ("type", "status", "reason", "message")}
    assert pod["status"]["phase"] == "Pending"
    assert condition == {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}


def test_a_gpu_is_handed_to_one_pod_and_hidden_from_the_others(tmp_path: Path) -> None:
    show = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    found = cluster(tmp_path, ("4", "7"))
    with_gpu = job(show, resources={"limits": {"nvidia.com/gpu": 1}})
    without = {**job(show), "metadata": {"name": "demo-plain", "namespace": "default"}}
    for manifest in (with_gpu, without):
        found.create(manifest, datetime.now(UTC))
    run(found)

    logs = {name[:9]: (found.folder.pod(name) / "log").read_text() for name in found.pods}
    assert logs == {"demo-prep": "'4'\n", "demo-plai": "''\n"}


def test_a_gpu_in_use_is_waited_for(tmp_path: Path) -> None:
    found = cluster(tmp_path, ("0",))
    resources = {"limits": {"nvidia.com/gpu": 1}}
    second = {**job("pass", resources=resources), "metadata": {"name": "demo-second", "namespace": "default"}}
    found.create(job("import time; print('up', flush=True); time.sleep(0.5)", resources=resources), datetime.now(UTC))
    run(found, until=is_up)
    found.create(second, datetime.now(UTC))
    for _ in range(2):
        found.step(datetime.now(UTC))

    waiting = next(pod for name, pod in found.pods.items() if "second" in name)["status"]["conditions"][0]["message"]
    run(found, until=lambda c: all(pod["status"]["phase"] == "Succeeded" for pod in c.pods.values()))

    assert waiting == "the pod asks for 1 nvidia.com/gpu, and other pods use them; it starts when they are free"


def test_a_gpu_that_another_engine_uses_is_waited_for(tmp_path: Path) -> None:
    resources = {"limits": {"nvidia.com/gpu": 1}}
    first, second = cluster(tmp_path, ("0", "1"), "first"), cluster(tmp_path, ("0", "1"), "second")
    show = "import os, time; print('up', os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(0.5)"
    for found in (first, second):
        found.create(job(show, resources=resources), datetime.now(UTC))
        run(found, until=is_up)
    third = cluster(tmp_path, ("0", "1"), "third")
    third.create(job(show, resources=resources), datetime.now(UTC))
    run(third)
    waiting = next(iter(third.pods.values()))["status"]["conditions"][0]["message"]
    run(first)
    run(third, until=is_up)
    for found in (second, third):
        run(found)

    logs = [file.read_text() for found in (first, second, third) for file in found.folder.pods.glob("*/log")]
    assert waiting == "the pod asks for 1 nvidia.com/gpu, and other pods use them; it starts when they are free"
    assert logs == ["up 0\n", "up 1\n", "up 0\n"]


def test_a_pod_that_cannot_start_gives_its_gpu_back(tmp_path: Path) -> None:
    resources = {"limits": {"nvidia.com/gpu": 1}}
    secret = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    for name, broken in (("first", {"command": ["no-such-program"]}), ("second", {"env": secret})):
        found = cluster(tmp_path, ("0",), name)
        found.create(job("", resources=resources, **broken), datetime.now(UTC))
        run(found)
    good = cluster(tmp_path, ("0",), "good")
    good.create(job("", resources=resources), datetime.now(UTC))
    run(good)

    assert conditions(good, JOB) == {"Complete": "True"}


def test_a_pod_keeps_its_gpu_while_its_container_waits_to_start_again(tmp_path: Path) -> None:
    resources = {"limits": {"nvidia.com/gpu": 1}}
    failing = pytorchjob("exit(1)", policy="OnFailure")
    main = failing["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    main["resources"] = resources
    first, second = cluster(tmp_path, ("0",), "first"), cluster(tmp_path, ("0",), "second")
    first.create(failing, datetime.now(UTC))
    run(first, until=lambda c: "terminated" in str(c.pods) and c.is_quiet())
    second.create(job("", resources=resources), datetime.now(UTC))
    run(second)
    waiting = next(iter(second.pods.values()))["status"]["phase"]
    first.delete(TRAIN, datetime.now(UTC))
    run(first, until=Cluster.is_empty)
    run(second, until=lambda c: next(iter(c.pods.values()))["status"]["phase"] == "Succeeded")

    assert waiting == "Pending"


def test_cpu_that_is_said_while_the_engine_lives_starts_the_pod_that_waits(tmp_path: Path) -> None:
    found = cluster(tmp_path)
    found.create(job("", resources={"limits": {"nvidia.com/gpu": 1}}), datetime.now(UTC))
    run(found)
    found.folder.apply({"metadata": {"name": "demo"}, "spec": {}}, datetime.now(UTC), cpu=True)
    run(found, until=lambda c: next(iter(c.pods.values()))["status"]["phase"] == "Succeeded")

    assert conditions(found, JOB) == {"Complete": "True"}


def test_a_deleted_child_leaves_in_order_after_its_pods(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time; signal.signal(15, lambda *_: (print('saved'), sys.exit(0)))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    found = cluster(tmp_path)
    found.create(job(script), datetime.now(UTC))
    run(found, until=is_up)
    (name,) = found.pods

    found.delete(JOB, datetime.now(UTC))
    found.step(datetime.now(UTC))
    assert "deletionTimestamp" in found.pods[name]["metadata"]
    run(found, until=Cluster.is_empty)

    assert (found.folder.pod(name) / "log").read_text() == "up\nsaved\n"
    assert not list(found.folder.children.iterdir())


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    found = cluster(tmp_path)
    found.create(job(script), datetime.now(UTC))
    run(found, until=is_up)

    found.go_down(datetime.now(UTC))
    run(found)

    (pod,) = found.pods.values()
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Terminated")
    assert pod["status"]["message"] == "The lmops command that ran it on this machine has ended, and stopped it."
    assert [c["type"] for c in pod["status"]["conditions"]] == ["PodScheduled", "DisruptionTarget"]
    assert [code for code, _, _ in ends(found).values()] == [137]


def test_a_pod_gets_the_keys_of_its_secret(tmp_path: Path) -> None:
    Home(tmp_path).keep_secret("default", "hub", {"HF_TOKEN": "sesame"})
    manifest = job("import os; print(os.environ['HF_TOKEN'])", envFrom=[{"secretRef": {"name": "hub"}}])
    found = ran(tmp_path, manifest)

    assert (found.folder.pod(next(iter(found.pods))) / "log").read_text() == "sesame\n"
    assert os.stat(tmp_path / "secrets" / "default" / "hub.json").st_mode & 0o777 == 0o600


def test_a_pod_waits_for_a_secret_that_is_not_there(tmp_path: Path) -> None:
    found = ran(tmp_path, job("", envFrom=[{"secretRef": {"name": "hub"}}]))

    (pod,) = found.pods.values()
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"] == {
        "reason": "CreateContainerConfigError",
        "message": 'secret "hub" not found; apply a Secret of that name together with it',
    }


def test_paths_under_a_mount_are_the_pods_own_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "volumes" / "data").mkdir(parents=True)
    names = {"A": "/scratch/huggingface", "B": "/volumes", "C": "/usr/share", "D": "pvc://data/x", "E": "/"}
    script = "import os; open(os.environ['B'] + '/data/x', 'w'); print([os.environ[n] for n in 'ABCDE'])"
    found = ran(tmp_path, job(script, env=[{"name": n, "value": v} for n, v in names.items()]))

    folder = found.folder.pod(next(iter(found.pods)))
    here = f"{folder}/root"
    assert (
        folder / "log"
    ).read_text() == f"{[here + '/scratch/huggingface', here + '/volumes', '/usr/share', 'pvc://data/x', '/']}\n"
    assert (tmp_path / "volumes" / "data" / "x").exists()
    assert not (folder / "root").exists()


@pytest.mark.parametrize(
    ("word", "told"),
    [("$(PLACE)/a", "here/a"), ("$$(PLACE)", "$(PLACE)"), ("$(ABSENT)", "$(ABSENT)"), ("a$PLACE", "a$PLACE")],
)
def test_a_command_line_is_expanded_as_a_kubelet_does(word: str, told: str) -> None:
    assert expanded(word, {"PLACE": "here"}) == told


def test_what_an_engine_left_when_it_was_killed_is_ended_and_told(tmp_path: Path) -> None:
    killed = cluster(tmp_path)
    script = "import subprocess, time; print('up', subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    killed.create(job(script), datetime.now(UTC))
    run(killed, until=is_up)
    (process,) = (at_work.process.started for at_work in killed.kubelet.running.values())
    log = (killed.folder.pod(next(iter(killed.pods))) / "log").read_text()
    last = datetime.now(UTC) - timedelta(hours=9)
    os.utime(killed.folder.pod(next(iter(killed.pods))) / "log", (last.timestamp(), last.timestamp()))

    found = cluster(tmp_path)
    found.load(datetime.now(UTC))

    (pod,) = found.pods.values()
    assert process.wait(5) != 0
    assert not is_alive(int(log.split()[1]))
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "NodeLost")
    assert list(ends(found).values()) == [(137, "ContainerStatusUnknown", log.strip())]
    (status,) = pod["status"]["containerStatuses"]
    assert status["state"]["terminated"]["finishedAt"] == last.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_what_outlived_a_killed_engine_and_its_own_parent_is_ended_too(tmp_path: Path) -> None:
    killed = cluster(tmp_path)
    script = "import subprocess, time; print('up', subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    killed.create(job(script), datetime.now(UTC))
    run(killed, until=is_up)
    (process,) = (at_work.process.started for at_work in killed.kubelet.running.values())
    process.kill()
    process.wait()

    found = cluster(tmp_path)
    found.load(datetime.now(UTC))

    log = (found.folder.pod(next(iter(found.pods))) / "log").read_text()
    assert not is_alive(int(log.split()[1]))
