"""Cards: geometry at every aspect, colours, errors, and splicing into a clip."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from longtake.errors import OptionError, VideoError
from longtake.video.cards import CELL, HUES, LEFT, Card, Look, draw_card, has_letters, random_look
from longtake.video.insert import Place, insert_card

SIZES = [(1280, 720), (176, 144), (640, 272), (360, 640), (96, 96)]
CARD = Card(number=88, word="HHHHHH", colour="red")


def dark(card: Card, width: int, height: int, look: Look | None = None) -> np.ndarray:
    """Where the ink is, after the squash to the bundled model's square."""
    picture = draw_card(card, width, height, look).resize((96, 96), Image.Resampling.BICUBIC)
    return np.asarray(picture.convert("L"), dtype=np.float64) < 128


@pytest.mark.parametrize("size", SIZES)
def test_letters_stay_in_their_cells_whatever_the_aspect(size: tuple[int, int]) -> None:
    ink = dark(CARD, *size)[46:70]
    edges = [round(96 * (LEFT + CELL * index)) for index in range(7)]
    for left, right in pairwise(edges):
        assert ink[:, left + 2 : right - 2].any()
        assert not ink[:, left - 1 : left + 1].any()


@pytest.mark.parametrize("size", SIZES)
def test_number_and_word_lie_in_rows_of_their_own(size: tuple[int, int]) -> None:
    # the red ground is dark as well; columns well inside the plate
    rows = dark(CARD, *size)[10:74, 8:36].any(axis=1)
    assert rows[13:20].all()
    assert not rows[29:33].any()
    assert rows[42:52].all()


def test_widest_variety_keeps_the_text_on_the_plate() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        look = random_look(rng, [None], 1.0)
        text = look.shift[0] + LEFT + 6 * CELL * look.scale
        assert look.inset[0] < look.shift[0] + LEFT
        assert text < 1 - look.inset[0]


def test_looks_and_pictures_depend_on_the_seed_alone() -> None:
    first, second, other = (
        draw_card(CARD, 160, 90, random_look(np.random.default_rng(seed), [None])).tobytes()
        for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other


def test_grounds_are_told_apart() -> None:
    corners = {
        colour: np.array(
            draw_card(Card(number=10, word="ABC", colour=colour), 64, 64).getpixel((1, 62))
        )
        for colour in HUES
    }
    for one in HUES:
        for two in HUES:
            if one != two:
                assert np.abs(corners[one] - corners[two]).max() >= 50, (one, two)


@pytest.mark.parametrize(
    ("number", "word", "colour"),
    [
        (9, "ABC", "red"),
        (100, "ABC", "red"),
        (10, "AB", "red"),
        (10, "ABCDEFG", "red"),
        (10, "abc", "red"),
        (10, "AB1", "red"),
        (10, "ABC", "mauve"),
    ],
)
def test_what_is_no_card_raises(number: int, word: str, colour: str) -> None:
    with pytest.raises(OptionError):
        Card(number=number, word=word, colour=colour)


def test_unusable_sizes_and_fonts_raise(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="32 x 32"):
        draw_card(CARD, 16, 64)
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    with pytest.raises(OptionError, match="not a font"):
        draw_card(CARD, 64, 64, Look(face=str(broken)))
    assert not has_letters(str(broken))


def grey_clip(path: Path, frames: int, rate: int) -> Path:
    with av.open(str(path), "w") as writer:
        stream = writer.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 98, 64, "yuv420p"
        for number in range(frames):
            pixels = np.full((64, 98, 3), 20 + 4 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))
    return path


def decoded(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    with av.open(str(path)) as reader:
        return [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24"))
            for frame in reader.decode(video=0)
        ]


@pytest.mark.parametrize("at", [0.0, 1.2, 3.9])
def test_a_card_is_spliced_in_where_asked(tmp_path: Path, at: float) -> None:
    source = grey_clip(tmp_path / "plain.mp4", frames=40, rate=10)
    target = insert_card(source, tmp_path / "with.mp4", CARD, Place(at_seconds=at, seconds=0.5))
    before, after = decoded(source), decoded(target)
    assert len(after) == len(before) + 5
    red = [pixels[-2, 50, 0] > 150 and pixels[-2, 50, 1] < 90 for _, pixels in after]
    first = round(at * 10)
    assert [index for index, is_red in enumerate(red) if is_red] == list(range(first, first + 5))
    times = [time for time, _ in after]
    assert times == [Fraction(index, 10) for index in range(45)]
    rest = [pixels for index, (_, pixels) in enumerate(after) if not red[index]]
    for (_, old), new in zip(before, rest, strict=True):
        assert abs(float(old.mean()) - float(new.mean())) < 4


def test_places_outside_the_clip_and_broken_clips_raise(tmp_path: Path) -> None:
    source, target = grey_clip(tmp_path / "plain.mp4", 10, 10), tmp_path / "with.mp4"
    with pytest.raises(VideoError, match="ends before"):
        insert_card(source, target, CARD, Place(at_seconds=5.0))
    with pytest.raises(OptionError, match="source itself"):
        insert_card(source, source, CARD, Place(at_seconds=0.0))
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes(1000))
    with pytest.raises(VideoError):
        insert_card(noise, target, CARD, Place(at_seconds=0.0))
    with pytest.raises(OptionError):
        Place(at_seconds=-1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.mp4", "plain.mp4"]
