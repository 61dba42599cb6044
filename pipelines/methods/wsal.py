"""WSAL (H. Lv et al., "Localizing Anomalies from Weakly-Labeled Videos", IEEE TIP 2021).

What is said of the authors' code is read in the repository ktr-hubrt/WSAL: models.py, Train.py and Test.py. It holds
neither the noise simulation nor the hand-crafted anomalies of section III.C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adagrad, Optimizer

from ...errors import UsageError
from . import Batch, Losses, Method, Scores, Settings, check_choices
from .deepmil import crop_mean, paired_hinge, smoothness, sparsity

NOISY = "noisy"
"""The name in `Batch.more` of the features of the same bags with noise: shape of `Batch.features`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WsalSettings(Settings):
    """How WSAL is trained. [P] is the paper, section IV.A unless named; [C] the authors' code; [D] decided here, where
    neither says anything.

    ``trunk_units``: 512 and 128, a ReLU after each [D, as C] [P]; 512 [C]. ``encoding_units``: 128 [P], 512 [C], of the
    high-order context encoding (Eq. 4) over ``context`` segments to each side: 2 [P, C]. ``semantic_units``: layers
    between the encoding and the semantic score, none [P], 128 [C]. ``dynamic_units``: layers between the encoding and
    the cosines, none [P], 128 and 128 [C], with a ReLU after all but the last. ``dropout`` 0.6 [P], 0.8 [C];
    ``encoding_dropout``: also after the encoding [P], not [C].

    ``variation``: ``second-order`` is Eq. 6, one value a segment [P]; ``adjacent`` is one minus the cosine of
    neighbours, one value fewer than segments [C]. ``dynamic_extent`` of a video: ``range``, the greatest less the
    least, is Eq. 8 [P]; ``max`` [C]. ``margin``: ``batch-means`` is the hinge of the means of a batch, Eq. 2 [P];
    ``paired`` the mean of the hinges of pairs [C].

    ``sparsity`` 8e-5 [P, C], times the mean over all bags with ``sparsity_mean="bags"`` [P, Eq. 9], times the mean over
    the normal ones plus that over the anomalous ones, twice as much, with ``labels`` [C]. ``smoothness``: 0 [P]; 8e-5,
    on anomalous bags [C].

    ``noise_weight`` and ``location_weight``, the lambda of Eq. 3 for the terms of Eq. 13: 1 [P], 0 [C]. A batch without
    noisy features has no noise term; `vadx.pipelines.noise` puts noise on frames. ``fused_share``: at most so much of a
    hand-crafted anomaly is fused; [P] says "several" [D]. ``fusion_least`` and ``fusion_most``: the share of the
    anomalous feature, 0.2 to 0.5 [P, III.C]. ``location_sign``: Eq. 12 as printed pushes fused segments below the
    others; ``text`` pushes them above, as the sentence before it says; ``printed`` is the equation.

    ``learning_rate`` of Adagrad 0.001 [P, C], halved after ``first_halving`` and ``second_halving`` of ``iterations``:
    1,200, 2,400 and 3,000 [P]; 7,800, 10,400 and 13,000, 26 an epoch [C].

    Raises
    ------
    UsageError
        if a value cannot be meant.
    """

    iterations: int = 3000
    trunk_units: tuple[int, ...] = (512, 128)
    encoding_units: int = 128
    context: int = 2
    semantic_units: tuple[int, ...] = ()
    dynamic_units: tuple[int, ...] = ()
    dropout: float = 0.6
    encoding_dropout: bool = True
    variation: str = "second-order"
    dynamic_extent: str = "range"
    margin: str = "batch-means"
    sparsity: float = 8e-5
    sparsity_mean: str = "bags"
    smoothness: float = 0.0
    noise_weight: float = 1.0
    location_weight: float = 1.0
    fused_share: float = 0.25
    fusion_least: float = 0.2
    fusion_most: float = 0.5
    location_sign: str = "text"
    learning_rate: float = 1e-3
    first_halving: int = 1200
    second_halving: int = 2400

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        for name in ("trunk_units", "semantic_units", "dynamic_units"):
            # A model's settings come back from JSON as lists.
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choices(
            self,
            {
                "variation": VARIATIONS,
                "dynamic_extent": EXTENTS,
                "margin": MARGINS,
                "sparsity_mean": SPARSITY_MEANS,
                "location_sign": LOCATION_SIGNS,
            },
        )
        if self.margin == "paired" and self.normal_bags != self.anomalous_bags:
            msg = (
                f"{self.normal_bags} normal and {self.anomalous_bags} anomalous bags make no pairs; "
                "give equally many, or margin='batch-means'"
            )
            raise UsageError(msg)
        if not 0 <= self.fusion_least <= self.fusion_most <= 1:
            msg = f"fusion_least {self.fusion_least} to fusion_most {self.fusion_most} is no part of 0 to 1; give one"
            raise UsageError(msg)
        units = (*self.trunk_units, self.encoding_units, *self.semantic_units, *self.dynamic_units)
        if min(units) < 1 or self.context < 0 or not 0 <= self.dropout < 1 or self.learning_rate <= 0:
            msg = (
                f"units {units} are 1 or more, context {self.context} is 0 or more, dropout {self.dropout} in [0, 1) "
                f"and learning_rate {self.learning_rate} above 0; give such values"
            )
            raise UsageError(msg)
        if not 0 < self.fused_share <= 1:
            msg = f"fused_share is {self.fused_share}: a share of segments is above 0 and at most 1; give such a one"
            raise UsageError(msg)


