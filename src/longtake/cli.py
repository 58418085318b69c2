"""The command line: parse, call the api, print.

Results go to stdout, everything else to stderr. torch is imported inside the commands, because
`longtake --help` and shell completion must not wait for it.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from longtake.errors import OptionError, PromptError
from longtake.exits import EPILOG, Commands
from longtake.flags import (
    Answering,
    Changes,
    Condensing,
    EvidenceFile,
    JsonFlag,
    Loading,
    MaxFrames,
    ModelName,
    OtherModel,
    Part,
    Question,
    Recipe,
    ResumeFlag,
    StreamFlag,
    Target,
    TimelineFile,
    VideoFile,
    spread,
)
from longtake.terminal import (
    bars,
    busy,
    harmless,
    model_text,
    moment,
    note,
    say,
    size,
    survey_text,
    video_text,
    watch_text,
)

if TYPE_CHECKING:
    from longtake.system import System
    from longtake.types import Answer, Memory
    from longtake.video.inputs import Opened

LEAVE = ("exit", "quit")
"""What ends a chat, besides the end of input."""

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,  # plain help: quicker, and the same in a pipe
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    epilog=EPILOG,
)


def show_version(wanted: bool) -> None:
    """Print the version and leave, if it was asked for."""
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"longtake {version('longtake')}")
        except PackageNotFoundError:
            print("longtake (run from its sources, not installed)")
        raise typer.Exit


@app.callback()
def longtake(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Watch a long video once, ask it many questions."""


@app.command()
@spread
def ask(
    *,
    video: VideoFile,
    question: Question,
    model: ModelName = "default",
    loading: Loading,
    max_frames: MaxFrames = None,
    part: Part,
    condensing: Condensing,
    answering: Answering,
    stream: StreamFlag = None,
    as_json: JsonFlag = False,
    evidence: EvidenceFile = None,
) -> None:
    """Answer one QUESTION about VIDEO."""
    if not question.strip():
        raise PromptError("the question is empty; ask something")
    from longtake.evidence import saver

    if stream and as_json:
        raise OptionError("--stream prints text as it comes and --json one object; choose one")
    with opened(video, answering) as source:
        save_sheet = saver(source, evidence) if evidence is not None else None
        memory = watch(source, system := loaded(model, loading, condensing), max_frames, part)
        if as_json:
            answer = system.ask(memory, question, system.options(**answering.given()))
            about = {"video": video, "question": question, "model": model}
            print(json.dumps(about | {"system": system.name} | asdict(answer)))
        else:
            answer = reply(system, memory, question, answering, stream=stream)
        if save_sheet is not None:
            save_sheet(answer)


@app.command()
@spread
def chat(
    *,
    video: VideoFile,
    model: ModelName = "default",
    loading: Loading,
    max_frames: MaxFrames = None,
    part: Part,
    condensing: Condensing,
    answering: Answering,
    stream: StreamFlag = None,
) -> None:
    """Answer questions about VIDEO until "exit" or the end of input.

    Questions are read from stdin, one per line; each sees the ones before it and their answers.
    """
    history: list[tuple[str, str]] = []
    with opened(video, answering) as source:
        memory = watch(source, system := loaded(model, loading, condensing), max_frames, part)
        for question in questions():
            answer = reply(system, memory, question, answering, stream=stream, history=history)
            history.append((question, answer.text))


