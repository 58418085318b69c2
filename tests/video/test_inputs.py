"""What can be watched: frames in memory and still images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from longtake.errors import OptionError, VideoError
from longtake.types import Frames
from longtake.video.images import is_image, open_image
from longtake.video.inputs import Held, open_source
from tests.tiny import noise


def test_frames_in_memory_read_like_a_video() -> None:
    frames = noise(7)
    held = open_source(frames)
    assert isinstance(held, Held)
    assert held.frames == 7
    assert held.duration == 3.5
    chunks = list(held.read([0, 3, 3, 6], chunk=3))
    assert [len(chunk) for chunk in chunks] == [3, 1]
    assert torch.equal(
        torch.cat([chunk.pixels_TCHW for chunk in chunks]), frames.pixels_TCHW[[0, 3, 3, 6]]
    )
    assert chunks[1].seconds_T.tolist() == [3.0]
    assert Held(held=noise(1)).duration == 0.0


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "png-without-ending"])
def test_images_are_known_by_content(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    form = "JPEG" if name.endswith("jpg") else "PNG"
    Image.fromarray(pixels).save(tmp_path / name, form)
    image = open_source(tmp_path / name)
    assert isinstance(image, torch.Tensor)
    assert image.shape == (3, 20, 30)
    if form == "PNG":
        assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


def test_transparency_is_dropped_and_grey_becomes_colour(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png")[:, 0, 0].tolist() == [200, 100, 50]
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png")[:, 0, 0].tolist() == [77, 77, 77]


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    assert not is_image(tmp_path / "text.png")
    assert not is_image(tmp_path)
    assert not is_image(tmp_path / "missing.png")
    frames = [Image.new("RGB", (8, 8), (90 * n, 0, 0)) for n in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert not is_image(tmp_path / "moving.gif")


def test_a_damaged_image_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(VideoError, match=r"cut\.png cannot be read") as raised:
        open_source(path)
    assert "\n" not in str(raised.value)


def test_refusals() -> None:
    with pytest.raises(VideoError, match="0 frames"):
        open_source(noise(1)[:0])
    with pytest.raises(OptionError, match="cannot watch a list"):
        open_source([1, 2])  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="uint8"):
        Frames(
            pixels_TCHW=torch.zeros(1, 3, 4, 4),
            seconds_T=torch.zeros(1).double(),
            index_T=torch.zeros(1, dtype=torch.int64),
        )
