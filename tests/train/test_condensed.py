"""Training through summaries: which token is learned from what, and who gets a gradient.

B batch, S tokens of text, N visual tokens, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.errors import OptionError
from longtake.model import LongtakeModel, blueprint, build
from longtake.parts.cache import GrowingCache
from longtake.parts.qwen2 import DecoderConfig, Step
from longtake.parts.rope import Rope
from longtake.parts.summary import SummaryDecoder, begin_summaries
from longtake.parts.vit import ViTConfig
from longtake.parts.windows import Chooser, Plan, Ratios
from longtake.train import condensed
from longtake.train.condensed import (
    Curriculum,
    Losses,
    Stretch,
    Text,
    condensed_losses,
    next_tokens,
    summary_parts,
)
from longtake.train.dialogue import IGNORED

SIZES = DecoderConfig(
    hidden=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp=48,
    vocab=20,
    eps=1e-6,
    rope=Rope(theta=1e4),
)
TOWER = ViTConfig(
    hidden=8,
    layers=1,
    heads=2,
    mlp=8,
    image=28,
    patch=14,
    activation="quick_gelu",
    eps=1e-5,
    class_token=True,
)
CLOSE = {"rtol": 0, "atol": 2e-5}
"""Sums of fp32 in another order."""


@pytest.fixture
def model() -> LongtakeModel:
    torch.manual_seed(2)
    model = build(replace(blueprint(TOWER, SIZES), decoder=lambda: SummaryDecoder(SIZES)))
    for weight in model.decoder.parameters():
        torch.nn.init.normal_(weight, std=1.0 if weight.ndim == 1 else weight.shape[-1] ** -0.5)
    torch.nn.init.normal_(model.lm_head.weight)
    return model


def text(*labelled: int, tokens: int = 5, batch: int = 2, seed: int = 0) -> Text:
    """Random tokens, those at the places `labelled` to be learned."""
    generator = torch.Generator().manual_seed(seed)
    ids_BS = torch.randint(0, SIZES.vocab, (batch, tokens), generator=generator)
    labels_BS = torch.full_like(ids_BS, IGNORED)
    labels_BS[:, list(labelled)] = ids_BS[:, list(labelled)]
    return Text(ids_BS, labels_BS)


def visual(tokens: int, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(batch, tokens, SIZES.hidden, generator=generator)


class Listed(Chooser):
    """One ratio, and a list of the windows it was asked for."""

    def __init__(self, ratio: int) -> None:
        super().__init__(Ratios(choices=(ratio,)), 0)
        self.asked: list[int] = []

    def ratio(self, raw: int) -> int:
        self.asked.append(raw)
        return super().ratio(raw)


@torch.no_grad()
def read(model: LongtakeModel, sample: Sequence[Stretch], ratio: int, window: int) -> list[Tensor]:
    """What inference computes: features [B, rows, D] of each step, summaries left out."""
    cache, steps = GrowingCache(), []
    for stretch in sample:
        past = cache.get_seq_length()
        if isinstance(stretch, Text):
            positions = torch.arange(past, past + stretch.ids_BS.shape[1]).expand(2, -1)
            step = Step(positions_BS=positions, cache=cache)
            steps.append(model.decoder(model.embed(stretch.ids_BS), step))
            continue
        carried = 0
        for part_BND in stretch.split(window, 1):
            plan = Plan(raw=part_BND.shape[1], ratio=ratio, carried=carried)
            rows, past = plan.is_summary(), cache.get_seq_length()
            steps.append(model.decoder.window(part_BND, rows, cache, past)[:, ~rows])
            carried = plan.left
    return steps


def cross_entropy(model: LongtakeModel, features_BD: Tensor, labels_B: Tensor) -> Tensor:
    """Summed, written out."""
    logits_BV = features_BD @ model.lm_head.weight.T
    shares_BV = logits_BV - logits_BV.exp().sum(-1, keepdim=True).log()
    return -shares_BV.gather(1, labels_B[:, None]).sum()


def test_the_loss_is_plain_cross_entropy(model: LongtakeModel) -> None:
    """`cross_entropy` above, against torch's."""
    features, labels = torch.randn(6, SIZES.hidden), torch.randint(0, SIZES.vocab, (6,))
    torch.testing.assert_close(
        cross_entropy(model, features, labels),
        F.cross_entropy(model.logits(features), labels, reduction="sum"),
    )


