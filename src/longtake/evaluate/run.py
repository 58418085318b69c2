"""Run a benchmark: watch each video once, ask all that is asked about it, keep every answer.

What goes wrong with one video or one question is written down beside the answers, and the run goes
on; only answers are scored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longtake.errors import LongtakeError
from longtake.evaluate.plan import Plan, Showing
from longtake.evaluate.prompts import Style
from longtake.evaluate.results import Results, Row
from longtake.evaluate.subtitles import all_of, even_times, interleaved, read_cues, shown_at
from longtake.evaluate.tasks import Example, Task
from longtake.evaluate.videos import frames_as_video
from longtake.reader import Progress, quiet
from longtake.system import System
from longtake.types import Memory, Options
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

    Raises StoreError where answers cannot be written; whatever else goes wrong is written down.
    """
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
        with opened(showing) as video:
            memory = asking.system.watch(
                video,
                max_frames=asking.frames,
                start=showing.start,
                end=showing.end,
                progress=progress,
            )
    except LongtakeError as error:
        for example in left:
            yield failed(example, error)
        return
    for example in left:
        try:
            yield answered(task, example, memory, asking)
        except LongtakeError as error:
            yield failed(example, error)


@contextmanager
def opened(showing: Showing) -> Iterator[str]:
    """Path of the video to watch; a folder of frames is put into one file for as long."""
    if not showing.video.is_dir():
        yield str(showing.video)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "frames.mov")
        yield str(frames_as_video(showing.video, showing.rate, target))


def answered(task: Task, example: Example, memory: Memory, asking: Asking) -> Row:
    """Ask one question; raises what asking raises."""
    told = subtitles_for(example, memory, asking)
    prompt = task.prompt(example, asking.style, told)
    answer = asking.system.ask(memory, prompt, asking.options)
    scored = task.score(example, answer.text, asking.style)
    row: dict[str, Any] = {
        "key": example.key,
        "video": example.video,
        "text": answer.text,
        "read": scored.read,
        "points": dict(scored.points),
        "frames": memory.stats.frames,
    }
    if asking.subtitles is not None:
        row["subtitles"] = bool(told)
    if memory.stats.warnings:
        row["warnings"] = list(memory.stats.warnings)
    return row


def failed(example: Example, error: LongtakeError) -> Row:
    """A row that says why there is no answer."""
    return {
        "key": example.key,
        "video": example.video,
        "error": f"{type(error).__name__}: {' '.join(str(error).split())}",
    }


def subtitles_for(example: Example, memory: Memory, asking: Asking) -> str:
    """What is shown of a video's subtitles; empty where it has none. Raises AnnotationError."""
    if asking.subtitles is None or not example.subtitles:
        return ""
    file = asking.subtitles / Path(example.subtitles).name
    if not file.is_file():
        return asking.style.no_subtitles
    cues = read_cues(file, example.duration, example.offset)
    if asking.style.subtitles == "all":
        return all_of(cues)
    if file.suffix == ".json":
        frames = asking.frames or asking.system.frames
        return interleaved(cues, even_times(example.duration, frames))
    return shown_at(cues, [entry.seconds for entry in memory.entries])
