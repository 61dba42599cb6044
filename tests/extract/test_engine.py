from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from support import make_video, picture
from vadx.errors import FeatureError, ResourceError, UsageError, VideoError
from vadx.extract import engine as engine_module
from vadx.extract.engine import PRECISIONS, Engine, pick_device, usable_cores
from vadx.extract.extractor import VideoExtraction
from vadx.extract.library import Backbone, extract_video, load_backbone
from vadx.extract.transforms import crop_frames, resize
from vadx.extract.video import FrameBlock, VideoReader
from vadx.features.recipe import Recipe, Transform
from vadx.features.timeline import VideoFacts

CPU = torch.device("cpu")


def relative_l2(got: Any, expected: Any) -> float:
    difference = np.linalg.norm(np.asarray(got, np.float64) - np.asarray(expected, np.float64))
    return float(difference / np.linalg.norm(np.asarray(expected, np.float64)))


@pytest.fixture(scope="module")
def r2plus1d() -> Backbone:
    return load_backbone("r2plus1d", "random:3")


@pytest.fixture
def tiny() -> Backbone:
    return load_backbone("tiny", "random:3")


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """Give six clips, uint8 ``(6, 3, 8, 56, 56)``."""
    return torch.randint(0, 256, (6, 3, 8, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def engine_of(backbone: Backbone, **changes: Any) -> Engine:
    options = {"device": CPU, "precision": "fp32", "batch": 4, "engine": "torch-eager", **changes}
    return Engine(backbone.network, backbone.recipe.transform, **options)


def test_a_value_depends_on_neither_its_place_nor_its_neighbours(r2plus1d: Backbone, clips: Tensor) -> None:
    engine = engine_of(r2plus1d)
    together = engine.run(clips[:4])
    assert together.dtype == np.float32
    assert together.shape == (4, 512)
    np.testing.assert_array_equal(engine.run(clips[:4]), together)
    np.testing.assert_array_equal(engine.run(clips[[3, 1, 0, 2]]), together[[3, 1, 0, 2]])
    np.testing.assert_array_equal(engine.run(clips[[4, 2, 5, 4]])[1], together[2])
    assert len(np.unique(together, axis=0)) == 4


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_short_batch_is_filled_up(r2plus1d: Backbone, clips: Tensor, number: int) -> None:
    engine = engine_of(r2plus1d)
    short = engine.run(clips[:number])
    assert short.shape == (number, 512)
    np.testing.assert_array_equal(short, engine.run(clips[:4])[:number])


def test_the_batch_shape_changes_the_last_bits_only(r2plus1d: Backbone, clips: Tensor) -> None:
    singly = np.concatenate([engine_of(r2plus1d, batch=1).run(clips[i : i + 1]) for i in range(4)])
    # 2.2e-7 was measured: other shapes take other kernels, which sum in another order.
    assert relative_l2(engine_of(r2plus1d).run(clips[:4]), singly) <= 1e-6


def test_bf16_runs_on_the_cpu_and_stays_near(r2plus1d: Backbone, clips: Tensor) -> None:
    exact = engine_of(r2plus1d).run(clips[:4])
    rough = engine_of(r2plus1d, precision="bf16").run(clips[:4])
    assert rough.dtype == np.float32
    # Eight bits of mantissa; 3.4e-3 was measured on a network of the same family.
    assert 1e-5 < relative_l2(rough, exact) <= 2e-2


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_precision_that_cpus_lack_is_refused(tiny: Backbone, precision: str) -> None:
    with pytest.raises(UsageError, match=f"--precision {precision} needs a GPU; on the CPU use fp32 or bf16"):
        engine_of(tiny, precision=precision)


def test_an_empty_batch_is_refused(tiny: Backbone) -> None:
    with pytest.raises(UsageError, match="--batch must be at least 1, got 0"):
        engine_of(tiny, batch=0)


def test_another_precision_leaves_the_callers_network_alone(tmp_path: Path, tiny: Backbone) -> None:
    path = make_video(tmp_path / "a.mp4")
    before = extract_video(path, tiny).values
    extract_video(path, tiny, recipe=replace(tiny.recipe, precision="bf16"))
    assert {parameter.dtype for parameter in tiny.network.parameters()} == {torch.float32}
    np.testing.assert_array_equal(extract_video(path, tiny).values, before)


class Hungry(nn.Module):
    """Has memory for so many inputs."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        super().__init__()
        self.most = most
        self.error = error or RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        self.ran: list[int] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.ran.append(len(clips))
        if len(clips) > self.most:
            raise self.error
        return clips.mean((2, 3, 4))


SHAPE = (3, 4, 8, 8)


def hungry_engine(tiny: Backbone, network: nn.Module, batch: int) -> Engine:
    return Engine(network, tiny.recipe.transform, device=CPU, precision="fp32", batch=batch, engine="torch-eager")


@pytest.mark.parametrize(("most", "ran"), [(9, [8]), (7, [8, 4]), (1, [8, 4, 2, 1])])
def test_the_batch_is_halved_until_it_fits(
    tiny: Backbone, most: int, ran: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    network = Hungry(most)
    engine = hungry_engine(tiny, network, 8)
    with caplog.at_level("WARNING"):
        assert engine.probe(SHAPE) == engine.batch == engine.provenance["batch"] == ran[-1]
    assert network.ran == ran
    assert caplog.messages == (
        [] if len(ran) == 1 else [f"cpu has too little memory for a batch of 8: it is {ran[-1]} for this run"]
    )


def test_a_batch_that_was_asked_for_is_not_changed(tiny: Backbone) -> None:
    engine = hungry_engine(tiny, Hungry(3), 7)
    with pytest.raises(ResourceError, match="cpu has too little memory for a batch of 7; use --batch 2") as caught:
        engine.probe(SHAPE, fixed=True)
    assert (caught.value.exit_code, engine.batch) == (6, 7)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("std::bad_alloc")]
)
def test_too_little_memory_says_what_to_do(tiny: Backbone, error: Exception) -> None:
    clips = torch.zeros((4, *SHAPE), dtype=torch.uint8)
    with pytest.raises(ResourceError, match="for a batch of 4; use --batch 2") as caught:
        hungry_engine(tiny, Hungry(0, error), 4).run(clips)
    assert caught.value.__cause__ is error
    with pytest.raises(ResourceError, match="for a batch of 1; free memory there, or use another --device"):
        hungry_engine(tiny, Hungry(0, error), 4).probe(SHAPE)


def test_another_error_stays_what_it_is(tiny: Backbone) -> None:
    with pytest.raises(RuntimeError, match="a bug") as caught:
        hungry_engine(tiny, Hungry(0, RuntimeError("a bug")), 4).probe(SHAPE)
    assert not isinstance(caught.value, ResourceError)


def test_another_thread_of_the_program_gives_the_same(tiny: Backbone) -> None:
    clips = torch.randint(0, 256, (4, 3, 4, 24, 24), dtype=torch.uint8)
    engine = engine_of(tiny)
    expected = engine.run(clips)
    with ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(engine.run, clips).result(), expected)
        np.testing.assert_array_equal(pool.submit(engine_of(tiny).run, clips).result(), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("norm", [nn.BatchNorm3d, nn.InstanceNorm3d])
def test_the_callers_network_is_left_alone(precision: str, norm: type[nn.Module]) -> None:
    network = nn.Sequential(nn.Conv3d(3, 4, 3, bias=False), norm(4), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    network.eval()
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in network.state_dict().items()}
    transform = load_backbone("tiny", "random:3").recipe.transform
    options: dict[str, Any] = {"device": CPU, "precision": precision, "batch": 1, "engine": "torch-eager"}
    Engine(network, transform, **options).run(torch.zeros((1, *SHAPE), dtype=torch.uint8))
    assert [type(module) for module in network] == [nn.Conv3d, norm, nn.AdaptiveAvgPool3d, nn.Flatten]
    for name, tensor in network.state_dict().items():
        assert (tensor.dtype, tensor.stride()) == (before[name][0].dtype, before[name][1])
        assert torch.equal(tensor, before[name][0])


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("", 8)]
)
def test_cores_are_those_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int
) -> None:
    monkeypatch.setattr(engine_module.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path / "cpu.max") == cores
    assert usable_cores(tmp_path / "none") == 8


MATMUL, CONVOLUTION = torch.backends.cuda.matmul, torch.backends.cudnn.conv


def tf32_settings() -> tuple[str, str]:
    return MATMUL.fp32_precision, CONVOLUTION.fp32_precision


@pytest.fixture
def _tf32_settings() -> Iterator[None]:
    older = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    newer = tf32_settings()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = older
    MATMUL.fp32_precision, CONVOLUTION.fp32_precision = newer


class Spy(nn.Module):
    """Notes what a network would meet while it runs."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []
        self.error = error

    def forward(self, clips: Tensor) -> Tensor:
        self.seen.append(tf32_settings())
        assert torch.is_inference_mode_enabled()
        if self.error:
            raise self.error
        return clips.mean((2, 3, 4))


def allow_by_the_older_names() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def allow_by_the_newer_names() -> None:
    MATMUL.fp32_precision = CONVOLUTION.fp32_precision = "tf32"


def forbid() -> None:
    MATMUL.fp32_precision = CONVOLUTION.fp32_precision = "ieee"


@pytest.mark.usefixtures("_tf32_settings")
@pytest.mark.parametrize("choose", [allow_by_the_older_names, allow_by_the_newer_names, forbid])
@pytest.mark.parametrize("error", [None, RuntimeError("the network failed")])
def test_tf32_is_off_while_a_network_runs_and_as_it_was_afterwards(
    tiny: Backbone, choose: Any, error: Exception | None
) -> None:
    choose()
    before = tf32_settings()
    spy = Spy(error)
    engine = Engine(spy, tiny.recipe.transform, device=CPU, precision="fp32", batch=1, engine="torch-eager")
    if error:
        with pytest.raises(RuntimeError, match="the network failed"):
            engine.run(torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8))
    else:
        engine.run(torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8))
    assert spy.seen == [("ieee", "ieee")]
    assert tf32_settings() == before


