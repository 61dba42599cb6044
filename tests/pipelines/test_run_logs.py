"""``vadx runs``: what the logs of past runs say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from support import Ran

from .forking import IDS, TINY

Vadx = Callable[..., Ran]


def names(ran: Ran) -> list[str]:
    return ran.out.split()


def test_runs_are_listed_the_latest_first_and_say_what_became_of_videos(
    store: Path, six_videos: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "junk\x1b[31m.mp4").write_text("not a video\n")
    assert vadx_here(*TINY, six_videos, "bad", "--out", "store").code == 3
    logs = sorted(path.stem for path in store.glob("*/runs/*.jsonl"))
    assert sorted(names(vadx_here("runs", "--store", "store", "-q"))) == logs
    listed = json.loads(vadx_here("runs", "--store", "store", "--json").out)
    assert [run["run"] for run in listed] == logs[::-1]
    by_exit = {run["exit_code"]: run for run in listed}
    assert {key: by_exit[0][key] for key in ("videos", "done", "current", "failed", "left")} == {
        "videos": 6,
        "done": 6,
        "current": 0,
        "failed": 0,
        "left": 0,
    }
    assert (by_exit[3]["current"], by_exit[3]["failed"]) == (6, 1)
    (second,) = [run["run"] for run in listed if run["exit_code"] == 3]
    ran = vadx_here("runs", second, "--store", "store", "--failed")
    assert ran.out.startswith("failed    junk\\x1b[31m: VIDEO_NOT_VIDEO: ")
    assert "\x1b" not in ran.out
    assert sorted(vadx_here("runs", second, "--store", "store", "-q").out.split()) == sorted([*IDS, "junk\\x1b[31m"])
    table = vadx_here("runs", "--store", "store").out.splitlines()
    assert table[0].split()[:2] == ["RUN", "BEGAN"]
    assert len(table) == 3


def test_a_run_that_was_cut_short_says_so(store: Path, vadx_here: Vadx) -> None:
    (log,) = store.glob("*/runs/*.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["event"] == "summary"
    log.write_text("".join(lines[:3]) + lines[3][:20])
    (run,) = json.loads(vadx_here("runs", "--store", "store", "--json").out)
    assert (run["exit_code"], run["done"], run["left"]) == (None, 2, 4)
    assert "cut short" in vadx_here("runs", "--store", "store").out


def test_a_name_must_mean_one_run(store: Path, six_videos: Path, vadx_here: Vadx) -> None:
    vadx_here(*TINY, six_videos, "--out", "store")
    ran = vadx_here("runs", "2", "--store", "store")
    assert (ran.code, "begins the names of 2 runs" in ran.err) == (2, True)
    ran = vadx_here("runs", "x", "--store", "store")
    assert (ran.code, "vadx runs lists them" in ran.err) == (2, True)
    assert vadx_here("runs", "--failed", "--store", "store").code == 2


def test_a_store_without_runs_is_told(store: Path, vadx_here: Vadx) -> None:
    for log in store.glob("*/runs/*.jsonl"):
        log.unlink()
    ran = vadx_here("runs", "--store", "store")
    assert (ran.code, ran.out, ran.err) == (0, "", "no run was recorded here\n")
