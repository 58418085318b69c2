"""Watching, asking and listing through the command line: what is watched once is asked again."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from longtake.api import load
from longtake.catalogue import file_of
from longtake.commands.common import otherwise
from longtake.errors import OptionError
from longtake.library import Library
from longtake.stored import Settings
from longtake.system import System
from tests import shelves
from tests.clips import write_clip
from tests.test_cli import COMMAND, ENVIRONMENT, MODEL, SHORT, TINY, TOWER, error_line, run
from tests.test_library import flip

if TYPE_CHECKING:
    from longtake.serve.build import Choices
    from longtake.serve.limits import Limits

FRAMES = ("--max-frames", "4")
WATCH = (*TINY, *FRAMES)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "ten.mp4", 10)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("LONGTAKE_LIBRARY", str(tmp_path / "library"))
    return Library()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets a line each time a video is watched."""
    from longtake.commands import common, recall

    times: list[str] = []

    def counted(*args: object) -> object:
        times.append(str(args[0]))
        return common.watch(*args)

    monkeypatch.setattr(recall, "watch", counted)
    return times


def ask(video: str | Path, *words: str | Path) -> dict[str, object]:
    result = run("ask", video, "What is seen?", *words, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    for name in ("prefill_seconds", "answer_seconds"):
        del told["stats"][name]
    return told


def test_a_second_question_needs_no_watching(
    clip: Path, library: Library, watched: list[str], tmp_path: Path
) -> None:
    first = ask(clip, *SHORT)
    assert (first["stored"], len(watched)) == ("ten", 1)
    assert ask(clip, *SHORT) == first
    copy = shutil.copy(clip, tmp_path / "other name.mp4")
    assert ask(copy, *SHORT) == first | {"video": str(copy)}
    lines = run("chat", clip, *SHORT, text="What is seen?\n")
    assert lines.stdout.strip() == first["text"]
    assert len(watched) == 1
    assert ask(clip, *SHORT, "--kv", "int8")["stored"] == "ten-2"
    assert ask(clip, *SHORT, "--max-frames", "5")["stored"] == "ten-3"
    assert len(watched) == 3
    assert len(library.list()) == 3


def test_a_memory_is_asked_by_its_name_with_the_model_that_made_it(
    clip: Path, library: Library, watched: list[str], tmp_path: Path
) -> None:
    words = ("--kv", "int8", "--name", "my film", "--json")
    result = run("watch", clip, *WATCH, *words)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["name"], told["frames"], "thumbnails" in told) == ("my film", 4, False)
    expected = ask(clip, *SHORT, "--kv", "int8")
    short = ("--max-new-tokens", "6", "--device", "cpu")
    by_name = ask("my film", *short)
    assert by_name == expected | {"video": "my film"}
    assert by_name["model"] == str(MODEL)
    assert len(watched) == 1
    sheet = tmp_path / "seen.png"
    assert run("ask", "my film", "What?", *short, "--evidence", sheet).exit_code == 0
    with Image.open(sheet) as picture:
        assert picture.width > 300
    lines = run("chat", "my film", *short, text="What is seen?\n")
    assert lines.stdout.strip() == expected["text"]
    (stored,) = library.list()
    assert [round(one.seconds, 1) for one in stored.thumbnails] == [0.2, 0.6, 1.2, 1.6]
    assert all(one.jpeg.startswith(b"\xff\xd8") for one in stored.thumbnails)


def test_a_memory_of_the_server_is_asked_by_its_name(
    clip: Path,
    library: Library,
    watched: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Choices] = []

    def noted(system: System, choices: Choices, limits: Limits) -> None:
        made.append(choices)
        memory = system.watch(str(clip), max_frames=4)
        settings = replace(choices.settings, max_frames=4)
        choices.library.save(memory, system=system, source=clip, settings=settings)
        raise OptionError("enough")

    monkeypatch.setattr("longtake.serve.build.service", noted)
    monkeypatch.chdir(MODEL.parent)
    tower = ("--vision-tower", f"{MODEL.name}/vision_tower")
    words = ("--device", "cpu", "--dtype", "float32", "--port", "0", "--data", tmp_path / "files")
    assert "enough" in error_line(run("serve", "-m", MODEL.name, *tower, *words))
    assert made[0].model == MODEL.name
    monkeypatch.chdir(tmp_path)
    short = ("--max-new-tokens", "6", "--device", "cpu")
    told = ask("ten", *short)
    assert told == ask(clip, *SHORT) | {"video": "ten"}
    assert watched == []


