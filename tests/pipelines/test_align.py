"""CSL-TAL: each equation on numbers worked out by hand, where paper and code differ, and padding, which alters none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vadx.errors import UsageError
from vadx.features import segment_spans
from vadx.pipelines.methods import Batch, Losses
from vadx.pipelines.methods.align import (
    Align,
    AlignSettings,
    Proposal,
    alignment,
    connected_spans,
    draw_pairs,
    find_proposals,
    frame_activation,
    place_scores,
    proposal_scores,
)
from vadx.pipelines.methods.align_network import AlignNetwork, CausalConvolution

# Sums of at most some hundred float64 numbers, in another order.
CLOSE = 1e-12

Array = np.ndarray[Any, Any]

SMALL: dict[str, Any] = {
    "attention_units": (3,),
    "gate_units": 3,
    "classifier_units": 5,
    "sparsity": 0.5,
    "smoothness": 0.25,
    "alignment": 2.0,
}


def everything(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def batch(num_segments: int = 11, *, num_crops: int = 1, seed: int = 3) -> Batch:
    """Two normal and two anomalous bags of 4 numbers a segment; one of each is shorter by 4 segments."""
    random = np.random.default_rng(5)
    features = torch.from_numpy(random.normal(size=(4, num_segments, num_crops, 4)))
    mask = torch.arange(num_segments).expand(4, -1) < num_segments - torch.tensor([0, 4, 4, 0])[:, None]
    return Batch(features, torch.tensor([0, 0, 1, 1]), mask, seed=seed)


def small(**changes: Any) -> tuple[Align, AlignNetwork]:
    method = Align(AlignSettings(**{**SMALL, **changes}))
    torch.manual_seed(0)
    return method, method.network(4).double().eval()


def sigmoid(values: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-values))
    return result


class ByHand:
    """The network of a sequence ``(segment, feature)``, worked out a segment at a time."""

    def __init__(self, network: AlignNetwork, attention: str = "plain") -> None:
        self.weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
        self.plain = attention == "plain"

    def _layer(self, name: str, values: Array) -> Array:
        result: Array = self.weights[f"{name}.weight"] @ values + self.weights[f"{name}.bias"]
        return result

    def context(self, features: Array) -> Array:
        kernel, bias = self.weights["context.convolution.weight"], self.weights["context.convolution.bias"]
        past = kernel.shape[2] - 1
        return np.array(
            [
                bias + sum(kernel[:, :, past - ago] @ features[t - ago] for ago in range(past + 1) if t >= ago)
                for t in range(len(features))
            ]
        )

    def attention(self, features: Array) -> Array:
        logits = []
        for row in self.context(features):
            if self.plain:
                row = self._layer("attention.layers.2", np.maximum(self._layer("attention.layers.0", row), 0))
            else:
                gate = sigmoid(self._layer("attention.gate", row))
                row = self._layer("attention.score", np.tanh(self._layer("attention.content", row)) * gate)
            logits.append(row[0])
        return sigmoid(np.array(logits))

    def classify(self, features: Array) -> float:
        hidden = np.maximum(self._layer("classifier.0", features), 0)
        return float(sigmoid(self._layer("classifier.2", hidden))[0])

    def video(self, features: Array) -> float:
        return self.classify(np.sum([a * x for a, x in zip(self.attention(features), features, strict=True)], axis=0))


@pytest.mark.parametrize("attention", ["plain", "gated"])
def test_the_network_is_equation_2(attention: str) -> None:
    _, network = small(attention=attention)
    hand, bags = ByHand(network, attention), batch()
    found, logits = network(bags.features[:, :, 0], bags.mask)
    activation = network.activation(bags.features[:, :, 0])
    for bag in range(4):
        features = bags.features[bag, :, 0].numpy()[bags.mask[bag].numpy()]
        np.testing.assert_allclose(found[bag].detach()[: len(features)], hand.attention(features), atol=CLOSE)
        assert not found[bag, len(features) :].any()
        assert torch.sigmoid(logits[bag]).item() == pytest.approx(hand.video(features), abs=CLOSE)
        assert activation[bag, 2].item() == pytest.approx(hand.classify(features[2]), abs=CLOSE)


def test_pooling_is_not_divided_by_the_weights() -> None:
    _, network = small()
    hand = ByHand(network)
    features = batch().features[0, :, 0].numpy()
    weights = hand.attention(features)
    mean = hand.classify(weights @ features / weights.sum())
    assert abs(hand.video(features) - mean) > 0.01
    logit = network(torch.from_numpy(features)[None], everything(1, 11))[1]
    assert torch.sigmoid(logit).item() == pytest.approx(hand.video(features), abs=CLOSE)


def test_the_convolution_sees_the_past_and_is_the_masked_one_of_the_code() -> None:
    torch.manual_seed(0)
    layer = CausalConvolution(3, 2).double()
    features = torch.randn(2, 9, 3).double()
    changed = features.clone()
    changed[:, 5] += 1
    differs = (layer(features) != layer(changed)).any(dim=2)
    assert differs.tolist() == [[t in (5, 6, 7) for t in range(9)]] * 2
    # Five taps, padding of 2 on both sides, the last two taps held at 0.
    assert layer.convolution.bias is not None
    masked = functional.pad(layer.convolution.weight, (0, 2))
    assert masked.shape == (3, 3, 5)
    expected = functional.conv1d(features.transpose(1, 2), masked, layer.convolution.bias, padding=2).transpose(1, 2)
    torch.testing.assert_close(layer(features), expected, atol=CLOSE, rtol=0)
    assert layer.convolution.weight.abs().max() <= (3 * 5) ** -0.5


def test_published_layers_have_so_many_parameters() -> None:
    def count(**changes: Any) -> int:
        return sum(p.numel() for p in Align(AlignSettings(**changes)).network(1024).parameters())

    # The code's own counts have two taps more, 2 * 1024 * 1024 numbers that its mask holds at 0.
    rest = 3 * 1024 * 1024 + 1024 + 1024 * 512 + 512 + 512 + 1
    assert count() == rest + 1024 * 256 + 256 + 256 + 1 == 3_934_722
    assert count(**Align.variants["code"]) == rest + 1024 * 1024 + 1024 + 1024 * 256 + 256 + 257 == 4_984_322
    assert count(**Align.variants["code-head"]) == rest + 2 * (1024 * 256 + 256) + 257 == 4_197_122


def test_the_code_swaps_two_weights() -> None:
    paper, code, head = AlignSettings(), Align.variants["code"], Align.variants["code-head"]
    assert (paper.sparsity, paper.smoothness, paper.alignment) == (2e-8, 2e-3, 0.5)
    assert (code["sparsity"], code["smoothness"]) == (2e-3, 2e-8)
    assert (head["sparsity"], head["smoothness"], head["alignment"]) == (2e-3, 0.0, 0.55)
    parts = {}
    for name, changes in {"paper": {}, "code": dict(code)}.items():
        method = Align(AlignSettings(**{**changes, "reduction": "videos"}))
        torch.manual_seed(0)
        parts[name] = method.loss(method.network(4).double(), batch()).parts
    # The same terms but for weights drawn otherwise, which a factor of 100,000 tells apart.
    assert parts["code"]["sparsity"] / parts["paper"]["sparsity"] > 1e4
    assert parts["code"]["smoothness"] / parts["paper"]["smoothness"] < 1e-4


def test_alignment_is_equation_5() -> None:
    first = torch.tensor([[0.5, 0.25, 1.0], [0.5, 0.0, 0.0]]).double()
    second = torch.tensor([[0.0, 0.5, 1.0], [0.25, 0.0, 0.0]]).double()
    assert alignment(first, second).tolist() == [0.3125, 0.0625]


def terms_by_hand(network: AlignNetwork, bags: Batch, attention: str = "plain") -> list[dict[str, Any]]:
    """Give for each bag the terms of its two sequences, not weighted."""
    hand = ByHand(network, attention)
    places, counts = draw_pairs(bags.mask, 3, np.random.default_rng(bags.seed))
    found = []
    for bag in range(len(bags.labels)):
        features = bags.features[bag, :, 0].numpy()
        sequences = [features[one[bag][counts[bag]].numpy()] for one in places]
        weights = [hand.attention(sequence) for sequence in sequences]
        probabilities = [hand.video(sequence) for sequence in sequences]
        label = int(bags.labels[bag])
        found.append(
            {
                "classification": [-np.log(p if label else 1 - p) for p in probabilities],
                "sparsity": [np.abs(w).sum() for w in weights],
                "smoothness": [sum((w[t] - w[t + 1]) ** 2 for t in range(len(w) - 1)) for w in weights],
                "alignment": (weights[0] - weights[1]) ** 2,
                "segments": sum(len(w) for w in weights),
            }
        )
    return found


def check(losses: Losses, expected: dict[str, float]) -> None:
    assert losses.parts.keys() == expected.keys()
    for name, value in expected.items():
        assert value > 0
        assert losses.parts[name].item() == pytest.approx(value, abs=CLOSE), name
    assert losses.total.item() == pytest.approx(sum(expected.values()), abs=CLOSE)


@pytest.mark.parametrize("attention", ["plain", "gated"])
def test_the_whole_loss_of_the_paper(attention: str) -> None:
    method, network = small(attention=attention)
    if attention == "gated":
        # Drawn so small that the sequences of a pair would be equal within rounding.
        for weight in network.attention.parameters():
            torch.nn.init.normal_(weight)
    bags = batch()
    terms = terms_by_hand(network, bags, attention)
    check(
        method.loss(network, bags),
        {
            "classification": float(np.mean([one["classification"] for one in terms])),
            "sparsity": 0.5 * float(np.mean([one["sparsity"] for one in terms])),
            "smoothness": 0.25 * float(np.mean([one["smoothness"] for one in terms])),
            "alignment": 2.0 * float(np.mean([one["alignment"].sum() for one in terms])),
        },
    )


def test_the_code_divides_by_the_segments_of_the_batch() -> None:
    method, network = small(reduction="segments")
    bags = batch(17)
    terms = terms_by_hand(network, bags)
    # Sequences of 17 and 13 segments have 5 and 4, each twice.
    total = sum(one["segments"] for one in terms)
    assert total == 2 * (5 + 4 + 4 + 5)
    check(
        method.loss(network, bags),
        {
            "classification": float(np.mean([one["classification"] for one in terms])) / total,
            "sparsity": 0.5 * float(np.sum([one["sparsity"] for one in terms])) / total,
            "smoothness": 0.25 * float(np.sum([one["smoothness"] for one in terms])) / total,
            "alignment": 2.0 * sum(float(one["alignment"].mean()) for one in terms) / total,
        },
    )


@pytest.mark.parametrize("changes", [{}, {"reduction": "segments", "attention": "gated"}], ids=["paper", "code-head"])
def test_gradients_equal_finite_differences(changes: dict[str, Any]) -> None:
    method, network = small(**changes)
    bags = batch()

    def loss(features: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip(dict(network.named_parameters()), weights, strict=True))

        class Changed(torch.nn.Module):
            def forward(self, *given: Tensor) -> Any:
                return torch.func.functional_call(network, named, given)

        return method.loss(Changed(), Batch(features, bags.labels, bags.mask, seed=3)).total

    weights = [weight.detach().requires_grad_() for weight in network.parameters()]
    assert torch.autograd.gradcheck(loss, (bags.features.requires_grad_(), *weights), fast_mode=True)


@pytest.mark.parametrize("reduction", ["videos", "segments"])
def test_padding_changes_nothing(reduction: str) -> None:
    method, network = small(reduction=reduction)
    bags = batch()
    features = torch.cat([bags.features, torch.zeros_like(bags.features)], dim=1)
    mask = torch.cat([bags.mask, torch.zeros_like(bags.mask)], dim=1)
    features[~mask] = 7.0
    for name, part in method.loss(network, bags).parts.items():
        longer = method.loss(network, Batch(features, bags.labels, mask, seed=3)).parts[name]
        assert longer.item() == pytest.approx(part.item(), abs=CLOSE), name
    attention, logits = network(bags.features[:, :, 0], bags.mask)
    more_attention, same_logits = network(features[:, :, 0], mask)
    torch.testing.assert_close(same_logits, logits, atol=CLOSE, rtol=0)
    torch.testing.assert_close(more_attention[:, :11], attention, atol=CLOSE, rtol=0)
    assert not more_attention[~mask].any()


def test_each_crop_is_a_sample() -> None:
    method, network = small()
    bags = batch(5, num_crops=2)  # so short that nothing is drawn
    both = method.loss(network, bags).parts
    of_crops = [
        method.loss(network, Batch(bags.features[:, :, [crop]], bags.labels, bags.mask)).parts for crop in range(2)
    ]
    for name, part in both.items():
        mean = (of_crops[0][name] + of_crops[1][name]) / 2
        assert part.item() == pytest.approx(mean.item(), abs=CLOSE)


def test_pairs_have_one_segment_of_each_block() -> None:
    mask = torch.arange(12).expand(4, 12) < torch.tensor([11, 6, 7, 1])[:, None]
    seen: dict[int, set[int]] = {}
    for seed in range(40):
        places, counts = draw_pairs(mask, 3, np.random.default_rng(seed))
        # 11 // 3, all of 6 as none is drawn from up to two blocks, 7 // 3, and one.
        assert counts.sum(dim=1).tolist() == [3, 6, 2, 1]
        assert places[:, 1].tolist() == [[0, 1, 2, 3, 4, 5]] * 2
        for one in places[:, 0, :3].tolist():
            assert [place // 3 for place in one] == [0, 1, 2]
            for place in one:
                seen.setdefault(place // 3, set()).add(place)
    assert seen == {0: {0, 1, 2}, 1: {3, 4, 5}, 2: {6, 7, 8}}
    again = draw_pairs(mask, 3, np.random.default_rng(7))[0]
    assert torch.equal(again, draw_pairs(mask, 3, np.random.default_rng(7))[0])
    assert not torch.equal(again[0], again[1])


def test_what_is_drawn_follows_the_number_of_the_iteration() -> None:
    method, network = small()
    one, same, other = (method.loss(network, batch(seed=seed)).total for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_pairs_of_the_rule_csltal_pairs_are_taken_as_they_are() -> None:
    method, network = small(pairs="given")
    spans = segment_spans("csltal-pairs", 11, 8, seed=3)
    mask = torch.from_numpy(spans[:, 0] < spans[:, 1])[None].expand(2, 8)
    assert mask[0].tolist() == [True, True, True, False] * 2
    features = batch(8).features[:2]
    labels = torch.tensor([0, 1])
    parts = method.loss(network, Batch(features, labels, mask)).parts
    hand = ByHand(network)
    weights = [[hand.attention(bag[at : at + 3, 0].numpy()) for at in (0, 4)] for bag in features]
    expected = 2.0 * float(np.mean([((first - second) ** 2).sum() for first, second in weights]))
    assert parts["alignment"].item() == pytest.approx(expected, abs=CLOSE)

    scores = method.score(network, features[0, [0, 1, 2, 4, 5, 6]])
    np.testing.assert_allclose(scores.segments.detach(), np.concatenate(weights[0]), atol=CLOSE)
    for wrong in (mask[:, :7], torch.arange(8).expand(2, 8) < 5):
        with pytest.raises(UsageError, match="--rule csltal-pairs"):
            method.loss(network, Batch(features[:, : wrong.shape[1]], labels, wrong))
    with pytest.raises(UsageError, match="--rule csltal-pairs"):
        method.score(network, features[0, :5])


def test_segments_are_scored_by_attention_and_in_the_code_by_the_weighted_activation() -> None:
    features = batch(7, num_crops=2).features[0]
    for segment_score in ("attention", "weighted"):
        method, network = small(segment_score=segment_score)
        hand = ByHand(network)
        crops = [features[:, crop].numpy() for crop in range(2)]
        attention = [hand.attention(crop) for crop in crops]
        activation = [np.array([hand.classify(row) for row in crop]) for crop in crops]
        scores = method.score(network, features)
        expected = {
            "attention": np.mean(attention, axis=0),
            "activation": np.mean(activation, axis=0),
            "weighted": np.mean([a * c for a, c in zip(attention, activation, strict=True)], axis=0),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(scores.more[name].detach(), values, atol=CLOSE)
        assert torch.equal(scores.segments, scores.more[segment_score])
        assert scores.video == pytest.approx(np.mean([hand.video(crop) for crop in crops]), abs=CLOSE)


def test_the_code_scores_the_first_segment_of_each_block() -> None:
    method, network = small(scored="first")
    hand = ByHand(network)
    features = batch(11).features[0]
    found = method.score(network, features).segments.detach()
    # 0, 3 and 6 of 11; the remainder belongs to the last block.
    expected = hand.attention(features[[0, 3, 6], 0].numpy())
    np.testing.assert_allclose(found, expected[[0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]], atol=CLOSE)
    everyone = small()[0].score(network, features).segments.detach()
    assert abs(everyone - found).max() > 1e-3
    # Up to 6 all are scored.
    np.testing.assert_allclose(
        method.score(network, features[:6]).segments.detach(), hand.attention(features[:6, 0].numpy()), atol=CLOSE
    )


@pytest.mark.parametrize("variant", ["paper", "code", "code-head"])
@pytest.mark.parametrize("num_segments", [1, 2, 6, 7, 200])
def test_scores_are_one_a_segment_from_0_to_1(variant: str, num_segments: int) -> None:
    method = Align(AlignSettings(**Align.variants.get(variant, {})))
    torch.manual_seed(1)
    network = method.network(16).eval()
    with torch.no_grad():
        scores = method.score(network, 50 * torch.randn(num_segments, 5, 16))
    assert scores.video is not None
    assert 0 <= scores.video <= 1
    for values in (scores.segments, *scores.more.values()):
        assert values.shape == (num_segments,)
        assert values.min() >= 0
        assert values.max() <= 1
    frames = frame_activation(scores.more["weighted"], 16 * num_segments, method.settings)
    assert frames.shape == (16 * num_segments,)
    assert frames.min() >= 0
    assert frames.max() <= 1


UP_AND_DOWN = [0.1, 0.9, 0.2, 0.2, 0.8]

# scipy.ndimage.zoom(UP_AND_DOWN, 3, order=3) of SciPy 1.17.1, and zoom([0.1, 0.9], 4, order=3).
ZOOMED = [0.1, 0.24329446, 0.5483965, 0.82813411, 0.90189504, 0.73994169, 0.46341108, 0.2]
ZOOMED += [0.05349854, 0.03206997, 0.11997085, 0.30014577, 0.52536443, 0.71822157, 0.8]
ZOOMED_TWO = [0.1, 0.14431487, 0.25860058, 0.4148688, 0.5851312, 0.74139942, 0.85568513, 0.9]


def test_scores_of_segments_are_interpolated() -> None:
    assert place_scores([0.0, 1.0, 0.5], 5).tolist() == [0.0, 0.5, 1.0, 0.75, 0.5]
    # Written with 8 decimals.
    np.testing.assert_allclose(place_scores(UP_AND_DOWN, 15, spline=True), ZOOMED, atol=1e-8)
    np.testing.assert_allclose(place_scores([0.1, 0.9], 8, spline=True), ZOOMED_TWO, atol=1e-8)
    assert place_scores([0.3], 4, spline=True).tolist() == [0.3] * 4
    assert abs(place_scores(UP_AND_DOWN, 15) - ZOOMED).max() > 0.1


def test_the_code_cuts_splines_off_below_5_percent_and_above_1() -> None:
    code = AlignSettings(**Align.variants["code"])
    frames = frame_activation(UP_AND_DOWN, 15, code)
    assert np.flatnonzero(frames == 0).tolist() == [9]
    np.testing.assert_allclose(frames[frames > 0], np.delete(ZOOMED, 9), atol=1e-8)
    assert frame_activation([0.0, 1.0, 1.0, 0.0], 64, code).max() == 1
    assert place_scores([0.0, 1.0, 1.0, 0.0], 64, spline=True).max() > 1
    assert frame_activation([0.0, 0.04], 2).tolist() == [0.0, 0.04]
    for scores, num_frames in ([], 5), ([0.5], 0), ([[0.5]], 5):
        with pytest.raises(UsageError, match="1 frame or more"):
            frame_activation(scores, num_frames)


ACTIVATION = [0.5, 0.4, 0.0, 0.35, 0.9, 0.7, 0.1, 1.0]


def test_the_largest_component_is_proposed_and_in_the_code_all_are() -> None:
    largest = find_proposals(ACTIVATION, 8)
    every = find_proposals(ACTIVATION, 8, AlignSettings(proposals="all"))
    assert [(one.start, one.stop) for one in largest] == [(3, 6)]
    assert [(one.start, one.stop) for one in every] == [(0, 2), (3, 6), (7, 8)]
    assert [one.score for one in every] == pytest.approx([0.45, 0.65, 1.0], abs=CLOSE)
    assert find_proposals([0.1, 0.34], 9) == ()
    # Of equally long ones the first.
    assert [(one.start, one.stop) for one in find_proposals([0.0, 0.9, 0.0, 0.9], 4)] == [(1, 2)]


def test_equation_7_as_printed_is_no_score() -> None:
    (proposal,) = find_proposals(ACTIVATION, 8)
    start, end = proposal.start, proposal.stop - 1
    total = sum(ACTIVATION[start : end + 1])
    assert proposal.score == pytest.approx(total / (end - start + 1), abs=CLOSE)
    assert total / (end - start - 1) == pytest.approx(1.95)


def test_what_is_proposed_is_a_run_of_frames_above_the_threshold() -> None:
    assert connected_spans([0.35, 0.2, 0.4, 0.4], 0.35).tolist() == [[0, 1], [2, 4]]
    assert connected_spans([0.1], 0.35).shape == (0, 2)
    assert connected_spans([0.5, 0.5], 0.35).tolist() == [[0, 2]]


def test_proposals_score_their_frames() -> None:
    scores = proposal_scores((Proposal(1, 3, 0.5), Proposal(4, 5, 0.75)), 6)
    assert scores.tolist() == [0, 0.5, 0.5, 0, 0.75, 0]


def test_the_rate_falls_once() -> None:
    paper = Align()
    assert [paper.pace(iteration) for iteration in (0, 4949, 4950, 24_749)] == [1, 1, 0.1, 0.1]
    assert paper.settings.iterations == 50 * -(-3954 // 8) == 24_750
    for name, batch_size in (("code", 8), ("code-head", 16)):
        settings = AlignSettings(**Align.variants[name])
        assert settings.normal_bags + settings.anomalous_bags == batch_size
        assert settings.iterations == 50 * -(-5 * 3954 // batch_size)
        assert settings.slower_from == 30 * -(-5 * 3954 // batch_size)
    (group,) = paper.optimisers(paper.network(4))["all"].param_groups
    assert group["lr"] == 1e-4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention": "x"}, "plain, gated"),
        ({"reduction": "x"}, "videos, segments"),
        ({"pairs": "x"}, "drawn, given"),
        ({"segment_score": "x"}, "attention, weighted"),
        ({"scored": "x"}, "all, first"),
        ({"proposals": "x"}, "largest, all"),
        ({"interpolation": "x"}, "linear, spline"),
        ({"attention_units": (0,)}, "1 or more"),
        ({"block": 0}, "block 0"),
        ({"past": -1}, "past -1"),
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"threshold": 0.0}, "threshold 0.0"),
        ({"floor": 1.0}, "floor 1.0"),
        ({"normal_bags": 0}, "normal_bags is 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], said: str) -> None:
    assert AlignSettings().attention == "plain"
    with pytest.raises(UsageError, match=said):
        AlignSettings(**changes)


def test_settings_that_were_json_are_the_same() -> None:
    assert AlignSettings(attention_units=[256]) == AlignSettings()  # type: ignore[arg-type]  # as JSON gives them
