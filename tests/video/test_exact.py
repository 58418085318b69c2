"""Whatever the file and the request: the right pictures, bit for bit, at the right times."""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
import pytest
import torch

from longtake.errors import OptionError, VideoError
from longtake.types import Frames
from longtake.video.decode import Video, open_video
from tests.video.makers import READABLE, VFR_PTS, Clips, number_of
from tests.video.reference import decode_all

# AVI stores no presentation times: those PyAV reports for its B-frames are made up and disordered.
# The clock of joined streams starts again; both are compared with what was encoded instead.
WITHOUT_TIMES = {"b.avi", "mpeg4.avi", "raw.h264", "joined.ts"}
# Clips that do not show pictures 0, 1, 2, ... because their packets were cut or hidden.
FIRST = {"edit-list.mp4": 33, "midway.ts": 30}
HIDDEN = {"hidden-vp8.webm": 23}


def together(video: Video, *args: object, **kwargs: object) -> Frames:
    parts = list(video.read(*args, **kwargs))
    return Frames(
        pixels_TCHW=torch.cat([part.pixels_TCHW for part in parts]),
        seconds_T=torch.cat([part.seconds_T for part in parts]),
        index_T=torch.cat([part.index_T for part in parts]),
    )


def assert_exact(clips: Clips, name: str, frames: Frames, wanted: Sequence[int]) -> None:
    """Every frame equals the one a full decode shows at that place."""
    reference = decode_all(clips[name])
    assert frames.index_T.tolist() == list(wanted)
    for place, index in enumerate(wanted):
        expected = reference.pictures[index]
        if name == "turned.mp4":
            expected = np.rot90(expected, -1)  # clockwise, as the matrix asks
        got = frames.pixels_TCHW[place].permute(1, 2, 0).numpy()
        assert np.array_equal(got, expected), f"frame {index} of {name} differs"


@pytest.mark.parametrize("name", READABLE)
def test_every_frame_and_time_equals_a_full_decode(clips: Clips, name: str) -> None:
    reference = decode_all(clips[name])
    with open_video(clips[name]) as video:
        frames = together(video, chunk=7)
        assert video.frames == len(reference.pictures)
        assert_exact(clips, name, frames, range(video.frames))
        assert video.warnings == ()
    even_T = torch.arange(video.frames, dtype=torch.float64) / 25
    stored = even_T.tolist() if name in WITHOUT_TIMES else reference.seconds
    stored_T = torch.tensor(stored, dtype=torch.float64)
    assert frames.seconds_T.dtype == torch.float64
    assert torch.allclose(frames.seconds_T, stored_T, rtol=0, atol=1e-9)
    # Independent of any decoder's numbering: the pictures carry their numbers.
    turns = 1 if name == "turned.mp4" else 0
    upright = (p.permute(1, 2, 0).numpy() for p in frames.pixels_TCHW)
    numbers = [number_of(np.rot90(pixels, turns)) for pixels in upright]
    first = FIRST.get(name, 0)
    assert numbers == [
        n
        for n in range(first, first + len(numbers) + 1)
        if n != HIDDEN.get(name, first + len(numbers))
    ]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", READABLE)
def test_any_request_is_served_in_its_order(clips: Clips, name: str, threads: int) -> None:
    with open_video(clips[name]) as video:
        last = video.frames - 1
        random = np.random.default_rng(3)
        requests = {
            "one": [last],
            "uniform": np.linspace(0, last, 7).astype(int),
            "repeated": np.linspace(0, last, 2 * video.frames).astype(int),
            "sorted": np.sort(random.integers(0, video.frames, 20)),
            "random": random.integers(0, video.frames, 40),
            "reversed": range(last, -1, -1),
            "sawtooth": [*range(0, last, 5), *range(0, last, 5), last],
        }
        for wanted in requests.values():
            frames = together(video, list(wanted), threads=threads, chunk=5)
            assert_exact(clips, name, frames, list(wanted))
        assert video.warnings == ()


@pytest.mark.parametrize("threads", [3, 8])
def test_more_threads_change_nothing(clips: Clips, threads: int) -> None:
    with open_video(clips["short-gop.mp4"]) as video:
        frames = together(video, threads=threads, chunk=3)
        assert_exact(clips, "short-gop.mp4", frames, range(video.frames))


def test_a_decoder_that_starts_in_the_middle_knows_the_encoder(clips: Clips) -> None:
    """FFmpeg imitates mistakes of encoders that sign their first packet only."""
    name = "old-x264.mp4"
    plain = decode_all(clips["short-gop.mp4"]).pictures
    imitated = [n for n, p in enumerate(decode_all(clips[name]).pictures) if (p != plain[n]).any()]
    assert imitated
    for index in imitated:
        with open_video(clips[name]) as video:
            assert_exact(clips, name, together(video, [index]), [index])


