"""RTFM (Y. Tian et al., "Weakly-supervised Video Anomaly Detection with Robust Temporal Feature Magnitude Learning",
ICCV 2021), as its authors' code has it: tianyu0207/RTFM, model.py and train.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ...errors import UsageError
from . import Batch, Losses, Method, Scores, Settings
from .deepmil import smoothness


@dataclass(frozen=True, slots=True, kw_only=True)
class RtfmSettings(Settings):
    """How RTFM is trained. All values are those of the authors' code.

    ``units`` 512 of each of the four branches, ``first_units`` 512 and ``second_units`` 128 of the scoring layers,
    ``dropout`` 0.7, also of which segments may be selected. ``share`` 10: a tenth of the segments, 3 of 32, are
    selected. ``margin`` 100 and ``magnitude`` 1e-4 of the loss of magnitudes, ``sparsity`` 8e-3, ``smoothness`` 8e-4.
    ``over_borders``: the code strings the scores of all anomalous bags together before it takes differences, so that
    the step from one video to the next counts; with False only those within a bag do, as in Sultani et al. 2018, Eq. 7.

    ``learning_rate`` 1e-3 and ``weight_decay`` 5e-3 of Adam; 32 ``normal_bags`` and ``anomalous_bags``; 15,000
    ``iterations``, of which the code keeps the one best on the test set.

    Raises
    ------
    UsageError
        if a value cannot be meant.
    """

    normal_bags: int = 32
    anomalous_bags: int = 32
    iterations: int = 15_000
    units: int = 512
    first_units: int = 512
    second_units: int = 128
    dropout: float = 0.7
    share: int = 10
    margin: float = 100.0
    magnitude: float = 1e-4
    sparsity: float = 8e-3
    smoothness: float = 8e-4
    over_borders: bool = True
    learning_rate: float = 1e-3
    weight_decay: float = 5e-3

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.normal_bags != self.anomalous_bags:
            msg = f"{self.normal_bags} normal and {self.anomalous_bags} anomalous bags make no pairs; give equally many"
            raise UsageError(msg)
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0 or self.share < 1:
            msg = (
                f"dropout is {self.dropout}, learning_rate {self.learning_rate}, share {self.share}; give a dropout in "
                "[0, 1), a learning rate above 0 and a share of 1 or more"
            )
            raise UsageError(msg)


class NonLocal(nn.Module):
    """Adds to each segment a mixture of all, by the dot products of their embeddings over their number.

    ``(bag, channel, segment)`` -> the same. It starts as the identity: the last layer's scale is 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.value = nn.Conv1d(channels, inner, 1)
        self.query = nn.Conv1d(channels, inner, 1)
        self.key = nn.Conv1d(channels, inner, 1)
        self.back = nn.Conv1d(inner, channels, 1)
        self.scale = nn.BatchNorm1d(channels)
        nn.init.zeros_(self.scale.weight)

    def forward(self, values: Tensor) -> Tensor:
        weights = self.query(values).transpose(1, 2) @ self.key(values) / values.shape[2]
        mixed = weights @ self.value(values).transpose(1, 2)
        added: Tensor = self.scale(self.back(mixed.transpose(1, 2)))
        return added + values


