"""What makes two memories the same: the video's bytes, the weights, and all that shapes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from datetime import UTC, datetime
from typing import Any

from longtake.stored import Settings, Stored, VideoIdentity, length_of
from longtake.system import System
from longtake.types import Memory
from longtake.version import __version__

SAMPLES = 16
"""Numbers of each weight that are looked at."""


def key_of(digest: str, system: System, settings: Settings) -> str:
    """32 hexadecimal digits, by which the memory of a video is found again."""
    frames = system.frames if settings.max_frames is None else settings.max_frames
    part = (settings.start, settings.end)
    said = [digest, system.fingerprint, weights_of(system), words(system.sample), frames, *part]
    said += [settings.captions] if settings.captions else []
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def weights_of(system: System) -> str:
    """A digest of some numbers of every weight as it is loaded.

    The fingerprint knows the model folder's files; a tower may come from another folder.
    """
    total = hashlib.sha256()
    for name, weight in system.model.state_dict().items():
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // SAMPLES)][:SAMPLES].float().cpu()
        total.update(f"{name} {tuple(weight.shape)}".encode() + some.numpy().tobytes())
    return total.hexdigest()


def words(part: object) -> str:
    """What a stage is, the same in every process: a dataclass's fields, a function's name."""
    if is_dataclass(part) or not callable(part):
        return repr(part)
    return named(part)


def named(function: Callable[..., Any]) -> str:
    """Where a function is defined."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', type(function).__module__)}.{name}"


def describe(
    memory: Memory, system: System, settings: Settings, video: VideoIdentity, name: str
) -> Stored:
    """What a library tells of a memory that has no file yet."""
    settings = replace(settings, captions=memory.captions)
    seconds, stats, now = sum(memory.durations), memory.stats, datetime.now(UTC)
    watched = length_of(seconds, settings)
    return Stored(
        key=key_of(video.digest, system, settings),
        name=name,
        video=video,
        seconds=seconds,
        system=memory.system,
        fingerprint=memory.fingerprint,
        frames=stats.frames,
        tokens=memory.length,
        seconds_per_token=watched / stats.visual_tokens if stats.visual_tokens else 0.0,
        shape=tuple(map(words, (system.sample, *system.shape()))),
        settings=settings,
        thumbnails=(),
        version=__version__,
        created=now,
        last_used=now,
        bytes=0,
    )
