"""Broken inputs among good ones: each has a stable code, none stops the others, and the person is told what to do."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from support import Ran, make_video
from vadx.errors import CODES

from .forking import TINY, json_lines, only_set, shard_hashes

Vadx = Callable[..., Ran]

pytestmark = pytest.mark.timeout(120)

FOREIGN_WORDS = ("avcodec_send_packet", "Can't synchronously", "weights_only", "Traceback", "Errno 1094995529")
GOOD = [f"good/{number:02d}" for number in range(10)]
BAD = {
    "good/03-text": "VIDEO_NOT_VIDEO",
    "good/05-void": "VIDEO_EMPTY",
    "good/06-sound": "VIDEO_NO_STREAM",
    "good/07-cut": "VIDEO_TRUNCATED",
    "good/08-fifo": "VIDEO_NOT_REGULAR",
}
DECODED_BAD = ["03-text.mp4", "06-sound.mp4", "07-cut.mp4"]


def make_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        for index in range(8):
            tone = np.sin(np.arange(1024) / 20, dtype=np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make ten good videos and five bad inputs, side by side."""
    folder = tmp_path / "in" / "good"
    for number in range(10):
        make_video(folder / f"{number:02d}.mp4", num_frames=6 + number, seed=number)
    (folder / "03-text.mp4").write_text("this is not a video\n" * 50)
    (folder / "05-void.mp4").touch()
    make_sound(folder / "06-sound.mp4")
    cut(make_video(folder / "07-cut.mp4", num_frames=20), 0.5)
    os.mkfifo(folder / "08-fifo.mp4")
    return tmp_path / "in"


@pytest.fixture
def said(vadx_here: Vadx, decoded: list[str]) -> Callable[..., Ran]:
    """Run vadx, and look at everything it says."""

    def run(*arguments: str | Path) -> Ran:
        decoded.clear()
        ran = vadx_here(*arguments)
        for words in FOREIGN_WORDS:
            assert words not in ran.out + ran.err
        return ran

    return run


def videos_of(ran: Ran) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in json_lines(ran.out) if line["event"] == "video"}


def assert_five_failed(ran: Ran) -> None:
    assert ran.code == 3
    lines = ran.err.splitlines()
    summary = lines[-1]
    assert re.match(r"done: \d+ stored, \d+ current, 5 failed.* -> exit 3; .*--retry-failed$", summary)
    heading = lines.index("5 failed:")
    told = lines[heading + 1 : -1]
    assert len(told) == 5
    for line, (identifier, code) in zip(told, BAD.items(), strict=True):
        assert line.startswith(f"  error[{code}] ")
        assert f"{identifier}.mp4: " in line
        assert CODES[code].cure[1:] in line


def test_ten_are_stored_and_five_listed_last(folder: Path, said: Vadx, decoded: list[str], tmp_path: Path) -> None:
    ran = said(*TINY, folder, "--out", "store")
    assert_five_failed(ran)
    assert "done: 10 stored, 0 current, 5 failed" in ran.err
    assert len(decoded) == 13
    assert said("ls", "tiny", "--store", "store", "-q").out.split() == GOOD
    assert said("verify", "--store", "store").code == 0
    listed = json.loads(said("ls", "tiny", "--store", "store", "--json").out)
    assert {row["id"]: row["code"] for row in listed["failed"]} == BAD
    before = shard_hashes(tmp_path / "store")

    ran = said(*TINY, folder, "--out", "store")
    assert_five_failed(ran)
    assert "done: 0 stored, 10 current, 5 failed" in ran.err
    assert decoded == []
    assert shard_hashes(tmp_path / "store") == before

    ran = said(*TINY, folder, "--out", "store", "--json")
    assert ran.code == 3
    assert {identifier: line["code"] for identifier, line in videos_of(ran).items() if "code" in line} == BAD
    assert {line["status"] for line in videos_of(ran).values()} == {"current", "failed"}
    assert decoded == []


def test_retry_failed_tries_again(folder: Path, said: Vadx, decoded: list[str]) -> None:
    said(*TINY, folder, "--out", "store")
    ran = said(*TINY, folder, "--out", "store", "--retry-failed")
    assert_five_failed(ran)
    assert decoded == DECODED_BAD
    assert "(failed before)" not in ran.err


def test_a_video_that_was_mended_is_stored_and_its_failure_forgotten(
    folder: Path, said: Vadx, decoded: list[str]
) -> None:
    said(*TINY, folder, "--out", "store")
    (folder / "good/08-fifo.mp4").unlink()
    for name in BAD:
        make_video(folder / f"{name}.mp4", num_frames=8)
    ran = said(*TINY, folder, "--out", "store")
    assert ran.code == 0, ran.err
    assert sorted(decoded) == sorted(f"{Path(name).name}.mp4" for name in BAD)
    assert len(said("ls", "tiny", "--store", "store", "-q").out.split()) == 15
    assert json.loads(said("ls", "tiny", "--store", "store", "--json").out)["failed"] == []
    assert json.loads(said("gc", "--store", "store", "--json").out) == []


def test_a_video_that_broke_keeps_its_shard_until_it_is_mended(tmp_path: Path, said: Vadx) -> None:
    video = make_video(tmp_path / "a.mp4", num_frames=8)
    said(*TINY, video, "--out", "store")
    stored = shard_hashes(tmp_path / "store")
    good = video.read_bytes()
    cut(video, 0.5)
    ran = said(*TINY, video, "--out", "store", "--json")
    assert (ran.code, videos_of(ran)["a"]["code"]) == (3, "VIDEO_TRUNCATED")
    assert shard_hashes(tmp_path / "store") == stored
    video.write_bytes(good)
    ran = said(*TINY, video, "--out", "store", "--json")
    assert (ran.code, videos_of(ran)["a"]["status"]) == (0, "current")
    swept = json.loads(said("gc", "--store", "store", "--json", "--yes").out)
    assert [row["swept"] for row in swept] in ([], [True])
    assert list((tmp_path / "store").glob("*/failed/*/*")) == []


