"""One answer for each input, whatever the model does: what both protocols of KServe are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmops_server.faults import wrong
from lmops_server.metrics import Usage
from lmops_server.texts import Asked, Embedded, classes, masks
from lmops_server.web import kept, openai
from lmops_server.web.asking import Completion, prompts
from lmops_server.web.endpoint import Call
from lmops_server.web.forms import Input, asked

SETTINGS = {
    "SequenceClassification": {"top_k"},
    "MaskedLM": {"top_k"},
    "FeatureExtraction": set[str](),
    "CausalLM": {"top_k", "max_tokens", "temperature", "top_p", "seed", "stop"},
}
"""The parameters that mean something to each task."""


@dataclass(frozen=True)
class Answer:
    """What is told of one input."""

    told: Any
    """For V1."""
    tensors: dict[str, list[Any]]
    """For V2: the rows of each tensor that are of this input."""


async def answered(call: Call, given: Sequence[Input], settings: dict[str, Any]) -> list[Answer]:
    """Answers the inputs of one request."""
    task = call.service.opened.task
    if unfit := set(settings) - SETTINGS[task]:
        raise wrong(f"{min(unfit)!r} means nothing to a model for {task}; leave it out.", f"parameters.{min(unfit)}")
    inputs = asked(list(given))
    if task == "CausalLM":
        return await _continued(call, inputs, settings)
    with call.service.admission.take(len(inputs)):
        return await _encoded(call, inputs, settings.get("top_k"))


async def _continued(call: Call, inputs: list[Asked], settings: dict[str, Any]) -> list[Answer]:
    if any(one.pair is not None for one in inputs):
        raise wrong("A language model goes on with one text; leave the pair out.", "pair")
    form = Completion(model=call.service.opened.name, prompt=[one.text for one in inputs], **settings)
    texts = await openai.texts(
        call, form, await call.beside(lambda: prompts(call.service, form)), form.max_tokens, "text_completion"
    )
    return [
        Answer(
            {"generated": one.text, "finish_reason": one.finish},
            {"generated": [one.text], "finish_reason": [one.finish]},
        )
        for one in texts
    ]


async def _encoded(call: Call, inputs: list[Asked], top_k: int | None) -> list[Answer]:
    texts = call.service.encoder()
    if call.service.opened.task == "SequenceClassification":
        found = await texts.classify(inputs)
        call.usage = Usage("classification", found.read.tokens)
        answers = classes(call.service.opened.labels, found, top_k)
        kept.classified(call, inputs, answers)
        return [_class(told) for told in answers]
    if call.service.opened.task == "MaskedLM":
        filled = await texts.fill(inputs, top_k or 5)
        kept.read(call, inputs)
        call.usage = Usage("fill_mask", filled.read.tokens)
        return [_masks(told, row) for row, told in enumerate(masks(filled))]
    embedded = await texts.embed(inputs)
    kept.read(call, inputs)
    call.usage = Usage("embeddings", embedded.read.tokens)
    return _embeddings(embedded)


def _class(told: dict[str, Any]) -> Answer:
    named = told["probabilities"]
    tensors = {"label": [told["label"]], "confidence": [told["confidence"]]}
    return Answer(told, tensors | {"classes": [list(named)], "probabilities": [list(named.values())]})


def _masks(told: dict[str, Any], row: int) -> Answer:
    words = [[one["token"] for one in mask] for mask in told["masks"]]
    chances = [[one["probability"] for one in mask] for mask in told["masks"]]
    return Answer(told, {"row": [row] * len(words), "tokens": words, "probabilities": chances})


def _embeddings(embedded: Embedded) -> list[Answer]:
    vectors = [[round(value, 7) for value in vector] for vector in embedded.vectors.tolist()]
    return [Answer({"embedding": vector}, {"embedding": [vector]}) for vector in vectors]
