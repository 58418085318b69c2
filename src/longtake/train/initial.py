"""The bundled model before training: its sizes and its first weights.

The embedding table is drawn at random from a seed of its own and never trained: the decoder learns
to read it and the tower learns to write it, at the same time and without waiting for one another.

V vocabulary, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from longtake.model import LongtakeModel, blueprint, build
from longtake.parts.qwen2 import DecoderConfig
from longtake.parts.rope import Rope
from longtake.parts.vit import ViTConfig

TOWER = ViTConfig(
    hidden=160,
    layers=4,
    heads=4,
    mlp=640,
    image=96,
    patch=12,
    activation="quick_gelu",
    eps=1e-5,
    class_token=True,
)
POOL_STRIDE = 2
TABLE_SEED = 2024


def decoder_sizes(vocabulary: int) -> DecoderConfig:
    """The decoder's sizes."""
    return DecoderConfig(
        hidden=192,
        layers=4,
        heads=4,
        kv_heads=2,
        head_dim=48,
        mlp=384,
        vocab=vocabulary,
        eps=1e-6,
        rope=Rope(theta=1e6),
    )


def new_model(vocabulary: int, seed: int) -> LongtakeModel:
    """A model in fp32 with first weights that depend on the seed alone."""
    model = build(blueprint(TOWER, decoder_sizes(vocabulary), tied=False))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                # what a block adds to the stream starts small, so that depth does not blow it up
                adds = name.endswith(("o_proj", "out_proj", "fc2", "down_proj"))
                spread = module.in_features**-0.5 * (1 / math.sqrt(8) if adds else 1.0)
                module.weight.normal_(0.0, spread, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        weights = dict(model.named_parameters())
        patches = weights["tower.embeddings.patch_embedding.weight"]
        patches.normal_(0.0, patches[0].numel() ** -0.5, generator=generator)
        weights["tower.embeddings.position_embedding.weight"].copy_(
            grid_positions(TOWER.image // TOWER.patch, TOWER.hidden)
        )
        weights["tower.embeddings.class_embedding"].normal_(0.0, 0.5, generator=generator)
        weights["decoder.embed_tokens.weight"].copy_(
            symbol_table(vocabulary, model.config.hidden_size)
        )
    return model


def symbol_table(vocabulary: int, width: int) -> Tensor:
    """Random embeddings [V, D] whose numbers have mean square 1."""
    generator = torch.Generator().manual_seed(TABLE_SEED)
    table_VD = torch.randn(vocabulary, width, generator=generator)
    return table_VD / table_VD.square().mean(1, keepdim=True).sqrt()


def table_of(model: LongtakeModel) -> Tensor:
    """The embedding table [V, D], outside of any gradient."""
    return model.get_input_embeddings().get_parameter("weight").detach()


def grid_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column [1 + side^2, D], so neighbours start out alike."""
    rates = torch.exp(torch.linspace(math.log(0.15), math.log(2.5), width // 4))
    angles = torch.arange(side)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    grid = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return 0.7 * torch.cat([torch.zeros(1, width), grid])
