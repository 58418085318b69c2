"""What the engine thread does with the model and with memories; nobody else asks or watches.

Memories that are asked stay in memory up to a number of bytes, those used longest ago go first; the
library has a file of each, from which it comes back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from longtake.catalogue import file_of
from longtake.errors import StoreError
from longtake.keys import key_of
from longtake.library import Library
from longtake.many import Batch
from longtake.parts.chat import Turn, check_words
from longtake.serve.faults import Refusal, sendable
from longtake.serve.jobs import NO_VIDEO, Facts, Film, Job, Part, check_unchanged
from longtake.serve.limits import Limits
from longtake.serve.looking import film, picture
from longtake.serve.shelved import Looked, Shelved
from longtake.stored import Settings, Stored
from longtake.system import System
from longtake.types import Memory, Options
from longtake.video.inputs import Opened, Source

LOG = logging.getLogger("longtake.serve")
UNSAVED = "the library cannot keep this memory; the video is watched again once there is no room"


@dataclass(frozen=True, kw_only=True)
class Held:
    """A memory that is ready to answer."""

    memory: Memory
    stack: ExitStack = field(default_factory=ExitStack)
    """Closed when it is given up: until then no process removes its file."""
    file: Path | None = None
    """Where the library has it."""
    warnings: tuple[str, ...] = ()

    def facts(self) -> Facts:
        """What a memory says of itself."""
        return Facts(
            frames=self.memory.stats.frames,
            tokens=self.memory.length,
            bytes=self.memory.bytes,
            watch_seconds=round(self.memory.stats.watch_seconds, 3),
            warnings=(*map(sendable, self.memory.stats.warnings), *self.warnings),
        )


class Memories:
    """A model and what it has watched."""

    def __init__(
        self, system: System, library: Library, settings: Settings, limits: Limits
    ) -> None:
        """`settings`: how the model was loaded, for whoever opens the library elsewhere."""
        self._system = system
        self._library = Shelved(library.folder, library.budget)
        self._settings = settings
        self._limits = limits
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._key = lru_cache(maxsize=1024)(self._fresh_key)
        self._fits: dict[str, bool] = {}
        self._others: frozenset[str] = frozenset()
        self._lost: list[Callable[[str], None]] = []

    def when_lost(self, told: Callable[[str], None]) -> None:
        """Have `told` called with a memory that gave way to others and is in no library."""
        self._lost.append(told)

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
        ours = [stored for stored in found if self._fits[stored.key]]
        there = {stored.key for stored in ours}
        self._others = frozenset(one.video.digest for one in found if one.key not in there)
        return ours

    def others(self, digest: str) -> bool:
        """Whether the library had something of these bytes by other models when last looked at."""
        return digest in self._others

    def holds(self, video: str) -> bool:
        """Whether a memory is held ready."""
        with self._lock:
            return video in self._held

    def has(self, video: str) -> bool:
        """Whether there is a memory, held or in the library."""
        return self.holds(video) or file_of(self._library.folder, video).exists()

    def check(self, question: str, history: Sequence[Turn], fields: dict[str, Any]) -> None:
        """Raise PromptError or OptionError for what no memory could be asked."""
        check_words(question, history)
        self.options(fields)

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
        if video == NO_VIDEO:
            return Batch(self._system, self._blank, most=self._limits.rows)
        with self._lock:
            held = self._held.get(video)
            if held is not None:
                self._held.move_to_end(video)
        if held is None:
            held = self._opened(video)
            self._hold(video, held, busy)
        elif held.file is not None:
            with suppress(OSError):  # as if it were opened once more
                os.utime(held.file)
        return Batch(self._system, held.memory, most=self._limits.rows)

    @cached_property
    def _blank(self) -> Memory:
        """What a question without a video is asked of."""
        return self._system.blank()

    def facts(self, video: str) -> Facts | None:
        """What a memory that is held says of itself."""
        with self._lock:
            held = self._held.get(video)
        return None if held is None else held.facts()

    def watch(
        self,
        job: Job,
        progress: Callable[[str, int, int], None],
        busy: Callable[[], Collection[str]],
    ) -> Facts:
        """Watch what a job names, and keep its memory.

        Raises LongtakeError, and Left by `progress`.
        """
        check_unchanged(job.films)
        with sources(job) as opened:
            memory = self._system.watch(
                *opened, max_frames=job.max_frames, start=job.start, end=job.end, progress=progress
            )
        check_unchanged(job.films)
        held = self._saved(job, memory) if job.alone else Held(memory=memory)
        self._hold(job.id, held, busy())
        return held.facts()

    def _saved(self, job: Job, memory: Memory) -> Held:
        """A memory that is in the library, if it can be; then nobody removes it while held."""
        stack = ExitStack()
        try:
            stored = self._library.save(
                memory,
                system=self._system,
                source=Looked(job.films[0]),
                settings=self._settings_of(job.max_frames, (job.start, job.end)),
                thumbnails=job.films[0].thumbnails,
            )
            file = stack.enter_context(self._library.in_use(stored.key))
        except StoreError as error:
            LOG.warning("the memory of %s is not in the library: %s", job.id, error)
            return Held(memory=memory, warnings=(UNSAVED,))
        return Held(memory=memory, stack=stack, file=file)

    def _settings_of(self, frames: int | None, part: Part) -> Settings:
        start, end = part
        return replace(self._settings, max_frames=frames, start=start, end=end)

    def close(self) -> None:
        """Give up all memories."""
        with self._lock:
            held, self._held = list(self._held.values()), OrderedDict()
        for one in held:
            one.stack.close()

    def _fresh_key(self, digest: str, frames: int | None, part: Part) -> str:
        return key_of(digest, self._system, self._settings_of(frames, part))

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
            file = file_of(self._library.folder, video)
            return Held(memory=memory, stack=stack.pop_all(), file=file)

    def _hold(self, video: str, held: Held, busy: Collection[str]) -> None:
        gone: dict[str, Held] = {}
        with self._lock:
            before = self._held.pop(video, None)
            self._held[video] = held
            total = sum(one.memory.bytes for one in self._held.values())
            for old in [name for name in self._held if name != video and name not in busy]:
                if total <= self._limits.memory_bytes:
                    break
                gone[old] = self._held.pop(old)
                total -= gone[old].memory.bytes
        if before is not None:
            before.stack.close()
        for name, one in gone.items():
            one.stack.close()
            for told in self._lost if one.file is None else ():
                told(name)


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
