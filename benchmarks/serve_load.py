"""Load on `longtake serve`: many clients against one, answers compared, memory over time.

    python benchmarks/serve_load.py clip.mp4                       # 16 clients x 20 questions
    python benchmarks/serve_load.py clip.mp4 --minutes 10          # and then ten minutes of it

A card is hidden in the clip. The server runs as a process of its own and the clients, each with the
openai client, in another. One client asks every question, one after the other, then all ask at
once, by turns; every answer must equal the one the lone client got. With --minutes the same load
goes on and the server's resident memory is read every few seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil

from longtake.video.cards import Card
from longtake.video.insert import Place, insert_card

FIELDS = ("number", "word", "colour")
WORDINGS = (
    "What {} is on the card?",
    "Which {} is on the card?",
    "What {} does the card show?",
    "Which {} was shown on the card?",
    "Tell me the {} on the card.",
    "Read the {} on the card.",
    "What is the {} on the card?",
)
ANCHOR = Card(number=83, word="ANCHOR", colour="blue")


@dataclass
class Run:
    """What a run of clients came to."""

    seconds: float = 0.0
    answers: dict[str, set[str]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, other: Run) -> None:
        """Take another run's counts in."""
        self.seconds += other.seconds
        self.times += other.times
        self.errors += other.errors
        for asked, answers in other.answers.items():
            self.answers.setdefault(asked, set()).update(answers)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.times) / self.seconds

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the answers came."""
        return sorted(self.times)[min(len(self.times) - 1, int(share * len(self.times)))]


def questions(count: int) -> list[str]:
    """So many questions, all different as far as there are wordings."""
    all_of_them = [wording.format(name) for wording in WORDINGS for name in FIELDS]
    return [all_of_them[place % len(all_of_them)] for place in range(count)]


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server process; its address and itself."""
    command = [sys.executable, "-m", "longtake", "serve", "--port", "0"]
    command += ["--data", str(folder / "files"), "--library", str(folder / "library")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    base = line.partition("at http://")[2].split(" ")[0]
    if not base:
        sys.exit(line + process.stderr.read())
    drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
    try:
        yield f"http://{base}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()
        drain.wait()


def request(base: str, path: str, body: bytes | None = None) -> Any:
    """A plain request's JSON."""
    kind = {"Content-Type": "application/octet-stream"} if body is not None else {}
    for _ in range(600):
        try:
            with urllib.request.urlopen(urllib.request.Request(base + path, body, kind)) as got:
                return json.load(got)
        except urllib.error.HTTPError:
            raise
        except OSError:  # not yet listening
            time.sleep(0.1)
    raise TimeoutError(base)


def watched(base: str, clip: Path, frames: int) -> str:
    """Upload a clip, wait until it has been watched; its id."""
    sent = request(base, f"/v1/videos?name={clip.name}&max_frames={frames}", clip.read_bytes())
    while (told := request(base, f"/v1/videos/{sent['id']}"))["status"] != "ready":
        assert told["status"] in ("queued", "watching"), told
        time.sleep(0.2)
    return str(told["id"])


async def ask(client: openai.AsyncOpenAI, video: str, question: str, run: Run) -> None:
    """One question; what came of it goes into `run`."""
    parts: list[Any] = [
        {"type": "video_url", "video_url": {"url": f"longtake:{video}"}},
        {"type": "text", "text": question},
    ]
    began = time.perf_counter()
    try:
        got = await client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": parts}]
        )
    except openai.OpenAIError as error:
        run.errors.append(f"{type(error).__name__}: {error}")
        return
    run.times.append(time.perf_counter() - began)
    run.answers.setdefault(question, set()).add(got.choices[0].message.content or "")


async def client(base: str, video: str, todo: list[str], run: Run) -> None:
    """Ask one after the other."""
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as made:
        for question in todo:
            await ask(made, video, question, run)


def load(base: str, video: str, clients: int, each: int) -> Run:
    """So many clients at once, each with so many questions; every client begins elsewhere."""
    run, todo = Run(), questions(each)

    async def all_of_them() -> None:
        began = time.perf_counter()
        turned = [todo[n % each :] + todo[: n % each] for n in range(clients)]
        await asyncio.gather(*(client(base, video, mine, run) for mine in turned))
        run.seconds = time.perf_counter() - began

    asyncio.run(all_of_them())
    return run


def wrong(run: Run, lone: Run) -> int:
    """Questions that were not answered as the lone client's were."""
    return sum(run.answers[asked] != lone.answers[asked] for asked in run.answers)


def endure(
    base: str, process: psutil.Process, video: str, minutes: float
) -> tuple[list[tuple[float, float]], Run]:
    """Memory (s, MiB) while the load goes on, and all answers together."""
    began, total, sizes = time.perf_counter(), Run(), []
    while (now := time.perf_counter() - began) < 60 * minutes:
        sizes.append((now, process.memory_info().rss / 2**20))
        total.add(load(base, video, 16, 20))
    sizes.append((now, process.memory_info().rss / 2**20))
    return sizes, total


def row(name: str, run: Run, lone: Run) -> str:
    """A line of the table."""
    return (
        f"| {name} | {len(run.times)} | {len(run.errors)} | {wrong(run, lone)} | {run.seconds:.1f} "
        f"| {run.rate:.1f} | {run.rate / lone.rate:.2f} | {run.quantile(0.5):.2f} | "
        f"{run.quantile(0.95):.2f} |"
    )


def main() -> int:
    """Run it; the exit status says whether all answers were there and the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3, help="lone client, then all, so often")
    parser.add_argument("--minutes", type=float, default=0.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = insert_card(
            options.video, folder / "clip.mp4", ANCHOR, Place(at_seconds=2.0, seconds=1.5)
        )
        with server(folder) as (base, process):
            video = watched(base, clip, options.frames)
            load(base, video, 1, 3)  # warm
            lone, many = Run(), Run()
            for _ in range(options.turns):  # by turns, since other work comes and goes
                lone.add(load(base, video, 1, options.each))
                many.add(load(base, video, options.clients, options.each))
            cores = psutil.cpu_count()
            print(f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}\n")
            print(
                "| clients | answers | errors | not as alone | seconds | per second | "
                "times | median s | 95 % s |"
            )
            print("|---|---|---|---|---|---|---|---|---|")
            print(row("1", lone, lone))
            print(row(str(options.clients), many, lone))
            bad = len(lone.errors) + len(many.errors) + wrong(many, lone)
            if options.minutes:
                sizes, total = endure(base, process, video, options.minutes)
                print(row(f"16, {options.minutes:g} min", total, lone))
                print("\nmemory over time (s: MiB):")
                step = max(1, len(sizes) // 12)
                print(", ".join(f"{at:.0f}: {size:.0f}" for at, size in sizes[::step]))
                bad += len(total.errors) + wrong(total, lone)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
