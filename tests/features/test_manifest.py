"""Manifests: read, written, refused line by line; and which id belongs to which."""

from __future__ import annotations

import json
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadx.errors import NoInputError, UsageError
from vadx.extract.files import VIDEO_EXTENSIONS
from vadx.features import text_lines
from vadx.features.joining import EXTENSIONS, join_ids
from vadx.features.manifest import (
    COLUMNS,
    FORMATS,
    Manifest,
    ManifestEntry,
    manifest_text,
    read_manifest,
    scan_manifest,
    write_manifest,
)
from vadx.features.text_lines import MAX_FRAMES

ABUSE = ManifestEntry("Abuse/a1", "Abuse/a1.mp4", 1, "Abuse", "test", np.array([[165, 240], [300, 310]]), 1412)
NORMAL = ManifestEntry("Normal/n1", "Normal/n1.mp4", 0, "", "train")

CSV = """\
id,path,label,class,split,spans,num_frames
Abuse/a1,Abuse/a1.mp4,1,Abuse,test,165:240 300:310,1412
Normal/n1,Normal/n1.mp4,0,,train,,
"""
JSONL = """\
{"id": "Abuse/a1", "path": "Abuse/a1.mp4", "label": 1, "class": "Abuse", "split": "test", \
"spans": [[165, 240], [300, 310]], "num_frames": 1412}
{"id": "Normal/n1", "path": "Normal/n1.mp4", "label": 0, "class": "", "split": "train", "spans": [], \
"num_frames": null}
"""


def written(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems_of(folder: Path, text: str | bytes, name: str = "list.csv") -> list[str]:
    """Give what is wrong with a manifest, after seeing that reading it is refused for the same reason."""
    path = written(folder, text, name)
    _, problems = scan_manifest(path)
    if problems:
        with pytest.raises(UsageError) as caught:
            read_manifest(path)
        assert str(caught.value).startswith(f"{len(problems)} problem")
    return [str(problem).removeprefix(f"{path}:") for problem in problems]


@pytest.mark.parametrize(("format", "text"), [("csv", CSV), ("jsonl", JSONL)])
def test_both_formats_are_these_bytes(tmp_path: Path, format: str, text: str) -> None:
    path = tmp_path / f"m.{format}"
    write_manifest(path, [ABUSE, NORMAL])
    assert path.read_text() == text
    assert list(read_manifest(path)) == [ABUSE, NORMAL]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_list_of_ones_own_may_leave_columns_out_and_write_labels_as_words(tmp_path: Path) -> None:
    lines = [
        "\ufeffpath,label,class",
        "./cam 1/x.y.mp4,Anomalous,theft",
        "b.mkv,normal,Normal",
        "",
        "c.avi,,",
        "d.avi,,fire",
    ]
    text = "\r\n".join(lines)
    manifest = read_manifest(written(tmp_path, text))
    assert [(e.id, e.path, e.label, e.class_name) for e in manifest] == [
        ("cam 1/x.y", "cam 1/x.y.mp4", 1, "theft"),
        ("b", "b.mkv", 0, ""),
        ("c", "c.avi", -1, ""),
        ("d", "d.avi", 1, "fire"),
    ]
    assert manifest["b"].spans.shape == (0, 2)
    assert manifest["b"].spans.dtype == np.int64
    assert ("b" in manifest, "z" in manifest, len(manifest)) == (True, False, 4)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a,a.mp4,yes,,,,", "label 'yes' is none of"),
        ("a,a.mp4,2,,,,", "label '2' is none of"),
        ("a,a.mp4,0,Abuse,,,", "only an anomalous video has"),
        ("a,a.mp4,0,,,1:2,", "only an anomalous video has"),
        ("a,a.mp4,1,Normal,,,", "the label says anomalous"),
        ("a,a.mp4,1,,tset,,", "split 'tset' is none of train, val, test"),
        ("a,a.mp4,1,,,5:5,", "got [5, 5)"),
        ("a,a.mp4,1,,,9:5,", "got [9, 5)"),
        ("a,a.mp4,1,,,-1:5,", "got [-1, 5)"),
        ("a,a.mp4,1,,,1-5,", "span '1-5' is not of the form s:e"),
        ("a,a.mp4,1,,,1:2:3,", "span '1:2:3' is not of the form s:e"),
        ("a,a.mp4,1,,,1:٣,", "is not of the form s:e"),
        (f"a,a.mp4,1,,,0:{MAX_FRAMES + 1},", "a span [s, e) has"),
        (f"a,a.mp4,1,,,0:{'9' * 30},", "is not of the form s:e"),
        ("a,a.mp4,1,,,,0", "num_frames is between 1"),
        ("a,a.mp4,1,,,,1e3", "num_frames is a whole number"),
        (f"a,a.mp4,1,,,,{'9' * 5000}", "num_frames is a whole number"),
        ("a,a.mp4,1,,,,999999999999", "num_frames is between 1"),
        (",,1,,,,", "neither id nor path"),
        ("../x,,1,,,,", "id '../x' must lie below its root"),
        ("a/../../x,,1,,,,", "must lie below its root"),
        ("a\\..\\x,,1,,,,", "must lie below its root"),
        ("/etc/passwd,,1,,,,", "must lie below its root"),
        ("a,/etc/passwd,1,,,,", "path '/etc/passwd' must lie below its root"),
        ("a,C:\\x.mp4,1,,,,", "must lie below its root"),
        ("a,../x.mp4,1,,,,", "path '../x.mp4' must lie below its root"),
        ("a//b,,1,,,,", "must lie below its root"),
        ("a\tb,,1,,,,", "holds a control character"),
        ("a\x1b[2Jb,,1,,,,", "it holds the control character '\\x1b'"),
        ("a\x85b,,1,,,,", "it holds the control character '\\x85'"),
        ('"a,a.mp4,1,,,,', "no line of CSV"),
        ("a,a.mp4,1,,,", "6 cells under 7 columns"),
    ],
)
def test_what_is_wrong_with_a_line_is_named_with_its_number(tmp_path: Path, line: str, said: str) -> None:
    header = ",".join(COLUMNS)
    problems = problems_of(tmp_path, f"{header}\nok,ok.mp4,1,,,,\n\n{line}\nok2,ok2.mp4,1,,,,\n")
    assert len(problems) == 1
    assert problems[0].startswith("4: ")
    assert said in problems[0]


