"""RTFM: each term of the loss is a number worked out by hand, and the network is as large as its layers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vadx.errors import UsageError
from vadx.pipelines.methods import Batch, Losses, find_method
from vadx.pipelines.methods.rtfm import NonLocal, Rtfm, RtfmNetwork, RtfmSettings, magnitude_loss, selected

from .training_samples import check_peaks, learned_scores, write_separable_bags

LABELS = torch.tensor([0, 1])
# One normal and one anomalous bag of three segments; features of two numbers, one crop. Lengths 5, 0, 1 and 0, 2, 10.
FEATURES = np.array([[[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2.0], [6.0, 8.0]]])
SCORES = np.array([[0.2, 0.9, 0.4], [0.1, 0.3, 0.8]])


class Given(nn.Module):
    """Gives features as they are, and scores that it was made with."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores
        self.eval()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features.transpose(1, 2), self.scores


def loss_of(
    features: Tensor, scores: Tensor, labels: Tensor = LABELS, mask: Tensor | None = None, **changes: Any
) -> Losses:
    real = torch.ones(features.shape[:2], dtype=torch.bool) if mask is None else mask
    method = find_method("rtfm").make(**changes)
    return method.loss(Given(scores), Batch(features=features, labels=labels, mask=real))


def test_the_loss_is_the_one_worked_out_by_hand() -> None:
    losses = loss_of(torch.tensor(FEATURES)[:, :, None], torch.tensor(SCORES))
    # The longest segment of each bag is selected: the first of the normal, the last of the anomalous one.
    expected = {
        "classification": (-np.log(1 - 0.2) - np.log(0.8)) / 2,
        "magnitude": 1e-4 * ((100 - 10) + 5) ** 2,
        "sparsity": 8e-3 * np.sqrt(0.01 + 0.09 + 0.64),
        "smoothness": 8e-4 * (0.04 + 0.25),
    }
    assert {name: value.item() for name, value in losses.parts.items()} == pytest.approx(expected, rel=1e-12)
    assert losses.total.item() == pytest.approx(1.1327574, rel=1e-6)


def test_several_segments_are_selected_and_crops_are_pairs() -> None:
    # Two crops, the second twice as long; all three segments.
    features = torch.tensor(np.stack([FEATURES, 2 * FEATURES], axis=2))
    losses = loss_of(features, torch.tensor(SCORES), share=1)
    normal, anomalous = np.hypot(4, 4) / 3, np.hypot(6, 10) / 3
    by_hand = ((100 - anomalous + normal) ** 2 + (100 - 2 * anomalous + 2 * normal) ** 2) / 2
    assert losses.parts["magnitude"].item() == pytest.approx(1e-4 * by_hand, rel=1e-12)
    entropy = (-np.log(1 - 0.5) - np.log(0.4)) / 2
    assert losses.parts["classification"].item() == pytest.approx(entropy, rel=1e-12)


