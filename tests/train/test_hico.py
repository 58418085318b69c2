"""VideoChat-Flash's training step: which text becomes which labels, and a loss that batches.

The numbers themselves are the original's: tests/parity/videochat_flash_train.py. B batch, S
sequence, N visual tokens, D width.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.errors import CheckpointError, LongtakeError, OptionError, PromptError
from longtake.folder import Tokenizer, load_tokenizer
from longtake.model import LongtakeModel, blueprint, build
from longtake.parts.chat import PLACEHOLDER, QWEN_1_5
from longtake.parts.dropping import Kind, Schedule
from longtake.parts.qwen2 import DecoderConfig
from longtake.parts.rope import Rope
from longtake.parts.splice import IMAGE_ID, flat_ids, pieces_of
from longtake.parts.vit import ViTConfig
from longtake.train.dialogue import IGNORED
from longtake.train.hico import (
    Said,
    Sample,
    Tokens,
    batch_of,
    expand,
    hico_loss,
    next_labels,
    plain_tokens,
    read_batch,
    said,
    tokens_of,
)
from longtake.types import VisualTokens

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "videochat_flash"
TABLE: dict[str, list[dict[str, Any]]] = json.loads((GOLDEN / "text.json").read_text("utf-8"))

SIZES = DecoderConfig(
    hidden=32,
    layers=4,
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
CLOSE = {"rtol": 1e-5, "atol": 2e-5}
"""Sums of fp32 in another order."""
MESSAGE = "\nThe video lasts for 8.00 seconds, and 8 frames are uniformly sampled from it. "


@lru_cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(GOLDEN / "ckpt-umt224")


def encode(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def talk(*words: str) -> list[Said]:
    """Questions and answers in turn."""
    return [Said("gpt" if number % 2 else "human", text) for number, text in enumerate(words)]


# -- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLE["train"], ids=range(len(TABLE["train"])))
def test_text_and_labels_are_the_originals(row: dict[str, Any]) -> None:
    conversation = [said(record) for record in row["conversations"]]
    expanded = expand(conversation, row["time_msg"])
    assert [{"from": one.who, "value": one.words} for one in expanded] == row["expanded"]
    tokens = tokens_of(expanded, tokenizer())
    assert list(tokens.ids) == row["input_ids"]
    assert list(tokens.labels) == row["labels"]


@pytest.mark.parametrize("row", TABLE["prompts"], ids=range(len(TABLE["prompts"])))
def test_prompts_are_the_originals(row: dict[str, Any]) -> None:
    words = [text for _, text in row["history"] or ()]
    history = list(zip(words[::2], words[1::2], strict=True))
    prompt = QWEN_1_5.prompt(row["user"], history)
    assert prompt == row["prompt"]
    visual = VisualTokens(features_ND=torch.zeros(1, 2), counts=(1,), seconds=(0.0,))
    visuals = [visual] * prompt.count(PLACEHOLDER)
    assert flat_ids(pieces_of(prompt, visuals, encode)) == row["input_ids"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("<image>\nWhat?", f"<image>{MESSAGE}\nWhat?"),
        ("<image>What?", f"<image>{MESSAGE}What?"),
        ("What?\n<image>", f"<image>{MESSAGE}\nWhat?"),
        (" <image>\nWhat? ", f"<image>{MESSAGE}\nWhat?"),
        ("<image>\nWhat? ", f"<image>{MESSAGE}\nWhat? "),  # only what is moved is stripped
        ("<image>", f"<image>{MESSAGE}"),
        (" <image>", f"<image>{MESSAGE}"),
        ("a <image> b <image>", "a <image> b <image>"),
        (" What? ", " What? "),
        ("", ""),
    ],
)
def test_where_the_time_message_goes(words: str, wanted: str) -> None:
    assert [one.words for one in expand(talk(words, "So."), MESSAGE)] == [wanted, "So."]
    without = wanted.replace(MESSAGE, "")
    assert expand(talk(words), "")[0].words == without


def test_a_second_epoch_reads_the_same() -> None:
    """Where the original, which writes into its records, would have two messages."""
    conversation = talk("What? <image>", "So.")
    first = expand(conversation, MESSAGE)
    assert conversation == talk("What? <image>", "So.")
    assert expand(conversation, MESSAGE) == first
    assert expand(first, MESSAGE)[0].words.count("The video lasts") == 2


def test_the_message_goes_where_the_placeholder_is() -> None:
    words = [one.words for one in expand(talk("Hi", "Yes?", "See <image>", "So."), MESSAGE)]
    assert words == ["Hi", "Yes?", f"<image>{MESSAGE}\nSee", "So."]


def test_what_is_learned() -> None:
    """Answers with header and end, and scaffold everywhere: pieced together from their texts."""
    newline, start, end = (encode(text)[0] for text in ("\n", "<|im_start|>", "<|im_end|>"))
    tokens = tokens_of(talk("a\nb", "c\nd", "e", "f"), tokenizer())
    wanted: list[int] = []
    for text, learned in (
        ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", False),
        ("<|im_start|>user\na\nb<|im_end|>\n", False),
        ("<|im_start|>assistant\nc\nd<|im_end|>\n", True),
        ("<|im_start|>user\ne<|im_end|>\n", False),
        ("<|im_start|>assistant\nf<|im_end|>\n", True),
    ):
        scaffold = (newline, start, end)
        wanted += [i if learned or i in scaffold else IGNORED for i in encode(text)]
    assert list(tokens.labels) == wanted
    # of the words asked, only the newline between them
    assert wanted.count(newline) == 4 * 5 + 2 - 2 * 5 - 2 + 2


def test_a_placeholder_in_an_answer_is_not_learned() -> None:
    tokens = tokens_of(talk("Which?", "This: <image>."), tokenizer())
    place = tokens.ids.index(IMAGE_ID)
    assert tokens.labels[place] == IGNORED
    assert tokens.labels[place + 1 :] == tokens.ids[place + 1 :]
    assert tokens.labels[place - 1] == tokens.ids[place - 1]


def test_a_leading_answer_is_left_out_once() -> None:
    spoken = talk("ok", "fine")
    assert tokens_of([Said("gpt", "I speak first."), *spoken], tokenizer()) == tokens_of(
        spoken, tokenizer()
    )
    twice = tokens_of([Said("gpt", "a"), Said("gpt", "b"), *spoken], tokenizer())
    assert len(twice.ids) == len(tokens_of(spoken, tokenizer()).ids) + len(
        encode("<|im_start|>assistant\nb<|im_end|>\n")
    )


def test_plain_text_is_visual_caption_newline() -> None:
    tokens = plain_tokens(expand(talk("<image>\nDescribe it.", " A bike "), MESSAGE), tokenizer())
    caption = encode(" A bike \n")
    assert list(tokens.ids) == [IMAGE_ID, *caption]
    assert list(tokens.labels) == [IGNORED, *caption]
    # what is asked does not matter
    assert tokens == plain_tokens(talk("<image>", " A bike "), tokenizer())


class Split:
    """A tokenizer that writes a newline with two tokens."""

    def encode(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False
    ) -> list[int]:
        return [0] * 2 if text == "\n" else [1]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        raise NotImplementedError

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: said({"from": "gpt"}), PromptError, "holds 'from'; expected 'from' and 'value'"),
        (lambda: said({}), PromptError, "holds nothing"),
        (lambda: said({"from": "user", "value": ""}), PromptError, "'user', expected 'human' or"),
        (lambda: said({"from": "gpt", "value": 3}), PromptError, "must be text, got int"),
        (lambda: tokens_of([], tokenizer()), PromptError, "has no answer to learn"),
        (lambda: tokens_of(talk("Hi"), tokenizer()), PromptError, "has no answer to learn"),
        (lambda: tokens_of([Said("gpt", "a")], tokenizer()), PromptError, "has no answer"),
        (lambda: tokens_of(talk("a", "b"), Split()), CheckpointError, r"2 tokens of '\\n'"),
        (lambda: plain_tokens(talk("Hi", "b"), tokenizer()), PromptError, "the plain form needs"),
        (lambda: plain_tokens(talk("<image>"), tokenizer()), PromptError, "the plain form needs"),
        (
            lambda: plain_tokens(talk("<image>", "a", "b", "c"), tokenizer()),
            PromptError,
            "the plain form needs",
        ),
        (
            lambda: plain_tokens(talk("<image>", "a <image>"), tokenizer()),
            PromptError,
            "leave <image> out of the caption",
        ),
        (lambda: Tokens(ids=(1, 2), labels=(1,)), PromptError, "2 ids have 1 labels"),
        (lambda: Tokens(ids=(IMAGE_ID,), labels=(3,)), PromptError, "a placeholder is labelled"),
        (lambda: Tokens(ids=(), labels=()), PromptError, "no tokens"),
    ],
)
def test_text_that_cannot_be(make: Any, kind: type[LongtakeError], words: str) -> None:
    with pytest.raises(kind, match=words) as raised:
        make()
    assert "\n" not in str(raised.value)


# -- samples ------------------------------------------------------------------------------------


@pytest.fixture
def model() -> LongtakeModel:
    torch.manual_seed(2)
    model = build(blueprint(TOWER, SIZES))
    for weight in model.decoder.parameters():
        torch.nn.init.normal_(weight, std=1.0 if weight.ndim == 1 else weight.shape[-1] ** -0.5)
    torch.nn.init.normal_(model.lm_head.weight)
    return model


def sample(tokens: int, place: int | None = None, visual: int = 0, seed: int = 0) -> Sample:
    """Random text with every third token learned, a visual in place of token `place`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, SIZES.vocab, (tokens,), generator=generator).tolist()
    labels = [i if number % 3 == 2 else IGNORED for number, i in enumerate(ids)]
    features_ND = None
    if place is not None:
        ids[place], labels[place] = IMAGE_ID, IGNORED
        features_ND = torch.randn(visual, SIZES.hidden, generator=generator).requires_grad_()
    return Sample(tokens=Tokens(ids=tuple(ids), labels=tuple(labels)), features_ND=features_ND)


