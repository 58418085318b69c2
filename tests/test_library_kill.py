"""Processes that save, remove and evict are killed at any moment; nothing saved is lost."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from longtake.library import Library
from tests.shelves import memory
from tests.test_cli import ENVIRONMENT, ROOT

MOST_LINES = 4
"""A worker lives for up to so many lines that it says, and some part of the time for one more."""
CHILD_SECONDS = 120


@dataclass
class Told:
    """What workers said, over all of their lives."""

    saved: set[int] = field(default_factory=set)
    """Numbers of videos that were reported saved."""
    removing: set[int] = field(default_factory=set)
    """Those of them whose removal had begun."""
    order: list[int] = field(default_factory=list)
    kills: int = 0
    interval: float = 0.05
    """Seconds between two lines, lately."""

    def hear(self, line: str) -> None:
        word, number = line.split()
        assert word != "over", "the worker ended by itself"
        if word == "saved":
            self.saved.add(int(number))
            self.order.append(int(number))
        elif word == "removing":
            self.removing.add(int(number))


@contextmanager
def killer(folder: Path, videos: Path, budget: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that forks workers; see `tests.shelves`."""
    command = [sys.executable, "-m", "tests.shelves", str(folder), str(videos), str(budget)]
    environment = ENVIRONMENT | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) as process:
        assert next(lines(process, CHILD_SECONDS)) == "ready"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def lines(process: subprocess.Popen[bytes], seconds: float) -> Iterator[str]:
    """Lines that a process writes, until the time is over."""
    end, held = time.monotonic() + seconds, b""
    descriptor = process.stdout.fileno()
    while select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
        if not (more := os.read(descriptor, 1)):
            return
        held += more
        if more == b"\n":
            yield held.decode().strip()
            held = b""


def kill_one(process: subprocess.Popen[bytes], told: Told, chance: random.Random) -> None:
    """Let a worker live for a moment."""
    first = 1 + max(told.order, default=0) + told.kills  # a video that was half saved is left
    process.stdin.write(f"{first} {chance.randrange(1000)}\n".encode())
    process.stdin.flush()
    pid = int(next(lines(process, CHILD_SECONDS)).split()[1])
    began, wanted = time.monotonic(), chance.randrange(MOST_LINES)
    for _, line in zip(range(wanted), lines(process, CHILD_SECONDS), strict=False):
        told.hear(line)
    if wanted:
        told.interval = (time.monotonic() - began) / wanted
    for line in lines(process, chance.random() * told.interval):
        told.hear(line)
    os.kill(pid, signal.SIGKILL)
    told.kills += 1
    for line in lines(process, CHILD_SECONDS):
        if line == "over 9":
            break
        told.hear(line)
    else:
        pytest.fail("the worker was not killed")


def present(library: Library) -> set[int]:
    """Numbers of the videos whose memories are there."""
    return {int(stored.name.split()[-1]) for stored in library.list()}


def check_all_load(library: Library) -> None:
    """Every memory that is there is whole, to its last tensor."""
    for stored in library.list():
        with library.open(stored, "cpu") as loaded:
            assert (loaded.length, loaded.entries) == (memory().length, memory().entries)
            for layer in loaded.cache.layers:
                layer.ready()


def run_kills(tmp_path: Path, kills: int, seed: int) -> None:
    told, chance = Told(), random.Random(seed)
    library = Library(tmp_path / "library")
    with killer(library.folder, tmp_path, library.budget) as process:
        for _ in range(kills):
            kill_one(process, told, chance)
            assert library.verify() == []
            assert told.saved - told.removing <= present(library)
    assert len(told.saved) > kills // 10, "workers were killed before they saved anything"
    assert len(told.removing) > 0
    check_all_load(library)


def run_kills_while_evicting(tmp_path: Path, kills: int, seed: int) -> None:
    told, chance = Told(), random.Random(seed)
    room = 6
    with killer(tmp_path / "library", tmp_path, room * one_size(tmp_path)) as process:
        library = Library(tmp_path / "library")
        for _ in range(kills):
            kill_one(process, told, chance)
            assert library.verify() == []
            there = present(library)
            # what was saved last is there: two more may have been on their way than were told of
            last = set(told.order[-(room - 2) :])
            assert last - told.removing <= there
            assert len(there) <= room + 1
    assert len(told.saved) > room, "nothing was evicted"
    check_all_load(library)


def one_size(tmp_path: Path) -> int:
    """Bytes of one memory's file, and a little more."""
    from tests.shelves import save, video

    return save(Library(tmp_path / "one"), video(tmp_path, 0)).bytes + 64


def test_killed_now_and_then(tmp_path: Path) -> None:
    run_kills(tmp_path, 12, seed=1)


def test_killed_now_and_then_while_evicting(tmp_path: Path) -> None:
    run_kills_while_evicting(tmp_path, 12, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_many_times(seed: int, tmp_path: Path) -> None:
    run_kills(tmp_path, 150, seed)
    assert len(list((tmp_path / "library").glob(".aside*"))) <= 1, "they are swept"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_many_times_while_evicting(seed: int, tmp_path: Path) -> None:
    run_kills_while_evicting(tmp_path, 100, seed)
