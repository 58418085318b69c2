"""What the engine thread does with the model and with memories; nobody else asks or watches.

Memories that are asked stay in memory up to a number of bytes, those used longest ago go first; the
library has a file of each, from which it comes back.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from longtake.keys import key_of
from longtake.library import Library
from longtake.many import Batch
from longtake.serve.faults import Refusal
from longtake.serve.limits import Limits
from longtake.serve.looking import film, picture
from longtake.serve.videos import Facts, Film, Job, Part
from longtake.stored import Settings, Stored
from longtake.system import System
from longtake.types import Memory, Options
from longtake.video.inputs import Opened, Source


@dataclass(frozen=True, kw_only=True)
class Held:
    """A memory that is ready to answer."""

    memory: Memory
    stack: ExitStack = field(default_factory=ExitStack)
    """Closed when it is given up: until then no process removes its file."""


class Memories:
    """A model and what it has watched."""

    def __init__(
        self, system: System, library: Library, settings: Settings, limits: Limits
    ) -> None:
        """`settings`: how the model was loaded, for whoever opens the library elsewhere."""
        self._system = system
        self._library = library
        self._settings = settings
        self._limits = limits
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._key = lru_cache(maxsize=1024)(self._fresh_key)
        self._fits: dict[str, bool] = {}

    @property
    def bytes(self) -> int:
        """Bytes of all memories held."""
        with self._lock:
            return sum(held.memory.bytes for held in self._held.values())

    # -- any thread -------------------------------------------------------------------------------

    def key(self, films: Sequence[Film], frames: int | None, part: Part) -> str:
        """The library's key of a film watched so; of several, a name that no key has."""
        if len(films) == 1:
            return self._key(films[0].digest, frames, part)
        keys = [self._key(film.digest, frames, part) for film in films]
        return f"mix{hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:29]}"

    def all(self) -> list[Stored]:
        """What the library has that this model can be asked about. Raises StoreError."""
        found = self._library.list()
        for stored in found:
            if stored.key not in self._fits:
                self._fits[stored.key] = self._library.fits(stored, self._system)
        return [stored for stored in found if self._fits[stored.key]]

    def forget(self, video: str) -> None:
        """Drop a memory and its file; answers that are being written go on. Raises StoreError."""
        with self._lock:
            held = self._held.pop(video, None)
        if held is not None:
            held.stack.close()
        if any(one.key == video for one in self._library.list()):  # it may not have been watched
            self._library.remove(video)

    # -- the engine thread ------------------------------------------------------------------------

    def options(self, fields: dict[str, Any], **calls: Callable[..., Any]) -> Options:
        """How to answer. Raises OptionError."""
        return self._system.options(**fields, **calls)

    def rows(self, video: str, busy: Collection[str]) -> Batch:
        """A place to answer questions about a video; `busy` ones stay held.

        Raises Refusal if its memory is gone, StoreError if it cannot be read.
        """
        with self._lock:
            held = self._held.get(video)
            if held is not None:
                self._held.move_to_end(video)
        if held is None:
            held = self._opened(video)
            self._hold(video, held, busy)
        return Batch(self._system, held.memory, most=self._limits.rows)

    def facts(self, video: str) -> Facts | None:
        """What a memory that is held says of itself."""
        with self._lock:
            held = self._held.get(video)
        return None if held is None else facts_of(held.memory)

    def watch(
        self,
        job: Job,
        progress: Callable[[str, int, int], None],
        busy: Callable[[], Collection[str]],
    ) -> Facts:
        """Watch what a job names, and keep its memory.

        Raises LongtakeError, and Left by `progress`.
        """
        frames, start, end = job.max_frames, job.start, job.end
        with sources(job) as opened:
            memory = self._system.watch(
                *opened, max_frames=frames, start=start, end=end, progress=progress
            )
        if job.alone:
            self._library.save(
                memory,
                system=self._system,
                source=Path(job.films[0].path),
                settings=replace(self._settings, max_frames=frames, start=start, end=end),
                thumbnails=job.films[0].thumbnails,
            )
        self._hold(job.id, Held(memory=memory), busy())
        return facts_of(memory)

    def close(self) -> None:
        """Give up all memories."""
        with self._lock:
            held, self._held = list(self._held.values()), OrderedDict()
        for one in held:
            one.stack.close()

    def _fresh_key(self, digest: str, frames: int | None, part: Part) -> str:
        start, end = part
        settings = replace(self._settings, max_frames=frames, start=start, end=end)
        return key_of(digest, self._system, settings)

    def _opened(self, video: str) -> Held:
        """A memory of the library."""
        stored = next((one for one in self._library.list() if one.key == video), None)
        if stored is None:
            told = "the memory of this video is gone; send the video again"
            raise Refusal(404, "video_unknown", told)
        stack = ExitStack()
        with stack:
            device = str(self._system.model.device)
            memory = stack.enter_context(self._library.open(stored, device))
            return Held(memory=memory, stack=stack.pop_all())

    def _hold(self, video: str, held: Held, busy: Collection[str]) -> None:
        with self._lock:
            self._held[video] = held
            total, gone = sum(one.memory.bytes for one in self._held.values()), []
            for old in [name for name in self._held if name != video and name not in busy]:
                if total <= self._limits.memory_bytes:
                    break
                gone.append(self._held.pop(old))
                total -= gone[-1].memory.bytes
        for one in gone:
            one.stack.close()


def facts_of(memory: Memory) -> Facts:
    """What a memory says of itself."""
    return Facts(
        frames=memory.stats.frames,
        tokens=memory.length,
        bytes=memory.bytes,
        watch_seconds=round(memory.stats.watch_seconds, 3),
        warnings=memory.stats.warnings,
    )


@contextmanager
def sources(job: Job) -> Iterator[list[Source | Opened]]:
    """The films of a job, opened. Raises VideoError."""
    with ExitStack() as stack:
        opened: list[Source | Opened] = []
        for one in job.films:
            path = Path(one.path)
            image = picture(path) if one.still else None
            if image is not None:
                opened.append(stack.enter_context(image))
            else:
                opened.append(stack.enter_context(film(path)))
        yield opened
