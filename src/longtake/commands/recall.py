"""What `watch`, `ask` and `chat` share: a memory from the library, or else from watching."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from longtake.commands.common import check_typed, loaded, otherwise, watch
from longtake.commands.first import check_answering, check_model, check_part
from longtake.errors import DamagedError, NewerError, OptionError, StoreError, VideoError
from longtake.flags import Answering, Condensing, Loading, MaxFrames, ModelName, Part
from longtake.flags_library import Keeping
from longtake.terminal import note, say, size

if TYPE_CHECKING:
    from longtake.library import Library
    from longtake.stored import Settings, Stored, Thumbnail
    from longtake.system import System
    from longtake.types import Memory
    from longtake.video.decode import Video
    from longtake.video.inputs import Opened


@dataclass(frozen=True, kw_only=True)
class Seeing:
    """Options of how a video is watched."""

    model: ModelName = "default"
    loading: Loading
    max_frames: MaxFrames = None
    part: Part
    condensing: Condensing

    def check(self) -> None:
        """Refuse at once what needs no torch to be refused. Raises CheckpointError, OptionError."""
        check_part(self.part)
        check_model(self.model, self.loading, self.condensing)

    def system(self) -> System:
        """Load the model."""
        return loaded(self.model, self.loading, self.condensing)

    def settings(self) -> Settings:
        """The same, for the library."""
        from longtake.stored import Settings

        loading = asdict(self.loading)
        del loading["device"]  # shapes nothing
        loading["vision_tower"] = whole_path(self.loading.vision_tower)
        return Settings(
            model=whole_path(self.model) or self.model,
            loading={name: said for name, said in loading.items() if said not in (None, "auto")},
            options=self.condensing.given(),
            max_frames=self.max_frames,
            start=self.part.start,
            end=self.part.end,
        )

    def chosen(self, system: System, source: Opened) -> Seeing:
        """With a number of frames, where as many as fit were asked for."""
        if self.max_frames != "auto":
            return self
        choice = system.choice(source, **asdict(self.part))
        if choice is not None:
            say(f"--max-frames auto: {choice.sampled} frames; {choice.reason}")
        return replace(self, max_frames=None if choice is None else choice.frames)

    def of(self, stored: Stored) -> Seeing:
        """The same of a stored memory, whose model and options are taken where none were given.

        Raises OptionError for what goes only with a video, or cannot be said here.
        """
        if self.max_frames is not None or self.part != Part():
            what = "--max-frames, --start and --end go with a video"
            raise OptionError(f"{stored.name} is watched already; {what}")
        device = self.loading.device
        if self.model != "default" or self.condensing.given():
            return self
        if self.loading != Loading(device=device):
            return self
        check_typed(stored)
        made = stored.settings
        loading = Loading(**{**made.loading, "device": device})  # servers once noted theirs
        condensing = Condensing(**made.options)
        return replace(self, model=made.model, loading=loading, condensing=condensing)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for on the command line."""

    video: str
    """A file, an address, or the name of a memory."""
    seeing: Seeing
    answering: Answering
    library: Library | None
    save: Literal["no", "try", "must"]
    """Whether a new memory is kept; if one that is tried cannot be, that is a warning."""
    name: str | None = None
    """What to call it."""

    @classmethod
    def asked(cls, video: str, seeing: Seeing, answering: Answering, keeping: Keeping) -> Wanted:
        """By `ask` and `chat`."""
        check_answering(answering)
        save: Literal["no", "try"] = "try" if keeping.save else "no"
        library = keeping.opened()
        return cls(video=video, seeing=seeing, answering=answering, library=library, save=save)


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """A memory, and what made it."""

    system: System
    memory: Memory
    model: str
    """What was loaded."""
    stored: Stored | None = None
    """What the library tells of it, if it is there."""


def whole_path(name: str | None) -> str | None:
    """A folder's full path, so that it is found from anywhere; hub ids stay."""
    return os.path.abspath(name) if name is not None and Path(name).is_dir() else name


Look = Callable[["Opened"], None]
"""Given a video as soon as it is open."""


@contextmanager
def recalled(wanted: Wanted, look: Look | None = None) -> Iterator[Recalled]:
    """The memory of a video by the library, or by watching it.

    `look`: wants the video in any case; it is open until the `with` statement ends.
    """
    from longtake.library import is_file
    from longtake.places import check_video, is_address

    library, video = wanted.library, wanted.video
    with ExitStack() as stack:
        if library is not None and not is_file(video) and not is_address(video):
            named = library.named(video)
            if named is not None:
                wanted = replace(wanted, seeing=wanted.seeing.of(named))
                yield by_name(stack, wanted, library, named, look)
                return
            if os.sep not in video and not os.path.exists(video):
                raise VideoError(
                    f"{video}: neither a file nor the name of a watched video; see `longtake ls`"
                )
        check_video(video)
        wanted.seeing.check()
        known, source = library is not None and library.may_know(video), None
        if not known or look is not None or wanted.seeing.max_frames == "auto":
            # a mistake in the video is told before a model is loaded
            source = see(stack, video, look)
        system, found = wanted.seeing.system(), None
        if source is not None:
            wanted = replace(wanted, seeing=wanted.seeing.chosen(system, source))
        if library is not None and known:
            found = by_video(stack, wanted, library, system, video)
        elif library is not None and is_address(video) and isinstance(source, video_type()):
            found = by_video(stack, wanted, library, system, source)
        if found is None:
            source = see(stack, video, None) if source is None else source
            found = watched(wanted, source, system)
        yield found


