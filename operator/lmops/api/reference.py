"""References to models: a place, or the job of this namespace that makes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lmops.api.affinity import Labels
from lmops.api.base import Model, Name, Report, Text, Time, Uri, Word, exactly_one, rules


class Selector(Model):
    """Labels that a job must have."""

    match_labels: Annotated[Labels, Field(min_length=1)]
    """The labels, all of them."""


class JobReference(Model):
    """A job of the same namespace, by its name or by its labels."""

    model_config = rules(exactly_one("name", "selector"))

    name: Name | None = None
    """The job of this name."""
    selector: Selector | None = None
    """The newest job with these labels that has come to a good end."""


class ModelSource(Model):
    """Where a trained model is taken from. A job is resolved once, when it has come to a good end, and never followed."""

    model_config = rules(exactly_one("uri", "trainingJob", "quantizeJob"))

    uri: Uri | None = None
    """A folder with safetensors weights on a volume, or a model on the hub."""
    training_job: JobReference | None = None
    """The model that a TrainingJob has published."""
    quantize_job: JobReference | None = None
    """The model that a QuantizeJob has published, once it has passed: what it left in safetensors can be compressed further."""


class ResolvedModel(Report):
    """The model that a reference led to. It stays the same, whatever becomes of the job that made it."""

    uri: Text
    """Its folder."""
    digest: Word | None = None
    """The digest that its job reported."""
    format: Word | None = None
    """What it is stored as, by its job: safetensors, onnx or executorch."""
    task: Word | None = None
    """What it was trained for, by its TrainingJob."""
    dataset: Text | None = None
    """Where the prepared data lies that it was trained and tested on."""
    kind: Word | None = None
    """The kind of the job that made it."""
    name: Word | None = None
    """The name of that job."""
    uid: Word | None = None
    """The UID of that job."""
    completed_at: Time | None = None
    """When that job was done."""
