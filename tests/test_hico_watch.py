"""VideoChat-Flash through the public door: what is watched, what the prompt says, what is answered.

T frames, B clips, F frames of a clip, N visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from longtake.api import load
from longtake.errors import OptionError
from longtake.parts.splice import flat_ids
from longtake.reader import Known
from longtake.systems.videochat_flash import VideoChatFlash
from longtake.types import Frames, Memory, VisualTokens
from longtake.video.inputs import Source
from longtake.video.sample import Footage, PerSecond, Shown
from tests.parity.cases import Case, load_case
from tests.parity.videochat_flash import frames_of, schedule_of
from tests.remembering import remembering
from tests.tiny import noise

GOLDEN = Path(__file__).parent / "parity" / "golden" / "videochat_flash"
QUESTION = "What is the person doing?"
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"


@cache
def tiny(name: str = "ckpt-umt224") -> VideoChatFlash:
    """A golden checkpoint, loaded once; nothing may change it."""
    system = load(GOLDEN / name, device="cpu", dtype="float32")
    assert isinstance(system, VideoChatFlash)
    return remembering(system)


def ids_of(prompt: str) -> list[int]:
    """A prompt as the original tokenises it: stretch by stretch, -200 at each visual."""
    ids: list[int] = []
    for number, text in enumerate(prompt.split("<image>")):
        ids += [-200] if number else []
        ids += tiny().tokenizer.encode(text, add_special_tokens=False)
    return ids


def without_visuals(prompt: str) -> list[int]:
    """Its text alone."""
    return [one for one in ids_of(prompt) if one != -200]


def asked(memory: Memory, question: str = QUESTION) -> list[int]:
    """Text the model has read when it starts to answer."""
    system = tiny()
    return [*memory.ids, *system.tokens(memory.lead + system.template.tail(question))]


def picked(frames: Frames, indices: Sequence[int]) -> Frames:
    """Some of the frames, perhaps more than once."""
    rows = list(indices)
    return Frames(
        pixels_TCHW=frames.pixels_TCHW[rows],
        seconds_T=frames.seconds_T[rows],
        index_T=frames.index_T[rows],
    )


def seen(frames: Frames) -> VisualTokens:
    """Whole clips of 4."""
    assert len(frames) % 4 == 0
    system = tiny()
    return VisualTokens.join(list(system.see(system.fit(iter([frames])))))


def equal_to_the_prompt(memory: Memory, prompt: str, visuals: Sequence[VisualTokens]) -> None:
    """A memory and a question are that prompt: same ids, same tokens read, same answer."""
    system, options = tiny(), tiny().options(max_new_tokens=3)
    assert asked(memory) == without_visuals(prompt)
    pieces = system.pieces(prompt, visuals)
    assert flat_ids(pieces) == ids_of(prompt)
    tokens = sum(len(visual.features_ND) for visual in visuals)
    assert memory.stats.visual_tokens == tokens
    assert memory.length == tokens + len(memory.ids)
    last = max(n for n, piece in enumerate(pieces) if isinstance(piece, VisualTokens))
    fresh = system.new_cache()
    system.remember(iter(pieces[: last + 1]), fresh, Known(0))
    ours, theirs = memory.cache.layers[0].keys, fresh.layers[0].keys
    # fp32, read in other blocks; what another frame would change is above 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    answer, whole = system.ask(memory, QUESTION, options), system.complete(prompt, visuals, options)
    assert answer.ids == whole.ids
    assert answer.stats.prompt_tokens == whole.stats.prompt_tokens == len(asked(memory)) + tokens


def said(seconds: str, frames: int, question: str = QUESTION) -> str:
    """The published prompt of one video."""
    message = (
        f"The video lasts for {seconds} seconds, and {frames} frames are uniformly sampled from it."
    )
    return f"{HEAD}<image>\n{message} {question}{TAIL}"


@torch.no_grad()
def encode(system: VideoChatFlash, pixels_BFCHW: Tensor) -> Tensor:
    """64 tokens of a clip at little cost: averages of squares, each frame counted otherwise."""
    clips, frames = pixels_BFCHW.shape[:2]
    squares_TC88 = F.adaptive_avg_pool2d(system.normalised(pixels_BFCHW.flatten(0, 1)), 8)
    weights_F = torch.arange(1.0, frames + 1) / frames
    squares_BCN = (squares_TC88.view(clips, frames, 3, 64) * weights_F[:, None, None]).sum(1)
    mix_CD = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    return squares_BCN.transpose(1, 2) @ mix_CD


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tower and merging do not run."""
    monkeypatch.setattr(VideoChatFlash, "encode", encode)


# -- golden cases, watched ------------------------------------------------------------------------


def sources_of(case: Case) -> list[Source]:
    """What its placeholders stand for."""
    if "frames_u8" in case.tensors:
        return [frames_of(case)]  # a second apart, so the message says what the original's says
    images = sorted(name for name in case.tensors if name.endswith("_u8"))
    return [case.pictures(name) for name in images]


