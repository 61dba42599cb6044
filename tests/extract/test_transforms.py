from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadx.errors import RecipeError
from vadx.extract.crops import CROP_ORDERS
from vadx.extract.presets import PRESETS
from vadx.extract.transforms import Normalizer, crop_frames
from vadx.features.recipe import Transform

from .crop_places import PUBLISHED_FIVE, PUBLISHED_TEN, Place, coordinates, places


def transform(**changes: Any) -> Transform:
    return replace(Transform(kernel="pil", resize=256, crop=224, center_rounding="floor"), **changes)


def whole(number: int) -> Tensor:
    """Give the crop numbers of inputs that are all of the first crop."""
    return torch.zeros(number, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [(16, 58, False)]),
        ({"crops": "five", "crop_order": "roc"}, PUBLISHED_FIVE["roc"]),
        ({"crops": "ten", "crop_order": "oversample"}, PUBLISHED_TEN["oversample"]),
        ({"crops": "ten", "crop_order": "tsn"}, PUBLISHED_TEN["tsn"]),
    ],
)
def test_a_recipe_names_its_crops(changes: dict[str, Any], expected: list[Place]) -> None:
    chosen = transform(**changes)
    assert places(crop_frames(coordinates(256, 340), chosen)) == expected


@pytest.mark.parametrize("rounding", ["floor", "round"])
@pytest.mark.parametrize("crops", ["center", "five", "ten"])
def test_a_recipes_rounding_reaches_its_crops(rounding: str, crops: str) -> None:
    order = None if crops == "center" else "roc"
    chosen = transform(crops=crops, crop_order=order, center_rounding=rounding)
    (center, *_) = places(crop_frames(coordinates(227, 455), chosen))
    assert center == ((1, 115, False) if rounding == "floor" else (2, 116, False))


@pytest.mark.parametrize("crops", ["center", "five", "ten"])
def test_only_mirrored_crops_of_flow_are_turned(crops: str) -> None:
    flow = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 256, 340), np.uint8))
    chosen = transform(crops=crops, crop_order=None if crops == "center" else "caffe")
    plain, turned = crop_frames(flow, chosen), crop_frames(flow, chosen, flow=True)
    assert torch.equal(turned[:5], plain[:5])
    assert torch.equal(turned[5:, 0], 255 - plain[5:, 0])
    assert torch.equal(turned[5:, 1], plain[5:, 1])


PLAIN = {"scale": 1.0, "offset": 0.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
ARITHMETIC = {
    "nothing": PLAIN,
    "to minus one": {**PLAIN, "scale": 2 / 255, "offset": -1.0},
    "kinetics": {
        **PLAIN,
        "scale": 1 / 255,
        "mean": (0.43216, 0.394666, 0.37645),
        "std": (0.22803, 0.22145, 0.216989),
    },
    "all": {"scale": 0.5, "offset": 3.0, "mean": (1.0, -2.0, 3.5), "std": (0.5, 2.0, 3.0)},
}


@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (2, 3, 5, 6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalisation_is_plain_arithmetic(name: str, channel_order: str, shape: tuple[int, ...], dtype: Any) -> None:
    chosen = transform(channel_order=channel_order, **ARITHMETIC[name])
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    before = pixels.copy()
    ordered = pixels[:, ::-1] if channel_order == "bgr" else pixels
    columns = (-1, *[1] * (len(shape) - 2))
    mean, std = (np.array(values, np.float32).reshape(columns) for values in (chosen.mean, chosen.std))
    # One rounding to float32 after each step, in this order: features must not change in a bit.
    expected = (ordered.astype(np.float32) * np.float32(chosen.scale) + np.float32(chosen.offset) - mean) / std
    got = Normalizer(chosen)(torch.from_numpy(pixels), whole(2))
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), expected)
    np.testing.assert_array_equal(pixels, before)


def test_presets_reach_the_published_range() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 1, 2).expand(1, 3, 1, 1, 2)
    # 255 * (2 / 255) - 1 is 1 but for the last bit.
    torch.testing.assert_close(
        Normalizer(PRESETS["kinetics-i3d"].transform)(ends, whole(1))[0, 0, 0, 0],
        torch.tensor([-1.0, 1.0]),
        rtol=0,
        atol=2e-7,
    )


@pytest.mark.parametrize("shape", [(2, 2, 4, 5, 6), (2, 10, 5, 6)])
def test_flow_is_scaled_and_moved_only(shape: tuple[int, ...]) -> None:
    flow = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
    chosen = transform(scale=2 / 255, offset=-1.0)
    assert torch.equal(Normalizer(chosen)(flow, whole(2)), flow * (2 / 255) + -1.0)


@pytest.mark.parametrize(
    "changes", [{"mean": (1.0, 0.0, 0.0)}, {"std": (1.0, 1.0, 2.0)}, {"channel_order": "bgr"}, {"mean_cube": "0"}]
)
def test_colours_of_what_has_none_are_refused(changes: dict[str, Any]) -> None:
    chosen = transform(resize=(256, 340), **changes)
    normalizer = Normalizer(chosen, torch.zeros(3, 4, 256, 340) if "mean_cube" in changes else None)
    with pytest.raises(RecipeError, match="the recipe normalises 3 colours, and got 2 channels"):
        normalizer(torch.zeros(1, 2, 4, 224, 224), whole(1))


def with_cube(**changes: Any) -> Transform:
    return transform(resize=(30, 44), crop=20, channel_order="bgr", mean_cube="0" * 64, **changes)


