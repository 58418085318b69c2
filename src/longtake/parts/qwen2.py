"""The language model all four systems share: Qwen2, owned.

Two seams and no third: `Decoder(config, attention=...)` swaps the attention class, and
`decoder(x, step, between=...)` calls a function after each layer. What a layer needs besides its
input travels in one explicit `Step`. Equal to transformers' Qwen2 (tests/parts/test_qwen2.py).

Letters: B batch, S sequence, N keys, D width, H heads, K key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from longtake.errors import CheckpointError
from longtake.parts.attention import attend, attend_masked, last_row_weights, weighted_values
from longtake.parts.fields import real, text, whole
from longtake.parts.layers import Linear, RMSNorm, added
from longtake.parts.rope import Rope, RopeTable, frequencies, rope_table, rotate

MLP_CHUNK = 4096
"""Tokens the MLP handles at a time without gradients; its inner width is 5x the model's."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of the decoder."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    eps: float
    rope: Rope
    """How positions become angles."""


class LayerCache(Protocol):
    """What a layer asks of a cache."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> Any:
        """Append to one layer; returns all of its keys and values."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Everything a layer needs besides its input."""

    positions_BS: Tensor
    """Position of each token of this call, int64."""
    cache: LayerCache | None = None
    """Keys and values of the tokens before; this call's are appended."""
    mask_BSN: Tensor | None = None
    """Which keys each query may see (true); None is plain causal."""
    observe: Callable[[int, Tensor], None] | None = None
    """Called with (layer, the last query's attention [B, H, N]) where it is wanted."""
    last_only: bool = False
    """Whether features of the last position are all that is wanted: of the others the last layer
    makes keys and values alone."""

    def attend(self, layer: int, q_BHSE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
        """Attention of a layer's rotated queries: [B, H, S, E]; keys and values are appended."""
        if self.cache is not None:
            k_BKSE, v_BKSE = self.cache.update(k_BKSE, v_BKSE, layer)
        row_BHN = None if self.observe is None else last_row_weights(q_BHSE, k_BKSE)
        if self.observe is not None and row_BHN is not None:
            self.observe(layer, row_BHN)
        if self.mask_BSN is not None:
            return attend_masked(q_BHSE, k_BKSE, v_BKSE, self.mask_BSN[:, -q_BHSE.shape[2] :])
        if row_BHN is not None and q_BHSE.shape[2] == 1 and q_BHSE.dtype == torch.float32:
            return weighted_values(row_BHN, v_BKSE)  # the keys are not read a second time
        return attend(q_BHSE, k_BKSE, v_BKSE)


Between = Callable[[int, Tensor, Step], tuple[Tensor, Step]]
"""Called after each layer with (layer, x_BSD, step); returns what the next layer gets."""


class Attention(nn.Module):
    """Grouped-query attention with biases on q, k and v."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = Linear(config.hidden, queries)
        self.k_proj = Linear(config.hidden, keys)
        self.v_proj = Linear(config.hidden, keys)
        self.o_proj = Linear(queries, config.hidden, bias=False)

    def forward(
        self, x_BSD: Tensor, step: Step, table: RopeTable, queries: int | None = None
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]; appends this call's keys and values to the cache.

        `queries`: only so many positions at the end are wanted, [B, queries, D].
        """
        asking_BQD = x_BSD if queries is None else x_BSD[:, -queries:]
        asking = table if queries is None else table.last(queries)
        q, k, v = (
            proj(rows).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj, rows in (
                (self.q_proj, asking_BQD),
                (self.k_proj, x_BSD),
                (self.v_proj, x_BSD),
            )
        )
        out = step.attend(self.layer, rotate(q, asking), rotate(k, table), v)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden, config.mlp, bias=False)
        self.up_proj = Linear(config.hidden, config.mlp, bias=False)
        self.down_proj = Linear(config.mlp, config.hidden, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D], in pieces along S when no gradients are needed."""
        if torch.is_grad_enabled() or x_BSD.shape[1] <= MLP_CHUNK:
            return self._whole(x_BSD)
        return torch.cat([self._whole(piece) for piece in x_BSD.split(MLP_CHUNK, 1)], dim=1)

    def _whole(self, x_BSD: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.down_proj(F.silu(self.gate_proj(x_BSD)) * self.up_proj(x_BSD))
        # in place: on CPU each large fresh buffer costs page faults
        gate = F.silu(self.gate_proj(x_BSD), inplace=True)
        return self.down_proj(gate.mul_(self.up_proj(x_BSD)))


class Layer(GradientCheckpointingLayer):
    """One decoder layer."""

    def __init__(self, config: DecoderConfig, attention: nn.Module) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden, config.eps)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.eps)

    def forward(self, x_BSD: Tensor, step: Step, table: RopeTable) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x_BSD = added(x_BSD, self.self_attn(self.input_layernorm(x_BSD), step, table))
        return added(x_BSD, self.mlp(self.post_attention_layernorm(x_BSD)))

    def last(self, x_BSD: Tensor, step: Step, table: RopeTable) -> Tensor:
        """What `forward` makes of the last position, [B, 1, D]; keys and values of all are kept."""
        seen_B1D = self.self_attn(self.input_layernorm(x_BSD), step, table, queries=1)
        x_B1D = added(x_BSD[:, -1:], seen_B1D)
        return added(x_B1D, self.mlp(self.post_attention_layernorm(x_B1D)))


class Decoder(nn.Module):
    """Embedding, layers and final norm; the head belongs to the model."""

    def __init__(
        self,
        config: DecoderConfig,
        attention: Callable[[DecoderConfig, int], nn.Module] = Attention,
    ) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(
            Layer(config, attention(config, layer)) for layer in range(config.layers)
        )
        self.norm = RMSNorm(config.hidden, config.eps)

    def forward(self, x_BSD: Tensor, step: Step, between: Between | None = None) -> Tensor:
        """Embeddings [B, S, D] -> normed features [B, S, D]; S shrinks if `between` drops some.

        [B, 1, D] where the step wants the last position only.
        """
        return self.norm(self.through(x_BSD, step, range(len(self.layers)), between))

    def through(
        self, x_BSD: Tensor, step: Step, layers: range, between: Between | None = None
    ) -> Tensor:
        """Run some of the layers, without the norm at the end; `between` follows each of them."""
        table = self.table(step, x_BSD.dtype)
        for index in layers:
            layer = cast(Layer, self.layers[index])
            if step.last_only and index + 1 == len(self.layers):
                x_BSD = layer.last(x_BSD, step, table)
            else:
                x_BSD = layer(x_BSD, step, table)
            if between is not None:
                before = step.positions_BS
                x_BSD, step = between(index, x_BSD, step)
                if step.positions_BS is not before:
                    table = self.table(step, x_BSD.dtype)
        return x_BSD

    def table(self, step: Step, dtype: torch.dtype) -> RopeTable:
        """Rotary tables of the step's positions."""
        # not a buffer: casting the model to half precision would cast it too and lose long
        # positions
        rope = self.config.rope
        frequencies_E = frequencies(self.config.head_dim, rope).to(step.positions_BS.device)
        return rope_table(step.positions_BS, frequencies_E, dtype, rope.gain)


def decoder_config(published: Mapping[str, Any], rope: Rope) -> DecoderConfig:
    """Sizes from the fields of a published Qwen2-family config.json."""
    heads, hidden = whole(published, "num_attention_heads"), whole(published, "hidden_size")
    activation = text(published, "hidden_act", "silu")
    window = published.get("use_sliding_window")
    if activation != "silu" or window:
        found = f"hidden_act {activation!r}, use_sliding_window {window!r}"
        raise CheckpointError(f"config.json: {found}; expected 'silu' and full attention")
    return DecoderConfig(
        hidden=hidden,
        layers=whole(published, "num_hidden_layers"),
        heads=heads,
        kv_heads=whole(published, "num_key_value_heads", heads),
        head_dim=whole(published, "head_dim", hidden // heads),
        mlp=whole(published, "intermediate_size"),
        vocab=whole(published, "vocab_size"),
        eps=real(published, "rms_norm_eps", 1e-6),
        rope=rope,
    )
