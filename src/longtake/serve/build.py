"""Put a server together: a loaded model, a folder, limits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from longtake.errors import OptionError
from longtake.library import Library
from longtake.serve.engine import Engine
from longtake.serve.fetch import Fetcher, networks
from longtake.serve.files import Files
from longtake.serve.guard import Keys
from longtake.serve.inbox import Inbox
from longtake.serve.limits import Limits
from longtake.serve.media import Media
from longtake.serve.memories import Memories
from longtake.serve.metrics import Metrics
from longtake.serve.queue import Line
from longtake.serve.service import About, Service
from longtake.serve.stills import Stills
from longtake.serve.videos import Videos
from longtake.stored import Settings
from longtake.system import System


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What whoever starts a server chooses besides limits."""

    folder: Path
    """Where files that come in are kept."""
    library: Library
    """Where memories are kept."""
    settings: Settings
    """How the model was loaded."""
    model: str = "default"
    """The model's name, as clients call it."""
    token: str | None = None
    roots: tuple[Path, ...] = ()
    """Folders whose files clients may name."""
    allowed: tuple[str, ...] = ()
    """Networks that may be fetched from although they are not public."""


def service(system: System, choices: Choices, limits: Limits) -> Service:
    """The parts of a server, which has looked at its library.

    Raises OptionError for a folder or network that cannot be used, StoreError.
    """
    for root in choices.roots:
        if not root.is_dir():
            raise OptionError(f"{root} is no folder; name one whose files clients may watch")
    metrics = Metrics()
    memories = Memories(system, choices.library, choices.settings, limits)
    videos = Videos(memories)
    videos.refresh()
    line = Line(questions=limits.waiting, videos=limits.watching)
    fetcher = Fetcher(
        limit_bytes=limits.upload_bytes,
        seconds=limits.fetch_seconds,
        allowed=networks(choices.allowed),
    )
    inbox, stills = Inbox(choices.folder, limits, metrics.received.inc), Stills()
    identify = choices.library.identify
    files = Files(inbox, choices.roots, identify, videos.uses, stills.drop)
    videos.when_gone(lambda job: files.settle(film.digest for film in job.films))
    memories.when_lost(videos.lost)
    add_gauges(metrics, line, memories, inbox)
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
        files=files,
        media=Media(inbox, files, fetcher, limits),
        memories=memories,
        stills=stills,
        engine=Engine(memories, videos, line, limits, metrics),
    )


def add_gauges(metrics: Metrics, line: Line, memories: Memories, inbox: Inbox) -> None:
    """Numbers that are read when they are asked for."""
    metrics.gauge("questions_waiting", "Questions that wait.", lambda: line.waiting)
    metrics.gauge("questions_answering", "Questions being answered.", lambda: line.answering)
    metrics.gauge("videos_waiting", "Videos waiting or being watched.", lambda: line.videos)
    metrics.gauge("memory_bytes", "Bytes of memories held.", lambda: memories.bytes)
    metrics.gauge("stored_bytes", "Bytes of kept files.", lambda: inbox.stored)
