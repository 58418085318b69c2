"""V-NIAH by `longtake.evaluate` on the golden grid, and on other grids by a literal twin of it."""

import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.evaluate.needle_data import Ask, Needle
from longtake.evaluate.needle_plan import open_films
from longtake.evaluate.needle_rules import LONGVA, VIDEOCHAT_FLASH, Depth, Rule, depths_by
from longtake.evaluate.needle_run import Grid, Trial, prepared, run
from longtake.evaluate.results import Results
from longtake.parts.qwen2 import Step
from longtake.system import System
from longtake.types import Frames
from tests.parity.cases import Case, load_case
from tests.parity.longva import FEATURES, system_of

GOLDEN = Path(__file__).parent / "golden" / "longva" / "case-vniah-grid.json"


class Held:
    """A needle's picture in memory."""

    def __init__(self, pixels_CHW: Tensor) -> None:
        self.pixels_CHW = pixels_CHW

    def draw(self, width: int, height: int) -> Tensor:
        return self.pixels_CHW

    def identity(self) -> str:
        return str(self.pixels_CHW.sum().item())


def case() -> Case:
    return load_case(GOLDEN)


def source(case: Case) -> Frames:
    """The haystack's frames, one a second, so that the rule takes each of them."""
    frames_TCHW = case.pictures("haystack_frames")
    index_T = torch.arange(len(frames_TCHW))
    return Frames(pixels_TCHW=frames_TCHW, seconds_T=index_T.double(), index_T=index_T)


def trial_of(case: Case, lengths: range, interval: float, rule: Rule = LONGVA) -> Trial:
    """The case's needles on a grid."""
    needles = tuple(
        Needle(
            name=str(n),
            pictures=(Held(case.pictures(f"needle_image_{n}")),),
            asks=(Ask(name="answer", question=question, answer=answer),),
        )
        for n, (question, answer) in enumerate(
            zip(case.spec["questions"], case.spec["answers"], strict=True)
        )
    )
    return Trial(
        kind="single",
        rule=rule,
        lengths=tuple(lengths),
        depths=tuple(depths_by(rule, interval)),
        needles=needles,
        score="forced",
        seed=0,
        reach=lengths.stop - 1,
    )


def rows_of(system: System, case: Case, trial: Trial, path: Path) -> list[dict]:
    with ExitStack() as stack:
        films = open_films([source(case)], stack)
        results = stack.enter_context(Results(path, trial.header(system, "tiny", [])))
        run(system, films, trial, results, lambda *told: None)
        return list(results.rows.values())


def grid_of(system: System, case: Case, trial: Trial) -> Grid:
    with ExitStack() as stack:
        films = open_films([source(case)], stack)
        return prepared(system, films, trial, lambda *told: None, None)


def test_every_decision_of_the_golden_grid_is_the_originals(tmp_path: Path) -> None:
    golden = case()
    options = golden.spec["options"]
    lengths = range(
        options["min_frame_num"], options["max_frame_num"] + 1, options["frame_interval"]
    )
    trial = trial_of(golden, lengths, options["depth_interval"])
    rows = rows_of(system_of(golden), golden, trial, tmp_path / "r.jsonl")
    cells = golden.spec["cells"]
    assert [(row["frames"], row["share"], row["depth"]) for row in rows] == [
        (cell["num_frames"], cell["depth"], cell["frame_depth_label"]) for cell in cells
    ]
    assert [[int(one["forced"]) for one in row["answers"]] for row in rows] == [
        cell["correct"] for cell in cells
    ]
    assert [[one["predicted"] for one in row["answers"]] for row in rows] == [
        cell["pred_ids"] for cell in cells
    ]
    assert [row["forced"]["share"] for row in rows] == [
        cell["Score"] for cell in golden.spec["all_accuracies"]
    ]


def test_features_of_the_haystack_are_the_originals() -> None:
    golden = case()
    grid = grid_of(system_of(golden), golden, trial_of(golden, range(4, 13, 4), 0.25))
    wanted = golden.tensors["haystack_embeddings"][:12].flatten(0, 1)
    assert float((grid.hay.tokens.features_ND - wanted).abs().max()) <= FEATURES


