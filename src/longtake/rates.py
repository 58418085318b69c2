"""How fast this machine does what a model is made of, measured in about a second.

One block of the tower and one layer of the decoder are made with the model's own sizes and run on
made-up numbers, so that norms, casts and the cost of each call are in what is measured. Where a
layer is too large for that, its widths are halved until it is not. For a GPU that is not here,
published figures stand in (`gpus`), and a plan says so.

Letters: m tokens that a tower sees at once, n rows of a block, p tokens behind which rows are read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter as now
from typing import cast

import torch
from torch import nn

from longtake.costs import attention_flops, layer_flops, layer_weights, merge_flops
from longtake.gpus import ATTENTION_SHARE, BANDWIDTH_SHARE, GEMM_SHARE, Gpu
from longtake.needs import Eye, Place
from longtake.parts.abreast import abreast
from longtake.parts.cache import GrowingCache
from longtake.parts.packed import Group, Packed
from longtake.parts.qwen2 import Attention, Decoder, DecoderConfig, Layer, Step
from longtake.parts.tome import merge_tokens
from longtake.sizes import Tower, VideoSizes

LARGEST = 4e9
"""FLOPs of one call that is timed on a CPU."""
ENOUGH = 0.12
"""Seconds of calls that each number is the median of."""
MOST_BEHIND = 4096
FEW, SOME = 24, 64
"""Rows of questions."""
CACHED = 2**27
"""Bytes that no processor's cache holds: so many different weights are read in turn."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOPs and bytes per second."""

    tower: float
    """FLOP/s of a tower's block."""
    linear: float
    """FLOP/s of a decoder's layer, attention aside."""
    few: float
    """The same of a short question's rows, FEW."""
    some: float
    """And of SOME rows."""
    attention: float
    """FLOP/s of attention behind many tokens."""
    weights: float
    """Bytes of weights per second while one token is written."""
    behind: float
    """Bytes of keys and values per second while one token is written."""
    copy: float
    """Bytes per second from one tensor to another."""
    merge: float
    """FLOP/s of merging tokens."""
    unpack: float
    """Numbers per second of keys and values that are brought back from 8 or 4 bits."""
    pack: float
    """Numbers per second that are brought to them."""
    seconds: float = 0.0
    """What measuring took; 0 of published figures."""


def published_rates(gpu: Gpu) -> Rates:
    """What a GPU would do by its data sheet, at usual efficiencies."""
    gemm, bandwidth = GEMM_SHARE * gpu.flops, BANDWIDTH_SHARE * gpu.bandwidth
    return Rates(
        tower=gemm,
        linear=gemm,
        few=gemm,
        some=gemm,
        attention=ATTENTION_SHARE * gpu.flops,
        weights=bandwidth,
        behind=bandwidth,
        copy=bandwidth / 2,
        merge=gemm / 10,
        unpack=bandwidth / 8,
        pack=bandwidth / 16,
    )


KNOWN: dict[tuple[object, ...], Rates] = {}
"""What was measured by this process."""


def rates_here(
    eye: Eye, tower: nn.Module, decoder: DecoderConfig, place: Place, device: torch.device
) -> Rates:
    """`measured_rates`, once for the same sizes on the same device and number of threads."""
    key = (repr(eye), decoder, place, device, torch.get_num_threads())
    if key not in KNOWN:
        KNOWN[key] = measured_rates(eye, tower, decoder, place, device)
    return KNOWN[key]


