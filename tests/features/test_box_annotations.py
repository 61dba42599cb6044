"""Annotated boxes: VATIC, MOT, the public pickle, vadx's own table, and which frames somebody looked at."""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import skip_or_fail
from vadx.errors import NoInputError, UsageError
from vadx.features.box_annotations import BOX_FORMATS, read_box_truth, write_box_csv
from vadx.features.box_truth import MAX_GAP, BoxTruth, annotated_frames
from vadx.features.plain_pickle import load_plain_pickle


def written(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def as_rows(truth: BoxTruth) -> list[tuple[int, list[float], int]]:
    return list(zip(truth.frames.tolist(), truth.boxes.tolist(), truth.tracks.tolist(), strict=True))


# ---- the truth of a video ----


def test_rows_are_sorted_by_frame_and_track() -> None:
    truth = BoxTruth.of_rows([5, 2, 5], [[0, 0, 1, 1], [1, 1, 2, 2], [3, 3, 4, 4]], [1, 0, 0], [9, 5, 2, 5])
    assert as_rows(truth) == [(2, [1, 1, 2, 2], 0), (5, [3, 3, 4, 4], 0), (5, [0, 0, 1, 1], 1)]
    assert truth.annotated is not None
    assert truth.annotated.tolist() == [2, 5, 9]
    assert len(BoxTruth.of_rows([], [])) == 0
    with pytest.raises(ValueError, match="read-only"):
        truth.boxes[0, 0] = 7


BOX = [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("frames", "boxes", "tracks", "annotated", "complaint"),
    [
        ([1, 0], [BOX, BOX], [0, 0], None, "frames ascend from 0"),
        ([-1], [BOX], [0], None, "frames ascend from 0"),
        ([2**31], [BOX], [0], None, "frames ascend from 0"),
        ([0.5], [BOX], [0], None, "frames are whole numbers, not float64"),
        ([0, 1], [BOX], [0, 0], None, "give one row of each per box"),
        ([0], [BOX], [0, 1], None, "give one row of each per box"),
        ([0], [[0.0, 0.0, 0.0, 1.0]], [0], None, "has no area: give x1, y1, x2, y2"),
        ([0], [[0.0, 0.0, np.nan, 1.0]], [0], None, "has no area"),
        ([0], [[0.0, 0.0, np.inf, 1.0]], [0], None, "has no area"),
        ([3, 3], [BOX, BOX], [7, 7], None, "track 7 has two boxes in frame 3"),
        ([3], [BOX], [0], [0, 16], "frame 3 has a box but is no annotated frame"),
        ([3], [BOX], [0], [3, 3], "annotated frames ascend from 0, each once"),
    ],
)
def test_a_truth_that_contradicts_itself_is_refused(
    frames: list[int], boxes: list[list[float]], tracks: list[int], annotated: list[int] | None, complaint: str
) -> None:
    looked = None if annotated is None else np.array(annotated)
    with pytest.raises(UsageError, match=complaint):
        BoxTruth(np.array(frames), np.array(boxes), np.array(tracks), looked)


# ---- which frames somebody looked at ----


def test_the_grid_runs_through_a_segment_and_not_between_two() -> None:
    # Two anomalies: 813 to 861 and, on another phase, 1570 to 1634 with one frame of the grid (1602) without a box.
    frames = [1586, 813, 829, 861, 1570, 845, 1618, 1634]
    assert annotated_frames(frames).tolist() == [813, 829, 845, 861, 1570, 1586, 1602, 1618, 1634]


def test_a_long_gap_of_the_same_phase_ends_a_segment_and_a_short_one_does_not() -> None:
    assert annotated_frames([0, MAX_GAP]).tolist() == list(range(0, MAX_GAP + 1, 16))
    assert annotated_frames([0, MAX_GAP + 16]).tolist() == [0, MAX_GAP + 16]
    assert annotated_frames([0, 64], max_gap=32).tolist() == [0, 64]
    assert annotated_frames([0, 10, 20], step=10).tolist() == [0, 10, 20]


def test_the_grid_can_be_carried_on_to_the_whole_video() -> None:
    assert annotated_frames([40, 56, 701], num_frames=750).tolist() == [*range(8, 701, 16), 701, 717, 733, 749]
    assert annotated_frames([], num_frames=40).tolist() == [0, 16, 32]
    assert annotated_frames([]).tolist() == []
    with pytest.raises(UsageError, match="frame 40 has a box but the video has 40 frames"):
        annotated_frames([40], num_frames=40)
    with pytest.raises(UsageError, match="give 1 or more"):
        annotated_frames([40], step=0)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 2000), unique=True, max_size=30),
    st.integers(1, 20),
    st.integers(1, 300),
    st.sampled_from([None, 2001]),
)
def test_every_frame_with_a_box_was_looked_at(frames: list[int], step: int, gap: int, num_frames: int | None) -> None:
    looked = annotated_frames(frames, step=step, max_gap=gap, num_frames=num_frames)
    assert set(frames) <= set(looked.tolist())
    assert (np.diff(looked) > 0).all()
    assert looked.size == 0 or 0 <= looked[0] <= looked[-1] <= 2000


