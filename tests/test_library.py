"""Libraries: what is saved is found, whole and unchanged, whatever happens meanwhile."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import longtake.library
from longtake.catalogue import INDEX, file_of, files_in
from longtake.errors import OptionError, StoreError, VideoError
from longtake.identity import of_file
from longtake.library import Library, default_folder
from longtake.shelf import Shelf
from longtake.stored import Settings, VideoIdentity, about_of, stored_of
from longtake.types import Memory
from tests.shelves import memory, save, video
from tests.tiny import noise, tiny

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


def answers(held: Memory, kv: str = "full") -> list[tuple[int, ...]]:
    """What two questions are answered."""
    system = tiny().variant(kv=kv)
    options = system.options(max_new_tokens=5)
    return [system.ask(held, question, options).ids for question in ("What?", "And where?")]


def answers_together(held: Memory, kv: str = "full") -> list[tuple[int, ...]]:
    """The same, in one batch."""
    system = tiny().variant(kv=kv)
    options = system.options(max_new_tokens=5)
    return [one.ids for one in system.ask_many(held, ["What?", "And where?"], options)]


# -- saving and finding ---------------------------------------------------------------------------


def test_what_is_saved_is_found_by_its_bytes_and_by_its_name(
    library: Library, tmp_path: Path
) -> None:
    stored = save(library, video(tmp_path, 1))
    again = Library(library.folder)  # as another process would
    assert again.list() == [stored]
    assert again.named("video 1") == again.find("video 1") == stored
    moved = video(tmp_path, 1).rename(tmp_path / "elsewhere.mp4")
    assert again.find(moved, tiny()) == again.find(str(moved), tiny()) == stored
    with again.open(stored, "cpu") as loaded:
        assert answers(loaded) == answers(memory())
        assert (loaded.entries, loaded.stats) == (memory().entries, memory().stats)
    assert again.verify() == []


def test_a_stored_memory_tells_what_it_is(library: Library, tmp_path: Path) -> None:
    settings = Settings(model="a/b", options={"kv": "full"}, max_frames=2)
    stored = library.save(
        memory(), system=tiny(), source=video(tmp_path, 1), settings=settings, name="mine"
    )
    assert stored.name == "mine"
    assert stored.video.name == "video 1.mp4"
    assert stored.video.place == str(tmp_path / "video 1.mp4")
    assert stored.video.size == (tmp_path / "video 1.mp4").stat().st_size
    assert (stored.system, stored.fingerprint) == ("longva", tiny().fingerprint)
    assert (stored.frames, stored.tokens) == (2, memory().length)
    assert stored.seconds == sum(memory().durations)
    assert stored.seconds_per_token == stored.seconds / memory().stats.visual_tokens
    assert stored.settings == settings
    assert stored.bytes == file_of(library.folder, stored.key).stat().st_size > memory().bytes
    assert any("evenly" in words for words in stored.shape)
    assert not any(" at 0x" in words for words in stored.shape)
    assert stored_of(about_of(stored), stored.last_used, stored.bytes) == stored


def test_a_part_is_as_long_as_what_was_watched(library: Library, tmp_path: Path) -> None:
    held = tiny().watch(noise(8), max_frames=2, start=3.0, end=3.5)
    settings = Settings(start=3.0, end=3.5)
    stored = library.save(held, system=tiny(), source=video(tmp_path, 1), settings=settings)
    assert stored.seconds == held.durations[0] == 3.5
    assert stored.watched_seconds == 0.5
    assert stored.seconds_per_token == 0.5 / held.stats.visual_tokens
    early = replace(stored, settings=Settings(start=-2.0))
    assert early.watched_seconds == replace(stored, settings=Settings()).watched_seconds == 3.5


@pytest.mark.parametrize(
    "settings", [Settings(max_frames=3), Settings(start=1.0), Settings(end=2.0)]
)
def test_other_settings_are_another_memory(
    settings: Settings, library: Library, tmp_path: Path
) -> None:
    save(library, video(tmp_path, 1))
    assert library.find(video(tmp_path, 1), tiny(), settings) is None
    told = Settings(max_frames=tiny().frames)  # what is said anyway
    assert library.find(video(tmp_path, 1), tiny(), told) is not None


def test_a_memory_that_notes_a_word_for_its_frames_is_read(
    library: Library, tmp_path: Path
) -> None:
    auto: Any = "auto"
    noted = Settings(max_frames=auto)
    library.save(memory(), system=tiny(), source=video(tmp_path, 1), settings=noted)
    (stored,) = library.list()
    assert stored.settings.max_frames == stored.frames == 2
    assert library.fits(stored, tiny())


def test_another_model_is_another_memory(library: Library, tmp_path: Path) -> None:
    stored = save(library, video(tmp_path, 1))
    assert library.find(video(tmp_path, 1), tiny().variant(kv="int8")) is None
    weight = tiny().model.tower.state_dict().popitem()[1]
    kept = weight.clone()
    try:
        weight.add_(1)  # a tower from another folder: the model folder's files are the same
        assert library.find(video(tmp_path, 1), tiny()) is None
        assert not library.fits(stored, tiny())
    finally:
        weight.copy_(kept)
    assert library.find(video(tmp_path, 1), tiny()) == stored
    assert library.fits(stored, tiny())


def test_a_video_that_changed_is_another_video(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longtake.identity.SETTLED_SECONDS", -1.0)  # its digest is noted at once
    path = video(tmp_path, 1)
    save(library, path)
    os.utime(path, (1, 1))
    assert library.find(path, tiny()) is not None
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, (1, 1))  # as many bytes, and the same time
    assert library.find(path, tiny()) is None


def test_a_video_is_read_once(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, times = video(tmp_path, 1), []
    save(library, path)
    monkeypatch.setattr("longtake.identity.SETTLED_SECONDS", -1.0)

    def counted(path: Path, digest: str | None = None) -> VideoIdentity:
        times.append(digest)
        return of_file(path, digest)

    monkeypatch.setattr("longtake.library.of_file", counted)
    assert library.find(path, tiny()) == library.find(path, tiny())
    assert times[0] is None
    assert times[1] is not None


def test_names_are_made_free_or_refused(library: Library, tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b", "c")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "film.mkv").write_bytes(bytes([number]))
    names = [save(library, tmp_path / folder / "film.mkv").name for folder in "abc"]
    assert names == ["film", "film-2", "film-3"]
    for name in ("", " ", "a/b", "a\nb", "x" * 500, "film"):
        with pytest.raises(OptionError, match=r"name|already"):
            save(library, video(tmp_path, 9), name)
    assert len(library.list()) == 3


def films(library: Library) -> dict[str, str]:
    """The folder of each video by the name of its memory."""
    return {one.name: Path(one.video.place).parent.name for one in library.list()}


def film(folder: Path, number: int) -> Path:
    """Another video that is called film."""
    path = folder / str(number) / "film.mkv"
    path.parent.mkdir()
    path.write_bytes(bytes([number]))
    return path


def test_names_are_the_same_when_the_index_is_made_anew(library: Library, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(library, film(tmp_path, number))
    library.remove("film")
    (library.folder / INDEX).unlink()
    assert films(library) == {"film-2": "2", "film-3": "3"}
    assert save(library, film(tmp_path, 4)).name == "film"


def test_a_name_that_another_process_takes_meanwhile(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, others = longtake.library.write_sealed, [film(tmp_path, 2)]
    other = tiny().watch(noise(1), max_frames=1)

    def late(*args: Any) -> None:
        write(*args)
        if others:
            Library(library.folder).save(other, system=tiny(), source=others.pop())

    monkeypatch.setattr("longtake.library.write_sealed", late)
    assert save(library, film(tmp_path, 1)).name == "film-2"
    assert films(library) == {"film": "2", "film-2": "1"}
    (library.folder / INDEX).unlink()
    assert films(library) == {"film": "2", "film-2": "1"}
    assert not list(library.folder.glob(".aside*"))


def test_the_same_memory_is_kept_once(library: Library, tmp_path: Path) -> None:
    first = save(library, video(tmp_path, 1))
    assert save(Library(library.folder), video(tmp_path, 1)) == first
    assert len(library.list()) == 1
    with pytest.raises(OptionError, match=r"already, as 'video 1'; ask it so, or remove it"):
        save(library, video(tmp_path, 1), "another name")
    assert library.list() == [first]


def test_what_is_no_file_is_told(library: Library, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="check the path"):
        save(library, tmp_path / "absent.mp4")
    with pytest.raises(VideoError, match="has to be downloaded first"):
        library.identify("https://example.org/film.mp4")
    assert not library.may_know("https://example.org/film.mp4")
    assert not library.may_know("x" * 5000)
    assert library.find("absent", tiny()) is None
    save(library, video(tmp_path, 1))
    with pytest.raises(OptionError, match="give the system"):
        library.find(video(tmp_path, 1))
    with pytest.raises(StoreError, match="no memory 'absent'"):
        library.remove("absent")


def test_a_download_is_known_by_its_bytes(library: Library, tmp_path: Path) -> None:
    class Fetched:
        name = "film.mp4"

        def raw(self):
            return video(tmp_path, 1).open("rb")

    stored = library.save(memory(), system=tiny(), source=Fetched())
    assert stored.video == replace(library.identify(video(tmp_path, 1)), name="film.mp4", place="")
    assert library.find(video(tmp_path, 1), tiny()) == library.find(Fetched(), tiny()) == stored


def test_a_library_lies_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_LIBRARY", str(tmp_path / "here"))
    monkeypatch.setenv("LONGTAKE_LIBRARY_BUDGET", "3 MiB")
    assert (Library().folder, Library().budget) == (tmp_path / "here", 3 << 20)
    monkeypatch.delenv("LONGTAKE_LIBRARY")
    assert default_folder().parts[-2:] == ("longtake", "memories")
    for budget in ("many", "0 GiB"):
        monkeypatch.setenv("LONGTAKE_LIBRARY_BUDGET", budget)
        with pytest.raises(OptionError, match="byte"):
            Library()


@pytest.mark.parametrize("folder", ["a b", "50%", "'; --", "?mode=ro#x", "caf\u00e9", "new\nline"])
def test_a_library_may_be_called_anything(folder: str, tmp_path: Path) -> None:
    library = Library(tmp_path / folder)
    stored = save(library, video(tmp_path, 1))
    assert (library.folder / INDEX).is_file()
    assert Library(library.folder).list() == [stored]
    with library.open(stored, "cpu") as loaded:
        assert answers(loaded) == answers(memory())


def test_a_video_may_be_called_anything(library: Library, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe \xc3.mp4"))
    path.write_bytes(b"frames")
    stored = save(library, path)
    assert stored.name.isprintable()
    assert library.find(path, tiny()) == stored
    assert library.named(stored.name) == stored
    assert library.verify() == []


# -- room -----------------------------------------------------------------------------------------


def test_the_least_recently_asked_give_way(tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    one = save(library, video(tmp_path, 1)).bytes
    library = Library(tmp_path / "library", budget=3 * one + one // 2)
    for number in (2, 3):
        save(library, video(tmp_path, number))
    for number in (1, 2, 3):
        os.utime(file_of(library.folder, key(library, number)), (number, number))
    with library.open(library.named("video 1"), "cpu"):
        pass
    save(library, video(tmp_path, 4))
    assert {one.name for one in library.list()} == {"video 1", "video 3", "video 4"}
    assert library.verify() == []


def key(library: Library, number: int) -> str:
    found = library.named(f"video {number}")
    assert found is not None
    return found.key


def test_what_another_process_evicts_meanwhile_is_no_fault(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(folder: Path) -> dict[str, Path]:
        return {"gone": folder / "gone"} | files_in(folder)

    monkeypatch.setattr("longtake.shelf.files_in", listed)
    save(library, video(tmp_path, 1))
    assert len(library.list()) == 1

    def fail(self: Shelf, coming: int, keep: str = "") -> None:
        if keep:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Shelf, "make_room", fail)
    with pytest.raises(StoreError, match=r"cannot be written \(Permission denied\)"):
        save(library, video(tmp_path, 2))


def test_what_is_in_use_is_neither_evicted_nor_removed(tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    one = save(library, video(tmp_path, 1)).bytes
    small = Library(library.folder, budget=one + one // 2)
    with library.open(library.named("video 1"), "cpu") as loaded:
        with pytest.raises(StoreError, match="in use; wait"):
            save(small, video(tmp_path, 2))
        with pytest.raises(StoreError, match="is being asked"):
            small.remove("video 1")
        assert answers(loaded) == answers(memory())
    assert [one.name for one in small.list()] == ["video 1"]
    save(small, video(tmp_path, 2))
    assert [one.name for one in small.list()] == ["video 2"]


def test_what_another_process_uses_is_not_evicted(tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    stored = save(library, video(tmp_path, 1))
    code = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); input('held\\n')"
    )
    command = [sys.executable, "-c", code, str(file_of(library.folder, stored.key))]
    small = Library(library.folder, budget=stored.bytes + 1000)
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as user:
        assert user.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="in use"):
            save(small, video(tmp_path, 2))
        user.communicate("done\n")
    save(small, video(tmp_path, 2))
    assert library.named("video 1") is None


def test_a_memory_larger_than_the_library_evicts_nothing(tmp_path: Path) -> None:
    save(Library(tmp_path / "library"), video(tmp_path, 1))
    with pytest.raises(StoreError, match="raise its budget"):
        save(Library(tmp_path / "library", budget=1000), video(tmp_path, 2))
    assert len(Library(tmp_path / "library").list()) == 1


def test_a_memory_that_was_removed_cannot_be_opened(library: Library, tmp_path: Path) -> None:
    stored = save(library, video(tmp_path, 1))
    library.remove("video 1")
    assert library.list() == library.verify() == []
    with pytest.raises(StoreError, match="No such file"), library.open(stored, "cpu"):
        pass


# -- damage ---------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    """Change one bit of a byte."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


