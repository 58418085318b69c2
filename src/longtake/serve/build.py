"""Put a server together: a loaded model, a folder, limits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from longtake.errors import OptionError
from longtake.serve.engine import Engine
from longtake.serve.fetch import Fetcher, networks
from longtake.serve.guard import Keys
from longtake.serve.inbox import Inbox
from longtake.serve.limits import Limits
from longtake.serve.media import Media
from longtake.serve.memories import Memories
from longtake.serve.metrics import Metrics
from longtake.serve.queue import Line
from longtake.serve.service import About, Service
from longtake.serve.videos import Videos
from longtake.store import load_memory, save_memory
from longtake.system import System
from longtake.types import Memory


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What whoever starts a server chooses besides limits."""

    folder: Path
    """Where files and memories are kept."""
    model: str = "default"
    """The model's name, as clients call it."""
    token: str | None = None
    roots: tuple[Path, ...] = ()
    """Folders whose files clients may name."""
    allowed: tuple[str, ...] = ()
    """Networks that may be fetched from although they are not public."""


class Files:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def open(self, video: str) -> Memory:
        return load_memory(self._folder / f"{video}.longtake", "cpu")

    def save(self, video: str, memory: Memory) -> None:
        save_memory(memory, self._folder / f"{video}.longtake")

    def remove(self, video: str) -> None:
        (self._folder / f"{video}.longtake").unlink(missing_ok=True)


def service(system: System, choices: Choices, limits: Limits) -> Service:
    """The parts of a server. Raises OptionError for a folder or network that cannot be used."""
    for root in choices.roots:
        if not root.is_dir():
            raise OptionError(f"{root} is no folder; name one whose files clients may watch")
    metrics = Metrics()
    videos = Videos(choices.folder / "videos", system.fingerprint)
    line = Line(questions=limits.waiting, videos=limits.watching)
    inbox = Inbox(choices.folder / "files", limits, metrics.received.inc)
    fetcher = Fetcher(
        limit_bytes=limits.upload_bytes,
        seconds=limits.fetch_seconds,
        allowed=networks(choices.allowed),
    )
    memories = Memories(system, Files(choices.folder / "memories"), limits)
    metrics.gauge("questions_waiting", "Questions that wait.", lambda: line.waiting)
    metrics.gauge("questions_answering", "Questions being answered.", lambda: line.answering)
    metrics.gauge("videos_waiting", "Videos waiting or being watched.", lambda: line.videos)
    metrics.gauge("memory_bytes", "Bytes of memories held.", lambda: memories.bytes)
    metrics.gauge("stored_bytes", "Bytes of kept files.", lambda: inbox.stored)
    frames = min(system.frames, limits.frames)
    about = About(model=choices.model, system=system.name, frames=frames, created=int(time.time()))
    return Service(
        about=about,
        limits=limits,
        keys=Keys(token=choices.token),
        metrics=metrics,
        line=line,
        videos=videos,
        inbox=inbox,
        media=Media(inbox, fetcher, limits, choices.roots),
        memories=memories,
        engine=Engine(memories, videos, line, limits, metrics),
    )
