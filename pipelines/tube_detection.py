"""One video's detections: by a detector, or out of another program's file; what is finished outlives a kill."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..detectors.detection_files import DETECTION_FORMATS, MAX_FILE_BYTES, read_detections
from ..detectors.detector import DEFAULT_SCORE_THRESHOLD, FrameBoxes
from ..errors import CODES, NoInputError, UsageError, VideoError
from ..features.checkpoint import Checkpoint
from ..features.keys import key_of
from ..features.shard_set import PARTIAL_CODES
from .tube_shards import detection_arrays, facts_mapping
from .worker_reports import length_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..detectors.detections import Detections
    from ..detectors.loading import NetworkDetector
    from ..extract.isolate import Decoders
    from ..extract.video import FrameBlock
    from .extraction import Effort, Ticker
    from .inputs import Entry
    from .source import Source

CHECKPOINT_SAMPLES = 64
"""Frames that a detector looks at between two checkpoints, about: what a kill costs."""


@dataclass(frozen=True, slots=True)
class DetectorChoice:
    """A detector with its settings, by name; see `detectors.loading.load_detector`."""

    name: str
    weights: str | None = None
    device: str = "cpu"
    precision: str = "fp32"
    batch: int | None = None
    score_threshold: float = DEFAULT_SCORE_THRESHOLD
    classes: tuple[str, ...] | None = None
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    min_size: int | None = None
    proposals: int | None = None

    def load(self) -> NetworkDetector:
        """Give this process's detector of this choice, loaded once."""
        from ..detectors.loading import load_detector

        if self not in _detectors:
            _detectors.clear()
            _detectors[self] = load_detector(
                self.name,
                self.weights,
                device=self.device,
                precision=self.precision,
                batch=self.batch,
                score_threshold=self.score_threshold,
                classes=self.classes,
                groups=dict(self.groups) or None,
                min_size=self.min_size,
                proposals=self.proposals,
            )
        return _detectors[self]


_detectors: dict[DetectorChoice, NetworkDetector] = {}


@dataclass(frozen=True, slots=True)
class DetectionFiles:
    """Files of another program's detections: one for the one video of the run, or a folder with one an id.

    ``format``, ``first_frame`` and ``images`` are those of `read_detections`.
    """

    path: Path
    format: str | None = None
    first_frame: int | None = None
    images: Path | None = None

    def file_of(self, identifier: str) -> Path:
        """Give the file of a video. Raises `NoInputError` if there is none."""
        if not self.path.is_dir():
            return self.path
        suffixes = [kind.suffix for name, kind in DETECTION_FORMATS.items() if self.format in (None, name)]
        for suffix in suffixes:
            found = self.path / f"{identifier}{suffix}"
            if found.is_file():
                return found
        msg = f"there are no detections of {identifier} in {self.path}: add {identifier}{suffixes[0]} there"
        raise NoInputError(msg)

    def source_sha256(self, identifier: str, video_sha256: str) -> str:
        """Give the sha256 that stands for a video and its file together. Raises `VideoError` if there is no file."""
        digest = hashlib.sha256(video_sha256.encode())
        try:
            path = self.file_of(identifier)
            for one in (path, *([self.images] if self.images is not None else [])):
                if one.stat().st_size > MAX_FILE_BYTES:
                    msg = f"{one}: more than {MAX_FILE_BYTES} bytes"
                    raise UsageError(msg)
                digest.update(one.read_bytes())
        except (OSError, UsageError) as error:
            raise VideoError("DETECTIONS_UNREADABLE", identifier, _reason(error)) from error
        return digest.hexdigest()

    def read(self, identifier: str, stride: int) -> Detections:
        """Read a video's detections.

        Raises
        ------
        VideoError
            if there is no such file, or it is not what it should be.
        """
        try:
            return read_detections(
                self.file_of(identifier),
                format=self.format,
                stride=stride,
                first_frame=self.first_frame,
                images=self.images,
            )
        except (OSError, UsageError) as error:
            raise VideoError("DETECTIONS_UNREADABLE", identifier, _reason(error)) from error


def _reason(error: OSError | UsageError) -> str:
    # The system's own errors repeat the path in a form of Python's.
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True, slots=True)
class DetectionWork:
    """Where detections come from, and which frames are looked at: every ``stride``-th, from the first."""

    detector: DetectorChoice | None = None
    files: DetectionFiles | None = None
    stride: int = 1

    @property
    def is_from_file(self) -> bool:
        return self.files is not None

    def __post_init__(self) -> None:
        if (self.detector is None) == (self.files is None):
            msg = "detections come from a detector or from files: give one of them"
            raise UsageError(msg)


