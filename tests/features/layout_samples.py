"""Small data sets whose names say what the field's names say, for tests of layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vadx.features.frame_truth import CLIP_COUNTS, TARGETS
from vadx.features.layouts import OWN, export_layout, find_layout
from vadx.features.manifest import Manifest, ManifestEntry
from vadx.features.timeline import ClipFeatures, VideoFacts

Row = tuple[str, int, str, list[tuple[int, int]], int]
"""Id, label, split, spans, frames."""

UCF: Sequence[Row] = (
    ("Abuse/Abuse001_x264", 1, "train", [], 83),
    ("Training_Normal_Videos_Anomaly/Normal_Videos001_x264", 0, "train", [], 65),
    ("Arson/Arson002_x264", 1, "train", [], 49),
    ("Abuse/Abuse028_x264", 1, "test", [(20, 40), (50, 60)], 96),
    ("Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264", 0, "test", [], 40),
    ("Arson/Arson007_x264", 1, "test", [(5, 36)], 47),
)
"""The frames of the first test video are a multiple of 16, where the tails differ."""

XD: Sequence[Row] = (
    ("Black.Hawk__#00-01_label_A", 0, "train", [], 50),
    ("v=abc__#1_label_B1-0-0", 1, "train", [], 70),
    ("Bad.Boys__#2_label_G-B2-B6", 1, "train", [], 34),
    ("v=def__#1_label_A", 0, "test", [], 33),
    ("v=ghi__#1_label_B4-0-0", 1, "test", [(10, 30)], 97),
)

SHT: Sequence[Row] = (
    ("01_001", 0, "train", [], 50),
    ("01_0014", 1, "train", [], 64),
    ("02_002", 0, "test", [], 40),
    ("01_0015", 1, "test", [(30, 64)], 64),
)


ROWS: Mapping[str, Sequence[Row]] = {"ucf-crime": UCF, "xd-violence": XD, "shanghaitech": SHT, "lad": UCF, OWN: UCF}


def manifest_of(rows: Sequence[Row]) -> Manifest:
    entries = []
    for identifier, label, split, spans, num_frames in rows:
        kind = identifier.split("/")[0] if label and "/" in identifier else "Fighting" if label else ""
        array = np.array(spans, np.int64).reshape(-1, 2)
        entries.append(ManifestEntry(identifier, "", label, kind, split, array, num_frames))
    return Manifest(tuple(entries))


def features_of(
    rows: Sequence[Row], *, tail: str = "ceil", num_crops: int = 10, dim: int = 6
) -> Mapping[str, ClipFeatures]:
    """Make features that differ in every number, in the order of ids, as a feature set has them."""
    found = {}
    for number, (identifier, _, _, _, num_frames) in enumerate(rows):
        num_clips = CLIP_COUNTS[tail](num_frames)
        random = np.random.default_rng(number)
        starts = 16 * np.arange(num_clips, dtype=np.int64)
        frames = np.stack([starts, np.minimum(starts + 16, max(num_frames, 1))], axis=1)
        found[identifier] = ClipFeatures(
            values=random.standard_normal((num_clips, num_crops, dim)).astype(np.float32),
            frames=frames,
            seconds=frames / 25.0,
            damaged=np.zeros(num_clips, bool),
            facts=VideoFacts(fps=25.0, num_frames_decoded=num_frames, width=320, height=240),
        )
    return dict(sorted(found.items()))


def changed(rows: Sequence[Row], at: int, **values: Any) -> Manifest:
    entries = list(manifest_of(rows))
    entries[at] = replace(entries[at], **values)
    return Manifest(tuple(entries))


def setting(name: str, data_set: str, *, tail: str = "") -> tuple[Manifest, Mapping[str, ClipFeatures], dict[str, Any]]:
    """Give a data set whose features fit a target, and what its export needs beside them."""
    layout, files = find_layout(name, data_set)
    rows = ROWS[data_set]
    target = TARGETS.get(files.target or "")
    rule = tail or (target.clip_count if target else None) or files.at_most or "ceil"
    nums = layout.family.crops.get(data_set, layout.family.crops[OWN]).nums
    features = features_of(rows, tail=rule, num_crops=nums[0] if nums else 3)
    # As OpenCV would count them, were every header right.
    counts = {row[0]: row[4] for row in rows} if target and target.frames != "decoded" else None
    return manifest_of(rows), features, {"data_set": data_set, "counts": counts}


def exported(folder: Path, name: str, data_set: str = OWN, **more: Any) -> Mapping[str, ClipFeatures]:
    manifest, features, options = setting(name, data_set)
    export_layout(name, manifest, features, folder, **{**options, **more})
    return features


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()
