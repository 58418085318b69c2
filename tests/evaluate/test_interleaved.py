"""LongVideoBench's subtitles between the frames: which, where, and by whom they are read."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.benchmarks import MAKERS, Made, dump
from tests.test_cli import run as run_command
from tests.test_cli_eval import words_for

from longtake.api import load
from longtake.captions import Caption
from longtake.evaluate.benchmarks import open_benchmark
from longtake.evaluate.plan import planned
from longtake.evaluate.prompts import STYLES, style_for
from longtake.evaluate.results import Results
from longtake.evaluate.run import Asking, run, styled
from longtake.evaluate.subtitles import Cue, shown_around, shown_between
from longtake.evaluate.videos import Library
from longtake.system import System
from longtake.types import Memory

ROOT = Path(__file__).parents[1]


def laid_out(cues: list[Cue], seconds: list[float]) -> list[str | float]:
    """Frames' times and texts in the order in which they are read, one cue after another."""
    left, order = list(seconds), list[str | float]()
    for cue in cues:
        middle = (cue.start + cue.end) / 2
        while left and left[0] <= middle:
            order.append(left.pop(0))
        half = max(cue.end - cue.start, 1.0) / 2
        if any(abs(time - middle) < half for time in seconds):
            order.append(cue.text)
    return [*order, *left]


def test_subtitles_stand_where_the_rule_puts_them() -> None:
    rng = random.Random(5)
    for _ in range(200):
        seconds = sorted(rng.uniform(0, 20) for _ in range(rng.randint(1, 8)))
        cues = []
        for number in range(rng.randint(0, 8)):
            start = rng.uniform(-2, 20)
            cues.append(Cue(start=start, end=start + rng.choice((0.3, 3.0)), text=f"{number}"))
        if rng.random() < 0.7:
            cues.sort(key=lambda cue: cue.start)
        captions = shown_between(cues, seconds)
        found: list[tuple[float, int, str | float]] = [(time, 0, time) for time in seconds]
        found += [(one.seconds, 1, one.text) for one in captions]
        in_order = [what for _, _, what in sorted(found, key=lambda one: one[:2])]
        assert in_order == laid_out(cues, seconds)
        assert "\n".join(one.text for one in captions) == shown_around(cues, seconds)


