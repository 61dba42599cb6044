"""A pool of decoding processes: its bounds, its ends, and what it does with those that misbehave."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
import torch

from support import make_video
from vadx.errors import CODES, VadxError, VideoError
from vadx.extract import decode_child
from vadx.extract.decode_child import Block, ChildProcess, Ended, NonsenseError, Open, Opened, Refused
from vadx.extract.decode_limits import DecodeLimits
from vadx.extract.isolate import DecodePool, PooledReader
from vadx.extract.video import VideoInfo
from vadx.features.timeline import VideoFacts

from .decoding import (
    assert_same,
    damaged,
    of_two_sizes,
    plain,
    see,
    seen_directly,
    truncated,
)

SLOTS = 3
BLOCK_FRAMES = 16


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, slots=SLOTS) as pool:
        yield pool


def until(condition: Callable[[], object]) -> None:
    """Wait for what comes soon; the test's own limit ends it if not."""
    while not condition():
        time.sleep(0.01)


def fill(pool: DecodePool, reader: PooledReader) -> ChildProcess:
    """Let a reader's process decode until it waits for a slot."""
    process = pool._processes[0]
    until(lambda: pool._pump(0.01) or process.num_frames == SLOTS * BLOCK_FRAMES)
    assert reader.process is process
    return process


def num_open_files() -> int:
    # What earlier tests left in cycles is not to vanish in between.
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_processes_start_when_they_are_needed_and_serve_again(tmp_path: Path) -> None:
    path = plain(tmp_path)
    with DecodePool(2) as pool:
        assert pool.process_ids == []
        for _ in range(3):
            with pool.open(path) as reader:
                list(reader)
            assert len(pool.process_ids) == 1
        used = pool.process_ids
        readers = [pool.open(path) for _ in range(5)]
        assert len(pool.process_ids) == 2
        assert pool.process_ids[:1] == used
        for reader in readers:
            list(reader)
        assert len(pool.process_ids) == 2


def test_a_video_asked_for_before_its_turn_gets_a_process_until_it_ends(pool: DecodePool, tmp_path: Path) -> None:
    path = plain(tmp_path, num_frames=200)
    first, second = pool.open(path), pool.open(path)
    fill(pool, first)
    assert len(list(second)) == 13
    until(lambda: pool._pump(0.01) or len(pool.process_ids) == 1)
    assert len(list(first)) == 13


def test_a_process_decodes_ahead_until_its_slots_are_full(pool: DecodePool, tmp_path: Path) -> None:
    reader = pool.open(plain(tmp_path, num_frames=400))
    process = fill(pool, reader)
    assert pool.wait([reader]) is reader
    # With nothing taken, nothing more may come.
    for _ in range(20):
        pool._pump(0.01)
        assert process.num_frames == SLOTS * BLOCK_FRAMES
    blocks = iter(reader)
    next(blocks)
    next(blocks)
    until(lambda: pool._pump(0.01) or process.num_frames == (SLOTS + 1) * BLOCK_FRAMES)
    for _ in range(20):
        pool._pump(0.01)
        assert process.num_frames == (SLOTS + 1) * BLOCK_FRAMES


def test_frames_are_shared_and_torch_takes_them_without_a_copy(pool: DecodePool, tmp_path: Path) -> None:
    block = next(iter(pool.open(plain(tmp_path))))
    assert not block.frames.flags.owndata
    assert torch.from_numpy(block.frames).data_ptr() == block.frames.ctypes.data


def test_waiting_ends_after_its_time(pool: DecodePool, tmp_path: Path) -> None:
    reader = pool.open(plain(tmp_path))
    process = pool._processes[0]
    os.kill(process.pid, signal.SIGSTOP)
    assert pool.wait([reader], timeout=0) is None
    assert pool.wait([reader], timeout=0.05) is None
    os.kill(process.pid, signal.SIGCONT)
    assert pool.wait([reader]) is reader


