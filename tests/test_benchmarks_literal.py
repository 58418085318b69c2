"""The literal Video-XL of the benchmarks equals the original's golden cases, and longtake.

A comparison is only as honest as its other arm: both must write the same thing.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from benchmarks.literal_video_xl import Written, answer
from torch import Tensor

from longtake.types import Options
from tests.parity.cases import Case, load_case
from tests.parity.video_xl import LOGITS, system_of, visual_tokens

GOLDEN = Path(__file__).parent / "parity" / "golden" / "video_xl"
CASES = ("r8-f12", "mix-f31")


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
        case.pictures("frames"),
        system.tokens(before),
        system.tokens(after),
        len(case.tensors["generated_ids"]),
    )


@pytest.mark.parametrize("name", CASES)
def test_literal_equals_the_original(name: str) -> None:
    case = golden(name)
    out = literal(name)
    assert out.ids == case.tensors["generated_ids"].tolist()
    assert (torch.stack(out.logits) - case.tensors["logits"]).abs().max() < LOGITS


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
    ids = system.complete(case.spec["prompt"], [visual_tokens(case)], options).ids
    out = literal(name)
    assert tuple(out.ids) == ids
    assert (torch.stack(out.logits) - torch.stack(ours)).abs().max() < LOGITS
