"""HDF5 files with one data set a video: WSAL and MIST. The only module of layouts that opens HDF5."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ...errors import ShardError, StoreWriteError, UsageError
from ..frame_truth import frame_truth
from ..guarded_file import HDF5_ERRORS
from ..publish import preallocate, temporary_name, write_error
from ..shard import MEMORY_IMAGE_BYTES, checked_dataset
from .export import TMP, Export
from .files import npy_bytes
from .lists import read_list, sultani_annotation
from .marker import MarkedVideo, Marker
from .model import ONE_CROP, OWN, Crops, Files, Place, Seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_OVERHEAD_BYTES = 4 << 20
_OVERHEAD_PER_VIDEO = 4096


class _Reserved(io.RawIOBase):
    """A file whose room on disk was reserved before HDF5 sees it: what HDF5 writes always fits.

    HDF5 crashes the process where the disk is full, and truncates what it creates, which would give the room back.
    To HDF5 the file is as long as it has written.
    """

    def __init__(self, path: Path, num_bytes: int) -> None:
        super().__init__()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._at = 0
        self.length = 0
        with ExitStack() as on_error:
            on_error.callback(os.close, self._file)
            preallocate(self._file, num_bytes)
            on_error.pop_all()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self.length)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._file, min(len(view), max(0, self.length - self._at)), self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            written += os.pwrite(self._file, view[written:], self._at + written)
        self._at += written
        self.length = max(self.length, self._at)
        return written

    def truncate(self, size: int | None = None) -> int:
        self.length = self._at if size is None else size
        return self.length

    def close(self) -> None:
        if not self.closed:
            os.ftruncate(self._file, self.length)
            os.close(self._file)
        super().close()


def put_videos(export: Export, relative: str, videos: Sequence[MarkedVideo], ending: str) -> None:
    """Write one HDF5 file with a data set ``<name><ending> (clip, feature)`` for each video.

    Raises
    ------
    StoreWriteError
        if the disk refused.
    """
    needed = sum(video.num_rows * video.dim * 4 for video in videos) + _OVERHEAD_BYTES
    needed += _OVERHEAD_PER_VIDEO * len(videos)
    if needed <= MEMORY_IMAGE_BYTES:
        image = io.BytesIO()
        _fill(image, export, videos, ending)
        export.put(relative, image.getbuffer())
        return
    temporary = temporary_name(export.folder / TMP, Path(relative).name)
    try:
        with _Reserved(temporary, needed) as file:
            _fill(file, export, videos, ending)
        export.put_file(relative, temporary)
    except StoreWriteError:
        raise
    except OSError as error:
        raise write_error(error, export.folder / relative, needed) from error
    finally:
        temporary.unlink(missing_ok=True)


def _fill(image: io.BytesIO | _Reserved, export: Export, videos: Sequence[MarkedVideo], ending: str) -> None:
    with h5py.File(image, "w", libver=("v110", "v110")) as file:
        for video in videos:
            file.create_dataset(f"{video.name}{ending}", data=export.values(video)[:, 0], track_times=False)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file that anybody may have made. Raises `UsageError` for whatever HDF5 or its content raises."""
    if not path.is_file():
        # HDF5 would wait for ever for somebody to write into a FIFO.
        msg = f"{path} is no file; check which layout this folder has"
        raise UsageError(msg)
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except UsageError:
        raise
    except ShardError as error:
        msg = f"{path}: {error.evidence}; copy the file again, or check which layout this folder has"
        raise UsageError(msg) from error
    except HDF5_ERRORS as error:
        msg = f"{path} is no HDF5 file of features, or a damaged one; copy it again"
        raise UsageError(msg) from error


def video_names(path: Path) -> list[str]:
    """Give the names of the data sets of a file."""
    with opened(path) as file:
        return list(file)


def read_video(path: Path, name: str) -> NDArray[np.float32]:
    """Read the features of one video, ``(clip, 1, feature)``. Links, external storage and other types are refused."""
    with opened(path) as file:
        dataset = checked_dataset(path, file, name, kind="f", num_axes=2)
        return np.asarray(dataset[()], np.float32)[:, np.newaxis]


