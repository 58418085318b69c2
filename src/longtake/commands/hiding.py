"""What `longtake needle` hides, and where: its options, and the trial that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtake.errors import OptionError

if TYPE_CHECKING:
    from longtake.evaluate.needle_data import Needle
    from longtake.evaluate.needle_rules import Depth, Rule, Score
    from longtake.evaluate.needle_run import Trial
    from longtake.evaluate.needle_text import TextTrial

KINDS = ("single", "multihop", "text")


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


def trial_of(hiding: Hiding) -> Trial:
    """What is to be measured, checked before anything is opened but the needles."""
    from longtake.evaluate.needle_rules import last_of, parse_counts, rule_named

    rule, kind = rule_named(hiding.rule), hiding.kind
    if kind == "multihop" and (hiding.depths or hiding.depth_interval):
        raise OptionError("a chain is spread over the whole video; leave the depths out")
    score, depths = score_of(hiding, rule), places_of(hiding, rule)
    lengths = tuple(parse_counts(hiding.frames))
    check_needles(hiding)
    # from here on torch is needed, which takes seconds to come
    from longtake.evaluate.needle_memory import ANSWER_TOKENS
    from longtake.evaluate.needle_run import Trial

    return Trial(
        kind=kind,  # type: ignore[arg-type]
        rule=rule,
        lengths=lengths,
        depths=tuple(depths) if kind == "single" else (),
        needles=tuple(needles_of(hiding, len(depths))),
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


def text_rule_of(hiding: Hiding) -> Rule:
    """The rule by which numbers are hidden in texts. Raises OptionError."""
    from longtake.evaluate.needle_rules import rule_named

    rule = rule_named(hiding.rule)
    if rule.name not in ("clean", "longva"):
        raise OptionError(f"rule {rule.name} is of videos; texts have clean and longva")
    if hiding.needles is not None or hiding.hops is not None:
        raise OptionError("texts hide numbers that are drawn; leave --needles and --hops out")
    return rule


def text_trial_of(hiding: Hiding) -> TextTrial:
    """What is to be measured in texts."""
    from longtake.evaluate.needle_rules import parse_counts

    rule = text_rule_of(hiding)
    lengths, depths = parse_counts(hiding.frames), places_of(hiding, rule)
    score = score_of(hiding, rule)
    from longtake.evaluate.needle_text import TextTrial

    return TextTrial(
        rule=rule,
        lengths=tuple(lengths),
        depths=tuple(depths),
        numbers=5 if hiding.cards is None else hiding.cards,
        distractors=hiding.distractors or 0,
        answer_tokens=hiding.max_new_tokens,
        score=score,
        seed=hiding.seed,
    )


def check_needles(hiding: Hiding) -> None:
    """Raise OptionError for options of needles that do not go together, or name no list."""
    from longtake.evaluate.annotations import find_list

    chains = hiding.kind == "multihop"
    for name, value in (("--hops", hiding.hops), ("--distractors", hiding.distractors)):
        if value is not None and (not chains or hiding.needles is not None):
            raise OptionError(f"{name} is of chains that are drawn; leave it out")
    if hiding.needles is not None:
        if hiding.cards is not None:
            raise OptionError("--cards draws needles and --needles reads them; choose one")
        find_list(hiding.needles)
    elif not chains and hiding.cards is not None and hiding.cards < 1:
        raise OptionError(f"cards must be 1 or more, got {hiding.cards}")


def needles_of(hiding: Hiding, depths: int) -> Sequence[Needle]:
    """Those of a list, or drawn; as many per depth."""
    from longtake.evaluate.multihop import Chains, drawn_chains
    from longtake.evaluate.needle_data import drawn_needles, read_needles

    chains = hiding.kind == "multihop"
    if hiding.needles is not None:
        return read_needles(hiding.needles, chains)
    count = 10 if hiding.cards is None else hiding.cards
    if chains:
        others = 1 if hiding.distractors is None else hiding.distractors
        hops = 2 if hiding.hops is None else hiding.hops
        return drawn_chains(Chains(count=count, cards=hops + 1, others=others), hiding.seed)
    return drawn_needles(count * depths, hiding.seed)
