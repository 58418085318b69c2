"""Video-XL against what the original computed, one test per golden case."""

from pathlib import Path

import pytest
import torch

from longtake.reader import Known
from longtake.types import Stats, VisualTokens
from tests.parity import video_xl
from tests.parity.cases import Case, case_paths, load_case
from tests.parity.run import check

GOLDEN = Path(__file__).parent / "golden" / "video_xl"


@pytest.mark.parametrize("path", case_paths(GOLDEN), ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    results = check(load_case(path))
    assert results, "nothing was compared"
    assert [str(result) for result in results if not result.ok] == []


def stored_tokens(case: Case) -> VisualTokens:
    """The visual tokens that the original made, with class tokens where these were compared."""
    features_ND = case.tensors["visual_tokens"]
    frames = case.spec["num_frames"]
    seconds = tuple(float(n) for n in range(frames))
    counts = (len(features_ND) // frames,) * frames
    class_TD = case.tensors.get("cls_features")
    return VisualTokens(features_ND=features_ND, counts=counts, seconds=seconds, class_TD=class_TD)


@torch.no_grad()
def test_another_question_finds_the_same_memory() -> None:
    """Prefix and summaries do not depend on what follows: in the original, and bit for bit here."""
    first, second = (
        load_case(GOLDEN / f"case-r8-f12{end}.json") for end in ("", "-second-question")
    )
    shared = [name for name in first.tensors if ".prefix." in name or ".vst." in name]
    assert len(shared) == 4 * 2 * 2
    for name in shared:
        torch.testing.assert_close(first.tensors[name], second.tensors[name], rtol=0, atol=0)
    # and they are two questions
    assert first.tensors["input_ids"].tolist() != second.tensors["input_ids"].tolist()
    prefixes = [video_xl.run(case).memory for case in (first, second)]
    for one, other in zip(*(memory.cache.layers for memory in prefixes), strict=True):
        length = prefixes[0].length
        assert length == prefixes[1].length == 15 + 216
        for ours in ("keys", "values"):
            pair = [getattr(layer, ours)[:, :, :length] for layer in (one, other)]
            torch.testing.assert_close(*pair, rtol=0, atol=0)


@torch.no_grad()
def test_one_memory_answers_both_questions() -> None:
    """What was watched once gives both golden answers, in either order, and is left as it was."""
    cases = [load_case(GOLDEN / f"case-r8-f12{end}.json") for end in ("", "-second-question", "")]
    system = video_xl.system_of(cases[0])
    tokens = stored_tokens(cases[0])
    cache = system.new_cache()
    pieces = system.pieces(cases[0].spec["prompt"], [tokens])[:2]
    total = len(pieces[0]) + len(tokens.features_ND)
    reading = system.remember(iter(pieces), cache, Known(total))
    memory = system._memory(reading, cache, (12.0,), Stats())
    before = [layer.keys.clone() for layer in cache.layers]
    for case in cases:
        question = case.spec["prompt"].split("<image>\n")[1].split("<|im_end|>")[0]
        answer = system.ask(memory, question, system.options(max_new_tokens=16))
        assert list(answer.ids) == case.tensors["generated_ids_penalty_1.05"].tolist()
    for layer, keys in zip(cache.layers, before, strict=True):
        torch.testing.assert_close(layer.keys, keys, rtol=0, atol=0)
