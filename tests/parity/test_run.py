"""The comparison itself: that every stage can fail, and what the runner says and returns."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.cases import close, equal
from tests.parity.run import main
from tests.parity.test_longva import GOLDEN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one case, its tensors free to be changed."""
    for name in ("case-video-1f.json", "case-video-1f.safetensors"):
        (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    (tmp_path / "checkpoint-a").symlink_to(GOLDEN / "checkpoint-a")
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture[str], *names: str) -> tuple[int, list[str]]:
    """Exit status and printed lines."""
    status = main([str(folder), *names])
    return status, capsys.readouterr().out.splitlines()


def test_an_intact_folder_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(folder, capsys)
    assert status == 0
    assert lines[0].startswith("passed   video-1f (")
    assert lines[1:] == ["1 passed, 0 failed"]


@pytest.mark.parametrize(
    ("tensor", "change", "stage"),
    [
        ("pixel_values", 1e-6, "pixels"),
        ("vision_features", 1e-4, "features"),
        ("visual_tokens", 1e-4, "tokens"),
        ("visual_tokens", math.nan, "tokens"),
        ("input_ids", 1, "ids"),
        ("inputs_embeds", 1e-4, "embeddings"),
        ("logits_last", 1e-3, "last"),
        ("logits_probe", 1e-3, "probe"),
        ("generated_ids", 1, "answer"),
        ("generated_ids_penalty_off", 1, "no penalty"),
    ],
)
def test_one_changed_value_fails_its_stage_alone(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    tensor: str,
    change: float,
    stage: str,
) -> None:
    path = folder / "case-video-1f.safetensors"
    tensors = load_file(path)
    tensors[tensor].view(-1)[-1] += change
    save_file(tensors, path)
    status, lines = run(folder, capsys)
    assert status == 1
    assert lines[-1] == "0 passed, 1 failed"
    failed = [part for part in lines[0].split(": ", 1)[1].split("; ") if "FAILED" in part]
    assert len(failed) == 1
    assert failed[0].startswith(f"{stage} ")


def test_a_changed_shape_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "case-video-1f.safetensors"
    tensors = load_file(path)
    tensors["visual_tokens"] = tensors["visual_tokens"][:-1].clone()
    save_file(tensors, path)
    status, lines = run(folder, capsys)
    assert status == 1
    assert "tokens inf FAILED" in lines[0]


def test_a_case_that_cannot_be_run_fails_and_the_others_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "case-a-broken.json").write_text("{")
    spec = json.loads((GOLDEN / "case-video-1f.json").read_text())
    (folder / "case-b-lost.json").write_text(json.dumps(spec | {"checkpoint": "nowhere"}))
    status, lines = run(folder, capsys)
    assert status == 1
    assert lines[0].startswith("FAILED   case-a-broken: JSONDecodeError")
    assert lines[1].startswith("FAILED   case-b-lost: ")
    assert lines[2].startswith("passed   video-1f")
    assert lines[3:] == ["1 passed, 2 failed"]


def test_what_is_not_compared_does_not_pass(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "case-other.json").write_text(json.dumps({"kind": "sft"}))
    status, lines = run(folder, capsys, "other")
    assert status == 1
    assert lines == [
        "skipped  other: nothing here compares kind 'sft'",
        "0 passed, 0 failed",
    ]
    status, lines = run(folder, capsys, "absent")
    assert status == 1
    assert lines == [f"{folder} holds no such case", "0 passed, 0 failed"]


def test_differences_are_counted() -> None:
    assert equal("s", [1, 2, 3], [1, 2, 3]).ok
    assert equal("s", [1, 5, 3], [1, 2, 3]).error == 1
    assert equal("s", [1, 2], [1, 2, 3]).error == 1
    assert "item 1 is 5, expected 2" in equal("s", [1, 5], [1, 2]).note
    assert close("s", torch.zeros(0, 3), torch.zeros(0, 3), 0.0).ok
    assert close("s", torch.tensor([1.0]), torch.tensor([1.5]), 0.4).error == 0.5
    assert not close("s", torch.tensor([math.nan]), torch.tensor([1.5]), 1e9).ok