def test_the_first_in_the_given_order_is_preferred(tmp_path: Path) -> None:
    path = plain(tmp_path)
    with DecodePool(2) as pool:
        readers = [pool.open(path), pool.open(path)]
        until(lambda: pool._pump(0.01) or all(reader.is_ready() for reader in readers))
        assert pool.wait(readers) is readers[0]
        assert pool.wait(readers[::-1]) is readers[1]


def test_a_pool_waits_only_for_its_own(pool: DecodePool, tmp_path: Path) -> None:
    with DecodePool(1) as other, pytest.raises(ValueError, match="what it opened itself"):
        pool.wait([other.open(plain(tmp_path))])


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGRTMIN + 3])
def test_a_crash_costs_one_video(pool: DecodePool, tmp_path: Path, number: int) -> None:
    path = plain(tmp_path, num_frames=400)
    reader, following = pool.open(path), pool.open(path)
    process = fill(pool, reader)
    os.kill(process.pid, number)
    got = []
    with pytest.raises(VideoError) as caught:  # noqa: PT012  # the blocks before the error count
        for block in reader:
            got.extend(block.frames.copy())
    code = "VIDEO_OOM" if number == signal.SIGKILL else "VIDEO_CRASH"
    assert (caught.value.code, caught.value.path) == (code, str(path))
    name = signal.Signals(number).name if number < signal.SIGRTMIN else f"signal {int(number)}"
    assert caught.value.evidence == f"its decoder was ended by {name} after {SLOTS * BLOCK_FRAMES} frames"
    direct = seen_directly(path)
    np.testing.assert_array_equal(np.stack(got), np.stack(direct.frames[: SLOTS * BLOCK_FRAMES]))
    assert reader.facts().fps == 25.0
    assert_same(see(following), direct)
    assert CODES[code].retriable == (code == "VIDEO_OOM")
    assert not is_alive(process.pid)


def test_a_crash_before_the_header_is_said_at_first_use(pool: DecodePool, tmp_path: Path) -> None:
    reader = pool.open(plain(tmp_path))
    os.kill(pool.process_ids[0], signal.SIGKILL)
    with pytest.raises(VideoError, match="ended by SIGKILL after 0 frames"):
        reader.facts()


def test_a_halt_costs_one_video(pool: DecodePool, tmp_path: Path) -> None:
    path = plain(tmp_path, num_frames=400)
    reader, following = pool.open(path), pool.open(path)
    process = fill(pool, reader)
    os.kill(process.pid, signal.SIGSTOP)
    # Not before: a process takes its time to start.
    pool._limits = DecodeLimits(stall_seconds=0.5)
    with pytest.raises(VideoError) as caught:
        list(reader)
    pool._limits = DecodeLimits()
    assert (caught.value.code, caught.value.path) == ("VIDEO_TIMEOUT", str(path))
    assert caught.value.evidence == f"its decoder gave nothing for 0.5 s, after {SLOTS * BLOCK_FRAMES} frames"
    assert_same(see(following), seen_directly(path))
    assert not is_alive(process.pid)


def test_a_video_has_its_time(pool: DecodePool, tmp_path: Path) -> None:
    reader = pool.open(plain(tmp_path, num_frames=400))
    process = fill(pool, reader)
    pool._limits = DecodeLimits(video_seconds=3600)
    process.busy_seconds = 3600.5
    # Else it may have filled its slots again whenever the parent looks, and waits for its frames to be taken.
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(VideoError, match=r"its decoder took longer than 3600 s, after \d+ frames"):
        list(reader)


def test_a_decoder_that_waits_for_its_frames_to_be_taken_is_not_halted(pool: DecodePool, tmp_path: Path) -> None:
    path = plain(tmp_path, num_frames=400)
    reader = pool.open(path)
    process = fill(pool, reader)
    pool._limits = DecodeLimits(stall_seconds=1)
    process.silent_seconds = 0
    for _ in range(10):
        pool._looked -= 10
        pool._pump(0)
    assert process.silent_seconds == 0
    pool._limits = DecodeLimits()
    assert_same(see(reader), seen_directly(path))


