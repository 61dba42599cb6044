"""DeepMIL: each term of the loss is a number worked out by hand, and the readings of paper and code differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vadx.errors import UsageError
from vadx.pipelines.methods import METHODS, Batch, Losses, find_method
from vadx.pipelines.methods.deepmil import (
    RANKINGS,
    WEIGHT_NORMS,
    DeepMil,
    DeepMilSettings,
    RowsLinear,
    all_pairs_hinge,
    bag_maxima,
    paired_hinge,
    smoothness,
    sparsity,
)

# Two normal bags, then two anomalous ones, of four segments each.
SCORES = np.array([[0.1, 0.2, 0.3, 0.0], [0.6, 0.5, 0.1, 0.2], [0.9, 0.4, 0.1, 0.0], [0.2, 0.5, 0.3, 0.3]])
SIZES: dict[str, Any] = {"normal_bags": 2, "anomalous_bags": 2}
LABELS = torch.tensor([0, 0, 1, 1])
# Maxima: normal .3, .6; anomalous .9, .5.
# Paired: (1 - .9 + .3) = .4 and (1 - .5 + .6) = 1.1.
PAIRED = (0.4 + 1.1) / 2
# All pairs: normal .3 -> .4 + .8; normal .6 -> .7 + 1.1.
ALL_PAIRS = (1.2 + 1.8) / 2
# Anomalous bags: .25 + .09 + .01 and .09 + .04 + 0; sums 1.4 and 1.3.
SMOOTH = np.array([0.35, 0.13])
SPARSE = np.array([1.4, 1.3])
FLOAT64 = {"rtol": 1e-12, "atol": 0}
"""A dozen float64 additions of numbers near 1 are off by at most 1e-15."""


class Given(nn.Module):
    """Gives each segment its first feature as the score; its weights are two numbers and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([12.0], dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        return features[..., 0]


def batch_of(scores: Any, labels: Tensor = LABELS, mask: Tensor | None = None, crops: int = 1) -> Batch:
    values = torch.as_tensor(scores, dtype=torch.float64)[:, :, None, None].expand(-1, -1, crops, 1)
    return Batch(
        features=values, labels=labels, mask=torch.ones(values.shape[:2], dtype=torch.bool) if mask is None else mask
    )


def loss_of(batch: Batch, variant: str = "paper", **changes: Any) -> Losses:
    return find_method("deepmil").make(variant, **{**SIZES, **changes}).loss(Given(), batch)


def numbers(losses: Losses) -> dict[str, float]:
    return {name: value.item() for name, value in losses.parts.items()}


def test_the_papers_loss_is_the_one_worked_out_by_hand() -> None:
    losses = loss_of(batch_of(SCORES))
    expected = {
        "ranking": PAIRED,
        "smoothness": 8e-5 * SMOOTH.mean(),
        "sparsity": 8e-5 * SPARSE.mean(),
        "weights": 1e-3 * 5.0,  # |(3, 4)|
    }
    assert numbers(losses) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(losses.total.item(), sum(expected.values()), **FLOAT64)
    np.testing.assert_allclose(losses.total.item(), 0.7551272, rtol=1e-12)


def test_the_codes_loss_is_the_one_worked_out_by_hand() -> None:
    losses = loss_of(batch_of(SCORES), "code")
    expected = {
        "ranking": ALL_PAIRS,
        "smoothness": 8e-5 * SMOOTH.sum(),
        "sparsity": 8e-5 * SPARSE.sum(),
        "weights": 1e-3 * 25.0,
    }
    assert numbers(losses) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(losses.total.item(), 1.5252544, rtol=1e-12)


def test_all_pairs_are_about_as_many_times_the_paired_mean_as_there_are_anomalous_bags() -> None:
    random = torch.Generator().manual_seed(3)
    normal, anomalous = torch.rand(2, 30, generator=random, dtype=torch.float64)
    by_hand = sum(sum(max(0.0, 1 - a + n) for a in anomalous.tolist()) for n in normal.tolist()) / 30
    np.testing.assert_allclose(all_pairs_hinge(anomalous, normal).item(), by_hand, rtol=1e-12)
    # The hinge of scores in [0, 1] never clips, so that both are linear in the means.
    np.testing.assert_allclose(by_hand, 30 * paired_hinge(anomalous, normal).item(), rtol=1e-12)


def test_a_hinge_clips_what_no_sigmoid_gives() -> None:
    anomalous, normal = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])
    assert paired_hinge(anomalous, normal).item() == 0.5
    assert all_pairs_hinge(anomalous, normal).item() == 1.0