class RtfmNetwork(nn.Module):
    """The multi-scale temporal network, and the layers that score a segment.

    ``(bag, segment, crop, feature)`` -> encoded features ``(bag, crop, segment, feature)`` and the scores
    ``(bag, segment)`` in [0, 1], the mean over crops.
    """

    def __init__(self, dim: int, settings: RtfmSettings) -> None:
        super().__init__()
        units = settings.units
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv1d(dim, units, 3, dilation=step, padding=step), nn.ReLU(), nn.BatchNorm1d(units))
            for step in (1, 2, 4)
        )
        self.whole = nn.Sequential(nn.Conv1d(dim, units, 1, bias=False), nn.ReLU(), NonLocal(units))
        self.joined = nn.Sequential(nn.Conv1d(4 * units, dim, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm1d(dim))
        self.dropout = nn.Dropout(settings.dropout)
        self.scoring = nn.Sequential(
            nn.Linear(dim, settings.first_units),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.first_units, settings.second_units),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.second_units, 1),
            nn.Sigmoid(),
        )
        for layer in self.modules():
            if isinstance(layer, (nn.Conv1d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        bags, segments, crops, dim = features.shape
        values = features.permute(0, 2, 3, 1).reshape(bags * crops, dim, segments)
        branches = torch.cat([*(scale(values) for scale in self.scales), self.whole(values)], dim=1)
        encoded = self.dropout((self.joined(branches) + values).transpose(1, 2))
        scores = self.scoring(encoded).view(bags, crops, segments).mean(dim=1)
        return encoded.view(bags, crops, segments, dim), scores


def magnitudes(encoded: Tensor) -> Tensor:
    """Give each segment's length, the mean over crops: ``(bag, crop, segment, feature)`` -> ``(bag, segment)``."""
    lengths: Tensor = encoded.norm(dim=3)
    return lengths.mean(dim=1)


def selected(lengths: Tensor, mask: Tensor, keep: Tensor, count: int) -> Tensor:
    """Give the ``count`` segments of each bag with the largest length times ``keep``: ``(bag, count)``.

    ``lengths``, ``mask`` and ``keep`` are ``(bag, segment)``; padding is never selected.
    """
    return (lengths * keep).masked_fill(~mask, -torch.inf).topk(count, dim=1).indices


def magnitude_loss(anomalous: Tensor, normal: Tensor, margin: float) -> Tensor:
    """Give the mean over pairs of ``(|margin - |a|| + |n|)**2``.

    ``a`` and ``n`` are the mean features of the selected segments of a pair's bags: both ``(pair, feature)``.
    """
    long: Tensor = anomalous.norm(dim=1)
    short: Tensor = normal.norm(dim=1)
    return ((margin - long).abs() + short).square().mean()


def score_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Give the mean binary cross entropy of scores, means of scores included: of any shape, both alike.

    Rounding may put a mean of ones just above 1, of which torch makes an error instead of 0.
    """
    return nn.functional.binary_cross_entropy(scores.clamp(0, 1), targets)


class Rtfm(Method):
    """RTFM. Its settings are those of the code already, so the variant ``code`` changes nothing."""

    settings_class = RtfmSettings
    rule = "rtfm"
    variants: ClassVar = MappingProxyType({"code": MappingProxyType({})})
    settings: RtfmSettings

    def network(self, dim: int) -> RtfmNetwork:
        return RtfmNetwork(dim, self.settings)

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        del phase
        chosen = self.settings
        encoded, scores = network(batch.features)
        keep = nn.functional.dropout(torch.ones_like(scores), chosen.dropout, training=network.training)
        count = max(1, min(scores.shape[1] // chosen.share, int(batch.mask.sum(dim=1).min())))
        places = selected(magnitudes(encoded), batch.mask, keep, count)
        videos = scores.gather(1, places).mean(dim=1)
        rows = places[:, None, :, None].expand(-1, encoded.shape[1], -1, encoded.shape[3])
        # A crop of an anomalous bag and the same crop of a normal one are a pair.
        means = encoded.gather(2, rows).mean(dim=2)
        anomalous, mask = scores[batch.anomalous], batch.mask[batch.anomalous]
        if chosen.over_borders:
            strung = anomalous[mask]
            rough = (strung[1:] - strung[:-1]).square().sum()
        else:
            rough = smoothness(anomalous, mask).sum()
        return Losses(
            {
                "classification": score_entropy(videos, batch.labels.to(videos.dtype)),
                "magnitude": chosen.magnitude
                * magnitude_loss(
                    means[batch.anomalous].flatten(0, 1), means[batch.normal].flatten(0, 1), chosen.margin
                ),
                "sparsity": chosen.sparsity * anomalous[mask].norm(),
                "smoothness": chosen.smoothness * rough,
            }
        )

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        return Scores(segments=network(features[None])[1][0])

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        chosen = self.settings
        return {"all": Adam(network.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay)}
