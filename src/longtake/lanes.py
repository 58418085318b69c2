"""How rows of a batch are read: together behind one past, or one alone behind keys of its own.

Letters: R rows, T packed tokens, W rows watched, N tokens of the memory, D width, V frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.answering import Speaker
from longtake.engine import Observer, block_size, prefill, require_bytes
from longtake.errors import LongtakeError, PromptError
from longtake.parts.cache import GrowingCache, kv_bytes_per_token
from longtake.parts.chat import Turn
from longtake.parts.shared import Due, SharedStep, Watched
from longtake.parts.suffixes import Packing, Part, Suffixes
from longtake.parts.writing import Pen
from longtake.types import Answer, Memory, Options


class Host(Speaker, Protocol):
    """What a batch asks of a system."""

    def options(self, **overrides: Any) -> Options:
        """Options as published, changed by `overrides`."""

    def scaled(self, target: int) -> Self:
        """With positions stretched for so many visual tokens."""

    def asked(self, memory: Memory, question: str, history: Sequence[Turn]) -> tuple[int, ...]:
        """Ids of a question about a memory. Raises PromptError."""

    def ready(self, memory: Memory, ids: Sequence[int], room: int) -> Memory:
        """The memory that these ids are read behind."""


@dataclass(kw_only=True, eq=False)
class Row:
    """One question of a batch."""

    question: str
    ids: tuple[int, ...]
    """The question as it is read."""
    pen: Pen
    observer: Observer
    answer: Answer | None = None
    """Once it is over."""
    error: LongtakeError | None = None
    """What ended it, where there is no answer."""
    dropped: bool = False
    """It is to be left as it is."""
    pending: list[int] = field(default_factory=list)
    """Ids still to be read."""
    slot: int = -1
    began: float = 0.0
    """When it was let in."""
    read: float = 0.0
    """When its question had been read."""

    @property
    def done(self) -> bool:
        """There is an answer, or an error."""
        return self.answer is not None or self.error is not None

    def result(self) -> Answer:
        """The answer. Raises what ended the row, and PromptError if it is not over."""
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise PromptError("this question is not answered yet, or its batch was closed")
        return self.answer

    @property
    def written(self) -> tuple[int, ...]:
        """Ids written so far."""
        return tuple(self.pen.ids)


class Lane(Protocol):
    """What reads rows."""

    @property
    def most(self) -> int | None:
        """Rows it can hold; None is any number."""

    def enter(self, row: Row) -> None:
        """Take a row in."""

    def leave(self, row: Row) -> None:
        """Forget a row."""

    def memory_of(self, row: Row) -> Memory:
        """The memory a row is read behind."""

    def forward(self, rows: Sequence[Row]) -> tuple[list[Row], Tensor]:
        """Read some of what is pending; rows with nothing left, their last features [R, D]."""


class Together:
    """All rows behind the same keys and values of a memory."""

    most: int | None = None

    def __init__(self, system: Host, memory: Memory, cache: GrowingCache) -> None:
        self.model, self.memory, self.cache = system.model, memory, cache
        self.suffixes = Suffixes()
        self.edges = Edges(memory, cache)
        self.rows: list[Row] = []
        """By slot."""

    def enter(self, row: Row) -> None:
        """Give a row a suffix."""
        row.slot = self.suffixes.join()
        self.rows.append(row)

    def leave(self, row: Row) -> None:
        """Take the suffix back; the last row's moves into its place."""
        self.suffixes.leave(row.slot)
        last = self.rows.pop()
        if last is not row:
            last.slot, self.rows[row.slot] = row.slot, last

    def memory_of(self, row: Row) -> Memory:
        """The same for all."""
        return self.memory

    def forward(self, rows: Sequence[Row]) -> tuple[list[Row], Tensor]:
        """Read about a block of pending tokens, the shortest first."""
        turns = self._turns()
        parts = [Part(row.slot, self.suffixes.lengths[row.slot], len(ids)) for row, ids in turns]
        self._require_room(parts)
        self.suffixes.begin(parts)
        features_TD = self._run(turns, parts)
        for row, ids in turns:
            del row.pending[: len(ids)]
        ends = accumulate(part.count for part in parts)
        due = {end - 1: row for end, (row, _) in zip(ends, turns, strict=True) if not row.pending}
        return list(due.values()), features_TD[list(due)]

    def _turns(self) -> list[tuple[Row, list[int]]]:
        """Each row's share of this call, in the order of slots."""
        left, shares = block_size(self.model), {}
        for row in sorted(self.rows, key=lambda row: len(row.pending)):
            shares[row.slot] = row.pending[:left]
            left -= len(shares[row.slot])
        return [(row, shares[row.slot]) for row in self.rows if shares[row.slot]]

    def _require_room(self, parts: Sequence[Part]) -> None:
        """Raise CapacityError if the suffixes cannot grow."""
        sizes = self.model.config
        rows, tokens = self.suffixes.room_for(parts)
        each = kv_bytes_per_token(
            sizes.num_hidden_layers,
            sizes.num_key_value_heads,
            sizes.head_dim,
            self.model.compute_dtype,
        )
        more = rows * tokens * each - self.suffixes.nbytes
        if more > 0:
            require_bytes(self.model.device, more, f"{rows} questions of up to {tokens} tokens")

    def _run(self, turns: Sequence[tuple[Row, list[int]]], parts: Sequence[Part]) -> Tensor:
        """Features [T, D] of the packed tokens."""
        model, device = self.model, self.model.device
        ids_T = torch.tensor([n for _, ids in turns for n in ids], device=device)
        sizes = model.config
        heads = sizes.num_attention_heads // sizes.num_key_value_heads
        packing = Packing.of(parts, heads, device)
        due, looking, places, end = [], [], [], 0
        for row, ids in turns:
            end += len(ids)
            if len(ids) == len(row.pending):
                due.append(end - 1)
                if row.observer.entries:
                    looking.append(row)
                    places.append(end - 1)
        watched = Watched(torch.tensor(places, device=device), self.edges) if looking else None
        last = Due(torch.tensor(due, dtype=torch.int64, device=device), sizes.num_hidden_layers - 1)
        step = SharedStep(
            positions_BS=(packing.place_T + self.memory.length)[None],
            past=lambda layer: self.cache.layers[layer].shown(),
            suffixes=self.suffixes,
            packing=packing,
            due=last if len(due) < end else None,
            watched=watched,
        )
        features_TD = model.decoder(model.embed(ids_T)[None], step, self.cache.between)[0]
        for row, mass_V in zip(looking, self.edges.taken(), strict=True) if looking else ():
            row.observer.add(mass_V)
        return cast(Tensor, features_TD)


