from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from support import picture
from vadx.errors import RecipeError
from vadx.extract.presets import PRESETS
from vadx.extract.transforms import (
    CENTER_ROUNDING,
    CROP_ORDERS,
    KERNELS,
    center_crop,
    crop_frames,
    five_crop,
    normalize,
    resize,
    resized_size,
    ten_crop,
)
from vadx.features.recipe import CropOrder, Kernel, Transform

SIZES = [
    ((240, 320), 256),
    ((720, 1280), 256),
    ((1280, 720), 256),
    ((241, 321), 256),
    ((480, 640), (128, 171)),
    ((120, 160), (240, 320)),
    ((100, 300), 99),
]


def image(height: int, width: int, kind: str) -> NDArray[np.uint8]:
    if kind == "noise":
        return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    return picture(3, width, height)


def tensor(array: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("kind", ["drawn", "noise"])
def test_pil_resizes_as_pillow_does(size: tuple[int, int], target: int | tuple[int, int], kind: str) -> None:
    source = image(*size, kind)
    height, width = resized_size(*size, target)
    theirs = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.BILINEAR))
    ours = resize(tensor(source), target).permute(1, 2, 0).numpy()
    assert ours.dtype == np.uint8
    # torch's own kernel with antialiasing differs by 1 in up to 0.4 % of the values.
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("kind", ["drawn", "noise"])
def test_torch_resizes_as_torchvision_does(size: tuple[int, int], target: int | tuple[int, int], kind: str) -> None:
    source = tensor(image(*size, kind))
    exact = list(resized_size(*size, target))
    theirs = reference.resize(source, exact, InterpolationMode.BILINEAR, antialias=False)
    assert torch.equal(resize(source, target, kernel="torch"), theirs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_batch_is_resized_as_its_frames_are(kernel: str) -> None:
    frames = torch.stack([tensor(picture(i, 80, 60)) for i in range(6)]).reshape(2, 3, 3, 60, 80)
    whole = resize(frames, 50, kernel=kernel)
    assert whole.shape == (2, 3, 3, 50, 66)
    for i in range(2):
        for j in range(3):
            assert torch.equal(whole[i, j], resize(frames[i, j], 50, kernel=kernel))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_right_size_is_left_alone(kernel: str) -> None:
    source = tensor(picture(0, 341, 256))
    assert resize(source, 256, kernel=kernel) is source


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((240, 320), 256, (256, 341)),
        ((320, 240), 256, (341, 256)),
        ((720, 1280), 256, (256, 455)),
        ((1080, 1920), 256, (256, 455)),
        ((256, 256), 224, (224, 224)),
        ((480, 640), (128, 171), (128, 171)),
    ],
)
def test_the_long_side_is_floored(
    size: tuple[int, int], target: int | tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized_size(*size, target) == expected


def test_flooring_is_exact() -> None:
    random = np.random.default_rng(0)
    for short, more, target in random.integers(1, 4096, (2000, 3)).tolist():
        long_side = int(Fraction(target * (short + more), short))
        assert resized_size(short, short + more, target) == (target, long_side)
        assert resized_size(short + more, short, target) == (long_side, target)


def coordinates(height: int, width: int) -> Tensor:
    """Give an image ``(2, height, width)`` whose pixels are their own places."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x])


def places(crops: Tensor) -> list[tuple[int, int, bool]]:
    """Say of each crop where its top left corner lies in the frame, and whether it is mirrored."""
    found = []
    for crop in crops:
        mirrored = bool(crop[1, 0, 0] > crop[1, 0, -1])
        upright = crop.flip(-1) if mirrored else crop
        top, left = int(upright[0, 0, 0]), int(upright[1, 0, 0])
        height, width = crop.shape[-2:]
        assert torch.equal(upright, coordinates(top + height, left + width)[:, top:, left:])
        found.append((top, left, mirrored))
    return found


TL, TR, BL, BR, C = (0, 0), (0, 116), (32, 0), (32, 116), (16, 58)
PUBLISHED = {
    # Crops, then the mirrored ones. The mirrored frame's left is the frame's right.
    "tv": ([TL, TR, BL, BR, C], [TR, TL, BR, BL, C]),
    "oversample": ([TL, TR, C, BL, BR], [TR, TL, C, BR, BL]),
    "roc": ([C, TL, TR, BL, BR], [C, TL, TR, BL, BR]),
    "caffe": ([TL, TR, BL, BR, C], [TL, TR, BL, BR, C]),
}


def test_every_name_is_in_its_table() -> None:
    assert set(CROP_ORDERS) == set(PUBLISHED) == set(get_args(CropOrder))
    assert set(KERNELS) == set(get_args(Kernel))
    assert set(CENTER_ROUNDING) == {"floor", "round"}


@pytest.mark.parametrize("order", PUBLISHED)
def test_crops_come_in_the_published_order(order: str) -> None:
    upright, mirrored = PUBLISHED[order]
    frame = coordinates(256, 340)
    five = [(y, x, False) for y, x in upright]
    assert places(five_crop(frame, 224, order=order)) == five
    assert places(ten_crop(frame, 224, order=order)) == [*five, *((y, x, True) for y, x in mirrored)]


@pytest.mark.parametrize("size", [(256, 340), (256, 341), (255, 341), (257, 343), (224, 224), (227, 455)])
def test_tv_is_torchvisions(size: tuple[int, int]) -> None:
    source = tensor(image(*size, "noise"))
    assert torch.equal(five_crop(source, 224, order="tv"), torch.stack(reference.five_crop(source, [224])))
    assert torch.equal(ten_crop(source, 224, order="tv"), torch.stack(reference.ten_crop(source, [224])))
    assert torch.equal(center_crop(source, 224), reference.center_crop(source, [224]))


@pytest.mark.parametrize("rounding", ["floor", "round"])
def test_the_centre_of_340_by_256(rounding: str) -> None:
    frame = coordinates(256, 340)
    assert torch.equal(center_crop(frame, 224, rounding=rounding), frame[:, 16:240, 58:282])


@pytest.mark.parametrize(
    ("margin", "floored", "rounded"),
    [(0, 0, 0), (1, 0, 0), (2, 1, 1), (3, 1, 2), (5, 2, 2), (7, 3, 4), (117, 58, 58), (231, 115, 116)],
)
def test_an_odd_margin_is_halved_as_named(margin: int, floored: int, rounded: int) -> None:
    frame = coordinates(20, 20 + margin)
    assert places(center_crop(frame, 20, rounding="floor")[None]) == [(0, floored, False)]
    assert places(center_crop(frame, 20, rounding="round")[None]) == [(0, rounded, False)]


def transform(**changes: Any) -> Transform:
    return replace(Transform(kernel="pil", resize=256, crop=224, center_rounding="floor"), **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [(*C, False)]),
        ({"crops": "five", "crop_order": "roc"}, [(y, x, False) for y, x in PUBLISHED["roc"][0]]),
        (
            {"crops": "ten", "crop_order": "oversample"},
            [(y, x, m) for m in (False, True) for y, x in PUBLISHED["oversample"][m]],
        ),
    ],
)
def test_a_recipe_names_its_crops(changes: dict[str, Any], expected: list[tuple[int, int, bool]]) -> None:
    assert places(crop_frames(coordinates(256, 340), transform(**changes))) == expected


@pytest.mark.parametrize("rounding", ["floor", "round"])
@pytest.mark.parametrize("crops", ["center", "five"])
def test_a_recipes_rounding_reaches_its_crops(rounding: str, crops: str) -> None:
    order = "roc" if crops == "five" else None
    chosen = transform(crops=crops, crop_order=order, center_rounding=rounding)
    (center, *_) = places(crop_frames(coordinates(227, 455), chosen))
    assert center == ((1, 115, False) if rounding == "floor" else (2, 116, False))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_normalisation_is_plain_arithmetic(name: str, channel_order: str) -> None:
    chosen = replace(PRESETS[name].transform, channel_order=channel_order)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 6), np.uint8)
    before = pixels.copy()
    ordered = pixels[:, ::-1] if channel_order == "bgr" else pixels
    channels = (np.array(values).reshape(3, 1, 1, 1) for values in (chosen.mean, chosen.std))
    mean, std = channels
    expected = (ordered.astype(np.float64) * chosen.scale + chosen.offset - mean) / std
    got = normalize(torch.from_numpy(pixels), chosen)
    assert got.dtype == torch.float32
    # Four roundings to float32 of numbers below 3.
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(pixels, before)


def test_presets_reach_the_published_range() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 1, 2).expand(1, 3, 1, 1, 2)
    # 255 * (2 / 255) - 1 is 1 but for the last bit.
    torch.testing.assert_close(
        normalize(ends, PRESETS["kinetics-i3d"].transform)[0, 0, 0, 0], torch.tensor([-1.0, 1.0]), rtol=0, atol=2e-7
    )


@pytest.mark.parametrize("crop", [center_crop, five_crop, ten_crop])
@pytest.mark.parametrize("size", [(223, 300), (300, 223)])
def test_a_crop_that_does_not_fit_is_refused(crop: Any, size: tuple[int, int]) -> None:
    with pytest.raises(RecipeError, match=f"cannot crop 224x224 out of {size[1]}x{size[0]}"):
        crop(torch.zeros(3, *size), 224)


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(RecipeError, match="unknown resize kernel 'cv2'; there are: pil, torch"):
        resize(torch.zeros(3, 8, 8, dtype=torch.uint8), 4, kernel="cv2")
    for crop in (five_crop, ten_crop):
        with pytest.raises(RecipeError, match="unknown crop order 'x'; there are: tv, oversample, roc, caffe"):
            crop(torch.zeros(3, 8, 8), 4, order="x")
