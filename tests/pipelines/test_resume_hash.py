"""What a killed run kept of a video waits for the hash that says whose it is, nothing else does, and little is held."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Ran
from vadx.features.spool import ClipSpool
from vadx.pipelines import unfinished
from vadx.pipelines.source import Source

from .forking import TINY, shard_hashes
from .resume_samples import NUM_CLIPS, Network, killed, tmp_of

Vadx = Callable[..., Ran]

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("one_thread", "no_power_loss")]


@pytest.mark.usefixtures("at_once")
def test_values_that_are_spooled_to_disk_are_taken_up_without_being_held(
    video: Path, vadx_here: Vadx, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ClipSpool.__init__.__kwdefaults__, "memory_bytes", 64)
    held: list[int] = []
    really = ClipSpool.put
    monkeypatch.setattr(
        ClipSpool, "put", lambda self, block: (really(self, block), held.append(sum(map(len, self.blocks))))[0]
    )
    assert vadx_here(*TINY, video, "--out", "quiet").code == 0
    killed(vadx_here, network, 20, *TINY, video, "--out", "store")
    network.restart()
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert network.num_inputs < NUM_CLIPS - 10
    assert held == [0] * len(held)
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")
    assert tmp_of(tmp_path / "store") == []


def test_what_waits_to_be_kept_does_not_pile_up(
    video: Path, vadx_here: Vadx, progress: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The stored bytes of a clip are 32.
    monkeypatch.setattr(unfinished, "MEMORY_IMAGE_BYTES", 10 * 32)
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert 10 < progress[0] <= 18


def test_a_video_with_too_many_values_to_wait_for_its_hash_waits_for_it(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "MEMORY_IMAGE_BYTES", 10 * 32)
    really, seen = Source._hashed, []

    def slowly(self: Source) -> str:
        deadline = time.monotonic() + 20
        while network.num_inputs < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
        seen.append(network.num_inputs)
        return really(self)

    monkeypatch.setattr(Source, "_hashed", slowly)
    assert vadx_here(*TINY, video, "--out", "store", "--decoders", "1").code == 0
    assert 12 <= seen[0] < NUM_CLIPS
    assert progress[0] < NUM_CLIPS


@pytest.mark.usefixtures("at_once")
def test_no_frame_is_looked_at_before_the_files_hash_says_whose_clips_were_kept(
    video: Path, vadx_here: Vadx, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(vadx_here, network, 20, *TINY, video, "--out", "store")
    really, hashed = Source._hashed, []

    def slowly(self: Source) -> str:
        time.sleep(0.5)
        hashed.append(network.num_inputs)
        return really(self)

    monkeypatch.setattr(Source, "_hashed", slowly)
    network.restart()
    assert vadx_here(*TINY, video, "--out", "store", "--decoders", "1").code == 0
    assert hashed == [0]
    assert 0 < network.num_inputs < NUM_CLIPS - 10


@pytest.mark.usefixtures("at_once")
def test_a_signal_waits_for_no_hash_and_leaves_what_was_kept(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(vadx_here, network, 20, *TINY, video, "--out", "store")
    cancelled: list[bool] = []

    def signalled(self: Source) -> str:
        # Long enough for the run to be waiting for this.
        time.sleep(0.7)
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 20
        while not self._cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        cancelled.append(self._cancelled)
        return "0" * 64

    with monkeypatch.context() as patch:
        patch.setattr(Source, "_hashed", signalled)
        assert vadx_here(*TINY, video, "--out", "store", "--decoders", "1").code == 143
    # The run does not wait for the thread either.
    deadline = time.monotonic() + 20
    while not cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cancelled == [True]
    num_kept = progress[-1]
    network.restart()
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert network.num_inputs == NUM_CLIPS - num_kept


@pytest.mark.usefixtures("at_once")
def test_a_slow_hash_keeps_no_new_video_waiting(
    video: Path, vadx_here: Vadx, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, hashed = Source._hashed, []

    def slowly(self: Source) -> str:
        deadline = time.monotonic() + 20
        while network.num_inputs < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        hashed.append(network.num_inputs)
        return really(self)

    monkeypatch.setattr(Source, "_hashed", slowly)
    assert vadx_here(*TINY, video, "--out", "store", "--decoders", "1").code == 0
    assert hashed[0] >= 12
