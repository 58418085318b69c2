"""Video-XL as it was published, everything at once: what longtake is measured against.

Our own words for the published procedure (arXiv 2409.14485 and its release), with its costs. All
frames go through the tower in one batch that keeps every hidden state to its end, and all visual
tokens are held until the answer is written. Keys are kept unrotated: each step joins cache and
window anew in every layer, rotates all of the keys, builds a dense mask and applies the head to
every row. Weights are those of a loaded model; its linear, norm and MLP modules are used (and the
tower's blocks), its loops, attention and caches are not.

Where the release is costlier still, this is lenient: attention runs in torch's fused kernels, the
tower stops at the block whose output is used, the rotary table is built once a step instead of
once a layer, visual features are put in place at once instead of one by one, and logits that are
fp32 already need no second copy.

Letters: T frames, P patches, L tokens of a frame, B batch, S rows of a step, N keys, D width, H
heads, K key/value heads, E head width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.systems.video_xl import VideoXL

SEED = 42
"""The release draws ratios from a generator with this seed."""


@dataclass(kw_only=True)
class Written:
    """What came out, and what it took."""

    ids: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    """Of the position before each id: [V]."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds of each stage."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what runs inside to a stage."""
        began = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@dataclass
class Held:
    """One layer's keys, not rotated, and values: [B, K, N, E]; None before the first step."""

    keys: Tensor | None = None
    values: Tensor | None = None

    def join(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What is held and these behind it, as new tensors."""
        if self.keys is None or self.values is None:
            return keys, values
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)


@torch.no_grad()
def answer(
    system: VideoXL, frames_TCHW: Tensor, before: Sequence[int], after: Sequence[int], tokens: int
) -> Written:
    """Write `tokens` ids greedily behind the text before, the video and the text after."""
    out, model = Written(), system.model
    pixels_TCHW = system.processor(frames_TCHW)
    with out.stage("tower"):
        patches_TPD = hidden_states(model.tower, pixels_TCHW)[-1][:, 1:]
    with out.stage("projector"):
        features_TPD = model.projector(patches_TPD)
    visual_ND = pooled(features_TPD, system.config.stride).flatten(0, 1)
    del patches_TPD, features_TPD
    decoder = Literal(model, out)
    chunk = system.condense.window
    decoder.read(decoder.embed(before))
    rng = np.random.default_rng(SEED)
    carried = 0
    for window_SD in visual_ND.split(chunk):
        ratio = draw(system.condense.ratios.choices, len(window_SD), rng)
        carried = decoder.read_window(window_SD, ratio, carried)
    logits_V = torch.empty(0)
    with out.stage("answer"):
        quiet = Literal(model, Written(), decoder.layers)
        for start in range(0, len(after), chunk):
            logits_V = quiet.read(quiet.embed(after[start : start + chunk]))
        for number in range(tokens):
            if number:
                logits_V = quiet.read(quiet.embed(out.ids[-1:]))
            out.logits.append(logits_V.clone())  # not the whole step's
            out.ids.append(int(logits_V.argmax()))
    return out


def hidden_states(tower: Any, pixels_TCHW: Tensor) -> list[Tensor]:
    """What goes into each block of the tower and what comes out of the last: each [T, L, D]."""
    states = [tower.pre_layrnorm(tower.embeddings(pixels_TCHW))]
    for block in tower.encoder.layers:
        states.append(block(states[-1]))
    return states


def pooled(features_TPD: Tensor, stride: int) -> Tensor:
    """Average blocks of the square grid of patches: [T, P, D] -> [T, P / stride^2, D]."""
    side = int(features_TPD.shape[1] ** 0.5)
    grid_TDHW = features_TPD.transpose(1, 2).reshape(len(features_TPD), -1, side, side)
    return F.avg_pool2d(grid_TDHW, stride).flatten(2).transpose(1, 2)


def draw(choices: Sequence[int], raw: int, rng: np.random.Generator) -> int:
    """The ratio of a window of `raw` tokens: the only one, or at random one that divides it."""
    if len(choices) == 1:
        return choices[0]
    return int(rng.choice([ratio for ratio in choices if raw >= ratio and raw % ratio == 0]))


class Literal:
    """The language model, step by step."""

    def __init__(self, model: Any, out: Written, layers: list[Held] | None = None) -> None:
        self.decoder, self.head, self.out = model.decoder, model.lm_head.weight, out
        self.vocabulary: int = model.usable_vocab
        self.layers = layers or [Held() for _ in self.decoder.layers]

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token ids -> [S, D]."""
        return self.decoder.embed_tokens(torch.tensor(ids, dtype=torch.int64))

    def read(self, x_SD: Tensor) -> Tensor:
        """Read text, all of which is kept; logits [V] behind its last token."""
        return self.step(x_SD, torch.zeros(len(x_SD), dtype=torch.bool))[-1]

    def read_window(self, visual_SD: Tensor, ratio: int, carried: int) -> int:
        """Read a window of visual tokens and keep its summaries; tokens left for the next one."""
        raw = len(visual_SD)
        rows = torch.arange(raw + (raw + carried) // ratio)
        is_summary_S = rows % (ratio + 1) == ratio - carried
        x_SD = visual_SD.new_empty(len(rows), visual_SD.shape[1])
        x_SD[~is_summary_S] = visual_SD
        x_SD[is_summary_S] = self.decoder.beacon_embed_tokens.weight
        self.step(x_SD, is_summary_S, visual=True)
        return (raw + carried) % ratio

    def step(self, x_SD: Tensor, is_summary_S: Tensor, visual: bool = False) -> Tensor:
        """One pass through all layers: logits [S, V] of every row."""
        first = self.layers[0].keys
        past = 0 if first is None else first.shape[2]
        with self.out.stage("windows"):
            table = rotary(past + len(x_SD), self.decoder.config)
            mask_SN = dense_mask(len(x_SD), past)
            x_BSD = x_SD[None]
            for layer, held in zip(self.decoder.layers, self.layers, strict=True):
                normed = layer.input_layernorm(x_BSD)
                q, k, v = projections(layer.self_attn, normed, is_summary_S)
                keys, values = held.join(k, v)
                x_BSD = x_BSD + attention(layer.self_attn, q, keys, values, table, mask_SN)
                x_BSD = x_BSD + layer.mlp(layer.post_attention_layernorm(x_BSD))
                if visual:
                    keys, values = held.join(k[:, :, is_summary_S], v[:, :, is_summary_S])
                held.keys, held.values = keys, values
            features_SD = self.decoder.norm(x_BSD)[0]
        with self.out.stage("head"):
            return F.linear(features_SD, self.head)[:, : self.vocabulary].float()


def projections(module: Any, x_BSD: Tensor, is_summary_S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, values [B, heads, S, E]; summaries' rows by projections of their own."""
    found = []
    for name in ("q", "k", "v"):
        ordinary = getattr(module, f"{name}_proj")
        own = getattr(module, f"beacon_{name}_proj", ordinary)
        rows = x_BSD.new_empty(*x_BSD.shape[:2], ordinary.out_features)
        rows[:, ~is_summary_S] = ordinary(x_BSD[:, ~is_summary_S])
        rows[:, is_summary_S] = own(x_BSD[:, is_summary_S])
        found.append(rows.unflatten(-1, (-1, module.head_dim)).transpose(1, 2))
    return found[0], found[1], found[2]


Table = tuple[Tensor, Tensor]
"""Cosines and sines [N, E] of positions 0 to N - 1."""


def rotary(length: int, config: Any) -> Table:
    """The table of all positions from 0."""
    exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    angles = torch.outer(torch.arange(length).float(), 1.0 / config.rope.theta**exponents)
    both = torch.cat([angles, angles], dim=-1)
    return both.cos(), both.sin()


def turned(x_BHNE: Tensor, cos_NE: Tensor, sin_NE: Tensor) -> Tensor:
    """Rotate each row by its position."""
    half = x_BHNE.shape[-1] // 2
    swapped = torch.cat([-x_BHNE[..., half:], x_BHNE[..., :half]], dim=-1)
    return x_BHNE * cos_NE + swapped * sin_NE


def dense_mask(rows: int, past: int) -> Tensor:
    """[S, N], to be added to scores: 0 where a row may look, the lowest number elsewhere."""
    lowest = torch.finfo(torch.float32).min
    return torch.full((rows, past + rows), lowest).triu(past + 1)


def attention(
    module: Any, q_BHSE: Tensor, keys: Tensor, values: Tensor, table: Table, mask_SN: Tensor
) -> Tensor:
    """Attend with all keys rotated now: [B, S, D]."""
    cos_NE, sin_NE = table
    rows, groups = q_BHSE.shape[2], q_BHSE.shape[1] // keys.shape[1]
    q_BHSE = turned(q_BHSE, cos_NE[-rows:], sin_NE[-rows:])
    keys = turned(keys, cos_NE, sin_NE).repeat_interleave(groups, dim=1)
    values = values.repeat_interleave(groups, dim=1)
    out = F.scaled_dot_product_attention(q_BHSE, keys, values, attn_mask=mask_SN[None, None])
    return module.o_proj(out.transpose(1, 2).flatten(2))
