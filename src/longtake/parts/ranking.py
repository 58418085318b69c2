"""How much the last tokens before a drop look at each token, by the layer that comes next.

VideoChat-Flash ranks visual tokens by the attention that the following layer's own projections
would give them. Only the rows of the asking tokens are computed, never an attention matrix.

Letters: S tokens, Q asking tokens, D width, H heads, K key/value heads, G = H/K, E head width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from longtake.parts.qwen2 import Attention, Decoder, Layer, Step
from longtake.parts.rope import RopeTable, rotate


def rows_table(decoder: Decoder, rows_S: Tensor, dtype: torch.dtype) -> RopeTable:
    """Rotary tables of these positions."""
    return decoder.table(Step(positions_BS=rows_S[None]), dtype)


def ranking_keys(decoder: Decoder, layer: int, x_SD: Tensor, start: int) -> Tensor:
    """Keys [K, S, E] that a layer would make of its input at positions from `start` on."""
    block = cast(Layer, decoder.layers[layer])
    attention = cast(Attention, block.self_attn)
    k_SKE = attention.k_proj(block.input_layernorm(x_SD)).unflatten(-1, (-1, attention.head_dim))
    rows_S = torch.arange(start, start + len(x_SD), device=x_SD.device)
    return rotate(k_SKE.transpose(0, 1)[None], rows_table(decoder, rows_S, x_SD.dtype))[0]


def ranking_queries(decoder: Decoder, layer: int, x_QD: Tensor, rows_Q: Tensor) -> Tensor:
    """Queries [H, Q, E] that a layer would make of its input at these positions, scaled."""
    block = cast(Layer, decoder.layers[layer])
    attention = cast(Attention, block.self_attn)
    q_QHE = attention.q_proj(block.input_layernorm(x_QD)).unflatten(-1, (-1, attention.head_dim))
    q_HQE = rotate(q_QHE.transpose(0, 1)[None], rows_table(decoder, rows_Q, x_QD.dtype))[0]
    return q_HQE * attention.head_dim**-0.5


def ranking_scores(q_HQE: Tensor, k_KSE: Tensor) -> Tensor:
    """Scores [H, Q, S] before the softmax, fp32: in half precision many would be equal.

    Heads that share keys read them once.
    """
    q_KRE = q_HQE.float().unflatten(0, (len(k_KSE), -1)).flatten(1, 2)
    scores_KRS = q_KRE @ k_KSE.float().transpose(1, 2)
    return scores_KRS.unflatten(1, (-1, q_HQE.shape[1])).flatten(0, 1)
