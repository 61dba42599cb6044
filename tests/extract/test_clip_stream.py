"""How frames become inputs and rows become clips: frame-wise rules, resampling, flow, shared decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from support import make_video, picture
from vadx.errors import FeatureError, UsageError, VideoError
from vadx.extract.batches import Batches
from vadx.extract.clip_stream import InputStream, Timeline, first_inputs, input_shape
from vadx.extract.extractor import SharedExtraction, VideoExtraction, VideoPass
from vadx.extract.library import Backbone, extract_video, load_backbone, make_engine
from vadx.extract.sampling import TAIL_POLICIES
from vadx.extract.video import FrameBlock, VideoReader
from vadx.features import concatenate
from vadx.features.recipe import Recipe
from vadx.features.timeline import VideoFacts

IMAGES = np.stack([picture(i, 64, 48) for i in range(11)])


class Frames:
    """A `FrameSource` of frames in memory, and how often it was read."""

    def __init__(
        self, images: NDArray[np.uint8] = IMAGES, *, fps: float = 25.0, damaged: frozenset[int] = frozenset()
    ) -> None:
        self.images, self.fps, self.num_reads, self.damaged = images, fps, 0, damaged

    def __iter__(self) -> Iterator[FrameBlock]:
        self.num_reads += 1
        for start in range(0, len(self.images), 4):
            index = np.arange(start, min(start + 4, len(self.images)))
            mask = np.isin(index, list(self.damaged))
            yield FrameBlock(start, index / self.fps, self.images[index], mask)

    def facts(self) -> VideoFacts:
        return VideoFacts(fps=self.fps, num_frames_decoded=len(self.images), width=64, height=48)

    def close(self) -> None: ...


@pytest.fixture
def tiny() -> Backbone:
    return load_backbone("tiny", "random:3")


@pytest.fixture
def frames_net() -> Backbone:
    return load_backbone("tiny-frames", "random:3")


@pytest.fixture
def flow_net() -> Backbone:
    return load_backbone("tiny-flow", "random:3")


def extract(backbone: Backbone, recipe: Recipe, source: Frames, batch: int = 3) -> tuple[Any, Any]:
    extraction = VideoExtraction(source, recipe, make_engine(backbone, recipe, device="cpu", batch=batch))
    return np.concatenate(list(extraction)), extraction.table()


def with_sampling(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, sampling=replace(recipe.sampling, **changes))


def with_network(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, network=replace(recipe.network, **changes))


def per_frame(backbone: Backbone) -> NDArray[np.float32]:
    """Give the network's vector of every frame, one at a time."""
    recipe = with_network(with_sampling(backbone.recipe, clip_length=1, clip_stride=1, tail="drop"), temporal="first")
    values, table = extract(backbone, recipe, Frames(), batch=1)
    assert table.frames.tolist() == [[i, i + 1] for i in range(11)]
    return values[:, 0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_clip_of_a_frame_wise_network_is_the_mean_of_the_frames_there_are(frames_net: Backbone, batch: int) -> None:
    each = per_frame(frames_net)
    values, table = extract(frames_net, frames_net.recipe, Frames(), batch=batch)
    assert table.frames.tolist() == [[0, 4], [4, 8], [8, 11]]
    assert table.num_padded_frames == 0
    expected = np.stack([each[0:4].mean(0), each[4:8].mean(0), each[8:11].mean(0)])
    # The same sums in another batch shape: the last bits may differ.
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("tail", "temporal", "stride", "num_frames"),
    [
        ("repeat_last", "mean", 1, 11),
        ("repeat_last", "mean", 3, 11),
        # The head, frames 0 and 1, is looked at again after clips that did not.
        ("wrap", "mean", 3, 13),
        # The middle one of four frames: 2 to 9.
        ("drop", "middle", 1, 8),
    ],
)
@pytest.mark.parametrize("batch", [1, 5])
def test_frames_that_clips_share_go_through_the_network_once(
    frames_net: Backbone, tail: str, temporal: str, stride: int, num_frames: int, batch: int
) -> None:
    recipe = with_network(with_sampling(frames_net.recipe, clip_stride=stride, tail=tail), temporal=temporal)
    ten = replace(recipe, transform=replace(recipe.transform, crops="ten", crop_order="roc"))
    engine = make_engine(frames_net, ten, device="cpu", batch=batch)
    sizes: list[int] = []
    original = engine.run
    engine.run = lambda inputs, crops=None: (sizes.append(len(inputs)), original(inputs, crops))[1]  # type: ignore[method-assign]
    values = np.concatenate(list(VideoExtraction(Frames(), ten, engine)))
    assert sum(sizes) == 10 * num_frames
    for clip, start in enumerate(range(0, stride * len(values), stride)):
        numbers = [i if i < 11 else (10 if tail == "repeat_last" else i % 11) for i in range(start, start + 4)]
        chosen = numbers if temporal == "mean" else [numbers[2]]
        for crop in (0, 3, 9):
            expected = np.mean([row_of(frames_net, ten, IMAGES[i], crop) for i in chosen], axis=0)
            np.testing.assert_allclose(values[clip, crop], expected, rtol=1e-5, atol=1e-7)


