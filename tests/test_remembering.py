"""What the shared models remember is what they would compute."""

import pytest
import torch
from torch import Tensor

from longtake.api import load
from tests import remembering
from tests.remembering import Remembered
from tests.tiny import CHECKPOINT, noise, tiny


def test_a_memory_is_the_same_bit_for_bit() -> None:
    frames, plain = noise(5, seed=77), load(CHECKPOINT, device="cpu")
    wanted = plain.watch(frames, max_frames=5).cache.layers
    for _ in range(2):
        found = tiny().watch(frames, max_frames=5).cache.layers
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.equal(ours.keys, theirs.keys)
            assert torch.equal(ours.values, theirs.values)


def test_each_input_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def double(given: Tensor) -> Tensor:
        asked.append(given)
        return given * 2

    function, given = Remembered(double), torch.arange(6)
    for _ in range(2):
        found = function(given)
        assert found.tolist() == [0, 2, 4, 6, 8, 10]
        found += 1  # the caller's to change
    assert len(asked) == 1
    for other in (given + 1, given.view(2, 3), given.to(torch.int32), given.flip(0)):
        assert torch.equal(function(other), other * 2)
    assert len(asked) == 5
    monkeypatch.setattr(remembering, "MOST_BYTES", 100)
    function(given + 7)
    assert len(function.kept) < 5
    assert torch.equal(function(given), given * 2)
    assert len(asked) == 7


def test_gradients_are_computed_anew() -> None:
    weight = torch.ones(3, requires_grad=True)
    function, given = Remembered(lambda x: x * weight), torch.arange(3.0)
    for _ in range(2):
        function(given).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [0.0, 2.0, 4.0]
    with torch.no_grad():
        assert function(given).tolist() == [0.0, 1.0, 2.0]
    assert function(given).requires_grad
