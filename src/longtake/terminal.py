"""What the command line shows besides its results: notes, progress, numbers people can read.

All of it goes to stderr, so that stdout holds the answer and nothing else. Progress is drawn only
on a terminal, with rich, which is imported only then.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from longtake.units import size as size

if TYPE_CHECKING:  # it brings torch
    from longtake.costs import Comparison, Stage
    from longtake.inspect import ModelReport, VideoReport, WatchReport
    from longtake.moments import Span, Timeline
    from longtake.survey import Survey

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

STAGES = {
    "questions": "asking",
    "ask": "asking",
    "encode": "watching",
    "prefill": "reading",
    "verify": "checking",
}
"""Stages that get a bar and what it says; frames are decoded just ahead of "encode"."""
UNITS = {
    "questions": "questions",
    "ask": "frames",
    "encode": "frames",
    "prefill": "tokens",
    "verify": "memories",
}


def say(message: str, *, kind: str = "") -> None:
    """One line on stderr, as "longtake: message" or "longtake: kind: message"."""
    line = harmless(" ".join(message.split()))
    sys.stderr.write(f"longtake: {kind}: {line}\n" if kind else f"longtake: {line}\n")
    sys.stderr.flush()


def note(message: str) -> None:
    """One line for a person at a terminal; nothing when stderr is a file or a pipe."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


