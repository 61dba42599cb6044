"""The baselines: a linear SVM that finds the margin, and the inner bag loss worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vadx.errors import UsageError
from vadx.pipelines.methods import Batch, find_method
from vadx.pipelines.methods.baselines import bag_gaps, inner_bag_loss, video_means

from .training_samples import MOVED, SEGMENTS, learned_scores, write_separable_bags

HALVES: dict[str, Any] = {"normal_bags": 2, "anomalous_bags": 2}
LABELS = torch.tensor([0, 0, 1, 1])


def descend(points: list[float], labels: list[int], **changes: Any) -> tuple[float, float]:
    """Train an SVM on numbers, each a bag of two segments around it, and give its slope and offset."""
    method = find_method("svm").make(**changes)
    network = method.network(1).double()
    values = torch.tensor(points, dtype=torch.float64)[:, None] + torch.tensor([-0.5, 0.5])
    batch = Batch(values[:, :, None, None], torch.tensor(labels), torch.ones(len(points), 2, dtype=torch.bool))
    optimiser = method.optimisers(network)["all"]
    for iteration in range(800):
        optimiser.param_groups[0]["lr"] = method.settings.learning_rate * method.pace(iteration)
        optimiser.zero_grad()
        method.loss(network, batch).total.backward()
        optimiser.step()
    return tuple(p.item() for p in network.parameters())


def test_the_svm_finds_the_widest_margin() -> None:
    # Between 1 and 5 the widest margin is 2 on each side of 3: slope 1/2, offset -3/2. 9 is beyond the margin.
    slope, offset = descend([1.0, 5.0, 9.0, -4.0], [0, 1, 1, 0], regularisation=0.1, learning_rate=0.05)
    assert (slope, offset) == pytest.approx((0.5, -1.5), abs=0.02)


def test_a_strong_regularisation_gives_the_slope_of_its_formula() -> None:
    # With bags at -1 and 1 inside the margin, w minimises r / 2 w^2 + 1 - w: w = 1 / r.
    slope, offset = descend([-1.0, 1.0], [0, 1], regularisation=4.0, learning_rate=0.05)
    assert (slope, offset) == pytest.approx((0.25, 0.0), abs=0.01)


def test_the_svms_loss_is_the_one_worked_out_by_hand() -> None:
    method = find_method("svm").make(regularisation=0.5)
    network = method.network(2).double()
    with torch.no_grad():
        network.layer.weight.copy_(torch.tensor([[2.0, 0.0]]))  # type: ignore[operator, union-attr]  # a Linear
        network.layer.bias.copy_(torch.tensor([1.0]))  # type: ignore[operator, union-attr]  # a Linear
    # The third segment is padding. Means 0.5 and -1.5, distances 2 and -2, hinges 3 and 3.
    values = torch.tensor([[0.0, 1.0, 9.0], [-1.0, -2.0, 9.0]], dtype=torch.float64)
    features = torch.stack([values, values], dim=2)[:, :, None]
    mask = torch.tensor([[True, True, False]] * 2)
    losses = method.loss(network, Batch(features, torch.tensor([0, 1]), mask))
    assert {name: v.item() for name, v in losses.parts.items()} == pytest.approx({"hinge": 3.0, "weights": 1.0})
    scores = method.score(network, features[0]).segments
    torch.testing.assert_close(scores, torch.sigmoid(2 * values[0] + 1))


def test_means_leave_padding_out() -> None:
    features = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert video_means(features, torch.tensor([[True, True, False]])).tolist() == [[2.0]]


@pytest.mark.parametrize("changes", [{"regularisation": -1.0}, {"learning_rate": 0.0}, {"slowing": 0.0}])
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give a regularisation"):
        find_method("svm").make(**changes)


class Given(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features[..., 0]

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        return iter([("weight", torch.zeros(2, dtype=torch.float64))])


def test_the_inner_bag_loss_is_the_one_worked_out_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.3], [0.6, 0.2], [0.9, 0.2], [0.5, 0.4]], dtype=torch.float64)
    # Gaps: normal .2, .4; anomalous .7, .1.
    np.testing.assert_allclose(bag_gaps(scores, torch.ones(4, 2, dtype=torch.bool)), [0.2, 0.4, 0.7, 0.1], rtol=1e-12)
    batch = Batch(scores[:, :, None, None], LABELS, torch.ones(4, 2, dtype=torch.bool))
    losses = find_method("cibl").make(**HALVES, inner=2.0).loss(Given(), batch)
    assert losses.parts["inner"].item() == pytest.approx(2 * ((0.3 + 0.9) / 2 + 0.3))
    plain = find_method("deepmil").make(**HALVES).loss(Given(), batch)
    assert losses.total.item() == pytest.approx(plain.total.item() + losses.parts["inner"].item())


def test_a_gap_leaves_padding_out() -> None:
    assert bag_gaps(torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([[True, True, False]])).tolist() == [0.25]


def test_gradients_equal_finite_differences() -> None:
    random = torch.Generator().manual_seed(1)
    gaps = torch.rand(2, 5, generator=random, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: inner_bag_loss(values[0], values[1]), gaps)
    method = find_method("svm").make()
    network = method.network(3).double()
    features = torch.randn(4, 2, 1, 3, generator=random, dtype=torch.float64)
    batch = Batch(features, LABELS, torch.ones(4, 2, dtype=torch.bool))

    class Called(nn.Module):
        def __init__(self, weight: Tensor, bias: Tensor) -> None:
            super().__init__()
            self.values = {"layer.weight": weight, "layer.bias": bias}

        def named_parameters(self, *_: Any, **__: Any) -> Any:
            return iter(self.values.items())

        def forward(self, given: Tensor) -> Tensor:
            return torch.func.functional_call(network, self.values, (given,))

    weight, bias = torch.rand(1, 3, dtype=torch.float64), torch.rand(1, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *given: method.loss(Called(*given), batch).total, (weight.requires_grad_(), bias.requires_grad_())
    )


@pytest.mark.parametrize(
    ("name", "changes"), [("svm", {}), ("cibl", {"first_units": 16, "second_units": 8, "learning_rate": 0.05})]
)
def test_it_learns_what_is_separable(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    bags = write_separable_bags(tmp_path / "bags.h5")
    method = find_method(name).make(iterations=150, normal_bags=6, anomalous_bags=6, **changes)
    scores = learned_scores(name, method, bags, tmp_path / "model")
    truth = np.zeros((len(bags), SEGMENTS), bool)
    truth[bags.labels == 1, MOVED] = True
    assert scores[truth].min() > scores[~truth].max()