def test_a_byte_that_is_not_utf8_is_found_with_line_and_column(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, b"id\nfine\ncaf\xe9\nfine too\n\xff\xfe\n")
    assert problems == [
        "3: byte 0xe9 at column 4 is not UTF-8; save the file as UTF-8",
        "5: byte 0xff at column 1 is not UTF-8; save the file as UTF-8",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1, 2]", "a line is one object"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"id": "a", "id": "b"}', "a name stands in it twice"),
        ('{"id": 7}', "id is a text; got 7"),
        ('{"id": "a", "lable": 1}', "column 'lable' is not known; did you mean 'label'?"),
        ('{"id": "a", "label": true}', "label True is none of"),
        ('{"id": "a", "label": 1, "spans": [[1.5, 2.5]]}', "pairs of whole numbers"),
        ('{"id": "a", "label": 1, "spans": [[NaN, 1]]}', "NaN is no number of JSON"),
        ('{"id": "a", "label": 1, "spans": [[1, 1e999]]}', "1e999 is larger than any number"),
        ('{"id": "a", "label": 1, "spans": [[1, 2], [3]]}', "pairs of whole numbers"),
        ('{"id": "a", "label": 1, "spans": {"a": 1}}', "pairs of whole numbers"),
        ('{"id": "a", "label": 1, "spans": [[1, 99999999999999999999999]]}', "pairs of whole numbers"),
        ('{"id": "a", "num_frames": 1.0}', "num_frames is a whole number; got 1.0"),
        ('{"id": "a", "num_frames": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"id": "a\\u0000b"}', "holds a control character"),
        ('{"id": "a\\udcff"}', "holds a control character or a byte that is not UTF-8"),
        ('{"id": "a\\nb"}', "holds a control character"),
    ],
)
def test_json_lines_are_refused_by_line_too(tmp_path: Path, line: str, said: str) -> None:
    (problem,) = problems_of(tmp_path, f'{{"id": "ok"}}\n{line}\n', "list.jsonl")
    assert problem.startswith("2: ")
    assert said in problem


def test_ids_that_stand_there_twice_or_differ_in_case_only_are_found(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, "path\na/x.mp4\nb/y.mp4\na/x.avi\nB/Y.mp4\na/X.mp4\nc/z.mp4\n")
    assert problems == [
        "4: 'a/x': line 2 has the same id",
        "5: 'B/Y': line 3 has 'b/y', which differs in case only",
        "6: 'a/X': line 2 has 'a/x', which differs in case only",
    ]


