"""What watching a video with a model will take, before any of it: bytes, operations, seconds.

Sizes come from config.json, frames and pictures to decode from the video's packets, bytes from
`needs`, operations from `costs`, and seconds from how fast this machine did the same kinds of work
for a second (`rates`, `video.effort`). Neither weights nor a GPU need be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from longtake.api import skeleton
from longtake.clock import Clock, PlannedStage
from longtake.errors import OptionError
from longtake.fitting import Choice, Fitting, Verdict
from longtake.folder import Wordless
from longtake.inspect import VideoReport, inspect_video
from longtake.needs import Needs, Place
from longtake.parts.qwen2 import Decoder
from longtake.rates import Rates, published_rates, rates_here
from longtake.reader import frames_wanted
from longtake.system import System
from longtake.targets import Where, fitting_of, weight_bytes
from longtake.units import bytes_of
from longtake.video.decode import Video, open_video
from longtake.video.effort import FilmRates, film_rates
from longtake.video.images import is_image
from longtake.video.sample import Footage, part_of

LADDER = (64, 256, 1024)
"""Numbers of frames that are weighed besides the model's own and all of them."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one way to watch the video takes."""

    options: Mapping[str, Any]
    """Of the system's `variant`, besides those that were asked for."""
    max_frames: int
    """To ask for."""
    frames: int
    """Frames that are then looked at."""
    distinct: int
    """How many of them differ: where the video has fewer, the published rules repeat some."""
    tokens: int
    """Visual tokens that the language model reads."""
    length: int
    """Tokens that the memory holds, text included; with drops, of its first layer."""
    flops: int
    """Until the video is watched."""
    needs: Needs
    peak_bytes: int
    """On the device at its widest, weights included."""
    watch_seconds: float
    question_seconds: float
    """From a question to the first word of its answer."""
    token_seconds: float
    """For each further one."""
    fits: Verdict
    in_window: bool
    stages: tuple[PlannedStage, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What can be done with a video, a model and a device."""

    video: VideoReport
    model: str
    system: str
    device: str
    """What computes."""
    estimated: bool
    """Seconds come from published figures, not from this machine."""
    dtype: str
    """Of the weights."""
    weight_bytes: int
    memory_bytes: int
    """What there is for weights and work."""
    window: int | None
    """Tokens that the checkpoint was trained to read."""
    counted: bool
    """Words were counted by the model's tokenizer; else about."""
    calibration_seconds: float
    own: Setting
    """As the model was published, or as was asked."""
    ladder: tuple[Setting, ...]
    """The same for other numbers of frames."""
    methods: tuple[Setting, ...]
    """Other published settings, each with the most frames that fit."""
    best: Setting
    """The most frames that fit."""
    reason: str
    """Why no more."""


def plan(
    video: str,
    model: str | Path = "default",
    *,
    memory: int | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    options: Mapping[str, Any] | None = None,
    max_frames: int | Literal["auto"] | None = None,
    start: float | None = None,
    end: float | None = None,
    system: str | None = None,
    vision_tower: str | None = None,
) -> Plan:
    """Predict what watching a video and asking about it takes, and say what fits.

    `memory`: bytes of the device, as 24 * 2**30 or "24GiB"; not given, what is free. `device`: also
    a GPU that is not here, "cuda" or by name (`gpus.GPUS`). `options`: of the system's `variant`.
    Raises CheckpointError, OptionError, VideoError.
    """
    if is_image(video):
        raise OptionError(f"{Path(video).name} is a still picture; plan tells what a video takes")
    given = None if memory is None else bytes_of(memory, "memory")
    fixed = None if max_frames in (None, "auto") else frames_wanted(max_frames)
    made = skeleton(model, dtype=dtype, system=system, vision_tower=vision_tower)
    made = made.variant(**(options or {}))
    where = Where.of(device, given)
    with open_video(video) as opened:
        whole = Footage(frames=opened.frames, fps=opened.fps)
        footage = part_of(whole, start, end)
        film = film_rates(opened, made.processor)
        planner = Planner(made=made, video=opened, footage=footage, film=film, where=where)
        return planner.plan(video, str(model), fixed, auto=max_frames == "auto")


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Weighs one way to watch after another."""

    made: System
    video: Video
    footage: Footage
    film: FilmRates
    where: Where

    @cached_property
    def rates(self) -> Rates:
        """Measured here, once for the same sizes, or published."""
        made, device = self.made, self.where.device
        if self.where.gpu is not None:
            return published_rates(self.where.gpu)
        eye, decoder = made.eye(self.place), cast(Decoder, made.model.decoder).config
        return rates_here(eye, made.model.tower, decoder, self.place, device)

    def plan(self, video: str, model: str, frames: int | None, *, auto: bool) -> Plan:
        """All of it; `frames` the caller wants, `auto`: as many as fit."""
        made, where, best = self.made, self.where, self.choice()
        return Plan(
            video=inspect_video(video),
            model=model,
            system=made.name,
            device=where.name,
            estimated=where.gpu is not None,
            dtype=str(made.model.dtype).removeprefix("torch."),
            weight_bytes=self.weights,
            memory_bytes=where.memory,
            window=made.window,
            counted=not isinstance(made.tokenizer, Wordless),
            calibration_seconds=self.rates.seconds,
            own=self.setting(best.frames if auto else frames or made.frames),
            ladder=tuple(map(self.setting, self.ladder())),
            methods=tuple(self.methods()),
            best=self.setting(best.frames),
            reason=best.reason,
        )

    @property
    def place(self) -> Place:
        """Where it computes."""
        return Place(device=self.where.device.type, weights=self.made.model.dtype)

    @cached_property
    def weights(self) -> int:
        """Bytes of all weights."""
        return weight_bytes(self.made)

    def fitting(self, made: System) -> Fitting:
        """What weighs this video, with this or another setting of the system."""
        return fitting_of(made, self.video, self.footage, self.where)

    def choice(self, made: System | None = None) -> Choice:
        """The most frames that fit."""
        return self.fitting(made or self.made).choice()

    def ladder(self) -> Iterator[int]:
        """Numbers of frames to weigh."""
        fitting = self.fitting(self.made)
        most = fitting.sampled(fitting.most())
        yield from (num for num in LADDER if num < most)
        yield fitting.most() if fitting.sampled(most) < most else most

    def methods(self) -> Iterator[Setting]:
        """Published settings that keep less, and memories in 8 bits."""
        eight = {"kv": "int8"} if self.made.kv != "fp8" else {}  # as many bytes
        for options in (*self.made.choices, *filter(None, [eight])):
            try:
                made = self.made.variant(**options)
            except OptionError:  # no such layer, or two copies
                continue
            yield self.setting(self.choice(made).frames, made, options)

    def setting(
        self, num: int, made: System | None = None, options: Mapping[str, Any] | None = None
    ) -> Setting:
        """What asking for so many frames takes."""
        made = made or self.made
        fitting = self.fitting(made)
        showing, needs = fitting.showing(num), fitting.needs(num)
        tokens = made.arranged(showing.frames) or 0
        indices = made.sample(self.footage, num)
        clock = Clock(
            made=made,
            frames=showing.frames,
            pictures=self.video.decoded(indices),
            text=showing.text,
            question=showing.question,
            needs=needs,
            place=self.place,
            rates=self.rates,
            film=self.film,
        )
        watched, asked = clock.watched(), clock.asked()
        return Setting(
            options=dict(options or {}),
            max_frames=num,
            frames=showing.frames,
            distinct=len(set(indices)),
            tokens=tokens,
            length=max(made.rows(tokens, showing.text)),
            flops=sum(stage.flops for stage in watched),
            needs=needs,
            peak_bytes=self.weights + needs.peak,
            watch_seconds=clock.overlapped(watched),
            question_seconds=asked[0].seconds,
            token_seconds=asked[1].seconds,
            fits=fitting.verdict(needs),
            in_window=fitting.in_window(num),
            stages=(*watched, *asked),
        )
