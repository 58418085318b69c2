"""`longtake inspect`: what a video or a model is, and what watching would take."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from longtake.commands.common import loaded
from longtake.commands.first import check_model
from longtake.errors import OptionError
from longtake.flags import (
    Condensing,
    JsonFlag,
    Loading,
    MaxFrames,
    OtherModel,
    Target,
    TimelineFile,
    spread,
)
from longtake.places import BUNDLED, check_video, is_model
from longtake.terminal import model_text, say, survey_text, video_text, watch_text


@spread
def inspect_target(
    *,
    target: Target,
    model: OtherModel = None,
    loading: Loading,
    max_frames: MaxFrames = None,
    condensing: Condensing,
    timeline: TimelineFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell what a video or a model is, and what it takes to watch with it."""
    check_asked(target, model, loading, condensing, timeline)
    from longtake.inspect import inspect_model, inspect_video, inspect_watch

    if max_frames == "auto":
        max_frames = fitting_frames(target, model, loading, condensing)
    if is_model(target):
        found = inspect_model(
            target, **asdict(loading), options=condensing.given(), max_frames=max_frames
        )
        print(json.dumps(asdict(found), default=str) if as_json else model_text(found))
    elif timeline is not None:
        from longtake.timeline import save_timeline

        opening = partial(loaded, model or "default", loading, condensing)
        drawn = save_timeline(target, opening, max_frames, timeline)
        print(json.dumps(asdict(drawn)) if as_json else survey_text(drawn))
    elif model is not None:
        options = {"options": condensing.given(), "max_frames": max_frames, **asdict(loading)}
        would = inspect_watch(target, model, **options)
        print(json.dumps(asdict(would)) if as_json else watch_text(would))
    else:
        video = inspect_video(target)
        print(json.dumps(asdict(video)) if as_json else video_text(video))


def check_asked(
    target: str,
    model: str | None,
    loading: Loading,
    condensing: Condensing,
    timeline: Path | None,
) -> None:
    """Refuse at once what needs no torch. Raises VideoError, CheckpointError, OptionError."""
    if is_model(target):
        if timeline is not None:
            raise OptionError("--timeline draws a video; give the video, and the model by --model")
        if model is not None:
            raise OptionError("--model goes with a video; a model is the target itself")
        check_model(target, loading, condensing)
        return
    check_video(target)
    if timeline is not None:
        from longtake.drawing import check_target

        check_target(timeline)
    if model is not None or timeline is not None:
        check_model(model or BUNDLED, loading, condensing)
        return
    for name in condensing.given():
        raise OptionError(f"{name} is of a model; say which by --model")


def fitting_frames(target: str, model: str | None, loading: Loading, condensing: Condensing) -> int:
    """As many frames of the video as fit, and a line that says so."""
    if model is None or is_model(target):
        raise OptionError("--max-frames auto takes a video and --model: it asks what fits of both")
    from longtake.targets import frames_that_fit

    choice = frames_that_fit(target, model, condensing.given(), **asdict(loading))
    say(f"--max-frames auto: {choice.sampled} frames; {choice.reason}")
    return choice.frames