def row_of(backbone: Backbone, recipe: Recipe, image: NDArray[np.uint8], crop: int) -> NDArray[np.float32]:
    single = with_network(with_sampling(recipe, clip_length=1, clip_stride=1, tail="drop"), temporal="first")
    values, _ = extract(backbone, single, Frames(image[None]), batch=1)
    return values[0, crop]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("rule", "chosen"), [("first", [0, 4, 8]), ("middle", [2, 6, 10])])
def test_one_frame_of_a_clip_stands_for_it(frames_net: Backbone, rule: str, chosen: list[int]) -> None:
    recipe = with_network(with_sampling(frames_net.recipe, tail="repeat_last"), temporal=rule)
    values, table = extract(frames_net, recipe, Frames())
    np.testing.assert_allclose(values[:, 0], per_frame(frames_net)[chosen], rtol=1e-5, atol=1e-7)
    assert table.frames.tolist() == [[0, 4], [4, 8], [8, 11]]


def test_crops_are_averaged_where_the_recipe_says_so(frames_net: Backbone) -> None:
    ten = replace(frames_net.recipe, transform=replace(frames_net.recipe.transform, crops="ten", crop_order="tsn"))
    mean = replace(ten, transform=replace(ten.transform, crop_mean=True))
    values, _ = extract(frames_net, ten, Frames())
    averaged, _ = extract(frames_net, mean, Frames())
    assert values.shape == (3, 10, 6)
    np.testing.assert_allclose(averaged, values.mean(axis=1, keepdims=True), rtol=1e-6)
    assert len(np.unique(values[0], axis=0)) == 10


def test_resampled_clips_cover_source_frames(tiny: Backbone) -> None:
    # 11 frames at 25 a second are 0.44 s: at 12.5 a second the frames 0, 2, 4, 6, 8, 10.
    recipe = with_sampling(tiny.recipe, fps=12.5)
    values, table = extract(tiny, recipe, Frames())
    assert table.frames.tolist() == [[0, 7], [8, 11]]
    assert table.num_padded_frames == 2
    every_second, _ = extract(tiny, tiny.recipe, Frames(IMAGES[::2]))
    np.testing.assert_array_equal(values, every_second)


def test_resampling_upward_repeats_frames(tiny: Backbone) -> None:
    values, table = extract(tiny, with_sampling(tiny.recipe, fps=50.0, tail="drop"), Frames())
    assert table.frames.tolist()[0] == [0, 2]
    doubled, _ = extract(tiny, with_sampling(tiny.recipe, tail="drop"), Frames(np.repeat(IMAGES, 2, axis=0)))
    assert len(values) == len(doubled) == 5
    # The tick between two frames takes the earlier.
    np.testing.assert_array_equal(values, doubled)


