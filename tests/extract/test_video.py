from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import av.error
import av.logging
import numpy as np
import pytest

from support import make_video
from vadx.errors import FeatureError, VideoError
from vadx.extract import video
from vadx.extract.damage import judge
from vadx.extract.video import VideoReader
from vadx.features.timeline import VideoFacts

from .clips import opencv_frames, read, set_rotation


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "size"),
    [
        ("a.mp4", "libx264", "yuv420p", (64, 48)),
        ("a.mkv", "libx264", "yuv444p", (64, 48)),
        ("a.mkv", "libx264", "yuv444p", (65, 47)),
        ("a.mp4", "mpeg4", "yuv420p", (64, 48)),
        ("a.mp4", "mpeg4", "yuv420p", (321, 241)),
        ("a.avi", "mpeg4", "yuv420p", (65, 48)),
        ("a.avi", "mpeg4", "yuv420p", (64, 47)),
        ("a.avi", "mjpeg", "yuvj420p", (64, 48)),
        ("a.avi", "mjpeg", "yuvj420p", (321, 241)),
        ("a.avi", "mjpeg", "yuvj444p", (65, 47)),
    ],
)
def test_decoding_equals_opencv_bit_for_bit(
    tmp_path: Path, name: str, codec: str, pixel_format: str, size: tuple[int, int]
) -> None:
    width, height = size
    path = make_video(
        tmp_path / name, num_frames=20, width=width, height=height, codec=codec, pixel_format=pixel_format
    )
    ours, theirs = read(path), list(opencv_frames(path))
    assert ours.code is None
    assert np.stack(ours.frames).shape == (20, height, width, 3)
    np.testing.assert_array_equal(np.stack(ours.frames), np.stack(theirs))


@pytest.mark.clips
@pytest.mark.parametrize(
    ("name", "num_frames"), [("bikes.mp4", 250), ("carphone_pristine.mp4", 120), ("bigbuckbunny.mp4", 132)]
)
def test_decoding_real_footage_equals_opencv_bit_for_bit(real_clips: Path, name: str, num_frames: int) -> None:
    theirs = opencv_frames(real_clips / name)
    count = 0
    with VideoReader(real_clips / name) as reader:
        for block in reader:
            for frame in block.frames:
                np.testing.assert_array_equal(frame, next(theirs))
                count += 1
    assert next(theirs, None) is None
    assert count == reader.facts().num_frames_decoded == num_frames
    assert not reader.facts().is_degraded


@pytest.fixture
def _log_level() -> Iterator[None]:
    before = av.logging.get_level()
    yield
    av.logging.set_level(before)


@pytest.mark.usefixtures("_log_level")
def test_one_thread_decodes_and_nothing_is_logged(tmp_path: Path) -> None:
    av.logging.set_level(av.logging.ERROR)
    with VideoReader(make_video(tmp_path / "a.mp4")) as reader:
        assert av.logging.get_level() is None
        decoder = reader._stream.codec_context
        assert (decoder.thread_count, decoder.thread_type.name) == (1, "NONE")
        list(reader)
        assert (decoder.thread_count, decoder.thread_type.name) == (1, "NONE")


def test_blocks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=40)
    with VideoReader(path) as reader:
        assert [len(block.frames) for block in reader] == [16, 16, 8]
    monkeypatch.setattr(video, "_BLOCK_BYTES", 3 * 64 * 48 * 3)
    with VideoReader(path) as reader:
        assert {len(block.frames) for block in reader} == {3, 1}


VARIABLE = (0, 33, 66, 100, 633, 700, 733, 1200, 1233, 1300)


@pytest.mark.parametrize("num_b_frames", [0, 2])
@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_a_variable_frame_rate_keeps_each_frames_own_time(tmp_path: Path, extension: str, num_b_frames: int) -> None:
    path = make_video(
        tmp_path / f"a.{extension}",
        num_frames=len(VARIABLE),
        pts=VARIABLE,
        time_base=Fraction(1, 1000),
        codec_options={"bf": str(num_b_frames)},
    )
    got = read(path)
    # Both containers count in units that divide a millisecond.
    assert got.pts == pytest.approx([t / 1000 for t in VARIABLE], abs=1e-9)
    assert got.facts is not None
    assert (got.facts.time_source, got.facts.num_backward_pts, got.facts.coverage) == ("pts", 0, 1.0)
    assert not got.facts.is_degraded


