"""Whole videos as bags, a clip a row, read from the feature set itself: a file of bags has one shape for all.

The rule ``clips``. A batch is padded to its longest video; for LAD, which learns from windows of a few clips, the
windows are drawn first, so that nothing else of a long video goes into the batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import ShardError, StoreError, UsageError
from ..features.bags import make_bag
from ..features.frame_truth import frame_truth
from .methods import Batch
from .methods.lad import UNKNOWN, LadSettings, draw_window, frame_labels
from .training_bags import ANOMALOUS, NORMAL, digest_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.bag_file import Bag
    from ..features.bags import CropPool
    from ..features.manifest import ManifestEntry
    from ..features.store import FeatureSet

CLIPS = "clips"
"""The rule of `vadx.features.bag_rules.SEGMENTATIONS` that makes such bags."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipBags:
    """The normal and anomalous videos of a feature set; those of unknown label are passed over.

    ``entries`` maps ids of the set to what is known of the videos. With ``windows`` a bag of a batch is the window that
    `draw_window` draws of its video with the seed of the batch, and ``more["frame_labels"]`` has its labels. Videos
    that were read are kept, up to ``memory_bytes`` of them.

    Raises
    ------
    UsageError
        if videos differ in the size of their features.
    """

    feature_set: FeatureSet
    entries: Mapping[str, ManifestEntry]
    crop_pool: CropPool = "keep"
    windows: LadSettings | None = None
    memory_bytes: int = 1 << 30
    _ids: tuple[str, ...] = field(init=False, repr=False)
    _shape: tuple[int, int] = field(init=False, repr=False)
    _kept: dict[str, Bag] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        listing = self.feature_set.summaries()
        shapes: dict[tuple[int, int], str] = {}
        for identifier in self.entries:
            summary = listing[identifier]
            shapes.setdefault((summary.num_crops, summary.dim), identifier)
        if len(shapes) != 1:
            several = ", ".join(f"{crops} x {dim} of {name!r}" for (crops, dim), name in shapes.items())
            msg = f"{self.feature_set.name}: videos of several shapes (crop, feature) ({several}); extract them anew"
            raise UsageError(msg)
        ((num_crops, dim),) = shapes
        object.__setattr__(self, "_ids", tuple(self.entries))
        object.__setattr__(self, "_shape", (num_crops if self.crop_pool == "keep" else 1, dim))

    @property
    def shape(self) -> tuple[None, int, int]:
        return (None, *self._shape)

    @property
    def rule(self) -> str:
        return CLIPS

    @property
    def recipe_digest(self) -> str:
        return self.feature_set.digest

    def half(self, label: int) -> NDArray[np.int64]:
        """Give the numbers of the bags of one label."""
        found = [number for number, entry in enumerate(self.entries.values()) if entry.label == label]
        return np.array(found, np.int64)

    def digest(self) -> str:
        """Give a sha256 of which videos are trained on, with which labels."""
        return digest_of((self._ids[n], label) for label in (NORMAL, ANOMALOUS) for n in self.half(label))

    def content(self) -> str:
        """Give a sha256 of the features, and of the frames that are called anomalous.

        Raises
        ------
        StoreError
            if a shard is damaged.
        """
        digest = hashlib.sha256(json.dumps([CLIPS, self.crop_pool]).encode())
        for identifier, entry in self.entries.items():
            header = self.feature_set.header(identifier)
            if isinstance(header, ShardError):
                raise header
            if header is None:
                msg = f"{identifier}: its shard was removed meanwhile; repeat the command"
                raise StoreError(msg)
            row = [identifier, header.body_sha256, entry.label, entry.class_name, entry.spans.tolist()]
            digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()

    def batch(self, numbers: NDArray[np.int64], seed: int, device: str) -> Batch:
        """Read the bags of these numbers."""
        bags = [self._bag(self._ids[number]) for number in numbers.tolist()]
        rows = [slice(0, len(bag.features)) for bag in bags]
        more = {}
        if self.windows is not None:
            rows, labels = self._draw(bags, self.windows, seed)
            more["frame_labels"] = torch.from_numpy(labels).to(device)
        num_rows = [row.stop - row.start for row in rows]
        features = np.zeros((len(bags), max(num_rows), *self._shape), np.float32)
        for place, (bag, row) in enumerate(zip(bags, rows, strict=True)):
            features[place, : num_rows[place]] = bag.features[row]
        mask = np.arange(max(num_rows)) < np.array(num_rows)[:, np.newaxis]
        return Batch(
            features=torch.from_numpy(features).to(device),
            labels=torch.tensor([bag.label for bag in bags]).to(device),
            mask=torch.from_numpy(mask).to(device),
            ids=tuple(bag.id for bag in bags),
            classes=tuple(bag.class_name for bag in bags),
            more=more,
            seed=seed,
        )

    def _draw(self, bags: list[Bag], settings: LadSettings, seed: int) -> tuple[list[slice], NDArray[np.int8]]:
        """Draw a window of each bag, as `Lad.draw` does of bags that hold all clips."""
        random = np.random.default_rng(seed)
        size = settings.window_clips
        rows, found = [], np.full((len(bags), size, settings.clip_frames), UNKNOWN, np.int8)
        for place, bag in enumerate(bags):
            truth = entry_truth(self.entries[bag.id], bag.num_frames)
            labels = frame_labels(bag.frames, truth, settings.clip_frames)
            start, label_start = draw_window(labels, settings, random, anomalous=bag.label == ANOMALOUS)
            rows.append(slice(start, min(start + size, len(labels))))
            window = labels[label_start : label_start + size]
            found[place, : len(window)] = window
        longest = max(row.stop - row.start for row in rows)
        return rows, found[:, :longest]

    def _bag(self, identifier: str) -> Bag:
        kept = self._kept.get(identifier)
        if kept is not None:
            return kept
        entry = self.entries[identifier]
        bag = make_bag(
            self.feature_set[identifier],
            CLIPS,
            crop_pool=self.crop_pool,
            id=identifier,
            label=entry.label,
            class_name=entry.class_name,
        )
        if sum(one.features.nbytes for one in self._kept.values()) + bag.features.nbytes <= self.memory_bytes:
            self._kept[identifier] = bag
        return bag


def entry_truth(entry: ManifestEntry, num_frames: int) -> NDArray[np.uint8]:
    """Give 1 for each frame of a video that is anomalous, ``(num_frames,)``.

    Where an anomalous video's spans are not known every frame is, as in UCF-Crime's training videos in the code of LAD.
    """
    if entry.label == ANOMALOUS and not len(entry.spans):
        return np.ones(num_frames, np.uint8)
    return frame_truth(entry.spans, num_frames)
