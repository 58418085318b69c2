"""How a video would be cut: the survey equals what watching does, and its picture shows it."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from longtake.cli import app
from longtake.errors import OptionError
from longtake.survey import survey
from longtake.terminal import survey_text
from longtake.timeline import draw
from longtake.video.decode import open_video
from tests.test_condense import CHECKPOINT, tiny
from tests.tiny import CHECKPOINT as LONGVA
from tests.tiny import noise
from tests.tiny import tiny as longva

SCENES = (3, 7, 2, 20, 4)
"""Frames of each still scene."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five still scenes, four frames a second."""
    path = tmp_path_factory.mktemp("clips") / "scenes.mp4"
    pictures = noise(len(SCENES), seed=8, height=6, width=8).pixels_TCHW
    grown = torch.nn.functional.interpolate(pictures.float(), (96, 128)).byte()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for count, picture in zip(SCENES, grown, strict=True):
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).numpy(), format="rgb24")
            for _ in range(count):
                out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": "2,4,8"},
        {"ratio": 8, "dynamic": True},
        {"ratio": "2,4,8,16", "dynamic": True, "average_ratio": 8},
        {"ratio": 32},
        {"ratio": "2,4,8,16", "mix": "adapt-62000"},
        {"ratio": "4,8", "mix": "listed", "dynamic": True},
    ],
)
def test_a_survey_equals_watching(options: dict[str, object], clip: Path) -> None:
    system = tiny().variant(**options)
    with open_video(str(clip)) as video:
        found = survey(system, video, 36)
        memory = system.watch(video, max_frames=36)
    told = [(window.tokens, window.ratio, window.kept) for window in found.windows]
    assert told == [(w.tokens, w.ratio, w.stop - w.start) for w in memory.windows]
    assert sum(window.frames for window in found.windows) == 36
    assert found.windows[0].start_seconds == 0.0
    assert found.windows[-1].end_seconds == found.duration
    assert found.seconds == tuple(entry.seconds for entry in memory.entries)


def test_cuts_are_where_the_scenes_change(clip: Path) -> None:
    with open_video(str(clip)) as video:
        found = survey(tiny().variant(ratio=8, dynamic=True, average_ratio=8), video, 36)
    deep = [n for n, depth in enumerate(found.depth) if depth > (found.threshold or 0.0)]
    changes = [2, 9, 11, 31]  # between this frame and the next
    assert set(deep) <= set(changes)
    assert len(deep) >= 2


def test_the_picture_shows_curve_bars_and_thumbnails(clip: Path) -> None:
    with open_video(str(clip)) as video:
        found = survey(tiny().variant(ratio=8, dynamic=True), video, 36)
        sheet = draw(video, found)
    assert sheet.width == 1280
    colours = {colour for _, colour in sheet.getcolors(maxcolors=10**6) or []}
    for shade in ((0x6C, 0xB6, 0xFF), (0x2F, 0x5D, 0x50)):  # the curve, a bar
        assert shade in colours
    assert len(colours) > 200  # thumbnails


@pytest.mark.parametrize("frames", [1, 2])
def test_too_few_frames_to_compare_are_drawn_all_the_same(frames: int, clip: Path) -> None:
    with open_video(str(clip)) as video:
        found = survey(tiny().variant(ratio=8, dynamic=True), video, frames)
        assert found.threshold is None
        assert draw(video, found).height > 100
    assert "1 windows keep" in survey_text(found)


def test_a_system_that_condenses_nothing_has_no_timeline(clip: Path) -> None:
    with open_video(str(clip)) as video, pytest.raises(OptionError, match="does not condense"):
        survey(longva(), video)


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


TINY = ("--model", CHECKPOINT, "--device", "cpu", "--max-frames", 36)


def test_inspect_draws_and_says_it(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "cuts.png"
    code, out, _ = run("inspect", clip, *TINY, "--ratio", 8, "--dynamic", "--timeline", target)
    assert code == 0
    assert "of 5,184 visual tokens" in out.splitlines()[-1]
    with Image.open(target) as sheet:
        assert sheet.width == 1280
    code, out, _ = run("inspect", clip, *TINY, "--ratio", 8, "--timeline", target, "--json")
    assert sum(window["kept"] for window in json.loads(out)["windows"]) == 5184 // 8


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--timeline", "cuts.txt"), "cannot save a picture as 'cuts.txt'"),
        (("--timeline", "no/such/cuts.png"), "is no folder"),
        (("--ratio", "7", "--timeline", "cuts.png"), "ratio 7 does not divide"),
        (
            ("--max-frames", "0", "--timeline", "cuts.png"),
            "is not a number from 1 to 1000000, nor 'auto'",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    words: tuple[str, ...], told: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("inspect", clip, "--model", CHECKPOINT, "--device", "cpu", *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert told in err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_picture_that_was_there(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "cuts.png"
    Image.new("RGB", (5, 5)).save(target)
    before = target.read_bytes()

    def fail(self: Image.Image, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    code, _, err = run("inspect", clip, *TINY, "--ratio", 8, "--timeline", target)
    assert code == 1
    assert "No space left on device" in err
    assert "cuts.png" in err
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_model_or_a_picture_has_no_timeline(tmp_path: Path) -> None:
    picture = tmp_path / "still.png"
    Image.new("RGB", (64, 64)).save(picture)
    for target, told in ((CHECKPOINT, "give the video"), (picture, "a still picture has no time")):
        code, _, err = run("inspect", target, *TINY, "--timeline", tmp_path / "cuts.png")
        assert code == 2
        assert told in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--ratio", "7"), "ratio 7 does not divide the window of 1440 visual tokens"),
        (("--mix", "dice"), "mix 'dice' is unknown"),
        (("--ratio", "16", "--fine", "2", "--budget=-1GB"), "budget must be bytes such as 300MiB"),
        (("--ratio", "16", "--fine", "2", "--budget", "1KB"), "more than the budget of 1000"),
        (("--kv", "int2"), "kv 'int2' is unknown"),
    ],
)
def test_bad_options_of_ask_are_one_clear_line(
    words: tuple[str, ...], told: str, clip: Path
) -> None:
    code, out, err = run("ask", clip, "What?", *TINY, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert told in err


@pytest.mark.parametrize(
    "words",
    [
        ("--ratio", "16", "--fine", "2", "--budget", "1MiB", "--fine-on", "disk"),
        ("--ratio", "2,4,8", "--dynamic", "--average-ratio", "4"),
        ("--ratio", "8,4", "--mix", "listed", "--place", "append", "--window", "720"),
        ("--ratio", "8", "--kv", "int4"),
    ],
)
def test_every_option_answers(words: tuple[str, ...], clip: Path) -> None:
    few = ("--max-frames", 21, "--max-new-tokens", 3)
    code, out, err = run("ask", clip, "What?", *TINY, *words, *few, "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["system"] == "video_xl"
    assert len(answer["ids"]) == 3


def test_options_of_condensing_are_refused_by_a_model_that_condenses_nothing(clip: Path) -> None:
    code, _, err = run("ask", clip, "What?", "--model", LONGVA, "--device", "cpu", "--ratio", 8)
    assert code == 2
    assert "longva has no option 'ratio'" in err
