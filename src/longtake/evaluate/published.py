"""Published results of the four systems, to stand beside one's own.

Each says under which setting it was measured: another number of frames, another prompt or another
rule of reading answers moves a score by points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from longtake.evaluate.tasks import ACCURACY, ALL, Figure


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published row."""

    task: str
    system: str
    """Name of the system here."""
    model: str
    setting: str
    """Frames, and what else is known."""
    source: str
    scores: Mapping[str, float]
    """0 to 100; "overall", "mean by task", "R1@0.5", or axis and value as in "duration short"."""
    subtitles: bool = False

    def sized(self, parameters: int | None) -> bool:
        """Whether a model of so many weights, towers included, may be the published one."""
        named = re.search(r"-([0-9]+)B", self.model)
        assert named is not None, "every published model says its size"
        billions = 1e9 * int(named[1])
        return parameters is None or LEAST * billions < parameters < MOST * billions


LEAST, MOST = 0.75, 1.4
"""Weights of a model whose name rounds them: a "7B" with its tower has 7.9 to 8.7 billion."""

LONGVA = "arXiv 2406.16852 and arXiv 2409.20018, tables"
XL = "Video-XL repository, README tables"
FLASH = "VideoChat-Flash repository and model pages"
WINDOW = "arXiv 2409.20018, tables"
SHORT, MEDIUM, LONG = "duration short", "duration medium", "duration long"
TASK = "mean by task"


def _mme(short: float, medium: float, long: float, overall: float) -> dict[str, float]:
    return {ALL: overall, SHORT: short, MEDIUM: medium, LONG: long}


def _lvb(
    to_15: float, to_60: float, to_600: float, to_3600: float, overall: float
) -> dict[str, float]:
    groups = (("15", to_15), ("60", to_60), ("600", to_600), ("3600", to_3600))
    return {ALL: overall, **{f"duration {seconds}": score for seconds, score in groups}}


def _mlvu(pairs: tuple[float, ...], mean: float) -> dict[str, float]:
    kinds = ("topic_reasoning", "anomaly_reco", "needle", "ego", "plotQA", "order", "count")
    return {TASK: mean, **{f"task {k}": score for k, score in zip(kinds, pairs, strict=True)}}


def _vnbench(retrieval: float, ordering: float, counting: float, mean: float) -> dict[str, float]:
    tasks = (("retrieval", retrieval), ("ordering", ordering), ("counting", counting))
    return {"mean by type": mean, **{f"task {task}": score for task, score in tasks}}


FLASH_MODELS = {
    "VideoChat-Flash-Qwen2-7B_res448": {
        "video-mme": 65.3,
        "video-mme, subtitles": 69.7,
        "mlvu": 74.7,
        "longvideobench": 64.7,
        "lvbench": 48.2,
        "mvbench": 74.0,
        "charades-sta": 48.4,
    },
    "VideoChat-Flash-Qwen2-7B_res224": {
        "video-mme": 64.0,
        "video-mme, subtitles": 69.4,
        "mlvu": 74.5,
        "longvideobench": 64.2,
        "lvbench": 47.2,
        "mvbench": 73.2,
        "charades-sta": 48.0,
    },
    "VideoChat-Flash-Qwen2_5-2B_res448": {
        "video-mme": 57.0,
        "video-mme, subtitles": 63.9,
        "mlvu": 65.7,
        "longvideobench": 58.3,
        "lvbench": 42.9,
        "mvbench": 70.0,
        "charades-sta": 45.2,
    },
    "VideoChat-Flash-Qwen2_5-7B-1M_res224": {
        "video-mme": 63.5,
        "mlvu": 74.1,
        "longvideobench": 66.5,
        "lvbench": 46.0,
        "mvbench": 73.4,
    },
    "VideoChat-Flash-Qwen2_5-7B_InternVideo2-1B": {
        "video-mme": 65.1,
        "longvideobench": 64.5,
        "mvbench": 74.3,
    },
}
HEADLINES = {"mlvu": TASK, "mvbench": TASK, "charades-sta": "mIoU"}


