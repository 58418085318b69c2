"""What a video or a model is and what it will take, without decoding the one or running the other.

A model is loaded onto torch's "meta" device, which keeps shapes and no numbers; what a system makes
of its frames is then found by letting it do so, not by a formula that would have to follow it.

Letters: T frames, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from longtake.costs import Comparison, compare, whole_stages
from longtake.errors import OptionError
from longtake.parts.splice import visual_count
from longtake.reader import frames_wanted
from longtake.sizes import LONGVA_7B
from longtake.types import VisualTokens
from longtake.video.decode import open_video
from longtake.video.images import is_image, open_image
from longtake.video.sample import Footage

if TYPE_CHECKING:
    from longtake.system import System

FRAME_COUNTS = (8, 32, 128, 512, 2048, 10_000)
"""How many frames the costs are told for."""

CHUNK = 16


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """What a player would show."""

    name: str
    """File name without its folder."""
    codec: str
    """Name of the decoder; "image" for a still picture."""
    width: int
    """Pixels, after rotation."""
    height: int
    rotation: int = 0
    """Degrees counter-clockwise that upright the pictures."""
    frames: int = 1
    duration: float = 0.0
    """Seconds."""
    fps: float = 0.0
    """True average; 0 for a still picture."""
    variable_rate: bool = False
    """Whether frame number / fps misplaces some frame by half a frame or more."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What watching so many frames takes."""

    frames: int
    tokens: int
    """Visual tokens the language model reads."""
    kept: int
    """Tokens whose keys and values the memory keeps: fewer where they are condensed."""
    cache_bytes: int
    """Keys and values of these."""
    fits: bool
    """Whether they leave room in the window the model was trained for."""


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What a model folder holds."""

    path: Path
    system: str
    """Which published system it is."""
    parameters: int
    weight_bytes: int
    """In memory, in the dtype it will be loaded in."""
    dtype: str
    """Of the weights."""
    picture: tuple[int, int]
    """Height and width in pixels that the tower sees."""
    frames: int
    """Frames it looks at unless told otherwise."""
    window: int | None
    """Tokens it was trained to read; None if the checkpoint does not say."""
    costs: tuple[Cost, ...]
    comparison: Comparison
    """Stages beside those of LongVA, for `frames` or as many as were asked for."""


@dataclass(frozen=True, kw_only=True)
class WatchReport:
    """What watching a video with a model would take."""

    video: VideoReport
    sampled: int
    """Frames the model's rule takes of it."""
    distinct: int
    """How many of them differ: where the video has fewer, the published rules repeat some."""
    comparison: Comparison
    """Its stages beside those of LongVA."""


def inspect_video(path: str) -> VideoReport:
    """Read a file's frame table, decoding one frame. Raises VideoError."""
    if is_image(path):
        image_CHW = open_image(path)
        return VideoReport(
            name=Path(path).name,
            codec="image",
            width=int(image_CHW.shape[2]),
            height=int(image_CHW.shape[1]),
        )
    with open_video(path) as video:
        return VideoReport(
            name=video.name,
            codec=video.codec,
            width=video.width,
            height=video.height,
            rotation=video.rotation,
            frames=video.frames,
            duration=video.duration,
            fps=video.fps,
            variable_rate=video.variable_rate,
            warnings=video.warnings,
        )


def inspect_model(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    system: str | None = None,
    vision_tower: str | None = None,
    options: Mapping[str, Any] | None = None,
    frame_counts: Sequence[int] = FRAME_COUNTS,
    max_frames: int | None = None,
) -> ModelReport:
    """Read a model folder as `load` would, and say what it takes on `device`.

    `options`: of the system's `variant`; `max_frames`: of the comparison with LongVA.

    Raises CheckpointError and OptionError as `load` does.
    """
    wanted = None if max_frames is None else frames_wanted(max_frames)
    loading = {"dtype": dtype, "system": system, "vision_tower": vision_tower}
    made, kept = on_meta(model, device, loading, options)
    weights = list(made.model.parameters())
    return ModelReport(
        path=made.folder.path,
        system=made.name,
        parameters=sum(weight.numel() for weight in weights),
        weight_bytes=sum(weight.nbytes for weight in weights),
        dtype=str(made.model.dtype).removeprefix("torch."),
        picture=picture_size(made),
        frames=made.frames,
        window=made.window,
        costs=tuple(cost_of(made, count, kept) for count in frame_counts),
        comparison=beside_longva(made, wanted or made.frames, kept),
    )


