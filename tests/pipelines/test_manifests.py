"""`vadx manifest`: lists against a folder, what is missing, extra, ambiguous or hostile, and the exit codes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from support import Ran
from vadx.errors import NoInputError, UsageError, VadxError
from vadx.features.annotations import DATA_SETS
from vadx.features.manifest import read_manifest
from vadx.pipelines.cli.manifest import manifest
from vadx.pipelines.manifests import OWN_LIST, look, make_manifest

Command = Callable[..., Ran]

SPANS = """\
Abuse028_x264.mp4  Abuse  165  240  -1  -1
Arson011_x264.mp4  Arson  150  420  680  1267
Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1
"""
TRAIN = "Abuse/Abuse001_x264.mp4\nTraining_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command in ``tmp_path``; an error of vadx's own is raised."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Ran:
        result = CliRunner().invoke(manifest, [str(a) for a in arguments], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return Ran(int(result.return_value or 0), result.stdout, result.stderr)

    return run


@pytest.fixture
def published(field_data: Path) -> Callable[[str], Path]:
    """Give what finds the folder with a data set's published lists."""
    return lambda name: field_data / "annotations" / name.replace("-", "_")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "Temporal_Anomaly_Annotation.txt").write_text(SPANS)
    (folder / "Anomaly_Train.txt").write_text(TRAIN)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a folder as people have it: parts, a duplicate of a test video elsewhere, one video short, one too many."""
    return touch(
        tmp_path / "ucf",
        "part 1/Abuse/Abuse028_x264.mp4",
        "part 1/Abuse/Abuse001_x264.mp4",
        "part 2/Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4",
        "part 2/Normal_Videos_event/Normal_Videos_003_x264.mp4",
        "part 2/Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4",
        "holiday.mkv",
        "notes.txt",
        ".hidden/Arson/Arson011_x264.mp4",
    )


def test_the_manifest_goes_to_stdout_and_the_count_to_stderr(command: Command, root: Path, lists: Path) -> None:
    ran = command("ucf-crime", root, "-a", lists)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "id,path,label,class,split,spans,num_frames",
        "part 1/Abuse/Abuse001_x264,part 1/Abuse/Abuse001_x264.mp4,1,Abuse,train,,",
        "part 2/Training_Normal_Videos_Anomaly/Normal_Videos001_x264,"
        "part 2/Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4,0,,train,,",
        "part 1/Abuse/Abuse028_x264,part 1/Abuse/Abuse028_x264.mp4,1,Abuse,test,165:240,",
        "Arson/Arson011_x264,Arson/Arson011_x264.mp4,1,Arson,test,150:420 680:1267,",
        "part 2/Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264,"
        "part 2/Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4,0,,test,,",
    ]
    assert ran.err.splitlines() == [
        f"UCF-Crime below {root}: 4 of 5 listed videos are there, 1 missing, 0 ambiguous, 2 extra",
        "  train: 1 of 1 anomalous, 1 of 1 normal",
        "  test: 1 of 2 anomalous, 1 of 1 normal",
        "  1608 published train videos are in none of the lists given (-a LIST)",
        "  287 published test videos are in none of the lists given (-a LIST)",
        "  missing: 1",
        "    Arson/Arson011_x264.mp4",
        "  extra: 2",
        "    holiday.mkv",
        "    part 2/Normal_Videos_event/Normal_Videos_003_x264.mp4",
    ]


def test_the_lists_may_lie_beside_the_videos(command: Command, root: Path, lists: Path) -> None:
    lists.rename(root / "lists")
    ran = command("ucf-crime", root, "--format", "jsonl")
    assert [json.loads(line)["split"] for line in ran.out.splitlines()] == ["train", "train", "test", "test", "test"]


def test_a_missing_video_is_a_finding_only_when_a_check_is_asked_for(command: Command, root: Path, lists: Path) -> None:
    arguments = ("ucf-crime", root, "-a", lists, "-q")
    assert command(*arguments) == Ran(0, "Arson/Arson011_x264.mp4\n", "")
    assert command(*arguments, "--check").code == 4
    touch(root, "Arson/Arson011_x264.mp4")
    assert command(*arguments, "--check") == Ran(0, "", "")


def test_out_is_written_whole_and_reads_back(command: Command, root: Path, lists: Path, tmp_path: Path) -> None:
    for name in ("m.csv", "m.jsonl"):
        ran = command("ucf-crime", root, "-a", lists, "-o", name)
        assert (ran.code, ran.out) == (0, "")
        assert ran.err.splitlines()[-1] == f"5 videos written to {name}"
        assert read_manifest(tmp_path / name)["Arson/Arson011_x264"].spans.tolist() == [[150, 420], [680, 1267]]
    command("ucf-crime", root, "-a", lists, "-o", "m.csv", "--present")
    assert len(read_manifest(tmp_path / "m.csv")) == 4
    with pytest.raises(UsageError, match="csv, jsonl"):
        command("ucf-crime", root, "-a", lists, "-o", "m.txt")
    with pytest.raises(UsageError, match="csv, jsonl"):
        command("ucf-crime", root, "-a", lists, "--format", "xml")


def test_json_says_everything_and_names_are_cut_only_for_people(command: Command, tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "many", *(f"extra{i:02d}.avi" for i in range(30)))
    ran = command("ucf-crime", root, "-a", lists, "--json")
    report = json.loads(ran.out)
    assert (report["videos"], report["present"], len(report["missing"]), len(report["extra"])) == (5, 0, 5, 30)
    assert report["by_split"]["test"] == {"anomalous": [0, 2], "normal": [0, 1]}
    assert report["manifest"] is None
    assert ran.err == ""
    shown = command("ucf-crime", root, "-a", lists, "--limit", "3").err
    assert "    extra02.avi\n    and 27 more (--limit 0 shows all)\n" in shown
    assert "extra29.avi" in command("ucf-crime", root, "-a", lists, "--limit", "0").err


def test_names_that_differ_in_case_only_are_told(command: Command, tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "v", "arson/arson011_X264.MP4")
    report = json.loads(command("ucf-crime", root, "-a", lists, "--json").out)
    assert report["other_case"] == {"Arson/Arson011_x264.mp4": "arson/arson011_X264.MP4"}
    assert report["extra"] == []
    assert "Arson/Arson011_x264.mp4 (there is arson/arson011_X264.MP4)" in command("ucf-crime", root, "-a", lists).err


def test_two_files_for_one_video_are_ambiguous(command: Command, tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "v", "a/Arson011_x264.mp4", "b/Arson011_x264.mp4")
    report = json.loads(command("ucf-crime", root, "-a", lists, "--json").out)
    assert report["ambiguous"] == {"Arson/Arson011_x264": ["a/Arson011_x264.mp4", "b/Arson011_x264.mp4"]}
    assert "Arson/Arson011_x264.mp4" not in report["missing"]
    assert report["extra"] == []
    (tmp_path / "mine.txt").write_text("Arson011_x264.mp4\n")
    assert command("list", root, "-a", "mine.txt", "--check", "-q") == Ran(4, "", "")


def test_files_that_cannot_be_used_are_not_there(command: Command, tmp_path: Path, lists: Path) -> None:
    root = touch(tmp_path / "v", "Abuse/Abuse001_x264.mp4", "x/a\x1b[2Jb.mp4", "line\nbreak/Abuse028_x264.mp4")
    (root / "Abuse" / "Abuse028_x264.mp4").touch()
    (root / "Arson011_x264.mp4").symlink_to(root / "gone.mp4")
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.mp4")).write_bytes(b"x")
    ran = command("ucf-crime", root, "-a", lists, "--json", "--check")
    report = json.loads(ran.out)
    assert ran.code == 4
    assert report["broken"] == {
        "Abuse/Abuse028_x264.mp4": "it holds 0 bytes",
        "Arson011_x264.mp4": "a link to nothing",
        "caf\\xe9.mp4": "its name holds a control character, or bytes that are not UTF-8",
        "x/a\x1b[2Jb.mp4": "its name holds a control character, or bytes that are not UTF-8",
        "line\nbreak/Abuse028_x264.mp4": "its name holds a control character, or bytes that are not UTF-8",
    }
    assert report["present"] == 1
    shown = command("ucf-crime", root, "-a", lists).err
    assert "\x1b" not in shown
    assert "x/a\\x1b[2Jb.mp4: its name holds" in shown


def test_videos_that_are_folders_of_pictures_are_told_apart(command: Command, tmp_path: Path) -> None:
    root = touch(tmp_path / "sht", "training/videos/01_001.avi", "testing/frames/01_0015/000.jpg", "other/0.png")
    (tmp_path / "SH_Test_NEW.txt").write_text("01_001,0,764\n01_0015,1,-1\n01_0016,1,-1\n")
    masks = tmp_path / "masks"
    masks.mkdir()
    np.save(masks / "01_0015.npy", np.array([0, 1, 1, 0], np.uint8))
    ran = command("shanghaitech", root, "-a", "SH_Test_NEW.txt", "-a", masks, "--json", "--check", "-o", "m.csv")
    report = json.loads(ran.out)
    assert (ran.code, report["as_pictures"], report["missing"]) == (
        4,
        ["testing/frames/01_0015"],
        ["testing/frames/01_0016"],
    )
    (tmp_path / "SH_Test_NEW.txt").write_text("01_0015,1,-1\n")
    assert command("shanghaitech", root, "-a", "SH_Test_NEW.txt", "--check", "-q") == Ran(4, "", "")
    entry = read_manifest(tmp_path / "m.csv")["testing/frames/01_0015"]
    assert (entry.spans.tolist(), entry.num_frames) == ([[1, 3]], 4)


def test_without_lists_the_names_say_what_they_can(command: Command, tmp_path: Path) -> None:
    root = touch(tmp_path / "lad", "Crash/v_Crash_a_s001_c001.avi", "v_Crash_n_s001_c001.avi", "cat.avi")
    ran = command("lad", root)
    assert [line.split(",")[2:4] for line in ran.out.splitlines()[1:]] == [["0", ""], ["1", "Crash"]]
    assert "no published list was found: labels are those of the names" in ran.err
    assert "extra: 1\n    cat.avi" in ran.err
    assert "published" not in ran.err.replace("no published list", "")
    empty = touch(tmp_path / "empty", "cat.avi")
    with pytest.raises(NoInputError, match=r"neither a list nor a video of LAD2000; lists are named \*lad_test_anno"):
        command("lad", empty)
    with pytest.raises(UsageError, match="give its lists with --annotations"):
        command("shanghaitech", empty)


def test_a_list_of_ones_own(command: Command, tmp_path: Path) -> None:
    root = touch(tmp_path / "own", "a b.mp4", "c/d.mkv")
    (tmp_path / "mine.txt").write_text(f"a b.mp4 normal\n{root}/c/d.mkv 1\ngone.avi\n")
    (tmp_path / "frames.txt").write_text("d 12\n")
    ran = command("list", root, "-a", "mine.txt", "--counts", "frames.txt")
    assert ran.out.splitlines()[1:] == ["a b,a b.mp4,0,,,,", "c/d,c/d.mkv,1,,,,12", "gone,gone.avi,-1,,,,"]
    assert ran.err.startswith(f"your list below {root}: 2 of 3 listed videos are there, 1 missing")
    with pytest.raises(UsageError, match="must be named: vadx manifest list ROOT --annotations FILE"):
        command("list", root)
    (tmp_path / "mine.txt").write_text("../../etc/passwd 1\nfine.mp4\n")
    with pytest.raises(UsageError, match=r"mine\.txt:1: path '../../etc/passwd' must lie below its root"):
        command("list", root, "-a", "mine.txt")


def test_spans_in_parts_of_the_length_need_counts(command: Command, tmp_path: Path) -> None:
    root = touch(tmp_path / "tad", "01_Accident_004.mp4")
    rows = [{"video_path": "x/01_Accident_004.mp4", "anomaly_span": [[0.25, 0.5]]}]
    (root / "tad_test_anno.json").write_text(json.dumps(rows))
    assert "note: TAD: the spans of 1 videos are parts of a length" in command("tad", root).err
    (tmp_path / "c.json").write_text('{"videos": [{"id": "01_Accident_004", "num_frames": 100}], "failed": []}')
    ran = command("tad", root, "--counts", "c.json")
    assert ran.out.splitlines()[1] == "01_Accident_004,01_Accident_004.mp4,1,Accident,test,25:50,100"
    assert "note" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("ufc-crime", "."), UsageError, "there is no data set 'ufc-crime'; there are ucf-crime"),
        (("ucf-crime", "nowhere"), NoInputError, "nowhere: there is no such folder"),
        (("ucf-crime", "n" * 300), NoInputError, "there is no such folder"),
        (("ucf-crime", ".", "-a", "n" * 300), UsageError, "cannot be read: File name too long"),
        (("ucf-crime", ".", "-a", "gone.txt"), NoInputError, "gone.txt: no such file"),
        (("ucf-crime", ".", "-a", "."), NoInputError, "holds no list of UCF-Crime; they are named"),
        (("ucf-crime", ".", "--counts", "gone.txt"), NoInputError, "gone.txt: no such file"),
    ],
)
def test_what_cannot_be_meant(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], error: type[VadxError], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=re.escape(said)):
        command(*arguments)


def test_contradicting_lists_make_no_manifest(command: Command, root: Path, lists: Path, tmp_path: Path) -> None:
    (lists / "Test_Annotation.txt").write_text("Abuse/Abuse028_x264.mp4 1412 Abuse 165 241 -1 -1\n")
    with pytest.raises(UsageError, match=r"Test_Annotation\.txt:1: spans of Abuse/Abuse028_x264 is \[\[165, 241\]\]"):
        command("ucf-crime", root, "-a", lists, "-o", "m.csv")
    assert not (tmp_path / "m.csv").exists()


def test_the_help_names_every_data_set(command: Command) -> None:
    text = " ".join(str(manifest.help).split())
    assert all(name in text for name in (*DATA_SETS, OWN_LIST))


def test_a_folder_that_may_not_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = touch(tmp_path / "v", "a/x.mp4", "b/y.mp4")
    scan = os.scandir

    def refusing(path: str | os.PathLike[str]) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    content = look(root)
    assert content.videos == ("a/x.mp4",)
    assert content.broken == {"b": "it cannot be searched: Permission denied"}


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "a/x.mp4")
    (root / "a" / "again").symlink_to(root)
    assert look(root).videos == ("a/x.mp4",)


@pytest.mark.parametrize(("name", "total"), [("ucf-crime", 1900), ("xd-violence", 4754), ("shanghaitech", 437)])
def test_every_published_video_is_missing_from_an_empty_folder(
    tmp_path: Path, name: str, total: int, published: Callable[[str], Path]
) -> None:
    folder = published(name)
    checked = make_manifest(name, tmp_path, annotations=[folder])
    assert (len(checked.missing), len(checked.present), checked.unlisted()) == (total, 0, {})


@pytest.mark.parametrize(("name", "total"), [("tad", 100), ("lad", 560)])
def test_test_videos_that_are_there_have_their_spans(
    tmp_path: Path, name: str, total: int, published: Callable[[str], Path]
) -> None:
    folder = published(name)
    (tmp_path / "videos").mkdir()
    missing = make_manifest(name, tmp_path / "videos", annotations=[folder]).missing
    touch(tmp_path / "videos" / "somewhere", *missing)
    (tmp_path / "counts.txt").write_text("".join(f"{path} 500\n" for path in missing))
    checked = make_manifest(name, tmp_path / "videos", annotations=[folder], counts=tmp_path / "counts.txt")
    assert (len(checked.present), checked.is_complete, checked.notes) == (total, True, ())
    assert all(len(entry.spans) > 0 for entry in checked.entries if entry.label == 1)
    assert {entry.path.split("/")[0] for entry in checked.entries} == {"somewhere"}


def test_all_of_ucf_crime_is_found_where_it_is(tmp_path: Path, published: Callable[[str], Path]) -> None:
    annotations = published("ucf-crime")
    (tmp_path / "empty").mkdir()
    missing = make_manifest("ucf-crime", tmp_path / "empty", annotations=[annotations]).missing
    assert len(missing) == 1900
    touch(tmp_path / "ucf", *missing[1:], "Normal_Videos_event/Normal_Videos_003_x264.mp4")
    checked = make_manifest("ucf-crime", tmp_path / "ucf", annotations=[annotations])
    assert checked.missing == missing[:1]
    assert checked.extra == ("Normal_Videos_event/Normal_Videos_003_x264.mp4",)
    assert (len(checked.present), checked.unlisted(), checked.is_complete) == (1899, {}, False)
