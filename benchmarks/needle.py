"""Find a card in real footage: exact answers and right moments, by clip, length and depth.

    python benchmarks/needle.py CLIP [CLIP ...] --sizes 16 64 256 --cards 20

Each haystack is encoded once and used for all depths and cards. A card takes the place of one
sampled frame, drawn at the clip's size in a face, a word and asked in a wording that training never
saw. The answers are free-running greedy text and must equal the card exactly.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from needle_report import Trial, heat_map, report

import longtake
from longtake.engine import prefill
from longtake.evaluate.intervals import percent
from longtake.parts.splice import entries_of
from longtake.system import System
from longtake.train.fonts import find_faces
from longtake.train.haystack import wear
from longtake.train.questions import FIELDS, HELD_OUT_QUESTIONS, answer
from longtake.train.words import TEST_WORDS
from longtake.types import Entry, Frames, Memory, VisualTokens
from longtake.video.cards import Card, draw_card, random_card, random_look
from longtake.video.decode import open_video
from longtake.video.insert import Place, insert_card
from longtake.video.sample import Footage

RESULTS = Path(__file__).parent / "results"
WEAR = 0.5
SHOWN = 2.0
FILE_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class Haystack:
    """A clip's sampled frames as visual tokens, and what is needed to put a card between them."""

    clip: str
    width: int
    height: int
    interval: float
    frames: list[VisualTokens]


def tokens_of(system: System, frames: Iterator[Frames]) -> list[VisualTokens]:
    """Frames as the language model gets them, one entry each."""
    packed = VisualTokens.join(list(system.compress(system.see(system.fit(frames)))))
    parts = packed.features_ND.split(packed.counts)
    return [
        VisualTokens(features_ND=part, counts=(len(part),), seconds=(second,))
        for part, second in zip(parts, packed.seconds, strict=True)
    ]


def encode(system: System, clip: Path, frames: int) -> Haystack:
    """Sample a clip by the model's own rule; a clip with fewer frames gives some of them twice."""
    with open_video(clip) as video:
        footage = Footage(frames=video.frames, fps=video.fps)
        indices = list(system.sample(footage, frames))
        tokens = tokens_of(system, video.read(indices))
        return Haystack(
            clip=clip.stem,
            width=video.width,
            height=video.height,
            interval=video.duration / frames,
            frames=tokens,
        )


def card_tokens(
    system: System, card: Card, hay: Haystack, rng: np.random.Generator
) -> VisualTokens:
    """A card at the clip's size, in a face never trained on."""
    look = random_look(rng, find_faces().test)
    picture = wear(draw_card(card, hay.width, hay.height, look), rng, WEAR)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    zero = torch.zeros(1, dtype=torch.float64)
    one = Frames(pixels_TCHW=pixels, seconds_T=zero, index_T=torch.zeros(1, dtype=torch.int64))
    return tokens_of(system, iter([one]))[0]


def trials_at(
    system: System, hay: Haystack, depth: float, cards: Sequence[Card], rng: np.random.Generator
) -> Iterator[Trial]:
    """All cards at one depth; the frames before the card are read once."""
    count = len(hay.frames)
    at = round(depth * (count - 1))
    head = system.embed_text(system.template.head())
    cache = system.model.new_cache(len(head) + count * len(hay.frames[0].features_ND) + 64)
    before = torch.cat([head, *(frame.features_ND for frame in hay.frames[:at])])
    prefill(system.model, iter([before]), cache)
    after = [frame.features_ND for frame in hay.frames[at + 1 :]]
    for card in cards:
        cache.rewind(len(before))
        shown = card_tokens(system, card, hay, rng).features_ND
        prefill(system.model, iter([shown, *after]), cache)
        memory = Memory(
            cache=cache,
            length=cache.get_seq_length(),
            entries=entries(hay, len(head)),
            durations=(hay.interval * count,),
            system=system.name,
            fingerprint=system.fingerprint,
        )
        yield from questions(system, memory, card, hay, depth)


def entries(hay: Haystack, start: int) -> tuple[Entry, ...]:
    """Where each frame lies in the sequence, and when it is shown."""
    packed = VisualTokens(
        features_ND=torch.cat([frame.features_ND for frame in hay.frames]),
        counts=tuple(frame.counts[0] for frame in hay.frames),
        seconds=tuple(hay.interval * index for index in range(len(hay.frames))),
    )
    return tuple(entries_of(packed, start))


