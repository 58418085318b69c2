"""The one model class: tower + projector + decoder + head in a transformers shell.

The shell gives loading, saving, adapters, quantisation and `generate`; the forward is ours. The
engine (`engine.py`) is the usual way to run it.

Letters: T frames, P patches, B batch, S sequence, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from longtake.errors import PromptError
from longtake.parts.attention import padded_causal
from longtake.parts.cache import GrowingCache
from longtake.parts.projector import Projector
from longtake.parts.qwen2 import Between, Decoder, DecoderConfig, Step
from longtake.parts.rope import Rope
from longtake.parts.vit import ViT, ViTConfig

M = TypeVar("M", bound=nn.Module)


class LongtakeConfig(PreTrainedConfig):
    """What `generate` and the loader ask of a config; the sizes are in our dataclasses."""

    model_type = "longtake"

    @classmethod
    def of(cls, decoder: DecoderConfig, tied: bool) -> LongtakeConfig:
        """A config for these sizes."""
        config = cls()
        config.tie_word_embeddings = tied
        config.vocab_size = decoder.vocab
        config.hidden_size = decoder.hidden
        config.num_hidden_layers = decoder.layers
        config.num_attention_heads = decoder.heads
        config.num_key_value_heads = decoder.kv_heads
        config.head_dim = decoder.head_dim
        return config


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What a system's model is made of; factories, so that it can be built without memory first."""

    tower: Callable[[], nn.Module]
    projector: Callable[[], nn.Module]
    decoder: Callable[[], nn.Module]
    sizes: DecoderConfig
    """The decoder's sizes."""
    tied: bool = False
    """The head is the embedding."""
    newline: bool = False
    """One more vector is learned, which ends rows of pictures, frames or videos."""


