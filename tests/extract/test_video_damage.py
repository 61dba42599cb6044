from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from support import make_video
from vadx.extract.video import VideoReader

from .clips import cut, damage, make_video_with_sound, read
from .encodings import ENCODINGS, NUM_FRAMES, Encoding, boxes_of, frame_starts, inside_a_frame, lose_packets, punch

WITH_B_FRAMES = [name for name, kind in ENCODINGS.items() if kind.codec in ("libx264", "mpeg4")]
CASES = [(name, 0) for name in ENCODINGS] + [(name, 2) for name in WITH_B_FRAMES]


@pytest.mark.parametrize(("name", "num_b_frames"), CASES)
def test_a_truncated_file_is_truncated(tmp_path: Path, name: str, num_b_frames: int) -> None:
    whole = ENCODINGS[name].make(tmp_path / "whole", num_b_frames)
    clean = read(whole)
    assert (clean.code, len(clean.frames), clean.is_flagged) == (None, NUM_FRAMES, False)
    for percent in (10, 50, 90):
        end = whole.stat().st_size * percent // 100
        if name == "ts":
            end = inside_a_frame(whole.read_bytes(), end)
        got = read(cut(whole, tmp_path / f"part{whole.suffix}", end))
        assert (percent, got.code) == (percent, "VIDEO_TRUNCATED")
        assert len(got.frames) < NUM_FRAMES
        assert got.facts is None or not got.facts.partial


@pytest.mark.parametrize("name", ["mkv", "avi", "mjpeg avi", "mp4, fragmented", "flv", "webm"])
def test_a_file_that_lost_only_its_last_bytes_may_be_whole(tmp_path: Path, name: str) -> None:
    whole = ENCODINGS[name].make(tmp_path / "whole")
    got = read(cut(whole, tmp_path / f"part{whole.suffix}", whole.stat().st_size - 5))
    assert (got.code, len(got.frames)) == (None, NUM_FRAMES)


def test_a_transport_stream_that_ends_between_two_frames_cannot_be_known_to_be_truncated(tmp_path: Path) -> None:
    whole = ENCODINGS["ts"].make(tmp_path / "whole")
    starts = frame_starts(whole.read_bytes())
    assert len(starts) == NUM_FRAMES
    got = read(cut(whole, tmp_path / "part.ts", starts[30]))
    assert (got.code, len(got.frames), got.is_flagged) == (None, 30, False)


def test_an_index_that_is_cut_through_gives_all_frames_or_is_truncated(tmp_path: Path) -> None:
    whole = ENCODINGS["mp4, index last"].make(tmp_path / "whole")
    data = whole.read_bytes()
    (start,) = [at for at, kind in boxes_of(data) if kind == b"moov"]
    outcomes = []
    for end in range(start, len(data), 37):
        got = read(cut(whole, tmp_path / "part.mp4", end))
        outcomes.append((got.code, len(got.frames)))
    # Where only the notes after the tables are cut off, nothing is lost.
    assert set(outcomes) == {("VIDEO_TRUNCATED", 0), (None, NUM_FRAMES)}
    assert outcomes.index((None, NUM_FRAMES)) > len(outcomes) * 3 // 4


@pytest.mark.parametrize("num_bytes", [8, 40, 100])
def test_a_fragment_whose_header_is_cut_through_is_truncated(tmp_path: Path, num_bytes: int) -> None:
    whole = ENCODINGS["mp4, fragmented"].make(tmp_path / "whole")
    fragments = [at for at, kind in boxes_of(whole.read_bytes()) if kind == b"moof"]
    part = cut(whole, tmp_path / "part.mp4", fragments[-2] + num_bytes)
    assert read(part).code == "VIDEO_TRUNCATED"
    # At the fragment's edge nothing tells; the whole fragments before it are all there is.
    got = read(cut(whole, part, fragments[-2]))
    assert (got.code, 0 < len(got.frames) < NUM_FRAMES) == (None, True)


def test_a_container_that_promises_a_duration_and_holds_no_frame_is_truncated(tmp_path: Path) -> None:
    whole = ENCODINGS["mkv"].make(tmp_path / "whole")
    with av.open(str(whole)) as container:
        first = next(container.demux(video=0))
        assert first.pos is not None
        before_first_frame = first.pos
    got = read(cut(whole, tmp_path / "part.mkv", before_first_frame))
    assert (got.code, got.frames) == ("VIDEO_TRUNCATED", [])


