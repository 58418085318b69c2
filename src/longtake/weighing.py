"""What a system's memories hold, and what making and asking them takes; from sizes, nothing is run.

A system overrides what is its own: how many tokens each layer keeps, and what watching holds
besides these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch

from longtake.answering import beyond_training
from longtake.costs import Stage, kv_numbers, whole_stages
from longtake.engine import require_room
from longtake.needs import (
    Eye,
    Flow,
    Needs,
    Place,
    Showing,
    question_bytes,
    reading_bytes,
    streaming_bytes,
    tower_bytes,
    upcast_bytes,
)
from longtake.parts.cache import GrowingCache, kv_bytes_per_token
from longtake.parts.quantise import quantised_bytes, quantised_bytes_per_token, unpacked_bytes
from longtake.parts.vit import ViTConfig
from longtake.pictures import Pictures
from longtake.reader import CHUNK
from longtake.seeing import Seeing

Choices = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighing(Seeing):
    """What watching and answering weigh."""

    choices: ClassVar[Choices] = ()
    """Published options by which a memory of the same frames takes less, as `variant` takes them;
    the first is the mildest."""
    window: int | None = None
    """Tokens the checkpoint says it was trained to read."""
    kv: Literal["full", "int8", "fp8", "int4"] = "full"
    """How a finished memory's keys and values are held (docs/video-xl.md)."""

    # -- tokens -----------------------------------------------------------------------------------

    def kept(self, tokens: int) -> int:
        """How many keys and values a memory holds of so many visual tokens, at most."""
        return tokens

    def rows(self, tokens: int, text: int = 0) -> list[int]:
        """Tokens that each layer of a memory holds: of so many visual ones, and of text."""
        return [self.kept(tokens) + text] * self.model.config.num_hidden_layers

    def answered_rows(self, tokens: int, text: int) -> list[int]:
        """Tokens behind which each layer writes an answer."""
        return self.rows(tokens, text)

    def reach(self, tokens: int) -> int:
        """How many tokens an answer is written behind, at most."""
        return self.kept(tokens)

    def window_for(self, frames: int) -> int | None:
        """Tokens it reads of so many frames."""
        return self.window

    def beyond_training(self, tokens: int) -> tuple[str, ...]:
        """A warning if there are more tokens than the checkpoint was trained to read."""
        return beyond_training(self.window, tokens)

    # -- bytes ------------------------------------------------------------------------------------

    def row_bytes(self, dtype: torch.dtype | None = None) -> float:
        """Bytes of keys and values that a kept token takes; `dtype`: instead of the model's."""
        if self.kv == "full":
            return self.full_row_bytes(dtype)
        sizes = self.model.config
        shape = (sizes.num_hidden_layers, sizes.num_key_value_heads, sizes.head_dim)
        return quantised_bytes_per_token(*shape, self.kv)

    def full_row_bytes(self, dtype: torch.dtype | None = None) -> int:
        """The same in full precision, in which every memory is made."""
        sizes = self.model.config
        shape = (sizes.num_hidden_layers, sizes.num_key_value_heads, sizes.head_dim)
        return kv_bytes_per_token(*shape, dtype or self.model.compute_dtype)

    def number_bytes(self, dtype: torch.dtype | None = None) -> float:
        """Bytes of a number of a memory's keys and values."""
        return self.row_bytes(dtype) / kv_numbers(self.video_sizes.decoder)

    def memory_bytes(self, tokens: int, dtype: torch.dtype | None = None, text: int = 0) -> int:
        """Bytes a memory holds of so many tokens; `dtype`: instead of the model's."""
        return self.rows_bytes(self.rows(tokens, text), dtype)

    def rows_bytes(self, rows: Sequence[int], dtype: torch.dtype | None = None) -> int:
        """Bytes of keys and values of a memory whose layers hold so many tokens."""
        if self.kv == "full":
            return sum(rows) * self.full_row_bytes(dtype) // len(rows)
        sizes, full = self.model.config, dtype or self.model.compute_dtype
        shape = (sizes.num_key_value_heads, sizes.head_dim)
        return sum(
            layers * quantised_bytes(held, *shape, self.kv, full)
            for held, layers in Counter(rows).items()
        )

    def cache_bytes(self, tokens: int, place: Place, text: int = 0) -> int:
        """Bytes that watching fills with keys and values, and with rows between layers."""
        rows = [held + place.slack for held in self.rows(tokens, text)]
        return sum(rows) * self.full_row_bytes(place.dtype) // len(rows)

    def answering_bytes(self, tokens: int, place: Place, shown: Showing) -> int:
        """Bytes that a question takes besides the memory, at most."""
        decoder = self.video_sizes.decoder
        rows = self.rows(tokens, shown.text)
        asked = question_bytes(decoder, place, shown, max(rows))
        return asked + self.unpacking_bytes(max(rows), place)

    def unpacking_bytes(self, rows: int, place: Place) -> int:
        """One layer's keys and values in full, where they are packed: so they are asked."""
        decoder = self.video_sizes.decoder
        if self.kv == "full":
            return 0
        return unpacked_bytes(rows, decoder.kv_heads, decoder.head_dim, place.dtype)

    def make_room(self, cache: GrowingCache, total: int, coming: int, words: int = 0) -> None:
        """Reserve what `coming` visual tokens take, the last of `total`, or raise CapacityError.

        `words`: tokens of text that will stand between them.
        """
        require_room(self.model, total, held=cache.get_seq_length())
        cache.reserve(total)

    def new_cache(self) -> GrowingCache:
        """An empty cache for one memory."""
        return self.model.new_cache()

    def read_rows(self, place: Place) -> int:
        """Rows that the decoder takes at a time while watching."""
        return place.block

    def eye(self, place: Place) -> Eye:
        """How the tower looks on this device."""
        tower = cast(ViTConfig, self.video_sizes.tower)
        return Eye(
            sizes=self.video_sizes,
            side=self.processor.side,
            at_once=tower.frames_at_once if place.on_cpu else 10**6,
            hidden=2 if tower.activation == "quick_gelu" else 1,
        )

    def streamed_bytes(self, tokens: int, place: Place, text: int) -> int:
        """Bytes of the cache when so many visual tokens have come in and more are expected."""
        return self.cache_bytes(tokens, place, text)

    def read_of(self, seen: int, place: Place, chunk: int) -> int:
        """Of so many tokens that came in, those that were read: a block waits for the next."""
        return max(0, seen // place.block - 1) * place.block

    def needs(self, shown: Showing, place: Place) -> Needs:
        """What watching so much and asking about it takes, besides the weights."""
        tokens, text = self.arranged(shown.frames) or 0, shown.text
        sizes, eye = self.video_sizes, self.eye(place)
        chunk = min(tokens, round(CHUNK * tokens / shown.frames))
        upcast = upcast_bytes(sizes, place)
        pictures = Pictures.of(shown.height, shown.width, eye.side, sizes.clip)
        flow = Flow(
            tokens=tokens,
            chunk=chunk,
            width=sizes.decoder.hidden * place.item,
            # a GPU's cache is as large from the first token on
            cached=lambda read: self.streamed_bytes(read if place.on_cpu else tokens, place, text),
            read=lambda seen: self.read_of(seen, place, chunk),
        )
        cache = self.cache_bytes(tokens, place, text)
        reading = reading_bytes(sizes, place, self.read_rows(place), tokens)
        memory = self.memory_bytes(tokens, place.dtype, text)
        return Needs(
            pictures=pictures.bytes(max(0, shown.frames - CHUNK)),
            tower=tower_bytes(eye, place, shown.frames),
            reading=reading,
            cache=cache,
            watching=upcast
            + max(cache + reading, streaming_bytes(flow, eye, place, shown, pictures)),
            memory=memory,
            asking=memory + self.answering_bytes(tokens, place, shown) + upcast,
        )

    # -- operations -------------------------------------------------------------------------------

    @property
    def watched_stages(self) -> int | None:
        """How many of the decoder's `stages` are run while watching; None is all of them."""
        return None

    def stages(self, frames: int, dtype: torch.dtype | None = None) -> tuple[Stage, ...]:
        """What each stage of watching so many frames takes; `dtype`: instead of the model's."""
        return whole_stages(self.video_sizes, frames, self.number_bytes(dtype))
