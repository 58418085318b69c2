"""Prefill and decode: run a model over a stream of embeddings, then write an answer.

Prefill takes embeddings in blocks as they arrive and keeps only keys and values; the last layer's
features and the head are those of the last position alone (a 7B model's logits for every position
of 256 frames would be 22 GB).

Letters: S sequence, D width, V vocabulary, B batch, H heads, N keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.errors import CapacityError, PromptError
from longtake.looks import shares_of, spans_of, timelines_of
from longtake.model import LongtakeModel
from longtake.parts.cache import GrowingCache, kv_bytes_per_token
from longtake.parts.qwen2 import Step
from longtake.parts.splice import Piece, embed_pieces, entries_of, piece_tokens, rechunk
from longtake.parts.writing import Pen
from longtake.room import free_bytes
from longtake.types import Entry, Options, Reading, Span, Timeline, VisualTokens

PREFILL_BLOCK = {"cpu": 1024}
"""Tokens per prefill block; bounds the workspace at about block x (5 D + H x E) numbers."""

PREFILL_BLOCK_GPU = 4096


class Observer:
    """Adds up how much the answer's tokens look at each frame.

    For every answer token, layer and head, the attention that falls on a frame's tokens is summed;
    these sums are added over tokens, layers and heads. Only one query row exists at a time, never
    an attention matrix.
    """

    def __init__(
        self, entries: Sequence[Entry], rows_of: Callable[[int], Tensor | None] | None = None
    ) -> None:
        """`rows_of`: which of the memory's tokens a layer holds, in order; None is all of them."""
        self.entries = tuple(entries)
        self._rows_of = rows_of or every_row
        self.mass_T = torch.zeros(len(entries))
        """Attention on each frame so far, fp32, on the model's device."""
        self._starts_T = torch.tensor([entry.start for entry in entries], dtype=torch.int64)
        self._stops_T = torch.tensor([entry.stop for entry in entries], dtype=torch.int64)
        self._each = even_size(self.entries)
        """Tokens of every frame where all have as many and nothing between them; else 0."""

    def __call__(self, layer: int, weights_BHN: Tensor) -> None:
        """Called by each layer with the last query's attention; stays on its device."""
        if self.mass_T.device != weights_BHN.device:
            self.mass_T = self.mass_T.to(weights_BHN.device)
            self._starts_T = self._starts_T.to(weights_BHN.device)
            self._stops_T = self._stops_T.to(weights_BHN.device)
        row_N = weights_BHN.sum((0, 1))
        if self._each and self._rows_of(layer) is None and len(row_N) >= self.entries[-1].stop:
            held_N = row_N[self.entries[0].start : self.entries[-1].stop]
            self.mass_T += held_N.unflatten(0, (-1, self._each)).sum(1)
            return
        summed = F.pad(row_N.double().cumsum(0), (1, 0))
        last = len(summed) - 1  # a prompt that was cut short has frames behind its end
        begins, ends = (edges.clamp(max=last) for edges in self.edges(layer))
        self.mass_T += (summed[ends] - summed[begins]).float()

    def add(self, mass_T: Tensor) -> None:
        """Attention on each frame that was added up elsewhere."""
        self.mass_T = self.mass_T.to(mass_T.device) + mass_T

    def edges(self, layer: int) -> tuple[Tensor, Tensor]:
        """Where each frame's tokens begin and end among those that a layer holds."""
        rows = self._rows_of(layer)
        if rows is None:
            return self._starts_T, self._stops_T
        starts_T, stops_T = (
            torch.searchsorted(rows, edges) for edges in (self._starts_T, self._stops_T)
        )
        return starts_T, stops_T

    def shares(self) -> list[float]:
        """Each frame's share of the attention on all frames."""
        return shares_of(self.mass_T.tolist(), self.entries)

    def spans(self, durations: Sequence[float]) -> tuple[Span, ...]:
        """Runs of frames that stand out, heaviest first; `durations` (s) end the videos."""
        return spans_of(self.shares(), self.entries, durations)

    def timeline(self, durations: Sequence[float]) -> tuple[Timeline, ...]:
        """The weight over the whole of each video."""
        return timelines_of(self.shares(), self.entries, durations)


def even_size(entries: Sequence[Entry]) -> int:
    """Tokens of each entry, if they lie side by side and are as large; 0 if not."""
    if not entries:
        return 0
    first, each = entries[0].start, entries[0].stop - entries[0].start
    places = ((entry.start - first, entry.stop - first) for entry in entries)
    even = all(place == (each * n, each * (n + 1)) for n, place in enumerate(places))
    return each if even else 0


