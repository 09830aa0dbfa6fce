"""Small trained models to compress, as a Source names them, and rows to go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lmops_compressor.methods import Subject
from lmops_compressor.rows import Rows
from lmops_compressor.source import Source
from lmops_trainer.tasks import TASKS
from volumes import raw

STEPS, BLOCK = 60, 64
"""Of the small GPT-2: its optimiser steps, and the tokens of a row."""


def language_model(folder: Path, **config: Any) -> Source:
    """A GPT-2 of 4 layers that has read a little news."""
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    found = Source("pvc://data/gpt2", folder, "CausalLM", [], BLOCK, {})
    torch.manual_seed(7)
    settings = {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 320, "vocab_size": len(tokenizer), **config}
    model = GPT2LMHeadModel(GPT2Config(**settings))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    read = torch.tensor([example["input_ids"] for example in news(found, STEPS * 8).examples])
    for batch in read.split(8):
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    return found


def unread() -> Rows:
    """The rows of a method that looks at none."""
    raise AssertionError("rows are drawn that nobody looks at")


def untrained(folder: Path, **config: Any) -> Source:
    """A GPT-2 of one layer that knows nothing."""
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    settings = {"n_layer": 1, "n_head": 2, "n_positions": BLOCK, "vocab_size": len(tokenizer), **config}
    GPT2LMHeadModel(GPT2Config(**settings)).eval().save_pretrained(folder)
    return Source("pvc://data/gpt2", folder, "CausalLM", [], BLOCK, {})


def subject(source: Source) -> Subject:
    """The model, loaded anew."""
    return Subject(source, source.model())


def news(source: Source, count: int = 24) -> Rows:
    """Blocks of news."""
    ids = source.tokenizer()(raw("lee_background.cor").read_text("utf-8"))["input_ids"]
    blocks = [ids[start : start + BLOCK] for start in range(0, len(ids) - BLOCK, BLOCK)][:count]
    return rows(source, [{"input_ids": b, "length": len(b), "row": n} for n, b in enumerate(blocks)])


def rows(source: Source, examples: list[dict[str, Any]]) -> Rows:
    """Rows of these examples."""
    return Rows("test", source.task, tuple(examples), TASKS[source.task].collator(source.tokenizer(), 42, True))


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train(str(raw("lee_background.cor")), vocab_size=1024, special_tokens=["<|endoftext|>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, eos_token="<|endoftext|>")
