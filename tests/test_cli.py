"""The command line through its public face: what it prints, where, and how it leaves."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from longtake.api import load
from longtake.cli import app
from longtake.video.cards import Card
from longtake.video.decode import open_video
from longtake.video.insert import Place, insert_card
from tests.clips import cut, write_clip, write_sound

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "tests/parity/golden/longva/checkpoint-a"
TOWER = ("--vision-tower", str(MODEL / "vision_tower"))
TINY = ("--model", str(MODEL), *TOWER, "--device", "cpu", "--dtype", "float32")
SHORT = (*TINY, "--max-frames", "4", "--max-new-tokens", "6")
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT / "src"),
    "PATH": os.environ["PATH"],
    "OMP_NUM_THREADS": "1",
    "LONGTAKE_LIBRARY": "off",
}
COMMAND = (sys.executable, "-m", "longtake")
PATIENCE = 300.0
"""Seconds for a process that takes a few: a busy machine may need a minute to import torch."""


def run(*words: str | Path, text: str = "") -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], input=text)


def start(
    *words: str | Path, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    command = [*COMMAND, *map(str, words)]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=stdout, stderr=stderr)


def error_line(result: Result) -> str:
    """The one line of an error, checked to be all there is."""
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("longtake: error: "), result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return write_clip(folder / "ten.mp4", 10)


# -- answers --------------------------------------------------------------------------------------


def test_ask_prints_the_answer_of_the_api_and_nothing_else(clip: Path) -> None:
    system = load(MODEL, device="cpu", dtype="float32", vision_tower=MODEL / "vision_tower")
    memory = system.watch(str(clip), max_frames=4)
    expected = system.ask(memory, "What is seen?", system.options(max_new_tokens=6))
    result = run("ask", clip, "What is seen?", *SHORT)
    assert result.exit_code == 0
    assert result.stdout == expected.text + "\n"
    assert (
        result.stderr
        == "longtake: warning: the answer was cut at 6 tokens; raise --max-new-tokens\n"
    )


def test_json_is_one_object_with_everything(clip: Path) -> None:
    result = run("ask", clip, "What is seen?", *SHORT, "--json")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    told = json.loads(result.stdout)
    assert told["text"] + "\n" == run("ask", clip, "What is seen?", *SHORT).stdout
    assert len(told["ids"]) == 6
    assert told["finish"] == "length"
    assert told["system"] == "longva"
    assert told["video"] == str(clip)
    assert told["model"] == str(MODEL)
    assert told["question"] == "What is seen?"
    assert told["stats"]["frames"] == 4
    assert told["stats"]["warnings"] == []
    assert all(0 <= span["start"] <= span["end"] <= 2.0 for span in told["evidence"])
    assert told["evidence"], "a video that was looked at is evidence"


def test_several_questions_are_answered_in_order(clip: Path) -> None:
    questions = ("What is seen?", "Why?", "Who is there, and what do they do?")
    alone = [run("ask", clip, question, *SHORT, "--json").stdout for question in questions]
    lines = run("ask", clip, *questions, *SHORT, "--json").stdout.splitlines()
    for line, one in zip(lines, alone, strict=True):
        told, expected = json.loads(line), json.loads(one)
        for key in ("video", "question", "model", "system", "text", "ids", "finish"):
            assert told[key] == expected[key]
    plain = run("ask", clip, *questions, *SHORT)
    assert plain.stdout == "".join(json.loads(line)["text"] + "\n" for line in lines)
    assert plain.stderr.count("longtake: warning: the answer was cut") == 3


def test_what_shows_one_answer_takes_one_question(clip: Path, tmp_path: Path) -> None:
    for option in (("--stream",), ("--evidence", tmp_path / "seen.png")):
        result = run("ask", clip, "What?", "Why?", *SHORT, *option)
        assert result.exit_code == 2
        assert "ask one question" in error_line(result)
    assert run("ask", clip, "What?", " ", *SHORT).exit_code == 5


def test_stream_prints_the_same_text(clip: Path) -> None:
    whole = run("ask", clip, "What is seen?", *SHORT, "--no-stream")
    streamed = run("ask", clip, "What is seen?", *SHORT, "--stream")
    assert streamed.stdout.split() == whole.stdout.split()
    assert streamed.stdout.endswith("\n")


def test_options_reach_the_decoder(clip: Path) -> None:
    seeds = [
        run("ask", clip, "What?", *SHORT, "--temperature", "5", "--seed", seed).stdout
        for seed in "001"
    ]
    assert seeds[0] == seeds[1] != seeds[2]
    first = json.loads(run("ask", clip, "What?", *SHORT, "--json").stdout)["text"]
    stop = first[len(first) // 2 :][:3]
    cut_short = run("ask", clip, "What?", *SHORT, "--stop", stop).stdout.strip()
    assert cut_short == first.split(stop)[0].strip()


def test_chat_remembers_what_was_said(clip: Path) -> None:
    system = load(MODEL, device="cpu", dtype="float32", vision_tower=MODEL / "vision_tower")
    memory = system.watch(str(clip), max_frames=4)
    options = system.options(max_new_tokens=6)
    first = system.ask(memory, "What is seen?", options).text
    second = system.ask(memory, "And then?", options, [("What is seen?", first)]).text
    lines = "\n  What is seen?\nAnd then?\nexit\nNever asked\n"
    result = run("chat", clip, *SHORT, text=lines)
    assert result.exit_code == 0
    assert result.stdout == f"{first}\n{second}\n"


def test_chat_ends_with_its_input(clip: Path) -> None:
    result = run("chat", clip, *SHORT, text="")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_evidence_is_a_picture_of_the_moments(clip: Path, tmp_path: Path) -> None:
    result = run("ask", clip, "What?", *SHORT, "--json", "--evidence", tmp_path / "seen.png")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    (line,) = told["timeline"]
    assert len(line["seconds"]) == len(line["weights"]) == told["stats"]["frames"]
    assert 0.9 < sum(line["weights"]) <= 1.0
    with Image.open(tmp_path / "seen.png") as sheet:
        found = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20) or []}
    with open_video(clip) as video:
        for span in told["evidence"]:
            stretches = [
                (weight, start)
                for start, weight in zip(line["seconds"], line["weights"], strict=True)
                if span["start"] - 1e-3 <= start < span["end"] - 1e-3
            ]
            frame = next(video.read(seconds=[max(stretches)[1]])).pixels_TCHW[0]
            assert tuple(frame[:, 32, 32].tolist()) in found


def test_a_sparkline_is_drawn_where_it_is_asked_for(clip: Path) -> None:
    for words in (["--json"], []):
        quiet = run("ask", clip, "What?", *SHORT, *words)
        asked = run("ask", clip, "What?", *SHORT, *words, "--sparkline")
        assert (quiet.exit_code, asked.exit_code) == (0, 0)
        assert quiet.stderr == ""
        (line,) = asked.stderr.splitlines()
        assert line.startswith("0:00.0 ")
        assert line.endswith(" 0:02.0")


@pytest.mark.parametrize(
    ("target", "told"), [("seen.text", "cannot save"), ("nowhere/seen.png", "is no folder")]
)
def test_evidence_that_cannot_be_saved_is_refused_first(
    target: str, told: str, clip: Path, tmp_path: Path
) -> None:
    result = run("ask", clip, "What?", "-m", "nowhere", "--evidence", tmp_path / target)
    assert result.exit_code == 2
    assert told in error_line(result)


def test_a_picture_is_answered_but_has_no_moments(folder: Path, tmp_path: Path) -> None:
    picture = folder / "picture.png"
    Image.new("RGB", (90, 60), (200, 30, 30)).save(picture)
    result = run("ask", picture, "What?", *SHORT, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["stats"]["visual_tokens"] > 0
    result = run("ask", picture, "What?", *SHORT, "--evidence", tmp_path / "seen.png")
    assert result.exit_code == 2
    assert "still picture" in error_line(result)


# -- inspect --------------------------------------------------------------------------------------


def test_inspect_a_video(clip: Path) -> None:
    result = run("inspect", clip)
    assert result.exit_code == 0
    assert [line.split(maxsplit=1) for line in result.stdout.splitlines()] == [
        ["file", "ten.mp4"],
        ["picture", "64 x 64, mpeg4"],
        ["length", "0:02.0"],
        ["frames", "10 at 5 per second"],
    ]
    assert json.loads(run("inspect", clip, "--json").stdout)["frames"] == 10


def test_inspect_foretells_what_watching_takes(clip: Path) -> None:
    system = load(MODEL, device="cpu", vision_tower=MODEL / "vision_tower")
    memory = system.watch(str(clip), max_frames=8)
    told = json.loads(run("inspect", MODEL, *TOWER, "--device", "cpu", "--json").stdout)
    cost = next(cost for cost in told["costs"] if cost["frames"] == 8)
    assert cost["tokens"] == memory.stats.visual_tokens
    assert cost["cache_bytes"] * memory.length == memory.bytes * cost["tokens"]
    assert told["weight_bytes"] == sum(weight.nbytes for weight in system.model.parameters())
    assert told["parameters"] == sum(weight.numel() for weight in system.model.parameters())
    assert told["frames"] == system.frames


def test_inspect_shows_a_table_of_costs() -> None:
    lines = run("inspect", MODEL, *TOWER, "--device", "cpu").stdout.splitlines()
    assert lines[1].split() == ["system", "longva"]
    row = lines.index("") + 2
    assert lines[row].split()[:2] == ["8", "72"]


def test_inspect_the_bundled_model_states_no_window() -> None:
    text = run("inspect", "default", "--device", "cpu").stdout
    assert ["window", "none", "set"] in [line.split() for line in text.splitlines()]
    assert (
        json.loads(run("inspect", "default", "--device", "cpu", "--json").stdout)["window"] is None
    )


@pytest.mark.parametrize(
    ("target", "code"), [("nowhere.mp4", 3), ("nowhere", 3), ("/nowhere/at/all", 3)]
)
def test_inspect_nothing(target: str, code: int) -> None:
    result = run("inspect", target)
    assert result.exit_code == code
    assert "nowhere" in error_line(result)


# -- train ----------------------------------------------------------------------------------------

RECIPE = """
from pathlib import Path
from longtake.train.config import Outcome, TrainConfig


