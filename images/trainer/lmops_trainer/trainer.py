"""Hugging Face's Trainer with an order, a loss, an evaluation and checkpoints of our own around its loop."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader
from transformers.trainer_callback import PrinterCallback, TrainerState

from lmops.api.status import Failure
from lmops.api.trainingstatus import Best
from lmops_trainer import models
from lmops_trainer.callbacks import Patience, Signals
from lmops_trainer.checkpoints import complete, prune, recover, remove, replaced, seal
from lmops_trainer.divergence import Watch, not_finite
from lmops_trainer.failures import Refusal, disk_full, failure_of
from lmops_trainer.log import log
from lmops_trainer.order import Examples, Order
from lmops_trainer.ranks import Processes
from lmops_trainer.scores import is_better
from lmops_trainer.tasks import Batch, Tally, Task
from lmops_trainer.validation import nothing_to_tell, tally

TARGETS = ("labels", "next_sentence_label")
BEST = "best.json"
MEMORY = "training.json"


class Trainer(transformers.Trainer):
    """Trains one model for one task. What else the base class of 4,700 lines would do is off in its arguments."""

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        args: transformers.TrainingArguments,
        *,
        task: Task,
        tokenizer: Any,
        labels: list[str],
        train: Examples,
        validation: Examples,
        order: Order,
        metric: str,
        patience: Patience,
        processes: Processes,
        signals: Signals,
        job: Path,
        attempt: int,
        keep: int,
        bf16: bool,
        compiled: bool,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=train, data_collator=dict)
        self.remove_callback(PrinterCallback)
        for module in model.modules():  # looks for padding in every batch without a mask, and a GPU would wait for that
            if hasattr(module, "warn_if_padding_and_no_attention_mask"):
                module.warn_if_padding_and_no_attention_mask = lambda *unused: None  # type: ignore[assignment]
        self.loss_is_scaled_for_ga = True
        self.network = model  # self.model, whose type the base class leaves open
        self.task, self.tokenizer, self.labels = task, tokenizer, labels
        self.examples, self.validation, self.order = train, validation, order
        self.metric, self.patience = metric, patience
        self.processes, self.signals = processes, signals
        self.job, self.attempt, self.keep = job, attempt, keep
        self.bf16 = bf16
        multiple = 8 if bf16 or args.fp16 else 1  # the widths that tensor cores work in
        self.collate = task.collator(tokenizer, args.seed, evaluating=False, multiple=multiple)
        self.collate_evaluation = task.collator(tokenizer, args.seed, evaluating=True, multiple=multiple)
        self.reads = models.inputs(model)
        self.losses: Callable[..., dict[str, torch.Tensor]] = torch.compile(task.losses) if compiled else task.losses
        self.watch = Watch(on_cpu=args.device.type == "cpu")
        self.evaluated: Best | None = None
        self.evaluation_is_owed = False
        self.best: Best | None = None
        self.while_evaluating: Callable[[], None] = lambda: None
        self._targets: dict[str, float] = {}
        self._seen, self._seen_since = Counter[str](), time.monotonic()

    # The order and the batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of this process. With a generator of its own the loader leaves the model's random numbers alone."""
        return DataLoader(
            self.examples,  # type: ignore[arg-type]
            batch_sampler=self.order,
            collate_fn=self.collate,
            pin_memory=self.args.device.type == "cuda",
            generator=torch.Generator(),
        )

    def _run_epoch(self, *unnamed: Any, **loop: Any) -> None:
        self.order.epoch = loop["epoch"]
        if hasattr(self.collate, "epoch"):
            self.collate.epoch = loop["epoch"]
        super()._run_epoch(*unnamed, **loop)  # type: ignore[no-untyped-call]

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], None]:
        """The batches of one optimiser step, and their targets over all processes: what the loss is divided by."""
        batches = list(islice(epoch_iterator, num_batches))
        targets = Counter[str]()
        for batch in batches:
            targets.update(self.task.targets(batch))
            self._seen.update(rows=len(batch["input_ids"]), tokens=int(batch["attention_mask"].sum()))
        parts = sorted(targets)
        totals = self.processes.total([targets[part] for part in parts])
        self._targets = dict(zip(parts, totals, strict=True))
        return batches, None

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        """The batch on the device. A mask that hides nothing is left out: attention is faster without one."""
        whole = bool(inputs["attention_mask"].all())
        wanted = (self.reads - {"attention_mask"} if whole else self.reads) | {*TARGETS}
        return {name: value.to(self.args.device, non_blocking=True) for name, value in inputs.items() if name in wanted}

    # The loss

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The mean over the targets of the whole optimiser step, however they fell into micro-batches and processes."""
        outputs = model(**{name: value for name, value in inputs.items() if name not in TARGETS})
        sums = self.losses(outputs, {name: inputs[name] for name in TARGETS if name in inputs})
        parts = [value / max(1.0, self._targets[part]) for part, value in sums.items()]
        # Gradients are averaged over processes; their sum is wanted.
        return torch.stack(parts).sum() * self.processes.count

    def compute_loss_context_manager(self) -> Any:
        """bfloat16 where it was chosen; fp16 is the base class's, with its scaling."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.args.device.type, torch.bfloat16)

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch."""
        loss: torch.Tensor = super().training_step(model, inputs, None)
        self.watch.add_loss(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        self.watch.end_step(self.state.global_step + 1, norm)
        return norm

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the base class would walk through all weights for each micro-batch."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A point of the training curves, with the speed since the last one."""
        if "loss" not in logs:
            return
        now = time.monotonic()
        names = ("tokens", "rows")
        totals = self.processes.total([self._seen[name] for name in names])
        for name, total in zip(names, totals, strict=True):
            logs[f"{name}_per_second"] = round(total / max(1e-9, now - self._seen_since), 2)
        self._seen, self._seen_since = Counter(), now
        super().log(logs)

    # The evaluation

    def evaluate(self, *unused: Any, **unused_too: Any) -> dict[str, float]:
        """Scores the validation rows, each once, and keeps the model if it is the best so far."""
        self.watch.settle()
        if self.watch.diverged:
            self.refuse()
        counted = self._tally()
        self._seen_since = time.monotonic()
        self._seen.clear()
        if counted is None:  # stopped half-way: a checkpoint is saved, and the next attempt begins with this evaluation
            self.evaluation_is_owed = True
            self.control.should_save = self.control.should_training_stop = True
            return {}
        self.evaluation_is_owed = False
        if not any(counted.targets.values()):
            raise nothing_to_tell()
        figures = self.task.scores(counted, self.labels)
        value = figures[self.metric]
        if not math.isfinite(figures["loss"]):
            raise not_finite(figures["loss"], self.state.global_step, self.remedy)
        step = self.state.global_step
        self.evaluated = Best(step=step, metric=self.metric, value=value)
        self.patience.see(value)
        if self.best is None or is_better(self.metric, value, self.best.value):
            self.best = self.evaluated
            self.together(lambda: self.save_model_folder("best", self.evaluated))
        metrics = {f"eval_{name}": figure for name, figure in figures.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.patience.is_over and not self.control.should_training_stop:
            log.info("step %d: %d evaluations brought nothing better: training ends", step, self.patience.misses)
            self.control.should_training_stop = True
        return metrics

    def _tally(self) -> Tally | None:
        self.network.eval()  # type: ignore[no-untyped-call]
        batch = self.args.per_device_train_batch_size  # what fits in training fits here, logits of a vocabulary too
        return tally(self.validation, batch, self._scored, self.processes, self.signals, self.while_evaluating)

    @torch.no_grad()
    def _scored(self, examples: list[dict[str, Any]]) -> Tally:
        batch = self.collate_evaluation(examples)
        inputs = self._prepare_inputs(batch)
        with self.compute_loss_context_manager():
            outputs = self.network(**{name: value for name, value in inputs.items() if name not in TARGETS})
            sums = {part: float(value) for part, value in self.task.losses(outputs, inputs).items()}
        labels, probabilities = self.task.told(outputs, batch)
        rows = [int(example["row"]) for example in examples] if labels else []
        return Tally(sums, self.task.targets(batch), rows, labels, probabilities)

    # Saving

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """A checkpoint of this attempt: whole, or removed."""
        self.watch.settle()
        if any(self.processes.largest([self.watch.diverged])):
            self.refuse()
        step, root = self.state.global_step, self.job / "checkpoints"
        folder = root / str(self.attempt) / f"checkpoint-{step}"
        if any(self.processes.largest([any(found.folder == folder for found in complete(root))])):
            return
        first = self.processes.is_first
        try:
            self.together(lambda: self._clear(folder) if first else None)
            self.together(lambda: self._write(folder))
            self.together(lambda: seal(folder, step) if first else None)
        except BaseException:
            if first:
                remove(folder)
            raise
        if first:
            prune(root, self.keep, self.attempt)

    def _clear(self, folder: Path) -> None:
        remove(folder)
        folder.mkdir(parents=True)

    def _write(self, folder: Path) -> None:
        try:
            self._save_rng_state(str(folder))
            if self.processes.is_first:
                self.network.save_pretrained(folder)
                self._save_optimizer_and_scheduler(str(folder))
                self._save_scaler(str(folder))
                self.state.save_to_json(str(folder / "trainer_state.json"))
                (folder / MEMORY).write_text(json.dumps(self._memory()))
        except Exception as error:
            if failure_of(error).reason == "DiskFull":  # the writers below do not say where
                raise disk_full(folder) from error
            raise

    def _memory(self) -> dict[str, Any]:
        return {
            "evaluated": self.evaluated.manifest() if self.evaluated else None,
            "evaluationIsOwed": self.evaluation_is_owed,
            "patience": {"best": self.patience.best, "misses": self.patience.misses},
        }

    def remember(self, folder: Path) -> None:
        """Takes up what the checkpoint knows besides weights and state."""
        memory = json.loads((folder / MEMORY).read_text())
        self.evaluated = Best.model_validate(memory["evaluated"]) if memory["evaluated"] else None
        self.evaluation_is_owed = self.args.eval_on_start = memory["evaluationIsOwed"]
        self.patience.best, self.patience.misses = memory["patience"]["best"], memory["patience"]["misses"]

    def stand_at(self, folder: Path) -> None:
        """Takes up weights and state of a checkpoint without training on."""
        self._load_from_checkpoint(str(folder))
        self.state = TrainerState.load_from_json(str(folder / "trainer_state.json"))

    def save_model_folder(self, name: str, best: Best | None) -> None:
        """The model as a folder of the job, in place of the one before; the first process writes it."""
        if not self.processes.is_first or best is None:
            return
        with replaced(self.job / name, BEST) as folder:
            self.network.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            (folder / BEST).write_text(json.dumps(best.manifest()))

    def best_on_disk(self) -> Best | None:
        """The best model that any attempt has saved: its folder knows more than a checkpoint from before it."""
        recover(self.job / "best", BEST)
        try:
            found = Best.model_validate_json((self.job / "best" / BEST).read_text())
        except (OSError, ValueError):
            return None
        return found if found.metric == self.metric else None

    # Together

    def together(self, act: Callable[[], None]) -> None:
        """Acts, and if any process could not, all of them end for its reason."""
        failed: BaseException | None = None
        try:
            act()
        except Exception as error:
            failed = error
        told = self.processes.gathered(failure_of(failed).manifest() if failed else None)
        if failed:
            raise failed
        if reason := next((one for one in told if one), None):
            known = Failure.model_validate(reason)
            raise Refusal(known.class_, known.reason, known.message, known.remedy, known.evidence)

    def refuse(self) -> None:
        """Ends the run because the loss is no number any more."""
        raise self.watch.refusal(self.state.epoch or 0.0, self.remedy)

    @property
    def remedy(self) -> str:
        """What to do about a loss that is no number."""
        saved = [found.step for found in complete(self.job / "checkpoints")]
        intact = f"the checkpoint of step {max(saved)} is intact." if saved else "there is no checkpoint yet."
        return (
            f"Lower training.learningRate ({self.args.learning_rate:.3g} now) or raise training.warmupRatio; {intact}"
        )
