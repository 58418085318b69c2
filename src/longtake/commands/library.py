"""`longtake ls`, `rm` and `verify`: what there is in a library of watched videos."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from longtake.errors import OptionError, StoreError
from longtake.flags import JsonFlag
from longtake.flags_library import AllFlag, LibraryFolder, Names, library_at
from longtake.terminal import bars, clock, harmless, note, size, table

if TYPE_CHECKING:
    from longtake.stored import Stored

HEAD = ("name", "length", "frames", "tokens", "size", "system", "used", "video")


def list_memories(*, library: LibraryFolder = None, as_json: JsonFlag = False) -> None:
    """List the videos that were watched, the last used first."""
    place = library_at(library)
    found = place.list()
    if as_json:
        print(json.dumps([told(stored) for stored in found]))
    elif found:
        rows = [row(stored, datetime.now(UTC)) for stored in found]
        print(table([HEAD, *rows], "<>>>><<<"))
        total = size(sum(stored.bytes for stored in found))
        note(f"{total} of {size(place.budget)} in {place.folder}")
    else:
        note(f"nothing was watched yet: {place.folder} holds no memory")


def row(stored: Stored, now: datetime) -> tuple[str, ...]:
    """A memory as a line of a table."""
    spoken = " with captions" if stored.settings.captions else ""
    return (
        harmless(stored.name),
        clock(stored.watched_seconds),
        f"{stored.frames:,}",
        f"{stored.tokens:,}",
        size(stored.bytes),
        stored.system,
        ago((now - stored.last_used).total_seconds()),
        harmless(stored.video.name.encode(errors="replace").decode()) + spoken,
    )


def ago(seconds: float) -> str:
    """How long ago in words: now, 5 min ago, 3 h ago, 12 days ago."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= (2 if unit == "days" else 1) * length:
            return f"{seconds // length:.0f} {unit} ago"
    return "now"


def told(stored: Stored) -> dict[str, Any]:
    """A memory as JSON, its pictures left out."""
    said = asdict(stored) | {"watched_seconds": stored.watched_seconds}
    del said["thumbnails"]
    return said | {name: said[name].isoformat() for name in ("created", "last_used")}


def remove_memories(
    *, names: Names = None, library: LibraryFolder = None, everything: AllFlag = False
) -> None:
    """Remove memories by NAME; the videos themselves stay. Unknown names are told at the end."""
    place = library_at(library)
    if bool(names) == everything:
        raise OptionError("rm needs the names of memories, or --all, and not both")
    wanted, faults = tuple(dict.fromkeys(names or place.keys())), list[StoreError]()
    for name in wanted:
        try:
            place.remove(name)
        except StoreError as fault:
            faults.append(fault)
    if faults:
        rest = "; the others are removed" if len(faults) < len(wanted) else ""
        raise StoreError("; ".join(map(str, faults)) + rest)


def verify_memories(*, library: LibraryFolder = None) -> None:
    """Read every memory in full and compare its checksums; says what is not whole."""
    place = library_at(library)
    with bars() as progress:
        faults = place.verify(lambda done, total: progress("verify", done, total))
    for fault in faults:
        print(harmless(f"{fault.name}: {fault.what}"))
    if faults:
        raise StoreError(f"memories in {place.folder} that are not whole: {len(faults)}")
    found = place.list()
    whole = "memory is" if len(found) == 1 else "memories are"
    print(f"{len(found)} {whole} whole, {size(sum(stored.bytes for stored in found))}")
