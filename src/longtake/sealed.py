"""Sealed files: safetensors with a JSON header and a checksum of every part, whole or not there.

The last tensor, "checksums" (int64), holds the CRC-32 of the file's header and of each tensor
before it, in the order in which they lie. It is written last, so a file is written in one pass, and
what is read can be checked part by part: nothing has to be read that is not used. Any flipped byte
changes some checksum. Nothing here needs torch; `longtake.store` makes tensors of the parts.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.errors import DamagedError, NewerError, StoreError
from longtake.locks import BINARY

FORMAT = 5
"""Raised when what is written changes; other numbers are refused."""
SUMS = "checksums"
MOST_HEADER = 100_000_000
"""Bytes of a header, as safetensors has it."""
BLOCK = 1 << 20
"""Bytes read at a time."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One tensor to be written."""

    dtype: str
    """In safetensors' words, such as "F32"."""
    shape: tuple[int, ...]
    size: int
    """Bytes."""
    width: int
    """Bytes of a number."""
    read: Callable[[], Iterator[memoryview]]
    """Its bytes, some at a time."""


def sealed_size(header: Mapping[str, Any], parts: Mapping[str, Part]) -> int:
    """Bytes that a file takes."""
    return len(head_of(header, in_order(parts))) + sum(part.size for part in parts.values())


