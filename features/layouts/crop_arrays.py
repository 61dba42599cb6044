"""One ``.npy`` a crop: Roc-Ng's layout and all that read its releases, which differ in suffixes, lists and order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...errors import UsageError
from ..frame_truth import CLIP_FRAMES, frame_truth
from .export import Export
from .files import feature_array, npy_bytes, read_npy, walk
from .lists import csv_rows, csv_text, label_by_place, local, read_list
from .marker import MarkedVideo, Marker
from .model import OWN, Crops, Files, Place, Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CROPS = 10
CSV_HEADER = ("path", "label")


@dataclass(frozen=True, slots=True)
class CropSuffix:
    """What stands between a video's name and ``.npy``: ``first`` for crop 0, ``joint`` and the number for others."""

    first: str
    joint: str

    def of(self, crop: int) -> str:
        return self.first if crop == 0 else f"{self.joint}{crop}"


CROP_SUFFIXES: Mapping[str, CropSuffix] = MappingProxyType(
    {
        "bare_first": CropSuffix("", "__"),
        "double": CropSuffix("__0", "__"),
        "single": CropSuffix("_0", "_"),
    }
)
"""Name -> suffixes: video.npy and video__1.npy on; video__0.npy on; video_0.npy on."""


@dataclass(frozen=True, slots=True)
class Convention:
    """How one repository names and lists the crops of one data set.

    ``suffix`` is one of `CROP_SUFFIXES`. ``folders``: of train and of test; ``{class}`` is the folder of a video's
    class. ``lists``: a path a line, the same with a label behind it, or CSV. ``train`` and ``test``: which crops are
    listed, all or one. ``label``: what a script reads the label from.
    """

    suffix: str
    num_crops: int
    folders: tuple[str, str] = ("train", "test")
    lists: Literal["paths", "labelled", "csv"] = "paths"
    train: int | Literal["all"] = "all"
    test: int | Literal["all"] = "all"
    label: Literal["place", "name", "list"] = "place"

    def place(self, video: MarkedVideo, crop: int) -> str:
        folder = self.folders[video.split == "test"].replace("{class}", video.folder)
        return f"{folder}/{video.name}{CROP_SUFFIXES[self.suffix].of(crop)}.npy"

    def listed(self, split: str) -> tuple[int, ...]:
        which = self.test if split == "test" else self.train
        return tuple(range(self.num_crops)) if which == "all" else (which,)


