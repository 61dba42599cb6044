"""Videos with tubes drawn over them: whose boxes, which times, and nothing left behind where it fails."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from support import make_video
from vadx.detectors import Tube
from vadx.errors import StoreWriteError, UsageError, VideoError
from vadx.extract.video import FrameBlock, VideoReader
from vadx.pipelines import tube_pictures
from vadx.pipelines.drawing import PALETTE, DrawnBox, draw_tubes, tube_box
from vadx.pipelines.tube_pictures import ActiveTubes, choose_tubes, tube_ids, write_overlay

from .tube_samples import Picture, blocks, tube

TICK = 1 / 90_000


def black(num: int, height: int = 96, width: int = 128) -> list[Picture]:
    return [np.zeros((height, width, 3), np.uint8)] * num


def read(path: Path) -> tuple[list[Picture], list[float]]:
    with VideoReader(path) as reader:
        found = [(block.frames.copy(), block.pts_seconds) for block in reader]
    return [frame for frames, _ in found for frame in frames], [pts for _, times in found for pts in times]


def written(
    path: Path, tubes: Sequence[Tube], pts_seconds: Sequence[float], **options: Any
) -> tuple[list[Picture], list[float]]:
    write_overlay(path, blocks(black(len(pts_seconds)), pts_seconds), tubes, **{"fps": 25.0, **options})
    return read(path)


# ---- which tubes ----


def test_choosing_by_rule_by_hand_and_by_kind() -> None:
    tubes = [tube(0, 10, score=0.9), tube(0, 40, score=0.3), tube(5, 30, score=0.5, union=True)]
    # Mean score times the root of the length: 2.85, 1.90, 2.5.
    assert choose_tubes(tubes) == [0, 2, 1]
    assert choose_tubes(tubes, order="length") == [1, 2, 0]
    assert choose_tubes(tubes, order="length", top=2) == [1, 2]
    assert choose_tubes(tubes, kinds=["unary"], top=2) == [0, 1]
    assert choose_tubes(tubes, order=[2, 0], top=1) == [2]
    assert choose_tubes(tubes, top=0) == choose_tubes([], top=5) == []
    assert tube_ids(tubes, None) == [1, 2, 3]
    assert tube_ids(tubes, [7, 7, 9]) == [7, 7, 9]


@pytest.mark.parametrize(
    "options", [{"order": "size"}, {"order": [0, 2]}, {"order": [1, 1]}, {"order": [-1]}, {"kinds": ["x"]}, {"top": -1}]
)
def test_a_choice_that_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give "):
        choose_tubes([tube(0, 3), tube(0, 3)], **options)
    with pytest.raises(UsageError, match="2 tubes, but 1 ids"):
        tube_ids([tube(0, 3), tube(0, 3)], [1])


def test_active_tubes_are_those_with_a_box() -> None:
    random = np.random.default_rng(0)
    starts = random.integers(0, 60, 40)
    tubes = [tube(int(a), int(a) + int(n)) for a, n in zip(starts, random.integers(1, 30, 40), strict=True)]
    places = [p for p in range(40) if p % 3]
    active = ActiveTubes(tubes, places)
    for frame in [*range(20), *range(25, 95, 2)]:
        assert active.at(frame) == [p for p in places if tubes[p].frames[0] <= frame <= tubes[p].frames[-1]]


class Counted(list[Tube]):
    """Counts how often one of its tubes is looked at."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        self.looks += 1
        return super().__getitem__(place)


def test_tubes_that_are_not_active_are_not_looked_at() -> None:
    tubes = Counted(tube(20 * i, 20 * i + 5) for i in range(200))
    active = ActiveTubes(tubes, range(200))
    assert sum(len(active.at(frame)) for frame in range(4000)) == 1000
    # Looking at each in every frame would be 800,000 looks: here one a frame at the next, and a tube's own frames.
    assert tubes.looks < 4000 + 200 * 10


# ---- what a video shows ----


