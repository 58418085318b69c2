"""The command line: parse, call the api, print.

Results go to stdout, everything else to stderr. torch is imported inside the commands, because
`longtake --help` and shell completion must not wait for it.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from longtake.commands.ask import ask, chat
from longtake.commands.evaluate import evaluate
from longtake.commands.inspect import inspect_target
from longtake.commands.library import list_memories, remove_memories, verify_memories
from longtake.commands.needle import needle
from longtake.commands.plan import plan_watch
from longtake.commands.serve import serve
from longtake.commands.train import train
from longtake.commands.watch import watch_video
from longtake.exits import EPILOG, Commands
from longtake.version import __version__

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,  # plain help: quicker, and the same in a pipe
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    epilog=EPILOG,
)


def show_version(wanted: bool) -> None:
    """Print the version and leave, if it was asked for."""
    if wanted:
        print(f"longtake {__version__}")
        raise typer.Exit


@app.callback()
def longtake(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Watch a long video once, ask it many questions."""


app.command("watch")(watch_video)
app.command()(ask)
app.command()(chat)
app.command("ls")(list_memories)
app.command("rm")(remove_memories)
app.command("verify")(verify_memories)
app.command("inspect")(inspect_target)
app.command("plan")(plan_watch)
app.command()(needle)
app.command("eval")(evaluate)
app.command()(serve)
app.command()(train)


def main() -> None:
    """Run the command line; leaves by SystemExit."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a file name or an answer that the locale cannot show is no reason to stop
            stream.reconfigure(errors="replace")
    app(prog_name="longtake")
