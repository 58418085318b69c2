"""Stages before the model: which frames, which crops, which pixels. All of them must be equal.

T frames, N crops, C channels, H W pixels, h w pixels after processing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longtake.video.anyres import (
    Size,
    anyres_crops,
    best_resolution,
    grid_shape,
    image_crops,
    pad_to_square,
    parse_pinpoints,
)
from longtake.video.pixels import ClipProcessor
from longtake.video.sample import (
    at_rate,
    depth_label,
    every_second,
    haystack_depths,
    needle_index,
    uniform,
)
from tests.parity.cases import Case, StageResult, close, equal

CLIP = {
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}
UNIRES_336 = tuple(
    (336 * columns, 336 * rows)
    for columns in range(1, 50)
    for rows in range(1, 50)
    if 1 < columns * rows <= 49
)
FIVE_336 = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def read_json(case: Case, name: str) -> dict[str, Any]:
    """Read a json file of the case's checkpoint."""
    return dict(json.loads((case.checkpoint / name).read_text(encoding="utf-8")))


def processor_of(case: Case) -> ClipProcessor:
    """Build the processor of the stand-in for the published vision tower."""
    return ClipProcessor.from_config(read_json(case, "vision_tower/preprocessor_config.json"))


def pinpoints_of(case: Case) -> tuple[Size, ...]:
    """Read the grids the case's images may take."""
    config = {**read_json(case, "config.json"), **case.spec["options"]}
    return parse_pinpoints(config["image_grid_pinpoints"], processor_of(case).side)


def pixels_of(case: Case) -> list[Tensor]:
    """Process the visual entries of a `generate` case in order: float32 [n, 3, h, w] each."""
    config = {**read_json(case, "config.json"), **case.spec["options"]}
    processor, pinpoints = processor_of(case), pinpoints_of(case)
    return [
        processor(visual)
        if visual.ndim == 4
        else image_crops(visual, config["image_aspect_ratio"], pinpoints, processor)
        for visual in case.visuals()
    ]


def check_pixels(case: Case) -> list[StageResult]:
    """Frames and image crops of a `generate` case, and the resolution chosen for each image."""
    pixels = pixels_of(case)
    if len(pixels) == 1:
        return [close("pixels", pixels[0], case.tensors["pixel_values"], 0.0), *_resolutions(case)]
    return [
        close(f"pixels {i}", ours, case.tensors[f"pixel_values_{i}"], 0.0)
        for i, ours in enumerate(pixels)
    ] + _resolutions(case)


def _resolutions(case: Case) -> list[StageResult]:
    if not case.spec.get("best_resolution"):
        return []
    pinpoints = pinpoints_of(case)
    chosen = [list(best_resolution(tuple(size), pinpoints)) for size in case.spec["image_sizes"]]
    return [equal("resolution", chosen, case.spec["best_resolution"])]


def check_preprocess(case: Case) -> list[StageResult]:
    """Frame, crops and padding at the published size, by digest of every float."""
    processor = ClipProcessor.from_config({**CLIP, "size": 336, "crop_size": 336})
    frames_TCHW, image_CHW = case.pictures("frames"), case.pictures("image")
    padded_CHW = image_crops(image_CHW, "pad", (), processor)[0]
    crops_NCHW = anyres_crops(image_CHW, UNIRES_336, processor)
    ours = {
        "pixel_values": processor(frames_TCHW),
        "anyres": crops_NCHW,
        "pad_image": padded_CHW,
        "pad_frame": processor(pad_to_square(frames_TCHW, processor.colour))[0],
    }
    digests = {name: sha256(pixels) for name, pixels in ours.items()}
    chosen = best_resolution(tuple(case.spec["image_size_wh"]), UNIRES_336)
    return [
        # the values first: when a digest differs, they tell by how much
        close("frame", ours["pixel_values"], case.tensors["pixel_values"], 0.0),
        close("crops", crops_NCHW[..., ::6, ::6], case.tensors["anyres_sub6"], 0.0),
        close("pad", padded_CHW[..., ::6, ::6], case.tensors["pad_image_sub6"], 0.0),
        equal("digests", sorted(digests.items()), sorted(case.spec["sha256"].items())),
        equal("resolution", list(chosen), case.spec["anyres_best_resolution"]),
    ]


