"""The golden training cases of VideoChat-Flash, and near misses that they must tell apart."""

from dataclasses import replace
from pathlib import Path

import pytest

from longtake.parts.between import Row
from longtake.systems.videochat_flash import time_message
from longtake.train import hico
from tests.parity.cases import Case, case_paths, load_case
from tests.parity.videochat_flash_train import check_training

GOLDEN = Path(__file__).parent / "golden" / "videochat_flash"
CASES = [path for path in case_paths(GOLDEN) if load_case(path).kind == "train"]
BEHIND = {"logits", "loss", "norms", "gradients"}
"""Stages behind whatever goes wrong in the decoder."""


def failing(case: Case) -> set[str]:
    return {result.stage for result in check_training(case) if not result.ok}


@pytest.fixture
def dropping() -> Case:
    return load_case(GOLDEN / "case-umt224-train-drop.json")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    results = check_training(load_case(path))
    assert len(results) == 13
    assert [str(result) for result in results if not result.ok] == []


def test_both_cases_are_there() -> None:
    drops = {bool(load_case(path).spec["llm_compress"]) for path in CASES}
    assert drops == {True, False}


def test_the_last_token_alone_ranks_other_tokens(
    dropping: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Row, "asking", lambda self: [self.length - 1])
    assert failing(dropping) == {"kept", *BEHIND}


def test_labels_without_scaffold_are_others(
    dropping: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They learn less, and fewer tokens ask."""
    monkeypatch.setattr(hico, "SCAFFOLD", ())
    assert failing(dropping) == {"labels", "kept", *BEHIND}


def test_a_space_for_the_newline_of_the_message_is_another_prompt(dropping: Case) -> None:
    message = time_message(8.0, 8)
    assert dropping.spec["time_msg"] == f"\n{message} "
    other = replace(dropping, spec={**dropping.spec, "time_msg": f" {message} "})
    assert {"conversation", "ids", "labels", "embeddings", "logits", "loss"} <= failing(other)
