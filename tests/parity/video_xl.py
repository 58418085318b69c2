"""Stages of Video-XL from pixels to answer, at the tolerances of its golden cases.

T frames, N visual tokens, V summaries, S rows, D width, K key/value heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from longtake.checkpoint import rename
from longtake.folder import pick_device
from longtake.llava import KEYS
from longtake.model import LongtakeModel
from longtake.parts.cache import GrowingCache
from longtake.parts.intervals import Intervals, cut, depths, similarities
from longtake.parts.pooling import grid_pool
from longtake.parts.qwen2 import Decoder, Step
from longtake.parts.rope import unrotate
from longtake.parts.splice import IMAGE_ID, flat_ids
from longtake.reader import Known
from longtake.systems import open_system
from longtake.systems.video_xl import VideoXL
from longtake.train.condensed import Text, condensed_losses
from longtake.types import Frames, Memory, Stats, VisualTokens
from longtake.video.anyres import image_crops
from tests.parity.cases import Case, StageResult, close, equal, worst
from tests.remembering import remembering

PIXELS = 1e-5
CACHE = 1e-4
"""Of features, visual tokens, hidden states, keys and values."""
LOGITS = 2e-4
LOSS = 1e-3
GRADIENT = 1e-3
"""Relative to the largest entry."""
SMALL_NORM = 1e-3
"""Norms of gradients below this are compared absolutely; the others lie between 0.1 and 20."""
SIMILARITY = 1e-5
"""Of cosines and depths; the gap between a split and none is 8e-3 in the shared case."""


@lru_cache(maxsize=2)
def opened(checkpoint: Path) -> VideoXL:
    """The checkpoint in float32."""
    system = open_system(checkpoint, device=pick_device("cpu"), dtype=torch.float32)
    return remembering(cast(VideoXL, system))


def system_of(case: Case) -> VideoXL:
    """The case's checkpoint with the case's options in place of its config's."""
    system, spec = opened(case.checkpoint.resolve()), case.spec
    how = system.condense
    ratios = replace(
        how.ratios,
        choices=tuple(spec.get("beacon_ratio", how.ratios.choices)),
        mix=spec.get("beacon_ratio_mix", how.ratios.mix),
    )
    how = replace(
        how,
        ratios=ratios,
        window=spec.get("beacon_window", how.window),
        place=spec.get("beacon_pos", how.place),
        intervals=published_intervals(spec) if spec.get("dynamic_intervals") else None,
    )
    return replace(system, condense=how)


def published_intervals(spec: dict[str, Any]) -> Intervals:
    """The published rule, with the longest interval that the case states."""
    return Intervals(longest=spec.get("dynamic", {}).get("max_frames_per_window", 15))


def pixels_of(case: Case) -> Tensor:
    """Pixels [T, 3, H, W] of every frame or crop, the base view first."""
    system = system_of(case)
    if "image" in case.tensors:
        config = system.config
        image = case.pictures("image")
        return image_crops(image, config.aspect, config.pinpoints, system.processor)
    return system.processor(case.pictures("frames"))


def visual_tokens(case: Case) -> VisualTokens:
    """What the language model reads, the way the system makes it."""
    system = system_of(case)
    if "image" in case.tensors:
        return system.see_image(case.pictures("image"))
    pictures = case.pictures("frames")
    index_T = torch.arange(len(pictures))
    frames = Frames(pixels_TCHW=pictures, seconds_T=index_T.double(), index_T=index_T)
    return VisualTokens.join(list(system.compress(system.see(system.fit(iter([frames]))))))


def check_pixels(case: Case) -> list[StageResult]:
    """Preprocessed pixels: a grid of samples, mean and deviation, and frame 0 where it is there."""
    pixels, tensors = pixels_of(case), case.tensors
    flat = pixels.flatten(2)
    stats = torch.stack([flat.mean(-1), flat.std(-1)], dim=-1)
    results = [
        close("pixels", pixels[:, :, 4::28, 4::28], tensors["pixel_sample"], PIXELS),
        close("statistics", stats, tensors["pixel_stats"], PIXELS),
    ]
    if "pixel_frame0" in tensors:
        results.append(close("frame 0", pixels[0], tensors["pixel_frame0"], PIXELS))
    return results


