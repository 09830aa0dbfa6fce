"""The InferenceService that a service becomes."""

from __future__ import annotations

import json

import pytest

from builders import SETTINGS
from lmops.api import Serving
from lmops.api.reference import ResolvedModel
from lmops.plan import Manifest
from lmops.serving.inferenceservice import inferenceservice, revision_of
from lmops.serving.kept import is_kept
from serving.builders import A, B, after, job, model, service, told


def predictor(**spec: object) -> Manifest:
    """What KServe is told of the pods of such a service."""
    made = inferenceservice(service(**spec), model(A), SETTINGS)  # type: ignore[arg-type]
    found: Manifest = made["spec"]["predictor"]
    return found


def container(**spec: object) -> Manifest:
    """The one container of such a service."""
    (found,) = predictor(**spec)["containers"]
    return found


def env(main: Manifest) -> dict[str, str]:
    """Its variables."""
    return {each["name"]: each["value"] for each in main["env"] if "value" in each}


def test_it_is_a_standard_deployment_with_as_many_replicas_as_were_asked_for():
    made = inferenceservice(service(scaling={"minReplicas": 3}), model(A), SETTINGS)
    metadata, told = made["metadata"], made["spec"]["predictor"]

    assert (made["apiVersion"], made["kind"], metadata["name"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
        "reviews",
    )
    assert metadata["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert metadata["annotations"]["serving.kserve.io/autoscalerClass"] == "none"
    assert [(o["kind"], o["uid"], o["controller"]) for o in metadata["ownerReferences"]] == [
        ("LanguageModelService", "u-3", True)
    ]
    assert (told["minReplicas"], told["maxReplicas"]) == (3, 3)
    assert told["deploymentStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert {"restartPolicy", "scaleMetric"}.isdisjoint(told)


def test_an_autoscaler_is_told_what_to_keep_at_which_target():
    scaling = {"minReplicas": 1, "maxReplicas": 4, "metric": "Memory"}
    made = inferenceservice(service(scaling=scaling), model(A), SETTINGS)

    assert made["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "hpa"
    told = made["spec"]["predictor"]
    assert (told["minReplicas"], told["maxReplicas"], told["scaleMetric"], told["scaleTarget"]) == (1, 4, "memory", 80)


def test_without_room_for_both_an_old_replica_goes_first():
    strategy = predictor(rollout={"surge": 0})["deploymentStrategy"]

    assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize(("seconds", "grace"), [(None, 310), (20, 60)])
def test_a_replica_that_goes_has_the_time_of_its_longest_answer(seconds: int | None, grace: int):
    limits = {"limits": {"timeoutSeconds": seconds}} if seconds else {}

    assert predictor(**limits)["terminationGracePeriodSeconds"] == grace


def test_its_container_runs_our_server_with_one_document():
    main = container(generation={"temperature": 0.0}, model={"from": {"uri": "pvc://a"}, "task": "CausalLM"})

    assert (main["name"], main["image"]) == ("kserve-container", "lmops-server:dev")
    assert main["command"] == ["python", "-m", "lmops_server", "serve"]
    told = Serving.model_validate_json(main["args"][0])
    assert (told.service.name, told.model.uri, told.model.digest, told.model.task) == (
        "reviews",
        model(A).uri,
        A,
        "CausalLM",
    )
    assert told.spec.generation.temperature == 0
    assert main["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert main["securityContext"]["readOnlyRootFilesystem"] is True


def test_it_is_asked_over_http_whether_it_starts_is_ready_and_lives():
    main = container()

    paths = {probe: main[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/v2/health/ready", "readiness": "/v2/health/ready", "liveness": "/v2/health/live"}
    assert [port["containerPort"] for port in main["ports"]] == [8080]


def test_its_pods_tell_prometheus_where_to_ask_and_us_whose_they_are():
    told = predictor(pod={"labels": {"team": "nlp"}, "annotations": {"note": "x"}})

    assert told["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8080",
        "prometheus.io/path": "/metrics",
        "note": "x",
    }
    assert {"team": "nlp", "lmops.dev/job": "reviews", "lmops.dev/stage": "serve"}.items() <= told["labels"].items()


def test_the_models_volume_is_mounted_and_the_hub_is_not_asked():
    told, main = predictor(), container()

    assert {"name": "claim-0", "persistentVolumeClaim": {"claimName": "models"}} in told["volumes"]
    assert {"name": "claim-0", "mountPath": "/volumes/models"} in main["volumeMounts"]
    assert env(main)["HF_HUB_OFFLINE"] == "1"


def test_a_model_of_the_hub_is_fetched_with_the_credentials():
    of_hub = service(model={"from": {"uri": "hf://owner/name"}}, credentials={"secretName": "hub"})
    made = inferenceservice(of_hub, ResolvedModel(uri="hf://owner/name"), SETTINGS)
    (main,) = made["spec"]["predictor"]["containers"]

    assert "HF_HUB_OFFLINE" not in env(main)
    assert main["envFrom"] == [{"secretRef": {"name": "hub"}}]


def test_keys_are_files_of_a_secret():
    told, main = predictor(apiKeys={"secretName": "keys"}), container(apiKeys={"secretName": "keys"})

    assert {"name": "secret-0", "secret": {"secretName": "keys"}} in told["volumes"]
    assert {"name": "secret-0", "mountPath": "/var/run/lmops/api-keys", "readOnly": True} in main["volumeMounts"]
    assert env(main)["LMOPS_API_KEYS"] == "/var/run/lmops/api-keys"
    assert "LMOPS_API_KEYS" not in env(container())


@pytest.mark.parametrize(
    ("share", "limits", "threads"),
    [({"cpu": "2500m", "memory": "4Gi"}, {"cpu": "2500m", "memory": "4Gi"}, "2"), ({"cpu": 4}, {"cpu": "4"}, "4")],
)
def test_a_replica_gets_what_it_asks_for_and_a_thread_a_core(share: Manifest, limits: Manifest, threads: str):
    main = container(resources={"perNode": share})

    assert (main["resources"]["limits"], main["resources"]["requests"]) == (limits, limits)
    assert env(main)["OMP_NUM_THREADS"] == threads


def test_a_replica_that_asks_for_nothing_has_as_many_threads_as_kserve_gives_it_cores():
    (threads,) = [each for each in container()["env"] if each["name"] == "OMP_NUM_THREADS"]

    assert threads["valueFrom"] == {"resourceFieldRef": {"resource": "limits.cpu"}}


def test_accelerators_are_asked_for_by_name():
    main = container(resources={"accelerator": {"perNode": 2}})

    assert main["resources"]["limits"] == {"nvidia.com/gpu": "2"}


@pytest.mark.parametrize(
    ("change", "replaces"),
    [
        ({"scaling": {"minReplicas": 4}}, False),
        ({"rollout": {"strategy": "Manual", "surge": 0}}, False),
        ({"engine": "ONNX"}, True),
        ({"limits": {"queue": 8}}, True),
        ({"resources": {"perNode": {"memory": "1Gi"}}}, True),
        ({"apiKeys": {"secretName": "keys"}}, True),
    ],
)
def test_only_what_changes_a_replica_replaces_replicas(change: Manifest, replaces: bool):
    before, after = (inferenceservice(of, model(A), SETTINGS) for of in (service(), service(**change)))

    assert (revision_of(before) != revision_of(after)) is replaces
    assert not is_kept(after, before)


def test_another_model_is_another_revision_and_a_pin_of_the_same_is_not():
    pinned = service(model={"from": {"quantizeJob": {"name": "small"}}, "digest": A})
    plain, other, pin = (
        revision_of(inferenceservice(of, which, SETTINGS))
        for of, which in ((service(), model(A)), (service(), model(B)), (pinned, model(A)))
    )

    assert (plain != other, plain == pin) == (True, True)


def test_what_a_webhook_adds_is_no_difference():
    wanted = inferenceservice(service(), model(A), SETTINGS)
    found = json.loads(json.dumps(wanted))
    found["spec"]["predictor"]["containers"][0]["resources"]["limits"]["memory"] = "2Gi"
    found["spec"]["predictor"]["automountServiceAccountToken"] = False
    assert is_kept(wanted, found)

    found["spec"]["predictor"]["containers"][0]["image"] = "other"
    assert not is_kept(wanted, found)


def test_what_is_asked_is_kept_on_a_volume_that_the_pod_has():
    log = {"uri": "pvc://logs/reviews", "fraction": 0.5, "redact": ["ACCT-[0-9]+"]}
    made = predictor(requestLog=log)

    claims = [v["persistentVolumeClaim"]["claimName"] for v in made["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ["logs", "models"]
    document = json.loads(made["containers"][0]["args"][0])
    assert document["spec"]["requestLog"] == log | {"maxBytes": 2**30}


def test_a_pattern_that_could_not_be_found_is_refused_before_anything_is_served():
    plan = after(service(requestLog={"uri": "pvc://logs/reviews", "redact": ["fine", "("]}), job(A))

    assert (plan.apply, plan.status.phase) == ((), "Failed")
    assert told(plan, "Accepted")[:2] == ("False", "PatternUnreadable")
    assert told(plan, "Accepted")[2].startswith("requestLog.redact[1] is no regular expression: ")
