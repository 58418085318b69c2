"""Results of a long measurement, one JSON line each, in a file that survives being stopped.

The first line says what was measured and how; a file goes on only under the same header. A row is
written at once and flushed to the disk, so that a run that is killed loses the row it was making; a
row cut short is taken away when the file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from longtake.errors import StoreError
from longtake.evaluate.annotations import brief
from longtake.evaluate.whole import save_text
from longtake.locks import claim

Row = Mapping[str, Any]
"""What JSON can say; "key" names it within its file, "error" marks one that failed."""


class Results:
    """Rows of one file, in the order they were added; a context manager."""

    def __init__(self, path: Path, header: Row, retry: bool = False) -> None:
        """Begin a file, or go on with it where its header is the same or no row is there.

        `retry`: take rows that failed away, to be made again. Raises StoreError for a header that
        differs (named field by field), a file that holds something else, one that another process
        writes, or one that cannot be written.
        """
        self.path = path
        self.header: Row = json.loads(line_of(header))  # as it will be read back
        self.rows: dict[str, Row] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not path.exists() or not path.stat().st_size
            self._file = path.open("ab+")
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error.strerror or error})") from error
        try:
            self._lock()
            if fresh:
                self._write({"header": self.header})
            else:
                self._resume(retry)
        except StoreError:
            self._file.close()
            raise

    def done(self) -> set[str]:
        """Keys of the rows that are there."""
        return set(self.rows)

    def add(self, row: Row) -> None:
        """Append a row under its "key", which must be new. Raises StoreError on a full disk."""
        key = row["key"]
        assert key not in self.rows, f"{key!r} is there already"
        self.rows[key] = json.loads(self._write(row))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _lock(self) -> None:
        if not claim(self._file.fileno()):
            raise StoreError(f"{self.path} is written by another run; wait for it")

    def _write(self, row: Row) -> str:
        line = line_of(row)
        try:
            self._file.write(f"{line}\n".encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"{self.path} cannot be written ({reason})") from error
        return line

    def _resume(self, retry: bool) -> None:
        """Read what is there, without a last line that was cut short."""
        self._file.seek(0)
        whole = self._file.read()
        kept = whole[: whole.rfind(b"\n") + 1]
        lines = [read_line(self.path, n, line) for n, line in enumerate(kept.splitlines(), 1)]
        if len(lines) == 1 and isinstance(lines[0].get("header"), dict):
            lines = []  # stopped before its first row: nothing was measured under that header
        if lines:
            check_header(self.path, lines[0], self.header)
        rows = [row for row in lines[1:] if not (retry and "error" in row)]
        for number, row in enumerate(rows, 2):
            if not isinstance(row.get("key"), str):
                raise StoreError(f"{self.path}: line {number} has no key; start a new file")
        self.rows = {row["key"]: row for row in rows}
        if not lines:
            self._file.truncate(0)
            self._write({"header": self.header})
        elif len(rows) < len(lines) - 1:
            self._replace([{"header": self.header}, *rows])
        elif len(kept) < len(whole):
            self._file.truncate(len(kept))

    def _replace(self, rows: list[Row]) -> None:
        """Write all rows anew, aside and then renamed."""
        save_text("".join(f"{line_of(row)}\n" for row in rows), self.path)
        self._file.close()
        try:
            self._file = self.path.open("ab+")
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written ({error.strerror})") from error
        self._lock()


def line_of(row: Row) -> str:
    """A row as one line of JSON, keys in their own order; refuses nan, which JSON cannot say."""
    return json.dumps(row, ensure_ascii=True, allow_nan=False)


def read_line(path: Path, number: int, line: bytes) -> Row:
    """One line of a file. Raises StoreError if it holds no JSON object."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        shown = line[:40].decode("utf-8", "replace")
        raise StoreError(
            f"{path}: line {number} is no result ({shown!r}); choose another place for results"
        )
    return row


TOLD = frozenset({"parameters"})
"""What a header tells beside what shapes answers; earlier versions did not."""


def filled(header: Row) -> Row:
    """A header with what earlier versions left out: subtitles stood behind the video."""
    place = "behind" if header.get("subtitles") else None
    prompts = header.get("prompts")
    if not isinstance(prompts, dict) or "subtitles" not in header:
        return header
    return {"subtitle_place": place, **header, "prompts": {"place": "behind", **prompts}}


def check_header(path: Path, first: Row, wanted: Row) -> None:
    """Raise StoreError unless a file's first line says the same as this run's header."""
    found = first.get("header")
    if not isinstance(found, dict):
        raise StoreError(f"{path} holds no results of ours; choose another place for results")
    found = filled(found)
    named = [name for name in {**found, **wanted} if name not in TOLD]
    differing = [name for name in named if found.get(name) != wanted.get(name)]
    if differing:
        told = "; ".join(
            f"{name} was {brief(found.get(name))}, now {brief(wanted.get(name))}"
            for name in differing[:3]
        )
        raise StoreError(
            f"{path} was made otherwise ({told}); use the same options, or another place for "
            "results"
        )