def test_every_precision_of_a_recipe_is_known() -> None:
    assert set(PRECISIONS) == {"fp32", "tf32", "bf16", "fp16"}
    assert [name for name, mode in PRECISIONS.items() if mode.tf32] == ["tf32"]


@pytest.mark.parametrize("name", ["tpu", "meta", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        pick_device(name)


def test_the_cpu_is_always_there() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in {"cpu", "cuda"}


VARIABLE = (0, 33, 66, 100, 633, 700, 733, 1200, 1233, 1300)


def test_the_table_of_clips_by_hand(tmp_path: Path, tiny: Backbone) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=10, pts=VARIABLE, time_base=Fraction(1, 1000))
    got = extract_video(path, tiny)
    assert got.values.shape == (3, 1, 8)
    assert got.values.dtype == np.float32
    assert got.frames.tolist() == [[0, 4], [4, 8], [8, 10]]
    # A clip ends where the next frame begins; the last lasts as long as the one before it did.
    assert got.seconds == pytest.approx(np.array([[0.0, 0.633], [0.633, 1.233], [1.233, 1.367]]), abs=1e-9)
    assert got.damaged.tolist() == [False, False, False]
    assert got.num_padded_frames == 2
    assert got.facts.num_frames_decoded == 10
    assert got.provenance == {"engine": "torch-eager", "device": "cpu", "batch": 2}


def test_overlapping_clips_by_hand(tmp_path: Path, tiny: Backbone) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=10, pts=VARIABLE, time_base=Fraction(1, 1000))
    sampling = replace(tiny.recipe.sampling, clip_stride=3, tail="drop")
    got = extract_video(path, tiny, recipe=replace(tiny.recipe, sampling=sampling))
    assert got.frames.tolist() == [[0, 4], [3, 7], [6, 10]]
    assert got.seconds == pytest.approx(np.array([[0.0, 0.633], [0.1, 1.2], [0.733, 1.367]]), abs=1e-9)
    assert got.num_padded_frames == 0


