"""The dataclasses that cross module boundaries; each checks its own shapes.

Letters: T frames, C channels, H W pixels, N visual tokens, S sequence, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from longtake.errors import PromptError, VideoError
from longtake.moments import Span as Span
from longtake.moments import Timeline as Timeline
from longtake.options import Options as Options


@dataclass(frozen=True, kw_only=True, repr=False)
class Frames:
    """A chunk of decoded frames with their true presentation times."""

    pixels_TCHW: Tensor
    """RGB, uint8; usually a channels-last view."""
    seconds_T: Tensor
    """Presentation time of each frame in seconds from the start of the video, float64."""
    index_T: Tensor
    """Index of each frame in display order, int64."""

    def __post_init__(self) -> None:
        shape = tuple(self.pixels_TCHW.shape)
        if len(shape) != 4 or shape[1] != 3 or self.pixels_TCHW.dtype != torch.uint8:
            raise VideoError(
                f"frames must be uint8 [T, 3, H, W], got {self.pixels_TCHW.dtype} {shape}"
            )
        if self.seconds_T.shape != shape[:1] or self.index_T.shape != shape[:1]:
            raise VideoError(f"{shape[0]} frames need as many times and indices")

    def __len__(self) -> int:
        return int(self.pixels_TCHW.shape[0])

    def __getitem__(self, part: slice) -> Frames:
        return Frames(
            pixels_TCHW=self.pixels_TCHW[part],
            seconds_T=self.seconds_T[part],
            index_T=self.index_T[part],
        )

    def __repr__(self) -> str:
        return f"Frames(pixels_TCHW={tuple(self.pixels_TCHW.shape)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class VisualTokens:
    """Visual tokens, ragged and packed: one entry per frame, clip or image."""

    features_ND: Tensor
    """Packed features, all entries one after another."""
    counts: tuple[int, ...]
    """Tokens of each entry; sums to N."""
    seconds: tuple[float, ...]
    """Start of each entry in seconds (0.0 for images)."""
    visual: int = 0
    """Which of the prompt's videos or images this is a part of."""
    class_TD: Tensor | None = None
    """The tower's class token of each entry, where a system compares frames by it."""
    span: int = 1
    """Frames that an entry stands for: more than 1 where clips are encoded together."""
    patches: int | None = None
    """Tower tokens these were merged from, where the tower's side already merged some."""
    newlines: int = 0
    """Of these, tokens that only separate others."""

    def __post_init__(self) -> None:
        if self.features_ND.ndim != 2 or sum(self.counts) != len(self.features_ND):
            shape = tuple(self.features_ND.shape)
            raise PromptError(f"features {shape} but counts sum to {sum(self.counts)}")
        if len(self.seconds) != len(self.counts):
            raise PromptError(f"{len(self.counts)} entries but {len(self.seconds)} times")
        if self.class_TD is not None and len(self.class_TD) != len(self.counts):
            raise PromptError(f"{len(self.counts)} entries, {len(self.class_TD)} class tokens")

    def __repr__(self) -> str:
        return f"VisualTokens({len(self.counts)} entries, {tuple(self.features_ND.shape)})"

    @staticmethod
    def join(parts: Sequence[VisualTokens]) -> VisualTokens:
        """Concatenate several parts of one visual in order; at least one."""
        classes = [part.class_TD for part in parts if part.class_TD is not None]
        return VisualTokens(
            features_ND=torch.cat([part.features_ND for part in parts]),
            counts=tuple(n for part in parts for n in part.counts),
            seconds=tuple(s for part in parts for s in part.seconds),
            visual=parts[0].visual,
            class_TD=torch.cat(classes) if len(classes) == len(parts) else None,
            span=parts[0].span,
            patches=None if parts[0].patches is None else sum(p.patches or 0 for p in parts),
            newlines=sum(part.newlines for part in parts),
        )


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What an answer cost."""

    frames: int = 0
    """Frames (or image crops) seen."""
    patches: int = 0
    """Tower tokens before compression."""
    visual_tokens: int = 0
    """Visual tokens the language model read."""
    prompt_tokens: int = 0
    """All tokens before the answer, text and visual."""
    watch_seconds: float = 0.0
    """Decode, tower and prefill of the video, overlapped."""
    prefill_seconds: float = 0.0
    """Prefill of the question."""
    answer_seconds: float = 0.0
    """Writing the answer."""
    memory_bytes: int = 0
    """Bytes the memory holds."""
    warnings: tuple[str, ...] = ()
    """What the reader should know: a video that breaks off, for example."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A text answer, its token ids, and the moments it rests on."""

    text: str
    """Decoded without special tokens, stripped."""
    ids: tuple[int, ...]
    """Generated token ids, the end token included when one was written."""
    evidence: tuple[Span, ...] = ()
    """Spans of the video, heaviest first; empty without a video."""
    timeline: tuple[Timeline, ...] = ()
    """The weight over the whole of each video (docs/evidence.md); empty without a video."""
    finish: Literal["stop", "length", "cancelled"] = "stop"
    """Why it ended."""
    stats: Stats = field(default_factory=Stats)
    """What it cost."""


