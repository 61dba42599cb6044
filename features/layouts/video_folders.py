"""A folder a video: AR-Net, and the code of LAD2000 by the same authors. Labels are pickled dictionaries."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UsageError
from ..frame_truth import frame_truth
from ..plain_pickle import PLAIN_OPCODES, pickle_opcodes
from .export import Export
from .files import feature_array, npy_bytes, read_npy, walk
from .lists import read_list
from .marker import MarkedVideo, Marker
from .model import ONE_CROP, OWN, Crops, Files, Place, Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LABEL_BYTES = 1 << 30
_ROW_OPCODES = PLAIN_OPCODES | {"GLOBAL", "TUPLE1", "REDUCE", "NEWTRUE", "NEWFALSE", "NONE"}
_ROW = "numpy array"
_LAD_NAME = re.compile(r"v_(?P<kind>[A-Za-z]+)_[an]_")


class _RowPickler(pickle.Pickler):
    """Writes arrays as ``numpy.array([...])``, a name that every numpy has; its own moved between 1 and 2."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, np.ndarray):
            return np.array, (thing.tolist(),)
        return NotImplemented


def label_pickle(labels: Mapping[str, Any]) -> bytes:
    """Give a dictionary of arrays, lists and numbers as a pickle that Python 3 reads with any numpy."""
    image = io.BytesIO()
    _RowPickler(image, protocol=2).dump(dict(labels))
    return image.getvalue()


class _RowUnpickler(pickle.Unpickler):
    """Makes lists of what was ``numpy.array``; nothing of numpy is called on what a file holds."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" != _ROW:
            msg = f"it names {module}.{name}"
            raise pickle.UnpicklingError(msg)
        return _row


def _row(values: object) -> list[Any]:
    if not isinstance(values, list):
        msg = "an array is made of something that is no list"
        raise pickle.UnpicklingError(msg)
    return values


def read_label_pickle(path: Path) -> dict[str, Any]:
    """Read what `label_pickle` wrote, arrays as lists. Raises `UsageError`; no other pickle is obeyed."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LABEL_BYTES + 1)
        _check_opcodes(data)
        labels = _RowUnpickler(io.BytesIO(data), encoding="utf-8").load()  # its opcodes were looked at
    except (OSError, ValueError, pickle.UnpicklingError, TypeError, LookupError, AttributeError, EOFError) as error:
        msg = f"{path} is no dictionary of labels that vadx wrote ({error}), and no other is unpickled; export again"
        raise UsageError(msg) from error
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels):
        msg = f"{path} is no dictionary of labels; export again"
        raise UsageError(msg)
    return labels


def _check_opcodes(data: bytes) -> None:
    for opcode, argument in pickle_opcodes(data):
        if opcode not in _ROW_OPCODES or (opcode == "GLOBAL" and argument != _ROW):
            msg = f"it holds the opcode {opcode} {argument!r:.100}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class VideoFolders:
    """``<data set>/features_video/i3d/<modality>/<video>/feature.npy``, with labels of all videos.

    ``homes``: data set -> its folder. ``is_lad``: labels as LAD2000's code takes them, ``(1, frame)`` arrays and
    numbers of classes, in place of AR-Net's rows and ``[1.0]``.
    """

    homes: Mapping[str, str]
    is_lad: bool
    crops: Mapping[str, Crops] = field(default_factory=lambda: {OWN: ONE_CROP})

    def home(self, data_set: str) -> str:
        return self.homes.get(data_set, self.homes[OWN])

    def place(self, video: MarkedVideo, data_set: str) -> str:
        modality = "combine" if video.dim == 2048 else "rgb"
        return f"{self.home(data_set)}/features_video/i3d/{modality}/{video.name}/feature.npy"

    def labels(self, data_set: str) -> tuple[str, str]:
        """Give the files of frame labels and of video labels."""
        ending = "_IET" if self.is_lad else ""
        home = self.home(data_set)
        return f"{home}/GT/frame_label{ending}.pickle", f"{home}/GT/video_label{ending}.pickle"

    def write(self, export: Export) -> None:
        data_set = export.marker.data_set
        for video in export.marker.videos:
            export.put(self.place(video, data_set), npy_bytes(export.values(video)[:, 0]))
        for split, relative in (("train", export.files.train), ("test", export.files.test)):
            export.put_lines(relative, [video.name for video in export.of(split)])
        frames, videos = self.labels(data_set)
        rows = {video.name: self._frame_labels(video) for video in export.marker.videos}
        export.put(frames, label_pickle(rows))
        unknown = sum(video.label == 1 and not len(video.spans) for video in export.marker.videos)
        if self.is_lad and unknown:
            export.notes.append(f"{unknown} anomalous videos have no spans: all of their frames are called anomalous")
        export.put(videos, label_pickle(self._video_labels(export)))

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        if marker is not None:
            for video in marker.videos:
                path = folder / self.place(video, marker.data_set)
                yield Place(video.id, (path,), partial(_values, path), video)
            return
        for path in walk(folder, "feature.npy", skip):
            if path.name == "feature.npy":
                yield Place(path.parent.name, (path,), partial(_values, path))

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        frames, videos = (read_label_pickle(folder / relative) for relative in self.labels(marker.data_set))
        known = marker.by_name()
        for split, relative in (("train", files.train), ("test", files.test)):
            for name in read_list(folder, relative):
                if name not in known or name not in frames or name not in videos:
                    msg = f"{relative} names {name!r:.200}, of which there are no features or no labels; export again"
                    raise UsageError(msg)
                row = frames[name][0] if self.is_lad else frames[name]
                label = int(any(row)) if self.is_lad else int(videos[name] == [1.0])
                values = _values(folder / self.place(known[name], marker.data_set))
                if split == "test" and len(row) < 16 * len(values):
                    msg = f"{name!r} has {len(values)} clips and labels of {len(row)} frames; export again"
                    raise UsageError(msg)
                yield Seen(split, name, label, *values.shape)

    def _frame_labels(self, video: MarkedVideo) -> NDArray[np.float64]:
        num_frames = max(video.num_frames, 16 * video.num_rows if video.split != "test" else 0)
        row = frame_truth(np.array(video.spans, np.int64).reshape(-1, 2), num_frames).astype(np.float64)
        if self.is_lad and video.label and not len(video.spans):
            # Its loader takes a training video for anomalous if one of its frames is.
            row[:] = 1
        return row[np.newaxis] if self.is_lad else row

    def _video_labels(self, export: Export) -> dict[str, Any]:
        if not self.is_lad:
            return {video.name: [float(video.label)] for video in export.marker.videos}
        kinds = {video.name: _kind(video) for video in export.marker.videos}
        numbers = {kind: number for number, kind in enumerate(sorted(set(kinds.values())))}
        export.notes.append(f"classes are numbered in alphabetical order: {', '.join(numbers)}")
        return {name: numbers[kind] for name, kind in kinds.items()}


def _kind(video: MarkedVideo) -> str:
    # In LAD2000 a normal video belongs to the class whose scene it shows.
    match = _LAD_NAME.match(video.name)
    return match["kind"] if match else video.class_name or "Normal"


def _values(path: Path) -> NDArray[np.float32]:
    return feature_array(read_npy(path), str(path), axes=(2,))[:, np.newaxis]
