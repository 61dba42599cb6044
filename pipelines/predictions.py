"""What a network thinks a video shows, from its stored features: nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..features.store import FeatureSet


def predict(
    feature_set: FeatureSet, identifiers: Iterable[str], backbone: str, weights: str, *, top: int = 5
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Give, for each video, its likeliest classes with their probabilities, averaged over clips and crops.

    Raises
    ------
    UsageError
        if the network has no classifier.
    """
    import torch

    from ..extract.backbones import class_names
    from ..extract.library import load_backbone

    loaded = load_backbone(backbone, weights, switches=feature_set.recipe.network.switches)
    if loaded.spec.classes is None:
        msg = f"backbone {backbone} has no classifier: leave --show-pred out"
        raise UsageError(msg)
    names = class_names(loaded.spec.classes)
    for identifier in identifiers:
        values = torch.from_numpy(feature_set[identifier].values).float()
        with torch.inference_mode():
            scores = loaded.head(values.flatten(0, 1))
        if scores is None:
            msg = f"backbone {backbone} has no classifier: leave --show-pred out"
            raise UsageError(msg)
        if scores.shape[1] != len(names):
            msg = f"these weights know {scores.shape[1]} classes, which have no names here: leave --show-pred out"
            raise UsageError(msg)
        best = scores.softmax(-1).mean(0).topk(top)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        yield identifier, [(names[index], value) for index, value in pairs]
