"""Processors equal transformers' PIL ones; the original's own output is in tests/parity."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from longtake.errors import CheckpointError, OptionError, VideoError
from longtake.video.pixels import ClipProcessor, resize_image

CLIP: dict[str, Any] = {
    "crop_size": {"height": 56, "width": 56},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 56},
}
OLD_CLIP = {
    "crop_size": 56,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": CLIP["image_mean"],
    "image_std": CLIP["image_std"],
    "resample": 3,
    "size": 56,
}
SIGLIP: dict[str, Any] = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 40, "width": 56},
}
DROPPED = object()


def frames(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Uint8 noise [T, 3, H, W], channels-last as decoded frames are."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, height, width, 3)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return noise.permute(0, 3, 1, 2)


def scene(height: int, width: int) -> Tensor:
    """Something like a film frame, uint8 [1, 3, H, W]: soft shapes, hard edges, grain."""
    generator = torch.Generator().manual_seed(5)
    soft = torch.rand(1, 3, 9, 16, generator=generator)
    picture = F.interpolate(soft, (height, width), mode="bicubic")
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture[..., (rows // 7 + columns // 11) % 5 == 0] = 1.0
    picture[..., (rows - columns) % 61 < 3] = 0.0
    picture += 0.03 * torch.randn(1, 3, height, width, generator=generator)
    return (picture.clamp(0, 1) * 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def reference(processor: Any, pixels_TCHW: Tensor) -> Tensor:
    """What a transformers processor makes of the same frames."""
    arrays = list(pixels_TCHW.permute(0, 2, 3, 1).numpy())
    out = processor(arrays, return_tensors="pt", input_data_format="channels_last")
    return out["pixel_values"].float()


@pytest.fixture
def threads() -> Iterator[None]:
    """Run with several threads, whatever the environment asks for."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", range(40))
def test_clip_equals_the_pil_processor(seed: int) -> None:
    draw = random.Random(seed)
    config = CLIP | {
        "size": {"shortest_edge": draw.randint(1, 90)},
        "crop_size": {"height": draw.randint(1, 90), "width": draw.randint(1, 90)},
        "resample": draw.choice([0, 1, 2, 3, 4, 5]),
        "do_resize": draw.random() < 0.8,
        "do_center_crop": draw.random() < 0.8,
        "do_rescale": draw.random() < 0.8,
        "do_normalize": draw.random() < 0.8,
    }
    pixels_TCHW = frames(2, draw.randint(1, 150), draw.randint(1, 150), seed)
    ours = ClipProcessor.from_config(config)(pixels_TCHW)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    assert torch.equal(ours, reference(CLIPImageProcessorPil(**config), pixels_TCHW))


@pytest.mark.parametrize("seed", range(10))
def test_siglip_equals_the_pil_processor(seed: int) -> None:
    draw = random.Random(seed)
    pixels_TCHW = frames(2, draw.randint(1, 150), draw.randint(1, 150), seed)
    ours = ClipProcessor.from_config(SIGLIP)(pixels_TCHW)
    assert torch.equal(ours, reference(SiglipImageProcessorPil(**SIGLIP), pixels_TCHW))


def test_old_and_new_style_configs_say_the_same() -> None:
    assert ClipProcessor.from_config(OLD_CLIP) == ClipProcessor.from_config(CLIP)


def test_sizes_may_carry_nulls_as_saved_by_newer_versions() -> None:
    config = CLIP | {"size": {"shortest_edge": 56, "height": None, "width": None}, "pad_size": None}
    assert ClipProcessor.from_config(config) == ClipProcessor.from_config(CLIP)


@pytest.mark.usefixtures("threads")
def test_threads_keep_order_and_values() -> None:
    processor = ClipProcessor.from_config(CLIP)
    pixels_TCHW = frames(13, 70, 110)
    one_by_one = torch.cat([processor(pixels_TCHW[t : t + 1]) for t in range(13)])
    assert torch.equal(processor(pixels_TCHW), one_by_one)


def test_memory_layout_does_not_change_values() -> None:
    processor = ClipProcessor.from_config(CLIP)
    pixels_TCHW = frames(3, 70, 110)
    assert torch.equal(processor(pixels_TCHW), processor(pixels_TCHW.contiguous()))
    assert torch.equal(processor(pixels_TCHW[::2]), processor(pixels_TCHW)[::2])