def schedule(kind: Kind = "attention") -> Schedule:
    return Schedule(kind=kind, layers=(1, 2), ratios=(1.0, 0.5, 0.25))


def grads(model: LongtakeModel, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Gradients of weights and features by name; then none is left."""
    found = {name: weight for name, weight in model.named_parameters() if weight.grad is not None}
    for number, one in enumerate(samples):
        if one.features_ND is not None:
            found[f"features {number}"] = one.features_ND
    taken = {}
    for name, weight in found.items():
        assert weight.grad is not None, name
        taken[name], weight.grad = weight.grad, None
    return taken


def written_out(model: LongtakeModel, one: Sample) -> tuple[Tensor, int]:
    """The summed loss of a sample and its labelled tokens, token by token, without dropping."""
    ids, labels = one.tokens.ids, one.tokens.labels
    rows: list[Tensor] = []
    targets: list[int] = []
    for i, label in zip(ids, labels, strict=True):
        if i == IMAGE_ID:
            assert one.features_ND is not None
            rows += one.features_ND
            targets += [IGNORED] * len(one.features_ND)
        else:
            rows.append(model.embed(torch.tensor(i)))
            targets.append(label)
    logits_SV = model(inputs_embeds=torch.stack(rows)[None]).logits[0]
    shares_SV = logits_SV - logits_SV.exp().sum(-1, keepdim=True).log()
    learned = [(n, target) for n, target in enumerate(targets) if n and target != IGNORED]
    return -torch.stack([shares_SV[n - 1, target] for n, target in learned]).sum(), len(learned)


@pytest.mark.parametrize(
    "one",
    [
        sample(11, 4, 9),
        sample(11, 0, 9, seed=1),
        sample(11, 10, 9, seed=2),  # nothing follows the visual
        sample(11, seed=3),
        sample(3, 1, 1, seed=4),
    ],
    ids=["middle", "first", "last", "text", "short"],
)
def test_the_loss_written_out(model: LongtakeModel, one: Sample) -> None:
    losses = hico_loss(model, [one])
    total, count = written_out(model, one)
    assert losses.counts == [count]
    torch.testing.assert_close(losses.sums[0], total, **CLOSE)
    torch.testing.assert_close(losses.loss, total / count, **CLOSE)
    total.backward()
    wanted = grads(model, [one])
    losses.sums[0].backward()
    for name, grad in grads(model, [one]).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-4, msg=name)


def test_labels_are_shifted_once() -> None:
    labels = torch.tensor([[5, IGNORED, 7], [8, 9, IGNORED]])
    assert next_labels(labels).tolist() == [[IGNORED, 7, IGNORED], [9, IGNORED, IGNORED]]


MIXED: dict[str, list[tuple[int, int | None, int]]] = {
    "two visuals": [(13, 4, 17), (8, 2, 9)],
    "shorter first": [(8, 2, 9), (13, 4, 17)],
    # of 18, 29 and 6 tokens; of the second 20 and then 16 are left
    "text beside": [(18, None, 0), (13, 4, 17), (6, None, 0)],
    "one length": [(12, 4, 16), (12, 7, 16)],
    "text alone": [(9, None, 0), (6, None, 0)],
}
"""Tokens, the place of the visual and its tokens."""


def mixed(name: str) -> list[Sample]:
    return [sample(*given, seed=seed) for seed, given in enumerate(MIXED[name])]


@pytest.mark.parametrize(
    "drops", [None, *map(schedule, ("attention", "uniform", "uniform0_attention"))], ids=str
)
@pytest.mark.parametrize("name", MIXED)
def test_a_batch_is_its_samples(model: LongtakeModel, name: str, drops: Schedule | None) -> None:
    samples = mixed(name)
    alone, kept = [], []
    for one in samples:
        losses = hico_loss(model, [one], drops)
        losses.sums[0].backward()
        alone.append(losses)
        kept.append(read_batch(model, batch_of(model, [one]), drops).kept)
    wanted = grads(model, samples)
    both = hico_loss(model, samples, drops)
    both.sums[0].backward()
    found = grads(model, samples)
    torch.testing.assert_close(both.sums[0], sum(losses.sums[0] for losses in alone), **CLOSE)
    assert both.counts == [sum(losses.counts[0] for losses in alone)]
    assert both.right == sum(losses.right for losses in alone)
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-4, msg=name)
    stays = read_batch(model, batch_of(model, samples), drops).kept
    for drop, rows in enumerate(stays):
        for row, stay_K in enumerate(rows):
            assert stay_K.tolist() == kept[row][drop][0].tolist()
    assert len(stays) == (0 if drops is None else 2)


@pytest.mark.parametrize("drops", [None, schedule()], ids=["whole", "dropped"])
def test_gradients_reach_everything(model: LongtakeModel, drops: Schedule | None) -> None:
    """Tokens that are dropped were looked at before that."""
    one = sample(13, 4, 17)
    hico_loss(model, [one], drops).loss.backward()
    assert one.features_ND is not None and one.features_ND.grad is not None
    assert one.features_ND.grad.abs().amax(1).min() > 1e-4
    for name, weight in model.named_parameters():
        if name.startswith(("decoder.", "lm_head.")):
            assert weight.grad is not None and weight.grad.any(), name


def test_text_is_not_dropped(model: LongtakeModel) -> None:
    """And its labels stay with it."""
    samples = [sample(13, 4, 17), sample(9, seed=1)]
    done = read_batch(model, batch_of(model, samples), schedule())
    assert done.features_BSD.shape[:2] == done.labels_BS.shape == (2, 12 + 4)
    first, second = (one.tokens.labels for one in samples)
    labels = done.labels_BS.tolist()
    assert labels[0] == [*first[:4], *[IGNORED] * 4, *first[5:]]
    assert labels[1] == [*second, *[IGNORED] * 7]
    # four that precede the visual, half of it rounded down, all behind it; then a quarter of it
    assert [len(rows[0]) for rows in done.kept] == [12 + 8, 12 + 4]
    for rows in done.kept:
        assert rows[0][:4].tolist() == [0, 1, 2, 3]
    assert done.kept[1][0][-8:].tolist() == list(range(12, 20))
    assert [rows[1].tolist() for rows in done.kept] == [list(range(9))] * 2


def test_nothing_asks_where_nothing_is_learned(model: LongtakeModel) -> None:
    """The original drops nothing then, and there is nothing to learn here either."""
    tokens = Tokens(ids=(1, IMAGE_ID, 2), labels=(IGNORED,) * 3)
    one = Sample(tokens=tokens, features_ND=torch.randn(8, SIZES.hidden))
    assert read_batch(model, batch_of(model, [one]), schedule()).features_BSD.shape[1] == 10
    losses = hico_loss(model, [one], schedule())
    with pytest.raises(OptionError, match="no token of the sample is labelled"):
        _ = losses.loss


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("drops", [None, schedule()], ids=["whole", "dropped"])
def test_gradient_checkpointing_changes_nothing(
    model: LongtakeModel, drops: Schedule | None
) -> None:
    samples = mixed("text beside")
    model.train()
    plain = hico_loss(model, samples, drops)
    plain.loss.backward()
    wanted = grads(model, samples)
    model.gradient_checkpointing_enable()
    runs: list[int] = []
    for number, layer in enumerate(model.decoder.layers):
        assert layer.gradient_checkpointing
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: runs.append(number))
    again = hico_loss(model, samples, drops)
    again.loss.backward()
    found = grads(model, samples)
    assert runs == [0, 1, 2, 3, 3, 2, 1, 0]  # each layer ran twice
    torch.testing.assert_close(again.loss, plain.loss, rtol=0, atol=0)
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=0, atol=0, msg=name)


def test_steps_of_training_lower_the_loss(model: LongtakeModel) -> None:
    samples = mixed("two visuals")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.002)
    found = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = hico_loss(model, samples, schedule()).loss
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    assert found == sorted(found, reverse=True) and found[-1] < found[0] - 0.1


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda _: sample(5, 1, 0), PromptError, r"features must be \[N, D\], got \[0, 32\]"),
        (
            lambda _: Sample(
                tokens=Tokens(ids=(IMAGE_ID, 1), labels=(IGNORED, 1)),
                features_ND=torch.zeros(2, 3, SIZES.hidden),
            ),
            PromptError,
            r"features must be \[N, D\], got \[2, 3, 32\]",
        ),
        (
            lambda _: Sample(tokens=Tokens(ids=(IMAGE_ID, 1), labels=(IGNORED, 1))),
            PromptError,
            "1 <image> placeholders for 0 visuals",
        ),
        (
            lambda _: Sample(
                tokens=Tokens(ids=(IMAGE_ID, IMAGE_ID, 1), labels=(IGNORED, IGNORED, 1)),
                features_ND=torch.zeros(2, SIZES.hidden),
            ),
            PromptError,
            "2 <image> placeholders for 1 visuals",
        ),
        (
            lambda _: Sample(
                tokens=Tokens(ids=(1,), labels=(1,)), features_ND=torch.zeros(2, SIZES.hidden)
            ),
            PromptError,
            "0 <image> placeholders for 1 visuals",
        ),
        (
            lambda model: hico_loss(
                model,
                [
                    Sample(
                        tokens=Tokens(ids=(IMAGE_ID, 1), labels=(IGNORED, 1)),
                        features_ND=torch.zeros(2, 8),
                    )
                ],
            ),
            PromptError,
            "features are 8 wide, the decoder 32",
        ),
        (lambda model: hico_loss(model, []), PromptError, "the batch is empty"),
        (
            lambda model: hico_loss(
                model, [sample(5, 1, 4)], Schedule(layers=(4,), ratios=(1.0, 0.5))
            ),
            OptionError,
            "drop after layer 4 leaves none of the model's 4 layers",
        ),
    ],
)
def test_batches_that_cannot_be(
    model: LongtakeModel, make: Any, kind: type[LongtakeError], words: str
) -> None:
    with pytest.raises(kind, match=words) as raised:
        make(model)
    assert "\n" not in str(raised.value)


def test_the_loss_is_plain_cross_entropy(model: LongtakeModel) -> None:
    """`written_out` above, against torch's."""
    one = sample(9)
    ids, labels = (torch.tensor(part) for part in (one.tokens.ids, one.tokens.labels))
    logits_SV = model(input_ids=ids[None]).logits[0]
    wanted = F.cross_entropy(logits_SV[:-1], labels[1:], reduction="sum")
    torch.testing.assert_close(written_out(model, one)[0], wanted, **CLOSE)
