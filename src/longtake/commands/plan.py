"""`longtake plan`: what watching a video with a model will take, and what fits."""

from __future__ import annotations

import json
from dataclasses import asdict

from longtake.commands.first import check_model, check_part
from longtake.flags import (
    Condensing,
    JsonFlag,
    Loading,
    MaxFrames,
    MemorySize,
    ModelName,
    Part,
    VideoFile,
    spread,
)
from longtake.places import check_video
from longtake.plan_text import plan_text
from longtake.terminal import busy
from longtake.units import bytes_of


@spread
def plan_watch(
    *,
    video: VideoFile,
    model: ModelName = "default",
    memory: MemorySize = None,
    loading: Loading,
    max_frames: MaxFrames = None,
    part: Part,
    condensing: Condensing,
    as_json: JsonFlag = False,
) -> None:
    """Tell what watching VIDEO will take - tokens, bytes, seconds - and what fits."""
    check_video(video)
    check_part(part)
    check_model(model, loading, condensing)
    if memory is not None:
        bytes_of(memory, "memory")
    with busy(f"weighing {model}"):
        from longtake.planning import plan

        found = plan(
            video,
            model,
            memory=memory,
            options=condensing.given(),
            max_frames=max_frames,
            **asdict(loading),
            **asdict(part),
        )
    print(json.dumps(asdict(found)) if as_json else plan_text(found))
