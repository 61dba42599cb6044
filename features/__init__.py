"""The time axis and everything at rest: recipes, shards, stores. Needs numpy and h5py alone."""

from .recipe import Recipe
from .store import FeatureSet, Store
from .timeline import Clip, ClipFeatures

__all__ = ["Clip", "ClipFeatures", "FeatureSet", "Recipe", "Store"]
