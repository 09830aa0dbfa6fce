"""MixedPrecision: each layer has the bits that it needs, as sensitive as it was measured to be.

How far the outputs move (KL divergence) when one layer alone is rounded says what its bits are worth, as in HAWQ
(arXiv 1905.03696) and ZeroQ (arXiv 2001.00281), which measure it otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn

from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor import blocks, graph
from lmops_compressor.methods import Subject, Tell, quantizable, unchanged
from lmops_compressor.methods.weight_only import GROUP
from lmops_compressor.rows import Draw, Rows
from lmops_trainer import models
from lmops_trainer.failures import Refusal

FULL, EMBEDDING = 16, 8
"""Bits at which a weight is kept as a float, and those of the embeddings, which are no layer."""
CHOICES = [4, 8]
TOKENS = {"SequenceClassification": 4096, "CausalLM": 1024, "MaskedLM": 1024}
"""Of the rows that sensitivity is measured on; each token of a language model tells as much as a row with a class."""
BATCH = 128
"""Tokens in one pass over a vocabulary: three sets of scores are held at once."""
Sensitivity = Mapping[str, Mapping[int, float]]
"""Of each layer, by bits: the mean KL divergence in nats."""


def quantize(subject: Subject, how: Quantize, draw: Draw, target: Path, tell: Tell) -> Change:
    """Measures each layer on the rows, chooses bits within the average, and packs."""
    chosen, size = sorted({*(how.choices or CHOICES)}), how.group_size or GROUP
    linear, rows = quantizable(subject.model, how), draw()
    _fits(chosen, how.weight_bits, linear, rows)
    sizes = {name: module.weight.numel() for name, module in linear.items()}  # type: ignore[operator]
    found = sensitivity(subject, linear, [b for b in chosen if b < FULL], size, rows, lambda share: tell(0.6 * share))
    bits = allocated(found, sizes, chosen, how.weight_bits)
    del linear
    with graph.exported(subject, target) as path:
        tell(0.8)
        model = ir.load(path)
        for name, node in graph.matmuls(model.graph, list(bits)).items():
            if bits[name] == FULL:
                _halve(model.graph, node)
            else:
                blocks.quantize_layer(model.graph, node, bits[name], size)
        for node in graph.heads(model.graph).values():
            blocks.quantize_layer(model.graph, node, EMBEDDING, size)
        blocks.quantize_embeddings(model.graph, EMBEDDING, size)
        model.graph.opset_imports[blocks.DOMAIN] = 1
        done = graph.write(model, target)
    return _counted(how, bits, sizes, done.graph)


@torch.no_grad()
def sensitivity(
    subject: Subject, linear: Mapping[str, nn.Module], choices: list[int], size: int, rows: Rows, tell: Tell
) -> Sensitivity:
    """KL divergence of the outputs from those of the whole model, when one layer alone has been rounded."""
    found = {name: dict.fromkeys(choices, 0.0) for name in linear}
    few, count = _few(rows), 0
    wide = rows.task == "SequenceClassification"
    batches = list(few.batches(None if wide else BATCH))
    for number, (_, batch) in enumerate(batches):
        given = {name: batch[name] for name in models.inputs(subject.model) if name in batch}
        inside = slice(None) if wide else batch["attention_mask"] > 0
        whole = subject.model(**given).logits[inside].log_softmax(-1)
        count += len(whole)
        for place, (name, layer) in enumerate(linear.items()):
            for bits in choices:
                with _rounded(layer, bits, size):
                    moved = subject.model(**given).logits[inside].log_softmax(-1)
                found[name][bits] += float(nn.functional.kl_div(moved, whole, reduction="sum", log_target=True))
            tell((number + (place + 1) / len(linear)) / len(batches))
    return {name: {bits: max(total / count, 0.0) for bits, total in sums.items()} for name, sums in found.items()}


def allocated(found: Sensitivity, sizes: Mapping[str, int], choices: list[int], average: float) -> dict[str, int]:
    """The bits of each layer: all begin with the fewest, and more go where a bit takes most divergence away.

    That is greedy: near the best there is, which would take a search over all layers; ties go by name.
    """
    bits = dict.fromkeys(sizes, choices[0])
    left = (average - choices[0]) * sum(sizes.values())
    while True:
        steps = []
        for name, now in bits.items():
            for more in choices[choices.index(now) + 1 :]:
                cost = (more - now) * sizes[name]
                if cost <= left:
                    steps.append((-(found[name].get(now, 0.0) - found[name].get(more, 0.0)) / cost, name, more, cost))
        if not steps:
            return bits
        _, name, more, cost = min(steps)
        bits[name], left = more, left - cost


def _fits(choices: list[int], average: float, linear: Mapping[str, nn.Module], rows: Rows) -> None:
    """Refuses what no choice of bits can satisfy."""
    if average < choices[0]:
        raise Refusal(
            "Settings",
            "TooFewBits",
            f"An average of {average:g} bits cannot be had: the fewest of choices are {choices[0]}.",
            "Raise bits, or add fewer bits to choices.",
        )
    if choices[-1] < average:
        raise Refusal(
            "Settings",
            "TooManyBits",
            f"An average of {average:g} bits cannot be had: the most of choices are {choices[-1]}.",
            "Lower bits, or add more bits to choices.",
        )
    if len(choices) < 2:
        raise Refusal("Settings", "OneChoice", "choices names one number of bits.", "Name two of 4, 8 and 16.")
    if not len(rows):
        raise Refusal("Data", "NoRows", "There are no rows to measure layers on.", "Name some in calibration.from.")
    if not linear:
        raise unchanged("MixedPrecision", 1, 0)


def _few(rows: Rows) -> Rows:
    """As many rows as fit the tokens, one at least."""
    total, count = 0, 0
    for example in rows.examples:
        total += len(example["input_ids"])
        if count and total > TOKENS[rows.task]:
            break
        count += 1
    return rows.first(count)


@contextmanager
def _rounded(layer: nn.Module, bits: int, size: int) -> Iterator[None]:
    """The layer as it will be with these bits, and as it was afterwards."""
    weight: nn.Parameter = layer.weight  # type: ignore[assignment]
    is_linear, before = isinstance(layer, nn.Linear), weight.data
    values = (before.T if is_linear else before).numpy()
    after = torch.from_numpy(blocks.rounded(values, bits, size))
    weight.data = after.T if is_linear else after
    try:
        yield
    finally:
        weight.data = before


def _halve(found: ir.Graph, node: ir.Node) -> None:
    """Keeps the weight in fp16; the runtime widens it when it loads."""
    given, weight = node.inputs
    assert weight is not None
    assert weight.const_value is not None
    stored = graph.constant(found, f"{weight.name}_fp16", ir.tensor(weight.const_value.numpy().astype("float16")))
    wide = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{weight.name}_wide")
    graph.replace(found, node, [wide, ir.node("MatMul", [given, wide.outputs[0]], name=f"{node.name}_16bit")])


def _counted(how: Quantize, bits: Mapping[str, int], sizes: Mapping[str, int], found: ir.Graph) -> Change:
    """What the graph that was written really holds."""
    step = f"{how.method} {how.weight_bits:g} bit"
    real = blocks.counts(found)
    halves = {str(node.inputs[0].name) for node in found if node.op_type == "Cast" and node.inputs[0] is not None}
    real |= {name: FULL for name in bits if f"{name}.weight_fp16" in halves}
    changed = sum(real.get(name) == wanted for name, wanted in bits.items())
    if changed != len(bits):
        raise unchanged(step, len(bits), changed)
    if left := graph.tables(found):
        raise unchanged(f"{step}, of the embeddings,", len(left), 0)
    average = sum(real[name] * sizes[name] for name in bits) / sum(sizes.values())
    many = sorted(Counter(bits.values()).items())
    most = max(bits.values())
    named = ", ".join(name for name, wanted in bits.items() if wanted == most)
    told = "; ".join(f"{wanted} bit in {count} layers" for wanted, count in many)
    return Change(step=step, layers=changed, detail=f"{average:.2f} bit on average: {told}; {most} bit: {named}")
