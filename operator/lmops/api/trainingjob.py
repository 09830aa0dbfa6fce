"""TrainingJob: prepared data, one training run on N nodes, and a measured model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import API_VERSION, Model, Name, at_least_one, at_most_one, rules, untouched
from lmops.api.dataset import Dataset
from lmops.api.job import Job, JobSpec, NodeResources, Output
from lmops.api.model import ModelSpec
from lmops.api.pod import DnsName
from lmops.api.trainingstatus import TrainingJobStatus

Metric = Annotated[
    str,
    Field(pattern=r"^(loss|perplexity|maskedPerplexity|accuracy|precision|recall|f1|mcc|f1:.{1,64})$", max_length=80),
]


class Every(Model):
    """A rhythm: whichever of these comes first."""

    model_config = rules(at_least_one("steps", "epochs", "minutes"))

    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training rows; 0.5 is twice an epoch."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes of training."""


class EarlyStopping(Model):
    """Ends training when the evaluation metric no longer improves."""

    patience: Annotated[int, Field(ge=1)] = 3
    """How many evaluations in a row may bring nothing better."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much a value must be better to count."""


class TrainingSettings(Model):
    """How the model is trained."""

    model_config = rules(
        at_most_one("epochs", "steps"),
        at_most_one("warmupRatio", "warmupSteps"),
        ("!has(self.microBatchSize) || self.microBatchSize <= self.batchSize", "microBatchSize is above batchSize"),
    )

    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training rows. Default: 3, where `steps` is not set."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps, instead of epochs."""
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = 32
    """Rows (blocks, for packed language models) in one optimiser step, over all processes together."""
    micro_batch_size: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Rows that one process takes at a time; gradients accumulate until `batchSize` is reached. Default: batchSize over all processes."""
    optimizer: Literal["AdamW", "Adafactor"] = "AdamW"
    """AdamW, or Adafactor where memory is scarce."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The highest learning rate. Default: 5e-5 for trained weights, 5e-4 from scratch."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decay of the weights, not of biases and norms."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """The share of the steps in which the learning rate rises. Default: 0.06, where `warmupSteps` is not set."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The number of steps in which the learning rate rises."""
    precision: Literal["fp32", "fp16", "bf16"] | None = None
    """The arithmetic of the forward pass. Default: bf16 on an accelerator that has it, else fp32."""
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0
    """The largest norm of the gradient; 0 leaves it as it is."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """The seed of the split, the order, the masks and the weights."""
    early_stopping: EarlyStopping | None = None
    """When to stop before the last step."""
    compile: bool = False
    """Whether the model is compiled first: slower to start, faster to run."""
    packing: bool = True
    """Whether language models read blocks of full length, made of texts put end to end. Otherwise each text is a row."""
    report_to: Annotated[list[Literal["TensorBoard"]], Field(max_length=1)] = []
    """Where the metrics go besides `metrics.jsonl` and the status."""


class Evaluation(Model):
    """How checkpoints are compared."""

    metric: Metric | None = None
    """What chooses the best checkpoint; `f1` is the macro average, `f1:LABEL` one class. Default: f1 for SequenceClassification, else loss."""
    every: Every = Every(epochs=1)
    """How often the validation rows are scored."""


class Checkpoint(Model):
    """From what a lost run goes on. A checkpoint that was cut short is ignored."""

    every: Every = Every(minutes=5)
    """How often the whole state is saved, besides once at a termination signal."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """How many complete checkpoints stay."""


class Resources(NodeResources):
    """The machines of the training run."""

    nodes: Annotated[int, Field(ge=1, le=4096)] = 1
    """Pods that train together."""
    processes_per_node: Annotated[int, Field(ge=1, le=256)] | None = None
    """Training processes in a pod. Default: one an accelerator, else one."""

    @property
    def processes(self) -> int:
        """Training processes in one pod."""
        return self.processes_per_node or (self.accelerator.per_node if self.accelerator else 1)

    @property
    def world(self) -> int:
        """Training processes in the whole run."""
        return self.nodes * self.processes


class ModelOutput(Output):
    """Where models go, and which."""

    keep: Literal["Best", "Last"] = "Best"
    """Which weights are published: those of the best evaluation, or those of the last step."""


class OwnTrainer(Model):
    """A program of your own in place of ours. Built on Hugging Face's Trainer it reports its progress by itself.

    It runs on every node with torchrun's `PET_*` variables, so that `torchrun train.py` needs no flags. It finds
    `LMOPS_OUTPUT`, the folder of `output.uri`, and `LMOPS_CHECKPOINTS`, a folder that all attempts of the job share:
    what is saved there survives a restart.
    """

    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^\S+$")]
    """The image that holds the program."""
    command: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(min_length=1, max_length=64)]
    """The program and its arguments; `$(NAME)` stands for the value of a variable."""
    volumes: Annotated[list[DnsName], Field(max_length=16)] = []
    """Claims to mount besides those of `output` and `workspace`, each at `$(LMOPS_VOLUMES)/<claim>`."""


RECIPE: dict[str, Model] = {"training": TrainingSettings(), "evaluation": Evaluation(), "checkpoint": Checkpoint()}
"""What only our own trainer reads, as it is by default."""


class TrainingJobSpec(JobSpec):
    """What to train, on what, and where to put it. Apart from `suspend` it cannot change: new settings are a new name."""

    model_config = rules(
        ("has(self.trainer) || has(self.model)", "set model, or a trainer of your own"),
        ("has(self.trainer) || has(self.dataset)", "set dataset, or a trainer of your own"),
        ("!has(self.trainer) || !has(self.model)", "a trainer of your own brings its model: leave model out"),
        ("!has(self.trainer) || !has(self.dataset)", "a trainer of your own reads its data itself: leave dataset out"),
        *(
            (
                f"!has(self.trainer) || ({untouched(f'self.{name}', section)})",
                f"a trainer of your own has settings of its own: leave {name} out",
            )
            for name, section in RECIPE.items()
        ),
    )

    model: ModelSpec | None = None
    """The model to train, and for what."""
    dataset: Dataset | None = None
    """The data."""
    trainer: OwnTrainer | None = None
    """A program of your own, in place of `model`, `dataset`, `training`, `evaluation` and `checkpoint`. It finds torchrun's `PET_*` variables, `LMOPS_OUTPUT` (the folder of `output.uri`, which it makes) and `LMOPS_CHECKPOINTS` (a folder that all attempts share)."""
    training: TrainingSettings = TrainingSettings()
    """How the model is trained."""
    evaluation: Evaluation = Evaluation()
    """How checkpoints are compared."""
    checkpoint: Checkpoint = Checkpoint()
    """From what a lost run goes on."""
    output: ModelOutput
    """Where the model goes."""
    resources: Resources = Resources()
    """The machines of the training run."""


class RecipeSpec(TrainingJobSpec):
    """The spec of a job that our own trainer runs: its model and its data are given."""

    model: ModelSpec
    """The model to train, and for what."""
    dataset: Dataset
    """The data."""


class TrainingJob(Job):
    """A language model's training: data preparation, a training run on N nodes, and an evaluation."""

    api_version: Literal["lmops.dev/v1alpha1"] = API_VERSION
    """The version of this resource's form."""
    kind: Literal["TrainingJob"] = "TrainingJob"
    """The kind of this resource."""
    spec: TrainingJobSpec
    """What to train, on what, and where to put it."""
    status: TrainingJobStatus = TrainingJobStatus()
    """What was last observed."""


__all__ = ["Metric", "Name", "RecipeSpec", "TrainingJob", "TrainingJobSpec"]
