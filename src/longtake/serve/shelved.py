"""The library as a server uses it: files that are known already are not read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from longtake.catalogue import file_of
from longtake.identity import Downloaded
from longtake.library import Library
from longtake.serve.jobs import Film
from longtake.stored import VideoIdentity


class Looked:
    """A film whose digest is known, as something that a library takes."""

    def __init__(self, film: Film) -> None:
        self.film = film
        self.name = Path(film.path).name

    @property
    def identity(self) -> VideoIdentity:
        """Which video it is. Raises OSError if the file is gone."""
        path = Path(self.film.path)
        size = path.stat().st_size
        return VideoIdentity(
            digest=self.film.digest, size=size, name=self.name, place=self.film.path
        )

    def raw(self) -> BinaryIO:
        """The file's bytes."""
        return Path(self.film.path).open("rb")


class Shelved(Library):
    """A library that takes a film's digest as it is told, and keeps its files in use."""

    def identify(self, video: str | Path | Downloaded) -> VideoIdentity:
        """Which video it is; of a film that was looked at it is known."""
        return video.identity if isinstance(video, Looked) else super().identify(video)

    @contextmanager
    def in_use(self, key: str) -> Iterator[Path]:
        """A memory's file, which no process can remove before the `with` statement ends.

        Raises StoreError if it is gone.
        """
        path = file_of(self.folder, key)
        with self._shelf.in_use(path):
            yield path