# -- labels -------------------------------------------------------------------------------------


def test_next_tokens_are_shifted_and_look_ahead() -> None:
    first = Text(torch.tensor([[5, 6, 7]]), torch.tensor([[5, IGNORED, 7]]))
    second = Text(torch.tensor([[8, 9]]), torch.tensor([[8, 9]]))
    assert next_tokens(first, None).tolist() == [[IGNORED, 7, IGNORED]]
    assert next_tokens(first, second).tolist() == [[IGNORED, 7, 8]]
    # a visual says nothing of what should precede it
    assert next_tokens(first, visual(4, batch=1)).tolist() == [[IGNORED, 7, IGNORED]]
    assert first.labels_BS.tolist() == [[5, IGNORED, 7]]  # read, not written
    single = Text(torch.tensor([[3]]), torch.tensor([[3]]))
    assert next_tokens(single, second).tolist() == [[8]]


@torch.no_grad()
def test_losses_are_the_mean_over_what_is_labelled(model: LongtakeModel) -> None:
    losses = Losses()
    features = torch.randn(3, 2, 4, SIZES.hidden)
    targets = torch.randint(0, SIZES.vocab, (3, 2, 4))
    targets[0, 0, :3], targets[1], targets[2, 1, 2] = IGNORED, IGNORED, IGNORED
    for step in range(3):
        losses.add(model, features[step], targets[step])
    assert losses.counts == [5, 0, 7]
    labelled = targets != IGNORED
    for step in range(3):
        here = labelled[step]
        wanted = cross_entropy(model, features[step][here], targets[step][here])
        torch.testing.assert_close(losses.sums[step], wanted)
    whole = cross_entropy(model, features[labelled], targets[labelled]) / 12
    torch.testing.assert_close(losses.loss, whole)
    best = (features @ model.lm_head.weight.T).argmax(-1)
    assert losses.right == int((best == targets)[labelled].sum())


@torch.no_grad()
def test_right_counts_the_largest_logits(model: LongtakeModel) -> None:
    losses, features = Losses(), torch.randn(2, 6, SIZES.hidden)
    best = model.logits(features).argmax(-1)
    wrong = (best + 1) % SIZES.vocab
    losses.add(model, features, torch.where(torch.arange(6) < 4, best, wrong))
    assert losses.right == 8 and losses.counts == [12]
    losses.add(model, features, torch.full_like(best, IGNORED))
    assert losses.right == 8 and losses.counts == [12, 0]


def test_a_sample_without_labels_is_refused(model: LongtakeModel) -> None:
    losses = condensed_losses(model, [text(), visual(8), text()], Listed(4), 8)
    with pytest.raises(OptionError, match="no token of the sample is labelled") as raised:
        _ = losses.loss
    assert "\n" not in str(raised.value)
    with pytest.raises(OptionError, match="no token"):
        _ = Losses().loss


