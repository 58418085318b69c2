"""Eyes that remember: what many tests show to one model is resized and encoded once.

A frame of 336 x 336 costs the tiny towers more than all that comes behind them, and the same few
frames are watched by test after test. Sampling, chunking, projector, pooling and language model
run as ever; tests of towers and pixels have models of their own, which remember nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from longtake.parts.vit import ViT
from longtake.seeing import Seeing

S = TypeVar("S", bound=Seeing)
MOST_BYTES = 64 * 2**20
"""Of the results kept for one function; then the oldest go."""


class Remembered:
    """A function of one tensor that computes each result once."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.kept: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()

    def __call__(self, given: Tensor) -> Tensor:
        """Its result, the caller's to change; computed anew where gradients are wanted."""
        if given.is_floating_point() and torch.is_grad_enabled():
            return self.function(given)
        numbers = hashlib.sha1(given.contiguous().numpy(), usedforsecurity=False).digest()
        key = (tuple(given.shape), given.dtype, numbers)
        if key not in self.kept:
            self.kept[key] = self.function(given)
            while len(self.kept) > 1 and sum(map(size, self.kept.values())) > MOST_BYTES:
                self.kept.popitem(last=False)
        return self.kept[key].clone()


def size(tensor: Tensor) -> int:
    """Bytes."""
    return tensor.nbytes


def remembering(system: S) -> S:
    """The same system, its tower and its processor with a memory.

    A variant with another processor or another model has none for these; one that is changed in
    place, or that runs functions which a test replaces, must not come from here.
    """
    tower, processor = system.model.tower, system.processor
    name = "tokens" if isinstance(tower, ViT) else "forward"
    object.__setattr__(tower, name, Remembered(getattr(tower, name)))
    for name in ("fit", "normalise"):
        object.__setattr__(processor, name, Remembered(getattr(processor, name)))
    return system
