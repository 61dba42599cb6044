"""torchvision's detectors, as their published weights want them.

``weights=None`` in torchvision builds BatchNorm2d with its usual epsilon, which trains; the published weights of the
older networks belong to FrozenBatchNorm2d, two of them with an epsilon of 0 (torchvision, models/detection:
faster_rcnn.py, fcos.py and retinanet.py, ``norm_layer`` and ``overwrite_eps``). The networks here are built as
torchvision builds them for those weights, and need no download to be so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torchvision.models.detection as zoo
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ..errors import WeightsError
from .runtime import reduce_precision

if TYPE_CHECKING:
    from torch import Tensor

    from .detector import NetworkSettings

_TWO_STAGES = ("backbone", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor")
_ONE_STAGE = ("backbone", "head")

_PUBLISHED_MIN_SIZE, _PUBLISHED_MAX_SIZE = 800, 1333
"""torchvision, faster_rcnn.py, FasterRCNN: ``min_size`` and ``max_size``; the other networks' are the same."""


@dataclass(frozen=True, slots=True)
class _Build:
    """How one of torchvision's networks is made for its published weights.

    ``frozen``: BatchNorm does not train, and ``eps`` replaces its epsilon if it is not None. ``parts`` are those that
    may run in fewer bits. ``threshold`` and ``proposals`` are torchvision's names of the settings.
    """

    make: Callable[..., nn.Module]
    frozen: bool
    eps: float | None
    parts: tuple[str, ...]
    threshold: str
    proposals: str | None = None


class TorchvisionNetwork:
    """One of torchvision's detection models behind the interface of `DetectorSpec.factory`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    def __call__(self, frames: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Map uint8 RGB frames ``(n, 3, H, W)`` to one ``(boxes, scores, labels)`` a frame."""
        # Resizing and normalisation are inside the model, which wants values from 0 to 1.
        found = self.model(list(frames.float() / 255))
        return [(one["boxes"], one["scores"], one["labels"]) for one in found]


def _network(build: _Build, state: Mapping[str, Tensor] | None, settings: NetworkSettings) -> TorchvisionNetwork:
    options: dict[str, Any] = {build.threshold: settings.score_threshold}
    if settings.min_size is not None:
        # The longer side keeps the published relation to the shorter one.
        longer = round(settings.min_size * _PUBLISHED_MAX_SIZE / _PUBLISHED_MIN_SIZE)
        options |= {"min_size": settings.min_size, "max_size": longer}
    if settings.proposals is not None and build.proposals is not None:
        options[build.proposals] = settings.proposals
    model = build.make(weights=None, weights_backbone=None, **options)
    if build.frozen:
        _freeze(model, build.eps)
    if state is not None:
        _load(model, state)
    reduce_precision(model, build.parts, settings.precision)
    return TorchvisionNetwork(model.to(settings.device))


def _freeze(module: nn.Module, eps: float | None) -> None:
    """Put FrozenBatchNorm2d in the place of every BatchNorm2d, in place. It is new: what it held is lost."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps=child.eps if eps is None else eps))
        else:
            _freeze(child, eps)


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict, in place, under today's names or under those of older torchvision, which it converts itself.

    Raises
    ------
    WeightsError
        naming what is missing, unknown or of another shape.
    """
    try:
        missing, unknown = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[1:2]).strip()
        msg = f"these weights do not fit {type(model).__name__}: {reason or error}; give those of this detector"
        raise WeightsError(msg) from error
    problems = [f"{what}: {_some(keys)}" for what, keys in (("missing", missing), ("unknown", unknown)) if keys]
    if problems:
        msg = f"these weights do not fit {type(model).__name__}: {'; '.join(problems)}; give those of this detector"
        raise WeightsError(msg)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _faster_rcnn(make: Callable[..., nn.Module], *, frozen: bool, eps: float | None = None) -> _Build:
    return _Build(make, frozen, eps, _TWO_STAGES, "box_score_thresh", "rpn_post_nms_top_n_test")


frcnn = partial(_network, _faster_rcnn(zoo.fasterrcnn_resnet50_fpn, frozen=True, eps=0.0))
frcnn_v2 = partial(_network, _faster_rcnn(zoo.fasterrcnn_resnet50_fpn_v2, frozen=False))
frcnn_mobile = partial(_network, _faster_rcnn(zoo.fasterrcnn_mobilenet_v3_large_fpn, frozen=True))
fcos = partial(_network, _Build(zoo.fcos_resnet50_fpn, True, None, _ONE_STAGE, "score_thresh"))
retinanet = partial(_network, _Build(zoo.retinanet_resnet50_fpn, True, 0.0, _ONE_STAGE, "score_thresh"))
ssdlite = partial(_network, _Build(zoo.ssdlite320_mobilenet_v3_large, False, None, _ONE_STAGE, "score_thresh"))
