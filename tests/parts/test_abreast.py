"""Frames in lanes: what comes out is what one lane gives, whatever the number of threads."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from longtake.parts.abreast import MOST_LANES, abreast, in_flight, lanes, pool


@pytest.fixture(params=[1, 2, 3, 9])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_lanes_give_what_one_gives(threads: int, frames: int, at_once: int) -> None:
    torch.manual_seed(0)
    linear, x_TD = nn.Linear(64, 32), torch.randn(frames, 7, 64)
    with torch.no_grad():
        parts = abreast(linear, x_TD, at_once)
        torch.testing.assert_close(torch.cat(parts), linear(x_TD))
    assert all(len(part) <= at_once for part in parts)
    assert torch.get_num_threads() == threads


def test_each_lane_has_a_share_of_the_threads_and_at_most_so_many_run(threads: int) -> None:
    seen, running, most, lock = set(), 0, 0, threading.Lock()
    gate = threading.Event()

    def work(part: Tensor) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            seen.add(threading.current_thread().name)
        gate.wait(0.05)
        with lock:
            running -= 1
        return torch.get_num_threads()

    with torch.no_grad():
        shares = abreast(work, torch.zeros(16, 1), 1)
    used = min(threads, MOST_LANES)
    assert most == len(seen) == used
    assert set(shares) == {threads // used}


def test_a_thread_that_starts_later_has_all_cores(threads: int) -> None:
    found: list[int] = []
    with torch.no_grad():
        abreast(lambda part: part, torch.zeros(8, 1), 1)
    pool.cache_clear()
    with torch.no_grad():
        abreast(lambda part: part, torch.zeros(8, 1), 1)
    late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert found == [threads]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_lanes_are_in_the_callers_mode(threads: int, mode: type) -> None:
    def work(part: Tensor) -> tuple[bool, bool]:
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    with mode():
        found = set(abreast(work, torch.zeros(4, 1), 1))
    assert found == {(mode is torch.inference_mode, False)}


def test_where_gradients_are_recorded_there_is_one_lane(threads: int) -> None:
    weight = torch.ones(3, requires_grad=True)
    parts = abreast(lambda x: x @ weight, torch.ones(4, 3), 1)
    torch.cat(parts).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [4.0] * 3


def test_what_one_raises_is_raised_when_all_have_ended(threads: int) -> None:
    ended: list[int] = []

    def work(part: Tensor) -> None:
        number = int(part)
        if number == 1:
            raise ValueError("the second")
        ended.append(number)

    with torch.no_grad(), pytest.raises(ValueError, match="the second"):
        abreast(work, torch.arange(4)[:, None], 1)
    assert set(ended) >= ({0} if threads == 1 else {0, 2, 3})


@pytest.mark.parametrize(
    ("at_once", "parts", "held"),
    [(1, 8, 2), (3, 8, 2), (4, 8, 4), (4, 1, 1), (8, 3, 3), (9, 20, 8)],
)
def test_what_is_in_flight_on_two_threads(at_once: int, parts: int, held: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert lanes(parts) == min(parts, 2)
        assert in_flight(at_once, parts) == held
    finally:
        torch.set_num_threads(before)