def sha256(pixels: Tensor) -> str:
    """Digest the float32 bytes of a tensor in its order."""
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def check_sampling_table(case: Case) -> list[StageResult]:
    """Every index rule, depth, label and needle position of the table."""
    spec = case.spec
    rules: dict[str, tuple[str, Callable[[dict[str, Any]], list[int]]]] = {
        "uniform": ("uniform", lambda row: uniform(row["total_frames"], row["max_frames"])),
        "one_fps": ("one_fps", lambda row: every_second(row["total_frames"], row["avg_fps"])),
        "train_video": ("indices", _train_indices),
    }
    results = [
        equal(rule, [ours(row) for row in spec[rule]], [row[answer] for row in spec[rule]])
        for rule, (answer, ours) in rules.items()
    ]
    depths = [haystack_depths(row["interval"]) for row in spec["niah_depth"]]
    labels = [[depth_label(depth) for depth in row] for row in depths]
    places = [
        {num: [needle_index(depth, int(num)) for depth in ours] for num in row["idx"]}
        for ours, row in zip(depths, spec["niah_depth"], strict=True)
    ]
    return [
        *results,
        equal("depths", depths, [row["depths"] for row in spec["niah_depth"]]),
        equal("labels", labels, [row["labels"] for row in spec["niah_depth"]]),
        equal("needle", places, [row["idx"] for row in spec["niah_depth"]]),
    ]


def _train_indices(row: dict[str, Any]) -> list[int]:
    rate, most = row["video_fps"], row["frames_upbound"]
    return at_rate(row["total_frames"], row["fps"], per_second=rate, at_most=most)


def check_anyres_table(case: Case) -> list[StageResult]:
    """Resolution and grid of every size, for the 200 pinpoints and for the five of the DPO run."""
    rows = case.spec["rows"]
    sizes: list[Size] = [tuple(row["size"]) for row in rows]
    results = []
    for name, pinpoints in (("full", UNIRES_336), ("five", FIVE_336)):
        chosen = [list(best_resolution(size, pinpoints)) for size in sizes]
        grids = [list(grid_shape(size, pinpoints, 336)) for size in sizes]
        results.append(equal(name, chosen, [row[name] for row in rows]))
        results.append(equal(f"{name} grid", grids, [row[f"{name}_grid_wh"] for row in rows]))
    return results


def haystack_pixels(case: Case) -> tuple[Tensor, Tensor]:
    """Pad and process a V-NIAH case: pixels of its frames [T, 3, h, w] and needles [N, 3, h, w]."""
    processor = processor_of(case)
    needles = [
        processor(pad_to_square(case.pictures(f"needle_image_{i}")[None], processor.colour))
        for i in range(len(case.spec["questions"]))
    ]
    haystack_TCHW = pad_to_square(case.pictures("haystack_frames"), processor.colour)
    return processor(haystack_TCHW), torch.cat(needles)


def check_haystack_pixels(case: Case) -> list[StageResult]:
    """Frames taken, pixels, and where each cell of the grid puts its needle."""
    video, options, cells = case.spec["video"], case.spec["options"], case.spec["cells"]
    haystack_TCHW, needles_NCHW = haystack_pixels(case)
    depths = haystack_depths(options["depth_interval"])
    counts = range(
        options["min_frame_num"], options["max_frame_num"] + 1, options["frame_interval"]
    )
    grid = [
        [num, depth, needle_index(depth, num), depth_label(depth)]
        for num in counts
        for depth in depths
    ]
    fields = ("num_frames", "depth", "query_frame_idx", "frame_depth_label")
    frames = every_second(video["total_frames"], video["avg_fps"])
    return [
        equal("frames", frames, video["frame_indices"]),
        close("haystack", haystack_TCHW[0], case.tensors["haystack_pixel_values_0"], 0.0),
        close("needles", needles_NCHW, case.tensors["needle_pixel_values"], 0.0),
        equal("grid", grid, [[cell[field] for field in fields] for cell in cells]),
    ]
