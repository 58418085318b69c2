"""A library: a folder of watched videos, each asked any number of times by any process.

One file per memory (`longtake.store`), called by a digest of all that shaped it, and an index of
their headers (`longtake.catalogue`). A memory is written aside, synced, and renamed under a lock;
only then is it reported saved. Whoever asks one holds a shared lock on its file; removing one takes
the file alone, so what is in use is never evicted. When a memory was last asked is its file's time.

torch is imported only where a memory is written or read, so that listing a library is instant.
"""

from __future__ import annotations

import os
import sys
from builtins import list as a_list
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtake.catalogue import Catalogue, file_of, files_in, told_by
from longtake.errors import NewerError, OptionError, StoreError, VideoError
from longtake.identity import Downloaded, of_download, of_file, stamp_of
from longtake.places import is_address
from longtake.sealed import Sealed, sealed_size, write_sealed
from longtake.shelf import Shelf
from longtake.stored import Settings, Stored, Thumbnail, VideoIdentity, about_of
from longtake.units import bytes_of

if TYPE_CHECKING:  # they bring torch
    from longtake.parts.cache import GrowingCache
    from longtake.system import System
    from longtake.types import Memory

BUDGET = 10 << 30
"""Bytes of all memories together unless the caller says otherwise."""
LONGEST_NAME = 120
DEFAULT = Settings()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something in a library that is not as it should be."""

    name: str
    """Of the memory, or of its file if the index does not know it."""
    what: str
    """What was found, and what to do: one line."""


class Library:
    """A folder of memories. It is made when something is first saved."""

    def __init__(self, folder: str | Path | None = None, budget: int | None = None) -> None:
        """`folder`: LONGTAKE_LIBRARY if not given, else in the user's cache folder. `budget`: bytes
        of all memories together, LONGTAKE_LIBRARY_BUDGET if not given, else 10 GiB; those asked
        longest ago go first. Raises OptionError.
        """
        given = os.environ.get("LONGTAKE_LIBRARY_BUDGET")
        if budget is None:
            budget = bytes_of(given, "LONGTAKE_LIBRARY_BUDGET") if given else BUDGET
        if budget < 1:
            raise OptionError(f"a library's budget must be at least one byte, got {budget}")
        self.folder = default_folder() if folder is None else Path(folder).expanduser()
        self.budget = budget
        self._catalogue = Catalogue(self.folder)
        self._shelf = Shelf(self.folder, budget, self._catalogue.forget)

    # -- what is there ----------------------------------------------------------------------------

    def list(self) -> a_list[Stored]:
        """All memories that can be read, the last used first. Raises StoreError."""
        return sorted(self._catalogue.all(), key=lambda one: one.last_used, reverse=True)

    def named(self, name: str) -> Stored | None:
        """The memory of this name, if there is one. Raises StoreError."""
        return self._catalogue.first("name = ?", name)

    def keys(self) -> a_list[str]:
        """Of all memories, also those whose files are gone or cannot be read. Raises StoreError."""
        return [*(self._catalogue.names() | files_in(self.folder))]

    def may_know(self, video: str | Path) -> bool:
        """Whether there is a memory of a file of just this size; instant. False for an address."""
        if not is_file(video):
            return False
        return self._catalogue.first("size = ?", Path(video).stat().st_size) is not None

    def find(
        self,
        video: str | Path | Downloaded,
        system: System | None = None,
        settings: Settings = DEFAULT,
    ) -> Stored | None:
        """The memory of a video that this system would make with these settings, or one by name.

        `video`: a file, an opened video that was downloaded, or a name, for which no system is
        needed. A file is recognised by its bytes, wherever it lies; they are read only if there is
        a memory of as many bytes. Raises VideoError if it cannot be read, StoreError.
        """
        if isinstance(video, str | Path):
            if not is_file(video):
                return self.named(str(video))
            if not self.may_know(video):
                return None
        if system is None:
            raise OptionError("a video's memory depends on the model; give the system, or a name")
        from longtake.keys import key_of

        return self._catalogue.first(
            "key = ?", key_of(self.identify(video).digest, system, settings)
        )

    def identify(self, video: str | Path | Downloaded) -> VideoIdentity:
        """Which video it is; a file is read in full unless it was before and did not change.

        Raises VideoError if it cannot be read.
        """
        if not isinstance(video, str | Path):
            return of_download(video)
        if is_address(str(video)):
            raise VideoError(f"{video} has to be downloaded first; open it and give the video")
        path, stamp = Path(video), stamp_of(Path(video))
        digest = None if stamp is None else self._catalogue.digest_of(stamp)
        identity = of_file(path, digest)
        if digest is None and stamp is not None and stamp == stamp_of(path):
            self._catalogue.remember(stamp, identity.digest)
        return identity

    def fits(self, stored: Stored, system: System) -> bool:
        """Whether this system would make the same memory of the same video today."""
        from longtake.keys import key_of

        auto: Any = "auto"  # a key was once made of the word
        asked = (stored.settings, replace(stored.settings, max_frames=auto))
        return any(key_of(stored.video.digest, system, one) == stored.key for one in asked)

    # -- saving and opening -----------------------------------------------------------------------

    def save(
        self,
        memory: Memory,
        *,
        system: System,
        source: str | Path | Downloaded,
        settings: Settings = DEFAULT,
        name: str | None = None,
        thumbnails: Sequence[Thumbnail] = (),
    ) -> Stored:
        """Keep a memory that `system` made of `source` with `settings`; returns when it is safe.

        If the same memory is there already, that one stays. Those asked longest ago give way if the
        budget asks for it. Raises StoreError, OptionError for a name that cannot be or where the
        same memory has another, VideoError, and PromptError while the memory answers a question.
        """
        from longtake.keys import describe
        from longtake.store import resting

        if name is not None:
            self.check_name(name)
        video = self.identify(source)
        stored = describe(memory, system, settings, video, name or name_of(video))
        stored = replace(stored, thumbnails=tuple(thumbnails))
        if (there := self._readable(stored.key)) is not None:
            check_called(there, name)
            return there
        with resting(memory) as cache:
            while not self._write(stored, memory, cache):
                pass  # another process has just saved one of that name
        with self._shelf.told():
            self._shelf.make_room(0, keep=stored.key)
        kept = self._catalogue.first("key = ?", stored.key)
        if kept is None:  # somebody has removed it already
            raise StoreError(f"{stored.name} was removed as soon as it was saved; watch again")
        return kept

    def prepare(self) -> None:
        """Make the folder, before hours of watching. Raises StoreError if nothing can be saved."""
        with self._shelf.told():
            self._shelf.prepare()

    def check_name(self, name: str) -> None:
        """Raise OptionError if no memory can be called so, or another one is."""
        if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
            raise OptionError(f"a name has 1 to {LONGEST_NAME} plain characters, got {name!r}")
        if set(name) & {"/", "\\"}:
            raise OptionError(f"a name is no path, got {name!r}; leave slashes out")
        if self.named(name) is not None:
            raise OptionError(f"there is a memory {name!r} already; remove it, or choose another")

    def _write(self, stored: Stored, memory: Memory, cache: GrowingCache) -> bool:
        """Save under a name that is free now; false if it no longer is when that is done."""
        from longtake.store import contents

        stored = replace(stored, name=self._catalogue.free_name(stored.name, stored.key))
        header, parts = contents(memory, cache)
        header["about"] = about_of(stored)
        return self._shelf.put(
            stored.key,
            sealed_size(header, parts),
            lambda descriptor: write_sealed(descriptor, header, parts),
            lambda: self._catalogue.adding(stored),
        )

    def _readable(self, key: str) -> Stored | None:
        """A memory that is there, if its header is whole. Raises NewerError: that one stays."""
        try:
            Sealed(file_of(self.folder, key)).close()
        except NewerError:
            raise
        except StoreError:
            return None
        return self._catalogue.first("key = ?", key)

    @contextmanager
    def open(self, stored: Stored, device: str = "auto") -> Iterator[Memory]:
        """A memory, which no process can remove before the `with` statement ends.

        Raises StoreError if it is gone, damaged or of another format.
        """
        from longtake.store import load_memory

        path = file_of(self.folder, stored.key)
        with self._shelf.in_use(path):
            yield load_memory(path, device)

    # -- removing and checking --------------------------------------------------------------------

    def remove(self, name: str) -> None:
        """Remove a memory by its name or key. Raises StoreError if there is none, or it is used."""
        found = self._catalogue.keys_of(name)
        if not found and name in files_in(self.folder):
            found = [name]  # a file that cannot be read has no name
        if not found:
            raise StoreError(f"the library {self.folder} has no memory {name!r}; see longtake ls")
        for key in found:
            with self._shelf.told():
                if not self._shelf.remove(file_of(self.folder, key)):
                    raise StoreError(f"{name} is being asked by another process; try again later")

    def verify(self, progress: Callable[[int, int], None] | None = None) -> a_list[Fault]:
        """Read every file in full; what is wrong, if anything is. Changes nothing.

        `progress`: called with the files checked and their number. Raises StoreError.
        """
        names, files = self._catalogue.names(), files_in(self.folder)
        faults = []
        for done, (key, path) in enumerate(files.items(), 1):
            try:
                sealed = Sealed(path)
                sealed.check(sealed.names)
                if told_by(sealed.header, path).key != key:
                    raise StoreError(f"{path} is called otherwise than its header says; remove it")
            except StoreError as error:
                if path.exists():  # and was not evicted meanwhile
                    faults.append(Fault(name=names.get(key, key), what=str(error)))
            if progress is not None:
                progress(done, len(files))
        for key, name in names.items():
            if key not in files and not file_of(self.folder, key).exists():
                what = f"{file_of(self.folder, key)} is gone; remove {name}, and watch again"
                faults.append(Fault(name=name, what=what))
        return faults


def check_called(stored: Stored, name: str | None) -> None:
    """Raise OptionError if a memory is to have a name and has another, which its file holds."""
    if name is not None and name != stored.name:
        told = f"this is remembered already, as {stored.name!r}; ask it so"
        raise OptionError(f"{told}, or remove it and watch again to call it {name!r}")


def is_file(video: str | Path) -> bool:
    """Whether it is a file that is there, and no address."""
    try:
        return not is_address(str(video)) and Path(video).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def name_of(video: VideoIdentity) -> str:
    """What to call a memory of a video: its file's name without its ending, made printable."""
    stem = Path(video.name).stem or video.name
    plain = "".join(one if one.isprintable() and one not in "/\\" else "_" for one in stem)
    return plain.strip()[:LONGEST_NAME] or "video"


def default_folder() -> Path:
    """Where memories are kept if nothing else is said."""
    if given := os.environ.get("LONGTAKE_LIBRARY"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "longtake" / "memories"
    variable, other = (
        ("LOCALAPPDATA", Path.home() / "AppData" / "Local")
        if sys.platform == "win32"
        else ("XDG_CACHE_HOME", Path.home() / ".cache")
    )
    return Path(os.environ.get(variable) or other) / "longtake" / "memories"
