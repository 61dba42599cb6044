"""Small bags files for training: normal features are noise, an anomalous bag has a few segments moved away from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadx.features.bag_file import Bag, BagFile, write_bags
from vadx.pipelines.methods import Method
from vadx.pipelines.model_folder import read_model
from vadx.pipelines.train import TrainSettings, score_bags, scorer, train
from vadx.pipelines.training_bags import TrainingBags

DIGEST = "ab" * 32
SEGMENTS, DIM = 8, 16
MOVED = slice(2, 4)
"""Segments of an anomalous bag that are abnormal."""


def write_separable_bags(
    path: Path, num_bags: int = 24, *, moved: float = 3.0, padded: int = 0, crops: int = 1, seed: int = 0
) -> BagFile:
    """Write ``num_bags``, every second anomalous; the last ``padded`` segments of each are padding."""
    random = np.random.default_rng(seed)
    direction = np.full(DIM, moved / np.sqrt(DIM), np.float32)
    bags = []
    for number in range(num_bags):
        features = 0.3 * random.standard_normal((SEGMENTS, crops, DIM)).astype(np.float32)
        label = number % 2
        if label:
            features[MOVED] += direction
        edges = np.minimum(np.arange(SEGMENTS + 1) * 16, (SEGMENTS - padded) * 16)
        features[SEGMENTS - padded :] = 0
        frames = np.stack([edges[:-1], edges[1:]], axis=1).astype(np.int64)
        bags.append(Bag(id=f"{'ab' if label else 'no'}/v{number:03d}", features=features, frames=frames,
                        num_frames=16 * SEGMENTS, label=label, class_name="Fighting" if label else ""))  # fmt: skip
    write_bags(path, bags, rule="sultani", recipe_digest=DIGEST)
    return BagFile(path)


def learned_scores(name: str, method: Method, bags: BagFile, folder: Path) -> NDArray[np.float32]:
    """Train a method on bags and give what its model, read back, says of them: ``(bag, segment)``."""
    settings = TrainSettings(checkpoint_every=method.settings.iterations)
    train(name, method, TrainingBags(bags), folder, settings=settings)
    model = read_model(folder)
    scores = np.stack([*score_bags(scorer(model.method, model.network), bags, range(len(bags))).values()])
    assert scores.shape == (len(bags), SEGMENTS)
    return scores


def check_peaks(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Assert that bags are told apart by their peaks, and that these are in or beside the moved segments."""
    maxima = scores.max(axis=1)
    assert maxima[labels == 1].min() > maxima[labels == 0].max()
    assert np.isin(scores[labels == 1].argmax(axis=1), range(MOVED.start - 1, MOVED.stop + 1)).mean() > 0.9
