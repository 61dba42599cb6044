"""A kill in the middle of a long video: the network's finished clips are taken up, and the shard is the same."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support import Ran, make_video
from vadx.errors import CODES
from vadx.features.checkpoint import Checkpoint
from vadx.pipelines import unfinished

from .forking import TINY, ForkServer, json_lines, shard_hashes
from .resume_samples import BLOCK, NUM_CLIPS, KilledError, Network, file_of, kill, killed, tmp_of

Vadx = Callable[..., Ran]

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("one_thread", "no_power_loss")]

WAYS = {
    "clips": (TINY, 1),
    "float16": ((*TINY, "--dtype", "float16"), 1),
    "ten crops": ((*TINY, "--crops", "ten", "--crop-order", "tv"), 10),
    "clips that overlap": ((*TINY, "--clip-stride", "2"), 1),
    "frames": (("extract", "-b", "tiny-frames", *TINY[3:]), 4),
    "flow": (("extract", "-b", "tiny-flow", *TINY[3:]), 1),
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("way", WAYS)
def test_a_kill_costs_the_network_no_more_than_a_block(
    way: str, video: Path, vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path
) -> None:
    arguments, num_inputs = WAYS[way]
    command = (*arguments, video, "--out")
    assert vadx_here(*command, "quiet").code == 0
    total = network.num_inputs
    assert tmp_of(tmp_path / "quiet") == []
    # The first ones, in the middle of a block, and when the video has ended.
    for number, at in enumerate((total // 9, total // 2, total - 1)):
        progress.clear()
        killed(vadx_here, network, at, *command, f"s{number}")
        num_kept = progress[-1] if progress else 0
        done = (network.num_inputs - 3) // num_inputs
        # A batch, and the clips of a block of frames, may be on their way.
        assert done - num_kept <= BLOCK + 3 + 8
        network.restart()
        assert vadx_here(*command, f"s{number}").code == 0
        assert network.num_inputs == total - num_kept * num_inputs
        assert shard_hashes(tmp_path / f"s{number}") == shard_hashes(tmp_path / "quiet")
        assert tmp_of(tmp_path / f"s{number}") == []
    assert num_kept * num_inputs >= 0.7 * total


@pytest.mark.usefixtures("at_once")
def test_flow_is_not_computed_again(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.extract.flow import _OnGrey

    command = ("extract", "-b", "tiny-flow", *TINY[3:], video, "--out", "store")
    really, pairs = _OnGrey.__call__, []
    monkeypatch.setattr(_OnGrey, "__call__", lambda self, a, b: (pairs.append(1), really(self, a, b))[1])
    killed(vadx_here, network, 20, *command)
    pairs.clear()
    network.restart()
    assert vadx_here(*command).code == 0
    # One more: the last flow before the first clip that is computed may stand for one that is not there.
    assert len(pairs) <= 4 * (NUM_CLIPS - progress[0]) + 1


@pytest.mark.usefixtures("at_once")
def test_a_video_that_is_killed_again_and_again_gets_there(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path
) -> None:
    assert vadx_here(*TINY, video, "--out", "quiet").code == 0
    progress.clear()
    for _ in range(3):
        killed(vadx_here, network, 12, *TINY, video, "--out", "store")
    assert len(progress) >= 3
    assert progress == sorted(set(progress))
    num_kept = progress[-1]
    network.restart()
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert network.num_inputs == NUM_CLIPS - num_kept
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("decoders", [0, 1])
def test_recipes_of_one_decoding_are_each_taken_up_where_they_were(
    decoders: int, video: Path, vadx_here: Vadx, network: Network, decoded: list[str], tmp_path: Path
) -> None:
    command = ("extract", "-b", "tiny", "-b", "tiny-frames", *TINY[3:], "--clip-stride", "4", video)
    assert vadx_here(*command, "--out", "quiet").code == 0
    total = network.num_inputs
    killed(vadx_here, network, total // 2, *command, "--out", "store")
    # Each set has a file of its own.
    assert tmp_of(tmp_path / "store") == ["a.resume"] * 2
    network.restart()
    decoded.clear()
    ran = vadx_here(*command, "--out", "store", "--decoders", str(decoders))
    assert ran.code == 0, ran.err
    assert len(decoded) == 1 - decoders
    assert network.num_inputs <= total // 2 + 5 * (BLOCK + 7)
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")
    assert tmp_of(tmp_path / "store") == []


@pytest.mark.usefixtures("at_once")
def test_a_signal_leaves_what_is_finished_too(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path
) -> None:
    network.restart(i20=lambda: signal.raise_signal(signal.SIGTERM))
    ran = vadx_here(*TINY, video, "--out", "store")
    assert (ran.code, tmp_of(tmp_path / "store")) == (143, ["a.resume"])
    network.restart()
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert network.num_inputs <= NUM_CLIPS - 15


def test_a_short_video_opens_no_file(
    video: Path, vadx_here: Vadx, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_arguments: object, **_options: object) -> None:
        pytest.fail("a checkpoint was opened")

    monkeypatch.setattr(Checkpoint, "__init__", opened)
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert network.num_inputs == NUM_CLIPS


def test_clips_are_kept_after_a_minute_and_then_every_half(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[float] = []

    def clock() -> float:
        return 4.0 * network.num_inputs

    monkeypatch.setattr(unfinished, "time", SimpleNamespace(perf_counter=clock))
    really = Checkpoint.append
    monkeypatch.setattr(Checkpoint, "append", lambda self, *block: (moments.append(clock()), really(self, *block))[1])
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert unfinished.KEEP_AFTER_SECONDS <= moments[0] < unfinished.KEEP_AFTER_SECONDS + 24
    gaps = np.diff(moments)
    assert len(gaps) >= 1
    assert (gaps >= unfinished.BLOCK_SECONDS).all()
    assert (gaps < unfinished.BLOCK_SECONDS + 24).all()


@pytest.mark.usefixtures("at_once")
def test_other_bytes_of_the_same_length_and_time_are_another_video(
    vadx_here: Vadx, network: Network, tmp_path: Path
) -> None:
    contents = [make_video(tmp_path / f"{n}.mp4", num_frames=119, codec="mpeg4", seed=n).read_bytes() for n in range(2)]
    length = max(map(len, contents)) + 8
    video = tmp_path / "v" / "a.mp4"
    video.parent.mkdir()

    def write(number: int) -> None:
        content = contents[number]
        room = length - len(content)
        video.write_bytes(content + room.to_bytes(4, "big") + b"free" + bytes(room - 8))
        os.utime(video, ns=(10**18, 10**18))

    write(0)
    killed(vadx_here, network, 20, *TINY, "v", "--out", "store")
    before = video.stat()
    write(1)
    after = video.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)
    network.restart()
    assert vadx_here(*TINY, "v", "--out", "store").code == 0
    assert network.num_inputs == NUM_CLIPS
    assert vadx_here(*TINY, "v", "--out", "quiet").code == 0
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")


@pytest.mark.usefixtures("at_once")
def test_what_is_decoded_after_the_file_changed_is_not_kept(
    vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path
) -> None:
    video = make_video(tmp_path / "a.mp4", num_frames=119, codec="mpeg4")
    os.utime(video, ns=(10**18, 10**18))
    network.restart(i12=lambda: os.utime(video))
    ran = vadx_here(*TINY, "a.mp4", "--out", "store", "--json")
    (line,) = [line for line in json_lines(ran.out) if line["event"] == "video"]
    assert line["code"] == "VIDEO_CHANGED_DURING_READ"
    assert network.num_inputs == NUM_CLIPS
    assert 0 < progress[-1] <= 12


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: data,
    "cut": lambda data: data[: len(data) * 2 // 3],
    "cut in the first line": lambda data: data[:40],
    "empty": lambda _data: b"",
    "more": lambda data: data + b"{" + bytes(99),
    "foreign": lambda data: np.random.default_rng(0).bytes(len(data)),
    "foreign, in lines": lambda data: data.replace(b"recipe", b"rezept"),
    **{
        f"flipped at {share}": lambda data, share=share: (  # type: ignore[misc]  # a default binds what a loop changes
            data[: (place := int(share * len(data)))] + bytes([data[place] ^ 8]) + data[place + 1 :]
        )
        for share in (0.02, 0.3, 0.5, 0.7, 0.98)
    },
}


@pytest.mark.usefixtures("at_once")
def test_what_is_damaged_is_computed_again(video: Path, vadx_here: Vadx, network: Network, tmp_path: Path) -> None:
    assert vadx_here(*TINY, video, "--out", "quiet").code == 0
    killed(vadx_here, network, 27, *TINY, video, "--out", "store")
    kept = file_of(tmp_path / "store")
    data, spent = kept.read_bytes(), {}
    for name, change in DAMAGE.items():
        kept.write_bytes(change(data))
        network.restart()
        assert vadx_here(*TINY, video, "--out", "store").code == 0
        spent[name] = network.num_inputs
        assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet"), name
        assert tmp_of(tmp_path / "store") == [], name
        (shard,) = (tmp_path / "store").glob("*/shards/*/*")
        shard.unlink()
    assert {name for name, num in spent.items() if num == NUM_CLIPS} == {
        *(name for name in DAMAGE if "foreign" in name),
        "cut in the first line",
        "empty",
        "flipped at 0.02",
        "flipped at 0.3",
    }
    assert spent["nothing"] == spent["more"] < spent["cut"] < NUM_CLIPS


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "options", [("--batch", "4"), ("--strict",), ("--force",), ("--engine", "torch-eager")], ids=lambda one: one[0]
)
def test_what_could_change_a_value_is_not_taken_up(
    options: tuple[str, ...], video: Path, vadx_here: Vadx, network: Network, tmp_path: Path
) -> None:
    killed(vadx_here, network, 20, *TINY, video, "--out", "store")
    network.restart()
    assert vadx_here(*TINY, *options, video, "--out", "store").code == 0
    # The engine that is named is the one that was taken.
    assert (network.num_inputs == NUM_CLIPS) == (options[0] != "--engine")
    assert tmp_of(tmp_path / "store") == ["a.resume"] * (options[0] != "--engine")


@pytest.mark.usefixtures("at_once")
def test_another_command_in_between_costs_nothing_of_what_was_kept(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path
) -> None:
    killed(vadx_here, network, 20, *TINY, video, "--out", "store")
    num_kept = progress[-1]
    killed(vadx_here, network, 20, *TINY[:-1], "4", video, "--out", "store")
    assert tmp_of(tmp_path / "store") == ["a.resume"] * 2
    network.restart()
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert network.num_inputs == NUM_CLIPS - num_kept
    assert tmp_of(tmp_path / "store") == ["a.resume"]


@pytest.mark.usefixtures("at_once")
def test_what_another_version_computed_is_not_taken_up(
    video: Path, vadx_here: Vadx, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(vadx_here, network, 20, *TINY, video, "--out", "store")
    network.restart()
    monkeypatch.setattr(unfinished, "software_versions", lambda _recipe: {"torch": "99"})
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert network.num_inputs == NUM_CLIPS


@pytest.mark.usefixtures("at_once")
def test_a_run_beside_another_one_leaves_what_that_keeps_alone(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path
) -> None:
    assert vadx_here(*TINY, video, "--out", "quiet").code == 0
    killed(vadx_here, network, 20, *TINY, video, "--out", "store")
    kept = file_of(tmp_path / "store")
    with kept.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        before = kept.read_bytes()
        progress.clear()
        network.restart()
        assert vadx_here(*TINY, video, "--out", "store").code == 0
        assert (network.num_inputs, progress) == (NUM_CLIPS, [])
        assert kept.read_bytes() == before
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")
    assert tmp_of(tmp_path / "store") == ["a.resume"]


@pytest.mark.usefixtures("at_once")
def test_clips_that_another_run_kept_meanwhile_are_not_kept_twice(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vadx_here(*TINY, video, "--out", "quiet").code == 0
    killed(vadx_here, network, 15, *TINY, video, "--out", "store")
    kept = file_of(tmp_path / "store")
    aside = kept.rename(tmp_path / "aside")
    num_kept = progress[-1]
    progress.clear()
    # The other run has begun, and is killed, while this one has not kept anything yet.
    monkeypatch.setattr(unfinished, "KEEP_AFTER_SECONDS", float("inf"))

    def appear() -> None:
        aside.rename(kept)
        monkeypatch.setattr(unfinished, "KEEP_AFTER_SECONDS", 0.0)

    network.restart(i6=appear, i27=kill)
    with pytest.raises(KilledError):
        vadx_here(*TINY, video, "--out", "store")
    assert progress[0] > num_kept
    num_kept = progress[-1]
    network.restart()
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert network.num_inputs == NUM_CLIPS - num_kept
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")


@pytest.mark.usefixtures("at_once")
def test_a_disk_that_refuses_ends_the_run_and_the_same_command_resumes(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vadx_here(*TINY, video, "--out", "quiet").code == 0

    class Full:
        """A file on a disk that takes a part of the third block."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            if len(progress) < 2:
                return int(self._file.write(data))
            self._file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    progress.clear()
    really = Checkpoint._opened
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "_opened", lambda *arguments: Full(really(*arguments)))
        ran = vadx_here(*TINY, video, "--out", "store")
    assert ran.code == 6
    assert "No space left on device" in ran.err
    assert "the same command resumes" in ran.err
    assert tmp_of(tmp_path / "store") == ["a.resume"]
    network.restart()
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    assert network.num_inputs == NUM_CLIPS - progress[1]
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")