def test_fit_and_normalise_are_the_two_halves() -> None:
    processor = ClipProcessor.from_config(CLIP)
    fitted_TCHW = processor.fit(frames(2, 70, 110))
    assert (fitted_TCHW.dtype, tuple(fitted_TCHW.shape)) == (torch.uint8, (2, 3, 56, 56))
    assert torch.equal(processor.normalise(fitted_TCHW), processor(frames(2, 70, 110)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_normalise_gives_the_same_floats_on_a_gpu() -> None:
    processor = ClipProcessor.from_config(CLIP)
    fitted_TCHW = processor.fit(frames(2, 70, 110))
    on_gpu = processor.normalise(fitted_TCHW.cuda())
    assert torch.equal(on_gpu.cpu(), processor.normalise(fitted_TCHW))


def test_frames_are_not_changed() -> None:
    config = CLIP | {"do_resize": False, "do_center_crop": False}
    pixels_TCHW = frames(1, 56, 56)
    before = pixels_TCHW.clone()
    for settings in (CLIP, config):
        ClipProcessor.from_config(settings)(pixels_TCHW)
    assert torch.equal(pixels_TCHW, before)


@pytest.mark.parametrize("config", [CLIP, SIGLIP, CLIP | {"resample": 2}])
@pytest.mark.parametrize("size_hw", [(360, 640), (40, 70), (56, 56)])
def test_fast_resize_is_near_the_exact_one(
    config: dict[str, Any], size_hw: tuple[int, int]
) -> None:
    exact = ClipProcessor.from_config(config)
    pixels_TCHW = scene(*size_hw)
    levels = exact.fit(pixels_TCHW).int() - replace(exact, resize="fast").fit(pixels_TCHW).int()
    # two passes round once each; the second one's weights sum to at most 1.3 in size: 1.3 + 1 < 3
    assert int(levels.abs().max()) <= 2
    assert float((levels != 0).float().mean()) < 0.02
    if exact.fit(pixels_TCHW).shape[-2:] != pixels_TCHW.shape[-2:]:
        nearest = F.interpolate(pixels_TCHW, exact.fit(pixels_TCHW).shape[-2:], mode="nearest")
        squashed = resize_image(pixels_TCHW[0], tuple(nearest.shape[-2:]), exact.resample)
        assert int((nearest[0].int() - squashed.int()).abs().max()) > 20, "the scene is too smooth"


def test_fast_resize_ends_in_the_same_arithmetic() -> None:
    exact = ClipProcessor.from_config(CLIP)
    fast = replace(exact, resize="fast")
    fitted_TCHW = fast.fit(scene(90, 160))
    assert torch.equal(fast(scene(90, 160)), exact.normalise(fitted_TCHW))


@pytest.mark.parametrize("resize", ["exact", "fast"])
def test_a_frame_smaller_than_the_crop_is_padded_with_black(resize: Any) -> None:
    config = CLIP | {"size": {"shortest_edge": 3}, "crop_size": {"height": 6, "width": 4}}
    processor = replace(ClipProcessor.from_config(config), resize=resize)
    white_TCHW = torch.full((1, 3, 5, 5), 255, dtype=torch.uint8)
    rows_columns = (processor.fit(white_TCHW)[0, 0] == 255).int().tolist()
    # of three added rows two come first; of one added column it comes first
    blank, filled = [0, 0, 0, 0], [0, 1, 1, 1]
    assert rows_columns == [blank, blank, filled, filled, filled, blank]


def test_no_frames_make_no_pixels() -> None:
    for config in (CLIP, SIGLIP):
        pixels_TCHW = ClipProcessor.from_config(config)(frames(0, 70, 110))
        assert pixels_TCHW.shape[0] == 0
        assert pixels_TCHW.shape[-1] == 56


def test_side_and_colour() -> None:
    processor = ClipProcessor.from_config(CLIP)
    assert processor.side == 56
    assert processor.colour == (122, 116, 104)
    assert ClipProcessor.from_config(SIGLIP).colour == (127, 127, 127)
    with pytest.raises(CheckpointError, match="squares"):
        _ = ClipProcessor.from_config(SIGLIP).side
    with pytest.raises(CheckpointError, match="squares"):
        _ = ClipProcessor.from_config(CLIP | {"do_center_crop": False}).side


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": DROPPED}, "size is None"),
        ({"size": {"longest_edge": 56}}, "size is"),
        ({"size": {"shortest_edge": 56, "longest_edge": 90}}, "size is"),
        ({"size": {"shortest_edge": 0}}, "size.shortest_edge is 0"),
        ({"size": 56, "do_center_crop": False}, "size is 56"),
        ({"size": [56, 56]}, "size is"),
        ({"crop_size": DROPPED}, "crop_size is None"),
        ({"crop_size": True}, "crop_size is True"),
        ({"crop_size": {"height": 56, "width": -1}}, "crop_size.width is -1"),
        ({"do_center_crop": "yes"}, "do_center_crop is 'yes'"),
        ({"resample": 9}, "resample is 9"),
        ({"resample": None}, "resample is None"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor is"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is"),
        ({"image_mean": 0.5}, "image_mean is"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "image_mean is nan"),
        ({"image_std": DROPPED}, "image_std is None"),
        ({"image_std": [0.2, 0.2, 0.0]}, "image_std is 0.0"),
        ({"do_pad": True}, "do_pad is True"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is True"),
        ({"crop_pct": 0.9}, "crop_pct is 0.9"),
    ],
)
def test_a_config_we_cannot_follow_is_named(change: dict[str, Any], message: str) -> None:
    config = {key: value for key, value in (CLIP | change).items() if value is not DROPPED}
    with pytest.raises(CheckpointError, match=message):
        ClipProcessor.from_config(config)


def test_steps_that_are_off_need_no_parameters() -> None:
    off = {"do_resize": False, "do_center_crop": False, "do_normalize": False, "do_rescale": False}
    pixels_TCHW = frames(2, 5, 7)
    processor = ClipProcessor.from_config(off | {"do_pad": False})
    assert torch.equal(processor(pixels_TCHW), pixels_TCHW.float())


def test_onevision_pads_crop_lists_not_pixels() -> None:
    config = SIGLIP | {"image_processor_type": "LlavaOnevisionImageProcessor", "do_pad": True}
    assert ClipProcessor.from_config(config) == ClipProcessor.from_config(SIGLIP)


@pytest.mark.parametrize(
    "pixels_TCHW",
    [
        torch.zeros(1, 3, 0, 20, dtype=torch.uint8),
        torch.zeros(1, 3, 20, 0, dtype=torch.uint8),
        torch.zeros(3, 20, 20, dtype=torch.uint8),
        torch.zeros(1, 4, 20, 20, dtype=torch.uint8),
        torch.zeros(1, 3, 20, 20),
    ],
)
def test_pictures_that_are_none_are_video_errors(pixels_TCHW: Tensor) -> None:
    with pytest.raises(VideoError, match="picture"):
        ClipProcessor.from_config(CLIP)(pixels_TCHW)


@pytest.mark.parametrize("size_hw", [(1, 10_000), (10_000, 1)])
def test_a_line_is_squashed_exactly_or_refused(size_hw: tuple[int, int]) -> None:
    line_TCHW = frames(1, *size_hw)
    squashed = ClipProcessor.from_config(SIGLIP)(line_TCHW)
    assert torch.equal(squashed, reference(SiglipImageProcessorPil(**SIGLIP), line_TCHW))
    large = CLIP | {"size": {"shortest_edge": 336}, "crop_size": 336}
    for resize in ("exact", "fast"):
        with pytest.raises(VideoError, match="3360000 pixels long"):
            replace(ClipProcessor.from_config(large), resize=resize)(line_TCHW)


def test_options_that_mean_nothing() -> None:
    processor = ClipProcessor.from_config(CLIP)
    with pytest.raises(OptionError, match="'exact' or 'fast'"):
        replace(processor, resize="quick")
    with pytest.raises(OptionError, match="lanczos"):
        replace(processor, resize="fast", resample=Image.Resampling.LANCZOS)
    with pytest.raises(OptionError, match="not both"):
        replace(processor, squash_hw=(56, 56))


def test_resize_image_is_pil() -> None:
    image_CHW = frames(1, 33, 47)[0]
    pil = Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).resize((20, 60))
    assert np.array_equal(resize_image(image_CHW, (60, 20)).permute(1, 2, 0).numpy(), np.array(pil))
