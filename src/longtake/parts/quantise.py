"""A finished memory's keys and values in 8 or 4 bits a number.

Only the memory is packed (`packed.py` says how): the question and the answer behind it, and where
wanted the memory's own last tokens, stay in full precision. Attention gets all of them as ever: a
layer is unpacked when it is asked and nothing keeps the result, so one layer at a time is large.
That buys memory with time, since every written token unpacks the whole memory once.

Letters: B batch, K key/value heads, N packed tokens, S tokens behind them, E head width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from longtake.errors import OptionError, PromptError
from longtake.parts.cache import GrowingCache, GrowingLayer
from longtake.parts.packed import Group, Packed

Kind = Literal["int8", "fp8", "int4"]

BITS: dict[Kind, int] = {"int8": 8, "fp8": 8, "int4": 4}

RESIDUAL: dict[Kind, int] = {"int8": 0, "fp8": 0, "int4": 128}
"""Last tokens of a memory that stay in full precision when the caller does not say (KIVI: 128)."""


class QuantisedLayer(GrowingLayer):
    """A layer whose first tokens are packed for good; what follows grows as in any other."""

    def __init__(
        self, packed_keys: Packed, packed_values: Packed, tail: tuple[Tensor, Tensor]
    ) -> None:
        """`tail`: the keys and values [B, K, S, E] behind the packed ones; copied, may be empty."""
        super().__init__()
        self.packed_keys: Packed | None = packed_keys
        self.packed_values: Packed | None = packed_values
        self.keys, self.values = super().peek(*tail)

    @classmethod
    def of(cls, layer: GrowingLayer, kind: Kind, residual: int) -> GrowingLayer:
        """The same tokens, packed but for the last `residual`; an empty layer if there are none."""
        layer.ready()
        keys, values = layer.keys, layer.values
        if keys is None or values is None or layer.buffered() == 0:
            return GrowingLayer()
        first = max(0, keys.shape[2] - residual)
        return cls(
            packed_as(kind, keys[:, :, :first], Group.of_keys()),
            packed_as(kind, values[:, :, :first], Group.of_values(values.shape[-1])),
            (keys[:, :, first:], values[:, :, first:]),
        )

    @property
    def packed(self) -> int:
        """Tokens that are packed."""
        return 0 if self.packed_keys is None else self.packed_keys.tokens

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append [B, K, S', E]; all keys and values [B, K, N + S, E], made for this call."""
        self.keys, self.values = keys, values = super().peek(key_states, value_states)
        return behind(self.packed_keys, keys), behind(self.packed_values, values)

    def peek(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values and these behind them; nothing is kept of these."""
        keys, values = super().peek(key_states, value_states)
        return behind(self.packed_keys, keys), behind(self.packed_values, values)

    def shown(self) -> tuple[Tensor, Tensor]:
        """All keys and values held, made for this call."""
        keys, values = super().shown()
        return behind(self.packed_keys, keys), behind(self.packed_values, values)

    def get_seq_length(self) -> int:
        """Tokens held, packed or not."""
        return self.packed + self.buffered()

    def make_room(self, tokens: int) -> None:
        """Take room for `tokens` in all; the packed ones need none."""
        super().make_room(max(0, tokens - self.packed))

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens. Raises PromptError if packed ones would have to go."""
        if length < self.packed:
            raise PromptError(
                f"a quantised memory cannot lose part of itself: {self.packed} tokens are packed, "
                f"{length} were to stay; watch the video again"
            )
        super().rewind(length - self.packed)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; transformers gives their number as a negative one."""
        if tokens_to_remove < 0:
            self.rewind(max(0, self.get_seq_length() + tokens_to_remove))
        else:
            self.rewind(tokens_to_remove)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Of the batch only these."""
        if self.packed_keys is not None and self.packed_values is not None:
            self.packed_keys = self.packed_keys.rows(indices)
            self.packed_values = self.packed_values.rows(indices)
        super().batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each of the batch several times."""
        if self.keys is not None:
            self.batch_select_indices(torch.arange(len(self.keys)).repeat_interleave(repeats))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Of the batch these, in this order."""
        self.batch_select_indices(beam_idx)

    def reset(self) -> None:
        """Forget everything, the packed tokens too, and give the memory back."""
        self.packed_keys = self.packed_values = None
        super().reset()

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens held: codes and scales, and the tokens behind them."""
        packed = [part for part in (self.packed_keys, self.packed_values) if part is not None]
        return sum(part.nbytes for part in packed) + super().nbytes


def packed_as(kind: Kind, x_BKNE: Tensor, group: Group) -> Packed:
    """Keys or values in numbers of this kind."""
    return Packed.of(x_BKNE, BITS[kind], group, floating=kind == "fp8")


def behind(packed: Packed | None, tail_BKSE: Tensor) -> Tensor:
    """What is packed and the tail behind it: [B, K, N + S, E]; a new tensor, kept by nobody."""
    if packed is None or packed.tokens == 0:
        return tail_BKSE
    batch, heads, tail, width = tail_BKSE.shape
    all_BKNE = tail_BKSE.new_empty(batch, heads, packed.tokens + tail, width)
    packed.write(all_BKNE[:, :, : packed.tokens])
    all_BKNE[:, :, packed.tokens :] = tail_BKSE
    return all_BKNE


def quantised(cache: GrowingCache, kind: Kind, residual: int | None = None) -> GrowingCache:
    """A cache of the same tokens in packed form. The old one is consumed: it is empty afterwards.

    Each old layer is given back as soon as it is packed, so the peak is the old cache and one
    packed layer. Rewind the cache to the memory before: all it holds is packed, but for the last
    `residual` tokens (128 of int4 and none of others if not said). Raises OptionError, and
    PromptError while the memory answers a question.
    """
    if kind not in BITS:
        raise OptionError(f"kind {kind!r} is unknown; choose {', '.join(BITS)}")
    kept = RESIDUAL[kind] if residual is None else residual
    if type(kept) is not int or kept < 0:
        raise OptionError(f"residual must be a whole number from 0, got {residual!r}")
    if any(isinstance(layer, QuantisedLayer) for layer in cache.layers):
        raise OptionError(
            "this memory is quantised already; watch the video again for another kind"
        )
    if not cache.busy.acquire(blocking=False):
        raise PromptError("this memory is answering a question; wait, or watch again")
    try:
        fresh = cache.successor()
        for layer in cache.layers:
            fresh.layers.append(QuantisedLayer.of(layer, kind, kept))
            layer.reset()
        return fresh
    finally:
        cache.busy.release()


def quantised_bytes(
    tokens: int, kv_heads: int, head_dim: int, kind: Kind, dtype: torch.dtype
) -> int:
    """Bytes of one layer of a memory of so many tokens; `dtype`: of those that are not packed."""
    packed = max(0, tokens - RESIDUAL[kind])
    keys, values = Group.of_keys(), Group.of_values(head_dim)
    codes = 2 * packed * -(-head_dim * BITS[kind] // 8)
    scales = -(-packed // keys.tokens) * head_dim + packed * (head_dim // values.channels)
    tail = 2 * (tokens - packed) * head_dim * dtype.itemsize
    return kv_heads * (codes + scales * 2 * torch.float16.itemsize + tail)


def unpacked_bytes(tokens: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes of a layer's keys and values while it is asked."""
    return 2 * tokens * kv_heads * head_dim * dtype.itemsize


def quantised_bytes_per_token(layers: int, kv_heads: int, head_dim: int, kind: Kind) -> float:
    """Bytes that one packed token takes; a memory's last group of keys counts as a whole one."""
    codes = -(-head_dim * BITS[kind] // 8)
    scale = 2 * torch.float16.itemsize
    keys, values = Group.of_keys(), Group.of_values(head_dim)
    scales = sum(scale * head_dim / (group.tokens * group.channels) for group in (keys, values))
    return layers * kv_heads * (2 * codes + scales)
