"""What watching costs: operations, keys and values, tokens per stage, from sizes alone.

A FLOP is half of a multiply-add. Counted are matrix products, and the additions of merging and
pooling; not norms, activations, softmaxes, nor how drops rank their tokens (under 0.1 %). Causal
attention counts as the half of its matrix that fused kernels compute. Only visual tokens are
counted; a prompt's few words are not. As published, every layer counts whole; what the last one is
spared stands beside it. Sizes come from a loaded system's configs or from `longtake.sizes`.

Letters: d width of the tower or decoder, m tokens that attend to one another, n tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from longtake.errors import OptionError
from longtake.parts.tome import merge_rounds
from longtake.sizes import Decoder, Tower, VideoSizes

if TYPE_CHECKING:  # they bring torch
    from longtake.parts.dropping import Schedule
    from longtake.parts.windows import Plan

HALF = 2
"""Bytes of a number in bf16 or fp16."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage between pixels and memory."""

    name: str
    tokens_per_frame: float
    tokens: int
    """What leaves it; of the decoder's layers, what each of them keeps."""
    flops: int
    kv_bytes: int = 0
    """Keys and values of these layers; 0 before the decoder."""
    attention: int = 0
    """FLOPs among `flops` that are attention of the decoder."""
    spared: int = 0
    """FLOPs among `flops` that are not run: see `spared_flops`."""
    spared_attention: int = 0
    """Those of attention among them."""


# -- the tower and what follows it ----------------------------------------------------------------


