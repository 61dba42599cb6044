"""A data set of drawn scenes as files: videos, their manifest, the boxes of what is anomalous, and detections.

===================  ===================================================================================================
``videos/``          ``train/`` and ``test/``, H.264 in MP4
``manifest.csv``     as `features.manifest` reads it; ids are paths below ``videos/``
``boxes.csv``        as `features.box_annotations` reads it: a box around what is anomalous, in each anomalous frame
``detections/``      a CSV a video, as ``vadx tubes --detections`` reads it: all that moves, with a detector's errors
``scenes.json``      from which settings and seed they were drawn
===================  ===================================================================================================
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..features.box_annotations import write_box_csv
from ..features.manifest import ManifestEntry, write_manifest
from ..features.publish import make_directory, publish_bytes
from .scene_actors import ANOMALIES
from .scenes import DetectorErrors, Scene, SceneSettings, make_scene

if TYPE_CHECKING:
    from ..detectors.detections import Detections

VIDEOS, MANIFEST, BOXES, DETECTIONS, SETTINGS = "videos", "manifest.csv", "boxes.csv", "detections", "scenes.json"

DRAWING = 1
"""It changes when the same settings give other pictures."""

_ENCODER = {"preset": "veryfast", "crf": "23", "x264-params": "cpu-independent=1"}
"""Otherwise x264 chooses by the CPU, and even by how memory happens to be aligned, and makes other bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSet:
    """How many scenes of each split, half of them anomalous, of all kinds in turn; how they are drawn; what a detector
    gets wrong in them.

    Raises
    ------
    UsageError
        if a number is odd, or a split has none.
    """

    num_train: int = 60
    num_test: int = 40
    seed: int = 0
    scenes: SceneSettings = field(default_factory=SceneSettings)
    errors: DetectorErrors = field(default_factory=DetectorErrors)

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_test) < 2 or self.num_train % 2 or self.num_test % 2 or self.seed < 0:
            msg = (
                f"{self.num_train} training and {self.num_test} test videos with the seed {self.seed}: half of each "
                "are anomalous, so give even numbers from 2 on, and a seed from 0 on"
            )
            raise UsageError(msg)

    def record(self) -> dict[str, Any]:
        """Give what the files follow from, as plain values."""
        scenes = {**dataclasses.asdict(self.scenes), "rate": str(self.scenes.rate)}
        errors = dataclasses.asdict(self.errors)
        numbers = {"num_train": self.num_train, "num_test": self.num_test, "seed": self.seed}
        return {"drawing": DRAWING, **numbers, "scenes": scenes, "errors": errors}

    def videos(self) -> Iterator[PlannedScene]:
        """Give what is to be drawn, normal scenes and anomalous ones in turn."""
        kinds = list(ANOMALIES)
        for half, (split, number) in enumerate((("train", self.num_train), ("test", self.num_test))):
            for place in range(number):
                kind = kinds[place // 2 % len(kinds)] if place % 2 else None
                seed = int(np.random.SeedSequence((self.seed, half, place)).generate_state(1)[0])
                yield PlannedScene(f"{split}/{place:03d}-{kind or 'normal'}", split, kind, seed)


@dataclass(frozen=True, slots=True)
class PlannedScene:
    """A video that is to be: its id, split, kind of anomaly and the seed of its scene."""

    id: str
    split: str
    kind: str | None
    seed: int


def write_scenes(folder: Path, scene_set: SceneSet, *, tell: Callable[[str], None] = lambda identifier: None) -> Path:
    """Write a data set into ``folder``, unless it stands there; gives its manifest. ``tell`` gets each video's id.

    One that was cut short goes on. Every file appears when it is whole, the manifest last.

    Raises
    ------
    UsageError
        if scenes of other settings stand there, or FFmpeg has no H.264 encoder.
    StoreWriteError
        if the disk refused.
    """
    make_directory(folder)
    record = json.dumps(scene_set.record(), indent=1) + "\n"
    settings, manifest = folder / SETTINGS, folder / MANIFEST
    if settings.exists() and settings.read_text() != record:
        msg = f"{settings}: scenes of other settings stand there; give another folder, or remove {folder}"
        raise UsageError(msg)
    if manifest.exists():
        return manifest
    publish_bytes(record.encode(), settings, folder, replace=True)
    entries, truths = [], {}
    for planned in scene_set.videos():
        scene = make_scene(scene_set.scenes, planned.seed, planned.kind)
        video, detections = (folder / kind / planned.id for kind in (VIDEOS, DETECTIONS))
        for path in (video, detections):
            make_directory(path.parent)
        path = video.with_name(f"{video.name}.mp4")
        if not path.exists():
            tell(planned.id)
            publish_bytes(encoded(scene), path, path.parent)
        found = scene.detections(scene_set.errors, planned.seed)
        target = detections.with_name(f"{detections.name}.csv")
        publish_bytes(_detections_csv(found).encode(), target, target.parent, replace=True)
        if planned.kind is not None:
            truths[planned.id] = scene.truth()
        entries.append(
            ManifestEntry(
                planned.id,
                f"{planned.id}.mp4",
                int(planned.kind is not None),
                scene.class_name,
                planned.split,
                scene.spans(),
                scene.num_frames,
            )
        )
    write_box_csv(folder / BOXES, truths)
    write_manifest(manifest, entries)
    return manifest


def encoded(scene: Scene) -> bytes:
    """Give a scene as H.264 in MP4: the same bytes each time, on one machine.

    Raises
    ------
    UsageError
        if FFmpeg has no H.264 encoder.
    """
    import av
    from av.codec.codec import UnknownCodecError
    from av.video.reformatter import VideoReformatter

    width, height, rate = scene.settings.width, scene.settings.height, scene.settings.rate
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        try:
            stream = container.add_stream("libx264", rate=rate, options=_ENCODER)
        except UnknownCodecError as error:
            msg = "this PyAV has no H.264 encoder, which scenes are written with: install its own wheel, pip install av"
            raise UsageError(msg) from error
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One thread each, so that no race of threads decides what is encoded.
        stream.codec_context.thread_count = 1
        reformatter = VideoReformatter()
        for number, picture in enumerate(scene.frames()):
            # Into a frame of FFmpeg's own: from `from_ndarray`'s frames the encoder made other bytes each time.
            frame = av.VideoFrame(width, height, "rgb24")
            _fill(frame, picture)
            yuv = reformatter.reformat(frame, format="yuv420p", threads=1)
            yuv.pts = number
            yuv.time_base = 1 / rate
            container.mux(stream.encode(yuv))
        container.mux(stream.encode())
    return file.getvalue()


def _fill(frame: Any, picture: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Copy pixels into a frame, whose rows may be longer than the picture's."""
    plane = frame.planes[0]
    rows = np.zeros((picture.shape[0], plane.line_size), np.uint8)
    rows[:, : 3 * picture.shape[1]] = picture.reshape(picture.shape[0], -1)
    plane.update(rows.tobytes())


def _detections_csv(found: Detections) -> str:
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(("frame", "x1", "y1", "x2", "y2", "score", "label"))
    for frame, box, score, label in zip(found.frame_index, found.boxes, found.scores, found.labels, strict=True):
        lines.writerow([int(frame), *(f"{value:.3f}" for value in box.tolist()), f"{score:.4f}", int(label)])
    return file.getvalue()
