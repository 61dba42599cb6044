"""When a run ends although there is more to do: failures, its time, its part of the videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import Ran
from vadx.errors import UsageError
from vadx.pipelines.inputs import Entry, Inputs, take_part
from vadx.pipelines.job import Outcome
from vadx.pipelines.policy import Allowance, FailureLimit, parse_duration, parse_failure_limit, parse_part

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
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_failure_limit, text) for text in ("", "0", "-1", "101%", "%", "many", "5 %")),
        *((parse_duration, text) for text in ("", "0s", "3", "3h50", "1d", "50m3h")),
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