@pytest.mark.parametrize("num_b_frames", [0, 2])
@pytest.mark.parametrize("name", ["mp4, index first", "flv", "mkv"])
def test_frames_that_the_decoder_still_held_are_kept(tmp_path: Path, name: str, num_b_frames: int) -> None:
    whole = ENCODINGS[name].make(tmp_path / "whole", num_b_frames)
    end = whole.stat().st_size // 2
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    num_whole = sum(p.pos is not None and p.pos + p.size <= end - 64 for p in packets)
    assert 20 < num_whole < 40

    got = read(cut(whole, tmp_path / f"part{whole.suffix}", end), allow_partial=True)
    assert got.code is None
    assert got.facts is not None
    assert got.facts.partial
    assert got.facts.degradations()[0] == "only a part of the video could be decoded"
    # The packet that the cut goes through may give one frame more.
    assert len(got.frames) in (num_whole, num_whole + 1)
    in_order = sorted(range(NUM_FRAMES), key=lambda i: packets[i].pts or 0)
    complete = [i in range(num_whole) for i in in_order].index(False)
    assert complete >= num_whole - 2
    clean = read(whole)
    np.testing.assert_array_equal(np.stack(got.frames[:complete]), np.stack(clean.frames[:complete]))
    assert got.pts[:complete] == clean.pts[:complete]


@pytest.mark.parametrize(
    ("kind", "num_b_frames"),
    [
        (Encoding(".mp4"), 2),
        (Encoding(".mkv"), 2),
        (Encoding(".mp4", "mpeg4", codec_options={"g": "12"}), 0),
        (Encoding(".avi", "mpeg4", codec_options={"g": "12"}), 2),
        (ENCODINGS["mjpeg avi"], 0),
    ],
    ids=["h264 mp4", "h264 mkv", "mpeg4 mp4", "mpeg4 avi", "mjpeg avi"],
)
def test_most_damage_inside_a_stream_is_seen(tmp_path: Path, kind: Encoding, num_b_frames: int) -> None:
    whole = kind.make(tmp_path / "whole", num_b_frames)
    clean = np.stack(read(whole).frames)
    flags = []
    for seed in range(30):
        got = read(damage(whole, tmp_path / f"damaged{kind.extension}", seed))
        if len(got.frames) != NUM_FRAMES or not np.array_equal(np.stack(got.frames), clean):
            flags.append(got.is_flagged)
    assert len(flags) >= 20
    # Measured with one decode thread: 80 of 90 H.264 files. With FFmpeg's default threads it was 6.
    assert np.mean(flags) >= 0.85


@pytest.mark.parametrize("name", ["mp4, index first", "mjpeg avi", "mpeg4 avi"])
def test_a_long_hole_is_damage(tmp_path: Path, name: str) -> None:
    whole = ENCODINGS[name].make(tmp_path / "whole")
    punch(whole, 0.3, 0.7)
    got = read(whole)
    assert got.code in {"VIDEO_DAMAGED", "VIDEO_TRUNCATED"}
    assert len(got.frames) < NUM_FRAMES * 3 // 4


def test_many_lost_packets_are_damage_however_few_frames_lie_beside_them(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=240, codec="mjpeg", pixel_format="yuvj420p")
    punch(path, 0.3, 0.7)
    got = read(path)
    assert got.facts is not None
    assert got.facts.num_damaged_frames <= 1
    assert got.facts.num_bad_packets > 80
    assert got.code == "VIDEO_DAMAGED"
    assert f"and {got.facts.num_bad_packets} packets could not be decoded" in got.evidence