def test_frames_show_the_tubes_that_they_have(tmp_path: Path) -> None:
    tubes = [tube(2, 5, (20, 30, 60, 80)), tube(4, 8, (90, 40, 110, 60), union=True, missed=[5, 6])]
    frames, _ = written(tmp_path / "out.mp4", tubes, [i / 25 for i in range(10)], ids=[3, 12])
    assert len(frames) == 10
    for index, frame in enumerate(frames):
        boxes = [
            tube_box(t, n, index - int(t.frames[0])) for t, n in zip(tubes, [3, 12], strict=True) if index in t.frames
        ]
        expected = draw_tubes(black(1)[0], boxes)
        assert (frame.max() > 60) == (index in range(2, 8))
        # H.264 keeps the brightness of lines and halves the resolution of colours.
        grey, expected_grey = (picture.astype(float) @ [0.299, 0.587, 0.114] for picture in (frame, expected))
        assert np.abs(grey - expected_grey).mean() < 2
    drawn = frames[3].reshape(-1, 3).astype(int)
    # Number 3 is yellow, also in the file: the tag's ground.
    assert (np.abs(drawn - PALETTE["yellow"]).max(axis=1) < 20).sum() > 100


def test_boxes_are_drawn_with_their_own_numbers_and_stride(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[DrawnBox]] = []
    monkeypatch.setattr(tube_pictures, "draw_tubes", lambda frame, boxes: drawn.append(boxes) or frame)
    tubes = [tube(1, 8, missed=[2, 3, 5]), tube(3, 5, (80, 50, 100, 90), speed=5)]
    written(tmp_path / "out.mp4", tubes, [i / 25 for i in range(9)], ids=[30, 40], stride=2)
    assert [[box.tag for box in boxes] for boxes in drawn] == [
        *([], ["30 person"], ["30 person"]),
        *([["30 person", "40 person"]] * 2),
        *([["30 person"]] * 3),
        [],
    ]
    assert [boxes[0].dashed for boxes in drawn[1:8]] == [False, True, True, False, False, False, False]
    assert [boxes[1].box for boxes in drawn[3:5]] == [(80, 50, 100, 90), (85, 50, 105, 90)]


def test_players_are_told_how_colours_are_coded(tmp_path: Path) -> None:
    written(tmp_path / "out.mp4", [], [0, 0.04])
    with av.open(str(tmp_path / "out.mp4")) as container:
        coder = container.streams.video[0].codec_context
        # SMPTE 170M, which is BT.601, and the range of broadcasting.
        assert (coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range) == (6, 6, 6, 1)
        assert (coder.name, coder.pix_fmt) == ("h264", "yuv420p")


def test_only_what_was_chosen_is_drawn(tmp_path: Path) -> None:
    tubes = [tube(0, 3, score=0.9), tube(1, 5, (80, 50, 100, 90), score=0.1, union=True)]
    pts = [i / 25 for i in range(6)]

    def lit(**options: Any) -> list[bool]:
        return [bool(frame.max() > 60) for frame in written(tmp_path / "out.mp4", tubes, pts, **options)[0]]

    assert lit() == [True] * 5 + [False]
    assert lit(kinds=["unary"]) == [True] * 3 + [False] * 3
    assert lit(kinds=["multivariate"]) == [False] + [True] * 4 + [False]
    assert lit(top=1) == [True] * 3 + [False] * 3
    assert lit(order=[1], top=1) == [False] + [True] * 4 + [False]
    assert lit(top=0) == [False] * 6


def test_a_variable_rate_does_not_drift(tmp_path: Path) -> None:
    steps = np.random.default_rng(1).integers(3, 200, 60)
    ticks = np.concatenate([[0], np.cumsum(steps)])
    source = make_video(
        tmp_path / "in.mkv", num_frames=61, pts=ticks.tolist(), time_base=Fraction(1, 1000), codec_options={"bf": "2"}
    )
    with VideoReader(source) as reader:
        write_overlay(tmp_path / "out.mp4", reader, [tube(0, 50)], fps=reader.info.fps)
    frames, pts = read(tmp_path / "out.mp4")
    assert (len(frames), frames[0].shape) == (61, (48, 64, 3))
    np.testing.assert_allclose(pts, read(source)[1], atol=TICK, rtol=0)
    np.testing.assert_allclose(pts, ticks / 1000, atol=TICK, rtol=0)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([0.5, 0.54, 0.58], [0.5, 0.54, 0.58]),
        # No whole number of milliseconds.
        ([1 / 3, 1 / 3 + 1001 / 30000, 2 / 3], [1 / 3, 1 / 3 + 1001 / 30000, 2 / 3]),
        # The first begins at zero if it lies before.
        ([-0.1, -0.06, 0.2], [0, 0.04, 0.3]),
        # After a clock's jump back the video goes on, 1/25 s later.
        ([10, 10.04, 0, 0.04, 0.2], [10, 10.04, 10.08, 10.12, 10.28]),
        ([0, 0.04, 0.04, 0.08], [0, 0.04, 0.08, 0.12]),
        # Five hours without a picture are five hours; mp4 has no steps of a day.
        ([0, 18000, 18000.04], [0, 18000, 18000.04]),
        ([0, 0.04, 100000, 100000.04], [0, 0.04, 0.08, 0.12]),
        # Longer than 32 bits at this clock.
        ([0, 20000, 40000, 60000, 80000], [0, 20000, 40000, 60000, 80000]),
    ],
)
def test_clocks(tmp_path: Path, given: list[float], kept: list[float]) -> None:
    _, pts = written(tmp_path / "out.mp4", [], given)
    np.testing.assert_allclose(pts, kept, atol=TICK, rtol=0)


