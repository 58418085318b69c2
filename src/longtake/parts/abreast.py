"""Frames side by side on the cores of a CPU, in lanes that never wait for one another.

A matrix product of a few frames that all cores share ends when the slowest core does, and the next
begins only then; a core with frames of its own goes on (docs/design.md, section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

MOST_LANES = 4
"""Each holds the activations of frames of its own; more cores share lanes."""


def lanes(parts: int) -> int:
    """Lanes that so many frames or clips take on the CPU: as many as torch has threads here."""
    return max(1, min(parts, torch.get_num_threads(), MOST_LANES))


def in_flight(at_once: int, parts: int) -> int:
    """Of so many frames or clips, those whose activations are there at the same time."""
    used = lanes(parts)
    return min(parts, used * max(1, at_once // used))


@lru_cache(maxsize=4)
def pool(count: int, threads: int) -> ThreadPoolExecutor:
    """Lanes of so many torch threads each; the caller's own number stays."""
    before, started = torch.get_num_threads(), Barrier(count + 1)
    made = ThreadPoolExecutor(count, "longtake-lane", _settle, (threads,))
    for _ in range(count):
        made.submit(started.wait)
    started.wait()
    torch.set_num_threads(before)  # for threads to come; those of the lanes keep theirs
    return made


def _settle(threads: int) -> None:
    """Give this thread so many, for good."""
    torch.get_num_threads()  # asked for the first time, torch takes the process's number once more
    torch.set_num_threads(threads)


def abreast(work: Callable[[Tensor], T], frames: Tensor, at_once: int) -> list[T]:
    """What `work` makes of [T, ...] in parts of at most `at_once` frames or clips, in order.

    Side by side on a CPU where no gradient is recorded; raises what `work` raises, when all have
    ended.
    """
    used = 1 if frames.device.type != "cpu" or torch.is_grad_enabled() else lanes(len(frames))
    parts = frames.split(max(1, at_once // used))
    if used == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    inference = torch.is_inference_mode_enabled()

    def alone(part: Tensor) -> T:
        with torch.inference_mode(inference), torch.no_grad():  # each thread has modes of its own
            return work(part)

    running = pool(used, torch.get_num_threads() // used)
    made = [running.submit(alone, part) for part in parts]
    wait(made)
    return [one.result() for one in made]
