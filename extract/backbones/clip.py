"""The image tower of CLIP ViT-B/16: Radford et al., "Learning Transferable Visual Models", 2021; openai/CLIP, model.py.

Its names are those of the published file without the prefix ``visual.``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from ...errors import UsageError
from ..key_maps import KeyMap, State

if TYPE_CHECKING:
    from torch import Tensor

DIM = 512
_WIDTH, _PATCH, _SIDE, _LAYERS, _HEADS = 768, 16, 224, 12, 12


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU with which OpenAI trained."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Self-attention over all tokens ``(B, N, width)``. Its names are those of `torch.nn.MultiheadAttention`."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self._num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        split = projected.reshape(*x.shape[:2], 3, self._num_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """One layer of the transformer, normalised before each of its two parts."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, num_heads)
        self.ln_2 = nn.LayerNorm(width)
        parts = (("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width)))
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed


class Transformer(nn.Module):
    """The layers one after another."""

    def __init__(self, width: int, num_heads: int, num_layers: int):
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, num_heads) for _ in range(num_layers)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resblocks(x)
        return out


class ClipViTB16(nn.Module):
    """Maps normalised images ``(B, 3, 224, 224)`` to image embeddings ``(B, 512)``, projected and not normalised."""

    def __init__(self, num_classes: int = 0):
        super().__init__()
        if num_classes:
            msg = "CLIP's image tower has no classifier: num_classes is 0"
            raise UsageError(msg)
        self.num_classes = 0
        scale = _WIDTH**-0.5
        self.conv1 = nn.Conv2d(3, _WIDTH, _PATCH, _PATCH, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(_WIDTH))
        self.positional_embedding = nn.Parameter(scale * torch.randn((_SIDE // _PATCH) ** 2 + 1, _WIDTH))
        self.ln_pre = nn.LayerNorm(_WIDTH)
        self.transformer = Transformer(_WIDTH, _HEADS, _LAYERS)
        self.ln_post = nn.LayerNorm(_WIDTH)
        self.proj = nn.Parameter(scale * torch.randn(_WIDTH, DIM))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(images), 1, -1), patches], dim=1)
        x = self.transformer(self.ln_pre(tokens + self.positional_embedding))
        embeddings: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return embeddings


_PREFIX = "visual."


def _is_whole_clip(keys: Collection[str]) -> bool:
    return f"{_PREFIX}class_embedding" in keys


def _image_tower(state: State) -> dict[str, Tensor]:
    # OpenAI's file holds half precision; what it computes with on a CPU is single.
    return {key.removeprefix(_PREFIX): value.float() for key, value in state.items() if key.startswith(_PREFIX)}


KEY_MAPS = (
    KeyMap(
        name="clip",
        matches=_is_whole_clip,
        convert=_image_tower,
        source="openai/CLIP, clip/model.py; mlfoundations/open_clip, whose ViT-B-16 has the same names",
    ),
)
"""The whole model, of which the text tower is left out."""