def test_smoothness_crosses_the_border_between_videos_only_in_the_code() -> None:
    features = torch.rand(4, 3, 1, 2, dtype=torch.float64)
    scores = torch.tensor([[0.0] * 3, [0.0] * 3, [0.1, 0.2, 0.3], [0.9, 0.9, 0.9]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    found = [
        loss_of(features, scores, labels, over_borders=borders).parts["smoothness"].item() / 8e-4
        for borders in (True, False)
    ]
    assert found == pytest.approx([0.01 + 0.01 + 0.36, 0.02], rel=1e-9)


def test_sparsity_is_one_length_over_all_bags() -> None:
    features = torch.rand(4, 3, 1, 2, dtype=torch.float64)
    scores = torch.full((4, 3), 0.5, dtype=torch.float64)
    losses = loss_of(features, scores, torch.tensor([0, 1, 0, 1]))
    assert losses.parts["sparsity"].item() == pytest.approx(8e-3 * np.sqrt(6 * 0.25), rel=1e-12)


def test_padding_is_never_selected_and_takes_no_part() -> None:
    features, scores = torch.tensor(FEATURES)[:, :, None], torch.tensor(SCORES)
    padded = torch.cat([features, torch.full((2, 2, 1, 2), 99.0, dtype=torch.float64)], dim=1)
    wide = torch.cat([scores, torch.full((2, 2), 0.7, dtype=torch.float64)], dim=1)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    assert loss_of(padded, wide, mask=mask).total.item() == pytest.approx(loss_of(features, scores).total.item())


def test_dropout_of_the_selection_takes_segments_out() -> None:
    lengths, mask = torch.tensor([[3.0, 2.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert selected(lengths, mask, torch.tensor([[0.0, 1.0, 1.0]]), 2).tolist() == [[1, 2]]
    assert selected(lengths, mask, torch.ones(1, 3), 2).tolist() == [[0, 1]]


def test_gradients_equal_finite_differences() -> None:
    def total(features: Tensor, scores: Tensor) -> Tensor:
        return loss_of(features, scores.sigmoid()).total

    values = (torch.tensor(FEATURES)[:, :, None] + 0.5).requires_grad_(), torch.tensor(SCORES, requires_grad=True)
    assert torch.autograd.gradcheck(total, values, eps=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(
        lambda a, n: magnitude_loss(a, n, 1.0),
        (torch.rand(3, 4, dtype=torch.float64, requires_grad=True),
         torch.rand(3, 4, dtype=torch.float64, requires_grad=True)),
    )  # fmt: skip


def test_the_network_is_as_large_as_its_layers_are_published() -> None:
    with torch.device("meta"):
        network = RtfmNetwork(2048, RtfmSettings())
    scales = 3 * (2048 * 512 * 3 + 512 + 2 * 512)
    non_local = 3 * (512 * 256 + 256) + 256 * 512 + 512 + 2 * 512
    joined = 2048 * 2048 * 3 + 2 * 2048
    scoring = (2048 + 1) * 512 + (512 + 1) * 128 + 128 + 1
    by_hand = scales + 2048 * 512 + non_local + joined + scoring
    assert by_hand == sum(p.numel() for p in network.parameters()) == 24_718_849
    assert [scale[0].dilation for scale in network.scales] == [(1,), (2,), (4,)]  # type: ignore[index]  # Sequential


def test_crops_are_scored_alone_and_averaged_and_shapes_are_as_documented() -> None:
    network = Rtfm(RtfmSettings(units=8, first_units=6, second_units=4)).network(12).eval()
    features = torch.randn(2, 5, 3, 12)
    encoded, scores = network(features)
    assert (encoded.shape, scores.shape) == ((2, 3, 5, 12), (2, 5))
    alone = torch.stack([network(features[:, :, [crop]])[1] for crop in range(3)])
    torch.testing.assert_close(scores, alone.mean(dim=0))
    torch.testing.assert_close(Rtfm().score(network, features[1]).segments, scores[1])


def test_the_non_local_block_is_its_formula_and_starts_as_the_identity() -> None:
    block = NonLocal(4).eval()
    values = torch.randn(2, 4, 5)
    assert torch.equal(block(values), values)
    nn.init.ones_(block.scale.weight)
    layers = (block.query, block.key, block.value)
    query, key, value = (layer.weight[:, :, 0] @ values + layer.bias[:, None] for layer in layers)
    by_hand = torch.einsum("bct,bcu,bdu->bdt", query, key, value) / 5
    torch.testing.assert_close(block(values), block.scale(block.back(by_hand)) + values)


@pytest.mark.parametrize("changes", [{"normal_bags": 3}, {"dropout": 1.0}, {"share": 0}, {"learning_rate": 0.0}])
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give"):
        find_method("rtfm").make(**changes)


def test_it_learns_what_is_separable(tmp_path: Path) -> None:
    bags = write_separable_bags(tmp_path / "bags.h5", crops=2)
    sizes: dict[str, Any] = {"units": 16, "first_units": 16, "second_units": 8, "normal_bags": 6, "anomalous_bags": 6}
    method = find_method("rtfm").make(iterations=60, dropout=0.3, **sizes)
    # Dilated convolutions reach past the moved segments.
    check_peaks(learned_scores("rtfm", method, bags, tmp_path / "model"), bags.labels)