def test_a_memory_whose_settings_name_a_device_is_asked_by_its_name(
    clip: Path, library: Library, watched: list[str]
) -> None:
    """As servers wrote them."""
    loading = {"system": None, "vision_tower": TOWER[1], "device": "cuda:3", "dtype": "float32"}
    settings = Settings(model=str(MODEL), loading=loading, max_frames=4)
    system = load(MODEL, vision_tower=TOWER[1], device="cpu", dtype="float32")
    memory = system.watch(str(clip), max_frames=4)
    library.save(memory, system=system, source=clip, settings=settings)
    assert ask("ten", "--max-new-tokens", "6", "--device", "cpu")["stored"] == "ten"
    assert watched == []


def test_auto_notes_the_frames_it_chose(
    clip: Path, library: Library, watched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = (*TINY, "--max-new-tokens", "6")
    first = ask(clip, *short, "--max-frames", "auto")
    assert library.list()[0].settings.max_frames == 10
    assert ask(clip, *short, "--max-frames", "auto") == first
    assert ask(clip, *short, "--max-frames", "10") == first
    assert len(watched) == 1
    few = SimpleNamespace(frames=3, sampled=3, reason="more would not fit the memory")
    monkeypatch.setattr(System, "choice", lambda *args, **options: few)
    assert ask(clip, *short, "--max-frames", "auto")["stats"]["frames"] == 3
    assert len(watched) == 2


def test_watching_again_says_the_name_and_does_nothing(
    clip: Path, library: Library, watched: list[str]
) -> None:
    for _ in range(2):
        result = run("watch", clip, *WATCH)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "ten\n", "")
    assert len(watched) == 1


@pytest.mark.parametrize(
    ("made", "asked", "told"),
    [
        ({}, {}, "was made by longva with another checkpoint, kind of device or version"),
        ({"kv": "int8"}, {}, "was watched with --kv int8; ask without options of the model"),
        ({"dynamic": True, "ratio": 8}, {"ratio": "8"}, "was watched with --dynamic; ask"),
        ({"dynamic": False}, {"dynamic": True}, "was watched with --no-dynamic; ask"),
        ({"ratio": [2, 4]}, {"ratio": "2"}, "was watched with --ratio 2,4; ask"),
        ({}, {"pool_mode": "max", "pool": 4}, "was watched without --pool and without --pool-mode"),
    ],
)
def test_what_was_otherwise_is_told_as_it_is_typed(
    made: dict[str, Any], asked: dict[str, Any], told: str, tmp_path: Path
) -> None:
    stored = shelves.save(Library(tmp_path / "shelf"), shelves.video(tmp_path, 1))
    # servers and callers of the library once noted these, which shape nothing or are no options
    noted = {"device": "cuda:3", "dtype": "auto", "vision_tower": None, "resize": "fast"}
    settings = Settings(model="/my films/m", loading=noted, options=made)
    stored = replace(stored, system="longva", settings=settings)
    now = Settings(model="/my films/m", options=asked)
    assert otherwise(stored, now).startswith(told)
    expected = "with --model '/my films/m'"
    assert expected in otherwise(stored, Settings(options=asked))


def test_a_memory_that_only_python_can_ask_says_so(clip: Path, library: Library) -> None:
    system = load(MODEL, vision_tower=TOWER[1], device="cpu", resize="fast")
    loading = {"vision_tower": TOWER[1], "resize": "fast"}
    settings = Settings(model=str(MODEL), loading=loading, max_frames=4)
    memory = system.watch(clip, max_frames=4)
    library.save(memory, system=system, source=clip, name="quick", settings=settings)
    result = run("ask", "quick", "What?", "--device", "cpu")
    assert result.exit_code == 2
    told = "quick was watched from Python with resize, which commands do not have; ask it from"
    assert told in error_line(result)