def video_type() -> type[Video]:
    """`Video`, which brings torch."""
    from longtake.video.decode import Video

    return Video


def see(stack: ExitStack, place: str, look: Look | None) -> Opened:
    """Open a video or a picture."""
    from longtake.video.inputs import opened_source

    source = stack.enter_context(opened_source(place))
    if look is not None:
        look(source)
    return source


def by_name(
    stack: ExitStack, wanted: Wanted, library: Library, stored: Stored, look: Look | None
) -> Recalled:
    """A memory by its name, with the model that made it. Raises StoreError if that has changed."""
    if look is not None:
        place = stored.video.place
        if not library.may_know(place) or library.identify(place).digest != stored.video.digest:
            raise OptionError(f"{stored.name}'s video is not where it was; give the file instead")
        see(stack, place, look)
    system = wanted.seeing.system()
    if not library.fits(stored, system):
        raise StoreError(f"{stored.name} {otherwise(stored, wanted.seeing.settings())}")
    memory = stack.enter_context(library.open(stored, str(system.model.device)))
    tell(stored, memory)
    return Recalled(system=system, memory=memory, model=wanted.seeing.model, stored=stored)


def by_video(
    stack: ExitStack, wanted: Wanted, library: Library, system: System, video: str | Video
) -> Recalled | None:
    """The memory of a video if the library has it and it can be read; a damaged one is removed."""
    from longtake.library import check_called
    from longtake.store import check_layers

    stored = library.find(video, system, wanted.seeing.settings())
    if stored is None:
        return None
    check_called(stored, wanted.name)
    try:
        with ExitStack() as opening:
            memory = opening.enter_context(library.open(stored, str(system.model.device)))
            check_layers(memory)  # an answer reads all of them, and damage is mended here alone
            stack.enter_context(opening.pop_all())
    except DamagedError as error:
        say(f"{error}, which is done now", kind="warning")
        with suppress(StoreError):
            library.remove(stored.key)
        return None
    except StoreError as error:
        if wanted.save == "must" and isinstance(error, NewerError):
            raise  # hours later it could not be kept
        say(f"{error}; the video is watched now", kind="warning")
        return None
    tell(stored, memory)
    return Recalled(system=system, memory=memory, model=wanted.seeing.model, stored=stored)


def tell(stored: Stored, memory: Memory) -> None:
    """A memory's warnings, and on a terminal what it is."""
    for warning in memory.stats.warnings:
        say(warning, kind="warning")
    held = f"{stored.frames} frames, {stored.tokens} tokens, {size(memory.bytes)}"
    note(f"remembered {stored.name}: {held}")


def watched(wanted: Wanted, source: Opened, system: System) -> Recalled:
    """Watch, and keep the memory if that is wanted. Raises StoreError if it must be and cannot."""
    before, seeing = standing(wanted.video), wanted.seeing
    memory, stored = watch(source, system, seeing.max_frames, seeing.part), None
    if wanted.library is not None and wanted.save != "no":
        try:
            if standing(wanted.video) != before:
                raise StoreError(f"{wanted.video} has changed while it was watched; watch again")
            stored = keep(wanted.library, wanted, system, memory, source)
        except (StoreError, VideoError) as error:
            if wanted.save == "must":
                raise
            say(f"the memory was not kept: {error}", kind="warning")
    return Recalled(system=system, memory=memory, model=seeing.model, stored=stored)


def standing(video: str) -> tuple[int, int, int] | None:
    """What a file was when it was looked at; None of an address."""
    with suppress(OSError):
        found = os.stat(video)
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


def keep(
    library: Library, wanted: Wanted, system: System, memory: Memory, source: Opened
) -> Stored | None:
    """Save a memory of a video; a still picture is seen again as quickly as it is found."""
    from longtake.places import is_address
    from longtake.thumbnails import thumbnails_of

    if not isinstance(source, video_type()):
        return None
    pictures: tuple[Thumbnail, ...] = ()
    with suppress(VideoError):  # a damaged frame is no reason to lose the memory
        pictures = thumbnails_of(source)
    stored = library.save(
        memory,
        system=system,
        source=source if is_address(wanted.video) else wanted.video,
        settings=wanted.seeing.settings(),
        name=wanted.name,
        thumbnails=pictures,
    )
    note(f"kept as {stored.name}: {size(stored.bytes)}")
    return stored
