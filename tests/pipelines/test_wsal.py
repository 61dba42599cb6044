"""WSAL: each equation on numbers worked out by hand, where paper and code differ, and what padding changes: nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vadx.errors import UsageError
from vadx.pipelines.methods import Batch
from vadx.pipelines.methods.deepmil import paired_hinge
from vadx.pipelines.methods.wsal import (
    ContextEncoding,
    Wsal,
    WsalNetwork,
    WsalSettings,
    adjacent_variation,
    bags_mean,
    batch_hinge,
    craft_anomalies,
    joint_scores,
    labels_mean,
    location_loss,
    noise_loss,
    score_max,
    score_range,
    second_order_variation,
)

# Sums of at most some hundred float64 numbers, in another order.
CLOSE = 1e-12

SMALL: dict[str, Any] = {"trunk_units": (5, 4), "encoding_units": 3, "dropout": 0.0}
SMALL_CODE: dict[str, Any] = {
    **Wsal.variants["code"],
    "trunk_units": (5,),
    "encoding_units": 4,
    "semantic_units": (3,),
    "dynamic_units": (4, 3),
    "dropout": 0.0,
}


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def everything(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def batch(num_segments: int = 6, *, num_crops: int = 1, more: bool = False, seed: int = 3) -> Batch:
    """Two normal and two anomalous bags of 4 numbers a segment."""
    random = np.random.default_rng(5)
    features = torch.from_numpy(random.normal(size=(4, num_segments, num_crops, 4)))
    noisy = {"noisy": torch.from_numpy(random.normal(size=features.shape))} if more else {}
    return Batch(features, torch.tensor([0, 0, 1, 1]), everything(4, num_segments), more=noisy, seed=seed)


def small(**changes: Any) -> tuple[Wsal, WsalNetwork]:
    method = Wsal(WsalSettings(**{**SMALL, **changes}))
    torch.manual_seed(0)
    return method, method.network(4).double().eval()


def by_hand(network: WsalNetwork, bag: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give what the network gives of one bag ``(segment, feature)``, worked out a segment at a time."""
    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}

    def layers(prefix: str, values: np.ndarray[Any, Any], *, bare_end: bool) -> np.ndarray[Any, Any]:
        names = sorted(name for name in weights if name.startswith(f"{prefix}.") and name.endswith(".weight"))
        for name in names:
            values = values @ weights[name].T + weights[name.replace("weight", "bias")]
            if name != names[-1] or not bare_end:
                values = np.maximum(values, 0)
        return values

    trunk = layers("trunk", bag, bare_end=False)
    kernel, bias = weights["encoding.convolution.weight"], weights["encoding.convolution.bias"]
    k = kernel.shape[2] // 2
    encoded = np.array(
        [
            bias + sum(kernel[:, :, k + j] @ trunk[min(max(t + j, 0), len(trunk) - 1)] for j in range(-k, k + 1))
            for t in range(len(trunk))
        ]
    )
    logits = layers("semantic", encoded, bare_end=False) @ weights["score.weight"].T + weights["score.bias"]
    return 1 / (1 + np.exp(-logits[:, 0])), layers("dynamic", encoded, bare_end=True)


def cosines(encoded: np.ndarray[Any, Any]) -> list[float]:
    return [float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in pairwise(encoded)]


def eq6(encoded: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    cos = cosines(encoded)
    around = [(cos[0], cos[0]), *pairwise(cos), (cos[-1], cos[-1])]
    return np.array([(2 - before - after) / 4 for before, after in around])


@pytest.mark.parametrize("changes", [SMALL, SMALL_CODE], ids=["paper", "code"])
def test_the_network_is_equations_4_and_5(changes: dict[str, Any]) -> None:
    _, network = small(**changes)
    bags = batch().features[:, :, 0]
    semantic, encoded = network(bags, everything(4, 6))
    for bag in range(4):
        expected = by_hand(network, bags[bag].numpy())
        np.testing.assert_allclose(semantic[bag].detach(), expected[0], atol=CLOSE)
        np.testing.assert_allclose(encoded[bag].detach(), expected[1], atol=CLOSE)


def test_the_context_is_that_of_equation_4() -> None:
    encoding = ContextEncoding(1, 1, 1).double()
    with torch.no_grad():
        encoding.convolution.weight[:] = tensor(100, 10, 1)
        encoding.convolution.bias[:] = 0.5  # type: ignore[index]  # made with a bias
    found = encoding(tensor([[1.0], [2.0], [3.0]]), everything(1, 3))
    # W_-1 of the one before, W_0 of its own, W_1 of the one after; the first and the last are repeated.
    assert found.flatten().tolist() == [112.5, 123.5, 233.5]
    no_context = ContextEncoding(1, 1, 0).double()
    assert no_context(tensor([[1.0], [2.0]]), everything(1, 2)).shape == (1, 2, 1)


TURNS = tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0], [-1.0, 0.0]])