def test_pairs_need_equally_many() -> None:
    with pytest.raises(ValueError, match="as many anomalous"):
        paired_hinge(torch.zeros(2), torch.zeros(1))
    with pytest.raises(UsageError, match="make no pairs; give equally many"):
        DeepMilSettings(normal_bags=3, anomalous_bags=2)
    assert DeepMilSettings(normal_bags=3, anomalous_bags=2, ranking="all-pairs").normal_bags == 3


def test_normal_bags_are_neither_smoothed_nor_thinned() -> None:
    rough = SCORES.copy()
    rough[0] = [0.3, 0.0, 0.3, 0.0]
    assert numbers(loss_of(batch_of(rough))) == numbers(loss_of(batch_of(SCORES)))


def test_padding_takes_no_part() -> None:
    padded = np.concatenate([SCORES, np.full((4, 2), 5.0)], axis=1)
    mask = torch.tensor([[True] * 4 + [False] * 2] * 4)
    assert numbers(loss_of(batch_of(padded, mask=mask))) == numbers(loss_of(batch_of(SCORES)))
    scores = torch.tensor([[0.0, 1.0, 0.0, 3.0]])
    hole = torch.tensor([[True, True, False, True]])
    # Neighbours on both sides of padding are none.
    assert smoothness(scores, hole).item() == 1.0
    assert sparsity(scores, hole).item() == 4.0
    assert bag_maxima(scores - 5, torch.tensor([[True, False, True, False]])).item() == -5.0


def test_the_three_readings_of_the_weight_term_differ() -> None:
    found = {name: norm(Given()).item() for name, norm in WEIGHT_NORMS.items()}
    assert found == {"frobenius": 5.0, "squared": 25.0, "frobenius-biases": 13.0}


def test_bags_may_come_in_any_order() -> None:
    order = torch.tensor([2, 0, 3, 1])
    mixed = loss_of(batch_of(SCORES[order.numpy()], LABELS[order]))
    assert numbers(mixed) == pytest.approx(numbers(loss_of(batch_of(SCORES))), rel=1e-12)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_gradients_equal_finite_differences(ranking: str) -> None:
    def total(scores: Tensor) -> Tensor:
        features = scores[:, :, None, None]
        batch = Batch(features=features, labels=LABELS, mask=torch.ones(4, 4, dtype=torch.bool))
        # The weights large enough for the two constraints to be seen beside the ranking.
        return loss_of(batch, ranking=ranking, smoothness=0.3, sparsity=0.2).total

    assert torch.autograd.gradcheck(total, torch.tensor(SCORES, requires_grad=True), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_gradients_of_the_network_equal_finite_differences(variant: str) -> None:
    random = torch.Generator().manual_seed(5)
    method = find_method("deepmil").make(
        variant, first_units=4, second_units=3, dropout=0.0, normal_bags=2, anomalous_bags=2
    )
    network = method.network(5).double()
    features = torch.randn(4, 4, 1, 5, generator=random, dtype=torch.float64)
    batch = Batch(features=features, labels=LABELS, mask=torch.ones(4, 4, dtype=torch.bool))
    names, values = zip(*((n, p.detach().clone().requires_grad_()) for n, p in network.named_parameters()), strict=True)

    class Called(nn.Module):
        def __init__(self, given: tuple[Tensor, ...]) -> None:
            super().__init__()
            self.given = dict(zip(names, given, strict=True))

        def named_parameters(self, *_: Any, **__: Any) -> Any:
            return iter(self.given.items())

        def forward(self, given: Tensor) -> Tensor:
            return torch.func.functional_call(network, self.given, (given,))

    assert torch.autograd.gradcheck(lambda *given: method.loss(Called(given), batch).total, values, eps=1e-6, atol=1e-6)


def test_the_network_has_the_papers_layers() -> None:
    network = DeepMil().network(4096)
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes == [(512, 4096), (512,), (32, 512), (32,), (1, 32), (1,)]
    assert sum(p.numel() for p in network.parameters()) == 2_114_113
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.6, 0.6]
    scores = network.eval()(torch.randn(3, 32, 4096))
    assert scores.shape == (3, 32)
    assert 0 <= scores.min() <= scores.max() <= 1
    # Glorot and Bengio: a standard deviation of sqrt(2 / (in + out)); of 2 million numbers it is known to 0.1 %.
    assert network.layers[0].weight.std().item() == pytest.approx((2 / (4096 + 512)) ** 0.5, rel=5e-3)
    assert not any(p.any() for p in network.parameters() if p.ndim == 1)


