"""`longtake needle`: hide needles in one's own videos and see whether a model finds them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtake.commands.common import loaded
from longtake.errors import OptionError
from longtake.flags import Condensing, Loading, ModelName, spread
from longtake.terminal import bars, note, say, table

if TYPE_CHECKING:
    from longtake.evaluate.needle_data import Needle
    from longtake.evaluate.needle_rules import Depth, Rule, Score
    from longtake.evaluate.needle_run import Trial
    from longtake.evaluate.needle_text import TextTrial
    from longtake.evaluate.results import Row

KINDS = ("single", "multihop", "text")

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="VIDEO...", help="The haystack: videos, one after another; texts of --kind text."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Hiding:
    """What is hidden, where, and how an answer counts."""

    kind: Annotated[str, typer.Option(metavar="KIND", help="single, multihop or text.")] = "single"
    frames: Annotated[
        str,
        typer.Option(
            metavar="N[,N...]", help="Lengths: frames, or tokens of text; also FIRST-LAST:STEP."
        ),
    ] = "64,256,1024"
    depths: Annotated[
        str | None,
        typer.Option(metavar="P[,P...]", help="Depths in per cent.  [default: 0,25,50,75,100]"),
    ] = None
    depth_interval: Annotated[
        float | None,
        typer.Option(metavar="X", help="Depths as V-NIAH counts them: 0, X, 2X, ... of the whole."),
    ] = None
    needles: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="A list of needles (JSON, parquet), or a folder with one."
        ),
    ] = None
    cards: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Cards per depth, or chains, to draw; 5 numbers in text.  [10]"
        ),
    ] = None
    hops: Annotated[
        int | None, typer.Option(metavar="N", help="Hops of a drawn chain.  [default: 2]")
    ] = None
    distractors: Annotated[
        int | None,
        typer.Option(metavar="N", help="Chains that lead elsewhere; 0 other numbers in text.  [1]"),
    ] = None
    rule: Annotated[
        str,
        typer.Option(metavar="NAME", help="clean, longva, videochat-flash or video-xl."),
    ] = "clean"
    score: Annotated[
        str | None,
        typer.Option(metavar="WAY", help="forced, generated or both.  [default: the rule's]"),
    ] = None
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Most tokens of a generated answer; 4 more than the number's in text.  [32]",
        ),
    ] = None
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of what is drawn.")] = 0


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
    check_folder(out)
    place = Place(out=out, retry=retry)
    with ExitStack() as stack:
        if hiding.kind == "text":
            texts(stack, video, model, (loading, condensing), text_trial_of(hiding), place)
        else:
            videos(stack, video, model, (loading, condensing), trial_of(hiding), place)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where results go."""

    out: Path
    retry: bool


