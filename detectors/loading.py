"""A detector by name, with weights, ready for the frames of a video."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ..errors import UsageError, WeightsError
from ..extract.weights import entries_of, file_sha256, load, read_own, require
from .class_filter import GROUP_NMS_IOU, ClassFilter, make_class_filter
from .detector import DEFAULT_SCORE_THRESHOLD, DetectorSpec, FrameBoxes, NetworkSettings, find_detector
from .runtime import DEFAULT_BATCH, check_device, ready_to_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .detector import Frames, Network


@dataclass(frozen=True, slots=True, eq=False)
class NetworkDetector:
    """A row of the table of detectors with weights; a `Detector`.

    ``weights_sha256`` is that of the published file, or ``random:SEED``; ``weights_name`` is None for a user's own
    file. One thread at a time may call `detect`.
    """

    spec: DetectorSpec
    network: Network
    settings: NetworkSettings
    classes: ClassFilter
    batch: int
    weights_sha256: str
    weights_name: str | None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def categories(self) -> Mapping[int, str]:
        """Label -> name, of every label that can come back; a group stands under the lowest label of its members."""
        return self.classes.names

    @property
    def provenance(self) -> dict[str, str | int]:
        """What computed the boxes, as far as it does not change what they mean."""
        device = torch.device(self.settings.device).type
        return {"device": device, "batch": self.batch, "torch": version("torch"), "torchvision": version("torchvision")}

    def record(self) -> dict[str, str | int | float | None]:
        """Give what changes a box's value. What is None is as published."""
        return {
            "detector": self.name,
            "weights": self.weights_sha256,
            "precision": self.settings.precision,
            "score_threshold": self.settings.score_threshold,
            "min_size": self.settings.min_size,
            "proposals": self.settings.proposals,
            "classes": self.classes.describe(self.spec.categories),
        }

    def detect(self, frames: Frames) -> list[FrameBoxes]:
        """Find boxes in frames of one size: uint8 RGB ``(n, H, W, 3)`` or ``(n, 3, H, W)``, or a list of ``(H, W, 3)``.

        They run in batches of one shape, the last one filled up with black, so that what is found in a frame does not
        hang on how many frames are given. Equal boxes of one frame in two batches may still differ in their last
        bits, because the number of regions in a batch of Faster R-CNN changes how its sums are ordered.

        Raises
        ------
        UsageError
            for frames of another shape or type.
        ResourceError
            if memory does not suffice for a batch.
        """
        images = _channels_first(frames)
        found: list[FrameBoxes] = []
        for start in range(0, len(images), self.batch):
            found += self._detect_batch(images[start : start + self.batch])
        return found

    def _detect_batch(self, images: Tensor) -> list[FrameBoxes]:
        num_images, device = len(images), torch.device(self.settings.device)
        if num_images < self.batch:
            images = torch.cat([images, images.new_zeros((self.batch - num_images, *images.shape[1:]))])
        with ready_to_run(self.settings.precision, device, self.batch):
            # While they are bytes, which are a quarter of floats.
            found = self.network(images.to(device))[:num_images]
            return [self._chosen(*(part.cpu() for part in one)) for one in found]

    def _chosen(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> FrameBoxes:
        """Give the boxes of a frame that are above the threshold, of a category that is kept, and have an area."""
        box: NDArray[np.float32] = boxes.to(torch.float32).numpy().reshape(-1, 4)
        score: NDArray[np.float32] = scores.to(torch.float32).numpy()
        target = self.classes.targets_of(labels.to(torch.int64).numpy())
        kept = (score > self.settings.score_threshold) & (target >= 0) & np.isfinite(box).all(axis=1)
        kept &= (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        rows = np.flatnonzero(kept)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        in_group = np.isin(target[rows], sorted(self.classes.grouped))
        if in_group.any():
            group = rows[in_group]
            tensors = (torch.from_numpy(values[group]) for values in (box, score, target))
            survivors = group[batched_nms(*tensors, GROUP_NMS_IOU).numpy()]
            rows = rows[~in_group | np.isin(rows, survivors)]
        return FrameBoxes(box[rows], score[rows], target[rows])


def load_detector(
    name: str,
    weights: str | Path | None = None,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    batch: int | None = None,
    score_threshold: float = DEFAULT_SCORE_THRESHOLD,
    classes: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    min_size: int | None = None,
    proposals: int | None = None,
) -> NetworkDetector:
    """Make a detector.

    Parameters
    ----------
    name
        A row of the table of detectors: `detector.detectors`.
    weights
        A name of ``vadx weights ls``, a file with a state dict, ``random[:SEED]``, or None for the published ones.
    device
        ``cpu``, ``cuda`` or ``cuda:N``.
    precision
        One of `runtime.PRECISIONS`; less than float32 is for convolutions and matrix products only.
    batch
        Frames that run at once, None for what suits the device.
    score_threshold
        Only boxes with a greater score come back, the same from every detector.
    classes, groups
        What is kept, and what counts as one: see `class_filter.make_class_filter`.
    min_size
        Pixels of the shorter side that frames are resized to, at a longer side of at most 5/3 of it; None for the
        published 800. A frame of 320x240 is enlarged 3.3 times by those.
    proposals
        Regions that the second stage of Faster R-CNN looks at, None for the published 1000.

    Raises
    ------
    UsageError
        for a name, device or setting that cannot be meant.
    WeightsError
        if the weights are missing or another network's.
    """
    spec = find_detector(name)
    torch_device = check_device(device, precision)
    settings = NetworkSettings(device, precision, float(score_threshold), min_size, proposals)
    spec.check(settings)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        msg = f"batch must be a whole number, 1 or more, got {batch!r}: give batch={DEFAULT_BATCH[torch_device.type]}"
        raise UsageError(msg)
    chosen = make_class_filter(spec.categories, classes, groups)
    network, digest, weights_name = _network(spec, settings, weights)
    size = DEFAULT_BATCH[torch_device.type] if batch is None else batch
    return NetworkDetector(spec, network, settings, chosen, size, digest, weights_name)


def _network(
    spec: DetectorSpec, settings: NetworkSettings, weights: str | Path | None
) -> tuple[Network, str, str | None]:
    if spec.weights is None:
        if weights is not None or spec.brings_sha256 is None:
            msg = f"detector {spec.name} brings its own weights and takes no others: leave weights out"
            raise UsageError(msg)
        return spec.build(None, settings), spec.brings_sha256, None
    text = str(spec.weights if weights is None else weights)
    random = re.fullmatch(r"random(?::(\d{1,18}))?", text)
    if random:
        seed = int(random[1] or 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return spec.build(None, settings), f"random:{seed}", None
    known = [entry.name for entry in entries_of(spec.name)]
    if text in known:
        digest = require(text).published_sha256
        return spec.build(load(text), settings), digest, text
    path = Path(text)
    if not path.is_file():
        msg = f"{text!r} is neither a file nor one of the weights of {spec.name}: {', '.join(known)}, random[:SEED]"
        raise WeightsError(msg)
    return spec.build(read_own(path), settings), file_sha256(path), None


def _channels_first(frames: Frames) -> Tensor:
    """Give frames as a uint8 tensor ``(n, 3, H, W)``."""
    if isinstance(frames, Tensor):
        images = frames
    else:
        try:
            array = np.ascontiguousarray(frames)
            images = torch.from_numpy(array if array.flags.writeable else array.copy())
        except (TypeError, ValueError) as error:
            msg = "frames must be one array, or frames of one size: give those of one video at a time"
            raise UsageError(msg) from error
    shape = tuple(images.shape)
    last, second = shape[-1:] == (3,), shape[1:2] == (3,)
    if len(shape) == 1 and not shape[0]:
        return torch.empty((0, 3, 1, 1), dtype=torch.uint8)
    if len(shape) != 4 or last == second or 0 in shape[1:] or images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        msg = f"expected RGB frames, uint8 (n, H, W, 3) or (n, 3, H, W), got {kind} {shape}"
        raise UsageError(msg)
    return images.permute(0, 3, 1, 2) if last else images