@pytest.mark.parametrize(
    "name",
    [
        "umt224-video8",
        "umt224-video16-drop-uniform0attention",
        "umt448-video4",
        "iv2-video8-drop-uniform0attention",
        "umt224-image-anyres",
        "umt224-image-multi-pad",
    ],
)
def test_golden_cases_watched_and_asked(name: str) -> None:
    """All frames of a case are as many as are wanted, so the sampler takes each of them."""
    case = load_case(GOLDEN / f"case-{name}.json")
    system = replace(tiny(case.checkpoint.name), drop=schedule_of(case))
    sources = sources_of(case)
    frames = sum(len(one) for one in sources if isinstance(one, Frames))
    memory = system.watch(*sources, max_frames=frames or None)
    question = case.spec["prompt"].removesuffix(TAIL).rsplit("<image>", 1)[1]
    question = question.removeprefix(memory.lead)  # what stands before it is ours to write
    assert asked(memory, question) == [one for one in case.tensors["input_ids"] if one != -200]
    wanted = case.tensors["generated_ids"].tolist()
    options = system.options(max_new_tokens=len(wanted), repetition_penalty=1.0)
    assert list(system.ask(memory, question, options).ids) == wanted


def test_a_chat_is_told_what_the_original_tells() -> None:
    case = load_case(GOLDEN / "case-umt224-chat.json")
    lead = tiny().follow(Shown(frames=88, seconds=90.0), last=True)
    question = case.spec["turns"][0]["question"]
    told = f"{HEAD}<image>{lead}{question}{TAIL}"
    assert told == said("90.00", 88, question)
    assert ids_of(told) == case.tensors["turn0_input_ids"].tolist()
    assert lead + question == case.spec["history"][0]["content"].removeprefix("<image>")


# -- how many frames ------------------------------------------------------------------------------


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("frames", "max_frames", "indices", "clips"),
    [
        (5, None, [0, 1, 2, 3, 4, 4, 4, 4], 2),  # fewer than a group: its last frame is repeated
        (10, None, [0, 1, 2, 3, 5, 6, 7, 8], 2),  # one whole group
        (10, 10, list(range(10)), 3),  # as many as wanted: the last clip is filled
        (1, None, [0] * 8, 2),
        (3, 2, [0, 1], 1),
        (9, 1, [4], 1),
    ],
)
def test_short_videos(frames: int, max_frames: int | None, indices: list[int], clips: int) -> None:
    film = noise(frames)  # two frames a second
    memory = tiny().watch(film, max_frames=max_frames)
    filled = indices + indices[-1:] * (4 * clips - len(indices))
    seconds = 0.0 if frames == 1 else frames / 2
    equal_to_the_prompt(memory, said(f"{seconds:.2f}", len(indices)), [seen(picked(film, filled))])
    assert memory.stats.frames == len(indices)  # frames sampled, not what fills a clip
    assert memory.stats.patches == 4 * clips * 196
    assert [entry.seconds for entry in memory.entries] == [indices[4 * n] / 2 for n in range(clips)]
    assert [entry.stop - entry.start for entry in memory.entries] == [64] * clips


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(("max_frames", "clips"), [(16, 4), (18, 5), (7, 2)])
def test_fewer_frames_than_the_original_takes_are_honoured(max_frames: int, clips: int) -> None:
    """It takes 64 at least; and it crashes unless their number is a multiple of 4, as of 510."""
    film = noise(100, seed=1)
    told: list[tuple[str, int, int]] = []
    memory = tiny().watch(
        film, max_frames=max_frames, progress=lambda *told_now: told.append(told_now)
    )
    indices = PerSecond()(Footage(frames=100, fps=2.0), max_frames)
    filled = indices + indices[-1:] * (4 * clips - max_frames)
    equal_to_the_prompt(memory, said("50.00", max_frames), [seen(picked(film, filled))])
    assert memory.stats.frames == max_frames
    for stage in ("decode", "encode"):
        steps = [(done, total) for name, done, total in told if name == stage]
        assert steps[-1] == (max_frames, max_frames)
        assert all(done <= total for done, total in steps)


# -- parts ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("start", "end", "seconds", "indices", "until"),
    [
        (5.0, 12.0, "7.00", [10, 11, 13, 15, 17, 18, 20, 22], 12.0),
        (None, 4.0, "4.00", [0, 1, 2, 3, 4, 5, 6, 7], 4.0),
        (16.0, None, "3.90", [32, 33, 34, 35, 36, 37, 38, 38], 19.9),
        (-4.0, 99.0, "19.90", [0, 2, 5, 7, 10, 12, 15, 17, 19, 22, 24, 27, 29, 32, 34, 37], 19.9),
    ],
)
def test_a_part_is_watched(
    start: float | None, end: float | None, seconds: str, indices: list[int], until: float
) -> None:
    film = noise(40, seed=2)  # twenty seconds
    wanted = len(indices)
    memory = tiny().watch(film, start=start, end=end, max_frames=wanted)
    chosen = [entry.seconds * 2 for entry in memory.entries]
    assert chosen == indices[::4]
    equal_to_the_prompt(memory, said(seconds, wanted), [seen(picked(film, indices))])
    assert memory.durations == (pytest.approx(until),)
    spans = tiny().ask(memory, QUESTION, tiny().options(max_new_tokens=2)).evidence
    assert all((start or 0.0) <= span.start < span.end <= until + 1e-9 for span in spans)