def test_flow_is_between_resized_neighbours_and_aligned_with_pixels(flow_net: Backbone, tiny: Backbone) -> None:
    recipe = flow_net.recipe
    timeline = Timeline()
    estimator = make_engine(flow_net, recipe, device="cpu", batch=1).estimate_flow
    stream = InputStream(recipe, estimator, timeline, fps=25.0)
    clips = []
    for block in Frames():
        timeline.add(block)
        clips += list(stream.push(block))
    clip = clips[0].pixels
    assert clip.shape == (1, 1, 2, 4, 24, 24)
    grey = []
    for image in IMAGES[:5]:
        resized = np.asarray(Image.fromarray(image).resize((42, 32), Image.Resampling.BILINEAR))
        grey.append(cv2.cvtColor(resized, cv2.COLOR_RGB2GRAY))
    for position in range(4):
        flow = cv2.calcOpticalFlowFarneback(
            grey[position],
            grey[position + 1],
            None,
            0.5,
            3,
            15,
            3,
            5,
            1.2,
            0,  # type: ignore[call-overload]
        )
        expected = 127.5 + np.clip(flow, -20, 20) * (127.5 / 20)
        got = clip[0, 0, :, position].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(got, expected[4:28, 9:33], atol=1e-3)
    flows, flow_table = extract(flow_net, recipe, Frames())
    _, table = extract(tiny, tiny.recipe, Frames())
    assert flow_table.frames.tolist() == table.frames.tolist()
    assert flows.shape == (3, 1, 5)


def test_sets_of_one_decode_lie_side_by_side(tmp_path: Any, flow_net: Backbone, tiny: Backbone) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=18)
    rgb, flow = extract_video(path, tiny), extract_video(path, flow_net)
    both = concatenate([rgb, flow])
    assert both.values.shape == (5, 1, 13)
    np.testing.assert_array_equal(both.values[..., :8], rgb.values)
    np.testing.assert_array_equal(both.values[..., 8:], flow.values)
    shifted = extract_video(path, tiny, recipe=with_sampling(tiny.recipe, clip_stride=2))
    with pytest.raises(ValueError, match="one clip length, stride and tail"):
        concatenate([shifted, flow])
    other = extract_video(make_video(tmp_path / "b.mp4", num_frames=18, width=80), flow_net)
    with pytest.raises(ValueError, match="different videos: 18 frames of 64x48 and 18 of 80x48"):
        concatenate([rgb, other])


def test_several_recipes_decode_once_and_equal_each_alone(
    tiny: Backbone, frames_net: Backbone, flow_net: Backbone
) -> None:
    source = Frames()
    recipes = [(b.recipe, make_engine(b, b.recipe, device="cpu", batch=3)) for b in (tiny, frames_net, flow_net)]
    shared = SharedExtraction(source, recipes)
    blocks: dict[int, list[Any]] = {}
    for number, block in shared:
        blocks.setdefault(number, []).append(block)
    assert source.num_reads == 1
    for number, backbone in enumerate((tiny, frames_net, flow_net)):
        alone, table = extract(backbone, backbone.recipe, Frames())
        np.testing.assert_array_equal(np.concatenate(blocks[number]), alone)
        assert shared.table(number).frames.tolist() == table.frames.tolist()


RESUMED: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{tail}, stride {stride}": ("tiny", {"tail": tail, "clip_stride": stride})
        for tail in TAIL_POLICIES
        if tail != "partial_mean"
        for stride in (2, 4, 6)
    },
    "every second frame": ("tiny", {"frame_step": 2, "clip_stride": 3}),
    "half as many frames": ("tiny", {"fps": 12.5, "clip_stride": 2}),
    "twice as many frames": ("tiny", {"fps": 50.0, "tail": "wrap"}),
    "means of frames": ("tiny-frames", {"clip_stride": 2}),
    "flow": ("tiny-flow", {"clip_stride": 2}),
    "flow that wraps": ("tiny-flow", {"clip_stride": 2, "tail": "wrap"}),
    "flow, plus_one": ("tiny-flow", {"clip_stride": 4, "tail": "plus_one"}),
    "flow of chosen frames": ("tiny-flow", {"fps": 12.5, "clip_stride": 2}),
}


