"""A training run, from its document to the weights that it leaves, and what it says on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from http.client import BadStatusLine
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file

from lmops.api import Ending, Run
from lmops.api.run import Stopped
from lmops.api.trainingjob import EarlyStopping, Every, TrainingSettings
from lmops_trainer.callbacks import Patience, Rhythm
from lmops_trainer.failures import Refusal
from lmops_trainer.log import log
from lmops_trainer.models import load
from lmops_trainer.progress import Progress
from lmops_trainer.train import batches, train, warmup
from runs import TINY, Process, run

CALM = TINY | {"hidden_dropout_prob": "0.0", "attention_probs_dropout_prob": "0.0"}
"""A model without dropout."""


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path / "volumes"))
    monkeypatch.setenv("LMOPS_SCRATCH", str(tmp_path / "scratch"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    (tmp_path / "volumes").mkdir()
    yield tmp_path / "volumes"
    for number, handler in handlers.items():
        signal.signal(number, handler)


def job(volumes: Path, uid: str = "job") -> Path:
    return volumes / "work" / "jobs" / uid


def points(volumes: Path, uid: str = "job") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job(volumes, uid) / "metrics.jsonl").read_text().splitlines()]


def model(task: str = "SequenceClassification", config: Any = CALM) -> dict[str, Any]:
    return {
        "task": task,
        "from": {"architecture": {"name": "bert", "config": config}},
        "tokenizer": {"uri": "pvc://work/unused"},
    }


def refused(run: Run) -> Refusal:
    with pytest.raises(Refusal) as caught:
        train(run)
    return caught.value


@pytest.mark.parametrize(
    ("task", "figure"),
    [
        ("SequenceClassification", "eval_f1"),
        ("CausalLM", "eval_perplexity"),
        ("MaskedLM", "eval_maskedPerplexity"),
        ("BertPreTraining", "eval_accuracy"),
    ],
)
def test_each_task_learns_and_leaves_its_best_model(volumes: Path, task: str, figure: str) -> None:
    settings = {"steps": 120, "batchSize": 16, "learningRate": 5e-3}

    result = train(run(volumes, task, training=settings, evaluation={"every": {"steps": 60}}))

    assert result.best is not None
    assert result.best.path == "pvc://work/jobs/job/best"
    evaluations = [point for point in points(volumes) if figure in point]
    assert [point["step"] for point in evaluations] == [60, 120]
    losses = [point["loss"] for point in points(volumes) if "loss" in point]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert json.loads((job(volumes) / "best" / "best.json").read_text()) == {
        "step": result.best.step,
        "metric": result.best.metric,
        "value": result.best.value,
    }
    assert load(job(volumes) / "best", task).config.vocab_size > 0


def test_the_last_weights_are_kept_when_the_job_asks_for_them(volumes: Path) -> None:
    result = train(run(volumes, training={"steps": 7}, output={"keep": "Last"}))

    assert result.best is not None
    assert (result.best.step, result.best.path) == (7, "pvc://work/jobs/job/last")
    assert {file.name for file in (job(volumes) / "last").iterdir()} >= {
        "best.json", "config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip


def weights(volumes: Path, uid: str) -> dict[str, torch.Tensor]:
    return load_file(job(volumes, uid) / "last" / "model.safetensors")


def test_micro_batches_learn_what_whole_batches_learn(volumes: Path) -> None:
    for micro in (4, 1):
        settings = {"steps": 15, "batchSize": 4, "microBatchSize": micro}
        train(run(volumes, uid=f"micro-{micro}", model=model(), training=settings, output={"keep": "Last"}))

    whole, parts = weights(volumes, "micro-4"), weights(volumes, "micro-1")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-4) for name in whole)


def test_two_processes_learn_and_measure_what_one_does(volumes: Path) -> None:
    settings: dict[str, Any] = {
        "model": model(), "training": {"steps": 25, "batchSize": 4}, "output": {"keep": "Last"},
        "evaluation": {"every": {"steps": 5}},
    }  # fmt: skip
    train(run(volumes, uid="one", **settings))
    pair = Process(run(volumes, uid="two", **settings), volumes, PET_NPROC_PER_NODE="2")
    assert pair.wait().result is not None, pair.output()

    one, two = weights(volumes, "one"), weights(volumes, "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    curves = [[point.get("eval_loss", point.get("loss")) for point in points(volumes, uid)] for uid in ("one", "two")]
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)


def test_training_ends_early_when_nothing_gets_better(volumes: Path) -> None:
    settings = {"epochs": 50, "learningRate": 1e-9, "earlyStopping": {"patience": 2}}

    result = train(run(volumes, training=settings, evaluation={"metric": "f1", "every": {"steps": 3}}))

    assert result.best is not None
    assert result.best.step == 3
    assert max(point["step"] for point in points(volumes)) == 9


def test_a_run_that_ended_early_and_begins_again_stands_where_it_stood(volumes: Path) -> None:
    settings = {
        "training": {"epochs": 50, "learningRate": 1e-9, "earlyStopping": {"patience": 2}}, "output": {"keep": "Last"},
        "evaluation": {"metric": "f1", "every": {"steps": 3}}, "checkpoint": {"every": {"steps": 3}},
    }  # fmt: skip
    first = train(run(volumes, **settings))
    before = points(volumes)

    again = train(run(volumes, attempt=1, **settings))

    assert again == first
    assert points(volumes) == before


def test_pretraining_can_be_chosen_by_the_order_of_the_sentences(volumes: Path) -> None:
    best = train(run(volumes, "BertPreTraining", training={"steps": 2}, evaluation={"metric": "accuracy"})).best

    assert best is not None
    assert best.metric == "accuracy"


def test_a_loss_that_is_no_number_ends_the_run_and_says_what_to_do(volumes: Path) -> None:
    settings = {"steps": 40, "learningRate": 1e20, "warmupSteps": 0, "gradientClipping": 0}

    refusal = refused(run(volumes, training=settings, checkpoint={"every": {"steps": 1}}))

    assert (refusal.class_, refusal.reason) == ("Diverged", "LossNotFinite")
    assert refusal.message.startswith("The loss became NaN at step ")
    assert "Lower training.learningRate (1e+20 now) or raise training.warmupRatio" in refusal.remedy
    assert refusal.evidence[-1].endswith("loss nan")
    assert "is intact" in refusal.remedy
    assert list((job(volumes) / "checkpoints" / "0").glob("*/complete.json"))


@pytest.mark.parametrize(
    ("spec", "reason", "said"),
    [
        ({"evaluation": {"metric": "f1:god"}}, "UnknownMetric", "Did you mean 'f1:good'?"),
        ({"evaluation": {"metric": "perplexity"}}, "UnknownMetric", "no figure of SequenceClassification"),
        ({"training": {"precision": "fp16"}}, "PrecisionUnsupported", "needs an accelerator"),
        ({"training": {"batchSize": 8, "microBatchSize": 3}}, "BatchNotDivisible", "micro-batches of 3"),
        ({"model": model(config=TINY | {"max_position_embeddings": 16})}, "MaxLengthAboveWindow", "reads 16 tokens"),
    ],
)
def test_settings_that_cannot_work_are_refused(volumes: Path, spec: dict[str, Any], reason: str, said: str) -> None:
    refusal = refused(run(volumes, **spec))

    assert (refusal.class_, refusal.reason) == ("Settings", reason)
    assert said in refusal.message


def test_fp16_is_taken_as_fp32_where_the_laptop_says_so(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMOPS_FP16_AS_FP32", "1")

    assert train(run(volumes, training={"steps": 2, "precision": "fp16"})).best is not None


def test_bfloat16_adafactor_cosine_and_tensorboard_work_as_well(volumes: Path) -> None:
    settings = {
        "steps": 6, "precision": "bf16", "optimizer": "Adafactor", "schedule": "cosine", "reportTo": ["TensorBoard"],
    }  # fmt: skip

    assert train(run(volumes, training=settings)).best is not None
    assert list((job(volumes) / "tensorboard").iterdir())


def test_a_batch_that_does_not_divide_names_the_nearest_ones(volumes: Path) -> None:
    with pytest.raises(Refusal) as caught:
        batches(run(volumes, training={"batchSize": 32}).spec, processes=3)

    assert caught.value.message == "training.batchSize 32 does not divide into 3 processes."
    assert caught.value.remedy == "Use 30 or 33."


def test_the_warm_up_is_a_share_of_the_steps_or_a_number() -> None:
    asked = [{}, {"warmupRatio": 0.5}, {"warmupSteps": 7}, {"warmupRatio": 0}]

    assert [warmup(TrainingSettings.model_validate(one), 100) for one in asked] == [6, 50, 7, 0]


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ({"steps": 4}, [4, 8, 12, 16, 20]),
        ({"epochs": 1}, [10, 20]),
        ({"epochs": 0.5}, [5, 10, 15, 20]),
        ({"epochs": 0.3}, [3, 6, 9, 12, 15, 18]),
        ({"steps": 7, "epochs": 1}, [7, 10, 14, 20]),
    ],
)
def test_a_rhythm_is_by_steps_or_epochs_or_both(every: dict[str, float], steps: list[int]) -> None:
    rhythm = Rhythm(Every.model_validate(every), updates=10)

    assert [step for step in range(1, 21) if rhythm.is_due(step)] == steps


def test_a_rhythm_by_minutes_counts_from_the_last_time() -> None:
    now = [0.0]
    rhythm = Rhythm(Every(minutes=2), updates=10, clock=lambda: now[0])

    now[0] = 119
    assert not rhythm.is_late()
    now[0] = 121
    assert rhythm.is_late()
    rhythm.done()
    assert not rhythm.is_late()


@pytest.mark.parametrize(
    ("metric", "values", "misses"), [("f1", [0.5, 0.6, 0.605, 0.55], 2), ("loss", [0.5, 0.4, 0.395, 0.45], 2)]
)
def test_patience_counts_what_is_not_better_by_enough(metric: str, values: list[float], misses: int) -> None:
    patience = Patience(metric, EarlyStopping(patience=2, min_delta=0.01))

    for value in values:
        patience.see(value)

    assert (patience.misses, patience.is_over) == (misses, True)


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A progress endpoint, and what was posted to it."""
    posted: list[dict[str, Any]] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["trainerStatus"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *unused: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/runs/job-train-a0", posted
    server.shutdown()


def test_a_run_posts_how_far_it_has_come(
    volumes: Path, endpoint: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, posted = endpoint
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", url)

    train(run(volumes, training={"steps": 20}))

    last = posted[-1]
    metrics = {metric["name"]: metric["value"] for metric in last["metrics"]}
    assert (last["progressPercentage"], last["estimatedRemainingSeconds"]) == (100, 0)
    assert (metrics["current_step"], metrics["total_steps"]) == ("20", "20")
    assert {"loss", "learning_rate", "tokens_per_second", "rows_per_second", "memory_bytes", "eval_f1"} <= set(metrics)


def test_progress_that_nobody_hears_does_no_harm() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        progress = Progress(f"http://127.0.0.1:{closed.getsockname()[1]}/", interval=0)

    progress.post(50, 10, loss=float("nan"), rows=3)
    progress.close()


def test_progress_says_once_why_nobody_hears_it_and_keeps_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "token").write_text("secret\r\nX: 1")
    refused, garbled = ConnectionRefusedError(111, "Connection refused"), BadStatusLine("secret")
    errors = iter([URLError(refused), URLError(refused), garbled, ValueError("Bearer secret")])

    def urlopen(*unused: Any, **unused_too: Any) -> None:
        raise next(errors)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.setattr(log, "propagate", True)
    progress = Progress("http://127.0.0.1/?token=secret", token=str(tmp_path / "token"))
    for _ in range(4):
        progress._send({})

    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "ConnectionRefusedError: Connection refused", "BadStatusLine", "ValueError",
    ]  # fmt: skip