def test_variation_is_equation_6_and_the_code_has_twice_as_much() -> None:
    # Cosines 0, 1 and 0; (2 - 0 - 1) / 4 within, and the one neighbour of an end counts twice.
    second_order, mask = second_order_variation(TURNS, everything(1, 4))
    assert second_order.tolist() == [[0.5, 0.25, 0.25, 0.5]]
    assert mask.all()
    adjacent, pairs = adjacent_variation(TURNS, everything(1, 4))
    assert adjacent.tolist() == [[1.0, 0.0, 1.0]]
    assert pairs.shape == (1, 3)
    # Test.py adds a pair's distance to both of its segments and halves all but the ends.
    tested = np.zeros(4)
    tested[:-1] += adjacent[0].numpy()
    tested[1:] += adjacent[0].numpy()
    tested[1:-1] /= 2
    assert tested.tolist() == [1.0, 0.5, 0.5, 1.0]
    assert (2 * second_order[0]).tolist() == tested.tolist()


def test_opposite_directions_reach_the_bounds() -> None:
    there_and_back = tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert second_order_variation(there_and_back, everything(1, 3))[0].tolist() == [[1.0, 1.0, 1.0]]
    assert adjacent_variation(there_and_back, everything(1, 3))[0].tolist() == [[2.0, 2.0]]
    assert second_order_variation(there_and_back[:, :1], everything(1, 1))[0].tolist() == [[0.0]]


def test_a_video_scores_its_margin_and_in_the_code_its_maximum() -> None:
    scores = tensor([0.25, 0.75, 0.5], [0.5, 0.5, 0.5])
    of_pairs = [max(abs(a - b) for a in row for b in row) for row in scores.tolist()]
    assert of_pairs == [0.5, 0.0]
    assert score_range(scores, everything(2, 3)).tolist() == of_pairs
    assert score_max(scores, everything(2, 3)).tolist() == [0.75, 0.5]
    nothing = ~everything(2, 3)
    assert score_range(scores, nothing).tolist() == score_max(scores, nothing).tolist() == [0.0, 0.0]


def test_the_margin_of_means_is_not_the_mean_of_margins() -> None:
    anomalous, normal = tensor(1.75, 0.25), tensor(0.125, 0.5)
    # 1 - 1 + 0.3125; and 0, for the first pair is far enough apart, and 1.25.
    assert batch_hinge(anomalous, normal).item() == 0.3125
    assert paired_hinge(anomalous, normal).item() == 0.625
    # Where no pair is far enough apart they are equal.
    assert batch_hinge(tensor(0.5, 0.25), normal).item() == paired_hinge(tensor(0.5, 0.25), normal).item() == 0.9375
    assert batch_hinge(tensor(2.0, 2.0), normal).item() == 0


def test_the_code_counts_sparsity_twice() -> None:
    sums, anomalous = tensor(1.0, 2.0, 3.0, 6.0), torch.tensor([False, False, True, True])
    assert bags_mean(sums, anomalous).item() == 3
    assert labels_mean(sums, anomalous).item() == 6


def test_noise_is_pushed_to_zero_by_the_mean_of_both_scores() -> None:
    scores = joint_scores(tensor([0.5, 1.0], [0.0, 0.25]), tensor([0.25, 0.0], [0.5, 0.25]))
    assert scores.tolist() == [[0.375, 0.5], [0.25, 0.25]]
    # (0.140625 + 0.25 + 0.0625 + 0.0625) / 2 videos
    assert noise_loss(scores, everything(2, 2)).item() == 0.2578125