def test_what_does_not_fit_a_name_is_told(
    clip: Path, library: Library, tmp_path: Path, watched: list[str]
) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    assert run("watch", clip, "-m", model, *TOWER, *FRAMES, "--device", "cpu").exit_code == 0
    result = run("ask", "ten", "What?", *FRAMES)
    assert result.exit_code == 2
    assert "--max-frames, --start and --end go with a video" in error_line(result)
    for words, told in (
        (("-m", model, *TOWER, "--kv", "int8"), "without --kv; ask"),
        (("-m", model, "--kv", "int8"), "without --kv and with --vision-tower"),
    ):
        result = run("ask", "ten", "What?", *words, "--device", "cpu")
        assert result.exit_code == 7
        assert f"ten was watched {told}" in error_line(result)
        assert "ask without options of the model, or watch" in error_line(result)
    (model / "config.json").unlink()
    result = run("ask", "ten", "What?", "--device", "cpu")
    assert result.exit_code == 4
    shutil.rmtree(model)
    result = run("ask", "ten", "What?", "--device", "cpu")
    assert result.exit_code == 4
    assert error_line(run("ask", "eleven", "What?")).endswith("see `longtake ls`\n")
    result = run("watch", clip, *WATCH, "--name", "ten")
    assert result.exit_code == 2
    assert "already" in error_line(result)
    result = run("watch", clip, *WATCH, "--name", "eleven")
    assert result.exit_code == 2
    assert "remembered already, as 'ten'; ask it so, or remove it" in error_line(result)
    assert len(watched) == 1


def test_nothing_is_kept_if_so_wished(clip: Path, library: Library, watched: list[str]) -> None:
    assert ask(clip, *SHORT, "--no-save")["stored"] is None
    assert library.list() == []
    assert run("watch", clip, *WATCH).exit_code == 0
    assert ask(clip, *SHORT, "--no-save")["stored"] == "ten"
    assert ask(clip, *SHORT, "--library", "off")["stored"] is None
    assert len(watched) == 3
    for command in (["ls"], ["verify"], ["rm", "ten"], ["watch", str(clip)]):
        result = run(*command, "--library", "off")
        assert result.exit_code == 2
        assert "off is no library" in error_line(result)


