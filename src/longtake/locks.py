"""Files and other processes: locks on open files, gone when they are closed or a process ends.

`flock` and not `lockf`: the latter's locks vanish when any descriptor of the file is closed.
Windows has neither, but there a file that is open cannot be removed, which is what most of these
locks are for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
"""How files are opened beside reading and writing."""


def share(descriptor: int) -> None:
    """Lock an open file as one of its users; waits for whoever has it alone."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def claim(descriptor: int) -> bool:
    """Lock an open file for this process alone; false if another one uses it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Have a file, made if need be, for this process alone; waits for it. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o600)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def still_there(descriptor: int, path: Path) -> bool:
    """Whether an open file is what its path names: nobody has removed or replaced it."""
    try:
        found, held = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)


def being_removed(path: Path) -> bool:
    """Whether a process has a file alone just now, or has removed it. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | BINARY)
    except FileNotFoundError:
        return True
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_unused(path: Path, first: Callable[[], None]) -> bool:
    """Remove a file unless somebody uses it; true if it is gone. Raises OSError.

    `first`: called just before, while the file is ours alone. To be called while nobody may put
    another file in its place.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | BINARY)
    except FileNotFoundError:
        first()
        return True
    try:
        if not claim(descriptor):
            return False
        first()
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    return True


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk; nothing where folders cannot be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
