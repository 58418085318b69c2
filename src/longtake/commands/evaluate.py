"""`longtake eval`: run a published benchmark, or score answers that were recorded elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longtake.commands.common import loaded
from longtake.commands.first import check_answering
from longtake.errors import AnnotationError, OptionError
from longtake.flags import (
    Answering,
    Condensing,
    JsonFlag,
    Loading,
    ModelName,
    frame_count,
    spread,
)
from longtake.places import check_results
from longtake.terminal import bars, note, say

if TYPE_CHECKING:
    from longtake.evaluate.plan import Plan
    from longtake.evaluate.report import Report
    from longtake.evaluate.results import Row
    from longtake.evaluate.run import Asking
    from longtake.evaluate.tasks import Task
    from longtake.system import System

TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="video-mme, mlvu, longvideobench, lvbench, vnbench, mvbench or charades-sta.",
    ),
]
Annotations = Annotated[
    Path,
    typer.Option(metavar="PATH", help="The published annotations: a file, or a folder of files."),
]
Videos = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Where the benchmark's videos lie.")
]
Subtitles = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Ask with the subtitles of this folder."),
]
StyleName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Whose prompts and way of reading answers: official, lmms-eval, longva, video-xl, "
        "videochat-flash; of longvideobench also official-together and lmms-eval-together.  "
        "[default: the model's own]",
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Ask only the first N questions.")
]
OutFolder = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where results go.  [default: eval-TASK-MODEL]"),
]
GoOn = Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")]
Retry = Annotated[
    bool, typer.Option("--retry", help="With --resume: ask again what ended in an error.")
]


def same_count(value: Any) -> int:
    """A number of frames from 1. Raises BadParameter, a usage error."""
    count = frame_count(value)
    if count == "auto":
        raise typer.BadParameter("auto is another number for each video; give one for all.")
    return int(count)


Frames = Annotated[
    Any,
    typer.Option(
        parser=same_count,
        metavar="N",
        help="Frames of each video.  [default: the style's, or else the model's own]",
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Score these recorded answers; no model is run."),
]


@spread
def evaluate(
    *,
    task: TaskName,
    annotations: Annotations,
    videos: Videos = None,
    subtitles: Subtitles = None,
    model: ModelName = "default",
    style: StyleName = None,
    limit: Limit = None,
    out: OutFolder = None,
    resume: GoOn = False,
    retry: Retry = False,
    predictions: Predictions = None,
    loading: Loading,
    max_frames: Frames = None,
    condensing: Condensing,
    answering: Answering,
    as_json: JsonFlag = False,
) -> None:
    """Run a published benchmark on local videos, or score recorded answers."""
    from longtake.evaluate.benchmarks import open_benchmark
    from longtake.evaluate.prompts import check_style

    benchmark = open_benchmark(task, annotations)
    check_style(task, style)
    if predictions is not None:
        refuse(
            {"--videos": videos, "--subtitles": subtitles, "--limit": limit, "--retry": retry}
            | {"--model": model != "default", "--resume": resume, "--max-frames": max_frames}
            | {"options of a model": loading != Loading() or condensing.given()}
            | {"options of answering": answering.given()}
        )
        show(scored_again(benchmark, annotations, predictions, style), out, as_json)
        return
    check_answering(answering)
    plan = plan_of(benchmark, videos, subtitles, limit)
    folder = free_folder(out or Path(f"eval-{task}-{slug(model)}"), resume)
    system = loaded(model, loading, condensing)
    name, asking = prepared(system, task, style, max_frames, subtitles, answering)
    what = {**about(benchmark, annotations), "model": model, "style": name}
    header = {**what, **header_of(system, asking, condensing)}
    show(ask_all(benchmark, plan, asking, header, folder, retry), folder, as_json)


def plan_of(
    benchmark: Task, videos: Path | None, subtitles: Path | None, limit: int | None
) -> Plan:
    """What is to be asked; says what is missing. Raises OptionError, AnnotationError."""
    from longtake.commands.scores import tell_missing
    from longtake.evaluate.plan import planned, with_subtitles
    from longtake.evaluate.videos import Library

    plan = planned(benchmark, Library(folder=folder_of(videos, "videos")), limit)
    if subtitles is not None:
        plan = with_subtitles(benchmark, plan, folder_of(subtitles, "subtitles"))
    tell_missing(plan)
    return plan


def refuse(given: Mapping[str, object]) -> None:
    """Raise OptionError for what was given and says nothing of recorded answers."""
    told = [name for name, value in given.items() if value]
    if told:
        raise OptionError(
            f"--predictions scores all recorded answers without a model; leave {', '.join(told)} "
            "out"
        )


def folder_of(path: Path | None, what: str) -> Path:
    """A folder that is there. Raises OptionError, AnnotationError."""
    if path is None:
        raise OptionError(f"say where the {what} lie by --{what}, or score by --predictions")
    if not path.is_dir():
        raise AnnotationError(f"{path} is no folder; give the folder of the {what}")
    return path


def prepared(
    system: System,
    task: str,
    style: str | None,
    frames: int | None,
    subtitles: Path | None,
    answering: Answering,
) -> tuple[str, Asking]:
    """Name of the style, and how a system asks a benchmark's questions."""
    from longtake.evaluate.prompts import style_for
    from longtake.evaluate.run import Asking, styled

    name, chosen = style_for(task, system.name, style)
    given = {"max_new_tokens": chosen.max_new_tokens, "evidence": False, **answering.given()}
    asking = Asking(
        system=styled(system, chosen),
        style=chosen,
        options=system.options(**given),
        frames=frames or chosen.frames,
        subtitles=subtitles,
    )
    if asking.place not in (None, chosen.place):
        what = "subtitles stand together behind the video"
        say(f"{system.no_captions}; {what}", kind="warning")
    return name, asking


