"""Published image processors: uint8 frames in, a tower's float32 pixels out, bit for bit.

The originals resize with PIL on bytes, cut or pad bytes, then scale and normalise. That last part
maps one byte of one channel to one float, so a table of 256 entries per channel, filled by the
original arithmetic, replaces it: exact on every device, and faster than the arithmetic.

T frames, C channels, H W pixels (h w after processing), V the 256 values of a byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from longtake.errors import CheckpointError, OptionError, VideoError

# PIL holds 4 bytes per pixel of a whole resized frame, in each thread: at most 128 MiB here.
MAX_PIXELS = 2**25
MAX_THREADS = 8

_TORCH_MODES = {Image.Resampling.BICUBIC: "bicubic", Image.Resampling.BILINEAR: "bilinear"}
# Switches that change no pixel of an RGB frame, and parameters that would change some.
_HARMLESS = {"do_convert_rgb", "do_sample_frames"}
_READ = {"do_resize", "do_center_crop", "do_rescale", "do_normalize"}
_UNSUPPORTED = ("crop_pct", "max_pixels", "min_pixels", "pad_size", "size_divisor")


@dataclass(frozen=True, kw_only=True)
class ClipProcessor:
    """What a CLIP or SigLIP preprocessor_config.json says, as a function of frames."""

    edge: int | None
    """Resize the shortest side to this, keeping the aspect (CLIP)."""
    squash_hw: tuple[int, int] | None
    """Resize to exactly this, whatever the aspect (SigLIP)."""
    crop_hw: tuple[int, int] | None
    """Cut this out of the centre; black is added where a frame is smaller."""
    resample: Image.Resampling
    """PIL's filter; it antialiases."""
    rescale_factor: float
    """Multiplies the bytes; 1 leaves them."""
    mean: tuple[float, float, float]
    """Subtracted from each channel after rescaling."""
    std: tuple[float, float, float]
    """Divides each channel last."""
    resize: Literal["exact", "fast"] = "exact"
    """`exact` is PIL; `fast` is torch on bytes, a few times quicker, which rounds its weights more
    coarsely: of seven real clips, at most one value in 200 was a level of 255 off, one in 500 000
    two, none more."""

    def __post_init__(self) -> None:
        if self.edge is not None and self.squash_hw is not None:
            raise OptionError("resize the shortest edge or to an exact size, not both")
        if self.resize not in ("exact", "fast"):
            raise OptionError(f"resize must be 'exact' or 'fast', got {self.resize!r}")
        if self.resize == "fast" and self.resample not in _TORCH_MODES:
            raise OptionError(
                f"resize='fast' does bilinear and bicubic, not {self.resample.name.lower()}; "
                "use resize='exact'"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClipProcessor:
        """Read a published preprocessor_config.json, old style (plain numbers) or new (dicts).

        Raises CheckpointError, naming the field, for what is missing, unknown or unusable.
        """
        _refuse_unknown_steps(config)
        cuts = _flag(config, "do_center_crop", absent=config.get("crop_size") is not None)
        edge, squash_hw = None, None
        if _flag(config, "do_resize", absent=True):
            size = config.get("size")
            if cuts and isinstance(size, int):
                size = {"shortest_edge": size}
            if isinstance(size, Mapping) and _given(size) == {"shortest_edge"}:
                edge = _side("size.shortest_edge", size["shortest_edge"])
            else:
                squash_hw = _height_width("size", size)
        normalises = _flag(config, "do_normalize", absent=True)
        rescales = _flag(config, "do_rescale", absent=True)
        return cls(
            edge=edge,
            squash_hw=squash_hw,
            crop_hw=_height_width("crop_size", config.get("crop_size")) if cuts else None,
            resample=_resample(config.get("resample", Image.Resampling.BICUBIC)),
            rescale_factor=_positive(config, "rescale_factor", 1 / 255) if rescales else 1.0,
            mean=_channels(config, "image_mean") if normalises else (0.0, 0.0, 0.0),
            std=_channels(config, "image_std") if normalises else (1.0, 1.0, 1.0),
        )

    @property
    def side(self) -> int:
        """Height and width of the square it makes; CheckpointError if that is not one."""
        size_hw = self.crop_hw or self.squash_hw
        if size_hw is None or size_hw[0] != size_hw[1]:
            raise CheckpointError(
                f"image crops need a processor that makes squares, this one makes {size_hw}"
            )
        return size_hw[0]

    @property
    def colour(self) -> tuple[int, int, int]:
        """The mean as a byte colour, truncated: what "pad" surrounds an image with."""
        red, green, blue = (int(mean * 255) for mean in self.mean)
        return red, green, blue

    def __call__(self, pixels_TCHW: Tensor) -> Tensor:
        """Process frames on the CPU: uint8 [T, 3, H, W] -> contiguous float32 [T, 3, h, w].

        Raises VideoError for frames of another type or shape, or too long to resize.
        """
        return self.normalise(self.fit(pixels_TCHW))

    def fit(self, pixels_TCHW: Tensor) -> Tensor:
        """Resize and crop frames on the CPU: uint8 [T, 3, H, W] -> uint8 [T, 3, h, w].

        A quarter of the bytes of what `normalise` makes of it, on whatever device.
        """
        check_frames(pixels_TCHW)
        frame_hw = (int(pixels_TCHW.shape[2]), int(pixels_TCHW.shape[3]))
        resized_hw = self._resized(frame_hw)
        fitted_hw = self.crop_hw or resized_hw
        if resized_hw == frame_hw:
            return _centre(pixels_TCHW, fitted_hw)
        fitted_TCHW = torch.empty(
            (len(pixels_TCHW), 3, *fitted_hw),
            dtype=torch.uint8,
            memory_format=torch.channels_last,
        )

        def fit_one(frame: int) -> None:
            resized_CHW = self._resize(pixels_TCHW[frame], resized_hw)
            fitted_TCHW[frame] = _centre(resized_CHW, fitted_hw)

        _in_threads(fit_one, len(pixels_TCHW))
        return fitted_TCHW

    def normalise(self, bytes_TCHW: Tensor) -> Tensor:
        """Scale and normalise bytes, on their device: uint8 -> contiguous float32, same shape."""
        values_V = torch.arange(256, dtype=torch.float64)
        # float64 until the product is rounded, then float32: the order of the originals
        scaled_V = (values_V * self.rescale_factor).to(torch.float32)
        mean_C, std_C = torch.tensor(self.mean), torch.tensor(self.std)
        table_CV = ((scaled_V - mean_C[:, None]) / std_C[:, None]).to(bytes_TCHW.device)
        pixels_TCHW = torch.empty(bytes_TCHW.shape, dtype=torch.float32, device=bytes_TCHW.device)
        for channel, table_V in enumerate(table_CV):
            bytes_THW = bytes_TCHW[:, channel]
            chosen = table_V.index_select(0, bytes_THW.reshape(-1).int())
            pixels_TCHW[:, channel] = chosen.view(bytes_THW.shape)
        return pixels_TCHW

    def _resized(self, frame_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width after resizing, before the crop."""
        if self.edge is None:
            return self.squash_hw or frame_hw
        longest = int(self.edge * max(frame_hw) / min(frame_hw))
        if longest * self.edge > MAX_PIXELS:
            raise VideoError(
                f"a {frame_hw[1]}x{frame_hw[0]} picture resized to a shortest side of {self.edge} "
                f"would be {longest} pixels long, at most {MAX_PIXELS // self.edge}; cut it first"
            )
        return (longest, self.edge) if frame_hw[1] <= frame_hw[0] else (self.edge, longest)

    def _resize(self, frame_CHW: Tensor, resized_hw: tuple[int, int]) -> Tensor:
        if self.resize == "exact":
            return resize_image(frame_CHW, resized_hw, self.resample)
        mode = _TORCH_MODES[self.resample]
        return F.interpolate(frame_CHW[None], resized_hw, mode=mode, antialias=True)[0]


def resize_image(
    image_CHW: Tensor,
    size_hw: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Tensor:
    """Resize one picture with PIL: uint8 [3, H, W] -> channels-last uint8 [3, h, w]."""
    image = Image.fromarray(image_CHW.permute(1, 2, 0).numpy())
    resized = np.array(image.resize(size_hw[::-1], resample))
    return torch.from_numpy(resized).permute(2, 0, 1)


def check_frames(pixels_TCHW: Tensor) -> None:
    """Raise VideoError unless these are uint8 RGB frames with pixels, on the CPU."""
    shape = tuple(pixels_TCHW.shape)
    if len(shape) != 4 or shape[1] != 3 or pixels_TCHW.dtype != torch.uint8:
        raise VideoError(f"pictures must be uint8 [T, 3, H, W], got {pixels_TCHW.dtype} {shape}")
    if 0 in shape[2:]:
        raise VideoError(f"a picture of {shape[3]}x{shape[2]} holds no pixel")
    if pixels_TCHW.device.type != "cpu":
        raise VideoError(f"pictures are resized on the CPU, got some on {pixels_TCHW.device}")


def _centre(pixels_CHW: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Cut `size_hw` out of the centre of [..., H, W], adding zeros where that is larger."""
    height, width = int(pixels_CHW.shape[-2]), int(pixels_CHW.shape[-1])
    # floored also below zero: of an odd number of added rows, the larger half comes first
    top, left = (height - size_hw[0]) // 2, (width - size_hw[1]) // 2
    return F.pad(pixels_CHW, (-left, left + size_hw[1] - width, -top, top + size_hw[0] - height))


def _in_threads(work: Callable[[int], None], count: int) -> None:
    """Call `work` with 0 .. count - 1, on as many threads as torch may use; PIL frees the lock."""
    threads = min(torch.get_num_threads(), count, MAX_THREADS)
    if threads <= 1:
        for item in range(count):
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, range(count)):
            pass


def _fault(field: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(f"preprocessor_config.json: {field} is {value!r}, expected {expected}")


def _refuse_unknown_steps(config: Mapping[str, Any]) -> None:
    for field, value in config.items():
        if field == "do_pad" and "LlavaOnevision" in str(config.get("image_processor_type")):
            continue  # there it pads the number of crops, not their pixels
        step = field.startswith("do_") and field not in _HARMLESS | _READ
        if (step or field in _UNSUPPORTED) and value not in (None, False):
            raise _fault(field, value, "no such step in a CLIP or SigLIP processor")


def _given(value: Mapping[str, Any]) -> set[str]:
    return {key for key, entry in value.items() if entry is not None}


def _flag(config: Mapping[str, Any], field: str, *, absent: bool) -> bool:
    value = config.get(field, absent)
    if not isinstance(value, bool | None):
        raise _fault(field, value, "true or false")
    return bool(value)


def _side(field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _fault(field, value, "a number of pixels")
    return value


def _height_width(field: str, value: object) -> tuple[int, int]:
    if isinstance(value, Mapping) and _given(value) == {"height", "width"}:
        return _side(f"{field}.height", value["height"]), _side(f"{field}.width", value["width"])
    if field == "crop_size" and isinstance(value, int):
        return _side(field, value), value
    raise _fault(field, value, "height and width, or a shortest_edge to resize and crop")


def _resample(value: object) -> Image.Resampling:
    if isinstance(value, int) and value in list(Image.Resampling):
        return Image.Resampling(value)
    raise _fault("resample", value, "a filter number of PIL, 0 to 5")


def _positive(config: Mapping[str, Any], field: str, absent: float) -> float:
    value = config.get(field, absent)
    if not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise _fault(field, value, "a positive number")
    return float(value)


def _channels(config: Mapping[str, Any], field: str) -> tuple[float, float, float]:
    value = config.get(field)
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise _fault(field, value, "three numbers, one per channel")
    red, green, blue = (_positive({field: entry}, field, 0.0) for entry in value)
    return red, green, blue