def check_folder(out: Path) -> None:
    """Make the folder of results. Raises OptionError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"{out} cannot be a folder of results ({error.strerror}); choose another"
        ) from error


def trial_of(hiding: Hiding) -> Trial:
    """What is to be measured, checked before anything is opened but the needles."""
    from longtake.evaluate.needle_memory import ANSWER_TOKENS
    from longtake.evaluate.needle_rules import last_of, parse_counts, rule_named
    from longtake.evaluate.needle_run import Trial

    rule, kind = rule_named(hiding.rule), hiding.kind
    if kind == "multihop" and (hiding.depths or hiding.depth_interval):
        raise OptionError("a chain is spread over the whole video; leave the depths out")
    score, depths = score_of(hiding, rule), places_of(hiding, rule)
    needles = needles_of(hiding, len(depths))
    return Trial(
        kind=kind,  # type: ignore[arg-type]
        rule=rule,
        lengths=tuple(parse_counts(hiding.frames)),
        depths=tuple(depths) if kind == "single" else (),
        needles=tuple(needles),
        fresh=hiding.needles is None and kind == "single",
        score=score,
        seed=hiding.seed,
        reach=last_of(hiding.frames) if rule.frames == "second" else 0,
        answer_tokens=hiding.max_new_tokens or ANSWER_TOKENS,
    )


def score_of(hiding: Hiding, rule: Rule) -> Score:
    """How answers are scored. Raises OptionError."""
    from longtake.evaluate.needle_rules import SCORES

    for score in SCORES:
        if score == (hiding.score or rule.score):
            return score
    raise OptionError(f"score {hiding.score!r} is unknown; choose {', '.join(SCORES)}")


def places_of(hiding: Hiding, rule: Rule) -> Sequence[Depth]:
    """Depths. Raises OptionError."""
    from longtake.evaluate.needle_rules import depths_by, depths_of, parse_percents

    if hiding.depths is not None and hiding.depth_interval is not None:
        raise OptionError("--depths and --depth-interval both say where; choose one")
    if hiding.depth_interval is not None:
        return depths_by(rule, hiding.depth_interval)
    return depths_of(rule, parse_percents(hiding.depths or "0,25,50,75,100"))


def text_trial_of(hiding: Hiding) -> TextTrial:
    """What is to be measured in texts."""
    from longtake.evaluate.needle_rules import parse_counts, rule_named
    from longtake.evaluate.needle_text import TextTrial

    rule = rule_named(hiding.rule)
    if rule.name not in ("clean", "longva"):
        raise OptionError(f"rule {rule.name} is of videos; texts have clean and longva")
    if hiding.needles is not None or hiding.hops is not None:
        raise OptionError("texts hide numbers that are drawn; leave --needles and --hops out")
    return TextTrial(
        rule=rule,
        lengths=tuple(parse_counts(hiding.frames)),
        depths=tuple(places_of(hiding, rule)),
        numbers=5 if hiding.cards is None else hiding.cards,
        distractors=hiding.distractors or 0,
        answer_tokens=hiding.max_new_tokens,
        score=score_of(hiding, rule),
        seed=hiding.seed,
    )


def needles_of(hiding: Hiding, depths: int) -> Sequence[Needle]:
    """Those of a list, or drawn; as many per depth."""
    from longtake.evaluate.multihop import Chains, drawn_chains
    from longtake.evaluate.needle_data import drawn_needles, read_needles

    chains = hiding.kind == "multihop"
    for name, value in (("--hops", hiding.hops), ("--distractors", hiding.distractors)):
        if value is not None and (not chains or hiding.needles is not None):
            raise OptionError(f"{name} is of chains that are drawn; leave it out")
    if hiding.needles is not None:
        if hiding.cards is not None:
            raise OptionError("--cards draws needles and --needles reads them; choose one")
        return read_needles(hiding.needles, chains)
    count = 10 if hiding.cards is None else hiding.cards
    if chains:
        others = 1 if hiding.distractors is None else hiding.distractors
        hops = 2 if hiding.hops is None else hiding.hops
        return drawn_chains(Chains(count=count, cards=hops + 1, others=others), hiding.seed)
    if count < 1:
        raise OptionError(f"cards must be 1 or more, got {count}")
    return drawn_needles(count * depths, hiding.seed)


def videos(
    stack: ExitStack,
    sources: Sequence[str],
    model: str,
    how: tuple[Loading, Condensing],
    trial: Trial,
    place: Place,
) -> None:
    """Open, load, run, print and save."""
    from longtake.evaluate.header import identity_of
    from longtake.evaluate.needle_plan import open_films
    from longtake.evaluate.needle_run import run
    from longtake.evaluate.results import Results

    films = open_films(sources, stack)
    identities = [identity_of(source) for source in sources]
    system = loaded(model, *how)
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
    trial: TextTrial,
    place: Place,
) -> None:
    """Read, load, run, print and save."""
    from longtake.evaluate.header import identity_of
    from longtake.evaluate.needle_text import read_texts, run_text
    from longtake.evaluate.results import Results

    book = read_texts(sources)
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
