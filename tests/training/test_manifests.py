"""What a job wants created is what Kubernetes and Kubeflow accept, to the last field."""

from __future__ import annotations

import copy
import json
from typing import Any

import kubernetes_validate
import pytest

import schemas
from builders import SETTINGS, manifest, trainingjob
from lmops.api.pod import PodSettings
from lmops.api.status import Stage
from lmops.plan import Manifest
from lmops.settings import Defaults, Settings
from lmops.training.work import STAGES

POD: dict[str, Any] = {
    "labels": {"team": "nlp"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "nodeSelector": {"gpu": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 10,
                    "podAffinityTerm": {
                        "labelSelector": {"matchLabels": {"team": "nlp"}},
                        "topologyKey": "kubernetes.io/hostname",
                    },
                }
            ]
        },
    },
    "serviceAccountName": "trainer",
    "imagePullSecrets": ["registry"],
    "priorityClassName": "low",
    "runtimeClassName": "nvidia",
    "env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "TMPDIR", "value": "/scratch/tmp"}],
}
OWN: dict[str, Any] = {
    "model": None,
    "dataset": None,
    "trainer": {
        "image": "registry.example/t:1",
        "command": ["torchrun", "train.py", "--data", "$(LMOPS_VOLUMES)/corpus"],
        "volumes": ["corpus"],
    },
    "resources": {"nodes": 2, "accelerator": {"perNode": 8}},
}
SECURE = Settings(progress_url="https://lmops-progress.lmops.svc:8443", progress_ca="-----BEGIN CERTIFICATE-----")
SPECS: dict[str, dict[str, Any]] = {
    "one node": {},
    "two nodes": {"resources": {"nodes": 2, "processesPerNode": 2}},
    "accelerators": {"resources": {"accelerator": {"name": "amd.com/gpu", "perNode": 4}}},
    "credentials": {"credentials": {"secretName": "hub"}},
    "hub": {
        "model": {"from": {"uri": "hf://google/bert-tiny@main"}, "task": "SequenceClassification"},
        "dataset": {"train": {"uri": "hf://nyu-mll/glue", "config": "rte"}},
    },
    "limits": {"resources": {"perNode": {"cpu": "1500m", "memory": "4Gi"}}},
    "numbers as limits": {"resources": {"perNode": {"cpu": 2, "memory": 4294967296}}},
    "workspace": {"workspace": {"uri": "pvc://work/a"}},
    "queue": {"queueName": "gpu"},
    "two nodes in a queue": {"queueName": "gpu", "resources": {"nodes": 2}},
    "placement": {"pod": POD},
    "a trainer of the user's own": OWN,
}


def pod_spec(child: Manifest) -> Manifest:
    """The pods of a child."""
    if child["kind"] == "Job":
        found: Manifest = child["spec"]["template"]["spec"]
        return found
    (replicas,) = child["spec"]["pytorchReplicaSpecs"].values()
    spec: Manifest = replicas["template"]["spec"]
    return spec


def environment(child: Manifest) -> dict[str, str]:
    """The variables that a child's pods get."""
    return {variable["name"]: variable["value"] for variable in pod_spec(child)["containers"][0]["env"]}


@pytest.mark.parametrize(
    "settings", [SETTINGS, Settings(user=None), SECURE], ids=["own user", "assigned user", "https"]
)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_is_wanted_is_what_an_api_server_takes(spec: dict[str, Any], stage: Stage, settings: Settings) -> None:
    schemas.check(manifest(trainingjob(**spec), stage, 1, settings))


def test_a_misspelt_field_of_a_job_is_refused() -> None:
    broken = copy.deepcopy(manifest(trainingjob(), "prepare", 0, SETTINGS))
    broken["spec"]["backofLimit"] = broken["spec"].pop("backoffLimit")

    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        schemas.check(broken)


@pytest.mark.parametrize(
    ("section", "field", "misspelt"),
    [
        (("spec",), "nprocPerNode", "nProcPerNode"),
        (("spec", "elasticPolicy"), "rdzvBackend", "rendezvousBackend"),
        (("spec", "pytorchReplicaSpecs", "Worker", "template"), "spec", "sepc"),
        (("spec", "pytorchReplicaSpecs", "Worker"), "replicas", "replica"),
        (("spec", "pytorchReplicaSpecs", "Worker", "template", "spec"), "volumes", "volume"),
    ],
)
def test_a_misspelt_field_of_a_pytorchjob_is_refused(section: tuple[str, ...], field: str, misspelt: str) -> None:
    broken = copy.deepcopy(manifest(trainingjob(resources={"nodes": 2}), "train", 0, SETTINGS))
    place = broken
    for step in section:
        place = place[step]
    place[misspelt] = place.pop(field)

    with pytest.raises((AssertionError, kubernetes_validate.ValidationError), match=f"'{misspelt}'"):
        schemas.check(broken)


