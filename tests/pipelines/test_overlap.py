"""Many videos at once: shared batches, decoding processes, threads. Nothing of it may show in what is stored."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import Ran, make_video, vadx_environment
from vadx.extract import engine as engines
from vadx.pipelines import capacity
from vadx.pipelines.capacity import GAINS, advice, bottleneck, default_decoders
from vadx.pipelines.extraction import Effort, process_videos
from vadx.pipelines.inputs import Entry

from .forking import TINY, ForkServer, json_lines, shard_hashes

Vadx = Callable[..., Ran]

pytestmark = pytest.mark.timeout(180)

EXIT_CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 143}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many inputs went into each batch."""
    seen: list[int] = []
    really = engines.Engine.run

    def noting(self: engines.Engine, inputs: Any, crops: Any = None) -> Any:
        seen.append(len(inputs))
        return really(self, inputs, crops)

    monkeypatch.setattr(engines.Engine, "run", noting)
    return seen


@pytest.mark.parametrize("decoders", [1, 2, 5])
def test_what_is_stored_does_not_depend_on_how_much_happens_at_once(
    decoders: int, store: Path, six_videos: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    ran = vadx_here(*TINY, six_videos, "--out", "other", "--decoders", str(decoders))
    assert ran.code == 0, ran.err
    assert shard_hashes(tmp_path / "other") == shard_hashes(store)


def test_clips_of_several_videos_fill_one_batch(six_videos: Path, vadx_here: Vadx, runs: list[int]) -> None:
    ran = vadx_here(*TINY[:-1], "7", six_videos, "--out", "store", "--json")
    num_clips = sum(line["num_clips"] for line in json_lines(ran.out) if line["event"] == "video")
    assert num_clips > 7
    # The first is that of the probe, before there are clips.
    assert runs.pop(0) == 7
    assert runs == [7] * (num_clips // 7) + [num_clips % 7] * (num_clips % 7 > 0)


def test_several_networks_decode_each_video_once_in_processes_too(
    six_videos: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    two = ("extract", "-b", "tiny", "-b", "tiny-frames", "--weights", "random", "--batch", "4", six_videos)
    assert vadx_here(*two, "--out", "here").code == 0
    assert vadx_here(*two, "--out", "there", "--decoders", "2").code == 0
    assert shard_hashes(tmp_path / "here") == shard_hashes(tmp_path / "there")


@pytest.mark.parametrize("crops", ["center", "ten"])
def test_frames_that_need_no_resizing_are_not_overwritten_by_later_ones(
    crops: str, vadx_here: Vadx, tmp_path: Path
) -> None:
    from vadx.extract.library import load_backbone

    size = load_backbone("tiny", "random").recipe.transform.resize
    assert isinstance(size, int)
    make_video(tmp_path / "v.mp4", num_frames=200, width=size, height=size)
    order = ("--crops", crops, *(["--crop-order", "tv"] if crops == "ten" else []))
    for store, decoders in (("here", "0"), ("there", "1")):
        ran = vadx_here(*TINY, "v.mp4", "--out", store, "--decoders", decoders, *order, "--clip-stride", "5")
        assert ran.code == 0, ran.err
    assert shard_hashes(tmp_path / "here") == shard_hashes(tmp_path / "there")


def test_a_limit_counts_videos_that_are_still_on_their_way(six_videos: Path, vadx_here: Vadx) -> None:
    for stored in (4, 6, 6):
        ran = vadx_here(*TINY, six_videos, "--out", "store", "--decoders", "3", "--limit", "4", "--batch", "64")
        assert ran.code == 0, ran.err
        assert len(vadx_here("ls", "tiny", "--store", "store", "-q").out.split()) == stored


@pytest.mark.parametrize(("number", "code"), [(signal.SIGSEGV, "VIDEO_CRASH"), (signal.SIGKILL, "VIDEO_OOM")])
def test_a_decoder_that_dies_costs_one_video(
    number: int, code: str, vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.extract.isolate import DecodePool
    from vadx.pipelines import retrying, run

    for name, num_frames in (("a", 20), ("b", 600), ("c", 20)):
        make_video(tmp_path / f"v/{name}.mp4", num_frames=num_frames)
    pools: list[DecodePool] = []
    begin = DecodePool.__init__

    def noting(self: DecodePool, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        pools.append(self)

    def killing(entries: Any, jobs: Any, **options: Any) -> Any:
        victims = ["b"]

        def kill(entry: Entry, *_told: object) -> None:
            if entry.id in victims:
                victims.remove(entry.id)
                os.kill(pools[-1].process_ids[0], number)

        return process_videos(entries, jobs, **{**options, "on_frames": kill})

    order = (*TINY, "v", "--out", "store", "--decoders", "1", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(DecodePool, "__init__", noting)
        patch.setattr(run, "process_videos", killing)
        patch.setattr(retrying, "RETRIES", {"VIDEO_OOM": (0.0,)})
        ran = vadx_here(*order)
    assert ran.code == 3
    lines = {line["id"]: line for line in json_lines(ran.out) if line["event"] == "video"}
    assert {name: line.get("code") for name, line in lines.items()} == {"a": None, "b": code, "c": None}
    # Memory may be free again a moment later.
    assert lines["b"].get("attempts", 1) == (2 if code == "VIDEO_OOM" else 1)
    # A file that crashes decoders is remembered; memory is another matter the next time.
    assert vadx_here(*order).code == (3 if code == "VIDEO_CRASH" else 0)


@pytest.mark.parametrize("name", EXIT_CODES)
def test_a_signal_ends_a_run_and_its_decoders_and_the_same_command_resumes(
    name: str, store: Path, six_videos: Path, vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.extract.isolate import DecodePool
    from vadx.pipelines import run

    order = (*TINY, six_videos, "--out", "other", "--decoders", "2")
    children: list[int] = []
    close = DecodePool.close

    def noting(self: DecodePool) -> None:
        children.extend(self.process_ids)
        close(self)

    monkeypatch.setattr(DecodePool, "close", noting)

    def stopping(entries: Any, jobs: Any, **options: Any) -> Any:
        stop = iter([False] * 3 + [True])

        def maybe(*_told: object) -> None:
            if next(stop, False):
                os.kill(os.getpid(), getattr(signal, name))

        return process_videos(entries, jobs, **{**options, "on_frames": maybe})

    with monkeypatch.context() as patch:
        patch.setattr(run, "process_videos", stopping)
        assert vadx_here(*order).code == EXIT_CODES[name]
    assert children
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert len(shard_hashes(tmp_path / "other")) < 6
    assert vadx_here(*order).code == 0
    assert shard_hashes(tmp_path / "other") == shard_hashes(store)


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_moment_leaves_what_resumes_byte_for_byte(
    seed: int, forked: ForkServer, store: Path, six_videos: Path, tmp_path: Path
) -> None:
    order = (*TINY, str(six_videos), "--out", "killed", "--decoders", "2")
    moment = float(np.random.default_rng(seed).uniform(0, 0.4))
    forked(*order, folder=tmp_path, signal=signal.SIGKILL, after_events=4, delay=moment)
    assert forked(*order, folder=tmp_path).code == 0
    assert shard_hashes(tmp_path / "killed") == shard_hashes(store)


def test_a_video_that_is_replaced_before_it_is_hashed_is_not_stored(
    vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.pipelines.source import Source

    make_video(tmp_path / "v/a.mp4", num_frames=20)
    make_video(tmp_path / "other.mp4", num_frames=12, seed=5)
    hashed = Source._hashed

    def late(self: Source) -> str:
        if (tmp_path / "other.mp4").exists():
            # By now the decoder has the file that was there before.
            (tmp_path / "other.mp4").replace(self.path)
        return hashed(self)

    monkeypatch.setattr(Source, "_hashed", late)
    ran = vadx_here(*TINY, "v", "--out", "store", "--decoders", "1", "--json")
    (line,) = [line for line in json_lines(ran.out) if line["event"] == "video"]
    assert (ran.code, line["code"]) == (3, "VIDEO_CHANGED_DURING_READ")
    again = vadx_here(*TINY, "v", "--out", "store", "--json")
    assert [line["num_frames"] for line in json_lines(again.out) if line["event"] == "video"] == [12]


@pytest.mark.parametrize("name", EXIT_CODES)
def test_a_hash_that_takes_long_does_not_hold_up_a_signal(
    name: str, vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.pipelines.source import Source

    make_video(tmp_path / "v/a.mp4", num_frames=20)
    cancelled: list[bool] = []

    def endless(self: Source) -> str:
        os.kill(os.getpid(), getattr(signal, name))
        for _ in range(1000):
            if self._cancelled:
                cancelled.append(True)
                raise OSError
            time.sleep(0.02)
        return ""

    monkeypatch.setattr(Source, "_hashed", endless)
    ran = vadx_here(*TINY, "v", "--out", "store", "--decoders", "1", "--json")
    assert ran.code == EXIT_CODES[name]
    assert cancelled == [True]
    assert [line["event"] for line in json_lines(ran.out)] == ["start", "summary"]


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", ">&-"])
def test_decoders_need_no_standard_streams(closed: str, six_videos: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "vadx", *TINY, str(six_videos), "--out", "store", "--decoders", "2", "-v"]
    environment = vadx_environment(VADX_HOME=str(tmp_path / "home"))
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(words)} {closed}"],
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "done: 6 stored" in done.stderr
    assert len(shard_hashes(tmp_path / "store")) == 6


def test_a_write_that_is_refused_leaves_the_other_videos_told(
    six_videos: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.errors import StoreWriteError
    from vadx.features.store import FeatureSet

    publish = FeatureSet.publish

    def refusing(self: FeatureSet, identifier: str, *arguments: Any, **options: Any) -> Any:
        if identifier.endswith("clip002_x264"):
            msg = "the disk refused"
            raise StoreWriteError(msg)
        return publish(self, identifier, *arguments, **options)

    monkeypatch.setattr(FeatureSet, "publish", refusing)
    ran = vadx_here(*TINY, six_videos, "--out", "store", "--decoders", "3", "--json")
    told = {line["id"] for line in json_lines(ran.out) if line["event"] == "video"}
    assert ran.code == 6
    assert told == set(vadx_here("ls", "tiny", "--store", "store", "-q").out.split())


class TestWhatLimited:
    @pytest.mark.parametrize(
        ("effort", "part"),
        [
            (Effort(4.0, network_busy=4.0), None),
            (Effort(100, network_busy=80, waited_for_network=60, waited_for_frames=5), "network"),
            (Effort(100, network_busy=30, waited_for_network=5, waited_for_frames=80), "decode"),
            (Effort(100, network_busy=30, waited_for_network=5, waited_for_frames=15), "preprocess"),
            (Effort(100, network_busy=60, waited_for_network=60, waited_for_frames=15), "network"),
        ],
    )
    def test_it_is_what_the_run_waited_for(self, effort: Effort, part: str | None) -> None:
        assert bottleneck(effort) == part

    def test_the_summary_says_it_and_what_to_change(
        self, six_videos: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "limited the run" not in vadx_here(*TINY, six_videos, "--out", "short").err
        monkeypatch.setattr(capacity, "_SHORT_SECONDS", 0.0)
        assert "limited the run" in vadx_here(*TINY, six_videos, "--out", "store").err
        summary = json_lines(vadx_here(*TINY, six_videos, "--out", "again", "--json").out)[-1]
        assert summary["limited_by"] in ("decode", "network", "preprocess")
        assert 0 < summary["network_seconds"] < summary["seconds"]

    def test_advice_names_an_option_that_is_not_yet_taken(self) -> None:
        def said(part: Any, engine: str, precision: str, decoders: int, device: str = "cpu") -> str:
            from types import SimpleNamespace

            job: Any = SimpleNamespace(engine=engine, recipe=SimpleNamespace(precision=precision), device="cpu")
            return advice(part, job, decoders, device=device, cores=8)

        assert "--decoders 4" in said("decode", "torch-eager", "fp32", 2)
        assert "--decoders" not in said("decode", "torch-eager", "fp32", 8)
        assert "--decoders 0" in said("preprocess", "torch-eager", "fp32", 0)
        assert "bf16" in said("network", "openvino", "fp32", 1, "cpu+amx")
        assert "--precision" not in said("network", "openvino", "bf16", 1, "cpu+amx")
        assert "--precision bf16" in said("network", "openvino", "fp32", 1, "cpu+bf16")
        assert "--precision" not in said("network", "openvino", "bf16", 1, "cpu+bf16")
        assert "--precision" not in said("network", "openvino", "fp32", 1)
        assert all(gain.times > 1.5 for gain in GAINS.values())

    @pytest.mark.parametrize(
        ("flags", "kind"),
        [
            (("amx_bf16", "avx512_bf16"), "cpu+amx"),
            (("avx512_bf16",), "cpu+bf16"),
            (("avx512f",), "cpu"),
        ],
    )
    def test_a_cpu_is_told_by_its_instructions(
        self, flags: tuple[str, ...], kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(capacity, "cpu_has", lambda *names: not set(names).isdisjoint(flags))
        assert capacity.device_kind("cpu") == kind

    def test_cores_are_decoders_beside_a_gpu_and_the_networks_otherwise(self) -> None:
        assert [default_decoders("cpu", cores) for cores in (1, 2, 8, 64)] == [1, 1, 2, 4]
        assert [default_decoders("cuda", cores) for cores in (1, 2, 16, 64)] == [1, 1, 15, 16]


class TestMemoryThatDoesNotSuffice:
    @pytest.fixture
    def room(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
        """Let batches above ``inputs`` run out of memory."""
        limit = {"inputs": 3}
        really = engines.EagerNetwork.__call__

        def limited(self: engines.EagerNetwork, inputs: Any) -> Any:
            if len(inputs) > limit["inputs"]:
                raise MemoryError
            return really(self, inputs)

        monkeypatch.setattr(engines.EagerNetwork, "__call__", limited)
        return limit

    @pytest.mark.usefixtures("room")
    def test_the_batch_is_halved_before_the_first_clip_and_recorded(self, six_videos: Path, vadx_here: Vadx) -> None:
        from vadx.features import Store

        ran = vadx_here("extract", "-b", "tiny", "--weights", "random", six_videos, "--out", "store", "-d", "cpu")
        assert ran.code == 0, ran.err
        batch = Store("store")["tiny"]["Abuse/clip001_x264"].provenance["batch"]
        assert isinstance(batch, int)
        assert 1 <= batch <= 3

    @pytest.mark.usefixtures("room")
    def test_a_batch_that_was_asked_for_is_refused_with_the_one_that_fits(
        self, six_videos: Path, vadx_here: Vadx
    ) -> None:
        ran = vadx_here(*TINY[:-1], "12", six_videos, "--out", "store")
        assert ran.code == 6
        assert "--batch 3" in ran.err
        assert "Traceback" not in ran.err
        assert vadx_here("ls", "tiny", "--store", "store", "-q").out == ""

    def test_running_out_later_ends_the_run_and_the_same_command_resumes(
        self, six_videos: Path, vadx_here: Vadx, store: Path, tmp_path: Path, room: dict[str, int]
    ) -> None:
        from vadx.pipelines import job

        order = (*TINY, six_videos, "--out", "other")
        really = job.engines_for

        def shrinking(*arguments: Any) -> Any:
            found = really(*arguments)
            room["inputs"] = 2
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vadx.pipelines.extraction.engines_for", shrinking)
            ran = vadx_here(*order)
        assert ran.code == 6
        assert "memory" in ran.err
        room["inputs"] = 3
        assert vadx_here(*order).code == 0
        assert shard_hashes(tmp_path / "other") == shard_hashes(store)
