"""Simple methods that the founding papers are compared with: a linear SVM of whole videos, and the inner bag loss."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ...errors import UsageError
from . import Batch, Losses, Method, Scores, Settings
from .deepmil import DeepMil, DeepMilSettings, bag_maxima, crop_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class SvmSettings(Settings):
    """How the linear SVM is trained. Sultani et al. 2018, section 5.3, names the method and a linear kernel, no more.

    It minimises ``regularisation / 2 * |w|**2`` plus the mean hinge of the bags of a batch (S. Shalev-Shwartz et al.
    2007, Eq. 1), where ``regularisation`` is 1 over the C of other SVMs and the number of bags: 1e-3 is C = 1 for a
    thousand. ``learning_rate`` 0.01 is Adam's at first; in iteration t it is ``1 + t / slowing`` times smaller.

    Raises
    ------
    UsageError
        if a value cannot be meant.
    """

    iterations: int = 2000
    regularisation: float = 1e-3
    learning_rate: float = 1e-2
    slowing: float = 100.0

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.regularisation < 0 or self.learning_rate <= 0 or self.slowing <= 0:
            msg = (
                f"regularisation is {self.regularisation}, learning_rate {self.learning_rate}, slowing {self.slowing}; "
                "give a regularisation of 0 or more, and others above 0"
            )
            raise UsageError(msg)


class Hyperplane(nn.Module):
    """Signed distance from a plane, in units of the margin: ``(..., feature)`` -> ``(...)``. It starts at 0."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        return cast("Tensor", self.layer(features)).squeeze(-1)


def video_means(features: Tensor, mask: Tensor) -> Tensor:
    """Give each bag's mean feature over its segments: ``(bag, segment, feature)`` -> ``(bag, feature)``."""
    return (features * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class LinearSvm(Method):
    """The binary classifier of Sultani et al. 2018, table 3: trained on whole videos, it scores each segment.

    A segment's score is the logistic function of its distance, which ranks as a probability would; it is not
    calibrated.
    """

    settings_class = SvmSettings
    rule = "sultani"
    settings: SvmSettings

    def network(self, dim: int) -> Hyperplane:
        return Hyperplane(dim)

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        del phase
        distances = network(video_means(crop_mean(batch.features), batch.mask))
        # Only the weights are held small, not the offset.
        weights = torch.cat([p.flatten() for name, p in network.named_parameters() if name.endswith("weight")])
        return Losses(
            {
                "hinge": torch.relu(1 - (2 * batch.labels - 1) * distances).mean(),
                "weights": self.settings.regularisation / 2 * weights.square().sum(),
            }
        )

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        return Scores(segments=network(crop_mean(features)).sigmoid())

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        return {"all": Adam(network.parameters(), lr=self.settings.learning_rate)}

    def pace(self, iteration: int) -> float:
        return 1 / (1 + iteration / self.settings.slowing)


@dataclass(frozen=True, slots=True, kw_only=True)
class CiblSettings(DeepMilSettings):
    """How the inner bag loss is trained: as `DeepMilSettings`, with ``inner`` 1.0, which weighs it beside DeepMIL's.

    J. Zhang, L. Qing, J. Miao 2019 give the idea in the abstract, which is all of it that is followed here: the weight,
    the margin of 1 and what stands beside it are vadx's, and so is the network, in the paper a temporal convolution.
    """

    inner: float = 1.0


def inner_bag_loss(anomalous: Tensor, normal: Tensor) -> Tensor:
    """Give the mean of ``max(0, 1 - gap)`` over anomalous bags plus the mean gap of normal ones, of gaps ``(bag,)``."""
    return torch.relu(1 - anomalous).mean() + normal.mean()


def bag_gaps(scores: Tensor, mask: Tensor) -> Tensor:
    """Give the highest less the lowest score of each bag: ``scores`` and ``mask (bag, segment)`` -> ``(bag,)``."""
    return bag_maxima(scores, mask) + bag_maxima(-scores, mask)


class Cibl(DeepMil):
    """The complementary inner bag loss: the gap of an anomalous bag shall be wide, that of a normal bag narrow."""

    settings_class = CiblSettings
    variants: ClassVar = MappingProxyType({})
    settings: CiblSettings

    def terms(self, network: nn.Module, batch: Batch, scores: Tensor) -> dict[str, Tensor]:
        gaps = bag_gaps(scores, batch.mask)
        inner = self.settings.inner * inner_bag_loss(gaps[batch.anomalous], gaps[batch.normal])
        return {**super().terms(network, batch, scores), "inner": inner}
