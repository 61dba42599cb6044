"""UR-DMU (H. Zhou, J. Yu, W. Yang, "Dual Memory Units with Uncertainty Regulation for Weakly Supervised Video Anomaly
Detection", AAAI 2023), as its authors' code has it: henrryzh1/UR-DMU, model.py, memory.py, translayer.py and train.py.

Two banks of learned vectors remember what is normal and what is anomalous. A segment is scored by its encoding beside
what it recalls from both. What normal segments recall is drawn from a normal distribution while it trains, so that
their uncertainty is learned and drawn vectors stay short, where those of anomalous segments become long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from ...errors import UsageError
from . import Batch, Losses, Method, Scores, Settings, check_choices
from .rtfm import score_entropy

CHOICES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "local_norm": {
            "columns": "as the code divides: each weight by the sum of the weights of the segment that is looked at",
            "rows": "by the sum of the weights of the segment that looks, so that a segment's weights add up to 1",
        },
        "divergence_sum": {
            "segments": "as the code adds: over the segments of a video, and the mean over numbers of a segment",
            "units": "over the numbers of a segment, Kingma and Welling 2014, appendix B, and the mean over segments",
        },
    }
)
"""Setting -> what it can be, and what that means."""

SHARE = 16
"""One segment, and one more for each so many that a video has, stands for it; of slots likewise for a bank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UrDmuSettings(Settings):
    """How UR-DMU is trained. All values are those of the authors' code.

    ``units`` 512 of an encoded segment and of a slot; ``num_layers`` 2, ``num_heads`` 4 of ``head_units`` 128,
    ``forward_units`` 512 and ``dropout`` 0.5 of the transformer; ``num_slots`` 60 of each bank; ``score_units`` 128 of
    the scoring layers. ``memory`` 0.1 weighs each of the four losses of the banks, ``triplet`` 0.1 that of
    ``triplet_margin`` 1, ``divergence`` 0.001, ``distance`` 1e-4 that of ``distance_margin`` 100. `CHOICES` has the
    others.

    ``learning_rate`` 1e-4 and ``weight_decay`` 5e-5 of Adam; 64 ``normal_bags`` and ``anomalous_bags``; 3,000
    ``iterations``, of which the code keeps the one best on the test set.

    Raises
    ------
    UsageError
        if a value cannot be meant.
    """

    normal_bags: int = 64
    anomalous_bags: int = 64
    iterations: int = 3000
    units: int = 512
    num_layers: int = 2
    num_heads: int = 4
    head_units: int = 128
    forward_units: int = 512
    dropout: float = 0.5
    num_slots: int = 60
    score_units: int = 128
    memory: float = 0.1
    triplet: float = 0.1
    triplet_margin: float = 1.0
    divergence: float = 1e-3
    divergence_sum: str = "segments"
    distance: float = 1e-4
    distance_margin: float = 100.0
    local_norm: str = "columns"
    learning_rate: float = 1e-4
    weight_decay: float = 5e-5

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check_choices(self, CHOICES)
        if self.normal_bags != self.anomalous_bags:
            msg = f"{self.normal_bags} normal and {self.anomalous_bags} anomalous bags make no pairs; give equally many"
            raise UsageError(msg)
        counts = ("units", "num_layers", "num_heads", "head_units", "forward_units", "num_slots", "score_units")
        for name in counts:
            if getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}: it counts what the network has; give 1 or more"
                raise UsageError(msg)
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0:
            msg = (
                f"dropout is {self.dropout}, learning_rate {self.learning_rate}; give a dropout in [0, 1) and a "
                "learning rate above 0"
            )
            raise UsageError(msg)


def local_weights(mask: Tensor, norm: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """Give what segments far apart weigh for each other, ``exp(-|i - j| / e)``, over the sums that ``norm`` says.

    ``mask (row, segment)`` -> ``(row, looking segment, segment looked at)``, 0 where the latter is padding.
    """
    places = torch.arange(mask.shape[1], dtype=dtype, device=mask.device)
    near = torch.exp((places[:, None] - places).abs() / -math.e)
    weights = near * mask[:, None]
    # Segments' sums by row and by column are the same numbers, but stand beside other weights.
    sums = weights.sum(dim=2, keepdim=True)
    return weights / (sums if norm == "rows" else sums.transpose(1, 2))


class GlobalLocalAttention(nn.Module):
    """Multi-head attention over all segments beside one whose weights are fixed, `local_weights`.

    ``(row, segment, units)`` and both masks, as `Encoder` makes them, -> ``(row, segment, units)``.
    """

    def __init__(self, settings: UrDmuSettings) -> None:
        super().__init__()
        width = settings.num_heads * settings.head_units
        self.num_heads = settings.num_heads
        self.into = nn.Linear(settings.units, 4 * width, bias=False)
        self.out = nn.Linear(2 * width, settings.units)

    def forward(self, values: Tensor, seen: Tensor, local: Tensor) -> Tensor:
        rows, segments, _ = values.shape
        query, key, value, near = (
            part.view(rows, segments, self.num_heads, -1).transpose(1, 2) for part in self.into(values).chunk(4, dim=2)
        )
        everywhere = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None])
        nearby = local[:, None] @ near
        both = torch.cat([everywhere, nearby], dim=3)
        return cast("Tensor", self.out(both.transpose(1, 2).reshape(rows, segments, -1)))


