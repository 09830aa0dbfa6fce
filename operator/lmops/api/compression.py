"""How a model is compressed: the steps, the rows that calibrate them, what is measured, and what is good enough."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import Model, at_least_one, exactly_one, rules
from lmops.api.dataset import Source
from lmops.api.trainingjob import Metric

PruneMethod = Literal["Magnitude", "Wanda", "SparseGPT", "Neurons"]
QuantizeMethod = Literal["Dynamic", "Static", "Mobile", "MixedPrecision", "WeightOnly", "FP8"]
LayerNames = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=64)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Recovery(Model):
    """A short fine-tune on the training rows, in which what was pruned stays pruned."""

    steps: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Rows in one step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """The highest learning rate; it falls linearly."""


class Prune(Model):
    """Weights that are set to zero, or neurons and heads that are taken out."""

    model_config = rules(
        ("!has(self.pattern) || !has(self.sparsity)", "pattern says how many weights go: leave sparsity out"),
        ("!has(self.pattern) || self.method != 'Neurons'", "Neurons takes whole neurons out: leave pattern out"),
        ("!has(self.heads) || self.method == 'Neurons'", "heads goes with method Neurons"),
    )

    method: PruneMethod
    """Magnitude: the smallest weights go. Wanda: those of the smallest |weight| x input norm (arXiv 2306.11695). SparseGPT: the others make up for those that go (arXiv 2301.00774). Neurons: whole feed-forward neurons and heads are removed, so that the model gets smaller and faster everywhere."""
    sparsity: Share | None = None
    """The share of the weights, or of the feed-forward neurons, that goes. Default: 0.5, and 0.25 of the neurons."""
    pattern: Annotated[str, Field(pattern=r"^[1-9][0-9]?:[1-9][0-9]?$", max_length=5)] | None = None
    """At most N weights stay in each group of M along the input, as in 2:4."""
    heads: Share | None = None
    """The share of the attention heads that goes, with Neurons. Default: none. Such a model is loaded by lmops, and by others once it is quantized."""
    exclude: LayerNames = []
    """Layers that stay as they are, by name, as `*.attention.*`."""
    recovery: Recovery | None = None
    """A short fine-tune afterwards."""

    @property
    def share(self) -> float:
        """The share of the weights or neurons that goes."""
        if self.pattern:
            stay, of = map(int, self.pattern.split(":"))
            return 1 - stay / of
        return self.sparsity or (0.25 if self.method == "Neurons" else 0.5)


class Quantize(Model):
    """Weights, and by some methods what flows between them, in fewer bits."""

    model_config = rules(
        (
            "!has(self.bits) || self.method == 'WeightOnly' || self.method == 'MixedPrecision'",
            "bits goes with WeightOnly and MixedPrecision; Dynamic, Static and Mobile are int8",
        ),
        (
            "!has(self.bits) || self.method != 'WeightOnly' || self.bits == 4.0 || self.bits == 8.0",
            "WeightOnly has 4 or 8 bits",
        ),
        (
            "!has(self.groupSize) || self.method == 'WeightOnly' || self.method == 'MixedPrecision'",
            "groupSize goes with WeightOnly and MixedPrecision",
        ),
        ("!has(self.choices) || self.method == 'MixedPrecision'", "choices goes with MixedPrecision"),
        (
            "!has(self.choices) || self.choices.all(c, self.choices.exists_one(d, d == c))",
            "choices names the same bits twice",
        ),
        (
            "self.method != 'MixedPrecision' || (has(self.choices) ? self.choices : [4, 8])"
            ".exists(c, double(c) <= (has(self.bits) ? self.bits : 6.0))",
            "bits is an average: raise it to the fewest of choices at least",
        ),
        (
            "self.method != 'MixedPrecision' || (has(self.choices) ? self.choices : [4, 8])"
            ".exists(c, double(c) >= (has(self.bits) ? self.bits : 6.0))",
            "bits is an average: lower it to the most of choices, or add more bits to choices",
        ),
    )

    method: QuantizeMethod
    """Dynamic: int8 weights, activations as they come, token by token (ONNX Runtime). Static: int8 with ranges from calibration, channel by channel (ONNX Runtime). Mobile: an int8 ExecuTorch program. MixedPrecision: bits by layer, as sensitive as each was measured. WeightOnly: int4 or int8 in groups (ONNX Runtime). FP8: for serving on GPUs."""
    bits: Annotated[float, Field(ge=2, le=16)] | None = None
    """Bits of a weight: 4 or 8 for WeightOnly, the average over all layers for MixedPrecision. Default: 4 and 6."""
    group_size: Literal[16, 32, 64, 128, 256] | None = None
    """Weights that share a scale. Default: 32."""
    choices: Annotated[list[Literal[4, 8, 16]], Field(min_length=2, max_length=3)] | None = None
    """The bits that a layer may have. Default: 4 and 8."""
    exclude: LayerNames = []
    """Layers that stay as they are, by name, as `*.classifier`."""

    @property
    def weight_bits(self) -> float:
        """Bits of a weight, on average."""
        defaults = {"WeightOnly": 4.0, "MixedPrecision": 6.0}
        return self.bits or defaults.get(self.method, 8.0)


class Step(Model):
    """One thing that is done to the model."""

    model_config = rules(exactly_one("prune", "quantize"))

    prune: Prune | None = None
    """Takes weights out."""
    quantize: Quantize | None = None
    """Stores weights in fewer bits."""

    @property
    def words(self) -> str:
        """The step as a column shows it: `SparseGPT 2:4`, `Neurons 25%`, `WeightOnly 4 bit`, `WeightOnly 4 bit g128`."""
        if self.prune:
            how = self.prune.pattern or f"{self.prune.share:.0%}"
            heads = f" heads {self.prune.heads:.0%}" if self.prune.heads else ""
            return f"{self.prune.method} {how}{heads}{', recovered' if self.prune.recovery else ''}"
        assert self.quantize
        group = f" g{self.quantize.group_size}" if self.quantize.group_size else ""
        return f"{self.quantize.method} {self.quantize.weight_bits:g} bit{group}"


Steps = Annotated[list[Step], Field(min_length=1, max_length=8)]


def words(steps: list[Step]) -> str:
    """Steps in the order in which they are done."""
    return " + ".join(step.words for step in steps)


class Calibration(Model):
    """The rows that show a method what flows through the model."""

    from_: Source | None = Field(default=None, alias="from")
    """Rows of their own. Default: training rows of the job that made the model."""
    rows: Annotated[int, Field(ge=8, le=65_536)] = 128
    """How many rows are drawn."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """The seed of the draw."""


class Measurement(Model):
    """What both models are measured on."""

    from_: Source | None = Field(default=None, alias="from")
    """Rows of their own. Default: the very test rows of the job that made the model."""
    rows: Annotated[int, Field(ge=8)] | None = None
    """The most rows that are scored. Default: all of them."""
    metric: Metric | None = None
    """What quality means. Default: that of the job that made the model; else f1 for SequenceClassification and perplexity for CausalLM."""
    batch_sizes: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1, max_length=4)] = [1]
    """Rows in one call, for latency."""
    lengths: Annotated[list[Annotated[int, Field(ge=1, le=131_072)]], Field(min_length=1, max_length=4)] | None = None
    """Tokens of a row, for latency. Default: 128, or what the model is given at most."""
    repeats: Annotated[int, Field(ge=5, le=10_000)] = 50
    """Calls of each model, in turn, at each size."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Threads of both models. Default: one a core of `resources.perNode.cpu`, else one."""