class _Finder(Protocol):
    """Finds boxes in frames whose numbers are known."""

    @property
    def batch(self) -> int: ...

    @property
    def categories(self) -> Mapping[int, str]: ...

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    def find(self, numbers: list[int], frames: NDArray[np.uint8]) -> list[FrameBoxes]: ...


@dataclass(frozen=True, slots=True)
class _ByNetwork:
    detector: NetworkDetector

    @property
    def batch(self) -> int:
        return self.detector.batch

    @property
    def categories(self) -> Mapping[int, str]:
        return self.detector.categories

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.detector.provenance

    def find(self, _numbers: list[int], frames: NDArray[np.uint8]) -> list[FrameBoxes]:
        return self.detector.detect(frames)


class _FromFile:
    """Boxes of a file, frame by frame. Their scores and sizes are taken as they stand."""

    batch = 1
    provenance: Mapping[str, Any] = {}

    def __init__(self, found: Detections) -> None:
        from ..detectors.coco_names import label_name

        self.num_frames = found.num_frames
        order = np.argsort(found.frame_index, kind="stable")
        self._frames = found.frame_index[order]
        self._boxes, self._scores, self._labels = found.boxes[order], found.scores[order], found.labels[order]
        self.categories: Mapping[int, str] = {label: label_name(label) for label in np.unique(self._labels).tolist()}

    def find(self, numbers: list[int], _frames: NDArray[np.uint8]) -> list[FrameBoxes]:
        found = []
        for number in numbers:
            rows = slice(*np.searchsorted(self._frames, [number, number + 1]).tolist())
            found.append(FrameBoxes(self._boxes[rows], self._scores[rows], self._labels[rows]))
        return found


@dataclass(frozen=True, slots=True)
class FoundDetections:
    """A video's detections as they are stored. ``made_from`` is the sha256 of the video, or of it with its file of
    boxes; ``done`` lets go of what was kept for a resumption.
    """

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]
    made_from: str
    done: Callable[[], None] = field(repr=False)


def blocks_of(
    entry: Entry,
    decoders: Decoders,
    *,
    strict: bool,
    allow_partial: bool,
    on_frames: Ticker | None,
    check: Callable[[], None],
    effort: Effort,
    facts: list[Any] | None = None,
) -> Iterator[FrameBlock]:
    """Decode a video, telling a person how far it is, and looking for signals between blocks.

    The facts of the whole video are put into ``facts`` at its end.
    """
    reader = decoders.open(entry.path, strict=strict, allow_partial=allow_partial)
    try:
        blocks = iter(reader)
        while True:
            check()
            began = time.perf_counter()
            block = next(blocks, None)
            effort.waited_for_frames += time.perf_counter() - began
            if block is None:
                break
            yield block
            if on_frames is not None:
                on_frames(entry, block.start + len(block.frames), length_of(reader.info))
        if facts is not None:
            facts.append(reader.facts())
    finally:
        reader.close()