class EncoderLayer(nn.Module):
    """Attention and two fully connected layers, each after a layer norm and added to what goes into it."""

    def __init__(self, settings: UrDmuSettings) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(settings.units)
        self.attention = GlobalLocalAttention(settings)
        self.dropout = nn.Dropout(settings.dropout)
        self.forward_layers = nn.Sequential(
            nn.LayerNorm(settings.units),
            nn.Linear(settings.units, settings.forward_units),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.forward_units, settings.units),
            nn.Dropout(settings.dropout),
        )

    def forward(self, values: Tensor, seen: Tensor, local: Tensor) -> Tensor:
        values = values + self.dropout(self.attention(self.attention_norm(values), seen, local))
        return values + cast("Tensor", self.forward_layers(values))


class Encoder(nn.Module):
    """A convolution over three segments and a transformer.

    ``features (row, segment, feature)`` and ``mask (row, segment)`` -> ``(row, segment, units)``; what stands at
    padding means nothing.
    """

    def __init__(self, dim: int, settings: UrDmuSettings) -> None:
        super().__init__()
        self.local_norm = settings.local_norm
        self.embedding = nn.Conv1d(dim, settings.units, 3, padding=1)
        self.layers = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.num_layers))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        # Padding is what the convolution sees beyond the ends of a video: zeros.
        there = features * mask[..., None]
        values = torch.relu(self.embedding(there.transpose(1, 2))).transpose(1, 2)
        local = local_weights(mask, self.local_norm, values.dtype)
        for layer in self.layers:
            values = layer(values, mask, local)
        return values


