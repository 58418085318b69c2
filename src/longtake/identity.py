"""Which video it is: a digest of its bytes, computed once per file as it stands.

SHA-256, since most of today's processors compute it in hardware; a file is read in full, because
two recordings of one camera may differ only in the middle.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Protocol

from longtake.errors import VideoError
from longtake.stored import VideoIdentity

BLOCK = 1 << 20
SETTLED_SECONDS = 2.0
"""A file that changed less than this ago may change again within one tick of its clock."""


class Readable(Protocol):
    """An open file's bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""

    def close(self) -> None:
        """Give it back."""


class Downloaded(Protocol):
    """An opened video that has its bytes somewhere."""

    name: str

    def raw(self) -> Readable:
        """The file's bytes from the first one."""


def stamp_of(path: Path) -> str | None:
    """A text that changes whenever the file's bytes may have; None if they may be changing now.

    Raises VideoError if there is no such file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror or error}; check the path") from error
    if time.time() - max(found.st_mtime, found.st_ctime) < SETTLED_SECONDS:
        return None
    parts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return ":".join(map(str, parts))


def of_file(path: Path, digest: str | None = None) -> VideoIdentity:
    """A file's identity; `digest` where it is known. Raises VideoError if it cannot be read."""
    place = Path(os.path.abspath(path))
    try:
        if digest is None:
            with path.open("rb") as file:
                digest, size = digest_of(file)
        else:
            size = path.stat().st_size
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror or error})") from error
    return VideoIdentity(digest=digest, size=size, name=path.name, place=str(place))


def of_download(video: Downloaded) -> VideoIdentity:
    """The identity of what came from an address, which is not kept: it may hold a secret."""
    file = video.raw()
    try:
        digest, size = digest_of(file)
    finally:
        file.close()
    return VideoIdentity(digest=digest, size=size, name=video.name, place="")


def digest_of(file: Readable) -> tuple[str, int]:
    """SHA-256 of a file from where it stands, and how many bytes that were."""
    total, size = hashlib.sha256(), 0
    while block := file.read(BLOCK):
        total.update(block)
        size += len(block)
    return total.hexdigest(), size
