"""A library's files: written aside and renamed, opened under a shared lock, removed by age.

Everything that adds or removes a file does so under one lock of the folder, held for moments only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from longtake.catalogue import SUFFIX, file_of, files_in
from longtake.errors import StoreError
from longtake.locks import (
    BINARY,
    alone,
    claim,
    remove_unused,
    share,
    still_there,
    sync_folder,
)
from longtake.units import size

LOCK = "lock"
ASIDE = ".aside-"


@dataclass(frozen=True)
class Shelf:
    """The files of one folder."""

    folder: Path
    budget: int
    """Bytes of all memories together."""
    forget: Callable[[str], None]
    """Takes a memory out of the index by its key, before its file goes: what a killed process has
    not removed is found again, and nothing is listed that is not there."""

    # -- adding -----------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        expected: int,
        write: Callable[[int], None],
        adding: Callable[[], AbstractContextManager[bool]],
    ) -> bool:
        """Have `write` fill a new file, and call it by its key when it is on the disk.

        `expected`: bytes it will take; older memories give way to it first. `adding`: puts it into
        the index with its `with` statement, or says that it cannot be: then it is not kept. Returns
        whether it is. Raises StoreError.
        """
        with self.told(), self._aside() as (descriptor, aside):
            self.make_room(expected)
            write(descriptor)
            with self._alone(), adding() as wanted:
                if wanted:
                    aside.replace(file_of(self.folder, key))
                    sync_folder(self.folder)
            return wanted

    def prepare(self) -> None:
        """Make the folder, remove what killed writers left, see that files can be made in it."""
        with self._aside():
            pass

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn what a disk can do wrong into one line."""
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            why = error.strerror or error
            what = f"the library {self.folder} cannot be written ({why})"
            raise StoreError(f"{what}; free some room, or choose another by --library") from error

    @contextmanager
    def _aside(self) -> Iterator[tuple[int, Path]]:
        """A new file that is ours alone while it is written; gone if it was not renamed."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            self._sweep()
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=ASIDE)
            claim(descriptor)
        try:
            yield descriptor, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else adds or removes a file meanwhile."""
        with alone(self.folder / LOCK):
            yield

    def _sweep(self) -> None:
        """Remove what writers left behind that were killed: nobody holds it."""
        for path in self.folder.glob(f"{ASIDE}*"):
            with suppress(OSError):
                remove_unused(path, lambda: None)

    # -- removing ---------------------------------------------------------------------------------

    def make_room(self, coming: int, keep: str = "") -> None:
        """Remove what was asked longest ago until so many bytes more fit, but not `keep`.

        What somebody uses stays. Raises StoreError if there is not enough to remove.
        """
        if coming > self.budget:
            raise StoreError(
                f"the memory takes {size(coming)}, the library may take {size(self.budget)}; raise "
                "its budget, or watch fewer frames"
            )
        files = {}
        for path in files_in(self.folder).values():
            with suppress(FileNotFoundError):  # another process makes room as well
                files[path] = path.stat()
        total = coming + sum(found.st_size for found in files.values())
        for path, found in sorted(files.items(), key=lambda item: item[1].st_mtime_ns):
            if total <= self.budget:
                return
            if path != file_of(self.folder, keep) and self.remove(path):
                total -= found.st_size
        if total > self.budget and not keep:
            raise StoreError(
                f"the library {self.folder} may take {size(self.budget)} and what is in it is in "
                "use; wait, or raise its budget"
            )

    def remove(self, path: Path) -> bool:
        """Remove a memory's file unless somebody uses it; true if it is gone. Raises OSError."""
        with self._alone():
            return remove_unused(path, lambda: self.forget(path.name.removesuffix(SUFFIX)))

    # -- using ------------------------------------------------------------------------------------

    @contextmanager
    def in_use(self, path: Path) -> Iterator[None]:
        """Keep a file from being removed, and note that it was used now.

        Raises StoreError if it is not there.
        """
        descriptor = self._shared(path)
        try:
            with suppress(OSError):  # where nothing can be written nothing is evicted either
                os.utime(path)
            yield
        finally:
            os.close(descriptor)

    def _shared(self, path: Path) -> int:
        """A descriptor of a file that holds a lock on it."""
        descriptor = None
        try:
            descriptor = os.open(path, os.O_RDONLY | BINARY)
            share(descriptor)
            if still_there(descriptor, path):
                return descriptor
            why = "it was removed just now"
        except OSError as error:
            why = error.strerror or str(error)
        if descriptor is not None:
            os.close(descriptor)
        raise StoreError(f"{path} cannot be opened ({why}); watch the video again")
