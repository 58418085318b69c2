"""Keys and values that outlive a call: preallocated, rewindable, fit for generate().

B batch, K key/value heads, S tokens held, C capacity, E head width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from longtake.parts.qwen2 import Between

SLACK = 1024
"""Tokens of room beyond what was reserved: a question and an answer fit without a move."""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values in buffers with room to grow.

    transformers' own layer concatenates at each step, which copies the whole past and needs twice
    its memory; this one writes in place and moves only when it outgrows its capacity.
    """

    def __init__(self, reserved: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reserved = reserved
        self.key_buffer: Tensor | None = None
        self.value_buffer: Tensor | None = None
        self.unchecked: Callable[[], None] | None = None
        """Of what lies in a file: compares it with its checksums. Raises StoreError."""

    def hold(self, keys_BKSE: Tensor, values_BKSE: Tensor) -> None:
        """Take these as they are, as the tokens of an empty layer; the first update copies them."""
        self.lazy_initialization(keys_BKSE, values_BKSE)
        self.keys, self.values = keys_BKSE, values_BKSE

    def ready(self) -> None:
        """To be called before keys and values are read. Raises StoreError if a file is damaged."""
        if self.unchecked is not None:
            self.unchecked()
            self.unchecked = None  # not before: what is damaged stays so

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append [B, K, S', E]; returns all keys and values [B, K, S, E] as views."""
        self.keep(key_states, value_states)
        return self.keys, self.values

    def peek(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values and [B, K, S', E] behind them, as views good until the next call.

        Nothing is kept of them: the next update writes over the same room.
        """
        return self._written(key_states, value_states)

    def keep(self, key_states: Tensor, value_states: Tensor) -> None:
        """Append [B, K, S', E], as `update` does, for a caller who has no use for the rest."""
        self.keys, self.values = self._written(key_states, value_states)

    def _written(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """The buffers up to and with what is written behind the tokens held."""
        self.ready()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.buffered()
        self.key_buffer = self._room(self.key_buffer, self.keys, key_states, past)
        self.value_buffer = self._room(self.value_buffer, self.values, value_states, past)
        self.keys = self.key_buffer[:, :, :past]
        self.values = self.value_buffer[:, :, :past]
        total = past + key_states.shape[-2]
        self.key_buffer[:, :, past:total] = key_states
        self.value_buffer[:, :, past:total] = value_states
        return self.key_buffer[:, :, :total], self.value_buffer[:, :, :total]

    def shown(self) -> tuple[Tensor, Tensor]:
        """All keys and values held, [B, K, S, E] each; there must be some."""
        assert self.keys is not None
        assert self.values is not None
        if self.unchecked is not None:  # once they are compared, what the file becomes is no matter
            self.keep(self.keys[:, :, :0], self.values[:, :, :0])
        return self.keys, self.values

    def buffered(self) -> int:
        """Tokens in the buffers: all of the layer, unless a subclass keeps some elsewhere."""
        return 0 if self.keys is None or self.keys.numel() == 0 else self.keys.shape[-2]

    def make_room(self, tokens: int) -> None:
        """Take room for `tokens` in all when the layer next moves."""
        self.reserved = tokens

    def _room(self, buffer: Tensor | None, held: Tensor | None, new: Tensor, past: int) -> Tensor:
        """A buffer that starts with the `past` tokens held and has room for the new ones."""
        total = past + new.shape[-2]
        # generate() may have replaced `held` (beams, selection): then it lives elsewhere
        at_home = buffer is not None and held is not None and held.data_ptr() == buffer.data_ptr()
        fits = buffer is not None and buffer.shape[0] == new.shape[0] and total <= buffer.shape[2]
        if buffer is not None and fits and (at_home or past == 0):
            return buffer
        capacity = max(total + max(SLACK, past // 8), self.reserved)
        room = self.allocate(new, *new.shape[:2], capacity, new.shape[-1])
        if past and held is not None:
            room[:, :, :past] = held
        return room

    def allocate(self, like: Tensor, *shape: int) -> Tensor:
        """Room of a shape, of the dtype and on the device of `like`."""
        return like.new_empty(shape)

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens; the buffers stay."""
        if self.keys is not None and self.values is not None:
            self.keys = self.keys[..., :length, :]
            self.values = self.values[..., :length, :]

    def trim(self) -> None:
        """Give back the room beyond what is held and the slack."""
        if self.keys is None or self.values is None or self.key_buffer is None:
            return
        self.reserved, past = 0, self.buffered()
        if self.key_buffer.shape[2] > past + SLACK:
            for part in ("key", "value"):
                held = getattr(self, f"{part}s")
                room = self.allocate(held, *held.shape[:2], past + SLACK, held.shape[-1])
                room[:, :, :past] = held
                setattr(self, f"{part}_buffer", room)
                setattr(self, f"{part}s", room[:, :, :past])

    def reset(self) -> None:
        """Forget everything and give the memory back."""
        self.unchecked = None
        self.key_buffer = self.value_buffer = None
        super().reset()

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens held, not of the room beside them."""
        held = [part for part in (self.keys, self.values) if part is not None]
        return sum(part.numel() * part.element_size() for part in held)


class GrowingCache(Cache):
    """A cache of growing layers; layers may hold different lengths."""

    layers: list[GrowingLayer]  # type: ignore[assignment]

    def __init__(self, reserve: int = 0) -> None:
        """`reserve`: tokens each layer makes room for at its first update."""
        super().__init__(layer_class_to_replicate=GrowingLayer)
        self.reserved = reserve + SLACK if reserve else 0
        self.busy = threading.Lock()
        """Held while a question is answered: an answer in the making is part of the cache."""

    @property
    def between(self) -> Between | None:
        """What a decoder is to do between layers when it appends; None where all are as long."""
        return None

    @property
    def unread(self) -> bool:
        """Whether layers are left that no memory can hold, since they depend on the question."""
        return False

    @property
    def shareable(self) -> bool:
        """Whether every question is answered behind these same keys and values."""
        return not self.unread

    def rows_of(self, layer: int) -> Tensor | None:
        """Which of a memory's tokens a layer holds, in order: [N]; None is all of them."""
        return None

    def successor(self) -> GrowingCache:
        """An empty cache of this kind, for the same tokens in another form."""
        return GrowingCache()

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in all, plus slack, when a layer next moves."""
        self.reserved = tokens + SLACK
        for layer in self.layers:
            layer.make_room(self.reserved)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Append to one layer; returns all of its keys and values."""
        self._layer(layer_idx)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def peek(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """All keys and values of one layer and these behind them; nothing is kept of these."""
        return self._layer(layer_idx).peek(key_states, value_states)

    def keep(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> None:
        """Append to one layer; returns nothing."""
        self._layer(layer_idx).keep(key_states, value_states)

    def _layer(self, layer_idx: int) -> GrowingLayer:
        while len(self.layers) <= layer_idx:
            self.layers.append(self.new_layer())
        return self.layers[layer_idx]

    def new_layer(self) -> GrowingLayer:
        """One more layer."""
        return GrowingLayer(self.reserved)

    def trim(self) -> None:
        """Give back the room beyond what is held and the slack for a question."""
        for layer in self.layers:
            layer.trim()

    def rewind(self, length: int) -> None:
        """Forget all tokens after the first `length` of each layer."""
        for layer in self.layers:
            layer.rewind(length)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held."""
        return sum(layer.nbytes for layer in self.layers)


def kv_bytes_per_token(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes that one token adds to a cache."""
    return 2 * layers * kv_heads * head_dim * dtype.itemsize
