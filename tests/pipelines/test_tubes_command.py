"""``vadx tubes``: three stages, each made once; what changes makes again only what hangs on it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support import PLUGINS, Ran, make_video
from vadx.features.stage_set import StageSet
from vadx.features.store import Store
from vadx.pipelines.tube_shards import detections_of, ranked, tubes_of

from .forking import ForkServer, shard_hashes

Vadx = Callable[..., Ran]

BOXES = ("tubes", "--detector", "tiny-boxes", "--device", "cpu", "--min-length-unary", "10")
LINKED = (*BOXES, "--min-length-multivariate", "10", "--stage", "link")
WHOLE = (*BOXES, "--min-length-multivariate", "10", "--backbone", "tiny", "--backbone-weights", "random")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the plug-in detector's class, whose ``num_seen`` counts frames."""
    from vadx.detectors.detector import detectors
    from vadx.pipelines import tube_detection

    monkeypatch.syspath_prepend(str(PLUGINS))
    detectors.cache_clear()
    tube_detection._detectors.clear()
    import vadx_tiny

    monkeypatch.setattr(vadx_tiny.TinyBoxes, "num_seen", 0)
    yield vadx_tiny.TinyBoxes
    detectors.cache_clear()
    tube_detection._detectors.clear()


def stage_of(store: Path, kind: str) -> StageSet:
    (found,) = [one for one in Store(store).all_sets() if isinstance(one, StageSet) and one.kind == kind]
    return found