@torch.inference_mode()
def measured_rates(
    eye: Eye, tower: nn.Module, decoder: DecoderConfig, place: Place, device: torch.device
) -> Rates:
    """Measure on this device; `tower`: the model's, of which one block is made anew."""
    began = now()
    timer = Timer(device)
    seen = tower_rate(timer, eye, tower, place)
    layers = Layers.of(decoder, place, device)
    linear, attention = layers.block_rates(timer)
    weights, behind = layers.token_rates(timer)
    x = torch.full((2**22,), 0.01, device=device, dtype=place.dtype)
    pack, unpack = pack_rates(timer, decoder, place)
    copied = x.nbytes / timer.seconds(x.clone)
    return Rates(
        tower=seen,
        linear=linear,
        few=layers.rate_of(timer, FEW),
        some=layers.rate_of(timer, SOME),
        attention=attention,
        weights=weights,
        behind=behind,
        copy=copied,
        merge=merge_rate(timer, eye.sizes, place) if eye.sizes.merged else seen,
        unpack=unpack,
        pack=pack,
        seconds=now() - began,
    )


@dataclass(frozen=True)
class Timer:
    """Times calls on a device."""

    device: torch.device

    def seconds(self, call: Callable[[], object]) -> float:
        """The median of several calls, after one that is not counted."""
        taken: list[float] = []
        self._once(call)
        while (sum(taken) < ENOUGH and len(taken) < 50) or len(taken) < 3:
            taken.append(self._once(call))
        return sorted(taken)[len(taken) // 2]

    def _once(self, call: Callable[[], object]) -> float:
        began = now()
        call()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return now() - began


def made(module: nn.Module, place: Place, device: torch.device) -> nn.Module:
    """A copy of a module without numbers, filled with one number."""
    alive = copy.deepcopy(module).to_empty(device=device).to(place.weights)
    for weight in alive.parameters():
        weight.data.fill_(0.01)
    return alive.train(False)


def block_flops(tower: Tower, tokens: int, clips: int = 1) -> int:
    """FLOPs of a tower's block on so many tokens of each clip."""
    d = tower.hidden
    return clips * tokens * (8 * d * d + 4 * d * tower.mlp + 4 * tokens * d)


def tower_rate(timer: Timer, eye: Eye, tower: nn.Module, place: Place) -> float:
    """FLOP/s of a block on what the tower sees at once, or on fewer tokens."""
    sizes, most = eye.sizes, LARGEST if place.on_cpu else 1e13
    tokens = sizes.clip * (sizes.tower.image // sizes.tower.patch) ** 2 + sizes.class_token
    clips = min(eye.at_once, 16)
    while clips > 1 and block_flops(sizes.tower, tokens, clips) > most:
        clips //= 2
    while tokens > 64 and block_flops(sizes.tower, tokens, clips) > most:
        tokens //= 2
    blocks = next(part for part in tower.modules() if isinstance(part, nn.ModuleList))
    block = made(blocks[0], place, timer.device)
    x = torch.full((clips, tokens, sizes.tower.hidden), 0.01, device=timer.device)
    x = x.to(place.dtype)
    return block_flops(sizes.tower, tokens, clips) / timer.seconds(
        lambda: abreast(block, x, eye.at_once)
    )


def merge_rate(timer: Timer, sizes: VideoSizes, place: Place) -> float:
    """FLOP/s of merging a clip's tokens."""
    tower = sizes.tower
    tokens = sizes.clip * (tower.image // tower.patch) ** 2
    target = round(sizes.clip * sizes.per_frame)
    x = torch.rand(1, tokens, tower.hidden, device=timer.device).to(place.dtype)
    taken = timer.seconds(lambda: merge_tokens(x, target, tower.heads))
    return merge_flops(tokens, target, tower.hidden, tower.heads) / taken


def pack_rates(timer: Timer, decoder: DecoderConfig, place: Place) -> tuple[float, float]:
    """Numbers per second that are packed in 8 bits, and unpacked."""
    shape = (1, decoder.kv_heads, 2048, decoder.head_dim)
    x = torch.rand(shape, device=timer.device).to(place.dtype)
    packed = Packed.of(x, 8, Group.of_keys())
    calls = (lambda: Packed.of(x, 8, Group.of_keys()), lambda: packed.unpack(place.dtype))
    pack, unpack = (x.numel() / timer.seconds(call) for call in calls)
    return pack, unpack


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Layers of a decoder of given sizes, or of narrower ones."""

    config: DecoderConfig
    decoder: Decoder
    """Of no layers; makes rotary tables."""
    each: tuple[Layer, ...]
    place: Place
    device: torch.device
    rows: int
    """Rows of a block that take no longer than a call may."""

    @classmethod
    def of(cls, config: DecoderConfig, place: Place, device: torch.device) -> Layers:
        """As many as no cache holds, at most as many as the model has."""
        most, rows = LARGEST if place.on_cpu else 1e13, place.block
        while layer_flops(config, 128) > most:
            config = narrower(config)
        while layer_flops(config, rows) > most:
            rows //= 2
        size = layer_weights(config) * place.weights.itemsize
        count = max(1, min(config.layers, -(-CACHED // size)))
        with torch.device("meta"):
            decoder = Decoder(replace(config, layers=0))
            layer = Layer(config, Attention(config, 0))
        each = tuple(cast(Layer, made(layer, place, device)) for _ in range(count))
        return cls(config=config, decoder=decoder, each=each, place=place, device=device, rows=rows)

    def block_rates(self, timer: Timer) -> tuple[float, float]:
        """FLOP/s of linears and of attention, from a block behind nothing and behind tokens."""
        config, rows = self.config, self.rows
        share = 4 * rows * config.heads * config.head_dim
        most = LARGEST if self.place.on_cpu else 1e13
        behind = int(min(MOST_BEHIND, max(512, most / share)))
        alone, after = (timer.seconds(self.call(rows, past)) for past in (0, behind))
        more = attention_flops(config, rows, behind) - attention_flops(config, rows)
        attention = more / max(after - alone, 0.02 * alone)
        square = attention_flops(config, rows) / attention
        linear = 2 * layer_weights(config) * rows / max(alone - square, 0.2 * alone)
        return linear, attention

    def rate_of(self, timer: Timer, rows: int) -> float:
        """FLOP/s of linears on as many rows as a question may have."""
        return 2 * layer_weights(self.config) * rows / timer.seconds(self.call(rows, 16))

    def token_rates(self, timer: Timer) -> tuple[float, float]:
        """Bytes per second of weights and of keys and values, from writing one token."""
        config = self.config
        alone, after = (timer.seconds(self.call(1, past)) for past in (16, MOST_BEHIND))
        weights = layer_weights(config) * self.place.weights.itemsize
        more = 2 * config.kv_heads * config.head_dim * MOST_BEHIND * self.place.item
        return weights / alone, more / max(after - alone, 0.02 * alone)

    def call(self, rows: int, past: int) -> Callable[[], object]:
        """Run a layer on so many rows behind so many tokens; the layers take turns."""
        config, turn = self.config, 0
        cache = GrowingCache()
        if past:
            shape = (1, config.kv_heads, past, config.head_dim)
            held = torch.full(shape, 0.01, device=self.device, dtype=self.place.dtype)
            cache.reserve(past + rows)
            cache.update(held, held, 0)
        positions = torch.arange(past, past + rows, device=self.device)[None]
        step = Step(positions_BS=positions, cache=cache)
        table = self.decoder.table(step, self.place.dtype)
        x = torch.full((1, rows, config.hidden), 0.01, device=self.device, dtype=self.place.dtype)

        def run() -> object:
            nonlocal turn
            turn = (turn + 1) % len(self.each)
            out = self.each[turn](x, step, table)
            cache.rewind(past)
            return out

        return run


def narrower(config: DecoderConfig) -> DecoderConfig:
    """Half as wide, with heads of the same width."""
    heads = max(1, config.heads // 2)
    kv_heads = next(n for n in range(min(heads, config.kv_heads), 0, -1) if heads % n == 0)
    return replace(
        config,
        hidden=max(1, config.hidden // 2),
        mlp=max(1, config.mlp // 2),
        heads=heads,
        kv_heads=kv_heads,
    )