def test_a_manifest_made_by_hand_has_no_twins_either() -> None:
    with pytest.raises(UsageError, match="cannot be told apart: 'a';"):
        Manifest((ManifestEntry("a"), ManifestEntry("b"), ManifestEntry("a")))
    with pytest.raises(UsageError, match="'A', 'a'"):
        Manifest((ManifestEntry("a"), ManifestEntry("A")))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("id,lable", "'lable' is none; did you mean 'label'?"),
        ("id,path,id", "'id' is there twice"),
        ("a/x.mp4,1", "'a/x.mp4' is none; there are id, path"),
        ('"id', "no line of CSV"),
    ],
)
def test_a_wrong_header_is_told_once(tmp_path: Path, header: str, said: str) -> None:
    (problem,) = problems_of(tmp_path, f"{header}\na,1\nb,1\n")
    assert problem.startswith("1: ")
    assert said in problem


def test_many_problems_are_counted_and_only_the_first_shown(tmp_path: Path) -> None:
    path = written(tmp_path, "id,label\n" + "".join(f"v{i},maybe\n" for i in range(50)))
    with pytest.raises(UsageError) as caught:
        read_manifest(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "50 problems:"
    assert lines[1].startswith(f"  {path}:2: label 'maybe'")
    assert lines[21].strip() == "and 30 more"
    assert lines[-1].endswith("Mend these lines first.")


def test_an_error_that_shows_a_name_moves_no_cursor(tmp_path: Path) -> None:
    path = written(tmp_path, "id,label\n\u202egpj.exe,maybe\u202e\n", "a\x1b[2Jb.csv")
    with pytest.raises(UsageError) as caught:
        read_manifest(path)
    assert not {"\u202e", "\x1b"} & set(str(caught.value))
    assert "a\\x1b[2Jb.csv:2: label 'maybe\\u202e'" in str(caught.value)


def test_a_file_far_too_long_for_a_list_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, CSV)
    monkeypatch.setattr(text_lines, "MAX_FILE_BYTES", len(CSV))
    assert len(read_manifest(path)) == 2
    monkeypatch.setattr(text_lines, "MAX_FILE_BYTES", len(CSV) - 1)
    with pytest.raises(UsageError, match="is longer than"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["m.txt", "m", "m.CSV.bak"])
