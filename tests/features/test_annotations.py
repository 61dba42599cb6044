"""Published lists: every order of columns, what contradicts itself, hostile files, and the real files' totals."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadx.errors import NoInputError, UsageError
from vadx.features.annotations import (
    DATA_SETS,
    Annotations,
    entries_of_names,
    find_lists,
    read_annotations,
    read_own_list,
    share_spans,
)
from vadx.features.frame_truth import SLICINGS
from vadx.features.manifest import ManifestEntry
from vadx.features.text_lines import MAX_FRAMES
from vadx.features.truth_readers import COLUMN_ORDERS, COUNTED, parse_line, read_counts, read_text, runs

ABUSE = "Abuse/Abuse028_x264"
TWICE = "Arson/Arson011_x264"
NORMAL = "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264"

SAMPLES = {
    "sultani": (
        "ucf-crime",
        "Abuse028_x264.mp4  Abuse  165  240  -1  -1  \n"
        "Arson011_x264.mp4  Arson  150  420  680  1267  \n"
        "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  \n",
    ),
    "mist": (
        "ucf-crime",
        "Abuse028_x264.mp4\tAbuse\t165\t240\t-1\t-1\t1412\n"
        "Arson011_x264.mp4\tArson\t150\t420\t680\t1267\t1266\n"
        "Normal_Videos_003_x264.mp4\tNormal\t-1\t-1\t-1\t-1\t2822\n",
    ),
    "ekosman-test": (
        "ucf-crime",
        "Abuse/Abuse028_x264.mp4 1412 Abuse 165 240 -1 -1\r\n"
        "Arson/Arson011_x264.mp4 1266 Arson 150 420 680 1267\r\n"
        "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4 2822 Normal -1 -1 -1 -1\r\n",
    ),
    "ekosman-train": (
        "ucf-crime",
        "Abuse/Abuse028_x264.mp4 1412\nArson/Arson011_x264.mp4 1266\n"
        "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4 2822\n",
    ),
    "seo-anomaly": (
        "ucf-crime",
        "Abuse/Abuse028_x264.mp4|1413|[165, 240]\nArson/Arson011_x264.mp4|1267|[150, 420, 680, 1267]\n",
    ),
    "seo-normal": ("ucf-crime", "Normal_Videos_event/Normal_Videos_003_x264.mp4 2823 -1\n"),
    "wsal": ("ucf-crime", "Abuse/Abuse028_x264 1413\nTesting_Normal_Videos_Anomaly/Normal_Videos_003_x264 2823\n"),
    "names": (
        "ucf-crime",
        "G:\\UCF_Test_ten_crop_i3d\\Abuse028_x264_i3d.npy\r\n/home/a b/Arson011_x264__7.npy\r\n"
        "Normal_Videos_event/Normal_Videos_003_x264.mp4\r\n",
    ),
    "xd-violence": (
        "xd-violence",
        "v=S-7rRLrxnVQ__#1_label_B4-0-0 0 1517 1970 3038\nBad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6.mp4 5 9\n",
    ),
    "mist-shanghaitech-test": ("shanghaitech", "01_001,0,764\n01_0015,1,-1\n"),
    "mist-shanghaitech-train": ("shanghaitech", "01_001,0\n01_0015,1\n"),
    "pel4vad-shanghaitech": ("shanghaitech", "train/01_001_0.npy 0.0\ntrain/01_0015_0.npy 1.0\n"),
}
"""Order of columns -> a data set and lines in that order, made by hand."""


def read(
    folder: Path, data_set: str, text: str | bytes, name: str = "list.txt", **options: dict[str, int]
) -> Annotations:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_annotations(data_set, [path], **options)


def by_id(annotations: Annotations) -> dict[str, ManifestEntry]:
    return {entry.id: entry for entry in annotations.manifest()}


def test_every_order_has_a_sample_a_source_and_a_word_for_its_counts() -> None:
    assert set(SAMPLES) == set(COLUMN_ORDERS)
    assert all(order.source for order in COLUMN_ORDERS.values())
    assert {order.counted for order in COLUMN_ORDERS.values()} - {""} == set(COUNTED)
    for data_set in DATA_SETS.values():
        assert set(data_set.orders) <= set(COLUMN_ORDERS)
        assert data_set.slicing in SLICINGS
        assert data_set.source


def test_a_first_line_with_other_columns_is_told_which_are_known(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, "shanghaitech", "01_001 maybe\n").problems
    assert "'01_001 maybe' is no name of ShanghaiTech" in str(problem)
    _, (problem,) = read_text(tmp_path / "list.txt", ["mist-shanghaitech-train"])
    assert str(problem).endswith("fits none of the known columns: name label")


@pytest.mark.parametrize("order", SAMPLES)
def test_each_order_is_recognised_line_by_line(order: str) -> None:
    data_set, text = SAMPLES[order]
    records = [parse_line(line, DATA_SETS[data_set].orders) for line in text.splitlines()]
    assert {record.order for record in records if record is not None} == {order}
    assert None not in records


@pytest.mark.parametrize("order", [name for name, (data_set, _) in SAMPLES.items() if data_set == "ucf-crime"])
def test_every_order_of_ucf_crime_says_the_same(tmp_path: Path, order: str) -> None:
    found = by_id(read(tmp_path, "ucf-crime", SAMPLES[order][1]))
    order_has = COLUMN_ORDERS[order].columns
    has_spans, decoded = {"start", "spans"} & set(order_has), COLUMN_ORDERS[order].counted == "decoded"
    assert set(found) <= {ABUSE, TWICE, NORMAL}
    for entry in found.values():
        assert entry.path == f"{entry.id}.mp4"
        assert entry.label == (0 if entry.id == NORMAL else 1)
        assert entry.class_name == {ABUSE: "Abuse", TWICE: "Arson", NORMAL: ""}[entry.id]
        spans = {ABUSE: [[165, 240]], TWICE: [[150, 420], [680, 1267]], NORMAL: []}[entry.id]
        assert entry.spans.tolist() == (spans if has_spans else [])
        # Counts of OpenCV or of nobody knows what are not the frames that a decoder gives.
        assert entry.num_frames == ({ABUSE: 1412, TWICE: 1266, NORMAL: 2822}[entry.id] if decoded else None)


def test_xd_violence_says_its_labels_in_its_names(tmp_path: Path) -> None:
    found = by_id(read(tmp_path, "xd-violence", SAMPLES["xd-violence"][1], "annotations.txt"))
    riot, many = found.values()
    assert (riot.id, riot.class_name, riot.split) == ("v=S-7rRLrxnVQ__#1_label_B4-0-0", "riot", "test")
    assert riot.spans.tolist() == [[0, 1517], [1970, 3038]]
    assert many.id == "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6"
    assert many.class_name == "explosion+shooting+car accident"
    crops = "".join(f"/x/Black.Hawk.Down.2001__#0_label_A__{crop}.npy\n" for crop in range(5))
    text = f"{crops}/x/v=4FzhVu2PR8Y__#1_label_B1__vggish.npy\n"
    listed = read(tmp_path, "xd-violence", text, "rgb.list")
    assert [(e.id, e.label, e.split) for e in listed.entries[:1]] == [("Black.Hawk.Down.2001__#0_label_A", 0, "train")]
    assert [(e.class_name, e.path) for e in listed.entries[1:]] == [("fighting", "v=4FzhVu2PR8Y__#1_label_B1.mp4")]


@pytest.mark.parametrize("order", [name for name, (data_set, _) in SAMPLES.items() if data_set == "shanghaitech"])
def test_shanghaitech_needs_its_lists_for_labels(tmp_path: Path, order: str) -> None:
    found = read(tmp_path, "shanghaitech", SAMPLES[order][1], "SH_Train_x.txt").entries
    assert [(e.path, e.label, e.split) for e in found] == [
        ("training/videos/01_001.avi", 0, "train"),
        ("testing/frames/01_0015", 1, "train"),
    ]
    assert {e.num_frames for e in found} == {None}


def test_masks_give_shanghaitech_its_spans_and_lengths(tmp_path: Path) -> None:
    masks = tmp_path / "test_frame_mask"
    masks.mkdir()
    np.save(masks / "01_0015.npy", np.array([0, 1, 1, 0, 0, 1], np.uint8))
    listing = tmp_path / "SH_Test_NEW.txt"
    listing.write_text("01_0015,1,-1\n01_001,0,764\n")
    assert find_lists("shanghaitech", tmp_path) == [listing, masks]
    first, second = read_annotations("shanghaitech", [listing, masks]).manifest()
    assert (first.spans.tolist(), first.num_frames, first.label, first.split) == ([[1, 3], [5, 6]], 6, 1, "test")
    assert (second.spans.tolist(), second.num_frames, second.label) == ([], None, 0)


@pytest.mark.parametrize(
    ("labels", "spans"),
    [([0, 0], []), ([1], [[0, 1]]), ([1, 1, 0, 1], [[0, 2], [3, 4]]), ([0, 1, 0, 0, 1, 1], [[1, 2], [4, 6]])],
)
def test_runs_of_a_mask(labels: list[int], spans: list[list[int]]) -> None:
    assert runs(np.array(labels, bool)).tolist() == spans


def test_a_mask_that_lies_or_is_a_pickle_is_refused_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([0, 1, 2]))
    np.save(tmp_path / "b.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "c.npy", np.zeros((2, 3)))
    whole = tmp_path / "d.npy"
    np.save(whole, np.zeros(1000, np.uint8))
    whole.write_bytes(whole.read_bytes().replace(b"(1000,)", b"(9999,)"))
    (tmp_path / "e.npy").write_bytes(b"")
    huge = (
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shape': (99000000,), }".ljust(127) + b"\n"
    )
    (tmp_path / "f.npy").write_bytes(huge)
    problems = [str(p) for p in read_annotations("shanghaitech", [tmp_path]).problems]
    assert [Path(p.split(":")[0]).name for p in problems] == [f"{name}.npy" for name in "abcdef"]
    with pytest.raises(UsageError, match="holds no"):
        read_annotations("shanghaitech", [(tmp_path / "empty", (tmp_path / "empty").mkdir())[0]])


@pytest.mark.parametrize(
    "header",
    [
        b"(" * 3000,
        b"-" * 9000 + b"1",
        b"{'a':\n  1,\n 2",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999999999999999,), }",
        b"{'descr': '|u99999999999999999999', 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (-3,), }",
    ],
)
def test_a_header_made_to_break_numpy_is_one_masks_problem(tmp_path: Path, header: bytes) -> None:
    np.save(tmp_path / "01_0015.npy", np.array([0, 1], np.uint8))
    for version in (1, 3):
        length = len(header).to_bytes(2 if version == 1 else 4, "little")
        (tmp_path / "01_0016.npy").write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + header + bytes(64))
        found = read_annotations("shanghaitech", [tmp_path])
        assert [problem.what.split(":")[0] for problem in found.problems] == ["no mask of frames"]
        assert [entry.spans.tolist() for entry in found.entries] == [[[1, 2]]]


class Harm:
    """What a pickle does when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self.marker,)  # type: ignore[return-value]  # any callable with its arguments