# ---- VATIC ----

VATIC = """\
0 10 20 30 40 {a} 0 0 1 "Assault"
0 12 22 32 42 {b} 0 1 0 "Assault" "armed"
0 12 22 32 42 {c} 1 0 0 "Assault"

1 1 2 3 4 {b} 0 0 1 "Person with a dog"
"""


@pytest.mark.parametrize("base", [0, 1])
def test_vatic_counts_from_zero_if_one_frame_is_zero_and_skips_what_is_lost(tmp_path: Path, base: int) -> None:
    path = written(tmp_path / "Assault010_x264.txt", VATIC.format(a=base, b=base + 1, c=base + 2))
    found = read_box_truth(path)
    assert list(found) == ["Assault010_x264"]
    truth = found["Assault010_x264"]
    assert as_rows(truth) == [(0, [10, 20, 30, 40], 0), (1, [12, 22, 32, 42], 0), (1, [1, 2, 3, 4], 1)]
    assert truth.annotated is None


def test_vatic_takes_another_first_frame_and_sees_a_zero_in_a_lost_row(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", '0 1 2 3 4 0 1 0 0 "x"\n0 1 2 3 4 7 0 0 0 "x"\n')
    assert read_box_truth(path)["a"].frames.tolist() == [7]
    path = written(tmp_path / "b.txt", '0 1 2 3 4 7 0 0 0 "x"\n')
    assert read_box_truth(path)["b"].frames.tolist() == [6]
    assert read_box_truth(path, first_frame=0)["b"].frames.tolist() == [7]
    with pytest.raises(UsageError, match="frame 7 of a file that counts from 8 does not exist: give first_frame"):
        read_box_truth(path, first_frame=8)


def test_a_video_in_which_all_is_lost_is_there_without_a_box(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", '0 1 2 3 4 0 1 0 0 "x"\n')
    assert len(read_box_truth(path)["a"]) == 0
    assert len(read_box_truth(written(tmp_path / "e.txt", ""))["e"]) == 0


# ---- MOT ----


def test_mot_counts_frames_and_pixels_from_one_and_skips_what_is_not_considered(tmp_path: Path) -> None:
    text = "1,1,1,1,10,20,1,1,0.8\n3,2,5.5,7,2,2,1,1,1\n2,3,5,7,2,2,0,7,1\n3,1,2,2,4,4,1\n"
    path = written(tmp_path / "MOT17-02" / "gt" / "gt.txt", text)
    found = read_box_truth(path)
    assert list(found) == ["MOT17-02"]
    assert as_rows(found["MOT17-02"]) == [(0, [0, 0, 10, 20], 1), (2, [1, 1, 5, 5], 1), (2, [4.5, 6, 6.5, 8], 2)]
    assert list(read_box_truth(tmp_path)) == ["MOT17-02"]


# ---- the public pickle ----


def entry(video: str, frame: int, *box: float) -> list[object]:
    return [f"/home/x/Anomaly_Test/Abuse/{video}/image_{frame:04d}.jpg", *box]


CONTENT = {
    "Abuse028_x264": [entry("Abuse028_x264", 33, 1, 1, 320, 239), entry("Abuse028_x264", 1, 77, 104, 141, 200)],
    "Arrest001_x264": [entry("Arrest001_x264", 1000, 5, 6, 5, 6)],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_public_pickle_is_turned_to_half_open_pixels_and_frames_from_zero(tmp_path: Path, protocol: int) -> None:
    path = written(tmp_path / "Test_annotation.pkl", pickle.dumps(CONTENT, protocol))
    found = read_box_truth(path)
    assert list(found) == ["Abuse028_x264", "Arrest001_x264"]
    assert as_rows(found["Abuse028_x264"]) == [(0, [76, 103, 141, 200], 0), (32, [0, 0, 320, 239], 0)]
    assert as_rows(found["Arrest001_x264"]) == [(999, [4, 5, 5, 6], 0)]
    looked = found["Abuse028_x264"].annotated
    assert looked is not None
    assert looked.tolist() == [0, 16, 32]


def test_the_public_pickle_is_one_that_python_2_wrote(tmp_path: Path) -> None:
    # The layout of the published file, to the letter: protocol 0, byte strings, one memo entry each.
    text = "(dp0\nS'A_x264'\np1\n(lp2\n(lp3\nS'/home3/Abuse/A_x264/image_0861.jpg'\np4\naI77\naI104\naI141\naI200\naas."
    found = read_box_truth(written(tmp_path / "Test_annotation.pkl", text))
    assert as_rows(found["A_x264"]) == [(860, [76, 103, 141, 200], 0)]


def test_two_boxes_in_a_frame_are_two_tracks(tmp_path: Path) -> None:
    content = {"A": [entry("A", 1, 1, 1, 2, 2), entry("A", 17, 1, 1, 3, 3), entry("A", 1, 5, 5, 6, 6)]}
    found = read_box_truth(written(tmp_path / "t.pkl", pickle.dumps(content)))
    assert as_rows(found["A"]) == [(0, [0, 0, 2, 2], 0), (0, [4, 4, 6, 6], 1), (16, [0, 0, 3, 3], 0)]


def attack(canary: Path) -> bytes:
    return f"cbuiltins\nopen\n(S'{canary}'\nS'w'\ntR.".encode()


@pytest.mark.parametrize("in_dict", [False, True])
def test_a_pickle_that_would_run_something_is_refused_before_it_does(tmp_path: Path, in_dict: bool) -> None:
    canary = tmp_path / "canary"
    data = attack(canary)
    if in_dict:
        data = b"(dS'A'\n" + data.removesuffix(b".") + b"s."
    path = written(tmp_path / "t.pkl", data)
    with pytest.raises(UsageError, match=r"t\.pkl: not a pickle of plain lists.*opcode GLOBAL.*give the published"):
        read_box_truth(path)
    assert not canary.exists()
    opened = pickle.loads(data)  # noqa: S301  # the guard's proof: this very pickle does touch the file
    (opened["A"] if in_dict else opened).close()
    assert canary.exists()


def test_the_second_guard_loads_no_class_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.features import plain_pickle

    every = {"GLOBAL", "REDUCE", "TUPLE"} | plain_pickle.PLAIN_OPCODES
    monkeypatch.setattr(plain_pickle, "PLAIN_OPCODES", every)
    with pytest.raises(ValueError, match=r"it names builtins\.open|it names io\.open"):
        load_plain_pickle(attack(tmp_path / "canary"))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a pickle"),
        (b"not a pickle", "not a pickle"),
        (pickle.dumps(CONTENT)[:-9], "not a pickle"),
        (pickle.dumps({"A": [np.int64(3)]}), "not a pickle of plain"),
        (pickle.dumps({"A": (1, 2)}), "opcode TUPLE2"),
        (b"I1\np2147483647\n.", "place 2147483647 of its memo"),
        (b"(lI1\nI2\ns.", "not a pickle"),
        (b"(d(lI2\ns.", "unhashable"),
        (b"g7\n.", "not a pickle"),
        (b"S'\\xff'\n.", "not a pickle"),
        (pickle.dumps([1]), "expected a dict of video"),
        (pickle.dumps({1: []}), "expected a dict of video"),
        (pickle.dumps({"A": {}}), "expected a dict of video"),
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read_box_truth(written(tmp_path / "t.pkl", data))


def test_lists_repeated_by_reference_are_not_copied_out(tmp_path: Path) -> None:
    one = [entry("A", number, 1, 1, 2, 2) for number in range(1, 200)]
    path = written(tmp_path / "t.pkl", pickle.dumps({f"{number}": one for number in range(400)}))
    with pytest.raises(UsageError, match="expected a dict of video"):
        read_box_truth(path)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["image_0001.jpg", 1, 1, 2], r"is not \[picture, x1, y1, x2, y2\]"),
        (["image_0001.jpg", 1, 1, 2, "2"], r"is not \[picture"),
        (["image_0001.jpg", 1, 1, 2, True], r"is not \[picture"),
        (["image_0001.jpg", 1, 1, 2, float("nan")], r"is not \[picture"),
        (["image_0001.jpg", 1, 1, 2, 10**20], r"is not \[picture"),
        ([7, 1, 1, 2, 2], r"is not \[picture"),
        ("image", r"is not \[picture"),
        (["/a/image.jpg", 1, 1, 2, 2], "does not end in a frame number"),
        (["/a/image_" + "9" * 5000 + ".jpg", 1, 1, 2, 2], "does not end in a frame number"),
        (["/a/image_0000.jpg", 1, 1, 2, 2], "frame 0 of a file that counts from 1 does not exist"),
        (["/a/image_0001.jpg", 3, 1, 2, 2], "image_0001: the box from .2, 0. to .2, 2. has no area"),
    ],
)
def test_a_malformed_entry_is_refused_with_its_video(tmp_path: Path, wrong: object, complaint: str) -> None:
    path = written(tmp_path / "t.pkl", pickle.dumps({**CONTENT, "Arson9": [entry("Arson9", 2, 1, 1, 2, 2), wrong]}, 0))
    with pytest.raises(UsageError, match=complaint) as caught:
        read_box_truth(path)
    assert "t.pkl: Arson9" in str(caught.value)


