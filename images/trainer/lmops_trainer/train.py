"""Trains one model on prepared data: one rank of it, on one CPU or on N nodes alike.

On one CPU:  python -m lmops_trainer train "$(cat run.json)"
On N nodes, on each:  PET_NNODES=N PET_NPROC_PER_NODE=8 PET_RDZV_BACKEND=c10d PET_RDZV_ID=run1 \
    PET_RDZV_ENDPOINT=first-node:29400 python -m lmops_trainer train "$(cat run.json)"
"""

from __future__ import annotations

import math
import os
import signal
from difflib import get_close_matches
from typing import Any

import torch
from transformers import TrainingArguments

from lmops.api import Result, Run
from lmops.api.trainingjob import RecipeSpec, TrainingSettings
from lmops.api.trainingstatus import Best
from lmops_trainer import models
from lmops_trainer.callbacks import Patience, Reporter, Rhythm, Schedule, Signals
from lmops_trainer.checkpoints import latest, passed_over
from lmops_trainer.data.configs import above_window
from lmops_trainer.data.prepared import Prepared
from lmops_trainer.endings import Stop, job_folder, scratch
from lmops_trainer.failures import Refusal
from lmops_trainer.log import log, quiet_libraries
from lmops_trainer.order import Examples, Order
from lmops_trainer.progress import Progress
from lmops_trainer.ranks import Processes
from lmops_trainer.scores import leading
from lmops_trainer.tasks import TASKS, Task, metrics
from lmops_trainer.trainer import Trainer
from lmops_trainer.uris import mounted


def train(run: Run) -> Result:
    """The best weights of a whole run; raises `Stop` when it was stopped, with the step whose checkpoint was saved."""
    os.environ["DISABLE_KUBEFLOW_INTEGRATION"] = "TRUE"  # our own reporter posts
    signals, progress = Signals(), Progress.from_environment()
    signals.install()
    quiet_libraries()
    try:
        return trained(run, prepared(run), Processes(), signals, progress)
    finally:
        progress.close()


def trained(run: Run, data: Prepared, processes: Processes, signals: Signals, progress: Progress) -> Result:
    """The run itself: from the last complete checkpoint, if there is one, to the last step."""
    trainer, schedule = assembled(run, data, processes, signals)
    root = job_folder(run) / "checkpoints"
    checkpoint = processes.of_first(lambda: latest(root))
    if checkpoint:
        trainer.remember(checkpoint.folder)
        log.info("resumes at step %d of attempt %d", checkpoint.step, checkpoint.attempt)
    if processes.is_first:
        for cut in passed_over(root, checkpoint):
            log.warning("%s of attempt %s is passed over: it is cut short", cut.name, cut.parent.name)
        report(run, trainer, schedule.steps, checkpoint.step if checkpoint else None, progress)
    torch.manual_seed(trainer.args.seed + processes.rank)  # processes drop out different units
    signals.noted = True
    if checkpoint and trainer.patience.is_over:
        trainer.stand_at(checkpoint.folder)
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    if number := schedule.stopped or signals.number * trainer.evaluation_is_owed:
        raise Stop(signal.Signals(number).name, trainer.state.global_step)
    return Result(best=outcome(run, trainer))


def prepared(run: Run) -> Prepared:
    """The data that the stage before has made."""
    if run.resolved.dataset is None:
        raise Refusal("Settings", "NotPrepared", "The document names no prepared data.", "Run the stage prepare first.")
    return Prepared.open(mounted(run.resolved.dataset.uri))


def assembled(run: Run, data: Prepared, processes: Processes, signals: Signals) -> tuple[Trainer, Schedule]:
    """The trainer with everything that it needs, and the schedule that rules it."""
    spec, settings = run.spec, run.spec.training
    task, tokenizer = TASKS[spec.model.task], data.tokenizer()
    metric = chosen_metric(spec, data.labels)
    micro, accumulation = batches(spec, processes.count)
    examples, validation = Examples(data.examples("train")), Examples(data.examples("validation"))
    order = Order(examples.lengths, micro, accumulation, processes.rank, processes.count, settings.seed)
    steps = settings.steps or math.ceil((settings.epochs or 3) * order.updates)
    precise = precision(settings.precision)
    args = arguments(spec, steps, micro, accumulation, precise, processes.count)
    model = models.start(spec.model, tokenizer, data.labels, settings.seed)
    fits(model, data)
    if processes.count > 1:
        args.ddp_find_unused_parameters = has_idle_weights(model, task, tokenizer, examples)
    trainer = Trainer(
        model, args, task=task, tokenizer=tokenizer, labels=data.labels, train=examples, validation=validation,
        order=order, metric=metric, patience=Patience(metric, settings.early_stopping), processes=processes,
        signals=signals, job=job_folder(run), attempt=run.run.attempt, keep=spec.checkpoint.keep,
        bf16=precise == "bf16", compiled=settings.compile,
    )  # fmt: skip
    processes.connect()
    trainer.best = processes.of_first(trainer.best_on_disk)
    schedule = Schedule(
        processes, signals, Rhythm(spec.evaluation.every, order.updates), Rhythm(spec.checkpoint.every, order.updates),
        lambda: trainer.watch.diverged, trainer.refuse, steps,
    )  # fmt: skip
    trainer.add_callback(schedule)
    return trainer, schedule


def report(run: Run, trainer: Trainer, steps: int, resumed: int | None, progress: Progress) -> None:
    """Has the first process tell of the run."""
    reporter = Reporter(job_folder(run), progress, steps, bool(run.spec.training.report_to))
    reporter.resume(resumed)
    trainer.add_callback(reporter)
    trainer.while_evaluating = lambda: reporter.tick(trainer.state)
    weights, trained = models.parameters(trainer.network)
    log.info(
        "%s with %s weights, %s of them trained; %d examples, %d steps, batches of %d",
        type(trainer.network).__name__, f"{weights:,}", f"{trained:,}", len(trainer.examples), steps,
        trainer.order.batch,
    )  # fmt: skip


