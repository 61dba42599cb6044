"""UR-DMU: its layers and every term of its loss are numbers worked out in numpy, and padding changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf, expit, softmax
from torch import Tensor

from vadx.errors import UsageError
from vadx.pipelines.methods import Batch, find_method
from vadx.pipelines.methods.rtfm import score_entropy
from vadx.pipelines.methods.urdmu import (
    UrDmu,
    UrDmuNetwork,
    UrDmuSettings,
    divergence,
    length_distance,
    local_weights,
    top_entropy,
    top_mean,
    top_weights,
)

from .training_samples import check_peaks, learned_scores, write_separable_bags

# Sums of some hundred float64 numbers, in another order.
CLOSE = 1e-11
TINY: dict[str, Any] = {
    "units": 6,
    "num_layers": 2,
    "num_heads": 2,
    "head_units": 3,
    "forward_units": 5,
    "num_slots": 17,
    "score_units": 4,
    "dropout": 0.0,
}
Array = NDArray[np.float64]


def tiny(**changes: Any) -> tuple[UrDmu, UrDmuNetwork]:
    method = UrDmu(UrDmuSettings(**{**TINY, **changes}))
    torch.manual_seed(0)
    return method, method.network(4).double().eval()


def bags_of(num_segments: int = 18, num_crops: int = 2) -> Batch:
    """Two normal and two anomalous bags of 4 numbers a segment; of 18 segments the highest two count."""
    features = torch.from_numpy(np.random.default_rng(5).normal(size=(4, num_segments, num_crops, 4)))
    return Batch(features, torch.tensor([0, 0, 1, 1]), torch.ones(4, num_segments, dtype=torch.bool))


class ByHand:
    """The network, for one video's one crop ``(segment, feature)`` at a time, in numpy."""

    def __init__(self, network: UrDmuNetwork, settings: UrDmuSettings) -> None:
        self.weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
        self.settings = settings

    def linear(self, name: str, values: Array) -> Array:
        found: Array = values @ self.weights[f"{name}.weight"].T
        return found + self.weights.get(f"{name}.bias", 0)

    def norm(self, name: str, values: Array) -> Array:
        centred = values - values.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt(values.var(axis=1, keepdims=True) + 1e-5)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def encode(self, bag: Array) -> Array:
        kernel, bias = self.weights["encoder.embedding.weight"], self.weights["encoder.embedding.bias"]
        wide = np.pad(bag, ((1, 1), (0, 0)))
        values = np.array(
            [np.maximum(0, bias + sum(kernel[:, :, j] @ wide[t + j] for j in range(3))) for t in range(len(bag))]
        )
        for layer in range(self.settings.num_layers):
            prefix = f"encoder.layers.{layer}"
            values = values + self.attend(prefix, self.norm(f"{prefix}.attention_norm", values))
            inner = self.linear(f"{prefix}.forward_layers.1", self.norm(f"{prefix}.forward_layers.0", values))
            gelu = inner * (1 + erf(inner / np.sqrt(2))) / 2
            values = values + self.linear(f"{prefix}.forward_layers.4", gelu)
        return values

    def attend(self, prefix: str, values: Array) -> Array:
        num_heads, width = self.settings.num_heads, self.settings.head_units
        parts = np.split(self.linear(f"{prefix}.attention.into", values), 4, axis=1)
        near = [[math.exp(-abs(i - j) / math.e) for j in range(len(values))] for i in range(len(values))]
        heads = []
        for head in range(num_heads):
            query, key, value, fixed = (part[:, head * width : (head + 1) * width] for part in parts)
            looked = softmax(query @ key.T / math.sqrt(width), axis=1)
            total = [sum(row) for row in near]
            if self.settings.local_norm == "rows":
                local = np.array([[near[i][j] / total[i] for j in range(len(near))] for i in range(len(near))])
            else:
                local = np.array([[near[i][j] / total[j] for j in range(len(near))] for i in range(len(near))])
            heads.append(np.concatenate([looked @ value, local @ fixed], axis=1))
        return self.linear(f"{prefix}.attention.out", np.concatenate(heads, axis=1))

    def recall(self, bank: str, encoded: Array) -> tuple[Array, Array]:
        slots = self.weights[f"{bank}_bank.slots"]
        matches = expit(encoded @ slots.T / math.sqrt(self.settings.units))
        # 17 slots: the best two.
        return np.sort(matches, axis=1)[:, -2:].mean(axis=1), matches @ slots

    def score(self, encoded: Array, recalled: Array) -> Array:
        inner = np.maximum(0, self.linear("scoring.0", np.concatenate([encoded, recalled], axis=1)))
        found: Array = expit(self.linear("scoring.2", inner))[:, 0]
        return found


