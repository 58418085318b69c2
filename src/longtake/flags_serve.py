"""The options of `longtake serve`, each declared once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from longtake.errors import OptionError

TOKEN_NAME = "LONGTAKE_TOKEN"


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where the server listens, and who may come."""

    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen at.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, typer.Option(metavar="N", help="Port; 0 takes a free one.")] = 8000
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the token that clients must send; or set LONGTAKE_TOKEN. Needed unless "
            "the address is of this machine alone.",
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name clients call it by; may be repeated."),
    ] = None

    def token(self) -> str | None:
        """The token, or None. Raises OptionError for a file that holds none."""
        if self.token_file is None:
            return os.environ.get(TOKEN_NAME) or None
        try:
            word = self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"the token file {self.token_file} cannot be read") from error
        if not word:
            raise OptionError(f"the token file {self.token_file} is empty; put a long word into it")
        return word


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the server takes, keeps and reaches."""

    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of uploaded files.  [default: in the cache]"),
    ] = None
    library: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of memories.  [default: the user's library]"),
    ] = None
    allow_root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder whose files clients may name; may be repeated."),
    ] = None
    allow_network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NET", help="Private network to fetch from, as 10.1.0.0/16; may be repeated."
        ),
    ] = None
    max_upload: Annotated[str, typer.Option(metavar="BYTES", help="Largest file: 500MB, 4GiB.")] = (
        "4GiB"
    )
    max_stored: Annotated[str, typer.Option(metavar="BYTES", help="All kept files together.")] = (
        "64GiB"
    )
    memory: Annotated[
        str, typer.Option(metavar="BYTES", help="Memories held ready; others are read again.")
    ] = "4GiB"
    max_video: Annotated[float, typer.Option(metavar="S", help="Longest video in seconds.")] = (
        6 * 3600.0
    )
    queue: Annotated[
        int, typer.Option(metavar="N", help="Questions that may wait; more are told to come back.")
    ] = 64
    rows: Annotated[int, typer.Option(metavar="N", help="Questions answered side by side.")] = 16
    timeout: Annotated[
        float, typer.Option(metavar="S", help="Longest time to an answer, watching included.")
    ] = 600.0
