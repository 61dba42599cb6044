"""One ``.npz`` a video, as GCN-Anomaly-Detection's extractors write them."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ..plain_pickle import load_plain_pickle
from .export import Export
from .files import MAX_ARRAY_BYTES, array_of, feature_array, walk
from .lists import read_list
from .marker import MarkedVideo, Marker
from .model import OWN, Crops, Files, Place, Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

STREAMS = ("rgb", "flow", "c3d")
MAX_RATIO = 16
MAX_SMALL_BYTES = 16 << 20
"""Features hardly shrink: what unpacks to over 16 MiB and 16 times its size is no array of them."""

MAX_LIST_BYTES = 64 << 20


def read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read ``scores`` and ``begin_idx`` of an ``.npz``. Raises `UsageError` for anything that is not that."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ("scores", "begin_idx"):
                info = archive.getinfo(f"{name}.npy")
                if info.file_size > min(MAX_ARRAY_BYTES, MAX_RATIO * info.compress_size + MAX_SMALL_BYTES):
                    msg = f"{path}: {name} claims {info.file_size} bytes; copy it again"
                    raise UsageError(msg)
                with archive.open(info) as stream:
                    arrays[name] = array_of(stream, info.file_size, f"{path}: {name}")
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        msg = f"{path} is no archive with the arrays scores and begin_idx ({error}); check which layout this is"
        raise UsageError(msg) from error
    return arrays


@dataclass(frozen=True, slots=True)
class GcnArrays:
    """``features/<video>_<stream>.npz`` with ``scores (clip, crop, feature)`` and ``begin_idx (clip,)``."""

    stream: str = "rgb"
    crops: Mapping[str, Crops] = field(default_factory=lambda: {OWN: Crops((10,), "caffe")})

    def place(self, video: MarkedVideo) -> str:
        return f"features/{video.name}_{self.stream}.npz"

    def write(self, export: Export) -> None:
        for video in export.marker.videos:
            image = BytesIO()
            begin = export.clips(video).frames[: video.num_rows, 0]
            np.savez(image, scores=export.values(video), begin_idx=begin)
            export.put(self.place(video), image.getvalue())
        for split, relative in (("train", export.files.train), ("test", export.files.test)):
            names = [video.name for video in export.of(split)]
            if relative.endswith(".pkl"):
                # Protocol 2 is the newest that Python 2 reads.
                export.put(relative, pickle.dumps(names, protocol=2))
            elif relative:
                export.put_lines(relative, names)

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        if marker is not None:
            for video in marker.videos:
                path = folder / self.place(video)
                yield Place(video.id, (path,), partial(_scores, path), video)
            return
        for path in walk(folder, f"_{self.stream}.npz", skip):
            yield Place(path.name.removesuffix(f"_{self.stream}.npz"), (path,), partial(_scores, path))

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        for split, relative in (("train", files.train), ("test", files.test)):
            if relative.endswith(".pkl"):
                names = _pickled_names(folder / relative)
            else:
                names = read_list(folder, relative) if relative else [video.name for video in marker.of(split)]
            known = {video.name: video for video in marker.of(split)}
            for name in names:
                if name not in known:
                    msg = f"{relative} names {name!r:.200}, which is no video of this export; export again"
                    raise UsageError(msg)
                # Labels are not in these files: its scripts have lists of their own.
                yield Seen(split, name, -1, *_scores(folder / self.place(known[name])).shape)


def _scores(path: Path) -> NDArray[np.float32]:
    arrays = read_npz(path)
    scores = feature_array(arrays["scores"], f"{path}: scores", axes=(3,))
    if arrays["begin_idx"].shape[:1] != scores.shape[:1]:
        msg = f"{path}: scores of {len(scores)} clips and {arrays['begin_idx'].shape} beginnings; copy it again"
        raise UsageError(msg)
    return scores


def _pickled_names(path: Path) -> list[str]:
    with path.open("rb") as file:
        data = file.read(MAX_LIST_BYTES + 1)
    try:
        names = load_plain_pickle(data) if len(data) <= MAX_LIST_BYTES else None
    except ValueError as error:
        msg = f"{path} is no pickled list of names ({error}), and nothing else is unpickled; export again"
        raise UsageError(msg) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        msg = f"{path} is no pickled list of names; export again"
        raise UsageError(msg)
    return names