def _layers(dim: int, units: tuple[int, ...], dropout: float, *, bare_end: bool = False) -> nn.Sequential:
    """Give fully connected layers, each followed by a ReLU and dropout, the last not if ``bare_end``."""
    layers: list[nn.Module] = []
    for number, width in enumerate(units, 1):
        layers.append(nn.Linear(dim, width))
        if number < len(units) or not bare_end:
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        dim = width
    return nn.Sequential(*layers)


class ContextEncoding(nn.Module):
    """Eq. 4: a weighted sum of a segment and ``context`` neighbours to each side.

    ``(bag, segment, feature)`` and ``mask (bag, segment)`` -> ``(bag, segment, units)``. Beyond its ends a video's
    first and last segments are repeated, as in the authors' code. Padding stands at the end and is such a repetition
    too, so that it changes nothing.

    Raises
    ------
    UsageError
        if padding stands before a segment.
    """

    def __init__(self, dim: int, units: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.convolution = nn.Conv1d(dim, units, 2 * context + 1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            msg = (
                "padding stands between the segments of a bag, where wsal needs neighbours: make bags with --rule wsal"
            )
            raise UsageError(msg)
        num_segments = features.shape[1]
        wanted = torch.arange(-self.context, num_segments + self.context, device=mask.device)
        places = torch.minimum(wanted.clamp(min=0), mask.sum(dim=1, keepdim=True) - 1)
        repeated = features.gather(1, places[..., None].expand(-1, -1, features.shape[2]))
        return cast("Tensor", self.convolution(repeated.transpose(1, 2))).transpose(1, 2)


class WsalNetwork(nn.Module):
    """Trunk, high-order context encoding and both heads.

    ``features (bag, segment, feature)`` and ``mask (bag, segment)`` -> the semantic scores of Eq. 5 ``(bag, segment)``
    in [0, 1], and what cosines are taken of ``(bag, segment, units)``.
    """

    def __init__(self, dim: int, settings: WsalSettings) -> None:
        super().__init__()
        units, rate = settings.encoding_units, settings.dropout
        self.trunk = _layers(dim, settings.trunk_units, rate)
        self.encoding = ContextEncoding((dim, *settings.trunk_units)[-1], units, settings.context)
        self.encoding_dropout = nn.Dropout(rate if settings.encoding_dropout else 0.0)
        self.semantic = _layers(units, settings.semantic_units, rate)
        self.score = nn.Linear((units, *settings.semantic_units)[-1], 1)
        self.dynamic = _layers(units, settings.dynamic_units, rate, bare_end=True)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.encoding_dropout(self.encoding(self.trunk(features), mask))
        semantic = torch.sigmoid(self.score(self.semantic(encoded))).squeeze(-1)
        return semantic, self.dynamic(encoded)


def adjacent_variation(encoded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Give one minus the cosine of neighbours, in [0, 2], as the authors' code trains with, and which of them count.

    ``(bag, segment, units)`` and ``(bag, segment)`` -> both ``(bag, segment - 1)``.
    """
    return 1 - functional.cosine_similarity(encoded[:, 1:], encoded[:, :-1], dim=2), mask[:, 1:] & mask[:, :-1]


def second_order_variation(encoded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Give Eq. 6, in [0, 1], and which segments count.

    ``(bag, segment, units)`` and ``(bag, segment)`` -> both ``(bag, segment)``. The first and the last segment have one
    neighbour, which counts twice, as in the authors' code, whose test scores are two times these. A single segment
    has 0.
    """
    distances, both = adjacent_variation(encoded, mask)
    distances = distances * both
    sums = functional.pad(distances, (1, 0)) + functional.pad(distances, (0, 1))
    neighbours = functional.pad(both.long(), (1, 0)) + functional.pad(both.long(), (0, 1))
    return sums / (2 * neighbours.clamp(min=1)), mask


def score_max(scores: Tensor, mask: Tensor) -> Tensor:
    """Give the greatest score of each bag, 0 where none counts: ``(bag, segment)`` -> ``(bag,)``."""
    return scores.masked_fill(~mask, -torch.inf).amax(dim=1).masked_fill(~mask.any(dim=1), 0.0)


def score_range(scores: Tensor, mask: Tensor) -> Tensor:
    """Give Eq. 7 and 8, the greatest difference of two scores of a bag: ``(bag, segment)`` -> ``(bag,)``."""
    return score_max(scores, mask) + score_max(-scores, mask)


def batch_hinge(anomalous: Tensor, normal: Tensor) -> Tensor:
    """Give Eq. 2, the hinge of the means of a batch, of the scores of videos ``(bag,)`` each."""
    return torch.relu(1 - anomalous.mean() + normal.mean())


def bags_mean(values: Tensor, anomalous: Tensor) -> Tensor:
    """Give the mean over all bags, as Eq. 9: ``values`` and ``anomalous (bag,)``."""
    del anomalous
    return values.mean()


def labels_mean(values: Tensor, anomalous: Tensor) -> Tensor:
    """Give the mean over anomalous bags plus that over normal ones, as the authors' code."""
    return values[anomalous].mean() + values[~anomalous].mean()


def joint_scores(semantic: Tensor, variation: Tensor) -> Tensor:
    """Give Eq. 11, the mean of both scores of a segment."""
    return (semantic + variation) / 2


def noise_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """Give Eq. 10 of normal videos with noise, whose scores shall be 0: ``(bag, segment)`` each."""
    return (scores.square() * mask).sum(dim=1).mean()


def location_loss(scores: Tensor, mask: Tensor, fused: Tensor, sign: str = "text") -> Tensor:
    """Give Eq. 12 of hand-crafted anomalies; ``scores``, ``mask`` and ``fused``, the set I, are ``(bag, segment)``.

    ``sign`` is one of `LOCATION_SIGNS`. At least one segment that is neither fused nor padding is in each bag.
    """
    others = scores.masked_fill(fused | ~mask, -torch.inf).amax(dim=1, keepdim=True)
    return (torch.relu(LOCATION_SIGNS[sign] * (scores - others)) * fused).sum(dim=1).mean()


Variation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
OfTwo = Callable[[Tensor, Tensor], Tensor]

VARIATIONS: Mapping[str, Variation] = MappingProxyType(
    {"second-order": second_order_variation, "adjacent": adjacent_variation}
)
"""Name -> (what cosines are taken of, mask) -> dynamic scores and their mask."""

EXTENTS: Mapping[str, OfTwo] = MappingProxyType({"range": score_range, "max": score_max})
"""Name -> (scores, mask) -> the score of each video."""

MARGINS: Mapping[str, OfTwo] = MappingProxyType({"batch-means": batch_hinge, "paired": paired_hinge})
"""Name -> (scores of anomalous videos, scores of normal videos) -> loss."""

SPARSITY_MEANS: Mapping[str, OfTwo] = MappingProxyType({"bags": bags_mean, "labels": labels_mean})
"""Name -> (sums of bags, which are anomalous) -> their mean."""

LOCATION_SIGNS: Mapping[str, int] = MappingProxyType({"text": -1, "printed": 1})
"""Name -> the sign of a fused segment's score in the hinge of Eq. 12."""


@dataclass(frozen=True, slots=True, eq=False)
class Crafted:
    """Hand-crafted anomalies ``features (bag, segment, feature)``; the set I of Eq. 12 is ``fused (bag, segment)``."""

    features: Tensor
    fused: Tensor


def craft_anomalies(
    normal: Tensor,
    normal_mask: Tensor,
    anomalous: Tensor,
    anomalous_mask: Tensor,
    *,
    random: np.random.Generator,
    settings: WsalSettings | None = None,
) -> Crafted:
    """Fuse random segments of normal videos with random ones of an anomalous video, section III.C.

    Features are ``(bag, segment, feature)``, masks ``(bag, segment)``. A fused segment is ``(1 - c)`` of the normal and
    ``c`` of the anomalous feature. One segment or more of each bag stays as it is; a bag of one segment is left alone.
    """
    chosen = settings or WsalSettings()
    num_bags, num_segments = normal_mask.shape
    share = np.zeros((num_bags, num_segments))
    source = np.zeros((num_bags, num_segments), np.int64)
    partner = random.integers(len(anomalous), size=num_bags)
    places = [np.flatnonzero(row) for row in normal_mask.cpu().numpy()]
    sources = [np.flatnonzero(row) for row in anomalous_mask.cpu().numpy()]
    for bag, own in enumerate(places):
        most = min(max(1, int(chosen.fused_share * len(own))), len(own) - 1)
        if most < 1:
            continue
        at = random.choice(own, random.integers(1, most + 1), replace=False)
        share[bag, at] = random.uniform(chosen.fusion_least, chosen.fusion_most, len(at))
        source[bag, at] = random.choice(sources[partner[bag]], len(at))
    fused = torch.from_numpy(share > 0).to(normal.device)
    rows, columns = fused.nonzero(as_tuple=True)
    weight = torch.from_numpy(share).to(normal)[rows, columns, None]
    partners, sources_of = (torch.from_numpy(one).to(normal.device) for one in (partner, source))
    features = normal.clone()
    features[rows, columns] = torch.lerp(
        normal[rows, columns], anomalous[partners[rows], sources_of[rows, columns]], weight
    )
    return Crafted(features, fused)


class Wsal(Method):
    """WSAL. Of several crops it sees the mean feature, where the paper has one crop."""

    settings_class = WsalSettings
    rule = "wsal"
    variants: ClassVar = MappingProxyType(
        {
            "code": MappingProxyType(
                {
                    "iterations": 13_000,
                    "trunk_units": (512,),
                    "encoding_units": 512,
                    "semantic_units": (128,),
                    "dynamic_units": (128, 128),
                    "dropout": 0.8,
                    "encoding_dropout": False,
                    "variation": "adjacent",
                    "dynamic_extent": "max",
                    "margin": "paired",
                    "sparsity_mean": "labels",
                    "smoothness": 8e-5,
                    "noise_weight": 0.0,
                    "location_weight": 0.0,
                    "first_halving": 7_800,
                    "second_halving": 10_400,
                }
            )
        }
    )
    settings: WsalSettings

    def network(self, dim: int) -> WsalNetwork:
        return WsalNetwork(dim, self.settings)

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        """Give Eq. 3: margins and sparsity of Eq. 9, and the terms of Eq. 13 that are weighted."""
        del phase
        chosen, mask, anomalous = self.settings, batch.mask, batch.anomalous
        features = crop_mean(batch.features)
        semantic, encoded = network(features, mask)
        dynamic, dynamic_mask = VARIATIONS[chosen.variation](encoded, mask)
        margin, mean = MARGINS[chosen.margin], SPARSITY_MEANS[chosen.sparsity_mean]
        semantic_extent = score_range(semantic, mask)
        dynamic_extent = EXTENTS[chosen.dynamic_extent](dynamic, dynamic_mask)
        parts = {
            "semantic_margin": margin(semantic_extent[anomalous], semantic_extent[batch.normal]),
            "dynamic_margin": margin(dynamic_extent[anomalous], dynamic_extent[batch.normal]),
            "sparsity": chosen.sparsity * mean(sparsity(semantic, mask) + sparsity(dynamic, dynamic_mask), anomalous),
        }
        if chosen.smoothness:
            steps = smoothness(semantic, mask) + smoothness(dynamic, dynamic_mask)
            parts["smoothness"] = chosen.smoothness * steps[anomalous].mean()
        if chosen.noise_weight and NOISY in batch.more:
            parts["noise"] = chosen.noise_weight * self._noise(network, batch)
        if chosen.location_weight:
            parts["location"] = chosen.location_weight * self._location(network, features, batch)
        return Losses(parts)

    def _joint(self, network: nn.Module, features: Tensor, mask: Tensor) -> Tensor:
        semantic, encoded = network(features, mask)
        return joint_scores(semantic, second_order_variation(encoded, mask)[0])

    def _noise(self, network: nn.Module, batch: Batch) -> Tensor:
        features, mask = crop_mean(batch.more[NOISY][batch.normal]), batch.mask[batch.normal]
        return noise_loss(self._joint(network, features, mask), mask)

    def _location(self, network: nn.Module, features: Tensor, batch: Batch) -> Tensor:
        mask = batch.mask[batch.normal]
        crafted = craft_anomalies(
            features[batch.normal],
            mask,
            features[batch.anomalous],
            batch.mask[batch.anomalous],
            random=np.random.default_rng(batch.seed),
            settings=self.settings,
        )
        scores = self._joint(network, crafted.features, mask)
        return location_loss(scores, mask, crafted.fused, self.settings.location_sign)

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        """Give the mean of both scores of each segment, and of both margins of the video (Eq. 7 and 8).

        The authors' code takes the mean of the semantic score and two times Eq. 6, up to 1.5. With
        ``variation="adjacent"`` the segments have two thirds of that: the same order, in [0, 1].
        """
        mask = torch.ones(1, len(features), dtype=torch.bool, device=features.device)
        semantic, encoded = network(crop_mean(features)[None], mask)
        # Rounding can make a cosine a little more than 1.
        variation = second_order_variation(encoded, mask)[0].clamp(0, 1)
        weight = 2 / 3 if self.settings.variation == "adjacent" else 1 / 2
        extent = joint_scores(score_range(semantic, mask), score_range(variation, mask))
        return Scores(
            segments=torch.lerp(semantic, variation, weight)[0],
            video=extent.item(),
            more={"semantic": semantic[0], "dynamic": variation[0]},
        )

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        return {"all": Adagrad(network.parameters(), lr=self.settings.learning_rate)}

    def pace(self, iteration: int) -> float:
        chosen = self.settings
        return 0.5 ** ((iteration >= chosen.first_halving) + (iteration >= chosen.second_halving))
