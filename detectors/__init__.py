"""Frames become detections, detections become tubes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detections import Detections
    from .linking import multivariate_tubes, unary_tubes
    from .loading import load_detector
    from .tubes import Tube

__all__ = ["Detections", "Tube", "load_detector", "multivariate_tubes", "unary_tubes"]

_HOMES = {
    "Detections": "detections",
    "Tube": "tubes",
    "load_detector": "loading",
    "multivariate_tubes": "linking",
    "unary_tubes": "linking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