class KVCache(Protocol):
    """What a memory asks of the keys and values it holds."""

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held by a layer."""

    def rewind(self, length: int) -> None:
        """Forget all tokens after the first `length` of each layer."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of a visual that was condensed together, and where its summaries lie."""

    start: int
    """First summary in the memory's sequence."""
    stop: int
    """One past the last."""
    tokens: int
    """Visual tokens it was made of."""
    ratio: int
    """Visual tokens per summary."""
    visual: int = 0
    """Which of the memory's videos or images it belongs to."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Entry:
    """Where one frame, clip or image lies in a memory's sequence."""

    start: int
    """First token."""
    stop: int
    """One past the last token."""
    seconds: float
    """When it is shown; 0.0 for images."""
    visual: int = 0
    """Which of the memory's videos or images it belongs to."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Reading:
    """What was found while reading pieces of a prompt into a cache."""

    features_D: Tensor | None
    """Decoder features of the last position; None if there was nothing to read."""
    entries: tuple[Entry, ...]
    """Where each frame lies."""
    ids: tuple[int, ...]
    """Text read, in order."""
    windows: tuple[Window, ...] = ()
    """How visuals were condensed."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Memory:
    """A watched video: what every later question starts from."""

    cache: KVCache
    """Keys and values of `length` tokens; with `depth` "tokens", those that no question changes."""
    depth: Literal["kv", "tokens"] = "kv"
    """"kv": a question is read behind keys and values. "tokens": what stays of the video depends on
    the question, so that layers from the first such choice on are run for each (HiCo)."""
    length: int
    """Tokens held: the prompt's head and the visuals."""
    entries: tuple[Entry, ...]
    """One per frame or image crop group, in order."""
    durations: tuple[float, ...]
    """Seconds of each video (0.0 for an image)."""
    system: str
    """Name of the system that watched."""
    fingerprint: str
    """Digest of the checkpoint and of every option that shaped the memory."""
    ids: tuple[int, ...] = ()
    """Ids of the text it begins with and between its visuals."""
    windows: tuple[Window, ...] = ()
    """How it was condensed, where it was."""
    lead: str = "\n"
    """Text between the last visual and the first question's words."""
    captions: str = ""
    """Digest of what was read between its video's frames; empty: nothing was."""
    target: int = 0
    """Visual tokens that its positions are stretched for (`System.scaled`); 0 if they are not."""
    stats: Stats = field(default_factory=Stats)
    """What watching cost."""

    @property
    def bytes(self) -> int:
        """Bytes of keys and values, and of what else is held."""
        return self.cache.nbytes

    def __repr__(self) -> str:
        return (
            f"Memory({self.system}: {len(self.entries)} visuals, {self.length} tokens, "
            f"{self.bytes / 2**20:.1f} MiB)"
        )
