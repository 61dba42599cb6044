"""A disk that fills, at any size: no crash, exit 6, what is stored stays sound, and the same command finishes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from support import skip_or_fail
from vadx.errors import StoreWriteError
from vadx.features import spool
from vadx.features.shard import open_shard, verify_shard
from vadx.features.spool import ClipSpool
from vadx.features.timeline import ClipTable, VideoFacts

from .fork_server import Report
from .forking import TINY, ForkServer, json_lines, only_set, shard_hashes

DIGEST = "a" * 64
SOURCE = "b" * 64
PAGE = os.sysconf("SC_PAGESIZE")


@pytest.fixture(scope="module")
def roomy(forked: ForkServer, six_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the store that a disk with room gets."""
    folder = tmp_path_factory.mktemp("roomy")
    report = forked(*TINY, six_videos, "--out", "store", folder=folder)
    assert report.code == 0, report.err
    return folder / "store"


@contextmanager
def tmpfs(folder: Path, num_bytes: int) -> Iterator[Callable[[int], None]]:
    """Mount a small file system; gives a function that changes its size."""
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o"]
    done = subprocess.run([*options, f"size={num_bytes}", "vadx", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        skip_or_fail("tmpfs", done.stderr.strip())

    def resize(to_bytes: int) -> None:
        subprocess.run([*options, f"remount,size={to_bytes}", "vadx", folder], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", folder], check=True)


def assert_stopped_by_the_disk(report: Report, place: Path) -> None:
    assert report.code == 6, (report.code, report.err)
    last = report.err.strip().splitlines()[-1]
    assert last.startswith(f"vadx: {place}"), report.err
    assert " bytes were needed" in last
    assert "the same command resumes" in last
    assert "Traceback" not in report.err


def assert_sound(forked: ForkServer, store: Path, folder: Path) -> None:
    if list(store.glob("*/recipe.json")):
        report = forked("verify", "--store", store, folder=folder)
        assert report.code == 0, report.out
        assert forked("ls", "--store", store, folder=folder).code == 0


def bytes_of(store: Path) -> int:
    """Give the bytes that a store takes on a file system of whole pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in store.rglob("*") if path.is_file())


NUM_SIZES = 16


@pytest.mark.tmpfs
@pytest.mark.parametrize("step", range(1, NUM_SIZES + 1))
def test_a_small_disk_stops_the_run_and_a_larger_one_finishes_it(
    step: int, forked: ForkServer, six_videos: Path, roomy: Path, tmp_path: Path
) -> None:
    need = bytes_of(roomy)
    size = max(PAGE, int(need * step / NUM_SIZES) // PAGE * PAGE)
    disk = tmp_path / "disk"
    with tmpfs(disk, size) as resize:
        report = forked(*TINY, six_videos, "--out", disk / "store", folder=tmp_path)
        stored = shard_hashes(disk / "store")
        if len(stored) < 6:
            assert_stopped_by_the_disk(report, disk)
        else:
            assert report.code == 0
        assert stored.items() <= shard_hashes(roomy).items()
        assert_sound(forked, disk / "store", tmp_path)
        assert list((disk / "store").glob("*/tmp/*")) == []
        resize(4 * need)
        again = forked(*TINY, six_videos, "--out", disk / "store", folder=tmp_path)
        assert again.code == 0, again.err
        assert f"done: {6 - len(stored)} stored, {len(stored)} current, 0 failed" in again.err
        assert shard_hashes(disk / "store") == shard_hashes(roomy)


@pytest.mark.tmpfs
def test_the_sizes_meet_the_disks_end_in_different_places(
    forked: ForkServer, six_videos: Path, roomy: Path, tmp_path: Path
) -> None:
    counts = set()
    for step in range(1, NUM_SIZES + 1):
        disk = tmp_path / str(step)
        with tmpfs(disk, max(PAGE, int(bytes_of(roomy) * step / NUM_SIZES) // PAGE * PAGE)):
            forked(*TINY, six_videos, "--out", disk / "store", folder=tmp_path)
            counts.add(len(shard_hashes(disk / "store")))
    assert counts >= {0, 1, 2, 3, 4, 5}


@pytest.mark.tmpfs
def test_a_full_disk_does_not_lose_the_event_lines(
    forked: ForkServer, six_videos: Path, roomy: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with tmpfs(disk, bytes_of(roomy) // 2 // PAGE * PAGE):
        report = forked(*TINY, six_videos, "--out", disk / "store", "--json", folder=tmp_path)
        lines = json_lines(report.out)
        done = [line for line in lines if line.get("status") == "done"]
        assert len(done) == len(shard_hashes(disk / "store")) > 0
    assert report.code == 6
    assert lines[-1]["event"] == "summary"
    assert (lines[-1]["exit_code"], lines[-1]["done"], lines[-1]["left"]) == (6, len(done), 6 - len(done))


@pytest.mark.parametrize("limit", [0, 100, 700, 2000, 6000, 8200, 8550])
def test_a_file_size_limit_stops_the_run(
    limit: int, forked: ForkServer, six_videos: Path, roomy: Path, tmp_path: Path
) -> None:
    report = forked(*TINY, six_videos, "--out", "store", folder=tmp_path, file_limit=limit)
    assert_stopped_by_the_disk(report, Path("store"))
    assert "ulimit -f" in report.err
    stored = shard_hashes(tmp_path / "store")
    assert stored.items() <= shard_hashes(roomy).items()
    assert all((tmp_path / "store" / path).stat().st_size <= limit for path in stored)
    assert_sound(forked, tmp_path / "store", tmp_path)
    assert list((tmp_path / "store").glob("*/tmp/*")) == []
    again = forked(*TINY, six_videos, "--out", "store", folder=tmp_path)
    assert again.code == 0
    assert shard_hashes(tmp_path / "store") == shard_hashes(roomy)


def test_a_limit_that_only_large_shards_meet_stores_the_small_ones(
    forked: ForkServer, six_videos: Path, roomy: Path, tmp_path: Path
) -> None:
    sizes = sorted(path.stat().st_size for path in roomy.glob("*/shards/*/*"))
    report = forked(*TINY, six_videos, "--out", "store", folder=tmp_path, file_limit=sizes[-1] - 1)
    assert_stopped_by_the_disk(report, Path("store"))
    assert str(sizes[-1]) in report.err
    assert 0 < len(shard_hashes(tmp_path / "store")) < 6


class Given:
    """Features of one video, in blocks, with all that a shard says of them."""

    def __init__(self, num_clips: int = 300, num_crops: int = 10, dim: int = 64) -> None:
        generator = np.random.default_rng(1)
        self.values = generator.standard_normal((num_clips, num_crops, dim)).astype(np.float32)
        starts = 4 * np.arange(num_clips, dtype=np.int64)
        self.table = ClipTable(
            frames=np.stack([starts, starts + 4], axis=1),
            seconds=np.stack([starts, starts + 4], axis=1) / 25,
            damaged=generator.random(num_clips) < 0.2,
            facts=VideoFacts(fps=25.0, num_frames_decoded=4 * num_clips, width=64, height=48, num_damaged_frames=3),
            num_padded_frames=1,
        )

    def fill(self, tmp: Path, **options: Any) -> bytes | bytearray:
        """Spool all blocks, and give the bytes of the finished shard."""
        with ClipSpool(tmp, "video", "float32", **options) as clips:
            for start in range(0, len(self.values), 7):
                clips.append(self.values[start : start + 7])
            shard = clips.finish("video", self.table, {"engine": "torch-eager", "batch": 3}, DIGEST, SOURCE)
            assert isinstance(shard, Path) == bool(options)
            return shard.read_bytes() if isinstance(shard, Path) else shard


def test_a_shard_made_by_the_disposable_child_equals_one_made_in_memory(tmp_path: Path) -> None:
    given = Given()
    paths = []
    for name, options in (("memory", {}), ("child", {"memory_bytes": 50_000})):
        tmp = tmp_path / name
        tmp.mkdir()
        content = given.fill(tmp, **options)
        assert list(tmp.iterdir()) == []
        paths.append(tmp_path / f"{name}.h5")
        paths[-1].write_bytes(content)
        verify_shard(paths[-1], full=True, recipe_digest=DIGEST, key="video")
    with ExitStack() as stack:
        memory, child = (stack.enter_context(h5py.File(path, "r")) for path in paths)
        assert set(memory) == set(child) == {"features", "frames", "seconds", "damaged"}
        assert dict(memory.attrs) == dict(child.attrs)
        for name in memory:
            np.testing.assert_array_equal(memory[name][()], child[name][()], strict=True)
            assert (memory[name].chunks, memory[name].fletcher32) == (child[name].chunks, child[name].fletcher32)
            assert [d.label for d in memory[name].dims] == [d.label for d in child[name].dims]
        np.testing.assert_array_equal(child["features"][()], given.values)
    first, second = (open_shard(path) for path in paths)
    assert (first.id, first.features.facts) == (second.id, second.features.facts)


def test_an_extraction_through_the_child_stores_the_same_features(
    forked: ForkServer, six_videos: Path, roomy: Path, tmp_path: Path
) -> None:
    video = six_videos / "Abuse/clip001_x264.mp4"
    command = (*TINY, video, "--root", six_videos, "--out", "store")
    report = forked(*command, folder=tmp_path, spool_above=64)
    assert report.code == 0, report.err
    (path,) = shard_hashes(tmp_path / "store")
    features, expected = open_shard(tmp_path / "store" / path).features, open_shard(roomy / path).features
    np.testing.assert_array_equal(features.values, expected.values, strict=True)
    np.testing.assert_array_equal(features.frames, expected.frames, strict=True)
    assert (features.facts, features.provenance) == (expected.facts, expected.provenance)
    assert forked("verify", "--store", "store", folder=tmp_path).code == 0
    assert list(only_set(tmp_path / "store").glob("tmp/*")) == []
    assert "1 current" in forked(*command, folder=tmp_path).err


@pytest.mark.tmpfs
@pytest.mark.parametrize("kilobytes", [4, 64, 700, 800, 1000, 3000, 5600])
def test_a_disk_that_fills_under_the_spool_is_a_write_error(kilobytes: int, tmp_path: Path) -> None:
    given = Given()
    tmp = tmp_path / "disk"
    with tmpfs(tmp, kilobytes * 1024):
        with pytest.raises(StoreWriteError, match=r"No space left on device; \d+ bytes were needed") as caught:
            given.fill(tmp, memory_bytes=50_000)
        assert str(tmp) in str(caught.value)
        assert list(tmp.iterdir()) == []


@pytest.mark.tmpfs
def test_a_spool_smaller_than_a_write_buffer_meets_the_full_disk_too(tmp_path: Path) -> None:
    given = Given(num_clips=20, num_crops=1, dim=8)
    tmp = tmp_path / "disk"
    with tmpfs(tmp, PAGE):
        (tmp / "full").write_bytes(bytes(PAGE))
        with pytest.raises(StoreWriteError, match="No space left"):
            given.fill(tmp, memory_bytes=0)
        assert [path.name for path in tmp.iterdir()] == ["full"]


@pytest.mark.tmpfs
def test_an_extraction_whose_large_shard_meets_a_full_disk(
    forked: ForkServer, six_videos: Path, roomy: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    command = (*TINY, six_videos / "Abuse/clip001_x264.mp4", "--root", six_videos, "--out", disk / "store")
    with tmpfs(disk, 1 << 20) as resize:
        report = forked(*command, folder=tmp_path, spool_above=64)
        assert_stopped_by_the_disk(report, disk)
        assert list((disk / "store").glob("*/tmp/*")) == []
        resize(16 << 20)
        report = forked(*command, folder=tmp_path, spool_above=64)
        assert report.code == 0, report.err
        assert forked("verify", "--store", disk / "store", folder=tmp_path).code == 0
        (path,) = shard_hashes(disk / "store")
        np.testing.assert_array_equal(
            open_shard(disk / "store" / path).features.values, open_shard(roomy / path).features.values
        )


def test_a_file_size_limit_stops_the_spool_too(forked: ForkServer, six_videos: Path, tmp_path: Path) -> None:
    report = forked(*TINY, six_videos, "--out", "store", folder=tmp_path, spool_above=64, file_limit=1 << 20)
    assert_stopped_by_the_disk(report, Path("store"))
    assert list((tmp_path / "store").glob("*/tmp/*")) == []


def test_a_child_that_dies_is_a_write_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool.sys, "executable", "/bin/false")
    with pytest.raises(StoreWriteError, match="the process that writes large shards ended with status 1"):
        Given().fill(tmp_path, memory_bytes=50_000)
    assert list(tmp_path.iterdir()) == []
