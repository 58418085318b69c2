"""Where the videos of a benchmark lie, and folders of frames as videos."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath

import av
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from longtake.errors import AnnotationError, VideoError

ENDINGS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov", ".MOV", ".m4v", ".flv", ".ts")
PICTURES = (".jpg", ".jpeg", ".png")
PIXELS = {"mjpeg": "yuvj420p", "png": "rgb24"}
"""What the stream's header says of pictures, which bring their own."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """A folder of videos."""

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise AnnotationError(f"{self.folder} is no folder; give the folder of the videos")

    def find(self, name: str, places: Sequence[str] = ()) -> Path | None:
        """The file (or folder of frames) of a video; None if it is not there.

        Looked for under its own name, then in `places`, then below, where it must be the only one;
        the ending may be another one. Where there are `places`, what is found below must lie in one
        of them: clips of another place may share the name. What leads out of the folder is not
        followed.
        """
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "."]
        if not parts or ".." in parts or PurePosixPath(name).is_absolute():
            return None
        relative = PurePosixPath(*parts)
        for place in ("", *places):
            found = self._with_ending(self.folder / place / relative)
            if found is not None:
                return found
        return self._below(relative, places)

    def _with_ending(self, path: Path) -> Path | None:
        if path.is_file() or (path.is_dir() and holds_pictures(path)):
            return path
        stem = path.with_suffix("") if path.suffix in ENDINGS else path
        for ending in ENDINGS:
            other = stem.with_name(stem.name + ending)
            if other.is_file():
                return other
        return None

    def _below(self, relative: PurePosixPath, places: Sequence[str]) -> Path | None:
        stem = relative.stem if relative.suffix in ENDINGS else relative.name
        files: Sequence[Path] = self._files.get(stem, ())
        if places:
            homes = [PurePosixPath(place, relative).parent.parts for place in places]
            files = [file for file in files if any(lies_in(file, home) for home in homes)]
        return files[0] if len(files) == 1 else None

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """Videos of all folders below, by name without ending."""
        found: dict[str, list[Path]] = {}
        for folder, _, names in os.walk(self.folder):
            for name in sorted(names):
                file = Path(folder, name)
                if file.suffix in ENDINGS:
                    found.setdefault(file.stem, []).append(file)
        return found


def lies_in(file: Path, folders: Sequence[str]) -> bool:
    """Whether the file's folder ends in these."""
    return file.parent.parts[-len(folders) :] == tuple(folders)


def holds_pictures(folder: Path) -> bool:
    """Whether a folder holds frames."""
    return any(name.suffix.lower() in PICTURES for name in folder.iterdir())


def frames_as_video(folder: Path, per_second: int, target: Path) -> Path:
    """Write a folder of frames as a video; nothing is encoded anew.

    They are in the order of the numbers their names end in, as VideoChat-Flash reads them. Raises
    VideoError if they are of several kinds or cannot be read.
    """
    found = (file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    pictures = sorted(found, key=numbered)
    kinds = {"png" if file.suffix.lower() == ".png" else "mjpeg" for file in pictures}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        raise VideoError(f"{folder} holds pictures of several kinds; expected .jpg or .png")
    try:
        with av.open(str(pictures[0])) as first:
            shape = first.streams.video[0]
            width, height = shape.width, shape.height
        with av.open(str(target), "w", format="mov") as container:
            stream = container.add_stream(kind, rate=per_second)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, PIXELS[kind]
            for number, file in enumerate(pictures):
                packet = Packet(file.read_bytes())
                packet.stream, packet.is_keyframe = stream, True
                packet.pts = packet.dts = number
                packet.duration, packet.time_base = 1, Fraction(1, per_second)
                container.mux(packet)
    except (FFmpegError, OSError) as error:
        raise VideoError(f"{folder}: frames cannot be read ({error})") from error
    return target


def numbered(picture: Path) -> tuple[int, str]:
    """The number a name ends in, then the name: frame_10 comes after frame_2."""
    number = re.search(r"[0-9]+$", picture.stem)
    return (int(number[0]) if number else 0), picture.name
