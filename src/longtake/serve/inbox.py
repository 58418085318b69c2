"""Bytes from outside become files: bounded, digested on the way, whole or not there."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from longtake.errors import OptionError
from longtake.locks import BINARY, claim
from longtake.serve.faults import Refusal
from longtake.serve.limits import Limits

SPARE_BYTES = 256 << 20
"""Left free on the disk."""
LOCK = ".lock"
DIGEST = re.compile(r"[0-9a-f]{64}")
INCOMING = re.compile(r"\.incoming-[a-z0-9_]{8}")
LONGEST_NAME, LONGEST_NAME_BYTES = 120, 200
"""File systems take 255 bytes."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A file that came in whole."""

    path: Path
    name: str
    """As the client calls it, made harmless."""
    digest: str
    """SHA-256 of its bytes."""
    mark: tuple[int, ...] | None = None
    """What it was when that was computed, if it may change."""


class Inbox:
    """The folder of kept files: one server's at a time; other files in it are left alone."""

    def __init__(self, folder: Path, limits: Limits, count: Callable[[int], None]) -> None:
        """`count` is told of bytes received. Raises OptionError if the folder cannot be used."""
        self.folder = folder.resolve()
        self._limits = limits
        self._count = count
        self._busy = 0
        self._held = 0
        """Bytes of JSON bodies in memory."""
        self._arriving = 0
        """Bytes written of files under way."""
        self._arrived = 0
        """Bytes of all files that were ever kept."""
        self._lock: int | None = locked(self.folder)
        for left in self.folder.iterdir():  # of a server that was killed
            if INCOMING.fullmatch(left.name):
                left.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another server have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def stored(self) -> int:
        """Bytes of all kept files."""
        return sum(map(size_of, self.folder.glob(f"{'[0-9a-f]' * 64}/*")))

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Count as one of the files under way. Raises Refusal if there are too many."""
        if self._busy >= self._limits.transfers:
            told = f"{self._busy} files are under way already; come back a little later"
            raise Refusal(429, "transfers_full", told, retry_after=5)
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """A JSON request's bytes; they count as held until this is left. Raises Refusal."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        if kind.lower() != "application/json":
            raise Refusal(415, "wrong_type", "send application/json")
        parts, count = [], 0
        try:
            async for block in blocks(request, self._limits, self._limits.body_bytes):
                count += len(block)
                self._held += len(block)
                if self._held > self._limits.held_bytes:
                    told = "too many large bodies are under way; come back a little later"
                    raise Refusal(429, "bodies_full", told, retry_after=5)
                parts.append(block)
            whole = b"".join(parts)
            parts.clear()
            yield whole
        finally:
            self._held -= count

    @contextmanager
    def arriving(self) -> Iterator[Arrival]:
        """A file to write to; unless it is kept, nothing of it stays. Raises Refusal."""
        with disk():
            room = self._room()
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".incoming-")
        arrival = Arrival(Path(name), descriptor, self._limits.upload_bytes, room)
        try:
            yield arrival
            if arrival.wanted is not None:
                with disk():
                    arrival.wanted.parent.mkdir(exist_ok=True)
                    arrival.path.replace(arrival.wanted)
                self._arrived += arrival.size
        finally:
            os.close(descriptor)
            self._count(arrival.size)
            self._arriving -= arrival.size
            arrival.path.unlink(missing_ok=True)

    def keep(self, arrival: Arrival, name: str, pin: Callable[[str], None]) -> Kept:
        """Put a file into a folder called by its content. Raises Refusal for one without bytes.

        `pin`: called with the digest first; from then on nobody removes such a file.
        """
        if not arrival.size:
            raise Refusal(400, "empty_file", "the file is empty (0 bytes); send a video or picture")
        digest, shown = arrival.digest.hexdigest(), harmless_name(name)
        pin(digest)
        there = self.find(digest)
        arrival.wanted = None if there else self.folder / digest / shown
        return Kept(path=there or self.folder / digest / shown, name=shown, digest=digest)

    def find(self, digest: str) -> Path | None:
        """A file with these bytes, if there is one."""
        return next(iter((self.folder / digest).glob("*")), None)

    def has(self, path: Path) -> bool:
        """Whether a file is one of these."""
        folder = path.parent
        return folder.parent == self.folder and DIGEST.fullmatch(folder.name) is not None

    def remove(self, digest: str) -> None:
        """Remove the file with these bytes."""
        if DIGEST.fullmatch(digest):
            shutil.rmtree(self.folder / digest, ignore_errors=True)

    def digests(self) -> list[str]:
        """What there are files of."""
        return [path.name for path in self.folder.iterdir() if DIGEST.fullmatch(path.name)]

    def _room(self) -> Callable[[int], bool]:
        """What counts bytes that are about to be written; whether there is room for them.

        All files under way count together, and those that were kept meanwhile.
        """
        free = shutil.disk_usage(self.folder).free - SPARE_BYTES + self._arriving
        most = min(self._limits.stored_bytes - self.stored, free) + self._arrived

        def fits(count: int) -> bool:
            self._arriving += count
            return self._arrived + self._arriving <= most

        return fits


