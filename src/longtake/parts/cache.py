"""Keys and values that outlive a call: preallocated, rewindable, and usable by transformers' generate().

B batch, K key/value heads, S tokens held, C capacity, E head width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SLACK = 256
"""Tokens of room beyond what was reserved: a question and an answer usually fit without a move."""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values in buffers with room to grow.

    transformers' own layer concatenates at each step, which copies the whole past and needs twice its
    memory; this one writes in place and moves only when it outgrows its capacity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reserved = 0
        self.key_buffer: Tensor | None = None
        self.value_buffer: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append [B, K, S', E]; returns all keys and values [B, K, S, E] as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.get_seq_length()
        total = past + key_states.shape[-2]
        self.key_buffer = self._room(self.key_buffer, self.keys, key_states, total)
        self.value_buffer = self._room(self.value_buffer, self.values, value_states, total)
        self.key_buffer[:, :, past:total] = key_states
        self.value_buffer[:, :, past:total] = value_states
        self.keys = self.key_buffer[:, :, :total]
        self.values = self.value_buffer[:, :, :total]
        return self.keys, self.values

    def _room(self, buffer: Tensor | None, held: Tensor, new: Tensor, total: int) -> Tensor:
        """A buffer that starts with `held` and has room for `total` tokens."""
        past = total - new.shape[-2]
        # generate() may have replaced `held` (beams, batch selection): then the buffer is not its home
        at_home = buffer is not None and past > 0 and held.data_ptr() == buffer.data_ptr()
        if buffer is not None and total <= buffer.shape[2] and (at_home or past == 0):
            if buffer.shape[0] == new.shape[0]:
                return buffer
        capacity = max(total + max(SLACK, past // 4), self.reserved)
        room = new.new_empty(*new.shape[:2], capacity, new.shape[-1])
        if past:
            room[:, :, :past] = held
        return room

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens; the buffers stay."""
        if self.is_initialized and length < self.get_seq_length():
            self.keys = self.keys[:, :, :length]
            self.values = self.values[:, :, :length]

    def reset(self) -> None:
        """Forget everything and give the memory back."""
        self.key_buffer = self.value_buffer = None
        super().reset()


class GrowingCache(Cache):
    """A cache of growing layers; layers may hold different lengths."""

    def __init__(self, reserve: int = 0) -> None:
        """`reserve`: tokens each layer makes room for at its first update."""
        super().__init__(layer_class_to_replicate=GrowingLayer)
        self._reserve = reserve

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in all, plus slack, at each layer's next move."""
        self._reserve = tokens + SLACK
        for layer in self.layers:
            layer.reserved = self._reserve

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Append to one layer; returns all of its keys and values."""
        while len(self.layers) <= layer_idx:
            layer = GrowingLayer()
            layer.reserved = self._reserve
            self.layers.append(layer)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def rewind(self, length: int) -> None:
        """Forget all tokens after the first `length` of each layer."""
        for layer in self.layers:
            layer.rewind(length)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held (not of the room beside them)."""
        return sum(
            part.numel() * part.element_size()
            for layer in self.layers
            if layer.is_initialized
            for part in (layer.keys, layer.values)
        )


def kv_bytes_per_token(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes that one token adds to a cache."""
    return 2 * layers * kv_heads * head_dim * dtype.itemsize