def test_a_format_that_does_not_exist_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="csv, jsonl"):
        write_manifest(tmp_path / name, [])
    write_manifest(tmp_path / name, [NORMAL], format="jsonl")
    assert read_manifest(tmp_path / name, format="jsonl")["Normal/n1"] == NORMAL


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"gone\.csv: no such file"):
        read_manifest(tmp_path / "gone.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=r"folder\.csv cannot be read"):
        read_manifest(tmp_path / "folder.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        read_manifest("nul\0.csv")
    with pytest.raises(UsageError, match=r"folder\.csv is a folder; name a file in it"):
        write_manifest(tmp_path / "folder.csv", [NORMAL])
    with pytest.raises(UsageError, match="there is no folder"):
        write_manifest(tmp_path / "none" / "m.csv", [NORMAL])


names = st.text(
    st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="/\\:"), min_size=1, max_size=12
)
places = st.lists(names.filter(lambda n: n not in {".", ".."}), min_size=1, max_size=3).map("/".join)


@st.composite
def entries(draw: st.DrawFn, identifier: str) -> ManifestEntry:
    label = draw(st.sampled_from([-1, 0, 1]))
    spans: list[tuple[int, int]] = []
    class_name = ""
    if label == 1:
        bounds = st.tuples(st.integers(0, 9000), st.integers(1, 500)).map(lambda p: (p[0], p[0] + p[1]))
        spans = draw(st.lists(bounds, max_size=4))
        class_name = draw(st.one_of(st.just(""), names.filter(lambda n: n.strip().lower() != "normal" and n != ".")))
    return ManifestEntry(
        identifier,
        draw(st.one_of(st.just(""), places)),
        label,
        "" if class_name in {".", ".."} else class_name,
        draw(st.sampled_from(["", "train", "val", "test"])),
        np.array(spans, dtype=np.int64).reshape(-1, 2),
        draw(st.none() | st.integers(1, MAX_FRAMES)),
    )


@settings(max_examples=60)
@given(st.data(), st.sampled_from(sorted(FORMATS)))
def test_every_manifest_reads_back_to_itself(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, format: str
) -> None:
    identifiers = data.draw(st.lists(places, max_size=5, unique_by=lambda p: normalize("NFC", p).casefold()))
    manifest = Manifest(tuple(data.draw(entries(name)) for name in identifiers))
    path = tmp_path_factory.mktemp("round") / f"m.{format}"
    path.write_text(manifest_text(manifest, format), newline="")
    back = read_manifest(path)
    assert list(back) == list(manifest)
    assert manifest_text(back, format) == path.read_text()


def test_the_extensions_are_those_that_a_folder_is_searched_for() -> None:
    assert EXTENSIONS == VIDEO_EXTENSIONS


class TestJoining:
    def test_equal_ids_come_first_and_take_no_further_part(self) -> None:
        joined = join_ids(["x/a", "b"], ["x/a", "y/a", "z/b"])
        assert dict(joined.pairs) == {"x/a": "x/a", "b": "z/b"}
        assert (joined.missing, joined.extra, dict(joined.ambiguous)) == ((), ("y/a",), {})

    def test_the_last_part_decides_where_it_is_unique(self) -> None:
        joined = join_ids(["Abuse/a1", "Arson/b1"], ["part 1/a1.mp4", "c1"])
        assert dict(joined.pairs) == {"Abuse/a1": "part 1/a1.mp4"}
        assert (joined.missing, joined.extra) == (("Arson/b1",), ("c1",))

    def test_what_fits_several_is_ambiguous_and_neither_missing_nor_extra(self) -> None:
        joined = join_ids(["p/a"], ["q/a", "r/a", "s"])
        assert dict(joined.ambiguous) == {"p/a": ("q/a", "r/a")}
        assert (dict(joined.pairs), joined.missing, joined.extra) == ({}, (), ("s",))
        both = join_ids(["p/a", "q/a"], ["a"])
        assert dict(both.ambiguous) == {"p/a": ("a",), "q/a": ("a",)}

    def test_an_id_that_is_the_end_of_another_goes_before_a_mere_name(self) -> None:
        joined = join_ids(["Testing/n1"], ["ucf/Testing/n1", "ucf/Event/n1"])
        assert dict(joined.pairs) == {"Testing/n1": "ucf/Testing/n1"}
        assert joined.extra == ("ucf/Event/n1",)

    def test_what_is_left_of_a_name_that_several_have_is_no_match(self) -> None:
        joined = join_ids(["T/x", "E/x"], ["a/T/x", "q/x"])
        assert dict(joined.pairs) == {"T/x": "a/T/x"}
        assert dict(joined.ambiguous) == {"E/x": ("q/x",)}

    def test_the_same_id_goes_before_every_other_and_the_extension_is_none_of_it(self) -> None:
        joined = join_ids(["Testing/n1"], ["copy/Testing/n1.mp4", "Testing/n1.MP4"])
        assert dict(joined.pairs) == {"Testing/n1": "Testing/n1.MP4"}
        assert joined.extra == ("copy/Testing/n1.mp4",)
        assert dict(join_ids(["a"], ["a.mp4", "a.avi"]).ambiguous) == {"a": ("a.mp4", "a.avi")}

    def test_dots_inside_names_are_kept(self) -> None:
        names = ["Bad.Boys.1995__#01-11-55_label_G-B2-B6", "Bad.Boys.1995__#00-26-51_label_B2-0-0"]
        assert dict(join_ids(names, [f"videos/{n}.mp4" for n in names]).pairs) == {n: f"videos/{n}.mp4" for n in names}

    def test_composed_and_decomposed_letters_are_one(self) -> None:
        assert join_ids(["\u00e9"], ["x/e\u0301"]).pairs == {"\u00e9": "x/e\u0301"}


def test_ids_are_kept_in_the_form_that_extraction_gives_them() -> None:
    assert ManifestEntry("e\u0301t", "e\u0301t.mp4").id == "\u00e9t"
    assert ManifestEntry("e\u0301t", "e\u0301t.mp4").path == "e\u0301t.mp4"


def test_a_manifest_labels_the_ids_of_a_store() -> None:
    found, joined = Manifest((ABUSE, NORMAL)).join(["part 1/Abuse/a1", "x", "n1"])
    assert found == {"part 1/Abuse/a1": ABUSE, "n1": NORMAL}
    assert joined.missing == ("x",)


def test_json_lines_are_json(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in manifest_text([ABUSE, NORMAL], "jsonl").splitlines()]
    assert [tuple(row) for row in rows] == [tuple(COLUMNS)] * 2
