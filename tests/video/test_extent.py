"""Sizes that containers store, told from hand-made bytes."""

from __future__ import annotations

import io
import struct

import pytest

from longtake.video.extent import is_cut


def box(kind: bytes, size: int, stated: int | None = None, *, wide: bool = False) -> bytes:
    stated = size if stated is None else stated
    if wide:
        return struct.pack(">I4sQ", 1, kind, stated) + bytes(size - 16)
    return struct.pack(">I4s", stated, kind) + bytes(size - 8)


def matroska(size: bytes, held: int) -> bytes:
    return b"\x1aE\xdf\xa3\x85" + bytes(5) + b"\x18S\x80g" + size + bytes(held)


def riff(stated: int, held: int) -> bytes:
    return struct.pack("<4sI", b"RIFF", stated) + b"AVI " + bytes(held - 4)


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        (box(b"ftyp", 24) + box(b"moov", 100) + box(b"mdat", 400), False),
        (box(b"ftyp", 24) + box(b"moov", 100) + box(b"mdat", 400, 401), True),
        (box(b"ftyp", 24) + box(b"mdat", 400, wide=True), False),
        (box(b"ftyp", 24) + box(b"mdat", 400, 5_000_000_000, wide=True), True),
        (box(b"ftyp", 24) + box(b"mdat", 400, 0), False),  # up to the end
        (box(b"ftyp", 24) + box(b"moof", 90) + box(b"mdat", 50, 60), True),
        (box(b"ftyp", 24) + box(b"uuid", 90) + box(b"mdat", 50), False),
        (box(b"ftyp", 24) + box(b"mdat", 50) + b"trailing rubbish", False),
        (box(b"ftyp", 24) + box(b"mdat", 50) + b"\0\0\1", False),
        (matroska(b"\x90", 16), False),
        (matroska(b"\x90", 15), True),
        (matroska(b"\x40\x10", 16), False),
        (matroska(b"\x40\x10", 3), True),
        (matroska(b"\x01" + b"\xff" * 7, 3), False),  # unknown: a live recording
        (matroska(b"\xff", 3), False),
        (b"\x1aE\xdf\xa3\x85" + bytes(3), False),
        (riff(96, 96), False),
        (riff(97, 97) + b"\0", False),  # padded to even
        (riff(96, 60), True),
        (riff(96, 96) + riff(80, 70), True),
        (riff(0, 96), False),  # never filled in
        (b"G" + bytes(400), False),
        (b"", False),
    ],
)
def test_files_shorter_than_they_say(data: bytes, cut: bool) -> None:
    assert is_cut(io.BytesIO(data), transport=False) is cut


@pytest.mark.parametrize(
    ("size", "cut"), [(188, False), (1880, False), (1881, True), (1920, False)]
)
def test_transport_streams_end_with_a_whole_packet(size: int, cut: bool) -> None:
    assert is_cut(io.BytesIO(bytes(size)), transport=True) is cut
