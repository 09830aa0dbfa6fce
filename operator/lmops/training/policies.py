"""What is refused before anything starts, each with the sentence that says what to change.

The rules of one field or of siblings stand with the types, in CEL; here are those that need more than the spec's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmops.api import Failure, TrainingJob
from lmops.jobs.failure import failure
from lmops.jobs.policies import fits, volumes_are_shared
from lmops.plan import Observed

CLASSIFICATION = ("accuracy", "precision", "recall", "f1", "mcc")


def refusal(job: TrainingJob, document: str, claims: Sequence[str], observed: Observed) -> Failure | None:
    """The first policy that the job does not meet; `document` is what its runtime is told, `claims` what it mounts."""
    found = next((why for policy in POLICIES if (why := policy(job))), None)
    return found or fits(document) or nodes_share_volumes(job, claims, observed)


def batch_divides(job: TrainingJob) -> Failure | None:
    """Every process takes the same number of rows, a whole number of times."""
    training, world = job.spec.training, job.spec.resources.world
    share = (training.micro_batch_size or 1) * world
    if job.spec.trainer or training.batch_size % share == 0:
        return None
    rows = f" with {training.micro_batch_size} rows on each" if training.micro_batch_size else ""
    processes = "1 process" if world == 1 else f"{world} processes"
    below, above = training.batch_size // share * share, (training.batch_size // share + 1) * share
    return failure(
        "Settings",
        "BatchDoesNotDivide",
        f"training.batchSize {training.batch_size} does not divide into {processes}{rows}.",
        remedy="Set training.batchSize to " + (f"{below} or {above}." if below else f"{above}."),
    )


def metric_suits_the_task(job: TrainingJob) -> Failure | None:
    """A classifier has no perplexity, a language model no F1."""
    metric, model = job.spec.evaluation.metric, job.spec.model
    if metric is None or metric == "loss" or model is None:
        return None
    task = model.task
    name = metric.partition(":")[0]
    suits = {
        "SequenceClassification": CLASSIFICATION,
        "CausalLM": ("perplexity",),
        "MaskedLM": ("maskedPerplexity",),
        "BertPreTraining": ("maskedPerplexity", "accuracy"),
    }[task]
    if name in suits:
        return None
    return failure(
        "Settings",
        "MetricDoesNotSuit",
        f"evaluation.metric {metric} means nothing for {task}.",
        remedy=f"Set evaluation.metric to {', '.join(('loss', *suits[:-1]))} or {suits[-1]}.",
    )


def precision_needs_an_accelerator(job: TrainingJob) -> Failure | None:
    """Processors have no fp16 arithmetic to train with."""
    if job.spec.trainer or job.spec.training.precision != "fp16" or job.spec.resources.accelerator:
        return None
    return failure(
        "Settings",
        "PrecisionNeedsAccelerator",
        "training.precision fp16 needs an accelerator, and resources.accelerator is not set.",
        remedy="Ask for an accelerator, or leave training.precision out.",
    )


def nodes_share_volumes(job: TrainingJob, claims: Sequence[str], observed: Observed) -> Failure | None:
    """The pods of several nodes run at once."""
    if (nodes := job.spec.resources.nodes) == 1:
        return None
    return volumes_are_shared(f"{nodes} nodes", claims, observed, "set resources.nodes to 1")


POLICIES: tuple[Callable[[TrainingJob], Failure | None], ...] = (
    batch_divides,
    metric_suits_the_task,
    precision_needs_an_accelerator,
)