@dataclass(frozen=True, slots=True)
class CropArrays:
    """Files of one crop each. ``order`` is the order in which the crops are numbered, "" where it is not published.

    ``segment_labels``: CSL-TAL's file of a label for each 16 frames, "" for none.
    """

    conventions: Mapping[str, Convention]
    order: str = "roc"
    segment_labels: str = ""

    @property
    def crops(self) -> Mapping[str, Crops]:
        return {name: Crops((one.num_crops,), self.order) for name, one in self.conventions.items()}

    def convention(self, data_set: str) -> Convention:
        return self.conventions.get(data_set, self.conventions[OWN])

    def write(self, export: Export) -> None:
        rule = self.convention(export.marker.data_set)
        for video in (*export.of("train"), *export.of("test")):
            values = export.values(video)
            for crop in range(rule.num_crops):
                export.put(rule.place(video, crop), npy_bytes(values[:, crop]))
        for split, relative in (("train", export.files.train), ("test", export.files.test)):
            entries = [
                (export.path_in_list(rule.place(video, crop)), video)
                for video in export.of(split)
                for crop in rule.listed(split)
            ]
            if rule.lists == "csv":
                rows = [[path, class_code(video)] for path, video in entries]
                export.put(relative, csv_text(CSV_HEADER, rows).encode())
            elif rule.lists == "labelled":
                export.put_lines(relative, [f"{path} {float(video.label)}" for path, video in entries])
            else:
                export.put_lines(relative, [path for path, _ in entries])
        if self.segment_labels:
            labels = {video.name: _segment_labels(video) for video in export.of("test")}
            # One dict literal of Python, which a dict of lists of numbers in JSON is too.
            export.put(self.segment_labels, json.dumps(labels).encode())

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        if marker is None:
            yield from self._of_release(folder, skip)
            return
        rule = self.convention(marker.data_set)
        for video in marker.videos:
            paths = [folder / rule.place(video, crop) for crop in range(rule.num_crops)]
            yield Place(video.id, tuple(paths), partial(_stacked, paths), video)

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        rule = self.convention(marker.data_set)
        suffixes = [CROP_SUFFIXES[rule.suffix].of(crop) + ".npy" for crop in range(rule.num_crops)]
        for split, relative in (("train", files.train), ("test", files.test)):
            entries = _entries(rule, read_list(folder, relative), relative)
            crops = rule.listed(split)
            if len(entries) % len(crops):
                msg = f"{relative}: {len(entries)} lines are no multiple of {len(crops)} crops; export again"
                raise UsageError(msg)
            for at in range(0, len(entries), len(crops)):
                paths = [local(folder, marker, path, relative) for path, _ in entries[at : at + len(crops)]]
                name = paths[0].name.removesuffix(suffixes[crops[0]])
                if [path.name for path in paths] != [f"{name}{suffixes[crop]}" for crop in crops]:
                    msg = f"{relative}: the crops of {name!r} do not follow each other at line {at + 1}; export again"
                    raise UsageError(msg)
                # A loader that is told of crop 0 alone makes the names of the others.
                every = [paths[0].with_name(f"{name}{suffix}") for suffix in suffixes]
                values = _stacked(every)
                by_place = label_by_place(at // len(crops), marker.of(split))
                label = _label(rule, files, entries[at], split, by_place)
                yield Seen(split, name, label, *values.shape)

    def _of_release(self, folder: Path, skip: Set[str]) -> Iterator[Place]:
        """Give files as they were published: any convention of this layout whose files are there."""
        suffixes = list(dict.fromkeys(rule.suffix for rule in self.conventions.values()))
        paths = list(walk(folder, ".npy", skip))
        here = set(paths)
        for path in paths:
            for suffix in (CROP_SUFFIXES[name] for name in suffixes):
                name = path.name.removesuffix(f"{suffix.first}.npy")
                if not path.name.endswith(f"{suffix.first}.npy") or (
                    not suffix.first and _is_later(path, here, suffix)
                ):
                    continue
                of_video = [path.with_name(f"{name}{suffix.of(crop)}.npy") for crop in range(MAX_CROPS)]
                crops = [one for one in of_video if one in here]
                is_whole = crops == of_video[: len(crops)]
                yield Place(name, tuple(crops), partial(_stacked, crops, is_whole=is_whole))
                break


def class_code(video: MarkedVideo) -> str:
    """Give the label of VadCLIP's lists: the code in a name of XD-Violence, else the class, else Normal."""
    _, mark, code = video.name.rpartition("_label_")
    return code if mark else video.class_name or "Normal"


def _is_later(path: Path, here: set[Path], suffix: CropSuffix) -> bool:
    stem, joint, number = path.stem.rpartition(suffix.joint)
    return bool(joint) and number.isdecimal() and path.with_name(f"{stem}{suffix.first}.npy") in here


def _entries(rule: Convention, lines: list[str], place: str) -> list[tuple[str, str]]:
    if rule.lists == "csv":
        return [(path, label) for path, label in csv_rows(lines, CSV_HEADER, place)]
    if rule.lists == "labelled":
        return [(line.rpartition(" ")[0], line.rpartition(" ")[2]) for line in lines]
    return [(line, "") for line in lines]


def _label(rule: Convention, files: Files, entry: tuple[str, str], split: str, by_place: int) -> int:
    if rule.label == "list":
        return int(entry[1] not in {"Normal", "A", "0.0"})
    # Scripts that cut their list in training still read the label of a test video from its path.
    if rule.label == "name" or (split == "test" and files.normal_word):
        return int(files.normal_word not in entry[0])
    return by_place


def _segment_labels(video: MarkedVideo) -> list[int]:
    labels = frame_truth(np.array(video.spans, np.int64).reshape(-1, 2), CLIP_FRAMES * video.num_rows)
    return [int(one) for one in labels.reshape(-1, CLIP_FRAMES).max(axis=1)]


def _stacked(paths: list[Path], *, is_whole: bool = True) -> NDArray[np.float32]:
    if not is_whole:
        msg = f"{paths[0]}: a crop between the first and the last is missing; copy the release again"
        raise UsageError(msg)
    crops = [feature_array(read_npy(path), str(path), axes=(2,)) for path in paths]
    if len({crop.shape for crop in crops}) != 1:
        shapes = ", ".join(str(crop.shape) for crop in crops)
        msg = f"{paths[0]}: the crops of this video differ in shape: {shapes}; copy the folder again"
        raise UsageError(msg)
    return np.stack(crops, axis=1)
