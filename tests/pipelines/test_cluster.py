"""Videos on the workers of a Dask scheduler: one contract, wherever they run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import vadx_units
from distributed import KilledWorker
from hypothesis import given, settings
from hypothesis import strategies as st

from support import PLUGINS, Ran, vadx_environment
from vadx.errors import ClusterError, StoreWriteError, UsageError
from vadx.extract.memory import KEEPING
from vadx.pipelines import cluster
from vadx.pipelines.capacity import default_decoders, usable_cores
from vadx.pipelines.cluster import DaskWorkers, Share, check_address, local_workers, scheduler_workers, shares_of
from vadx.pipelines.extraction import Effort
from vadx.pipelines.inputs import Entry
from vadx.pipelines.worker_places import CORES
from vadx.pipelines.worker_reports import Length, Place

from .forking import IDS, TINY, events, shard_hashes, statuses

Vadx = Callable[..., Ran]

pytestmark = [
    pytest.mark.timeout(240),
    # Dask leaves sockets of its own to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskWorkers]:
    """Two workers of this machine, for what any unit of work is given to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")]))
        # Of a machine with two GPUs: what is done here, is done on its CPUs.
        with local_workers(2, vadx_units.noting, gpus=["0", "GPU-1d2c"]) as started:
            yield started


def entries(folder: Path, *names: str, num_bytes: int = 0) -> list[Entry]:
    made = []
    for name in names:
        path = folder / f"{name}.mp4"
        path.write_bytes(bytes(num_bytes))
        made.append(Entry(name, path))
    return made


def begun(folder: Path) -> dict[str, int]:
    """Give how often each video was begun."""
    return {path.name: len(path.read_text().splitlines()) for path in folder.iterdir()}


class Killed:
    """The future of a share whose worker ended too often."""

    status = "error"

    def result(self) -> object:
        raise KilledWorker("share", "worker", 1)


class Forgotten:
    """The future of a share that was done, until the worker that kept what it had done ended."""

    def __init__(self, status: str) -> None:
        self.status = status
        self.told: list[object] = []

    def add_done_callback(self, function: object) -> None:
        self.told.append(function)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def family(pid: int) -> list[int]:
    """Give a process and all that it started, and they."""
    children = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    return [pid, *(one for child in children for one in family(child))]