def inspect_watch(
    path: str,
    model: str,
    *,
    max_frames: int | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    **loading: Any,
) -> WatchReport:
    """Say what watching a video with a model would take; neither is run.

    `loading`: of `inspect_model`. Raises what that and `inspect_video` raise.
    """
    wanted = None if max_frames is None else frames_wanted(max_frames)
    video = inspect_video(path)
    if is_image(path):
        raise OptionError(f"{video.name} is a still picture; --model tells what a video takes")
    made, kept = on_meta(model, device, loading, options)
    footage = Footage(frames=video.frames, fps=video.fps)
    indices = made.sample(footage, wanted or made.frames)
    return WatchReport(
        video=video,
        sampled=len(indices),
        distinct=len(set(indices)),
        comparison=beside_longva(made, len(indices), kept),
    )


def on_meta(
    model: str, device: str, loading: Mapping[str, Any], options: Mapping[str, Any] | None
) -> tuple[System, torch.dtype]:
    """A model without its numbers, and the dtype of keys and values on `device`."""
    # here, because they bring transformers, which takes seconds and which a video does not need
    from longtake.api import load
    from longtake.folder import pick_device

    # on CPU keys and values are fp32 whatever the weights are, see LongtakeModel.compute_dtype
    on_cpu = pick_device(device).type == "cpu"
    made = load(model, device="meta", **loading).variant(**(options or {}))
    return made, torch.float32 if on_cpu else made.model.dtype


def beside_longva(made: System, frames: int, dtype: torch.dtype) -> Comparison:
    """A system's stages beside those of LongVA-7B, which holds the same kind of numbers."""
    stages = made.stages(frames, dtype)
    others = whole_stages(LONGVA_7B, frames, dtype.itemsize)
    return compare(frames, made.name, stages, "LongVA-7B", others)


def cost_of(made: System, frames: int, dtype: torch.dtype) -> Cost:
    """What `frames` frames become; the meta device sees them where only seeing tells."""
    tokens, visual = made.arranged(frames), made.planned(frames)
    if tokens is None or visual is None:
        read = list(made.arrange(made.compress(see_blank(made, frames))))
        tokens = sum(sum(part.counts) for part in read)
        visual = sum(map(visual_count, read))
    made = made.scaled(made.target_for(visual, made.nominal(frames)))
    return Cost(
        frames=frames,
        tokens=tokens,
        kept=made.kept(tokens),
        cache_bytes=made.memory_bytes(tokens, dtype),
        fits=made.window is None or made.reach(tokens) < made.window,
    )


def see_blank(made: System, frames: int) -> Iterator[VisualTokens]:
    """What the tower makes of frames without content, one second apart.

    All chunks look alike here, so the tower runs once for a whole chunk and once for the rest.
    """
    height, width = picture_size(made)
    known: dict[int, tuple[VisualTokens, ...]] = {}
    for start in range(0, frames, CHUNK):
        count = min(CHUNK, frames - start)
        if count not in known:
            bytes_TCHW = torch.empty(count, 3, height, width, dtype=torch.uint8, device="meta")
            times = tuple(map(float, range(count)))
            known[count] = tuple(made.see(iter([(bytes_TCHW, times)])))
        for part in known[count]:
            yield replace(part, seconds=tuple(start + second for second in part.seconds))


def picture_size(made: System) -> tuple[int, int]:
    """Height and width the processor gives every frame."""
    side = made.processor.side
    return side, side
