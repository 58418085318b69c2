"""The main job in one script: hide a card in a real video, watch the video once, ask about it.

    make demo                        # on a sample clip
    make demo VIDEO=holiday.mp4      # on yours
    make demo VIDEO=film.mp4 ARGS="--frames 256 --seed 7"     # another card, elsewhere

Writes the clip with the card and a contact sheet to demo/ and prints answers beside the truth.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import longtake
from longtake.terminal import bars, clock
from longtake.types import Answer, Span
from longtake.video.cards import Card, random_card
from longtake.video.insert import Place, insert_card

WORDS = ("ANCHOR", "BRIDGE", "CANDLE", "DRAGON", "FLOWER", "HAMMER", "ISLAND", "LETTER", "MARKET")
WORDS += ("OCEAN", "PARROT", "QUARTZ", "RIVER", "SHADOW", "TUNNEL", "VIOLET", "WINTER", "ZEBRA")
QUESTIONS = {
    "number": "What number is on the card?",
    "word": "What word is on the card?",
    "colour": "What colour is the card?",
}
OUT = Path("demo")
COLUMNS, WIDTH, GAP, CAPTION = 6, 240, 8, 22


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What was hidden, and where in the new clip."""

    card: Card
    start: float
    end: float


def hide(clip: Path, frames: int, rng: np.random.Generator) -> tuple[Path, Truth]:
    """Splice a random card into a clip at a random time, long enough to be sampled."""
    with longtake.open_video(clip) as video:
        shown = min(max(2 * video.duration / frames, 0.25), 3.0)
        place = Place(at_seconds=float(rng.uniform(0.05, 0.95)) * video.duration, seconds=shown)
    card = random_card(rng, WORDS)
    target = insert_card(clip, OUT / "clip.mp4", card, place)
    with longtake.open_video(target) as video:
        # the card starts at the first frame at or after the place
        first = video.index_at(place.at_seconds)
        start = float(video.seconds_T[first])
        if start < place.at_seconds - 1e-6 and first + 1 < video.frames:
            start = float(video.seconds_T[first + 1])
    return target, Truth(card=card, start=start, end=start + shown)


def row(asked: str, answered: str, truth: str, right: bool) -> str:
    """A line of the table."""
    return f"  {asked:<8} {answered:<22} {truth:<22} {'right' if right else 'WRONG'}"


def compare(answers: dict[str, Answer], truth: Truth) -> bool:
    """Print each answer beside the truth; true if all are right."""
    print("\n  asked    answered               truth")
    right = []
    for field, answer in answers.items():
        expected = str(getattr(truth.card, field))
        right.append(answer.text == expected)
        print(row(field, answer.text, expected, right[-1]))
    span = answers["word"].evidence[0]
    right.append(span.start <= truth.end and span.end >= truth.start)
    when = f"{clock(span.start)} - {clock(span.end)}"
    print(row("when", when, f"{clock(truth.start)} - {clock(truth.end)}", right[-1]))
    return all(right)


def sheet(path: Path, span: Span, target: Path) -> None:
    """A contact sheet of the clip, with the moment the answer rests on framed in its place."""
    with longtake.open_video(path) as video:
        times = list(np.linspace(0, max(video.duration - 0.05, 0), 4 * COLUMNS - 1))
        middle = (span.start + span.end) / 2
        times = sorted([*times, middle])
        height = round(WIDTH * video.height / video.width)
        size = (COLUMNS * (WIDTH + GAP) + GAP, 4 * (height + CAPTION + GAP) + GAP)
        board = Image.new("RGB", size, (24, 24, 27))
        pen, font = ImageDraw.Draw(board), ImageFont.load_default(14)
        for index, frame in enumerate(video.read(seconds=times, chunk=1)):
            x = GAP + index % COLUMNS * (WIDTH + GAP)
            y = GAP + index // COLUMNS * (height + CAPTION + GAP)
            picture = Image.fromarray(frame.pixels_TCHW[0].permute(1, 2, 0).numpy())
            board.paste(picture.resize((WIDTH, height)), (x, y))
            found = times[index] == middle
            if found:
                box = (x - 3, y - 3, x + WIDTH + 2, y + height + 2)
                pen.rectangle(box, outline="gold", width=3)
            label = clock(times[index]) + ("  <- the answer rests on this" if found else "")
            pen.text((x, y + height + 3), label, fill="gold" if found else "white", font=font)
    board.save(target)


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, help="a real clip; it is left as it is")
    parser.add_argument("--frames", type=int, default=64, help="frames to sample (default 64)")
    parser.add_argument("--seed", type=int, default=5, help="another number, another card")
    options = parser.parse_args()
    seed = options.seed
    OUT.mkdir(exist_ok=True)

    print(f"Hiding a card in {options.video.name} (seed {seed})")
    clip, truth = hide(options.video, options.frames, np.random.default_rng(seed))
    began = time.perf_counter()
    model = longtake.load("default")
    loaded = time.perf_counter()
    with bars() as progress:
        memory = model.watch(clip, max_frames=options.frames, progress=progress)
    watched = time.perf_counter()
    answers = {field: model.ask(memory, question) for field, question in QUESTIONS.items()}
    asked = time.perf_counter()

    good = compare(answers, truth)
    span = answers["word"].evidence[0]
    sheet(clip, span, OUT / "sheet.png")
    print(f"\n  loaded in {loaded - began:.1f} s, watched {memory.stats.frames} frames", end=" ")
    print(f"in {watched - loaded:.1f} s, answered 3 questions in {asked - watched:.2f} s")
    print(f"  {OUT / 'clip.mp4'}: the clip with the card   {OUT / 'sheet.png'}: look at it")
    if not good:
        print("  not all right: docs/default-model.md says how often the bundled model errs")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except longtake.LongtakeError as error:
        sys.exit(f"demo: {error}")
