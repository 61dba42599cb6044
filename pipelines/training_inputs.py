"""What a method's bags have beside their features, `Batch.more`: labels of frames, tubes, features with noise."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UsageError
from ..features.shard import ShardHeader
from .clip_bags import entry_truth
from .methods.lad import frame_labels
from .methods.mgpr import tube_tensors
from .methods.wsal import NOISY

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ..features.bag_file import BagFile
    from ..features.manifest import ManifestEntry
    from ..features.stage_set import StageSet
    from .training_bags import More

TUBES_BYTES = 1 << 30
"""Memory in which features of tubes that were read are kept."""


def frame_label_input(file: BagFile, entries: Mapping[str, ManifestEntry], clip_frames: int) -> More:
    """Give the labels of a bag's frames, for ``lad``: ``frame_labels (bag, segment, clip_frames)`` int8.

    ``entries`` maps ids of the file to what is known of the videos; the frames of others have their video's label.
    """
    place = {identifier: number for number, identifier in enumerate(file.ids)}

    def labels_of(identifier: str) -> NDArray[np.int8]:
        number = place[identifier]
        num_frames = int(file.num_frames[number])
        entry = entries.get(identifier)
        if entry is None:
            truth = np.full(num_frames, file.labels[number] == 1, np.uint8)
        else:
            truth = entry_truth(entry, num_frames)
        return frame_labels(file.frames[number], truth, clip_frames)

    def more(ids: Sequence[str]) -> dict[str, Tensor]:
        return {"frame_labels": torch.from_numpy(np.stack([labels_of(identifier) for identifier in ids]))}

    return more


def tube_input(tubes: StageSet, ids: Sequence[str], dim: int, max_tubes: int) -> More:
    """Give the features of a video's tubes, for ``mgpr``, as `tube_tensors` makes them.

    Raises
    ------
    UsageError
        unless the set holds tube features of ``dim`` numbers for every one of ``ids``.
    """
    if tubes.kind != "tube-features":
        msg = f"{tubes.name} holds {tubes.kind}, not features of tubes; name the set that vadx tubes VIDEOS made"
        raise UsageError(msg)
    missing = [identifier for identifier in ids if identifier not in tubes]
    if missing:
        msg = (
            f"{tubes.name} has no tubes of {len(missing)} of {len(ids)} videos, the first {missing[0]!r}: make them "
            f"with vadx tubes VIDEOS, from the same root, so that ids are the same"
        )
        raise UsageError(msg)
    kept: dict[str, Mapping[str, NDArray[Any]]] = {}

    def read(identifier: str) -> Mapping[str, NDArray[Any]]:
        if identifier in kept:
            return kept[identifier]
        arrays = tubes.open(identifier).arrays
        # A copy, for a part of what was read would keep all of it.
        best = {name: np.array(arrays[name][:max_tubes], np.float32) for name in ("region", "whole_frame")}
        if len(best["region"]) and best["region"].shape[1] != dim:
            msg = (
                f"{identifier}: its tubes have {best['region'].shape[1]} numbers in {tubes.name}, its clips {dim}; "
                f"one network sees both: make the tubes with the backbone of the clips, vadx tubes --backbone"
            )
            raise UsageError(msg)
        if sum(one["region"].nbytes * 2 for one in kept.values()) + 2 * best["region"].nbytes <= TUBES_BYTES:
            kept[identifier] = best
        return best

    def more(wanted: Sequence[str]) -> dict[str, Tensor]:
        return tube_tensors([read(identifier) for identifier in wanted], max_tubes)

    return more


def noise_input(file: BagFile, noisy: BagFile, ids: Sequence[str]) -> More:
    """Give the features with noise of the bags of ``file``, for ``wsal``: those of ``noisy``, 0 where there are none.

    Raises
    ------
    UsageError
        if the bags are of other shapes, or one of ``ids`` has none with noise.
    """
    place = {identifier: number for number, identifier in enumerate(noisy.ids)}
    missing = [identifier for identifier in ids if identifier not in place]
    if missing:
        msg = (
            f"{noisy.path} has no bag with noise of {len(missing)} of {len(ids)} normal videos, the first "
            f"{missing[0]!r}: make their features with noise, or leave --noise-set out"
        )
        raise UsageError(msg)
    if noisy.shape != file.shape or noisy.rule != file.rule:
        msg = (
            f"bags with noise are {noisy.shape} by {noisy.rule}, those without {file.shape} by {file.rule}; "
            f"give a noise set of the same network and crops"
        )
        raise UsageError(msg)
    kept = torch.from_numpy(np.zeros(file.shape, np.float32))

    def more(wanted: Sequence[str]) -> dict[str, Tensor]:
        found = kept.expand(len(wanted), *file.shape).clone()
        rows = [row for row, identifier in enumerate(wanted) if identifier in place]
        found[rows] = torch.from_numpy(noisy.read([place[wanted[row]] for row in rows]))
        return {NOISY: found}

    return more


def content_of(stage: StageSet, ids: Sequence[str]) -> str:
    """Give a sha256 of what a set holds of some videos."""
    digest = hashlib.sha256()
    for identifier in ids:
        header = stage.header(identifier)
        digest.update(f"{identifier} {header.body_sha256 if isinstance(header, ShardHeader) else header}\n".encode())
    return digest.hexdigest()


def merged(inputs: Sequence[More]) -> More | None:
    """Give all of several inputs as one, None of none."""
    if not inputs:
        return None

    def more(ids: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for one in inputs:
            found |= one(ids)
        return found

    return more
