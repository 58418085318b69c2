"""Video-XL: extra-long vision language model with visual summarization tokens (arXiv 2409.14485).

LongVA's eye; the new idea is in the language model. Visual tokens are read in windows, a summary
token follows every few of them, and when a window is over only the summaries' keys and values
stay: 2 to 16 times fewer (section 3.2). Text before and after is kept whole. Checkpoint:
sy1998/Video_XL (`VideoXL_weight_8`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from longtake.bilevel import (
    AsideCache,
    TwoLevelCache,
    check_budget,
    choose_windows,
    score_windows,
)
from longtake.condense import Condense, Level, condense
from longtake.condensed import Condensed
from longtake.engine import memory_errors
from longtake.errors import CheckpointError, OptionError
from longtake.folder import Folder, find_tower, require
from longtake.llava import LlavaConfig, Where, load_weights, wiring
from longtake.mixing import mix
from longtake.parts.abreast import abreast
from longtake.parts.cache import SLACK, GrowingCache
from longtake.parts.fields import text, whole
from longtake.parts.splice import Piece, visual_of
from longtake.parts.summary import PARAMETERS, SummaryDecoder
from longtake.parts.windows import Place, Ratios
from longtake.reader import Fitted, Following
from longtake.types import Memory, Reading, VisualTokens
from longtake.wishes import COMMON, NAMES, CondenseWishes

LOOKED_FOR = "beacon_window and beacon_ratio"

UNREACHABLE: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("beacon_attn", ("full-coverage", None)),
    ("beacon_sink_size", (0, None)),
    ("beacon_parallel_window", (1, None)),
    ("beacon_accum", (True, None)),
    ("beacon_attend_prev", (True, False, None)),  # it changes nothing under full coverage
)
"""Fields whose other values the original cannot run on video, or no checkpoint has."""


def recognises(config: Mapping[str, Any]) -> bool:
    """The published model_type is plain "qwen2", so the summary tokens' fields decide."""
    return "beacon_window" in config and "beacon_ratio" in config and "mm_vision_tower" in config