def test_a_value_of_a_wrong_type_is_refused() -> None:
    broken = copy.deepcopy(manifest(trainingjob(), "train", 0, SETTINGS))
    broken["spec"]["nprocPerNode"] = 1

    with pytest.raises(AssertionError, match="1 is not of type 'string'"):
        schemas.check(broken)


def test_a_run_on_two_nodes_in_full() -> None:
    job = trainingjob(
        resources={
            "nodes": 2,
            "accelerator": {"perNode": 4},
            "perNode": {"cpu": "8", "memory": "64Gi"},
        },
        credentials={"secretName": "hub"},
    )
    child = manifest(job, "train", 1, SETTINGS)
    (argument,) = pod_spec(child)["containers"][0].pop("args")

    labels = {
        "lmops.dev/kind": "TrainingJob",
        "lmops.dev/job": "reviews",
        "lmops.dev/run": "reviews-train-a1",
        "lmops.dev/stage": "train",
        "lmops.dev/attempt": "1",
    }
    variables = {
        "USER": "lmops",
        "LMOPS_VOLUMES": "/volumes",
        "LMOPS_SCRATCH": "/scratch",
        "HOME": "/scratch",
        "TMPDIR": "/scratch",
        "HF_HOME": "/scratch/huggingface",
        "XDG_CACHE_HOME": "/scratch/cache",
        "MPLCONFIGDIR": "/scratch/matplotlib",
        "TORCHINDUCTOR_CACHE_DIR": "/scratch/inductor",
        "TRITON_CACHE_DIR": "/scratch/triton",
        "HF_HUB_OFFLINE": "1",
        "DISABLE_KUBEFLOW_INTEGRATION": "TRUE",
        "KUBEFLOW_TRAINER_SERVER_URL": (
            "http://127.0.0.1:9000/namespaces/default/trainingjobs/reviews/runs/reviews-train-a1"
        ),
        "OMP_NUM_THREADS": "2",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "50",
    }
    assert child == {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": "reviews-train-a1",
            "namespace": "default",
            "labels": labels,
            "ownerReferences": [
                {
                    "apiVersion": "lmops.dev/v1alpha1",
                    "kind": "TrainingJob",
                    "name": "reviews",
                    "uid": "u-1",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "nprocPerNode": "4",
            "runPolicy": {"cleanPodPolicy": "None"},
            "elasticPolicy": {
                "rdzvBackend": "c10d",
                "rdzvId": "u-1-reviews-train-a1",
                "minReplicas": 2,
                "maxReplicas": 2,
                "maxRestarts": 3,
            },
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": 2,
                    "restartPolicy": "Never",
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "restartPolicy": "Never",
                            "automountServiceAccountToken": False,
                            "terminationGracePeriodSeconds": 60,
                            "securityContext": {
                                "runAsNonRoot": True,
                                "seccompProfile": {"type": "RuntimeDefault"},
                                "runAsUser": 1000,
                                "runAsGroup": 1000,
                                "fsGroup": 1000,
                                "fsGroupChangePolicy": "OnRootMismatch",
                            },
                            "containers": [
                                {
                                    "name": "pytorch",
                                    "image": "lmops-trainer:dev",
                                    "command": ["python", "-m", "lmops_trainer", "train"],
                                    "env": [{"name": name, "value": value} for name, value in variables.items()],
                                    "envFrom": [{"secretRef": {"name": "hub"}}],
                                    "resources": {
                                        "limits": {"memory": "64Gi", "nvidia.com/gpu": "4"},
                                        "requests": {"memory": "64Gi", "nvidia.com/gpu": "4", "cpu": "8"},
                                    },
                                    "volumeMounts": [
                                        {"name": "scratch", "mountPath": "/scratch"},
                                        {"name": "shared-memory", "mountPath": "/dev/shm"},
                                        {"name": "claim-0", "mountPath": "/volumes/data"},
                                        {"name": "claim-1", "mountPath": "/volumes/models"},
                                    ],
                                    "terminationMessagePolicy": "FallbackToLogsOnError",
                                    "securityContext": {
                                        "allowPrivilegeEscalation": False,
                                        "capabilities": {"drop": ["ALL"]},
                                        "readOnlyRootFilesystem": True,
                                    },
                                }
                            ],
                            "volumes": [
                                {"name": "scratch", "emptyDir": {"sizeLimit": "20Gi"}},
                                {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
                                {"name": "claim-0", "persistentVolumeClaim": {"claimName": "data"}},
                                {"name": "claim-1", "persistentVolumeClaim": {"claimName": "models"}},
                            ],
                        },
                    },
                }
            },
        },
    }
    assert json.loads(argument) == {
        "spec": job.spec.manifest(),
        "run": {"job": "reviews", "uid": "u-1", "stage": "train", "attempt": 1},
        "resolved": {},
    }


