"""What the engine thread does with the model and with memories; nobody else calls it.

Memories that are asked stay in memory up to a number of bytes, those used longest ago go first; a
file of each is kept, from which it comes back.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from longtake.many import Batch
from longtake.serve.limits import Limits
from longtake.serve.looking import film, picture
from longtake.serve.videos import Facts, Job
from longtake.system import System
from longtake.types import Memory, Options
from longtake.video.inputs import Opened, Source

LOG = logging.getLogger("longtake.serve")


class Memories:
    """A model and what it has watched."""

    def __init__(self, system: System, store: Any, limits: Limits) -> None:
        self._system = system
        self._store = store
        self._limits = limits
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Memory] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Bytes of all memories held."""
        with self._lock:
            return sum(memory.bytes for memory in self._held.values())

    def options(self, fields: dict[str, Any], **calls: Callable[..., Any]) -> Options:
        """How to answer. Raises OptionError."""
        return self._system.options(**fields, **calls)

    def rows(self, video: str, busy: Collection[str]) -> Batch:
        """A place to answer questions about a video; `busy` ones stay held. Raises StoreError."""
        with self._lock:
            memory = self._held.get(video)
        if memory is None:
            memory = self._store.open(video)
            self._hold(video, memory, busy)
        with self._lock:
            if video in self._held:
                self._held.move_to_end(video)
        return Batch(self._system, memory, most=self._limits.rows)

    def watch(
        self,
        job: Job,
        progress: Callable[[str, int, int], None],
        busy: Callable[[], Collection[str]],
    ) -> Facts:
        """Watch what a job names, and keep its memory. Raises LongtakeError, Left by `progress`."""
        with sources(job) as opened:
            memory = self._system.watch(
                *opened, max_frames=job.max_frames, start=job.start, end=job.end, progress=progress
            )
        self._store.save(job.id, memory)
        self._hold(job.id, memory, busy())
        return Facts(
            frames=memory.stats.frames,
            tokens=memory.length,
            bytes=memory.bytes,
            watch_seconds=round(memory.stats.watch_seconds, 3),
            warnings=memory.stats.warnings,
        )

    def forget(self, video: str) -> None:
        """Drop a memory and its file; answers that are being written go on. Any thread may call."""
        with self._lock:
            self._held.pop(video, None)
        self._store.remove(video)

    def _hold(self, video: str, memory: Memory, busy: Collection[str]) -> None:
        with self._lock:
            self._held[video] = memory
            total = sum(one.bytes for one in self._held.values())
            for old in [name for name in self._held if name != video and name not in busy]:
                if total <= self._limits.memory_bytes:
                    break
                total -= self._held.pop(old).bytes


@contextmanager
def sources(job: Job) -> Iterator[list[Source | Opened]]:
    """The films of a job, opened."""
    with ExitStack() as stack:
        opened: list[Source | Opened] = []
        for one in job.films:
            path = Path(one.path)
            image = picture(path) if one.still else None
            opened.append(stack.enter_context(image if image is not None else film(path)))
        yield opened
