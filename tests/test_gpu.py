"""What only a CUDA device can show; the first thing to run where there is one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from longtake.api import load
from longtake.engine import require_room
from longtake.errors import CapacityError
from longtake.parts.attention import attend, attend_masked, last_row_weights
from longtake.parts.sampling import choose
from longtake.store import load_memory, save_memory
from longtake.types import Options
from tests.tiny import CHECKPOINT, noise, tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BACKENDS = {
    "any": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "no flash": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
}


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with sdpa_kernel(BACKENDS[request.param]):
        yield


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(28, 4), (4, 2), (2, 2)])
@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (64, 300), (64, 64)])
def test_attention(dtype: torch.dtype, heads: int, kv_heads: int, queries: int, keys: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(1, heads, queries, 128, device="cuda", dtype=dtype)
    k, v = torch.randn(2, 1, kv_heads, keys, 128, device="cuda", dtype=dtype)
    repeats = heads // kv_heads
    wide = [x.double().repeat_interleave(repeats, 1) for x in (k, v)]
    expected = attend_masked(q.double(), wide[0], wide[1], None)
    # half precision keeps 8 or 11 bits of numbers of size 1
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(attend(q, k, v).double(), expected, rtol=0, atol=tolerance)
    assert last_row_weights(q, k).sum(-1).allclose(torch.ones(1, heads, device="cuda"), atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_answers(dtype: str) -> None:
    system = load(CHECKPOINT, device="cuda", dtype=dtype)
    options = system.options(max_new_tokens=8)
    memory = system.watch(noise(6), max_frames=6)
    answer = system.ask(memory, "What?", options)
    assert answer.evidence
    assert system.ask(memory, "What?", options).ids == answer.ids
    if dtype == "float32":
        cpu = tiny()
        assert answer.ids == cpu.ask(cpu.watch(noise(6), max_frames=6), "What?", options).ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_questions_together(dtype: str) -> None:
    system = load(CHECKPOINT, device="cuda", dtype=dtype)
    questions, options = ("What?", "Why is it so?", "Who?"), system.options(max_new_tokens=8)
    memory = system.watch(noise(6), max_frames=6)
    alone = [system.ask(memory, question, options) for question in questions]
    together = system.ask_many(memory, questions, options)
    assert all(len(answer.ids) == 8 and answer.evidence for answer in together)
    # in half precision two likely words may change places
    if dtype == "float32":
        assert [answer.ids for answer in together] == [answer.ids for answer in alone]


def test_sampling_on_the_device() -> None:
    logits = torch.randn(50, device="cuda")
    options = Options(temperature=0.7, top_k=5, top_p=0.8, repetition_penalty=1.1)
    token = choose(logits, [1, 2], options, torch.Generator().manual_seed(0))
    assert 0 <= token < 50


def test_room() -> None:
    system = load(CHECKPOINT, device="cuda")
    require_room(system.model, 1000)
    with pytest.raises(CapacityError, match="free on cuda"):
        require_room(system.model, 10**12)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 8},
        {"ratio": "2,4,8", "dynamic": True},
        {"ratio": 16, "fine": 2, "budget": "1MiB"},
        {"ratio": 16, "fine": 2, "budget": "1MiB", "fine_on": "disk"},
        {"ratio": 8, "kv": "int8"},
        {"ratio": 8, "kv": "fp8"},
    ],
)
def test_condensed_memories(options: dict[str, object], tmp_path: Path) -> None:
    """The same ids as on CPU in fp32, before and after a file."""
    folder = CHECKPOINT.parents[1] / "video_xl" / "checkpoint"
    ids = []
    for device in ("cpu", "cuda"):
        system = load(folder, device=device, dtype="float32").variant(**options)
        memory = system.watch(noise(23), max_frames=23)
        written = system.options(max_new_tokens=8)
        ids.append(system.ask(memory, "What happens?", written).ids)
        loaded = load_memory(save_memory(memory, tmp_path / device), device)
        ids.append(system.ask(loaded, "What happens?", written).ids)
    assert len(set(ids)) == 1


@pytest.mark.parametrize("drop", ["off", "uniform:2,5:1,0.5,0.25", "2,5:1,0.75,0.25"])
def test_staged_memories(drop: str, tmp_path: Path) -> None:
    """The same ids as on CPU in fp32, before and after a file; bf16 answers too."""
    folder = CHECKPOINT.parents[1] / "videochat_flash" / "ckpt-umt224"
    ids = []
    for device in ("cpu", "cuda"):
        system = load(folder, device=device, dtype="float32").variant(drop=drop)
        memory = system.watch(noise(24), max_frames=24)
        written = system.options(max_new_tokens=8)
        ids.append(system.ask(memory, "What happens?", written).ids)
        loaded = load_memory(save_memory(memory, tmp_path / device), device)
        ids.append(system.ask(loaded, "What happens?", written).ids)
    assert len(set(ids)) == 1
    half = load(folder, device="cuda", dtype="bfloat16").variant(drop=drop)
    memory = half.watch(noise(24), max_frames=24)
    answers = [half.ask(memory, "What happens?", half.options(max_new_tokens=8)) for _ in "ab"]
    assert answers[0].ids == answers[1].ids
    assert answers[0].evidence