def test_packets_lost_from_a_transport_stream_are_seen(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.ts", num_frames=NUM_FRAMES, codec_options={"g": "12", "bf": "0"})
    data = whole.read_bytes()
    middle = len(data) // 188 // 2
    flagged = 0
    for first in range(middle, middle + 20):
        (tmp_path / "lossy.ts").write_bytes(lose_packets(data, set(range(first, first + 3))))
        got = read(tmp_path / "lossy.ts")
        flagged += got.is_flagged and got.facts is not None and got.facts.num_damaged_frames > 0
    # Where the lost packets are of another stream (tables), no frame is lost.
    assert flagged >= 18


def test_joined_transport_streams_are_accepted_and_marked(tmp_path: Path) -> None:
    parts = [make_video(tmp_path / f"{seed}.ts", num_frames=25, seed=seed).read_bytes() for seed in range(4)]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    got = read(tmp_path / "joined.ts")
    assert (got.code, len(got.frames)) == (None, 100)
    assert got.facts is not None
    assert got.facts.num_backward_pts == 3
    assert 0 < got.facts.num_damaged_frames <= 3
    assert read(tmp_path / "joined.ts", strict=True).code == "VIDEO_DAMAGED"


@pytest.mark.parametrize("num_b_frames", [0, 2])
def test_a_transport_stream_may_begin_between_two_key_frames(tmp_path: Path, num_b_frames: int) -> None:
    whole = Encoding(".ts", codec_options={"g": "30", "crf": "8"}).make(tmp_path / "whole", num_b_frames)
    data = whole.read_bytes()
    (tmp_path / "late.ts").write_bytes(data[len(data) // 188 // 4 * 188 :])
    got = read(tmp_path / "late.ts")
    assert got.code is None
    # The second key frame and all that follows it.
    assert 30 <= len(got.frames) < NUM_FRAMES


LATE_SOUND = {".mp4": "aac", ".mkv": "aac", ".ts": "aac", ".flv": "aac", ".avi": "pcm_s16le", ".webm": "libopus"}
CLEAN = [
    (extension, codec, num_b_frames, seconds)
    for extension, codec in [
        (".mp4", "libx264"),
        (".mp4", "mpeg4"),
        (".mkv", "libx264"),
        (".mkv", "mpeg4"),
        (".ts", "libx264"),
        (".avi", "libx264"),
        (".avi", "mpeg4"),
        (".flv", "libx264"),
        (".webm", "libvpx"),
    ]
    for num_b_frames in ((0,) if codec == "libvpx" else (0, 2))
    for seconds in (0.0, 0.5, 3.0)
]


@pytest.mark.parametrize(("extension", "codec", "num_b_frames", "seconds"), CLEAN)
def test_a_clean_file_raises_no_alarm(
    tmp_path: Path, extension: str, codec: str, num_b_frames: int, seconds: float
) -> None:
    path = tmp_path / f"clean{extension}"
    options = {} if codec == "libvpx" else {"bf": str(num_b_frames)}
    if seconds:
        sound = LATE_SOUND[extension]
        make_video_with_sound(path, seconds_of_sound=seconds, sound=sound, codec=codec, codec_options=options)
    else:
        make_video(path, num_frames=25, codec=codec, codec_options=options)
    got = read(path)
    assert got.code is None
    assert got.facts is not None
    assert got.facts.degradations() == []
    assert len(got.frames) == 25
    assert not any(got.damaged)


MORE_CLEAN = {
    "one frame": {"num_frames": 1},
    "two frames": {"num_frames": 2},
    "slow": {"num_frames": 12, "fps": 1},
    "fast": {"num_frames": 40, "fps": 120},
    "fragmented": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "index first": {"container_options": {"movflags": "faststart"}},
    "open groups": {"num_frames": 60, "codec_options": {"g": "12", "bf": "3", "x264-params": "open-gop=1"}},
    "interlaced": {"codec_options": {"flags": "+ildct+ilme"}},
    "four slices": {"codec_options": {"slices": "4"}},
    "no arithmetic coding": {"codec_options": {"coder": "0"}},
    "motion jpeg": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
}


@pytest.mark.parametrize("name", MORE_CLEAN)
@pytest.mark.parametrize("strict", [False, True])
def test_a_clean_file_of_another_make_raises_no_alarm(tmp_path: Path, name: str, strict: bool) -> None:
    got = read(make_video(tmp_path / "clean.mp4", **MORE_CLEAN[name]), strict=strict)  # type: ignore[arg-type]
    assert got.code is None
    assert not got.is_flagged
    assert got.facts is not None
    assert got.facts.coverage == 1.0


def test_enough_clean_files_are_read() -> None:
    assert len(CLEAN) + len(MORE_CLEAN) + len(CASES) >= 40


@pytest.mark.clips
@pytest.mark.parametrize(
    ("name", "declared", "decoded", "degraded"), [("tree.avi", 444, 68, True), ("vtest.avi", 795, 795, False)]
)
def test_a_declared_count_never_fails_a_video(
    opencv_clips: Path, name: str, declared: int, decoded: int, degraded: bool
) -> None:
    with VideoReader(opencv_clips / name) as reader:
        assert sum(len(block.frames) for block in reader) == decoded
        facts = reader.facts()
    assert (facts.num_frames_declared, facts.num_frames_decoded) == (declared, decoded)
    assert facts.degradations() == (["header declares 444 frames, 68 decoded"] if degraded else [])


def test_strict_tolerates_nothing(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", num_frames=300, codec="mpeg4")
    num_tolerated, bad_packets = 0, {False: 0, True: 0}
    for seed in range(20):
        part = damage(whole, tmp_path / "damaged.mp4", seed, num_bytes=4)
        got = {strict: read(part, strict=strict) for strict in (False, True)}
        if got[False].code is None and got[False].is_flagged:
            num_tolerated += 1
            assert got[True].code in {"VIDEO_DAMAGED", "VIDEO_TRUNCATED"}
        for strict, result in got.items():
            bad_packets[strict] += result.facts.num_bad_packets if result.facts else 0
    assert num_tolerated > 0
    # The decoder itself refuses what it would otherwise conceal.
    assert bad_packets[True] > bad_packets[False]


def test_a_change_of_size_is_counted_and_breaks_the_block(tmp_path: Path) -> None:
    small = make_video(tmp_path / "small.ts", num_frames=10, codec="mpeg2video")
    large = make_video(tmp_path / "large.ts", num_frames=10, width=96, height=64, codec="mpeg2video")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    got = read(joined)
    assert got.facts is not None
    sizes = [frame.shape[:2] for frame in got.frames]
    # The decoder lets go of the frame that it holds when the size changes.
    assert sizes in [[(48, 64)] * n + [(64, 96)] * 10 for n in (9, 10)]
    assert (got.facts.num_size_changes, got.facts.width, got.facts.height) == (1, 64, 48)
    assert got.facts.num_backward_pts >= 1
    assert "1 changes of picture size" in got.facts.degradations()
