"""Run a grid of needles: cells in order, each a row of results, also one that fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longtake.errors import CapacityError, LongtakeError, StoreError
from longtake.evaluate.header import about
from longtake.evaluate.needle_data import Ask, Needle
from longtake.evaluate.needle_hay import Hay, see_films, see_picture
from longtake.evaluate.needle_kept import load_hay, save_hay
from longtake.evaluate.needle_memory import (
    ANSWER_TOKENS,
    Bench,
    Filled,
    fill,
    forced,
    generated,
)
from longtake.evaluate.needle_plan import Films, Plan, plan_of
from longtake.evaluate.needle_rules import Depth, Rule, Score, matches, parted, spread
from longtake.evaluate.needle_scores import chain_summary, single_summary
from longtake.evaluate.results import Results, Row
from longtake.reader import Progress
from longtake.system import System
from longtake.types import Answer, Memory, VisualTokens

Kind = Literal["single", "multihop"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is to be measured."""

    kind: Kind
    rule: Rule
    lengths: tuple[int, ...]
    """Frames, ascending."""
    depths: tuple[Depth, ...]
    """Of single needles, ascending: what a haystack begins with is then read once."""
    needles: tuple[Needle, ...]
    fresh: bool = False
    """Each depth has needles of its own, an equal share of them, so that the depths of a length are
    independent and may be counted together."""
    score: Score
    seed: int
    reach: int = 0
    """Frames of the haystack where no length is as long (V-NIAH)."""
    answer_tokens: int = ANSWER_TOKENS

    @property
    def shown(self) -> Literal["forced", "generated"]:
        """Which way of scoring the picture shows."""
        return self.rule.headline if self.score == "both" else self.score

    def cells(self) -> list[Cell]:
        """Length by length; a chain has no depth."""
        depths: Sequence[Depth | None] = self.depths if self.kind == "single" else (None,)
        return [Cell(frames=n, depth=depth) for n in self.lengths for depth in depths]

    def share_of(self, cell: Cell) -> slice:
        """Which of the needles a cell hides."""
        if not self.fresh or cell.depth is None:
            return slice(None)
        each, place = len(self.needles) // len(self.depths), self.depths.index(cell.depth)
        return slice(place * each, (place + 1) * each)

    def header(
        self, system: System, model: str, sources: Sequence[str], given: Row | None = None
    ) -> Row:
        """What results of this trial depend on; `given`: options of the system."""
        return {
            "what": f"needle {self.kind}",
            "model": model,
            **about(system, given),
            "seed": self.seed,
            "rule": self.rule.name,
            "score": self.score,
            "frames": list(self.lengths),
            "reach": self.reach,
            "depths": [[depth.share, depth.label] for depth in self.depths],
            "answer_tokens": self.answer_tokens,
            "fresh": self.fresh,
            "videos": list(sources),
            "needles": [f"{needle.name} {needle.identity()}" for needle in self.needles],
        }


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of results."""

    frames: int
    depth: Depth | None

    @property
    def key(self) -> str:
        """Its name in the file."""
        return str(self.frames) if self.depth is None else f"{self.frames}/{self.depth.share!r}"

    def about(self) -> dict[str, Any]:
        """What a row begins with."""
        told: dict[str, Any] = {"key": self.key, "frames": self.frames}
        if self.depth is not None:
            told |= {"depth": self.depth.label, "share": self.depth.share}
        return told


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What all cells share."""

    trial: Trial
    plan: Plan
    hay: Hay
    needles: tuple[tuple[VisualTokens, ...], ...]
    """Tokens of each needle's pictures."""
    bench: Bench

    def groups(self, cell: Cell, pictures: int) -> list[list[int]]:
        """Rows of the haystack around the needles."""
        rows, rule = self.plan.rows[cell.frames], self.trial.rule
        if cell.depth is None:
            return spread(rule, rows, pictures)
        return list(parted(rule, rows, cell.depth, self.plan.whole))


def run(
    system: System,
    films: Films,
    trial: Trial,
    results: Results,
    progress: Progress,
    kept: Path | None = None,
) -> None:
    """Make the rows that are not there yet.

    `kept`: a file for the haystack's tokens, so that a run that goes on need not see the videos
    again; it is taken away when all rows are there. Raises LongtakeError for what concerns more
    than one cell.
    """
    left = [cell for cell in trial.cells() if cell.key not in results.done()]
    if left:
        grid = prepared(system, films, trial, progress, Keeping.at(kept, results.header))
        total, to_do = (work_of(trial, cells) for cells in (trial.cells(), left))
        done = total - to_do
        for cell in left:

            def asked(needle: int, begun: int = done, cell: Cell = cell) -> None:
                progress("ask", begun + needle * cell.frames, total)

            results.add(cell_row(grid, cell, asked))
            done += work_of(trial, [cell])
    if kept is not None:
        kept.unlink(missing_ok=True)


