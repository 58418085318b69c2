"""What a library knows of a memory without opening it: told by its file's header.

A header's `about` is plain JSON; this module writes and reads it. Nothing here needs torch.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from longtake.errors import StoreError


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small picture of a video."""

    seconds: float
    """When it is shown."""
    jpeg: bytes = field(repr=False)
    """A JPEG file's bytes."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a video was watched, in the caller's words: enough to load the same model again."""

    model: str = "default"
    """A folder, a hub id, or "default"."""
    loading: Mapping[str, str] = field(default_factory=dict)
    """Other arguments of `longtake.load`: system, vision_tower, dtype, ..."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `System.variant`: ratio, kv, extend, ..."""
    max_frames: int | None = None
    """Frames asked for; None leaves it to the model."""
    start: float | None = None
    """Only from this second on."""
    end: float | None = None
    """Only until this second."""
    captions: str = ""
    """`Memory.captions`: what was read between the frames."""


@dataclass(frozen=True, kw_only=True)
class VideoIdentity:
    """Which video it is: its bytes, whatever it is called."""

    digest: str
    """SHA-256 of the file."""
    size: int
    """Bytes of the file."""
    name: str
    """What the file was called."""
    place: str
    """Its full path when it was watched; empty if it came from an address."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A memory in a library."""

    key: str
    """Digest of the video's bytes, the checkpoint and every option that shapes a memory; the file
    is called by it."""
    name: str
    """What people call it; no two of a library have the same."""
    video: VideoIdentity
    """What was watched."""
    seconds: float
    """Where in the video ends what was watched: its length, unless a part was watched."""
    system: str
    """Name of the system that watched."""
    fingerprint: str
    """Digest of the checkpoint and of the options that shaped the memory."""
    frames: int
    """Frames seen."""
    tokens: int
    """Tokens held: the prompt's head and the visuals."""
    seconds_per_token: float
    """Of what was watched, per visual token that the language model read; 0 for a picture."""
    shape: tuple[str, ...]
    """How frames were chosen and condensed, and positions stretched, in the code's words."""
    settings: Settings
    """How it was watched."""
    thumbnails: tuple[Thumbnail, ...]
    """A few moments of the video."""
    version: str
    """Of the longtake that watched."""
    created: datetime
    """When, in UTC."""
    last_used: datetime
    """When it was last asked, in UTC."""
    bytes: int
    """Of the file."""

    @property
    def watched_seconds(self) -> float:
        """How much of the video was watched."""
        return length_of(self.seconds, self.settings)


def length_of(end: float, settings: Settings) -> float:
    """Seconds of a video, or of a part of it, that ends there."""
    return end - max(0.0, settings.start or 0.0)


def about_of(stored: Stored) -> dict[str, Any]:
    """What a file's header says; when it was last used, and its size, the file itself tells."""
    said = asdict(stored)
    del said["last_used"], said["bytes"]
    if not stored.settings.captions:  # so that earlier versions can read it
        del said["settings"]["captions"]
    said["created"] = stored.created.isoformat()
    said["thumbnails"] = [
        {"seconds": one.seconds, "jpeg": base64.b64encode(one.jpeg).decode()}
        for one in stored.thumbnails
    ]
    return said


def stored_of(about: Mapping[str, Any], last_used: datetime, size: int) -> Stored:
    """What a header's `about` says. Raises StoreError if it lacks something."""
    try:
        said = {**about, "created": datetime.fromisoformat(about["created"])}
        said["video"] = VideoIdentity(**about["video"])
        settings = dict(about["settings"])
        if settings["max_frames"] == "auto":  # as `ask --max-frames auto` once noted it
            settings["max_frames"] = about["frames"]
        said["settings"] = Settings(**settings)
        said["shape"] = tuple(about["shape"])
        said["thumbnails"] = tuple(
            Thumbnail(seconds=one["seconds"], jpeg=base64.b64decode(one["jpeg"]))
            for one in about["thumbnails"]
        )
        return Stored(**said, last_used=last_used, bytes=size)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        what = f"{type(error).__name__} {error}"
        raise StoreError(f"a memory's header says too little of it ({what})") from error
