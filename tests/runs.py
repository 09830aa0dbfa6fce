"""Small runs for tests of the trainer: prepared data of a few dozen rows, a document, and the process that runs it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmops.api import Ending, Run
from lmops.api.trainingstatus import DatasetReport

ROOT = Path(__file__).parents[1]
WORDS = [
    "the", "a", "film", "plot", "was", "is", "very", "not", "good", "bad", "dull", "bright", "slow", "quick", "warm",
    "cold", "and", "but", "so", "it", "they", "we", "saw", "liked",
]  # fmt: skip
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 64, "hidden_dropout_prob": "0.1",
}  # fmt: skip
TINY_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}


def tokenizer(kind: str = "bert") -> Any:
    """A word-level tokenizer with the special tokens of its kind."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if kind == "bert" else ["<|endoftext|>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *WORDS])}, unk_token=special[-1]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "bert":
        named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
        return PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=special[0], bos_token=special[0])


def prepared(volumes: Path, task: str, rows: int = 44, validation: int = 12) -> DatasetReport:
    """Prepared data in a workspace: sentences that are `good` or `bad`, of very different lengths."""
    from datasets import Dataset

    from lmops_trainer.data.prepared import Prepared

    folder = volumes / "work" / "data" / task.lower()
    report = DatasetReport(uri=f"pvc://work/data/{task.lower()}", hash="0" * 64, rows_read=rows + validation)
    if folder.exists():
        return Prepared.open(folder).report
    words = tokenizer("gpt2" if task == "CausalLM" else "bert")
    drawn = random.Random(7)
    for split, count in {"train": rows, "validation": validation}.items():
        examples = [_example(words, drawn, number, task) for number in range(count)]
        Dataset.from_list(examples).save_to_disk(str(folder / split / "examples"))
    words.save_pretrained(folder / "tokenizer")
    labels = ["bad", "good"] if task == "SequenceClassification" else []
    content = {"report": report.manifest(), "labels": labels, "maxLength": 32, "task": task, "format": 1}
    (folder / "dataset.json").write_text(json.dumps(content))
    return report


def _text(drawn: random.Random, length: int) -> list[str]:
    """Words that always follow each other in the same way."""
    start = drawn.randrange(len(WORDS))
    return [WORDS[(start + place) % len(WORDS)] for place in range(length)]


def _example(words: Any, drawn: random.Random, number: int, task: str) -> dict[str, Any]:
    label = number % 2
    text = _text(drawn, drawn.randint(3, 24))
    if task == "SequenceClassification":
        text[drawn.randrange(len(text))] = "good" if label else "bad"
    body = words.convert_tokens_to_ids(text)
    if task == "CausalLM":
        return {"input_ids": body, "length": len(body), "row": number}
    first, rest = body[: len(body) // 2], body[len(body) // 2 :]
    if label:
        rest = words.convert_tokens_to_ids(_text(drawn, len(rest)))
    if task != "BertPreTraining":
        ids = [2, *body, 3]
        return {"input_ids": ids, "length": len(ids), "row": number} | (
            {"label": label} if task == "SequenceClassification" else {}
        )
    ids, types = [2, *first, 3, *rest, 3], [0] * (len(first) + 2) + [1] * (len(rest) + 1)
    return {"input_ids": ids, "token_type_ids": types, "length": len(ids), "row": number, "label": label}


def run(
    volumes: Path,
    task: str = "SequenceClassification",
    uid: str = "job",
    attempt: int = 0,
    model: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Run:
    """The document of a training run: a tiny BERT (or GPT-2) from scratch."""
    report = prepared(volumes, task)
    name, config = ("gpt2", TINY_GPT2) if task == "CausalLM" else ("bert", TINY)
    source = {"from": {"architecture": {"name": name, "config": config}}, "tokenizer": {"uri": "pvc://work/unused"}}
    training = {"epochs": 2, "batchSize": 4, "seed": 3, **spec.pop("training", {})}
    document = {
        "model": {"task": task, **(model or source)},
        "dataset": {"train": {"uri": "pvc://work/raw.csv"}},
        "training": training,
        "workspace": {"uri": "pvc://work"},
        "output": {"uri": "pvc://work/models", **spec.pop("output", {})},
        **spec,
    }
    return Run.model_validate(
        {
            "spec": document,
            "run": {"job": "job", "uid": uid, "stage": "train", "attempt": attempt},
            "resolved": {"dataset": report.manifest()},
        }
    )


RANK = """
import os, signal, sys
from lmops.api import Run
from lmops_trainer import launch
{before}
sys.exit(launch.rank(Run.model_validate_json(sys.argv[1])))
"""
SIGNAL_IN_MICRO_BATCH = """
from lmops_trainer.trainer import Trainer
step, count = Trainer.training_step, 0
def training_step(*arguments):
    global count
    count += 1
    if count == {}:
        os.kill(os.getpid(), signal.{})
    return step(*arguments)
Trainer.training_step = training_step
"""


class Process:
    """A run as a process of its own, as a pod would start it; or one rank of it alone, with something done before."""

    def __init__(
        self,
        run: Run,
        volumes: Path,
        rank: bool = False,
        before: str = "",
        prepare: Callable[[], None] | None = None,
        **environment: str,
    ) -> None:
        self.run, self.volumes, self.rank = run, volumes, rank
        self.scratch = volumes.parent / f"scratch-{run.run.uid}-{run.run.attempt}-{time.monotonic_ns()}"
        self.scratch.mkdir()
        self.termination = self.scratch / "termination-log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PET_", "KUBEFLOW_"))}
        ours = [str(ROOT / part) for part in ("operator", "images/trainer")]
        paths = os.pathsep.join([*ours, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = ["-c", RANK.format(before=before)] if rank else ["-m", "lmops_trainer", run.run.stage]
        with (self.scratch / "output").open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command, run.document()],
                env=inherited | {
                    "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
                    "LMOPS_VOLUMES": str(volumes), "LMOPS_SCRATCH": str(self.scratch),
                    "LMOPS_TERMINATION_LOG": str(self.termination),
                } | environment,
                stdout=output, stderr=subprocess.STDOUT, preexec_fn=prepare,
            )  # fmt: skip

    @property
    def job(self) -> Path:
        """The folder of the job."""
        return self.volumes / "work" / "jobs" / self.run.run.uid

    def wait(self, seconds: float = 180) -> Ending:
        """How it ended: for a rank alone, what it leaves for its launcher."""
        try:
            self.code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it did not end:\n{self.output()}") from None
        if self.rank:
            return self.ends()[0]
        if not self.termination.exists():
            raise AssertionError(self.output())
        return Ending.model_validate_json(self.termination.read_text())

    def ends(self) -> list[Ending]:
        """How each rank has ended, in the order of the ranks."""
        records = sorted((self.scratch / "ranks").glob("*.json"))
        return [Ending.model_validate(json.loads(record.read_text())["ending"]) for record in records]

    def output(self) -> str:
        """What it has printed."""
        return (self.scratch / "output").read_text()

    def step(self) -> int:
        """The step that it has come to, by its log."""
        lines = [line for line in self.output().splitlines() if " loss " in line and " step " in line]
        return int(lines[-1].split(" step ")[1].split("/")[0]) if lines else 0

    def ranks(self) -> list[int]:
        """The process ids of its ranks."""
        import psutil

        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def until(self, happened: Callable[[], bool], seconds: float = 120) -> None:
        """Waits for something to happen while the process runs."""
        end = time.monotonic() + seconds
        while not happened():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"it did not happen:\n{self.output()}")
            time.sleep(0.01)
