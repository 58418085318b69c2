"""The options that several commands share, each declared once.

typer makes one option of each parameter of a command. A command that takes a dataclass of this
module is given one parameter per field instead, by `spread`, so that no list is written twice.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

VideoFile = Annotated[
    str, typer.Argument(metavar="VIDEO", help="A video or picture: a file or an http(s) address.")
]
Watched = Annotated[
    str,
    typer.Argument(
        metavar="VIDEO",
        help="A video or picture: a file or an http(s) address; or the name of a memory.",
    ),
]
Questions = Annotated[
    list[str], typer.Argument(metavar="QUESTION...", help="What to ask; several are one batch.")
]
Target = Annotated[
    str, typer.Argument(metavar="TARGET", help='A video, a model folder, a hub id or "default".')
]
Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A Python file with config().")]
ModelName = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="NAME", help='"default", a folder, or a hub id "owner/name".'
    ),
]
OtherModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="What it would take to watch the video with this model.",
    ),
]


def frame_count(value: Any) -> int | str:
    """A number of frames from 1, or "auto". Raises BadParameter, a usage error."""
    if value == "auto":
        return "auto"
    if not re.fullmatch("0*([1-9][0-9]{0,5}|1000000)", str(value), re.ASCII):
        raise typer.BadParameter(f"{value!r:.40} is not a number from 1 to 1000000, nor 'auto'.")
    return int(value)


MaxFrames = Annotated[
    Any,
    typer.Option(
        parser=frame_count,
        metavar="N",
        help="Frames to look at; auto: as many as fit.  [default: the model's own]",
    ),
]
MemorySize = Annotated[
    str | None,
    typer.Option(metavar="BYTES", help="Of the device: 24GiB.  [default: what is free]"),
]
StreamFlag = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream", help="Show the answer as it is written.  [default: on a terminal]"
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
EvidenceFile = Annotated[
    Path | None,
    typer.Option(
        metavar="PNG", help="Draw where in the video the answer looked, with its top moments."
    ),
]
SparklineFlag = Annotated[
    bool | None,
    typer.Option(
        "--sparkline/--no-sparkline",
        help="Show on stderr, as one line, where the answer looked.  [default: on a terminal]",
    ),
]
TimelineFile = Annotated[
    Path | None,
    typer.Option(metavar="PNG", help="Draw how MODEL would cut and condense the video TARGET."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a plain field; may be repeated."),
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is read, and where it runs."""

    system: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the system, if the config fits several."),
    ] = None
    vision_tower: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Folder or hub id of a tower that is not in the model's."
        ),
    ] = None
    device: Annotated[
        str, typer.Option(metavar="NAME", help='"auto", "cpu", "cuda" or "cuda:1".')
    ] = "auto"
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help='"auto", "float32", "bfloat16" or "float16".')
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which part of a video is watched."""

    start: Annotated[
        float | None, typer.Option(metavar="S", help="Watch from this second of the video on.")
    ] = None
    end: Annotated[
        float | None, typer.Option(metavar="S", help="Watch until this second of the video.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Condensing:
    """How a video is condensed, in systems that do; what is not given stays as published."""

    ratio: Annotated[
        str | None,
        typer.Option(metavar="N[,N...]", help="Visual tokens per summary token: 8, or 2,4,8."),
    ] = None
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Which of several ratios a window gets: step-random, instance-random, sequence, "
            "listed (one after the other) or adapt-N (the smallest that leaves N tokens).",
        ),
    ] = None
    window: Annotated[
        int | None, typer.Option(metavar="N", help="Visual tokens condensed together.")
    ] = None
    place: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Summary tokens: interleave (as released) or append."),
    ] = None
    dynamic: Annotated[
        bool | None,
        typer.Option("--dynamic/--no-dynamic", help="Cut windows where the content changes."),
    ] = None
    shortest: Annotated[
        int | None, typer.Option(metavar="N", help="Fewest frames of an interval.  [default: 1]")
    ] = None
    longest: Annotated[
        int | None, typer.Option(metavar="N", help="Most frames of an interval.  [default: 15]")
    ] = None
    average_ratio: Annotated[
        int | None,
        typer.Option(metavar="N", help="Finer where more changes, with this ratio on average."),
    ] = None
    fine: Annotated[
        int | None,
        typer.Option(metavar="N", help="Keep a finer copy of this ratio too; needs --budget."),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Of the mixture a question is answered from: 300MiB."),
    ] = None
    fine_on: Annotated[
        str | None, typer.Option(metavar="WHERE", help="The finer copy: memory or disk.")
    ] = None

    pool: Annotated[
        str | None,
        typer.Option(
            metavar="STRIDES",
            help="Pool frames by 4, or by 2, then 8, in groups of 4: 2,8,4; paper, fine, coarse, "
            "off.",
        ),
    ] = None
    pool_mode: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="How frames are pooled: average, max, bilinear, area."),
    ] = None
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Drop tokens between layers: 4,18:1,0.75,0.25, card, repository, config, off.",
        ),
    ] = None
    kv: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Hold keys and values as full, int8, fp8 or int4."),
    ] = None
    extend: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Read further than trained: yarn:4 (or linear, ntk) is 4 times as far, "
            "visual-window as far as each video needs; or none.",
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """What was given, as keyword arguments of a system's `variant`."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How to answer; what is not given stays as the model was published."""

    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens to write.  [default: 256]")
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(metavar="X", help="0 takes the likeliest token, more samples.  [default: 0]"),
    ] = None
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Sample from this share of the probability.")
    ] = None
    top_k: Annotated[
        int | None, typer.Option(metavar="N", help="Sample from this many tokens; 0 is all.")
    ] = None
    repetition_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Above 1 discourages repeating.")
    ] = None
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the sampling.  [default: 0]")
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Text that ends the answer; may be repeated."),
    ] = None

    def given(self) -> dict[str, Any]:
        """What was given, as keyword arguments of `longtake.types.Options`."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen["stop"] = tuple(self.stop) if self.stop else None
        return {name: value for name, value in chosen.items() if value is not None}


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one keyword per field of its dataclass parameters."""
    hints = get_type_hints(command, include_extras=True)
    own = [(one.name, one.default) for one in inspect.signature(command).parameters.values()]
    groups = {name: hints[name] for name, _ in own if is_dataclass(hints[name])}

    def run(**values: Any) -> None:
        command(**{name: _made(group, values) for name, group in groups.items()}, **values)

    flat = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        for name, default, hint in _flat(own, hints)
    ]
    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _flat(
    own: Iterable[tuple[str, Any]], hints: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Name, default and annotated type of each; of a group, those of its fields."""
    for name, default in own:
        if not is_dataclass(hints[name]):
            yield name, default, hints[name]
            continue
        inside = [(field.name, field.default) for field in fields(hints[name])]
        yield from _flat(inside, get_type_hints(hints[name], include_extras=True))


def _made(group: Any, values: dict[str, Any]) -> Any:
    """A group of its fields' values, which are taken out of `values`."""
    hints = get_type_hints(group)
    return group(
        **{
            field.name: _made(hints[field.name], values)
            if is_dataclass(hints[field.name])
            else values.pop(field.name)
            for field in fields(group)
        }
    )
