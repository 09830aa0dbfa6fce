"""The other side of the benchmark: the same training as a user of `transformers` writes it, all else at its defaults.

python stock.py SETTINGS: one JSON document, which `training.py` makes from the job; what it measures goes into
SETTINGS["result"].
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


class Clock(TrainerCallback):
    """The time between the end of one step and the end of the last one."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.began = self.ended = 0.0
        self.held = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Waits for the device at the two steps that count."""
        if state.global_step in (self.start, state.max_steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                self.held = torch.cuda.max_memory_reserved()
            self.began, self.ended = self.ended, time.time()


def main(settings: dict[str, Any]) -> None:
    """Trains, evaluates, saves."""
    set_seed(settings["arguments"]["seed"])
    data = Path(settings["data"])
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    train, validation = (load_from_disk(str(data / split / "examples")) for split in ("train", "validation"))
    clock = Clock(settings["clockStart"])
    common = {"args": TrainingArguments(**settings["arguments"]), "processing_class": tokenizer, "callbacks": [clock]}
    if settings["labels"]:
        trainer = Trainer(
            classifier(settings["model"], len(settings["labels"]), len(tokenizer)),
            train_dataset=train, eval_dataset=validation, data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=macro_f1, **common,
        )  # fmt: skip
    else:
        config = AutoConfig.for_model(**{"vocab_size": len(tokenizer)} | settings["model"])
        trainer = Trainer(
            AutoModelForCausalLM.from_config(config),
            train_dataset=with_labels(train), eval_dataset=with_labels(validation),
            data_collator=DataCollatorForSeq2Seq(tokenizer), **common,
        )  # fmt: skip
    trainer.train()
    figures = trainer.evaluate()
    trainer.save_model()
    metric = figures["eval_f1" if settings["labels"] else "eval_loss"]
    measured = {"metric": metric, "loop": clock.ended - clock.began, "parameters": trainer.model.num_parameters()}
    if torch.cuda.is_available():
        measured["accelerator"] = clock.held
    Path(settings["result"]).write_text(json.dumps(measured))


def classifier(model: Any, classes: int, vocabulary: int) -> Any:
    """One of a folder, or a new one of some settings."""
    if isinstance(model, str):
        return AutoModelForSequenceClassification.from_pretrained(model, num_labels=classes)
    config = AutoConfig.for_model(**{"vocab_size": vocabulary} | model, num_labels=classes)
    return AutoModelForSequenceClassification.from_config(config)


def macro_f1(told: EvalPrediction) -> dict[str, float]:
    """The mean of the F1 of the classes."""
    from sklearn.metrics import f1_score

    return {"f1": float(f1_score(told.label_ids, told.predictions.argmax(-1), average="macro"))}


def with_labels(blocks: Dataset) -> Dataset:
    """Blocks whose tokens are their own targets; the model shifts them."""
    return blocks.add_column("labels", blocks["input_ids"][:])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