@pytest.mark.parametrize("num_frames", [1, 2, 3, 20])
def test_frames_that_drain_out_of_the_decoder_keep_their_time(tmp_path: Path, num_frames: int) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=num_frames, fps=10, codec_options={"bf": "2"})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        held_back = [len(stream.codec_context.decode(p)) for p in container.demux(stream) if p.size].count(0)
    assert held_back == min(2, num_frames)
    got = read(path)
    assert got.pts == pytest.approx([i / 10 for i in range(num_frames)], abs=1e-9)
    assert got.facts is not None
    assert got.facts.time_source == "pts"


def test_without_timestamps_the_frame_rate_stands_in_and_is_named(tmp_path: Path) -> None:
    got = read(make_video(tmp_path / "a.h264", num_frames=10))
    assert got.facts is not None
    assert got.facts.time_source == "synthetic"
    assert got.pts == pytest.approx([i / got.facts.fps for i in range(10)])


@pytest.mark.parametrize(("clockwise", "quarter_turns"), [(0, 0), (90, 3), (180, 2), (270, 1), (-90, 1)])
def test_a_quarter_turn_is_applied_as_opencv_applies_it_and_recorded(
    tmp_path: Path, clockwise: int, quarter_turns: int
) -> None:
    plain = make_video(tmp_path / "plain.mp4", num_frames=5)
    turned = set_rotation(plain, tmp_path / "turned.mp4", clockwise)
    got = read(turned)
    by_hand = [np.rot90(frame, quarter_turns) for frame in read(plain).frames]
    np.testing.assert_array_equal(np.stack(got.frames), np.stack(by_hand))
    np.testing.assert_array_equal(np.stack(got.frames), np.stack(list(opencv_frames(turned))))
    assert got.facts is not None
    height, width = by_hand[0].shape[:2]
    assert (got.facts.rotation_degrees, got.facts.width, got.facts.height) == (clockwise % 360, width, height)


@pytest.mark.parametrize(("clockwise", "options"), [(90, {"rotation": "ignore"}), (45, {}), (1, {})])
def test_a_turn_that_is_ignored_or_crooked_is_left_alone(
    tmp_path: Path, clockwise: int, options: dict[str, str]
) -> None:
    plain = make_video(tmp_path / "plain.mp4", num_frames=5)
    got = read(set_rotation(plain, tmp_path / "turned.mp4", clockwise), **options)
    np.testing.assert_array_equal(np.stack(got.frames), np.stack(read(plain).frames))
    assert got.facts is not None
    assert (got.facts.rotation_degrees, got.facts.width, got.facts.height) == (0, 64, 48)


SOUND = VideoFacts(fps=25.0, num_frames_decoded=200, width=64, height=48)


@pytest.mark.parametrize(
    ("changes", "options", "code"),
    [
        ({}, {}, None),
        ({}, {"strict": True}, None),
        ({"num_frames_declared": 200}, {"strict": True}, None),
        ({"num_frames_declared": 444}, {}, None),
        ({"num_frames_declared": 444}, {"strict": True}, "VIDEO_DAMAGED"),
        ({"coverage": 0.98}, {}, None),
        ({"coverage": 0.979}, {}, "VIDEO_TRUNCATED"),
        ({"coverage": 1.0}, {"ended_badly": True}, "VIDEO_TRUNCATED"),
        ({}, {"ended_badly": True}, "VIDEO_TRUNCATED"),
        ({"num_damaged_frames": 2}, {}, None),
        ({"num_damaged_frames": 2}, {"strict": True}, "VIDEO_DAMAGED"),
        ({"num_damaged_frames": 3}, {}, "VIDEO_DAMAGED"),
        ({"num_damaged_frames": 9}, {"num_doubtful_frames": 7}, None),
        ({"num_damaged_frames": 9}, {"num_doubtful_frames": 6}, "VIDEO_DAMAGED"),
        ({"num_damaged_frames": 9}, {"num_doubtful_frames": 9, "strict": True}, "VIDEO_DAMAGED"),
        ({"num_bad_packets": 2}, {}, None),
        ({"num_bad_packets": 1}, {"strict": True}, "VIDEO_DAMAGED"),
        ({"num_damaged_frames": 1, "num_bad_packets": 93}, {}, "VIDEO_DAMAGED"),
        ({}, {"num_leading_bad_packets": 50}, None),
        ({}, {"num_leading_bad_packets": 1, "strict": True}, "VIDEO_DAMAGED"),
        ({"num_frames_decoded": 0}, {}, "VIDEO_TOO_SHORT"),
        ({"num_frames_decoded": 0}, {"ended_badly": True}, "VIDEO_TRUNCATED"),
        ({"num_frames_decoded": 0, "coverage": 0.0}, {}, "VIDEO_TRUNCATED"),
        ({"num_frames_decoded": 0, "num_bad_packets": 5}, {}, "VIDEO_DAMAGED"),
        ({"num_frames_decoded": 0}, {"num_leading_bad_packets": 5}, "VIDEO_DAMAGED"),
        ({"num_frames_decoded": 0}, {"num_leading_bad_packets": 5, "ended_badly": True}, "VIDEO_TRUNCATED"),
        ({"num_size_changes": 3, "num_backward_pts": 7}, {}, None),
    ],
)
def test_the_verdict_is_a_table(changes: dict[str, Any], options: dict[str, Any], code: str | None) -> None:
    verdict = judge(replace(SOUND, **changes), **{"ended_badly": False, **options})
    assert (verdict.code if verdict else None) == code


