"""Bags of 32 segments as text: the original DeepMIL, and ekosman's port of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ..bags import cut_segments
from ..text_lines import read_lines, refuse
from .export import Export
from .files import below, walk
from .lists import events, read_list, sultani_annotation
from .marker import MarkedVideo, Marker
from .model import ONE_CROP, OWN, Crops, Files, Place, Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_SEGMENTS = 32
_SO = "Nothing of this folder was read further; copy it again, or check which layout it has."


def six_decimals(rows: NDArray[np.float32]) -> bytes:
    """Give the text that MATLAB's fprintf with '%f ' writes: six decimals, a space after each, a line a segment."""
    return "".join("".join(f"{value:f} " for value in row) + "\n" for row in rows.tolist()).encode()


def shortest(rows: NDArray[np.float32]) -> bytes:
    """Give the fewest digits that come back as the same float32, as Python's str does."""
    return "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()


def read_rows(path: Path) -> NDArray[np.float32]:
    """Read rows of numbers, ``(row, 1, feature)``. Raises `UsageError` and `NoInputError`."""
    lines, problems = read_lines(path)
    refuse(problems, so=_SO)
    try:
        rows = [np.array(text.split(), np.float64) for _, text in lines]
        with np.errstate(over="ignore"):
            values = np.stack(rows).astype(np.float32)
    except ValueError as error:
        msg = f"{path} holds no rows of equally many numbers: {error}. {_SO}"
        raise UsageError(msg) from error
    if not np.isfinite(values).all():
        msg = f"{path} holds numbers that are infinite or none in float32. {_SO}"
        raise UsageError(msg)
    return values[:, np.newaxis]


@dataclass(frozen=True, slots=True)
class SegmentText:
    """Text files of 32 rows, cut by ``rule`` of `bag_rules.SEGMENTATIONS`, in the digits of ``digits``."""

    rule: str
    digits: Callable[[NDArray[np.float32]], bytes]
    crops: Mapping[str, Crops] = field(default_factory=lambda: {OWN: ONE_CROP})

    def rows(self, export: Export, video: MarkedVideo) -> bytes:
        clips = export.clips(video)
        return self.digits(cut_segments(export.cropped(video), clips.frames, self.rule).features[:, 0])


@dataclass(frozen=True, slots=True)
class Sultani(SegmentText):
    """``train/Anomaly`` and ``train/Normal``, which sort in the order that the script takes folders in; ``test``."""

    def place(self, video: MarkedVideo) -> str:
        folder = "test" if video.split == "test" else f"train/{'Anomaly' if video.label else 'Normal'}"
        return f"{folder}/{video.name}_C.txt"

    def write(self, export: Export) -> None:
        for video in export.marker.videos:
            export.put(self.place(video), self.rows(export, video))
        export.put_lines(export.files.test, [sultani_annotation(video) for video in export.of("test")])

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        if marker is not None:
            for video in marker.videos:
                yield _place(video.id, folder / self.place(video), video)
            return
        # The ten published samples have no _C in their names.
        for path in walk(folder, ".txt", skip):
            yield _place(path.stem.removesuffix("_C"), path)

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        folders = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
        if folders != ["Anomaly", "Normal"]:
            msg = f"{folder / 'train'} holds {folders}, and the script takes the first two folders: remove the others"
            raise UsageError(msg)
        for label, name in ((1, "Anomaly"), (0, "Normal")):
            # The script takes what it finds: what no export wrote would be trained on too.
            found = {path.name.removesuffix("_C.txt"): path for path in walk(folder / "train" / name, "_C.txt")}
            known = [video.name for video in marker.of("train") if video.label == label]
            for video in [*known, *sorted(found.keys() - set(known))]:
                if video in found:
                    yield _seen("train", video, label, read_rows(found[video]))
        for line in read_list(folder, files.test):
            fields = line.split("  ")
            name = fields[0].removesuffix(".mp4")
            path = below(folder, f"test/{name}_C.txt", files.test)
            yield _seen("test", name, int(fields[2:3] != ["-1"]), read_rows(path))


@dataclass(frozen=True, slots=True)
class Ekosman(SegmentText):
    """``<class>/<video>.txt`` and two annotation files."""

    def place(self, video: MarkedVideo) -> str:
        return f"{video.folder}/{video.name}.txt"

    def write(self, export: Export) -> None:
        for video in export.marker.videos:
            export.put(f"features/{self.place(video)}", self.rows(export, video))
        export.put_lines(
            export.files.train,
            [f"{video.folder}/{video.name}.mp4 {video.num_frames}" for video in export.of("train")],
        )
        lines = []
        for video in export.of("test"):
            fields = [f"{video.folder}/{video.name}.mp4", str(video.num_frames), video.class_name or "Normal"]
            lines.append(" ".join([*fields, *events(video)]))
        export.put_lines(export.files.test, lines)

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        if marker is not None:
            for video in marker.videos:
                yield _place(video.id, folder / "features" / self.place(video), video)
            return
        for path in walk(folder, ".txt", skip):
            yield _place(path.relative_to(folder).with_suffix("").as_posix(), path)

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        for split, relative in (("train", files.train), ("test", files.test)):
            for line in read_list(folder, relative):
                video = line.split(" ")[0]
                # The script cuts at the first dot.
                path = below(folder, f"features/{video.split('.')[0]}.txt", relative)
                yield _seen(split, path.stem, int("Normal" not in video), read_rows(path))


def _place(identifier: str, path: Path, marked: MarkedVideo | None = None) -> Place:
    return Place(identifier, (path,), partial(read_rows, path), marked)


def _seen(split: str, name: str, label: int, rows: NDArray[np.float32]) -> Seen:
    return Seen(split, name, label, *rows.shape)
