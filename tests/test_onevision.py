"""LLaVA-OneVision through the public calls: streaming, questions, moments, images, newlines."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longtake import reader
from longtake.api import load
from longtake.inspect import inspect_model, see_blank
from longtake.parts.newlines import Newlines
from longtake.system import System
from longtake.systems.llava_onevision import LlavaOneVision
from longtake.types import Frames, Memory, VisualTokens
from tests.remembering import remembering
from tests.test_onevision_folder import HF_FOLDER, LMMS_FOLDER, change_config
from tests.tiny import noise

QUESTION = "What is in the video?"
EACH = 16
"""Tokens of a frame: 7 x 7 patches, pooled to 4 x 4."""


@cache
def tiny() -> LlavaOneVision:
    """The checkpoint, loaded once for all tests; nothing may change it."""
    system = load(LMMS_FOLDER, device="cpu")
    assert isinstance(system, LlavaOneVision)
    return remembering(system)


def with_position(where: Newlines) -> LlavaOneVision:
    """The checkpoint as if its config.json had this mm_newline_position."""
    return replace(tiny(), config=replace(tiny().config, newlines=where))


def tokens_of(system: System, frames: Frames) -> VisualTokens:
    """All tokens of some frames at once."""
    seen = system.compress(system.see(system.fit(iter([frames]))))
    return VisualTokens.join(list(system.arrange(seen)))


def image(height: int, width: int, seed: int = 5) -> Tensor:
    """Uint8 noise [3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def said(system: System, memory: Memory, question: str = QUESTION) -> tuple[int, ...]:
    """Ten ids."""
    return system.ask(memory, question, system.options(max_new_tokens=10)).ids


def whole(system: System, prompt: str, visuals: list[VisualTokens]) -> tuple[int, ...]:
    """The same of a whole prompt."""
    options = system.options(max_new_tokens=10)
    return system.complete(system.template.prompt(prompt), visuals, options).ids


# -- videos ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 8, 20])
@pytest.mark.parametrize("where", ["one_token", "grid", "frame", "no_token"])
def test_streaming_equals_one_shot(
    monkeypatch: pytest.MonkeyPatch, where: Newlines, chunk: int
) -> None:
    system, frames = with_position(where), noise(20)
    monkeypatch.setattr(reader, "CHUNK", chunk)
    memory = system.watch(frames, max_frames=20)
    tokens = tokens_of(system, frames)
    assert said(system, memory) == whole(system, f"<image>\n{QUESTION}", [tokens])
    assert tuple(entry.stop - entry.start for entry in memory.entries) == tokens.counts
    assert [entry.seconds for entry in memory.entries] == [n / 2 for n in range(20)]
    assert memory.length == len(system.tokens(system.template.head())) + sum(tokens.counts)
    assert memory.stats.visual_tokens == sum(tokens.counts)
    assert memory.stats.frames == 20
    assert memory.stats.patches == 20 * 49
    assert system.arranged(20) == sum(tokens.counts) == 20 * EACH + tokens.newlines


def test_where_newlines_stand() -> None:
    counts = {where: tokens_of(with_position(where), noise(3)).counts for where in PLACES}
    assert counts == {
        "one_token": (EACH, EACH, EACH + 1),
        "grid": (EACH + 4,) * 3,
        "frame": (EACH + 1,) * 3,
        "no_token": (EACH,) * 3,
    }
    newline = tiny().model.newline
    for where in ("one_token", "grid", "frame"):
        tokens = tokens_of(with_position(where), noise(3))
        assert torch.equal(tokens.features_ND[-1], newline)


PLACES: tuple[Newlines, ...] = ("one_token", "grid", "frame", "no_token")


def test_a_video_of_one_frame() -> None:
    system, frames = tiny(), noise(1)
    memory = system.watch(frames)
    assert len(memory.entries) == 32  # repeated, as the original's linspace does
    memory = system.watch(frames, max_frames=1)
    assert [entry.stop - entry.start for entry in memory.entries] == [EACH + 1]
    tokens = tokens_of(system, frames)
    assert said(system, memory) == whole(system, f"<image>\n{QUESTION}", [tokens])


def test_frames_are_spread_from_the_first_to_the_last() -> None:
    system = tiny()
    memory = system.watch(noise(100))
    assert len(memory.entries) == system.frames == 32
    chosen = [int(n * 99 / 31) for n in range(32)]
    assert [entry.seconds for entry in memory.entries] == [n / 2 for n in chosen]


def test_a_second_question_and_a_conversation() -> None:
    system, frames = tiny(), noise(5)
    memory = system.watch(frames, max_frames=5)
    first, second = said(system, memory), said(system, memory, "How many frames?")
    assert said(system, memory) == first != second
    assert said(system, system.watch(frames, max_frames=5), "How many frames?") == second
    history = [(QUESTION, "Noise.")]
    answer = system.ask(memory, "Sure?", system.options(max_new_tokens=10), history)
    turns = f"<image>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\nNoise.<|im_end|>\n"
    turns += "<|im_start|>user\nSure?"
    assert answer.ids == whole(system, turns, [tokens_of(system, frames)])


def test_several_videos_have_a_newline_each() -> None:
    system, one, two = tiny(), noise(4), noise(4, seed=1)
    memory = system.watch(one, two, max_frames=4)
    assert [entry.visual for entry in memory.entries] == [0] * 4 + [1] * 4
    sizes = [entry.stop - entry.start for entry in memory.entries]
    assert sizes == [EACH, EACH, EACH, EACH + 1] * 2
    visuals = [tokens_of(system, one), tokens_of(system, two)]
    assert said(system, memory) == whole(system, f"<image> <image>\n{QUESTION}", visuals)


def test_a_model_that_was_told_times_is_told_them() -> None:
    """LLaVA-Video's training: a sentence behind the video, before the question."""
    system = replace(tiny(), config=replace(tiny().config, times_told=True))
    frames = noise(9)
    memory = system.watch(frames, max_frames=3)
    shown = Frames(
        pixels_TCHW=frames.pixels_TCHW[::4],
        seconds_T=frames.seconds_T[::4],
        index_T=frames.index_T[::4],
    )
    sentence = (
        "The video lasts for 4.50 seconds, and 3 frames are uniformly sampled from it. These "
        "frames are located at 0.00s,2.00s,4.00s.Please answer the following questions related to "
        "this video."
    )
    told = f"<image>\n{sentence}\n{QUESTION}"
    assert said(system, memory) == whole(system, told, [tokens_of(system, shown)])
    assert said(system, memory) != said(tiny(), tiny().watch(frames, max_frames=3))
    assert system.watch(image(90, 140)).lead == "\n"


def test_moments_lie_within_the_video() -> None:
    system = tiny()
    memory = system.watch(noise(12), max_frames=12)
    answer = system.ask(memory, QUESTION, system.options(max_new_tokens=6))
    assert answer.evidence
    for span in answer.evidence:
        assert 0.0 <= span.start < span.end <= memory.durations[0]
        assert 0.0 < span.weight <= 1.0


# -- images ---------------------------------------------------------------------------------------


def test_an_image_alone_is_cut_and_several_are_padded() -> None:
    system, first, second = tiny(), image(301, 117), image(90, 140)
    memory = system.watch(first)
    assert said(system, memory) == whole(system, f"<image>\n{QUESTION}", [system.see_image(first)])
    assert memory.entries[0].stop - memory.entries[0].start > 49 + 1
    both = system.watch(first, second)
    assert [entry.stop - entry.start for entry in both.entries] == [49 + 1] * 2
    visuals = [system.see_image(each, alone=False) for each in (first, second)]
    assert said(system, both) == whole(system, f"<image> <image>\n{QUESTION}", visuals)
    assert system.ask(both, QUESTION, system.options(max_new_tokens=2)).evidence == ()


def test_an_image_beside_a_video_is_alone() -> None:
    system, still, frames = tiny(), image(240, 430), noise(4)
    memory = system.watch(still, frames, max_frames=4)
    visuals = [system.see_image(still), tokens_of(system, frames)]
    assert said(system, memory) == whole(system, f"<image> <image>\n{QUESTION}", visuals)
    assert memory.entries[0].stop - memory.entries[0].start == len(visuals[0].features_ND)
    assert memory.durations == (0.0, 2.0)


@pytest.mark.parametrize(
    ("aspect", "rows", "tokens"),
    [
        # 430 x 240 goes into 5 x 3 crops, 35 x 21 patches, of which 19 rows stay
        ("anyres", 19, 49 + 19 * 36),
        ("anyres_max_9", 15, 49 + 15 * 29),  # t = 1.228
        ("anyres_max_2", 7, 49 + 7 * 14),
        ("anyres_max_36", 19, 49 + 19 * 36),
        ("pad", 1, 49 + 1),
        ("square", 1, 49 + 1),
    ],
)
def test_tokens_of_an_image(aspect: str, rows: int, tokens: int) -> None:
    system = replace(tiny(), config=replace(tiny().config, aspect=aspect))
    seen = system.see_image(image(240, 430))
    assert seen.counts == (tokens,)
    assert torch.equal(seen.features_ND[-1], system.model.newline)
    assert seen.patches == (49 if tokens == 50 else 49 * 16)
    assert seen.newlines == rows


def test_an_image_that_fits_one_crop_is_read_twice() -> None:
    """Whole and as a map of one crop, as the original does."""
    seen = tiny().see_image(image(80, 80))
    assert seen.counts == (49 + 7 * 8,)


def test_several_images_of_a_checkpoint_that_squashes_are_squashed() -> None:
    square = replace(tiny(), config=replace(tiny().config, aspect="square"))
    one = square.see_image(image(50, 120))
    assert torch.equal(square.see_image(image(50, 120), alone=False).features_ND, one.features_ND)
    padded = tiny().see_image(image(50, 120), alone=False)
    assert not torch.equal(padded.features_ND, one.features_ND)


# -- around it ------------------------------------------------------------------------------------


def test_where_newlines_stand_is_part_of_a_memory(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(LMMS_FOLDER, tmp_path / "grid"))
    change_config(folder, mm_newline_position="grid")
    grid = load(folder, device="cpu")
    assert grid.fingerprint != tiny().fingerprint
    assert grid.watch(noise(2), max_frames=2).entries[0].stop == 18 + EACH + 4


def test_costs_count_what_is_read() -> None:
    for folder in (LMMS_FOLDER, HF_FOLDER):
        report = inspect_model(str(folder), frame_counts=(8, 40))
        assert (report.system, report.picture, report.window) == (
            "llava_onevision",
            (98, 98),
            32768,
        )
        assert [cost.tokens for cost in report.costs] == [8 * EACH + 1, 40 * EACH + 1]
        pool = next(stage for stage in report.comparison.stages if stage.name == "pool")
        assert pool.tokens == 32 * EACH + 1
        meta = load(folder, device="meta")
        assert isinstance(meta, LlavaOneVision)
        assert meta.video_sizes.per_frame == EACH


@pytest.mark.parametrize("where", ["grid", "frame", "no_token"])
def test_costs_count_newlines_of_every_frame(where: Newlines, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(LMMS_FOLDER, tmp_path / "model"))
    change_config(folder, mm_newline_position=where)
    report = inspect_model(str(folder), frame_counts=(8,))
    meta = load(folder, device="meta")
    assert isinstance(meta, LlavaOneVision)
    read = meta.arrange(meta.compress(see_blank(meta, 8)))
    tokens = sum(len(part.features_ND) for part in read)
    assert report.costs[0].tokens == tokens == 8 * meta.video_sizes.per_frame


# -- reading further ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", PLACES)
def test_a_window_is_stretched_for_tokens_and_not_for_newlines(where: Newlines) -> None:
    """Streamed, and as a whole prompt; a second question goes on at the same positions."""
    system = with_position(where).variant(extend="visual-window:window=48", pool="2,8,4")
    frames = noise(10)
    memory = system.watch(frames, max_frames=10)
    tokens = tokens_of(system, frames)
    assert memory.target == 3 * EACH + 7 == len(tokens.features_ND) - tokens.newlines
    answers = said(system, memory), said(system, memory)
    assert answers[0] == answers[1] == whole(system, f"<image>\n{QUESTION}", [tokens])
    plain = replace(system, extend=None)
    assert answers[0] != said(plain, plain.watch(frames, max_frames=10))


def test_an_image_counts_without_its_newlines() -> None:
    system = tiny().variant(extend="visual-window:window=48")
    memory = system.watch(image(301, 117), noise(4), max_frames=4)
    seen = system.see_image(image(301, 117))
    assert memory.target == len(seen.features_ND) - seen.newlines + 4 * EACH
