from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest

from vadx.errors import RecipeError
from vadx.features.recipe import CropOrder, CropSet, Flow, Network

from .samples import make_recipe

RECIPE = make_recipe()
FLOW = Flow(method="raft", weights="0" * 64)


@pytest.mark.parametrize("crops", ["five", "ten"])
@pytest.mark.parametrize("order", get_args(CropOrder))
def test_several_crops_have_an_order(crops: CropSet, order: CropOrder) -> None:
    transform = replace(RECIPE.transform, crops=crops, crop_order=order)
    assert (transform.crops, transform.crop_order) == (crops, order)


@pytest.mark.parametrize("crops", ["five", "ten"])
def test_several_crops_without_an_order_are_refused(crops: CropSet) -> None:
    with pytest.raises(RecipeError, match=f"crop_order.*None.*{crops}"):
        replace(RECIPE.transform, crops=crops)


@pytest.mark.parametrize("order", get_args(CropOrder))
def test_one_crop_with_an_order_is_refused(order: CropOrder) -> None:
    with pytest.raises(RecipeError, match=f"crop_order.*{order}.*center"):
        replace(RECIPE.transform, crop_order=order)


@pytest.mark.parametrize("name", ["clip_length", "clip_stride", "frame_step"])
@pytest.mark.parametrize("value", [0, -1])
def test_lengths_and_strides_are_positive(name: str, value: int) -> None:
    with pytest.raises(RecipeError, match=f"sampling.{name} must be at least 1, got {value}"):
        replace(RECIPE.sampling, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"resize": 223}, "transform.crop 224"),
        ({"resize": (300, 223)}, "transform.crop 224"),
        ({"crop": 0}, "transform.crop 0"),
        ({"std": (1.0, 0.0, 1.0)}, "transform.std"),
        ({"std": (1.0, -1.0, 1.0)}, "transform.std"),
        ({"std": (1.0, math.nan, 1.0)}, "transform.std"),
        ({"mean": (0.0, math.inf, 0.0)}, "transform.mean"),
        ({"scale": math.nan}, "transform.scale"),
        ({"offset": -math.inf}, "transform.offset"),
        ({"pre_resize": (0, 320)}, "transform.pre_resize must be at least 1 x 1"),
        ({"pre_resize": (240, -1)}, "transform.pre_resize must be at least 1 x 1"),
        ({"jpeg": 0}, "transform.jpeg is a quality from 1 to 100, or ffmpeg; got 0"),
        ({"jpeg": 101}, "transform.jpeg is a quality from 1 to 100, or ffmpeg; got 101"),
        ({"crop_mean": True}, "transform.crop_mean averages several crops"),
        *(
            ({"kernel": kernel, "interpolation": interpolation}, f"transform.kernel {kernel} is bilinear")
            for kernel in ("cv2", "torch", "torch_float")
            for interpolation in ("bicubic", "lanczos")
        ),
    ],
)
def test_a_transform_that_cannot_be_meant_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        replace(RECIPE.transform, **change)


@pytest.mark.parametrize("fps", [0, -25.0, math.nan, math.inf, 1000.1, 10**400])
def test_a_frame_rate_that_cannot_be_meant_is_refused(fps: float) -> None:
    with pytest.raises(RecipeError, match=r"sampling\.fps must be positive and at most 1000"):
        replace(RECIPE.sampling, fps=fps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bound": 0}, r"flow\.bound must be positive and flow\.stack at least 1, got 0 and 1"),
        ({"bound": -20.0}, r"flow\.bound must be positive"),
        ({"bound": math.nan}, r"flow\.bound must be positive"),
        ({"bound": math.inf}, r"flow\.bound must be positive"),
        ({"stack": 0}, r"flow\.stack at least 1, got 20\.0 and 0"),
        ({"method": "tvl1"}, r"flow\.weights are those of raft, got '0+' for tvl1"),
        ({"method": "farneback"}, r"flow\.weights are those of raft, got '0+' for farneback"),
    ],
)
def test_a_flow_that_cannot_be_meant_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(FLOW, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"channel_order": "bgr"},
        {"mean": (0.0, 0.0, 0.1)},
        {"std": (1.0, 1.0, 2.0)},
        {"mean_cube": "0" * 64},
        {"jpeg": "ffmpeg"},
        {"jpeg": 95},
    ],
)
def test_flow_has_no_colours(change: dict[str, Any]) -> None:
    transform = replace(RECIPE.transform, **change)
    with pytest.raises(RecipeError, match="a flow recipe has no colour channels"):
        replace(RECIPE, transform=transform, flow=FLOW)
    assert replace(RECIPE, transform=transform).flow is None


@pytest.mark.parametrize("resize", [120, (120, 300), (300, 120)])
def test_raft_needs_pictures_that_its_pyramid_can_halve(resize: Any) -> None:
    transform = replace(RECIPE.transform, resize=resize, crop=100)
    with pytest.raises(RecipeError, match="raft needs sides of 121 pixels or more"):
        replace(RECIPE, transform=transform, flow=FLOW)
    replace(RECIPE, transform=transform, flow=Flow(method="tvl1"))
    replace(RECIPE, transform=replace(transform, resize=121), flow=FLOW)


@pytest.mark.parametrize("temporal", ["clip", "first", "middle"])
def test_a_mean_over_the_frames_there_are_needs_a_mean(temporal: Any) -> None:
    sampling = replace(RECIPE.sampling, tail="partial_mean")
    with pytest.raises(RecipeError, match=r"partial_mean.*needs network\.temporal mean"):
        replace(RECIPE, sampling=sampling, network=replace(RECIPE.network, temporal=temporal))
    replace(RECIPE, sampling=sampling, network=replace(RECIPE.network, temporal="mean"))


@pytest.mark.parametrize(("stack", "channels"), [(1, 2), (5, 10)])
def test_each_flow_has_two_channels(stack: int, channels: int) -> None:
    assert replace(FLOW, stack=stack).channels == channels


def test_a_switch_that_is_no_number_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"network\.switches.*rate"):
        Network(name="i3d", layer="x", switches={"rate": math.nan})