class Frames:
    """A `FrameSource` out of a list."""

    def __init__(self, images: np.ndarray[Any, np.dtype[np.uint8]], damaged: set[int], block: int = 3) -> None:
        self._images, self._damaged, self._block = images, damaged, block

    def __iter__(self) -> Iterator[FrameBlock]:
        for start in range(0, len(self._images), self._block):
            index = np.arange(start, min(start + self._block, len(self._images)))
            mask = np.array([i in self._damaged for i in index.tolist()])
            yield FrameBlock(start, index / 25, self._images[index], mask)

    def facts(self) -> VideoFacts:
        return VideoFacts(fps=25.0, num_frames_decoded=len(self._images), width=64, height=48)

    def close(self) -> None:
        pass


def extract(backbone: Backbone, source: Any, recipe: Recipe, **options: Any) -> tuple[Any, VideoExtraction]:
    extraction = VideoExtraction(source, recipe, engine_of(backbone, batch=2), **options)
    blocks = list(extraction)
    return (np.concatenate(blocks) if blocks else None), extraction


IMAGES = np.stack([picture(i, 64, 48) for i in range(11)])


@pytest.mark.parametrize(
    ("damaged", "stride", "expected"),
    [
        (set(), 4, [False, False, False]),
        ({0}, 4, [True, False, False]),
        ({5, 10}, 4, [False, True, True]),
        ({3}, 2, [True, True, False, False, False]),
    ],
)
def test_a_damaged_frame_marks_its_clips(tiny: Backbone, damaged: set[int], stride: int, expected: list[bool]) -> None:
    recipe = replace(tiny.recipe, sampling=replace(tiny.recipe.sampling, clip_stride=stride))
    values, extraction = extract(tiny, Frames(IMAGES, damaged), recipe)
    assert extraction.table().damaged.tolist() == expected
    assert len(values) == len(expected)