def test_a_single_node_is_a_master_without_a_rendezvous() -> None:
    spec = manifest(trainingjob(), "train", 0, SETTINGS)["spec"]

    assert list(spec["pytorchReplicaSpecs"]) == ["Master"]
    assert (spec["pytorchReplicaSpecs"]["Master"]["replicas"], spec["nprocPerNode"]) == (1, "1")
    assert "elasticPolicy" not in spec


@pytest.mark.parametrize("settings", [SETTINGS, Settings(user=None)], ids=["own user", "assigned user"])
@pytest.mark.parametrize("stage", STAGES)
def test_pods_meet_the_restricted_standard(stage: Stage, settings: Settings) -> None:
    pod = pod_spec(manifest(trainingjob(), stage, 0, settings))
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod)
    assert {source for volume in pod["volumes"] for source in volume} == {"name", "emptyDir", "persistentVolumeClaim"}


@pytest.mark.parametrize("stage", STAGES)
def test_pods_may_write_where_their_caches_lie(stage: Stage) -> None:
    child = manifest(trainingjob(), stage, 0, SETTINGS)
    caches = {name: place for name, place in environment(child).items() if name in ("HOME", "TMPDIR", "HF_HOME")}

    assert caches == {"HOME": "/scratch", "TMPDIR": "/scratch", "HF_HOME": "/scratch/huggingface"}


@pytest.mark.parametrize(
    ("stage", "limits"),
    [
        ("prepare", {"memory": "64Gi"}),
        ("train", {"memory": "64Gi", "nvidia.com/gpu": "4"}),
        ("evaluate", {"memory": "64Gi", "nvidia.com/gpu": "1"}),
    ],
)
def test_a_stage_asks_for_the_accelerators_that_it_uses(stage: Stage, limits: dict[str, str]) -> None:
    job = trainingjob(resources={"accelerator": {"perNode": 4}, "perNode": {"memory": "64Gi"}})
    (container,) = pod_spec(manifest(job, stage, 0, SETTINGS))["containers"]

    assert container["resources"] == {"limits": limits, "requests": limits}


@pytest.mark.parametrize(
    ("name", "offline"), [("one node", True), ("hub", False)], ids=["volumes alone", "names the hub"]
)
def test_a_job_that_names_no_hub_is_offline(name: str, offline: bool) -> None:
    child = manifest(trainingjob(**SPECS[name]), "prepare", 0, SETTINGS)

    assert ("HF_HUB_OFFLINE" in environment(child)) is offline


def test_without_an_endpoint_no_progress_is_posted() -> None:
    child = manifest(trainingjob(), "train", 0, Settings())

    assert "KUBEFLOW_TRAINER_SERVER_URL" not in environment(child)


@pytest.mark.parametrize("stage", STAGES)
def test_to_an_https_endpoint_pods_bring_a_token_and_whom_they_trust(stage: Stage) -> None:
    job = trainingjob(pod={"annotations": {"team": "nlp"}})
    child = manifest(job, stage, 0, SECURE)
    plain, pod = pod_spec(manifest(job, stage, 0, SETTINGS)), pod_spec(child)
    template = (
        child["spec"]["template"] if stage != "train" else child["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    )

    assert template["metadata"]["annotations"] == {"team": "nlp", "lmops.dev/progress-ca": SECURE.progress_ca}
    assert pod["volumes"] == [
        *plain["volumes"],
        {
            "name": "progress",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"audience": "lmops.dev", "expirationSeconds": 3600, "path": "token"}},
                    {
                        "downwardAPI": {
                            "items": [
                                {
                                    "path": "ca.crt",
                                    "fieldRef": {"fieldPath": "metadata.annotations['lmops.dev/progress-ca']"},
                                }
                            ]
                        }
                    },
                ]
            },
        },
    ]
    assert pod["containers"][0]["volumeMounts"] == [
        *plain["containers"][0]["volumeMounts"],
        {"name": "progress", "mountPath": "/var/run/lmops", "readOnly": True},
    ]
    assert {k: v for k, v in environment(child).items() if k.startswith("KUBEFLOW")} == {
        "KUBEFLOW_TRAINER_SERVER_URL": f"{SECURE.progress_url}/namespaces/default/trainingjobs/reviews/runs/"
        + child["metadata"]["name"],
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": "/var/run/lmops/ca.crt",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": "/var/run/lmops/token",
    }


