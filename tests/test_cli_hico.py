"""The command line with VideoChat-Flash: what is dropped, which part is watched, what it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from longtake.inspect import inspect_model
from longtake.systems.videochat_flash import VideoChatFlash
from tests.clips import write_clip
from tests.parity.videochat_flash import opened
from tests.test_cli import error_line, run

GOLDEN = Path(__file__).parent / "parity" / "golden" / "videochat_flash"
FLASH = GOLDEN / "ckpt-umt224"
DROP = "2,5:1,0.75,0.25"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of five frames each."""
    return write_clip(tmp_path_factory.mktemp("clips") / "ten.mp4", 10)


def flash() -> VideoChatFlash:
    """The golden checkpoint."""
    return opened(FLASH)


def test_ask_drops_as_it_is_told(clip: Path) -> None:
    words = (clip, "What is this?", "--model", FLASH, "--max-new-tokens", "4", "--json")
    answers = {
        drop: json.loads(run("ask", *words, "--drop", drop).stdout) for drop in (DROP, "off")
    }
    plain = json.loads(run("ask", *words).stdout)
    assert answers["off"]["ids"] == plain["ids"]
    kept = [answer["stats"]["memory_bytes"] for answer in (answers[DROP], plain)]
    assert kept[0] < kept[1]
    assert answers[DROP]["evidence"]
    assert answers[DROP]["stats"]["frames"] == 8
    assert answers[DROP]["stats"]["visual_tokens"] == 128


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--drop", "4,18"), "drop must be layers and ratios"),
        (("--drop", "x" * 5000), "drop must be layers and ratios"),
        (("--drop", "5,2:1,0.5,0.25"), "whole numbers from 1 that rise"),
        (("--drop", "2:1,0.5,0.2"), "2 ratios for 1 layers"),
        (("--drop", "2:1,1.5"), "never rise"),
        (("--drop", "sideways:2:1,0.5"), "drop kind 'sideways' is unknown"),
        (("--drop", "card"), "leaves none of the model's 8 layers"),
        (("--start", "5"), "no frame lies between 5 s and"),
        (("--start", "nan"), "start must be a time in seconds"),
        (("--end", "-3"), "no frame lies between"),
        (("--extend", "sideways"), "extend 'sideways' is unknown"),
        (("--vision-tower", str(FLASH)), "leave vision_tower"),
        (("--ratio", "8"), "no option 'ratio'"),
    ],
)
def test_mistakes_are_one_line(clip: Path, words: tuple[str, ...], said: str) -> None:
    result = run("ask", clip, "What?", "--model", FLASH, *words)
    assert result.exit_code == 2
    assert said in error_line(result)
    assert len(error_line(result)) < 300


def test_another_system_drops_nothing(clip: Path) -> None:
    result = run("ask", clip, "What?", "--drop", DROP)
    assert result.exit_code == 2
    assert "longva has no option 'drop'" in error_line(result)


def test_a_part_is_watched_alone(clip: Path) -> None:
    words = (clip, "What is this?", "--model", FLASH, "--max-new-tokens", "2", "--json")
    whole, part = (
        json.loads(run("ask", *words, *more).stdout)
        for more in ((), ("--start", "1", "--end", "1.7"))
    )
    assert part["ids"] != whole["ids"]
    spans = [(span["start"], span["end"]) for span in part["evidence"]]
    assert spans
    assert all(1.0 <= start < end <= 1.9 for start, end in spans)


def test_inspect_a_model_tells_its_stages() -> None:
    told = json.loads(run("inspect", FLASH, "--drop", DROP, "--device", "cpu", "--json").stdout)
    system = flash().variant(drop=DROP)
    for cost in told["costs"]:
        assert cost["tokens"] == 16 * cost["frames"]
        assert cost["cache_bytes"] == system.memory_bytes(cost["tokens"])
    stages = {stage["name"]: stage for stage in told["comparison"]["stages"]}
    assert [stage["tokens_per_frame"] for stage in stages.values()] == [196, 16, 16, 16, 12, 4, 12]
    assert [name for name in stages if name.startswith("layers")] == [
        "layers 0-1",
        "layers 2-4",
        "layers 5-7",
    ]
    per_token = 4 * 2 * 2 * 32
    assert stages["layers 2-4"]["kv_bytes"] == 3 * 6144 * per_token
    assert told["comparison"]["frames"] == 512
    lines = run("inspect", FLASH, "--drop", DROP, "--max-frames", "64").stdout.splitlines()
    assert "64 frames" in lines
    assert any(line.startswith("LongVA-7B takes") for line in lines)


def test_inspect_a_video_with_a_model_compares_what_would_be_sampled(clip: Path) -> None:
    result = run("inspect", clip, "--model", FLASH, "--json")
    told = json.loads(result.stdout)
    assert told["video"]["frames"] == 10
    assert told["sampled"] == told["comparison"]["frames"] == 8
    text = run("inspect", clip, "--model", FLASH, "--drop", DROP).stdout
    assert "10 at 5 per second" in text
    assert "layers 5-7" in text
    result = run("inspect", clip, "--drop", DROP)
    assert result.exit_code == 2
    assert "drop is of a model; say which by --model" in error_line(result)
    result = run("inspect", FLASH, "--model", FLASH)
    assert result.exit_code == 2
    assert "a model is the target itself" in error_line(result)


def test_packed_keys_and_values_are_counted_as_such() -> None:
    full, packed = (
        inspect_model(str(FLASH), device="cpu", options=options, frame_counts=(64,))
        for options in ({}, {"kv": "int8"})
    )
    assert 3 < full.costs[0].cache_bytes / packed.costs[0].cache_bytes < 4
    ratio = packed.comparison.kv_times / full.comparison.kv_times
    assert ratio == pytest.approx(full.costs[0].cache_bytes / packed.costs[0].cache_bytes, rel=1e-3)


def test_a_still_picture_has_no_part_and_no_frames(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (90, 20, 160)).save(tmp_path / "one.png")
    words = ("What?", "--model", FLASH, "--max-new-tokens", "2")
    result = run("ask", tmp_path / "one.png", *words, "--start", "1")
    assert result.exit_code == 2
    assert "a still picture has no part in time" in error_line(result)
    assert run("ask", tmp_path / "one.png", *words, "--drop", DROP).exit_code == 0
    result = run("inspect", tmp_path / "one.png", "--model", FLASH)
    assert result.exit_code == 2
    assert "one.png is a still picture" in error_line(result)
    for target in (FLASH, tmp_path / "one.png"):
        result = run("inspect", target, "--max-frames", "99999999999999")
        assert result.exit_code == 2
        assert "not a number from 1 to 1000000" in error_line(result)