def test_a_frame_that_the_reader_calls_damaged_marks_its_clip(tmp_path: Path, tiny: Backbone) -> None:
    path = make_video(tmp_path / "a.avi", num_frames=300, codec="mjpeg", pixel_format="yuvj420p")
    data = bytearray(path.read_bytes())
    middle = data.index(b"00dc", len(data) // 2) + 8 + 400
    data[middle : middle + 188] = np.random.default_rng(0).bytes(188)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        mask = np.concatenate([block.damaged for block in reader])
    assert 0 < mask.sum() <= 3
    got = extract_video(path, tiny)
    assert got.damaged.tolist() == [bool(mask[start:stop].any()) for start, stop in got.frames.tolist()]
    assert got.facts.is_degraded


def ten_crops(recipe: Recipe, order: str) -> Recipe:
    return replace(recipe, transform=replace(recipe.transform, crops="ten", crop_order=order))


def by_hand(backbone: Backbone, transform: Transform, index: list[int], crop: int) -> Any:
    small = resize(torch.from_numpy(IMAGES).permute(0, 3, 1, 2), transform.resize, kernel=transform.kernel)
    clip = torch.stack([crop_frames(small[i], transform)[crop] for i in index], dim=1)
    return engine_of(backbone, batch=2).run(clip[None])[0]


@pytest.mark.parametrize("order", ["roc", "tv"])
def test_ten_crops_are_ten_rows_in_order(tiny: Backbone, order: str) -> None:
    recipe = ten_crops(tiny.recipe, order)
    values, _ = extract(tiny, Frames(IMAGES, set()), recipe)
    assert values.shape == (3, 10, 8)
    for clip, index in enumerate([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 10]]):
        for crop in range(10):
            np.testing.assert_array_equal(values[clip, crop], by_hand(tiny, recipe.transform, index, crop))
    assert len(np.unique(values.reshape(30, 8), axis=0)) == 30


