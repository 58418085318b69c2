"""What `watch`, `ask` and `chat` share: a memory from the library, or else from watching."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from longtake.commands.common import loaded, opened, watch
from longtake.errors import DamagedError, NewerError, OptionError, StoreError, VideoError
from longtake.flags import Answering, Condensing, Loading, Part
from longtake.terminal import note, say, size

if TYPE_CHECKING:
    from longtake.library import Library
    from longtake.stored import Settings, Stored, Thumbnail
    from longtake.system import System
    from longtake.types import Memory
    from longtake.video.decode import Video
    from longtake.video.inputs import Opened


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for on the command line."""

    video: str
    """A file, an address, or the name of a memory."""
    model: str
    loading: Loading
    condensing: Condensing
    max_frames: int | None
    part: Part
    answering: Answering
    library: Library | None
    save: Literal["no", "try", "must"]
    """Whether a new memory is kept; if one that is tried cannot be, that is a warning."""
    name: str | None = None
    """What to call it."""

    def system(self) -> System:
        """Load the model."""
        return loaded(self.model, self.loading, self.condensing)

    def settings(self) -> Settings:
        """How the video is watched, for the library."""
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

    def of(self, stored: Stored) -> Wanted:
        """The same of a stored memory, whose model and options are taken where none were given.

        Raises OptionError for what goes only with a video.
        """
        if self.max_frames is not None or self.part != Part():
            what = "--max-frames, --start and --end go with a video"
            raise OptionError(f"{stored.name} is watched already; {what}")
        device = self.loading.device
        if self.model != "default" or self.condensing.given():
            return self
        if self.loading != Loading(device=device):
            return self
        made = stored.settings
        loading = Loading(**made.loading, device=device)
        condensing = Condensing(**made.options)
        return replace(self, model=made.model, loading=loading, condensing=condensing)


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
    from longtake.identity import is_address
    from longtake.library import is_file

    library, video = wanted.library, wanted.video
    with ExitStack() as stack:
        if library is None:
            yield watched(wanted, see(stack, wanted, video, look))
            return
        if not is_file(video) and not is_address(video) and (named := library.named(video)):
            yield by_name(stack, wanted.of(named), library, named, look)
            return
        if library.may_know(video):
            # otherwise a mistake in the video is told before a model is loaded
            system = wanted.system()
            found = by_video(stack, wanted, library, system, video)
            if found is not None and look is not None:
                see(stack, wanted, video, look)
            yield found or watched(wanted, see(stack, wanted, video, look), system)
            return
        source = see(stack, wanted, video, look)
        system, found = wanted.system(), None
        if is_address(video) and isinstance(source, video_type()):
            found = by_video(stack, wanted, library, system, source)
        yield found or watched(wanted, source, system)


def video_type() -> type[Video]:
    """`Video`, which brings torch."""
    from longtake.video.decode import Video

    return Video


def see(stack: ExitStack, wanted: Wanted, place: str, look: Look | None) -> Opened:
    """Open a video."""
    source = stack.enter_context(opened(place, wanted.answering))
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
        see(stack, wanted, place, look)
    system = wanted.system()
    if not library.fits(stored, system):
        raise StoreError(
            f"{stored.name} was made by {stored.system} with another checkpoint or other options; "
            "give those, or watch the video again"
        )
    memory = stack.enter_context(library.open(stored, str(system.model.device)))
    tell(stored, memory)
    return Recalled(system=system, memory=memory, model=wanted.model, stored=stored)


def by_video(
    stack: ExitStack, wanted: Wanted, library: Library, system: System, video: str | Video
) -> Recalled | None:
    """The memory of a video if the library has it and it can be read; a damaged one is removed."""
    stored = library.find(video, system, wanted.settings())
    if stored is None:
        return None
    try:
        memory = stack.enter_context(library.open(stored, str(system.model.device)))
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
    return Recalled(system=system, memory=memory, model=wanted.model, stored=stored)


def tell(stored: Stored, memory: Memory) -> None:
    """A memory's warnings, and on a terminal what it is."""
    for warning in memory.stats.warnings:
        say(warning, kind="warning")
    held = f"{stored.frames} frames, {stored.tokens} tokens, {size(memory.bytes)}"
    note(f"remembered {stored.name}: {held}")


def watched(wanted: Wanted, source: Opened, system: System | None = None) -> Recalled:
    """Watch, and keep the memory if that is wanted. Raises StoreError if it must be and cannot."""
    system = wanted.system() if system is None else system
    before = standing(wanted.video)
    memory, stored = watch(source, system, wanted.max_frames, wanted.part), None
    if wanted.library is not None and wanted.save != "no":
        try:
            if standing(wanted.video) != before:
                raise StoreError(f"{wanted.video} has changed while it was watched; watch again")
            stored = keep(wanted.library, wanted, system, memory, source)
        except (StoreError, VideoError) as error:
            if wanted.save == "must":
                raise
            say(f"the memory was not kept: {error}", kind="warning")
    return Recalled(system=system, memory=memory, model=wanted.model, stored=stored)


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
    from longtake.identity import is_address
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
        settings=wanted.settings(),
        name=wanted.name,
        thumbnails=pictures,
    )
    note(f"kept as {stored.name}: {size(stored.bytes)}")
    return stored
