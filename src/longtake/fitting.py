"""Whether watching fits a device and the trained window, and how many frames would.

A prediction may be off by `needs.MARGIN`. Watching is refused only if it would not fit even then;
what is chosen fits even if more is needed by as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from longtake.errors import CapacityError
from longtake.needs import MARGIN, Needs, Place, Showing
from longtake.reader import MOST_FRAMES
from longtake.video.decode import Video
from longtake.video.inputs import Held
from longtake.video.sample import Footage, Shown
from longtake.weighing import Weighing

Verdict = Literal["yes", "tight", "no"]
"""Fits; within the margin of what there is; does not fit."""

ENDS = {
    "video": "the video has no more",
    "memory": "more would not fit the memory",
    "window": "the checkpoint was trained to read no more",
    "least": "not even this fits the memory",
}


@dataclass(frozen=True, kw_only=True)
class Reel:
    """A video as far as its weight depends on it."""

    footage: Footage
    height: int
    width: int

    @classmethod
    def of(cls, video: Video | Held, footage: Footage) -> Reel:
        """Of an opened video, or a part of it."""
        if isinstance(video, Video):
            return cls(footage=footage, height=video.height, width=video.width)
        height, width = map(int, video.held.pixels_TCHW.shape[2:])
        return cls(footage=footage, height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How many frames to ask for."""

    frames: int
    """For `max_frames`."""
    sampled: int
    """Frames that are then looked at, of all videos."""
    ends: str
    """Why no more: one of ENDS."""
    needs: Needs

    @property
    def reason(self) -> str:
        """In words."""
        return ENDS[self.ends]


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """Weighs the watching of some videos against a device."""

    made: Weighing
    reels: Sequence[Reel]
    place: Place
    free: int
    """Bytes free on the device, besides the weights."""
    text: int
    """Tokens of text in the memory."""
    question: int
    """Tokens of a question, with the words around it."""

    def sampled(self, num: int) -> int:
        """Frames that are looked at when so many are asked for of each video."""
        return sum(len(self.made.sample(reel.footage, num)) for reel in self.reels)

    def showing(self, num: int) -> Showing:
        """What is watched then."""
        return Showing(
            frames=self.sampled(num),
            height=max(reel.height for reel in self.reels),
            width=max(reel.width for reel in self.reels),
            text=self.text,
            question=self.question + self.times(num),
        )

    def times(self, num: int) -> int:
        """Tokens that the time of every frame takes, in a system that tells them."""
        made, tokens = self.made, 0
        for reel in self.reels:
            shown = Shown.of(reel.footage, made.sample(reel.footage, num))
            for sign, one in ((1, shown), (-1, replace(shown, times=()))):
                tokens += sign * len(made.tokens(made.follow(one, last=True)))
        return tokens

    def needs(self, num: int) -> Needs:
        """What it takes."""
        return self.made.needs(self.showing(num), self.place)

    def verdict(self, needs: Needs) -> Verdict:
        """Whether so many bytes fit."""
        if needs.peak * (1 + MARGIN) <= self.free:
            return "yes"
        return "no" if needs.peak * (1 - MARGIN) > self.free else "tight"

    def in_window(self, num: int) -> bool:
        """Whether an answer is within what the checkpoint was trained to read."""
        showing = self.showing(num)
        tokens, window = self.made.arranged(showing.frames), self.made.window_for(showing.frames)
        if window is None or tokens is None:
            return True
        room = showing.text + showing.question + showing.answer
        return self.made.reach(tokens) + room <= window

    def most(self) -> int:
        """Frames to ask for to see all there are."""
        return min(MOST_FRAMES, max(reel.footage.frames for reel in self.reels))

    def choice(self) -> Choice:
        """The most frames that fit memory and window, and one if not even that does."""
        light = largest(lambda num: self.verdict(self.needs(num)) == "yes", self.most())
        known = largest(self.in_window, self.most())
        num = max(1, min(light, known))
        ends = "video" if num == self.most() else "memory" if light <= known else "window"
        if not light:
            ends = "least"
        # of several numbers that show the same frames, the smallest
        sampled = self.sampled(num)
        if ends == "video":
            num = 1 + largest(lambda fewer: self.sampled(fewer) < sampled, num)
        return Choice(frames=num, sampled=sampled, ends=ends, needs=self.needs(num))

    def require(self, num: int, lighter: Callable[[], Sequence[tuple[str, Weighing]]]) -> None:
        """Raise CapacityError if watching so many frames cannot fit, and say what would.

        `lighter`: other settings of the same system, by name.
        """
        needs = self.needs(num)
        if self.verdict(needs) != "no":
            return
        choice = self.choice()
        ways = [] if choice.ends == "least" else [f"max_frames={choice.frames}"]
        for name, other in lighter():
            if replace(self, made=other).verdict(replace(self, made=other).needs(num)) == "yes":
                ways.append(name)
                break
        advice = f"{' or '.join(ways)} would fit" if ways else "not even one frame would fit"
        raise CapacityError(
            f"watching {self.sampled(num)} frames and answering needs {gib(needs.peak)} besides "
            f"the model ({gib(needs.cache)} of keys and values), {gib(self.free)} are free on "
            f"{self.place.device}; {advice}"
        )


def reels_of(
    sources: Sequence[object], footage: Callable[[Video | Held], Footage]
) -> tuple[Reel, ...]:
    """The videos among opened sources; still images weigh little."""
    videos = [source for source in sources if isinstance(source, Video | Held)]
    return tuple(Reel.of(video, footage(video)) for video in videos)


def largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` for which it holds, if it does for all smaller; or 0."""
    if holds(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def gib(count: float) -> str:
    """Bytes as GiB, or MiB where they are few."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