def test_an_entry_nested_too_deep_to_be_printed_is_refused(tmp_path: Path) -> None:
    depth = 50 * sys.getrecursionlimit()
    path = written(tmp_path / "t.pkl", b"(dS'A'\n(l" + b"(l" * depth + b"a" * depth + b"s.")
    with pytest.raises(UsageError, match=r"is not \[picture"):
        read_box_truth(path)


# ---- vadx's own table ----


def test_the_own_table_takes_columns_by_name_in_any_order(tmp_path: Path) -> None:
    text = "﻿Frame, X1,y1,x2,y2,note,video\n7,0,1,2.5,3,far,a/b\n\n0,0,1,2,3,,c\n"
    found = read_box_truth(written(tmp_path / "boxes.csv", text))
    assert {video: as_rows(truth) for video, truth in found.items()} == {
        "a/b": [(7, [0, 1, 2.5, 3], 0)],
        "c": [(0, [0, 1, 2, 3], 0)],
    }
    assert read_box_truth(tmp_path / "boxes.csv", first_frame=-1)["c"].frames.tolist() == [1]


@st.composite
def truths(draw: st.DrawFn) -> BoxTruth:
    number = st.floats(-1e6, 1e6, allow_nan=False, width=64)
    keys = draw(
        st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)), min_size=1, max_size=5, unique=True)
    )
    sides = st.floats(0.001, 1e6)
    boxes = [
        [x, y, x + draw(sides), y + draw(sides)] for x, y in (draw(st.tuples(number, number)) for _ in range(len(keys)))
    ]
    return BoxTruth.of_rows([key[0] for key in keys], boxes, [key[1] for key in keys])


names = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=0, max_size=20) | st.sampled_from(
    ['a,"b', "'", " lead", "﻿", "é\u2028x"]
)


@settings(max_examples=80)
@given(st.dictionaries(names, truths(), max_size=4))
def test_what_is_written_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, BoxTruth]
) -> None:
    path = tmp_path_factory.mktemp("boxes") / "boxes.csv"
    write_box_csv(path, made)
    found = read_box_truth(path)
    assert list(found) == list(made)
    for video, truth in made.items():
        for name in ("frames", "boxes", "tracks"):
            assert np.array_equal(getattr(found[video], name), getattr(truth, name))
    assert [file.name for file in path.parent.iterdir()] == ["boxes.csv"]


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    truth = BoxTruth.of_rows([0], [BOX])
    for video, of in [
        ("a\nb", truth),
        ("a\rb", truth),
        ("a\0", truth),
        ("\udcff", truth),
        ("a", BoxTruth.of_rows([], [])),
    ]:
        with pytest.raises(UsageError, match="leave it out or rename it"):
            write_box_csv(tmp_path / "boxes.csv", {"good": truth, video: of})
    with pytest.raises(UsageError, match=r"there is no folder .*mkdir -p"):
        write_box_csv(tmp_path / "none" / "boxes.csv", {"a": truth})
    assert list(tmp_path.iterdir()) == []


# ---- the table of formats ----


