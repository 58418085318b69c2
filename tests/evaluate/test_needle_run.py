"""Grids on tiny models: what is read equals watching, one encoding, resumed to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.tiny import noise

from longtake.api import load
from longtake.commands.hiding import Hiding, needles_of
from longtake.errors import CapacityError, OptionError, StoreError
from longtake.evaluate import needle_run
from longtake.evaluate.multihop import Chains, drawn_chains
from longtake.evaluate.needle_data import Needle, drawn_needles
from longtake.evaluate.needle_memory import (
    Bench,
    asked_ids,
    common_rows,
    fill,
    forced,
    likeliest,
)
from longtake.evaluate.needle_plan import Films, open_films, plan_of
from longtake.evaluate.needle_rules import (
    CLEAN,
    LONGVA,
    VIDEO_XL,
    VIDEOCHAT_FLASH,
    Rule,
    depths_of,
)
from longtake.evaluate.needle_run import Cell, Trial, prepared, run
from longtake.evaluate.results import Results
from longtake.system import System
from longtake.types import Frames

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
CHECKPOINTS = {
    "longva": "longva/checkpoint-a",
    "video_xl": "video_xl/checkpoint",
    "videochat_flash": "videochat_flash/ckpt-umt224",
    "llava_onevision": "llava_onevision/checkpoint-small7-lmms",
}


@cache
def tiny(name: str) -> System:
    """A golden checkpoint, loaded once; nothing may change it."""
    return load(GOLDEN / CHECKPOINTS[name], device="cpu", dtype="float32")


def trial_of(needles: Sequence[Needle], **changes: object) -> Trial:
    """Clean single needles at two lengths and three depths."""
    trial = Trial(
        kind="single",
        rule=CLEAN,
        lengths=(4, 8),
        depths=tuple(depths_of(CLEAN, [0, 50, 100])),
        needles=tuple(needles),
        score="both",
        seed=7,
        answer_tokens=3,
    )
    return replace(trial, **changes)


def quiet(stage: str, done: int, total: int) -> None:
    """Hear nothing."""


def make(
    system: System,
    trial: Trial,
    path: Path,
    frames: Frames | None = None,
    progress: Callable[[str, int, int], None] = quiet,
) -> list[dict]:
    """Run a trial on noise."""
    with ExitStack() as stack:
        films = open_films([noise(24) if frames is None else frames], stack)
        header = trial.header(system, "tiny", ["noise"])
        results = stack.enter_context(Results(path, header))
        run(system, films, trial, results, progress, path.with_suffix(".hay"))
        return list(results.rows.values())


def with_card(frames: Frames, rows: Sequence[int], at: int, pixels_CHW: torch.Tensor) -> Frames:
    """Chosen frames with one of them replaced."""
    shown = frames.pixels_TCHW[list(rows)].clone()
    shown[at] = pixels_CHW
    seconds_T = frames.seconds_T[list(rows)]
    return Frames(pixels_TCHW=shown, seconds_T=seconds_T, index_T=torch.arange(len(rows)))


def everything(sample_all: object, num: int) -> list[int]:
    """Take every frame, whatever a system would."""
    return list(range(num))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("longva", {}),
        ("longva", {"kv": "int8"}),
        ("llava_onevision", {}),
        ("llava_onevision", {"pool": "1,2,3"}),
        ("video_xl", {"ratio": 4}),
        ("videochat_flash", {}),
        ("videochat_flash", {"drop": "1,2:1,0.75,0.5"}),
    ],
)
def test_a_filled_haystack_reads_as_the_same_frames_watched(name: str, options: dict) -> None:
    """Depths from the front, so that what is read once is used, then one out of order."""
    system = tiny(name).variant(**options)
    frames, span = noise(24), system.video_sizes.clip
    trial = trial_of(drawn_needles(1, 7), lengths=(8,))
    with ExitStack() as stack:
        films = open_films([frames], stack)
        grid = prepared(system, films, trial, quiet, None)
    chosen = [frame for clip in grid.plan.clips for frame in clip]
    pixels_CHW = trial.needles[0].pictures[0].draw(*films.size)
    watching = replace(system, sample=lambda footage, num: list(range(len(chosen))))
    for depth in [*trial.depths, trial.depths[1]]:
        groups = grid.groups(Cell(frames=8, depth=depth), 1)
        filled = fill(system, grid.hay, groups, grid.needles[0])
        memory = grid.bench.memory(filled, grid.hay, 8)
        at = len(groups[0]) * span
        film = with_card(frames, chosen, at, pixels_CHW)
        for more in range(1, span):
            film = with_card(film, range(len(chosen)), at + more, pixels_CHW)
        watched = watching.watch(film, max_frames=8)
        assert memory.length == watched.length
        ours, theirs = (
            system.ask(
                replace(m, lead="\n", fingerprint=system.fingerprint),
                "What?",
                system.options(max_new_tokens=6),
            )
            for m in (memory, watched)
        )
        assert ours.ids == theirs.ids
        assert len(memory.entries) == len(watched.entries)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames the tower sees, each time it sees some."""
    counts: list[int] = []
    kind = type(tiny("longva"))
    encode = kind.encode
    monkeypatch.setattr(kind, "encode", lambda self, x: (counts.append(len(x)), encode(self, x))[1])
    return counts