def harmless(text: str) -> str:
    """Text without control characters, which could move the cursor or change the terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A spinner beside `what`, on a terminal only."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def bars() -> Iterator[Progress]:
    """Progress bars with the time left; silent and without cost when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    layout = (
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    # transient: the line that sums up stays, the bars do not
    with Progress(*layout, console=Console(stderr=True), transient=True) as shown:
        tasks = {
            stage: shown.add_task(what, total=None, visible=False, unit=UNITS[stage])
            for stage, what in STAGES.items()
        }

        def update(stage: str, done: int, total: int) -> None:
            if stage in tasks:
                shown.update(tasks[stage], completed=done, total=total, visible=True)

        yield update


def clock(seconds: float) -> str:
    """A time in a video: 0:07.5, 12:03.0, 1:02:03.4."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    lead = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{lead}:{rest // 10:02}.{rest % 10}"


def work(flops: float) -> str:
    """Operations in decimal units: 512 FLOP, 1.50 GFLOP, 434 PFLOP."""
    for unit in ("", "k", "M", "G", "T"):
        if flops < 999.5:
            return f"{flops:.0f} FLOP" if not unit else f"{_three(flops)} {unit}FLOP"
        flops /= 1000
    return f"{_three(flops)} PFLOP"


def _three(number: float) -> str:
    """Three figures, or all of a larger number: 1.50, 15.0, 150, 1,500."""
    for digits, limit in ((2, 9.995), (1, 99.95)):
        if number < limit:
            return f"{number:.{digits}f}"
    return f"{number:,.0f}"


def moment(span: Span) -> str:
    """A span in words: "0:12.0-0:15.0 (62 %)", or one time if it has no length."""
    start, end = clock(span.start), clock(span.end)
    when = start if start == end else f"{start}-{end}"
    share = f"{100 * span.weight:.0f} %" if span.weight >= 0.005 else "under 1 %"
    return f"{when} ({share})"


BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
"""Block characters of rising height."""
PLAIN = "_.-:=+*#"
"""For terminals that cannot show them."""
FEWEST = 8
"""Columns below which times are left out."""


def sparkline(line: Timeline, width: int, encoding: str) -> str:
    """A video's weight over time in one line, `width` characters with the times at its ends.

    The highest character is the heaviest moment, however light; nothing at all is the lowest.
    """
    ends = (f"{clock(line.seconds[0])} ", f" {clock(line.end)}")
    room = width - len("".join(ends))
    if room < FEWEST:
        ends, room = ("", ""), max(1, width)
    marks = BLOCKS if encodes(BLOCKS, encoding) else PLAIN
    heights = line.columns(room)
    step = max(max(heights), 1e-9) / (len(marks) - 1)
    return "".join((ends[0], *(marks[round(height / step)] for height in heights), ends[1]))


def encodes(text: str, encoding: str) -> bool:
    """Whether an encoding has all letters of a text."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def draw_sparklines(lines: Sequence[Timeline]) -> None:
    """One line on stderr for each video, as wide as the terminal (80 columns of a file)."""
    for line in lines:
        words = sparkline(line, terminal_width(), sys.stderr.encoding or "ascii")
        sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def terminal_width() -> int:
    """Columns of the terminal that stderr is."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):  # a file, a pipe, or no real stream at all
        return shutil.get_terminal_size().columns


def table(rows: Sequence[Sequence[str]], align: str) -> str:
    """A plain table; `align` has one of "<" and ">" per column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def video_text(video: VideoReport) -> str:
    """A video's report as aligned lines."""
    rows = [("file", video.name), ("picture", f"{video.width} x {video.height}, {video.codec}")]
    if video.rotation:
        rows.append(("turned", f"{video.rotation} degrees counter-clockwise"))
    if video.duration:
        rate = f"{video.fps:.3f}".rstrip("0").rstrip(".")
        steady = "variable rate, average" if video.variable_rate else "at"
        rows += [
            ("length", clock(video.duration)),
            ("frames", f"{video.frames} {steady} {rate} per second"),
        ]
    rows += [("warning", warning) for warning in video.warnings]
    return table(rows, "<<")


def model_text(model: ModelReport) -> str:
    """A model's report as aligned lines and a table of costs."""
    rows = [
        ("folder", str(model.path)),
        ("system", model.system),
        ("weights", f"{model.parameters:,} in {model.dtype}: {size(model.weight_bytes)}"),
        ("picture", f"{model.picture[1]} x {model.picture[0]}"),
        ("frames", f"{model.frames} unless told otherwise"),
        ("window", f"{model.window:,} tokens" if model.window else "none set"),
    ]
    costs: list[tuple[str, ...]] = [("frames", "tokens", "kept", "memory", "in the window")]
    for cost in model.costs:
        fits = "yes" if cost.fits else "no"
        counts = (f"{cost.frames:,}", f"{cost.tokens:,}", f"{cost.kept:,}")
        costs.append((*counts, size(cost.cache_bytes), fits))
    if model.window is None:
        costs = [cost[:4] for cost in costs]
    below = comparison_text(model.comparison)
    return f"{table(rows, '<<')}\n\n{table(costs, '>>>><'[: len(costs[0])])}\n\n{below}"


def watch_text(would: WatchReport) -> str:
    """What a video is, and what watching it with a model would take."""
    some = repeated(would.sampled, would.distinct)
    return f"{video_text(would.video)}\n\n{comparison_text(would.comparison, some)}"


def repeated(frames: int, distinct: int) -> str:
    """Behind a number of frames: that some of them are the same, if they are."""
    return f", of {distinct:,} there are: some repeat" if distinct < frames else ""


def comparison_text(found: Comparison, some: str = "") -> str:
    """The stages of a system and of another, one under the other, and how they compare.

    `some`: what is to be said of the frames.
    """
    head = ("tokens per frame", "tokens", "memory", "compute")
    rows: list[tuple[str, ...]] = []
    for name, stages in ((found.system, found.stages), (found.other, found.other_stages)):
        rows += [("",) * 5] if rows else []
        rows += [(name, *head), *map(_stage_row, stages)]
        kept = sum(stage.kv_bytes for stage in stages)
        rows.append(("total", "", "", size(kept), work(sum(stage.flops for stage in stages))))
    compute, read, memory = map(
        _three, (found.flops_times, found.decoder_flops_times, found.kv_times)
    )
    return (
        f"{found.frames:,} frames{some}\n\n{table(rows, '<>>>>')}\n\n"
        f"{found.other} takes {compute} times the compute, {read} times the language model's,\n"
        f"and {memory} times the memory"
    )


def _stage_row(stage: Stage) -> tuple[str, ...]:
    per_frame = f"{stage.tokens_per_frame:.2f}".rstrip("0").rstrip(".")
    kept = size(stage.kv_bytes) if stage.kv_bytes else ""
    return (f"  {stage.name}", per_frame, f"{stage.tokens:,}", kept, work(stage.flops))


def survey_text(survey: Survey) -> str:
    """How a video is cut and condensed, a line per window."""
    rows: list[tuple[str, ...]] = [("from", "to", "frames", "tokens", "ratio", "kept")]
    for window in survey.windows:
        start, end = clock(window.start_seconds), clock(window.end_seconds)
        counts = (window.frames, window.tokens, window.ratio, window.kept)
        rows.append((start, end, *map(str, counts)))
    tokens, kept = (sum(getattr(w, name) for w in survey.windows) for name in ("tokens", "kept"))
    total = f"{len(survey.windows)} windows keep {kept:,} of {tokens:,} visual tokens"
    return f"{table(rows, '>>>>>>')}\n\n{total}"
