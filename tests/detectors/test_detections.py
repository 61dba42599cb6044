"""What detections refuse, and that they cannot be written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from vadx.detectors import Detections
from vadx.detectors.coco_names import CLASS_SETS, COCO_LABELS, COCO_NAMES, class_labels, coco_label, label_name
from vadx.errors import UsageError

BOXES = [[0, 0, 1, 1], [1, 1, 2, 2]]


def made(**other: Any) -> Detections:
    values = {"frame_index": [0, 1], "boxes": BOXES, "scores": [0.5, 0.6], "labels": [1, 2], "num_frames": 2}
    return Detections(**{**values, **other})  # type: ignore[arg-type]  # lists, and things to refuse


def test_lists_are_taken_and_floats_keep_their_width() -> None:
    found = made()
    assert len(found) == 2
    assert (found.frame_index.dtype, found.labels.dtype, found.boxes.dtype) == (np.int64, np.int64, np.float64)
    assert made(boxes=np.array(BOXES, np.float32)).boxes.dtype == np.float32
    assert made(scores=np.array([0.5, 0.25], np.float16)).scores.dtype == np.float32
    assert (found.num_frames, found.stride) == (2, 1)
    assert made(num_frames=np.int64(2)).num_frames == 2
    assert Detections([], [], [], [], 0).boxes.shape == (0, 4)  # type: ignore[arg-type]  # lists are taken too


def test_the_arrays_cannot_be_written_and_the_callers_stay_writable() -> None:
    boxes = np.array(BOXES, np.float32)
    found = made(boxes=boxes)
    assert np.shares_memory(found.boxes, boxes)
    for name in ("frame_index", "boxes", "scores", "labels"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(found, name)[0] = 0
    boxes[0] = 5


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"boxes": [[0, 0, 1], [1, 1, 2]]}, "one row of each per box"),
    ({"boxes": [[0, 0, 1, 1]]}, "one row of each per box"),
    ({"scores": [0.5]}, "one row of each per box"),
    ({"labels": [[1], [2]]}, "one row of each per box"),
    ({"frame_index": [[0, 1]]}, "one row of each per box"),
    ({"frame_index": 0}, "one row of each per box"),
    ({"frame_index": [0.0, 1.0]}, r"give frame_index.astype\(int\)"),
    ({"labels": ["person", "car"]}, r"give labels.astype\(int\)"),
    ({"boxes": [["a"] * 4] * 2}, r"give boxes.astype\(float\)"),
    ({"scores": [1j, 2j]}, r"give scores.astype\(float\)"),
    ({"frame_index": [0, 2]}, r"row 1 lies in frame 2, but .* \[0, 2\): .* num_frames=3"),
    ({"frame_index": [-1, 0]}, "row 0 lies in frame -1"),
    ({"stride": 2}, "row 1 lies in frame 1, which is no multiple of the stride 2: .*stride=1"),
    ({"stride": 0}, "stride=0"),
    ({"num_frames": -1}, "num_frames=-1"),
    ({"num_frames": 2**31}, "0 to 2147483647 frames"),
    ({"num_frames": 2.0}, r"give num_frames=int\(...\)"),
    ({"stride": None}, r"give stride=int\(...\)"),
]


@pytest.mark.parametrize(("other", "message"), REFUSED, ids=str)
def test_contradictions_are_refused_with_what_to_give(other: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        made(**other)
    assert ": " in str(caught.value)


def test_the_categories_are_torchvisions() -> None:
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    known = {label: name for label, name in enumerate(names) if name not in ("__background__", "N/A")}
    assert known == dict(COCO_NAMES)
    assert len(COCO_LABELS) == 80


def test_categories_by_name() -> None:
    assert (coco_label("person"), coco_label(" Cell_Phone"), coco_label("cell-phone")) == (1, 77, 77)
    assert (label_name(3), label_name(12), label_name(-1)) == ("car", "12", "-1")
    with pytest.raises(UsageError, match="did you mean 'person'"):
        coco_label("persn")
    with pytest.raises(UsageError, match="give one of person, bicycle"):
        coco_label("Zylinder")
    assert class_labels("person, cell_phone,car") == (1, 3, 77)
    for name, names in CLASS_SETS.items():
        assert class_labels(name) == tuple(sorted(COCO_LABELS[own] for own in names))
    assert class_labels("all") == tuple(COCO_NAMES)
    for wrong in ("", "person,", "everything"):
        with pytest.raises(UsageError, match="COCO has no category"):
            class_labels(wrong)