def test_the_tower_sees_each_frame_once(tmp_path: Path, seen: list[int]) -> None:
    """5 depths at 4 lengths that do not nest, a card for each depth."""
    system = tiny("longva")
    trial = trial_of(
        drawn_needles(5, 7),
        lengths=(5, 7, 12, 24),
        depths=tuple(depths_of(CLEAN, [0, 25, 50, 75, 100])),
        fresh=True,
        score="generated",
    )
    rows = make(system, trial, tmp_path / "r.jsonl")
    assert len(rows) == 20
    assert not any("error" in row for row in rows)
    assert sum(seen) == 24 + 5
    assert {row["asked"] for row in rows} == {3}


def test_a_grid_of_the_default_cards_costs_little_more_than_its_longest_haystack(
    seen: list[int],
) -> None:
    """docs/needles.md: at most 1.3 encodings from 167 frames on; 50 cards are many for fewer."""
    depths = tuple(depths_of(CLEAN, [0, 25, 50, 75, 100]))
    needles = needles_of(Hiding(), len(depths))
    assert len(needles) == 50
    trial = trial_of(needles, lengths=(50, 64, 128, 167), depths=depths, fresh=True)
    with ExitStack() as stack:
        films = open_films([noise(200, height=32, width=32)], stack)
        prepared(tiny("longva"), films, trial, quiet, None)
    assert sum(seen) == 167 + 50 <= 1.3 * 167


