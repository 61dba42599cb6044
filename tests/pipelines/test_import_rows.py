"""Rows of imported features lie where the sampler of extraction would have put them; sources know their files."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadx.errors import UsageError, VideoError
from vadx.extract.sampling import TAIL_POLICIES, ClipSampler, Resampler, source_clip
from vadx.features.bags import cut_segments
from vadx.features.recipe import Sampling, Tail
from vadx.pipelines.import_rows import RowRule
from vadx.pipelines.import_source import FilesSource, OpenFiles


def sampled(num_frames: int, sampling: Sampling) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Give the frames of the clips that extraction makes of a video."""
    sampler = ClipSampler[int](sampling)
    windows = [window for frame in range(num_frames) for window in sampler.push(frame)] + sampler.flush()
    return np.array([(one.clip.start, one.clip.stop) for one in windows], np.int64).reshape(-1, 2)


@settings(max_examples=60, deadline=None)
@given(
    num_frames=st.integers(1, 120),
    length=st.integers(1, 20),
    stride=st.integers(1, 20),
    step=st.integers(1, 3),
    tail=st.sampled_from(sorted(TAIL_POLICIES)),
)
def test_clips_lie_where_extraction_puts_them(num_frames: int, length: int, stride: int, step: int, tail: Tail) -> None:
    sampling = Sampling(clip_length=length, clip_stride=stride, frame_step=step, tail=tail)
    expected = sampled(num_frames, sampling)
    if not len(expected):
        return
    rule = RowRule(sampling.clip_span, stride, tail)
    table = rule.table(len(expected), num_frames, "counts")
    np.testing.assert_array_equal(table.frames, expected)
    assert table.facts.num_frames_decoded == num_frames


@pytest.mark.parametrize("fps", [25.0, 30.0, 50.0, 60.0])
@pytest.mark.parametrize("num_frames", [1, 40, 163])
def test_clips_of_another_rate_cover_the_frames_that_were_chosen(fps: float, num_frames: int) -> None:
    sampling = Sampling(clip_length=16, clip_stride=16, tail="repeat_last", fps=25)
    resampler = Resampler[int](25.0)
    chosen = [pair for frame in range(num_frames) for pair in resampler.push(frame, frame / fps)]
    source_of = [index for index, _ in chosen + resampler.flush(num_frames / fps)]
    sampler = ClipSampler[int](sampling)
    windows = [window for index in source_of for window in sampler.push(index)] + sampler.flush()
    clips = [source_clip(window.clip, source_of) for window in windows]
    table = RowRule(16, 16, "repeat_last", fps=fps, clip_fps=25.0).table(len(clips), num_frames, "counts")
    assert table.frames.tolist() == [[clip.start, clip.stop] for clip in clips]
    with pytest.raises(UsageError, match="--fps RATE"):
        RowRule(16, 16, "drop", clip_fps=25.0)


@pytest.mark.parametrize("num_frames", [16, 347, 8096])
@pytest.mark.parametrize("rule", ["sultani", "ekosman"])
def test_segments_lie_where_the_clips_do_that_they_were_made_of(rule: str, num_frames: int) -> None:
    clips = sampled(num_frames, Sampling(clip_length=16, clip_stride=16, tail="drop"))
    bag = cut_segments(np.ones((len(clips), 1, 1), np.float32), clips, rule)
    table = RowRule(16, 16, "drop", rule).table(32, num_frames, "counts")
    np.testing.assert_array_equal(table.frames, bag.frames)
    assert RowRule(16, 16, "drop", rule).needs_counts


