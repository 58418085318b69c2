"""The convenience calls: the same answers as the long way."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import longtake
from longtake.errors import OptionError
from tests.tiny import CHECKPOINT, noise, tiny


def test_ask_in_one_call_and_on_a_memory() -> None:
    frames, system = noise(3), tiny()
    long_way = system.ask(
        system.watch(frames, max_frames=3), "What?", system.options(max_new_tokens=5)
    )
    short = longtake.ask(frames, "What?", model=str(CHECKPOINT), max_frames=3, max_new_tokens=5)
    assert short.ids == long_way.ids
    memory = longtake.watch(frames, model=system, max_frames=3)
    assert longtake.ask(memory, "What?", model=system, max_new_tokens=5).ids == long_way.ids
    with pytest.raises(OptionError, match="unknown option"):
        longtake.ask(memory, "What?", model=system, heat=3)


def test_fast_resize_is_close_and_told_apart() -> None:
    exact, fast = tiny(), longtake.load(CHECKPOINT, device="cpu", resize="fast")
    pixels = noise(2).pixels_TCHW
    difference = exact.processor.fit(pixels).int() - fast.processor.fit(pixels).int()
    assert difference.abs().max() <= 2
    assert exact.fingerprint != fast.fingerprint
    with pytest.raises(OptionError, match="resize"):
        longtake.load(CHECKPOINT, resize="nearest")  # type: ignore[arg-type]


def test_dtypes_and_devices_as_torch_writes_them() -> None:
    system = longtake.load(CHECKPOINT, device=torch.device("cpu"), dtype=torch.float32)
    assert system.model.dtype == torch.float32


def test_pil_images_and_open_files(tmp_path: Path) -> None:
    image = Image.fromarray(noise(1).pixels_TCHW[0].permute(1, 2, 0).numpy())
    as_image = tiny().watch(image)
    assert as_image.length == tiny().watch(noise(1).pixels_TCHW[0]).length
    image.save(tmp_path / "one.png")
    with (tmp_path / "one.png").open("rb") as file:
        # a file object is always a video: here one of a single frame
        assert tiny().watch(file, max_frames=1).stats.frames == 1


def test_a_part_of_a_video_is_a_part_of_its_time(tmp_path: Path) -> None:
    """Also where frames come at no steady rate: 20 in the first second, then one a second."""
    from fractions import Fraction

    from tests.video.makers import encode

    pts = [50 * number for number in range(20)] + [1000 * second for second in range(1, 12)]
    film = encode(
        tmp_path / "uneven.mkv",
        "libx264",
        numbers=list(range(31)),
        pts=pts,
        time_base=Fraction(1, 1000),
    )
    system = tiny()
    memory = longtake.watch(str(film), model=system, max_frames=4, start=3.0, end=8.0)
    seconds = [entry.seconds for entry in memory.entries]
    assert seconds == sorted(seconds)
    assert 3.0 <= seconds[0] <= 3.1
    assert 6.9 <= seconds[-1] <= 8.0
    assert memory.durations == (8.0,)
    whole = longtake.watch(str(film), model=system, max_frames=4)
    assert whole.entries[0].seconds == 0.0
    assert whole.durations[0] > 10.0
    answer = longtake.ask(
        str(film), "What?", model=system, max_frames=4, start=3.0, end=8.0, max_new_tokens=4
    )
    assert answer.ids == system.ask(memory, "What?", system.options(max_new_tokens=4)).ids
    with pytest.raises(OptionError, match="no frame lies between 50 s"):
        longtake.watch(str(film), model=system, start=50.0)