def test_evidence_holds_the_numbers() -> None:
    facts = replace(SOUND, num_frames_decoded=36, num_frames_declared=120, coverage=0.283)
    verdict = judge(facts, ended_badly=True)
    assert verdict is not None
    assert verdict.evidence == "decoded 36 of 120 declared frames, which cover 28% of its stated duration"


@pytest.mark.parametrize("kind", [VideoError, FeatureError])
def test_a_video_error_survives_pickling(kind: type[VideoError]) -> None:
    error = kind("VIDEO_TRUNCATED", "/videos/a b.mp4", "decoded 36 of 120 declared frames")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is kind
    assert (copy.code, copy.path, copy.evidence) == (error.code, error.path, error.evidence)
    assert str(copy) == str(error)
    assert "/videos/a b.mp4: decoded 36 of 120 declared frames" in str(copy)


FOREIGN = [
    av.error.InvalidDataError(1094995529, "Invalid data found", "avcodec_send_packet()"),
    av.error.EOFError(541478725, "End of file"),
    av.error.PatchWelcomeError(1163346256, "Not yet implemented in FFmpeg"),
    av.error.DecoderNotFoundError(1128613112, "Decoder not found"),
    av.error.ArgumentError(22, "Invalid argument"),
    av.error.ExternalError(542398533, "Generic error in an external library"),
    OSError(5, "Input/output error"),
    OSError(116, "Stale file handle"),
    AttributeError("'NoneType' object has no attribute 'decode'"),
    IndexError("tuple index out of range"),
    ValueError("unknown format"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    MemoryError(12, "Cannot allocate memory"),
    AssertionError("width has to be even for this format"),
]
CODE_AT_OPENING = {
    av.error.InvalidDataError: "VIDEO_NOT_VIDEO",
    av.error.EOFError: "VIDEO_NOT_VIDEO",
    UnicodeDecodeError: "VIDEO_NOT_VIDEO",
    av.error.PatchWelcomeError: "VIDEO_UNSUPPORTED_CODEC",
    av.error.DecoderNotFoundError: "VIDEO_UNSUPPORTED_CODEC",
    av.error.ArgumentError: "VIDEO_FORBIDDEN_FORMAT",
    OSError: "VIDEO_UNREADABLE",
    MemoryError: "VIDEO_TOO_LARGE",
}
WORDS_OF_OTHERS = ("Invalid data", "avcodec", "NoneType", "tuple index", "codec can't decode")


def raising(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_every_kind_of_foreign_error_is_tried() -> None:
    assert {kind for kind in video._FOREIGN if not any(isinstance(e, kind) for e in FOREIGN)} == set()


@pytest.mark.parametrize("foreign", FOREIGN, ids=repr)
def test_a_foreign_error_at_opening_is_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: Exception
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"not the beginning of any container")
    monkeypatch.setattr(av, "open", raising(foreign))
    with pytest.raises(VideoError) as caught:
        VideoReader(path)
    assert caught.value.__cause__ is foreign
    assert caught.value.code == CODE_AT_OPENING.get(type(foreign), "VIDEO_DAMAGED")
    assert not any(words in str(caught.value) for words in WORDS_OF_OTHERS)


@pytest.mark.parametrize(
    ("foreign", "code"),
    [
        (av.error.InvalidDataError(1094995529, "Invalid data found"), "VIDEO_TRUNCATED"),
        (av.error.EOFError(541478725, "End of file"), "VIDEO_TRUNCATED"),
        (OSError(5, "Input/output error"), "VIDEO_TRUNCATED"),
        (OSError(116, "Stale file handle"), "VIDEO_UNREADABLE"),
        (OSError(24, "Too many open files"), "VIDEO_UNREADABLE"),
        (MemoryError(12, "Cannot allocate memory"), "VIDEO_TOO_LARGE"),
        (av.error.PatchWelcomeError(1163346256, "Not yet implemented in FFmpeg"), "VIDEO_UNSUPPORTED_CODEC"),
    ],
    ids=repr,
)
def test_only_what_speaks_of_the_content_calls_a_container_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: Exception, code: str
) -> None:
    path = make_video(tmp_path / "a.mp4")
    monkeypatch.setattr(av, "open", raising(foreign))
    assert read(path).code == code


