"""A device, here or not, and what a model leaves free on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longtake.api import skeleton
from longtake.errors import OptionError
from longtake.fitting import Choice, Fitting, Reel
from longtake.folder import pick_device
from longtake.gpus import GPUS, Gpu, gpu_of
from longtake.needs import Place
from longtake.room import free_bytes
from longtake.system import System
from longtake.units import size
from longtake.video.decode import Video, open_video
from longtake.video.images import is_image
from longtake.video.sample import Footage, Shown

QUESTION = "What happens in this video, and when?"
"""Asked where nobody asks."""

SPARE = 5 * 2**28
"""Bytes of a GPU that is not here: what CUDA and its libraries take for themselves, at most."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """A device, here or not."""

    device: torch.device
    name: str
    memory: int
    """Bytes for weights and work."""
    gpu: Gpu | None = None
    """Its published figures, if it is not here."""

    @classmethod
    def of(cls, device: str, memory: int | None) -> Where:
        """By name. Raises OptionError."""
        here = torch.cuda.is_available() or device.split(":")[0] in ("auto", "cpu")
        if device in GPUS or not here:
            gpu = gpu_of(device, memory)
            room = (memory or gpu.gib * 2**30) - SPARE
            if room <= 0:
                least = f"CUDA itself takes {SPARE / 2**30:g} GiB; give more"
                raise OptionError(f"a GPU of {size(memory or 0)} leaves nothing: {least}")
            return cls(device=torch.device("cuda"), name=gpu.name, memory=room, gpu=gpu)
        chosen = pick_device(device)
        free = free_bytes(chosen)
        name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type
        return cls(device=chosen, name=name, memory=memory or free)


def weight_bytes(made: System) -> int:
    """Bytes of all weights."""
    return sum(weight.nbytes for weight in made.model.parameters())


def fitting_of(made: System, video: Video, footage: Footage, where: Where) -> Fitting:
    """What weighs a video, or a part of it, against a device."""
    asked = made.template.tail(QUESTION)
    shown = Shown(frames=footage.frames, seconds=footage.seconds)  # times of frames are added there
    return Fitting(
        made=made,
        reels=[Reel.of(video, footage)],
        place=Place(device=where.device.type, weights=made.model.dtype),
        free=where.memory - weight_bytes(made),
        text=len(made.tokens(made.template.head())),
        question=len(made.tokens(made.follow(shown, last=True) + asked)),
    )


def frames_that_fit(
    video: str, model: str, options: Mapping[str, Any], *, device: str = "auto", **loading: Any
) -> Choice:
    """How many frames of a video fit a device that has nothing loaded yet, and why no more.

    `loading`: of `longtake.api.skeleton`. Raises CheckpointError, OptionError, VideoError.
    """
    if is_image(video):
        raise OptionError(f"{Path(video).name} is a still picture; it has no number of frames")
    made = skeleton(model, **loading).variant(**options)
    with open_video(video) as opened:
        footage = Footage(frames=opened.frames, fps=opened.fps)
        return fitting_of(made, opened, footage, Where.of(device, None)).choice()
