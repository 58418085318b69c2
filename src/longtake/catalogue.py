"""The index of a library: what each memory's header says, and digests of videos, in SQLite.

The files are the truth, the index is a copy of their headers: a memory whose file came to be
without it (a program was killed, a folder was copied) is added when the index is next opened, and
an index that is broken or of another version is made anew. Where it cannot be written, one is made
in memory.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longtake.errors import StoreError
from longtake.locks import being_removed
from longtake.sealed import Sealed
from longtake.stored import Stored, about_of, stored_of

INDEX = "index.sqlite"
VERSION = 1
PATIENCE_SECONDS = 60.0
"""How long to wait for another process that writes."""
SUFFIX = ".longtake"
TABLES = """
CREATE TABLE memories (
    key TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, size INTEGER NOT NULL,
    about TEXT NOT NULL
);
CREATE TABLE videos (stamp TEXT PRIMARY KEY, digest TEXT NOT NULL);
"""


def file_of(folder: Path, key: str) -> Path:
    """Where a memory lies."""
    return folder / f"{key}{SUFFIX}"


def files_in(folder: Path) -> dict[str, Path]:
    """All memories' files by their keys; other files are none of ours."""
    if not folder.exists():
        return {}
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        why = error.strerror or error
        raise StoreError(f"the library {folder} cannot be read ({why}); choose another") from error
    ours = re.compile(rf"[0-9a-f]{{32}}{re.escape(SUFFIX)}")
    return {path.name[:32]: path for path in found if ours.fullmatch(path.name)}