def test_which_styles_have_them_between() -> None:
    between = {
        (task, name)
        for task, styles in STYLES.items()
        for name, style in styles.items()
        if style.place == "between"
    }
    assert between == {("longvideobench", "official"), ("longvideobench", "lmms-eval")}
    assert style_for("longvideobench", "longva", None)[0] == "lmms-eval"
    # VideoChat-Flash's own evaluation lists them behind the video
    assert style_for("longvideobench", "videochat_flash", None)[1].place == "behind"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A second question about the first video, whose subtitles are two."""
    folder = tmp_path_factory.mktemp("lvb")
    made = MAKERS["longvideobench"](folder)
    rows = json.loads(made.annotations.read_text())
    dump(made.annotations, [*rows, rows[0] | {"id": "one_1", "question": "What colour is it?"}])
    dump(
        folder / "subtitles/one_en.json",
        [
            {"timestamp": [0.5, 1.5], "text": "Hello."},
            {"timestamp": [1.5, 2.2], "text": "Good bye."},
            {"timestamp": [50.0, 52.0], "text": "Never shown."},
        ],
    )
    return made


def answers(system: System, made: Made, folder: Path, style: str) -> list[dict[str, Any]]:
    task = open_benchmark("longvideobench", made.annotations)
    chosen = STYLES["longvideobench"][style]
    asking = Asking(
        system=styled(system, chosen),
        style=chosen,
        options=system.options(max_new_tokens=4, evidence=False),
        frames=4,
        subtitles=made.annotations.parent / "subtitles",
    )
    plan = planned(task, Library(folder=made.videos), None)
    with Results(folder / style, {"style": style}) as results:
        run(task, plan, asking, results)
        return [dict(row) for row in results.rows.values()]


def test_a_video_is_watched_once_with_its_subtitles_in_place(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, watched = load("default", device="cpu"), list[tuple[Any, ...]]()
    watch = System.watch

    def seen(self: System, *sources: Any, **options: Any) -> Memory:
        watched.append(tuple(options["captions"]))
        return watch(self, *sources, **options)

    monkeypatch.setattr(System, "watch", seen)
    rows = answers(system, made, tmp_path, "lmms-eval")
    # of a clip of 1.8 s at 5 frames a second: those at 0, 0.4, 1 and 1.6 s, subtitles 1 s earlier
    one = (
        Caption(seconds=0.0, text="Hello."),
        Caption(seconds=(0.5 + (2.2 - 1.0)) / 2, text="Good bye."),
    )
    assert watched[0] == one
    assert [(round(two.seconds, 6), two.text) for two in watched[1]] == [(0.05, "Hello there.")]
    assert len(watched) == 2
    assert [row["key"] for row in rows] == ["one_0", "one_1", "two_0"]
    assert all(row["subtitles"] and "error" not in row for row in rows)
    memory = watch(system, made.videos / "videos/one.mp4", max_frames=4, captions=one)
    style = STYLES["longvideobench"]["lmms-eval"]
    options = system.options(max_new_tokens=4, evidence=False)
    question = style.prompt("What colour is it?", ("stone", "river", "candle"), "")
    assert rows[1]["text"] == styled(system, style).ask(memory, question, options).text
    watched.clear()
    answers(system, made, tmp_path, "lmms-eval-together")
    assert watched == [(), ()]


def test_a_broken_file_of_subtitles_is_an_error_of_its_questions(
    made: Made, tmp_path: Path
) -> None:
    copy = tmp_path / "subtitles"
    copy.mkdir()
    for file in (made.annotations.parent / "subtitles").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "one_en.json").write_text('[{"timestamp": 3}]')
    annotations = tmp_path / "lvb_val.json"
    annotations.write_bytes(made.annotations.read_bytes())
    system = load("default", device="cpu")
    rows = answers(system, replace(made, annotations=annotations), tmp_path, "official")
    assert [row.get("error", "")[:15] for row in rows] == ["AnnotationError"] * 2 + [""]


def test_other_subtitles_of_the_same_video_are_another_showing(made: Made, tmp_path: Path) -> None:
    rows = json.loads(made.annotations.read_text())
    rows.append(rows[0] | {"id": "one_2", "starting_timestamp_for_subtitles": 2})
    task = open_benchmark("longvideobench", dump(tmp_path / "lvb_val.json", rows))
    plan = planned(task, Library(folder=made.videos), None)
    keys = [[one.key for one in showing.examples] for showing in plan.showings]
    assert keys == [["one_0", "one_1"], ["two_0"], ["one_2"]]


@pytest.mark.parametrize(
    ("style", "drop", "place"),
    [
        ((), (), "behind"),
        (("--style", "lmms-eval"), (), "between"),
        (("--style", "lmms-eval-together"), (), "behind"),
        (("--style", "official"), ("--drop", "4:1,0.5"), "behind"),
    ],
)
def test_the_header_says_where_they_stood(
    style: tuple[str, ...], drop: tuple[str, ...], place: str, made: Made, tmp_path: Path
) -> None:
    checkpoint = ROOT / "parity/golden/videochat_flash/ckpt-umt224"
    words = [*words_for("longvideobench", made, tmp_path / "out"), "--model", str(checkpoint)]
    folder = made.annotations.parent / "subtitles"
    result = run_command(*words, "--subtitles", str(folder), "--limit", "1", *style, *drop)
    assert result.exit_code == 0, result.stderr
    lines = (tmp_path / "out/answers.jsonl").read_text().splitlines()
    header, row = json.loads(lines[0])["header"], json.loads(lines[1])
    assert "error" not in row, row
    assert (header["subtitles"], header["subtitle_place"]) == (True, place)
    assert row["subtitles"] is True
    told = "reads a video as one stretch; subtitles stand together behind the video"
    assert (told in result.stderr) == bool(drop)
    assert json.loads((tmp_path / "out/result.json").read_text())["header"] == header


def test_without_subtitles_nothing_has_a_place(made: Made, tmp_path: Path) -> None:
    result = run_command(*words_for("longvideobench", made, tmp_path / "out"), "--limit", "1")
    assert result.exit_code == 0, result.stderr
    header = json.loads((tmp_path / "out/result.json").read_text())["header"]
    assert (header["subtitles"], header["subtitle_place"]) == (False, None)