def _flash() -> tuple[Published, ...]:
    rows = []
    for model, told in FLASH_MODELS.items():
        for name, score in told.items():
            task, _, subtitles = name.partition(", ")
            scores = {HEADLINES.get(task, ALL): score}
            if task == "charades-sta" and model.endswith("7B_res448"):
                scores["R1@0.5"] = 53.1
            frames = 640 if task == "lvbench" else 512
            where = ", subtitles behind them" if task == "longvideobench" else ""
            rows.append(
                Published(
                    task=task,
                    system="videochat_flash",
                    model=model,
                    setting=f"at most {frames} frames{where}",
                    source=FLASH,
                    scores=scores,
                    subtitles=bool(subtitles) or task == "longvideobench",
                )
            )
    return tuple(rows)


def _row(
    task: str, model: str, setting: str, scores: Mapping[str, float], subtitles: bool = False
) -> Published:
    names = {"LongVA-7B": ("longva", LONGVA), "Video-XL-7B": ("video_xl", XL)}
    system, source = names.get(model, ("llava_onevision", WINDOW))
    return Published(
        task=task,
        system=system,
        model=model,
        setting=setting,
        source=source,
        scores=scores,
        subtitles=subtitles,
    )


OV, STRETCHED = "LLaVA-OneVision-7B", "LLaVA-OneVision-7B, visual context window"
PUBLISHED: tuple[Published, ...] = (
    _row("video-mme", "LongVA-7B", "128 frames", _mme(61.1, 50.4, 46.2, 52.6)),
    _row("video-mme", "LongVA-7B", "128 frames", {ALL: 54.3, LONG: 47.6}, subtitles=True),
    _row("video-mme", "Video-XL-7B", "128 frames", _mme(64.0, 53.2, 49.2, 55.5)),
    _row("video-mme", "Video-XL-7B", "128 frames", _mme(67.4, 60.7, 54.9, 61.0), subtitles=True),
    _row("video-mme", OV, "32 frames", _mme(69.3, 55.1, 49.7, 58.2)),
    _row("video-mme", STRETCHED, "256 frames, pool 2,8,4", _mme(72.7, 58.2, 52.9, 61.3)),
    _row(
        "mlvu", "LongVA-7B", "256 frames", _mlvu((83.3, 58.5, 69.3, 50.0, 67.2, 38.6, 27.2), 56.3)
    ),
    _row("mlvu", "Video-XL-7B", "256 frames", {TASK: 64.9}),
    _row("mlvu", OV, "32 frames", _mlvu((88.6, 74.0, 73.0, 62.2, 67.9, 43.2, 28.6), 64.2)),
    _row("mlvu", STRETCHED, "256 frames", _mlvu((87.5, 74.5, 76.3, 65.3, 75.9, 59.2, 31.6), 68.6)),
    _row("longvideobench", "LongVA-7B", "256 frames", _lvb(57.4, 60.4, 47.3, 44.7, 49.7)),
    _row("longvideobench", "Video-XL-7B", "not stated", {ALL: 49.5}),
    _row("longvideobench", OV, "32 frames", _lvb(68.8, 70.4, 54.6, 48.1, 56.0)),
    _row("longvideobench", STRETCHED, "256 frames", _lvb(68.8, 69.2, 56.1, 51.2, 57.5)),
    _row("vnbench", "LongVA-7B", "not stated", {"mean by type": 41.5}),
    _row("vnbench", "Video-XL-7B", "1 frame a second", _vnbench(80.0, 80.6, 24.0, 61.6)),
    _row("mvbench", "LongVA-7B", "64 frames", {TASK: 49.2}),
    *_flash(),
)


def published_for(
    task: str, system: str, subtitles: bool, parameters: int | None = None
) -> tuple[Published, ...]:
    """Rows of a task and a system, measured with subtitles or without, by models of this size.

    `parameters`: weights of the model, if that is known.
    """
    rows = (row for row in PUBLISHED if row.task == task and row.system == system)
    return tuple(row for row in rows if row.subtitles == subtitles and row.sized(parameters))


def name_of(figure: Figure) -> str:
    """What a published row calls a figure."""
    if figure.metric != ACCURACY:
        return figure.metric
    return f"{figure.axis} {figure.value}" if figure.axis else figure.value