@pytest.mark.usefixtures("at_once")
def test_a_failure_that_would_come_again_removes_what_was_kept(
    video: Path, vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path
) -> None:
    network.outputs = lambda values: values if network.num_inputs < 20 else values * np.nan
    ran = vadx_here(*TINY, video, "--out", "store", "--json")
    assert (ran.code, '"FEATURE_NONFINITE"' in ran.out) == (3, True)
    assert progress
    assert tmp_of(tmp_path / "store") == []


@pytest.mark.usefixtures("at_once")
def test_a_part_of_a_video_is_taken_up_once_it_is_allowed(
    vadx_here: Vadx, network: Network, progress: list[int], tmp_path: Path
) -> None:
    whole = make_video(tmp_path / "a.mkv", num_frames=300, codec="mpeg4")
    (tmp_path / "a.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert '"VIDEO_TRUNCATED"' in vadx_here(*TINY, "a.mkv", "--out", "store", "--json").out
    total = network.num_inputs
    assert tmp_of(tmp_path / "store") == ["a.resume"]
    network.restart()
    assert vadx_here(*TINY, "a.mkv", "--out", "store", "--allow-partial").code == 0
    assert network.num_inputs < total - progress[-1] + 8
    assert vadx_here(*TINY, "a.mkv", "--out", "quiet", "--allow-partial").code == 0
    assert shard_hashes(tmp_path / "store") == shard_hashes(tmp_path / "quiet")
    assert tmp_of(tmp_path / "store") == []


@pytest.mark.usefixtures("at_once")
def test_a_clip_that_hangs_on_where_the_video_ended_is_not_kept(
    vadx_here: Vadx, progress: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(*_arguments: object) -> None:
        raise KilledError

    monkeypatch.setattr(unfinished, "BLOCK_CLIPS", 1)
    monkeypatch.setattr(unfinished.Unfinished, "finish", finish)
    make_video(tmp_path / "a.mp4", num_frames=18, codec="mpeg4")
    with pytest.raises(KilledError):
        vadx_here(*TINY[:-1], "1", "a.mp4", "--out", "store")
    # Of five: the last one is padded.
    assert progress[-1] == 4


@pytest.mark.usefixtures("at_once")
def test_fewer_clips_than_were_kept_are_refused_once(
    video: Path, vadx_here: Vadx, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.extract.video import VideoReader

    killed(vadx_here, network, 27, *TINY, video, "--out", "store")
    network.restart()
    really = VideoReader.__iter__

    def shorter(self: VideoReader) -> Iterator[Any]:
        for number, block in enumerate(really(self)):
            if number == 2:
                return
            yield block

    with monkeypatch.context() as patch:
        patch.setattr(VideoReader, "__iter__", shorter)
        ran = vadx_here(*TINY, video, "--out", "store")
    assert ran.code == 3
    assert "VIDEO_CHANGED_DURING_READ" in ran.err
    assert CODES["VIDEO_CHANGED_DURING_READ"].retriable
    assert tmp_of(tmp_path / "store") == []
    assert vadx_here(*TINY, video, "--out", "store").code == 0


@pytest.mark.usefixtures("at_once")
def test_gc_explains_and_sweeps_what_is_never_taken_up(
    video: Path, vadx_here: Vadx, network: Network, tmp_path: Path
) -> None:
    killed(vadx_here, network, 20, *TINY, video, "--out", "store")
    sweep = ("gc", "--store", "store", "--json")
    (row,) = json.loads(vadx_here(*sweep).out)
    assert (row["may_go"], row["reason"]) == (False, "young: a run that is going on may be writing it")
    (row,) = json.loads(vadx_here(*sweep, "--older-than", "0").out)
    assert row["may_go"]
    assert "goes on from there" in row["reason"]
    vadx_here(*sweep, "--older-than", "0", "--yes")
    assert tmp_of(tmp_path / "store") == []


def test_kill_minus_nine_anywhere_leaves_what_makes_the_same_bytes(
    video: Path, forked: ForkServer, tmp_path: Path
) -> None:
    command = (*TINY, video, "--out")
    quiet = forked(*command, "quiet", folder=tmp_path, kept_clips=3)
    assert quiet.code == 0, quiet.err
    runs = []
    for number in (len(quiet.events) * part // 9 for part in (2, 4, 5, 6, 7)):
        store = f"s{number}"
        killed = forked(*command, store, folder=tmp_path, kept_clips=3, fault="kill", at=number)
        was_stored = bool(shard_hashes(tmp_path / store))
        again = forked(*command, store, folder=tmp_path, kept_clips=3)
        assert (killed.code, again.code) == (-signal.SIGKILL, 0), again.err
        assert shard_hashes(tmp_path / store) == shard_hashes(tmp_path / "quiet")
        # Between the last two steps of a run it is left to gc.
        assert was_stored or "a.resume" not in tmp_of(tmp_path / store)
        runs.append(again.events.count("Engine.run"))
    # A probe, and the batches that were not finished; none where the shard was there.
    assert max(runs) == quiet.events.count("Engine.run")
    assert len(set(runs)) >= 4
