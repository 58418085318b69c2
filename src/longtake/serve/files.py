"""Who owns the kept files, and which files clients may have read.

A file that came in stays while a request works on it, and while a video is of it; whoever lets go
of it last removes it.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from longtake.errors import VideoError
from longtake.identity import stamp_of
from longtake.serve.inbox import Inbox
from longtake.serve.jobs import Film, Mark, mark_of
from longtake.stored import VideoIdentity

K = TypeVar("K")
V = TypeVar("V")
REMEMBERED = 512


class Work:
    """What one request works on."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.pinned: list[str] = []

    def pin(self, digest: str) -> None:
        """From now on the file with these bytes, if there is one, is not removed."""
        self._files.count(digest, 1)
        self.pinned.append(digest)


class Files:
    """Owns what is in the inbox."""

    def __init__(
        self,
        inbox: Inbox,
        roots: tuple[Path, ...],
        identify: Callable[[Path], VideoIdentity],
        uses: Callable[[str], bool],
        removed: Callable[[Path], None],
    ) -> None:
        """`roots`: folders whose files clients may name. `identify`: tells a file's digest, raises
        VideoError. `uses`: whether a video is of these bytes. `removed` is told of files that went.
        """
        self._inbox = inbox
        self.roots = tuple(root.resolve() for root in roots)
        self._identify = identify
        self._uses = uses
        self._removed = removed
        self._lock = threading.Lock()
        self._pins: Counter[str] = Counter()
        self._digests: OrderedDict[Mark, str] = OrderedDict()

    # -- how long they stay -----------------------------------------------------------------------

    @contextmanager
    def work(self) -> Iterator[Work]:
        """For the time of a request."""
        work = Work(self)
        try:
            yield work
        finally:
            for digest in work.pinned:
                self.count(digest, -1)
            self.settle(work.pinned)

    def count(self, digest: str, more: int) -> None:
        """So many more requests work on a file."""
        with self._lock:
            self._pins[digest] += more
            if not self._pins[digest]:
                del self._pins[digest]

    def settle(self, digests: Iterable[str]) -> None:
        """Remove the files with these bytes that nobody wants any more."""
        for digest in set(digests):
            with self._lock:
                if digest in self._pins or self._uses(digest):
                    continue
                path = self._inbox.find(digest)
                self._inbox.remove(digest)
            if path is not None:
                self._removed(path)

    def sweep(self) -> None:
        """Remove all that nobody wants."""
        self.settle(self._inbox.digests())

    # -- who may have them ------------------------------------------------------------------------

    def allowed(self, path: Path) -> Path | None:
        """A file that clients may have read, links resolved; None if they may not."""
        try:
            found = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None
        ours = self._inbox.has(found) or any(found.is_relative_to(root) for root in self.roots)
        return found if ours and found.is_file() else None

    def place(self, film: Film) -> Path | None:
        """Where there seems to be a film's file that clients may have read."""
        return self.allowed(Path(film.path)) or self._inbox.find(film.digest)

    def digest(self, path: Path) -> tuple[str, Mark]:
        """SHA-256 of a file as it stands; read once. Raises VideoError, OSError."""
        mark = mark_of(path)
        if self._inbox.has(path):
            return path.parent.name, mark
        with self._lock:
            known = self._digests.get(mark)
        if known is None:
            known = self._identify(path).digest
            if mark_of(path) != mark:
                raise VideoError(f"{path.name} changes while it is read; try again later")
            if stamp_of(path) is not None:  # else it may change once more within a tick
                with self._lock:
                    remember(self._digests, mark, known)
        return known, mark

    def whole(self, film: Film) -> tuple[Path, Mark] | None:
        """The file of a film if it is still the same and clients may have it read. Waits for the
        disk.
        """
        path = self.place(film)
        if path is None:
            return None
        try:
            digest, mark = self.digest(path)
        except (VideoError, OSError):
            return None
        return (path, mark) if digest == film.digest else None


def remember(known: OrderedDict[K, V], key: K, value: V) -> None:
    """Add to a dictionary of bounded size, in which the oldest goes first."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > REMEMBERED:
        known.popitem(last=False)
