"""When a run ends although there is more to do: failures, its time, its part of the videos."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import Ran
from vadx.errors import UsageError
from vadx.pipelines.inputs import Entry, Inputs, take_part
from vadx.pipelines.job import Outcome
from vadx.pipelines.policy import (
    Allowance,
    FailureLimit,
    parse_bytes,
    parse_duration,
    parse_failure_limit,
    parse_part,
)

from .forking import IDS, TINY, events, shard_hashes, statuses

Vadx = Callable[..., Ran]


def garbage(folder: Path, num_files: int) -> Path:
    folder.mkdir()
    for number in range(num_files):
        (folder / f"bad{number:02d}.mp4").write_text("not a video\n")
    return folder


def outcome(status: str = "done", reason: str = "new", **more: Any) -> Outcome:
    return Outcome("a", "a.mp4", status, reason, **more)


@pytest.mark.parametrize(
    ("text", "failed", "tried", "reached"),
    [
        ("1", 0, 5, False),
        ("1", 1, 1, True),
        ("5", 4, 4, False),
        ("5", 5, 500, True),
        # A fifth is still allowed, and nothing is said of fewer than 20.
        ("20%", 4, 20, False),
        ("20%", 5, 20, True),
        ("20%", 19, 19, False),
        ("0%", 1, 20, True),
        ("100%", 20, 20, False),
        ("12.5%", 5, 40, False),
        ("12.5%", 6, 40, True),
    ],
)
def test_a_limit_of_failures_is_reached(text: str, failed: int, tried: int, reached: bool) -> None:
    limit = parse_failure_limit(text)
    assert limit.reached(failed, tried) is reached
    assert str(limit) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h50m", 13_800), ("45m", 2_700), ("90s", 90), ("1h1m1s", 3_661), ("2h", 7_200)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration("--stop-after", text) == seconds


@pytest.mark.parametrize(("text", "num_bytes"), [("500MB", 500_000_000), ("2.5GB", 2_500_000_000), ("0.001MB", 1_000)])
def test_a_size_is_read(text: str, num_bytes: int) -> None:
    assert parse_bytes("--decoder-memory", text) == num_bytes


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_failure_limit, text) for text in ("", "0", "-1", "101%", "%", "many", "5 %")),
        *((partial(parse_duration, "--stop-after"), text) for text in ("", "0s", "3", "3h50", "1d", "50m3h")),
        *((partial(parse_bytes, "--decoder-memory"), text) for text in ("", "0MB", "4", "4gb", "0.0001MB", "-1GB")),
        *((parse_part, text) for text in ("", "0/4", "5/4", "1", "1/", "a/b", "1/0")),
    ],
)
def test_what_cannot_be_meant_is_refused_with_an_example(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(UsageError, match=r"such as .*; got"):
        parse(text)


def test_what_failed_before_and_what_is_current_is_no_trial() -> None:
    allowance = Allowance(limit=10, failures=FailureLimit(count=2))
    for one in (outcome("current", "current"), outcome("failed", "failed before", code="VIDEO_EMPTY")):
        allowance.note([one])
    assert (allowance.spent, allowance.tried, allowance.failed) == (0, 0, 0)
    allowance.note([outcome(), outcome("failed", "tried", code="VIDEO_EMPTY")])
    assert (allowance.spent, allowance.tried, allowance.failed) == (1, 1, 1)
    # What only its surroundings can mend spends nothing of the limit, and says all the more that something is wrong.
    allowance.note([outcome("failed", "tried", code="VIDEO_UNREADABLE", retriable=True)])
    assert (allowance.spent, allowance.tried, allowance.failed) == (1, 2, 2)
    assert not allowance.covers(0)
    assert allowance.stop_reason == "2 of the 2 videos that were tried failed (--max-failures 2)"


def test_fail_fast_begins_no_other_video(six_videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    bad = garbage(tmp_path / "bad", 2)
    ran = vadx_here(*TINY, bad, six_videos, "--out", "store", "--fail-fast", "--json")
    assert ran.code == 3
    # Those under way are finished, the next one is not begun.
    assert sorted(statuses(ran)) == [*IDS, "bad00"]
    assert events(ran, "summary")[0]["left"] == 1
    # What failed is remembered: the same command gets past it.
    again = vadx_here(*TINY, bad, six_videos, "--out", "store", "--fail-fast", "--json")
    assert (again.code, len(statuses(again))) == (3, 8)


def test_more_than_a_fifth_of_twenty_is_enough(tmp_path: Path, vadx_here: Vadx) -> None:
    garbage(tmp_path / "bad", 25)
    ran = vadx_here(*TINY, "bad", "--out", "store")
    assert ran.code == 3
    assert "stopped: 20 of the 20 videos that were tried failed (--max-failures 20%)" in ran.err
    assert "5 left" in ran.err
    ran = vadx_here(*TINY, "bad", "--out", "other", "--max-failures", "100%", "--json")
    assert (ran.code, len(statuses(ran))) == (3, 25)


def test_a_run_stops_in_time_and_resumes(
    store: Path, six_videos: Path, vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.pipelines import stopping

    # Every shard takes ten seconds.
    monkeypatch.setattr(stopping.time, "monotonic", lambda: 10.0 * len(shard_hashes(tmp_path / "other")))
    ran = vadx_here(*TINY, six_videos, "--out", "other", "--stop-after", "15s", "--json")
    assert ran.code == 143
    assert "stopped after 15 s, as it was told; the same command resumes" in ran.err
    assert events(ran, "summary")[0]["exit_code"] == 143
    assert 0 < len(shard_hashes(tmp_path / "other")) < 6
    assert vadx_here(*TINY, six_videos, "--out", "other", "--stop-after", "9h").code == 0
    assert shard_hashes(tmp_path / "other") == shard_hashes(store)


def test_parts_share_nothing_and_leave_nothing_out(store: Path, six_videos: Path, vadx_here: Vadx) -> None:
    seen: list[str] = []
    for number in (1, 2, 3):
        ran = vadx_here(*TINY, six_videos, "--out", "parted", "--part", f"{number}/3", "--json")
        assert ran.code == 0
        seen += statuses(ran)
    assert sorted(seen) == IDS
    assert shard_hashes(store.parent / "parted") == shard_hashes(store)


def test_a_part_depends_on_the_id_alone() -> None:
    entries = tuple(Entry(f"video{number:03d}", Path("x")) for number in range(300))
    whole = Inputs(entries, (), 7)
    parts = [take_part(whole, number, 3) for number in (1, 2, 3)]
    # 100 each, give or take four standard deviations of a fair draw.
    assert all(67 <= len(part.entries) <= 133 for part in parts)
    assert sorted(e.id for part in parts for e in part.entries) == [e.id for e in entries]
    fewer = take_part(Inputs(entries[150:], (), 0), 1, 3)
    assert set(fewer.entries) == {entry for entry in parts[0].entries if entry in entries[150:]}
    assert take_part(whole, 1, 1) == whole


def test_a_decoder_that_halts_costs_its_video(
    six_videos: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.extract.decode_limits import DecodeLimits
    from vadx.extract.isolate import DecodePool

    begin, give_up = DecodePool._assign, DecodePool._give_up
    halted: list[str] = []

    def halting(pool: DecodePool, process: Any, reader: Any) -> None:
        begin(pool, process, reader)
        if not halted:
            halted.append(reader.path.name)
            os.kill(process.pid, signal.SIGSTOP)
            pool._limits = DecodeLimits(stall_seconds=1)

    def giving_up(pool: DecodePool, process: Any, evidence: str) -> None:
        give_up(pool, process, evidence)
        # The next one may start as slowly as it likes.
        pool._limits = DecodeLimits()

    monkeypatch.setattr(DecodePool, "_assign", halting)
    monkeypatch.setattr(DecodePool, "_give_up", giving_up)
    command = (*TINY, six_videos, "--out", "store", "--decoders", "1")
    ran = vadx_here(*command, "--json")
    assert ran.code == 3
    failed = [line for line in events(ran, "video") if line["status"] == "failed"]
    assert [line["code"] for line in failed] == ["VIDEO_TIMEOUT"]
    assert Path(failed[0]["path"]).name == halted[0]
    assert "its decoder gave nothing for 1 s" in failed[0]["message"]
    # A halt may be the file's: it is remembered, and not waited for again.
    assert vadx_here(*command).code == 3
    assert vadx_here(*command, "--retry-failed").code == 0


def test_limits_of_decoders_reach_them(six_videos: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.extract.decode_limits import DecodeLimits
    from vadx.extract.isolate import DecodePool

    made: list[DecodeLimits] = []
    make = DecodePool.__init__

    def noting(pool: DecodePool, num_processes: int, **options: Any) -> None:
        make(pool, num_processes, **options)
        made.append(pool._limits)

    monkeypatch.setattr(DecodePool, "__init__", noting)
    command = (*TINY, six_videos, "--out", "store", "--decoders", "1", "--limit", "1")
    assert vadx_here(*command, "--decoder-memory", "1.5GB", "--stall-timeout", "2m", "--video-timeout", "3h").code == 0
    assert vadx_here(*command).code == 0
    wanted = DecodeLimits(memory_bytes=1_500_000_000, stall_seconds=120, video_seconds=10_800)
    assert made == [wanted, DecodeLimits()]