@pytest.mark.parametrize(
    ("rule", "around"),
    [
        (VIDEO_XL, "Question: {}\nAnswer: <|im_end|>\n<|im_start|>assistant\nBest option:("),
        (LONGVA, "{}<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_a_published_rule_asks_in_its_own_words(rule: Rule, around: str) -> None:
    """The whole sequence: what is read before the video, the video, all that is behind it."""
    system, question = tiny("longva"), "What {is} it?\nA. One\nB. Two"
    trial = trial_of(drawn_needles(1, 7), lengths=(4,), rule=rule)
    film = replace(noise(24), seconds_T=torch.arange(24, dtype=torch.float64))
    with ExitStack() as stack:
        grid = prepared(system, open_films([film], stack), trial, quiet, None)
    filled = fill(system, grid.hay, grid.groups(trial.cells()[1], 1), grid.needles[0])
    memory = grid.bench.memory(filled, grid.hay, 4)
    said = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        around.format(question),
    )
    before, behind = map(system.tokens, said)
    assert memory.ids == before
    assert memory.length == len(before) + 5 * grid.hay.tokens.counts[0]
    assert asked_ids(grid.bench, memory, question) == behind


def test_what_is_common_is_read_once() -> None:
    """Three cards at three depths of 16 frames: each reads from the first frame that differs."""
    system = tiny("longva")
    trial = trial_of(drawn_needles(3, 7), lengths=(16,))
    with ExitStack() as stack:
        grid = prepared(system, open_films([noise(24)], stack), trial, quiet, None)
    for cell in trial.cells():
        assert needle_run.cell_row(grid, cell, lambda done: None)["asked"] == 9
    frame = grid.hay.tokens.counts[0]
    assert grid.bench.tokens_read == frame * (3 * 16 + (16 + 2 * 8) + (8 + 2 * 1))


def test_common_rows() -> None:
    rows = torch.arange(12.0).reshape(4, 3)
    other = rows.clone()
    other[2, 1] = 99
    assert common_rows(None, rows) == 0
    assert common_rows(rows, rows) == 4
    assert common_rows(rows, rows[:2]) == 2
    assert common_rows(rows, other) == 2
    assert common_rows(other.flip(0), rows) == 0


def test_a_run_that_is_stopped_anywhere_ends_in_the_same_file(tmp_path: Path) -> None:
    system, trial = tiny("longva"), trial_of(drawn_needles(3, 7), fresh=True)
    make(system, trial, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert whole.count(b"\n") == 7
    assert not (tmp_path / "whole.hay").exists()
    path, stops = tmp_path / "part.jsonl", (1, 2, 1, 1)

    class Stopped(BaseException):
        """As a kill: nothing of ours catches it."""

    for stop in stops:
        left = iter(range(stop))

        def dying(stage: str, done: int, total: int, left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise Stopped

        with pytest.raises(Stopped):
            make(system, trial, path, progress=dying)
        if path.exists():  # a kill may also cut a row
            path.write_bytes(path.read_bytes() + b'{"key": "8/0.5", "fra')
    make(system, trial, path)
    assert path.read_bytes() == whole


def test_a_run_goes_on_without_seeing_the_haystack_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, trial = tiny("longva"), trial_of(drawn_needles(3, 7), fresh=True)
    path = tmp_path / "r.jsonl"
    calls: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        calls.append(stage)
        if calls.count("ask") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(system, trial, path, progress=stop)
    assert path.with_suffix(".hay").exists()
    stages: list[str] = []
    make(system, trial, path, progress=lambda stage, done, total: stages.append(stage))
    assert "encode" not in stages
    assert stages.count("ask") == 5
    assert len(make(system, trial, path)) == 6


def test_a_haystack_of_another_video_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    """Results may have been thrown away and the tokens left."""
    system, path = tiny("longva"), tmp_path / "r.jsonl"
    trial = trial_of(drawn_needles(1, 7), lengths=(4,), score="forced")
    make(system, trial, path)
    wanted = path.read_bytes()
    header = dict(trial.header(system, "tiny", ["other"]))
    with ExitStack() as stack:
        keeping = needle_run.Keeping.at(path.with_suffix(".hay"), header)
        prepared(system, open_films([noise(24, seed=9)], stack), trial, quiet, keeping)
    path.unlink()
    assert path.with_suffix(".hay").exists()
    make(system, trial, path)
    assert path.read_bytes() == wanted


def test_another_seed_is_refused_in_the_same_file(tmp_path: Path) -> None:
    system = tiny("longva")
    make(system, trial_of(drawn_needles(1, 7), lengths=(4,)), tmp_path / "r.jsonl")
    with pytest.raises(StoreError, match="seed was 7, now 8"):
        make(system, trial_of(drawn_needles(1, 7), lengths=(4,), seed=8), tmp_path / "r.jsonl")


def test_a_cell_that_fails_is_a_row_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, memory = tiny("longva"), Bench.memory

    def small(bench: Bench, filled: object, hay: object, frames: int) -> object:
        if frames == 8:
            raise CapacityError("8 frames do not fit")
        return memory(bench, filled, hay, frames)

    monkeypatch.setattr(Bench, "memory", small)
    trial = trial_of(drawn_needles(1, 7), score="generated")
    rows = make(system, trial, tmp_path / "r.jsonl")
    assert [row.get("error") for row in rows] == [None] * 3 + ["8 frames do not fit"] * 3
    header = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])["header"]
    assert header["fingerprint"] == system.fingerprint
    assert header["longtake"] and header["seed"] == 7


def test_forced_is_what_the_model_would_write(tmp_path: Path) -> None:
    """Wanting what greedy decoding says is always right, wanting anything else never."""
    system = tiny("longva")
    trial = trial_of(drawn_needles(1, 7), lengths=(4,))
    with ExitStack() as stack:
        grid = prepared(system, open_films([noise(24)], stack), trial, quiet, None)
    filled = fill(system, grid.hay, grid.groups(trial.cells()[1], 1), grid.needles[0])
    memory = grid.bench.memory(filled, grid.hay, 4)
    options = system.options(max_new_tokens=4, repetition_penalty=1.0)
    ids = system.ask(memory, "What?", options).ids
    said = system.tokenizer.decode(list(ids), skip_special_tokens=False)
    if system.tokens(said) == ids:
        assert forced(grid.bench, memory, "What?", said) == (True, ids)
    right, found = forced(grid.bench, memory, "What?", "entirely else")
    assert not right
    assert found[0] == ids[0]
    assert memory.cache.get_seq_length() == memory.length


def test_published_rules_let_the_heads_untrained_rows_win() -> None:
    """The originals' scripts do not cut the head to the tokenizer; "clean" does, as answers do."""
    system = tiny("longva")
    head_VD = system.model.lm_head.weight
    untrained = system.model.usable_vocab + 3
    assert untrained < len(head_VD)
    features_D = 100 * head_VD[untrained].detach()
    first = [
        likeliest(Bench(system=system, rule=rule), system.new_cache(), features_D, [5])[0]
        for rule in (LONGVA, VIDEOCHAT_FLASH, CLEAN, VIDEO_XL)
    ]
    assert first[:2] == [untrained] * 2
    assert max(first[2:]) < system.model.usable_vocab


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *((name, VIDEOCHAT_FLASH) for name in CHECKPOINTS if name != "video_xl"),
        ("video_xl", VIDEO_XL),
        ("videochat_flash", CLEAN),
    ],
)
def test_chains_and_singles_run_on_every_system(name: str, rule: object, tmp_path: Path) -> None:
    system = tiny(name)
    film = replace(noise(24), seconds_T=torch.arange(24, dtype=torch.float64))
    chains = drawn_chains(Chains(count=1, cards=2, others=1), 7)
    base = trial_of(chains, kind="multihop", depths=(), rule=rule, lengths=(16,))
    (row,) = make(system, base, tmp_path / "m.jsonl", film)
    assert "error" not in row, row
    counts = row["generated"]
    assert counts["chains"] == 1
    assert (
        counts["both"]["right"] + counts["only_caption"] + counts["only_answer"] + counts["neither"]
        == 1
    )
    single = trial_of(drawn_needles(1, 7), rule=rule, lengths=(6,), score="forced")
    rows = make(system, single, tmp_path / "s.jsonl", film)
    assert [row.get("error") for row in rows] == [None] * 3