def events(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def statuses(ran: Ran) -> dict[str, str]:
    """Give stage -> status of a run over one video with ``--json``."""
    return {e["feature_set"].rpartition("-")[0]: e["status"] for e in events(ran) if e["event"] == "video"}


@pytest.mark.usefixtures("tiny")
def test_a_run_makes_three_sets(tmp_path: Path, six_videos: Path, vadx_here: Vadx) -> None:
    ran = vadx_here(*WHOLE, six_videos, "--out", "store")
    assert ran.code == 0, ran.err
    store = tmp_path / "store"
    for identifier, frames in {"Normal/clip000_x264": 18, "Abuse/clip005_x264": 33}.items():
        found = detections_of(stage_of(store, "detections").open(identifier))
        assert (len(found), found.num_frames) == (2 * frames, frames)
        linked = stage_of(store, "tubes").open(identifier)
        tubes = tubes_of(linked)
        assert [(t.kind, t.label, len(t)) for t in tubes if t.kind == "unary"] == [
            ("unary", 1, frames),
            ("unary", 3, frames),
        ]
        features = stage_of(store, "tube-features").open(identifier)
        places = ranked(linked)
        np.testing.assert_array_equal(features.arrays["tube"], places)
        assert features.arrays["region"].shape == (len(places), 8)
        assert np.diff(features.arrays["clip_offset"]).tolist() == [len(tubes[p]) // 4 for p in places]
        assert np.isfinite(features.arrays["region"]).all()
        assert not np.array_equal(features.arrays["region"], features.arrays["whole_frame"])
    assert "6 stored, 0 current, 0 failed" in ran.err
    assert ran.out.strip().endswith(stage_of(store, "tube-features").name)


def test_nothing_is_made_twice(tmp_path: Path, vadx_here: Vadx, tiny: Any) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    assert vadx_here(*WHOLE, "a.mp4", "--out", "store", "--json").code == 0
    before, seen = shard_hashes(tmp_path / "store"), tiny.num_seen
    assert (len(before), seen) == (3, 24)
    again = vadx_here(*WHOLE, "a.mp4", "--out", "store", "--json")
    assert set(statuses(again).values()) == {"current"}
    assert tiny.num_seen == seen
    assert shard_hashes(tmp_path / "store") == before


def test_other_links_do_not_detect_again(tmp_path: Path, vadx_here: Vadx, tiny: Any) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    vadx_here(*LINKED, "a.mp4", "--out", "store")
    seen = tiny.num_seen
    ran = vadx_here(*LINKED, "a.mp4", "--out", "store", "--max-gap", "1", "--json")
    assert list(statuses(ran).values()) == ["current", "done"]
    assert tiny.num_seen == seen
    kinds = [one.kind for one in Store(tmp_path / "store").all_sets() if isinstance(one, StageSet)]
    assert sorted(kinds) == ["detections", "tubes", "tubes"]


@pytest.mark.usefixtures("tiny")
def test_a_changed_video_is_made_again_in_every_stage(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    vadx_here(*WHOLE, "a.mp4", "--out", "store")
    make_video(tmp_path / "a.mp4", num_frames=20, seed=5)
    ran = vadx_here(*WHOLE, "a.mp4", "--out", "store", "--json")
    assert set(statuses(ran).values()) == {"done"}
    assert detections_of(stage_of(tmp_path / "store", "detections").open("a")).num_frames == 20
    assert {len(tube) for tube in tubes_of(stage_of(tmp_path / "store", "tubes").open("a"))} == {20}


@pytest.mark.usefixtures("tiny")
def test_a_damaged_stage_is_made_again_and_the_next_one_is_current(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    vadx_here(*LINKED, "a.mp4", "--out", "store")
    path = stage_of(tmp_path / "store", "detections").shard_path("a")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert vadx_here("verify", "--store", "store", "--quick").code == 4
    ran = vadx_here(*LINKED, "a.mp4", "--out", "store", "--json")
    assert list(statuses(ran).values()) == ["done", "current"]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", ["detections", "tubes"])
def test_a_rotten_body_is_found_when_it_is_read_and_made_again(
    tmp_path: Path, vadx_here: Vadx, kind: str, tiny: Any
) -> None:
    for name in ("a", "b"):
        make_video(tmp_path / "v" / f"{name}.mp4", num_frames=24)
    vadx_here(*LINKED, "v", "--out", "store")
    path = stage_of(tmp_path / "store", kind).shard_path("a")
    whole = path.read_bytes()
    path.write_bytes(whole[:600] + bytes(len(whole) - 600))
    # Only what has to read it can know.
    ran = vadx_here(*WHOLE, "v", "--max-gap", "1", "--out", "store")
    assert ran.code == 0, ran.err
    assert (path.read_bytes() == whole) == (kind == "detections")
    ran = vadx_here(*WHOLE, "v", "--out", "store")
    assert ran.code == 0, ran.err
    assert path.read_bytes() == whole
    assert tiny.num_seen == (72 if kind == "detections" else 48)


@pytest.mark.usefixtures("tiny")
def test_clips_that_are_wanted_are_another_set(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    vadx_here(*WHOLE, "a.mp4", "--out", "store")
    vadx_here(*WHOLE, "a.mp4", "--out", "store", "--keep-clips")
    stages = [s for s in Store(tmp_path / "store").all_sets() if isinstance(s, StageSet) and s.kind == "tube-features"]
    kept = {stage.recipe.settings.get("keep_clips", False): stage.open("a").arrays for stage in stages}
    assert set(kept) == {True, False}
    assert "region_clips" not in kept[False]
    np.testing.assert_array_equal(kept[True]["region"], kept[False]["region"])
    first = kept[True]["region_clips"][: kept[True]["clip_offset"][1]]
    np.testing.assert_allclose(first.mean(axis=0), kept[True]["region"][0], rtol=1e-6)


@pytest.mark.usefixtures("tiny")
def test_a_video_is_never_drawn_over(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "v" / "a" / "b.mp4", num_frames=24)
    make_video(tmp_path / "v" / "a-b.mp4", num_frames=24)
    videos = {path: path.read_bytes() for path in (tmp_path / "v").rglob("*.mp4")}
    ran = vadx_here(*LINKED, "v/a-b.mp4", "--out", "store", "--overlay", "v/a-b.mp4")
    assert ran.code == 2
    assert "is the video itself" in ran.err
    ran = vadx_here(*LINKED, "v", "--out", "store", "--overlay", "v", "--sheet", "v")
    assert ran.code == 0, ran.err
    assert {path: path.read_bytes() for path in videos} == videos
    drawn = sorted(path.relative_to(tmp_path / "v").as_posix() for path in (tmp_path / "v").rglob("*.tubes.*"))
    assert drawn == ["a-b.tubes.mp4", "a-b.tubes.png", "a/b.tubes.mp4", "a/b.tubes.png"]


def test_a_file_of_boxes_that_changes_meanwhile_is_told(
    tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.pipelines import tube_detection

    make_video(tmp_path / "a.mp4", num_frames=24)
    (tmp_path / "d.csv").write_text("frame,x1,y1,x2,y2\n0,1,1,9,9\n")
    command = ("tubes", "--detections", "d.csv", "--stage", "link", "a.mp4", "--out", "store")
    read = tube_detection.DetectionFiles.read

    def changing(self: Any, identifier: str, stride: int) -> Any:
        found = read(self, identifier, stride)
        (tmp_path / "d.csv").write_text("frame,x1,y1,x2,y2\n0,2,2,9,9\n")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(tube_detection.DetectionFiles, "read", changing)
        ran = vadx_here(*command)
    assert ran.code == 3
    assert "changed while it was read" in ran.err
    assert vadx_here(*command).code == 0
    assert detections_of(stage_of(tmp_path / "store", "detections").open("a")).boxes[0, 0] == 2


@pytest.mark.usefixtures("tiny")
def test_a_dry_run_with_equal_ids_stays_json(tmp_path: Path, vadx_here: Vadx) -> None:
    for name in ("x.mp4", "x.avi"):
        make_video(tmp_path / "v" / name, num_frames=8)
    ran = vadx_here(*LINKED, "v", "--out", "store", "-n", "--json")
    assert [event["reason"] for event in events(ran)] == ["KEY_COLLISION", "KEY_COLLISION"]
    assert vadx_here(*LINKED, "v", "--out", "store", "-n", "-q").out == ""


@pytest.mark.usefixtures("tiny")
def test_a_broken_video_fails_once_and_the_rest_goes_on(tmp_path: Path, vadx_here: Vadx) -> None:
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "good.mp4", num_frames=24)
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"no video at all")
    ran = vadx_here(*WHOLE, "videos", "--out", "store")
    assert ran.code == 3
    # As it happens, and again at the end; not once a stage.
    assert ran.err.count("error[VIDEO_") == 2
    for kind in ("detections", "tubes", "tube-features"):
        assert "good" in stage_of(tmp_path / "store", kind)
    failures = [len(stage_of(tmp_path / "store", kind).failures()) for kind in ("detections", "tubes")]
    assert failures == [1, 0]
    again = vadx_here(*WHOLE, "videos", "--out", "store")
    assert "(failed before)" in again.err


@pytest.mark.usefixtures("tiny")
def test_a_stride_looks_at_every_so_many_frames(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    assert vadx_here(*LINKED, "a.mp4", "--out", "store", "--stride", "5").code == 0
    detections = stage_of(tmp_path / "store", "detections").open("a")
    np.testing.assert_array_equal(detections.arrays["frame"], [0, 5, 10, 15, 20])
    unary = [t for t in tubes_of(stage_of(tmp_path / "store", "tubes").open("a")) if t.kind == "unary"]
    assert [len(t) for t in unary] == [21, 21]
    assert unary[0].interpolated.sum() == 16


@pytest.mark.usefixtures("tiny")
def test_boxes_of_another_program_are_linked(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    lines = [f"{frame},-1,{5 + frame},7,20,20,0.9,-1,-1,-1" for frame in range(1, 25)]
    (tmp_path / "det.txt").write_text("\n".join(lines) + "\n")
    command = ("tubes", "--detections", "det.txt", "--format", "mot", "--stage", "link", "--min-length-unary", "24")
    ran = vadx_here(*command, "a.mp4", "--out", "store")
    assert ran.code == 0, ran.err
    (tube,) = [t for t in tubes_of(stage_of(tmp_path / "store", "tubes").open("a")) if t.kind == "unary"]
    np.testing.assert_allclose(tube.boxes[0], [5, 6, 25, 26])
    # Another file is another source.
    (tmp_path / "det.txt").write_text("\n".join(lines[:23]) + "\n")
    ran = vadx_here(*command, "a.mp4", "--out", "store", "--json")
    assert list(statuses(ran).values()) == ["done", "done"]
    assert tubes_of(stage_of(tmp_path / "store", "tubes").open("a")) == []


@pytest.mark.usefixtures("tiny")
def test_a_file_that_does_not_fit_its_video_is_that_videos_failure(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=8)
    (tmp_path / "det.txt").write_text("9,-1,5,7,20,20,0.9\n")
    ran = vadx_here("tubes", "--detections", "det.txt", "--stage", "link", "a.mp4", "--out", "store")
    assert ran.code == 3
    assert "error[DETECTIONS_UNREADABLE]" in ran.err
    assert "boxes in frame 8 of 8 frames" in ran.err


@pytest.mark.usefixtures("tiny")
def test_too_many_boxes_that_hang_together_fail_their_video_only(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    ran = vadx_here(*LINKED, "a.mp4", "--out", "store", "--max-open-boxes", "5", "--json")
    assert ran.code == 3
    assert list(statuses(ran).values()) == ["done", "failed"]
    # Nothing is remembered against a larger limit.
    ran = vadx_here(*LINKED, "a.mp4", "--out", "store", "--json")
    assert list(statuses(ran).values()) == ["current", "done"]


@pytest.mark.usefixtures("tiny")
def test_a_window_cuts_tubes_and_is_recorded(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    vadx_here(*LINKED, "a.mp4", "--out", "store", "--link-window", "12")
    stage = stage_of(tmp_path / "store", "tubes")
    assert stage.recipe.settings["link_semantics"] == "windowed:12"
    unary = [t for t in tubes_of(stage.open("a")) if t.kind == "unary"]
    assert sorted((int(t.frames[0]), len(t)) for t in unary) == [(0, 12), (0, 12), (12, 12), (12, 12)]
    rows = np.concatenate([t.member_rows for t in unary])
    np.testing.assert_array_equal(np.sort(rows), np.arange(48))


@pytest.mark.usefixtures("tiny")
def test_a_dry_run_says_what_each_stage_would_do(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    ran = vadx_here(*LINKED, "a.mp4", "--out", "store", "-n")
    assert [line.split()[:2] for line in ran.out.splitlines()] == [["detections", "extract"], ["tubes", "extract"]]
    assert not (tmp_path / "store").exists()
    vadx_here(*LINKED, "a.mp4", "--out", "store")
    ran = vadx_here(*LINKED, "a.mp4", "--out", "store", "-n", "--iou", "0.2")
    assert [line.split()[:2] for line in ran.out.splitlines()] == [["detections", "current"], ["tubes", "extract"]]


@pytest.mark.usefixtures("tiny")
def test_tubes_are_drawn_of_one_decode(tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.extract.video import VideoReader

    make_video(tmp_path / "a.mp4", num_frames=24)
    assert vadx_here(*LINKED, "a.mp4", "--out", "store").code == 0
    decoded = []
    whole = VideoReader.__iter__

    def counted(reader: VideoReader) -> Any:
        decoded.append(reader)
        return whole(reader)

    monkeypatch.setattr(VideoReader, "__iter__", counted)
    ran = vadx_here(*LINKED, "a.mp4", "--out", "store", "--overlay", "o.mp4", "--sheet", "s.png")
    assert ran.code == 0, ran.err
    assert len(decoded) == 1

    with VideoReader(tmp_path / "o.mp4") as reader:
        assert sum(len(block.frames) for block in reader) == 24
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 100


@pytest.mark.usefixtures("tiny")
def test_tubes_are_exported_and_come_back_as_detections(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "v" / "x" / "a.mp4", num_frames=24)
    vadx_here(*LINKED, "v", "--out", "store")
    stored = tubes_of(stage_of(tmp_path / "store", "tubes").open("x/a"))
    ran = vadx_here("export", "tubes", "--store", "store", "--format", "csv", "--to", "out")
    assert ran.code == 0, ran.err
    from vadx.detectors.detection_files import read_detections

    found = read_detections(tmp_path / "out" / "x" / "a.csv")
    np.testing.assert_array_equal(found.boxes, np.concatenate([tube.boxes for tube in stored]))
    shown = vadx_here("export", "tubes", "x/a", "--store", "store", "--format", "mot").out.splitlines()
    assert len(shown) == sum(map(len, stored))
    assert shown[0].startswith("1,1,")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tubes", "x", "--format", "mot"), "has no video 'x'"),
        (("tubes", "--format", "xml"), "mot|coco|csv"),
        (("detections", "--format", "mot"), "holds detections: name a set of tubes"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_what_cannot_be_exported_is_told(
    tmp_path: Path, vadx_here: Vadx, arguments: tuple[str, ...], words: str
) -> None:
    make_video(tmp_path / "a.mp4", num_frames=8)
    vadx_here(*LINKED, "a.mp4", "--out", "store")
    ran = vadx_here("export", *arguments, "--store", "store")
    assert ran.code == 2
    assert words in ran.err


@pytest.mark.usefixtures("tiny")
def test_listings_say_what_stages_hold(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    vadx_here(*WHOLE, "a.mp4", "--out", "store")
    listed = vadx_here("ls", "--store", "store").out
    assert "48 boxes" in listed
    assert json.loads(vadx_here("ls", "--store", "store", "--json").out)[0]["kind"] == "detections"
    assert vadx_here("ls", "tubes", "--store", "store", "-q").out == "a\n"
    told = json.loads(vadx_here("info", "tubes", "a", "--store", "store", "--json").out)
    assert told["unary_tubes"] == 2
    assert told["longest"].startswith("24 frames from 0 on")
    assert json.loads(vadx_here("info", "tube-features", "a", "--store", "store", "--json").out)["dim"] == 8
    assert "iou threshold" in vadx_here("info", "tubes", "--store", "store").out
    assert vadx_here("verify", "--store", "store").code == 0
    assert vadx_here("gc", "--store", "store").code == 0


@pytest.mark.usefixtures("tiny")
def test_seeds_below_a_score_begin_no_tube(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=24)
    vadx_here(*LINKED, "a.mp4", "--out", "store", "--seed-score", "0.8")
    unary = [t for t in tubes_of(stage_of(tmp_path / "store", "tubes").open("a")) if t.kind == "unary"]
    assert [t.label for t in unary] == [1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--overlay", "nowhere/o.mp4"), "mkdir -p nowhere"),
        (("--stage", "detect", "--sheet", "s.png"), "leave --stage detect out"),
        (("--iou", "1.5"), "iou_threshold"),
        (("--group", "cars"), "--group is NAME=CLASS"),
        (("--classes", "unicorn"), "unicorn"),
        (("--group", "a=car", "--group", "a=person"), "given twice"),
        (("--overlay", "o.avi"), "ends in .mp4"),
        (("--first-frame", "1"), "give --detections too"),
        (("--detections", "nowhere.csv"), "leave it out beside --detections"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_what_cannot_be_meant_is_refused_before_any_work(
    tmp_path: Path, vadx_here: Vadx, arguments: tuple[str, ...], words: str
) -> None:
    make_video(tmp_path / "a.mp4", num_frames=8)
    ran = vadx_here(*LINKED, "a.mp4", "--out", "store", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert not (tmp_path / "store").exists()


def test_a_file_that_is_not_there_is_refused_before_any_work(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "a.mp4", num_frames=8)
    ran = vadx_here("tubes", "--detections", "nowhere.csv", "--stage", "link", "a.mp4", "--out", "store")
    assert ran.code == 2
    assert "--detections nowhere.csv: there is no such file" in ran.err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("stage", ["detect", "features"])
def test_missing_weights_name_ways_out(tmp_path: Path, vadx_here: Vadx, stage: str) -> None:
    make_video(tmp_path / "a.mp4", num_frames=8)
    ran = vadx_here("tubes", "--stage", stage, "a.mp4", "--out", "store")
    assert ran.code == 6
    assert "vadx weights fetch" in ran.err
    assert ("--detections FILE" if stage == "detect" else "--stage link") in ran.err
    assert not (tmp_path / "store").exists()


def test_a_killed_detection_repeats_no_more_than_one_block(tmp_path: Path, vadx_here: Vadx, tiny: Any) -> None:
    from vadx.pipelines.tube_detection import CHECKPOINT_SAMPLES

    make_video(tmp_path / "a.mp4", num_frames=10_000, width=32, height=32, codec="mpeg4")
    quiet = vadx_here(*LINKED, "a.mp4", "--out", "quiet")
    assert quiet.code == 0, quiet.err
    assert tiny.num_seen == 10_000

    class KilledError(BaseException):
        pass

    tiny.num_seen = 0
    look = tiny.__call__
    stops = [3_333, 7_001]

    def looking(self: Any, frames: Any) -> Any:
        if stops and tiny.num_seen >= stops[0]:
            stops.pop(0)
            raise KilledError
        return look(self, frames)

    tiny.__call__ = looking
    try:
        for _ in range(2):
            with pytest.raises(KilledError):
                vadx_here(*LINKED, "a.mp4", "--out", "store")
        assert vadx_here(*LINKED, "a.mp4", "--out", "store").code == 0
    finally:
        tiny.__call__ = look
    assert 10_000 <= tiny.num_seen <= 10_000 + 2 * CHECKPOINT_SAMPLES
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")
    assert list((stage_of(tmp_path / "store", "detections").path / "tmp").iterdir()) == []


def test_a_signal_stops_between_two_blocks_and_the_same_command_resumes(
    tmp_path: Path, vadx_here: Vadx, tiny: Any
) -> None:
    make_video(tmp_path / "a.mp4", num_frames=400)
    look = tiny.__call__

    def looking(self: Any, frames: Any) -> Any:
        if tiny.num_seen == 200:
            signal.raise_signal(signal.SIGTERM)
        return look(self, frames)

    tiny.__call__ = looking
    try:
        ran = vadx_here(*LINKED, "a.mp4", "--out", "store")
        assert ran.code == 143
        assert "the same command resumes" in ran.err
    finally:
        tiny.__call__ = look
    assert 200 < tiny.num_seen <= 200 + 2 * 16
    assert vadx_here(*LINKED, "a.mp4", "--out", "store").code == 0
    assert tiny.num_seen < 400 + 200


def test_kill_minus_nine_leaves_a_run_that_resumes_to_the_same_bytes(tmp_path: Path, forked: ForkServer) -> None:
    for seed in range(2):
        make_video(tmp_path / "v" / f"{seed}.mp4", num_frames=20, seed=seed)
    quiet = forked(*WHOLE, "v", "--out", "quiet", folder=tmp_path)
    assert quiet.code == 0, quiet.err
    for number in (len(quiet.events) * part // 5 for part in range(1, 5)):
        killed = forked(*WHOLE, "v", "--out", f"s{number}", folder=tmp_path, fault="kill", at=number)
        assert killed.code == -signal.SIGKILL
        again = forked(*WHOLE, "v", "--out", f"s{number}", folder=tmp_path)
        assert again.code == 0, again.err
        assert shard_hashes(tmp_path / f"s{number}") == shard_hashes(tmp_path / "quiet")


def test_help_names_the_papers_symbols(vadx_here: Vadx) -> None:
    shown = vadx_here("tubes", "--help").out
    for word in ("eta", "lambda", "zeta1", "zeta2"):
        assert f"the paper's {word}" in " ".join(shown.split()).replace("│ ", ""), shown
