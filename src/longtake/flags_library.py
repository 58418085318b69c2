"""The options and arguments that are about a library of watched videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from longtake.units import bytes_of

if TYPE_CHECKING:
    from longtake.library import Library

OFF = "off"
"""What `--library` says to do without one."""

LibraryFolder = Annotated[
    str | None,
    typer.Option(
        "--library",
        metavar="FOLDER",
        envvar="LONGTAKE_LIBRARY",
        help='Where memories of watched videos are kept; "off" keeps and finds none.',
    ),
]
LibraryBudget = Annotated[
    str | None,
    typer.Option(
        "--library-budget",
        metavar="BYTES",
        envvar="LONGTAKE_LIBRARY_BUDGET",
        help="Of all memories together; those asked longest ago go first.  [default: 10GiB]",
    ),
]
MemoryName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="What to call it.  [default: the file's name]"),
]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="NAME...", help="Memories, as `ls` shows them.")
]
AllFlag = Annotated[bool, typer.Option("--all", help="Remove every memory.")]


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where memories are looked for and kept."""

    library: LibraryFolder = None
    library_budget: LibraryBudget = None
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Keep the memory for later questions.")
    ] = True

    def opened(self) -> Library | None:
        """The library; None if there is to be none. Raises OptionError."""
        return None if self.library == OFF else library_at(self.library, self.library_budget)


def library_at(folder: str | None, budget: str | None = None) -> Library:
    """A library by what was said on the command line. Raises OptionError."""
    from longtake.errors import OptionError
    from longtake.library import Library

    if folder == OFF:
        raise OptionError("--library off is no library; name its folder, or leave it out")
    room = None if budget is None else bytes_of(budget, "--library-budget")
    return Library(folder, room)
