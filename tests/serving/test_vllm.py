"""vLLM as an engine: what it is started with, what it is not asked for, and what it tells under the names of ours."""

from __future__ import annotations

import json
import math
import re
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import prometheus
import schemas
from builders import NOON, SETTINGS
from lmops.api import LanguageModelService
from lmops.api.reference import ResolvedModel
from lmops.api.slo import DURATION_BUCKETS
from lmops.kinds import KINDS
from lmops.plan import Manifest, Observed, Plan
from lmops.serving.inferenceservice import ENGINE, UNSEEN, candidate, inferenceservice
from lmops.serving.monitoring import configmap, monitors, podmonitor, prometheusrule
from lmops.serving.vllm import UNTOLD, differs
from lmops.serving.vllmtraffic import Told, stats
from serving.builders import A, after, child, holds, job, model, pod, service, serving, told

TOLD = (Path(__file__).parent / "vllm-0.32.metrics").read_text()
"""What vLLM 0.32 told of itself after some requests, four of them refused; without families that nobody looks at."""
GPU: dict[str, Any] = {"resources": {"accelerator": {"perNode": 1}}}
VLLM: dict[str, Any] = {"engine": "VLLM", **GPU}
TRAINED: dict[str, Any] = {"model": {"from": {"trainingJob": {"name": "gpt2"}}}}
KEYS = {"apiKeys": {"secretName": "keys"}}


def trained(task: str = "CausalLM") -> Manifest:
    """A TrainingJob that has published a model of this task."""
    return {**job(A, "gpt2"), "kind": "TrainingJob", "spec": {"model": {"task": task}}}


def written(of: LanguageModelService, source: Manifest, **settings: Any) -> Plan[Any]:
    """What the operator would do with a service that follows this TrainingJob."""
    observed = Observed(sources=(source,), absent=frozenset(KINDS["LanguageModelService"].children))
    chosen = SETTINGS.model_copy(update=settings)
    return KINDS["LanguageModelService"].reconcile(of, observed, NOON, chosen)


def container(uri: str = "pvc://models/gpt2", **spec: Any) -> Manifest:
    """The one container of a service that vLLM serves."""
    made = inferenceservice(service(**VLLM | spec), ResolvedModel(uri=uri), SETTINGS)
    (found,) = made["spec"]["predictor"]["containers"]
    return found


def flags(main: Manifest) -> dict[str, str]:
    """Its command line, as Kubernetes expands it, by flag."""
    words = [word.replace("$$", "$") for word in main["args"][1:]]
    return {name.removeprefix("--"): value for name, _, value in (word.partition("=") for word in words)}


def image(plan: Plan[Any]) -> str:
    """The image of the pods that a plan wants."""
    return str(plan.apply[0]["spec"]["predictor"]["containers"][0]["image"])


def test_what_the_spec_says_is_said_on_its_command_line():
    main = container(
        generation={"maxNewTokens": 64, "temperature": 0, "topP": 0.9, "topK": 0, "chatTemplate": "{{ $(HOME) }}\n$$"},
        limits={"inputTokens": 200, "queue": 8},
    )

    assert (main["image"], main["command"], main["args"][0]) == (
        "vllm/vllm-openai:v0.32.0",
        ["vllm", "serve"],
        "/volumes/models/gpt2",
    )
    said = flags(main)
    generation, buckets = (json.loads(said.pop(f)) for f in ("override-generation-config", "custom-histogram-buckets"))
    assert generation == {"max_new_tokens": 64, "temperature": 0, "top_p": 0.9, "top_k": 0}
    assert buckets == {"request_latency": list(DURATION_BUCKETS)}
    assert said == {
        "port": "8080",
        "served-model-name": "reviews",
        "tensor-parallel-size": "1",
        "max-model-len": "200",
        "max-num-queued-reqs": "8",
        "generation-config": "vllm",
        "chat-template": "{{ $(HOME) }}\n$$",
        "disable-access-log-for-endpoints": "/health,/metrics",
        "shutdown-timeout": "50",
    }
    assert "$$(HOME)" in " ".join(main["args"]), "Kubernetes would put a variable there"


def test_what_is_not_said_is_left_to_vllm():
    said = flags(container())

    assert {"max-model-len", "chat-template", "revision", "trust-remote-code", "api-key"}.isdisjoint(said)