def work_of(trial: Trial, cells: Sequence[Cell]) -> int:
    """Frames to be read, a haystack counted once for each of its needles."""
    return sum(cell.frames * len(trial.needles[trial.share_of(cell)]) for cell in cells)


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where a haystack's tokens are kept, and what they were made of."""

    path: Path
    name: str

    @classmethod
    def at(cls, path: Path | None, header: Row) -> Keeping | None:
        """For results under this header."""
        return None if path is None else cls(path=path, name=kept_name(header))


def prepared(
    system: System, films: Films, trial: Trial, progress: Progress, keeping: Keeping | None
) -> Grid:
    """See haystack and needles, each picture once."""
    rule, span = trial.rule, system.video_sizes.clip
    plan = plan_of(rule, span, films, trial.lengths, trial.reach)
    device = system.model.device
    hay = None if keeping is None else load_hay(keeping.path, keeping.name, device)
    if hay is None:
        hay = see_films(system, films, plan, rule, progress)
        if keeping is not None:
            save_hay(keeping.path, keeping.name, hay)
    needles = tuple(
        tuple(see_picture(system, picture, rule, films.size, span) for picture in needle.pictures)
        for needle in trial.needles
    )
    bench = Bench(system=system, rule=rule)
    return Grid(trial=trial, plan=plan, hay=hay, needles=needles, bench=bench)


def kept_name(header: Row) -> str:
    """What a kept haystack depends on, needles and depths aside."""
    aside = ("what", "model", "seed", "score", "depths", "answer_tokens", "needles", "fresh")
    return json.dumps({name: value for name, value in header.items() if name not in aside})


def cell_row(grid: Grid, cell: Cell, asked: Callable[[int], None]) -> Row:
    """One cell's row; a failure that concerns it alone becomes its "error"."""
    try:
        answers = list(cell_answers(grid, cell, asked))
    except StoreError:
        raise
    except (LongtakeError, MemoryError) as error:
        reason = error if isinstance(error, LongtakeError) else CapacityError("out of memory")
        return {**cell.about(), "error": " ".join(str(reason).split())}
    summary = single_summary if cell.depth is not None else chain_summary
    return {**cell.about(), "asked": len(answers), **summary(answers), "answers": answers}


def cell_answers(grid: Grid, cell: Cell, asked: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """What was answered about each needle."""
    trial, bench = grid.trial, grid.bench
    mine = trial.share_of(cell)
    pairs = zip(trial.needles[mine], grid.needles[mine], strict=True)
    for number, (needle, tokens) in enumerate(pairs, 1):
        groups = grid.groups(cell, len(tokens))
        filled = fill(bench.system, grid.hay, groups, tokens)
        memory = bench.memory(filled, grid.hay, cell.frames)
        for ask in needle.asks:
            yield {"needle": needle.name, "about": ask.name, "wanted": ask.answer} | answered(
                trial, bench, memory, ask, filled
            )
        asked(number)


def answered(
    trial: Trial, bench: Bench, memory: Memory, ask: Ask, filled: Filled
) -> dict[str, Any]:
    """One question, in the ways that are scored."""
    told: dict[str, Any] = {}
    if trial.score in ("forced", "both"):
        right, ids = forced(bench, memory, ask.question, ask.answer)
        told |= {"forced": right, "predicted": list(ids)}
    if trial.score in ("generated", "both"):
        said = generated(bench, memory, ask.question, trial.answer_tokens)
        told |= {
            "generated": matches(trial.rule, said.text, ask.answer),
            "exact": said.text == ask.answer,
            "said": said.text,
        }
        if trial.kind == "single":
            told["moment"] = at_moment(said, filled)
    return told


def at_moment(said: Answer, filled: Filled) -> bool:
    """The answer's heaviest span is within one step of the needle."""
    if not said.evidence:
        return False
    top, slack = said.evidence[0], filled.slack * 1.001
    return any(top.start - slack <= moment <= top.end + slack for moment in filled.seconds)