def test_text_formats_are_told_apart_by_the_first_line_and_a_folder_has_one_video_a_file(tmp_path: Path) -> None:
    written(tmp_path / "b" / "two.txt", "\n" + VATIC.format(a=0, b=1, c=2))
    written(tmp_path / "one.txt", "1,1,1,1,10,20,1,1,0.8\n")
    written(tmp_path / ".hidden" / "three.txt", "nonsense")
    written(tmp_path / "notes.md", "nonsense")
    assert {video: len(truth) for video, truth in read_box_truth(tmp_path).items()} == {"b/two": 3, "one": 1}
    with pytest.raises(UsageError, match="a folder, but one file of the format csv holds many videos"):
        read_box_truth(tmp_path, format="csv")
    written(tmp_path / "one" / "gt" / "gt.txt", "1,1,1,1,10,20,1,1,0.8\n")
    with pytest.raises(UsageError, match="another file of this folder is of the video 'one' too"):
        read_box_truth(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "format", "complaint"),
    [
        ("a.txt", "what is this\n", None, r"give format=vatic\|pickle\|mot\|csv"),
        ("a.json", "{}", None, r"give format=vatic"),
        ("a.csv", "a", "coco", "no boxes are read from a format named 'coco': give one of vatic"),
        ("a.csv", "", None, "names no column video, frame, x1, y1, x2, y2: begin the file with video,frame"),
        ("a.csv", "video,frame,x1,y1,x2,y2\nv,0,1,2,3\n", None, "line 2 has 5 columns, the first line 6"),
        ("a.csv", "video,frame,x1,y1,x2,y2\nv,0,1,2,3,x\n", None, "line 2: 'x' is no number"),
        (
            "a.csv",
            "video,frame,x1,y1,x2,y2\nv,0,1,2,3,nan\n",
            None,
            "line 2: the box from .1, 2. to .3, nan. has no area",
        ),
        (
            "a.csv",
            "video,frame,x1,y1,x2,y2\nv,0,1,2,3,inf\n",
            None,
            "line 2: the box from .1, 2. to .3, inf. has no area",
        ),
        ("a.csv", "video,frame,x1,y1,x2,y2\nv,0.5,1,2,3,4\n", None, "line 2: 0.5 is no whole number"),
        ("a.csv", "video,frame,x1,y1,x2,y2\nv,inf,1,2,3,4\n", None, "line 2: inf is no whole number"),
        ("a.csv", "video,frame,x1,y1,x2,y2\nv,0,1,2,3,4\nv,0,1,2,3,4\n", None, "v: track 0 has two boxes in frame 0"),
        ("a.csv", 'video,frame,x1,y1,x2,y2\n"' + "x" * 140_000, None, "write one box a line"),
        ("a.csv", b"video,frame,x1,y1,x2,y2\n\xff,0,1,2,3,4\n", None, "not text in UTF-8"),
        ("a.txt", '0 1 2 3 4 "x"\n', None, "line 1 has 6 columns, VATIC's have 9"),
        (
            "a.txt",
            '0 1 2 3 4 0 0 0 0 "x"\n0 1 2 1 4 1 0 0 0 "x"\n',
            None,
            "line 2: the box from .1, 2. to .1, 4. has no",
        ),
        ("a.txt", "1,1,1,1,10,20\n", None, "line 1 has 6 columns, MOT's gt.txt 7 or more"),
        ("a.txt", "0,1,1,1,10,20,1,1,1\n", None, "frame 0 of a file that counts from 1"),
    ],
)
def test_files_that_are_not_what_they_claim_are_refused(
    tmp_path: Path, name: str, text: str | bytes, format: str | None, complaint: str
) -> None:
    path = written(tmp_path / name, text)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_box_truth(path, format=format)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_are_not_there_or_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"there is no such file"):
        read_box_truth(tmp_path / "none.csv")
    with pytest.raises(NoInputError, match=r"no \.txt file lies in this folder"):
        read_box_truth(tmp_path)
    path = written(tmp_path / "a.csv", "video,frame,x1,y1,x2,y2\n")
    with pytest.raises(UsageError, match=r"24 bytes are more than the 23 that are read at once.*give max_bytes=24"):
        read_box_truth(path, max_bytes=23)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UsageError, match="not a regular file"):
        read_box_truth(tmp_path / "pipe.csv")


def test_every_format_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.features import box_annotations

    for name, kind in BOX_FORMATS.items():
        path = written(tmp_path / f"a{kind.suffixes[0]}", "x" * 11)
        table = {**BOX_FORMATS, name: dataclasses.replace(kind, max_bytes=10)}
        monkeypatch.setattr(box_annotations, "BOX_FORMATS", table)
        with pytest.raises(UsageError, match="more than the 10 that are read at once"):
            read_box_truth(path, format=name)


def test_the_published_pickle_has_its_published_counts(field_data: Path) -> None:
    path = field_data / "annotations" / "ucf_crime" / "Test_annotation.pkl"
    if not path.is_file():
        skip_or_fail("field-boxes", "Test_annotation.pkl carries no licence: put it beside the field's annotations")
    found = read_box_truth(path)
    assert (len(found), sum(map(len, found.values()))) == (140, 3102)
    rest = {video: truth for video, truth in found.items() if not video.startswith("Explosion")}
    assert (len(rest), sum(map(len, rest.values()))) == (119, 2727)
    every = np.concatenate([truth.boxes for truth in found.values()])
    assert every.min(axis=0).tolist()[:2] == [0, 0]
    assert every.max(axis=0).tolist()[2:] == [320, 239]
