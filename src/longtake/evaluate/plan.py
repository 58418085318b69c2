"""Which questions are asked, and which videos are watched for them: each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from longtake.errors import AnnotationError, OptionError
from longtake.evaluate.subtitles import file_in
from longtake.evaluate.tasks import Example, Task
from longtake.evaluate.videos import Library


@dataclass(frozen=True, kw_only=True)
class Showing:
    """A video, or a part of one, and all that is asked about it."""

    video: Path
    """A file, or a folder of frames."""
    start: float | None
    end: float | None
    rate: int
    """Frames a second, where it is a folder of frames."""
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do."""

    showings: tuple[Showing, ...]
    """In the order in which the annotations first name them."""
    missing: tuple[Example, ...]
    """Questions whose video is not there; nobody is asked these."""
    silent: tuple[str, ...] = ()
    """Files of subtitles that are not there, where questions are asked with subtitles."""

    @property
    def questions(self) -> int:
        """How many will be asked."""
        return sum(len(showing.examples) for showing in self.showings)

    @property
    def missing_videos(self) -> tuple[str, ...]:
        """Names of the videos that are not there, each once, in order."""
        return tuple(dict.fromkeys(example.video for example in self.missing))


def planned(task: Task, library: Library, limit: int | None) -> Plan:
    """Questions of `task` by video; `limit`: only the first so many whose videos are there.

    A question that is asked in several orders of its options counts once. Raises AnnotationError if
    no video is there at all.
    """
    examples = [task.example(index) for index in range(len(task))]
    wanted = dict.fromkeys((one.video, one.places) for one in examples)
    found = {(video, places): library.find(video, places) for video, places in wanted}
    there, missing = [], []
    for one in examples:
        path = found[one.video, one.places]
        if path is None:
            missing.append(one)
        else:
            there.append((one, path))
    if not there:
        raise AnnotationError(
            f"{library.folder} holds none of the {len(found)} videos of {task.title}, such as "
            f"{examples[0].video}; give the folder they lie in"
        )
    units = list(dict.fromkeys(one.unit for one, _ in there))[:limit]
    kept = set(units)
    return Plan(
        showings=_showings([pair for pair in there if pair[0].unit in kept]),
        missing=tuple(missing),
    )


def with_subtitles(task: Task, plan: Plan, folder: Path) -> Plan:
    """A plan that knows which files of subtitles are not there.

    Raises OptionError for a task without subtitles, AnnotationError if not one of its files is in
    the folder.
    """
    every = (task.example(index).subtitles for index in range(len(task)))
    names = [name for name in dict.fromkeys(every) if name]
    if not names:
        raise OptionError(f"{task.title} has no subtitles; leave --subtitles out")
    if not any(file_in(folder, name) for name in names):
        raise AnnotationError(
            f"{folder} holds none of the {len(names)} files of subtitles of {task.title}, such as "
            f"{names[0]}; give the folder they lie in"
        )
    asked = [one.subtitles for showing in plan.showings for one in showing.examples]
    silent = [name for name in dict.fromkeys(asked) if not file_in(folder, name)]
    return replace(plan, silent=tuple(silent))


def _showings(asked: Sequence[tuple[Example, Path]]) -> tuple[Showing, ...]:
    groups: dict[tuple[object, ...], list[tuple[Example, Path]]] = {}
    for one, path in asked:
        # subtitles may be a part of what is watched
        said = (one.subtitles, one.duration, one.offset)
        key = (path, one.start, one.end, one.rate, *said)
        groups.setdefault(key, []).append((one, path))
    return tuple(
        Showing(
            video=path,
            start=first.start,
            end=first.end,
            rate=first.rate,
            examples=tuple(one for one, _ in members),
        )
        for members in groups.values()
        for first, path in members[:1]
    )
