"""Load a model by folder, hub id or "default"; or watch and ask in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from longtake.captions import Caption
from longtake.errors import CheckpointError
from longtake.folder import find, pick_device, pick_dtype
from longtake.many import answer_together, lined_up
from longtake.system import System
from longtake.systems import open_system
from longtake.types import Answer, Memory
from longtake.video.inputs import Source

DEFAULT = Path(__file__).parent / "assets" / "default"
"""The bundled model (docs/default-model.md)."""


def load(
    model: str | Path = "default",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    system: str | None = None,
    vision_tower: str | Path | None = None,
    resize: Literal["exact", "fast"] = "exact",
) -> System:
    """Load a published checkpoint: a folder, a hub id, or "default" for the bundled model.

    `system` overrides recognition by config fields; `vision_tower` is the folder or hub id of the
    tower that config.json names. `resize="fast"` resizes frames with torch instead of PIL: about 5
    times quicker, within 2 of 255 levels. Raises CheckpointError, OptionError.
    """
    chosen_dtype = pick_dtype(str(dtype).removeprefix("torch."))
    chosen_device = pick_device(str(device))
    path = DEFAULT if str(model) == "default" else find(str(model))
    if path == DEFAULT and not (DEFAULT / "config.json").exists():
        raise CheckpointError("this installation holds no bundled model; give a model folder")
    loaded = open_system(
        path,
        device=chosen_device,
        dtype=chosen_dtype,
        system=system,
        vision_tower=None if vision_tower is None else str(vision_tower),
    )
    return replace(loaded, processor=replace(loaded.processor, resize=resize))


def skeleton(
    model: str | Path = "default",
    *,
    dtype: str | torch.dtype = "auto",
    system: str | None = None,
    vision_tower: str | Path | None = None,
) -> System:
    """A model without its numbers, on torch's meta device: what it would cost is told by sizes.

    config.json is enough: weights that are missing are neither asked for nor downloaded, and
    without a tokenizer words are counted about. Raises what `load` raises.
    """
    chosen_dtype = pick_dtype(str(dtype).removeprefix("torch."))
    path = DEFAULT if str(model) == "default" else find(str(model), bare=True)
    return open_system(
        path,
        device=torch.device("meta"),
        dtype=chosen_dtype,
        system=system,
        vision_tower=None if vision_tower is None else str(vision_tower),
        bare=True,
    )


def watch(
    *sources: Source,
    model: str | System = "default",
    max_frames: int | Literal["auto"] | None = None,
    start: float | None = None,
    end: float | None = None,
    captions: Sequence[Caption] = (),
) -> Memory:
    """Watch with a model that is loaded once and kept; `ask` continues from what comes out.

    `start`, `end`: only this part of each video, in seconds; `captions`: words to read between a
    video's frames. Raises what `load` and `System.watch` raise.
    """
    system = _kept(model)
    return system.watch(*sources, max_frames=max_frames, start=start, end=end, captions=captions)


def ask(
    video: Source | Memory,
    question: str,
    *,
    model: str | System = "default",
    max_frames: int | Literal["auto"] | None = None,
    start: float | None = None,
    end: float | None = None,
    **options: Any,
) -> Answer:
    """Answer one question about a video, or about the memory of one.

    `start`, `end`: only this part of the video, in seconds. `options`: fields of `Options`, such as
    temperature. Raises what `load`, `System.watch` and `System.ask` raise.
    """
    system = _kept(model)
    chosen = system.options(**options)
    if isinstance(video, Memory):
        return system.ask(video, question, chosen)
    memory = system.watch(video, max_frames=max_frames, start=start, end=end)
    return system.ask(memory, question, chosen)


def ask_many(
    video: Source | Memory,
    questions: Sequence[str],
    *,
    model: str | System = "default",
    max_frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    **options: Any,
) -> list[Answer]:
    """Answer several questions about a video, or about the memory of one, together.

    All share one memory; answers are those of `ask`, in the order of the questions. The rest is as
    for `ask`.
    """
    system = _kept(model)
    asked = lined_up(questions, system.options(**options))  # refused before anything is watched
    if isinstance(video, Memory):
        return answer_together(system, video, asked)
    memory = system.watch(video, max_frames=max_frames, start=start, end=end)
    return answer_together(system, memory, asked)


def _kept(model: str | System) -> System:
    return model if isinstance(model, System) else _load_once(model)


@lru_cache(maxsize=1)
def _load_once(model: str) -> System:
    return load(model)