class Arrival:
    """A file while its bytes come in."""

    def __init__(self, path: Path, descriptor: int, most: int, fits: Callable[[int], bool]) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.size = 0
        self.wanted: Path | None = None
        self._descriptor = descriptor
        self._most = most
        self._fits = fits

    def write(self, block: bytes) -> None:
        """Add bytes. Raises Refusal when there are too many."""
        self.size += len(block)
        fits = self._fits(len(block))
        if self.size > self._most:
            raise media_too_large(self._most)
        if not fits:
            raise Refusal(507, "storage_full", "the server's storage is full; delete videos first")
        self.digest.update(block)
        with disk():
            written = 0
            while written < len(block):
                written += os.write(self._descriptor, memoryview(block)[written:])


@contextmanager
def disk() -> Iterator[None]:
    """Turn what a disk can do wrong into a Refusal."""
    try:
        yield
    except OSError as error:
        told = f"the server cannot keep the file ({error.strerror or 'disk error'}); try again"
        raise Refusal(507, "storage_full", told) from error


def locked(folder: Path) -> int:
    """A descriptor that keeps other servers from a folder, which is made if need be.

    Raises OptionError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | BINARY, 0o600)
    except OSError as error:
        why = error.strerror or error
        raise OptionError(f"{folder} cannot hold files ({why}); choose another --data") from error
    if not claim(descriptor):
        os.close(descriptor)
        raise OptionError(f"{folder} is another running server's; choose another --data")
    return descriptor


def size_of(path: Path) -> int:
    """Bytes of a file; none of one that went."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def harmless_name(name: str) -> str:
    """The last part of a file name, printable, of at most 120 characters and 200 bytes."""
    last = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(letter for letter in last if letter.isprintable()).strip(". ")
    stem, dot, suffix = plain.rpartition(".")
    if not dot or len(suffix) >= 8:
        stem, end = plain, ""
    else:
        end = dot + suffix
    most = LONGEST_NAME_BYTES - len(end.encode())
    stem = stem[: LONGEST_NAME - len(end)].encode()[:most].decode(errors="ignore")
    return stem + end or "video"


async def blocks(request: Request, limits: Limits, most: int) -> AsyncIterator[bytes]:
    """A request's body, piece by piece. Raises Refusal if it is too large or stops coming."""
    said = request.headers.get("content-length", "0")
    count = 0
    if said.isdecimal() and int(said) > most:
        raise too_large(most)
    stream, clock = request.stream(), asyncio.get_running_loop().time
    ends = clock() + limits.transfer_seconds
    while True:
        try:
            left = max(0.0, ends - clock())
            block = await asyncio.wait_for(anext(stream, None), min(limits.body_seconds, left))
        except TimeoutError as error:
            told = f"nothing came for {limits.body_seconds:.0f} s"
            if clock() >= ends:
                told = f"the body did not come within {limits.transfer_seconds:.0f} s"
            raise Refusal(408, "body_slow", told) from error
        except ClientDisconnect as error:
            raise Refusal(400, "body_incomplete", "the body breaks off") from error
        if block is None:
            return
        count += len(block)
        if count > most:
            raise too_large(most)
        yield block


def too_large(most: int) -> Refusal:
    """What a body that is too large is told."""
    return Refusal(413, "body_too_large", f"the body has more than {most} bytes")


def media_too_large(most: int) -> Refusal:
    """What a file that is too large is told."""
    return Refusal(
        413, "media_too_large", f"the file has more than {most} bytes; send a smaller one"
    )