class Alone:
    """One row at a time, for memories that depend on the question."""

    most: int | None = 1

    def __init__(self, system: Host, memory: Memory, cache: GrowingCache) -> None:
        self.system, self.memory, self.cache = system, memory, cache
        self.ready: Memory | None = None
        """What the row is read behind, once it is read."""

    def enter(self, row: Row) -> None:
        """Make room behind the memory."""
        self.cache.rewind(self.memory.length)
        self.cache.reserve(self.memory.length + len(row.ids) + row.pen.options.max_new_tokens)

    def leave(self, row: Row) -> None:
        """Forget what was read."""
        self.ready = None
        self.cache.rewind(self.memory.length)

    def memory_of(self, row: Row) -> Memory:
        """The one made for the row."""
        return self.ready or self.memory

    def forward(self, rows: Sequence[Row]) -> tuple[list[Row], Tensor]:
        """Read what is pending as a question asked alone is read."""
        (row,) = rows
        model, first = self.system.model, self.ready is None
        if self.ready is None:
            self.ready = self.system.ready(self.memory, row.ids, row.pen.options.max_new_tokens)
            if row.observer.entries:
                cache = cast(GrowingCache, self.ready.cache)
                row.observer = Observer(self.ready.entries, cache.rows_of)
        cache = cast(GrowingCache, self.ready.cache)
        observe = row.observer if row.observer.entries else None
        if first:
            features_D = self.system.read(cache, row.pending, observe)
        else:
            one = model.embed(torch.tensor(row.pending, device=model.device))
            features_D = prefill(model, iter([one]), cache, observe=observe)
        row.pending.clear()
        return [row], features_D[None]


class Edges:
    """Adds up how much several rows look at each frame, as `Observer` does for one."""

    def __init__(self, memory: Memory, cache: GrowingCache) -> None:
        self._observer = Observer(memory.entries, cache.rows_of)
        self._edges: dict[int, tuple[Tensor, Tensor]] = {}
        self._mass_WV: Tensor | None = None

    def __call__(self, layer: int, weights_WN: Tensor) -> None:
        """Called by each layer with rows' attention on the memory's tokens."""
        if layer not in self._edges:
            begins, ends = self._observer.edges(layer)
            self._edges[layer] = (begins.to(weights_WN.device), ends.to(weights_WN.device))
        begins, ends = self._edges[layer]
        summed = F.pad(weights_WN.cumsum(-1, dtype=torch.float64), (1, 0))
        mass_WV = (summed[:, ends] - summed[:, begins]).float()
        self._mass_WV = mass_WV if self._mass_WV is None else self._mass_WV + mass_WV

    def taken(self) -> Tensor:
        """What was added up since the last time: [W, V]."""
        assert self._mass_WV is not None
        mass_WV, self._mass_WV = self._mass_WV, None
        return mass_WV
