"""Workers that are killed at random over videos that crash, hang and starve their decoders."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import vadx_units
from vadx_chaos import (
    MISHAPS,
    Decode,
    Strike,
    chaos_environment,
    decodes,
    shard_times,
    strike,
    too_often,
    workers_below,
)

from support import PLUGINS, Ran, make_video
from vadx.features import index
from vadx.features.keys import key_of
from vadx.features.shard import ShardOutline
from vadx.pipelines import run
from vadx.pipelines.cluster import local_workers
from vadx.pipelines.extraction import process_videos

from .forking import TINY, events, only_set, shard_hashes

Vadx = Callable[..., Ran]

SEED = 8
NUM_GOOD, NUM_KILLS = 8, 3

pytestmark = [
    pytest.mark.timeout(240),
    # Dask leaves sockets of its own to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


class TestJudging:
    SEEN = (Decode("a", 1, 10.0), Decode("b", 2, 11.0), Decode("a", 2, 20.0))

    def test_a_video_is_decoded_again_for_a_worker_that_was_killed_at_it(self) -> None:
        assert too_often(self.SEEN, [Strike(1, 12.0)], {"a": 21.0, "b": 12.0}) == {}

    # None; another worker's; after it was stored.
    @pytest.mark.parametrize("strikes", [[], [Strike(3, 12.0)], [Strike(1, 22.0)]])
    def test_for_nothing_else(self, strikes: list[Strike]) -> None:
        assert too_often(self.SEEN, strikes, {"a": 21.0, "b": 12.0}) == {"a": (2, 1)}

    def test_one_that_was_never_stored_is_still_worked_on(self) -> None:
        assert too_often(self.SEEN, [Strike(1, 99.0, signal.SIGSTOP)], {"b": 12.0}) == {}


def test_kills_and_bad_videos_cost_no_more_than_they_must(
    vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {SEED}")
    for number in range(NUM_GOOD):
        make_video(tmp_path / f"v/good/v{number}.mp4", num_frames=20 + number, seed=number)
    for name in MISHAPS:
        make_video(tmp_path / f"v/bad/{name}.mp4", num_frames=24, seed=99)
    assert vadx_here(*TINY, "v/good", "--root", "v", "--out", "quiet").code == 0

    for name, value in chaos_environment(tmp_path / "notes", seconds=0.5).items():
        monkeypatch.setenv(name, value)
    before, done, struck = workers_below(os.getpid()), threading.Event(), list[Strike]()

    def striking() -> None:
        struck.extend(
            strike(
                os.getpid(), random.Random(SEED), num_kills=NUM_KILLS, pause=(0.3, 1.2), is_over=done.is_set,
                spared=before, notes=tmp_path / "notes",
            )
        )  # fmt: skip

    killer = threading.Thread(target=striking)
    killer.start()
    try:
        ran = vadx_here(
            *TINY, "v/good", "v/bad", "--root", "v", "--out", "store", "--workers", "2", "--decoders", "1", "--json",
            "--stall-timeout", "10s", "--decoder-memory", "500MB",
        )  # fmt: skip
    finally:
        done.set()
        killer.join()
    assert ran.code == 3, ran.err
    assert len(struck) == NUM_KILLS
    codes = {line["id"]: line["code"] for line in events(ran, "video") if line["status"] == "failed"}
    assert codes == {f"bad/{name}": code for name, (_, code) in MISHAPS.items()}
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")
    good = [one for one in decodes(tmp_path / "notes") if one.name not in MISHAPS]
    assert too_often(good, struck, by_name(tmp_path)) == {}, "\n".join(map(str, [*good, *struck]))


def test_a_worker_that_is_stopped_while_it_starts_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")]))
    with local_workers(1, vadx_units.noting) as started:
        (nanny,) = started.client.cluster.workers.values()
        first = nanny.pid
        os.kill(first, signal.SIGKILL)
        while nanny.pid in (None, first):
            time.sleep(0.01)
        second = nanny.pid
        os.kill(second, signal.SIGSTOP)
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_a_run_that_is_told_to_end_opens_no_shard_for_its_index(
    own_videos: Path, vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for video in own_videos.rglob("*.mp4"):
        # What was written a moment ago may still be written to: its hash is not kept.
        os.utime(video, (1e9, 1e9))
    opened: list[Path] = []
    really = index.read_outline

    def noting(path: Path) -> ShardOutline:
        opened.append(path)
        return really(path)

    def stopping(entries: Any, jobs: Any, **options: Any) -> Any:
        for number, outcomes in enumerate(process_videos(entries, jobs, **options)):
            yield outcomes
            if number == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(index, "read_outline", noting)
    with monkeypatch.context() as patch:
        patch.setattr(run, "process_videos", stopping)
        assert vadx_here(*TINY, own_videos, "--out", "store").code == 143
    assert opened == []
    # But what was hashed is not hashed again.
    assert len(index.load_index(only_set(tmp_path / "store") / "index.json").sources) == 2
    assert vadx_here(*TINY, own_videos, "--out", "store").code == 0
    assert len(opened) == 6


def by_name(folder: Path) -> dict[str, float]:
    """Give when each good video was stored, by the name of its file."""
    times = shard_times(folder / "store")
    return {f"v{n}": times[key_of(f"good/v{n}")] for n in range(NUM_GOOD)}
