"""VideoChat-Flash as it was published, everything at once: what longtake is measured against.

Our own words for the published procedure (arXiv 2501.00574 and its repository), with its costs. All
clips go through the tower in one batch, attention in the branch it takes without flash-attn: scores
written out, softmax, product. All clips are merged in one batch. The whole prompt goes through the
language model in one step; tokens are dropped between layers at once, and where they are ranked,
the next layer's queries and keys are made of every row for the one row of attention that is used.
The head is applied to every position of the prompt. Keys and values are joined anew at each step
and repeated for the heads that share them; behind each drop a written token gets the position that
is due there. Weights are those of a loaded model; its linear and norm modules are used, its loops,
attention, merging, MLPs and caches are not.

Where the original is costlier still, this is lenient: pictures are prepared as one batch of bytes
instead of one by one in float64, the patch projection is a 2-D convolution, rotary tables are made
for the prompt and not for max_position_embeddings in every layer, ranking projects no values,
builds no dense mask (rows x rows, in fp32) and does not copy the rows first, and logits that are
fp32 already need no second copy.

Letters: T frames, B clips (or batch), F frames of a clip, L tokens of a clip, S rows of a step, N
keys, D width, H heads, K key/value heads, R pairs merged, E head width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.parts.dropping import EVEN_STAGES, Schedule
from longtake.parts.umt import positions
from longtake.systems.videochat_flash import VideoChatFlash

FRAME_TOKENS = 16
"""Tokens of a frame of a clip, on average."""


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


@torch.no_grad()
def answer(
    system: VideoChatFlash,
    frames_TCHW: Tensor,
    before: Sequence[int],
    after: Sequence[int],
    tokens: int,
) -> Written:
    """Write `tokens` ids greedily behind the text before, the video and the text after.

    The number of frames must be a multiple of 4, as in the original.
    """
    out, model = Written(), system.model
    clip = system.config.tower.frames
    with out.stage("pixels"):
        pixels_BFCHW = system.processor(frames_TCHW).unflatten(0, (-1, clip))
    with out.stage("tower"):
        seen_BLD = look(model.tower, pixels_BFCHW)
    with out.stage("merge"):
        merged_BLD = merge(seen_BLD, FRAME_TOKENS * clip, system.config.tower.heads)
    with out.stage("projector"):
        visual_ND = model.projector(merged_BLD).flatten(0, 1)
    del seen_BLD, merged_BLD
    decoder = Literal(model, system.drop, Visual(len(before), len(visual_ND)))
    with out.stage("prefill"):
        prompt_SD = torch.cat([decoder.embed(before), visual_ND, decoder.embed(after)])
        features_SD = decoder.step(prompt_SD)
    with out.stage("head"):
        logits_SV = decoder.logits(features_SD)
    for number in range(tokens):
        if number:
            with out.stage("answer"):
                logits_SV = decoder.logits(decoder.step(decoder.embed(out.ids[-1:])))
        out.logits.append(logits_SV[-1].clone())  # not the whole step's
        out.ids.append(int(logits_SV[-1].argmax()))
    return out


# -- the tower ------------------------------------------------------------------------------------


def look(tower: Any, pixels_BFCHW: Tensor) -> Tensor:
    """Tower features of all clips at once: [B, L, D]."""
    x_BLD = tower.patch_embed(pixels_BFCHW)
    x_BLD = x_BLD + positions(tower.config, pixels_BFCHW.shape[1])
    for block in tower.blocks:
        x_BLD = x_BLD + attend(block.attn, block.norm1(x_BLD))
        hidden = F.gelu(block.mlp.fc1(block.norm2(x_BLD)))
        x_BLD = x_BLD + block.mlp.fc2(hidden)
    return tower.vision_layernorm(x_BLD)


def attend(module: Any, x_BLD: Tensor) -> Tensor:
    """Attention within each clip, its matrix written out."""
    bias = torch.cat([module.q_bias, torch.zeros_like(module.v_bias), module.v_bias])
    qkv = F.linear(x_BLD, module.qkv.weight, bias)
    q, k, v = qkv.unflatten(-1, (3, module.heads, -1)).permute(2, 0, 3, 1, 4)
    q = q * q.shape[-1] ** -0.5
    scores = q @ k.transpose(-2, -1)
    scores = scores.softmax(dim=-1)
    return module.proj((scores @ v).transpose(1, 2).flatten(2))


# -- merging --------------------------------------------------------------------------------------


def merge(x_BLD: Tensor, target: int, heads: int) -> Tensor:
    """Merge each clip's tokens to `target`, all clips at once."""
    size_BL1 = torch.ones_like(x_BLD[..., :1])
    while (length := x_BLD.shape[1]) > target:
        merges = min(length // 2, length - target)
        unit = x_BLD.unflatten(-1, (heads, -1)).mean(2)
        unit = unit / unit.norm(dim=-1, keepdim=True)
        best, into = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).max(dim=-1)
        order = best.argsort(dim=-1, descending=True)
        into = into.gather(1, order[:, :merges])
        sums = pooled(x_BLD * size_BL1, order, into)
        size_BL1 = pooled(size_BL1, order, into)
        x_BLD = sums / size_BL1
    return x_BLD


def pooled(x_BLD: Tensor, order_BL: Tensor, into_BR: Tensor) -> Tensor:
    """Sources that stay, then destinations with what merges into them added."""
    merges, width = into_BR.shape[1], x_BLD.shape[-1]
    sources, destinations = x_BLD[:, ::2], x_BLD[:, 1::2]
    moved, stay = (
        sources.gather(1, rows[..., None].expand(-1, -1, width))
        for rows in (order_BL[:, :merges], order_BL[:, merges:])
    )
    into = into_BR[..., None].expand(-1, -1, width)
    return torch.cat([stay, destinations.scatter_add(1, into, moved)], dim=1)