def test_an_https_endpoint_that_pods_could_not_trust_is_not_told_to_them() -> None:
    child = manifest(trainingjob(), "train", 0, SECURE.model_copy(update={"progress_ca": ""}))

    assert not [name for name in environment(child) if name.startswith("KUBEFLOW")]


def test_the_parents_own_labels_are_not_copied() -> None:
    job = trainingjob()
    tracked = job.metadata.model_copy(update={"labels": {"argocd.argoproj.io/instance": "x"}})
    child = manifest(job.model_copy(update={"metadata": tracked}), "prepare", 0, SETTINGS)

    assert {key.partition("/")[0] for key in child["metadata"]["labels"]} == {"lmops.dev"}


def test_pods_run_where_the_job_says_and_carry_what_it_says() -> None:
    child = manifest(trainingjob(pod=POD), "train", 0, SETTINGS)
    (replicas,) = child["spec"]["pytorchReplicaSpecs"].values()
    metadata, spec = replicas["template"]["metadata"], replicas["template"]["spec"]

    assert metadata["labels"]["team"] == "nlp"
    assert metadata["annotations"] == POD["annotations"]
    placed = ("nodeSelector", "tolerations", "serviceAccountName", "priorityClassName", "runtimeClassName")
    assert {name: spec[name] for name in placed} == {name: POD[name] for name in placed}
    assert spec["affinity"]["nodeAffinity"] == {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}], "matchFields": []}
            ]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [],
    }
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert (environment(child)["NCCL_DEBUG"], environment(child)["TMPDIR"]) == ("INFO", "/scratch/tmp")
    assert spec["automountServiceAccountToken"] is False


def test_a_label_of_the_users_never_takes_the_place_of_ours() -> None:
    pod = {"labels": {"team": "nlp"}}
    settings = Settings(defaults=Defaults(pod=PodSettings(labels={"lmops.dev/run": "other"})))
    (replicas,) = manifest(trainingjob(pod=pod), "train", 0, settings)["spec"]["pytorchReplicaSpecs"].values()

    assert replicas["template"]["metadata"]["labels"]["lmops.dev/run"] == "reviews-train-a0"


DEFAULTS = Settings(
    defaults=Defaults.model_validate(
        {
            "pod": {
                "labels": {"team": "platform", "cost": "a"},
                "tolerations": [{"key": "spot", "operator": "Exists"}],
                "priorityClassName": "normal",
                "imagePullSecrets": ["mirror", "registry"],
                "env": [{"name": "NCCL_DEBUG", "value": "WARN"}, {"name": "HTTPS_PROXY", "value": "proxy:3128"}],
            },
            "credentials": {"secretName": "hub"},
            "accelerator": "amd.com/gpu",
        }
    )
)


def test_what_a_job_does_not_say_the_platform_does() -> None:
    job = trainingjob(resources={"accelerator": {"perNode": 2}})
    spec = pod_spec(manifest(job, "train", 0, DEFAULTS))

    assert spec["priorityClassName"] == "normal"
    assert spec["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "hub"}}]
    assert spec["containers"][0]["resources"]["limits"] == {"amd.com/gpu": "2"}


def test_what_a_job_says_goes_before_what_the_platform_does() -> None:
    child = manifest(trainingjob(pod=POD, credentials={"secretName": "own"}), "train", 0, DEFAULTS)
    spec = pod_spec(child)

    assert spec["priorityClassName"] == "low"
    assert spec["tolerations"] == [{"key": "spot", "operator": "Exists"}, *POD["tolerations"]]
    assert spec["imagePullSecrets"] == [{"name": "mirror"}, {"name": "registry"}]
    assert (environment(child)["NCCL_DEBUG"], environment(child)["HTTPS_PROXY"]) == ("INFO", "proxy:3128")
    assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "own"}}]


def test_a_trainer_of_the_users_own_runs_with_torchruns_variables_and_reports_by_itself() -> None:
    child = manifest(trainingjob(**OWN), "train", 0, SETTINGS)
    spec = pod_spec(child)
    (container,) = spec["containers"]

    assert (container["image"], container["command"]) == (OWN["trainer"]["image"], OWN["trainer"]["command"])
    assert "args" not in container
    assert "DISABLE_KUBEFLOW_INTEGRATION" not in environment(child)
    assert environment(child)["LMOPS_OUTPUT"] == "/volumes/models/reviews"
    assert environment(child)["LMOPS_CHECKPOINTS"] == "/volumes/models/reviews/.lmops/jobs/u-1/checkpoints"
    assert container["securityContext"]["readOnlyRootFilesystem"] is False
    assert [mount["mountPath"] for mount in container["volumeMounts"]][2:] == ["/volumes/corpus", "/volumes/models"]
    assert child["spec"]["elasticPolicy"]["minReplicas"] == 2