def cube_of(frames: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(0, 255, (3, frames, 30, 44)).astype(np.float32)


# Margins 10 and 24, whose quarters are 2 and 6.
TL, TR, BL, BR, C = (0, 0), (0, 24), (10, 0), (10, 24), (5, 12)
CUTS: dict[str, list[Place]] = {
    "tv": [*((*p, False) for p in (TL, TR, BL, BR, C)), *((*p, True) for p in (TR, TL, BR, BL, C))],
    "oversample": [*((*p, False) for p in (TL, TR, C, BL, BR)), *((*p, True) for p in (TR, TL, C, BR, BL))],
    "roc": [(*p, m) for m in (False, True) for p in (C, TL, TR, BL, BR)],
    "caffe": [(*p, m) for m in (False, True) for p in (TL, TR, BL, BR, C)],
    "tsn": [(*p, m) for p in (TL, (0, 24), (8, 0), (8, 24), (4, 12)) for m in (False, True)],
}


def minus_cube(pixels: NDArray[np.uint8], cube: NDArray[np.float32], place: Place) -> NDArray[np.float32]:
    """Subtract a mean cube ``(3, T, h, w)`` from one RGB crop ``(3, T, size, size)`` pixel by pixel, in BGR."""
    top, left, mirrored = place
    channels, frames, height, width = pixels.shape
    result = np.empty(pixels.shape, np.float32)
    for c in range(channels):
        for t in range(frames):
            for y in range(height):
                for x in range(width):
                    column = width - 1 - x if mirrored else x
                    result[c, t, y, x] = np.float32(pixels[2 - c, t, y, x]) - cube[c, t, top + y, left + column]
    return result


@pytest.mark.parametrize("order", CROP_ORDERS)
def test_a_mean_cube_is_cut_where_the_crops_are(order: str) -> None:
    cube = cube_of(2)
    chosen = with_cube(crops="ten", crop_order=order)
    pixels = np.random.default_rng(2).integers(0, 256, (10, 3, 2, 20, 20), np.uint8)
    numbers = [3, 9, 0, 5, 7, 1, 8, 2, 6, 4]
    got = Normalizer(chosen, torch.from_numpy(cube))(torch.from_numpy(pixels), torch.tensor(numbers))
    for clip, number, values in zip(pixels, numbers, got.numpy(), strict=True):
        np.testing.assert_array_equal(values, minus_cube(clip, cube, CUTS[order][number]))


@pytest.mark.parametrize("order", CROP_ORDERS)
def test_a_clip_equal_to_the_cube_becomes_nothing(order: str) -> None:
    cube = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, 4, 30, 44), np.uint8))
    chosen = with_cube(crops="ten", crop_order=order)
    # Channels of the cube are the network's, those of frames are RGB.
    crops = torch.stack([crop_frames(frame, chosen) for frame in cube.flip(0).unbind(1)], dim=2)
    got = Normalizer(chosen, cube)(crops, torch.arange(10))
    assert got.dtype == torch.float32
    assert not got.any()


def test_single_frames_take_a_cube_of_one_frame() -> None:
    cube = cube_of(1)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 3, 20, 20), np.uint8)
    got = Normalizer(with_cube(), torch.from_numpy(cube))(torch.from_numpy(pixels), whole(2))
    for frame, values in zip(pixels, got.numpy(), strict=True):
        np.testing.assert_array_equal(values, minus_cube(frame[:, None], cube, (*C, False))[:, 0])


def test_the_cube_comes_after_the_offset_and_before_mean_and_std() -> None:
    cube = cube_of(2)
    chosen = with_cube(scale=0.5, offset=3.0, mean=(1.0, -2.0, 3.5), std=(0.5, 2.0, 3.0))
    pixels = np.random.default_rng(2).integers(0, 256, (1, 3, 2, 20, 20), np.uint8)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1, 1) for values in (chosen.mean, chosen.std))
    scaled = pixels[:, ::-1].astype(np.float32) * np.float32(0.5) + np.float32(3)
    expected = (scaled - cube[:, :, 5:25, 12:32] - mean) / std
    got = Normalizer(chosen, torch.from_numpy(cube))(torch.from_numpy(pixels), whole(1))
    np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("shape", [(3, 4, 30, 43), (3, 4, 44, 30), (1, 4, 30, 44), (3, 30, 44)])
def test_a_cube_of_other_frames_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match=r"is not \(3, T, height, width\) of frames resized to \(30, 44\)"):
        Normalizer(with_cube(), torch.zeros(shape))


def test_a_cube_wants_frames_of_one_size() -> None:
    with pytest.raises(RecipeError, match="of frames resized to 30"):
        Normalizer(replace(with_cube(), resize=30), torch.zeros(3, 4, 30, 44))


def test_a_cube_of_another_length_is_refused() -> None:
    normalizer = Normalizer(with_cube(), torch.zeros(3, 4, 30, 44))
    with pytest.raises(RecipeError, match="the mean cube is of 4 frames, and the clips of 5"):
        normalizer(torch.zeros(1, 3, 5, 20, 20, dtype=torch.uint8), whole(1))
    with pytest.raises(RecipeError, match="the mean cube is of 4 frames, and the clips of 1"):
        normalizer(torch.zeros(1, 3, 20, 20, dtype=torch.uint8), whole(1))


def test_a_recipe_with_a_cube_is_never_run_without_one() -> None:
    with pytest.raises(RecipeError, match="but no cube is given"):
        Normalizer(with_cube())
    with pytest.raises(RecipeError, match=r"transform\.mean_cube is None, but a cube is given"):
        Normalizer(transform(resize=(256, 340)), torch.zeros(3, 16, 256, 340))
