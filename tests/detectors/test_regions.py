"""Regions of tubes, streamed: clips, means and whole frames, against plain loops and cases done by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vadx.detectors.region_boxes import CROPS, GLOBAL_ALIGNMENTS, REMAINDERS, crop_regions, region_boxes
from vadx.detectors.regions import InstanceFeatures, RegionSettings, RegionStream
from vadx.detectors.tubes import Tube, coarser_parts, nested_parts
from vadx.errors import FeatureError, UsageError
from vadx.extract import load_backbone
from vadx.extract.engine import Engine

from .region_samples import HEIGHT, SIZE, WIDTH, Array, plain_crop, still, tube, video

pytestmark = pytest.mark.usefixtures("one_thread")

DIM = 5


def prepare(frames: Array) -> torch.Tensor:
    """Cut the middle out, as a view."""
    top, left = (HEIGHT - SIZE) // 2, (WIDTH - SIZE) // 2
    return torch.from_numpy(frames).permute(0, 3, 1, 2)[:, :, top : top + SIZE, left : left + SIZE]


class Sums:
    """Sums of pixels, each weighted by its place: whole numbers below 2^24, so exact, whatever shares the batch."""

    def __init__(self, batch: int = 3) -> None:
        self.batch = batch
        self.sizes: list[int] = []
        self.inputs: list[bytes] = []

    def run(self, inputs: torch.Tensor, /) -> Array:
        assert inputs.dtype == torch.uint8
        assert 1 <= len(inputs) <= self.batch
        self.sizes.append(len(inputs))
        self.inputs += [one.numpy().tobytes() for one in inputs.contiguous()]
        values = inputs.numpy().reshape(len(inputs), -1).astype(np.int64)
        return (values @ weights(values.shape[1])).astype(np.float32)


def weights(num: int) -> Array:
    return np.random.default_rng(num).integers(-9, 10, (num, DIM))


def value_of(pixels: Array) -> Array:
    values: Array = (pixels.reshape(-1).astype(np.int64) @ weights(pixels.size)).astype(np.float32)
    return values


def stream(tubes: Sequence[Tube], num_frames: int, network: Any, **other: Any) -> RegionStream:
    given = {"settings": RegionSettings(keep_clips=True), "clip_length": 4, "prepare": prepare, **other}
    return RegionStream(tubes, network=network, size=SIZE, width=WIDTH, height=HEIGHT, num_frames=num_frames, **given)


def run(
    tubes: Sequence[Tube], frames: Array, *, blocks: Iterable[int] = (), network: Any = None, **other: Any
) -> list[InstanceFeatures]:
    """Push frames in blocks that end at ``blocks``, each in memory that is written over afterwards."""
    under_test = stream(tubes, len(frames), Sums() if network is None else network, **other)
    for start, stop in itertools.pairwise([0, *blocks, len(frames)]):
        lent = frames[start:stop].copy()
        under_test.push(lent)
        lent[:] = 77
    return under_test.finish()


# ---- the plain way: one tube, one clip, one frame at a time ----


def plain_starts(length: int, clip: int, remainder: str) -> list[int]:
    starts = [i for i in range(length) if i % clip == 0 and i + clip <= length]
    if not starts:
        return [0]
    left = length - starts[-1] - clip
    if left and remainder == "pad":
        starts.append(starts[-1] + clip)
    if left and remainder == "overlap":
        starts.append(length - clip)
    return starts


def plain(frames: Array, one: Tube, remainder: str, clip: int, *, each_frame: bool) -> tuple[list[Array], list[Array]]:
    """Give the features of every clip, inside and whole, of per-frame boxes."""
    regions, wholes = [], []
    for start in plain_starts(len(one), clip, remainder):
        places = [min(i, len(one) - 1) for i in range(start, start + clip)]
        inside = [plain_crop(frames[one.frames[i]], one.boxes[i], SIZE) for i in places]
        whole = [prepare(frames[one.frames[i]][None])[0].numpy() for i in places]
        for pictures, values in ((inside, regions), (whole, wholes)):
            if each_frame:
                values.append(np.mean([value_of(p).astype(np.float64) for p in pictures], axis=0).astype(np.float32))
            else:
                values.append(value_of(np.stack(pictures, axis=1)))
    return regions, wholes


def assert_equal_to_the_plain_way(found: InstanceFeatures, regions: list[Array], wholes: list[Array]) -> None:
    assert found.region_clips is not None
    assert found.global_clips is not None
    assert found.num_clips == len(regions)
    np.testing.assert_array_equal(found.region_clips, np.stack(regions))
    np.testing.assert_array_equal(found.global_clips, np.stack(wholes))
    # The sums are of whole numbers or of float32 means in float64: only the last rounding counts.
    np.testing.assert_array_equal(found.region_mean, np.mean(regions, axis=0, dtype=np.float64).astype(np.float32))
    np.testing.assert_array_equal(found.global_mean, np.mean(wholes, axis=0, dtype=np.float64).astype(np.float32))


def random_tubes(random: np.random.Generator, num: int, num_frames: int) -> list[Tube]:
    """Make tubes whose boxes a crop and an average give exactly: whole pixels, sides 4 or 8."""
    tubes = []
    for _ in range(num):
        first = int(random.integers(0, num_frames))
        length = int(random.integers(1, num_frames - first + 1))
        sides = random.integers(1, 3, (length, 2)) * SIZE
        corner = np.stack(
            [random.integers(0, WIDTH - sides[:, 0] + 1), random.integers(0, HEIGHT - sides[:, 1] + 1)], 1
        )
        tubes.append(tube(np.concatenate([corner, corner + sides], axis=1), first=first))
    return tubes


@pytest.mark.parametrize("each_frame", [False, True], ids=["clips", "frames"])
@pytest.mark.parametrize("remainder", REMAINDERS)
def test_features_are_those_of_a_plain_loop(remainder: str, each_frame: bool) -> None:
    frames, tubes = video(30), random_tubes(np.random.default_rng(3), 12, 30)
    found = run(
        tubes,
        frames,
        blocks=(1, 7, 20),
        settings=RegionSettings(remainder=remainder, keep_clips=True),
        network_takes_frames=each_frame,
    )
    assert len(found) == len(tubes)
    for one, features in zip(tubes, found, strict=True):
        assert_equal_to_the_plain_way(features, *plain(frames, one, remainder, 4, each_frame=each_frame))


def union(boxes: Array) -> list[float]:
    return [min(boxes[:, 0]), min(boxes[:, 1]), max(boxes[:, 2]), max(boxes[:, 3])]


@pytest.mark.parametrize("remainder", REMAINDERS)
@pytest.mark.parametrize("crop", CROPS)
def test_clips_show_their_own_boxes(crop: str, remainder: str) -> None:
    frames = video(30)
    # Whole pixels and a half, in the picture.
    tubes = [
        tube(one.boxes - 0.5 * (one.boxes > 0), first=int(one.frames[0]))
        for one in random_tubes(np.random.default_rng(11), 6, 30)
    ]
    chosen = RegionSettings(crop=crop, remainder=remainder, keep_clips=True)
    for one, features in zip(tubes, run(tubes, frames, blocks=(11,), settings=chosen), strict=True):
        assert features.region_clips is not None
        starts = plain_starts(len(one), 4, remainder)
        for start, found in zip(starts, features.region_clips, strict=True):
            places = [min(i, len(one) - 1) for i in range(start, start + 4)]
            boxes = {
                "frame": [one.boxes[i].tolist() for i in places],
                "clip-union": [union(one.boxes[places])] * 4,
                "tube-union": [union(one.boxes)] * 4,
            }[crop]
            pictures = [
                crop_regions(frames[one.frames[i]][None], np.array([0]), np.array([box], np.float32), SIZE)[0].numpy()
                for i, box in zip(places, boxes, strict=True)
            ]
            np.testing.assert_array_equal(found, value_of(np.stack(pictures, axis=1)))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    edges=st.sets(st.integers(1, 29)),
    batch=st.integers(1, 9),
    crop=st.sampled_from(list(CROPS)),
    remainder=st.sampled_from(list(REMAINDERS)),
    align=st.sampled_from(list(GLOBAL_ALIGNMENTS)),
    each_frame=st.booleans(),
)
def test_features_depend_neither_on_blocks_nor_on_batches(
    seed: int, edges: set[int], batch: int, crop: str, remainder: str, align: str, each_frame: bool
) -> None:
    random = np.random.default_rng(seed)
    tubes = [
        tube(one.boxes + random.normal(0, 3, one.boxes.shape), first=int(one.frames[0]))
        for one in random_tubes(random, 5, 30)
    ]
    chosen = RegionSettings(crop=crop, remainder=remainder, global_align=align, keep_clips=True)
    common: dict[str, Any] = {"settings": chosen, "network_takes_frames": each_frame}
    whole = run(tubes, video(30), network=Sums(1), **common)
    cut = run(tubes, video(30), blocks=sorted(edges), network=Sums(batch), **common)
    for one, other in zip(whole, cut, strict=True):
        for name in InstanceFeatures.__slots__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize(("num_bytes", "most_frames", "most_boxes"), [(9300, 2, 48), (961, 1, 5)])
def test_small_pieces_of_memory_change_nothing(
    monkeypatch: pytest.MonkeyPatch, num_bytes: int, most_frames: int, most_boxes: int
) -> None:
    tubes, frames = random_tubes(np.random.default_rng(5), 12, 30), video(30)
    whole = run(tubes, frames)
    num_frames, num_boxes = [], []

    def cut(pictures: Any, index: Array, boxes: Array, size: int) -> torch.Tensor:
        num_frames.append(len(pictures))
        num_boxes.append(len(boxes))
        return crop_regions(pictures, index, boxes, size)

    # A frame has 12 * 24 * 16 bytes as float32, a box 12 * 4 * 4.
    monkeypatch.setattr("vadx.detectors.regions._CHUNK_BYTES", num_bytes)
    monkeypatch.setattr("vadx.detectors.regions.crop_regions", cut)
    for one, other in zip(whole, run(tubes, frames), strict=True):
        np.testing.assert_array_equal(one.region_clips, other.region_clips)
        np.testing.assert_array_equal(one.global_clips, other.global_clips)
    assert max(num_frames) == most_frames
    assert max(num_boxes) <= most_boxes


# ---- clips and means ----


def test_clip_frames_are_those_of_the_source() -> None:
    [found] = run([still(10, first=7)], video(20), settings=RegionSettings(remainder="pad"))
    assert found.clip_frames.tolist() == [[7, 11], [11, 15], [15, 17]]
    assert (found.region_clips, found.global_clips) == (None, None)


@pytest.mark.parametrize("num_clips", [1, 3, 31, 32, 33, 70])
def test_parts_give_the_means_of_any_number_of_parts(num_clips: int) -> None:
    one = still(2 * num_clips + 1, first=2)
    [found] = run([one], video(len(one) + 2), clip_length=2)
    assert found.num_clips == num_clips
    for parts, clips in ((found.region_parts, found.region_clips), (found.global_parts, found.global_clips)):
        assert clips is not None
        assert parts.dtype == clips.dtype == np.float32
        for num_parts in (1, 2, 4, 8, 16, 32):
            places = coarser_parts(num_clips, num_parts)
            from_parts = [np.average(parts[a:b], axis=0, weights=found.part_clips[a:b]) for a, b in places.tolist()]
            edges = nested_parts(num_clips)
            spans = [(edges[a, 0], edges[b - 1, 1]) for a, b in places.tolist()]
            expected = [clips[a:b].mean(axis=0, dtype=np.float64) for a, b in spans]
            # Parts are rounded to float32, 6e-8 of values up to 1e4; sums are exact.
            np.testing.assert_allclose(from_parts, expected, rtol=1e-6, atol=2e-3)
    assert found.part_clips.sum() == num_clips


def test_sums_are_in_float64() -> None:
    class Drift:
        batch = 7

        def run(self, inputs: torch.Tensor, /) -> Array:
            # 2^24 and ones: in float32 the ones would be lost.
            first = inputs[:, 0, 0, 0, 0].numpy()
            return np.stack([np.where(first == 9, 2.0**24, 1.0), np.ones(len(first))], axis=1).astype(np.float32)

    frames = np.zeros((80, HEIGHT, WIDTH, 3), np.uint8)
    frames[0] = 9
    [found] = run([still(80)], frames, network=Drift(), clip_length=1)
    assert found.region_mean[0] == np.float32((2**24 + 79) / 80)
    assert found.region_mean[0] != np.float32(2**24 / 80)
    assert found.region_parts[0, 0] == np.float32((2**24 + 1) / 2)


# ---- whole frames ----


@pytest.mark.parametrize("each_frame", [False, True], ids=["clips", "frames"])
def test_whole_frames_on_the_grid_by_hand(each_frame: bool) -> None:
    frames = video(19)
    # Clips of 4: [2, 6) and [6, 10); [7, 11), [11, 15) and [15, 19); [17, 19).
    tubes = [still(9, first=2), still(12, first=7), still(2, first=17)]
    grid = {}
    for start in range(0, 19, 4):
        pictures = [prepare(frames[min(f, 18)][None])[0].numpy() for f in range(start, start + 4)]
        grid[start] = value_of(np.stack(pictures, axis=1)).astype(np.float64)
        if each_frame:
            grid[start] = np.mean([value_of(picture) for picture in pictures], axis=0, dtype=np.float64)
    expected = [
        [(grid[0] + grid[4]) / 2, (grid[4] + grid[8]) / 2],
        [grid[8], grid[12], grid[16]],
        [grid[16]],
    ]
    network = Sums()
    chosen = RegionSettings(global_align="grid", keep_clips=True)
    # Grid clips begin in blocks before those that their tubes begin in.
    found = run(tubes, frames, blocks=(1, 9, 17), settings=chosen, network=network, network_takes_frames=each_frame)
    for features, values in zip(found, expected, strict=True):
        assert features.global_clips is not None
        np.testing.assert_allclose(features.global_clips, values, rtol=1e-6)
        np.testing.assert_allclose(features.global_mean, np.mean(values, axis=0), rtol=1e-6, atol=1e-3)
    # 6 clips of insides, of 22 frames that differ; 5 of the grid, of 19 frames.
    assert sum(network.sizes) == (22 + 19 if each_frame else 6 + 5)


@pytest.mark.parametrize("each_frame", [False, True], ids=["clips", "frames"])
def test_whole_frames_run_once(each_frame: bool) -> None:
    tubes = [still(8, first=2), still(12, first=2, box=(8, 8, 12, 12)), still(8, first=6, box=(0, 0, 8, 8))]
    network, prepared = Sums(4), []

    def counted(frames: Array) -> torch.Tensor:
        prepared.append(len(frames))
        return prepare(frames)

    run(tubes, video(20), blocks=(5,), network=network, prepare=counted, network_takes_frames=each_frame)
    # Of 20 frames those from 2 to 13 are in a tube.
    assert sum(prepared) == 12
    assert len(network.inputs) == len(set(network.inputs)) == (28 + 12 if each_frame else 7 + 3)
    # Batches are full, but for the last.
    assert set(network.sizes[:-1]) == {4}


# ---- the stream ----


def test_features_are_in_the_order_of_the_tubes() -> None:
    frames = video(24)
    tubes = [still(4, first=16), still(24), still(4, first=3), still(4, first=16, box=(0, 0, 4, 4))]
    alone = [run([one], frames)[0] for one in tubes]
    together = run(tubes, frames, blocks=(10,))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.clip_frames, other.clip_frames)
        np.testing.assert_array_equal(one.region_clips, other.region_clips)


def test_no_tubes_need_no_frames() -> None:
    network = Sums()
    under_test = stream([], 10, network)
    under_test.push(video(10))
    assert (under_test.num_frames_needed, under_test.finish(), network.sizes) == (0, [], [])


@pytest.mark.parametrize("align", GLOBAL_ALIGNMENTS)
def test_a_video_that_ends_too_early_is_refused(align: str) -> None:
    chosen = RegionSettings(global_align=align)
    # The grid clip that frame 8 is in goes on to frame 11.
    needed = {"tube": 9, "grid": 11}[align]
    enough = stream([still(4), still(6, first=3)], 11, Sums(), settings=chosen)
    assert enough.num_frames_needed == needed
    enough.push(video(needed))
    assert len(enough.finish()) == 2
    short = stream([still(4), still(6, first=3)], 11, Sums(), settings=chosen)
    short.push(video(needed - 1))
    with pytest.raises(
        UsageError, match=rf"ended after {needed - 1} of {needed} frames, and tube 1 goes on to frame 8"
    ):
        short.finish()


def test_frames_that_do_not_fit_are_refused() -> None:
    under_test = stream([still(4)], 10, Sums())
    under_test.push(video(3))
    with pytest.raises(UsageError, match=r"frames of 24x16, and from frame 3 on frames are 16x24"):
        under_test.push(video(2, width=HEIGHT, height=WIDTH))
    with pytest.raises(UsageError, match="expected frames uint8"):
        under_test.push(video(2).astype(np.float32))  # type: ignore[arg-type]  # what is refused
    with pytest.raises(UsageError, match="11 frames were decoded, and the boxes are of a video of 10"):
        under_test.push(video(8))
    under_test.push(video(7))
    under_test.finish()
    for late in (lambda: under_test.push(video(1)), under_test.finish):
        with pytest.raises(UsageError, match="ended this video"):
            late()


def test_tubes_outside_the_video_are_refused() -> None:
    stream([still(4, first=6)], 10, Sums())
    for one in (still(4, first=7), still(4, first=-1)):
        with pytest.raises(UsageError, match="tube 1 covers frames"):
            stream([still(4), one], 10, Sums())


def test_boxes_that_are_not_finite_are_refused() -> None:
    broken = tube([(0, 0, 4, 4), (0, 0, np.nan, 4)], first=5)
    with pytest.raises(UsageError, match="frame 6 is not finite"):
        region_boxes(broken, np.array([[0, 2]]), RegionSettings(), WIDTH, HEIGHT)
    with pytest.raises(UsageError, match="tube 1 has a box that is not finite"):
        stream([still(3), broken], 20, Sums())


@pytest.mark.parametrize("name", ["clip_length", "batch"])
def test_lengths_below_one_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be 1 or more"):
        stream([still(4)], 10, Sums(0 if name == "batch" else 1), **({} if name == "batch" else {name: 0}))


def test_pictures_of_another_size_are_refused() -> None:
    under_test = stream([still(4)], 10, Sums(), prepare=lambda frames: prepare(frames)[..., 1:])
    with pytest.raises(UsageError, match="prepare gave"):
        under_test.push(video(3))


def test_values_that_are_not_finite_are_refused() -> None:
    class Broken(Sums):
        def run(self, inputs: torch.Tensor, /) -> Array:
            return np.full((len(inputs), DIM), np.nan, np.float32)

    with pytest.raises(FeatureError, match="NaN"):
        run([still(4)], video(4), network=Broken())


@pytest.mark.parametrize("each_frame", [False, True], ids=["clips", "frames"])
def test_an_engine_is_a_network(each_frame: bool) -> None:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = [torch.nn.Flatten(), torch.nn.Linear(3 * SIZE**2 * (1 if each_frame else 4), DIM)]
    network = torch.nn.Sequential(*layers)
    transform = load_backbone("tiny", "random:3").recipe.transform
    engine = Engine(network, transform, device=torch.device("cpu"), precision="fp32", batch=4, engine="torch-eager")
    frames, one = video(12), still(8, first=2)
    [found] = run([one], frames, network=engine, network_takes_frames=each_frame)
    inside = torch.from_numpy(frames[2:10, 4:8, 4:8].copy()).permute(3, 0, 1, 2)
    inputs = inside.transpose(0, 1) if each_frame else torch.stack([inside[:, :4], inside[:, 4:]])
    rows = np.concatenate([engine.run(inputs[i : i + 4]) for i in range(0, len(inputs), 4)])
    expected = rows.reshape(2, -1, DIM).mean(axis=1)
    assert found.region_clips is not None
    # The engine has one batch shape; the means of 4 rows may round otherwise in float32 than in float64.
    np.testing.assert_allclose(found.region_clips, expected, rtol=1e-5, atol=1e-6)