def films_of(seconds: int, fps: int, stack: ExitStack) -> Films:
    shown = noise(seconds * fps, height=4, width=4)
    times = torch.arange(len(shown), dtype=torch.float64) / fps
    return open_films([replace(shown, seconds_T=times)], stack)


def test_lengths_take_what_their_rules_say() -> None:
    with ExitStack() as stack:
        films = films_of(40, 3, stack)
        plan = plan_of(LONGVA, 1, films, [4, 10], 12)
        assert plan.clips == tuple((3 * n,) for n in range(12))
        assert plan.rows == {4: [0, 1, 2, 3], 10: list(range(10))}
        assert plan.whole == 12
        plan = plan_of(CLEAN, 1, films, [3, 5])
        assert [clip[0] for clip in plan.clips] == [0, 29, 59, 89, 119]
        assert plan.rows[3] == [0, 2, 4]
        plan = plan_of(VIDEO_XL, 1, films, [2, 4])
        assert [[plan.clips[row][0] for row in plan.rows[n]] for n in (2, 4)] == [
            [0, 119],
            [0, 39, 79, 119],
        ]
        assert len(plan.clips) == 4, "frames that lengths share are seen once"
        plan = plan_of(VIDEO_XL, 4, films, [4, 6])
        assert [plan.clips[row // 4][row % 4] for row in plan.rows[6]] == [0, 23, 47, 71, 95, 119]
        plan = plan_of(CLEAN, 4, films, [8, 10])
        assert [len(plan.rows[n]) for n in (8, 10)] == [2, 3]
        with pytest.raises(OptionError, match="40 frames at one a second, 50 are asked"):
            plan_of(LONGVA, 1, films, [50])
        with pytest.raises(OptionError, match="120 frames in all, 200 are asked"):
            plan_of(CLEAN, 1, films, [200])


def test_a_long_haystack_of_videochat_flash_is_half_of_it_twice() -> None:
    rule = replace(VIDEOCHAT_FLASH, doubled_above=20)
    with ExitStack() as stack:
        films = films_of(40, 1, stack)
        plan = plan_of(rule, 4, films, [10, 24])
        assert (plan.units, plan.copies, plan.whole) == (32, 2, 24)  # two batches of 8 more
        assert plan_of(rule, 4, films, [20]).copies == 1
        assert plan_of(rule, 4, films, [70]).units == 40
        with pytest.raises(OptionError, match="80 frames"):
            plan_of(rule, 4, films, [90])


def test_several_videos_are_one_haystack() -> None:
    with ExitStack() as stack:
        films = open_films([noise(6, 1), noise(5, 2)], stack)
        assert films.frames == 11
        got = list(films.read([1, 5, 6, 10]))
        pixels = torch.cat([chunk.pixels_TCHW for chunk in got])
        wanted = [noise(6, 1).pixels_TCHW[[1, 5]], noise(5, 2).pixels_TCHW[[0, 4]]]
        assert torch.equal(pixels, torch.cat(wanted))
        seconds = torch.cat([chunk.seconds_T for chunk in got]).tolist()
        assert seconds == [0.5, 2.5, 3.0, 5.0]
