"""`longtake eval`: run a published benchmark, or score answers that were recorded elsewhere."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longtake.commands.common import loaded
from longtake.errors import AnnotationError, OptionError
from longtake.flags import (
    Answering,
    Condensing,
    JsonFlag,
    Loading,
    MaxFrames,
    ModelName,
    spread,
)
from longtake.terminal import bars, note, say, table

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
        "videochat-flash.  [default: the model's own]",
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
    max_frames: MaxFrames = None,
    condensing: Condensing,
    answering: Answering,
    as_json: JsonFlag = False,
) -> None:
    """Run a published benchmark on local videos, or score recorded answers."""
    from longtake.evaluate.benchmarks import open_benchmark
    from longtake.evaluate.plan import planned
    from longtake.evaluate.prompts import check_style
    from longtake.evaluate.videos import Library

    benchmark = open_benchmark(task, annotations)
    check_style(task, style)
    if predictions is not None:
        show(scored_again(benchmark, annotations, predictions, style), out, as_json)
        return
    library = Library(folder=folder_of(videos, "videos"))
    if subtitles is not None:
        folder_of(subtitles, "subtitles")
    plan = planned(benchmark, library, limit)
    tell_missing(plan)
    folder = out or Path(f"eval-{task}-{slug(model)}")
    check_folder(folder, resume)
    system = loaded(model, loading, condensing)
    asking, how = prepared(system, task, style=style, frames=max_frames, answering=answering)
    asking = replace(asking, subtitles=subtitles)
    what = {**about(benchmark, annotations), "model": model, "subtitles": subtitles is not None}
    show(ask_all(benchmark, plan, asking, {**what, **how}, folder, retry), folder, as_json)


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
    *,
    style: str | None,
    frames: int | None,
    answering: Answering,
) -> tuple[Asking, dict[str, Any]]:
    """How a system asks a benchmark's questions, and what is said of that in results."""
    from longtake.evaluate.prompts import style_for
    from longtake.evaluate.run import Asking, styled

    name, chosen = style_for(task, system.name, style)
    given = {"max_new_tokens": chosen.max_new_tokens, "evidence": False, **answering.given()}
    asking = Asking(
        system=styled(system, chosen),
        style=chosen,
        options=system.options(**given),
        frames=frames or chosen.frames,
    )
    return asking, {"style": name, **header_of(system, asking)}


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


def check_folder(folder: Path, resume: bool) -> None:
    """Make the folder of results. Raises OptionError if a run is in it and is not to go on."""
    answers = folder / "answers.jsonl"
    if answers.exists() and not resume:
        raise OptionError(f"{answers} is there already; go on with --resume, or choose --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{folder} cannot be made ({error.strerror}); choose --out") from error


def header_of(system: System, asking: Asking) -> dict[str, Any]:
    """What a run is: everything that shapes its answers, with versions and fingerprint."""
    from longtake.evaluate.results import about

    options = asdict(asking.options)
    shaping = {name: value for name, value in options.items() if not name.startswith("on_")}
    shaping.pop("cancelled")
    return {
        "prompts": asdict(asking.style),
        "frames": asking.frames or system.frames,
        **about(system),
        "seed": asking.options.seed,
        "options": shaping,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "av")},
        },
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
    name, style = style_for(benchmark.name, "", wanted)
    known = {**about(benchmark, annotations), "predictions": digest_of(predictions)}
    return rescored(benchmark, style, {**known, "style": name}, recorded.text_of)


def tell_missing(plan: Plan) -> None:
    """Say which videos are not there."""
    videos = plan.missing_videos
    if videos:
        more = f" and {len(videos) - 3} more" if len(videos) > 3 else ""
        say(
            f"{len(videos)} videos are missing ({', '.join(videos[:3])}{more}); their "
            f"{len(plan.missing)} questions are not asked",
            kind="warning",
        )


def show(report: Report, folder: Path | None, as_json: bool) -> None:
    """Print a result, and save it in a folder."""
    from longtake.evaluate.report import as_object, save_report, save_text

    text = report_text(report)
    if folder is not None:
        check_folder(folder, resume=True)
        save_report(report, folder / "result.json")
        save_text(f"{text}\n", folder / "result.txt")
        note(f"[saved in {folder}]")
    print(json.dumps(as_object(report)) if as_json else text)


def report_text(report: Report) -> str:
    """A result as tables: figures, what was left out, published figures beside them."""
    rows: list[tuple[str, ...]] = [(report.title, "", "metric", "%", "95 %", "questions")]
    for one in report.figures:
        interval = "" if one.low is None else f"{one.low:.1f}-{one.high:.1f}"
        rows.append(
            (one.axis, one.value, one.metric, f"{one.score:.1f}", interval, f"{one.asked:,}")
        )
    parts = [table(rows, "<<<>>>"), "\n".join(notes(report))]
    beside = comparison(report)
    return "\n\n".join([*parts, beside] if beside else parts)


def notes(report: Report) -> list[str]:
    """What a reader of the figures must know."""
    whole = "all" if report.complete else "NOT all"
    lines = [
        f"{report.answered:,} of {report.total:,} questions answered: {whole} of the benchmark"
    ]
    told = {
        "failed with an error and are not counted": len(report.failed),
        f"not asked: {len(report.missing)} videos are missing": report.missing_questions,
        "answers name no option, or no moment, and count as wrong": report.unread,
        "have no right answer among their options and count as wrong": report.keyless,
        "were asked without subtitles, there being none at what was seen": report.unsubtitled,
        "were not answered in every order and are not counted": report.incomplete,
    }
    lines += [f"{count:,} {what}" for what, count in told.items() if count]
    lines += [f"  {row['key']}: {row['error']}" for row in report.failed[:3]]
    return lines


def comparison(report: Report) -> str:
    """Published figures of the same system beside these; empty if there are none."""
    from longtake.evaluate.report import compared

    rows: list[tuple[str, ...]] = [("published", "setting", "figure", "%", "here", "difference")]
    for row, name, score, own in compared(report):
        rows.append(
            (row.model, row.setting, name, f"{score:.1f}", f"{own:.1f}", f"{own - score:+.1f}")
        )
    return table(rows, "<<<>>>") if len(rows) > 1 else ""