@pytest.mark.parametrize("fps", [0.0, float("nan"), float("inf"), 1e9, 29.97, 0.1])
def test_any_rate_that_a_header_states_will_do(tmp_path: Path, fps: float) -> None:
    _, pts = written(tmp_path / "out.mp4", [], [0, 0.1, 0.3], fps=fps)
    np.testing.assert_allclose(pts, [0, 0.1, 0.3], atol=TICK, rtol=0)


def test_odd_sizes_grow_by_a_pixel_and_another_size_is_scaled(tmp_path: Path) -> None:
    def source() -> Iterator[FrameBlock]:
        ramp = np.broadcast_to(np.arange(33, dtype=np.uint8)[:, None, None] * 7, (33, 47, 3))
        wide = np.full((50, 70, 3), 200, np.uint8)
        for index, picture in enumerate((ramp, wide)):
            yield FrameBlock(index, np.array([index / 25]), picture[None], np.zeros(1, np.bool_))

    write_overlay(tmp_path / "out.mp4", source(), [], fps=25)
    (first, second), _ = read(tmp_path / "out.mp4")
    assert first.shape == second.shape == (34, 48, 3)
    # What the encoder makes of a ramp; the next row is 7 away.
    expected = np.minimum(np.arange(34), 32) * 7
    np.testing.assert_allclose(first.mean(axis=(1, 2)), expected, atol=8)
    np.testing.assert_allclose(second, 200, atol=4)


# ---- where it fails ----


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mkdir -p .*nowhere"):
        write_overlay(tmp_path / "nowhere" / "out.mp4", blocks(black(3), [0, 1, 2]), [], fps=25)
    assert left_in(tmp_path) == []


def test_a_place_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    places = {
        tmp_path / "out.mp4": "is no regular file",
        Path("/proc/self/out.mp4"): "name a place where you may write",
    }
    for path, words in places.items():
        with pytest.raises(UsageError, match=words):
            write_overlay(path, blocks(black(3), [0, 1, 2]), [], fps=25)
    assert left_in(tmp_path) == ["out.mp4"]


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"the one before")

    def source() -> Iterator[FrameBlock]:
        yield from blocks(black(8), [i / 25 for i in range(8)])
        raise VideoError("VIDEO_TRUNCATED", "in.mp4", "it ends")

    with pytest.raises(VideoError, match=r"in\.mp4: it ends"):
        write_overlay(tmp_path / "out.mp4", source(), [tube(0, 5)], fps=25)
    assert left_in(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"the one before"
    with pytest.raises(UsageError, match="no frame came"):
        write_overlay(tmp_path / "out.mp4", iter([]), [], fps=25)
    assert left_in(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("num_frames", [2, 60])
def test_a_disk_that_is_full_stops_it(tmp_path: Path, num_frames: int) -> None:
    """With few frames the disk refuses at the end, with many in between."""
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(num_frames)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(StoreWriteError, match=r"File too large.*free space, then repeat the same command"):
            write_overlay(tmp_path / "out.mp4", blocks(noise, [i / 25 for i in range(num_frames)]), [], fps=25)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_in(tmp_path) == []


def test_pictures_that_the_encoder_refuses_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not take pictures of 20000x2 .*scale the video"):
        write_overlay(tmp_path / "out.mp4", blocks(black(1, 2, 20000), [0]), [], fps=25)
    assert left_in(tmp_path) == []
