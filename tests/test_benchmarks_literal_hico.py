"""The benchmarks' literal VideoChat-Flash equals the original's golden cases, and longtake."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from benchmarks.literal_videochat_flash import Written, answer
from torch import Tensor

from longtake.types import Options
from tests.parity.cases import Case, load_case
from tests.parity.videochat_flash import LOGITS, system_of, visuals_of

GOLDEN = Path(__file__).parent / "parity" / "golden" / "videochat_flash"
CASES = (
    "umt224-video8",
    "umt224-video12-drop-uniform",
    "umt224-video16-drop-attention",
    "umt224-video16-drop-uniform0attention",
    "umt448-video8-drop",
)


def golden(name: str) -> Case:
    """A case by its name."""
    return load_case(GOLDEN / f"case-{name}.json")


@cache
def literal(name: str) -> Written:
    """A case by the literal procedure, as many tokens as are stored; nothing may change it."""
    case = golden(name)
    system = system_of(case)
    before, after = case.spec["prompt"].split("<image>")
    return answer(
        system,
        case.pictures("frames_u8"),
        system.tokens(before),
        system.tokens(after),
        len(case.tensors["generated_ids"]),
    )


@pytest.mark.parametrize("name", CASES)
def test_literal_equals_the_original(name: str) -> None:
    case = golden(name)
    out = literal(name)
    assert out.ids == case.tensors["generated_ids"].tolist()
    assert (torch.stack(out.logits) - case.tensors["step_logits"]).abs().max() < LOGITS


@pytest.mark.parametrize("name", CASES)
def test_literal_equals_longtake(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden(name)
    system = replace(system_of(case), end_ids=frozenset())
    ours: list[Tensor] = []
    head = system.model.logits

    def noted(features: Tensor) -> Tensor:
        ours.append(head(features))
        return ours[-1]

    monkeypatch.setattr(system.model, "logits", noted)
    num = len(case.tensors["generated_ids"])
    options = Options(max_new_tokens=num, repetition_penalty=1.0)
    ids = system.complete(case.spec["prompt"], visuals_of(case), options).ids
    out = literal(name)
    assert tuple(out.ids) == ids
    assert (torch.stack(out.logits) - torch.stack(ours)).abs().max() < LOGITS
