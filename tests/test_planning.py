"""Plans: tokens and bytes against what watching really makes, what fits, what is refused."""

import itertools
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import footage

import longtake
from longtake.api import skeleton
from longtake.clock import Clock, PlannedStage, asking_rate
from longtake.errors import CapacityError, CheckpointError, OptionError
from longtake.fitting import Fitting, largest
from longtake.gpus import GPUS, gpu_of
from longtake.needs import MARGIN, Place
from longtake.pictures import Pictures
from longtake.planning import Plan, plan
from longtake.rates import FEW, SOME, published_rates
from longtake.room import limits
from longtake.system import System
from longtake.targets import Where, fitting_of
from longtake.video.decode import open_video
from longtake.video.reader import Reader
from longtake.video.sample import Footage
from tests.clips import write_clip, write_gops
from tests.peak import Case, Taken, measured
from tests.sized import WIDE, bare, filled, rewrite, sized
from tests.tiny import CHECKPOINT, noise, tiny

SYSTEMS = ("longva", "video_xl", "videochat_flash", "llava_onevision")
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "longva": (
        {},
        {"pool": "paper"},
        {"pool": "off"},
        {"kv": "int8"},
        {"kv": "int4"},
        {"kv": "fp8"},
        {"extend": "yarn:4"},
        {"extend": "visual-window:window=500"},
    ),
    "video_xl": (
        {},
        {"ratio": 2},
        {"ratio": 16, "place": "append"},
        {"ratio": "2,4,8", "mix": "sequence"},
        {"ratio": 8, "fine": 2, "budget": "1GiB"},
        {"kv": "int8"},
        {"kv": "int4", "extend": "visual-window"},
    ),
    "videochat_flash": (
        {},
        {"drop": "2,5:1,0.75,0.25"},
        {"drop": "uniform:2,5:1,0.75,0.25"},
        {"drop": "attention:3:1,0.5"},
        {"drop": "2,5:1,0.75,0.25", "kv": "int8"},
        {"extend": "linear:2"},
    ),
    "llava_onevision": (
        {},
        {"pool": "fine", "pool_mode": "area"},
        {"pool": "2,8,4", "extend": "visual-window:window=500"},
        {"kv": "int4"},
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planned")


@pytest.fixture(scope="module")
def clip(home: Path) -> Path:
    return write_clip(home / "forty.mp4", 40, rate=1)


@pytest.fixture(scope="module")
def folders(home: Path) -> dict[str, Path]:
    """A folder without weights for each system."""
    return {name: sized(home / name, name, {}, {}) for name in SYSTEMS}


@pytest.fixture(scope="module")
def grown(folders: dict[str, Path]) -> dict[str, System]:
    """A working model of each."""
    return {name: filled(bare(folder)) for name, folder in folders.items()}


def weighed(made: System, clip: Path, where: Where | None = None) -> Fitting:
    """What a plan weighs a clip with, sizes alone."""
    where = where or Where(device=torch.device("cpu"), name="cpu", memory=2**34)
    with open_video(clip) as video:
        footage = Footage(frames=video.frames, fps=video.fps)
        return fitting_of(made, video, footage, where)


# -- predictions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, every in OPTIONS.items() for options in every],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value),
)
@pytest.mark.parametrize("frames", [13])
def test_tokens_and_bytes_are_those_of_watching(
    name: str,
    options: dict[str, Any],
    frames: int,
    folders: dict[str, Path],
    grown: dict[str, System],
    clip: Path,
) -> None:
    memory = grown[name].variant(**options).watch(str(clip), max_frames=frames)
    made = bare(folders[name]).variant(**options)
    fitting = weighed(made, clip)
    needs, showing = fitting.needs(frames), fitting.showing(frames)
    tokens = made.arranged(showing.frames)
    assert tokens is not None
    assert showing.frames == memory.stats.frames
    assert tokens == memory.stats.visual_tokens
    copies = 2 if "fine" in options else 1
    rows = max(made.rows(tokens, showing.text))
    coarse = sum(made.copies(tokens, tokens)[:1]) if copies == 2 else rows - showing.text
    assert memory.length == coarse + showing.text
    assert needs.memory == memory.bytes


def test_with_content_adaptive_windows_the_plan_is_a_bound(
    folders: dict[str, Path], grown: dict[str, System], clip: Path
) -> None:
    options = {"dynamic": True, "average_ratio": 4, "ratio": "2,4,8"}
    memory = grown["video_xl"].variant(**options).watch(str(clip), max_frames=13)
    needs = weighed(bare(folders["video_xl"]).variant(**options), clip).needs(13)
    assert 0.9 * memory.bytes <= needs.memory <= 1.1 * memory.bytes