@torch.no_grad()
def check_vision(case: Case) -> list[StageResult]:
    """Tower features of the stored frames, and all visual tokens."""
    system, tensors = system_of(case), case.tensors
    features = system.model.look(pixels_of(case)[tensors["vision_features_index"]])
    return [
        close("features", features, tensors["vision_features"], CACHE),
        close("tokens", visual_tokens(case).features_ND, tensors["visual_tokens"], CACHE),
    ]


@dataclass(frozen=True)
class Run:
    """A prompt read step by step, and the logits of a greedy answer."""

    memory: Memory
    lengths: tuple[int, int, int]
    """Rows kept of the text before, of the summaries, of the text after."""
    last_SD: Tensor
    """Features of the last token of every step."""
    suffix_SD: Tensor
    logits: Tensor


@torch.no_grad()
def run(case: Case) -> Run:
    """Read the case's prompt and write its ids, keeping what comes out of each step."""
    system = system_of(case)
    pieces = system.pieces(case.spec["prompt"], [visual_tokens(case)])
    split = 1 + next(n for n, piece in enumerate(pieces) if isinstance(piece, VisualTokens))
    decoder = cast(Decoder, system.model.decoder)
    outputs: list[Tensor] = []
    hook = decoder.register_forward_hook(lambda module, given, out: outputs.append(out[0]))
    cache = system.new_cache()
    total = sum(len(p.features_ND) if isinstance(p, VisualTokens) else len(p) for p in pieces)
    reading = system.remember(iter(pieces[:split]), cache, Known(total))
    memory = system._memory(reading, cache, (0.0,), Stats())
    logits = []
    try:
        ids = torch.tensor([n for piece in pieces[split:] for n in cast(tuple[int, ...], piece)])
        steps = len(outputs) + 1
        for _ in range(len(case.tensors["generated_ids"])):
            past = cache.get_seq_length()
            positions = torch.arange(past, past + len(ids))[None]
            features = decoder(
                system.model.embed(ids)[None], Step(positions_BS=positions, cache=cache)
            )
            logits.append(system.model.logits(features[0, -1]))
            ids = case.tensors["generated_ids"][len(logits) - 1][None]
    finally:
        hook.remove()
    prefix = memory.windows[0].start
    summaries = memory.length - prefix
    return Run(
        memory=memory,
        lengths=(prefix, summaries, len(outputs[steps - 1])),
        last_SD=torch.stack([output[-1] for output in outputs[:steps]]),
        suffix_SD=outputs[steps - 1],
        logits=torch.stack(logits),
    )


def check_language(case: Case) -> list[StageResult]:
    """Ids, windows, hidden states, keys and values, logits of every written token."""
    system, spec, tensors = system_of(case), case.spec, case.tensors
    done = run(case)
    ids = flat_ids(system.pieces(spec["prompt"], [visual_tokens(case)]))
    wanted = [window for window in spec["windows"] if window["kind"] == "visual"]
    ours = [[w.tokens, w.ratio, w.stop - w.start, w.start] for w in done.memory.windows]
    fields = ("raw", "ratio", "vst", "cached_before")
    after = spec["kv_after_prefill"]
    shown = len(tensors["suffix_hidden"])
    return [
        equal("ids", ids, tensors["input_ids"].tolist()),
        equal("windows", ours, [[window[name] for name in fields] for window in wanted]),
        equal("kept", list(done.lengths), [after["prefix"], after["vst"], after["suffix"]]),
        close("last of each step", done.last_SD, tensors["window_last_hidden"], CACHE),
        close("suffix", done.suffix_SD[-shown:], tensors["suffix_hidden"], CACHE),
        check_cache(case, done),
        close("logits", done.logits, tensors["logits"], LOGITS),
    ]


def check_cache(case: Case, done: Run) -> StageResult:
    """Keys before rotation and values of the stored layers: text before, summaries, text after."""
    system, results = system_of(case), []
    cache = cast(GrowingCache, done.memory.cache)
    decoder = cast(Decoder, system.model.decoder)
    rows = torch.arange(cache.get_seq_length())
    table = decoder.table(Step(positions_BS=rows[None]), torch.float32)
    ends = [sum(done.lengths[:n]) for n in range(4)]
    for layer in case.spec["kv_layers_stored"]:
        held = cache.layers[layer]
        assert held.keys is not None and held.values is not None
        pair = {"k": unrotate(held.keys, table)[0], "v": held.values[0]}
        for n, part in enumerate(("prefix", "vst", "suffix")):
            for kind, ours in pair.items():
                name = f"kv.{layer}.{part}.{kind}"
                results.append(
                    close("cache", ours[:, ends[n] : ends[n + 1]], case.tensors[name], CACHE)
                )
    return worst(results)


