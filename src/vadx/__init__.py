"""vadx: features for video anomaly detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipelines.bag_dataset import BagDataset

__version__ = "0.1.0"

__all__ = ["BagDataset", "__version__"]


def __getattr__(name: str) -> Any:
    # It loads torch, which reading a store does not need.
    if name == "BagDataset":
        from .pipelines.bag_dataset import BagDataset

        return BagDataset
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
