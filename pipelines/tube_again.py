"""Tubes of further videos, made just as those that are stored: a set of tube features says how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..detectors.region_boxes import RegionSettings
from ..detectors.settings import LinkSettings
from ..errors import UsageError
from ..features.recipe import Recipe
from ..features.shard import ShardHeader
from ..features.stage_set import StageSet
from .score_plan import model_plan
from .tube_detection import DetectionWork, DetectorChoice
from .tube_plan import StagePlan, plan_detection, plan_features, plan_linking
from .tube_scoring import tubes_before

if TYPE_CHECKING:
    import torch

    from ..features.store import FeatureSet, Store

_WINDOW = "windowed:"


def find_tubes(store: Store, digest: str) -> StageSet | None:
    """Give the set of a store with this digest, None if there is none."""
    return next((one for one in store.all_sets() if isinstance(one, StageSet) and one.digest == digest), None)


def has_tubes(features: StageSet, feature_set: FeatureSet, identifier: str) -> bool:
    """Tell whether features of a video's tubes are stored, of the very file whose clip features are."""
    header = feature_set.header(identifier)
    if identifier not in features or not isinstance(header, ShardHeader):
        return False
    return bool(features.open(identifier).facts["source_sha256"] == header.source_sha256)


def plans_again(features: StageSet, *, device: torch.device) -> list[StagePlan]:
    """Give the plans of the three stages that end in this set.

    Raises
    ------
    UsageError
        if boxes came from another program's files, or this vadx would make other tubes.
    StoreError
        if a stage before is not in the same store.
    WeightsError
        if weights are missing.
    """
    tubes = tubes_before(features)
    detections = tubes_before(tubes)
    plans = [plan_detection(_detection(detections, str(device)))]
    settings, window = _linking(tubes.recipe.settings)
    plans.append(plan_linking(settings, plans[0], window=window))
    regions, recipe = _regions(features.recipe.settings)
    network = model_plan({"recipe": recipe.to_mapping(), "recipe_digest": recipe.digest})
    plans.append(plan_features(regions, network, plans[1], device=device, batch=None))
    for plan, stage in zip(plans, (detections, tubes, features), strict=True):
        if plan.recipe.digest != stage.digest:
            msg = (
                f"tubes as those of {stage.name} cannot be made here: {_difference(stage.recipe.settings, plan)}; "
                f"{_by_hand(features)}"
            )
            raise UsageError(msg)
    return plans


def _detection(stage: StageSet, device: str) -> DetectionWork:
    stated = stage.recipe.settings
    name = str(stated["detector"])
    if name.startswith("file:"):
        msg = (
            f"the boxes of {stage.name} are of another program, whose files for these videos are not known; make their "
            f"tubes with them: vadx tubes VIDEO --detections FILE --out {stage.path.parent}"
        )
        raise UsageError(msg)
    weights = str(stated["weights"])
    classes, groups = parse_classes(str(stated["classes"]))
    choice = DetectorChoice(
        name=name,
        weights=weights if weights.startswith("random:") else stage.weights_name,
        device=device,
        precision=stated["precision"],
        score_threshold=stated["score_threshold"],
        classes=classes,
        groups=groups,
        min_size=stated["min_size"],
        proposals=stated["proposals"],
    )
    return DetectionWork(detector=choice, stride=stated["stride"])


def parse_classes(text: str) -> tuple[tuple[str, ...] | None, tuple[tuple[str, tuple[str, ...]], ...]]:
    """Read what `ClassFilter.describe` writes: the kept classes, None for all, and the groups."""
    if text == "all":
        return None, ()
    parts = [part.partition("=") for part in text.split(", ")]
    groups = tuple((name, tuple(members.split("+"))) for name, _, members in parts if members)
    return tuple(name for name, _, _ in parts), groups


def _linking(stated: Mapping[str, Any]) -> tuple[LinkSettings, int | None]:
    own = {name: value for name, value in stated.items() if name not in ("semantics", "stride", "link_semantics")}
    own["classes"] = None if own["classes"] is None else tuple(own["classes"])
    own["groups"] = tuple(tuple(group) for group in own["groups"])
    window = str(stated.get("link_semantics", ""))
    return LinkSettings(**own), int(window.removeprefix(_WINDOW)) if window.startswith(_WINDOW) else None


def _regions(stated: Mapping[str, Any]) -> tuple[RegionSettings, Recipe]:
    own = {name: value for name, value in stated["regions"].items() if name != "sampling"}
    regions = RegionSettings(**own, keep_clips=bool(stated.get("keep_clips", False)))
    return regions, Recipe.from_mapping(stated["network"])


def _difference(stated: Mapping[str, Any], plan: StagePlan) -> str:
    # As it is stored: a tuple is a list there.
    would = json.loads(json.dumps(plan.recipe.settings))
    found = [
        f"{name} would be {would.get(name)!r}, not {value!r}"
        for name, value in stated.items()
        if would.get(name) != value
    ]
    return found[0] if found else "their recipe is another vadx's"


def _by_hand(features: StageSet) -> str:
    return f"make them as before: vadx tubes VIDEO --out {features.path.parent}"
