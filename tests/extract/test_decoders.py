"""What holds wherever videos are decoded, here or in other processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vadx.errors import VideoError
from vadx.extract import video
from vadx.extract.isolate import DecodePool, Decoders, InlineDecoders
from vadx.extract.video import VideoReader

from .decoding import (
    OPTIONS,
    VIDEOS,
    assert_same,
    plain,
    see,
    seen_directly,
)


class Contract:
    """What holds wherever videos are decoded."""

    @pytest.mark.parametrize("options", OPTIONS)
    @pytest.mark.parametrize("name", VIDEOS)
    def test_reading_equals_a_video_reader(self, decoders: Any, tmp_path: Path, name: str, options: str) -> None:
        path = VIDEOS[name](tmp_path)
        theirs = seen_directly(path, **OPTIONS[options])
        with decoders.open(path, **OPTIONS[options]) as source, VideoReader(path) as reader:
            assert source.info == reader.info
            assert source.path == path
            assert_same(see(source), theirs)

    def test_what_cannot_be_opened_is_said_at_first_use(self, decoders: Any, tmp_path: Path) -> None:
        missing, empty = tmp_path / "missing\udcff.mp4", tmp_path / "empty.mp4"
        empty.write_bytes(b"")
        for path, code in ((missing, "VIDEO_MISSING"), (empty, "VIDEO_EMPTY")):
            source = decoders.open(path)
            for use in (source.facts, lambda source=source: list(source), lambda source=source: source.info):
                with pytest.raises(VideoError) as caught:
                    use()
                with pytest.raises(VideoError) as direct:
                    VideoReader(path)
                assert caught.value.code == direct.value.code == code
                assert (caught.value.path, caught.value.evidence) == (direct.value.path, direct.value.evidence)
            source.close()

    def test_a_relative_path_keeps_its_name(
        self, decoders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain(tmp_path, num_frames=1)
        with decoders.open(tmp_path / "plain0.mp4") as source:
            list(source)
        monkeypatch.chdir(tmp_path)
        with decoders.open("plain0.mp4") as source:
            assert [len(block.frames) for block in source] == [1]
        with pytest.raises(VideoError) as caught:
            decoders.open("missing.mp4").facts()
        assert caught.value.path == "missing.mp4"

    def test_videos_may_be_read_in_any_order(self, decoders: Any, tmp_path: Path) -> None:
        # The short ones are decoded to their end before anybody asks for their frames.
        num_frames = (100, 10, 20, 101)
        paths = [plain(tmp_path, num_frames=n, seed=seed) for seed, n in enumerate(num_frames)]
        sources = [decoders.open(path) for path in paths]
        for index in (3, 0, 2, 1):
            assert decoders.wait([sources[index]]) is sources[index]
            assert_same(see(sources[index]), seen_directly(paths[index]))
            sources[index].close()

    def test_interleaved_videos_do_not_mix(self, decoders: Any, tmp_path: Path) -> None:
        paths = [plain(tmp_path, num_frames=100 + seed, seed=seed) for seed in range(5)]
        sources = [decoders.open(path) for path in paths]
        iterators = {id(source): iter(source) for source in sources}
        got: dict[int, list[Any]] = {id(source): [] for source in sources}
        waiting = list(sources)
        while waiting:
            source = decoders.wait(waiting)
            assert source is not None
            block = next(iterators[id(source)], None)
            if block is None:
                waiting.remove(source)
            else:
                got[id(source)].extend(block.frames.copy())
            waiting = waiting[1:] + waiting[:1]
        for path, source in zip(paths, sources, strict=True):
            np.testing.assert_array_equal(np.stack(got[id(source)]), np.stack(seen_directly(path).frames))
            assert source.facts() == seen_directly(path).facts[-1]
            source.close()

    def test_waiting_for_nothing_ends_at_once(self, decoders: Decoders) -> None:
        assert decoders.wait([]) is None

    def test_what_is_over_needs_no_waiting(self, decoders: Decoders, tmp_path: Path) -> None:
        source = decoders.open(plain(tmp_path))
        list(source)
        assert decoders.wait([source]) is source
        bad = decoders.open(tmp_path / "missing.mp4")
        assert decoders.wait([bad]) is bad

    def test_a_closed_video_cannot_be_read_and_keeps_its_facts(self, decoders: Any, tmp_path: Path) -> None:
        source = decoders.open(plain(tmp_path))
        facts = see(source).facts[-1]
        source.close()
        source.close()
        assert source.facts() == facts
        unread = decoders.open(plain(tmp_path))
        unread.close()
        for use in (unread.facts, lambda: list(unread)):
            with pytest.raises(ValueError, match="is closed"):
                use()

    def test_closing_early_leaves_the_next_alone(self, decoders: Any, tmp_path: Path) -> None:
        path = plain(tmp_path, num_frames=400)
        for _ in range(3):
            with decoders.open(path) as source:
                assert next(iter(source)).start == 0
        assert_same(see(decoders.open(path)), seen_directly(path))


class TestInline(Contract):
    @pytest.fixture
    def decoders(self) -> Iterator[InlineDecoders]:
        with InlineDecoders() as decoders:
            yield decoders

    def test_the_decoders_own_pictures_are_there_on_request(self, tmp_path: Path) -> None:
        with InlineDecoders(keep_native=True) as decoders:
            assert [len(block.native) for block in decoders.open(plain(tmp_path, num_frames=20))] == [16, 4]

    def test_the_reader_is_looked_up_when_it_is_needed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = []

        class Noting(VideoReader):
            def __init__(self, path: str | Path, **options: Any) -> None:
                made.append(path)
                super().__init__(path, **options)

        monkeypatch.setattr(video, "VideoReader", Noting)
        path = plain(tmp_path)
        with InlineDecoders() as decoders:
            source = decoders.open(path)
            assert made == []
            source.facts()
            list(source)
        assert made == [path]


class TestOneProcess(Contract):
    @pytest.fixture
    def decoders(self) -> Iterator[DecodePool]:
        with DecodePool(1, slots=2) as pool:
            yield pool


class TestTwoProcesses(Contract):
    @pytest.fixture
    def decoders(self) -> Iterator[DecodePool]:
        with DecodePool(2) as pool:
            yield pool