def every_row(layer: int) -> Tensor | None:
    """A layer that holds all of a memory's tokens."""
    return None


@torch.no_grad()
def prefill(
    model: LongtakeModel,
    stream: Iterator[Tensor],
    cache: GrowingCache,
    *,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Feed embeddings [S_i, D] in order; returns the features [D] of the last position.

    Positions go on from the cache's length. `observe` sees the last position only. Raises
    PromptError if the stream is empty.
    """
    last: Tensor | None = None
    for chunk, more in with_next(rechunk(stream, repeat(block_size(model)))):
        past = cache.get_seq_length()
        positions = torch.arange(past, past + len(chunk), device=chunk.device)[None]
        watch = observe if not more else None
        step = Step(positions_BS=positions, cache=cache, observe=watch, last_only=True)
        last = model.decoder(chunk[None].to(model.compute_dtype), step, cache.between)[0, -1]
        if progress is not None:
            progress(past + len(chunk))
    if last is None:
        raise PromptError("there is nothing to read: the prompt has no tokens")
    return last


@dataclass
class Notes:
    """What passes while pieces are read."""

    entries: list[Entry] = field(default_factory=list)
    """Where each frame lies."""
    ids: list[int] = field(default_factory=list)
    """Text, in order."""

    def of(self, pieces: Iterator[Piece], place: int) -> Iterator[Piece]:
        """The same pieces; the first token is token `place` of the sequence."""
        for piece in pieces:
            if isinstance(piece, VisualTokens):
                self.entries.extend(entries_of(piece, place))
            else:
                self.ids.extend(piece)
            place += piece_tokens(piece)
            yield piece

    def reading(self, features_D: Tensor | None) -> Reading:
        """All of it."""
        return Reading(features_D=features_D, entries=tuple(self.entries), ids=tuple(self.ids))


def read_pieces(
    model: LongtakeModel,
    pieces: Iterator[Piece],
    cache: GrowingCache,
    progress: Callable[[int], None],
) -> Reading:
    """Read text and visuals in order; every token is kept."""
    notes = Notes()
    noted = notes.of(pieces, cache.get_seq_length())
    stream = embed_pieces(noted, model.embed, model.device)
    return notes.reading(prefill(model, stream, cache, progress=progress))


def block_size(model: LongtakeModel) -> int:
    """Tokens read at a time on the model's device."""
    return PREFILL_BLOCK.get(model.device.type, PREFILL_BLOCK_GPU)


def require_room(model: LongtakeModel, tokens: int, held: int = 0) -> None:
    """Raise CapacityError if keys and values of `tokens`, `held` of them there, do not fit."""
    config = model.config
    each = kv_bytes_per_token(
        config.num_hidden_layers,
        config.num_key_value_heads,
        config.head_dim,
        model.compute_dtype,
    )
    require_bytes(model.device, (tokens - held) * each, f"{tokens} tokens")


def require_bytes(device: torch.device, need: int, what: str) -> None:
    """Raise CapacityError if so many bytes of keys and values of `what` are not free."""
    free = free_bytes(device)
    if need > free:
        raise CapacityError(
            f"{what} need {need / 2**30:.1f} GiB of keys and values, "
            f"{free / 2**30:.1f} GiB are free on {device.type}; "
            f"about {free / need:.0%} of the frames would fit"
        )


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn an allocation that failed into a CapacityError of one line."""
    try:
        yield
    except CapacityError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise CapacityError("out of memory; use fewer frames or another device") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise CapacityError("out of memory; use fewer frames") from error


def with_next(stream: Iterator[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Each item and whether another follows."""
    held: Tensor | None = None
    for item in stream:
        if held is not None:
            yield held, True
        held = item
    if held is not None:
        yield held, False


@torch.no_grad()
def write(
    model: LongtakeModel,
    features_D: Tensor,
    cache: GrowingCache,
    options: Options,
    *,
    end_ids: Collection[int],
    decode: Callable[[Sequence[int]], str],
    observe: Observer | None = None,
    penalised: Sequence[int] = (),
) -> Pen:
    """Write tokens until an end id, a stop text or the limit.

    `features_D`: of the position before. The end id, where one is written, is part of the ids.
    `penalised`: ids that the repetition penalty counts as written already.
    """
    pen = Pen(options=options, end_ids=end_ids, decode=decode, penalised=penalised)
    while (token := pen.take(model.logits(features_D))) is not None:
        one = model.embed(torch.tensor([token], device=features_D.device))
        features_D = prefill(model, iter([one]), cache, observe=observe)
    return pen
