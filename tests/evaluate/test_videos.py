"""Videos are found where the published archives have them; folders of frames are videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtake.errors import AnnotationError, VideoError
from longtake.evaluate.videos import Library, frames_as_video
from longtake.video.decode import open_video


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_a_video_is_found_under_its_name_or_another_ending_or_below(tmp_path: Path) -> None:
    direct = touch(tmp_path / "a.mp4")
    other = touch(tmp_path / "b.mkv")
    placed = touch(tmp_path / "data/c.mp4")
    deep = touch(tmp_path / "x/y/d.webm")
    touch(tmp_path / "p/e.mp4")
    touch(tmp_path / "q/e.mp4")
    library = Library(folder=tmp_path)
    assert library.find("a.mp4") == direct
    assert library.find("./a.mp4") == direct
    assert library.find("b.mp4") == other
    assert library.find("c.mp4", ("data",)) == placed
    assert library.find("VNBench/d.mp4") == deep
    assert library.find("e.mp4") is None, "two of the same name"
    assert library.find("e.mp4", ("q",)) == tmp_path / "q/e.mp4"
    assert library.find("f.mp4") is None


def test_a_clip_of_another_place_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    """MVBench: video_10009.mp4 is a clip of two data sets."""
    other = touch(tmp_path / "clevrer/video_validation/video_10009.mp4")
    library = Library(folder=tmp_path)
    assert library.find("video_10009.mp4", ("perception/videos", "video/perception/videos")) is None
    assert library.find("video_10009.mp4", ("clevrer/video_validation",)) == other
    deep = touch(tmp_path / "unpacked/perception/videos/video_10009.mp4")
    library = Library(folder=tmp_path)
    assert library.find("video_10009.mp4", ("perception/videos",)) == deep
    touch(tmp_path / "again/perception/videos/video_10009.mp4")
    library = Library(folder=tmp_path)
    assert library.find("video_10009.mp4", ("perception/videos",)) is None, "two in such a place"


def test_names_that_lead_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "secret.mp4")
    (tmp_path / "in").mkdir()
    library = Library(folder=tmp_path / "in")
    for name in ("../secret.mp4", str(tmp_path / "secret.mp4"), "..", "", "/"):
        assert library.find(name) is None, name


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="is no folder"):
        Library(folder=touch(tmp_path / "file"))


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_folder_of_frames_is_a_video_of_them(ending: str, tmp_path: Path) -> None:
    folder = tmp_path / "clip_14"
    folder.mkdir()
    for number in range(7):
        colour = np.full((48, 64, 3), 30 * number, np.uint8)
        Image.fromarray(colour).save(folder / f"img_{number + 5}.{ending}")  # 5 to 11, unpadded
    assert Library(folder=tmp_path).find("clip_14") == folder
    target = frames_as_video(folder, 3, tmp_path / "frames.mov")
    video = open_video(target)
    with video:
        assert (video.frames, video.fps) == (7, pytest.approx(3.0))
        means = [
            float(chunk.pixels_TCHW[n].float().mean())
            for chunk in video.read(range(7))
            for n in range(len(chunk))
        ]
    assert means == pytest.approx([30.0 * number for number in range(7)], abs=2.0)


def test_pictures_of_two_kinds_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    touch(tmp_path / "b.png")
    with pytest.raises(VideoError, match="several kinds"):
        frames_as_video(tmp_path, 3, tmp_path / "out.mov")
    (tmp_path / "b.png").unlink()
    with pytest.raises(VideoError, match="cannot be read"):
        frames_as_video(tmp_path, 3, tmp_path / "out.mov")