def test_a_disk_that_fails_while_the_error_is_examined_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "a.mp4")
    monkeypatch.setattr(av, "open", raising(OSError(5, "Input/output error")))
    monkeypatch.setattr(Path, "open", raising(OSError(5, "Input/output error")))
    assert read(path).code == "VIDEO_UNREADABLE"


@pytest.mark.parametrize("foreign", FOREIGN, ids=repr)
def test_a_foreign_error_in_the_header_is_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: Exception
) -> None:
    path = make_video(tmp_path / "a.mp4")
    monkeypatch.setattr(video, "_stated_duration", raising(foreign))
    with pytest.raises(VideoError) as caught:
        VideoReader(path)
    assert caught.value.__cause__ is foreign


class Failing:
    """Stands in for a part of PyAV: its method raises from the n-th call on."""

    def __init__(self, real: Any, method: str, error: Exception, first: int) -> None:
        self._real, self._method, self._error, self._first = real, method, error, first
        self._calls = 0

    def __getattr__(self, name: str) -> Any:
        return self._call if name == self._method else getattr(self._real, name)

    def _call(self, *arguments: Any, **options: Any) -> Any:
        self._calls += 1
        if self._calls > self._first:
            raise self._error
        return getattr(self._real, self._method)(*arguments, **options)


class WithDecoder:
    """Stands in for a stream whose decoder is another."""

    def __init__(self, stream: Any, decoder: Any) -> None:
        self._stream = stream
        self.codec_context = decoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.mark.parametrize("foreign", FOREIGN, ids=repr)
def test_a_foreign_error_while_decoding_is_a_bad_packet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: Exception
) -> None:
    with VideoReader(make_video(tmp_path / "a.mp4", codec="mpeg4")) as reader:
        stream: Any = reader._stream
        monkeypatch.setattr(reader, "_demuxed_streams", lambda: [stream])
        monkeypatch.setattr(
            reader, "_stream", WithDecoder(stream, Failing(stream.codec_context, "decode", foreign, first=10))
        )
        with pytest.raises(VideoError) as caught:
            list(reader)
    if isinstance(foreign, MemoryError):
        assert caught.value.code == "VIDEO_TOO_LARGE"
    else:
        assert caught.value.code == "VIDEO_TRUNCATED"
        assert reader.facts().num_frames_decoded == 10


@pytest.mark.parametrize("foreign", FOREIGN, ids=repr)
def test_a_foreign_error_while_reading_ends_the_file_and_keeps_what_was_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: Exception
) -> None:
    path = make_video(tmp_path / "a.mp4", codec_options={"bf": "2"})

    def breaks_off(container: Any, *streams: Any) -> Iterator[Any]:
        packets = container.demux(*streams)
        for _ in range(10):
            yield next(packets)
        raise foreign

    with VideoReader(path, allow_partial=True) as reader:
        real = reader._container
        monkeypatch.setattr(
            reader,
            "_container",
            SimpleNamespace(demux=partial(breaks_off, real), close=real.close, format=real.format),
        )
        got = [frame for block in reader for frame in block.frames]
    assert len(got) == reader.facts().num_frames_decoded == 10
    assert reader.facts().partial


def test_an_error_at_the_very_end_is_an_end_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends_badly(container: Any, *streams: Any) -> Iterator[Any]:
        yield from container.demux(*streams)
        raise OSError(5, "Input/output error")

    with VideoReader(make_video(tmp_path / "a.ts")) as reader:
        real = reader._container
        monkeypatch.setattr(
            reader, "_container", SimpleNamespace(demux=partial(ends_badly, real), close=real.close, format=real.format)
        )
        with pytest.raises(VideoError, match="decoded 20 frames; the last one is broken off"):
            list(reader)
    assert reader.facts().num_frames_decoded == 20


@pytest.mark.parametrize("foreign", FOREIGN, ids=repr)
def test_a_foreign_error_while_converting_is_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: Exception
) -> None:
    monkeypatch.setattr(video, "VideoReformatter", lambda: SimpleNamespace(reformat=raising(foreign)))
    with VideoReader(make_video(tmp_path / "a.mp4")) as reader, pytest.raises(VideoError) as caught:
        list(reader)
    assert caught.value.__cause__ is foreign