def test_a_pickle_among_the_masks_is_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "harm"
    pickle.loads(pickle.dumps(Harm(marker)))  # noqa: S301  # our own: to see that it would do harm
    marker.rmdir()
    (tmp_path / "01_0016.npy").write_bytes(pickle.dumps(Harm(marker)))
    assert len(read_annotations("shanghaitech", [tmp_path]).problems) == 1
    assert not marker.exists()


def test_a_normal_video_of_seos_list_ends_in_minus_one() -> None:
    line = "Normal_Videos_event/Normal_Videos_003_x264.mp4 2823 {}"
    assert parse_line(line.format(-1), ["seo-normal"]) is not None
    assert parse_line(line.format(5), ["seo-normal"]) is None


def test_a_mask_that_claims_much_takes_no_memory(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (500000000,), }"
    (tmp_path / "01_0016.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    tracemalloc.start()
    try:
        assert len(read_annotations("shanghaitech", [tmp_path]).problems) == 1
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def shares_file(folder: Path, rows: object, name: str = "tad_test_anno.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows))
    return path


def test_spans_in_parts_of_the_length_become_frames_where_the_length_is_known(tmp_path: Path) -> None:
    rows = [
        {"video_path": "x/01_Accident_004.mp4", "class_name": "Car Accident", "anomaly_span": [[53 / 190, 118 / 190]]},
        {"path": "x/Normal_259.npy", "anomaly_span": []},
    ]
    path = shares_file(tmp_path, rows)
    (note,) = read_annotations("tad", [path]).notes
    assert "spans of 1 videos are parts of a length that is not known" in str(note)
    known = read_annotations("tad", [path], counts={"tad/01_Accident_004": 190, "Normal_259": 7})
    assert known.notes == []
    accident, normal = known.manifest()
    assert (accident.spans.tolist(), accident.num_frames, accident.class_name) == ([[53, 118]], 190, "Accident")
    assert (normal.num_frames, normal.label) == (7, 0)
    assert share_spans([(0.999, 1.0), (0.0, 0.0001)], 10).tolist() == [[9, 10], [0, 1]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (7, "it wants a text 'video_path'"),
        ({"video_path": "01_Accident_004.mp4"}, "it wants"),
        ({"video_path": "01_Accident_004.mp4", "anomaly_span": [[0.5]]}, "no pair of numbers"),
        ({"video_path": "01_Accident_004.mp4", "anomaly_span": [[0.5, 1.5]]}, "0 <= s < e <= 1"),
        ({"video_path": "01_Accident_004.mp4", "anomaly_span": [["0", True]]}, "no pair of numbers"),
        ({"video_path": "01_Accident_004.mp4", "anomaly_span": [[0, 10**400]]}, "0 <= s < e <= 1"),
        ({"video_path": "01_Accident_004.mp4", "anomaly_span": []}, "it says that 01_Accident_004 is normal"),
        ({"video_path": "Normal_004.mp4", "anomaly_span": [[0.1, 0.2]]}, "is anomalous, and its name says normal"),
        ({"video_path": "../../etc/passwd", "anomaly_span": []}, "is no name of TAD"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_named(tmp_path: Path, row: object, said: str) -> None:
    found = read_annotations("tad", [shares_file(tmp_path, [row])])
    assert len(found.problems) == 1
    assert said in str(found.problems[0])


@pytest.mark.parametrize("text", ["", "{", "{}", "[" * 100_000, '"x"', "\x00", "[NaN]"])
def test_a_json_list_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tad_test_anno.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="name the list as it was published"):
        read_annotations("tad", [path])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Abuse028_x264.mp4  Abuse  240  165  -1  -1", "got [240, 165)"),
        ("Abuse028_x264.mp4  Abuse  165  999999999999999  -1  -1", "a span [s, e) has"),
        (f"Abuse028_x264.mp4  Abuse  165  {'9' * 5000}  -1  -1", "has not the columns of line 1: name class"),
        ("Abuse028_x264.mp4  Arson  165  240  -1  -1", "its name says 'Abuse'"),
        ("Normal_Videos_003_x264.mp4  Normal  165  240  -1  -1", "its name says normal"),
        ("Abuse028_x264.mp4  Abuse  165  240", "has not the columns of line 1: name class start"),
        ("Abuse028_x264.mp4", "'Abuse028_x264.mp4' has not the columns of line 1"),
        ("../../Abuse028_x264.sh;rm  Abuse  1  2  -1  -1", "is no name of UCF-Crime"),
        ("Abuse028_x264.mp4\x1b[2J  Abuse  1  2  -1  -1", "control character '\\x1b'"),
        ("kitten.mp4  Abuse  1  2  -1  -1", "'kitten.mp4' is no name of UCF-Crime"),
        (b"caf\xe9.mp4  Abuse  1  2  -1  -1", "byte 0xe9 at column 4 is not UTF-8"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(tmp_path: Path, line: str | bytes, said: str) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    text = b"Arrest001_x264.mp4  Arrest  1185  1485  -1  -1\n\n" + raw + b"\nAbuse030_x264.mp4  Abuse  1  2  -1  -1\n"
    found = read(tmp_path, "ucf-crime", text)
    assert len(found.problems) == 1
    assert str(found.problems[0]).startswith(f"{tmp_path / 'list.txt'}:3: ")
    assert said in str(found.problems[0])
    with pytest.raises(UsageError, match="1 problem"):
        found.manifest()


def test_lists_complete_each_other_and_contradictions_name_both_places(tmp_path: Path) -> None:
    spans = tmp_path / "Temporal_Anomaly_Annotation.txt"
    spans.write_text(SAMPLES["sultani"][1])
    counts = tmp_path / "Test_Annotation.txt"
    counts.write_text(SAMPLES["ekosman-train"][1])
    assert find_lists("ucf-crime", tmp_path) == [spans, counts]
    entry = by_id(read_annotations("ucf-crime", [spans, counts]))[ABUSE]
    assert (entry.spans.tolist(), entry.num_frames, entry.split) == ([[165, 240]], 1412, "test")
    counts.write_text("Abuse/Abuse028_x264.mp4 1412 Abuse 165 241 -1 -1\n")
    (problem,) = read_annotations("ucf-crime", [spans, counts]).problems
    assert str(problem) == (f"{counts}:1: spans of {ABUSE} is [[165, 241]] here and [[165, 240]] in {spans}:1")
    train = tmp_path / "Anomaly_Train.txt"
    train.write_text("Abuse/Abuse028_x264.mp4\n")
    (problem,) = read_annotations("ucf-crime", [spans, train]).problems
    assert "split of Abuse/Abuse028_x264 is 'train' here and 'test' in" in str(problem)


def test_a_line_that_stands_there_twice_is_a_note(tmp_path: Path) -> None:
    text = "Normal_Videos001_x264.mp4\nNormal_Videos002_x264.mp4\nNormal_Videos001_x264.mp4\n"
    found = read(tmp_path, "ucf-crime", text, "train_normal.txt")
    assert len(found.manifest()) == 2
    assert [str(note) for note in found.notes] == [
        f"{tmp_path / 'train_normal.txt'}:3: 'Normal_Videos001_x264.mp4' stands in line 1 already"
    ]


def test_unknown_data_sets_and_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data set 'ufc'; there are ucf-crime"):
        read_annotations("ufc", [])
    with pytest.raises(NoInputError, match="no such file"):
        read_annotations("ucf-crime", [tmp_path / "gone.txt"])


LINE = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(str.encode),
    st.sampled_from([line.encode() for _, text in SAMPLES.values() for line in text.splitlines()]),
    st.from_regex(r"(Abuse|Arson|v=)\d{0,3}_x264(\.mp4)?[ ,|\t]{1,2}-?\d{0,22}[ ,|\t]\[?\d{0,5}(, \d{0,5})*\]?").map(
        str.encode
    ),
    st.sampled_from(
        [b'{"id": "a", "spans": [[1, 2]], "label": 1}', b"id,path,label", b"a,b.mp4,1", b"[[[[", b'"', b"\x00"]
    ),
)


@settings(max_examples=120)
@given(lines=st.lists(LINE, max_size=6), ending=st.sampled_from([".txt", ".csv", ".jsonl", ".json", ".npy"]))
def test_whatever_bytes_a_list_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ending: str
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    path = folder / f"list{ending}"
    path.write_bytes(b"\n".join(lines))
    for data_set in DATA_SETS:
        # Any other error ends the test: a user must never see one.
        with suppress(UsageError):
            read_annotations(data_set, [folder if ending == ".npy" else path]).manifest()
    with suppress(UsageError):
        read_own_list(path, root=folder).manifest()
    with suppress(UsageError):
        assert all(0 < count <= MAX_FRAMES for count in read_counts(path).values())


class TestNames:
    def test_names_say_label_and_class(self) -> None:
        entries, others = entries_of_names("lad", ["a/v_Crash_a_s017_c001.avi", "v_Crash_n_s001_c001.avi", "cat.avi"])
        assert [(e.id, e.label, e.class_name) for e in entries] == [
            ("a/v_Crash_a_s017_c001", 1, "Crash"),
            ("v_Crash_n_s001_c001", 0, ""),
        ]
        assert others == ["cat.avi"]

    def test_shanghaitechs_do_not(self) -> None:
        with pytest.raises(UsageError, match="do not say whether a video is normal"):
            entries_of_names("shanghaitech", ["01_001.avi"])


class TestOwnList:
    def test_lines_of_a_path_and_a_label(self, tmp_path: Path) -> None:
        path = tmp_path / "own.txt"
        lines = [
            "# mine",
            "cam 1/a.b.mp4\t1",
            "b.mp4,normal",
            "c 1.0",
            "v.1.x__#2",
            f"{tmp_path}/videos/d.avi anomalous",
        ]
        path.write_text("\n".join([*lines, "12 monkeys.mp4"]))
        found = read_own_list(path, root=tmp_path / "videos").manifest()
        assert [(e.id, e.path, e.label) for e in found] == [
            ("cam 1/a.b", "cam 1/a.b.mp4", 1),
            ("b", "b.mp4", 0),
            ("c", "c", 1),
            ("v.1.x__#2", "v.1.x__#2", -1),
            ("d", "d.avi", 1),
            ("12 monkeys", "12 monkeys.mp4", -1),
        ]

    def test_what_lies_elsewhere_or_is_there_twice_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "own.txt"
        path.write_text("/etc/passwd 1\n../x.mp4 1\na.mp4\nA.avi\n")
        problems = [str(p).removeprefix(f"{path}:") for p in read_own_list(path, root=tmp_path).problems]
        assert problems[0].startswith("1: '/etc/passwd' does not lie below")
        assert problems[1].startswith("2: path '../x.mp4' must lie below its root")
        assert problems[2] == "4: 'A': line 3 has 'a', which differs in case only"

    def test_a_manifest_is_a_list_too(self, tmp_path: Path) -> None:
        path = tmp_path / "own.csv"
        path.write_text("path,label\na.mp4,1\nb.mp4,maybe\n")
        found = read_own_list(path)
        assert [e.id for e in found.entries] == ["a"]
        assert [p.line for p in found.problems] == [3]


class TestCounts:
    @pytest.mark.parametrize("order", [name for name, order in COLUMN_ORDERS.items() if order.counted])
    def test_of_every_order_that_has_them(self, tmp_path: Path, order: str) -> None:
        path = tmp_path / "counts.txt"
        path.write_text(SAMPLES[order][1])
        counts = {name.split("/")[-1]: count for name, count in read_counts(path).items()}
        known = {"Abuse028_x264": {1412, 1413}, "Arson011_x264": {1266, 1267}, "Normal_Videos_003_x264": {2822, 2823}}
        assert counts
        assert all(count in known.get(name, {764}) for name, count in counts.items())

    def test_of_lines_manifests_and_listings(self, tmp_path: Path) -> None:
        for name, text in {
            "c.txt": "a/b.mp4 12\nc.1,13\n",
            "c.csv": "id,num_frames\na/b,12\nc.1,13\nd,\n",
            "c.jsonl": '{"id": "a/b", "num_frames": 12}\n{"id": "c.1", "num_frames": 13}\n',
            "c.json": '{"videos": [{"id": "a/b", "num_frames": 12}, {"id": "c.1", "num_frames": 13}], "failed": []}',
        }.items():
            path = tmp_path / name
            path.write_text(text)
            assert read_counts(path) == {"a/b": 12, "c.1": 13}, name

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("c.txt", "a 12\na 13\n", "2: 'a' has 13 frames here, 12 above"),
            ("c.txt", "a 12\nb\n", "2: 'b' holds no name with a count"),
            ("c.txt", "a 0\n", "1: a video has 1 to"),
            ("c.txt", "a,-4\n", "1: 'a,-4' holds no name"),
            ("c.txt", "a 999999999999\n", "1: a video has 1 to"),
            ("c.json", "[]", "is not what `vadx ls SET --json` prints"),
            ("c.json", '{"videos": [{"id": "a", "num_frames": 1.5}]}', "video 1: 'a' with 1.5 frames"),
        ],
    )
    def test_that_are_none_are_refused(self, tmp_path: Path, name: str, text: str, said: str) -> None:
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            read_counts(path)
        assert said in str(caught.value)