PEAKS = (
    Case(system="longva", clip="", frames=48, config=WIDE),
    Case(system="video_xl", clip="", frames=32, config=WIDE, options={"ratio": 2}),
)
MORE = (
    *(
        Case(system=name, clip="", frames=frames, config=WIDE, options=options)
        for name, frames in (
            ("longva", 64),
            ("video_xl", 64),
            ("videochat_flash", 640),
            ("llava_onevision", 48),
        )
        for options in OPTIONS[name]
        if "extend" not in options and options.get("pool") not in ("off", "paper")
    ),
)


def within(predicted: float, found: float, share: float = MARGIN) -> bool:
    return abs(predicted - found) <= share * found


def check_peaks(cases: Sequence[Case], home: Path, clip: Path | None = None) -> None:
    """Measure, and compare with what was foretold; all that are off are shown.

    How far decoding runs ahead depends on who else uses the machine, so what is off is measured
    again; what was foretold wrongly is off each time.
    """
    clip = clip or write_clip(home / "long.mp4", 640, rate=1)
    every = [replace(case, clip=str(clip)) for case in cases]
    for turn in range(3):
        taken = zip(every, measured(every), strict=True)
        homes = (home / f"peak{turn}-{number}" for number in itertools.count())
        off = [told for pair in taken if (told := apart_from(*pair, next(homes))) is not None]
        every = [case for case, _, _ in off]
        if not every:
            break
    assert off == []


def apart_from(case: Case, taken: Taken, home: Path) -> tuple[Case, object, object] | None:
    """A case with what was foretold and measured, if these are apart."""
    made = bare(sized(home, case.system, case.config, case.tower), dtype=case.dtype)
    made = made.variant(**case.options)
    fitting = weighed(made, Path(case.clip))
    showing = replace(fitting.showing(case.frames), answer=2, question=taken.question)
    needs = made.needs(showing, fitting.place)
    pairs = ((needs.watching, taken.watching), (needs.asking, taken.asking))
    fine = all(within(*pair) for pair in pairs) and needs.memory == taken.memory
    return None if fine else (case, pairs, needs)


def test_the_peak_of_a_real_process(tmp_path: Path) -> None:
    """Resident size above the weights, at sizes where keys and values are most of it."""
    check_peaks(PEAKS, tmp_path)


@pytest.mark.slow
def test_the_peak_of_real_processes(tmp_path: Path) -> None:
    """The same over all systems and their options."""
    check_peaks(MORE, tmp_path)


H264 = (
    Case(system="videochat_flash", clip="", frames=64, config=WIDE),
    Case(
        system="videochat_flash",
        clip="",
        frames=64,
        config=WIDE | {"hidden_size": 256, "intermediate_size": 1024},
        options={"drop": "2,5:1,0.75,0.25"},
    ),
)


@pytest.mark.slow
def test_the_peak_of_decoding_a_larger_video(tmp_path: Path) -> None:
    """Pictures of 640 x 360 with B-frames: what decoders hold and what waits is most of it."""
    clip = footage.make(tmp_path, seconds=80, gop=50)
    check_peaks(H264, tmp_path, clip)


def test_pictures_on_their_way_by_hand() -> None:
    """A picture of 64 x 64, seen at 32 x 32: 12,288 and 3,072 bytes."""
    shots = Pictures.of(64, 64, 32)
    assert shots.bytes(0) == shots.decoders + 16 * 3072
    # one chunk to come: it is resized and still there as it was decoded
    assert shots.bytes(16) == shots.bytes(0) + 16 * (12288 + 3072)
    # more than that: two wait resized, or all are there as decoded, whichever is more
    assert shots.bytes(48) == shots.bytes(0) + 16 * 3072 + 48 * 12288
    clips = Pictures.of(64, 64, 32, clip=4)
    assert clips.at_first(16) == shots.bytes(16)
    assert clips.bytes(16) - clips.at_first(16) == 2 * 16 * 3072


def test_pictures_to_decode_are_counted_as_the_reader_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fed = write_gops(tmp_path / "gops.mp4", 60, gop=12), []
    feed = Reader._feed
    with open_video(path) as video:
        list(video.read([0], threads=1))  # opens a decoder, which sees a first packet
        monkeypatch.setattr(
            Reader,
            "_feed",
            lambda self, packet: (fed.append(packet is not None), feed(self, packet))[1],
        )
        for wanted in ([0], [5], [30, 31, 40], [3, 3, 20, 50, 59], list(range(60))):
            fed.clear()
            list(video.read(wanted, threads=1))
            assert video.decoded(wanted) == sum(fed), wanted
        assert video.decoded([]) == 0


