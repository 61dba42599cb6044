from __future__ import annotations

from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as torchvisions

from vadx.errors import RecipeError
from vadx.extract.crops import CENTER_ROUNDING, CROP_ORDERS, center_crop, five_crop, ten_crop
from vadx.features.recipe import CropOrder, Transform

from .crop_places import PUBLISHED_FIVE, PUBLISHED_TEN, coordinates, places


def test_every_name_is_in_its_table() -> None:
    assert set(CROP_ORDERS) == set(PUBLISHED_TEN) == set(get_args(CropOrder))
    assert set(CENTER_ROUNDING) == set(get_args(get_type_hints(Transform)["center_rounding"]))


@pytest.mark.parametrize("order", PUBLISHED_TEN)
def test_crops_come_in_the_published_order(order: str) -> None:
    frame = coordinates(256, 340)
    assert places(ten_crop(frame, 224, order=order)) == PUBLISHED_TEN[order]
    assert places(five_crop(frame, 224, order=order)) == PUBLISHED_FIVE[order]


@pytest.mark.parametrize("order", CROP_ORDERS)
def test_five_are_the_unmirrored_of_ten(order: str) -> None:
    frame = coordinates(251, 343)
    upright = [place for place in places(ten_crop(frame, 224, order=order)) if not place[2]]
    assert places(five_crop(frame, 224, order=order)) == upright


@pytest.mark.parametrize(
    ("size", "bottom", "right", "center"),
    [
        # Margins 32 and 117, 27 and 119, 3 and 231: the quarters are floored, what is left over is never seen.
        ((256, 341), 32, 116, (16, 58)),
        ((251, 343), 24, 116, (12, 58)),
        ((227, 455), 0, 228, (0, 114)),
    ],
)
@pytest.mark.parametrize("rounding", CENTER_ROUNDING)
def test_tsn_counts_in_quarters_of_the_margin(
    size: tuple[int, int], bottom: int, right: int, center: tuple[int, int], rounding: str
) -> None:
    expected = [(0, 0), (0, right), (bottom, 0), (bottom, right), center]
    crops = five_crop(coordinates(*size), 224, order="tsn", rounding=rounding)
    assert places(crops) == [(top, left, False) for top, left in expected]


@pytest.mark.parametrize("size", [(256, 340), (256, 341), (255, 341), (257, 343), (224, 224), (227, 455)])
def test_tv_is_torchvisions(size: tuple[int, int]) -> None:
    source = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8))
    assert torch.equal(five_crop(source, 224, order="tv"), torch.stack(torchvisions.five_crop(source, [224])))
    assert torch.equal(ten_crop(source, 224, order="tv"), torch.stack(torchvisions.ten_crop(source, [224])))
    assert torch.equal(center_crop(source, 224), torchvisions.center_crop(source, [224]))


@pytest.mark.parametrize("rounding", CENTER_ROUNDING)
def test_the_centre_of_340_by_256(rounding: str) -> None:
    frame = coordinates(256, 340)
    assert torch.equal(center_crop(frame, 224, rounding=rounding), frame[:, 16:240, 58:282])


def test_the_centre_of_c3d() -> None:
    # C3D-v1.0, image_io.cpp: h_off 8, w_off 29.
    assert places(center_crop(coordinates(128, 171), 112, rounding="floor")[None]) == [(8, 29, False)]


@pytest.mark.parametrize(
    ("margin", "floored", "ceiled", "rounded"),
    [
        (0, 0, 0, 0),
        (1, 0, 1, 0),
        (2, 1, 1, 1),
        (3, 1, 2, 2),
        (5, 2, 3, 2),
        (7, 3, 4, 4),
        (117, 58, 59, 58),
        (231, 115, 116, 116),
    ],
)
def test_an_odd_margin_is_halved_as_named(margin: int, floored: int, ceiled: int, rounded: int) -> None:
    frame = coordinates(20, 20 + margin)
    assert places(center_crop(frame, 20, rounding="ceil")[None]) == [(0, ceiled, False)]
    assert places(center_crop(frame, 20, rounding="floor")[None]) == [(0, floored, False)]
    assert places(center_crop(frame, 20, rounding="round")[None]) == [(0, rounded, False)]


@pytest.mark.parametrize("order", CROP_ORDERS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_mirrored_flow_points_the_other_way(order: str, dtype: torch.dtype) -> None:
    flow = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 6, 40, 52), np.uint8)).to(dtype)
    before = flow.clone()
    plain = ten_crop(flow, 32, order=order)
    turned = ten_crop(flow, 32, order=order, flow=True)
    assert turned.dtype == dtype
    mirrors = [mirrored for _, _, mirrored in PUBLISHED_TEN[order]]
    assert sum(mirrors) == 5
    for crop, as_pixels, mirrored in zip(turned, plain, mirrors, strict=True):
        assert torch.equal(crop[:, 1::2], as_pixels[:, 1::2])
        assert torch.equal(crop[:, ::2], 255 - as_pixels[:, ::2] if mirrored else as_pixels[:, ::2])
    assert torch.equal(flow, before)


@pytest.mark.parametrize("crop", [center_crop, five_crop, ten_crop])
@pytest.mark.parametrize("size", [(223, 300), (300, 223)])
def test_a_crop_that_does_not_fit_is_refused(crop: Any, size: tuple[int, int]) -> None:
    with pytest.raises(RecipeError, match=f"cannot crop 224x224 out of {size[1]}x{size[0]}"):
        crop(torch.zeros(3, *size), 224)


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    frame: Tensor = torch.zeros(3, 8, 8)
    for crop in (five_crop, ten_crop):
        with pytest.raises(RecipeError, match="order 'x'; there are: tv, oversample, roc, caffe, tsn"):
            crop(frame, 4, order="x")
    for any_crop in (center_crop, five_crop, ten_crop):
        with pytest.raises(RecipeError, match="rounding 'up' of the centre; there are: floor, ceil, round"):
            any_crop(frame, 4, rounding="up")
