"""A video on its way from a file to a memory, as the server tells of it. No tensors, no model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from longtake.errors import VideoError
from longtake.serve.conversation import Sight
from longtake.serve.faults import Refusal
from longtake.serve.inbox import harmless_name
from longtake.stored import Stored, Thumbnail

State = Literal["queued", "watching", "ready", "failed"]
Part = tuple[float | None, float | None]
"""Seconds of a video between which it is watched."""
Mark = tuple[int, ...]
"""What a file is on the disk; another one whenever its bytes may have changed."""


NO_VIDEO = "none"
"""Stands for a video's id where a question is about none."""


class Left(Exception):  # noqa: N818 - no error: its client went
    """Nobody wants the video any more."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A file that is watched."""

    path: str
    name: str
    digest: str
    """SHA-256 of its bytes."""
    still: bool
    seconds: float
    thumbnails: tuple[Thumbnail, ...] = ()
    """A few moments of it."""
    mark: Mark | None = None
    """Of its file when that was found to have this digest, and to be one that clients may have
    read; None if nobody looked, and then it is not watched."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What watching found; all of it is known once a video is ready."""

    frames: int = 0
    tokens: int = 0
    bytes: int = 0
    watch_seconds: float | None = None
    """None until the memory has been opened."""
    warnings: tuple[str, ...] = ()


@dataclass(kw_only=True, eq=False)
class Job:
    """A video on its way from a file to a memory. Fields are changed under the lock of `Videos`."""

    id: str
    films: tuple[Film, ...]
    max_frames: int | None
    start: float | None
    end: float | None
    created: float = field(default_factory=time.time)
    state: State = "queued"
    facts: Facts = Facts()
    error: Refusal | None = None
    captions: bool = False
    """Whether words were read between its frames, as only Python callers can have."""
    kept: bool = False
    """It was asked for by itself, not by a question; it is watched even if nobody waits."""
    waiters: int = 0
    left: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    part: float = 0.0
    """Share that has been watched."""
    whole: int = 0
    """Films watched in full."""
    last: int = 0
    listeners: list[Callable[[], None]] = field(default_factory=list)
    """Called once it is ready, failed or dropped."""

    @property
    def alone(self) -> bool:
        """Whether it is one video, which a library keeps."""
        return len(self.films) == 1

    @property
    def sight(self) -> Sight:
        """How it is sampled."""
        return Sight(max_frames=self.max_frames, start=self.start, end=self.end)

    @property
    def name(self) -> str:
        """What people call it."""
        more = len(self.films) - 1
        return self.films[0].name + (f" and {more} more" if more else "")

    def saw(self, stage: str, done: int, total: int) -> None:
        """Take note of progress."""
        if stage != "encode":
            return
        if done < self.last:
            self.whole += 1  # the next film has begun
        self.last = done
        self.part = min(1.0, (self.whole + done / max(total, 1)) / len(self.films))

    def left_seconds(self) -> float | None:
        """Seconds until it is watched, if the rest takes as long as what is behind."""
        if self.state != "watching" or not self.part:
            return None
        return (time.monotonic() - self.began) * (1 - self.part) / self.part

    def shown(self, place: int) -> dict[str, Any]:
        """The object a client sees; `place`: how many are watched before it."""
        left = self.left_seconds()
        return {
            "id": self.id,
            "object": "video",
            "name": self.name,
            "created": int(self.created),
            "status": self.state,
            "place": place,
            "progress": round(self.part, 4) if self.state == "watching" and self.part else None,
            "eta_seconds": None if left is None else round(left, 1),
            "duration": self.films[0].seconds,
            "still": self.films[0].still,
            "files": len(self.films),
            "max_frames": self.max_frames,
            "start": self.start,
            "end": self.end,
            "captions": self.captions,
            "error": None if self.error is None else self.error.body()["error"],
        } | asdict(self.facts)


def mark_of(path: Path) -> Mark:
    """What a file is now. Raises OSError."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def check_unchanged(films: tuple[Film, ...]) -> None:
    """Raise VideoError unless every film's file is what was looked at."""
    for film in films:
        try:
            same = mark_of(Path(film.path)) == film.mark
        except OSError as error:
            raise VideoError(f"{film.name} is gone; send it again") from error
        if not same:
            raise VideoError(f"{film.name} changed since it was looked at; send it again")


def job_of(stored: Stored) -> Job:
    """A video of the library."""
    frames: object = stored.settings.max_frames  # older libraries may say "auto"
    film = Film(
        path=stored.video.place,
        name=harmless_name(stored.video.name),
        digest=stored.video.digest,
        still=not stored.seconds,
        seconds=stored.seconds,
        thumbnails=stored.thumbnails,
    )
    return Job(
        id=stored.key,
        films=(film,),
        max_frames=frames if isinstance(frames, int) else None,
        start=stored.settings.start,
        end=stored.settings.end,
        captions=bool(stored.settings.captions),
        created=stored.created.timestamp(),
        state="ready",
        facts=Facts(frames=stored.frames, tokens=stored.tokens, bytes=stored.bytes),
        kept=True,
    )
