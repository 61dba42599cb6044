"""A video file becomes clip features: decode, sample, transform, run a backbone. Loads torch and av on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .library import Backbone, extract_video, load_backbone, probe_video

__all__ = ["Backbone", "extract_video", "load_backbone", "probe_video"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import library

        return getattr(library, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