def test_a_model_of_the_hub_is_named_with_its_revision():
    main = container("hf://owner/name@v1", model={"from": {"uri": "hf://owner/name@v1"}, "trustRemoteCode": True})

    assert (main["args"][0], flags(main)["revision"], "--trust-remote-code" in main["args"]) == (
        "owner/name",
        "v1",
        True,
    )
    assert "HF_HUB_OFFLINE" not in {each["name"] for each in main["env"]}


def test_each_gpu_has_a_part_of_the_model():
    main = container(resources={"accelerator": {"perNode": 4}})

    assert (flags(main)["tensor-parallel-size"], main["resources"]["limits"]) == ("4", {"nvidia.com/gpu": "4"})


def test_it_is_asked_whether_it_is_well_and_told_a_moment_late_that_it_is_to_end():
    main = container()

    assert {main[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")} == {"/health"}
    assert main["lifecycle"]["preStop"] == {"exec": {"command": ["sleep", "5"]}}
    assert int(flags(main)["shutdown-timeout"]) + 5 < SETTINGS.grace_seconds


def test_it_runs_restricted_offline_and_tells_nobody_that_it_does():
    made = inferenceservice(service(**VLLM), model(A), SETTINGS)["spec"]["predictor"]
    (main,) = made["containers"]
    env = {each["name"]: each.get("value") for each in main["env"]}

    assert main["securityContext"]["readOnlyRootFilesystem"] is True
    assert made["securityContext"]["runAsNonRoot"] is True
    assert (env["HF_HUB_OFFLINE"], env["VLLM_NO_USAGE_STATS"], env["DO_NOT_TRACK"]) == ("1", "1", "1")
    assert (env["XDG_CACHE_HOME"], env["HOME"]) == ("/scratch/cache", "/scratch")
    assert made["enableServiceLinks"] is False, "a Service called vllm would set VLLM_PORT"
    assert made["labels"][ENGINE] == "VLLM"


def test_every_value_of_the_secret_is_a_key(tmp_path: Path):
    main = container(**KEYS)
    keys = tmp_path / "keys"
    keys.mkdir()
    for name, value in {"a": "one\n", "b": "t w$o", "c": "\n"}.items():
        (keys / name).write_text(value)
    (tmp_path / "vllm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "vllm").chmod(0o755)
    words = [word.replace("$$", "$").replace("/var/run/lmops/api-keys", str(keys)) for word in main["command"]]
    done = subprocess.run(
        [*words, "model", "--api-key"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert main["args"][-1] == "--api-key"
    assert done.stdout.splitlines() == ["serve", "model", "--api-key", "one", "t w$o"]
    assert "LMOPS_API_KEYS" not in {each["name"] for each in main["env"]}


def test_what_asks_for_no_key_is_reached_from_nowhere_outside():
    expose = {"host": "gpt2.example.com", "ingressClassName": "nginx"}

    def paths(**spec: Any) -> tuple[list[str], bool]:
        of = serving(A, **VLLM, expose=expose, **spec)
        plan = after(of, job(A), child(of, A), pod(of, A))
        (ingress,) = [each for each in plan.apply if each["kind"] == "Ingress"]
        labels = inferenceservice(of, model(A), SETTINGS)["metadata"]["labels"]
        ways = [path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]]
        return ways, UNSEEN.items() <= labels.items()

    assert paths() == (["/"], False)
    assert paths(**KEYS) == (["/v1"], True)


@pytest.mark.parametrize(
    ("spec", "source", "by_vllm"),
    [
        (GPU, trained(), True),
        ({}, trained(), False),
        (GPU, trained("SequenceClassification"), False),
        ({**GPU, "requestLog": {"uri": "pvc://logs/a"}}, trained(), False),
        ({**GPU, "limits": {"timeoutSeconds": 10}}, trained(), False),
        ({**GPU, "engine": "Transformers"}, trained(), False),
        ({**GPU, "model": {**TRAINED["model"], "task": "FeatureExtraction"}}, trained(), False),
    ],
    ids=["writes, on a GPU", "without one", "another task", "a log", "a time", "ours is wanted", "its embeddings"],
)
def test_auto_takes_it_where_nothing_speaks_against_it(spec: dict[str, Any], source: Manifest, by_vllm: bool):
    of = service(**{**TRAINED, **spec})

    assert image(written(of, source)).startswith("vllm/") is by_vllm
    assert not image(written(of, source, vllm_image="")).startswith("vllm/")


def test_a_candidate_has_the_engine_that_the_service_would_have():
    of = service(**TRAINED, **GPU, requestLog={"uri": "pvc://logs/a"})
    causal = model(A).model_copy(update={"format": "safetensors", "task": "CausalLM"})

    images = {
        made(of, causal, SETTINGS)["spec"]["predictor"]["containers"][0]["image"]
        for made in (inferenceservice, candidate)
    }
    assert images == {"lmops-server:dev"}


@pytest.mark.parametrize(
    ("spec", "source", "sentence"),
    [
        (
            {"engine": "VLLM"},
            trained(),
            "The engine VLLM does not serve safetensors on a processor, which pvc://models/aaaaaaaaaaaa is in. "
            "Set engine to Auto or Transformers, or ask for one with resources.accelerator.",
        ),
        (
            VLLM,
            trained("SequenceClassification"),
            "The engine VLLM serves models for CausalLM, and pvc://models/aaaaaaaaaaaa is one for "
            "SequenceClassification. Set engine to Auto or Transformers.",
        ),
        (
            {**VLLM, "requestLog": {"uri": "pvc://logs/a"}},
            trained(),
            "The engine VLLM does not keep requestLog. Leave it out, or set engine to Transformers.",
        ),
        (
            {**VLLM, "limits": {"bodyBytes": 2048, "timeoutSeconds": 10}},
            trained(),
            "The engine VLLM does not keep limits.bodyBytes and limits.timeoutSeconds. "
            "Leave them out, or set engine to Transformers.",
        ),
    ],
    ids=["no GPU", "another task", "a log", "limits"],
)
def test_what_it_cannot_do_is_refused_in_a_sentence(spec: dict[str, Any], source: Manifest, sentence: str):
    plan = written(service(**{**TRAINED, **spec}), source)

    assert (plan.apply, told(plan, "Accepted")) == ((), ("False", "EngineUnfit", sentence))


def test_a_graph_is_not_for_it():
    made = job(A)
    graph = {**made, "status": {**made["status"], "report": {"compressed": {"format": "onnx"}}}}

    assert told(after(service(**VLLM), graph), "Accepted") == (
        "False",
        "EngineUnfit",
        "The engine VLLM does not serve onnx, which pvc://models/aaaaaaaaaaaa is in. Set engine to Auto or ONNX.",
    )


def test_without_a_gpu_a_folder_is_refused_too_whose_form_nobody_has_told():
    plan = after(service(engine="VLLM", model={"from": {"uri": "pvc://models/a"}}))

    assert told(plan, "Accepted") == (
        "False",
        "EngineUnfit",
        "The engine VLLM serves on accelerators, and the service asks for none. "
        "Set engine to Auto, or resources.accelerator.",
    )


def test_where_there_is_no_image_of_it_that_is_said():
    plan = written(service(**TRAINED, **VLLM), trained(), vllm_image="")

    assert told(plan, "Accepted")[1:] == (
        "EngineMissing",
        "There is no image of vLLM here, as on a laptop, or where the operator's vllmImage is empty. "
        "Set engine to Auto or Transformers.",
    )


def test_a_gateway_keeps_the_time():
    expose = {"host": "gpt2.example.com", "gateway": {"name": "web"}}
    plan = written(service(**TRAINED, **VLLM, limits={"timeoutSeconds": 10}, expose=expose), trained())

    assert holds(plan)["Accepted"] == "True"


def test_what_it_makes_otherwise_is_a_condition():
    of = serving(A, **VLLM)
    plan = after(of, job(A), child(of, A), pod(of, A))

    assert told(plan, "EngineDiffers") == ("True", "ServedByVLLM", differs(of))
    assert "generation.maxNewTokens is also the most that may be asked for" in differs(of)
    assert ("inputTokens" in differs(of), "/invocations" in differs(of)) == (False, False)
    more = differs(service(**VLLM, **KEYS, limits={"inputTokens": 9}))
    assert ("inputTokens" in more, "/invocations" in more) == (True, True)
    by_gateway = differs(service(**VLLM, expose={"host": "gpt2.example.com", "gateway": {"name": "web"}}))
    assert ("any time" in differs(of), "any time" in by_gateway) == (True, False)
    ours = serving(A)
    assert "EngineDiffers" not in holds(after(ours, job(A), child(ours, A), pod(ours, A)))


# what it tells


def relabelled(text: str) -> str:
    """What Prometheus would keep of it, by the rules of the PodMonitor."""
    (endpoint,) = podmonitor(service(**VLLM), SETTINGS, by_vllm=True)["spec"]["podMetricsEndpoints"]
    lines = []
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {"__name__": sample.name, **sample.labels}
            for rule in endpoint["metricRelabelings"]:
                joined = ";".join(labels.get(name, "") for name in rule["sourceLabels"])
                if found := re.fullmatch(rule["regex"], joined):
                    labels[rule["targetLabel"]] = found.expand(re.sub(r"\$(\d)", r"\\\1", rule["replacement"]))
            name = labels.pop("__name__")
            shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
            lines.append(f"{name}{{{shown}}} {sample.value}")
    return "\n".join(lines) + "\n"


def expressions() -> list[str]:
    """All that is asked of Prometheus of such a service."""
    of = service(**VLLM, slo={"latency": {"seconds": 0.5}}, monitoring={"noTrafficMinutes": 30})
    rules = [
        rule["expr"]
        for group in prometheusrule(of, SETTINGS, by_vllm=True)["spec"]["groups"]
        for rule in group["rules"]
    ]
    (dashboard,) = configmap(of, SETTINGS, by_vllm=True)["data"].values()
    return [*rules, *(curve["expr"] for panel in json.loads(dashboard)["panels"] for curve in panel["targets"])]


def test_no_rule_and_no_panel_asks_for_what_it_does_not_tell():
    samples = [sample for family in text_string_to_metric_families(relabelled(TOLD)) for sample in family.samples]
    names, labels = {sample.name for sample in samples}, {label for sample in samples for label in sample.labels}
    scraped = {"namespace", "job", "pod", "service", "lmops_dev_revision"}

    for expression in expressions():
        asked = {name for name in prometheus.metrics(expression) if not name.startswith("lmops_service:")}
        assert asked <= names | {"up"}, expression
        assert prometheus.labels(expression) <= labels | scraped, expression


def test_an_api_server_would_take_what_watches_it():
    for manifest in monitors(service(**VLLM), SETTINGS, by_vllm=True):
        schemas.check(manifest)


def test_of_what_it_does_not_tell_nobody_is_warned():
    of = service(**VLLM | {"resources": {"perNode": {"memory": "4Gi"}, "accelerator": {"perNode": 1}}})
    names = {
        rule["alert"]
        for group in prometheusrule(of, SETTINGS, by_vllm=True)["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }

    assert names == {f"LanguageModelService{what}" for what in ("Errors", "Down", "Queue", "Saturated", "Restarts")}


def counted(name: str, values: str, **labels: str) -> tuple[str, str]:
    """A series of vLLM as it is kept, with a value each minute."""
    shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
    kept = relabelled(f"{name}{{{shown}}} 1\n").rpartition(" ")[0]
    return kept.replace("}", ',namespace="default",job="default/reviews-metrics"}', 1), values


UP = ('up{namespace="default",job="default/reviews-metrics"}', "1x30")
END = {"handler": "/v1/completions", "method": "POST"}
HAPPENS: dict[str, tuple[str, list[tuple[str, str]], str, set[str]]] = {
    "one in five is refused for want of room": (
        "LanguageModelServiceErrors",
        [
            counted("vllm:e2e_request_latency_seconds_count", "0+80x90", engine="0"),
            counted("http_requests_total", "0+20x90", **END, status="5xx"),
        ],
        "70m",
        {"critical", "warning"},
    ),
    "wrong requests are no fault of it": (
        "LanguageModelServiceErrors",
        [
            counted("vllm:e2e_request_latency_seconds_count", "0+80x90", engine="0"),
            counted("http_requests_total", "0+80x90", **END, status="4xx"),
            counted("http_requests_total", "0+80x90", handler="/tokenize", method="POST", status="5xx"),
        ],
        "70m",
        set(),
    ),
    "most answers are slow": (
        "LanguageModelServiceSlow",
        [
            counted("vllm:e2e_request_latency_seconds_bucket", "0+20x90", le="0.32"),
            counted("vllm:e2e_request_latency_seconds_bucket", "0+20x90", le="0.64"),
            counted("vllm:e2e_request_latency_seconds_count", "0+100x90", engine="0"),
        ],
        "70m",
        {"critical", "warning"},
    ),
    "inputs wait": (
        "LanguageModelServiceQueue",
        [counted("vllm:num_requests_waiting", "3x30", engine="0")],
        "10m",
        {"warning"},
    ),
    "it is full": (
        "LanguageModelServiceSaturated",
        [
            UP,
            counted("vllm:num_requests_running", "60x30", engine="0"),
            counted("vllm:num_requests_waiting_by_reason", "30x30", engine="0", reason="capacity"),
            counted("vllm:num_requests_waiting_by_reason", "0x30", engine="0", reason="deferred"),
            counted("vllm:num_requests_waiting", "30x30", engine="0"),
        ],
        "5m",
        {"critical"},
    ),
    "it has room": (
        "LanguageModelServiceSaturated",
        [
            UP,
            counted("vllm:num_requests_running", "60x30", engine="0"),
            counted("vllm:num_requests_waiting_by_reason", "10x30", engine="0", reason="capacity"),
        ],
        "5m",
        set(),
    ),
}


@pytest.mark.parametrize(("alert", "series", "at", "raised"), HAPPENS.values(), ids=HAPPENS)
def test_an_alert_is_raised_by_what_vllm_tells(
    alert: str, series: list[tuple[str, str]], at: str, raised: set[str], tmp_path: Path
):
    of = service(**VLLM, slo={"latency": {"seconds": 0.5}}, limits={"queue": 100})
    groups = prometheusrule(of, SETTINGS, by_vllm=True)["spec"]["groups"]
    severities = [r["labels"]["severity"] for g in groups for r in g["rules"] if r.get("alert") == alert]
    assert set(severities) >= raised
    samples = [{"labels": f'{{severity="{severity}"}}', "value": 1} for severity in sorted(raised)]
    asked = f'sum by (severity) (ALERTS{{alertname="{alert}",alertstate="firing"}})'
    prometheus.run(
        groups,
        [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "promql_expr_test": [{"expr": asked, "eval_time": at, "exp_samples": samples}],
            }
        ],
        tmp_path,
    )


def test_its_traffic_is_what_it_has_counted_between_two_looks():
    now = Told.read(TOLD)
    before = now._replace(answered=now.answered - 4, failed=0, tokens=now.tokens - 100, within={})

    found = stats(before, now, 20, UNTOLD)
    assert (found["requests"], found["failed"], found["requestsPerSecond"], found["tokensPerSecond"]) == (8, 4, 0.4, 5)
    assert found["drift"] == {"unavailable": UNTOLD}
    assert now.failed == 4
    assert stats(now, Told(0, 0, 0, {}), 20, UNTOLD) == {}, "it was started anew"
    assert stats(now, now, 20, UNTOLD)["latencySeconds"] == {}


def test_latency_is_told_as_prometheus_would():
    start = Told(0, 0, 0, {0.32: 0, 0.64: 0, math.inf: 0})
    found = stats(start, Told(100, 0, 0, {0.32: 0, 0.64: 100, math.inf: 100}), 10, "")
    late = stats(start, Told(100, 0, 0, {0.32: 0, 0.64: 20, math.inf: 100}), 10, "")

    assert found["latencySeconds"] == {"p50": pytest.approx(0.48), "p95": pytest.approx(0.624)}
    assert late["latencySeconds"] == {"p50": 0.64, "p95": 0.64}, "no more is known of what is beyond the last bucket"


def test_its_figures_are_those_of_the_service():
    of = serving(A, **VLLM)
    now = Told.read(TOLD)
    figures = stats(Told(0, 0, 0, {}), now, 30, UNTOLD)
    plan = after(of, job(A), child(of, A), pod(of, A), figures={"p": figures}, now=NOON + timedelta(minutes=1))

    assert told(plan, "DriftUnavailable")[::2] == ("True", UNTOLD)
    assert plan.status.metrics.error_ratio == round(4 / (now.answered + 4), 4)
    assert plan.status.metrics.p95_seconds is not None
