"""`longtake watch`: watch a video and keep its memory for questions to come."""

from __future__ import annotations

import json

from longtake.commands.library import told
from longtake.commands.recall import Seeing, Wanted, recalled
from longtake.errors import OptionError
from longtake.flags import Answering, JsonFlag, VideoFile, spread
from longtake.flags_library import LibraryBudget, LibraryFolder, MemoryName, library_at
from longtake.places import check_video


@spread
def watch_video(
    *,
    video: VideoFile,
    name: MemoryName = None,
    seeing: Seeing,
    library: LibraryFolder = None,
    library_budget: LibraryBudget = None,
    as_json: JsonFlag = False,
) -> None:
    """Watch VIDEO once and keep its memory; prints the name to ask it by."""
    kept = library_at(library, library_budget)
    if name is not None:
        kept.check_name(name)
    check_video(video)
    seeing.check()
    kept.prepare()  # once the rest is known to be good
    wanted = Wanted(
        video=video,
        seeing=seeing,
        answering=Answering(),
        library=kept,
        save="must",
        name=name,
    )
    with recalled(wanted) as found:
        stored = found.stored
    if stored is None:
        raise OptionError(f"{video} is a still picture, which needs no memory; ask it as it is")
    print(json.dumps(told(stored)) if as_json else stored.name)