@app.command("inspect")
@spread
def inspect_target(
    *,
    target: Target,
    model: OtherModel = None,
    loading: Loading,
    max_frames: MaxFrames = None,
    condensing: Condensing,
    timeline: TimelineFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell what a video or a model is, and what it takes to watch with it."""
    from longtake.inspect import inspect_model, inspect_video, inspect_watch, is_model

    if is_model(target):
        if timeline is not None:
            raise OptionError("--timeline draws a video; give the video, and the model by --model")
        if model is not None:
            raise OptionError("--model goes with a video; a model is the target itself")
        found = inspect_model(
            target, **asdict(loading), options=condensing.given(), max_frames=max_frames
        )
        print(json.dumps(asdict(found), default=str) if as_json else model_text(found))
    elif timeline is not None:
        from longtake.timeline import save_timeline

        opening = partial(loaded, model or "default", loading, condensing)
        drawn = save_timeline(target, opening, max_frames, timeline)
        print(json.dumps(asdict(drawn)) if as_json else survey_text(drawn))
    elif model is not None:
        options = {"options": condensing.given(), "max_frames": max_frames, **asdict(loading)}
        would = inspect_watch(target, model, **options)
        print(json.dumps(asdict(would)) if as_json else watch_text(would))
    else:
        for name in condensing.given():
            raise OptionError(f"{name} is of a model; say which by --model")
        video = inspect_video(target)
        print(json.dumps(asdict(video)) if as_json else video_text(video))


@app.command()
def train(*, recipe: Recipe, changes: Changes = None, resume: ResumeFlag = False) -> None:
    """Run one stage of training."""
    from longtake.train.loop import run

    print(run(recipe, changes or (), resume))


@contextmanager
def opened(path: str, answering: Answering) -> Iterator[Opened]:
    """Open a video or a picture; what can be refused before a model is loaded is refused here."""
    from longtake.types import Options
    from longtake.video.inputs import opened_source

    Options(**answering.given())
    with opened_source(path) as source:
        yield source


def loaded(model: str, loading: Loading, condensing: Condensing) -> System:
    """Load a model and set its options."""
    with busy(f"loading {model}"):
        from longtake.api import load

        return load(model, **asdict(loading)).variant(**condensing.given())


def watch(source: Opened, system: System, max_frames: int | None, part: Part) -> Memory:
    """Watch, with progress and a line that sums up on a terminal."""
    with bars() as progress:
        memory = system.watch(source, max_frames=max_frames, **asdict(part), progress=progress)
    for warning in memory.stats.warnings:
        say(warning, kind="warning")
    note(
        f"watched {memory.stats.frames} frames in {memory.stats.watch_seconds:.1f} s: "
        f"{memory.length} tokens, {size(memory.bytes)}"
    )
    return memory


def reply(
    system: System,
    memory: Memory,
    question: str,
    answering: Answering,
    *,
    stream: bool | None,
    history: Sequence[tuple[str, str]] = (),
) -> Answer:
    """Ask and print the answer, as it is written or when it is whole."""
    live = sys.stdout.isatty() if stream is None else stream
    options = system.options(**answering.given(), on_text=printer() if live else None)
    answer = system.ask(memory, question, options, history)
    print("" if live else shown(answer.text), flush=True)
    if answer.finish == "length":
        cut = f"the answer was cut at {len(answer.ids)} tokens; raise --max-new-tokens"
        say(cut, kind="warning")
    if answer.evidence:
        note(f"[looked at {', '.join(moment(span) for span in answer.evidence[:3])}]")
    return answer


def printer() -> Callable[[str], None]:
    """A function that prints pieces of text as they come, without the blanks before the first."""
    begun = False

    def show(piece: str) -> None:
        nonlocal begun
        text = piece if begun else piece.lstrip()
        begun = begun or bool(text)
        print(shown(text), end="", flush=True)

    return show


def shown(text: str) -> str:
    """An answer as it may be printed: a file gets it as it is, a terminal what cannot harm it."""
    return harmless(text) if sys.stdout.isatty() else text


def questions() -> Iterator[str]:
    """The lines of stdin that ask something, with a prompt on a terminal."""
    person = sys.stdin.isatty()
    while True:
        try:
            line = (input("> ") if person else next(sys.stdin)).strip()
        except (EOFError, StopIteration):
            break
        if line in LEAVE:
            return
        if line:
            yield line
    if person:
        print()


def main() -> None:
    """Run the command line; leaves by SystemExit."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a file name or an answer that the locale cannot show is no reason to stop
            stream.reconfigure(errors="replace")
    app(prog_name="longtake")