def listening(pid: int) -> set[str]:
    """Give the addresses at which a process waits for connections, and "elsewhere" for IPv6."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(str(link.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            # 0A is LISTEN; an IPv4 address is written as a number in the machine's order.
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                number = words[1].partition(":")[0]
                found.add(".".join(str(b) for b in bytes.fromhex(number)[::-1]) if table == "tcp" else "elsewhere")
    return found


class TestShares:
    @settings(deadline=None, max_examples=60)
    @given(sizes=st.lists(st.integers(0, 10**6), max_size=80), num_workers=st.integers(1, 9))
    def test_every_video_is_in_one_share_and_the_longest_come_first(self, sizes: list[int], num_workers: int) -> None:
        size_of = {Entry(f"v{number:03d}", Path(f"v{number}")): size for number, size in enumerate(sizes)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "_size", size_of.__getitem__)
            shares = shares_of(list(size_of), num_workers)
        given_out = [entry for share in shares for entry in share.entries]
        assert sorted(given_out, key=lambda e: e.id) == list(size_of)
        assert [size_of[entry] for entry in given_out] == sorted(sizes, reverse=True)
        enough = sum(sizes) / (16 * num_workers)
        for share in shares:
            assert 1 <= len(share.entries) <= cluster.MAX_SHARE_VIDEOS
            assert len(share.entries) == 1 or sum(size_of[entry] for entry in share.entries) <= enough

    def test_a_video_that_is_gone_is_shared_too(self, tmp_path: Path) -> None:
        (share,) = shares_of([Entry("a", tmp_path / "none.mp4")], 2, lambda entry: (1, 2, entry.id))
        assert share.hints == ((1, 2, "a"),)

    def test_a_share_is_split_and_taken_apart(self) -> None:
        three = Share(tuple(Entry(name, Path(name)) for name in "abc"), (None, (1, 2, "x"), None), times_alone=2)
        first, rest = three.split(2)
        assert [entry.id for entry in first.entries] == ["a", "b"]
        assert rest.hints == (None,)
        assert (first.times_alone, rest.times_alone) == (2, 2)
        assert [share.hints for share in three.alone()] == [(None,), ((1, 2, "x"),), (None,)]


class TestAddresses:
    @pytest.mark.parametrize(
        "address", ["tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:8786", "tls://gpu7.example.org:8786"]
    )
    def test_this_machine_and_what_is_encrypted_may_be_used(self, address: str) -> None:
        check_address(address, insecure=False)

    @pytest.mark.parametrize("address", ["tcp://10.0.0.7:8786", "tcp://gpu7:8786", "tcp://0.0.0.0:8786"])
    def test_what_others_reach_needs_tls_or_a_word(self, address: str) -> None:
        with pytest.raises(UsageError, match=r"not encrypted.*--insecure-scheduler"):
            check_address(address, insecure=False)
        check_address(address, insecure=True)

    @pytest.mark.parametrize(
        "address", ["", "127.0.0.1:8786", "http://127.0.0.1:8786", "tcp://127.0.0.1", "tcp://:8786"]
    )
    def test_what_is_no_address_is_refused(self, address: str) -> None:
        with pytest.raises(UsageError, match=r"such as tcp://127\.0\.0\.1:8786"):
            check_address(address, insecure=True)

    def test_a_password_is_not_repeated(self) -> None:
        with pytest.raises(UsageError, match=r"no password") as caught:
            check_address("tls://user:hunter2@gpu7.example.org:8786", insecure=False)
        assert "hunter2" not in str(caught.value)

    def test_nobody_there_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
        with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 "):
            scheduler_workers("tcp://127.0.0.1:1", vadx_units.noting).__enter__()


class TestUnits:
    def test_each_video_is_worked_on_once(self, workers: DaskWorkers, notes: Path, tmp_path: Path) -> None:
        names = [f"v{number:03d}" for number in range(100)]
        outcomes = list(workers(entries(tmp_path, *names), [notes, notes]))
        assert sorted(one.id for one, _ in outcomes) == names
        assert begun(notes) == dict.fromkeys(names, 1)

    def test_only_a_few_shares_are_on_their_way(
        self, workers: DaskWorkers, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster, "MAX_SHARE_VIDEOS", 1)
        most = 0
        for _ in workers(entries(tmp_path, *(f"v{number}" for number in range(30))), [notes]):
            most = max(most, len(workers._flying))
        assert most <= 4

    def test_a_video_that_ends_its_workers_fails_alone(
        self, workers: DaskWorkers, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster, "_TRIES_ALONE", 1)
        names = ["deadly", *(f"v{number}" for number in range(8))]
        # Empty files: all of them are one share.
        outcomes = {one.id: one for (one,) in workers(entries(tmp_path, *names), [notes])}
        assert outcomes["deadly"].code == "WORKER_LOST"
        assert outcomes["deadly"].retriable
        assert {outcomes[name].status for name in names[1:]} == {"done"}

    def test_a_video_is_tried_alone_a_few_times(self, workers: DaskWorkers) -> None:
        killed: Any = Killed()
        share = Share((Entry("a", Path("a.mp4")),), (None,))
        for _ in range(cluster._TRIES_ALONE - 1):
            waiting: deque[Share] = deque()
            assert list(workers._settle(killed, share, ["job"], waiting, None)) == []
            share, rest = waiting.pop().split(1)
            assert rest.entries == ()
        ((settled,),) = workers._settle(killed, share, ["job"], deque(), None)
        # Each of them twice, for a worker may end by chance.
        assert (settled.code, settled.attempts) == ("WORKER_LOST", 2 * cluster._TRIES_ALONE)

    @pytest.mark.parametrize("status", ["pending", "lost"])
    def test_what_a_worker_did_and_took_with_it_is_waited_for_again(self, workers: DaskWorkers, status: str) -> None:
        share = Share((Entry("a", Path("a.mp4")),), (None,))
        future: Any = Forgotten(status)
        assert list(workers._settle(future, share, ["job"], deque(), None)) == []
        assert workers._flying.pop(future) == share
        assert future.told == [workers._ended.put]

    def test_a_disk_that_is_full_ends_the_run(self, workers: DaskWorkers, notes: Path, tmp_path: Path) -> None:
        with pytest.raises(StoreWriteError, match="the disk is full: free space"):
            list(workers(entries(tmp_path, "full"), [notes]))

    def test_a_bug_ends_the_run_with_its_cause(self, workers: DaskWorkers, notes: Path, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="a worker failed") as caught:
            list(workers(entries(tmp_path, "buggy"), [notes]))
        assert isinstance(caught.value.__cause__, KeyError)

    def test_no_more_videos_are_begun_than_may_be(self, workers: DaskWorkers, notes: Path, tmp_path: Path) -> None:
        settled: list[str] = []
        videos = entries(tmp_path, *(f"v{number}" for number in range(9)))
        for (one,) in workers(videos, [notes], may_start=lambda num_begun: len(settled) + num_begun < 5):
            settled.append(one.id)
        assert len(settled) == 5
        assert begun(notes) == dict.fromkeys(settled, 1)

    def test_each_worker_has_its_gpu_and_its_share_of_the_cores(self, workers: DaskWorkers) -> None:
        assert sorted(workers.client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["0", "GPU-1d2c"]
        assert set(workers.client.run(os.getenv, CORES).values()) == {str(max(1, usable_cores() // 2))}

    @pytest.mark.parametrize(("num_decoders", "num_cores"), [(None, None), (0, None), (3, 5), (None, 64)])
    def test_a_worker_decodes_and_computes_with_its_share(
        self, num_decoders: int | None, num_cores: int | None, workers: DaskWorkers, tmp_path: Path
    ) -> None:
        counting = DaskWorkers(workers.client, vadx_units.counting, 2, num_cores)
        jobs = [SimpleNamespace(device="cuda:1")]
        ((settled,),) = counting(entries(tmp_path, "a"), jobs, num_decoders=num_decoders)
        cores = num_cores or max(1, usable_cores() // 2)
        decoders = default_decoders("cuda", cores) if num_decoders is None else num_decoders
        assert settled.notes == (str(decoders), str(cores))

    def test_no_profiler_holds_what_a_unit_has_open(self, workers: DaskWorkers) -> None:
        def watches(dask_worker: Any) -> bool:
            return "profile" in dask_worker.periodic_callbacks or any(
                t.name == "Profile" for t in threading.enumerate()
            )

        assert set(workers.client.run(watches).values()) == {False}

    def test_its_memory_is_kept_from_its_start(self, workers: DaskWorkers) -> None:
        for name, value in KEEPING.items():
            assert set(workers.client.run(os.getenv, name).values()) == {value}

    def test_nothing_listens_beyond_this_machine(self, workers: DaskWorkers) -> None:
        assert workers.client.status == "running"
        addresses = {address for pid in family(os.getpid()) for address in listening(pid)}
        assert addresses == {"127.0.0.1"}

    def test_a_signal_ends_it_without_waiting(self, workers: DaskWorkers, notes: Path, tmp_path: Path) -> None:
        def check() -> None:
            if begun(notes):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(workers(entries(tmp_path, "slow1", "slow2"), [notes], check=check))
        assert not workers._flying
        # And the workers are free for others.
        assert len(list(workers(entries(tmp_path, "v1", "v2"), [notes]))) == 2

    def test_workers_tell_how_far_they_are(self, workers: DaskWorkers, tmp_path: Path) -> None:
        told: list[tuple[str, int, Length, Place]] = []

        def on_frames(entry: Entry, *how_far: Any) -> None:
            told.append((entry.id, *how_far))

        ticking = DaskWorkers(workers.client, vadx_units.ticking, 2)
        videos = entries(tmp_path, "a", "b", num_bytes=1)
        effort = Effort()
        outcomes = list(ticking(videos, ["job"], on_frames=on_frames, effort=effort))
        assert {(one.id, one.notes) for (one,) in outcomes} == {("a", ("told",)), ("b", ("told",))}
        assert {place.worker for *_, place in told} == {"worker0", "worker1"}
        assert {length for *_, length, _ in told} == {Length(50, 25.0)}
        for name in "ab":
            counts = [count for one, count, *_ in told if one == name]
            assert counts
            assert counts == sorted(set(counts))
            assert set(counts) <= set(range(1, 51))
        # What each of them waited for.
        assert effort == Effort(waited_for_frames=2.0)
        # Where nobody looks, nothing is told.
        assert {one.notes for (one,) in ticking(videos, ["job"])} == {("silent",)}


@pytest.fixture(params=["here", "workers", "scheduler"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")]))
    if request.param == "here":
        return ()
    if request.param == "workers":
        return ("--workers", "2")
    return ("--scheduler", request.getfixturevalue("workers").client.scheduler.address)


def test_the_contract_of_every_kind(
    where: tuple[str, ...], store: Path, six_videos: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "junk.mp4").write_text("not a video\n")
    command = (*TINY, six_videos, "bad", "--out", "other", *where)
    ran = vadx_here(*command, "--json")
    assert ran.code == 3, ran.err
    assert sorted(statuses(ran)) == [*IDS, "junk"]
    assert {line["id"]: line["code"] for line in events(ran, "video") if "code" in line} == {"junk": "VIDEO_NOT_VIDEO"}
    assert shard_hashes(tmp_path / "other") == shard_hashes(store)
    assert events(ran, "summary")[0]["exit_code"] == 3


TUBES = (
    *("tubes", "--detector", "tiny-boxes", "--device", "cpu", "--backbone", "tiny", "--backbone-weights", "random"),
    *("--min-length-unary", "10", "--min-length-multivariate", "10"),
)


@pytest.mark.parametrize("where", ["workers", "scheduler"], indirect=True)
def test_tubes_are_the_same_wherever_they_are_made(
    where: tuple[str, ...], six_videos: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    assert vadx_here(*TUBES, six_videos, "--out", "near").code == 0
    # One is enough: that several share the videos is no matter of what is done to them.
    where = ("--workers", "1") if "--workers" in where else where
    ran = vadx_here(*TUBES, six_videos, "--out", "far", *where, "--json")
    assert ran.code == 0, ran.err
    assert {line["status"] for line in events(ran, "video")} == {"done"}
    near = shard_hashes(tmp_path / "near")
    assert len(near) == 3 * len(IDS)
    assert shard_hashes(tmp_path / "far") == near


def test_boxes_of_files_are_found_from_another_working_directory(
    workers: DaskWorkers, six_videos: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    for identifier in IDS:
        file = tmp_path / "boxes" / f"{identifier}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{frame},1,{frame},8,16,16,0.9,-1,-1,-1\n" for frame in range(1, 13)))
    command = ("tubes", "--detections", "boxes", "--format", "mot", "--stage", "link", "--min-length-unary", "10")
    relative = os.path.relpath(six_videos, tmp_path)
    assert vadx_here(*command, relative, "--out", "near").code == 0
    ran = vadx_here(*command, relative, "--out", "far", "--scheduler", workers.client.scheduler.address)
    assert ran.code == 0, ran.err
    assert len(shard_hashes(tmp_path / "near")) == 2 * len(IDS)
    assert shard_hashes(tmp_path / "far") == shard_hashes(tmp_path / "near")


@pytest.mark.parametrize(("has_bokeh", "told"), [(True, r"http://127\.0\.0\.1:[1-9]\d*/status"), (False, "None")])
def test_the_dashboard_is_told_where_dask_can_show_it(
    has_bokeh: bool,
    told: str,
    workers: DaskWorkers,
    six_videos: Path,
    vadx_here: Vadx,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda _name: True if has_bokeh else None)
    address = workers.client.scheduler.address
    command = (*TINY, six_videos, "--out", "other", "--scheduler", address, "--limit", "0")
    (start,) = events(vadx_here(*command, "--json"), "start")
    assert re.fullmatch(told, str(start.get("dashboard")))
    assert ("Dask shows what its workers do at http://127.0.0.1:" in vadx_here(*command).err) == has_bokeh


def test_the_device_of_others_need_not_be_here(workers: DaskWorkers, six_videos: Path, vadx_here: Vadx) -> None:
    command = ("extract", "--backbone", "tiny", "--weights", "random", "--device", "cuda", six_videos, "--out", "other")
    ran = vadx_here(*command, "--scheduler", workers.client.scheduler.address, "--limit", "0", "--json")
    assert (ran.code, events(ran, "start")[0]["device"]) == (0, "cuda"), ran.err


def test_workers_and_a_scheduler_contradict_each_other(six_videos: Path, vadx_here: Vadx) -> None:
    ran = vadx_here(*TINY, six_videos, "--out", "other", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1")
    assert (ran.code, "give one of them" in ran.err) == (2, True)


def test_a_scheduler_that_goes_ends_the_run(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_LOST_SECONDS", 1.0)
    words = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    file = tmp_path / "scheduler.json"
    process = subprocess.Popen(
        [sys.executable, *words, "--scheduler-file", str(file)],
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        # It reads what it is given to do, before it is gone.
        env=vadx_environment(),
    )
    try:
        # It is there before it is written.
        while not file.exists() or not file.read_text().rstrip().endswith("}"):
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        with scheduler_workers(address, vadx_units.noting) as found:

            def check() -> None:
                if found._flying and process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    process.wait()

            with pytest.raises(ClusterError, match="is gone; what was stored is safe"):
                list(found(entries(tmp_path, "v"), [notes], check=check))
    finally:
        process.kill()
        process.wait()
    assert begun(notes) == {}