def write_sealed(descriptor: int, header: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """Write a whole file and wait until it is on the disk. Raises OSError."""
    ordered = in_order(parts)
    sums = [pour(descriptor, [memoryview(head := head_of(header, ordered))])]
    assert len(head) % 8 == 0
    for _, part in ordered:
        sums.append(pour(descriptor, part.read()))
    pour(descriptor, [memoryview(struct.pack(f"<{len(sums)}q", *sums))])
    os.fsync(descriptor)


def pour(descriptor: int, blocks: Iterable[memoryview]) -> int:
    """Write blocks; returns their checksum."""
    total = 0
    for block in blocks:
        total = zlib.crc32(block, total)
        while len(block):
            block = block[os.write(descriptor, block) :]
    return total


def in_order(parts: Mapping[str, Part]) -> list[tuple[str, Part]]:
    """Wide numbers first, so that each lies at a multiple of its width."""
    return sorted(parts.items(), key=lambda item: (-item[1].width, item[0]))


def head_of(header: Mapping[str, Any], ordered: Sequence[tuple[str, Part]]) -> bytes:
    """The bytes before the first tensor."""
    end, table = 0, {}
    sums = Part(
        dtype="I64",
        shape=(len(ordered) + 1,),
        size=8 * (len(ordered) + 1),
        width=8,
        read=lambda: iter(()),
    )
    for name, part in [*ordered, (SUMS, sums)]:
        offsets = [end, end := end + part.size]
        table[name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": offsets}
    said = {"longtake": json.dumps({"format": FORMAT, **header})}
    text = json.dumps({"__metadata__": said, **table}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


class Sealed:
    """A sealed file, open for reading; nothing of its tensors is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError if it cannot be read: DamagedError if it is none, broken, or its header
        damaged, NewerError if it is of a later format.
        """
        self.path = path
        self._turn = threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_RDONLY | BINARY)
        except FileNotFoundError as error:
            raise StoreError(f"{path} does not exist; watch the video and save it first") from error
        except OSError as error:
            raise self._unread(error) from error
        self.close = weakref.finalize(self, os.close, self._descriptor)
        """Gives the file back; so does letting go of this object."""
        try:
            self.header = self._read_header()
        except OSError as error:
            self.close()
            if isinstance(error, StoreError):
                raise
            raise self._unread(error) from error

    def _unread(self, error: OSError) -> StoreError:
        why = error.strerror or error
        return StoreError(f"{self.path} cannot be read ({why}); it may be whole, so try again")

    def _broken(self, why: str) -> DamagedError:
        return DamagedError(f"{self.path} is no whole memory ({why}); watch the video again")

    def _read_header(self) -> dict[str, Any]:
        size = os.fstat(self._descriptor).st_size
        start = self._bytes(0, min(8, size))
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(MOST_HEADER, size - 8):
            raise self._broken("it ends within its header")
        text = self._bytes(8, 8 + length)
        try:
            table = json.loads(text)
            header = json.loads(table.get("__metadata__", {}).get("longtake", "null"))
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise self._broken("its header is no JSON of a safetensors file") from error
        if not isinstance(header, dict):
            raise DamagedError(f"{self.path} has no header of a memory; watch the video again")
        if (found := header.get("format")) != FORMAT:
            what = f"{self.path} has format {found}, this longtake reads format {FORMAT}"
            if isinstance(found, int) and found > FORMAT:
                raise NewerError(f"{what}; read it with a newer longtake, or remove it")
            raise StoreError(f"{what}; watch the video again")
        self._spans = self._spans_of(table, 8 + length, size)
        self._sums = self._sums_of(start + text)
        return header

    def _spans_of(self, table: Mapping[str, Any], begin: int, size: int) -> dict[str, range]:
        """Where each tensor lies in the file, in order."""
        spans: dict[str, range] = {}
        for name, entry in table.items():
            if name == "__metadata__":
                continue
            offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
            if not isinstance(offsets, list) or [type(n) for n in offsets] != [int, int]:
                raise self._broken(f"its header does not say where {name} lies")
            spans[name] = range(begin + offsets[0], begin + offsets[1])
        spans = dict(sorted(spans.items(), key=lambda item: (item[1].start, item[1].stop)))
        end = begin
        for name, span in spans.items():
            if span.start != end or span.stop < span.start:
                raise self._broken(f"{name} does not lie where it should")
            end = span.stop
        if end != size:
            raise self._broken(f"it has {size} bytes, {end} were to be there")
        return spans

    def _sums_of(self, head: bytes) -> dict[str, int]:
        """The checksum of each tensor. Raises DamagedError if that of the header is another."""
        where, names = self._spans.get(SUMS), [name for name in self._spans if name != SUMS]
        if where is None or len(where) != 8 * (len(names) + 1):
            raise self._broken("it has no checksums")
        of_head, *sums = struct.unpack(f"<{len(names) + 1}q", self._bytes(where.start, where.stop))
        if of_head != zlib.crc32(head):
            raise self._damaged("header")
        return dict(zip(names, sums, strict=True))

    def _damaged(self, name: str) -> DamagedError:
        return DamagedError(
            f"{self.path} is damaged (the checksum of its {name} is another); remove it "
            "(`longtake rm` takes its name), and watch the video again"
        )

    @property
    def names(self) -> list[str]:
        """Its tensors, in the order in which they lie."""
        return list(self._sums)

    def where(self, name: str) -> range:
        """Where a tensor's bytes lie in the file."""
        return self._spans[name]

    def check(self, names: Iterable[str]) -> None:
        """Read tensors' bytes and compare their checksums.

        Raises DamagedError if one is another, StoreError if they cannot be read.
        """
        for name in names:
            span, total = self.where(name), 0
            for start in range(span.start, span.stop, BLOCK):
                total = zlib.crc32(self._bytes(start, min(start + BLOCK, span.stop)), total)
            if total != self._sums[name]:
                raise self._damaged(name)

    def _bytes(self, start: int, stop: int) -> bytes:
        """Some of the file. Raises StoreError if they cannot be read."""
        found = b""
        try:
            with self._turn:
                os.lseek(self._descriptor, start, os.SEEK_SET)
                while len(found) < stop - start:
                    if not (more := os.read(self._descriptor, stop - start - len(found))):
                        raise self._broken("it has become shorter")
                    found += more
        except StoreError:
            raise
        except OSError as error:
            raise self._unread(error) from error
        return found
