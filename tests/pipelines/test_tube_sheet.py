"""Contact sheets: which frames and which part of them, rows, what is missing, and the file."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vadx.errors import StoreWriteError, UsageError, VideoError
from vadx.extract.video import FrameBlock, VideoReader
from vadx.pipelines import tube_sheet
from vadx.pipelines.drawing import EDGE, PALETTE, DrawnBox, tube_colour
from vadx.pipelines.tube_sheet import (
    CAPTION_HEIGHT,
    GAP,
    HEADER_HEIGHT,
    MAP_WIDTH,
    MARGIN,
    ROW_GAP,
    TEXT_WIDTH,
    TILE_HEIGHT,
    TILE_WIDTH,
    TubeSheet,
    contact_sheet,
    crop_around,
    shot_frames,
    write_sheet,
)

from .tube_samples import Picture, blocks, tube

ORANGE = PALETTE["orange"]


def shades(num: int, height: int = 96, width: int = 128) -> list[Picture]:
    """Give frames that are grey all over, and each another grey: 2, 4, 6..."""
    return [np.full((height, width, 3), 2 * (index + 1), np.uint8) for index in range(num)]


def times(num: int) -> list[float]:
    return [index / 10 for index in range(num)]


def tile_at(page: Image.Image, row: int, column: int) -> Picture:
    left = MARGIN + TEXT_WIDTH + GAP + MAP_WIDTH + 2 * GAP + column * (TILE_WIDTH + GAP)
    top = HEADER_HEIGHT + MARGIN + row * (TILE_HEIGHT + CAPTION_HEIGHT + ROW_GAP)
    return np.asarray(page)[top : top + TILE_HEIGHT, left : left + TILE_WIDTH]


def text_below(page: Image.Image, row: int, column: int) -> Picture:
    left = MARGIN + TEXT_WIDTH + GAP + MAP_WIDTH + 2 * GAP + column * (TILE_WIDTH + GAP)
    top = HEADER_HEIGHT + MARGIN + row * (TILE_HEIGHT + CAPTION_HEIGHT + ROW_GAP) + TILE_HEIGHT
    return np.asarray(page)[top : top + CAPTION_HEIGHT, left : left + TILE_WIDTH]


def has(pixels: Picture, colour: Any) -> bool:
    return bool((pixels == colour).all(axis=-1).any())


def test_shots_are_evenly_spaced_from_first_to_last() -> None:
    assert shot_frames(10, 110, 6) == (10, 30, 50, 69, 89, 109)
    assert shot_frames(10, 13, 6) == (10, 11, 12)
    assert shot_frames(10, 11, 6) == (10,)
    assert shot_frames(10, 21, 1) == (15,)
    assert shot_frames(0, 7, 3) == (0, 3, 6)


def test_a_page_has_a_row_a_tube_and_a_column_a_shot(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(tube_sheet, "_write", lambda _page, text, *_: written.append(text))
    tubes = [tube(0, 4), tube(2, 32, speed=2), tube(5, 25, union=True)]
    page = contact_sheet(blocks(shades(40), times(40)), tubes, shots=4, ids=[7, 8, 9], title="cam.mp4")
    assert page.size == (2 * MARGIN + TEXT_WIDTH + GAP + MAP_WIDTH + GAP + 4 * (TILE_WIDTH + GAP), 48 + 3 * 124)
    # The longest first; every tile shows its own frame.
    for row, frames in enumerate([(2, 12, 21, 31), (5, 11, 18, 24), (0, 1, 2, 3)]):
        for column, frame in enumerate(frames):
            tile = tile_at(page, row, column)
            assert has(tile, [2 * (frame + 1)] * 3)
            assert has(tile, tube_colour((8, 9, 7)[row]))
    assert written[0] == "cam.mp4  \N{MIDDLE DOT}  3 tubes  \N{MIDDLE DOT}  longest first"
    facts = ["30 frames", "3.0 s", "mean score 0.50", "frames 2 to 31", "0:00.2", "0:01.2", "0:02.1", "0:03.1"]
    assert written[1:9] == facts


def test_fewer_shots_than_asked_for_and_more_tubes() -> None:
    tubes = [tube(0, 2), *(tube(0, 1) for _ in range(20))]
    page = contact_sheet(blocks(shades(3), times(3)), tubes, num_tubes=2)
    assert page.size[1] == 48 + 2 * 124
    assert has(tile_at(page, 0, 1), [4, 4, 4])
    assert (tile_at(page, 0, 2) == 255).all()
    assert contact_sheet(blocks(shades(3), times(3)), tubes, order=[20], kinds=["unary"]).size[1] == 48 + 124


def test_a_page_without_tubes_says_so_and_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def source() -> Iterator[FrameBlock]:
        pytest.fail("nothing needs decoding")
        yield

    assert has(np.asarray(contact_sheet(source(), [])), [24, 24, 24])
    written: list[str] = []
    monkeypatch.setattr(tube_sheet, "_write", lambda _page, text, *_: written.append(text))
    contact_sheet(source(), [tube(0, 5)], kinds=["multivariate"])
    assert written[:2] == ["0 tubes", "No tube to show. Link with a shorter minimum length,"]


def test_a_video_is_read_no_further_than_needed() -> None:
    taken = []

    def source() -> Iterator[FrameBlock]:
        for block in blocks(shades(40), times(40)):
            taken.append(block.start)
            yield block

    contact_sheet(source(), [tube(0, 4), tube(3, 8)])
    # Frame 8, the first without a tube, says how long frame 7 was shown.
    assert taken == [0, 4, 8]


def test_frames_that_did_not_come_are_left_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = TubeSheet([tube(0, 11)], shots=3)
    for block in blocks(shades(6), times(6)):
        sheet.push(block)
    assert not sheet.done
    page = sheet.image()
    assert has(tile_at(page, 0, 1), [12, 12, 12])
    assert (tile_at(page, 0, 2) == 232).all()
    assert (text_below(page, 0, 2) < 200).any()
    written: list[str] = []
    monkeypatch.setattr(tube_sheet, "_write", lambda _page, text, *_: written.append(text))
    sheet.image()
    assert (written[2], written[-1]) == ("", "no frame 10")


@pytest.mark.parametrize(
    ("pts_seconds", "span", "seconds"),
    [
        ([0.0, 0.5, 0.75, 2.0], (0, 2), "0.8 s"),
        # The last frame is shown as long as the one before it.
        ([0.0, 0.5, 0.75, 2.0], (1, 4), "2.8 s"),
        ([3.0], (0, 1), "0.1 s"),
    ],
)
def test_seconds_are_those_of_the_source(
    monkeypatch: pytest.MonkeyPatch, pts_seconds: list[float], span: tuple[int, int], seconds: str
) -> None:
    written: list[str] = []
    monkeypatch.setattr(tube_sheet, "_write", lambda _page, text, *_: written.append(text))
    contact_sheet(blocks(shades(len(pts_seconds)), pts_seconds), [tube(*span)], fps=10)
    assert written[2] == seconds


# ---- crops ----


def quarters() -> Picture:
    """Give a picture 200 wide and 100 high in four colours."""
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:50, 100:], picture[50:, :100], picture[50:, 100:] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    return picture


def test_a_crop_shows_the_box_in_its_surroundings() -> None:
    tile = crop_around(quarters(), DrawnBox((90, 40, 110, 60), "", ORANGE))
    assert tile.shape == (96, 96, 3)
    assert [tile[y, x].tolist() for y in (5, 90) for x in (5, 90)] == [[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200]]
    # 20 of 32 pixels across 96: the line lies around [18, 78).
    assert [has(tile[48, [x]], ORANGE) for x in (15, 16, 17, 18, 77, 78, 79, 80)] == [
        *(False, True, True, False, False, True, True, False),
    ]


@pytest.mark.parametrize(
    ("box", "corner"),
    [
        ((1, 1, 2, 2), (0, 0, 0)),
        ((198, 98, 200, 100), (0, 0, 200)),
        ((-50, -50, -40, -40), (0, 0, 0)),
        ((250, 150, 300, 160), (0, 0, 200)),
        ((-1e9, 60, 1e9, 70), (0, 200, 0)),
    ],
)
def test_a_crop_stays_in_the_picture(box: tuple[float, float, float, float], corner: tuple[int, int, int]) -> None:
    tile = crop_around(quarters(), DrawnBox(box, "", ORANGE))
    assert has(tile, corner)
    inside = ~(tile == 232).all(axis=2)
    # A box from side to side leaves the rest of a tile blank: the picture is half as high as wide.
    assert inside.mean() == (0.5 if box[2] == 1e9 else 1)


def test_a_box_in_a_corner_is_shown_where_it_is() -> None:
    tile = crop_around(quarters(), DrawnBox((194, 90, 197, 96), "", ORANGE))
    lines = np.argwhere((tile == ORANGE).all(axis=2))
    # Pixels [168, 200) x [68, 100), three times as large, and two pixels of line.
    assert lines.min(axis=0).tolist() == [3 * 22 - 2, 3 * 26 - 2]
    assert lines.max(axis=0).tolist() == [3 * 28 + 1, 3 * 29 + 1]


def test_missed_boxes_are_dashed_beyond_the_stride() -> None:
    def line(stride: int) -> Picture:
        page = contact_sheet(blocks(shades(5), times(5)), [tube(0, 5, missed=[1, 2, 3])], shots=3, stride=stride)
        tile = tile_at(page, 0, 1)
        # 30 of 50 * 1.6 pixels to the left of the middle, less the line.
        return (tile[20:70, :] == tube_colour(1)).all(axis=2).sum(axis=0).max()

    assert line(1) < 40
    assert line(4) == 50


def test_tiny_boxes_are_enlarged_and_huge_ones_fit() -> None:
    tiny = crop_around(quarters(), DrawnBox((49, 24, 51, 26), "", ORANGE))
    lines = np.argwhere((tiny == ORANGE).all(axis=2))
    # 2 of 32 pixels across 96, and the line around it.
    assert (np.ptp(lines, axis=0) + 1).tolist() == [10, 10]
    huge = crop_around(quarters(), DrawnBox((0, 0, 200, 100), "", ORANGE))
    lines = np.argwhere((huge == ORANGE).all(axis=2))
    assert (np.ptp(lines, axis=0) + 1).tolist() == [48, 96]
    assert (huge[0] == 232).all()
    for size in ((1, 1), (1, 500), (500, 1)):
        assert crop_around(np.zeros((*size, 3), np.uint8), DrawnBox((0, 0, 1, 1), "", ORANGE)).shape == (96, 96, 3)


# ---- the file ----


def test_the_file_keeps_colours_of_tubes_and_is_the_same_each_time(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    # Colours so close to those of tubes that Pillow's own search takes one for the other.
    near = random.choice([*PALETTE.values(), EDGE], (10, 96, 128)) + random.integers(-6, 7, (10, 96, 128, 3))
    noise = list(near.clip(0, 255).astype(np.uint8))
    tubes = [tube(0, 10 - n, (10, 10, 60, 70)) for n in range(7)]
    for name in ("one.png", "two.png"):
        write_sheet(tmp_path / name, blocks(noise, times(10)), tubes, fps=10, title="noise")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert (image.format, image.mode) == ("PNG", "P")
        page = image.convert("RGB")
    full = np.asarray(contact_sheet(blocks(noise, times(10)), tubes, fps=10, title="noise"))
    for colour in (*PALETTE.values(), EDGE, (255, 255, 255)):
        exact = (full == colour).all(axis=2)
        assert exact.any()
        assert (np.asarray(page)[exact] == colour).all()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mkdir -p .*nowhere"):
        write_sheet(tmp_path / "nowhere" / "out.png", [], [])
    with pytest.raises(UsageError, match="give shots=6"):
        write_sheet(tmp_path / "out.png", [], [], shots=0)
    with pytest.raises(UsageError, match="name a place where you may write"):
        write_sheet("/proc/self/out.png", [], [])

    def source() -> Iterator[FrameBlock]:
        yield from blocks(shades(4), times(4))
        raise VideoError("VIDEO_TRUNCATED", "in.mp4", "it ends")

    with pytest.raises(VideoError, match="it ends"):
        write_sheet(tmp_path / "out.png", source(), [tube(0, 30)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StoreWriteError, match="free space"):
            write_sheet(tmp_path / "out.png", [], [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.clips
def test_a_sheet_of_a_street_can_be_mailed(opencv_clips: Path, tmp_path: Path) -> None:
    tubes = [tube(0, 40 + n, (60 * n, 100 + 20 * n, 60 * n + 40, 200 + 20 * n), speed=1) for n in range(12)]
    with VideoReader(opencv_clips / "vtest.avi") as reader:
        write_sheet(tmp_path / "out.png", reader, tubes)
    # As a full-colour PNG it has twice that.
    assert 50_000 < (tmp_path / "out.png").stat().st_size < 400_000
