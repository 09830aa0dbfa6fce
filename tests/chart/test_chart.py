"""The chart: what it renders is what the operator needs, and no more."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic.alias_generators import to_camel

import helm
from lmops import __version__
from lmops.api import crd
from lmops.cluster import RESOURCES
from lmops.kinds import KINDS
from lmops.settings import Settings, read
from schemas import check

ROOT = Path(__file__).parents[2]
VALUES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "two replicas": {"replicaCount": 2, "priorityClassName": "system-cluster-critical"},
    "two namespaces": {"watchNamespaces": ["a", "b"]},
    "nothing of the cluster": {
        "watchNamespaces": ["a"],
        "crds": {"enabled": False},
        "rbac": {"aggregate": False},
    },
    "OpenShift": {"openshift": True},
    "everything": {
        "images": {"registry": "registry.example.com/ai", "pullSecrets": ["pull"], "pullPolicy": "Always"},
        "replicaCount": 2,
        "settings": {"scratch": "50Gi", "graceSeconds": 120, "resyncSeconds": 600},
        "log": {"format": "JSON", "verbose": True},
        "crds": {"keep": False},
        "metrics": {"annotations": False, "monitor": False, "alerts": False},
        "serviceAccount": {"annotations": {"example.com/role": "lmops"}},
        "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
        }}},
        "labels": {"team": "models"},
        "podLabels": {"sidecar": "none"},
        "podAnnotations": {"example.com/checked": "yes"},
    },
}  # fmt: skip
"""Values that a platform team may set, by what they are for."""

Rights = set[tuple[str, str, str, str]]
"""(API group, resource, the object's name or nothing, verb)."""


@pytest.fixture(params=VALUES, scope="module")
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What the chart makes of each set of values."""
    return helm.rendered(VALUES[request.param])


def of(manifests: list[dict[str, Any]], kind: str, name: str = "") -> list[dict[str, Any]]:
    return [m for m in manifests if m["kind"] == kind and name in ("", m["metadata"]["name"])]


def deployment(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = of(manifests, "Deployment")
    return found["spec"]


def settings(manifests: list[dict[str, Any]], folder: Path) -> Settings:
    """What the operator reads of the ConfigMap."""
    (found,) = of(manifests, "ConfigMap")
    (folder / "settings.yaml").write_text(found["data"]["settings.yaml"])
    return read(str(folder / "settings.yaml"))


def rights(manifests: list[dict[str, Any]], kind: str, name: str) -> Rights:
    (role,) = of(manifests, kind, name)
    return {
        (group, resource, only, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for only in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def asked(kinds: dict[str, str], name: str = "") -> Rights:
    """The rights to these verbs on these kinds."""
    return {
        (RESOURCES[kind].group_version[0], RESOURCES[kind].plural, name, verb)
        for kind, verbs in kinds.items()
        for verb in verbs.split()
    }


RUN = ("TrainingJob", "QuantizeJob")
"""The kinds whose children are created once, and deleted."""
JOBS = {
    **dict.fromkeys(KINDS, "get list watch"),
    **{child: "get list watch create delete" for kind in RUN for child in KINDS[kind].children},
    **dict.fromkeys(set(KINDS["LanguageModelService"].children) - {"Job"}, "get list watch create patch"),
    # a candidate goes once it is judged, and what led to a service once it is to lead there no more
    **dict.fromkeys(("InferenceService", "Ingress", "HTTPRoute"), "get list watch create patch delete"),
    "Pod": "get list watch",
    "PersistentVolumeClaim": "get",
    "Event": "create list",
}
"""What the operator does with the kinds of a job."""
OWN = {"Lease": "lmops-operator", "Secret": "lmops-progress-tls"}
"""What it has for itself, and under which names."""
ON_JOBS = (
    asked(JOBS)
    | {("kueue.x-k8s.io", "localqueues", "", "get")}
    | {
        ("lmops.dev", f"{RESOURCES[kind].plural}/{part}", "", verb)
        for kind in KINDS
        for part, verb in (("status", "patch"), ("finalizers", "update"))
    }
)
ON_OWN = {right for kind, name in OWN.items() for right in asked({kind: "get update"}, name) | asked({kind: "create"})}


def test_helm_finds_nothing_to_say_about_the_chart():
    done = helm.run("lint", "--strict", str(helm.CHART))

    assert done.returncode == 0, done.stdout


def test_an_api_server_would_take_all_of_it(manifests: list[dict[str, Any]]):
    for manifest in manifests:
        check(manifest)


def test_everything_stands_in_the_namespace_of_the_release_and_carries_its_labels(manifests: list[dict[str, Any]]):
    cluster = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    for manifest in manifests:
        metadata = manifest["metadata"]
        assert metadata["labels"]["app.kubernetes.io/instance"] == "lmops"
        assert ("namespace" in metadata) == (manifest["kind"] not in cluster)


def test_one_who_may_not_touch_the_cluster_can_install_it():
    kinds = {manifest["kind"] for manifest in helm.rendered(VALUES["nothing of the cluster"])}

    assert kinds == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Service", "Deployment"}


def test_the_crds_are_those_of_the_types():
    for keep in (True, False):
        made = of(helm.rendered({"crds": {"keep": keep}}), "CustomResourceDefinition")
        for found in made:
            del found["metadata"]["labels"]
            assert found["metadata"].pop("annotations", {}) == ({"helm.sh/resource-policy": "keep"} if keep else {})
        assert {each["metadata"]["name"]: each for each in made} == {
            each["metadata"]["name"]: each for each in map(crd.crd, crd.KINDS)
        }


def test_every_kind_that_the_operator_knows_has_its_rights():
    assert set(RESOURCES) == {*JOBS, *OWN, "TokenReview"}


def test_the_operator_may_do_what_it_does_and_no_more():
    manifests = helm.rendered()
    cluster = {("apiextensions.k8s.io", "customresourcedefinitions", "", verb) for verb in ("list", "watch")}

    assert rights(manifests, "ClusterRole", "lmops-operator") == ON_JOBS | asked({"TokenReview": "create"}) | cluster
    assert rights(manifests, "Role", "lmops-operator") == ON_OWN


def test_an_operator_of_some_namespaces_has_rights_in_these_alone():
    manifests = helm.rendered({"watchNamespaces": ["a", "b"], "rbac": {"aggregate": False}})
    roles = of(manifests, "Role", "lmops-operator-jobs")

    assert [role["metadata"]["namespace"] for role in roles] == ["a", "b"]
    assert [rights([role], "Role", "lmops-operator-jobs") for role in roles] == [ON_JOBS, ON_JOBS]
    assert rights(manifests, "Role", "lmops-operator") == ON_OWN
    assert of(manifests, "ClusterRole") == of(manifests, "ClusterRoleBinding") == []


def test_who_may_edit_in_a_namespace_may_make_jobs_there_and_who_may_view_sees_them():
    manifests = helm.rendered()
    plurals = [kind.plural for kind in crd.KINDS]

    assert rights(manifests, "ClusterRole", "lmops-edit") == {
        ("lmops.dev", plural, "", verb)
        for plural in plurals
        for verb in ("create", "update", "patch", "delete", "deletecollection")
    }
    assert rights(manifests, "ClusterRole", "lmops-view") == {
        ("lmops.dev", plural + part, "", verb)
        for plural in plurals
        for part in ("", "/status")
        for verb in ("get", "list", "watch")
    }


def test_the_operators_pod_is_restricted(manifests: list[dict[str, Any]]):
    pod = deployment(manifests)["template"]["spec"]
    (container,) = pod["containers"]

    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "shareProcessNamespace"} & set(pod)
    assert [set(volume) - {"name"} for volume in pod["volumes"]] == [{"configMap"}]
    assert "limits" in container["resources"]
    assert {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")} == {
        "startupProbe": {"path": "/healthz", "port": "http"},
        "livenessProbe": {"path": "/healthz", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }


def test_the_services_lead_to_the_operators_pods(manifests: list[dict[str, Any]]):
    spec = deployment(manifests)
    (container,) = spec["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    services = {service["metadata"]["name"]: service["spec"] for service in of(manifests, "Service")}

    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert {name: [(p["port"], ports[p["targetPort"]]) for p in s["ports"]] for name, s in services.items()} == {
        "lmops-progress": [(8443, 8443)],
        "lmops-metrics": [(8080, 8080)],
    }
    for selector in (service["selector"] for service in services.values()):
        assert selector == spec["selector"]["matchLabels"]


def test_the_operator_reads_the_settings_that_the_values_name(tmp_path: Path):
    assert settings(helm.rendered(VALUES["everything"]), tmp_path) == Settings(
        trainer_image="registry.example.com/ai/lmops-trainer:0.1.0",
        compressor_image="registry.example.com/ai/lmops-compressor:0.1.0",
        server_image="registry.example.com/ai/lmops-server:0.1.0",
        vllm_image="registry.example.com/ai/vllm/vllm-openai:v0.32.0",
        namespace="lmops",
        scratch="50Gi",
        grace_seconds=120,
        resync_seconds=600,
    )
    assert settings(helm.rendered(VALUES["two namespaces"]), tmp_path).namespaces == ("a", "b")


def test_each_setting_is_a_value_or_made_by_the_chart():
    schema = yaml.safe_load((helm.CHART / "values.schema.json").read_text())
    (found,) = of(helm.rendered(), "ConfigMap")
    made, values = (
        set(yaml.safe_load(found["data"]["settings.yaml"])),
        set(schema["properties"]["settings"]["properties"]),
    )

    assert made & values == set()
    assert made | values | {"port", "progressPort", "progressService"} == {
        to_camel(name) for name in Settings.model_fields
    }


def test_vllm_can_be_left_out_and_has_to_be_named_with_its_tag(tmp_path: Path):
    assert settings(helm.rendered({"images": {"vllm": ""}}), tmp_path).vllm_image == ""
    schema = yaml.safe_load((helm.CHART / "values.schema.json").read_text())["properties"]["images"]["properties"]
    for image in ("vllm/vllm-openai", "registry.example.com:5000/vllm-openai"):  # this chart's version is not its tag
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(image, schema["vllm"])


def test_on_openshift_no_pod_asks_for_a_user_id(tmp_path: Path):
    assert settings(helm.rendered(VALUES["OpenShift"]), tmp_path).user is None
    assert settings(helm.rendered(), tmp_path).user == 1000


def test_other_settings_are_other_pods():
    def annotations(**values: Any) -> dict[str, str]:
        return deployment(helm.rendered(values))["template"]["metadata"]["annotations"]

    assert annotations(settings={"scratch": "1Gi"}) != annotations(settings={"scratch": "2Gi"})
    assert annotations(settings={"scratch": "1Gi"}) == annotations(settings={"scratch": "1Gi"}, replicaCount=2)


@pytest.mark.parametrize(
    ("registry", "name", "image"),
    [
        ("", "lmops-operator", "lmops-operator:0.1.0"),
        ("", "example.com:5000/ai/operator", "example.com:5000/ai/operator:0.1.0"),
        ("", "operator:1", "operator:1"),
        ("example.com:5000/ai/", "operator", "example.com:5000/ai/operator:0.1.0"),
        ("example.com", f"operator@sha256:{'a' * 64}", f"example.com/operator@sha256:{'a' * 64}"),
    ],
)
def test_an_image_has_the_charts_version_unless_it_says_another(registry: str, name: str, image: str):
    manifests = helm.rendered({"images": {"registry": registry, "operator": name}})

    assert deployment(manifests)["template"]["spec"]["containers"][0]["image"] == image


def test_two_replicas_do_not_go_away_together():
    manifests = helm.rendered(VALUES["two replicas"])
    spec = deployment(manifests)
    (budget,) = of(manifests, "PodDisruptionBudget")

    assert (spec["replicas"], budget["spec"]["maxUnavailable"]) == (2, 1)
    assert budget["spec"]["selector"] == spec["selector"]
    assert [s["topologyKey"] for s in spec["template"]["spec"]["topologySpreadConstraints"]] == [
        "kubernetes.io/hostname"
    ]
    assert of(helm.rendered(), "PodDisruptionBudget") == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"replicas": 2}, "additional properties 'replicas' not allowed"),
        ({"image": {"operator": "x"}}, "additional properties 'image' not allowed"),
        ({"images": {"operater": "x"}}, "at '/images': additional properties 'operater' not allowed"),
        ({"settings": {"scrach": "1Gi"}}, "at '/settings': additional properties 'scrach' not allowed"),
        ({"settings": {"graceSeconds": "60"}}, "at '/settings/graceSeconds': got string, want integer"),
        ({"settings": {"trainerImage": "x"}}, "at '/settings': additional properties 'trainerImage' not allowed"),
        ({"replicaCount": 0}, "at '/replicaCount': minimum: got 0, want 1"),
        ({"watchNamespaces": "a"}, "at '/watchNamespaces': got string, want array"),
        ({"log": {"format": "json"}}, "at '/log/format': value must be one of 'Text', 'JSON'"),
    ],
)
def test_a_value_that_is_none_is_told(values: dict[str, Any], sentence: str):
    done = helm.run("template", "lmops", str(helm.CHART), values=values)

    assert done.returncode == 1
    assert sentence in done.stderr


def test_every_value_is_in_the_schema_and_is_explained():
    text = (helm.CHART / "values.yaml").read_text()
    schema = yaml.safe_load((helm.CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)

    for above, line in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        name = line.strip().partition(":")[0]
        is_value = line.strip() and not line.strip().startswith("#") and name not in ("requests", "limits")
        holds_others = line.endswith(":")
        assert not is_value or holds_others or above.strip().startswith("#"), f"{name} has no comment"
    assert set(yaml.safe_load(text)) == set(schema["properties"]) - {"global"}


def test_what_the_chart_says_afterwards_names_its_namespace():
    done = helm.run("install", "lmops", str(helm.CHART), "--namespace", "ml", "--dry-run=client", "--hide-secret")

    assert "kubectl -n ml rollout status deployment/lmops-operator" in done.stdout
    assert "does not install Kubeflow's training operator" in done.stdout


def test_the_package_the_code_and_the_chart_are_of_one_version() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert {package, __version__, chart()["version"], chart()["appVersion"]} == {package}


def chart() -> dict[str, Any]:
    """What the chart says of itself."""
    found: dict[str, Any] = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())
    return found