def questions(
    system: System, memory: Memory, card: Card, hay: Haystack, depth: float
) -> Iterator[Trial]:
    """One question about each field."""
    moment = round(depth * (len(hay.frames) - 1)) * hay.interval
    for field in FIELDS:
        said = system.ask(memory, HELD_OUT_QUESTIONS[field][0], system.options(max_new_tokens=12))
        top = said.evidence[0] if said.evidence else None
        slack = hay.interval * 1.001
        yield Trial(
            clip=hay.clip,
            frames=len(hay.frames),
            depth=depth,
            field=field,
            wanted=answer(field, card),
            got=said.text,
            moment=top is not None and top.start - slack <= moment <= top.end + slack,
        )


def from_files(
    system: System, clips: Sequence[Path], cards: int, rng: np.random.Generator
) -> list[Trial]:
    """The whole way: a clip encoded anew with a card for two seconds, watched from disk, asked."""
    trials: list[Trial] = []
    for index in range(cards):
        target = RESULTS.parent / f"needle-{index}.mp4"
        try:
            trials += from_file(system, clips[index % len(clips)], target, rng)
        finally:
            target.unlink(missing_ok=True)
    return trials


def from_file(
    system: System, clip: Path, target: Path, rng: np.random.Generator
) -> Iterator[Trial]:
    """All fields of a card spliced into a clip at a random time."""
    card, look = random_card(rng, TEST_WORDS), random_look(rng, find_faces().test)
    with open_video(clip) as video:
        at = float(rng.uniform(0.05, 0.9)) * video.duration
    insert_card(clip, target, card, Place(at_seconds=at, seconds=SHOWN), look)
    memory = system.watch(target, max_frames=FILE_FRAMES)
    for field in FIELDS:
        said = system.ask(memory, HELD_OUT_QUESTIONS[field][0])
        top = said.evidence[0] if said.evidence else None
        slack = memory.durations[0] / FILE_FRAMES
        yield Trial(
            clip=clip.stem,
            frames=FILE_FRAMES,
            depth=at / memory.durations[0],
            field=field,
            wanted=answer(field, card),
            got=said.text,
            moment=top is not None and top.start - slack <= at + SHOWN and at <= top.end + slack,
        )


def on_clip(args: argparse.Namespace, index: int) -> list[Trial]:
    """All lengths, depths and cards on one clip; cards depend on the seed and the clip's place."""
    system, clip = longtake.load(args.model, device="cpu"), args.clips[index]
    rng = np.random.default_rng([args.seed, index])
    trials: list[Trial] = []
    for size in args.sizes:
        hay = encode(system, clip, size)
        for depth in args.depths:
            cards = [random_card(rng, TEST_WORDS) for _ in range(args.cards)]
            trials += trials_at(system, hay, depth, cards, rng)
        mine = [trial.right for trial in trials if trial.frames == size]
        print(clip.stem, size, percent(sum(mine), len(mine)), file=sys.stderr)
    return trials


def main() -> None:
    """Parse, run, write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--sizes", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--depths", nargs="+", type=float, default=[0.0, 0.25, 0.5, 0.75, 1.0])
    parser.add_argument("--cards", type=int, default=20)
    parser.add_argument("--files", type=int, default=0, help="clips to re-encode with a card")
    parser.add_argument("--jobs", type=int, default=1, help="clips worked on at a time")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    began = time.time()
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        runs = list(pool.map(on_clip, [args] * len(args.clips), range(len(args.clips))))
    trials = [trial for run in runs for trial in run]
    system, rng = longtake.load(args.model, device="cpu"), np.random.default_rng([args.seed, 99])
    filed = from_files(system, args.clips, args.files, rng)
    names = " ".join(clip.name for clip in args.clips)
    command = f"python benchmarks/needle.py {names} --sizes {' '.join(map(str, args.sizes))}"
    command += f" --cards {args.cards} --files {args.files}"
    text = report(command, args.sizes, trials, filed, time.time() - began)
    args.out.mkdir(parents=True, exist_ok=True)
    heat_map(trials, args.sizes, args.out / "needle.png")
    (args.out / "needle.md").write_text(text, encoding="utf-8")
    everything = json.dumps([asdict(t) for t in trials + filed])
    (args.out / "needle.json").write_text(everything, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
