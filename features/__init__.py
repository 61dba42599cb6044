"""The time axis and everything at rest: recipes, shards, stores, bags. Needs only numpy and h5py, on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bag_file import Bag
    from .bags import make_bag, segment_spans
    from .recipe import Recipe
    from .store import FeatureSet, Store
    from .timeline import Clip, ClipFeatures, concatenate

__all__ = [
    "Bag",
    "Clip",
    "ClipFeatures",
    "FeatureSet",
    "Recipe",
    "Store",
    "concatenate",
    "make_bag",
    "segment_spans",
]

_HOMES = {
    "Bag": "bag_file",
    "Clip": "timeline",
    "ClipFeatures": "timeline",
    "FeatureSet": "store",
    "Recipe": "recipe",
    "Store": "store",
    "concatenate": "timeline",
    "make_bag": "bags",
    "segment_spans": "bags",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