@pytest.mark.parametrize(
    ("rule", "num_rows", "num_frames", "words"),
    [
        (RowRule(16, 16, "drop"), 5, 400, "5 rows, and 400 frames make 24 to 26 clips of 16 frames, 16 apart"),
        (RowRule(16, 16, "drop"), 30, 400, "30 rows"),
        (RowRule(16, 16, "drop", "sultani"), 32, None, "--counts does not say"),
        (RowRule(16, 16, "drop", "sultani"), 31, 347, "31 rows, and sultani makes 32 segments"),
        (RowRule(16, 16, "drop", "sultani"), 32, 15, "its 15 frames make no clip of 16"),
    ],
)
def test_rows_that_are_not_of_so_many_frames_are_refused(
    rule: RowRule, num_rows: int, num_frames: int | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        rule.table(num_rows, num_frames, "counts")


def test_one_clip_more_or_less_is_what_targets_trim_and_repeat() -> None:
    rule = RowRule(16, 16, "drop")
    for num_rows in (2, 3, 4, 5):
        assert len(rule.table(num_rows, 50, "counts").frames) == num_rows
    # The repeated clip shows the last frame.
    assert rule.table(5, 50, "counts").frames[-2:].tolist() == [[48, 50], [49, 50]]


def test_seconds_are_those_of_the_rate_that_was_stated_or_unknown() -> None:
    stated = RowRule(16, 16, "drop", fps=25.0).table(2, None, "rows")
    assert stated.seconds.tolist() == [[0.0, 0.64], [0.64, 1.28]]
    assert (stated.facts.time_source, stated.facts.fps, stated.facts.num_frames_decoded) == ("fps", 25.0, 32)
    unknown = RowRule(16, 16, "drop").table(2, None, "rows")
    assert np.isnan(unknown.seconds).all()
    assert (unknown.facts.time_source, unknown.facts.fps) == ("unknown", 0.0)


# ---- what a shard is made from ----


def old_file(path: Path, content: bytes) -> Path:
    """Write a file whose time is no longer that of now."""
    path.write_bytes(content)
    hours_ago = time.time_ns() - 3600 * 10**9
    os.utime(path, ns=(hours_ago, hours_ago))
    return path


def test_a_single_file_is_known_by_its_own_sha256(tmp_path: Path) -> None:
    path = old_file(tmp_path / "a", b"values")
    plain = FilesSource([path], OpenFiles())
    assert plain.sha256() == hashlib.sha256(b"values").hexdigest()
    assert FilesSource([path], OpenFiles(), "frames 9 (counts)").sha256() != plain.sha256()


def test_any_of_several_files_changes_the_source_and_its_hint(tmp_path: Path) -> None:
    paths = [old_file(tmp_path / name, name.encode()) for name in "abc"]
    first = FilesSource(paths, OpenFiles())
    digest, hint = first.sha256(), first.new_hint()
    assert hint is not None
    assert hint[2] == digest
    # A hint that fits is believed: what is hashed is not read again.
    assert FilesSource(paths, OpenFiles(), hint=(*hint[:2], "9" * 64)).sha256() == "9" * 64
    old_file(paths[1], b"x")
    changed = FilesSource(paths, OpenFiles(), hint=(*hint[:2], "9" * 64))
    assert changed.sha256() not in {digest, "9" * 64}
    assert FilesSource([paths[0], paths[2], paths[1]], OpenFiles()).sha256() != changed.sha256()


def test_a_file_that_has_just_changed_leaves_no_hint(tmp_path: Path) -> None:
    paths = [old_file(tmp_path / "a", b"a"), tmp_path / "b"]
    paths[1].write_bytes(b"b")
    source = FilesSource(paths, OpenFiles())
    source.sha256()
    assert source.new_hint() is None


def test_a_file_of_many_videos_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old_file(tmp_path / "all.h5", b"values")
    hashed = []
    real = hashlib.sha256

    def counted(*arguments: bytes) -> object:
        hashed.append(arguments)
        return real(*arguments)

    monkeypatch.setattr("vadx.pipelines.source.hashlib.sha256", counted)
    files = OpenFiles()
    assert len({FilesSource([path], files).sha256() for _ in range(5)}) == 1
    assert len(hashed) == 1


def test_a_file_that_changes_while_it_is_read_is_found(tmp_path: Path) -> None:
    path = old_file(tmp_path / "a", b"values")
    source = FilesSource([path], OpenFiles())
    source.look()
    path.write_bytes(b"other values")
    with pytest.raises(VideoError, match="written in between"):
        source.check_unchanged()
    with pytest.raises(VideoError, match="no such file"):
        FilesSource([tmp_path / "b"], OpenFiles()).look()
