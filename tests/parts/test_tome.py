"""Token merging against the original's tokens, against a slow twin, and against mistakes.

B clips, N tokens, M merged ones, D width, W = D + 1 (the last column counts patches).
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from tests.parts.clip_goldens import MARGIN, expected, gap, golden, wrong_sizes
from torch import Tensor

from longtake.errors import PromptError
from longtake.parts import tome
from longtake.parts.tome import Match, match, means, merge, merge_rounds, merge_tokens

# those that store the features whole
CASES = [
    "umt224-video8",
    "umt224-video8-rep105",
    "umt224-image-anyres",
    "umt224-image-multi-pad",
    "umt448-video4",
    "iv2-video8",
    "iv2-image-anyres",
]


def features_of(name: str) -> Tensor:
    return golden(name).tensors["vision_features"]


@pytest.mark.parametrize("name", CASES)
def test_merges_like_the_original(name: str) -> None:
    case = golden(name)
    merged = merge_tokens(features_of(name), 64, heads=2)
    assert wrong_sizes(case, merged) == 0
    assert gap(merged.features_BMD, expected(case, "tome_tokens")) < MARGIN


@pytest.mark.parametrize(
    ("tokens", "rounds"),
    [
        (784, (392, 196, 98, 34)),
        (3136, (1568, 784, 392, 196, 98, 34)),
        (1024, (512, 256, 128, 64)),
        (196, (98, 34)),
        (256, (128, 64)),
        (129, (64, 1)),
        (65, (1,)),
        (64, ()),
    ],
)
def test_rounds(tokens: int, rounds: tuple[int, ...]) -> None:
    assert merge_rounds(tokens, 64) == rounds


@pytest.mark.parametrize(("tokens", "target"), [(63, 64), (0, 64), (10, 0), (10, -1), (0, 0)])
def test_too_few_tokens(tokens: int, target: int) -> None:
    with pytest.raises(PromptError, match=f"^{tokens} tokens of a clip cannot .* to {target}$"):
        merge_rounds(tokens, target)
    with pytest.raises(PromptError, match="cannot be merged"):
        merge_tokens(torch.zeros(1, tokens, 4), target, heads=2)


def test_as_many_as_wanted_stay() -> None:
    x_BND = torch.randn(2, 6, 4).bfloat16()
    merged = merge_tokens(x_BND, 6, heads=2)
    torch.testing.assert_close(merged.features_BMD, x_BND, rtol=0, atol=0)
    torch.testing.assert_close(merged.sizes_BM, torch.ones(2, 6), rtol=0, atol=0)


@dataclass(frozen=True)
class Token:
    """One token of the slow twin."""

    members: tuple[int, ...]
    """Patches in it."""
    mean: tuple[float, ...]


def direction(token: Token, heads: int) -> list[float]:
    """The mean over heads, scaled to length 1."""
    width = len(token.mean) // heads
    channels = range(width)
    mean = [sum(token.mean[h * width + c] for h in range(heads)) / heads for c in channels]
    length = sum(value**2 for value in mean) ** 0.5
    return [value / length for value in mean]


def together(parts: list[Token]) -> Token:
    """The mean of all patches in these tokens."""
    weights = [len(part.members) for part in parts]
    mean = tuple(
        sum(n * part.mean[c] for n, part in zip(weights, parts, strict=True)) / sum(weights)
        for c in range(len(parts[0].mean))
    )
    return Token(tuple(sorted(m for part in parts for m in part.members)), mean)


def slow_round(tokens: list[Token], merges: int, heads: int) -> list[Token]:
    sources, destinations = tokens[::2], tokens[1::2]
    groups = [[token] for token in destinations]
    odd = [direction(token, heads) for token in destinations]
    ranking = []
    for at, source in enumerate(sources):
        own = direction(source, heads)
        scores = [sum(a * b for a, b in zip(own, other, strict=True)) for other in odd]
        best = max(scores)
        ranking.append((-best, at, scores.index(best)))
    ranking.sort()
    for _, at, into in ranking[:merges]:
        groups[into].append(sources[at])
    return [sources[at] for _, at, _ in ranking[merges:]] + [together(group) for group in groups]


def slow(x_ND: Tensor, target: int, heads: int) -> list[Token]:
    tokens = [Token((n,), tuple(x_D.tolist())) for n, x_D in enumerate(x_ND)]
    while len(tokens) > target:
        tokens = slow_round(tokens, min(len(tokens) // 2, len(tokens) - target), heads)
    return tokens


def members(x_BND: Tensor, target: int, heads: int) -> list[list[tuple[int, ...]]]:
    """The patches in each token of each clip, by merging one-hot rows along."""
    sums_BNW = torch.cat([x_BND, torch.ones_like(x_BND[..., :1])], dim=-1)
    who_BNN = torch.eye(x_BND.shape[1]).expand(len(x_BND), -1, -1)
    for merges in merge_rounds(x_BND.shape[1], target):
        pairs = match(sums_BNW, merges, heads)
        sums_BNW, who_BNN = merge(sums_BNW, pairs), merge(who_BNN, pairs)
    return [[tuple(row.nonzero()[:, 0].tolist()) for row in clip] for clip in who_BNN]


def assert_equals_twin(x_BND: Tensor, target: int, heads: int) -> None:
    merged = merge_tokens(x_BND, target, heads)
    groups = members(x_BND, target, heads)
    for clip, x_ND in enumerate(x_BND):
        twin = slow(x_ND, target, heads)
        assert groups[clip] == [token.members for token in twin]
        assert merged.sizes_BM[clip].tolist() == [len(token.members) for token in twin]
        wanted = torch.tensor([token.mean for token in twin])
        torch.testing.assert_close(merged.features_BMD[clip], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("clips", [1, 3])
@pytest.mark.parametrize(
    ("tokens", "target"), [(64, 16), (61, 16), (33, 16), (17, 16), (24, 5), (7, 1), (2, 1), (3, 2)]
)
def test_twin(tokens: int, target: int, clips: int) -> None:
    generator = torch.Generator().manual_seed(100 * tokens + clips)
    x_BND = torch.randn(clips, tokens, 12, generator=generator) + 0.5
    assert_equals_twin(x_BND, target, heads=3)


@pytest.mark.parametrize("clips", [1, 4])
@pytest.mark.parametrize(("tokens", "target"), [(40, 20), (41, 25), (39, 30), (12, 11)])
def test_twin_with_ties(tokens: int, target: int, clips: int) -> None:
    """Few directions, all exact: nearly every comparison is a tie. One round, to stay exact."""
    generator = torch.Generator().manual_seed(tokens + clips)
    kind_BN = torch.randint(4, (clips, tokens), generator=generator)
    x_BND = F.one_hot(kind_BN, 4).float().repeat(1, 1, 2)
    x_BND[:, ::5] *= -1
    assert len(merge_rounds(tokens, target)) == 1
    assert_equals_twin(x_BND, target, heads=2)


@pytest.mark.parametrize(("tokens", "target"), [(48, 6), (37, 5)])
def test_twin_of_equal_tokens(tokens: int, target: int) -> None:
    """All ties in every round."""
    x_BND = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(2, tokens, 4)
    assert_equals_twin(x_BND, target, heads=2)


def test_a_token_of_zeros_is_like_nothing() -> None:
    x_BND = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0))
    x_BND[:, [2, 5]] = 0.0
    merged = merge_tokens(x_BND, 4, heads=2)
    assert merged.features_BMD.isfinite().all()
    assert merged.sizes_BM.sum() == 9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_features_are_merged_in_fp32(dtype: torch.dtype) -> None:
    x_BND = features_of("umt448-video4").to(dtype)
    merged, wide = merge_tokens(x_BND, 64, 2), merge_tokens(x_BND.float(), 64, 2)
    torch.testing.assert_close(merged.features_BMD, wide.features_BMD.to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(merged.sizes_BM, wide.sizes_BM, rtol=0, atol=0)
    # bf16 would have rounded these: above 256 it holds no odd number
    assert merged.sizes_BM.dtype == torch.float32
    assert merged.sizes_BM.sum() == 3136


def test_clips_are_merged_alone() -> None:
    x_BND = torch.cat([features_of("umt224-video8"), features_of("umt224-video8-rep105")])
    at_once = merge_tokens(x_BND, 64, 2)
    for clip, x_1ND in enumerate(x_BND.split(1)):
        alone = merge_tokens(x_1ND, 64, 2)
        assert torch.equal(alone.sizes_BM[0], at_once.sizes_BM[clip])
        assert gap(alone.features_BMD[0], at_once.features_BMD[clip]) < 1e-6


def test_every_patch_gets_its_share_of_the_gradient() -> None:
    x_BND = torch.randn(2, 30, 8, requires_grad=True)
    merge_tokens(x_BND, 7, 2).features_BMD.sum().backward()
    wanted_BN = torch.zeros(2, 30)
    for clip, groups in enumerate(members(x_BND.detach(), 7, 2)):
        for group in groups:
            wanted_BN[clip, list(group)] = 1 / len(group)
    assert x_BND.grad is not None
    torch.testing.assert_close(x_BND.grad, wanted_BN[..., None].expand(-1, -1, 8))


def test_meta() -> None:
    merged = merge_tokens(torch.empty(2, 784, 128, device="meta"), 64, 2)
    assert merged.features_BMD.shape == (2, 64, 128)
    assert merged.sizes_BM.shape == (2, 64)


def no_sizes(sums_BNW: Tensor, pairs: Match) -> Tensor:
    """Each token counts once, however many patches are in it."""
    means_BND = means(sums_BNW)
    return merge(torch.cat([means_BND, torch.ones_like(means_BND[..., :1])], dim=-1), pairs)


def destinations_first(sums_BNW: Tensor, pairs: Match) -> Tensor:
    return merge(sums_BNW, pairs).roll(-pairs.kept_BK.shape[1], dims=1)


def kept_in_place(sums_BNW: Tensor, pairs: Match) -> Tensor:
    """Unmerged tokens in their old order."""
    kept_BK = pairs.kept_BK.sort(dim=1).values
    return merge(sums_BNW, Match(merged_BR=pairs.merged_BR, into_BR=pairs.into_BR, kept_BK=kept_BK))


def all_channels(x_BND: Tensor, _heads: int) -> Tensor:
    return F.normalize(x_BND, dim=-1)


def no_length(x_BND: Tensor, heads: int) -> Tensor:
    return x_BND.unflatten(-1, (heads, -1)).mean(-2)


# InternVideo2's 1024 and 256 tokens only ever halve: no source is kept, so none has an order
MISTAKES: list[tuple[str, Callable[..., Tensor], str]] = [
    ("merge", no_sizes, "umt224-video8"),
    ("merge", no_sizes, "iv2-video8"),
    ("merge", destinations_first, "umt224-video8"),
    ("merge", destinations_first, "umt448-video4"),
    ("merge", kept_in_place, "umt224-video8"),
    ("similarity_features", all_channels, "umt224-video8"),
    ("similarity_features", all_channels, "iv2-video8"),
    ("similarity_features", no_length, "umt224-video8"),
    ("similarity_features", no_length, "iv2-video8"),
]


@pytest.mark.parametrize(("step", "mistake", "name"), MISTAKES)
def test_mistakes_are_told_apart(
    step: str, mistake: Callable[..., Tensor], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = golden(name)
    monkeypatch.setattr(tome, step, mistake)
    merged = merge_tokens(features_of(name), 64, heads=2)
    assert wrong_sizes(case, merged) > 0
    assert gap(merged.features_BMD, expected(case, "tome_tokens")) > 0.1


def test_autocast_rounds_nothing() -> None:
    """Training in half precision merges as in full."""
    x_BND = torch.randn(2, 784, 64, generator=torch.Generator().manual_seed(3))
    plain = merge_tokens(x_BND, 64, 2)
    with torch.autocast("cpu", torch.bfloat16):
        under = merge_tokens(x_BND, 64, 2)
    torch.testing.assert_close(under.sizes_BM, plain.sizes_BM, rtol=0, atol=0)
    torch.testing.assert_close(under.features_BMD, plain.features_BMD, rtol=0, atol=0)