def entropy(values: Any, target: float) -> float:
    return float(np.mean(-(target * np.log(values) + (1 - target) * np.log(1 - np.asarray(values)))))


def best(values: Array) -> list[int]:
    return np.argsort(-values)[: len(values) // 16 + 1].tolist()


def expected_parts(by_hand: ByHand, bags: Batch, noise: Array) -> dict[str, float]:
    """Give every term of the loss, before its weight; ``noise (bag, crop, segment, units)``."""
    videos: dict[int, list[dict[str, Any]]] = {}
    for bag in range(4):
        videos[bag] = []
        for crop in range(bags.features.shape[2]):
            encoded = by_hand.encode(bags.features[bag, :, crop].numpy())
            (known_n, read_n), (known_a, read_a) = (by_hand.recall(bank, encoded) for bank in ("normal", "anomalous"))
            mean_n, mean_a = by_hand.linear("mean", read_n), by_hand.linear("mean", read_a)
            one = {"encoded": encoded, "n": known_n, "a": known_a, "long": mean_a}
            if bag < 2:
                log_variance = by_hand.linear("log_variance", read_n)
                one["short"] = mean_n + noise[bag, crop] * np.sqrt(np.exp(log_variance))
                one["kl"] = -0.5 * (1 + log_variance - mean_n**2 - np.exp(log_variance))
                mean_n = one["short"]
            one["scores"] = by_hand.score(encoded, mean_n + mean_a)
            videos[bag].append(one)

    def over_crops(bag: int, name: str) -> Array:
        found: Array = np.mean([one[name] for one in videos[bag]], axis=0)
        return found

    def chosen(bag: int, values: str, by: str) -> Array:
        found: Array = np.mean([one[values][best(one[by])].mean(axis=0) for one in videos[bag]], axis=0)
        return found

    def top(values: Array) -> float:
        return float(values[best(values)].mean())

    def unit(vector: Array) -> Array:
        found: Array = vector / np.linalg.norm(vector)
        return found

    triplets, distances = [], []
    for n, a in ((0, 2), (1, 3)):
        anchor, positive = unit(chosen(n, "encoded", "n")), unit(chosen(a, "encoded", "n"))
        negative = unit(chosen(a, "encoded", "a"))
        # torch adds 1e-6 to each difference.
        near, far = (np.linalg.norm(anchor - other + 1e-6) for other in (positive, negative))
        triplets.append(max(0.0, near - far + 1))
        lengths = np.linalg.norm(chosen(a, "long", "a")), np.linalg.norm(chosen(n, "short", "n"))
        distances.append(max(0.0, 100 - lengths[0] + lengths[1]))
    kl = np.stack([one["kl"] for bag in (0, 1) for one in videos[bag]])
    return {
        "classification": np.mean(
            [entropy(top(over_crops(bag, "scores")), float(bag >= 2)) for bag in range(4)], dtype=float
        ),
        "anomalous_known": entropy([top(over_crops(bag, "a")) for bag in (2, 3)], 1.0),
        "anomalous_not_normal": entropy([top(1 - over_crops(bag, "n")) for bag in (2, 3)], 1.0),
        "normal_known": entropy([over_crops(bag, "n") for bag in (0, 1)], 1.0),
        "normal_not_anomalous": entropy([over_crops(bag, "a") for bag in (0, 1)], 0.0),
        "triplet": float(np.mean(triplets)),
        "divergence": float(np.mean(kl.sum(axis=1))),
        "distance": float(np.mean(distances)),
    }


@pytest.mark.parametrize("local_norm", ["columns", "rows"])
def test_every_term_of_the_loss_is_worked_out_by_hand(local_norm: str) -> None:
    weights = {"memory": 0.5, "triplet": 0.25, "divergence": 2.0, "distance": 3.0}
    method, network = tiny(local_norm=local_norm, **weights)
    bags = bags_of()
    torch.manual_seed(9)
    losses = method.loss(network, bags)
    torch.manual_seed(9)
    noise = torch.randn(2, 2, 18, 6, dtype=torch.float64).numpy()
    expected = expected_parts(ByHand(network, method.settings), bags, noise)
    weights |= {"classification": 1.0}
    assert losses.parts.keys() == expected.keys()
    for name, value in expected.items():
        weighed = weights.get(name, weights["memory"]) * value
        assert losses.parts[name].item() == pytest.approx(weighed, rel=CLOSE), name


def test_scores_are_those_of_the_layers_and_the_mean_over_crops() -> None:
    method, network = tiny()
    by_hand, features = ByHand(network, method.settings), bags_of().features[1]
    expected = []
    for crop in range(2):
        encoded = by_hand.encode(features[:, crop].numpy())
        recalled = [by_hand.linear("mean", by_hand.recall(bank, encoded)[1]) for bank in ("normal", "anomalous")]
        expected.append(by_hand.score(encoded, sum(recalled)))
    found = method.score(network, features).segments
    np.testing.assert_allclose(found.detach(), np.mean(expected, axis=0), rtol=CLOSE)


def test_the_code_divides_local_weights_by_the_sums_of_the_other_segment() -> None:
    mask = torch.tensor([[True, True, True]])
    one, two = math.exp(-1 / math.e), math.exp(-2 / math.e)
    ends, middle = 1 + one + two, 1 + 2 * one
    rows = local_weights(mask, "rows")[0]
    columns = local_weights(mask, "columns")[0]
    np.testing.assert_allclose(rows[0], np.array([1, one, two]) / ends, rtol=CLOSE)
    np.testing.assert_allclose(columns[0], [1 / ends, one / middle, two / ends], rtol=CLOSE)
    np.testing.assert_allclose(rows.sum(dim=1), 1, rtol=CLOSE)
    assert abs(columns.sum(dim=1)[0].item() - 1) > 0.01


def test_the_code_adds_the_divergence_over_segments() -> None:
    mean, log_variance = torch.full((1, 1, 3, 2), 2.0), torch.zeros(1, 1, 3, 2)
    mask = torch.tensor([[True, True, False]])
    # Of each number 4 / 2; two segments of two numbers.
    assert divergence(mean, log_variance, mask, "segments").item() == 4.0
    assert divergence(mean, log_variance, mask, "units").item() == 4.0
    wider = torch.full((1, 1, 3, 4), 2.0)
    assert divergence(wider, 0 * wider, mask, "segments").item() == 4.0
    assert divergence(wider, 0 * wider, mask, "units").item() == 8.0
    assert divergence(mean, torch.full_like(mean, math.log(4)), mask).item() == pytest.approx(
        2 * (4 + 3 - math.log(4)) / 2
    )


def test_divergence_is_that_of_torchs_distributions() -> None:
    mean, log_variance = torch.randn(2, 1, 5, 3).double(), torch.randn(2, 1, 5, 3).double()
    normal = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    each = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0 * mean, 1 + 0 * mean))
    found = divergence(mean, log_variance, torch.ones(2, 5, dtype=torch.bool), "units")
    torch.testing.assert_close(found, each.sum(dim=3).mean(), rtol=CLOSE, atol=0)


