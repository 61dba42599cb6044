"""What a detector is, and the table of those that there are."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import UsageError
from .coco_names import COCO_NAMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Frames = NDArray[np.uint8] | Tensor | Sequence[NDArray[np.uint8]]
    Network = Callable[[Tensor], "list[tuple[Tensor, Tensor, Tensor]]"]

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "vadx.detectors"

DEFAULT_SCORE_THRESHOLD = 0.05
"""The one threshold in front of every detector: torchvision's own differ from .001 to .2, and are not used."""


class FrameBoxes(NamedTuple):
    """What was found in one frame, the best score first.

    Shapes: ``boxes (box, 4)`` float32, half-open ``x1, y1, x2, y2`` in pixels of the frame that was given; ``scores
    (box,)`` float32; ``labels (box,)`` int64, numbers of the detector's ``categories``.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


class Detector(Protocol):
    """Finds boxes in frames. `load_detector` gives one; anything else that has these will do."""

    @property
    def name(self) -> str:
        """Its name in the table, or another one to record."""
        ...

    @property
    def categories(self) -> Mapping[int, str]:
        """Label -> name, of every label that can come back."""
        ...

    @property
    def batch(self) -> int:
        """Frames that run at once: give so many, or a multiple, to `detect`."""
        ...

    def detect(self, frames: Frames) -> list[FrameBoxes]:
        """Find boxes in frames of one size, uint8 RGB ``(n, H, W, 3)`` or ``(n, 3, H, W)``; one result a frame."""
        ...

    def record(self) -> dict[str, str | int | float | None]:
        """Give what changes a box's value: weights, thresholds, sizes, precision, classes."""
        ...


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How a network is to run; what is None is as published.

    ``score_threshold``: only boxes with a greater score come back. ``min_size``: pixels of the shorter side that
    frames are resized to. ``proposals``: regions that the second stage of a two-stage network looks at. ``precision``
    is one of `runtime.PRECISIONS`, ``device`` a name that torch knows.
    """

    device: str
    precision: str
    score_threshold: float
    min_size: int | None = None
    proposals: int | None = None


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """One row of the table of detectors. An entry point of `ENTRY_POINT_GROUP` gives one of these.

    ``factory`` is ``module:attribute`` of a callable that takes a state dict and `NetworkSettings` and gives the
    network: a callable from uint8 RGB frames ``(n, 3, H, W)`` on the device to one ``(boxes (box, 4), scores (box,),
    labels (box,))`` a frame, tensors, boxes ``x1, y1, x2, y2`` in pixels of the frames. The state dict is None for
    arbitrary weights, which are seeded outside.

    ``weights`` is the default row of the table of weights. A detector that brings its own has None there, and their
    sha256 in ``brings_sha256``; it takes no others. ``options`` are those of ``min_size`` and ``proposals`` that the
    network has. ``source`` is the publication and the code whose network this is.
    """

    name: str
    title: str
    factory: str
    weights: str | None
    licence: str
    source: str
    categories: Mapping[int, str] = field(default_factory=lambda: COCO_NAMES)
    options: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "tf32", "bf16", "fp16")
    brings_sha256: str | None = None

    def build(self, state: Mapping[str, Tensor] | None, settings: NetworkSettings) -> Network:
        """Make the network. Raises `WeightsError` if the state dict is another network's."""
        module, _, attribute = self.factory.partition(":")
        network: Network = getattr(importlib.import_module(module), attribute)(state, settings)
        return network

    def check(self, settings: NetworkSettings) -> None:
        """Raise `UsageError` for a setting that the network does not have, or that is out of range."""
        for option in ("min_size", "proposals"):
            value = getattr(settings, option)
            if value is not None and option not in self.options:
                has = f"it has {' and '.join(self.options)}" if self.options else "leave it out"
                msg = f"detector {self.name} has no {option.replace('_', ' ')} that can be set; {has}"
                raise UsageError(msg)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                msg = f"{option} must be a whole number, 1 or more, got {value!r}: give {_EXAMPLES[option]}"
                raise UsageError(msg)
        if settings.precision not in self.precisions:
            msg = f"detector {self.name} runs in {', '.join(self.precisions)}; got precision {settings.precision!r}"
            raise UsageError(msg)
        if not 0 <= settings.score_threshold < 1:
            msg = (
                f"score_threshold must be in [0, 1), got {settings.score_threshold!r}: give "
                f"score_threshold={DEFAULT_SCORE_THRESHOLD}"
            )
            raise UsageError(msg)