@pytest.mark.parametrize("batch", [1, 3, 7, 32])
def test_batches_run_across_clips(tiny: Backbone, batch: int) -> None:
    recipe = ten_crops(tiny.recipe, "roc")
    expected, _ = extract(tiny, Frames(IMAGES, set()), recipe)
    blocks = list(VideoExtraction(Frames(IMAGES, set()), recipe, engine_of(tiny, batch=batch)))
    assert all(block.shape[1:] == (10, 8) for block in blocks)
    # Another batch shape may sum in another order.
    assert relative_l2(np.concatenate(blocks), expected) <= 1e-6


def test_the_zero_tail_is_black_before_normalisation(tiny: Backbone) -> None:
    transform = replace(tiny.recipe.transform, scale=2 / 255, offset=-1.0)
    recipe = replace(tiny.recipe, transform=transform, sampling=replace(tiny.recipe.sampling, tail="zero"))
    engine = Engine(tiny.network, transform, device=CPU, precision="fp32", batch=2, engine="torch-eager")
    values = np.concatenate(list(VideoExtraction(Frames(IMAGES, set()), recipe, engine)))
    black = np.concatenate([IMAGES[8:11], np.zeros_like(IMAGES[:1])])
    (expected,) = np.concatenate(list(VideoExtraction(Frames(black, set()), recipe, engine)))
    np.testing.assert_array_equal(values[2], expected)


def test_progress_is_told_in_frames(tiny: Backbone) -> None:
    told: list[int] = []
    extract(tiny, Frames(IMAGES, set()), tiny.recipe, on_frames=told.append)
    assert told == [3, 6, 9, 11]


def test_a_video_without_a_clip_is_too_short(tmp_path: Path, tiny: Backbone) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=3)
    recipe = replace(tiny.recipe, sampling=replace(tiny.recipe.sampling, tail="drop"))
    with pytest.raises(VideoError) as caught:
        extract_video(path, tiny, recipe=recipe)
    assert (caught.value.code, caught.value.path) == ("VIDEO_TOO_SHORT", str(path))
    assert "3 frames give no clip of 4 frames under the tail rule drop" in caught.value.evidence
    assert extract_video(path, tiny).values.shape == (1, 1, 8)


def test_values_that_are_not_finite_name_the_video(tmp_path: Path, tiny: Backbone) -> None:
    path = make_video(tmp_path / "a.mp4")
    with torch.no_grad():
        next(tiny.network.parameters()).fill_(float("nan"))
    with pytest.raises(FeatureError) as caught:
        extract_video(path, tiny)
    assert (caught.value.code, caught.value.path) == ("FEATURE_NONFINITE", str(path))


def test_a_bad_video_names_itself_and_a_part_can_be_accepted(tmp_path: Path, tiny: Backbone) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=60, codec="mpeg4", container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError) as caught:
        extract_video(path, tiny)
    assert (caught.value.code, caught.value.path) == ("VIDEO_TRUNCATED", str(path))
    got = extract_video(path, tiny, allow_partial=True)
    assert got.facts.partial
    assert got.frames[-1, 1] == got.facts.num_frames_decoded < 60


@pytest.mark.parametrize(("crops", "number"), [("center", 1), ("five", 5), ("ten", 10)])
def test_a_video_whose_size_changes_still_gives_features(
    tmp_path: Path, tiny: Backbone, crops: Any, number: int
) -> None:
    small = make_video(tmp_path / "small.ts", num_frames=10, codec="mpeg2video")
    large = make_video(tmp_path / "large.ts", num_frames=10, width=96, height=64, codec="mpeg2video")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    order: Any = None if crops == "center" else "tv"
    transform = replace(tiny.recipe.transform, crops=crops, crop_order=order)
    got = extract_video(joined, tiny, recipe=replace(tiny.recipe, transform=transform))
    # The third clip is of frames 8 to 11: two of each size.
    assert got.values.shape == (5, number, 8)
    assert got.facts.num_size_changes == 1