@pytest.mark.parametrize(
    ("start", "end"), [(20.0, None), (30.0, 40.0), (8.0, 3.0), (4.0, 4.0), (-9.0, -1.0)]
)
def test_a_part_without_frames_is_refused(start: float, end: float | None) -> None:
    with pytest.raises(OptionError, match="no frame lies between"):
        tiny().watch(noise(40), start=start, end=end)


def test_a_single_frame_has_no_parts() -> None:
    with pytest.raises(OptionError, match="no frame lies between"):
        tiny().watch(noise(1), start=0.0, end=1.0)


# -- images ---------------------------------------------------------------------------------------


def image(height: int, width: int, seed: int = 0) -> Tensor:
    """Uint8 noise [3, H, W]."""
    return noise(1, seed, height, width).pixels_TCHW[0]


@pytest.mark.usefixtures("light")
def test_one_image_is_a_mosaic() -> None:
    picture = image(100, 300)
    memory = tiny().watch(picture)
    equal_to_the_prompt(
        memory, f"{HEAD}<image>\n{QUESTION}{TAIL}", [tiny().see_image(picture, alone=True)]
    )
    assert memory.stats.visual_tokens == 64 * (1 + 2)  # 448 x 224: 300 x 100 at its own size
    assert memory.stats.frames == 1
    by_pillow = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    again = tiny().watch(by_pillow)
    options = tiny().options(max_new_tokens=3)
    assert tiny().ask(again, QUESTION, options).ids == tiny().ask(memory, QUESTION, options).ids


@pytest.mark.usefixtures("light")
def test_two_images_are_padded() -> None:
    pictures = [image(100, 300), image(90, 40, seed=1)]
    memory = tiny().watch(*pictures)
    visuals = [tiny().see_image(picture, alone=False) for picture in pictures]
    assert [len(visual.features_ND) for visual in visuals] == [64, 64]
    equal_to_the_prompt(memory, f"{HEAD}<image>\n<image>\n{QUESTION}{TAIL}", visuals)
    assert [entry.visual for entry in memory.entries] == [0, 1]


@pytest.mark.usefixtures("light")
def test_an_image_and_a_video() -> None:
    """The only image is a mosaic still; each visual is followed by its own words."""
    picture, film = image(100, 300), noise(8)
    mosaic, clips = tiny().see_image(picture, alone=True), seen(film)
    memory = tiny().watch(picture, film)
    prompt = said("4.00", 8).replace("<image>", "<image>\n<image>")
    equal_to_the_prompt(memory, prompt, [mosaic, clips])
    assert memory.durations == (0.0, 4.0)
    assert memory.stats.frames == 9
    memory = tiny().watch(film, picture)
    prompt = said("4.00", 8, f"<image>\n{QUESTION}")
    equal_to_the_prompt(memory, prompt, [clips, mosaic])


@pytest.mark.usefixtures("light")
def test_two_videos_each_have_their_message() -> None:
    films = [noise(8), noise(12, seed=3)]
    memory = tiny().watch(*films, max_frames=8)
    shown = [seen(films[0]), seen(picked(films[1], [0, 1, 3, 4, 6, 7, 9, 10]))]
    first = said("4.00", 8, "").removesuffix(TAIL)
    prompt = first + said("6.00", 8).removeprefix(HEAD)
    equal_to_the_prompt(memory, prompt, shown)
    assert [entry.visual for entry in memory.entries] == [0, 0, 1, 1]


def test_text_alone() -> None:
    """Where the original fails on a fresh model."""
    system, options = tiny(), tiny().options(max_new_tokens=4)
    answer = system.ask(None, QUESTION, options)
    assert answer.stats.prompt_tokens == len(ids_of(f"{HEAD}{QUESTION}{TAIL}"))
    assert answer.ids == system.complete(f"{HEAD}{QUESTION}{TAIL}", [], options).ids


@pytest.mark.usefixtures("light")
def test_a_visual_keeps_a_token_at_least() -> None:
    """Shares below one token would leave nothing to read, even at the end of a memory."""
    for drop in ("uniform:3:1,0.001", "attention:3:1,0.001", "2,5:1,0.01,0.001"):
        system = tiny().variant(drop=drop)
        memory = system.watch(noise(4), max_frames=4)
        assert len(system.ask(memory, QUESTION, system.options(max_new_tokens=3)).ids) == 3
        visuals = [seen(noise(4))]
        assert system.complete("<image>", visuals, system.options(max_new_tokens=3)).ids
        assert system.holding.rows([64])[-1] == 1