@dataclass(frozen=True, kw_only=True)
class Config(LlavaConfig):
    """A published Video-XL config.json, checked."""

    beacon_window: int
    beacon_ratio: tuple[int, ...]
    beacon_ratio_mix: str
    beacon_pos: Place
    beacon_param: tuple[str, ...]
    positions: int

    @classmethod
    def from_published(cls, config: Mapping[str, Any], tower: Mapping[str, Any]) -> Config:
        """Read the fields the original reads; CheckpointError for what it cannot do either."""
        for name, allowed in UNREACHABLE:
            require(name, config.get(name), allowed)
        require("beacon_pos", config.get("beacon_pos"), ("interleave", "append", None))
        window = whole(config, "beacon_window", 1024)
        require("beacon_stride", config.get("beacon_stride", window), (window,))
        ratio, own = config.get("beacon_ratio"), config.get("beacon_param", [])
        if not isinstance(ratio, list) or not ratio or not all(type(r) is int for r in ratio):
            raise CheckpointError(f"config.json: beacon_ratio is {ratio!r}, expected whole numbers")
        if not isinstance(own, list) or not all(name in PARAMETERS for name in own):
            known = ", ".join(PARAMETERS)
            raise CheckpointError(f"config.json: beacon_param is {own!r}, expected some of {known}")
        plain = dict(config)
        plain["rope_scaling"] = None  # the original sets it so when it builds the model
        made = cls(
            **cls.fields_of(plain, tower),
            beacon_window=window,
            beacon_ratio=tuple(ratio),
            beacon_ratio_mix=text(config, "beacon_ratio_mix", "step-random"),
            beacon_pos=config.get("beacon_pos") or "interleave",
            beacon_param=tuple(own),
            positions=whole(config, "max_position_embeddings", 32768),
        )
        try:
            made.condense()
        except OptionError as error:
            raise CheckpointError(f"config.json: beacon fields: {error}") from error
        return made

    def condense(self) -> Condense:
        """How the checkpoint says it condenses."""
        return Condense(
            window=self.beacon_window,
            ratios=Ratios(
                choices=self.beacon_ratio, mix=self.beacon_ratio_mix, positions=self.positions
            ),
            place=self.beacon_pos,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoXL(Condensed):
    """Video-XL, for inference."""

    name: ClassVar[str] = "video_xl"
    penalises_prompt: ClassVar[bool] = True
    config: Config

    def see(self, fitted: Iterator[Fitted]) -> Iterator[VisualTokens]:
        """Tower and projector, with each frame's class token where frames are compared."""
        if self.condense.intervals is None:
            yield from super().see(fitted)
            return
        for bytes_TCHW, seconds in fitted:
            yield self.see_classes(bytes_TCHW, seconds)

    @torch.no_grad()
    def see_classes(self, bytes_TCHW: Tensor, seconds: tuple[float, ...]) -> VisualTokens:
        """One chunk of frames, with class tokens."""
        bytes_TCHW = bytes_TCHW.to(self.model.device)
        parts = abreast(self._look_whole, bytes_TCHW, self.model.frames_at_once)
        class_TD = torch.cat([classes for classes, _ in parts])
        features_TPD = torch.cat([self.model.project(patches) for _, patches in parts])
        return VisualTokens(
            features_ND=features_TPD.flatten(0, 1),
            counts=(features_TPD.shape[1],) * len(features_TPD),
            seconds=seconds,
            class_TD=class_TD,
        )

    def _look_whole(self, bytes_TCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.look_whole(self.normalised(bytes_TCHW))

    def shape(self) -> tuple[object, ...]:
        """How it condenses is part of a memory; what a question may cost is not."""
        how = replace(self.condense, ratios=self.condense.ratios.settled)
        return (*super().shape(), how, self.fine and self.fine.ratio)

    def variant(self, **options: Any) -> VideoXL:
        """Condense otherwise: the fields of `longtake.wishes.CondenseWishes`, by name."""
        base = super().variant(**{name: options.pop(name) for name in COMMON if name in options})
        unknown = sorted(set(options) - set(NAMES))
        if unknown:
            known = ", ".join((*COMMON, *NAMES))
            raise OptionError(f"{self.name} has no option {unknown[0]!r}; it has {known}")
        wishes = CondenseWishes(**options)
        how = wishes.condense(self.condense)
        fine = wishes.two_levels(how, self.fine)
        if fine is not None and base.kv != "full":
            raise OptionError("two copies are kept in full precision; leave kv or fine out")
        return replace(base, condense=how, fine=fine)

    def new_cache(self) -> GrowingCache:
        """One copy, or two."""
        one, fine = super().new_cache, self.fine
        return one() if fine is None else TwoLevelCache(AsideCache(fine.where))

    def remember(
        self, pieces: Iterator[Piece], cache: GrowingCache, following: Following
    ) -> Reading:
        """Text is kept whole, visuals are condensed window by window (section 3.2)."""
        levels = self.levels(cache, following)
        ids: list[int] = []
        read = 0

        def report(tokens: int) -> None:
            nonlocal read
            read += tokens
            following.prefilled(read)

        for visual, group in itertools.groupby(pieces, visual_of):
            if visual is not None:
                chunks = (piece for piece in group if isinstance(piece, VisualTokens))
                condense(chunks, visual, self.condense, levels, report)
                continue
            for words in (piece for piece in group if not isinstance(piece, VisualTokens)):
                for level in levels:
                    level.text(words)
                ids.extend(words)
                report(len(words))
        first = levels[0]
        if isinstance(cache, TwoLevelCache) and self.fine is not None:
            cache.windows, cache.fine_windows = tuple(first.windows), tuple(levels[1].windows)
            cache.fine_entries = tuple(levels[1].entries)
            check_budget(cache.coarse_bytes, self.fine)
        cache.trim()
        return Reading(
            features_D=first.features_D,
            entries=tuple(first.entries),
            ids=tuple(ids),
            windows=tuple(first.windows),
        )

    def levels(self, cache: GrowingCache, following: Following) -> list[Level]:
        """The copies to make, the one that `cache` itself holds first."""
        ratios = [self.condense.ratios]
        caches = [cache]
        if isinstance(cache, TwoLevelCache) and self.fine is not None:
            ratios.append(replace(self.condense.ratios, choices=(self.fine.ratio,)))
            caches.append(cache.fine)
        return [
            Level(
                model=self.model,
                cache=into,
                ratios=ratio,
                place=self.condense.place,
                expected=lambda: following.expected,  # known when the first frames have passed
            )
            for into, ratio in zip(caches, ratios, strict=True)
        ]

    def ready(self, memory: Memory, ids: Sequence[int], room: int) -> Memory:
        """With two copies, first find the windows the question looks at and make these fine."""
        two = memory.cache
        if isinstance(two, TwoLevelCache) and self.fine is not None and two.windows and ids:
            return self.zoom(memory, two, ids, room)
        return memory

    def zoom(self, memory: Memory, two: TwoLevelCache, ids: Sequence[int], room: int) -> Memory:
        """A memory for one question: the windows it looks at fine, as the budget allows."""
        assert self.fine is not None
        with memory_errors():
            scores = score_windows(self.model, two, ids)
            chosen = choose_windows(two, scores, self.fine)
            mixed = mix(self.model, two, memory.entries, chosen, len(ids) + min(room, SLACK))
        length = mixed.cache.get_seq_length()
        warnings = (*memory.stats.warnings, *self.beyond_training(length))
        return replace(
            memory,
            cache=mixed.cache,
            length=length,
            entries=mixed.entries,
            windows=mixed.windows,
            stats=replace(memory.stats, warnings=tuple(dict.fromkeys(warnings))),
        )


def load(
    folder: Folder, vision_tower: str | None, device: torch.device, dtype: torch.dtype | None
) -> VideoXL:
    """Load a checkpoint; the tower's weights are its own unless the checkpoint has none."""
    tower = find_tower(folder, vision_tower)
    config = Config.from_published(folder.config, tower.config)
    where = Where(folder=folder, tower=tower, device=device, dtype=dtype)
    decoder = partial(SummaryDecoder, own=config.beacon_param)
    model = load_weights(config, config.blueprint(decoder), where)
    return VideoXL(model=model, condense=config.condense(), **wiring(config, where))