class LongtakeModel(PreTrainedModel, GenerationMixin):
    """A vision tower whose features a language model reads."""

    config_class = LongtakeConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _tied_weights_keys = {  # noqa: RUF012 - the host declares it as an instance variable
        "lm_head.weight": "decoder.embed_tokens.weight"
    }
    _no_split_modules = ["Layer", "Block"]  # noqa: RUF012 - likewise
    _supports_sdpa = True

    def __init__(self, config: LongtakeConfig, blueprint: Blueprint) -> None:
        super().__init__(config)
        self.tower = blueprint.tower()
        self.projector = blueprint.projector()
        self.decoder = blueprint.decoder()
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.image_newline: nn.Parameter | None = None
        if blueprint.newline:
            width = config.hidden_size
            self.image_newline = nn.Parameter(torch.randn(width) * width**-0.5)
        self.usable_vocab = config.vocab_size
        """Rows of the head that stand for a token; published heads have untrained rows."""
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def compute_dtype(self) -> torch.dtype:
        """fp32 on CPU whatever the weights are (docs/design.md), else the weights' dtype."""
        return torch.float32 if self.device.type == "cpu" else self.dtype

    @property
    def rope(self) -> Rope:
        """How positions become angles."""
        return cast(Decoder, self.decoder).config.rope

    def positioned(self, rope: Rope) -> Self:
        """The same weights, shared and not copied, with other positions; this model stays."""
        made, decoder = shallow(self), shallow(cast(Decoder, self.decoder))
        decoder.config = replace(decoder.config, rope=rope)
        made.decoder = decoder
        return made

    @property
    def newline(self) -> Tensor:
        """What ends a row of pictures, [D], in a model that has it."""
        if self.image_newline is None:
            raise PromptError("this model has learned no newline between pictures")
        return self.image_newline.detach().to(self.compute_dtype)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return cast(nn.Module, self.decoder.embed_tokens)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> embeddings [..., D] in the compute dtype."""
        return self.get_input_embeddings()(ids).to(self.compute_dtype)

    @property
    def frames_at_once(self) -> int:
        """Frames the tower should see at a time; more take memory and save nothing."""
        return cast(ViT, self.tower).config.frames_at_once if self.device.type == "cpu" else 10**6

    def look(self, pixels_TCHW: Tensor) -> Tensor:
        """Normalised pixels [T, 3, H, W] -> tower features [T, P, Dv], before the projector."""
        return self.tower(pixels_TCHW.to(self.device, self.compute_dtype))

    def look_whole(self, pixels_TCHW: Tensor) -> tuple[Tensor, Tensor]:
        """As `look`, with the tower's class tokens [T, Dv] in front."""
        tower = cast(ViT, self.tower)
        return tower.whole(pixels_TCHW.to(self.device, self.compute_dtype))

    def project(self, features_TPD: Tensor) -> Tensor:
        """Tower features [T, P, Dv] -> visual features [T, P, D]."""
        return self.projector(features_TPD)

    def logits(self, features: Tensor) -> Tensor:
        """Decoder features [..., D] -> logits [..., V], fp32, over the usable rows only."""
        weight = self.lm_head.weight[: self.usable_vocab].to(features.dtype)
        return F.linear(features, weight).float()

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        *,
        logits_to_keep: int | Tensor = 0,
        between: Between | None = None,
        **unused: Any,
    ) -> CausalLMOutputWithPast:
        """transformers' calling convention; `between` is the decoder's seam.

        `inputs_embeds` [B, S, D] or `input_ids` [B, S]; a 2-D `attention_mask` [B, past + S] marks
        padding.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise PromptError("forward needs input_ids or inputs_embeds, got neither")
            inputs_embeds = self.embed(input_ids)
        x_BSD = inputs_embeds
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            stop = past + x_BSD.shape[1]
            position_ids = torch.arange(past, stop, device=x_BSD.device).expand(len(x_BSD), -1)
        step = Step(
            positions_BS=position_ids,
            cache=past_key_values,
            mask_BSN=padding_mask(attention_mask, x_BSD.shape[1]),
        )
        if between is None and isinstance(past_key_values, GrowingCache):
            between = past_key_values.between
        features_BSD = self.decoder(x_BSD, step, between)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(
            logits=self.logits(features_BSD[:, keep]), past_key_values=past_key_values
        )

    def new_cache(self, reserve: int = 0) -> GrowingCache:
        """An empty cache with room for `reserve` tokens."""
        return GrowingCache(reserve)


def shallow(module: M) -> M:
    """A module of its own over the same children and weights."""
    made = copy.copy(module)
    # nn.Module keeps children, weights and hooks in dicts, which are still the first one's
    own = {name: copy.copy(held) for name, held in vars(made).items() if isinstance(held, dict)}
    vars(made).update(own)
    return made


def padding_mask(attention_mask_BN: Tensor | None, queries: int) -> Tensor | None:
    """Causal mask [B, S, N] of a padded batch; None where nothing is padded (plain causal)."""
    if attention_mask_BN is None:
        return None
    if attention_mask_BN.ndim != 2:
        shape = tuple(attention_mask_BN.shape)
        raise PromptError(f"attention_mask must mark padding, [batch, keys], got shape {shape}")
    if bool(attention_mask_BN.all()):
        return None
    return padded_causal(attention_mask_BN.bool(), queries)


def blueprint(
    tower: ViTConfig, decoder: DecoderConfig, depth: int = 2, tied: bool = False
) -> Blueprint:
    """The common case: a ViT, a projector of `depth` linears and a Qwen2 decoder."""
    return Blueprint(
        tower=lambda: ViT(tower),
        projector=lambda: Projector(tower.hidden, decoder.hidden, depth),
        decoder=lambda: Decoder(decoder),
        sizes=decoder,
        tied=tied,
    )


def build(plan: Blueprint) -> LongtakeModel:
    """A model with random weights (training from scratch, tests)."""
    model = LongtakeModel(LongtakeConfig.of(plan.sizes, plan.tied), plan)
    model.tie_weights()
    return model