# -- the language model ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Visual:
    """Where the video lies in the prompt."""

    start: int
    tokens: int


class Literal:
    """The language model, step by step; the first step is the prompt."""

    def __init__(self, model: Any, drop: Schedule | None, visual: Visual) -> None:
        self.decoder, self.head = model.decoder, model.lm_head.weight[: model.usable_vocab]
        self.drop, self.visual = drop, visual
        self.cache: list[tuple[Tensor, Tensor]] = []
        """Each layer's keys and values so far: [B, K, N, E]."""
        self.read = 0
        """Tokens read by the first layer."""

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token ids -> [S, D]."""
        return self.decoder.embed_tokens(torch.tensor(ids, dtype=torch.int64))

    def logits(self, features_SD: Tensor) -> Tensor:
        """Of every row: [S, V]."""
        return F.linear(features_SD, self.head).float()

    def step(self, x_SD: Tensor) -> Tensor:
        """One pass through all layers: features [S, D] of the rows that are left."""
        first = not self.cache
        positions_S = torch.arange(self.read, self.read + len(x_SD))
        self.read += len(x_SD)
        x_BSD = x_SD[None]
        for number, layer in enumerate(self.decoder.layers):
            if self.drop is not None and number in self.drop.layers:
                stage = self.drop.layers.index(number)
                if first:
                    x_BSD = x_BSD[:, self.staying(stage, x_BSD, positions_S)]
                    positions_S = torch.arange(x_BSD.shape[1])
                else:
                    counts = self.drop.counts(self.visual.tokens)
                    positions_S = positions_S - (counts[stage] - counts[stage + 1])
            x_BSD = x_BSD + self.attend(number, layer.input_layernorm(x_BSD), positions_S)
            normed = layer.post_attention_layernorm(x_BSD)
            gated = F.silu(layer.mlp.gate_proj(normed)) * layer.mlp.up_proj(normed)
            x_BSD = x_BSD + layer.mlp.down_proj(gated)
        return self.decoder.norm(x_BSD)[0]

    def attend(self, number: int, x_BSD: Tensor, positions_S: Tensor) -> Tensor:
        """Causal attention behind what the layer's cache holds: [B, S, D]."""
        module, rows = self.decoder.layers[number].self_attn, x_BSD.shape[1]
        table = rotary(positions_S, self.decoder.config)
        q, k = turned(module, "q", x_BSD, table), turned(module, "k", x_BSD, table)
        v = split(module, "v", x_BSD)
        if number < len(self.cache):
            keys, values = self.cache[number]
            k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
            self.cache[number] = (k, v)
        else:
            self.cache.append((k, v))
        groups = q.shape[1] // k.shape[1]
        k, v = (part.repeat_interleave(groups, dim=1) for part in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=rows > 1)
        return module.o_proj(out.transpose(1, 2).flatten(2))

    def staying(self, stage: int, x_BSD: Tensor, positions_S: Tensor) -> Tensor:
        """Indices of the rows that go on behind a drop."""
        assert self.drop is not None
        counts = self.drop.counts(self.visual.tokens)
        start, left, keep = self.visual.start, counts[stage], counts[stage + 1]
        even = EVEN_STAGES[self.drop.kind]
        if even is None or stage < even:
            chosen = torch.linspace(0, left - 1, keep, dtype=torch.int64)
        else:
            weights_S = self.ranking(self.drop.layers[stage], x_BSD, positions_S)
            chosen = weights_S[start : start + left].topk(keep).indices.sort().values
        rows = torch.arange(x_BSD.shape[1])
        return torch.cat([rows[:start], chosen + start, rows[start + left :]])

    def ranking(self, number: int, x_BSD: Tensor, positions_S: Tensor) -> Tensor:
        """The last row's attention by the coming layer, averaged over heads: [S]."""
        layer = self.decoder.layers[number]
        normed, module = layer.input_layernorm(x_BSD), layer.self_attn
        table = rotary(positions_S, self.decoder.config)
        q, k = turned(module, "q", normed, table), turned(module, "k", normed, table)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = q[0, :, -1:] @ k[0].transpose(1, 2) / module.head_dim**0.5
        return scores.softmax(dim=-1, dtype=torch.float32).mean((0, 1))


Table = tuple[Tensor, Tensor]
"""Cosines and sines [S, E]."""


def rotary(positions_S: Tensor, config: Any) -> Table:
    """The table of these positions."""
    exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    angles = torch.outer(positions_S.float(), 1.0 / config.rope.theta**exponents)
    both = torch.cat([angles, angles], dim=-1)
    return both.cos(), both.sin()


def split(module: Any, name: str, x_BSD: Tensor) -> Tensor:
    """Queries, keys or values [B, heads, S, E]."""
    made = getattr(module, f"{name}_proj")(x_BSD)
    return made.unflatten(-1, (-1, module.head_dim)).transpose(1, 2)


def turned(module: Any, name: str, x_BSD: Tensor, table: Table) -> Tensor:
    """Queries or keys, rotated by their positions."""
    x_BHSE, (cos_SE, sin_SE) = split(module, name, x_BSD), table
    half = x_BHSE.shape[-1] // 2
    swapped = torch.cat([-x_BHSE[..., half:], x_BHSE[..., :half]], dim=-1)
    return x_BHSE * cos_SE + swapped * sin_SE
