from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from vadx.features import Store
from vadx.features.store import FeatureSet

from .samples import IDS, RECIPE, publish

settings.register_profile("vadx", deadline=None, database=None, print_blob=True)
settings.load_profile("vadx")


@pytest.fixture
def feature_set(tmp_path: Path) -> FeatureSet:
    return Store(tmp_path / "store").create(RECIPE, slug="i3d-k400", preset="rtfm", weights_name="i3d.safetensors")


@pytest.fixture
def full(feature_set: FeatureSet) -> FeatureSet:
    for number, identifier in enumerate(IDS):
        publish(feature_set, identifier, num_clips=number + 1)
    return feature_set
