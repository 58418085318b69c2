"""What memories weigh whose deeper layers hold fewer tokens (VideoChat-Flash).

Letters: c tokens of a stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from longtake.costs import Stage, dropping_stages, waiting_stage
from longtake.engine import require_bytes
from longtake.hico import HicoConfig
from longtake.needs import Eye, Place, Showing, layer_bytes
from longtake.parts.cache import GrowingCache, kv_bytes_per_token
from longtake.parts.clips import ClipTowerConfig
from longtake.parts.dropping import Holding, Schedule
from longtake.parts.internvideo2 import InternVideo2Config
from longtake.parts.layered import StagedCache
from longtake.sizes import VideoSizes
from longtake.system import System
from longtake.weighing import Choices

FRAME_TOKENS = 16
"""Tokens of a frame of a clip, on average."""
CROPS_AT_ONCE = 16
"""Crops of an image that a GPU sees at a time; a video's clips come four by four."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dropped(System):
    """A system that may drop visual tokens between layers."""

    choices: ClassVar[Choices] = ({"drop": "card"}, {"drop": "repository"})
    config: HicoConfig
    drop: Schedule | None = None
    """Video-level compression; None is off, as released."""

    @property
    def holding(self) -> Holding:
        """What is read and held of visuals."""
        return Holding(self.drop, self.config.decoder.layers)

    def planned(self, frames: int) -> int:
        """Visual tokens of so many frames; a last clip is filled up."""
        clip = self.config.tower.frames
        return -(-frames // clip) * clip * FRAME_TOKENS

    @property
    def video_sizes(self) -> VideoSizes:
        """Clips of frames, merged before the projector."""
        tower = self.config.tower
        return VideoSizes(
            tower=tower,
            decoder=self.config.decoder,
            per_frame=FRAME_TOKENS,
            clip=tower.frames,
            class_token=isinstance(tower, InternVideo2Config),
            merged=True,
        )

    def eye(self, place: Place) -> Eye:
        """Clip by clip."""
        tower: ClipTowerConfig = self.config.tower
        return Eye(
            sizes=self.video_sizes,
            side=self.processor.side,
            at_once=tower.clips_at_once if place.on_cpu else CROPS_AT_ONCE,
            hidden=1,
            cut=True,
        )

    def stages(self, frames: int, dtype: torch.dtype | None = None) -> tuple[Stage, ...]:
        """With the layers between two drops apart, while a question is answered."""
        if self.drop is None:
            return super().stages(frames, dtype)
        sizes, full = self.video_sizes, (dtype or self.model.compute_dtype).itemsize
        stages = dropping_stages(sizes, frames, self.drop, self.number_bytes(dtype), full)
        tokens = next(stage.tokens for stage in stages if stage.kv_bytes)
        waiting = self.holding.waiting([tokens])
        return stages + ((waiting_stage(sizes.decoder, frames, waiting, full),) * bool(waiting))

    # -- what a memory holds ----------------------------------------------------------------------

    def kept(self, tokens: int) -> int:
        """On average over the layers; rows that wait for a question are not among them."""
        return round(sum(self.holding.held([tokens])) / self.config.decoder.layers)

    def rows(self, tokens: int, text: int = 0) -> list[int]:
        """What each layer holds before a question."""
        return [held + text for held in self.holding.held([tokens])]

    def answered_rows(self, tokens: int, text: int) -> list[int]:
        """With those that the question has chosen."""
        return self.holding.rows([tokens], text)

    @property
    def watched_stages(self) -> int | None:
        """Those before the first drop that depends on the question."""
        return self.drop.shared + 1 if self.drop is not None and self.drop.depends else None

    def reach(self, tokens: int) -> int:
        """Positions are as far apart as before the first drop: its layers read every token."""
        return tokens

    def memory_bytes(self, tokens: int, dtype: torch.dtype | None = None, text: int = 0) -> int:
        """Keys and values of each layer, and rows that wait for a question."""
        each = (dtype or self.model.compute_dtype).itemsize * self.config.decoder.hidden
        held = super().memory_bytes(tokens, dtype, text)
        if self.drop is None or not self.drop.depends:
            return held
        # keys of the text, by which what is behind it is ranked
        ranks = len(self.drop.layers) - self.drop.shared
        row = self.full_row_bytes(dtype) // (2 * self.config.decoder.layers)
        return held + self.holding.waiting([tokens]) * each + ranks * text * row

    # -- what making and asking it takes ----------------------------------------------------------

    def cache_bytes(self, tokens: int, place: Place, text: int = 0) -> int:
        """Keys and values so far and the rows between two stages, at their most."""
        if self.drop is None:
            return super().cache_bytes(tokens, place, text)
        row = self.full_row_bytes(place.dtype) // self.config.decoder.layers
        spare = self.config.decoder.layers * (text + place.slack) * row
        return spare + self._descending(tokens, place, 0, self.drop.shared, tokens)

    def streamed_bytes(self, tokens: int, place: Place, text: int) -> int:
        """Keys and values of the layers before the first drop, and rows that wait for it."""
        if self.drop is None:
            return super().streamed_bytes(tokens, place, text)
        decoder, first = self.config.decoder, self.drop.layers[0]
        row = self.full_row_bytes(place.dtype) // decoder.layers
        text += place.slack
        rows = decoder.layers * text + first * tokens
        return rows * row + tokens * decoder.hidden * place.item

    def answering_bytes(self, tokens: int, place: Place, shown: Showing) -> int:
        """With the layers that are run for each question, and how rows are ranked for it."""
        asked = super().answering_bytes(tokens, place, shown)
        if self.drop is None or not self.drop.depends:
            return asked
        # what was packed is unpacked to write, when rows have passed all layers
        unpacked = self.unpacking_bytes(max(self.rows(tokens, shown.text)), place)
        decoder, drops = self.config.decoder, len(self.drop.layers)
        waiting = self.holding.waiting([tokens])
        ranking = 3 * decoder.heads * waiting * torch.float32.itemsize
        passing = self._descending(tokens, place, self.drop.shared, drops, 0)
        staying = max(self.drop.counts(tokens)[self.drop.shared + 1 :])
        block = layer_bytes(decoder, place, min(staying + shown.question, place.block))
        made = self._made(tokens, place, self.drop.shared)
        return asked - unpacked + max(passing + block, ranking, made + unpacked)

    def _made(self, tokens: int, place: Place, drops: int) -> int:
        """Keys and values that a question's own layers have, those behind drop `drops`."""
        assert self.drop is not None
        row = self.full_row_bytes(place.dtype) // self.config.decoder.layers
        counts, parts = self.drop.counts(tokens), self.drop.stages(self.config.decoder.layers)
        stages = range(drops + 1, len(parts))
        return sum(len(parts[stage]) * counts[stage] * row for stage in stages)

    def _descending(self, tokens: int, place: Place, first: int, last: int, entering: int) -> int:
        """Bytes at most while drops `first` to `last` are made, from `entering` rows of their own.

        Rows are used up by a stage while it makes those of the next; the last stage keeps none.
        """
        drop, decoder = self.drop, self.config.decoder
        assert drop is not None
        row = self.full_row_bytes(place.dtype) // decoder.layers
        width, counts = decoder.hidden * place.item, drop.counts(tokens)
        layers = [len(part) for part in drop.stages(decoder.layers)]
        held = layers[0] * counts[0] * row if entering else 0
        most = held + entering * width
        for stage in range(first + 1, last + 1):
            going = most if stage == first + 1 else held + counts[stage - 1] * width
            held += layers[stage] * counts[stage] * row
            left = 0 if stage == len(drop.layers) else counts[stage]
            most = max(most, going, held + left * width)
        return most

    def make_room(self, cache: GrowingCache, total: int, coming: int, words: int = 0) -> None:
        """Room for what each layer will hold, a question's included, and for what waits."""
        if not isinstance(cache, StagedCache):
            super().make_room(cache, total, coming, words)
            return
        sizes, dtype = self.config.decoder, self.model.compute_dtype
        each = kv_bytes_per_token(1, sizes.kv_heads, sizes.head_dim, dtype)
        earlier, cache.visuals = sum(cache.visuals), [*cache.visuals, coming]
        seen = earlier + coming
        need = sum(self.holding.rows(cache.visuals, total - seen)) * each - cache.nbytes
        # of earlier visuals, about as many rows wait already as the first layer has read
        waiting = seen - min(earlier, cache.get_seq_length())
        need += waiting * sizes.hidden * dtype.itemsize
        require_bytes(self.model.device, need, f"{total} tokens")
        cache.reserve(total)