_EXAMPLES = {"min_size": "min_size=480", "proposals": "proposals=300"}


def _torchvision(name: str, title: str, attribute: str, source: str, *options: str) -> DetectorSpec:
    return DetectorSpec(
        name=name,
        title=title,
        factory=f"vadx.detectors.faster_rcnn:{attribute}",
        weights=f"{name}-coco-torchvision",
        licence="BSD-3-Clause",
        source=f"{source}; torchvision, models/detection",
        options=options,
    )


_FRCNN = "Ren et al., NeurIPS 2015 (arXiv 1506.01497)"

BUILT_IN = (
    _torchvision("frcnn", "Faster R-CNN ResNet-50 FPN", "frcnn", _FRCNN, "min_size", "proposals"),
    _torchvision(
        "frcnn-v2",
        "Faster R-CNN ResNet-50 FPN v2",
        "frcnn_v2",
        f"{_FRCNN}; Li et al., 2021 (arXiv 2111.11429)",
        "min_size",
        "proposals",
    ),
    _torchvision("frcnn-mobile", "Faster R-CNN MobileNetV3-Large FPN", "frcnn_mobile", _FRCNN, "min_size", "proposals"),
    _torchvision("fcos", "FCOS ResNet-50 FPN", "fcos", "Tian et al., ICCV 2019 (arXiv 1904.01355)", "min_size"),
    _torchvision(
        "retinanet", "RetinaNet ResNet-50 FPN", "retinanet", "Lin et al., ICCV 2017 (arXiv 1708.02002)", "min_size"
    ),
    _torchvision("ssdlite", "SSDLite320 MobileNetV3-Large", "ssdlite", "Sandler et al., CVPR 2018 (arXiv 1801.04381)"),
    DetectorSpec(
        name="nanodet",
        title="NanoDet-g 416",
        factory="vadx.detectors.nanodet:nanodet",
        weights="nanodet-coco-rangilyu",
        licence="Apache-2.0",
        source="RangiLyu/nanodet, config/nanodet-g.yml; Li et al., NeurIPS 2020 (arXiv 2006.04388)",
    ),
)


@lru_cache(maxsize=1)
def detectors() -> Mapping[str, DetectorSpec]:
    """Give every detector by name: vadx's own, then those that installed packages register.

    Raises
    ------
    UsageError
        if a plug-in takes a name that is taken, or gives something else than a `DetectorSpec`.
    """
    table = {spec.name: spec for spec in BUILT_IN}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = point.load()
        except Exception as error:  # noqa: BLE001  # another's package may raise anything, and ours must still work
            log.warning("the plug-in %s cannot be loaded (%s); it is left out", point.name, error)
            continue
        if not isinstance(spec, DetectorSpec) or spec.name in table:
            origin = point.dist.name if point.dist else point.value
            msg = f"the plug-in {point.name!r} of {origin} is not a new DetectorSpec; remove or update it"
            raise UsageError(msg)
        table[spec.name] = spec
    return table


def find_detector(name: str) -> DetectorSpec:
    """Give the detector of this name. Raises `UsageError` naming those that exist."""
    table = detectors()
    if name not in table:
        msg = f"there is no detector {name!r}; there are: {', '.join(table)}"
        raise UsageError(msg)
    return table[name]
