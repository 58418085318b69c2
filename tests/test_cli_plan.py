"""`longtake plan`, and `--max-frames auto` of the other commands."""

import json
import shutil
from pathlib import Path

import pytest

from tests.clips import write_clip
from tests.test_cli import MODEL, TINY, error_line, run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def clip(home: Path) -> Path:
    return write_clip(home / "twenty.mp4", 20)


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    """A folder without weights and without a tokenizer."""
    (home / "model").mkdir()
    shutil.copy(MODEL / "config.json", home / "model")
    shutil.copytree(MODEL / "vision_tower", home / "model" / "vision_tower")
    return home / "model"


def test_the_screen_fits_80_columns_and_says_what_matters(clip: Path, folder: Path) -> None:
    result = run("plan", clip, "--model", folder, "--device", "cpu", "--memory", "2GiB")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for word in ("twenty.mp4", "no tokenizer", "prefill", "--pool fine", "--kv int8", "2.0 GiB"):
        assert word in result.stdout, word
    assert "speeds measured here" in result.stdout
    assert lines[-2].startswith("most: --max-frames 20 (20 frames)")
    assert any(line.startswith("32 frames, of 20 there are: some repeat; fits: ") for line in lines)


def test_frames_that_repeat_are_told_where_they_do(clip: Path, folder: Path) -> None:
    words = ("--model", folder, "--device", "cpu", "--max-frames", "20")
    assert "some repeat" not in run("plan", clip, *words).stdout
    words = ("--model", *TINY[1:4], "--device", "cpu")
    assert "32 frames, of 20 there are: some repeat" in run("inspect", clip, *words).stdout
    assert "some repeat" not in run("inspect", clip, *words, "--max-frames", "20").stdout
    told = json.loads(run("inspect", clip, *words, "--json").stdout)
    assert (told["sampled"], told["distinct"]) == (32, 20)


def test_a_gpu_elsewhere_is_told_as_an_estimate(clip: Path, folder: Path) -> None:
    words = ("--device", "4090", "--max-frames", "8", "--json")
    told = json.loads(run("plan", clip, "--model", folder, *words).stdout)
    assert (told["device"], told["estimated"]) == ("NVIDIA RTX 4090", True)
    assert told["own"]["tokens"] == 8 * 9
    shown = run("plan", clip, "--model", folder, "--device", "h200").stdout
    assert "an estimate from published figures" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_nothing_fits(clip: Path, folder: Path) -> None:
    shown = run("plan", clip, "--model", folder, "--device", "cpu", "--memory", "1MiB").stdout
    assert "nothing fits" in shown


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--memory", "much"], 2, "memory must be bytes such as"),
        (["--device", "abacus"], 2, "abacus"),
        (["--ratio", "8"], 2, "no option 'ratio'"),
        (["--start", "900"], 2, "no frame lies between"),
        (["--model", "nowhere/at/all"], 4, "nowhere/at/all"),
    ],
)
def test_what_means_nothing_is_one_line(
    words: list[str], code: int, told: str, clip: Path, folder: Path
) -> None:
    result = run("plan", clip, *(() if "--model" in words else ("--model", folder)), *words)
    assert result.exit_code == code
    assert told in error_line(result)
    assert result.stdout == ""


def test_what_is_no_video_or_no_model(home: Path, folder: Path, clip: Path) -> None:
    assert run("plan", home / "nothing.mp4", "--model", folder).exit_code == 3
    (home / "words.mp4").write_text("these are words")
    assert run("plan", home / "words.mp4", "--model", folder).exit_code == 3
    (home / "empty").mkdir()
    result = run("plan", clip, "--model", home / "empty")
    assert result.exit_code == 4
    assert "config.json" in error_line(result)


def test_auto_says_what_it_chose_and_why(clip: Path) -> None:
    result = run("ask", clip, "What?", *TINY, "--max-new-tokens", "1", "--max-frames", "auto")
    assert result.exit_code == 0, result.stderr
    assert "--max-frames auto: 20 frames; the video has no more" in result.stderr
    words = ("--max-frames", "auto", "--json", "--device", "cpu")
    result = run("inspect", clip, *TINY[:4], *words)
    assert json.loads(result.stdout)["sampled"] == 20
    assert "20 frames" in result.stderr
    refused = run("inspect", clip, "--max-frames", "auto")
    assert refused.exit_code == 2
    assert "takes a video and --model" in error_line(refused)


def test_what_cannot_fit_is_status_6(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longtake.system.free_bytes", lambda device: 1000)
    result = run("ask", clip, "What?", *TINY)
    assert result.exit_code == 6
    assert "are free on cpu; not even one frame would fit" in error_line(result)