def test_time_in_which_nobody_looked_is_not_silence(pool: DecodePool, tmp_path: Path) -> None:
    path = plain(tmp_path, num_frames=400)
    reader = pool.open(path)
    # As after a night's sleep of the machine.
    pool._looked -= 30_000
    pool._pump(0)
    assert reader.process is not None
    assert reader.process.silent_seconds <= 1
    assert_same(see(reader), seen_directly(path))


def test_a_video_that_takes_too_much_memory_fails_alone(tmp_path: Path) -> None:
    large, small = tmp_path / "large.mp4", plain(tmp_path)
    with av.open(large, "w") as container:
        stream = container.add_stream("mpeg4", 25, width=7680, height=4320, pix_fmt="yuv420p")
        for _ in range(2):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.zeros((4320 * 3 // 2, 7680), np.uint8), "yuv420p"))
            )
        container.mux(stream.encode())
    with DecodePool(1) as pool:
        assert sum(len(block.frames) for block in pool.open(large)) == 2
    with DecodePool(1, limits=DecodeLimits(memory_bytes=450 << 20)) as pool:
        with pytest.raises(VideoError) as caught:
            list(pool.open(large))
        assert caught.value.code == "VIDEO_TOO_LARGE"
        assert_same(see(pool.open(small)), seen_directly(small))


@pytest.mark.parametrize("name", ["memory_bytes", "num_files", "stall_seconds", "video_seconds"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match="limits of a decoder are positive"):
        DecodeLimits(**{name: 0})


def test_a_process_that_dies_idle_is_replaced(pool: DecodePool, tmp_path: Path) -> None:
    path = plain(tmp_path)
    for _ in range(2):
        assert len(list(pool.open(path))) == 5
        process = pool._processes[0]
        os.kill(process.pid, signal.SIGKILL)
        # A zombie's threads may still hold its end of the connection.
        until(process.connection.poll)
    # Between the pool's look at it and the next order.
    assert len(list(pool.open(path))) == 5
    process = pool._processes[0]
    os.kill(process.pid, signal.SIGKILL)
    until(process.connection.poll)
    reader = PooledReader(pool, Open(10**6, bytes(path), "apply", False, False), path)
    pool._assign(process, reader)
    assert len(list(reader)) == 5


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_bug_in_the_other_process_stops_the_run(pool: DecodePool, tmp_path: Path, is_closed: bool) -> None:
    reader = pool.open(plain(tmp_path, num_frames=400))
    process = fill(pool, reader)
    process.connection.send_bytes(b"no order at all")
    if is_closed:
        reader.close()
    use = partial(until, lambda: pool._pump(0.01)) if is_closed else partial(list, reader)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*msgspec"):
        use()
    assert pool.process_ids == []


def test_a_process_that_fails_to_start_up_says_why(
    pool: DecodePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_child, "__name__", "vadx.extract.no_such_module")
    with pytest.raises(RuntimeError, match=r"No module named vadx\.extract\.no_such_module"):
        pool.open(plain(tmp_path)).facts()


def test_what_the_system_refuses_to_start_is_told(
    pool: DecodePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = num_open_files()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(VadxError, match="cannot be started: No such file"):
        pool.open(plain(tmp_path))
    assert num_open_files() == before


def test_a_closed_videos_process_takes_the_next(pool: DecodePool, tmp_path: Path) -> None:
    path = plain(tmp_path, num_frames=400)
    reader, dropped, following = pool.open(path), pool.open(path), pool.open(path)
    process = fill(pool, reader)
    dropped.close()
    reader.close()
    assert_same(see(following), seen_directly(path))
    assert pool.process_ids == [process.pid]


def test_nothing_is_left_open(tmp_path: Path) -> None:
    path = plain(tmp_path, num_frames=400)
    before = num_open_files()
    for _ in range(2):
        with DecodePool(2) as pool:
            readers = [pool.open(path) for _ in range(4)]
            next(iter(readers[0]))
            list(readers[3])
            processes = pool.process_ids
        assert len(processes) >= 2
        assert not any(is_alive(pid) for pid in processes)
        assert num_open_files() == before
        with pytest.raises(ValueError, match="is closed"):
            pool.open(path)


def test_a_process_that_does_not_leave_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_child, "_FAREWELL_SECONDS", 0.1)
    with DecodePool(1) as pool:
        pool.open(plain(tmp_path)).facts()
        (pid,) = pool.process_ids
        os.kill(pid, signal.SIGSTOP)
    assert not is_alive(pid)


def test_what_interrupts_the_parent_is_for_the_parent_alone(pool: DecodePool, tmp_path: Path) -> None:
    path = plain(tmp_path, num_frames=400)
    reader = pool.open(path)
    process = fill(pool, reader)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(process.pid, number)
    assert_same(see(reader), seen_directly(path))
    assert os.getsid(process.pid) == process.pid


def test_a_process_reads_nothing_from_the_terminal_and_leaves_no_core(pool: DecodePool, tmp_path: Path) -> None:
    list(pool.open(plain(tmp_path)))
    (pid,) = pool.process_ids
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    assert all("memfd:vadx" in str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (1, 2))
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    assert next(line.split()[4] for line in limits if line.startswith("Max core file size")) == "0"


def test_the_damaged_videos_are_damaged(tmp_path: Path) -> None:
    codes = {maker: seen_directly(maker(tmp_path)).error for maker in (damaged, truncated)}
    assert [error and error[0] for error in codes.values()] == ["VIDEO_DAMAGED", "VIDEO_TRUNCATED"]
    assert seen_directly(of_two_sizes(tmp_path)).facts[-1].num_size_changes == 1


def test_the_memory_has_no_name_and_large_slots_are_given_back(pool: DecodePool, tmp_path: Path) -> None:
    path = make_video(tmp_path / "large.mp4", num_frames=40, width=1920, height=1080, codec="mpeg4")
    with pool.open(path) as reader:
        assert pool.wait([reader]) is reader
        process = pool._processes[0]
        assert shared_bytes(process.pid) > 40 << 20
        list(reader)
    with pool.open(plain(tmp_path, num_frames=1)) as reader:
        list(reader)
    assert shared_bytes(process.pid) < 20 << 20
    names = {path.readlink().as_posix() for path in Path(f"/proc/{process.pid}/fd").iterdir()}
    assert not any("/dev/shm" in name or "/tmp" in name for name in names)


def shared_bytes(pid: int) -> int:
    """What a process has touched of shared memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssShmem"))


def test_a_system_without_nameless_memory_takes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = plain(tmp_path, num_frames=200)
    with DecodePool(1) as pool:
        assert_same(see(pool.open(path)), seen_directly(path))
        assert list((tmp_path / "tmp").iterdir()) == []


PARENT = """
import os, sys, time
from vadx.extract.isolate import DecodePool
pool = DecodePool(2)
readers = [pool.open(sys.argv[1]) for _ in range(2)]
next(iter(readers[0]))
if sys.argv[2] == "forked" and os.fork() == 0:
    time.sleep(600)
print(*pool.process_ids, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["plain", "forked"])
def test_processes_end_with_their_parent(tmp_path: Path, kind: str) -> None:
    path = plain(tmp_path, num_frames=400)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(path), kind], stdout=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        children = [int(word) for word in parent.stdout.readline().split()]
        assert len(children) == 2
        assert all(is_alive(pid) for pid in children)
        parent.kill()
        parent.wait()
        until(lambda: not any(is_alive(pid) for pid in children))
        if kind == "forked":
            os.killpg(parent.pid, signal.SIGKILL)


def test_the_other_process_loads_only_what_decodes() -> None:
    script = f"import sys, {decode_child.__name__}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"av", "numpy", "msgspec"} <= set(loaded)
    assert {"torch", "torchvision", "h5py", "click", "rich", "pytorchvideo"} & set(loaded) == set()


def test_a_running_process_has_mapped_no_torch(pool: DecodePool, tmp_path: Path) -> None:
    list(pool.open(plain(tmp_path)))
    maps = Path(f"/proc/{pool.process_ids[0]}/maps").read_text()
    assert "libav" in maps
    assert "torch" not in maps


def test_a_module_in_the_working_directory_is_not_imported(
    pool: DecodePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain(tmp_path)
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    assert len(list(pool.open(path))) == 5


@pytest.mark.parametrize(("num_processes", "slots"), [(0, 4), (1, 1), (-1, 4)])
def test_a_pool_of_nothing_is_refused(num_processes: int, slots: int) -> None:
    with pytest.raises(ValueError, match="at least one process of two slots"):
        DecodePool(num_processes, slots=slots)


INFO = VideoInfo("mov", "h264", 4, 2, "yuv420p", 25.0, 2, 1.0, 100)
FACTS = VideoFacts(25.0, 2, 4, 2)
OPENED = Opened(7, INFO, FACTS)
BLOCK = Block(7, 1, (2, 2, 4, 3), 0, bytes(16), bytes(2), FACTS)
NONSENSE: dict[str, list[Any]] = {
    "no message": [b"\xc1"],
    "another type": [msgspec.msgpack.encode({"type": "Open", "video": 7})],
    "a pickle": [b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."],
    "another video's header": [msgspec.structs.replace(OPENED, video=8)],
    "two headers": [OPENED, OPENED],
    "a block before the header": [BLOCK],
    "an end before the header": [Ended(7, FACTS)],
    "an end without facts": [OPENED, Ended(7, None)],
    "a late refusal to open": [OPENED, Refused(7, "VIDEO_EMPTY", b"", None)],
    "an unknown code": [Refused(7, "VIDEO_FINE", b"", None)],
    "a slot beyond the last": [OPENED, msgspec.structs.replace(BLOCK, slot=SLOTS)],
    "a slot before the first": [OPENED, msgspec.structs.replace(BLOCK, slot=-1)],
    "a slot that is lent": [OPENED, BLOCK, msgspec.structs.replace(BLOCK, start=2)],
    "more bytes than a slot has": [OPENED, msgspec.structs.replace(BLOCK, shape=(2, 1 << 13, 1 << 13, 3))],
    "a negative size": [OPENED, msgspec.structs.replace(BLOCK, shape=(2, -2, -4, 3))],
    "no frames": [OPENED, msgspec.structs.replace(BLOCK, shape=(0, 2, 4, 3), pts_seconds=b"", damaged=b"")],
    "four channels": [OPENED, msgspec.structs.replace(BLOCK, shape=(2, 2, 4, 4))],
    "too few timestamps": [OPENED, msgspec.structs.replace(BLOCK, pts_seconds=bytes(8))],
    "too many flags": [OPENED, msgspec.structs.replace(BLOCK, damaged=bytes(3))],
    "frames out of order": [OPENED, msgspec.structs.replace(BLOCK, start=5)],
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_and_costs_one_video(pool: DecodePool, tmp_path: Path, name: str) -> None:
    path = plain(tmp_path)
    reader = PooledReader(pool, Open(7, bytes(path), "apply", False, False), path)
    process = pool._start()
    own, process.connection = process.connection, (ends := Pipe())[0]
    pool._assign(process, reader)
    for message in NONSENSE[name]:
        ends[1].send_bytes(message if isinstance(message, bytes) else msgspec.msgpack.encode(message))
    with ends[1], own, pytest.raises(VideoError, match="sent a message that makes no sense") as caught:
        list(reader)
    assert caught.value.code == "VIDEO_CRASH"
    assert not is_alive(process.pid)
    assert len(list(pool.open(path))) == 5


def test_a_message_from_an_idle_process_is_nonsense() -> None:
    process = ChildProcess(1, DecodeLimits())
    own, process.connection = process.connection, (ends := Pipe())[0]
    with ends[1], own:
        ends[1].send_bytes(msgspec.msgpack.encode(OPENED))
        with pytest.raises(NonsenseError, match="a video that it is not at"):
            process.receive()
    process.kill()
    decode_child.end_all([process])