def test_facts_come_from_the_packets(clips: Clips) -> None:
    with open_video(clips["vfr.mp4"]) as video:
        shown = VFR_PTS[-1] / 600
        assert video.fps == pytest.approx(59 / shown, rel=1e-12)
        assert video.variable_rate
        assert video.seconds_T.tolist() == [ticks / 600 for ticks in VFR_PTS]
    with open_video(clips["live.mkv"]) as video:
        assert (video.frames, video.fps, video.duration) == (60, 25.0, 2.4)
        assert not video.variable_rate
    with open_video(clips["late.mkv"]) as video:
        assert (video.start_seconds, video.seconds_T[0], video.duration) == (5.2, 0.0, 2.4)
    with open_video(clips["av1.mp4"]) as video:
        assert (video.name, video.codec, video.rotation) == ("av1.mp4", "av1", 0)
        assert (video.width, video.height) == (192, 112)
        assert repr(video) == "Video(av1.mp4: 30 frames of 192x112, 1.20 s at 25.00 fps, av1)"
    with open_video(clips["one.mp4"]) as video:
        assert (video.frames, video.duration, video.fps) == (1, 0.04, 25.0)


def test_rotation_turns_the_picture_and_its_size(clips: Clips) -> None:
    with open_video(clips["turned.mp4"]) as video:
        assert (video.width, video.height, video.rotation) == (112, 192, 270)
        assert next(video.read([0])).pixels_TCHW.shape == (1, 3, 192, 112)


def test_a_still_picture_is_one_frame_of_no_duration(clips: Clips) -> None:
    for name in ("still.png", "still.jpg"):
        path = clips.folder / name
        with open_video(clips["b.mp4"]) as video:
            pixels = next(video.read([50])).pixels_TCHW[0].permute(1, 2, 0).numpy()
        av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").save(str(path))
        with open_video(path) as video:
            assert (video.frames, video.duration, video.fps) == (1, 0.0, 0.0)
            assert video.warnings == ()
            (frames,) = video.read()
            assert number_of(frames.pixels_TCHW[0].permute(1, 2, 0).numpy()) == 50


def test_a_time_names_the_frame_on_screen(clips: Clips) -> None:
    with open_video(clips["vfr.mp4"]) as video:
        times = video.seconds_T.tolist()
        for index in (0, 1, 40, 58):
            middle = (times[index] + times[index + 1]) / 2
            assert video.index_at(times[index]) == index
            assert video.index_at(middle) == index
            assert video.index_at(times[index + 1] - 1e-6) == index
            assert video.index_at(np.nextafter(times[index + 1], 0)) == index + 1  # rounding
        assert video.index_at(-5.0) == 0
        assert video.index_at(1e9) == video.frames - 1
        wanted = [times[7], times[3] + 1e-4, 0.0]
        assert together(video, seconds=wanted).index_T.tolist() == [7, 3, 0]
    with open_video(
        clips["late.ts"]
    ) as video:  # 90 000 ticks do not hold 1 / 25 s exactly in binary
        assert [video.index_at(number / 25) for number in range(60)] == list(range(60))


def test_chunks_have_the_size_asked_for(clips: Clips) -> None:
    with open_video(clips["b.mp4"]) as video:
        assert [len(frames) for frames in video.read(range(10), chunk=4)] == [4, 4, 2]
        assert list(video.read([])) == []
        frames = next(video.read(range(3)))
        assert frames.pixels_TCHW.dtype == torch.uint8
        assert frames.pixels_TCHW.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("wanted", [[60], [-1], [0, 1, 1000], [0.5], ["a"]])
def test_a_frame_that_is_not_there_is_an_error(clips: Clips, wanted: list[int]) -> None:
    with open_video(clips["b.mp4"]) as video, pytest.raises(VideoError, match=r"b\.mp4"):
        video.read(wanted)


def test_wrong_options_are_errors(clips: Clips) -> None:
    with open_video(clips["b.mp4"]) as video:
        with pytest.raises(OptionError, match="both"):
            video.read([0], seconds=[0.0])
        with pytest.raises(OptionError, match="1 or more"):
            video.read(chunk=0)
        with pytest.raises(OptionError, match="1 or more"):
            video.read(threads=0)
        with pytest.raises(VideoError, match="nan"):
            video.index_at(float("nan"))
    with pytest.raises(VideoError, match="closed"):
        video.read([0])
