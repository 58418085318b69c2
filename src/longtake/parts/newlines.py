"""The learned newline of LLaVA checkpoints, which ends a row of patches, a frame or a video.

T frames, R K rows and columns of patches, N tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from longtake.errors import PromptError
from longtake.types import VisualTokens

Newlines = Literal["one_token", "grid", "frame", "no_token"]
"""Where a video's newlines stand (mm_newline_position): one behind it, one behind each row of each
frame's grid, one behind each frame, or none."""


def rows_ended(grid_RKD: Tensor, newline_D: Tensor) -> Tensor:
    """A grid row by row, each row with a newline behind it: [R, K, D] -> [R * (K + 1), D]."""
    newline_R1D = newline_D.expand(len(grid_RKD), 1, -1)
    return torch.cat([grid_RKD, newline_R1D], dim=1).flatten(0, 1)


def ended(tokens_ND: Tensor, newline_D: Tensor) -> Tensor:
    """One newline behind all tokens: [N, D] -> [N + 1, D]."""
    return torch.cat([tokens_ND, newline_D[None]])


def with_newlines(
    stream: Iterator[VisualTokens], newline_D: Tensor, where: Newlines
) -> Iterator[VisualTokens]:
    """A video's tokens, chunk by chunk, with its newlines; each counts to the frame before it."""
    if where == "no_token":
        return stream
    if where == "one_token":
        return _last_ended(stream, newline_D)
    return (_frames_ended(tokens, newline_D, by_row=where == "grid") for tokens in stream)


def _last_ended(stream: Iterator[VisualTokens], newline_D: Tensor) -> Iterator[VisualTokens]:
    """Each chunk waits for the next, so that the last one is known."""
    held: VisualTokens | None = None
    for tokens in stream:
        if held is not None:
            yield held
        held = tokens
    if held is not None:
        features_ND, counts = ended(held.features_ND, newline_D), list(held.counts)
        counts[-1] += 1
        yield replace(held, features_ND=features_ND, counts=tuple(counts), newlines=1)


def _frames_ended(tokens: VisualTokens, newline_D: Tensor, *, by_row: bool) -> VisualTokens:
    frames = []
    for frame_ND in tokens.features_ND.split(tokens.counts):
        side = math.isqrt(len(frame_ND))
        if not by_row:
            frames.append(ended(frame_ND, newline_D))
        elif side * side == len(frame_ND):
            frames.append(rows_ended(frame_ND.unflatten(0, (side, side)), newline_D))
        else:
            raise PromptError(f"newlines by row need square grids, got {len(frame_ND)} patches")
    counts = tuple(map(len, frames))
    added = sum(counts) - sum(tokens.counts)
    return replace(tokens, features_ND=torch.cat(frames), counts=counts, newlines=added)
