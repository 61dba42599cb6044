"""Writing an export: a folder that holds one thing, and files that appear whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ..frame_truth import TARGETS, GroundTruth
from ..publish import make_directory, publish_bytes, publish_file
from .crops import fit_crops
from .files import npy_bytes
from .marker import MARKER, MarkedVideo, Marker, read_marker
from .model import SPLITS, Crops, Files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..bags import CropPool
    from ..timeline import ClipFeatures

TMP = ".vadx-tmp"


@dataclass(slots=True)
class Export:
    """An export under way: what the families of layouts write with.

    ``marker.videos`` stand in the order of the lists; ``keys`` maps their ids to those of ``features``.
    """

    folder: Path
    marker: Marker
    files: Files
    crops: Crops
    features: Mapping[str, ClipFeatures]
    keys: Mapping[str, str]
    pool: CropPool | None
    crop_order: str | None
    notes: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def of(self, split: str) -> tuple[MarkedVideo, ...]:
        return self.marker.of(split)

    def clips(self, video: MarkedVideo) -> ClipFeatures:
        """Read one video's features."""
        return self.features[self.keys[video.id]]

    def cropped(self, video: MarkedVideo) -> NDArray[np.float32]:
        """Give all clips ``(clip, crop, feature)`` with the crops that the layout takes."""
        return fit_crops(
            self.clips(video).values, self.crops, pool=self.pool, order=self.crop_order, identifier=video.id
        ).astype(np.float32)

    def values(self, video: MarkedVideo) -> NDArray[np.float32]:
        """Give ``(clip, crop, feature)`` as it is to be written, with as many clips as the target labels.

        Raises
        ------
        UsageError
            if they are not what was planned with: the feature set changed meanwhile.
        """
        values = self.cropped(video)
        surplus = len(values) - video.num_rows
        if surplus == 1:
            values = values[:-1]
        elif surplus == -1:
            values = np.concatenate([values, values[-1:]])
        if values.shape != (video.num_rows, video.num_crops, video.dim):
            msg = (
                f"{video.id!r} has {values.shape} (clip, crop, feature) and ({video.num_rows}, {video.num_crops}, "
                f"{video.dim}) was announced; leave the feature set alone while it is exported, and export again"
            )
            raise UsageError(msg)
        return values

    def path_in_list(self, relative: str) -> str:
        """Give what a list says of a file of this export."""
        return f"{self.marker.prefix}/{relative}" if self.marker.prefix else relative

    def put(self, relative: str, data: bytes | memoryview) -> None:
        """Make one file appear whole. Raises `StoreWriteError`."""
        final = self.folder / relative
        make_directory(final.parent, option="--to")
        publish_bytes(data, final, self.folder / TMP, replace=True, option="--to")
        self.written.append(relative)

    def put_lines(self, relative: str, lines: Sequence[str]) -> None:
        self.put(relative, "".join(f"{line}\n" for line in lines).encode())

    def put_file(self, relative: str, temporary: Path) -> None:
        """Make a file appear that was built whole in ``self.folder / TMP``. Raises `StoreWriteError`."""
        final = self.folder / relative
        make_directory(final.parent, option="--to")
        publish_file(temporary, final, replace=True, option="--to")
        self.written.append(relative)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    ``counts``: split -> anomalous and normal videos. ``relies_on`` says of each number that stands in the target's
    scripts whether it is met. ``loses``: what cannot be read back. ``notes``: what a person should know.
    """

    layout: str
    data_set: str
    folder: Path
    files: tuple[str, ...]
    counts: Mapping[str, tuple[int, int]]
    relies_on: tuple[str, ...]
    fits_scripts: bool
    num_labels: int
    num_positives: int
    loses: str
    needs: str
    notes: tuple[str, ...]


def claim(folder: Path, marker: Marker) -> None:
    """Make the folder ready to be written into.

    Raises
    ------
    UsageError
        if something else stands there.
    StoreWriteError
        if the disk refused.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; name a folder for the export"
        raise UsageError(msg)
    if folder.is_dir() and any(path.name != TMP for path in folder.iterdir()):
        before = read_marker(folder)
        if before is None or not before.is_same_thing(marker):
            what = "what no vadx exported" if before is None else f"another export, {_difference(before, marker)}"
            msg = (
                f"{folder} holds {what}: files of both would mix, and lists would name the wrong ones. Name a new "
                f"folder, or remove this one first"
            )
            raise UsageError(msg)
    make_directory(folder / TMP, option="--to")
    for left_over in (folder / TMP).glob("*.part"):
        left_over.unlink(missing_ok=True)
    publish_bytes(marker.to_bytes(), folder / MARKER, folder / TMP, replace=True, option="--to")


def finish(export: Export) -> None:
    """Say that the export is whole."""
    done = replace(export.marker, finished=True)
    publish_bytes(done.to_bytes(), export.folder / MARKER, export.folder / TMP, replace=True, option="--to")
    with suppress(OSError):
        (export.folder / TMP).rmdir()


def put_truth(export: Export, truth: GroundTruth) -> None:
    """Write the labels of the test videos, one after another; as JSON, under their names."""
    if export.files.truth.endswith(".json"):
        names = {video.id: video.name for video in export.of("test")}
        rows = {names[one]: truth.of(one).tolist() for one in truth.ids}
        found = {name: {"num_frames": len(row), "labels": row} for name, row in rows.items()}
        export.put(export.files.truth, json.dumps(found).encode())
        return
    dtype = TARGETS[export.files.target].dtype if export.files.target else "float32"
    export.put(export.files.truth, npy_bytes(truth.labels.astype(dtype)))


def reliance(files: Files, marker: Marker) -> tuple[tuple[str, ...], bool]:
    """Say of each number in the target's scripts whether this export meets it, and whether all are met."""
    lines, fits = [], True
    for split in SPLITS:
        found = count_labels(marker.of(split))
        expected = files.relies_on.get(split)
        if expected is None or expected == found:
            also = ", as the scripts take for granted" if expected else ""
            lines.append(f"{split}: {found[0]} anomalous and {found[1]} normal videos{also}")
            continue
        fits = False
        lines.append(
            f"{split}: {found[0]} anomalous and {found[1]} normal videos, and the scripts take {expected[0]} and "
            f"{expected[1]} for granted: put the new numbers in before training"
        )
    return tuple(lines), fits


def count_labels(videos: Sequence[MarkedVideo]) -> tuple[int, int]:
    """Count anomalous and normal videos."""
    return sum(video.label == 1 for video in videos), sum(video.label == 0 for video in videos)


def _difference(before: Marker, after: Marker) -> str:
    for name in ("layout", "data_set", "prefix", "crop", "crop_order"):
        if getattr(before, name) != getattr(after, name):
            return f"with {name} {getattr(before, name)!r} and not {getattr(after, name)!r}"
    return "of other features" if before.recipe != after.recipe else "of other videos or labels"


def default_prefix(folder: Path) -> str:
    """Give the folder as lists should name it, so that scripts find the files from anywhere."""
    return Path(os.path.abspath(folder)).as_posix()  # noqa: PTH100  # links in it stay as the user wrote them
