"""Tiny memories for a library, and a process that saves them until it is killed.

As a program, `python -m tests.shelves`: torch is imported once; for each line "folder budget first
seed" on stdin a child is forked that saves video after video from `first` on, removes and opens
some, and says so on stdout: "pid N", "saved N", "removing N". With a negative seed so many children
save the same three videos at once. "over STATUS" follows the end of each.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from longtake.library import Library
from longtake.stored import Stored, Thumbnail
from longtake.types import Memory
from tests.tiny import noise, tiny

FRAMES = 2


@cache
def memory() -> Memory:
    """What a tiny model makes of noise; nothing may change it."""
    return tiny().watch(noise(FRAMES), max_frames=FRAMES)


def video(folder: Path, number: int) -> Path:
    """A file that stands for a video: a library only looks at its bytes.

    Whole as soon as it is there: to a worker that saw half of it, it would be another video.
    """
    path = folder / f"video {number}.mp4"
    if not path.exists():
        aside = folder / f"{number}-{os.getpid()}.aside"
        aside.write_bytes(b"frames %d" % number)
        aside.replace(path)
    return path


def save(library: Library, path: Path, name: str | None = None) -> Stored:
    """Keep the memory as one of this file."""
    pictures = (Thumbnail(seconds=0.5, jpeg=b"\xff\xd8 small"),)
    return library.save(memory(), system=tiny(), source=path, name=name, thumbnails=pictures)


def tell(line: str) -> None:
    """One line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def work(library: Library, folder: Path, number: int, chance: random.Random) -> None:
    """Save, remove and open without end."""
    mine: list[str] = []
    while True:
        mine.append(save(library, video(folder, number)).name)
        tell(f"saved {number}")
        if chance.random() < 0.3:
            name = mine.pop(chance.randrange(len(mine)))
            tell(f"removing {name.split()[-1]}")
            if library.named(name) is not None:
                library.remove(name)
        if mine and (found := library.named(chance.choice(mine))) is not None:
            with library.open(found, "cpu") as loaded:
                assert loaded.length == memory().length
        number += 1


def main() -> None:
    """Fork a worker for each line of stdin."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:  # what is imported late is imported now
        library = Library(Path(scratch) / "library")
        with library.open(save(library, video(Path(scratch), 0)), "cpu"):
            pass
    tell("ready")
    for line in sys.stdin:
        folder, *numbers = line.split("\t")
        start(Path(folder), *map(int, numbers))


def start(folder: Path, budget: int, first: int, seed: int) -> None:
    """Fork workers on the library in a folder that holds the videos too, and wait for them."""
    library, children = Library(folder / "library", budget), []
    for _ in range(max(1, -seed)):
        if (child := os.fork()) == 0:
            tell(f"pid {os.getpid()}")
            if seed >= 0:
                work(library, folder, first, random.Random(seed))
            for number in range(first, first + 3):
                save(library, video(folder, number))
            os._exit(0)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        tell(f"over {status}")


if __name__ == "__main__":
    main()
