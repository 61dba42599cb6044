"""Detections from other programs' files, and tubes to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vadx.detectors import Tube, multivariate_tubes, unary_tubes
from vadx.detectors.detection_files import DETECTION_FORMATS, read_detections
from vadx.detectors.tube_files import CSV_HEADER, TUBE_FORMATS, tube_lines, write_tubes
from vadx.errors import NoInputError, UsageError

from .samples import Detections, detections, moving_detections


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def as_rows(found: Detections) -> list[tuple[int, list[float], float, int]]:
    return [
        (int(f), b.tolist(), float(s), int(c))
        for f, b, s, c in zip(found.frame_index, found.boxes, found.scores, found.labels, strict=True)
    ]


# ---- reading ----


@pytest.mark.parametrize("separator", [",", " ", ", "])
def test_mot_counts_frames_and_pixels_from_one(tmp_path: Path, separator: str) -> None:
    lines = [
        ("1", "-1", "1", "1", "10", "20", "0.5", "-1", "-1", "-1"),
        ("3", "-1", "5.5", "7", "2", "2", "-1", "-1", "-1", "-1"),
    ]
    path = written(tmp_path / "det.txt", "\n".join(map(separator.join, lines)))
    found = read_detections(path)
    assert as_rows(found) == [(0, [0, 0, 10, 20], 0.5, 1), (2, [4.5, 6, 6.5, 8], -1, 1)]
    assert (found.num_frames, found.stride) == (3, 1)
    assert read_detections(path, num_frames=50).num_frames == 50
    assert read_detections(path, stride=2).stride == 2
    assert read_detections(path, first_frame=0).frame_index.tolist() == [1, 3]


def test_coco_results_name_frames_by_image_id(tmp_path: Path) -> None:
    results = [
        {"image_id": 4, "category_id": 3, "bbox": [1, 2, 3, 4.5], "score": 0.25},
        {"image_id": 0, "category_id": 1, "bbox": [0, 0, 0, 4], "score": 1, "segmentation": "ignored"},
    ]
    path = written(tmp_path / "results.json", json.dumps(results))
    found = read_detections(path)
    assert as_rows(found) == [(4, [1, 2, 4, 6.5], 0.25, 3), (0, [0, 0, 0, 4], 1, 1)]
    assert found.valid.tolist() == [True, False]


def test_coco_images_give_the_frames(tmp_path: Path) -> None:
    results = [{"image_id": i, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1} for i in (77, "b")]
    images = {
        "images": [
            {"id": 77, "frame_id": 6, "file_name": "x_000001.jpg", "width": 10},
            {"id": "b", "file_name": "cam2/frame_000012.jpg"},
        ]
    }
    path = written(tmp_path / "results.json", json.dumps(results))
    listed = written(tmp_path / "images.json", json.dumps(images))
    assert read_detections(path, images=listed).frame_index.tolist() == [6, 12]
    with pytest.raises(UsageError, match="image_id 'b' is no frame number: give --images"):
        read_detections(path)
    images["images"].pop()
    written(listed, json.dumps(images))
    with pytest.raises(UsageError, match="image_id 'b' is not among the images: give --images"):
        read_detections(path, images=listed)
    for wrong in ({"id": 1, "file_name": "x.jpg"}, {"id": 1}, {"id": 1, "file_name": "9" * 5000 + ".jpg"}):
        written(listed, json.dumps({"images": [wrong]}))
        with pytest.raises(UsageError, match="add frame_id"):
            read_detections(path, images=listed)
    written(listed, json.dumps({"images": [{"id": 1, "frame_id": 1}, {"id": 1, "frame_id": 2}]}))
    with pytest.raises(UsageError, match="image 1 is listed twice, as frame 1 and 2"):
        read_detections(path, images=listed)


def test_csv_takes_columns_by_name_in_any_order(tmp_path: Path) -> None:
    path = written(tmp_path / "d.csv", "label,Score, x1,y1,x2,y2,frame,note\n2,.5,0,1,2,3,7,far\n")
    assert as_rows(read_detections(path)) == [(7, [0, 1, 2, 3], 0.5, 2)]
    path = written(tmp_path / "d.csv", "﻿frame,x1,y1,x2,y2\n0,0,1,2,3\n".encode())
    assert as_rows(read_detections(path)) == [(0, [0, 1, 2, 3], 1.0, 1)]
    path = written(tmp_path / "d.csv", 'note,frame,x1,y1,x2,y2\n"a, b",0,0,1,2,3\n#1,1,0,1,2,3\n')
    assert read_detections(path).frame_index.tolist() == [0, 1]
    path = written(
        tmp_path / "d.csv", "frame,x1,y1,x2,y2,label\n0,0,1,2,3,person\n1,0,1,2,3,Cell phone\n2,0,1,2,3,person\n"
    )
    assert read_detections(path).labels.tolist() == [1, 77, 1]


@pytest.mark.parametrize(
    ("name", "text"), [("d.txt", ""), ("d.txt", "\n \n"), ("d.json", "[]"), ("d.csv", "frame,x1,y1,x2,y2\n")]
)
def test_a_file_without_boxes_gives_none(tmp_path: Path, name: str, text: str) -> None:
    found = read_detections(written(tmp_path / name, text), num_frames=9)
    assert (len(found), found.num_frames) == (0, 9)
    assert read_detections(tmp_path / name).num_frames == 0


COCO = '[{"image_id": %s, "category_id": %s, "bbox": %s, "score": %s}]'
BAD: list[tuple[str, str | bytes, str]] = [
    ("d.txt", "1,-1,0,0,5,5", "line 1 has 6 columns, 7 or more are needed: correct that line"),
    ("d.txt", "1,-1,0,0,5,5,x", "line 1: could not convert string to float: 'x': correct that line"),
    ("d.txt", "0,-1,0,0,5,5,1", "box 1 lies in frame 0; frames are whole numbers from 1 on: give --first-frame"),
    ("d.txt", "1,-1,0,0,5,5,1\n1.5,-1,0,0,5,5,1", "box 2 lies in frame 1.5"),
    ("d.txt", "nan,-1,0,0,5,5,1", "box 1 lies in frame nan"),
    ("d.txt", "1e300,-1,0,0,5,5,1", r"box 1 lies in frame 1e\+300"),
    ("d.txt", b"1,-1,0,0,5,5,\xff", "is not UTF-8 text: save it as UTF-8"),
    ("d.csv", "", "names no column frame, x1, y1, x2, y2: begin the file with frame,x1"),
    ("d.csv", "frame,x1,y1,x2\n", "names no column y2"),
    ("d.csv", "frame,x1,y1,x2,y2\n0,0,0,5\n", "line 2 has 4 columns, 5 or more are needed: correct that line"),
    (
        "d.csv",
        "frame,x1,y1,x2,y2,label\n0,0,0,5,5,car\n0,0,0,5,5,persn\n",
        "line 3: COCO has no .*: did you mean 'person'.*: correct that line",
    ),
    ("d.csv", "frame,x1,y1,x2,y2,label\n0,0,0,5,5,1.5\n", "box 1 has the label 1.5: give whole numbers"),
    ("d.csv", "frame,x1,y1,x2,y2,label\n0,0,0,5,5,nan\n", "box 1 has the label nan"),
    ("d.csv", "x" * 200_000, "field larger than field limit.*: begin the file with"),
    ("d.json", "{}", "expected a list of"),
    ("d.json", "[", "truncated: expected a list of"),
    ("d.json", b"[\xff]", "expected a list of"),
    ("d.json", COCO % (-1, 1, "[0,0,1,1]", 1), "box 1 lies in frame -1"),
    ("d.json", COCO % (0, 1, "[0,0,1]", 1), r"length 4.*bbox.*: expected"),
    ("d.json", COCO % (0, 1, "[0,0,1,NaN]", 1), "expected a list of"),
    ("d.json", COCO % (0, '"person"', "[0,0,1,1]", 1), r"category_id.*: expected"),
    ("d.json", COCO % (0, 10**30, "[0,0,1,1]", 1), r"expected a list of"),
    ("d.json", COCO % (10**30, 1, "[0,0,1,1]", 1), r"expected a list of"),
    ("d.json", '[{"image_id": 1}]', "missing required field `category_id`.*: expected"),
    ("d.dat", "", r"a file ending in .dat .*: give --format mot\|coco\|csv"),
    ("dat", "", r"a file ending in nothing .*: give --format mot\|coco\|csv"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD, ids=[f"{name}-{n}" for n, (name, _, _) in enumerate(BAD)])
def test_a_bad_file_is_refused_by_its_name_with_what_to_do(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    path = written(tmp_path / name, text)
    with pytest.raises(UsageError, match=message) as caught:
        read_detections(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such file"):
        read_detections(tmp_path / "absent.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UsageError, match="not a regular file"):
        read_detections(tmp_path / "folder.txt")
    path = written(tmp_path / "d.txt", "1,-1,0,0,5,5,1\n3,-1,0,0,5,5,1\n")
    with pytest.raises(UsageError, match="30 bytes are more than the 10 that are read at once"):
        read_detections(path, max_bytes=10)
    with pytest.raises(UsageError, match=r"d.txt: row 1 lies in frame 2, but .* give num_frames=3"):
        read_detections(path, num_frames=2)
    with pytest.raises(UsageError, match="no multiple of the stride 4"):
        read_detections(path, stride=4)
    with pytest.raises(UsageError, match=r"named 'yolo' .* give --format mot\|coco\|csv"):
        read_detections(path, format="yolo")
    assert len(read_detections(written(tmp_path / "boxes", path.read_text()), format="mot")) == 2


# ---- writing ----


def some_tubes() -> list[Tube]:
    found = moving_detections(np.random.default_rng(4))
    tubes = [*unary_tubes(found, min_length=10, max_gap=1), *multivariate_tubes(found, min_length=10)]
    assert {tube.kind for tube in tubes} == {"unary", "multivariate"}
    assert any(tube.interpolated.any() for tube in tubes)
    return tubes


def test_formats_are_the_same_for_both_directions() -> None:
    assert set(TUBE_FORMATS) == set(DETECTION_FORMATS)


@pytest.mark.parametrize("name", TUBE_FORMATS)
def test_what_is_written_reads_back(tmp_path: Path, name: str) -> None:
    tubes = some_tubes()
    path = tmp_path / f"tubes{DETECTION_FORMATS[name].suffix}"
    write_tubes(path, tubes, format=name)
    found = read_detections(path)
    assert found.frame_index.tolist() == [frame for tube in tubes for frame in tube.frames.tolist()]
    boxes, scores = np.concatenate([t.boxes for t in tubes]), np.concatenate([t.scores for t in tubes])
    if name == "mot":
        assert np.abs(found.boxes - boxes).max() <= 0.00101
        assert np.abs(found.scores - scores).max() < 1e-5
    else:
        assert np.array_equal(found.boxes.astype(boxes.dtype), boxes)
        assert np.array_equal(found.scores, scores)
        assert found.labels.tolist() == [tube.label for tube in tubes for _ in tube.frames]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def two_tubes() -> list[Tube]:
    rows: list[tuple[int, Any, float, int]] = [(0, (0, 0, 10, 10), 0.5, 3), (2, (2, 0, 12, 10.25), 0.25, 3)]
    found = detections(rows)
    return [
        *unary_tubes(found, min_length=3, max_gap=1),
        *multivariate_tubes(detections([*rows[:1], (0, (1, 0, 9, 9), 0.4, 1)]), min_length=1),
    ]


def test_lines_by_hand() -> None:
    tubes = two_tubes()
    assert list(tube_lines(tubes, "mot")) == [
        "1,1,1,1,10,10,0.5,-1,-1,-1",
        "2,1,2,1,10,10.125,0.375,-1,-1,-1",
        "3,1,3,1,10,10.25,0.25,-1,-1,-1",
        "1,2,1,1,10,10,0.5,-1,-1,-1",
    ]
    assert list(tube_lines(tubes, "csv")) == [
        CSV_HEADER,
        "1,unary,3,car,0,0.0,0.0,10.0,10.0,0.5,0,0",
        "1,unary,3,car,1,1.0,0.0,11.0,10.125,0.375,1,-1",
        "1,unary,3,car,2,2.0,0.0,12.0,10.25,0.25,0,1",
        "2,multivariate,-1,any,0,0.0,0.0,10.0,10.0,0.5,0,0 1",
    ]
    entries = json.loads("\n".join(tube_lines(tubes, "coco")))
    assert entries[1] == {
        "image_id": 1,
        "category_id": 3,
        "bbox": [1.0, 0.0, 10.0, 10.125],
        "score": 0.375,
        "track_id": 1,
        "kind": "unary",
        "interpolated": True,
    }
    assert (len(entries), entries[3]["kind"], entries[3]["track_id"]) == (4, "multivariate", 2)
    assert json.loads("".join(tube_lines([], "coco"))) == []
    assert list(tube_lines([], "csv")) == [CSV_HEADER]


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "tubes.csv", "what was there")

    def breaking() -> Any:
        yield two_tubes()[0]
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        write_tubes(path, breaking(), format="csv")
    assert path.read_text() == "what was there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["tubes.csv"]
    write_tubes(path, two_tubes(), format="csv")
    assert path.read_text().startswith(CSV_HEADER)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give --format mot\|coco\|csv"):
        write_tubes(tmp_path / "t.xml", two_tubes(), format="xml")
    with pytest.raises(UsageError, match="mkdir -p"):
        write_tubes(tmp_path / "absent" / "t.csv", two_tubes(), format="csv")
    assert list(tmp_path.iterdir()) == []