@pytest.mark.parametrize(("num_segments", "count"), [(1, 1), (15, 1), (16, 2), (200, 13)])
def test_one_segment_and_one_more_of_each_16_count(num_segments: int, count: int) -> None:
    scores = torch.rand(3, num_segments + 4)
    mask = torch.arange(num_segments + 4).expand(3, -1) < num_segments
    weights = top_weights(scores, mask)
    assert (weights > 0).sum(dim=1).tolist() == [count] * 3
    expected = scores[:, :num_segments].topk(count, dim=1).values.mean(dim=1)
    torch.testing.assert_close(top_mean(scores, mask), expected)


@pytest.mark.parametrize("num_segments", [100, 200, 320])
def test_a_mean_of_ones_that_is_rounded_above_one_is_no_error(num_segments: int) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(64, num_segments, generator=generator)
    scores[torch.rand(64, num_segments, generator=generator) < 0.3] = 1.0
    mask = torch.ones_like(scores, dtype=torch.bool)
    assert top_entropy(scores, mask, 1.0).item() == 0
    # Whether a mean of these is above 1 hangs on the CPU's way of adding up.
    just_above = torch.nextafter(torch.ones(3), torch.tensor(2.0))
    assert just_above.max() > 1
    assert score_entropy(just_above, torch.ones(3)).item() == 0


