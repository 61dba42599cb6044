"""The network of CSL-TAL: a causal convolution, attention, weighted pooling and a classifier.

A. Panariello et al. 2022, section 3; what is said of the authors' code is read in aimagelab/CSL-TAL, model/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from .align import AlignSettings


class CausalConvolution(nn.Module):
    """A temporal convolution that sees a segment and ``past`` before it: ``(bag, segment, feature)`` -> the same.

    It is the authors' masked convolution of ``2 * past + 1`` taps without those that the mask holds at 0, and its
    weights are drawn as theirs, from the range of all taps. Before a video's start there are zeros.
    """

    def __init__(self, dim: int, past: int) -> None:
        super().__init__()
        self.past = past
        self.convolution = nn.Conv1d(dim, dim, past + 1)
        bound = (dim * (2 * past + 1)) ** -0.5
        nn.init.uniform_(self.convolution.weight, -bound, bound)
        if self.convolution.bias is not None:
            nn.init.uniform_(self.convolution.bias, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        padded = functional.pad(features.transpose(1, 2), (self.past, 0))
        return cast("Tensor", self.convolution(padded)).transpose(1, 2)


class PlainAttention(nn.Module):
    """Fully connected layers with ReLUs between them: ``(..., feature)`` -> logits ``(..., 1)``."""

    def __init__(self, dim: int, settings: AlignSettings) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for units in settings.attention_units:
            layers += [nn.Linear(dim, units), nn.ReLU()]
            dim = units
        self.layers = nn.Sequential(*layers, nn.Linear(dim, 1))

    def forward(self, features: Tensor) -> Tensor:
        return cast("Tensor", self.layers(features))


class GatedAttention(nn.Module):
    """M. Ilse, J. Tomczak, M. Welling 2018, Eq. 9, without the softmax: ``(..., feature)`` -> logits ``(..., 1)``.

    Weights are drawn from a normal distribution of deviation 0.001, as in the authors' code.
    """

    def __init__(self, dim: int, settings: AlignSettings) -> None:
        super().__init__()
        self.content = nn.Linear(dim, settings.gate_units)
        self.gate = nn.Linear(dim, settings.gate_units)
        self.score = nn.Linear(settings.gate_units, 1)
        for layer in (self.content, self.gate, self.score):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        gated = torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features))
        return cast("Tensor", self.score(gated))


class AlignNetwork(nn.Module):
    """Attention, weighted pooling and the classifier g.

    ``features (bag, segment, feature)`` and ``mask (bag, segment)`` -> attention ``(bag, segment)`` in [0, 1], 0 where
    a segment is padding, and the logits of the pooled videos ``(bag,)``. Padding stands after a sequence's segments.
    """

    def __init__(self, dim: int, settings: AlignSettings) -> None:
        super().__init__()
        self.context = CausalConvolution(dim, settings.past)
        attention = GatedAttention if settings.attention == "gated" else PlainAttention
        self.attention = attention(dim, settings)
        self.classifier = nn.Sequential(
            nn.Linear(dim, settings.classifier_units), nn.ReLU(), nn.Linear(settings.classifier_units, 1)
        )
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        attention = torch.sigmoid(self.attention(self.context(features))).squeeze(-1) * mask
        # Eq. 2; not divided by the sum of the weights.
        pooled = torch.einsum("bt,btf->bf", attention, features)
        return attention, self.classifier(pooled).squeeze(-1)

    def activation(self, features: Tensor) -> Tensor:
        """Give the T-CAM of section 3.3, the classifier's output for single segments: ``(..., feature)`` -> ``(...)``.

        It is in [0, 1].
        """
        return torch.sigmoid(self.classifier(features)).squeeze(-1)
