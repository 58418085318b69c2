"""Does a file hold as many bytes as it says? Read from the sizes that containers store.

MP4 is a chain of sized boxes (ISO 14496-12 section 4.2), Matroska one sized segment (RFC 9559),
AVI a chain of sized chunks, a transport stream packets of equal size. Where no size is stored,
as in a live recording, nothing is claimed.
"""

from __future__ import annotations

import os
import struct
from typing import Protocol

_MP4_BOXES = {b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"sidx"}
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_TS_PACKETS = (188, 192, 204)  # plain, with arrival times (Blu-ray), with error correction


class Bytes(Protocol):
    """A file that can be read anywhere."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int = ..., /) -> int: ...


def is_cut(file: Bytes, *, transport: bool) -> bool:
    """Return whether the file ends before its own sizes say; `transport` for transport streams."""
    end = file.seek(0, os.SEEK_END)
    head = _at(file, 0, 12)
    if transport:
        return all(end % size for size in _TS_PACKETS)
    if head[4:8] in _MP4_BOXES:
        return _last_box(file, end) > end
    if head[:4] == _EBML:
        return _segment(file) > end
    if head[:4] == b"RIFF":
        return _last_riff(file, end) > end
    return False


def _last_box(file: Bytes, end: int) -> int:
    """Where the last box that begins inside an MP4 file ends."""
    place = 0
    while place + 8 <= end:
        head = _at(file, place, 16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        # Size 0 means up to the end; something unknown after the boxes is not ours to judge.
        if size < 8 or (kind not in _MP4_BOXES and place + size > end):
            return end
        place += size
    return place


def _segment(file: Bytes) -> int:
    """Where the segment of a Matroska file ends, 0 if that is not stored."""
    header_size, length = _ebml_size(_at(file, 4, 8))
    place = 4 + length + header_size
    if _at(file, place, 4) != _SEGMENT:
        return 0
    size, length = _ebml_size(_at(file, place + 4, 8))
    unknown = (1 << 7 * length) - 1
    return 0 if size == unknown else place + 4 + length + size


def _ebml_size(data: bytes) -> tuple[int, int]:
    """Decode a variable-length size: the value and the bytes it took (RFC 8794 section 4)."""
    length = 9 - (data[0].bit_length() if data else 0)
    value = int.from_bytes(data[:length], "big") & (1 << 7 * length) - 1
    return value, length


def _last_riff(file: Bytes, end: int) -> int:
    """Where the last RIFF chunk of an AVI file ends; large files have several."""
    place = 0
    while place + 12 <= end:
        head = _at(file, place, 8)
        if head[:4] != b"RIFF":
            return end
        size = struct.unpack("<I", head[4:])[0]
        if size == 0:  # never filled in
            return end
        place += 8 + size + size % 2
    return place


def _at(file: Bytes, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)
