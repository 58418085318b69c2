"""Run a benchmark: watch each video once, ask all that is asked about it, keep every answer.

What goes wrong with one video or one question is written down beside the answers, and the run goes
on; only answers are scored.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from longtake.captions import Caption
from longtake.errors import LongtakeError, StoreError
from longtake.evaluate.header import identity_of
from longtake.evaluate.plan import Plan, Showing
from longtake.evaluate.prompts import Style
from longtake.evaluate.results import Results, Row
from longtake.evaluate.subtitles import (
    all_of,
    even_times,
    file_in,
    read_cues,
    shown_around,
    shown_at,
    shown_between,
)
from longtake.evaluate.tasks import Example, Task
from longtake.evaluate.videos import frames_as_video
from longtake.reader import Progress, Reader, quiet
from longtake.system import System
from longtake.types import Memory, Options
from longtake.video.inputs import Opened, opened_source
from longtake.video.sample import Footage, uniform

ASKED = "questions"
"""Name of the stage that counts questions, for progress."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How questions are asked."""

    system: System
    style: Style
    options: Options
    frames: int | None = None
    """Frames of each video; None: the model's own number."""
    subtitles: Path | None = None
    """Folder of the subtitles; None: questions are asked without."""

    @property
    def place(self) -> Literal["behind", "between"] | None:
        """Where subtitles stand; a system that reads none between frames has them behind."""
        if self.subtitles is None:
            return None
        return "behind" if self.system.no_captions else self.style.place


def styled(system: System, style: Style) -> System:
    """A system as a style asks it: its system prompt, begun answers, sampling."""
    template = system.template
    if style.system:
        template = replace(template, system=style.system)
    if style.begin:
        template = replace(template, assistant=template.assistant + style.begin)
    sample = every_second if style.every_second else system.sample
    return replace(system, template=template, sample=sample)


def every_second(footage: Footage, num: int) -> list[int]:
    """A frame each whole second, or `num` spread evenly if those were more (Video-XL, VNBench)."""
    seconds = int(footage.seconds)
    if not 0 < seconds <= num:
        return [
            footage.first + index for index in uniform(footage.frames, max(1, min(seconds, num)))
        ]
    indices = [int(second * footage.fps) for second in range(seconds)]
    return [footage.first + index for index in indices if index < footage.frames]


def run(
    task: Task, plan: Plan, asking: Asking, results: Results, progress: Progress = quiet
) -> None:
    """Ask all questions of the plan whose answers are not there yet.

    Raises StoreError where answers cannot be written, or were made from other files; whatever else
    goes wrong is written down.
    """
    check_sources(plan, asking, results)
    done = sum(one.key in results.done() for shown in plan.showings for one in shown.examples)
    progress(ASKED, done, plan.questions)
    for showing in plan.showings:
        left = [one for one in showing.examples if one.key not in results.done()]
        for row in answers(task, showing, left, asking, progress):
            results.add(row)
            done += 1
            progress(ASKED, done, plan.questions)


def answers(
    task: Task, showing: Showing, left: Sequence[Example], asking: Asking, progress: Progress
) -> Iterator[Row]:
    """A row for each question left about a video, an error's where there is no answer."""
    if not left:
        return
    try:
        with opened(showing) as path, opened_source(path) as video:
            memory = asking.system.watch(
                video,
                max_frames=asking.frames,
                start=showing.start,
                end=showing.end,
                captions=captions_for(showing, video, asking),
                progress=progress,
            )
    except LongtakeError as error:
        for example in left:
            yield begun(showing, example, asking) | failed(error)
        return
    for example in left:
        row = begun(showing, example, asking)
        try:
            yield row | answered(task, example, memory, asking)
        except LongtakeError as error:
            yield row | failed(error)


def captions_for(showing: Showing, video: Opened, asking: Asking) -> tuple[Caption, ...]:
    """What is read between a video's frames. Raises AnnotationError for a file that cannot be."""
    if asking.subtitles is None or asking.place != "between" or isinstance(video, Tensor):
        return ()
    example, system = showing.examples[0], asking.system
    file = file_in(asking.subtitles, example.subtitles)
    if file is None:
        return ()
    part, frames = (showing.start, showing.end), asking.frames or system.frames
    reader = Reader(eye=system, num=frames, part=part, progress=quiet)
    cues = read_cues(file, example.duration, example.offset)
    return shown_between(cues, reader.times(video))


@contextmanager
def opened(showing: Showing) -> Iterator[str]:
    """Path of the video to watch; a folder of frames is put into one file for as long."""
    if not showing.video.is_dir():
        yield str(showing.video)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "frames.mov")
        yield str(frames_as_video(showing.video, showing.rate, target))


def begun(showing: Showing, example: Example, asking: Asking) -> dict[str, Any]:
    """What every row says: the question, and what it is asked about."""
    source = source_of(showing, example, asking)
    return {"key": example.key, "video": example.video, "source": source}


def answered(task: Task, example: Example, memory: Memory, asking: Asking) -> dict[str, Any]:
    """Ask one question; raises what asking raises."""
    words, found = subtitles_for(example, memory, asking)
    prompt = task.prompt(example, asking.style, words)
    answer = asking.system.ask(memory, prompt, asking.options)
    scored = task.score(example, answer.text, asking.style)
    told: dict[str, Any] = {
        "text": answer.text,
        "read": scored.read,
        "points": dict(scored.points),
        "frames": memory.stats.frames,
    }
    if asking.subtitles is not None:
        told["subtitles"] = found
    if memory.stats.warnings:
        told["warnings"] = list(memory.stats.warnings)
    return told


def failed(error: LongtakeError) -> dict[str, Any]:
    """Why there is no answer."""
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def subtitles_for(example: Example, memory: Memory, asking: Asking) -> tuple[str, bool]:
    """What is said of subtitles behind a video, and whether any were there to be shown.

    Raises AnnotationError for a file that cannot be read.
    """
    if asking.subtitles is None:
        return "", False
    if asking.place == "between":
        return "", bool(memory.captions)
    file = file_in(asking.subtitles, example.subtitles)
    if file is None:
        return asking.style.no_subtitles, False
    cues = read_cues(file, example.duration, example.offset)
    if asking.style.subtitles == "all":
        told = all_of(cues)
    elif file.suffix == ".json":
        told = shown_around(cues, even_times(example.duration, memory.stats.frames))
    else:
        told = shown_at(cues, [entry.seconds for entry in memory.entries])
    return told, bool(told)


def source_of(showing: Showing, example: Example, asking: Asking) -> str:
    """Digest of the files an answer is made from: the video and, if asked with, its subtitles."""
    folder = asking.subtitles
    subtitles = None if folder is None else file_in(folder, example.subtitles)
    files = [file for file in (showing.video, subtitles) if file is not None]
    told = "\n".join(map(identity_of, files))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def check_sources(plan: Plan, asking: Asking, results: Results) -> None:
    """Raise StoreError if an answer was made from another file than the one that is there now."""
    for showing in plan.showings:
        for example in showing.examples:
            row = results.rows.get(example.key)
            if row is None or "error" in row:
                continue
            if row.get("source") != source_of(showing, example, asking):
                raise StoreError(
                    f"{results.path}: {example.key} was asked about another file than what is now "
                    f"{showing.video.name} or its subtitles; use the same, or another place for "
                    "results"
                )
