"""Language models, loaded: rows of tokens that grow, side by side, and the scores of what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from lmops_compressor.runners import Array
from lmops_server.opened import Opened
from lmops_server.packed import pack
from lmops_trainer import models
from lmops_trainer.log import log

ROWS = 32
"""The most texts that are written at once."""
MEMORY = 2 << 30
"""The most bytes of keys and values; a model whose rows need more writes fewer texts at once."""
STEP = 64
"""Positions by which room for keys and values grows."""
TOLERANCE = 2e-3
"""By how much scores may differ from the model's own and still be the same."""


class Decoder(Protocol):
    """A loaded language model. Rows are numbered from 0 and lie without gaps."""

    rows: int
    """How many there may be."""
    together: bool
    """Whether several rows can be read in one go."""

    def read(self, first: int, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rows from `first` on read tokens: new ones begin, or a single one goes on. [chunks, vocabulary], of the last.

        New rows are told by their number: it is that of the rows so far."""

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Each of the first rows reads one token: [tokens, vocabulary]."""

    def move(self, source: int, target: int) -> None:
        """A row takes the place of another, which is over."""

    def drop(self, row: int) -> None:
        """The last row is over."""


def decoder(opened: Opened, threads: int) -> Decoder:
    """Loads what was opened with its engine."""
    if opened.engine == "ONNX":
        return _Graph(opened, threads)
    torch.set_num_threads(threads)
    loaded = models.load(opened.folder, "CausalLM", trust_remote_code=opened.trust_remote_code)
    model: PreTrainedModel = loaded.to(opened.device)  # type: ignore[arg-type]
    pack(model)
    found = _Together(model, opened.window)
    if found.agrees():
        return found
    log.info("%s does not take rows of different length at once: they are written one by one", type(model).__name__)
    return _Alone(model)


class _Slab(Cache):
    """Keys and values of all rows, layer by layer: [rows, heads, positions, width]. A pass works on some of the rows.

    Rows begin at position 0 each, whatever their length: what lies behind a row's end is masked, and overwritten later.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self.keys: list[torch.Tensor | None] = [None] * layers
        self.values: list[torch.Tensor | None] = [None] * layers
        self.at = slice(0, 0)
        """The rows of this pass."""
        self.places = torch.zeros(0, 0, dtype=torch.int64)
        """Where the tokens of this pass go: [rows, tokens]."""
        self.seen = 0
        """How far the longest row reaches after this pass."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes what is new and gives all there is; called by the model's attention."""
        return self._written(self.keys, layer_idx, key_states), self._written(self.values, layer_idx, value_states)

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """Positions are given to the model, and not counted by it."""
        return 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copies a row onto another."""
        for tensor in (*self.keys, *self.values):
            if tensor is not None:
                tensor[target, :, :length] = tensor[source, :, :length]

    def _written(self, side: list[torch.Tensor | None], layer: int, new: torch.Tensor) -> torch.Tensor:
        held = side[layer] = self._roomy(side[layer], new)
        rows = held[self.at]
        if self.places.shape[1] == 1:
            rows[torch.arange(len(rows)), :, self.places[:, 0]] = new[:, :, 0]
        else:  # all of them begin at the same place
            begin = int(self.places[0, 0])
            rows[:, :, begin : begin + new.shape[2]] = new
        return rows[:, :, : self.seen]

    def _roomy(self, held: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        """The tensor, or a larger one with what it holds."""
        rows, length = (0, 0) if held is None else (held.shape[0], held.shape[2])
        if held is not None and self.at.stop <= rows and self.seen <= length:
            return held
        more = max(rows, -(-self.at.stop // 4) * 4), max(length, -(-self.seen // STEP) * STEP)
        made = new.new_zeros(more[0], new.shape[1], more[1], new.shape[3])
        if held is not None:
            made[:rows, :, :length] = held
        return made


class _Together:
    """A model of transformers that reads rows of different length in one pass."""

    together = True

    def __init__(self, model: PreTrainedModel, window: int) -> None:
        self._model = model
        config: Any = model.config.get_text_config(decoder=True)
        self._slab = _Slab(config.num_hidden_layers)
        self._lengths: list[int] = []
        size = 2 * config.num_hidden_layers * window * config.hidden_size * model.dtype.itemsize
        self.rows = max(1, min(ROWS, MEMORY // size))

    @torch.inference_mode()
    def read(self, first: int, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        begin = self._lengths[first] if first < len(self._lengths) else 0
        lengths = [len(chunk) for chunk in chunks]
        longest = max(lengths)
        ids = torch.zeros(len(chunks), longest, dtype=torch.int64)
        for row, chunk in enumerate(chunks):
            ids[row, : len(chunk)] = torch.tensor(chunk)
        places = torch.arange(begin, begin + longest).expand(len(chunks), -1)
        seen = torch.arange(begin + longest) <= places[:1, :, None]
        ends = sorted(set(lengths))
        scores = self._pass(first, ids, places, seen[:, None], torch.tensor([end - 1 for end in ends]))
        self._lengths[first : first + len(chunks)] = [begin + length for length in lengths]
        return scores[torch.arange(len(chunks)), [ends.index(length) for length in lengths]]

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        lengths = torch.tensor(self._lengths[: len(tokens)])
        seen = torch.arange(int(lengths.max()) + 1) <= lengths[:, None]
        scores = self._pass(0, torch.tensor(tokens)[:, None], lengths[:, None], seen[:, None, None], torch.tensor([0]))
        for row in range(len(tokens)):
            self._lengths[row] += 1
        return scores[:, 0]

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        self._slab.move(source, target, self._lengths[source])
        self._lengths[target] = self._lengths[source]

    def drop(self, row: int) -> None:
        self._lengths.pop(row)

    def agrees(self) -> bool:
        """Whether rows side by side get the scores that each gets alone: some kinds of attention know other ways."""
        tokens = [1 + number % 7 for number in range(12)]
        try:
            found = self.read(0, [tokens[:5], tokens[:9]])
            stepped = self.step([tokens[5], tokens[9]])
            for row in (1, 0):
                self.drop(row)
            wanted = [self._alone(tokens[:count]) for count in (5, 9, 6, 10)]
        except Exception as error:
            log.info("rows cannot be read together: %s", str(error).splitlines()[:1])
            return False
        both = torch.cat([found, stepped]), torch.stack(wanted)
        return bool(torch.allclose(*both, rtol=TOLERANCE, atol=TOLERANCE * float(both[1].abs().max())))

    @torch.inference_mode()
    def _alone(self, tokens: list[int]) -> torch.Tensor:
        ids = torch.tensor([tokens], device=self._model.device)
        return self._model(input_ids=ids)["logits"][0, -1].float()  # type: ignore[no-any-return]

    def _pass(
        self, first: int, ids: torch.Tensor, places: torch.Tensor, seen: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        device, slab = self._model.device, self._slab
        slab.at = slice(first, first + len(ids))
        slab.places, slab.seen = places.to(device), seen.shape[-1]
        mask = torch.where(seen, 0.0, torch.finfo(self._model.dtype).min).to(device, self._model.dtype)
        found = self._model(
            input_ids=ids.to(device),
            attention_mask=mask.expand(len(ids), -1, -1, -1),
            position_ids=places.to(device),
            past_key_values=slab,
            use_cache=True,
            logits_to_keep=ends.to(device),
        )
        return found["logits"].float()  # type: ignore[no-any-return]


class _Alone:
    """A model of transformers that reads each row by itself, with the cache that it brings."""

    together = False

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._caches: list[Any] = []
        self.rows = ROWS

    @torch.inference_mode()
    def read(self, first: int, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        if first == len(self._caches):
            self._caches.append(DynamicCache(config=self._model.config))
        return self._next(first, chunks[0])[None]

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.stack([self._next(row, [token]) for row, token in enumerate(tokens)])

    def move(self, source: int, target: int) -> None:
        self._caches[target] = self._caches[source]

    def drop(self, row: int) -> None:
        self._caches.pop(row)

    def _next(self, row: int, tokens: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor([list(tokens)], device=self._model.device)
        found = self._model(input_ids=ids, past_key_values=self._caches[row], use_cache=True)
        return found["logits"][0, -1].float()  # type: ignore[no-any-return]


class _Graph:
    """A graph of ONNX Runtime with its cache. It counts positions from the cache alone, so each row is read by itself;
    what makes 8 bits of a batch by one scale would also let rows change each other's answers."""

    together = False

    def __init__(self, opened: Opened, threads: int) -> None:
        from lmops_compressor.runners.onnx import OnnxRunner

        self._runner = OnnxRunner(opened.folder, threads)
        self._pasts: list[dict[str, Array]] = []
        self.rows = ROWS

    def read(self, first: int, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        if first == len(self._pasts):
            self._pasts.append(self._runner.empty(1))
        return torch.from_numpy(self._next(first, chunks[0])[None])

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self._next(row, [token]) for row, token in enumerate(tokens)]))

    def move(self, source: int, target: int) -> None:
        self._pasts[target] = self._pasts[source]

    def drop(self, row: int) -> None:
        self._pasts.pop(row)

    def _next(self, row: int, tokens: Sequence[int]) -> Array:
        scores, self._pasts[row] = self._runner.advance(np.asarray([tokens], np.int64), self._pasts[row])
        return np.asarray(scores[0, -1], np.float32)