def test_the_second_layer_is_linear_unless_asked_otherwise() -> None:
    torch.manual_seed(0)
    values = torch.randn(64, 6)
    plain = DeepMil(DeepMilSettings(first_units=5, second_units=4)).network(6).eval()
    with_relu = DeepMil(DeepMilSettings(first_units=5, second_units=4, second_relu=True)).network(6).eval()
    with_relu.load_state_dict(plain.state_dict())
    weights = [layer for layer in plain.layers if isinstance(layer, nn.Linear)]
    hidden = torch.relu(values @ weights[0].weight.T) @ weights[1].weight.T
    expected = torch.sigmoid(hidden @ weights[2].weight.T).squeeze(-1)
    torch.testing.assert_close(plain(values), expected)
    torch.testing.assert_close(with_relu(values), torch.sigmoid(torch.relu(hidden) @ weights[2].weight.T).squeeze(-1))
    assert not torch.allclose(plain(values), with_relu(values))


@pytest.mark.parametrize(("variant", "rate", "epsilon"), [("paper", 0.001, 1e-10), ("code", 0.01, 1e-8)])
def test_adagrads_first_step_is_the_rate_of_its_source(variant: str, rate: float, epsilon: float) -> None:
    method = find_method("deepmil").make(variant)
    weight = nn.Linear(1, 1, bias=False)
    (optimiser,) = method.optimisers(weight).values()
    assert isinstance(optimiser, torch.optim.Adagrad)
    assert optimiser.defaults["eps"] == epsilon
    before = weight.weight.item()
    weight.weight.grad = torch.tensor([[0.25]])
    optimiser.step()
    # Adagrad divides the first gradient by its own size.
    assert before - weight.weight.item() == pytest.approx(rate, rel=1e-4)


def test_a_video_is_scored_by_segment_and_crops_by_their_mean() -> None:
    method = DeepMil()
    features = torch.tensor([[[0.2], [0.4]], [[0.9], [0.7]]], dtype=torch.float64)
    torch.testing.assert_close(method.score(Given(), features).segments, torch.tensor([0.3, 0.8], dtype=torch.float64))
    assert numbers(loss_of(batch_of(SCORES, crops=5))) == pytest.approx(numbers(loss_of(batch_of(SCORES))), rel=1e-12)


def test_settings_are_the_papers_and_the_code_has_others() -> None:
    paper, code = DeepMil().settings, find_method("deepmil").make("code").settings
    assert (paper.normal_bags, paper.anomalous_bags, paper.dropout, paper.learning_rate) == (30, 30, 0.6, 1e-3)
    assert (paper.ranking, paper.constraints, paper.smoothness, paper.sparsity) == ("paired", "mean", 8e-5, 8e-5)
    assert (code.ranking, code.constraints, code.weight_norm, code.learning_rate) == (
        "all-pairs",
        "sum",
        "squared",
        0.01,
    )
    assert find_method("deepmil").make("code", learning_rate=0.1).settings.learning_rate == 0.1


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("ours", {}, "no variant 'ours'; there are: paper, code"),
        ("paper", {"drop_out": 0.5}, "no setting 'drop_out'; the nearest is 'dropout'"),
        ("paper", {"ranking": "triplet"}, "give one of: paired, all-pairs"),
        ("paper", {"constraints": "max"}, "give one of: mean, sum"),
        ("paper", {"weight_norm": "l1"}, "give one of: frobenius"),
        ("paper", {"dropout": 1.0}, r"give a dropout in \[0, 1\)"),
        ("paper", {"learning_rate": 0.0}, "learning rate above 0"),
        ("paper", {"iterations": 0}, "give 1 or more"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(variant: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_method("deepmil").make(variant, **changes)


@pytest.mark.parametrize("name", METHODS)
def test_every_row_of_the_table_makes_its_method_in_every_variant(name: str) -> None:
    spec = find_method(name)
    assert spec.name == name
    for variant in ("paper", *spec.load().variants):
        method = spec.make(variant)
        assert isinstance(method, spec.load())
        assert method.phases


def test_an_unknown_method_is_told_which_there_are() -> None:
    with pytest.raises(UsageError, match=r"no method 'deepmill'; there are: deepmil"):
        find_method("deepmill")


def test_rows_without_a_gradient_are_left_out_and_change_nothing() -> None:
    torch.manual_seed(3)
    ours, theirs = RowsLinear(6, 4).double(), nn.Linear(6, 4).double()
    theirs.load_state_dict(ours.state_dict())
    gradients = []
    for layer in (ours, theirs):
        rows = torch.randn(3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        # One row of each bag, as of normal ones; the last bag has none.
        found = layer(rows)[[0, 1], [4, 2]].square().sum()
        gradients.append(torch.autograd.grad(found, [layer.weight, layer.bias, rows]))
    for mine, other in zip(*gradients, strict=True):
        # Sums of the same products in another order.
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-14)
    one = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(ours(one), theirs(one), rtol=0, atol=1e-15)
    inputs = (torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True),)
    assert torch.autograd.gradcheck(ours, inputs)