def check_answer(case: Case) -> list[StageResult]:
    """Greedy ids with the case's penalty, and with the checkpoint's where these are stored."""
    system, tensors = system_of(case), case.tensors
    tokens, length = visual_tokens(case), len(tensors["generated_ids"])
    penalties = {"generated_ids": float(case.spec["repetition_penalty"])}
    for name in tensors:
        if name.startswith("generated_ids_penalty_"):
            penalties[name] = float(name.rsplit("_", 1)[1])
    results = []
    for name, penalty in penalties.items():
        options = system.options(max_new_tokens=length, repetition_penalty=penalty)
        ids = system.complete(case.spec["prompt"], [tokens], options).ids
        results.append(equal(name, list(ids), tensors[name].tolist()))
    return results


def check_intervals(case: Case) -> list[StageResult]:
    """Class tokens, similarities, depths and intervals of a dynamic case; nothing of another."""
    if not case.spec.get("dynamic_intervals"):
        return []
    tensors = case.tensors
    class_TD = visual_tokens(case).class_TD
    assert class_TD is not None
    similarity = similarities(class_TD)
    frames = cut(similarity, published_intervals(case.spec))
    return [
        close("class tokens", class_TD, tensors["cls_features"], CACHE),
        close("similarity", similarity, tensors["similarity"], SIMILARITY),
        close("depth", depths(similarity), tensors["depth"], SIMILARITY),
        equal("intervals", frames, case.spec["dynamic"]["frames_per_window"]),
    ]


def check_training(case: Case) -> list[StageResult]:
    """Loss of every step and gradients of a training case, all weights trainable."""
    system = opened.__wrapped__(case.checkpoint.resolve())  # gradients stay out of the shared one
    model, tensors = system.model, case.tensors
    ids, labels = tensors["input_ids"], tensors["labels"]
    split = int((ids == IMAGE_ID).nonzero()[0])
    before, after = slice(0, split), slice(split + 1, None)
    pixels = system.processor(case.pictures("frames"))
    features_ND = grid_pool(model.project(model.look(pixels)), 2).flatten(0, 1)
    sample = [
        Text(ids[None, before], labels[None, before]),
        features_ND[None],
        Text(ids[None, after], labels[None, after]),
    ]
    ratios = replace(system.condense.ratios, choices=tuple(case.spec["beacon_ratio"]))
    losses = condensed_losses(model, sample, ratios.chooser(), system.condense.window)
    losses.loss.backward()
    means = [
        float(total.detach()) / max(1, count)
        for total, count in zip(losses.sums, losses.counts, strict=True)
    ]
    return [
        close("loss", losses.loss.detach()[None], tensors["loss"], LOSS),
        close("loss of each step", torch.tensor(means), tensors["window_loss"], LOSS),
        equal("labelled", losses.counts, tensors["window_valid_tokens"].int().tolist()),
        *check_gradients(case, model),
    ]


def check_gradients(case: Case, model: LongtakeModel) -> list[StageResult]:
    """Gradients against the largest entry, norms of all, and who has none."""
    found = {
        rename(name, [(own, published) for published, own in KEYS]): weight.grad
        for name, weight in model.named_parameters()
    }
    stored = {
        name.removeprefix("grad."): grad
        for name, grad in case.tensors.items()
        if name.startswith("grad.")
    }
    shares = [
        close("gradients", _grad(found, name) / grad.abs().max(), grad / grad.abs().max(), GRADIENT)
        for name, grad in stored.items()
    ]
    wanted = case.spec["grad_norms"]
    norms = [
        close(
            "norms", _grad(found, name).norm()[None] / scale, torch.tensor([norm / scale]), GRADIENT
        )
        for name, norm in wanted.items()
        # a key's bias has no gradient but rounding: softmax does not see it
        if (scale := max(norm, SMALL_NORM))
    ]
    unused = {name for name, grad in found.items() if grad is None}
    # blocks of the tower behind the layer that is used are not even built here
    return [
        worst(shares),
        worst(norms),
        equal("without gradient", sorted(unused - set(case.spec["params_without_grad"])), []),
    ]


def _grad(found: dict[str, Tensor | None], name: str) -> Tensor:
    grad = found[name]
    assert grad is not None, name
    return grad
