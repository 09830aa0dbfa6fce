"""Batches, masks, losses and the order of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import CausalLMOutput

from lmops_trainer.order import Order, shares
from lmops_trainer.tasks import TASKS, Tally
from runs import tokenizer

ROWS = [
    {"input_ids": [2, 5, 6, 7, 8, 9, 10, 11, 3], "length": 9, "row": 4, "label": 1},
    {"input_ids": [2, 12, 13, 3], "length": 4, "row": 9, "label": 0},
]


def batch(task: str, rows: list[dict[str, Any]], epoch: int = 0, **options: Any) -> dict[str, torch.Tensor]:
    collate = TASKS[task].collator(tokenizer(), 1, **{"evaluating": False} | options)
    if hasattr(collate, "epoch"):
        collate.epoch = epoch
    return collate(rows)


def test_a_batch_is_as_wide_as_its_longest_row() -> None:
    made = batch("SequenceClassification", ROWS)

    assert made["input_ids"].tolist() == [[2, 5, 6, 7, 8, 9, 10, 11, 3], [2, 12, 13, 3, 0, 0, 0, 0, 0]]
    assert made["attention_mask"].sum(1).tolist() == [9, 4]
    assert made["labels"].tolist() == [1, 0]


def test_a_batch_can_be_padded_to_a_multiple() -> None:
    assert batch("SequenceClassification", ROWS, multiple=8)["input_ids"].shape == (2, 16)


def test_the_label_of_a_token_is_the_token_after_it() -> None:
    made = TASKS["CausalLM"].collator(tokenizer("gpt2"), 1, evaluating=False)(ROWS)

    assert made["labels"].tolist() == [[5, 6, 7, 8, 9, 10, 11, 3, -100], [12, 13, 3, *[-100] * 6]]
    assert TASKS["CausalLM"].targets(made) == {"loss": 11}


def test_the_causal_loss_is_that_of_transformers() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2)).eval()
    made = TASKS["CausalLM"].collator(tokenizer("gpt2"), 1, evaluating=False)(ROWS)
    ids, mask = made["input_ids"], made["attention_mask"]
    theirs = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss

    ours = TASKS["CausalLM"].losses(model(ids, attention_mask=mask), made)["loss"] / 11

    assert torch.allclose(ours, theirs)


def hidden(made: dict[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    return (made["labels"] != -100).numpy()


def many(count: int = 400) -> list[dict[str, Any]]:
    drawn = np.random.default_rng(0)
    bodies = drawn.integers(5, 25, (count, 60)).tolist()
    return [{"input_ids": [2, *body, 3], "length": 62, "row": row} for row, body in enumerate(bodies)]


def test_a_sixth_of_the_tokens_is_hidden_and_most_of_them_masked() -> None:
    rows = many()
    made = batch("MaskedLM", rows)
    plain = np.array([row["input_ids"] for row in rows])
    chosen, shown = hidden(made), made["input_ids"].numpy()

    assert chosen.mean() == pytest.approx(0.15 * 60 / 62, abs=0.01)
    assert (shown[chosen] == 4).mean() == pytest.approx(0.8, abs=0.02)
    assert (shown[chosen] == plain[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    assert (shown[~chosen] == plain[~chosen]).all()
    assert not chosen[:, [0, 61]].any(), "special tokens are never hidden"
    assert (made["labels"].numpy()[chosen] == plain[chosen]).all()


def test_an_example_hides_the_same_tokens_whatever_stands_beside_it() -> None:
    rows = many(10)

    together, alone = batch("MaskedLM", [*rows, ROWS[0]]), batch("MaskedLM", [rows[3]])

    assert torch.equal(together["input_ids"][3], alone["input_ids"][0])


def test_each_epoch_hides_other_tokens_and_an_evaluation_always_the_same() -> None:
    rows = many(50)

    first, second = (hidden(batch("MaskedLM", rows, epoch)) for epoch in (0, 1))
    scored, again = (hidden(batch("MaskedLM", rows, epoch, evaluating=True)) for epoch in (0, 1))

    assert (first != second).any()
    assert (scored == again).all()
    assert (first != scored).any()


def test_two_examples_of_one_row_hide_different_tokens() -> None:
    first, second = ({**row, "row": 7} for row in many(2))

    made = hidden(batch("MaskedLM", [first, second]))

    assert (made[0] != made[1]).any()


def test_pretraining_adds_up_both_losses() -> None:
    told = [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]
    tally = Tally({"masked": 20.0, "nextSentence": 3.0}, {"masked": 10, "nextSentence": 6}, [4, 4, 9], [0, 1, 1], told)

    scores = TASKS["BertPreTraining"].scores(tally, [])

    assert scores["loss"] == pytest.approx(2.5)
    assert scores["maskedPerplexity"] == pytest.approx(np.exp(2.0))
    assert scores["accuracy"] == pytest.approx(2 / 3)


def test_windows_of_one_row_count_once_whichever_process_scored_them() -> None:
    whole, here, there = Tally(), Tally(), Tally()
    here.add(Tally({"loss": 3.0}, {"loss": 2}, [7, 3], [1, 0], [[0.8, 0.2], [0.9, 0.1]]))
    there.add(Tally({"loss": 3.0}, {"loss": 2}, [5, 7], [0, 1], [[0.4, 0.6], [0.1, 0.9]]))
    for part in (here, there):
        whole.add(part)

    scores = TASKS["SequenceClassification"].scores(whole, ["bad", "good"])

    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["loss"] == pytest.approx(-np.log([0.9, 0.4, (0.2 + 0.9) / 2]).mean())


def test_a_loss_is_a_sum_so_that_parts_of_a_batch_add_up() -> None:
    task, logits = TASKS["MaskedLM"], torch.randn(50, 62, 30)
    made = batch("MaskedLM", many(50))

    def loss(part: slice) -> torch.Tensor:
        return task.losses(CausalLMOutput(logits=logits[part]), {"labels": made["labels"][part]})["loss"]

    assert torch.allclose(loss(slice(0, 50)), loss(slice(0, 13)) + loss(slice(13, 50)))


LENGTHS = np.random.default_rng(1).integers(3, 60, 1003)


def order(
    rank: int = 0, processes: int = 1, epoch: int = 0, lengths: Any = LENGTHS, accumulation: int = 2
) -> list[list[int]]:
    made = Order(lengths, micro=4, accumulation=accumulation, rank=rank, processes=processes, seed=5)
    made.epoch = epoch
    batches = list(made)
    assert len(batches) == len(made)
    return batches


@pytest.mark.parametrize(
    ("processes", "accumulation", "rows"), [(1, 1, 1003), (1, 2, 1003), (2, 2, 1003), (3, 4, 50), (2, 1, 17)]
)
def test_every_row_is_read_once_an_epoch_and_all_processes_read_equally_many_batches(
    processes: int, accumulation: int, rows: int
) -> None:
    parts = [order(rank, processes, lengths=LENGTHS[:rows], accumulation=accumulation) for rank in range(processes)]

    assert len({len(part) for part in parts}) == 1
    read = [row for part in parts for batch in part for row in batch]
    assert set(read) == set(range(rows))
    assert len(read) - rows < processes, "a row is read twice only where a process would have none"
    assert all(batch for part in parts for batch in part)


def test_the_order_is_drawn_by_seed_and_epoch() -> None:
    assert order(epoch=1) == order(epoch=1)
    assert order(epoch=1) != order(epoch=2)


def test_like_lengths_stand_together_and_waste_little() -> None:
    def waste(batches: list[list[int]]) -> float:
        cells = sum(len(rows) * LENGTHS[rows].max() for rows in batches)
        return 1 - LENGTHS.sum() / cells

    shuffled = np.random.default_rng(0).permutation(1003)

    assert waste(order()) < 0.05
    assert waste([part.tolist() for part in np.array_split(shuffled, 251)]) > 0.3


def test_the_longest_row_comes_first_so_that_a_lack_of_memory_shows_at_once() -> None:
    assert max(LENGTHS[rows].max() for rows in order()[:2]) == LENGTHS.max()


def test_an_evaluation_reads_every_row_with_exactly_one_process() -> None:
    read = [row for rank in range(3) for rows in shares(LENGTHS, 8, rank, 3) for row in rows]

    assert sorted(read) == list(range(1003))
