"""What a person sees of a run: lines, speeds and what is left, and what workers tell of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgpack
import pytest
from rich.console import Console

from vadx.extract.video import VideoInfo
from vadx.pipelines import progress
from vadx.pipelines.inputs import Entry
from vadx.pipelines.job import Outcome
from vadx.pipelines.live_view import RichDisplay
from vadx.pipelines.progress import PlainDisplay, Tally
from vadx.pipelines.run_view import Row, RunView, clock_text, expected_frames, seconds_left
from vadx.pipelines.worker_reports import Length, Place, Reporter, bound_by, length_of, report_of


def entries(folder: Path, **num_bytes: int) -> list[Entry]:
    made = []
    for name, size in num_bytes.items():
        path = folder / f"{name}.mp4"
        path.write_bytes(bytes(size))
        made.append(Entry(name, path))
    return made


def done(name: str, num_frames: int = 0, *, failed: bool = False, seconds: float = 0.0) -> Outcome:
    if failed:
        return Outcome(name, f"{name}.mp4", "failed", "tried", "VIDEO_EMPTY", "it is empty")
    return Outcome(name, f"{name}.mp4", "done", "new", num_frames=num_frames, video_seconds=seconds)


@pytest.mark.parametrize(
    ("seen_frames", "seen_bytes", "waiting_bytes", "expected"),
    [(0, 0, 100, None), (0, 50, 100, None), (30, 100, 0, 30), (30, 100, 200, 90), (30, 0, 200, None)],
)
def test_files_that_wait_hold_as_many_frames_a_byte(
    seen_frames: float, seen_bytes: float, waiting_bytes: float, expected: float | None
) -> None:
    assert expected_frames(seen_frames, seen_bytes, waiting_bytes) == expected


@pytest.mark.parametrize(
    ("num_frames", "expected", "seconds", "left"),
    [(25, 100, 10, 30), (100, 100, 10, 0), (120, 100, 10, 0), (0, 100, 10, None), (25, None, 10, None)],
)
def test_what_is_left_takes_as_long_as_what_was(
    num_frames: float, expected: float | None, seconds: float, left: float | None
) -> None:
    assert seconds_left(num_frames, expected, seconds) == left


@pytest.mark.parametrize(("seconds", "text"), [(None, "-:--:--"), (0.4, "0:00:00"), (3725.2, "1:02:05")])
def test_a_time_is_written(seconds: float | None, text: str) -> None:
    assert clock_text(seconds) == text


def test_the_whole_is_judged_by_frames_not_by_videos(tmp_path: Path) -> None:
    view = RunView()
    view.start(entries(tmp_path, short=100, long=900, other=1000), now=0.0)
    assert view.overall(0.0) == Row("Overall 0/3", None, "0 frames, 0 frames/s, 0.0 x real time, -:--:-- left")
    view.frames("short", 50, Length(100, 25.0), None, now=5.0)
    # 100 frames in 100 bytes: 2,000 in all, and 50 took five seconds.
    assert view.overall(5.0).done == 50 / 2000
    assert view.overall(5.0).text == "50 frames, 10 frames/s, 0.4 x real time, 0:03:15 left"
    view.end(done("short", 100, seconds=4.0), 3)
    view.end(done("other", failed=True), 3)
    row = view.overall(10.0)
    # What failed is not waited for.
    assert (row.label, row.done) == ("Overall 2/3, 1 failed", 100 / 1000)
    assert row.text == "100 frames, 10 frames/s, 0.4 x real time, 0:01:30 left"


def test_what_was_stored_before_says_nothing_of_speed(tmp_path: Path) -> None:
    view = RunView()
    view.start(entries(tmp_path, a=100, b=100), now=0.0)
    view.end(Outcome("a", "a.mp4", "current", "current"), 2)
    view.frames("b", 10, Length(40, 25.0), None, now=10.0)
    assert view.overall(10.0).text.endswith("0:00:30 left")


def test_there_is_a_line_for_each_worker(tmp_path: Path) -> None:
    view = RunView()
    view.start(entries(tmp_path, a=1, b=1, c=1), now=0.0)
    for now, (a, b, c) in enumerate([(10, 5, 1), (60, 15, 31)]):
        view.frames("a", a, Length(100, 25.0), Place("gpu-10", "network"), float(now))
        view.frames("b", b, Length(100, 25.0), Place("gpu-10", "network"), float(now))
        view.frames("c", c, Length(None, 25.0), Place("gpu-9", "decode"), float(now))
    assert view.rows(9) == [
        Row("gpu-9: c", None, "30 frames/s, decode-bound"),
        # Of two videos the one that will take longer, and the speed of both.
        Row("gpu-10: b and 1 more", 0.15, "60 frames/s, network-bound"),
    ]
    assert [row.label for row in view.rows(1)] == ["and 2 more"]
    view.end(done("b", 100), 3)
    assert [row.label for row in view.rows(9)] == ["gpu-9: c", "gpu-10: a"]


def test_a_video_that_another_worker_begins_anew_is_seen_anew(tmp_path: Path) -> None:
    view = RunView()
    view.start(entries(tmp_path, a=10, b=10), now=0.0)
    view.frames("a", 80, Length(100, 25.0), Place("w1"), 1.0)
    view.frames("a", 5, Length(100, 25.0), Place("w2"), 2.0)
    assert view.rows(9) == [Row("w2: a", 0.05, "0 frames/s")]
    assert view.overall(2.0).text.startswith("5 frames,")
    # Its bytes are counted once.
    assert view.overall(2.0).done == 5 / 200


def test_videos_of_this_process_have_a_line_each(tmp_path: Path) -> None:
    view = RunView()
    view.start(entries(tmp_path, a=1), now=0.0)
    for now, num_frames in ((1.0, 10), (3.0, 50)):
        view.frames("a", num_frames, Length(200, 25.0), None, now)
    assert view.rows(9) == [Row("a", 0.25, "20 frames/s")]


def test_the_terminal_shows_it_and_obeys_no_name(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120, height=20, force_terminal=True, color_system=None)
    display = RichDisplay(console)
    videos = entries(tmp_path, a=10, b=10)
    display.start(videos)
    display.frames(videos[0], 30, Length(60, 25.0), Place("w\x1b[31m1", "decode"))
    console.file = io.StringIO()
    console.print(display._table())
    shown = console.file.getvalue()
    display.end(done("b", failed=True), Tally(2))
    display.stop()
    assert "w\\x1b[31m1: a" in shown
    assert "50%" in shown
    assert "decode-bound" in shown
    assert "Overall 0/2" in shown
    assert "\x1b" not in shown
    assert "error[VIDEO_EMPTY] it is empty" in console.file.getvalue()


def test_a_log_gets_a_line_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    display = PlainDisplay()
    videos = entries(tmp_path, a=10, b=10)
    display.start(videos)
    for second in range(1, 63):
        now[0] = 100.0 + second
        display.frames(videos[0], 10 * second, Length(1000, 25.0), Place("w1"))
    assert capsys.readouterr().err.splitlines() == [
        "a on w1: frame 300; 300 frames, 10 frames/s, 0.4 x real time, 0:02:50 left",
        "a on w1: frame 600; 600 frames, 10 frames/s, 0.4 x real time, 0:02:20 left",
    ]


@pytest.mark.parametrize(
    ("waited", "seconds", "bound"), [(0, 0, None), (0.4, 1, "network"), (0.5, 1, "decode"), (1, 1, "decode")]
)
def test_a_worker_is_bound_by_what_it_waits_for(waited: float, seconds: float, bound: str | None) -> None:
    assert bound_by(waited, seconds) == bound


@pytest.mark.parametrize(
    ("declared", "duration", "length"),
    [(70, 9.0, Length(70, 30.0)), (None, 2.0, Length(60, 30.0)), (None, None, Length(None, 30.0))],
)
def test_a_length_is_what_the_header_says(declared: int | None, duration: float | None, length: Length) -> None:
    assert length_of(VideoInfo("mp4", "h264", 64, 48, "yuv420p", 30.0, declared, duration, 100)) == length


@pytest.mark.parametrize(("num_workers", "seconds"), [(1, 1.0), (100, 1.0), (1_000, 10.0)])
def test_many_workers_tell_less_often(num_workers: int, seconds: float) -> None:
    now, told = [0.0], list[float]()
    report = Reporter(lambda _record: told.append(now[0]), "w1", lambda: 0.0, lambda: now[0], num_workers=num_workers)
    for tick in range(1, 25):
        now[0] = float(tick)
        report(Entry("a", Path("a")), tick, Length())
    assert told[:2] == [seconds, 2 * seconds]


def test_a_worker_tells_once_a_second_of_all_that_moved() -> None:
    now, waited, told = [0.0], [0.0], []

    def send(record: dict[str, Any]) -> None:
        # As it crosses the wire.
        told.append(report_of(msgpack.unpackb(msgpack.packb(record))))

    report = Reporter(send, "w1", lambda: waited[0], lambda: now[0])
    a, b = Entry("a", Path("a")), Entry("b", Path("b"))
    for tick in range(1, 300):
        now[0] = tick / 100
        waited[0] = max(0.0, now[0] - 2.0) * 0.9
        report(a if tick % 2 else b, tick, Length(500 if tick % 2 else None, 25.0))
    assert [one.place for one in told] == [Place("w1", "network"), Place("w1", "network")]
    assert dict((name, (count, length)) for name, count, length in told[1].videos) == {
        "a": (199, Length(500, 25.0)),
        "b": (200, Length(None, 25.0)),
    }
    now[0], waited[0] = 3.0, 0.9
    report(b, 300, Length(None, 25.0))
    assert told[-1].place.bound == "decode"
    assert len(told) == 3
    now[0] = 4.5
    report(b, 400, Length(None, 25.0))
    # Of what did not move nothing is told.
    assert [name for name, *_ in told[-1].videos] == ["b"]
    # Nor is it waited for since.
    assert told[-1].place.bound == "network"
