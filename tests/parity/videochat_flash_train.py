"""VideoChat-Flash's training step, from a conversation to gradients, at the golden tolerances.

B clips, M tokens of a clip, N visual tokens, S sequence, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from longtake.checkpoint import rename, weight_shapes
from longtake.folder import pick_device
from longtake.model import LongtakeModel
from longtake.parts.dropping import Schedule
from longtake.parts.qwen2 import Decoder
from longtake.systems import open_system
from longtake.systems.videochat_flash import VideoChatFlash
from longtake.train.condensed import Losses
from longtake.train.hico import (
    Said,
    Sample,
    Tokens,
    batch_of,
    expand,
    next_labels,
    read_batch,
    said,
    tokens_of,
)
from tests.parity.cases import Case, StageResult, close, equal, worst

EMBEDS = 1e-4
"""Of merged and projected tokens, and embeddings."""
LOGITS = 3e-4
LOSS = 1e-5
GRADIENT = 1e-3
"""Norms relative to themselves (they lie between 0.05 and 21), entries to the largest of theirs."""


def expanded(case: Case) -> tuple[Said, ...]:
    """The case's conversation with the time message in it."""
    return expand([said(record) for record in case.spec["conversations"]], case.spec["time_msg"])


def schedule_of(case: Case) -> Schedule | None:
    """How the case drops tokens."""
    how = case.spec["llm_compress"]
    if how is None:
        return None
    layers, ratios = tuple(how["layers"]), tuple(how["ratios"])
    return Schedule(kind=how["type"], layers=layers, ratios=ratios)


def check_training(case: Case) -> list[StageResult]:
    """Text, labels, visual tokens, what is dropped, logits, loss and gradients of all weights."""
    # opened anew: gradients stay out of the shared one
    opened = open_system(case.checkpoint, device=pick_device("cpu"), dtype=torch.float32)
    system = cast(VideoChatFlash, opened)
    model, tensors = system.model, case.tensors
    tokens = tokens_of(expanded(case), system.tokenizer)
    pixels_TCHW = system.processor(case.pictures("frames_u8"))
    merged = system.merge(pixels_TCHW.unflatten(0, (-1, system.config.tower.frames)))
    features_BMD = model.project(merged.features_BMD)
    return [
        *check_text(case, tokens),
        close("merged", merged.features_BMD.detach(), tensors["tome_tokens"], EMBEDS),
        close("projected", features_BMD.detach(), tensors["projected"], EMBEDS),
        *check_step(case, model, Sample(tokens=tokens, features_ND=features_BMD.flatten(0, 1))),
        *check_gradients(case, system),
    ]


def check_text(case: Case, tokens: Tokens) -> list[StageResult]:
    """The conversation as it is read, its ids and labels."""
    spoken = [{"from": one.who, "value": one.words} for one in expanded(case)]
    return [
        equal("conversation", spoken, case.spec["expanded_conversations"]),
        equal("ids", tokens.ids, case.tensors["input_ids"].tolist()),
        equal("labels", tokens.labels, case.tensors["labels"].tolist()),
    ]


def check_step(case: Case, model: LongtakeModel, sample: Sample) -> list[StageResult]:
    """One sample forward and backward: embeddings, rows of every layer, logits and loss."""
    tensors = case.tensors
    batch = batch_of(model, [sample])
    with lengths(cast(Decoder, model.decoder)) as rows:
        done = read_batch(model, batch, schedule_of(case))
    losses = Losses()
    losses.add(model, done.features_BSD, next_labels(done.labels_BS))
    losses.loss.backward()
    logits_SV = model.logits(done.features_BSD[0, ::8]).detach()
    drops = sum(name.endswith("_keep") for name in tensors)
    kept = [stays[0].tolist() for stays in done.kept]
    return [
        close("embeddings", batch.x_BSD[0].detach(), tensors["inputs_embeds"], EMBEDS),
        equal("rows of each layer", rows, tensors["prefill_len_per_layer"].tolist()),
        equal("kept", kept, [tensors[f"drop{drop}_keep"].tolist() for drop in range(drops)]),
        close("logits", logits_SV, tensors["logits_strided"], LOGITS),
        close("loss", losses.loss.detach()[None], tensors["loss"], LOSS),
    ]


@contextmanager
def lengths(decoder: Decoder) -> Iterator[Sequence[int]]:
    """Rows that each layer is given while this is open."""
    seen: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
        for layer in decoder.layers
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def check_gradients(case: Case, system: VideoChatFlash) -> list[StageResult]:
    """Norms of all gradients, and the stored ones entry by entry."""
    keys = system.config.keys(weight_shapes(case.checkpoint))
    back = [(own, published) for published, own in keys]
    found = {rename(name, back): weight.grad for name, weight in system.model.named_parameters()}
    names = case.spec["grad_norm_names"]
    norms = [
        close("norms", _grad(found, name).norm()[None] / norm, torch.ones(1), GRADIENT)
        for name, norm in zip(names, case.tensors["grad_norms"], strict=True)
    ]
    stored = {
        name.removeprefix("grad::"): grad
        for name, grad in case.tensors.items()
        if name.startswith("grad::")
    }
    entries = [
        close("gradients", _grad(found, name) / grad.abs().max(), grad / grad.abs().max(), GRADIENT)
        for name, grad in stored.items()
    ]
    with_gradient = sorted(name for name, grad in found.items() if grad is not None)
    return [
        equal("weights with a gradient", with_gradient, sorted(names)),
        worst(norms),
        worst(entries),
    ]


def _grad(found: dict[str, Tensor | None], name: str) -> Tensor:
    grad = found.get(name)
    assert grad is not None, name
    return grad