class Catalogue:
    """Gives connections to a folder's index; holds none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # -- what is asked and said -------------------------------------------------------------------

    def all(self, where: str = "1", *values: object) -> list[Stored]:
        """Memories whose files are there. Raises StoreError."""
        with self._opened() as db:
            rows = db.execute(f"SELECT key, about FROM memories WHERE {where}", values).fetchall()
        found = []
        for key, about in rows:
            with suppress(FileNotFoundError):
                found.append(told(about, file_of(self.folder, key)))
        return found

    def first(self, where: str, *values: object) -> Stored | None:
        """One of them, if there is any."""
        return next(iter(self.all(where, *values)), None)

    def names(self) -> dict[str, str]:
        """The name of each key, whether its file is there or not."""
        with self._opened() as db:
            return dict(db.execute("SELECT key, name FROM memories").fetchall())

    def keys_of(self, name: str) -> list[str]:
        """The key of a memory by its name, or by itself."""
        with self._opened() as db:
            either = "SELECT key FROM memories WHERE name = ?1 OR key = ?1"
            return [key for (key,) in db.execute(either, [name])]

    def free_name(self, wanted: str, key: str) -> str:
        """A name for a memory that no other one has: this one, or with -2, -3, ... behind it."""
        with self._opened() as db:
            return free_name(db, wanted, key)

    @contextmanager
    def adding(self, stored: Stored) -> Iterator[bool]:
        """Add or replace a memory whose file comes to be in the `with` statement.

        Gives whether that may be: not if another one has its name meanwhile. Nobody else adds one
        before it is over. Raises StoreError.
        """
        with self._opened(make=True) as db:
            free = free_name(db, stored.name, stored.key) == stored.name
            yield free
            if free:
                add(db, stored)

    def forget(self, key: str) -> None:
        """Remove a memory, and digests that nothing needs any more."""
        with self._opened() as db:
            db.execute("DELETE FROM memories WHERE key = ?", [key])
            db.execute("DELETE FROM videos WHERE digest NOT IN (SELECT digest FROM memories)")

    def digest_of(self, stamp: str) -> str | None:
        """The digest of a video's file by what it was when it was last read."""
        with self._opened() as db:
            row = db.execute("SELECT digest FROM videos WHERE stamp = ?", [stamp]).fetchone()
        return None if row is None else str(row[0])

    def remember(self, stamp: str, digest: str) -> None:
        """Note a video's digest."""
        with self._opened() as db:
            db.execute("INSERT OR REPLACE INTO videos VALUES (?, ?)", [stamp, digest])

    # -- how it is opened -------------------------------------------------------------------------

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection within a transaction, which ends with the `with` statement.

        It knows every file that can be read. `make`: the folder is a library, though it may be
        empty. Raises StoreError if another process keeps it.
        """
        db = self._connect(make=make)
        with closing(db):
            try:
                yield db
                if db.in_transaction:
                    db.execute("COMMIT")
            except sqlite3.Error as error:
                raise StoreError(f"the index {self.folder / INDEX} failed ({error})") from error

    def _connect(self, *, make: bool) -> sqlite3.Connection:
        """Begin, on disk if that can be, and add what is new."""
        # a folder that is none of ours stays as it is
        if make or (self.folder / INDEX).exists() or files_in(self.folder):
            for _ in range(2):
                try:
                    return self._begun(self.folder / INDEX)
                except sqlite3.OperationalError as error:
                    if "no such" not in str(error):
                        break  # it cannot be written, or is kept by another
                    self._discard()
                except sqlite3.DatabaseError:
                    self._discard()
        return self._begun(":memory:")

    def _begun(self, place: Path | str) -> sqlite3.Connection:
        """A connection that is the only one to write. Raises sqlite3.Error."""
        db = sqlite3.connect(place, timeout=PATIENCE_SECONDS, isolation_level=None)
        try:
            db.execute("BEGIN IMMEDIATE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(f"version {version}")
            if version == 0:
                for table in TABLES.split(";"):
                    db.execute(table)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("damaged")
            self._adopt(db)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _adopt(self, db: sqlite3.Connection) -> None:
        """Add the memories whose files the index does not know."""
        known = {key for (key,) in db.execute("SELECT key FROM memories")}
        fresh = []
        for key, path in files_in(self.folder).items():
            if key in known:
                continue
            with suppress(OSError):  # what cannot be read stays unknown; `verify` says why
                if not being_removed(path):
                    stored = read(path)
                    if stored.key == key:
                        fresh.append(stored)
        for stored in sorted(fresh, key=lambda stored: stored.created):
            add(db, stored)

    def _discard(self) -> None:
        """Remove an index that cannot be used; what it knew is in the files."""
        with suppress(OSError):
            for name in (INDEX, f"{INDEX}-journal", f"{INDEX}-wal", f"{INDEX}-shm"):
                (self.folder / name).unlink(missing_ok=True)


def add(db: sqlite3.Connection, stored: Stored) -> Stored:
    """Add or replace a memory; its name gets a number behind it if another one has it."""
    named = replace(stored, name=free_name(db, stored.name, stored.key))
    db.execute("DELETE FROM memories WHERE key = ?", [stored.key])
    video, text = named.video, json.dumps(about_of(named))
    row = (named.key, named.name, video.digest, video.size, text)
    db.execute("INSERT INTO memories VALUES (?, ?, ?, ?, ?)", row)
    return named


def told(about: str, path: Path) -> Stored:
    """A memory by its row. Raises FileNotFoundError if its file is gone, StoreError."""
    found = path.stat()
    try:
        said = json.loads(about)
    except ValueError as error:
        what = f"the index beside {path} is damaged; remove {INDEX}, it is made anew"
        raise StoreError(what) from error
    return stored_of(said, datetime.fromtimestamp(found.st_mtime, UTC), found.st_size)


def read(path: Path) -> Stored:
    """A memory by its file's header. Raises StoreError."""
    with closing(Sealed(path)) as sealed:
        return told_by(sealed.header, path)


def told_by(header: Mapping[str, Any], path: Path) -> Stored:
    """A memory by its header. Raises StoreError if that says nothing, or its file is gone."""
    about = header.get("about")
    if not isinstance(about, dict):
        raise StoreError(f"{path} says nothing of the video; a library did not write it")
    try:
        found = path.stat()
    except OSError as error:
        raise StoreError(f"{path} is gone; watch the video again") from error
    return stored_of(about, datetime.fromtimestamp(found.st_mtime, UTC), found.st_size)


def free_name(db: sqlite3.Connection, wanted: str, key: str) -> str:
    """A name that no other memory has: the one that is wanted, or with -2, -3, ... behind it."""
    taken = {name for (name,) in db.execute("SELECT name FROM memories WHERE key != ?", [key])}
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name
