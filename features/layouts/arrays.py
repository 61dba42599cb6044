"""One ``.npy`` a video with all its crops: RTFM and those that took over its loader, and plain arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..manifest import manifest_text, read_manifest
from .export import Export
from .files import feature_array, npy_bytes, read_npy, walk
from .lists import csv_rows, csv_text, label_by_place, local, read_list
from .marker import MarkedVideo, Marker
from .model import OWN, Crops, Files, Place, Seen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

S3R_HEADER = ("video-id",)


@dataclass(frozen=True, slots=True)
class ClipArrays:
    """``<video><suffix>`` with ``(clip, crop, feature)``, below ``folder``/train and ``folder``/test.

    ``lists``: a path a line, or under a header an id a line.
    """

    crops: Mapping[str, Crops]
    suffix: str = "_i3d.npy"
    folder: Mapping[str, str] = field(default_factory=lambda: {OWN: "features"})
    lists: Literal["paths", "ids"] = "paths"

    def place(self, video: MarkedVideo, data_set: str) -> str:
        folder = self.folder.get(data_set, self.folder[OWN])
        return f"{folder}/{video.split}/{video.name}{self.suffix}"

    def write(self, export: Export) -> None:
        data_set = export.marker.data_set
        for split, relative in (("train", export.files.train), ("test", export.files.test)):
            videos = export.of(split)
            for video in videos:
                export.put(self.place(video, data_set), npy_bytes(export.values(video)))
            if self.lists == "ids":
                export.put(relative, csv_text(S3R_HEADER, [[video.name] for video in videos]).encode())
            else:
                export.put_lines(relative, [export.path_in_list(self.place(video, data_set)) for video in videos])

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        if marker is not None:
            for video in marker.videos:
                yield _place(video.id, folder / self.place(video, marker.data_set), video)
            return
        for path in walk(folder, self.suffix, skip):
            yield _place(path.name.removesuffix(self.suffix), path)

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        for split, relative in (("train", files.train), ("test", files.test)):
            lines = read_list(folder, relative)
            if self.lists == "ids":
                home = self.folder.get(marker.data_set, self.folder[OWN])
                names = [row[0] for row in csv_rows(lines, S3R_HEADER, relative)]
                start = f"{marker.prefix}/" if marker.prefix else ""
                lines = [f"{start}{home}/{split}/{name}{self.suffix}" for name in names]
            for at, line in enumerate(lines):
                path = local(folder, marker, line, relative)
                values = _values(path)
                label = label_by_place(at, marker.of(split))
                yield Seen(split, path.name.removesuffix(self.suffix), label, *values.shape)


@dataclass(frozen=True, slots=True)
class PlainArrays:
    """``<id>.npy`` with ``(clip, crop, feature)``, and a manifest."""

    crops: Mapping[str, Crops] = field(default_factory=lambda: {OWN: Crops()})

    def write(self, export: Export) -> None:
        for video in export.marker.videos:
            export.put(f"features/{video.id}.npy", npy_bytes(export.values(video)))
        export.put(export.files.train, manifest_text([v.entry for v in export.marker.videos], "csv").encode())

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        if marker is not None:
            for video in marker.videos:
                yield _place(video.id, folder / "features" / f"{video.id}.npy", video)
            return
        for path in walk(folder, ".npy", skip):
            yield _place(path.relative_to(folder).with_suffix("").as_posix(), path)

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        for entry in read_manifest(folder / files.train, format="csv"):
            values = _values(folder / "features" / f"{entry.id}.npy")
            yield Seen(entry.split, entry.id.split("/")[-1], entry.label, *values.shape)


def _place(identifier: str, path: Path, marked: MarkedVideo | None = None) -> Place:
    return Place(identifier, (path,), partial(_values, path), marked)


def _values(path: Path) -> NDArray[np.float32]:
    values = feature_array(read_npy(path), str(path), axes=(2, 3))
    return values[:, None] if values.ndim == 2 else values
