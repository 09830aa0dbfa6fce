"""QuantizeJob: a smaller model, measured beside the one it came from, and a verdict."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lmops.api.base import API_VERSION, Model, exactly_one, rules
from lmops.api.compression import Accept, Calibration, Measurement, Search, Steps
from lmops.api.compressionreport import QuantizeJobStatus
from lmops.api.job import Job, JobSpec
from lmops.api.model import Task
from lmops.api.reference import ModelSource


class SourceModel(Model):
    """The model to compress."""

    from_: ModelSource = Field(alias="from")
    """Where it is."""
    task: Task | None = None
    """What it does. Default: as its passport says, or its configuration."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""


_QUANTIZED = "has(self.steps) && self.steps.exists(s, has(s.quantize))"


class QuantizeJobSpec(JobSpec):
    """What to compress, how, and what is good enough. Apart from `suspend` it cannot change: new settings are a new name."""

    model_config = rules(
        exactly_one("steps", "search"),
        (
            "!has(self.steps) || self.steps.filter(s, has(s.quantize)).size() <= 1",
            "a model is quantized once: keep one quantize step",
        ),
        (
            f"!({_QUANTIZED}) || has(self.steps[self.steps.size() - 1].quantize)",
            "what is quantized can be pruned no more: put quantize last",
        ),
    )

    model: SourceModel
    """The model to compress."""
    steps: Steps | None = None
    """What is done to it, in order."""
    search: Search | None = None
    """Finds the steps, in place of `steps`."""
    calibration: Calibration = Calibration()
    """The rows that show a method what flows through the model."""
    evaluation: Measurement = Measurement()
    """What both models are measured on."""
    accept: Accept | None = None
    """The limits by which the result passes, besides those of a search. Without any it always does."""


class QuantizeJob(Job):
    """A model compressed, measured beside the original, and judged."""

    api_version: Literal["lmops.dev/v1alpha1"] = API_VERSION
    """The version of this resource's form."""
    kind: Literal["QuantizeJob"] = "QuantizeJob"
    """The kind of this resource."""
    spec: QuantizeJobSpec
    """What to compress, how, and what is good enough."""
    status: QuantizeJobStatus = QuantizeJobStatus()
    """What was last observed."""