@torch.no_grad()
def literal(
    system: System, grid: Grid, case: Case, lengths: range, interval: float
) -> list[list[int]]:
    """The original's loop, word for word but for the padding: one whole forward per decision."""
    hay_TPD = grid.hay.tokens.features_ND.unflatten(0, (grid.hay.units, -1))[: lengths.stop - 1]
    decisions = []
    for num_frames in lengths:
        for depth in np.arange(0, 1 + interval, interval):
            row = []
            for needle, (question, answer) in enumerate(
                zip(case.spec["questions"], case.spec["answers"], strict=True)
            ):
                at = int(depth * num_frames)
                needle_PD = grid.needles[needle][0].features_ND
                hay = [hay_TPD[:at].flatten(0, 1), needle_PD, hay_TPD[at:num_frames].flatten(0, 1)]
                words = [system.embed_text(case.spec["preprompt"]), *hay]
                words += [system.embed_text(t) for t in (question, case.spec["postprompt"])]
                answer_ids = torch.tensor(system.tokens(answer))
                x_SD = torch.cat([*words, system.model.embed(answer_ids)])
                step = Step(positions_BS=torch.arange(len(x_SD))[None])
                features_SD = system.model.decoder(x_SD[None], step)[0]
                logits = F.linear(features_SD, system.model.lm_head.weight)
                start = len(x_SD) - len(answer_ids) - 1
                row.append(int((logits[start:-1].argmax(-1) == answer_ids).all()))
            decisions.append(row)
    return decisions


@pytest.mark.parametrize(
    ("lengths", "interval"),
    [(range(4, 13, 8), 0.3), (range(5, 16, 10), 0.5)],
)
def test_other_grids_equal_a_literal_twin(lengths: range, interval: float, tmp_path: Path) -> None:
    """0.3 has a depth of 1.2, which reaches into frames behind a length and stops at the last."""
    golden = case()
    system = system_of(golden)
    trial = trial_of(golden, lengths, interval)
    rows = rows_of(system, golden, trial, tmp_path / "r.jsonl")
    ours = [[int(one["forced"]) for one in row["answers"]] for row in rows]
    grid = grid_of(system, golden, trial)
    assert ours == literal(system, grid, golden, lengths, interval)
    assert 0 < sum(map(sum, ours)) < sum(map(len, ours)), "a grid that can tell"


@pytest.mark.parametrize(
    "change", [{"added": False}, {"square": False}, {"own_words": True}, {"repeat": 2}]
)
def test_another_rule_decides_otherwise(change: dict, tmp_path: Path) -> None:
    golden = case()
    rule = replace(LONGVA, **change)
    trial = trial_of(golden, range(4, 9, 4), 0.25, rule)
    rows = rows_of(system_of(golden), golden, trial, tmp_path / "r.jsonl")
    theirs = [cell["correct"] for cell in golden.spec["cells"][: len(rows)]]
    assert [[int(one["forced"]) for one in row["answers"]] for row in rows] != theirs


def test_letters_count_without_case_and_parentheses(tmp_path: Path) -> None:
    """VideoChat-Flash compares decoded text; on its rule a needle is shown four times."""
    golden = case()
    system = system_of(golden)
    trial = trial_of(golden, range(4, 9, 4), 0.5, VIDEOCHAT_FLASH)
    rows = rows_of(system, golden, trial, tmp_path / "r.jsonl")
    for row in rows:
        for one, wanted in zip(row["answers"], golden.spec["answers"], strict=True):
            ids = list(system.tokens(wanted))
            said, meant = (
                system.tokenizer.decode(found, skip_special_tokens=False).lower()
                for found in (one["predicted"], ids)
            )
            assert one["forced"] == (said.replace("(", "").replace(")", "") == meant)
    assert grid_of(system, golden, trial).needles[0][0].counts == (9,) * 4
    assert math.isclose(rows[0]["share"], 0.0) and trial.depths[1] == Depth(share=0.5, label=50.0)
