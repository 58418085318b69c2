"""Files that are not whole, not videos or not there: one clear line, and whatever can be read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from longtake.errors import VideoError
from longtake.video.decode import open_video
from tests.clips import write_clip, write_sound
from tests.video.makers import Clips, copy_packets, encode, number_of
from tests.video.reference import decode_all


def cut(clips: Clips, name: str, share: float) -> Path:
    whole = clips[name].read_bytes()
    path = clips.folder / f"cut-{share}-{name}"
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_what_cannot_be_opened_says_why(clips: Clips, tmp_path: Path) -> None:
    text = b"Once upon a time there was a video that was not one.\n" * 40
    noise = np.random.default_rng(0).bytes(20_000)
    box = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + bytes(4096)
    for path, words in (
        (tmp_path / "missing.mp4", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "missing.mp4" / "below", "no such file"),
        (write(tmp_path, "empty.mp4", b""), "is empty"),
        (write(tmp_path, "text.mp4", text), "is a text file"),
        (write(tmp_path, "text.txt", text), "is a text file|found: text"),
        (write(tmp_path, "noise.mkv", noise), "not a video FFmpeg can read"),
        (write(tmp_path, "no-index.mp4", box), r"no readable index \(moov box\)"),
        (write_sound(tmp_path / "sound.mp4"), "found: audio"),
        (
            write_clip(tmp_path / "none.mp4", 0),
            "no frames|found: no stream|not a video|no readable",
        ),
    ):
        with pytest.raises(VideoError, match=words) as caught:
            open_video(path)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)


def test_a_recording_that_never_got_its_index_says_so(clips: Clips) -> None:
    with pytest.raises(VideoError, match="moov"):
        open_video(cut(clips, "long-gop.mp4", 0.5))  # its index would come last


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may read anything")
def test_a_file_without_permission(clips: Clips, tmp_path: Path) -> None:
    path = write(tmp_path, "secret.mp4", clips["b.mp4"].read_bytes())
    path.chmod(0)
    with pytest.raises(VideoError, match="permission"):
        open_video(path)


def test_permission_denied_by_the_system_is_explained(
    clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips["b.mp4"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(VideoError, match="permission denied"):
        open_video(path)


@pytest.mark.parametrize("share", [0.4, 0.57, 0.8])
@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.ts", "fragments.mp4"])
def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(
    clips: Clips, name: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = decode_all(clips[name])
    with open_video(cut(clips, name, share)) as video:
        (line,) = video.warnings
        there = re.fullmatch(
            r"the file breaks off(: ([\d.]+) s of the stated [\d.]+ s could be read"
            r"| after ([\d.]+) s; what comes before was read)",
            line,
        )
        assert there is not None, line
        end = video.start_seconds + video.duration
        assert float(there[2] or there[3]) == pytest.approx(end, abs=0.051)
        assert 0.25 * 60 < video.frames < 60
        for frames in video.read():
            for pixels, seconds in zip(frames.pixels_TCHW, frames.seconds_T, strict=True):
                got = pixels.permute(1, 2, 0).numpy()
                assert number_of(got) == round(25 * float(seconds))
                assert np.array_equal(got, whole.pictures[number_of(got)])
        assert video.warnings == (line,)
    assert capfd.readouterr() == ("", "")  # FFmpeg's own complaints stay inside


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.ts"])
def test_nothing_that_can_be_read_is_left_out(clips: Clips, name: str) -> None:
    """Only pictures that a plain decode cannot bring out whole may be missing at the torn end."""
    path = cut(clips, name, 0.57)
    with open_video(path) as video:
        assert len(decode_all(path).pictures) - video.frames <= 1


def test_pictures_that_end_before_the_sound_are_no_damage(tmp_path: Path) -> None:
    for ending in ("mp4", "mkv"):
        path = encode(
            tmp_path / f"short.{ending}",
            "libx264",
            numbers=range(10),
            options={"x264-params": "bframes=0"},
            sound=3.0,
        )
        with open_video(path) as video:
            assert video.frames == 10
            assert video.warnings == ()


def test_damage_in_the_middle_is_bridged_and_told(clips: Clips, tmp_path: Path) -> None:
    """Broken packets cost at most the pictures that depend on them, and nothing is mislabelled."""
    name = "short-gop.mp4"
    whole = decode_all(clips[name])

    def spoil(rank: int, packet: object) -> object:
        if 20 <= rank < 40 and rank % 10 in (3, 4):
            packet.update(b"\xff" * packet.size)
        return packet

    path = copy_packets(clips[name], tmp_path / "damaged.mp4", edit=spoil)
    with open_video(path) as video:
        assert video.frames == 60
        for wanted in (range(60), range(0, 60, 7), range(59, -1, -1)):
            for frames in video.read(list(wanted), chunk=5):
                for index, pixels in zip(frames.index_T.tolist(), frames.pixels_TCHW, strict=True):
                    got = pixels.permute(1, 2, 0).numpy()
                    if not 20 <= index < 40:
                        assert np.array_equal(got, whole.pictures[index])
                    else:  # the last good picture, never one from later or from another GOP
                        assert index - 10 <= number_of(got) <= index
        assert any("cannot be decoded" in line for line in video.warnings)
        assert all("\n" not in line for line in video.warnings)


def test_gops_of_nothing_are_bridged_by_what_came_before(clips: Clips, tmp_path: Path) -> None:
    def blank(rank: int, packet: object) -> object:
        if 20 <= rank < 50:
            packet.update(b"\0" * packet.size)
        return packet

    path = copy_packets(clips["short-gop.mp4"], tmp_path / "hole.mp4", edit=blank)
    with open_video(path) as video:
        frames = next(video.read([12, 22, 25, 47, 55]))
        got = [number_of(pixels.permute(1, 2, 0).numpy()) for pixels in frames.pixels_TCHW]
        assert got == [12, 19, 19, 19, 55]
        assert video.warnings == (
            "frames that cannot be decoded so far: 3; the last good picture stands in",
        )


def test_a_video_of_which_nothing_decodes_is_an_error(clips: Clips, tmp_path: Path) -> None:
    def blank(rank: int, packet: object) -> object:
        packet.update(b"\0" * packet.size)
        return packet

    path = copy_packets(clips["short-gop.mp4"], tmp_path / "nothing.mp4", edit=blank)
    with pytest.raises(VideoError, match="can be decoded"):
        open_video(path)