@pytest.mark.parametrize("num_frames", [8, 11])
@pytest.mark.parametrize("case", RESUMED)
def test_clips_that_are_known_are_described_and_change_no_other(case: str, num_frames: int) -> None:
    name, changes = RESUMED[case]
    backbone = load_backbone(name, "random:3")
    recipe = with_sampling(backbone.recipe, **changes)
    source = Frames(IMAGES[:num_frames], damaged=frozenset({2, 7}))
    whole, table = extract(backbone, recipe, source)
    batches = Batches(make_engine(backbone, recipe, device="cpu", batch=3))
    for num_known in range(len(whole) + 1):
        part = VideoPass(source, [(recipe, batches)])
        part.skip(0, num_known)
        while not part.ended:
            part.advance()
        batches.flush()
        got = [block for _, block in part.ready()]
        np.testing.assert_array_equal(np.concatenate([whole[:0], *got]), whole[num_known:])
        for field in ("frames", "seconds", "damaged"):
            np.testing.assert_array_equal(getattr(part.table(0), field), getattr(table, field))
        assert part.table(0).num_padded_frames == table.num_padded_frames


def test_frames_of_known_clips_are_not_resized(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.extract import clip_stream

    num_resized: list[int] = []
    original = clip_stream.resize
    monkeypatch.setattr(
        clip_stream,
        "resize",
        lambda images, size, **o: (num_resized.append(len(images)), original(images, size, **o))[1],
    )
    # Of 11 frames in blocks of 4, from the one two before the third clip; with that block, or each by itself.
    for fps, expected in ((None, 7), (25.0, 5)):
        num_resized.clear()
        recipe = with_sampling(tiny.recipe, fps=fps)
        part = VideoPass(Frames(), [(recipe, Batches(make_engine(tiny, recipe, device="cpu", batch=2)))])
        part.skip(0, 2)
        while not part.ended:
            part.advance()
        assert sum(num_resized) == expected


def test_frames_before_a_known_clip_still_go_through_an_encoder_that_remembers_them(tiny: Backbone) -> None:
    recipe = replace(tiny.recipe, transform=replace(tiny.recipe.transform, jpeg="ffmpeg"))
    whole, _ = extract(tiny, recipe, Frames())
    batches = Batches(make_engine(tiny, recipe, device="cpu", batch=3))
    part = VideoPass(Frames(), [(recipe, batches)])
    part.skip(0, 2)
    while not part.ended:
        part.advance()
    batches.flush()
    ((_, got),) = part.ready()
    np.testing.assert_array_equal(got, whole[2:])


def test_one_recipe_that_fails_leaves_the_others(tiny: Backbone) -> None:
    short = with_sampling(tiny.recipe, clip_length=100, clip_stride=100, tail="drop")
    broken = load_backbone("tiny", "random:3")
    broken.network.conv.weight.fill_(float("nan"))  # type: ignore[union-attr,operator]
    parts = [(tiny.recipe, tiny), (short, tiny), (tiny.recipe, broken)]
    shared = SharedExtraction(Frames(), [(r, make_engine(b, r, device="cpu", batch=2)) for r, b in parts])
    values = np.concatenate([block for number, block in shared if number == 0])
    np.testing.assert_array_equal(values, extract(tiny, tiny.recipe, Frames(), batch=2)[0])
    with pytest.raises(VideoError, match="11 frames give no clip of 100"):
        shared.table(1)
    with pytest.raises(FeatureError):
        shared.table(2)


def test_a_consumer_can_end_one_recipe(tiny: Backbone) -> None:
    shared = SharedExtraction(Frames(), [(tiny.recipe, make_engine(tiny, tiny.recipe, device="cpu", batch=1))] * 2)
    seen = [0, 0]
    for number, _ in shared:
        seen[number] += 1
        if number == 1:
            shared.fail(1, FeatureError("FEATURE_NONFINITE", "a", "too large for float16"))
    assert seen == [3, 1]


def test_frames_of_the_same_size_are_resized_once(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.extract import clip_stream

    sizes: list[Any] = []
    original = clip_stream.resize
    monkeypatch.setattr(
        clip_stream, "resize", lambda images, size, **o: (sizes.append(size), original(images, size, **o))[1]
    )
    recipes = [(tiny.recipe, make_engine(tiny, tiny.recipe, device="cpu", batch=2))] * 3
    assert len(list(SharedExtraction(Frames(), recipes))) > 3
    assert len(sizes) == 3  # the blocks of four frames


@pytest.mark.parametrize(
    ("net", "change", "damaged", "expected"),
    [
        # The last flow of the first clip leads to frame 4.
        ("tiny-flow", {}, {4}, [True, True, False]),
        ("tiny-flow", {}, {3}, [True, False, False]),
        ("tiny-flow", {}, {10}, [False, False, True]),
        # Frames 8, 9, 10 and the video's first again.
        ("tiny", {"tail": "wrap"}, {0}, [True, False, True]),
        ("tiny", {"tail": "loop"}, {0}, [True, False, False]),
        ("tiny", {"tail": "loop"}, {8}, [False, False, True]),
        # Frames 0, 2, 4, 6: the ones between are not looked at.
        ("tiny", {"frame_step": 2, "clip_stride": 8}, {1}, [False, False]),
        ("tiny", {"frame_step": 2, "clip_stride": 8}, {6}, [True, False]),
        ("tiny", {"fps": 12.5}, {1, 3}, [False, False]),
        ("tiny", {"fps": 12.5}, {2}, [True, False]),
    ],
)
def test_a_clip_is_damaged_if_a_damaged_frame_went_into_it(
    net: str, change: dict[str, Any], damaged: set[int], expected: list[bool]
) -> None:
    backbone = load_backbone(net, "random:3")
    _, table = extract(backbone, with_sampling(backbone.recipe, **change), Frames(damaged=frozenset(damaged)))
    assert table.damaged.tolist() == expected


def test_one_frame_that_stands_for_a_clip_is_the_one_whose_damage_counts(frames_net: Backbone) -> None:
    recipe = with_network(with_sampling(frames_net.recipe, tail="repeat_last"), temporal="first")
    _, table = extract(frames_net, recipe, Frames(damaged=frozenset({0, 5})))
    assert table.damaged.tolist() == [True, False, False]


def test_flow_wants_an_estimator(flow_net: Backbone) -> None:
    with pytest.raises(UsageError, match="estimates"):
        InputStream(flow_net.recipe, None, Timeline(), fps=25.0)


LOSSLESS = {"qp": "0", "preset": "medium", "sc_threshold": "0"}


@pytest.mark.parametrize("backbone", ["tiny", "tiny-frames", "tiny-flow"])
def test_containers_and_b_frames_do_not_change_a_bit(tmp_path: Any, backbone: str) -> None:
    network = load_backbone(backbone, "random:5")
    results = []
    for extension in ("mp4", "mkv", "ts"):
        for b_frames in ("0", "3"):
            path = make_video(
                tmp_path / f"b{b_frames}.{extension}",
                num_frames=23,
                pixel_format="yuv444p",
                codec_options={**LOSSLESS, "bf": b_frames},
            )
            with VideoReader(path) as reader:
                pts = np.concatenate([block.pts_seconds for block in reader])
            results.append((f"{extension} bf={b_frames}", extract_video(path, network), pts - pts[0]))
    _, first, first_pts = results[0]
    assert len(first) == 6
    for name, got, pts in results:
        np.testing.assert_array_equal(got.values, first.values, err_msg=name)
        np.testing.assert_array_equal(got.frames, first.frames, err_msg=name)
        # Each container counts time in its own unit: mkv in milliseconds, which a frame of 40 ms fits exactly.
        np.testing.assert_allclose(pts, first_pts, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(got.seconds - got.seconds[0, 0], first.seconds - first.seconds[0, 0], atol=1e-9)


@pytest.mark.parametrize("name", ["tiny", "tiny-frames", "tiny-flow"])
def test_the_shape_that_a_batch_is_probed_with_is_that_of_its_inputs(name: str) -> None:
    backbone = load_backbone(name, "random:1")
    engine = make_engine(backbone, backbone.recipe, device="cpu", batch=2)
    inputs = first_inputs(Frames(), backbone.recipe, engine.estimate_flow)
    assert inputs is not None
    assert inputs.shape[2:] == input_shape(backbone.recipe)