def _all_places(paths: Sequence[Path], ending: str) -> Iterator[Place]:
    for path in paths:
        try:
            names = video_names(path)
        except UsageError:
            # Nobody knows which videos it held: the file stands for them, and its failure for theirs.
            yield Place(path.stem, (path,), partial(read_video, path, ""))
            continue
        yield from (_place(name.removesuffix(ending), path, name) for name in names)


def _place(identifier: str, path: Path, name: str, marked: MarkedVideo | None = None) -> Place:
    return Place(identifier, (path,), partial(read_video, path, name), marked)


@dataclass(frozen=True, slots=True)
class Wsal:
    """A file for each split, and a mask file that scripts open and never use."""

    train: str = "gcn_feas.hdf5"
    test: str = "gcn_test.hdf5"
    mask: str = "gcn_mask.hdf5"
    annotation: str = "Temporal_Anomaly_Annotation.txt"
    crops: Mapping[str, Crops] = field(default_factory=lambda: {OWN: ONE_CROP})

    def write(self, export: Export) -> None:
        train, test = export.of("train"), export.of("test")
        put_videos(export, self.train, train, "")
        put_videos(export, self.test, test, "")
        put_videos(export, self.mask, (), "")
        export.put_lines(export.files.train, [f"{video.folder}/{video.name}.mp4" for video in train])
        export.put_lines(export.files.test, [f"{video.folder}/{video.name} {video.num_frames}" for video in test])
        export.put_lines(self.annotation, [sultani_annotation(video) for video in test])
        if "var" in export.marker.prefix:
            export.notes.append(
                f"{export.marker.prefix} holds 'var', which makes WSAL's dataset.py cut the names of "
                f"{export.files.train} wrongly: move that list to a path without it"
            )

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        if marker is None:
            paths = [*folder.glob("*.hdf5"), *folder.glob("*.h5")]
            yield from _all_places(sorted(path for path in paths if path.name not in {self.mask, *skip}), "")
            return
        for video in marker.videos:
            path = folder / (self.test if video.split == "test" else self.train)
            yield _place(video.id, path, video.name, video)

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        with opened(folder / self.mask):
            pass
        for line in read_list(folder, files.train):
            name = line.strip().split("/")[-1][:-4]
            yield _seen("train", name, int("Normal" not in name), read_video(folder / self.train, name))
        for line in read_list(folder, files.test):
            name = line.strip().split("/")[-1].split(" ")[0]
            yield _seen("test", name, int("Normal" not in name), read_video(folder / self.test, name))


@dataclass(frozen=True, slots=True)
class Mist:
    """One file for both splits, whose data sets are named ``<video>.npy``, and lists with labels and frame counts."""

    features: str = "SHT_I3D.h5"
    masks: str = "test_frame_mask"
    crops: Mapping[str, Crops] = field(default_factory=lambda: {OWN: ONE_CROP})

    def write(self, export: Export) -> None:
        put_videos(export, self.features, export.marker.videos, ".npy")
        export.put_lines(export.files.train, [f"{video.name},{video.label}" for video in export.of("train")])
        lines = []
        for video in export.of("test"):
            # Anomalous videos have no count: their masks are as long as they are.
            lines.append(f"{video.name},{video.label},{-1 if video.label else video.num_frames}")
            if video.label:
                export.put(f"{self.masks}/{video.name}.npy", _mask(video))
        export.put_lines(export.files.test, lines)

    def places(self, folder: Path, marker: Marker | None, skip: Set[str]) -> Iterator[Place]:
        if marker is None:
            yield from _all_places(sorted(path for path in folder.glob("*.h5") if path.name not in skip), ".npy")
            return
        for video in marker.videos:
            yield _place(video.id, folder / self.features, f"{video.name}.npy", video)

    def look(self, folder: Path, marker: Marker, files: Files) -> Iterator[Seen]:
        for split, relative in (("train", files.train), ("test", files.test)):
            for line in read_list(folder, relative):
                name, label = line.split(",")[:2]
                yield _seen(split, name, int(label == "1"), read_video(folder / self.features, f"{name}.npy"))


def _mask(video: MarkedVideo) -> bytes:

    return npy_bytes(frame_truth(np.array(video.spans, np.int64).reshape(-1, 2), video.num_frames))


def _seen(split: str, name: str, label: int, values: NDArray[np.float32]) -> Seen:
    return Seen(split, name, label, *values.shape)