def test_allow_partial_accepts_a_truncated_mkv(tmp_path: Path, said: Vadx, decoded: list[str]) -> None:
    video = cut(make_video(tmp_path / "a.mkv", num_frames=60, codec_options={"g": "10"}), 0.5)
    ran = said(*TINY, video, "--out", "store", "--json")
    assert (ran.code, videos_of(ran)["a"]["code"]) == (3, "VIDEO_TRUNCATED")
    assert "--allow-partial" in videos_of(ran)["a"]["message"]
    ran = said(*TINY, video, "--out", "store", "--json")
    assert (ran.code, decoded) == (3, [])
    ran = said(*TINY, video, "--out", "store", "--allow-partial", "--json")
    assert ran.code == 0
    line = videos_of(ran)["a"]
    assert line["status"] == "degraded"
    assert 5 < line["num_frames"] < 55
    assert "only a part of the video could be decoded" in line["notes"]
    facts = json.loads(said("info", "tiny", "a", "--store", "store", "--json").out)["facts"]
    assert facts["partial"] is True
    assert facts["coverage"] < 0.98
    assert videos_of(said(*TINY, video, "--out", "store", "--json"))["a"]["status"] == "current"
    assert json.loads(said("ls", "tiny", "--store", "store", "--json").out)["failed"] == []


def patch_declared_frames(path: Path, num_frames: int) -> Path:
    """Make an AVI's headers claim another number of frames."""
    content = bytearray(path.read_bytes())
    main_header, stream_header = content.index(b"avih"), content.index(b"strh")
    struct.pack_into("<I", content, main_header + 8 + 16, num_frames)
    struct.pack_into("<I", content, stream_header + 8 + 32, num_frames)
    path.write_bytes(content)
    return path


@pytest.fixture
def boastful(tmp_path: Path) -> Path:
    """Make an AVI of 68 frames whose header declares 444."""
    return patch_declared_frames(make_video(tmp_path / "a.avi", num_frames=68, codec="mpeg4"), 444)


def test_a_header_that_declares_too_many_frames_is_degraded_not_failed(boastful: Path, said: Vadx) -> None:
    ran = said(*TINY, boastful, "--out", "store", "--json")
    assert ran.code == 0
    line = videos_of(ran)["a"]
    assert (line["status"], line["num_frames"]) == ("degraded", 68)
    assert line["notes"] == ["header declares 444 frames, 68 decoded"]
    shown = json.loads(said("info", "tiny", "a", "--store", "store", "--json").out)
    assert (shown["facts"]["num_frames_declared"], shown["facts"]["num_frames_decoded"]) == (444, 68)
    assert shown["shape"] == [17, 1, 8]
    assert "degraded" in said("ls", "tiny", "--store", "store").out
    assert "(1 degraded)" in said(*TINY, boastful, "--out", "store", "--force").err


def test_strict_refuses_what_is_degraded(boastful: Path, said: Vadx, decoded: list[str], tmp_path: Path) -> None:
    ran = said(*TINY, boastful, "--out", "store", "--strict", "--json")
    assert (ran.code, videos_of(ran)["a"]["code"]) == (3, "VIDEO_DAMAGED")
    assert shard_hashes(tmp_path / "store") == {}
    ran = said(*TINY, boastful, "--out", "store", "--strict", "--json")
    assert (ran.code, decoded) == (3, [])
    ran = said(*TINY, boastful, "--out", "store", "--json")
    assert (ran.code, videos_of(ran)["a"]["status"]) == (0, "degraded")
    assert len(shard_hashes(tmp_path / "store")) == 1


def test_probe_says_the_same_of_each(folder: Path, said: Vadx) -> None:
    ran = said("probe", folder, "--json")
    assert ran.code == 4
    found = {line["id"]: line["code"] for line in json_lines(ran.out)}
    assert found == dict.fromkeys(GOOD) | BAD
    plain = said("probe", folder)
    assert "15 videos, 5 bad" in plain.err
    assert plain.out.count("error[") == 5


def test_too_short_under_a_tail_rule_that_drops(tmp_path: Path, said: Vadx, decoded: list[str]) -> None:
    make_video(tmp_path / "a.mp4", num_frames=3)
    ran = said(*TINY, "a.mp4", "--out", "store", "--tail", "drop", "--json")
    assert (ran.code, videos_of(ran)["a"]["code"]) == (3, "VIDEO_TOO_SHORT")
    assert "a.mp4: 3 frames give no clip of 4 frames under the tail rule drop" in videos_of(ran)["a"]["message"]
    assert said(*TINY, "a.mp4", "--out", "store", "--tail", "drop").code == 3
    assert decoded == []


def test_a_failure_that_time_may_mend_is_not_remembered(
    tmp_path: Path, said: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.pipelines.source import Source

    video = make_video(tmp_path / "a.mp4", num_frames=8)
    check = Source.check_unchanged

    def touched(self: Source) -> None:
        os.utime(self.path, (1, 1))
        check(self)

    monkeypatch.setattr(Source, "check_unchanged", touched)
    ran = said(*TINY, video, "--out", "store", "--json")
    assert (ran.code, videos_of(ran)["a"]["code"]) == (3, "VIDEO_CHANGED_DURING_READ")
    assert videos_of(ran)["a"]["retriable"] is True
    assert list(only_set(tmp_path / "store").glob("failed/*/*")) == []
    monkeypatch.setattr(Source, "check_unchanged", check)
    assert said(*TINY, video, "--out", "store").code == 0
