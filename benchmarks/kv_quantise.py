"""What 8 and 4 bits per key and value cost: errors, answers, bytes, time.

    python benchmarks/kv_quantise.py --folder /tmp/footage

Two models: the bundled one on a made-up video with a card at several depths, and the tiny Video-XL
of the tests (random weights) on noise. Each memory is asked in full precision first; then a packed
copy gets the same questions, and its logits are compared along the words that full precision wrote.
Writes results/kv_quantise.md.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import cast

import footage
import numpy as np
import torch
from needle import Haystack, card_tokens, encode, entries
from torch import Tensor

import longtake
from longtake.engine import prefill
from longtake.parts.cache import GrowingCache, kv_bytes_per_token
from longtake.parts.quantise import BITS, Kind, quantised, quantised_bytes_per_token
from longtake.parts.qwen2 import Step
from longtake.system import System
from longtake.train.questions import FIELDS, HELD_OUT_QUESTIONS, answer
from longtake.train.words import TEST_WORDS
from longtake.types import Answer, Frames, Memory
from longtake.video.cards import random_card

HERE = Path(__file__).parent
TINY = HERE.parent / "tests/parity/golden/video_xl/checkpoint"
TINY_QUESTIONS = (
    "What happens?",
    "Why does she leave?",
    "What word is on the card?",
    "Count the people.",
    "Is it day or night?",
    "What colour is the car?",
    "Who speaks first?",
    "Describe the room.",
)
ARMS: tuple[tuple[Kind, int], ...] = (
    ("int8", 0),
    ("int8", 128),
    ("fp8", 0),
    ("int4", 0),
    ("int4", 128),
)
SECONDS, DEPTHS = 180, tuple(n / 10 for n in range(1, 11))
HEAD = """Errors of keys and values: norm of the difference over norm, all layers. Logits: largest
difference, and in brackets the root mean square, of all vocabulary entries behind each word that
full precision wrote; their own deviation stands in the first row. Same ids: greedy answers equal to
full precision, token by token. Bytes include scales; they are of the tokens held. Time: median of
all questions, beside other work on the same machine."""


@dataclass(kw_only=True)
class Tally:
    """What was measured of one arm, over memories and questions."""

    name: str
    squares: Tensor = field(default_factory=lambda: torch.zeros(2, 2, dtype=torch.float64))
    """[keys or values, of the difference or of the number]."""
    worst: float = 0.0
    logits: list[float] = field(default_factory=list)
    """Mean square of each question's difference; of full precision the variance."""
    same: int = 0
    right: int = 0
    asked: int = 0
    bytes: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A memory and what is asked of it."""

    memory: Memory
    questions: tuple[str, ...]
    wanted: tuple[str | None, ...]
    """Right answers, where there are any."""


def copied(cache: GrowingCache) -> GrowingCache:
    """The same keys and values once more: packing consumes a cache."""
    fresh = GrowingCache()
    for index, layer in enumerate(cache.layers):
        fresh.update(cast(Tensor, layer.keys), cast(Tensor, layer.values), index)
    return fresh


def held(cache: GrowingCache, layer: int) -> tuple[Tensor, Tensor]:
    """All keys and values of a layer, as attention gets them."""
    none = cast(Tensor, cache.layers[layer].keys)[:, :, :0]
    return cache.peek(none, none, layer)


def logits(system: System, memory: Memory, question: str, ids: Sequence[int]) -> Tensor:
    """Behind each written token, given those before it: [S, V]."""
    model, cache = system.model, cast(GrowingCache, memory.cache)
    tail = (*system.tokens("\n" + system.template.tail(question)), *ids[:-1])
    positions = torch.arange(memory.length, memory.length + len(tail))[None]
    with torch.no_grad():
        x_BSD = model.embed(torch.tensor(tail))[None]
        features_SD = model.decoder(x_BSD, Step(positions_BS=positions, cache=cache))[0]
        cache.rewind(memory.length)
        return model.logits(features_SD[-len(ids) :]).float()


def timed(system: System, memory: Memory, question: str, tally: Tally) -> Answer:
    """Ask once, noting the time."""
    began = time.perf_counter()
    said = system.ask(memory, question, system.options(max_new_tokens=20))
    tally.seconds.append(time.perf_counter() - began)
    return said


def measure(system: System, case: Case, tallies: dict[str, Tally]) -> None:
    """One memory in full precision and in every packed form."""
    cache = cast(GrowingCache, case.memory.cache)
    full = tallies.setdefault("full", Tally(name="full"))
    said = [timed(system, case.memory, question, full) for question in case.questions]
    exact = [
        logits(system, case.memory, q, a.ids) for q, a in zip(case.questions, said, strict=True)
    ]
    full.logits += [float(x.var()) for x in exact]
    full.bytes = case.memory.bytes
    count(full, said, said, case.wanted)
    for kind, residual in ARMS:
        name = f"{kind}, last {residual} full" if residual else kind
        tally = tallies.setdefault(name, Tally(name=name))
        small = replace(case.memory, cache=quantised(copied(cache), kind, residual))
        tally.bytes = small.bytes
        for layer in range(len(cache)):
            pairs = zip(held(small.cache, layer), held(cache, layer), strict=True)
            for row, (near, true) in enumerate(pairs):
                tally.squares[row, 0] += (near - true).double().square().sum()
                tally.squares[row, 1] += true.double().square().sum()
        found = [timed(system, small, question, tally) for question in case.questions]
        count(tally, found, said, case.wanted)
        for question, a, true in zip(case.questions, said, exact, strict=True):
            off = logits(system, small, question, a.ids) - true
            tally.worst = max(tally.worst, float(off.abs().max()))
            tally.logits.append(float(off.square().mean()))


def count(
    tally: Tally, found: list[Answer], full: list[Answer], wanted: Sequence[str | None]
) -> None:
    """Answers equal to those of full precision, and right ones."""
    tally.asked += len(found)
    tally.same += sum(a.ids == b.ids for a, b in zip(found, full, strict=True))
    tally.right += sum(a.text == text for a, text in zip(found, wanted, strict=True))


def card_cases(system: System, hay: Haystack) -> Iterator[Case]:
    """A card at each depth of a video that is encoded once; asked its number, word and colour."""
    rng, head = np.random.default_rng(11), system.embed_text(system.template.head())
    for depth in DEPTHS:
        card, frames = random_card(rng, TEST_WORDS), [f.features_ND for f in hay.frames]
        frames[round(depth * (len(frames) - 1))] = card_tokens(system, card, hay, rng).features_ND
        cache = system.model.new_cache()
        prefill(system.model, iter([head, *frames]), cache)
        memory = Memory(
            cache=cache,
            length=cache.get_seq_length(),
            entries=entries(hay, len(head)),
            durations=(hay.interval * len(frames),),
            system=system.name,
            fingerprint=system.fingerprint,
        )
        questions = tuple(HELD_OUT_QUESTIONS[name][0] for name in FIELDS)
        yield Case(
            memory=memory,
            questions=questions,
            wanted=tuple(answer(name, card) for name in FIELDS),
        )


def noise_case(system: System, frames: int) -> Case:
    """Random frames, condensed."""
    generator = torch.Generator().manual_seed(0)
    shape = (frames, 3, 90, 120)
    noise = Frames(
        pixels_TCHW=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        seconds_T=torch.arange(frames, dtype=torch.float64) / 2,
        index_T=torch.arange(frames),
    )
    memory = system.watch(noise, max_frames=frames)
    nothing = (None,) * len(TINY_QUESTIONS)
    return Case(memory=memory, questions=TINY_QUESTIONS, wanted=nothing)


def table(tallies: dict[str, Tally], cards: bool) -> str:
    """Markdown rows."""
    rows = [
        "| memory | keys | values | logits | same ids |"
        + (" right |" if cards else "")
        + " bytes | smaller | s per question |",
        "|---" * (8 if cards else 7) + "|",
    ]
    full = tallies["full"]
    for tally in tallies.values():
        rms = float(np.mean(tally.logits)) ** 0.5
        keys, values = (tally.squares[:, 0] / tally.squares[:, 1]).sqrt().tolist()
        errors = f"{keys:.2e} | {values:.2e} | {tally.worst:.3f} ({rms:.4f})"
        rows.append(
            f"| {tally.name} | {f'- | - | deviate by {rms:.2f}' if tally is full else errors} "
            f"| {tally.same}/{tally.asked} | "
            + (f"{tally.right}/{tally.asked} | " if cards else "")
            + f"{tally.bytes:,} | {full.bytes / tally.bytes:.2f}x "
            f"| {np.median(tally.seconds):.3f} |"
        )
    return "\n".join(rows)


def planned(system: System) -> str:
    """Bytes per token by formula."""
    config = system.model.config
    sizes = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
    plain = kv_bytes_per_token(*sizes, system.model.compute_dtype)
    packed = ", ".join(f"{quantised_bytes_per_token(*sizes, kind):.1f} ({kind})" for kind in BITS)
    return f"Heads {sizes[2]} wide; by formula {plain} bytes a token in full precision, {packed}."


def section(title: str, system: System, cases: Iterator[Case], cards: bool) -> str:
    """One model's part of the report."""
    tallies: dict[str, Tally] = {}
    lengths = []
    for case in cases:
        measure(system, case, tallies)
        lengths.append(case.memory.length)
    about = f"{len(lengths)} memories of {max(lengths)} tokens" if cards else f"{lengths[0]} tokens"
    return f"## {title}, {about}\n\n{planned(system)}\n\n{table(tallies, cards)}\n"


def main() -> None:
    """Both models; write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/longtake-footage"))
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--tiny-frames", type=int, default=23)
    args = parser.parse_args()
    began = time.time()
    default, tiny = longtake.load("default", device="cpu"), longtake.load(TINY, device="cpu")
    hay = encode(default, footage.make(args.folder, seconds=SECONDS, gop=50), args.frames)
    parts = [
        section("Bundled model", default, card_cases(default, hay), cards=True),
        section(
            "Tiny Video-XL of the tests (random weights)",
            tiny,
            iter([noise_case(tiny, args.tiny_frames)]),
            cards=False,
        ),
    ]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "av"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"
    command = " ".join(["python", "benchmarks/kv_quantise.py", *sys.argv[1:]])
    took = f"Python {platform.python_version()}, {packages}; fp32; {time.time() - began:.0f} s"
    head = f"# Keys and values in 8 and 4 bits\n\n`{command}` on {machine}, {took}.\n\n{HEAD}\n"
    text = "\n".join([head, *parts])
    (HERE / "results/kv_quantise.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
