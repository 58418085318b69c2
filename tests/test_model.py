"""The shell: padded batches and generate() against transformers' Qwen2 with the same weights."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from longtake.errors import PromptError
from longtake.model import LongtakeModel, blueprint, build, padding_mask
from longtake.parts.qwen2 import decoder_config
from longtake.parts.rope import Rope
from longtake.parts.vit import ViTConfig

TOWER = ViTConfig(
    hidden=24,
    layers=1,
    heads=2,
    mlp=48,
    image=28,
    patch=14,
    activation="quick_gelu",
    eps=1e-5,
    class_token=True,
)


@pytest.fixture(scope="module")
def pair() -> tuple[Qwen2ForCausalLM, LongtakeModel]:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=90,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    reference = Qwen2ForCausalLM(config).eval()
    model = build(blueprint(TOWER, decoder_config(config.to_dict(), Rope(theta=1e6)))).eval()
    model.decoder.load_state_dict(reference.model.state_dict())
    model.lm_head.load_state_dict(reference.lm_head.state_dict())
    return reference, model


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Three prompts of 9, 6 and 1 tokens, padded on the left."""
    torch.manual_seed(1)
    ids, mask = torch.randint(1, 90, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    for row, pad in ((1, 3), (2, 8)):
        ids[row, :pad], mask[row, :pad] = 0, 0
    return ids, mask


def test_padded_batch_equals_qwen2(pair: tuple[Qwen2ForCausalLM, LongtakeModel]) -> None:
    reference, model = pair
    ids, mask = padded()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        theirs = reference(ids, attention_mask=mask, position_ids=positions).logits
        ours = model(ids, attention_mask=mask, position_ids=positions).logits
    seen = mask.bool()
    torch.testing.assert_close(ours[seen], theirs[seen], rtol=0, atol=1e-6)


def test_batched_generate_equals_qwen2(pair: tuple[Qwen2ForCausalLM, LongtakeModel]) -> None:
    reference, model = pair
    ids, mask = padded()
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **options), reference.generate(ids, **options))
    beams = options | {"num_beams": 3}
    assert torch.equal(model.generate(ids, **beams), reference.generate(ids, **beams))


def test_growing_cache_in_batched_generate(pair: tuple[Qwen2ForCausalLM, LongtakeModel]) -> None:
    _, model = pair
    ids, mask = padded()
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    ours = model.generate(ids, past_key_values=model.new_cache(), **options)
    assert torch.equal(ours, model.generate(ids, **options))


# the new name is younger than the oldest transformers we take
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_gradients_reach_every_part_with_checkpointing() -> None:
    torch.manual_seed(2)
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=50,
    )
    model = build(blueprint(TOWER, decoder_config(config.to_dict(), Rope(theta=1e4))))
    model.train()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(3)
        seen = model.project(model.look(torch.randn(2, 3, 28, 28))).flatten(0, 1)
        words = model.embed(torch.randint(0, 50, (5,)))
        logits = model(inputs_embeds=torch.cat([seen, words])[None]).logits
        logits.logsumexp(-1).sum().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    plain = gradients()
    assert len(plain) == len(list(model.parameters()))
    model.gradient_checkpointing_enable()
    for once, again in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(once, again, rtol=0, atol=1e-6)


def test_usable_vocab_hides_untrained_rows(pair: tuple[Qwen2ForCausalLM, LongtakeModel]) -> None:
    _, model = pair
    features = torch.randn(2, 48)
    every = model.logits(features)
    model.usable_vocab = 70
    try:
        torch.testing.assert_close(model.logits(features), every[:, :70])
    finally:
        model.usable_vocab = 90


def test_padding_mask() -> None:
    assert padding_mask(None, 3) is None
    assert padding_mask(torch.ones(2, 5), 3) is None
    seen = padding_mask(torch.tensor([[0, 1, 1, 1]]), 2)
    assert seen is not None
    assert seen[0].int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 1]]


def test_other_masks_are_refused(pair: tuple[Qwen2ForCausalLM, LongtakeModel]) -> None:
    with pytest.raises(PromptError, match="must mark padding"):
        pair[1](torch.ones(1, 3, dtype=torch.int64), attention_mask=torch.ones(1, 1, 3, 3))


def test_forward_needs_something(pair: tuple[Qwen2ForCausalLM, LongtakeModel]) -> None:
    with pytest.raises(PromptError, match="input_ids or inputs_embeds"):
        pair[1]()