def patches(tower: Tower) -> int:
    """Patches of a frame."""
    return (tower.image // tower.patch) ** 2


def tower_flops(tower: Tower, clip: int = 1, class_token: bool = False) -> int:
    """FLOPs of the tower on `clip` frames that attend to one another, patch projection included."""
    d, seen = tower.hidden, clip * patches(tower)
    m = seen + class_token
    layer = 8 * m * d * d + 4 * m * d * tower.mlp + 4 * m * m * d
    return tower.layers * layer + 2 * seen * 3 * tower.patch**2 * d


def merge_flops(tokens: int, target: int, hidden: int, heads: int) -> int:
    """FLOPs of merging a clip's tokens: each round's scores, and its sums as a matrix product."""
    flops = 0
    for merged in merge_rounds(tokens, target):
        odd = tokens // 2
        flops += 2 * (tokens - odd) * odd * (hidden // heads) + 2 * odd * merged * (hidden + 1)
        tokens -= merged
    return flops


def projector_flops(tokens: int, vision: int, hidden: int, depth: int = 2) -> int:
    """FLOPs of the projector's `depth` linears."""
    return 2 * tokens * (vision * hidden + (depth - 1) * hidden * hidden)


def encode_stages(sizes: VideoSizes, frames: int) -> tuple[Stage, ...]:
    """From pixels to the tokens that the decoder reads. A last clip that is not full is filled."""
    tower, hidden, clips = sizes.tower, sizes.decoder.hidden, math.ceil(frames / sizes.clip)
    seen, read = sizes.clip * patches(tower), round(sizes.clip * sizes.per_frame)
    every = clips * seen
    flops = clips * tower_flops(tower, sizes.clip, sizes.class_token)
    stages = [_stage("tower", frames, every, flops)]
    if sizes.merged:
        merge = clips * merge_flops(seen, read, tower.hidden, tower.heads)
        stages.append(_stage("merge", frames, every := clips * read, merge))
    projector = projector_flops(every, tower.hidden, hidden, sizes.projector_depth)
    stages.append(_stage("projector", frames, every, projector))
    if not sizes.merged and sizes.per_frame != seen / sizes.clip:
        left = round(frames * sizes.per_frame)
        stages.append(_stage("pool", frames, left, every * hidden))
    return tuple(stages)


# -- the decoder ----------------------------------------------------------------------------------


def layer_weights(decoder: Decoder) -> int:
    """Numbers in the matrices of one layer."""
    d, heads = decoder.hidden, decoder.heads * decoder.head_dim
    return 2 * d * heads + 2 * d * decoder.kv_heads * decoder.head_dim + 3 * d * decoder.mlp


def layer_flops(decoder: Decoder, tokens: int, behind: int = 0) -> int:
    """FLOPs of one layer that reads `tokens` behind others whose keys and values it holds."""
    return 2 * layer_weights(decoder) * tokens + attention_flops(decoder, tokens, behind)


def attention_flops(decoder: Decoder, tokens: int, behind: int = 0) -> int:
    """Of these, those of attention."""
    return decoder.heads * decoder.head_dim * (4 * behind * tokens + 2 * tokens * tokens)


def spared_attention(decoder: Decoder, tokens: int, behind: int = 0) -> int:
    """Attention FLOPs that the last layer is spared; only the last token's features are used."""
    alone = attention_flops(decoder, 1, behind + tokens - 1)
    return attention_flops(decoder, tokens, behind) - alone


def spared_flops(decoder: Decoder, tokens: int, behind: int = 0) -> int:
    """All FLOPs that it is spared: of the other tokens it makes keys and values alone."""
    rest = layer_weights(decoder) - 2 * decoder.hidden * decoder.kv_heads * decoder.head_dim
    return 2 * rest * (tokens - 1) + spared_attention(decoder, tokens, behind)


def linear_flops(decoder: Decoder, tokens: int) -> int:
    """FLOPs of reading `tokens` in all layers, but for attention."""
    spared = spared_flops(decoder, tokens) - spared_attention(decoder, tokens)
    return 2 * decoder.layers * layer_weights(decoder) * tokens - spared


def prefill_flops(
    decoder: Decoder, rows: Sequence[int], behind: Sequence[int] | None = None
) -> int:
    """FLOPs of all layers; layer l reads rows[l] tokens behind behind[l] others, or behind none."""
    behind = [0] * decoder.layers if behind is None else behind
    if not len(rows) == len(behind) == decoder.layers:
        found = f"{len(rows)} and {len(behind)} counts"
        raise OptionError(f"{found} of tokens for {decoder.layers} layers; give one for each")
    return sum(layer_flops(decoder, n, past) for n, past in zip(rows, behind, strict=True))


def head_flops(decoder: Decoder, tokens: int = 1) -> int:
    """FLOPs of the head at so many positions."""
    return 2 * tokens * decoder.hidden * decoder.vocab


def question_flops(decoder: Decoder, tokens: int, kept: Sequence[int]) -> int:
    """FLOPs from a question of `tokens` to its answer's first word; layer l holds kept[l] tokens.

    With one token, FLOPs of writing a word.
    """
    read = prefill_flops(decoder, [tokens] * decoder.layers, kept)
    return read - spared_flops(decoder, tokens, kept[-1]) + head_flops(decoder)


def kv_numbers(decoder: Decoder) -> int:
    """Numbers in one token's keys and values, all layers."""
    return 2 * decoder.layers * decoder.kv_heads * decoder.head_dim


def decoder_stages(
    decoder: Decoder,
    frames: int,
    counts: Sequence[int],
    layers: Sequence[int] = (),
    itemsize: float | Sequence[float] = HALF,
) -> tuple[Stage, ...]:
    """The decoder reading counts[0] tokens, and counts[s] of them after layers[s - 1] layers.

    `itemsize`: bytes of a kept number, of all stages or of each.
    """
    bounds = (0, *layers, decoder.layers)
    if len(counts) != len(bounds) - 1 or any(first >= end for first, end in pairwise(bounds)):
        found = f"{len(counts)} counts, drops after layers {list(layers)}"
        raise OptionError(f"{found} do not fit a decoder of {decoder.layers} layers")
    each = itemsize if isinstance(itemsize, Sequence) else [itemsize] * len(counts)
    stages = []
    for (first, end), n, size in zip(pairwise(bounds), counts, each, strict=True):
        held = round(n * (end - first) * kv_numbers(decoder) // decoder.layers * size)
        flops, attention = layer_flops(decoder, n), attention_flops(decoder, n)
        stage = _stage(_layers(first, end), frames, n, (end - first) * flops, held)
        stages.append(replace(stage, attention=(end - first) * attention))
    spared, attention = (of(decoder, counts[-1]) for of in (spared_flops, spared_attention))
    return (*stages[:-1], replace(stages[-1], spared=spared, spared_attention=attention))


def condensing_flops(decoder: Decoder, plans: Iterable[Plan]) -> tuple[int, int]:
    """FLOPs of reading visual tokens window by window behind the summaries kept, and these."""
    flops = kept = 0
    for plan in plans:
        rows = plan.raw + plan.summaries
        flops += decoder.layers * layer_flops(decoder, rows, kept)
        kept += plan.summaries
    return flops, kept


# -- kinds of systems -----------------------------------------------------------------------------


def whole_stages(sizes: VideoSizes, frames: int, itemsize: float = HALF) -> tuple[Stage, ...]:
    """A system whose decoder reads and keeps every visual token in all layers (LongVA)."""
    encoded = encode_stages(sizes, frames)
    return encoded + decoder_stages(sizes.decoder, frames, (encoded[-1].tokens,), (), itemsize)


def dropping_stages(
    sizes: VideoSizes, frames: int, drop: Schedule, itemsize: float = HALF, full: float = HALF
) -> tuple[Stage, ...]:
    """A system that drops visual tokens between layers (VideoChat-Flash), a question being read.

    `itemsize`: of what a memory holds; `full`: of layers that each question fills anew.
    """
    encoded = encode_stages(sizes, frames)
    counts = drop.counts(encoded[-1].tokens)
    each = [itemsize if stage <= drop.shared else full for stage in range(len(counts))]
    return encoded + decoder_stages(sizes.decoder, frames, counts, drop.layers, each)


def waiting_stage(decoder: Decoder, frames: int, rows: int, full: float = HALF) -> Stage:
    """Rows that a memory keeps for questions to choose from."""
    return _stage("waiting rows", frames, rows, 0, round(rows * decoder.hidden * full))


def condensed_stages(
    sizes: VideoSizes, frames: int, plans: Iterable[Plan], itemsize: float = HALF
) -> tuple[Stage, ...]:
    """A system that keeps summaries alone (Video-XL); `plans` are the windows of its tokens."""
    plans, decoder = tuple(plans), sizes.decoder
    flops, kept = condensing_flops(decoder, plans)
    rows = sum(plan.raw + plan.summaries for plan in plans)
    linear = 2 * decoder.layers * layer_weights(decoder) * rows
    held = round(kept * kv_numbers(sizes.decoder) * itemsize)
    name = _layers(0, sizes.decoder.layers)
    stage = _stage(name, frames, kept, flops, held)
    return (*encode_stages(sizes, frames), replace(stage, attention=flops - linear))


# -- beside another -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a system and another take for the same frames; "times" is the other's over its own."""

    frames: int
    system: str
    stages: tuple[Stage, ...]
    other: str
    other_stages: tuple[Stage, ...]
    flops_times: float
    decoder_flops_times: float
    """Of the language model alone."""
    kv_times: float


def compare(
    frames: int, system: str, stages: Sequence[Stage], other: str, others: Sequence[Stage]
) -> Comparison:
    """Put a system's stages beside another's, such as LongVA's, for the same frames."""
    read = [[stage for stage in each if stage.kv_bytes] for each in (stages, others)]
    return Comparison(
        frames=frames,
        system=system,
        stages=tuple(stages),
        other=other,
        other_stages=tuple(others),
        flops_times=flops_of(others) / flops_of(stages),
        decoder_flops_times=flops_of(read[1]) / flops_of(read[0]),
        kv_times=bytes_of(others) / bytes_of(stages),
    )


def flops_of(stages: Iterable[Stage]) -> int:
    """All of their FLOPs, as published figures count."""
    return sum(stage.flops for stage in stages)


def run_flops(stages: Iterable[Stage]) -> int:
    """Those that are run."""
    return sum(stage.flops - stage.spared for stage in stages)


def bytes_of(stages: Iterable[Stage]) -> int:
    """All of their keys and values."""
    return sum(stage.kv_bytes for stage in stages)


def _layers(first: int, end: int) -> str:
    return f"layers {first}-{end - 1}" if end - first > 1 else f"layer {first}"


def _stage(name: str, frames: int, tokens: int, flops: int, held: int = 0) -> Stage:
    per_frame = tokens / frames
    return Stage(name=name, tokens_per_frame=per_frame, tokens=tokens, flops=flops, kv_bytes=held)