class MemoryBank(nn.Module):
    """Slots of learned vectors.

    ``(..., units)`` -> how well it is known, the mean of the highest sigmoids of the scaled products with slots
    ``(...)`` in [0, 1], and what is recalled, the sum of all slots times theirs ``(..., units)``.
    """

    def __init__(self, num_slots: int, units: int) -> None:
        super().__init__()
        bound = units**-0.5
        self.slots = nn.Parameter(torch.empty(num_slots, units).uniform_(-bound, bound))

    def forward(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        num_slots, units = self.slots.shape
        matches = torch.sigmoid(encoded @ self.slots.T / units**0.5)
        return matches.topk(num_slots // SHARE + 1, dim=-1).values.mean(dim=-1), matches @ self.slots


class UrDmuNetwork(nn.Module):
    """The encoder, both banks, what makes a distribution of what is recalled, and the scoring layers.

    ``features (bag, segment, crop, feature)`` and ``mask (bag, segment)`` -> scores ``(bag, segment)`` in [0, 1], the
    mean over crops, without drawing.
    """

    def __init__(self, dim: int, settings: UrDmuSettings) -> None:
        super().__init__()
        units = settings.units
        self.encoder = Encoder(dim, settings)
        self.normal_bank = MemoryBank(settings.num_slots, units)
        self.anomalous_bank = MemoryBank(settings.num_slots, units)
        self.mean = nn.Linear(units, units)
        self.log_variance = nn.Linear(units, units)
        self.scoring = nn.Sequential(
            nn.Linear(2 * units, settings.score_units), nn.ReLU(), nn.Linear(settings.score_units, 1), nn.Sigmoid()
        )

    def encode(self, features: Tensor, mask: Tensor) -> Tensor:
        """Encode each crop by itself: ``(bag, crop, segment, units)``."""
        bags, segments, crops, dim = features.shape
        rows = features.transpose(1, 2).reshape(bags * crops, segments, dim)
        return cast("Tensor", self.encoder(rows, mask.repeat_interleave(crops, dim=0))).view(bags, crops, segments, -1)

    def score(self, encoded: Tensor, recalled: Tensor) -> Tensor:
        """Score segments, ``(bag, crop, segment, units)`` both: ``(bag, segment)``, the mean over crops."""
        return cast("Tensor", self.scoring(torch.cat([encoded, recalled], dim=3))).squeeze(3).mean(dim=1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        encoded = self.encode(features, mask)
        recalled = self.mean(self.normal_bank(encoded)[1]) + self.mean(self.anomalous_bank(encoded)[1])
        return self.score(encoded, recalled)


def top_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Give each of the highest scores of a row its share of their mean, and the others 0.

    ``(..., segment)`` both; of n segments n // 16 + 1 are the highest, and padding is none of them.
    """
    order = scores.detach().masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    counts = mask.sum(dim=-1, keepdim=True) // SHARE + 1
    return (order.argsort(dim=-1) < counts) / counts.to(scores.dtype)


def top_mean(scores: Tensor, mask: Tensor) -> Tensor:
    """Give the mean of the highest scores of each row, as `top_weights`: ``(..., segment)`` both -> ``(...)``."""
    return (scores * top_weights(scores, mask)).sum(dim=-1)


def chosen_mean(values: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """Give the mean of the vectors whose scores are highest in their crop, and over crops.

    Shapes: ``values (bag, crop, segment, units)``, ``scores (bag, crop, segment)``, ``mask (bag, segment)``, the result
    ``(bag, units)``.
    """
    weights = top_weights(scores, mask[:, None].expand_as(scores))
    return (values * weights[..., None]).sum(dim=2).mean(dim=1)


def known_entropy(known: Tensor, mask: Tensor, target: float) -> Tensor:
    """Give the mean binary cross entropy of all segments that are no padding: ``(bag, segment)`` both."""
    values = known[mask]
    return score_entropy(values, torch.full_like(values, target))


def top_entropy(scores: Tensor, mask: Tensor, target: Tensor | float) -> Tensor:
    """Give the mean binary cross entropy of bags by their highest scores: ``(bag, segment)`` both."""
    videos = top_mean(scores, mask)
    return score_entropy(videos, torch.zeros_like(videos) + target)


def divergence(mean: Tensor, log_variance: Tensor, mask: Tensor, over: str = "segments") -> Tensor:
    """Give the Kullback-Leibler divergence from the standard normal distribution, added up as ``over`` says.

    ``mean`` and ``log_variance (bag, crop, segment, units)``, ``mask (bag, segment)``; ``over`` as in `CHOICES`.
    """
    each = (mean.square() + log_variance.exp() - 1 - log_variance) / 2 * mask[:, None, :, None]
    if over == "segments":
        return each.sum(dim=2).mean()
    return each.sum() / (mask.sum() * each.shape[1])


def length_distance(anomalous: Tensor, normal: Tensor, margin: float) -> Tensor:
    """Give the mean over pairs of ``max(0, margin - |a| + |n|)``, of vectors ``(pair, units)``."""
    long: Tensor = anomalous.norm(dim=1)
    short: Tensor = normal.norm(dim=1)
    return torch.relu(margin - long + short).mean()


class UrDmu(Method):
    """UR-DMU. Its settings are those of the code already, so the variant ``code`` changes nothing."""

    settings_class = UrDmuSettings
    rule = "urdmu-200"
    variants: ClassVar = MappingProxyType({"code": MappingProxyType({})})
    settings: UrDmuSettings

    def network(self, dim: int) -> UrDmuNetwork:
        return UrDmuNetwork(dim, self.settings)

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        """Give the loss of the code's ``AD_Loss``, i-th normal and i-th anomalous bag a pair.

        Random numbers, of what normal segments recall, are torch's current ones.
        """
        del phase
        chosen, net = self.settings, cast("UrDmuNetwork", network)
        encoded = net.encode(batch.features, batch.mask)
        normal, anomalous = encoded[batch.normal], encoded[batch.anomalous]
        normal_mask, anomalous_mask = batch.mask[batch.normal], batch.mask[batch.anomalous]
        normal_known, normal_own = net.normal_bank(normal)
        normal_mistaken, normal_other = net.anomalous_bank(normal)
        anomalous_known, anomalous_own = net.anomalous_bank(anomalous)
        anomalous_mistaken, anomalous_other = net.normal_bank(anomalous)

        mean, log_variance = net.mean(normal_own), net.log_variance(normal_own)
        drawn = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        recalled = net.mean(anomalous_own)
        scores = torch.empty(batch.mask.shape, dtype=encoded.dtype, device=encoded.device)
        scores[batch.normal] = net.score(normal, drawn + net.mean(normal_other))
        scores[batch.anomalous] = net.score(anomalous, recalled + net.mean(anomalous_other))

        anchor, positive, negative = (
            F.normalize(chosen_mean(*these), dim=1)
            for these in (
                (normal, normal_known, normal_mask),
                (anomalous, anomalous_mistaken, anomalous_mask),
                (anomalous, anomalous_known, anomalous_mask),
            )
        )
        triplet = F.triplet_margin_loss(anchor, positive, negative, margin=chosen.triplet_margin)
        distance = length_distance(
            chosen_mean(recalled, anomalous_known, anomalous_mask),
            chosen_mean(drawn, normal_known, normal_mask),
            chosen.distance_margin,
        )
        banks = {
            "anomalous_known": top_entropy(anomalous_known.mean(dim=1), anomalous_mask, 1.0),
            "anomalous_not_normal": top_entropy(1 - anomalous_mistaken.mean(dim=1), anomalous_mask, 1.0),
            "normal_known": known_entropy(normal_known.mean(dim=1), normal_mask, 1.0),
            "normal_not_anomalous": known_entropy(normal_mistaken.mean(dim=1), normal_mask, 0.0),
        }
        return Losses(
            {
                "classification": top_entropy(scores, batch.mask, batch.labels.to(scores.dtype)),
                **{name: chosen.memory * value for name, value in banks.items()},
                "triplet": chosen.triplet * triplet,
                "divergence": chosen.divergence * divergence(mean, log_variance, normal_mask, chosen.divergence_sum),
                "distance": chosen.distance * distance,
            }
        )

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        mask = torch.ones(1, len(features), dtype=torch.bool, device=features.device)
        return Scores(segments=network(features[None], mask)[0])

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        chosen = self.settings
        return {"all": Adam(network.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay)}