class Stage:
    def parts(self, model):
        return {"head": model.lm_head}

    def learn(self, model, tokenizer, moment):
        return Outcome(loss=model.lm_head.weight.square().mean())

    def check(self, model, tokenizer, rng):
        return {}


def config():
    return TrainConfig(stage=Stage(), out=Path("run"), steps=2, rate=0.1, warmup=0, log_every=1)
"""


def test_train_runs_a_recipe_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.py").write_text(RECIPE)
    first = run("train", "recipe.py")
    assert (first.exit_code, first.stdout) == (0, "run\n")
    again = run("train", "recipe.py")
    assert again.exit_code == 2
    assert "holds a run already" in error_line(again)
    more = run("train", "recipe.py", "--set", "steps=3", "--set", "rate=0.01", "--resume")
    assert more.exit_code == 0
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3]
    assert log[0]["loss"] > log[1]["loss"] > log[2]["loss"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["missing.py"], "missing.py"),
        (["recipe.py", "--set", "steps"], "steps"),
        (["recipe.py", "--set", "speed=3"], "speed"),
        (["recipe.py", "--set", "steps=many"], "many"),
        (["recipe.py", "--set", "steps=0"], "steps"),
        (["recipe.py", "--resume"], "holds no run"),
    ],
)
def test_train_refuses_what_means_nothing(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.py").write_text(RECIPE)
    result = run("train", *words)
    assert result.exit_code == 2
    assert told in error_line(result)
    assert not Path("run").exists()


# -- the bundled model ----------------------------------------------------------------------------


def test_the_bundled_model_reads_a_card_and_shows_it(folder: Path, tmp_path: Path) -> None:
    card, place = Card(number=47, word="RIVER", colour="green"), Place(at_seconds=4.0)
    clip = insert_card(
        write_clip(folder / "plain.mp4", 50, size=128), folder / "card.mp4", card, place
    )
    told = {}
    for field in ("number", "word", "colour"):
        question = (
            f"What {field} is on the card?" if field != "colour" else "What colour is the card?"
        )
        words = ("--max-frames", "16", "--device", "cpu", "--json")
        result = run("ask", clip, question, *words, "--evidence", tmp_path / "seen.png")
        assert result.exit_code == 0, result.stderr
        told[field] = json.loads(result.stdout)
    assert [told[field]["text"] for field in told] == ["47", "RIVER", "green"]
    span = told["word"]["evidence"][0]
    assert span["start"] < 6.0
    assert span["end"] > 4.0


# -- videos that are none -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "missing.mp4",
        "folder",
        "text.mp4",
        "empty.mp4",
        "sound.mp4",
        "torn-no-index.mp4",
        "none.mp4",
        "none.mkv",
    ],
)
def test_what_is_no_video_is_one_line_and_status_3(name: str, folder: Path) -> None:
    path = folder / name
    if name == "folder":
        path.mkdir()
    elif name == "text.mp4":
        path.write_text("This was renamed.\n" * 50)
    elif name == "empty.mp4":
        path.touch()
    elif name == "sound.mp4":
        write_sound(path)
    elif name.startswith("torn"):
        cut(write_clip(folder / "no-index.mp4", 10), 0.6)
    elif name.startswith("none"):
        write_clip(path, 0)
    result = run("ask", path, "What?", *SHORT)
    assert result.exit_code == 3
    assert name in error_line(result)


def test_a_video_of_one_frame_is_answered(folder: Path) -> None:
    result = run("ask", write_clip(folder / "one.mp4", 1), "What?", *SHORT, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["stats"]["frames"] == 4  # the published rule repeats frames


def test_a_video_that_breaks_off_is_answered_with_a_warning(folder: Path) -> None:
    torn = cut(write_clip(folder / "long.mkv", 40), 0.5)
    result = run("ask", torn, "What?", *SHORT, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert len(told["stats"]["warnings"]) == 1
    assert f"longtake: warning: {told['stats']['warnings'][0]}" in result.stderr


# -- models that are none -------------------------------------------------------------------------


def test_a_model_that_is_nowhere(clip: Path, folder: Path) -> None:
    result = run("ask", clip, "What?", "--model", folder / "nowhere")
    assert result.exit_code == 4
    assert "nowhere" in error_line(result)


def test_a_model_that_is_a_file(clip: Path) -> None:
    result = run("ask", clip, "What?", "--model", clip)
    assert result.exit_code == 4
    assert "is a file" in error_line(result)


@pytest.mark.parametrize(
    ("broken", "content", "told"),
    [
        ("config.json", None, "config.json"),
        ("config.json", b"{", "config.json"),
        ("config.json", b"{}", "no system recognises"),
        ("tokenizer.json", b"nonsense", "tokenizer"),
        ("model-00002-of-00002.safetensors", None, "model-00002-of-00002.safetensors"),
        ("model-00002-of-00002.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "missing"),
        ("model-00002-of-00002.safetensors", b"\xff" * 100, "safetensors"),
    ],
)
def test_a_model_folder_that_is_broken(
    broken: str, content: bytes | None, told: str, clip: Path, tmp_path: Path
) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model" / broken).unlink()
    if content is not None:
        (tmp_path / "model" / broken).write_bytes(content)
    result = run("ask", clip, "What?", "--model", tmp_path / "model", *TOWER)
    assert result.exit_code == 4
    assert told in error_line(result)


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--dtype", "float33"], 2, "float33"),
        (["--device", "abacus"], 2, "abacus"),
        (["--system", "longvb"], 2, "longvb"),
        (["--top-p", "3"], 2, "top_p"),
        (["--temperature", "-1"], 2, "temperature"),
        (["--max-new-tokens", "0"], 2, "max_new_tokens"),
        (["--stop", ""], 2, "stop"),
        (["--extend", "bogus"], 2, "extend 'bogus' is unknown; choose none, linear:N, ntk:N, yarn"),
        (["--extend", "visual-window:window=-5"], 2, "window must be a whole number from 1"),
        (["--extend", "visual-window:ramp=up"], 2, "ramp must be dim or rotations, got 'up'"),
        (["--extend", "visual-window:colour=3"], 2, "visual-window takes paper, nominal, fig2"),
        (["--pool", "0"], 2, "pool high must be a whole number from 1, got 0"),
        (["--pool", "8,2,4"], 2, "pool strides must rise"),
        (["--pool", "2,8"], 2, "pool must be a stride such as 4"),
        (["--pool", "99"], 2, "pool: stride must be 1..6"),
        (["--pool-mode", "cubic"], 2, "pool mode 'cubic' is unknown"),
        (["--extend", "yarn:0.5"], 2, "extend needs a number from 1"),
        (["--json", "--stream"], 2, "--stream"),
    ],
)
def test_an_option_that_means_nothing(words: list[str], code: int, told: str, clip: Path) -> None:
    result = run("ask", clip, "What?", *TINY, *words)
    assert result.exit_code == code
    assert told in error_line(result)


def test_pooled_and_stretched(clip: Path) -> None:
    words = ("--pool", "2,6,4", "--extend", "visual-window:window=6,ramp=rotations")
    told = json.loads(run("ask", clip, "What?", *SHORT, *words, "--json").stdout)
    # of 6 x 6 patches the first frame keeps 9, the other three keep 1
    assert told["stats"]["visual_tokens"] == 12
    longva = json.loads(run("ask", clip, "What?", *SHORT, "--json").stdout)
    pooled = json.loads(run("ask", clip, "What?", *SHORT, *words[:2], "--json").stdout)
    assert told["ids"] != pooled["ids"] != longva["ids"]


@pytest.mark.parametrize(
    "words",
    [
        ["ask"],
        ["ask", "a.mp4"],
        ["ask", "a.mp4", "What?", "--max-frames", "0"],
        ["ask", "a.mp4", "What?", "--max-frames", "many"],
        ["plan", "a.mp4", "--max-frames", "-3"],
        ["plan"],
        ["ask", "a.mp4", "What?", "--maxframes", "3"],
        ["answer", "a.mp4"],
    ],
)
def test_wrong_usage_is_status_2(words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "--help" in error_line(result)


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused_before_any_work(question: str) -> None:
    result = run("ask", "nowhere.mp4", question)
    assert result.exit_code == 5
    assert "question" in error_line(result)


# -- leaving --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_watching_is_one_line_and_status_130(folder: Path) -> None:
    clip = write_clip(folder / "endless.mkv", 300, size=256)
    screen, terminal = pty.openpty()
    # 200,000 frames take minutes; the bar on the terminal says when watching has begun
    process = start("ask", clip, "What?", *TINY, "--max-frames", "200000", stderr=terminal)
    os.close(terminal)
    shown = read_until(screen, b"watching")
    process.send_signal(signal.SIGINT)
    shown += read_until(screen, b"interrupted")
    out, _ = process.communicate(timeout=PATIENCE)
    os.close(screen)
    assert process.returncode == 130
    assert out == ""
    assert b"Traceback" not in shown
    assert b"longtake: interrupted" in shown


def read_until(screen: int, word: bytes) -> bytes:
    """What a terminal shows up to and with a word."""
    shown, end = b"", time.monotonic() + PATIENCE
    while word not in shown:
        ready, _, _ = select.select([screen], [], [], max(0.0, end - time.monotonic()))
        assert ready, shown
        shown += os.read(screen, 4096)
    return shown


@pytest.mark.parametrize("words", [["inspect"], ["--help"], ["--version"]])
def test_a_reader_that_goes_away_is_quiet(words: list[str], clip: Path) -> None:
    read, write = os.pipe()
    process = start(*words, *[clip] * (words == ["inspect"]), stdout=write)
    os.close(write)
    os.close(read)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [["inspect"], ["--help"], ["--version"]])
def test_a_full_disk_is_one_line(words: list[str], clip: Path) -> None:
    with open("/dev/full", "w") as full:
        process = start(*words, *[clip] * (words == ["inspect"]), stdout=full.fileno())
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err == "longtake: error: No space left on device\n"


# -- the face itself ------------------------------------------------------------------------------

CONDENSING = (
    "--ratio --mix --window --place --dynamic --no-dynamic --shortest --longest --average-ratio "
    "--fine --budget --fine-on --pool --pool-mode --drop --kv --extend "
)
KEEPING = "--library --library-budget "
LOADING = "--model -m --system --vision-tower --device --dtype "
ANSWERING = "--max-new-tokens --temperature --top-p --top-k --repetition-penalty --seed --stop "
SHOWING = "--stream --no-stream --sparkline --no-sparkline "
OPTIONS = {
    "watch": f"video --name {LOADING}--max-frames --start --end {CONDENSING}{KEEPING}--json",
    "ask": f"video questions {LOADING}--max-frames --start --end {CONDENSING}{ANSWERING}{KEEPING}"
    f"--save --no-save {SHOWING}--json --evidence",
    "chat": f"video {LOADING}--max-frames --start --end {CONDENSING}{ANSWERING}{KEEPING}"
    f"--save --no-save {SHOWING}",
    "ls": "--library --json",
    "rm": "names --library --all",
    "verify": "--library",
    "inspect": f"target {LOADING}--max-frames {CONDENSING}--timeline --json",
    "plan": "video --model -m --memory --system --vision-tower --device --dtype --max-frames "
    f"--start --end {CONDENSING}--json",
    "needle": f"video {LOADING}{CONDENSING}"
    "--kind --frames --depths --depth-interval --needles --cards --hops --distractors --rule "
    "--score --max-new-tokens --seed --out --retry",
    "eval": "task --annotations --videos --subtitles --model -m --style --limit --out --resume "
    "--retry --predictions --system --vision-tower --device --dtype --max-frames "
    f"{CONDENSING}{ANSWERING}--json",
    "serve": f"{LOADING}{CONDENSING}"
    "--host --port --token-file --allow-host --data --library --allow-root --allow-network "
    "--max-upload --max-stored --memory --max-video --queue --rows --timeout",
    "train": "recipe --set --resume",
}


def test_the_list_of_options_is_frozen() -> None:
    """Add an option here only after asking whether a default or a recipe would do."""
    commands = typer.main.get_command(app).commands
    found = {
        name: " ".join(
            word for part in command.params for word in [*part.opts, *part.secondary_opts]
        )
        for name, command in commands.items()
    }
    assert found == {name: " ".join(words.split()) for name, words in OPTIONS.items()}


def processor_seconds(code: str) -> float:
    """What a fresh interpreter spends on `code`, which must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.fixture(scope="module")
def budget() -> float:
    """0.3 s; on a machine busy enough that importing torch takes over 1.2 s, a quarter of that."""
    return max(0.3, processor_seconds("import torch") / 4)


@pytest.mark.parametrize("words", [["--help"], ["ask", "--help"], ["--version"]])
def test_help_is_quick_and_brings_no_torch(words: list[str], budget: float) -> None:
    code = (
        "import sys; from longtake.cli import main\n"
        f"sys.argv[1:] = {words}\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'av', 'PIL', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert min(processor_seconds(code) for _ in range(3)) < budget


def test_help_documents_every_exit_status() -> None:
    told = run("--help").stdout
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 130, 141):
        assert f" {code}  " in told
