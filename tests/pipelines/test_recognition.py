"""Recognition: the nearest of training videos as scikit-learn finds it, a linear classifier, and their class scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from vadx.errors import UsageError
from vadx.pipelines.methods import Batch, find_method
from vadx.pipelines.methods.lad import UNKNOWN
from vadx.pipelines.methods.recognition import (
    KindSettings,
    Memory,
    NearestNeighbour,
    NearestSettings,
    Recognition,
    RecognitionSettings,
    kinds_of,
    nearest,
)
from vadx.pipelines.model_folder import read_model
from vadx.pipelines.train import TrainSettings, scorer, train
from vadx.pipelines.training_bags import TrainingBags

from .training_samples import MOVED, write_separable_bags

# A few float32 operations.
CLOSE = 1e-6
KINDS = ("Fall", "Fire", "Normal")


def videos(num_videos: int = 20, *, seed: int = 0) -> Batch:
    """Videos of 5 segments, the last of them padding, 2 crops and 6 numbers, of the kinds in turn."""
    random = np.random.default_rng(seed)
    kinds = np.arange(num_videos) % 3
    centres = np.random.default_rng(9).normal(size=(3, 6))
    features = centres[kinds][:, None, None] + random.normal(size=(num_videos, 5, 2, 6))
    mask = torch.ones(num_videos, 5, dtype=torch.bool)
    mask[:, 4] = False
    return Batch(
        torch.from_numpy(features).float(),
        torch.from_numpy((kinds != 2).astype(np.int64)),
        mask,
        ids=tuple(f"v{number}" for number in range(num_videos)),
        classes=tuple("" if kind == 2 else KINDS[kind] for kind in kinds),
    )


def unit_means(batch: Batch) -> np.ndarray[Any, Any]:
    means = batch.features[:, :4].mean(dim=(1, 2)).numpy()
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def remembering(batch: Batch) -> tuple[NearestNeighbour, Memory]:
    method = NearestNeighbour(NearestSettings(classes="Fall,Fire,Normal"))
    network = method.network(6)
    assert method.loss(network, batch).parts == {}
    return method, network.eval()


def test_the_best_class_is_that_of_scikit_learns_nearest_neighbour() -> None:
    known, asked = videos(), videos(30, seed=1)
    method, network = remembering(known)
    truth = [name or "Normal" for name in known.classes]
    classifier = KNeighborsClassifier(1).fit(unit_means(known), truth)
    expected = classifier.predict(unit_means(asked)).tolist()
    scores = [method.score(network, features[:4]) for features in asked.features]
    classes = torch.stack([one.classes for one in scores if one.classes is not None])
    assert [KINDS[best] for best in classes.argmax(dim=1)] == expected
    assert len(set(expected)) == 3
    distances = classifier.kneighbors(unit_means(asked))[0][:, 0]
    np.testing.assert_allclose(classes.amax(dim=1), 1 - distances / 2, atol=CLOSE)


def test_segments_score_by_the_nearest_of_both_labels() -> None:
    method, network = remembering(videos())
    features = videos(1, seed=5).features[0]
    means, labels = unit_means(videos()), videos().labels.numpy()
    scores = method.score(network, features)
    queries = [*features.mean(dim=1).numpy(), features.mean(dim=(0, 1)).numpy()]
    for query, found in zip(queries, [*scores.segments, scores.video], strict=True):
        unit = query / np.linalg.norm(query)
        near = [min(np.linalg.norm(unit - mean) for mean in means[labels == label]) for label in (0, 1)]
        assert float(found) == pytest.approx(near[0] / (near[0] + near[1]), abs=CLOSE)


def test_a_video_alike_to_both_labels_is_half_anomalous() -> None:
    batch = videos(3)
    same = Batch(batch.features[:1].repeat(2, 1, 1, 1), torch.tensor([0, 1]), batch.mask[:2])
    method, network = remembering(same)
    assert network.kinds.tolist() == [2, UNKNOWN]
    whole = batch.features[0, :4].mean(dim=(0, 1)).expand(2, 1, 6)
    scores = method.score(network, whole)
    assert scores.segments.tolist() == [0.5, 0.5]
    assert scores.classes is not None
    assert scores.classes.tolist() == [0.0, 0.0, 1.0]


def test_each_video_is_remembered_once_and_one_without_an_id_always() -> None:
    method, network = remembering(videos())
    method.loss(network, videos())
    assert len(network.means) == 20
    method.loss(network, videos(23))
    assert len(network.means) == 23
    assert network.keys.unique().numel() == 23
    nameless = Batch(videos().features, videos().labels, videos().mask)
    method.loss(network, nameless)
    assert len(network.means) == 43


def test_a_memory_is_read_whatever_it_holds() -> None:
    _, network = remembering(videos())
    other = Memory(6)
    other.load_state_dict(network.state_dict())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())
    with pytest.raises(RuntimeError, match="keys"):
        Memory(6).load_state_dict({name: value for name, value in network.state_dict().items() if name != "keys"})


def test_to_who_remembers_nothing_all_is_as_far_as_can_be() -> None:
    assert nearest(torch.ones(2, 3), torch.zeros(0, 3)).tolist() == [2.0, 2.0]
    assert nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])).tolist() == [2.0]
    method = NearestNeighbour()
    scores = method.score(method.network(6), torch.ones(2, 1, 6))
    assert scores.segments.tolist() == [0.5, 0.5]
    assert scores.classes is not None
    assert not scores.classes.any()


def test_kinds_of_bags() -> None:
    batch = Batch(
        torch.zeros(4, 1, 1, 1),
        torch.tensor([0, 1, 1, 0]),
        torch.ones(4, 1, dtype=torch.bool),
        ids=("a", "b", "c", "d"),
        classes=("", "Fire", "", "Fall"),
    )
    assert kinds_of(batch, KINDS) == [2, 1, UNKNOWN, 2]
    assert kinds_of(batch, KINDS[:2]) == [UNKNOWN, 1, UNKNOWN, UNKNOWN]
    with pytest.raises(UsageError, match=r"b: its kind 'Fire' is none of Fall.*classes='Fire,\.\.\.'"):
        kinds_of(batch, ("Fall",))


def linear(**changes: Any) -> tuple[Recognition, nn.Linear]:
    method = Recognition(RecognitionSettings(**{"classes": "Fall,Fire", **changes}))
    return method, method.network(6).double()


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_the_loss_is_the_cross_entropy_of_the_pooled_video(pooling: str) -> None:
    method, network = linear(pooling=pooling)
    batch = videos(5)
    batch = Batch(batch.features.double(), batch.labels, batch.mask, batch.ids, ("Fall", "", *batch.classes[2:]))
    weight, bias = network.weight.detach().numpy(), network.bias.detach().numpy()
    losses = []
    for features, kind in zip(batch.features.numpy(), (0, None, 2, 0, 1), strict=True):
        segments = features[:4].mean(axis=1)
        logits = weight @ (segments.max(axis=0) if pooling == "max" else segments.mean(axis=0)) + bias
        if kind is not None:
            losses.append(np.log(np.exp(logits).sum()) - logits[kind])
    found = method.loss(network, batch).parts
    assert found.keys() == {"classes"}
    assert found["classes"].item() == pytest.approx(np.mean(losses), rel=1e-12)


def test_normal_videos_are_a_class_also_where_no_name_is_theirs() -> None:
    own, _ = linear(classes="Fall,Normal,Fire")
    assert own.network(6).out_features == 3
    method, network = linear()
    assert network.out_features == 3
    features = videos(1).features[0].double()
    scores = method.score(network, features)
    assert scores.classes is not None
    assert scores.video is not None
    assert scores.classes.shape == (2,)
    assert scores.classes.sum().item() == pytest.approx(scores.video, rel=1e-12)
    alone = [method.score(network, segment[None]).video for segment in features]
    np.testing.assert_allclose(scores.segments.detach(), np.array(alone), rtol=1e-12)


def test_gradients_equal_finite_differences() -> None:
    method, network = linear()
    batch = videos(6)

    def loss(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        class Changed(nn.Module):
            def forward(self, given: Tensor) -> Tensor:
                return nn.functional.linear(given, weight, bias)

        return method.loss(Changed(), Batch(features, batch.labels, batch.mask, batch.ids, batch.classes)).total

    weights = [value.detach().clone().requires_grad_() for value in network.parameters()]
    assert torch.autograd.gradcheck(loss, (batch.features.double().requires_grad_(), *weights))


def test_videos_of_no_known_kind_teach_nothing() -> None:
    method, network = linear()
    batch = videos(2)
    assert method.loss(network, Batch(batch.features.double(), torch.tensor([1, 1]), batch.mask)).parts == {}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("nearest", {"classes": "a,a"}, "twice"),
        ("nearest", {"classes": "a,,b"}, "or none"),
        ("recognition", {"pooling": "sum"}, "max, mean"),
        ("recognition", {"learning_rate": 0.0}, "above 0"),
        ("recognition", {"weight_decay": -1.0}, "0 or more"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_method(name).make(**changes)


def test_classes_are_those_of_the_data_set_or_names() -> None:
    assert KindSettings().class_names[-2:] == ("Vandalism", "Normal")
    assert KindSettings(classes="Fall, Fire").class_names == ("Fall", "Fire")


@pytest.mark.parametrize(("name", "changes"), [("nearest", {}), ("recognition", {"learning_rate": 0.05})])
def test_it_recognises_bags_never_seen(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    bags = write_separable_bags(tmp_path / "bags.h5")
    unseen = write_separable_bags(tmp_path / "unseen.h5", 12, seed=1)
    method = find_method(name).make(
        iterations=100, normal_bags=6, anomalous_bags=6, classes="Fighting,Fire,Normal", **changes
    )
    train(name, method, TrainingBags(bags), tmp_path / "model", settings=TrainSettings(checkpoint_every=50))
    model = read_model(tmp_path / "model")
    score = scorer(model.method, model.network)
    found = [score(torch.from_numpy(features)) for features in unseen.read(range(12))]
    best = [int(one.classes.argmax()) for one in found if one.classes is not None]
    assert best == [2 if label == 0 else 0 for label in unseen.labels]
    peaks = [int(one.segments.argmax()) in range(MOVED.start, MOVED.stop) for one in found]
    assert np.mean(np.array(peaks)[unseen.labels == 1]) > 0.9