def test_a_library_that_cannot_keep_is_a_warning_to_ask_and_an_error_to_watch(
    clip: Path, library: Library, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    small = ("--library", tmp_path / "small", "--library-budget", "1KiB")
    for words, told in ((("--library", blocked / "x"), "cannot be"), (small, "raise its budget")):
        result = run("ask", clip, "What is seen?", *SHORT, *words)
        assert result.exit_code == 0
        assert "longtake: warning: the memory was not kept: " in result.stderr
        assert told in result.stderr
        result = run("watch", clip, *WATCH, *words)
        assert result.exit_code == 7
        assert told in error_line(result)
    result = run("watch", clip, *WATCH, "--library-budget", "much")
    assert result.exit_code == 2
    assert "--library-budget must be bytes" in error_line(result)


def test_a_damaged_memory_is_told_or_watched_again(
    clip: Path, library: Library, watched: list[str]
) -> None:
    first = ask(clip, *SHORT)
    path = file_of(library.folder, library.list()[0].key)
    flip(path, 100)  # the header is compared before anything is answered
    result = run("ask", clip, "What is seen?", *SHORT, "--no-stream")
    assert result.exit_code == 0
    assert "damaged" in result.stderr
    assert result.stdout.strip() == first["text"]
    assert len(watched) == 2
    assert library.verify() == []
    flip(path, path.stat().st_size // 2)  # a layer, which is compared when it is first used
    result = run("ask", clip, "What is seen?", *SHORT, "--no-stream")
    assert (result.exit_code, result.stdout.strip()) == (0, first["text"])
    told = [line for line in result.stderr.splitlines() if "damaged" in line]
    assert len(told) == 1
    assert told[0].endswith("and watch the video again, which is done now")
    assert len(watched) == 3
    assert library.verify() == []
    flip(path, path.stat().st_size // 2)
    result = run("ask", "ten", "What is seen?", *TINY)
    assert result.exit_code == 7
    assert "longtake rm" in error_line(result)
    result = run("verify")
    assert result.exit_code == 7
    assert result.stdout.startswith("ten: ")
    assert run("rm", "ten").exit_code == 0
    assert ask(clip, *SHORT) == first | {"stats": ask(clip, *SHORT)["stats"]}
    assert run("verify").stdout.startswith("1 memory is whole, ")


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), 6),
        (FileNotFoundError("No such file or directory"), 0),  # so safetensors tells of EMFILE
        (RuntimeError("CUDA error: unspecified launch failure"), 0),
    ],
)
def test_a_memory_that_cannot_be_read_just_now_stays(
    fault: Exception,
    status: int,
    clip: Path,
    library: Library,
    watched: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = ask(clip, *SHORT)
    path = file_of(library.folder, library.list()[0].key)
    before = path.read_bytes()

    def fail(*args: object, **options: object) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr("longtake.store.safe_open", fail)
        result = run("ask", clip, "What is seen?", *SHORT, "--no-stream")
    assert result.exit_code == status, result.stderr
    if status:
        assert "out of memory" in error_line(result)
    else:
        assert result.stdout.strip() == first["text"]
        assert "cannot be read" in result.stderr
    assert path.read_bytes() == before
    assert ask(clip, *SHORT) == first


def test_a_memory_of_a_newer_longtake_stays(
    clip: Path, library: Library, watched: list[str]
) -> None:
    first = ask(clip, *SHORT)
    path = file_of(library.folder, library.list()[0].key)
    newer = path.read_bytes().replace(b'\\"format\\": 5', b'\\"format\\": 6')
    path.write_bytes(newer)
    result = run("ask", clip, "What is seen?", *SHORT, "--no-stream")
    assert (result.exit_code, result.stdout.strip()) == (0, first["text"])
    assert "has format 6, this longtake reads format 5; read it with a newer" in result.stderr
    assert len(watched) == 2
    result = run("watch", clip, *WATCH)
    assert (result.exit_code, len(watched)) == (7, 2)
    assert "has format 6" in error_line(result)
    assert path.read_bytes() == newer


def test_listing_and_removing(clip: Path, library: Library) -> None:
    assert (run("ls").stdout, run("ls", "--json").stdout) == ("", "[]\n")
    assert run("verify").stdout == "0 memories are whole, 0 B\n"
    for name in ("a", "b", "c"):
        frames = str(ord(name) - 95)
        run("watch", clip, *TINY, "--max-frames", frames, "--name", name)
    lines = run("ls").stdout.splitlines()
    assert lines[0].split() == [
        "name",
        "length",
        "frames",
        "tokens",
        "size",
        "system",
        "used",
        "video",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["c", "b", "a"]
    assert lines[1].split()[1:3] == ["0:02.0", "4"]
    told = json.loads(run("ls", "--json").stdout)
    assert [one["name"] for one in told] == ["c", "b", "a"]
    assert told[0]["video"]["place"] == str(clip)
    assert error_line(run("rm")) == error_line(run("rm", "a", "--all"))
    result = run("rm", "nothing")
    assert result.exit_code == 7
    assert "no memory 'nothing'" in error_line(result)
    result = run("rm", "a", "nothing", "a")
    assert (result.exit_code, [one.name for one in library.list()]) == (7, ["c", "b"])
    assert error_line(result).count("no memory") == 1
    assert error_line(result).strip().endswith("the others are removed")
    run("watch", clip, *TINY, "--max-frames", "5", "--name", "d")
    assert run("rm", "d").exit_code == 0
    broken = file_of(library.folder, "0" * 32)  # one that no index knows
    broken.write_bytes(b"nonsense")
    file_of(library.folder, library.list()[0].key).unlink()
    assert run("verify").exit_code == 7
    assert run("rm", "--all").exit_code == 0
    assert library.list() == library.verify() == []
    assert not broken.exists()


def test_pictures_are_not_kept(library: Library, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (90, 60), (200, 30, 30)).save(picture)
    assert ask(picture, *TINY, "--max-new-tokens", "2")["stored"] is None
    result = run("watch", picture, *TINY)
    assert result.exit_code == 2
    assert "needs no memory" in error_line(result)


@pytest.mark.slow
def test_two_processes_may_watch_the_same_video(clip: Path, library: Library) -> None:
    environment = ENVIRONMENT | {"LONGTAKE_LIBRARY": str(library.folder)}
    command = [*COMMAND, "watch", str(clip), *WATCH]
    both = [
        subprocess.Popen(command, env=environment, text=True, stdout=-1, stderr=-1)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert [out for out, _ in told] == ["ten\n", "ten\n"]
    assert len(library.list()) == 1
    assert library.verify() == []


def test_listing_does_not_import_torch(library: Library) -> None:
    code = "import sys; sys.argv = ['longtake', 'ls']\ntry:\n    from longtake.cli import main\n"
    code += "    main()\nexcept SystemExit:\n    print(sorted({'torch', 'av'} & set(sys.modules)))"
    environment = ENVIRONMENT | {"LONGTAKE_LIBRARY": str(library.folder)}
    command = [COMMAND[0], "-c", code]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert done.stdout == "[]\n", done.stderr
