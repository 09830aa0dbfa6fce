"""Our own client and Hugging Face's reach the endpoint as they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.integrations import KubeflowCallback

from lmops.progress.server import Server
from lmops_trainer.progress import Progress
from replicas import Pod, cluster, on_a_replica, told


def test_our_own_client_reaches_it(tmp_path: Path):
    objects = cluster()

    async def act(replica: Server, pod: Pod) -> None:
        client = Progress.from_environment(pod.environment)
        client.post(50, 46, current_step=192, total_steps=384, loss=0.41)
        await asyncio.to_thread(client.close, 10)

    on_a_replica(act, objects, tmp_path)

    shown = told(objects)["display"]
    assert (shown["progress"], shown["metric"]) == ("50%", "loss=0.41")
    assert told(objects)["progress"]["runs"]["a-train-a1"]["step"] == 192


class Sums(torch.utils.data.Dataset[dict[str, Any]]):
    """Eight rows of four tokens."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": torch.tensor([1, index, index, 2]), "labels": index % 2}


def test_a_stock_trainer_moves_the_progress_without_a_line_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    objects, seen = cluster(), []
    monkeypatch.setattr(KubeflowCallback, "_MIN_UPDATE_INTERVAL", 0.0)

    async def act(replica: Server, pod: Pod) -> None:
        for name, value in pod.environment.items():
            monkeypatch.setenv(name, value)
        await asyncio.to_thread(train, tmp_path)

    def train(folder: Path) -> None:
        config = BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        arguments = TrainingArguments(
            str(folder / "out"), max_steps=4, per_device_train_batch_size=2, logging_steps=1, save_strategy="no",
            report_to=[], use_cpu=True, disable_tqdm=True, eval_strategy="steps", eval_steps=2,
        )  # fmt: skip
        model = BertForSequenceClassification(config)
        Trainer(model=model, args=arguments, train_dataset=Sums(), eval_dataset=Sums()).train()

    keep = objects._put

    def put(manifest: dict[str, Any]) -> dict[str, Any]:
        kept = keep(manifest)
        if kept["kind"] == "TrainingJob":
            seen.append(kept["status"]["progress"]["runs"]["a-train-a1"])
        return kept

    monkeypatch.setattr(objects, "_put", put)
    on_a_replica(act, objects, tmp_path)

    assert [(run["percent"], run.get("step"), run["steps"]) for run in seen] == [
        (0, None, 4),
        (25, 1, 4),
        (50, 2, 4),
        (75, 3, 4),
        (99, 4, 4),
        (100, 4, 4),
    ]
    assert told(objects)["display"]["progress"] == "95%"
    assert {"loss", "learningRate", "gradientNorm", "evaluation", "step"} <= set(told(objects)["metrics"])