def test_a_flipped_byte_is_noticed_wherever_it_is(library: Library, tmp_path: Path) -> None:
    path = file_of(library.folder, save(library, video(tmp_path, 1)).key)
    size = path.stat().st_size
    step = max(1, size // 60)
    for place in [*range(0, 200, 3), *range(200, size, step), *range(size - 20, size)]:
        flip(path, place)
        assert len(library.verify()) == 1, place
        flip(path, place)
    assert library.verify() == []


@pytest.mark.parametrize("ask", [answers, answers_together])
@pytest.mark.parametrize("kv", ["full", "int8"])
def test_damage_is_noticed_when_its_layer_is_first_used(
    ask: Callable[..., list[tuple[int, ...]]], kv: str, library: Library, tmp_path: Path
) -> None:
    from longtake.sealed import Sealed

    held = tiny().variant(kv=kv).watch(noise(2), max_frames=2)
    stored = library.save(held, system=tiny().variant(kv=kv), source=video(tmp_path, 1))
    path = file_of(library.folder, stored.key)
    ends = (".keys", ".values") if kv == "full" else (".codes", ".step")
    names = [name for name in Sealed(path).names if name.endswith(ends)]
    assert names
    for name in names:
        where = Sealed(path).where(name)
        flip(path, where.start + len(where) // 2)
        with library.open(stored, "cpu") as loaded:
            for _ in range(2):
                with pytest.raises(StoreError, match=rf"damaged .*{name}"):
                    ask(loaded, kv)
        flip(path, where.start + len(where) // 2)
    with library.open(stored, "cpu") as loaded:
        assert ask(loaded, kv) == answers(held, kv)


def test_a_copy_of_damage_is_refused(library: Library, tmp_path: Path) -> None:
    """Its checksums would be right."""
    from longtake.store import load_memory, save_memory

    stored = save(library, video(tmp_path, 1))
    path = file_of(library.folder, stored.key)
    flip(path, path.stat().st_size // 2)
    with pytest.raises(StoreError, match="damaged"):
        save_memory(load_memory(path, "cpu"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_layer_is_read_when_it_is_used(library: Library, tmp_path: Path) -> None:
    stored = save(library, video(tmp_path, 1))
    with library.open(stored, "cpu") as loaded:
        layers = loaded.cache.layers
        assert all(layer.unchecked is not None for layer in layers)
        assert all(layer.key_buffer is None for layer in layers), "nothing is copied yet"
        assert loaded.bytes == memory().bytes
        tiny().ask(loaded, "What?", tiny().options(max_new_tokens=1))
        assert all(layer.unchecked is None for layer in layers)
    with library.open(stored, "cpu") as loaded:
        answers_together(loaded)
        assert all(layer.key_buffer is not None for layer in loaded.cache.layers), "off the map"


@pytest.mark.parametrize("damage", ["nothing", "text", "torn", "empty", "version", "tables", "row"])
def test_an_index_that_cannot_be_used_is_made_anew(
    damage: str, library: Library, tmp_path: Path
) -> None:
    stored = [save(library, video(tmp_path, number)) for number in range(3)]
    index = library.folder / INDEX
    if damage == "nothing":
        index.unlink()
    elif damage == "text":
        index.write_text("this was an index\n" * 1000)
    elif damage == "torn":
        index.write_bytes(index.read_bytes()[: index.stat().st_size // 2 // 4096 * 4096 + 100])
    elif damage == "empty":
        index.write_bytes(b"")
    else:
        with sqlite3.connect(index) as db:
            changes = {
                "version": "PRAGMA user_version = 99",
                "tables": "DROP TABLE memories",
                "row": "DELETE FROM memories",
            }
            db.execute(changes[damage])
        db.close()
    again = Library(library.folder)
    assert sorted(again.list(), key=lambda one: one.name) == stored
    assert again.find(video(tmp_path, 1), tiny()) == stored[1]
    assert again.verify() == []


def test_foreign_files_are_left_alone(library: Library, tmp_path: Path) -> None:
    library.folder.mkdir()
    foreign = [library.folder / name for name in ("notes.txt", "film.longtake", ".hidden")]
    for path in foreign:
        path.write_text("mine")
    (library.folder / "folder").mkdir()
    stored = save(library, video(tmp_path, 1))
    assert library.list() == [stored]
    assert library.verify() == []
    assert [path.read_text() for path in foreign] == ["mine"] * 3


def test_a_memory_of_another_format_is_told_and_can_go(library: Library, tmp_path: Path) -> None:
    stored = save(library, video(tmp_path, 1))
    path = file_of(library.folder, stored.key)
    path.write_bytes(path.read_bytes().replace(b'\\"format\\": 5', b'\\"format\\": 4'))
    (fault,) = library.verify()
    assert fault.name == "video 1"
    assert "has format 4, this longtake reads format 5" in fault.what
    with pytest.raises(StoreError, match=r"has format 4"), library.open(stored, "cpu"):
        pass
    (library.folder / INDEX).unlink()
    assert library.list() == []
    assert library.verify()[0].name == stored.key
    replaced = save(library, video(tmp_path, 1))
    assert (library.list(), library.verify()) == ([replaced], [])
    path.write_bytes(b"nonsense")
    library.remove(stored.key)
    assert library.verify() == []


def test_a_file_that_went_away_is_told_until_it_is_removed(
    library: Library, tmp_path: Path
) -> None:
    stored = save(library, video(tmp_path, 1))
    file_of(library.folder, stored.key).unlink()
    assert library.list() == []
    assert library.find(video(tmp_path, 1), tiny()) is None
    (fault,) = library.verify()
    assert (fault.name, "is gone" in fault.what) == ("video 1", True)
    library.remove("video 1")
    assert library.verify() == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(library: Library, tmp_path: Path) -> None:
    stored = save(library, video(tmp_path, 1))
    library.folder.chmod(0o500)
    try:
        check_read_only(library, tmp_path)
        assert library.list() == [stored]
    finally:
        library.folder.chmod(0o700)


def check_read_only(library: Library, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        save(library, video(tmp_path, 2))


def test_an_index_that_cannot_be_written_is_made_in_memory(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that is read-only."""
    stored = save(library, video(tmp_path, 1))
    connect = sqlite3.connect

    def read_only(place: str | Path, **options: object) -> sqlite3.Connection:
        if place == ":memory:":
            return connect(place, **options)
        return connect(f"file:{place}?mode=ro", uri=True, **options)

    monkeypatch.setattr("longtake.catalogue.sqlite3.connect", read_only)
    assert library.list() == [stored]
    assert library.find(video(tmp_path, 1), tiny()) == stored
    assert library.verify() == []


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_disk_that_is_full_leaves_all_as_it_was(
    call: str, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, other = save(library, video(tmp_path, 1)), video(tmp_path, 2)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if call == "replace":
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(f"longtake.sealed.os.{call}", fail)
        with pytest.raises(StoreError, match=r"No space left on device.*free some room"):
            save(library, other)
    assert library.list() == [stored]
    assert not list(library.folder.glob(".aside*"))
    save(library, other)
    assert library.verify() == []


def test_packed_memories_are_kept_packed(library: Library, tmp_path: Path) -> None:
    for kind in ("int8", "fp8", "int4"):
        system = tiny().variant(kv=kind)
        held = system.watch(noise(2), max_frames=2)
        options = system.options(max_new_tokens=5)
        expected = system.ask(held, "What?", options).ids
        stored = library.save(held, system=system, source=video(tmp_path, 1))
        assert stored.bytes < save(library, video(tmp_path, 1)).bytes or kind == "int4"
        with library.open(stored, "cpu") as loaded:
            assert loaded.bytes == held.bytes
            packed = loaded.cache.layers[0].packed_keys
            assert torch.is_tensor(packed.codes_BKNC)
            assert packed.floating == (kind == "fp8")
            assert system.ask(loaded, "What?", options).ids == expected
