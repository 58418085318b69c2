"""Subtitles of Video-MME (.srt) and LongVideoBench (.json), which of them are shown, and where."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longtake.errors import AnnotationError
from longtake.evaluate.annotations import Row, parsed

if TYPE_CHECKING:
    from longtake.captions import Caption

TAGGED = re.compile(r'<font color="white" size=".72c">(.*?)</font>')
"""How the words stand in the published files."""
TAG = re.compile(r"<[^>]*>")
TIMES = re.compile(r"(\d+:\d+:\d+[,.]?\d*)\s*-->\s*(\d+:\d+:\d+[,.]?\d*)")
TIME = re.compile(r"\d+:\d+:\d+([,.]\d*)?", re.ASCII)
SHORTEST = 1.0
"""Seconds; a shorter subtitle of LongVideoBench counts as shown so long, around its middle."""


@dataclass(frozen=True, kw_only=True)
class Cue:
    """One subtitle."""

    start: float
    """Seconds in the video."""
    end: float
    text: str


def file_in(folder: Path, name: str) -> Path | None:
    """The file of subtitles of that name in a folder; None if it is not there."""
    file = folder / Path(name).name
    return file if name and file.is_file() else None


def read_cues(file: Path, duration: float = 0.0, offset: float = 0.0) -> tuple[Cue, ...]:
    """The subtitles of a file, in its order.

    `duration`: when a subtitle ends that has no end; `offset`: where the video begins in their
    time; both in seconds. Raises AnnotationError.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise AnnotationError(f"{file} cannot be read ({error.strerror})") from error
    if file.suffix == ".json":
        return _json_cues(file, text, duration, offset)
    return _srt_cues(text)


def _srt_cues(text: str) -> tuple[Cue, ...]:
    cues = []
    for block in re.split(r"\r?\n[ \t]*\r?\n", text):
        times = TIMES.search(block)
        if times is None:
            continue
        lines = block[times.end() :].strip().splitlines()
        tagged = [found for line in lines for found in TAGGED.findall(line)[:1]]
        words = tagged or [TAG.sub("", line).strip() for line in lines]
        cues.append(Cue(start=clock(times[1]), end=clock(times[2]), text=" ".join(words).strip()))
    return tuple(cue for cue in cues if cue.text)


def _json_cues(file: Path, text: str, duration: float, offset: float) -> tuple[Cue, ...]:
    entries = parsed(text, file.name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AnnotationError(f"{file.name} holds no list of subtitles; is it the right file?")
    cues = []
    for number, entry in enumerate(entries, 1):
        row = Row(values=entry, file=file.stem, where=f"{file.name}: subtitle {number}")
        if row.has("timestamp"):
            start, end, words = *spoken(row, duration), "text"
        else:
            start, end, words = time_in(row, "start"), time_in(row, "end"), "line"
        told = str(entry.get(words) or "")
        cues.append(Cue(start=start - offset, end=end - offset, text=told))
    return tuple(cues)


def spoken(row: Row, duration: float) -> tuple[float, float]:
    """Start and end of a `timestamp`; the last may have no end. Raises AnnotationError."""
    times = row.values["timestamp"]
    if not isinstance(times, list) or len(times) != 2:
        raise row.wrong("'timestamp' must hold a start and an end")
    if times[1] is None:
        times = [times[0], duration]
    part = Row(values={"timestamp": times}, file=row.file, where=row.where)
    start, end = part.numbers("timestamp", 2)
    # the original takes an end that is no fraction for none
    return start, end if isinstance(times[1], float) else duration


def time_in(row: Row, name: str) -> float:
    """Seconds of a field. Raises AnnotationError."""
    time = row.text(name)
    if not TIME.fullmatch(time.strip()):
        raise row.wrong(f"{name!r} is {time!r:.40}, expected hours:minutes:seconds")
    return clock(time)


def clock(time: str) -> float:
    """Seconds of hours:minutes:seconds, a comma or a dot before the fraction."""
    hours, minutes, seconds = time.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds or 0)


def shown_at(cues: Sequence[Cue], seconds: Sequence[float]) -> str:
    """Text of the subtitles that are on screen at any of these times, each once."""
    seen = [cue for cue in cues if any(cue.start <= time < cue.end for time in seconds)]
    return "\n".join(cue.text for cue in seen)


def all_of(cues: Sequence[Cue]) -> str:
    """Text of all."""
    return "\n".join(cue.text for cue in cues)


def shown_around(cues: Sequence[Cue], seconds: Sequence[float]) -> str:
    """Text of the subtitles that LongVideoBench's rule shows with frames of these times."""
    return "\n".join(cue.text for cue in cues if is_around(cue, seconds))


def shown_between(cues: Sequence[Cue], seconds: Sequence[float]) -> tuple[Caption, ...]:
    """The same where the original has them: each behind the frames up to its middle.

    They stay in the file's order: none stands before one, shown or not, that the file has earlier.
    """
    from longtake.captions import Caption  # brings torch, which mistakes are told before

    captions, latest = [], -math.inf
    for cue in cues:
        latest = max(latest, (cue.start + cue.end) / 2)
        if is_around(cue, seconds):
            captions.append(Caption(seconds=latest, text=cue.text))
    return tuple(captions)


def is_around(cue: Cue, seconds: Sequence[float]) -> bool:
    """Whether LongVideoBench's rule shows a subtitle with frames of these times."""
    start, end = cue.start, cue.end
    if end - start < SHORTEST:
        middle = (start + end) / 2
        start, end = middle - SHORTEST / 2, middle + SHORTEST / 2
    return any(start < time < end for time in seconds)


def even_times(duration: float, frames: int) -> list[float]:
    """Times LongVideoBench's rule gives to frames: each second, or `frames` over the duration."""
    if duration > frames:
        return [duration / frames * place for place in range(frames)]
    return [float(second) for second in range(int(duration))]
