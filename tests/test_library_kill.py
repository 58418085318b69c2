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
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from longtake.library import Library
from tests.shelves import memory, save, video
from tests.test_cli import ENVIRONMENT, ROOT

MOST_LINES = 4
"""A worker lives for up to so many lines that it says, and some part of the time for one more."""
CHILD_SECONDS = 600
"""A machine may be busy; this only ends what hangs."""


@dataclass
class Told:
    """What workers said, over all of their lives."""

    saved: set[int] = field(default_factory=set)
    """Numbers of videos that were reported saved."""
    removing: set[int] = field(default_factory=set)
    """Those of them whose removal had begun."""
    at: dict[int, int] = field(default_factory=dict)
    """Of each that was saved: how many memories may have been used by then."""
    uses: int = 0
    """How many memories may have been used: what was saved, what a worker opens after each, and
    two that a killed one had no time to tell of."""
    kills: int = 0
    interval: float = 0.05
    """Seconds between two lines, lately."""

    def hear(self, line: str) -> None:
        word, number = line.split()
        assert word != "over", "the worker ended by itself"
        if word == "saved":
            self.saved.add(int(number))
            self.uses += 2
            self.at[int(number)] = self.uses
        elif word == "removing":
            self.removing.add(int(number))


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[bytes]]:
    """A process that forks workers; see `tests.shelves`."""
    environment = ENVIRONMENT | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-m", "tests.shelves"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) as process:
        assert next(lines(process, CHILD_SECONDS)) == "ready"
        yield process
        process.stdin.close()


def start(process: subprocess.Popen[bytes], library: Library, first: int, seed: int) -> None:
    """Have workers forked."""
    words = (library.folder.parent, library.budget, first, seed)
    process.stdin.write("\t".join(map(str, words)).encode() + b"\n")
    process.stdin.flush()


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


def kill_one(
    process: subprocess.Popen[bytes], library: Library, told: Told, chance: random.Random
) -> None:
    """Let a worker live for a moment."""
    first = 1 + max(told.saved, default=0) + told.kills  # a video that was half saved is left
    start(process, library, first, chance.randrange(1000))
    pid = int(next(lines(process, CHILD_SECONDS)).split()[1])
    began, wanted = time.monotonic(), chance.randrange(MOST_LINES)
    for _, line in zip(range(wanted), lines(process, CHILD_SECONDS), strict=False):
        told.hear(line)
    if wanted:
        told.interval = (time.monotonic() - began) / wanted
    for line in lines(process, chance.random() * told.interval):
        told.hear(line)
    os.kill(pid, signal.SIGKILL)
    told.kills, told.uses = told.kills + 1, told.uses + 2
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


def run_kills(forks: subprocess.Popen[bytes], folder: Path, kills: int, seed: int) -> None:
    told, chance, library = Told(), random.Random(seed), Library(folder / "library")
    for _ in range(kills):
        kill_one(forks, library, told, chance)
        assert library.verify() == []
        assert told.saved - told.removing <= present(library)
    assert len(told.saved) > kills // 10, "workers were killed before they saved anything"
    assert len(told.removing) > 0
    check_all_load(library)
    assert len(list(library.folder.glob(".aside*"))) <= 1, "they are swept"


def run_kills_while_evicting(
    forks: subprocess.Popen[bytes], folder: Path, kills: int, seed: int
) -> None:
    told, chance, room = Told(), random.Random(seed), 6
    library = Library(folder / "library", room * one_size(folder))
    for _ in range(kills):
        kill_one(forks, library, told, chance)
        assert library.verify() == []
        there = present(library)
        # what was saved last is there, unless so many others were used since as there is room for
        last = {number for number, at in told.at.items() if told.uses - at < room}
        assert last - told.removing <= there
        assert len(there) <= room + 1
    assert len(told.saved) > room, "nothing was evicted"
    check_all_load(library)


def one_size(folder: Path) -> int:
    """Bytes of one memory's file, and a little more."""
    return save(Library(folder / "one"), video(folder, 0)).bytes + 64


def test_killed_now_and_then(forks: subprocess.Popen[bytes], tmp_path: Path) -> None:
    run_kills(forks, tmp_path, 12, seed=1)


def test_killed_now_and_then_while_evicting(forks: subprocess.Popen[bytes], tmp_path: Path) -> None:
    run_kills_while_evicting(forks, tmp_path, 12, seed=2)


def test_processes_that_save_the_same_videos_at_once(
    forks: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    library, workers = Library(tmp_path / "library"), 5
    start(forks, library, 0, -workers)
    ends = 0
    for line in lines(forks, CHILD_SECONDS):
        if line.startswith("over"):
            assert line == "over 0"
            ends += 1
        if ends == workers:
            break
    assert ends == workers
    assert present(library) == {0, 1, 2}
    assert len(library.list()) == 3
    assert library.verify() == []
    check_all_load(library)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_many_times(seed: int, forks: subprocess.Popen[bytes], tmp_path: Path) -> None:
    run_kills(forks, tmp_path, 150, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_many_times_while_evicting(
    seed: int, forks: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    run_kills_while_evicting(forks, tmp_path, 100, seed)
