"""DeepMIL (W. Sultani, C. Chen, M. Shah, "Real-World Anomaly Detection in Surveillance Videos", CVPR 2018).

What is said of the authors' code is read in the repository WaqasSultani/AnomalyDetectionCVPR2018,
TrainingAnomalyDetector_public.py; of its port in ekosman/AnomalyDetectionCVPR2018-Pytorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer

from ...errors import UsageError
from . import Batch, Losses, Method, Scores, Settings, check_choices


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepMilSettings(Settings):
    """How DeepMIL is trained. [P] is the paper, section 5.1 unless named; [C] the authors' code.

    ``first_units`` 512 and ``second_units`` 32 [P]. ``second_relu``: [P] has a ReLU after the first layer only, and so
    has [C]; the port Roc-Ng/DeepMIL has another after the second. ``dropout`` 0.6 after both [P].

    ``ranking``: ``paired`` is the mean over pairs of an anomalous and a normal bag of Eq. 7's hinge [P]; ``all-pairs``
    sums over all anomalous bags for each normal bag and takes the mean over those [C], about ``anomalous_bags`` times
    as much. ``smoothness`` and ``sparsity``, Eq. 7's two lambdas, are 8e-5 [P, C], times the mean over anomalous bags
    with ``constraints="mean"`` [P, whose loss is that of a pair], times the sum with ``sum`` [C].

    ``weight_penalty``: Eq. 8's third lambda; [P] gives no value, 0.001 is [C]'s. ``weight_norm``: ``frobenius`` is the
    norm of all weights together [P, Eq. 8]; ``squared`` the sum of their squares [C]; ``frobenius-biases`` takes the
    biases in as well (ekosman's port).

    ``learning_rate`` of Adagrad 0.001 [P], 0.01 [C]; ``epsilon`` 1e-10, torch's, where [P] says nothing, 1e-8 [C].
    ``normal_bags``, ``anomalous_bags``: 30 each [P]. ``iterations``: 20,000 [C]; [P] says nothing.

    Raises
    ------
    UsageError
        if a value cannot be meant.
    """

    iterations: int = 20_000
    first_units: int = 512
    second_units: int = 32
    second_relu: bool = False
    dropout: float = 0.6
    ranking: str = "paired"
    constraints: str = "mean"
    smoothness: float = 8e-5
    sparsity: float = 8e-5
    weight_penalty: float = 1e-3
    weight_norm: str = "frobenius"
    learning_rate: float = 1e-3
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check_choices(self, {"ranking": RANKINGS, "constraints": CONSTRAINTS, "weight_norm": WEIGHT_NORMS})
        if self.ranking == "paired" and self.normal_bags != self.anomalous_bags:
            msg = (
                f"{self.normal_bags} normal and {self.anomalous_bags} anomalous bags make no pairs; "
                "give equally many, or ranking='all-pairs'"
            )
            raise UsageError(msg)
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0:
            msg = (
                f"dropout is {self.dropout} and learning_rate {self.learning_rate}; "
                "give a dropout in [0, 1) and a learning rate above 0"
            )
            raise UsageError(msg)


class _RowsLinear(torch.autograd.Function):
    """``input (row, in)``, ``weight (out, in)``, ``bias (out,)`` -> ``(row, out)``, as torch's linear layer."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return torch.addmm(bias, rows, weight.t())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        rows, weight = ctx.saved_tensors
        here = gradient.any(dim=1).nonzero().squeeze(1)
        of_rows = gradient @ weight if ctx.needs_input_grad[0] else None
        return of_rows, gradient[here].t() @ rows[here], gradient.sum(dim=0)


class RowsLinear(nn.Linear):
    """A linear layer that leaves rows without a gradient out of that of its weights: ``(..., in)`` -> ``(..., out)``.

    Of a normal bag one segment has a gradient, the most abnormal, so that this halves a product which is nearly half of
    an iteration's work. What is left out are zeros.
    """

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        found: Tensor = _RowsLinear.apply(rows, self.weight, self.bias)
        return found.reshape(*input.shape[:-1], -1)


class ScoreNetwork(nn.Module):
    """Three fully connected layers that score a segment: ``(..., feature)`` -> ``(...)`` in [0, 1].

    Weights are drawn as Glorot and Bengio's normal numbers and biases are 0, as in the authors' code.
    """

    def __init__(self, dim: int, settings: DeepMilSettings) -> None:
        super().__init__()
        first, second = settings.first_units, settings.second_units
        self.layers = nn.Sequential(
            RowsLinear(dim, first),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(first, second),
            nn.ReLU() if settings.second_relu else nn.Identity(),
            nn.Dropout(settings.dropout),
            nn.Linear(second, 1),
            nn.Sigmoid(),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        return cast("Tensor", self.layers(features)).squeeze(-1)


def crop_mean(features: Tensor) -> Tensor:
    """Give the mean over crops: ``(..., crop, feature)`` -> ``(..., feature)``, without a copy of one crop."""
    return features.squeeze(-2) if features.shape[-2] == 1 else features.mean(dim=-2)


def bag_maxima(scores: Tensor, mask: Tensor) -> Tensor:
    """Give the highest score of each bag: ``scores`` and ``mask (bag, segment)`` -> ``(bag,)``."""
    return scores.masked_fill(~mask, -torch.inf).amax(dim=1)


def paired_hinge(anomalous: Tensor, normal: Tensor) -> Tensor:
    """Give the mean over pairs of ``max(0, 1 - anomalous + normal)``, of bags' maxima ``(bag,)``: Eq. 6.

    Raises
    ------
    ValueError
        if there are not equally many.
    """
    if anomalous.shape != normal.shape:
        msg = f"expected as many anomalous as normal bags, got {len(anomalous)} and {len(normal)}"
        raise ValueError(msg)
    return torch.relu(1 - anomalous + normal).mean()


def all_pairs_hinge(anomalous: Tensor, normal: Tensor) -> Tensor:
    """Give the hinge of every pair, summed over the anomalous bags and averaged over the normal ones, as the code."""
    return torch.relu(1 - anomalous[None, :] + normal[:, None]).sum(dim=1).mean()


def smoothness(scores: Tensor, mask: Tensor) -> Tensor:
    """Give the sum of squared differences of neighbouring segments of each bag, the first constraint of Eq. 7.

    ``(bag, segment)`` -> ``(bag,)``.
    """
    both = mask[:, 1:] & mask[:, :-1]
    return ((scores[:, 1:] - scores[:, :-1]).square() * both).sum(dim=1)


def sparsity(scores: Tensor, mask: Tensor) -> Tensor:
    """Give the sum of the scores of each bag, the second constraint of Eq. 7: ``(bag, segment)`` -> ``(bag,)``."""
    return (scores * mask).sum(dim=1)


def _weights(network: nn.Module, *, biases: bool) -> Tensor:
    return torch.cat([p.flatten() for name, p in network.named_parameters() if biases or name.endswith("weight")])


RANKINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"paired": paired_hinge, "all-pairs": all_pairs_hinge}
)
"""Name -> (maxima of anomalous bags, maxima of normal bags) -> loss."""

CONSTRAINTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"mean": torch.mean, "sum": torch.sum})
"""Name -> how the constraints of the anomalous bags become one."""

WEIGHT_NORMS: Mapping[str, Callable[[nn.Module], Tensor]] = MappingProxyType(
    {
        "frobenius": lambda network: _weights(network, biases=False).norm(),
        "squared": lambda network: _weights(network, biases=False).square().sum(),
        "frobenius-biases": lambda network: _weights(network, biases=True).norm(),
    }
)
"""Name -> how large a network's weights are."""


class DeepMil(Method):
    """DeepMIL. Of several crops it sees the mean feature, where the paper has one crop.

    ``rule`` is that of the authors' code; `sultani-paper` is what the paper says.
    """

    settings_class = DeepMilSettings
    rule = "sultani"
    variants: ClassVar = MappingProxyType(
        {
            "code": MappingProxyType(
                {
                    "ranking": "all-pairs",
                    "constraints": "sum",
                    "weight_norm": "squared",
                    "learning_rate": 0.01,
                    "epsilon": 1e-8,
                }
            )
        }
    )
    settings: DeepMilSettings

    def network(self, dim: int) -> ScoreNetwork:
        return ScoreNetwork(dim, self.settings)

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        del phase
        return Losses(self.terms(network, batch, network(crop_mean(batch.features))))

    def terms(self, network: nn.Module, batch: Batch, scores: Tensor) -> dict[str, Tensor]:
        """Give the terms of the loss of segments' ``scores (bag, segment)``."""
        chosen = self.settings
        maxima = bag_maxima(scores, batch.mask)
        reduce = CONSTRAINTS[chosen.constraints]
        anomalous, mask = scores[batch.anomalous], batch.mask[batch.anomalous]
        return {
            "ranking": RANKINGS[chosen.ranking](maxima[batch.anomalous], maxima[batch.normal]),
            "smoothness": chosen.smoothness * reduce(smoothness(anomalous, mask)),
            "sparsity": chosen.sparsity * reduce(sparsity(anomalous, mask)),
            "weights": chosen.weight_penalty * WEIGHT_NORMS[chosen.weight_norm](network),
        }

    def score(self, network: nn.Module, features: Tensor) -> Scores:
        return Scores(segments=network(crop_mean(features)))

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        chosen = self.settings
        return {"all": Adagrad(network.parameters(), lr=chosen.learning_rate, eps=chosen.epsilon)}
