"""Read a video into a memory while tokens are dropped between layers (VideoChat-Flash, HiCo).

A stage is a run of layers that see the same tokens. All tokens pass the first stage as they arrive;
what comes out waits until the last one is there, since which stay depends on how many there are.
Then those that stay pass the next stage, block by block, and so on: what is held is keys and
values, and one row per token between two stages.

Where what stays depends on the question, reading stops at that drop. Keys and values below it serve
every question, the waiting rows are kept, and each question takes them through the rest. Text
before the first visual passes all layers at once; nothing that follows changes it.

Letters: S rows, K rows that stay, Q rows of a question, D width, H heads, N keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import cast

import torch
from torch import Tensor

from longtake.engine import Notes, block_size, prefill, with_next
from longtake.errors import PromptError
from longtake.model import LongtakeModel
from longtake.parts.dropping import Block, kept_rows, looks
from longtake.parts.layered import Held, StagedCache
from longtake.parts.qwen2 import Decoder, Step
from longtake.parts.ranking import ranking_keys, ranking_queries, ranking_scores
from longtake.parts.splice import Piece, embed_pieces, rechunk
from longtake.reader import Following
from longtake.types import Entry, Reading, VisualTokens

Observe = Callable[[int, Tensor], None]


@dataclass(kw_only=True)
class Staged:
    """Rows of a sequence on their way through the layers of one model."""

    model: LongtakeModel
    cache: StagedCache
    observe: Observe | None = None
    """Told the last row's attention of each layer that is run."""
    report: Callable[[int], None] = lambda rows: None
    """Told after each block how many rows passed how many layers, multiplied."""

    @property
    def decoder(self) -> Decoder:
        """The model's layers."""
        return cast(Decoder, self.model.decoder)

    def enter(self, stream: Iterator[Tensor], upto: int) -> Iterator[Tensor]:
        """Take embeddings through the first `upto` layers, behind what the cache holds."""
        blocks = rechunk(stream, repeat(block_size(self.model)))
        for chunk_SD, more in with_next(blocks):
            past = self.cache.get_seq_length()
            step = self._step(past, len(chunk_SD), last=not more)
            x_BSD = chunk_SD[None].to(self.model.compute_dtype)
            yield self.decoder.through(x_BSD, step, range(upto), self.cache.shift)[0]
            self.report(len(chunk_SD) * upto)

    def stage(self, number: int, rows: Iterator[Tensor], start: int) -> Iterator[Tensor]:
        """Take rows through a stage's layers, the first of them at position `start`."""
        layers = self.cache.stages[number]
        for chunk_SD, more in with_next(rechunk(rows, repeat(block_size(self.model)))):
            step = self._step(start, len(chunk_SD), last=not more)
            yield self.decoder.through(chunk_SD[None], step, layers)[0]
            start += len(chunk_SD)
            self.report(len(chunk_SD) * len(layers))

    def _step(self, start: int, rows: int, *, last: bool) -> Step:
        positions_BS = torch.arange(start, start + rows, device=self.model.device)[None]
        observe = self.observe if last else None
        return Step(positions_BS=positions_BS, cache=self.cache, observe=observe, last_only=True)

    def descend(self, held: Held, upto: int, room: int = 0) -> Held:
        """Drop and go on until drop number `upto` is next; `room`: tokens still to come.

        The rows that are given are used up, so that two stages are never held whole.
        """
        schedule, start = self.cache.schedule, held.start
        for drop in range(held.drop, upto):
            length = sum(map(len, held.rows))
            looks_S = None if schedule.is_even(drop) else self._looks(held, drop)
            stay_K, blocks = kept_rows(schedule, drop, held.blocks, length, looks_S)
            self.cache.dropped(drop + 1, start, stay_K, room)
            passed = self.stage(drop + 1, selected(held.rows, stay_K.cpu()), start)
            if drop + 1 == len(schedule.layers):
                rows = last_of(passed)  # only the last row's features are of use
            else:
                rows = list(passed)
            held = Held(start=start, drop=drop + 1, rows=rows, blocks=blocks, keys=held.keys)
        return held

    def _looks(self, held: Held, drop: int) -> Tensor:
        """How much the last row looks at each of the held rows: [S]."""
        layer, start = self.cache.schedule.layers[drop], held.start
        length = sum(map(len, held.rows))
        last = torch.tensor([start + length - 1], device=self.model.device)
        q_HQE = ranking_queries(self.decoder, layer, held.rows[-1][-1:], last)
        scores = [ranking_scores(q_HQE, held.keys[layer])] if layer in held.keys else []
        place = start
        for x_SD in chain.from_iterable(x.split(block_size(self.model)) for x in held.rows):
            keys = ranking_keys(self.decoder, layer, x_SD, place)
            scores.append(ranking_scores(q_HQE, keys))
            place += len(x_SD)
        return looks(torch.cat(scores, dim=-1))[start:]

    def features(self, rows: Sequence[Tensor]) -> Tensor:
        """Features [D] of the last row that has passed all layers."""
        return self.decoder.norm(rows[-1][-1])


