from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from support import make_video
from vadx.errors import UsageError, VideoError
from vadx.extract import extract_video, load_backbone
from vadx.extract.engine import Engine, pick_device
from vadx.extract.library import Backbone
from vadx.features.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return load_backbone("tiny", "random:3")


def clips(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 4, 24, 24), dtype=torch.uint8, generator=generator)


def engine(backbone: Backbone, batch: int, precision: str = "fp32") -> Engine:
    copy = load_backbone(backbone.name, backbone.network.state_dict())
    return Engine(copy.network, backbone.recipe.transform, device=CPU, precision=precision, batch=batch)


def test_a_value_does_not_depend_on_its_batch_fellows(tiny: Backbone) -> None:
    runner, inputs = engine(tiny, 4), clips(4)
    together = runner.run(inputs)
    shuffled = runner.run(inputs[[2, 0, 3, 1]])
    alone = np.concatenate([runner.run(clip[None]) for clip in inputs])
    np.testing.assert_array_equal(shuffled, together[[2, 0, 3, 1]])
    np.testing.assert_array_equal(alone, together)


def test_other_batch_shapes_agree_closely(tiny: Backbone) -> None:
    inputs = clips(6)
    one = np.concatenate([engine(tiny, 1).run(clip[None]) for clip in inputs])
    three = np.concatenate([engine(tiny, 3).run(inputs[:3]), engine(tiny, 3).run(inputs[3:])])
    assert np.linalg.norm(one - three) <= 1e-6 * np.linalg.norm(three)


def test_i3d_rows_are_independent_of_the_batch() -> None:
    backbone = load_backbone("i3d", "random:0")
    runner = Engine(backbone.network, backbone.recipe.transform, device=CPU, precision="fp32", batch=2)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 256, (2, 3, 9, 224, 224), dtype=torch.uint8, generator=generator)
    together = runner.run(inputs)
    np.testing.assert_array_equal(runner.run(inputs.flip(0)), together[::-1])
    np.testing.assert_array_equal(runner.run(inputs[:1]), together[:1])


def test_bf16_runs_on_the_cpu_and_stays_near(tiny: Backbone) -> None:
    inputs = clips(4)
    exact, rough = engine(tiny, 4).run(inputs), engine(tiny, 4, "bf16").run(inputs)
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    # 8 bits of mantissa; one layer.
    assert 0 < error <= 2e-2


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_precisions_of_gpus_are_refused_on_the_cpu(tiny: Backbone, precision: str) -> None:
    with pytest.raises(UsageError, match="needs a GPU"):
        engine(tiny, 4, precision)


def test_tf32_settings_are_restored(tiny: Backbone) -> None:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cudnn.allow_tf32 = True
    try:
        engine(tiny, 2).run(clips(1))
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", ["cuda:99", "abacus", "meta"])
def test_devices_that_are_not_there_are_named(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        pick_device(name)


def vfr_recipe(backbone: Backbone, tail: str) -> Recipe:
    recipe = backbone.recipe
    return replace(recipe, sampling=replace(recipe.sampling, tail=tail))  # type: ignore[arg-type]


def test_the_clip_table_of_a_variable_rate_video_by_hand(tiny: Backbone, tmp_path: Path) -> None:
    pts = [0, 40, 80, 200, 240, 300, 333, 1000, 1040, 1100]
    path = make_video(tmp_path / "vfr.mkv", num_frames=10, pts=pts, time_base=Fraction(1, 1000))
    features = extract_video(path, tiny, recipe=vfr_recipe(tiny, "repeat_last"), batch=2)
    assert features.frames.tolist() == [[0, 4], [4, 8], [8, 10]]
    # The last frame lasts as long as the gap before it: 1.100 + 0.060.
    np.testing.assert_allclose(features.seconds, [[0.0, 0.24], [0.24, 1.04], [1.04, 1.16]], atol=1e-9)
    assert features.num_padded_frames == 2
    assert features.damaged.tolist() == [False, False, False]
    dropped = extract_video(path, tiny, recipe=vfr_recipe(tiny, "drop"), batch=2)
    assert dropped.frames.tolist() == [[0, 4], [4, 8]]
    np.testing.assert_array_equal(dropped.values, features.values[:2])


def test_ten_crops_come_in_order_and_equal_single_ones(tiny: Backbone, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=8, width=64, height=48)
    recipe = tiny.recipe
    ten = replace(recipe, transform=replace(recipe.transform, crops="ten", crop_order="roc"))
    five = replace(recipe, transform=replace(recipe.transform, crops="five", crop_order="roc"))
    values = extract_video(path, tiny, recipe=ten, batch=4).values
    assert values.shape == (2, 10, 8)
    np.testing.assert_array_equal(values[:, :5], extract_video(path, tiny, recipe=five, batch=4).values)
    np.testing.assert_array_equal(values[:, :1], extract_video(path, tiny, batch=4).values)
    assert len({row.tobytes() for row in values[0]}) == 10


def test_a_video_without_a_whole_clip_is_too_short_under_drop(tiny: Backbone, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=3)
    with pytest.raises(VideoError) as caught:
        extract_video(path, tiny, recipe=vfr_recipe(tiny, "drop"))
    assert caught.value.code == "VIDEO_TOO_SHORT"
    assert str(path) in str(caught.value)
