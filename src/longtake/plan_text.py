"""A plan as people read it, 80 columns wide."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from longtake.terminal import clock, repeated, size, table, work

if TYPE_CHECKING:  # they bring torch
    from longtake.planning import Plan, Setting

WIDTH = 80
HEAD_ROOM = WIDTH - len("weights") - 2
"""Beside the words that the head's lines begin with."""


def plan_text(plan: Plan) -> str:
    """What it is about, the stages, other numbers of frames, other settings, what is advised."""
    parts = (head_text(plan), stages_text(plan), ladder_text(plan), methods_text(plan))
    return "\n\n".join((*parts, advice_text(plan)))


def head_text(plan: Plan) -> str:
    """The video, the model, the device."""
    video = plan.video
    rate = f"{video.fps:.3f}".rstrip("0").rstrip(".")
    shown = f"{clock(video.duration)}, {video.frames:,} frames at {rate} per second"
    window = f", trained to read {plan.window:,} tokens" if plan.window else ""
    about = f" ({plan.system}){window}"
    if plan.estimated:
        speed = "an estimate from published figures"
    else:
        speed = f"speeds measured here in {plan.calibration_seconds:.1f} s"
    rows = [
        ("video", f"{_end(video.name, HEAD_ROOM - len(shown) - 2)}: {shown}"),
        ("", f"{video.width} x {video.height}, {video.codec}"),
        ("model", f"{_end(plan.model, HEAD_ROOM - len(about))}{about}"),
        ("weights", f"{size(plan.weight_bytes)} in {plan.dtype}"),
        ("device", f"{plan.device}, {size(plan.memory_bytes)} to use; {speed}"),
    ]
    if not plan.counted:
        rows.append(("note", "no tokenizer here: tokens of text are counted about"))
    return table(rows, "<<")


def _end(name: str, room: int) -> str:
    """A long name's end, which tells more of a path than its start."""
    return name if len(name) <= room else f"...{name[-max(room - 3, 8) :]}"


def stages_text(plan: Plan) -> str:
    """The stages of the model's own setting, or the one that was asked for."""
    own = plan.own
    rows: list[tuple[str, ...]] = [("stage", "leaves", "compute", "bytes", "time")]
    for stage in own.stages:
        unit = "frames" if stage.name in ("decode", "resize") else "tokens"
        count = f"{stage.tokens:,} {unit if stage.tokens != 1 else unit[:-1]}"
        flops, held = work(stage.flops) if stage.flops else "", size(stage.bytes)
        rows.append((stage.name, count, flops, held if stage.bytes else "", took(stage.seconds)))
    rows.insert(6, ("watched", "", work(own.flops), "", took(own.watch_seconds)))
    needs = own.needs
    sums = (
        f"memory {size(needs.memory)}; at its widest {size(own.peak_bytes)}: weights "
        f"{size(plan.weight_bytes)}, keys and values {size(needs.cache)}, the rest to work in"
    )
    some = repeated(own.frames, own.distinct)
    title = f"{own.frames:,} frames{_also(own)}{some}; fits: {_verdict(own)}"
    return f"{title}\n\n{table(rows, '<>>>>')}\n\n{textwrap.fill(sums, WIDTH)}"


HEADS = ("frames", "tokens", "memory", "at most", "watch", "answer", "fits")


def ladder_text(plan: Plan) -> str:
    """Other numbers of frames."""
    rows = [HEADS, *(_row(setting) for setting in plan.ladder)]
    return table(rows, ">>>>>><")


def methods_text(plan: Plan) -> str:
    """Published settings of the system, each with the most frames that fit."""
    rows: list[tuple[str, ...]] = [("option", *HEADS)]
    rows += [(_flags(setting), *_row(setting)) for setting in plan.methods]
    return "with the most frames that fit:\n\n" + table(rows, "<>>>>>><")


def advice_text(plan: Plan) -> str:
    """The setting to take."""
    best = plan.best
    if best.fits == "no":
        return textwrap.fill(
            f"nothing fits: one frame needs {size(best.peak_bytes)} with the weights, there are "
            f"{size(plan.memory_bytes)}",
            WIDTH,
        )
    what = f"most: --max-frames {best.max_frames} ({best.frames:,} frames)"
    return textwrap.fill(
        f"{what}, {best.length:,} tokens, {size(best.peak_bytes)}, watched in "
        f"{took(best.watch_seconds)}; {plan.reason}",
        WIDTH,
    )


def took(seconds: float) -> str:
    """A duration: 3 ms, 1.2 s, 4 min, 1.5 h."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.001 else "under 1 ms"
    for limit, unit, each in ((99.5, "s", 1), (5970, "min", 60), (float("inf"), "h", 3600)):
        if seconds < limit:
            count = seconds / each
            return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"
    raise AssertionError


def _row(setting: Setting) -> tuple[str, ...]:
    return (
        f"{setting.frames:,}",
        f"{setting.length:,}",
        size(setting.needs.memory),
        size(setting.peak_bytes),
        took(setting.watch_seconds),
        took(setting.question_seconds),
        _verdict(setting),
    )


def _verdict(setting: Setting) -> str:
    beyond = "" if setting.in_window else ", beyond"
    return f"{setting.fits}{beyond}"


def _flags(setting: Setting) -> str:
    return " ".join(f"--{name} {value}" for name, value in setting.options.items())


def _also(setting: Setting) -> str:
    flags = _flags(setting)
    return f" with {flags}" if flags else ""
