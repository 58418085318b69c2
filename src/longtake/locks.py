"""Locks between processes: on an open file, gone when it is closed or its process ends.

`flock` and not `lockf`: the latter's locks vanish when any descriptor of the file is closed.
Windows has neither, but there a file that is open cannot be removed, which is what most of these
locks are for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
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