class Limits(Model):
    """What is good enough: the original divided by the compressed, or the other way round, as the name says."""

    max_quality_drop: Annotated[float, Field(ge=0)] | None = None
    """By how much quality may fall: in points of the metric (0.01 of f1), or as a share where less is better (0.01 of perplexity is 1 %)."""
    min_size_ratio: Annotated[float, Field(gt=0)] | None = None
    """How many times smaller the files must be."""
    max_latency_ratio: Annotated[float, Field(gt=0)] | None = None
    """The median latency, as a share of the original's: 0.5 is twice as fast."""
    max_memory_ratio: Annotated[float, Field(gt=0)] | None = None
    """The peak memory, as a share of the original's."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """The share of predictions (next tokens, for a language model) that must be the same."""


class Accept(Limits):
    """The limits by which the result passes. A figure that cannot be had does not pass."""

    model_config = rules(
        at_least_one("maxQualityDrop", "minSizeRatio", "maxLatencyRatio", "maxMemoryRatio", "minAgreement")
    )

    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Where set, quality and agreement pass only if the bound of their interval does: 0.95 is sure. Default: the figures themselves count."""


class Alternatives(Model):
    """What may stand at one place of the steps."""

    one_of: Steps
    """The steps that are tried here."""
    optional: bool = False
    """Whether nothing at all is tried here too."""


class Search(Model):
    """Tries combinations of steps: all of them on few rows, ever fewer on more, and the best on the test rows."""

    objective: Literal["Size", "Latency", "Memory"] = "Size"
    """What is made as small as the limits allow."""
    limits: Limits = Limits(max_quality_drop=0.01)
    """What a combination must keep to be chosen, on the rows that choose, and its model to pass, on those that are scored."""
    steps: Annotated[list[Alternatives], Field(min_length=1, max_length=4)]
    """The places, in order, and what may stand at each."""
    trials: Annotated[int, Field(ge=1, le=256)] = 16
    """How many combinations are begun; where there are more, they are drawn by the seed of the calibration."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """How long an attempt may go on to begin new measurements; after a restart it is counted anew."""