def detect_video(
    entry: Entry,
    source: Source,
    work: DetectionWork,
    *,
    tmp: Path,
    recipe_digest: str,
    strict: bool,
    allow_partial: bool,
    decoders: Decoders,
    on_frames: Ticker | None,
    check: Callable[[], None],
    effort: Effort,
) -> FoundDetections:
    """Find the boxes of every ``work.stride``-th frame of a video.

    What is found is kept in ``tmp`` about every `CHECKPOINT_SAMPLES` frames, and not looked for again after a kill; the
    video is decoded from its start all the same. Frames share batches as they would without the kill, so the result is
    the same to the last bit.

    Raises
    ------
    VideoError
        if the video cannot be used, or the detections' file.
    StoreWriteError
        if the disk refused.
    """
    video_sha256 = source.sha256()
    # Before the file is read: if it changes meanwhile, the digest after it is another.
    made_from = work.files.source_sha256(entry.id, video_sha256) if work.files else video_sha256
    finder: _Finder = _FromFile(work.files.read(entry.id, work.stride)) if work.files else _ByNetwork(_loaded(work))
    identity = {"recipe": recipe_digest, "source": made_from, "provenance": dict(finder.provenance)}
    seen: list[Any] = []
    with Checkpoint(tmp, key_of(entry.id), identity) as kept:
        looker = _Looker(finder, work.stride, kept, effort)
        try:
            for block in blocks_of(
                entry,
                decoders,
                strict=strict,
                allow_partial=allow_partial,
                on_frames=on_frames,
                check=check,
                effort=effort,
                facts=seen,
            ):
                looker.take(block.start, block.frames)
        except VideoError as error:
            if not (CODES[error.code].retriable or error.code in PARTIAL_CODES):
                kept.remove()
            raise
        looker.finish()
        source.check_unchanged()
        if work.files and work.files.source_sha256(entry.id, video_sha256) != made_from:
            raise VideoError("DETECTIONS_UNREADABLE", entry.id, "their file changed while it was read")
        (video,) = seen
        if isinstance(finder, _FromFile) and finder.num_frames > video.num_frames_decoded:
            evidence = f"its file has boxes in frame {finder.num_frames - 1} of {video.num_frames_decoded} frames"
            raise VideoError("DETECTIONS_UNREADABLE", entry.id, evidence)
        facts = {
            "video": facts_mapping(video),
            "source_sha256": video_sha256,
            "stride": work.stride,
            "categories": {str(label): name for label, name in finder.categories.items()},
            "provenance": {**finder.provenance, **_versions()},
        }
        return FoundDetections(detection_arrays(**_columns(kept)), facts, made_from, kept.remove)


def _loaded(work: DetectionWork) -> NetworkDetector:
    if work.detector is None:
        msg = "there is no detector to load"
        raise RuntimeError(msg)
    return work.detector.load()


def _versions() -> dict[str, str]:
    from .job import software_versions

    return software_versions()


def _columns(kept: Checkpoint) -> dict[str, NDArray[Any]]:
    empty: dict[str, NDArray[Any]] = {
        "looked_at": np.zeros(0, np.int64),
        "counts": np.zeros(0, np.int64),
        "boxes": np.zeros((0, 4), np.float32),
        "scores": np.zeros(0, np.float32),
        "labels": np.zeros(0, np.int64),
    }
    return empty | kept.arrays()


class _Looker:
    """Gathers the frames to look at into batches of one size, and keeps what was found in them."""

    def __init__(self, finder: _Finder, stride: int, kept: Checkpoint, effort: Effort) -> None:
        self._finder, self._stride, self._kept, self._effort = finder, stride, kept, effort
        self._first = kept.progress
        self._numbers: list[int] = []
        self._frames: list[NDArray[np.uint8]] = []
        self._found: list[tuple[int, FrameBoxes]] = []
        # A checkpoint between two batches leaves them as they would have been.
        self._block = -(-CHECKPOINT_SAMPLES // finder.batch) * finder.batch

    def take(self, start: int, frames: NDArray[np.uint8]) -> None:
        """Take the next decoded frames, which are valid during this call only."""
        offset = -start % self._stride
        for place in range(offset, len(frames), self._stride):
            if start + place < self._first:
                continue
            if self._frames and self._frames[0].shape != frames.shape[1:]:
                self._look()
            self._numbers.append(start + place)
            self._frames.append(frames[place].copy())
            if len(self._frames) == self._finder.batch:
                self._look()

    def finish(self) -> None:
        """Look at the frames that fill no batch, and keep everything."""
        self._look()
        self._keep()

    def _look(self) -> None:
        if not self._frames:
            return
        began = time.perf_counter()
        found = self._finder.find(self._numbers, np.stack(self._frames))
        self._effort.network_busy += time.perf_counter() - began
        self._found += zip(self._numbers, found, strict=True)
        self._numbers, self._frames = [], []
        if len(self._found) >= self._block:
            self._keep()

    def _keep(self) -> None:
        if not self._found:
            return
        boxes = [one for _, one in self._found]
        block = {
            "looked_at": np.array([number for number, _ in self._found], np.int64),
            "counts": np.array([len(one.scores) for one in boxes], np.int64),
            "boxes": np.concatenate([one.boxes for one in boxes]),
            "scores": np.concatenate([one.scores for one in boxes]),
            "labels": np.concatenate([one.labels for one in boxes]).astype(np.int64),
        }
        self._kept.append(block, self._found[-1][0] + 1)
        self._found = []
