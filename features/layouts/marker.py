"""The note that an export leaves beside its files: what stands there, so that it can be checked and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ..manifest import ManifestEntry
from ..plain_json import parse_json
from ..text_lines import check_name, read_whole

MARKER = "vadx-export.json"
"""Its name, at the top of the folder. Where it is missing, the folder was made by somebody else."""

VERSION = 1
_COUNTS = ("num_frames", "num_rows", "num_crops", "dim", "num_labels")


@dataclass(frozen=True, slots=True)
class MarkedVideo:
    """One exported video: its id, its name in the layout, and what its file holds.

    ``spans`` are frames as published; ``num_rows`` rows of ``dim`` values for each of ``num_crops`` crops;
    ``num_labels`` labels of the test videos' ground truth are its own, 0 where there are none.
    """

    id: str
    name: str
    label: int
    class_name: str
    split: str
    spans: tuple[tuple[int, int], ...]
    num_frames: int
    num_rows: int
    num_crops: int
    dim: int
    num_labels: int = 0

    @property
    def folder(self) -> str:
        """The folder of its class: the one that its id has, else its class, else Normal."""
        above = self.id.split("/")[:-1]
        return above[-1] if above else self.class_name.replace("/", "-") or "Normal"

    @property
    def entry(self) -> ManifestEntry:
        spans = np.array(self.spans, np.int64).reshape(-1, 2)
        return ManifestEntry(self.id, "", self.label, self.class_name, self.split, spans, self.num_frames or None)


@dataclass(frozen=True, slots=True)
class Marker:
    """What an export is. Two exports of the same thing differ in ``finished`` at most.

    ``recipe`` is the feature set's as plain JSON, empty where it is not known. ``crop`` and ``crop_order`` are those
    of the values written, as in `crops.fit_crops`.
    """

    layout: str
    data_set: str
    prefix: str
    crop: str
    crop_order: str
    recipe: Mapping[str, Any]
    videos: tuple[MarkedVideo, ...]
    finished: bool = False

    def to_bytes(self) -> bytes:
        return (json.dumps({"vadx_export": VERSION, **asdict(self)}, indent=1) + "\n").encode()

    def is_same_thing(self, other: Marker) -> bool:
        return replace(self, finished=False) == replace(other, finished=False)

    def of(self, split: str) -> tuple[MarkedVideo, ...]:
        """Give a split's videos, in the order of the target's list."""
        return tuple(video for video in self.videos if video.split == split)

    def by_name(self) -> dict[str, MarkedVideo]:
        return {video.name: video for video in self.videos}


def read_marker(folder: Path) -> Marker | None:
    """Read the note of an export; None where there is none. Raises `UsageError` for one that cannot be meant."""
    path = folder / MARKER
    if not path.is_file():
        return None
    text = read_whole(path)
    try:
        raw = parse_json(text)
        if raw.pop("vadx_export") != VERSION:
            msg = "a newer vadx wrote it; update vadx"
            raise ValueError(msg)
        videos = tuple(_video(row) for row in raw.pop("videos"))
        marker = Marker(videos=videos, **raw)
        _check(marker)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} cannot be read: {error}; remove it to read the folder as somebody else's, or export again"
        raise UsageError(msg) from error
    return marker


def _video(row: dict[str, Any]) -> MarkedVideo:
    spans = tuple((int(start), int(stop)) for start, stop in row.pop("spans"))
    video = MarkedVideo(spans=spans, **row)
    check_name(video.name, "name")
    if "/" in video.name or "\\" in video.name or any(type(getattr(video, name)) is not int for name in _COUNTS):
        msg = f"{video.name!r} is no name of one file, or its counts are none"
        raise ValueError(msg)
    # A manifest's entry refuses ids, splits and spans that cannot be meant.
    video.entry  # noqa: B018  # it validates itself
    return video


def _check(marker: Marker) -> None:
    texts = (marker.layout, marker.data_set, marker.prefix, marker.crop, marker.crop_order)
    if not all(isinstance(text, str) for text in texts) or not isinstance(marker.recipe, dict):
        msg = "its fields have other types"
        raise TypeError(msg)
