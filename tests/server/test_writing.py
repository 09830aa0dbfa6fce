"""Texts that are written side by side are those that each would be alone, whatever engine writes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from lmops_server.opened import Opened
from lmops_server.writing import Ask, Piece
from lmops_server.writing import decoders as d
from lmops_server.writing.sampling import Dice, drawn
from lmops_server.writing.spoken import Spoken
from lmops_server.writing.writer import Writer
from lmops_trainer import models
from served import Volumes, document
from volumes import raw


@pytest.fixture(scope="module")
def opened(volumes: Volumes, gpt2: str) -> Opened:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMOPS_VOLUMES", str(volumes.root))
        return Opened.open(document(gpt2))


@pytest.fixture(scope="module")
def model(opened: Opened) -> PreTrainedModel:
    return models.load(opened.folder, "CausalLM")


@pytest.fixture(scope="module")
def tokenizer(opened: Opened) -> Any:
    return opened.tokenizer()


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    """Beginnings of 1 to 300 tokens, in no order."""
    ids = tokenizer(raw("lee_background.cor").read_text("utf-8")[:60_000])["input_ids"]
    return [ids[64 * place :][: 1 + place * 37 % 300] for place in range(48)]


def ask(prompt: list[int], **settings: Any) -> Ask:
    plain = {"new": 16, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": (7,), "ignore_end": True}
    return Ask(prompt, **(plain | settings))


def written(writer: Writer, asks: Sequence[Ask]) -> list[tuple[str, list[int], str | None]]:
    """Text, tokens and end of each, all of them asked at once."""

    async def all_of_them() -> list[tuple[str, list[int], str | None]]:
        found: list[list[Piece]] = [[] for _ in asks]
        _, pieces = writer.begin([replace(one, logprobs=0) for one in asks], streamed=True)
        async for place, piece in pieces:
            found[place].append(piece)
        return [("".join(p.text for p in one), [s.id for p in one for s in p.scored], one[-1].finish) for one in found]

    return asyncio.run(all_of_them())


def test_the_likeliest_tokens_are_those_of_transformers_for_prompts_of_any_length(
    opened: Opened, model: PreTrainedModel, tokenizer: Any, prompts: list[list[int]]
):
    decoder = d.decoder(opened, 1)

    found = written(Writer(decoder, tokenizer, []), [ask(prompt) for prompt in prompts])

    assert decoder.together  # in one pass, and not one by one
    for prompt, (_, tokens, finish) in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        wanted = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, min_new_tokens=16, do_sample=False)  # type: ignore[operator]  # fmt: skip  # noqa: E501
        assert (tokens, finish) == (wanted[0, len(prompt) :].tolist(), "length")


def test_a_seed_gives_the_same_text_alone_and_in_company(opened: Opened, tokenizer: Any, prompts: list[list[int]]):
    writer = Writer(d.decoder(opened, 1), tokenizer, [])
    asks = [
        ask(
            prompt,
            temperature=0.5 + place % 3,
            top_p=0.9,
            top_k=[0, 5, 60][place % 3],
            seed=(place,),
            new=4 + place % 9,
        )
        for place, prompt in enumerate(prompts)
    ]

    together = written(writer, asks)

    assert together == [written(writer, [one])[0] for one in asks]
    assert together != written(writer, [replace(one, seed=(1000 + place,)) for place, one in enumerate(asks)])


def test_a_graph_writes_what_the_model_that_it_was_made_of_writes(
    volumes: Volumes, gpt2_graph: str, opened: Opened, tokenizer: Any, prompts: list[list[int]], monkeypatch: Any
):
    monkeypatch.setenv("LMOPS_VOLUMES", str(volumes.root))
    graph = Opened.open(document(gpt2_graph))
    asks = [ask(prompt, temperature=place % 2, top_k=40, seed=(place,)) for place, prompt in enumerate(prompts[:12])]

    assert graph.engine == "ONNX"
    found = written(Writer(d.decoder(graph, 1), tokenizer, []), asks)

    assert found == written(Writer(d.decoder(opened, 1), tokenizer, []), asks)


def test_a_model_that_cannot_read_rows_together_writes_them_one_by_one(
    opened: Opened, tokenizer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
):
    side_by_side = written(Writer(d.decoder(opened, 1), tokenizer, []), [ask(prompt) for prompt in prompts[:8]])
    shifted = d._Together._pass
    monkeypatch.setattr(d._Together, "_pass", lambda self, first, ids, places, *rest: shifted(self, first, ids, places * 0, *rest))  # fmt: skip  # noqa: E501

    alone = d.decoder(opened, 1)

    assert isinstance(alone, d._Alone)
    assert written(Writer(alone, tokenizer, []), [ask(prompt) for prompt in prompts[:8]]) == side_by_side


def test_who_leaves_early_makes_room_and_the_others_go_on(opened: Opened, tokenizer: Any, prompts: list[list[int]]):
    decoder = d.decoder(opened, 1)
    decoder.rows = 3
    writer = Writer(decoder, tokenizer, [])
    wanted = written(writer, [ask(prompts[4])])

    async def leave() -> None:
        _, endless = writer.begin([ask(prompt, new=200) for prompt in prompts[:6]], streamed=True)
        async for _ in endless:
            break
        await endless.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())

    assert written(writer, [ask(prompts[4])]) == wanted
    end = time.monotonic() + 5
    while (writer.writing, writer.waiting) != (0, 0):  # the last piece is told a moment before its row goes
        assert time.monotonic() < end


@pytest.mark.parametrize("step", ["read", "step"])
def test_who_asks_is_told_what_a_pass_failed_of_and_the_next_one_is_answered(
    step: str, opened: Opened, tokenizer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
):
    decoder = d.decoder(opened, 1)
    writer = Writer(decoder, tokenizer, [])
    wanted = written(writer, [ask(prompts[4])])

    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(decoder, step, full)
        with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
            written(writer, [ask(prompt) for prompt in prompts[:3]])

    assert written(writer, [ask(prompts[4])]) == wanted


def test_tokens_are_drawn_as_often_as_they_are_probable():
    scores = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    settings = {"top_k": 3, "top_p": 0.9, "temperature": 1.0}
    dice = [Dice(ask([0], seed=(seed,), **settings)) for seed in range(4000)]

    counts = torch.bincount(torch.tensor([one.id for one in drawn(scores.repeat(4000, 1), dice)]), minlength=4)

    # Of the three likeliest, 0.95 together, those in front of the first 0.9 are kept: all three.
    assert (counts / 4000 - torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95).abs().max() < 0.03
    cold = [Dice(ask([0], seed=(seed,), temperature=0.1, top_p=1.0, top_k=0)) for seed in range(500)]
    assert {one.id for one in drawn(scores.repeat(500, 1), cold)} <= {0, 1}
    narrow = [Dice(ask([0], seed=(seed,), temperature=1.0, top_p=0.4)) for seed in range(100)]
    assert {one.id for one in drawn(scores.repeat(100, 1), narrow)} == {0}


def test_penalties_and_bias_change_what_is_likeliest():
    scores = torch.tensor([[1.0, 0.9, 0.0]])

    def likeliest(count: int, **settings: Any) -> list[int]:
        dice = Dice(ask([0], **settings))
        return [drawn(scores, [dice])[0].id for _ in range(count)]

    assert likeliest(3) == [0, 0, 0]
    assert likeliest(2, bias={2: 5.0}) == [2, 2]
    assert likeliest(4, presence_penalty=0.5) == [0, 1, 0, 0]
    assert likeliest(4, frequency_penalty=0.5) == [0, 1, 0, 1]


def test_probabilities_are_those_of_the_model_before_temperature_and_bias():
    scores = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))

    [found] = drawn(scores, [Dice(ask([0], temperature=2.0, top_k=1, bias={1: 9.0}, logprobs=2))])

    assert found.id == 1
    assert found.logprob == pytest.approx(-1.204, abs=1e-3)
    assert [(token, round(value, 3)) for token, value in found.top] == [(0, -0.511), (1, -1.204)]


@pytest.mark.parametrize(
    ("stop", "wanted", "stopped"),
    [
        ((), "One fish, two fish — café 🐟!", False),
        (("two",), "One fish, ", True),
        (("fish — c", "two f"), "One fish, ", True),
        (("fish!",), "One fish, two fish — café 🐟!", False),
        (("🐟",), "One fish, two fish — café ", True),
    ],
)
def test_what_is_said_is_whole_characters_and_nothing_that_a_stop_word_takes_back(
    tokenizer: Any, stop: tuple[str, ...], wanted: str, stopped: bool
):
    tokens = tokenizer("One fish, two fish — café 🐟!")["input_ids"]
    spoken = Spoken(tokenizer, [], stop)
    said: list[str] = []

    for place, token in enumerate(tokens, 1):
        said.append(spoken.say(token, last=place == len(tokens)))
        if spoken.stopped:
            break

    assert ("".join(said), spoken.stopped) == (wanted, stopped)
    assert not any("\ufffd" in part for part in said)
    assert len([part for part in said if part]) > 3