# -- samples ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "window", "ratio"), [(16, 8, 4), (20, 8, 4), (21, 10, 4), (9, 100, 2), (7, 3, 8)]
)
def test_losses_are_those_of_what_inference_computes(
    model: LongtakeModel, tokens: int, window: int, ratio: int
) -> None:
    sample = [text(1, 3), visual(tokens), text(0, 2, 4, seed=1), text(0, 1, seed=2)]
    chooser = Listed(ratio)
    losses = condensed_losses(model, sample, chooser, window)
    steps = read(model, sample, ratio, window)
    windows = -(-tokens // window)
    assert len(chooser.asked) == windows and sum(chooser.asked) == tokens
    assert len(losses.sums) == len(steps) == windows + 3
    before, after, last = sample[0], sample[2], sample[3]
    assert isinstance(before, Text) and isinstance(after, Text) and isinstance(last, Text)
    # (step, row) -> the token that follows it
    wanted = {
        (0, 0): before.ids_BS[:, 1],
        (0, 2): before.ids_BS[:, 3],
        (windows, -1): after.ids_BS[:, 0],  # the last visual token
        (windows + 1, 1): after.ids_BS[:, 2],
        (windows + 1, 3): after.ids_BS[:, 4],
        (windows + 1, 4): last.ids_BS[:, 0],
        (windows + 2, 0): last.ids_BS[:, 1],
    }
    sums = [torch.zeros(()) for _ in steps]
    for (step, row), labels_B in wanted.items():
        sums[step] = sums[step] + cross_entropy(model, steps[step][:, row], labels_B)
    torch.testing.assert_close(torch.stack(losses.sums), torch.stack(sums), rtol=1e-5, atol=1e-4)
    counts = [2 * sum(at == step for at, _ in wanted) for step in range(len(steps))]
    assert losses.counts == counts
    torch.testing.assert_close(losses.loss, sum(sums) / 14)


def test_the_first_token_after_a_visual_is_learned_from_the_last_visual_token(
    model: LongtakeModel,
) -> None:
    """Though a summary may stand behind it in the window."""
    sample = [text(), visual(8), text(0, seed=1)]
    losses = condensed_losses(model, sample, Listed(4), 8)
    assert Plan(raw=8, ratio=4).is_summary()[-1]
    assert losses.counts == [0, 2, 0]
    after = sample[2]
    assert isinstance(after, Text)
    features_BD = read(model, sample, 4, 8)[1][:, -1]
    wanted = cross_entropy(model, features_BD, after.ids_BS[:, 0])
    torch.testing.assert_close(losses.sums[1], wanted)


def test_nothing_is_learned_from_ignored_tokens(model: LongtakeModel) -> None:
    """Not even the ids of what follows the last label matter."""
    sample = [text(1), visual(8), text(0, 1, seed=1)]
    other = text(0, 1, seed=1)
    other.ids_BS[:, 2:] = (other.ids_BS[:, 2:] + 1) % SIZES.vocab
    one = condensed_losses(model, sample, Listed(4), 8)
    two = condensed_losses(model, [*sample[:2], other], Listed(4), 8)
    torch.testing.assert_close(one.loss, two.loss, rtol=0, atol=0)
    assert one.counts == two.counts == [2, 2, 2]


@pytest.mark.parametrize(
    ("stretches", "asked", "steps"),
    [
        # (window 8) the last window of a visual that ends the sample gets no ratio
        (["text", 20], [8, 8], 4),
        (["text", 8], [], 2),
        (["text", 16], [8], 3),
        (["text", 20, "text"], [8, 8, 4], 5),
        # of two visuals only the second ends it
        (["text", 8, 12], [8, 8], 4),
        (["text", 12, "text", 8], [8, 4], 5),
    ],
)
def test_a_visual_that_ends_the_sample_leaves_its_last_window_whole(
    model: LongtakeModel,
    monkeypatch: pytest.MonkeyPatch,
    stretches: list[int | str],
    asked: list[int],
    steps: int,
) -> None:
    held: list[condensed.TapeCache] = []

    class Kept(condensed.TapeCache):
        def __init__(self) -> None:
            super().__init__()
            held.append(self)

    monkeypatch.setattr(condensed, "TapeCache", Kept)
    sample = [text(1) if part == "text" else visual(int(part)) for part in stretches]
    chooser = Listed(4)
    losses = condensed_losses(model, sample, chooser, 8)
    assert chooser.asked == asked
    assert len(losses.sums) == steps
    tokens = sum(5 if part == "text" else int(part) for part in stretches)
    # a quarter of what was condensed, all of the rest
    assert held[0].get_seq_length() == tokens - sum(asked) + sum(asked) // 4


def test_carried_tokens_are_one_visuals_own(model: LongtakeModel) -> None:
    """Ten tokens at ratio 4 leave two; the next visual starts to count anew, as `read` does."""
    sample = [text(1), visual(10), visual(10, seed=1), text(0, seed=1)]
    losses = condensed_losses(model, sample, Listed(4), 100)
    after = sample[3]
    assert isinstance(after, Text)
    features_BD = read(model, sample, 4, 100)[2][:, -1]
    torch.testing.assert_close(
        losses.sums[2], cross_entropy(model, features_BD, after.ids_BS[:, 0])
    )


def test_a_late_answer_teaches_the_first_window(model: LongtakeModel) -> None:
    features = visual(24).requires_grad_()
    losses = condensed_losses(model, [text(), features, text(2, 3, seed=1)], Listed(4), 8)
    losses.loss.backward()
    assert features.grad is not None
    for window in features.grad.split(8, 1):
        assert window.abs().max() > 1e-3


def test_places_differ(model: LongtakeModel) -> None:
    sample = [text(), visual(16), text(2, seed=1)]
    apart = [
        float(condensed_losses(model, sample, Listed(4), 8, place).loss.detach())
        for place in ("interleave", "append")
    ]
    assert abs(apart[0] - apart[1]) > 1e-3


def test_rows_of_a_batch_are_apart(model: LongtakeModel) -> None:
    sample = [text(1), visual(20), text(0, 2, seed=1)]
    alone = []
    for row in (0, 1):
        one = [
            Text(part.ids_BS[row : row + 1], part.labels_BS[row : row + 1])
            if isinstance(part, Text)
            else part[row : row + 1]
            for part in sample
        ]
        alone.append(condensed_losses(model, one, Listed(4), 8))
    both = condensed_losses(model, sample, Listed(4), 8)
    sums = [sum(parts) for parts in zip(*(losses.sums for losses in alone), strict=True)]
    torch.testing.assert_close(torch.stack(both.sums), torch.stack(sums), rtol=1e-5, atol=1e-4)
    assert both.counts == [2 * count for count in alone[0].counts]
    assert both.right == alone[0].right + alone[1].right


# -- what is trained ----------------------------------------------------------------------------


def test_only_summaries_are_trained_where_the_rest_is_frozen(model: LongtakeModel) -> None:
    decoder = model.decoder
    assert isinstance(decoder, SummaryDecoder)
    parts = summary_parts(decoder)
    assert set(parts) == {"beacon_embed_tokens"} | {
        f"layers.{layer}.self_attn.beacon_{name}_proj" for layer in (0, 1) for name in "qkv"
    }
    model.requires_grad_(False)
    for part in parts.values():
        part.requires_grad_(True)
    own = {f"decoder.{name}." for name in parts}
    sample = [text(1), visual(24), text(2, 3, seed=1)]
    condensed_losses(model, sample, Listed(4), 8).loss.backward()
    for name, weight in model.named_parameters():
        mine = any(name.startswith(prefix) for prefix in own)
        if not mine:
            assert weight.grad is None, name
        elif "layers.1.self_attn.beacon_q" in name:
            # no one looks at what a summary sees in the last layer
            assert weight.grad is None or not weight.grad.any(), name
        else:
            assert weight.grad is not None and weight.grad.any(), name


def test_a_step_of_training_lowers_the_loss(model: LongtakeModel) -> None:
    """With summaries that begin as the end token, and nothing else trained."""
    decoder = model.decoder
    assert isinstance(decoder, SummaryDecoder)
    begin_summaries(decoder, 3)
    model.requires_grad_(False)
    weights = [w for part in summary_parts(decoder).values() for w in part.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    sample = [text(), visual(24), text(1, 2, 3, 4, seed=1)]
    optimiser = torch.optim.SGD(weights, lr=0.01)
    found = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = condensed_losses(model, sample, Listed(4), 8).loss
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    assert found == sorted(found, reverse=True) and found[0] - found[-1] > 1e-3


# -- curriculum ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "ratios"),
    [
        (0.0, (2,)),
        (0.2499, (2,)),
        (0.25, (2, 4)),
        (0.5, (2, 4, 8)),
        (0.7499, (2, 4, 8)),
        (0.75, (2, 4, 8, 16)),
        (1.0, (2, 4, 8, 16)),
    ],
)
def test_ratios_grow(progress: float, ratios: tuple[int, ...]) -> None:
    assert Curriculum().ratios(progress) == ratios


def test_one_stage_is_the_released_code() -> None:
    released = Curriculum(((0.0, (2, 4, 8)),))
    assert released.ratios(0.0) == released.ratios(1.0) == (2, 4, 8)


@pytest.mark.parametrize(
    "stages", [(), ((0.1, (2,)),), ((0.0, (2,)), (0.5, (4,)), (0.4, (8,)))], ids=str
)
def test_stages_that_cannot_be(stages: tuple[tuple[float, tuple[int, ...]], ...]) -> None:
    with pytest.raises(OptionError, match="must start at 0 and rise") as raised:
        Curriculum(stages)
    assert "\n" not in str(raised.value)