def test_the_text_pushes_fused_segments_up_and_the_printed_sign_down() -> None:
    fused = torch.tensor([[True, False, True, False], [False, True, False, False]])
    scores = tensor([0.25, 0.5, 0.75, 0.375], [0.5, 0.25, 0.125, 0.0]).requires_grad_()
    text = location_loss(scores, everything(2, 4), fused)
    printed = location_loss(scores, everything(2, 4), fused, "printed")
    # The best other of the first is 0.5: 0.25 is below by 0.25, 0.75 above by as much. In the second 0.25 is below 0.5.
    assert text.item() == (0.25 + 0.25) / 2
    assert printed.item() == 0.25 / 2
    (of_text,) = torch.autograd.grad(text, scores)
    (of_printed,) = torch.autograd.grad(printed, scores)
    assert of_text.tolist() == [[-0.5, 0.5, 0, 0], [0.5, -0.5, 0, 0]]
    assert of_printed.tolist() == [[0, -0.5, 0.5, 0], [0, 0, 0, 0]]


def test_the_whole_loss_of_the_paper() -> None:
    method, network = small(sparsity=0.5, noise_weight=2.0, location_weight=3.0)
    bags = batch(more=True)
    losses = method.loss(network, bags)

    semantic, dynamic = [], []
    for features in bags.features[:, :, 0].numpy():
        scores, encoded = by_hand(network, features)
        semantic.append(scores)
        dynamic.append(eq6(encoded))

    def margin(scores: list[np.ndarray[Any, Any]]) -> float:
        extents = [np.ptp(one) for one in scores]
        return float(max(0, 1 - np.mean(extents[2:]) + np.mean(extents[:2])))

    expected = {
        "semantic_margin": margin(semantic),
        "dynamic_margin": margin(dynamic),
        "sparsity": 0.5 / 4 * sum(s.sum() for s in semantic + dynamic),
    }

    def joint(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        scores, encoded = by_hand(network, features)
        both: np.ndarray[Any, Any] = (scores + eq6(encoded)) / 2
        return both

    expected["noise"] = 2.0 / 2 * sum((joint(bag) ** 2).sum() for bag in bags.more["noisy"][:2, :, 0].numpy())
    features, mask = bags.features[:, :, 0], bags.mask
    crafted = craft_anomalies(features[:2], mask[:2], features[2:], mask[2:], random=np.random.default_rng(3))
    location = 0.0
    for bag, fused in zip(crafted.features.numpy(), crafted.fused.numpy(), strict=True):
        scores = joint(bag)
        location += sum(max(0, scores[~fused].max() - score) for score in scores[fused])
    expected["location"] = 3.0 / 2 * location
    assert expected["location"] > 0
    assert losses.parts.keys() == expected.keys()
    for name, value in expected.items():
        assert losses.parts[name].item() == pytest.approx(value, abs=CLOSE), name
    assert losses.total.item() == pytest.approx(sum(expected.values()), abs=CLOSE)


def test_the_whole_loss_of_the_code() -> None:
    method, network = small(**{**SMALL_CODE, "sparsity": 0.5, "smoothness": 0.25})
    bags = batch(more=True)
    losses = method.loss(network, bags)
    semantic, dynamic = [], []
    for features in bags.features[:, :, 0].numpy():
        scores, encoded = by_hand(network, features)
        semantic.append(scores)
        dynamic.append(1 - np.array(cosines(encoded)))
    pairs = [(2, 0), (3, 1)]
    expected = {
        "semantic_margin": np.mean([max(0, 1 - np.ptp(semantic[a]) + np.ptp(semantic[n])) for a, n in pairs]),
        "dynamic_margin": np.mean([max(0, 1 - dynamic[a].max() + dynamic[n].max()) for a, n in pairs]),
        "sparsity": 0.5 / 2 * sum(s.sum() for s in semantic + dynamic),
        "smoothness": 0.25 / 2 * sum((np.diff(s) ** 2).sum() for s in semantic[2:] + dynamic[2:]),
    }
    assert losses.parts.keys() == expected.keys()
    for name, value in expected.items():
        assert losses.parts[name].item() == pytest.approx(value, abs=CLOSE), name


@pytest.mark.parametrize("changes", [SMALL, SMALL_CODE], ids=["paper", "code"])
def test_gradients_equal_finite_differences(changes: dict[str, Any]) -> None:
    method, network = small(**changes)
    bags = batch(4, more=True)

    def loss(features: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip(dict(network.named_parameters()), weights, strict=True))

        class Changed(torch.nn.Module):
            def forward(self, *given: Tensor) -> Any:
                return torch.func.functional_call(network, named, given)

        return method.loss(Changed(), Batch(features, bags.labels, bags.mask, more=bags.more, seed=3)).total

    weights = [weight.detach().requires_grad_() for weight in network.parameters()]
    assert torch.autograd.gradcheck(loss, (bags.features.requires_grad_(), *weights), fast_mode=True)


@pytest.mark.parametrize("changes", [SMALL, SMALL_CODE], ids=["paper", "code"])
def test_padding_changes_nothing(changes: dict[str, Any]) -> None:
    method, network = small(**{**changes, "sparsity": 0.5, "fused_share": 1.0})
    bags = batch(more=True)
    padded = {
        name: torch.cat([values, torch.full_like(values[:, :3], 7.0)], dim=1)
        for name, values in {"features": bags.features, **bags.more}.items()
    }
    mask = torch.arange(9).expand(4, 9) < 6
    longer = Batch(padded["features"], bags.labels, mask, more={"noisy": padded["noisy"]}, seed=3)
    for name, part in method.loss(network, bags).parts.items():
        assert method.loss(network, longer).parts[name].item() == pytest.approx(part.item(), abs=CLOSE), name
    whole, end = network(bags.features[:, :, 0], bags.mask), network(longer.features[:, :, 0], mask)
    for one, other in zip(whole, end, strict=True):
        torch.testing.assert_close(one, other[:, :6], atol=CLOSE, rtol=0)


def test_padding_between_segments_is_refused() -> None:
    _, network = small()
    with pytest.raises(UsageError, match="--rule wsal"):
        network(torch.zeros(1, 3, 4).double(), torch.tensor([[True, False, True]]))


def test_published_layers_have_so_many_parameters() -> None:
    # FC 1024-512-128, five 128 x 128 of Eq. 4, score; in the code FC 512, five 512 x 512, 128-1 and 128-128.
    paper = 1024 * 512 + 512 + 512 * 128 + 128 + 5 * 128 * 128 + 128 + 128 + 1
    code = 1024 * 512 + 512 + 5 * 512 * 512 + 512 + 512 * 128 + 128 + 129 + 512 * 128 + 128 + 128 * 128 + 128
    assert (paper, code) == (672_641, 1_984_001)
    for method, expected in ((Wsal(), paper), (Wsal(WsalSettings(**Wsal.variants["code"])), code)):
        assert sum(p.numel() for p in method.network(1024).parameters()) == expected


def test_dropout_stands_where_paper_and_code_have_it() -> None:
    def shares(**changes: Any) -> dict[str, float]:
        network = Wsal(WsalSettings(**changes)).network(8)
        return {n: m.p for n, m in network.named_modules() if isinstance(m, torch.nn.Dropout) and m.p}

    assert shares() == {"trunk.2": 0.6, "trunk.5": 0.6, "encoding_dropout": 0.6}
    assert shares(**Wsal.variants["code"]) == {"trunk.2": 0.8, "semantic.2": 0.8, "dynamic.2": 0.8}


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("num_segments", [1, 2, 32])
def test_scores_are_one_a_segment_from_0_to_1(variant: str, num_segments: int) -> None:
    method = Wsal(WsalSettings(**Wsal.variants.get(variant, {})))
    torch.manual_seed(1)
    network = method.network(16).eval()
    # As far from each other as can be, so that the code's score, up to 1.5, would leave the range.
    features = (-1.0) ** torch.arange(num_segments)[:, None, None] * 100 * torch.ones(1, 5, 16)
    features[:, 1:] += torch.randn(num_segments, 4, 16)
    with torch.no_grad():
        scores = method.score(network, features)
    assert scores.segments.shape == (num_segments,)
    assert scores.video is not None
    assert scores.segments.min() >= 0
    assert scores.segments.max() <= 1
    assert 0 <= scores.video <= 1
    parts = scores.more["semantic"], scores.more["dynamic"]
    published = (parts[0] + parts[1]) / 2 if variant == "paper" else (parts[0] + 2 * parts[1]) / 2
    scale = 1 if variant == "paper" else 1.5
    torch.testing.assert_close(scores.segments * scale, published, atol=1e-6, rtol=0)  # float32


def test_a_video_scores_half_of_both_margins() -> None:
    method, network = small()
    features = batch().features[0]
    semantic, encoded = by_hand(network, features[:, 0].numpy())
    found = method.score(network, features).video
    assert found == pytest.approx((np.ptp(semantic) + np.ptp(eq6(encoded))) / 2, abs=CLOSE)


def crafted_bags() -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    return {
        "normal": torch.rand(40, 8, 3, generator=random).double(),
        "normal_mask": torch.arange(8).expand(40, 8) < torch.tensor([8] * 39 + [1])[:, None],
        "anomalous": 10 + torch.rand(5, 8, 3, generator=random).double(),
        "anomalous_mask": torch.arange(8).expand(5, 8) < 4,
    }


def test_hand_crafted_anomalies_hold_20_to_50_percent_of_an_anomalous_segment() -> None:
    bags = crafted_bags()
    settings = WsalSettings(fused_share=1.0)
    made = craft_anomalies(**bags, random=np.random.default_rng(1), settings=settings)
    again = craft_anomalies(**bags, random=np.random.default_rng(1), settings=settings)
    other = craft_anomalies(**bags, random=np.random.default_rng(2), settings=settings)
    assert torch.equal(made.features, again.features)
    assert not torch.equal(made.fused, other.fused)
    assert torch.equal(made.features[~made.fused], bags["normal"][~made.fused])
    found = []
    sources = bags["anomalous"][bags["anomalous_mask"]]
    for normal, fused in zip(bags["normal"][made.fused], made.features[made.fused], strict=True):
        shares = (fused - normal) / (sources - normal)
        # One share for all three numbers says which segment it was.
        best = shares[int((shares.max(dim=1).values - shares.min(dim=1).values).argmin())]
        assert best.max() - best.min() < CLOSE
        found.append(float(best[0]))
    # Of some 140 uniform numbers, all in the range and near both of its ends.
    assert 0.2 <= min(found) < 0.23
    assert 0.47 < max(found) <= 0.5
    fused_counts = made.fused.sum(dim=1).tolist()
    assert fused_counts[-1] == 0
    assert set(fused_counts[:-1]) == set(range(1, 8))
    few = craft_anomalies(**bags, random=np.random.default_rng(1))
    assert set(few.fused.sum(dim=1)[:-1].tolist()) == {1, 2}


def test_what_is_fused_follows_the_number_of_the_iteration() -> None:
    method, network = small(location_weight=1.0)
    one, same, other = (method.loss(network, batch(seed=seed)).parts["location"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_batch_without_noisy_features_has_no_noise_term() -> None:
    method, network = small()
    assert "noise" in method.loss(network, batch(more=True)).parts
    assert "noise" not in method.loss(network, batch()).parts
    method, network = small(noise_weight=0.0, location_weight=0.0)
    assert method.loss(network, batch(more=True)).parts.keys() == {"semantic_margin", "dynamic_margin", "sparsity"}


def test_the_rate_is_halved_twice() -> None:
    paper, code = Wsal(), Wsal(WsalSettings(**Wsal.variants["code"]))
    assert [paper.pace(i) for i in (0, 1199, 1200, 2399, 2400, 2999)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert (code.settings.iterations, code.settings.first_halving, code.settings.second_halving) == (
        500 * 26,
        300 * 26,
        400 * 26,
    )
    (group,) = paper.optimisers(paper.network(4))["all"].param_groups
    assert group["lr"] == 0.001


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variation": "third-order"}, "second-order, adjacent"),
        ({"dynamic_extent": "mean"}, "range, max"),
        ({"margin": "paired", "normal_bags": 3}, "batch-means"),
        ({"sparsity_mean": "x"}, "bags, labels"),
        ({"location_sign": "x"}, "text, printed"),
        ({"fusion_least": 0.6}, "0.6 to fusion_most 0.5"),
        ({"trunk_units": (0,)}, "1 or more"),
        ({"context": -1}, "context -1"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"fused_share": 0.0}, "fused_share is 0.0"),
        ({"iterations": 0}, "iterations is 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], said: str) -> None:
    assert WsalSettings().margin == "batch-means"
    with pytest.raises(UsageError, match=said):
        WsalSettings(**changes)


def test_settings_that_were_json_are_the_same() -> None:
    assert WsalSettings(trunk_units=[512, 128]) == WsalSettings()  # type: ignore[arg-type]  # as JSON gives them
