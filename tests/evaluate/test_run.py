"""Runs on tiny benchmarks with the bundled model: resumed, shared memories, errors written down."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image
from tests.evaluate.benchmarks import MAKERS, Made, dump, video_mme
from tests.test_cli import ENVIRONMENT, ROOT

from longtake.api import load
from longtake.evaluate.benchmarks import open_benchmark
from longtake.evaluate.plan import planned
from longtake.evaluate.prompts import STYLES
from longtake.evaluate.report import reported, save_report
from longtake.evaluate.results import Results
from longtake.evaluate.run import Asking, every_second, opened, run, styled
from longtake.evaluate.videos import Library
from longtake.system import System
from longtake.video.decode import open_video
from longtake.video.sample import Footage

HEADER = {"task": "video-mme", "system": "longva"}


@pytest.fixture(scope="module")
def system() -> System:
    return load("default", device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return video_mme(tmp_path_factory.mktemp("mme"))


@dataclass
class Run:
    """One run, what it watched, and the bytes it left."""

    watched: int
    asked: list[str]
    answers: bytes
    report: bytes


def go(system: System, made: Made, folder: Path, name: str = "video-mme") -> Run:
    """Run what is left of a benchmark in a folder."""
    folder.mkdir(exist_ok=True)
    task = open_benchmark(name, made.annotations)
    plan = planned(task, Library(folder=made.videos), None)
    style = next(iter(STYLES[name].values()))
    options = system.options(max_new_tokens=4, evidence=False)
    asking = Asking(system=styled(system, style), style=style, options=options, frames=4)
    counted: list[tuple[str, int]] = []
    with Results(folder / "answers.jsonl", HEADER) as results:
        before = results.done()
        run(task, plan, asking, results, lambda stage, done, total: counted.append((stage, done)))
        save_report(reported(task, plan, style, HEADER, results.rows), folder / "result.json")
        asked = [key for key in results.rows if key not in before]
    return Run(
        watched=counted.count(("encode", 4)),
        asked=asked,
        answers=(folder / "answers.jsonl").read_bytes(),
        report=(folder / "result.json").read_bytes(),
    )


@pytest.fixture(scope="module")
def whole(system: System, made: Made, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing stopped."""
    return go(system, made, tmp_path_factory.mktemp("whole"))


def test_questions_about_a_video_share_its_memory(whole: Run) -> None:
    assert whole.asked == ["001-1", "001-2", "301-1"]
    assert whole.watched == 2


def test_a_run_cut_anywhere_goes_on_to_the_same_files(
    system: System, made: Made, whole: Run, tmp_path: Path
) -> None:
    ends = [place + 1 for place, byte in enumerate(whole.answers) if byte == 10]
    cuts = [0, 7, *ends, *random.Random(3).sample(range(ends[0], len(whole.answers)), 3)]
    for number, cut in enumerate(cuts):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "answers.jsonl").write_bytes(whole.answers[:cut])
        again = go(system, made, folder)
        assert (again.answers, again.report) == (whole.answers, whole.report), cut
        assert len(again.asked) == 3 - sum(cut >= end for end in ends[1:]), cut


def test_an_error_is_written_down_and_the_run_goes_on(
    system: System, made: Made, whole: Run, tmp_path: Path
) -> None:
    broken = tmp_path / "videos"
    broken.mkdir()
    (broken / "aaa.mp4").write_bytes(b"no video")
    (broken / "bbb.mp4").write_bytes((made.videos / "data/bbb.mp4").read_bytes())
    result = go(system, replace(made, videos=broken), tmp_path / "out")
    rows = [json.loads(line) for line in result.answers.splitlines()[1:]]
    assert [row["key"] for row in rows] == ["001-1", "001-2", "301-1"]
    assert all(row["error"].startswith("VideoError: ") for row in rows[:2])
    assert rows[2] == json.loads(whole.answers.splitlines()[3])
    report = json.loads(result.report)
    assert (report["answered"], len(report["failed"]), report["complete"]) == (1, 2, False)
    assert report["figures"][0]["asked"] == 1


