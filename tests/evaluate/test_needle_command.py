"""`longtake needle` through its public face: tables, files, going on, one line for each mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.clips import write_clip
from typer.testing import CliRunner, Result

from longtake.cli import app

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/parity/golden/longva/checkpoint-a"
TINY = ("--model", str(MODEL), "--device", "cpu", "--dtype", "float32")
GRID = ("--frames", "4,8", "--depths", "0,100", "--cards", "1", "--max-new-tokens", "2")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["needle", *map(str, words)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "ten.mp4", 10)


def test_a_grid_prints_a_table_and_leaves_its_files(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(clip, *TINY, *GRID, "--out", out)
    assert first.exit_code == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0].split() == ["depth", "4", "frames", "8", "frames"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "100", "all"]
    assert {path.name for path in out.iterdir()} == {"needle.jsonl", "needle.md", "needle.png"}
    with Image.open(out / "needle.png") as picture:
        assert min(picture.size) > 200
    header, *rows = map(json.loads, (out / "needle.jsonl").read_text().splitlines())
    assert header["header"]["seed"] == 0
    assert {"longtake", "fingerprint"} <= set(header["header"])
    assert len(rows) == 4
    assert all(0 <= row["generated"]["low"] <= row["generated"]["high"] <= 1 for row in rows)
    assert "| depth | 4 frames | 8 frames |" in (out / "needle.md").read_text()
    again = run(clip, *TINY, *GRID, "--out", out)
    assert again.stdout == first.stdout
    other = run(clip, *TINY, *GRID, "--out", out, "--seed", "5")
    assert other.exit_code == 7
    assert "seed was 0, now 5" in other.stderr


def test_a_grid_that_cannot_be_drawn_says_so(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longtake.evaluate.needle_report.find_spec", lambda name: None)
    words = (*TINY, "--frames", "4", "--depths", "0", "--cards", "1", "--max-new-tokens", "2")
    result = run(clip, *words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("\n") == 1
    assert "no heat map: matplotlib is not installed" in result.stderr
    assert not (tmp_path / "out/needle.png").exists()
    chains = ("--kind", "multihop", "--hops", "1", "--frames", "8", "--cards", "1")
    result = run(clip, *TINY, *chains, *words[-2:], "--out", tmp_path / "chains")
    assert (result.exit_code, result.stderr) == (0, ""), "chains have none"


def test_a_refused_run_does_not_stand_in_the_way_of_the_next(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused = run(clip, *TINY, "--frames", "64", "--depths", "0", "--cards", "1", "--out", out)
    assert "10 frames in all, 64 are asked" in refused.stderr
    words = ("--frames", "8", "--depths", "0", "--cards", "1", "--max-new-tokens", "2")
    result = run(clip, *TINY, *words, "--out", out)
    assert result.exit_code == 0, result.stderr


def test_other_options_of_the_system_are_refused_in_the_same_folder(
    clip: Path, tmp_path: Path
) -> None:
    words = (*TINY, "--frames", "4", "--depths", "0", "--cards", "1", "--max-new-tokens", "2")
    assert run(clip, *words, "--out", tmp_path / "out").exit_code == 0
    other = run(clip, *words, "--kv", "int8", "--out", tmp_path / "out")
    assert other.exit_code == 7
    assert "given was {}, now {'kv': 'int8'}" in other.stderr
    head = json.loads((tmp_path / "out/needle.jsonl").read_text().splitlines()[0])["header"]
    assert set(head["versions"]) == {"python", "torch", "transformers", "av"}
    assert head["weights"]


def test_chains_and_texts(clip: Path, tmp_path: Path) -> None:
    words = (*TINY, "--frames", "8", "--cards", "1", "--max-new-tokens", "2")
    result = run(clip, *words, "--kind", "multihop", "--hops", "1", "--out", tmp_path / "m")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split()[:5] == ["frames", "score", "caption", "answer", "both"]
    assert not (tmp_path / "m" / "needle.png").exists(), "chains have no depths"
    (tmp_path / "book.txt").write_text("Once upon a time. The end. ")
    words = (*TINY, "--frames", "20", "--depths", "0,50", "--cards", "1", "--distractors", "1")
    result = run(tmp_path / "book.txt", *words, "--kind", "text", "--out", tmp_path / "t")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--kind", "triple"), 2, "choose single, multihop, text"),
        (("--frames", "x"), 2, "frames must be numbers"),
        (("--frames", "64"), 2, "the haystack has 10 frames in all, 64 are asked"),
        (("--depths", "120"), 2, "a depth must be 0 to 100"),
        (("--depths", "0", "--depth-interval", "0.5"), 2, "choose one"),
        (("--depth-interval", "2"), 2, "a depth interval must be above 0"),
        (("--rule", "none"), 2, "rule 'none' is unknown"),
        (("--score", "none"), 2, "score 'none' is unknown"),
        (("--cards", "0"), 2, "cards must be 1 or more"),
        (("--hops", "2"), 2, "--hops is of chains"),
        (("--kind", "multihop", "--hops", "0"), 2, "2 cards or more"),
        (("--kind", "multihop", "--depths", "0"), 2, "leave the depths out"),
        (("--kind", "multihop", "--distractors", "40"), 2, "more than the 60"),
        (("--needles", "none"), 2, "does not exist"),
        (("--kind", "text", "--rule", "video-xl"), 2, "is of videos"),
        (("--kind", "text"), 2, "no text that can be read"),
    ],
)
def test_mistakes_are_one_line(
    clip: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    result = run(clip, *TINY, "--frames", "4", *words, "--out", tmp_path / "out")
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert said in result.stderr


def test_places_and_sources_that_cannot_be_used(clip: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    (tmp_path / "file").write_text("mine")
    for source, out, code, said in (
        (tmp_path / "still.png", "out", 2, "still picture"),
        (tmp_path / "none.mp4", "out", 3, "none.mp4"),
        (clip, "file", 2, "cannot be a folder"),
        (clip, "file/below", 2, "cannot be a folder"),
    ):
        result = run(source, *TINY, "--frames", "4", "--out", tmp_path / out)
        assert result.exit_code == code, result.stderr
        assert result.stderr.count("\n") == 1
        assert said in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_file(clip: Path, tmp_path: Path) -> None:
    """SIGKILL at whatever moment the first row is there; then the same command again."""
    words = ["needle", clip, *TINY, *GRID]
    whole = tmp_path / "whole"
    assert run(*words[1:], "--out", whole).exit_code == 0
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "longtake", *map(str, words), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    rows = out / "needle.jsonl"
    while process.poll() is None and not (rows.exists() and rows.read_bytes().count(b"\n") > 1):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(*words[1:], "--out", out).exit_code == 0
    assert rows.read_bytes() == (whole / "needle.jsonl").read_bytes()
    assert (out / "needle.md").read_bytes() == (whole / "needle.md").read_bytes()