def test_vectors_longer_than_the_margin_cost_only_what_normal_ones_have() -> None:
    anomalous, normal = torch.tensor([[300.0, 400.0], [0.0, 60.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    # 100 - 500 + 5 is below 0; 100 - 60 + 10.
    assert length_distance(anomalous, normal, 100.0).item() == 25.0


def test_padding_changes_nothing() -> None:
    method, network = tiny()
    bags = bags_of()
    longer = torch.cat([bags.features, torch.full((4, 20, 2, 4), 7.0)], dim=1)
    mask = torch.arange(38).expand(4, 38) < 18
    torch.testing.assert_close(network(longer, mask)[:, :18], network(bags.features, bags.mask), rtol=CLOSE, atol=0)
    # Of other shapes other numbers are drawn.
    with torch.no_grad():
        network.log_variance.weight.zero_()
        network.log_variance.bias.fill_(-80.0)
    plain, padded = (method.loss(network, one) for one in (bags, Batch(longer, bags.labels, mask)))
    for name, value in plain.parts.items():
        # A standard deviation of exp(-40) is left.
        assert padded.parts[name].item() == pytest.approx(value.item(), rel=CLOSE), name


def test_gradients_equal_finite_differences() -> None:
    method, network = tiny(divergence=1.0, distance=1.0)
    bags = bags_of(5, 1)

    def total(features: Tensor, *weights: Tensor) -> Tensor:
        torch.manual_seed(4)
        named = dict(zip(dict(network.named_parameters()), weights, strict=True))
        with torch.nn.utils.stateless._reparametrize_module(network, named):
            return method.loss(network, Batch(features, bags.labels, bags.mask)).total

    weights = [weight.detach().clone().requires_grad_() for weight in network.parameters()]
    assert torch.autograd.gradcheck(total, (bags.features.requires_grad_(), *weights), fast_mode=True)


def test_what_normal_segments_recall_is_drawn_anew_and_scoring_draws_nothing() -> None:
    method, network = tiny()
    bags = bags_of()
    torch.manual_seed(1)
    one, other = (method.loss(network, bags).parts["distance"].item() for _ in range(2))
    torch.manual_seed(1)
    assert method.loss(network, bags).parts["distance"].item() == one != other
    first, second = (method.score(network, bags.features[0]).segments for _ in range(2))
    assert torch.equal(first, second)


def test_the_network_is_as_large_as_its_layers_are_published() -> None:
    with torch.device("meta"):
        network = UrDmu().network(1024)
    layer = 2 * 2 * 512 + 512 * 4 * 4 * 128 + (2 * 4 * 128 + 1) * 512 + 2 * (512 + 1) * 512
    banks, distribution = 2 * 60 * 512, 2 * (512 + 1) * 512
    by_hand = (3 * 1024 + 1) * 512 + 2 * layer + banks + distribution + (1024 + 1) * 128 + 128 + 1
    assert by_hand == sum(p.numel() for p in network.parameters()) == 6_492_929


def test_shapes_are_as_documented_for_200_segments_of_i3d() -> None:
    method = find_method("urdmu").make(normal_bags=2, anomalous_bags=2)
    network = method.network(1024).train()
    batch = Batch(torch.randn(4, 200, 1, 1024), torch.tensor([0, 1, 0, 1]), torch.ones(4, 200, dtype=torch.bool))
    assert all(part.shape == () and part.isfinite() for part in method.loss(network, batch).parts.values())
    assert method.score(network.eval(), torch.randn(7, 10, 1024)).segments.shape == (7,)
    assert (method.rule, method.settings.iterations) == ("urdmu-200", 3000)


def test_bags_may_come_in_any_order() -> None:
    method, network = tiny()
    with torch.no_grad():
        network.log_variance.weight.zero_()
        network.log_variance.bias.fill_(-80.0)
    bags, order = bags_of(), [2, 0, 3, 1]
    mixed = Batch(bags.features[order], bags.labels[order], bags.mask[order])
    assert method.loss(network, mixed).total.item() == pytest.approx(method.loss(network, bags).total.item(), rel=CLOSE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normal_bags": 3}, "no pairs"),
        ({"num_slots": 0}, "num_slots is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"local_norm": "both"}, "columns, rows"),
        ({"divergence_sum": "all"}, "segments, units"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_method("urdmu").make(**changes)


def test_it_learns_what_is_separable(tmp_path: Path) -> None:
    bags = write_separable_bags(tmp_path / "bags.h5", crops=2)
    sizes: dict[str, Any] = {"units": 16, "head_units": 8, "normal_bags": 6, "anomalous_bags": 6, "num_layers": 1}
    method = find_method("urdmu").make(iterations=60, learning_rate=3e-3, dropout=0.2, **sizes)
    # The convolution and the weights of what is near reach past the moved segments.
    check_peaks(learned_scores("urdmu", method, bags, tmp_path / "model"), bags.labels)