def selected(rows: list[Tensor], stay_K: Tensor) -> Iterator[Tensor]:
    """The rows at these rising indices, chunk by chunk; chunks are given up as they are used."""
    place = 0
    rows.reverse()
    while rows:
        chunk_SD = rows.pop()
        first, last = torch.searchsorted(stay_K, torch.tensor([place, place + len(chunk_SD)]))
        inside_K = stay_K[first:last] - place
        place += len(chunk_SD)
        if len(inside_K):
            yield chunk_SD[inside_K.to(chunk_SD.device)]


def last_of(rows: Iterator[Tensor]) -> list[Tensor]:
    """The last chunk alone."""
    last = [torch.empty(0)]
    for chunk_SD in rows:
        last[0] = chunk_SD
    return last


@torch.no_grad()
def remember(
    model: LongtakeModel, pieces: Iterator[Piece], cache: StagedCache, following: Following
) -> Reading:
    """Read text and visuals in order into an empty cache, and leave it ready for questions."""
    notes, schedule = Notes(), cache.schedule
    noted = notes.of(pieces, 0)
    head, first = until_visual(noted)
    staged = Staged(model=model, cache=cache, report=Meter(following, cache).passed)
    features_D = None
    if head:
        features_D = prefill(model, embed_pieces(head, model.embed, model.device), cache)
    if first is None:
        cache.settle(None)
        return notes.reading(features_D)
    start = cache.get_seq_length()
    stream = embed_pieces(chain([first], noted), model.embed, model.device)
    rows = list(staged.enter(stream, schedule.layers[0]))
    blocks = blocks_of(notes.entries, start)
    held = Held(start=start, drop=0, rows=rows, blocks=blocks, keys=cache.first_keys(start))
    held = staged.descend(held, schedule.shared)
    following.prefilled(following.expected)
    if schedule.depends:
        cache.settle(held)
        return notes.reading(None)
    cache.settle(None)
    return notes.reading(staged.features(held.rows))


@torch.no_grad()
def read_question(
    model: LongtakeModel, cache: StagedCache, ids: Sequence[int], observe: Observe | None
) -> Tensor:
    """Read a question behind a memory that depends on it; features [D] of its last token.

    Raises PromptError if a question was read already: rewind the cache first.
    """
    held = cache.held
    if held is None or cache.resolved:
        raise PromptError("a question was read behind this memory already; rewind it first")
    staged = Staged(model=model, cache=cache, observe=observe)
    stream = embed_pieces([tuple(ids)] if ids else [], model.embed, model.device)
    asked = list(staged.enter(stream, cache.schedule.layers[held.drop]))
    rows = [*held.rows, *asked]  # the memory's own list stays as it is
    going = Held(start=held.start, drop=held.drop, rows=rows, blocks=held.blocks, keys=held.keys)
    going = staged.descend(going, len(cache.schedule.layers), room=cache.coming)
    cache.resolved = True
    return staged.features(going.rows)


def until_visual(pieces: Iterator[Piece]) -> tuple[list[Piece], VisualTokens | None]:
    """The text before the first visual, and the first part of it, if there is one."""
    head: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, VisualTokens):
            return head, piece
        head.append(piece)
    return head, None


def blocks_of(entries: Iterable[Entry], start: int) -> tuple[Block, ...]:
    """Each visual as a block of rows, counted from row `start` of the sequence."""
    edges: dict[int, tuple[int, int]] = {}
    for entry in entries:
        first = edges.get(entry.visual, (entry.start, 0))[0]
        edges[entry.visual] = (first, entry.stop)
    return tuple(Block(first - start, stop - first, stop - first) for first, stop in edges.values())


@dataclass
class Meter:
    """Tells how far reading has come, in tokens, counting each layer's work."""

    following: Following
    cache: StagedCache
    done: int = 0
    """Rows times layers so far."""

    def passed(self, work: int) -> None:
        """Take note of more work."""
        self.done += work
        tokens, schedule = self.following.expected, self.cache.schedule
        stages = self.cache.stages[: schedule.shared + 1]
        ratios = schedule.ratios[: len(stages)]
        total = sum(len(part) * share for part, share in zip(stages, ratios, strict=True)) * tokens
        if total:
            self.following.prefilled(min(tokens, round(self.done / total * tokens)))
