"""How the command line ends: every mistake a user can make is one line on stderr and a status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from longtake.errors import CapacityError, LongtakeError, OptionError
from longtake.terminal import note, say

# typer may bring a click of its own; this is the one of its errors that it names for us
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""What a command line that does not parse raises; printed by click it would be three lines."""

INTERRUPTED = 130
"""After Ctrl-C: 128 + SIGINT, as shells report it."""
PIPE_CLOSED = 141
"""When nobody reads stdout any more: 128 + SIGPIPE."""

EXIT_CODES = {
    0: "Done.",
    LongtakeError.exit_code: "A file cannot be read or written, or the disk is full.",
    **{error.exit_code: error.__doc__ for error in LongtakeError.__subclasses__()},
    INTERRUPTED: "Interrupted.",
    PIPE_CLOSED: "The reader of the output went away.",
}
# \b keeps the lines of a paragraph as they are
EPILOG = "\n".join(
    ["\b", "Exit status:", *(f"  {code:>3}  {what}" for code, what in sorted(EXIT_CODES.items()))]
)


class Commands(TyperGroup):
    """Runs a command and turns what users can cause into a line and a status."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse; --help and --version print while that is done."""
        with reported():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        with reported():
            return super().invoke(ctx)


@contextmanager
def reported() -> Iterator[None]:
    """Flush stdout at the end; report what went wrong and leave with its status."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except LongtakeError as error:
        fail(str(error), error.exit_code, error)
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise  # `longtake` alone: the help is the answer
        command = "longtake" if error.ctx is None else error.ctx.command_path
        told = error.format_message().rstrip(".")
        fail(f"{told}; see {command} --help", OptionError.exit_code, error)
    except MemoryError as error:
        fail("out of memory; use fewer frames", CapacityError.exit_code, error)
    except OSError as error:
        drop_unwritable()
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(PIPE_CLOSED) from error
        what = error.strerror or str(error)
        where = f": {error.filename}" if error.filename else ""
        fail(f"{what}{where}", LongtakeError.exit_code, error)
    except KeyboardInterrupt as error:
        note("")  # the terminal has just shown ^C
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from error


def fail(message: str, code: int, cause: BaseException) -> NoReturn:
    """Report an error in one line and leave with `code`."""
    say(message, kind="error")
    raise typer.Exit(code) from cause


def drop_unwritable() -> None:
    """Forget what stdout cannot take, or Python complains about it once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