def test_the_same_clip_in_parts_is_watched_in_parts(system: System, tmp_path: Path) -> None:
    made = MAKERS["mvbench"](tmp_path)
    rows = json.loads((made.annotations / "moving_count.json").read_text())
    rows.append(rows[0] | {"start": 0.5})
    (made.annotations / "moving_count.json").write_text(json.dumps(rows))
    task = open_benchmark("mvbench", made.annotations)
    plan = planned(task, Library(folder=made.videos), None)
    assert [(shown.start, shown.end) for shown in plan.showings] == [
        (None, None),
        (0.0, 1.5),
        (0.5, 1.5),
    ]
    folders = [shown.video.parent.name for shown in plan.showings]
    assert folders == ["videos", "video_validation", "video_validation"], "each kind has its own"


def test_a_folder_of_frames_is_as_fast_as_its_task_says(tmp_path: Path) -> None:
    """Three frames a second of MVBench's episodic_reasoning, one of others (LVBench)."""
    row = {"video": "clip", "question": "What?", "candidates": ["a", "b"], "answer": "b"}
    rates = {}
    for place, kind in (("tvqa/frames_fps3_hq", "episodic_reasoning"), ("vlnqa", "x")):
        frames = tmp_path / kind / place / "clip"
        frames.mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (32, 32)).save(frames / f"{number}.jpg")
        dump(tmp_path / f"{kind}.json", [row])
        task = open_benchmark("mvbench", tmp_path / f"{kind}.json")
        plan = planned(task, Library(folder=tmp_path / kind / place), None)
        with opened(plan.showings[0]) as path, open_video(path) as video:
            rates[kind] = (plan.showings[0].rate, video.fps)
    assert rates == {
        "episodic_reasoning": (3, pytest.approx(3.0)),
        "x": (1, pytest.approx(1.0)),
    }


def test_a_style_changes_prompt_and_sampling_only(system: System) -> None:
    style = STYLES["vnbench"]["video-xl"]
    other = styled(system, style)
    assert other.template.system == style.system
    assert other.sample is every_second
    assert other.model is system.model
    begun = styled(system, STYLES["mlvu"]["official"])
    assert begun.template.assistant.endswith("assistant\nBest Option: (")
    assert styled(system, STYLES["mlvu"]["lmms-eval"]).template == system.template


@pytest.mark.parametrize(
    ("frames", "fps", "most", "expected"),
    [
        (75, 25.0, 10, [0, 25, 50]),
        (89, 29.97, 10, [0, 29]),
        (10, 25.0, 10, [0]),
        (250, 25.0, 3, [0, 124, 249]),
    ],
)
def test_a_frame_each_second(frames: int, fps: float, most: int, expected: Sequence[int]) -> None:
    assert every_second(Footage(frames=frames, fps=fps), most) == list(expected)


@pytest.mark.slow
def test_a_killed_process_is_resumed_to_the_same_files(made: Made, tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        words = ["eval", "video-mme", "--annotations", str(made.annotations), "--videos"]
        words += [str(made.videos), "--max-frames", "4", "--device", "cpu", "--resume", "--out"]
        return [sys.executable, "-m", "longtake", *words, str(tmp_path / out)]

    def finish(out: str) -> float:
        began = time.perf_counter()
        subprocess.run(command(out), env=ENVIRONMENT, cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - began

    took = finish("whole")
    chance = random.Random(5)
    for number in range(3):
        process = subprocess.Popen(
            command(f"cut{number}"), env=ENVIRONMENT, cwd=ROOT, stdout=-3, stderr=-3
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=took * chance.uniform(0.3, 0.95))
        process.send_signal(signal.SIGKILL)
        process.wait()
        finish(f"cut{number}")
        for name in ("answers.jsonl", "result.json", "result.txt"):
            cut, whole = tmp_path / f"cut{number}" / name, tmp_path / "whole" / name
            assert cut.read_bytes() == whole.read_bytes(), name
