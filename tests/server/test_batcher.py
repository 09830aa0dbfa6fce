"""Waiting inputs are taken together, by length; one that fails or whose client has gone harms no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from lmops.api.engines import ENGINES, paired
from lmops_server import threads
from lmops_server.admission import Admission
from lmops_server.batcher import Batcher, Room
from lmops_server.faults import Fault


class Gate:
    """A model that answers with an upper case, once it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.passes: list[list[str]] = []

    def __call__(self, items: Sequence[str]) -> list[str]:
        self.open.wait(10)
        self.passes.append(list(items))
        if "poison" in items:
            raise ValueError("poison")
        return [item.upper() for item in items]


def test_what_waits_is_taken_by_length_the_oldest_first():
    gate = Gate()

    async def ask() -> list[str]:
        batcher: Batcher[str, str] = Batcher(gate, len, Room(rows=3, tokens=24))
        first = asyncio.create_task(batcher.ask(["first"]))
        await asyncio.sleep(0)
        rest = asyncio.create_task(batcher.ask(["a" * 8, "b" * 23, "cc", "d" * 7, "e" * 22]))
        await asyncio.sleep(0)
        assert batcher.waiting == 5
        gate.open.set()
        return [*await first, *await rest]

    found = asyncio.run(ask())

    assert found == ["FIRST", "A" * 8, "B" * 23, "CC", "D" * 7, "E" * 22]
    assert gate.passes == [["first"], ["a" * 8, "d" * 7, "cc"], ["b" * 23], ["e" * 22]]


def test_one_that_fails_harms_no_other_and_one_that_is_gone_is_not_computed():
    gate = Gate()

    async def ask() -> list[object]:
        batcher: Batcher[str, str] = Batcher(gate, len, Room(8, 1000))
        first = asyncio.create_task(batcher.ask(["first"]))
        await asyncio.sleep(0)
        others = [asyncio.create_task(batcher.ask([word])) for word in ("good", "poison", "gone", "fine")]
        await asyncio.sleep(0)
        others[2].cancel()
        await asyncio.sleep(0)
        gate.open.set()
        return list(await asyncio.gather(first, *others, return_exceptions=True))

    first, good, poison, gone, fine = asyncio.run(ask())

    assert (first, good, fine) == (["FIRST"], ["GOOD"], ["FINE"])
    assert isinstance(poison, ValueError)
    assert isinstance(gone, asyncio.CancelledError)
    assert not any("gone" in batch for batch in gate.passes)


def test_places_are_given_back_however_a_request_ends():
    admission = Admission(3)
    with admission.take(2):
        with pytest.raises(Fault, match="takes 3") as full, admission.take(2):
            pass
        with pytest.raises(ValueError, match="x"), admission.take(1):
            raise ValueError("x")
        assert admission.taken == 2
    assert (full.value.status, full.value.headers["Retry-After"]) == (429, "1")
    assert admission.taken == 0
    with pytest.raises(Fault, match="several requests") as never, admission.take(4):
        pass
    assert never.value.status == 400


def test_the_limit_of_the_container_counts_and_not_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)))
    assert threads.threads() == 8
    for quota, wanted in (("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("1600000 100000", 8)):
        threads.LIMIT.write_text(quota)
        assert threads.threads() == wanted
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.threads() == 3


def test_the_table_pairs_an_engine_with_an_artefact_and_a_device():
    assert paired("safetensors", "cpu", "Auto") == "Transformers"
    assert paired("onnx", "cuda", "Auto") == "ONNX"
    assert paired("safetensors", "cpu", "ONNX") is None
    assert paired("executorch", "cpu", "Auto") is None
    assert all(paired(pair.artefact, pair.device, pair.engine) == pair.engine for pair in ENGINES)