def outcome(run: Run, trainer: Trainer) -> Best:
    """Which weights are to be evaluated: those of the best evaluation, or the last ones, as the job asks."""
    if trainer.evaluated is None or trainer.evaluated.step != trainer.state.global_step:
        trainer.evaluate()
    keep = run.spec.output.keep
    found = trainer.best if keep == "Best" else trainer.evaluated
    if found is None:
        raise Stop(signal.Signals(trainer.signals.number).name, None)
    if keep == "Last":
        trainer.together(lambda: trainer.save_model_folder("last", found))
    return found.model_copy(update={"path": f"{run.spec.workspace_uri.rstrip('/')}/jobs/{run.run.uid}/{keep.lower()}"})


def chosen_metric(spec: RecipeSpec, labels: list[str]) -> str:
    """The figure that chooses the best checkpoint, if the task has it."""
    task = TASKS[spec.model.task]
    metric = leading(task.name, spec.evaluation.metric)
    known = metrics(task.name, labels)
    if metric not in known:
        near = get_close_matches(metric, known, n=1, cutoff=0.5)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise Refusal(
            "Settings",
            "UnknownMetric",
            f"evaluation.metric {metric!r} is no figure of {task.name} on this data.{meant}",
            f"Use one of {', '.join(known[:12])}.",
        )
    return metric


def batches(spec: RecipeSpec, processes: int) -> tuple[int, int]:
    """Rows a process takes at a time, and how often it does so before the optimiser steps."""
    whole, micro = spec.training.batch_size, spec.training.micro_batch_size
    each, rest = divmod(whole, processes)
    if rest or not each:
        below, above = whole // processes * processes, -(-whole // processes) * processes
        use = " or ".join(str(size) for size in (below, above) if size)
        raise Refusal(
            "Settings",
            "BatchNotDivisible",
            f"training.batchSize {whole} does not divide into {processes} processes.",
            f"Use {use}.",
        )
    micro = micro or each
    if each % micro:
        fitting = [size for size in range(1, each + 1) if each % size == 0]
        raise Refusal(
            "Settings",
            "BatchNotDivisible",
            f"The {each} rows of training.batchSize {whole} that each of {processes} processes takes do not divide "
            f"into micro-batches of {micro}.",
            f"Use a microBatchSize of {min(fitting, key=lambda size: abs(size - micro))}.",
        )
    return micro, each // micro


def precision(asked: str | None) -> str:
    """The arithmetic of the forward pass."""
    accelerated = torch.cuda.is_available()
    if asked is None:
        return "bf16" if accelerated and torch.cuda.is_bf16_supported() else "fp32"
    if asked == "fp16" and not accelerated:
        if os.environ.get("LMOPS_FP16_AS_FP32") == "1":
            return "fp32"
        raise Refusal(
            "Settings",
            "PrecisionUnsupported",
            "training.precision fp16 needs an accelerator, and there is none.",
            "Leave precision out, or ask for an accelerator; `lmops local apply --cpu` takes fp16 as fp32.",
        )
    return asked


def arguments(
    spec: RecipeSpec, steps: int, micro: int, accumulation: int, precise: str, processes: int
) -> TrainingArguments:
    """What the base class is told; logging, evaluation and checkpoints are decided by our schedule."""
    settings = spec.training
    accelerated = torch.cuda.is_available()
    if accelerated:
        torch.set_float32_matmul_precision("high")
    return TrainingArguments(
        output_dir=str(scratch() / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate or (5e-4 if spec.model.from_.architecture else 5e-5),
        weight_decay=settings.weight_decay,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=warmup(settings, steps),
        max_grad_norm=settings.gradient_clipping,
        optim="adamw_torch_fused" if settings.optimizer == "AdamW" else "adafactor",
        seed=settings.seed,
        fp16=precise == "fp16",
        torch_compile=settings.compile,
        use_cpu=not accelerated,
        ddp_broadcast_buffers=False,  # they are constants
        ddp_backend=("nccl" if accelerated else "gloo") if processes > 1 else None,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would read the loss of every step
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        average_tokens_across_devices=False,
    )


def warmup(settings: TrainingSettings, steps: int) -> int:
    """The steps in which the learning rate rises."""
    if settings.warmup_steps is not None:
        return settings.warmup_steps
    return math.ceil(steps * (0.06 if settings.warmup_ratio is None else settings.warmup_ratio))


def fits(model: Any, data: Prepared) -> None:
    """Refuses data that is longer than the model's positions."""
    positions = models.window(model.config)
    if positions is not None and data.max_length > positions:
        raise above_window(data.max_length, positions)


def has_idle_weights(model: Any, task: Task, tokenizer: Any, examples: Examples) -> bool:
    """Whether some weights get no gradient: then the processes must look for them in every step, which costs time."""
    batch = task.collator(tokenizer, 0, evaluating=False)(examples.__getitems__([int(examples.lengths.argmin())]))
    reads = models.inputs(model)
    with torch.random.fork_rng(devices=[]):
        outputs = model(**{name: value for name, value in batch.items() if name in reads})
        torch.stack(list(task.losses(outputs, batch).values())).sum().backward()  # type: ignore[no-untyped-call]
    idle = any(weight.requires_grad and weight.grad is None for weight in model.parameters())
    model.zero_grad()
    return idle


__all__ = ["train"]