def elastic() -> dict[str, str]:
    """The environment of two ranks that torchrun heals in place."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "PET_NPROC_PER_NODE": "2", "PET_NNODES": "1:1", "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ID": "job-0",
        "PET_RDZV_ENDPOINT": f"localhost:{port}", "PET_MAX_RESTARTS": "3",
    }  # fmt: skip


def test_a_refusal_is_not_repeated_by_restarts_in_place(volumes: Path) -> None:
    missing = {"task": "SequenceClassification", "from": {"uri": "pvc://work/no-model"}}
    process = Process(run(volumes, model=missing), volumes, **elastic())

    ending = process.wait()

    assert ending.failure is not None, process.output()
    assert (ending.failure.class_, ending.failure.reason) == ("Model", "ModelMissing")
    assert process.code == 1
    restarts = {record.name.partition("-")[0] for record in (process.scratch / "ranks").iterdir()}
    assert restarts == {"0"}, "restarted ranks end before they try again"


def test_a_killed_rank_is_healed_in_place_from_the_last_checkpoint(volumes: Path) -> None:
    settings = {"checkpoint": {"every": {"steps": 20}}, "evaluation": {"every": {"steps": 400}}}
    process = Process(run(volumes, training={"steps": 400}, **settings), volumes, **elastic())
    process.until(lambda: process.step() >= 50)

    os.kill(process.ranks()[1], signal.SIGKILL)

    assert process.wait().result is not None, process.output()
    assert "resumes at step" in process.output()
    steps = [point["step"] for point in points(volumes) if "loss" in point]
    assert steps == [1, *range(4, 401, 4)], "what the lost ranks had logged beyond the checkpoint is there once"


def test_a_signal_ends_another_stage_in_order(volumes: Path) -> None:
    document = run(volumes).model_dump(mode="json", by_alias=True, exclude_none=True)
    document["run"]["stage"] = "prepare"
    document["spec"]["dataset"]["train"]["uri"] = "pvc://work/pipe"
    os.mkfifo(volumes / "work" / "pipe")
    process = Process(Run.model_validate(document), volumes)
    process.until(lambda: (process.scratch / "logs" / "prepare-0.log").exists())

    process.process.send_signal(signal.SIGTERM)

    assert process.wait() == Ending(stage="prepare", attempt=0, stopped=Stopped(signal="SIGTERM"))
    assert process.code == 0
