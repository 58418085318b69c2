"""`longtake needle`: hide needles in one's own videos and see whether a model finds them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtake.commands.common import loaded
from longtake.commands.first import check_model
from longtake.commands.hiding import KINDS, Hiding, text_rule_of, text_trial_of, trial_of
from longtake.errors import OptionError
from longtake.flags import Condensing, Loading, ModelName, spread
from longtake.places import check_results, check_video
from longtake.terminal import bars, note, say, table

if TYPE_CHECKING:
    from longtake.evaluate.results import Row

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="VIDEO...", help="The haystack: videos, one after another; texts of --kind text."
    ),
]


OutFolder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Where results go; a run goes on there.")
]
RetryFlag = Annotated[bool, typer.Option("--retry", help="Make cells that failed once more.")]


@spread
def needle(
    *,
    video: Sources,
    model: ModelName = "default",
    loading: Loading,
    condensing: Condensing,
    hiding: Hiding,
    out: OutFolder = Path("needle"),
    retry: RetryFlag = False,
) -> None:
    """Hide needles in VIDEO at several lengths and depths; measure how many are found.

    A run that was stopped goes on when it is started again with the same options.
    """
    if hiding.kind not in KINDS:
        raise OptionError(f"kind {hiding.kind!r} is unknown; choose {', '.join(KINDS)}")
    check_results(out)
    check_model(model, loading, condensing)
    place = Place(out=out, retry=retry)
    with ExitStack() as stack:
        if hiding.kind == "text":
            texts(stack, video, model, (loading, condensing), hiding, place)
        else:
            videos(stack, video, model, (loading, condensing), hiding, place)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where results go."""

    out: Path
    retry: bool


def videos(
    stack: ExitStack,
    sources: Sequence[str],
    model: str,
    how: tuple[Loading, Condensing],
    hiding: Hiding,
    place: Place,
) -> None:
    """Open, load, run, print and save."""
    for source in sources:
        check_video(source)
    trial = trial_of(hiding)
    from longtake.evaluate.header import identity_of
    from longtake.evaluate.needle_plan import open_films, plan_of
    from longtake.evaluate.needle_run import run
    from longtake.evaluate.results import Results

    films = open_films(sources, stack)
    identities = [identity_of(source) for source in sources]
    system = loaded(model, *how)
    plan_of(trial.rule, system.video_sizes.clip, films, trial.lengths, trial.reach)  # or refuses
    header = trial.header(system, model, identities, how[1].given())
    results = stack.enter_context(Results(place.out / "needle.jsonl", header, place.retry))
    if there := len(results.done()):
        note(f"{there} of {len(trial.cells())} cells are there already")
    with bars() as progress:
        run(system, films, trial, results, progress, place.out / "haystack.safetensors")
    for video in films.videos:
        for warning in video.warnings:
            say(warning, kind="warning")
    finish(results.header, list(results.rows.values()), trial.shown, place.out)


def texts(
    stack: ExitStack,
    sources: Sequence[str],
    model: str,
    how: tuple[Loading, Condensing],
    hiding: Hiding,
    place: Place,
) -> None:
    """Read, load, run, print and save."""
    from longtake.evaluate.annotations import read_texts

    text_rule_of(hiding)  # refuses what torch is not needed for, as the next line does
    book, trial = read_texts(sources), text_trial_of(hiding)
    from longtake.evaluate.header import identity_of
    from longtake.evaluate.needle_text import run_text
    from longtake.evaluate.results import Results

    system = loaded(model, *how)
    identities = [identity_of(source) for source in sources]
    header = trial.header(system, model, identities, how[1].given())
    results = stack.enter_context(Results(place.out / "needle.jsonl", header, place.retry))
    with bars() as progress:
        run_text(system, book, trial, results, progress)
    way = "forced" if trial.score != "generated" else "generated"
    finish(results.header, list(results.rows.values()), way, place.out)


def finish(header: Row, rows: Sequence[Row], way: str, out: Path) -> None:
    """Print the table, save report and map."""
    from longtake.evaluate.needle_report import failures, main_table, no_map, save_report

    for line in failures(rows):
        say(f"cell {line}", kind="warning")
    lines = main_table(header, rows, way)
    if lines:
        print(table(lines, "<" + ">" * (len(lines[0]) - 1)))
    for path in save_report(header, rows, way, out):
        note(f"saved {path}")
    if no_map(rows):
        say("no heat map: matplotlib is not installed (pip install matplotlib: the extra plot)")