# -- folders without weights ----------------------------------------------------------------------

PUBLISHED = {
    "longva": "longva/checkpoint-a",
    "video_xl": "video_xl/checkpoint",
    "llava_onevision": "llava_onevision/checkpoint-real27-hf",
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_config_alone_is_enough(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The tower that config.json names is published, and words are counted about."""
    shutil.copy(folders[name] / "config.json", tmp_path)
    made, whole = bare(tmp_path), bare(folders[name])
    assert made.arranged(12) == whole.arranged(12)
    assert made.model.device.type == "meta"
    assert made.stages(12, torch.float32)[-1] == whole.stages(12, torch.float32)[-1]
    text = made.template.head() + made.template.tail("What word is on the card?")
    assert 15 < len(made.tokens(text)) < 40


def test_sizes_are_those_of_the_loaded_model() -> None:
    made, loaded = skeleton(CHECKPOINT), tiny()
    assert sum(w.nbytes for w in made.model.parameters()) == sum(
        w.nbytes for w in loaded.model.parameters()
    )
    assert made.model.dtype == loaded.model.dtype
    assert made.tokens(made.template.head()) == loaded.tokens(loaded.template.head())


def test_weights_that_do_not_fit_the_config_are_still_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(CHECKPOINT, folder)
    rewrite(folder / "config.json", {"hidden_size": 128})
    with pytest.raises(CheckpointError, match="do not fit the config"):
        skeleton(folder)


# -- what fits ------------------------------------------------------------------------------------


def eyes_shut(frames: object) -> Iterator[object]:
    raise AssertionError("nothing may be decoded")


def test_what_cannot_fit_is_refused_before_anything_is_decoded(
    monkeypatch: pytest.MonkeyPatch, clip: Path
) -> None:
    monkeypatch.setattr("longtake.system.free_bytes", lambda device: 2**20)
    monkeypatch.setattr("longtake.video.decode.Video.read", eyes_shut)
    with pytest.raises(CapacityError, match=r"watching 40 frames .* MiB .* 1 MiB are free on cpu"):
        tiny().watch(str(clip), max_frames=40)


def test_the_refusal_names_what_would_fit(clip: Path, tmp_path: Path) -> None:
    deep = WIDE | {"num_hidden_layers": 40}  # keys and values are most of it
    made = bare(sized(tmp_path / "model", "llava_onevision", deep, {}))
    roomy, many = weighed(made, clip), 40
    fitting = replace(roomy, free=round(0.8 * roomy.needs(many).peak))
    with pytest.raises(CapacityError) as told:
        fitting.require(many, made.lighter)
    match = re.search(r"max_frames=(\d+) or pool='(\w+)' would fit", str(told.value))
    assert match is not None, told.value
    fewer, pooled = int(match[1]), replace(fitting, made=made.variant(pool=match[2]))
    assert (
        fitting.verdict(fitting.needs(fewer)) == "yes" != fitting.verdict(fitting.needs(fewer + 1))
    )
    assert pooled.verdict(pooled.needs(many)) == "yes"
    for num in (fewer, 1):
        fitting.require(num, made.lighter)


@pytest.mark.parametrize("share", [0.95, 1.0, 1.2])
def test_what_may_fit_is_not_refused(
    share: float, monkeypatch: pytest.MonkeyPatch, clip: Path
) -> None:
    needs = weighed(tiny(), clip).needs(40)
    monkeypatch.setattr("longtake.system.free_bytes", lambda device: round(share * needs.peak))
    assert tiny().watch(str(clip), max_frames=40).stats.frames == 40


def test_auto_takes_all_there_is_or_what_fits(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    system = tiny()
    assert system.watch(str(clip), max_frames="auto").stats.frames == 40
    assert system.choice(str(clip)).reason == "the video has no more"
    peaks = {num: weighed(system, clip).needs(num).peak for num in range(1, 41)}
    free = round(peaks[20] * (1 + MARGIN)) + 1
    assert peaks[40] * (1 + MARGIN) > free
    monkeypatch.setattr("longtake.system.free_bytes", lambda device: free)
    choice = system.choice(str(clip))
    most = max(num for num, peak in peaks.items() if peak * (1 + MARGIN) <= free)
    assert (choice.frames, choice.reason) == (most, "more would not fit the memory")
    assert system.watch(str(clip), max_frames="auto").stats.frames == most
    assert system.choice(noise(3)).frames == 3


def test_auto_stays_in_the_window(clip: Path) -> None:
    system = replace(tiny(), window=600)
    choice = system.choice(str(clip))
    assert choice.reason == "the checkpoint was trained to read no more"
    made = 18 + 9 * choice.frames + 64 + 256
    assert made <= 600 < made + 9


def test_auto_counts_what_a_rule_samples(grown: dict[str, System], tmp_path: Path) -> None:
    """VideoChat-Flash looks at one frame a second, 64 at least; asking for more changes nothing."""
    choice = grown["videochat_flash"].choice(str(write_clip(tmp_path / "long.mp4", 200)))
    assert (choice.frames, choice.sampled, choice.ends) == (64, 64, "video")


def test_a_picture_needs_no_choice() -> None:
    assert tiny().choice(noise(1).pixels_TCHW[0]) is None


def test_largest() -> None:
    for most in (1, 2, 7):
        for limit in range(most + 1):
            assert largest(lambda n, limit=limit: n <= limit, most) == limit


def test_limits_of_groups_count(tmp_path: Path) -> None:
    process = tmp_path / "cgroup"
    process.write_text("0::/jobs/one\n")
    inner = tmp_path / "jobs" / "one"
    inner.mkdir(parents=True)
    for group, limit, used in ((inner, "max", 100), (inner.parent, "1000", 900)):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
    (inner.parent / "memory.stat").write_text("anon 3\ninactive_file 250\n")
    assert list(limits(tmp_path, process)) == [350]
    old = tmp_path / "memory" / "jobs"
    old.mkdir(parents=True)
    process.write_text("3:cpu:/x\n4:memory:/jobs\n")
    (old / "memory.limit_in_bytes").write_text("70")
    (old / "memory.usage_in_bytes").write_text("90")
    assert list(limits(tmp_path, process)) == [0]
    assert list(limits(tmp_path, tmp_path / "nowhere")) == []


def test_a_stretched_window_holds_more_frames(folders: dict[str, Path], clip: Path) -> None:
    made = replace(bare(folders["llava_onevision"]), window=2000)
    longer = made.variant(extend="visual-window:window=500")
    plain, stretched = weighed(made, clip), weighed(longer, clip)
    most = [max(n for n in range(1, 41) if one.in_window(n)) for one in (plain, stretched)]
    assert 0 < most[0] < most[1]
    visual = made.planned(40)
    assert visual is not None and visual > 500
    assert longer.window_for(40) == round(2000 * visual / 500)
    assert made.window_for(40) == longer.window_for(0) == 2000


# -- the plan itself ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(folders: dict[str, Path], clip: Path) -> Plan:
    return plan(str(clip), folders["longva"], memory="1GiB", device="cpu", options={"pool": "fine"})


def test_a_plan_weighs_settings_and_names_the_best(found: Plan) -> None:
    assert (found.system, found.device, found.memory_bytes) == ("longva", "cpu", 2**30)
    assert not found.estimated
    assert found.own.frames == 32
    assert [setting.frames for setting in found.ladder] == [40]
    assert found.best == found.ladder[0]
    assert [setting.options for setting in found.methods] == [
        {"pool": "fine"},
        {"pool": "paper"},
        {"pool": "coarse"},
        {"kv": "int8"},
    ]
    names = ["decode", "resize", "tower", "compress", "prefill", "first word", "each word"]
    assert [stage.name for stage in found.own.stages] == names
    assert all(stage.seconds > 0 for stage in found.own.stages)
    assert found.own.flops == sum(stage.flops for stage in found.own.stages[:5])


@pytest.mark.parametrize("here", [False, True])
def test_a_gpu_that_is_not_here_is_an_estimate(
    here: bool, folders: dict[str, Path], clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is another one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: here)
    found = plan(str(clip), folders["video_xl"], device="h100", max_frames="auto")
    assert (found.device, found.estimated) == ("NVIDIA H100 SXM", True)
    assert found.own.frames == 40


def test_cuda_that_is_not_here_is_told_by_its_memory(
    folders: dict[str, Path], clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = plan(str(clip), folders["video_xl"], device="cuda", memory="24GiB")
    assert (found.device, found.estimated) == ("NVIDIA RTX 4090", True)
    for memory in ("1GiB", "1.25GiB"):
        with pytest.raises(OptionError, match=r"leaves nothing: CUDA itself takes 1.25 GiB"):
            plan(str(clip), folders["video_xl"], device="cuda", memory=memory)


@pytest.mark.parametrize(
    ("gib", "name"), [(8, "4090"), (24, "4090"), (40, "a100-40"), (79, "a100"), (300, "h200")]
)
def test_cuda_means_a_card_of_that_memory(gib: int, name: str) -> None:
    assert gpu_of("cuda", gib * 2**30) is GPUS[name]


def test_published_checkpoints_by_hand(clip: Path, tmp_path: Path) -> None:
    """LongVA-7B from a config.json: 144 tokens a frame, 57,344 bytes a token in bf16."""
    (tmp_path / "config.json").write_text(json.dumps(LONGVA_7B))
    found = plan(str(clip), tmp_path, device="a100")
    assert not found.counted
    assert 15.5e9 < found.weight_bytes < 16.0e9
    assert found.own.tokens == 32 * 144
    assert found.own.needs.memory == found.own.length * 57_344
    # 13.05 GFLOP a token and 366 GFLOP a frame, frontier figures of 7B models
    prefill = next(stage for stage in found.own.stages if stage.name == "prefill")
    # the last of 28 layers makes keys and values alone: 2 x 3584 x 2 x 512 a token
    a_token, square = 13.05e9 * 27 / 28 + 7.34e6, 200_704 * 27 / 28 * 4608**2
    assert prefill.flops == pytest.approx(a_token * 4608 + square, rel=2e-3)
    assert prefill.seconds == pytest.approx(
        a_token * 4623 / (0.75 * 312e12) + square / (0.5 * 312e12), rel=0.01
    )


LONGVA_7B = {
    "model_type": "llava_qwen",
    "mm_patch_merge_type": "unires",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_projector_type": "mlp2x_gelu",
    "mm_spatial_pool_stride": 2,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "torch_dtype": "bfloat16",
    "rope_theta": 1e9,
}


def test_stages_beside_one_another() -> None:
    """Decoding goes on beside the rest; both cores at most are busy."""
    clock = object.__new__(Clock)
    object.__setattr__(clock, "place", Place(device="cuda", weights=torch.bfloat16))
    seconds = (1.0, 2.0, 1.0, 0.5, 0.5)
    stages = [
        PlannedStage(name="", tokens=0, flops=0, bytes=0, seconds=second) for second in seconds
    ]
    assert clock.overlapped(stages) == 3.0
    object.__setattr__(clock, "place", Place(device="cpu", weights=torch.bfloat16))
    assert clock.overlapped(stages) >= 3.0


def test_what_means_nothing(clip: Path, folders: dict[str, Path]) -> None:
    folder = folders["longva"]
    for words, told in (
        ({"memory": "much"}, "memory must be bytes such as"),
        ({"device": "abacus"}, "abacus"),
        ({"max_frames": 0}, "max_frames must be 1 to"),
        ({"options": {"ratio": 8}}, "has no option 'ratio'"),
        ({"dtype": "float33"}, "float33"),
        ({"start": 90.0}, "no frame lies between"),
    ):
        with pytest.raises(OptionError, match=told):
            plan(str(clip), folder, **words)
    assert longtake.plan is plan


def test_a_question_is_timed_between_the_rows_that_were_measured() -> None:
    # 24 rows take 8 ms, 64 rows 13 ms, for one FLOP a row
    gpu = published_rates(gpu_of("h100", None))
    rates = replace(gpu, few=FEW / 0.008, some=SOME / 0.013, linear=SOME / 0.013)

    def took(rows: int) -> float:
        return rows / asking_rate(rates, rows)

    assert took(FEW) == pytest.approx(0.008)
    assert took(SOME) == pytest.approx(0.013)
    assert took(44) == pytest.approx(0.0105)
    assert took(2) == pytest.approx(0.008 - 22 * 0.005 / 40)
    assert took(1064) == pytest.approx(0.013 + 1000 / rates.linear)
    assert asking_rate(gpu, 500) == pytest.approx(gpu.linear)
    steep = replace(rates, few=FEW / 0.001)  # a straight line would end below nothing
    assert took(1) > 0 and asking_rate(steep, 1) > 0


@pytest.mark.parametrize("tokens", [0, 1, 1440, 1441, 2304, 2879, 2880, 4608, 10_000])
@pytest.mark.parametrize("ratio", [2, 8, 16])
def test_the_furthest_row_of_a_window_loop(
    folders: dict[str, Path], tokens: int, ratio: int
) -> None:
    made: Any = bare(folders["video_xl"]).variant(ratio=ratio)
    held = most = 0
    for begun in range(0, tokens, 1440):  # the loop itself, window by window
        size = min(1440, tokens - begun)
        most = max(most, held + size + size // ratio)
        held += size // ratio
    assert made.copies(tokens, tokens)[0] == held
    assert made.furthest(tokens) == [most]
