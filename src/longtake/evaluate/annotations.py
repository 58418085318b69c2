"""Annotation files as they are published: rows of JSON, JSON lines, parquet or plain lines.

A row knows where it stands, so that what is wrong with it can be said in one line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.errors import AnnotationError, OptionError

KINDS = (".json", ".jsonl", ".parquet", ".txt")
"""What annotation files end in."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row, with checked access to its fields."""

    values: Mapping[str, Any]
    file: str
    """Name of its file without the ending; MLVU and MVBench have a file per kind of question."""
    where: str
    """File and number of the row, for messages."""

    def has(self, name: str) -> bool:
        """Whether the field is there and says something."""
        return self.values.get(name) is not None

    def text(self, *names: str) -> str:
        """The first of these fields that is there, as text. Raises AnnotationError."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
                return str(value)
            if value is not None:
                raise self.wrong(f"{name!r} is {brief(value)}, expected text")
        raise self.wrong(f"there is no {' or '.join(map(repr, names))}")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, at least one. Raises AnnotationError."""
        value = self.values.get(name)
        if not isinstance(value, list) or not value:
            raise self.wrong(f"{name!r} is {brief(value)}, expected a list of texts")
        if not all(isinstance(entry, str) for entry in value):
            raise self.wrong(f"{name!r} is {brief(value)}, expected texts only")
        return tuple(value)

    def number(self, name: str) -> float:
        """A finite number. Raises AnnotationError."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(f"{name!r} is {brief(value)}, expected a number")
        if not math.isfinite(value):
            raise self.wrong(f"{name!r} is {value}, expected a finite number")
        return float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of so many finite numbers. Raises AnnotationError."""
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) != count:
            raise self.wrong(f"{name!r} is {brief(value)}, expected {count} numbers")
        entries = dict(zip(map(str, range(count)), value, strict=True))
        part = Row(values=entries, file=self.file, where=f"{self.where}, {name!r}")
        return tuple(map(part.number, entries))

    def wrong(self, what: str) -> AnnotationError:
        """An error about this row, to raise."""
        return AnnotationError(f"{self.where}: {what}; see docs/benchmarks.md for the layout")


def read_rows(path: Path) -> tuple[Row, ...]:
    """All rows of a file, or of the files of a folder in the order of their names.

    Raises AnnotationError for what cannot be read or holds no rows; OptionError for parquet without
    pyarrow.
    """
    rows = tuple(row for file in annotation_files(path) for row in _rows_of(file))
    if not rows:
        raise AnnotationError(f"{path} holds no rows; give the published annotations")
    return rows


def annotation_files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder that may hold annotations."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise AnnotationError(f"{path} is neither a file nor a folder; give the annotations")
    files = sorted(file for file in path.iterdir() if file.suffix in KINDS and file.is_file())
    if not files:
        raise AnnotationError(f"{path} holds no file that ends in {', '.join(KINDS)}")
    return files


def digest_of(path: Path) -> str:
    """Digest of the annotation files' bytes, their names aside."""
    digest = hashlib.sha256()
    for file in annotation_files(path):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def _rows_of(file: Path) -> Iterator[Row]:
    if file.suffix == ".parquet":
        entries: Sequence[object] = parquet_rows(file)
    elif file.suffix not in KINDS:
        raise AnnotationError(f"{file.name} is no annotation file; expected {', '.join(KINDS)}")
    else:
        entries = _lines_or_list(file, _text_of(file))
    for number, entry in enumerate(entries, 1):
        where = f"{file.name}: row {number}"
        if not isinstance(entry, dict):
            raise AnnotationError(f"{where} is {brief(entry)}, expected an object with fields")
        yield Row(values=entry, file=file.stem, where=where)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{file} is no text ({error.reason}); is it the right file?"
        ) from error
    except OSError as error:
        raise AnnotationError(f"{file} cannot be read ({error.strerror})") from error


def _lines_or_list(file: Path, text: str) -> Sequence[object]:
    if file.suffix == ".txt":
        return [{"line": line} for line in lines_of(text)]
    if file.suffix == ".jsonl":
        return json_lines(file, text)
    whole = parsed(text, file.name)
    if not isinstance(whole, list):
        raise AnnotationError(f"{file.name} holds {brief(whole)}, expected a list of rows")
    return whole


def lines_of(text: str) -> list[str]:
    """Lines that say something.

    Only a line feed ends one: a JSON string may hold U+2028 or U+0085, where `splitlines` cuts.
    """
    return [line for line in text.split("\n") if line.strip()]


def json_lines(file: Path, text: str) -> list[Any]:
    """What each line of a file says. Raises AnnotationError."""
    return [parsed(line, f"{file.name}: row {n}") for n, line in enumerate(lines_of(text), 1)]


def parsed(text: str, where: str) -> Any:
    """What a JSON text says. Raises AnnotationError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{where} is no JSON ({error})") from error


def parquet_rows(file: Path) -> Sequence[object]:
    """The rows of a parquet file. Raises AnnotationError, OptionError without pyarrow."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise OptionError(
            f"{file.name} is a parquet file and pyarrow is not installed: "
            "pip install pyarrow, or give the annotations as json"
        ) from error
    try:
        rows: list[object] = read_table(file).to_pylist()
    except (ArrowException, OSError) as error:
        raise AnnotationError(f"{file} cannot be read as parquet ({error})") from error
    return rows


def brief(value: object) -> str:
    """A value in few letters, for messages."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def find_list(place: Path) -> Path:
    """The file that lists needles. Raises OptionError."""
    if not place.exists():
        raise OptionError(f"{place} does not exist; give a list of needles or a folder with one")
    if not place.is_dir():
        return place
    kinds = ("*.json", "*.jsonl", "*.parquet")
    below = (place, *sorted(path for path in place.iterdir() if path.is_dir()))
    for folder in below:
        found = sorted(path for kind in kinds for path in folder.glob(kind))
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:4])
            raise OptionError(f"{folder} holds several lists ({names}); name one of them")
        if found:
            return found[0]
    raise OptionError(f"{place} holds no list of needles ({', '.join(kinds)})")


def read_texts(paths: Sequence[str]) -> str:
    """All texts, one after another. Raises OptionError for what is no text."""
    parts = []
    for path in paths:
        try:
            parts.append(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError(f"{path} is no text that can be read ({error})") from error
    whole = "".join(parts)
    if not whole.strip():
        raise OptionError("the texts are empty; give a book")
    return whole