def ask_all(
    benchmark: Task, plan: Plan, asking: Asking, header: Row, folder: Path, retry: bool
) -> Report:
    """Ask what is not answered yet, with progress, and put all answers together."""
    from longtake.evaluate.report import reported
    from longtake.evaluate.results import Results
    from longtake.evaluate.run import run

    with Results(folder / "answers.jsonl", header, retry) as results, bars() as progress:
        run(benchmark, plan, asking, results, progress)
        return reported(benchmark, plan, asking.style, header, results.rows)


def about(benchmark: Task, annotations: Path) -> dict[str, Any]:
    """What is asked, for results."""
    from longtake.evaluate.annotations import digest_of

    return {"task": benchmark.name, "annotations": digest_of(annotations)}


def slug(model: str) -> str:
    """A model's name as part of a folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")


def free_folder(folder: Path, resume: bool) -> Path:
    """The folder. Raises OptionError if no results can be in it, or a run is that is not to go on.

    It is made when there is something to write.
    """
    answers = folder / "answers.jsonl"
    if answers.exists() and not resume:
        raise OptionError(f"{answers} is there already; go on with --resume, or choose --out")
    check_results(folder)
    return folder


def header_of(system: System, asking: Asking, condensing: Condensing) -> dict[str, Any]:
    """What a run is: everything that shapes its answers, with versions and fingerprint."""
    from longtake.evaluate.header import about

    options = asdict(asking.options)
    shaping = {name: value for name, value in options.items() if not name.startswith("on_")}
    shaping.pop("cancelled")
    return {
        "subtitles": asking.subtitles is not None,
        "subtitle_place": asking.place,
        "prompts": asdict(asking.style),
        "frames": asking.frames or system.frames,
        **about(system, condensing.given()),
        "parameters": sum(weight.numel() for weight in system.model.parameters()),
        "seed": asking.options.seed,
        "options": shaping,
    }


def scored_again(
    benchmark: Task, annotations: Path, predictions: Path, wanted: str | None
) -> Report:
    """Score recorded answers."""
    from longtake.evaluate.annotations import digest_of
    from longtake.evaluate.predictions import read_predictions
    from longtake.evaluate.prompts import style_for
    from longtake.evaluate.report import rescored

    recorded = read_predictions(predictions)
    made = recorded.header
    if made.get("task", benchmark.name) != benchmark.name:
        raise OptionError(f"{predictions} holds answers of {made['task']}, not {benchmark.name}")
    name, style = style_for(benchmark.name, "", wanted or made.get("style"))
    known = {**about(benchmark, annotations), "predictions": digest_of(predictions)}
    header = {**made, **known, "style": name}
    return rescored(benchmark, style, header, recorded.text_of, recorded.unsubtitled)


def show(report: Report, folder: Path | None, as_json: bool) -> None:
    """Print a result, and save it in a folder."""
    from longtake.commands.scores import report_text
    from longtake.evaluate.report import as_object, save_report
    from longtake.evaluate.whole import save_text

    text = report_text(report)
    if folder is not None:
        check_results(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_report(report, folder / "result.json")
        save_text(f"{text}\n", folder / "result.txt")
        note(f"[saved in {folder}]")
    print(json.dumps(as_object(report)) if as_json else text)
