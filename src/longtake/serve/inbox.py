"""Bytes from outside become files: bounded, digested on the way, whole or not there."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from longtake.serve.faults import Refusal
from longtake.serve.limits import Limits

SPARE_BYTES = 256 << 20
"""Left free on the disk."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A file that came in whole."""

    path: Path
    name: str
    """As the client calls it, made harmless."""
    digest: str
    """SHA-256 of its bytes."""
    size: int


class Inbox:
    """The folder of kept files."""

    def __init__(self, folder: Path, limits: Limits, count: Callable[[int], None]) -> None:
        """`count` is told of bytes received."""
        self.folder = folder.resolve()
        self._limits = limits
        self._count = count
        self._busy = 0
        self._held = 0
        """Bytes of JSON bodies in memory."""
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".incoming-*"):  # of a server that was killed
            left.unlink(missing_ok=True)

    @property
    def stored(self) -> int:
        """Bytes of all files here."""
        return sum(path.stat().st_size for path in self.folder.glob("*/*"))

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
            yield b"".join(parts)
        finally:
            self._held -= count

    @contextmanager
    def arriving(self) -> Iterator[Arrival]:
        """A file to write to; unless it is kept, nothing of it stays."""
        room = min(self._limits.stored_bytes - self.stored, self._free())
        with tempfile.NamedTemporaryFile(
            dir=self.folder, prefix=".incoming-", delete=False
        ) as file:
            arrival = Arrival(Path(file.name), file.write, self._limits.upload_bytes, room)
            try:
                yield arrival
                file.flush()
                if arrival.wanted is not None:
                    arrival.wanted.parent.mkdir(exist_ok=True)
                    arrival.path.replace(arrival.wanted)
            finally:
                self._count(arrival.size)
                arrival.path.unlink(missing_ok=True)

    def keep(self, arrival: Arrival, name: str) -> Kept:
        """Put a file into a folder called by its content. Raises Refusal for one without bytes."""
        if not arrival.size:
            raise Refusal(400, "empty_file", "the file is empty (0 bytes); send a video or picture")
        digest, shown = arrival.digest.hexdigest(), harmless_name(name)
        there = self.find(digest)
        arrival.wanted = None if there else self.folder / digest / shown
        path = there or self.folder / digest / shown
        return Kept(path=path, name=shown, digest=digest, size=arrival.size)

    def find(self, digest: str) -> Path | None:
        """A file with these bytes, if there is one."""
        return next(iter((self.folder / digest).glob("*")), None)

    def has(self, path: Path) -> bool:
        """Whether a file is one of these."""
        return path.parent.parent == self.folder

    def remove(self, digest: str) -> None:
        """Remove the file with these bytes."""
        shutil.rmtree(self.folder / digest, ignore_errors=True)

    def sweep(self, wanted: Callable[[str], bool]) -> None:
        """Remove files that are not wanted, by their digests."""
        for folder in self.folder.iterdir():
            if folder.is_dir() and not wanted(folder.name):
                self.remove(folder.name)

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free - SPARE_BYTES


class Arrival:
    """A file while its bytes come in."""

    def __init__(self, path: Path, write: Callable[[bytes], int], most: int, room: int) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.size = 0
        self.wanted: Path | None = None
        self._write = write
        self._most = most
        self._room = room

    def write(self, block: bytes) -> None:
        """Add bytes. Raises Refusal when there are too many."""
        self.size += len(block)
        if self.size > self._most:
            told = f"the file has more than {self._most} bytes; send a smaller one"
            raise Refusal(413, "media_too_large", told)
        if self.size > self._room:
            raise Refusal(507, "storage_full", "the server's storage is full; delete videos first")
        self.digest.update(block)
        self._write(block)


def harmless_name(name: str) -> str:
    """The last part of a file name, printable, of at most 120 characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(letter for letter in last if letter.isprintable()).strip(". ")
    if len(plain) > 120:
        stem, dot, suffix = plain.rpartition(".")
        plain = stem[: 119 - len(suffix)] + dot + suffix if dot and len(suffix) < 8 else plain[:120]
    return plain or "video"


async def blocks(request: Request, limits: Limits, most: int) -> AsyncIterator[bytes]:
    """A request's body, piece by piece. Raises Refusal if it is too large or stops coming."""
    said = request.headers.get("content-length", "0")
    count = 0
    if said.isdecimal() and int(said) > most:
        raise too_large(most)
    stream = request.stream()
    while True:
        try:
            block = await asyncio.wait_for(anext(stream, None), limits.body_seconds)
        except TimeoutError as error:
            told = f"nothing came for {limits.body_seconds:.0f} s"
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
