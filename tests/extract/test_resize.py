from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvisions

from support import picture, skip_or_fail
from vadx.errors import RecipeError
from vadx.extract import resize as module
from vadx.extract.resize import INTERPOLATIONS, KERNELS, resize, resized_size
from vadx.features.recipe import Interpolation, Kernel

SIZES = [
    ((240, 320), 256),
    ((320, 240), 256),
    ((720, 1280), 256),
    ((1280, 720), 256),
    ((241, 321), 256),
    ((272, 640), 256),
    ((480, 640), (128, 171)),
    ((480, 640), (240, 320)),
    ((120, 160), (240, 320)),
    ((100, 300), 99),
    ((360, 320), (256, 340)),
    ((240, 320), (240, 171)),
]


def image(height: int, width: int, kind: str) -> NDArray[np.uint8]:
    if kind == "noise":
        return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    if kind == "extremes":
        return np.random.default_rng(width).integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)
    return picture(3, width, height)


def tensor(array: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)


def array(tensor: Tensor) -> NDArray[Any]:
    return tensor.permute(1, 2, 0).numpy()


def pillows(source: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """Resize as every Pillow up to 12 did in one call: along the rows first."""
    method = Image.Resampling[interpolation.upper()]
    lines = Image.fromarray(source).resize((size[1], source.shape[0]), method)
    return np.asarray(lines.resize((size[1], size[0]), method))


def on_other_devices(source: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    return array(module._resize_pil_tensor(tensor(source)[None], size, interpolation)[0])


def opencvs(source: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return cv2.resize(source, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def sources() -> st.SearchStrategy[tuple[NDArray[np.uint8], tuple[int, int]]]:
    """Give an image and a size: up, down, odd, a single pixel, halved and doubled."""
    side = st.integers(1, 90)
    size = st.tuples(side, side)

    def built(source: tuple[int, int], target: tuple[int, int], kind: str, halves: bool) -> Any:
        height, width = (2 * target[0], 2 * target[1]) if halves else source
        return image(height, width, kind), target

    return st.builds(built, size, size, st.sampled_from(["noise", "extremes"]), st.booleans())


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("kind", ["drawn", "noise"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_pil_resizes_as_pillow_does(
    size: tuple[int, int], target: int | tuple[int, int], kind: str, interpolation: str
) -> None:
    source = image(*size, kind)
    exact = resized_size(*size, target)
    theirs = pillows(source, exact, interpolation)
    ours = array(resize(tensor(source), target, interpolation=interpolation))
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(on_other_devices(source, exact, interpolation), theirs)


@settings(max_examples=150)
@given(sources(), st.sampled_from(sorted(INTERPOLATIONS)))
def test_pil_is_bit_equal_at_any_size(pair: tuple[NDArray[np.uint8], tuple[int, int]], interpolation: str) -> None:
    source, size = pair
    theirs = pillows(source, size, interpolation)
    np.testing.assert_array_equal(array(resize(tensor(source), size, interpolation=interpolation)), theirs)
    np.testing.assert_array_equal(on_other_devices(source, size, interpolation), theirs)


# sha256 of Image.resize((340, 256)) of the image below, equal from Pillow 9.5.0 to 12.2.0. Pillow 13.0.0 gives another
# image: it begins with the columns where the height shrinks more than the width.
BEFORE_PILLOW_13 = {
    "bilinear": "be77d5bdc00b384ec547da0fdb4fca727c8ad5207067c0732afd745960071acf",
    "bicubic": "66c08c9442117fe6b3532da353f17ebd00d6f422b50da6026c2e984cc0cec63d",
    "lanczos": "12d456366dc3878920bbf1515b8b3ce63434c3289716897858771d39b227da76",
}


@pytest.mark.parametrize("interpolation", BEFORE_PILLOW_13)
def test_pil_is_the_pillow_that_features_were_published_with(interpolation: str) -> None:
    y, x = np.mgrid[0:360, 0:320]
    source = np.stack([(x * 7 + y * 3) % 256, (x * x + y) % 256, (x ^ y) % 256], axis=-1).astype(np.uint8)
    ours = array(resize(tensor(source), (256, 340), interpolation=interpolation))
    assert hashlib.sha256(np.ascontiguousarray(ours).tobytes()).hexdigest() == BEFORE_PILLOW_13[interpolation]


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("kind", ["drawn", "noise"])
def test_cv2_resizes_as_opencv_does(size: tuple[int, int], target: int | tuple[int, int], kind: str) -> None:
    source = image(*size, kind)
    exact = resized_size(*size, target)
    theirs = opencvs(source, exact)
    ours = resize(tensor(source), target, kernel="cv2")
    assert ours.dtype == torch.uint8
    np.testing.assert_array_equal(array(ours), theirs)


@settings(max_examples=300)
@given(sources())
def test_cv2_is_bit_equal_at_any_size(pair: tuple[NDArray[np.uint8], tuple[int, int]]) -> None:
    source, size = pair
    theirs = opencvs(source, size)
    np.testing.assert_array_equal(array(resize(tensor(source), size, kernel="cv2")), theirs)
    np.testing.assert_array_equal(array(module._resize_cv2_tensor(tensor(source)[None], size)[0]), theirs)


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("kind", ["drawn", "noise"])
def test_torch_resizes_as_torchvision_does(size: tuple[int, int], target: int | tuple[int, int], kind: str) -> None:
    source = tensor(image(*size, kind))
    exact = list(resized_size(*size, target))
    theirs = torchvisions.resize(source, exact, InterpolationMode.BILINEAR, antialias=False)
    assert torch.equal(resize(source, target, kernel="torch"), theirs)
    exactly = resize(source, target, kernel="torch_float")
    assert exactly.dtype == torch.float32
    # torchvision takes floats as they are.
    torch.testing.assert_close(
        exactly,
        torchvisions.resize(source.float(), exact, InterpolationMode.BILINEAR, antialias=False),
        rtol=0,
        atol=1e-4,
    )
    assert torch.equal(exactly.round().to(torch.uint8), theirs)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", ["planes", "pixels"])
def test_a_batch_is_resized_as_its_frames_are(kernel: str, layout: str) -> None:
    frames = torch.stack([tensor(picture(i, 80, 60)) for i in range(6)])
    if layout == "pixels":
        frames = frames.contiguous(memory_format=torch.channels_last)
    before = frames.clone()
    whole = resize(frames.unflatten(0, (2, 3)), 50, kernel=kernel)
    assert whole.shape == (2, 3, 3, 50, 66)
    for i in range(6):
        assert torch.equal(whole[i // 3, i % 3], resize(frames[i], 50, kernel=kernel))
    assert torch.equal(frames, before)
    assert len({frame.numpy().tobytes() for frame in whole.flatten(0, 1).contiguous()}) == 6


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_are_resized_one_by_one(kernel: str, channels: int) -> None:
    planes = tensor(image(40, 52, "noise"))[[0, 1, 2, 0][:channels]]
    for interpolation in INTERPOLATIONS if kernel == "pil" else ["bilinear"]:
        ours = resize(planes, (30, 61), kernel=kernel, interpolation=interpolation)
        for plane, resized in zip(planes, ours, strict=True):
            as_rgb = resize(plane.expand(3, -1, -1), (30, 61), kernel=kernel, interpolation=interpolation)
            assert torch.equal(resized, as_rgb[0])


def test_a_result_is_nobody_elses_memory() -> None:
    first, second = (tensor(image(90, 120, kind)) for kind in ("noise", "drawn"))
    for kernel in KERNELS:
        held = resize(first, (70, 80), kernel=kernel)
        copy = held.clone()
        resize(second, (70, 80), kernel=kernel)
        assert torch.equal(held, copy)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_right_size_is_left_alone(kernel: str) -> None:
    source = tensor(picture(0, 341, 256))
    left = resize(source, 256, kernel=kernel)
    if kernel == "torch_float":
        assert left.dtype == torch.float32
        assert torch.equal(left, source.float())
    else:
        assert left is source


@pytest.mark.cuda
@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("kernel", ["pil", "cv2"])
def test_a_gpu_resizes_as_the_cpu_does(size: tuple[int, int], target: int | tuple[int, int], kernel: str) -> None:
    if not torch.cuda.is_available():
        skip_or_fail("cuda", "torch sees no GPU")
    source = tensor(image(*size, "noise"))
    for interpolation in INTERPOLATIONS if kernel == "pil" else ["bilinear"]:
        ours = resize(source.cuda(), target, kernel=kernel, interpolation=interpolation)
        assert torch.equal(ours.cpu(), resize(source, target, kernel=kernel, interpolation=interpolation))


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


def test_every_name_is_in_its_table() -> None:
    assert set(KERNELS) == set(get_args(Kernel))
    assert set(INTERPOLATIONS) == set(get_args(Interpolation))


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    source = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(RecipeError, match="unknown resize kernel 'gd'; there are: pil, cv2, torch, torch_float"):
        resize(source, 4, kernel="gd")
    with pytest.raises(RecipeError, match="kernel pil has no interpolation 'box'; it has: bilinear, bicubic, lanczos"):
        resize(source, 4, interpolation="box")
    for kernel in ("cv2", "torch", "torch_float"):
        with pytest.raises(RecipeError, match=f"kernel {kernel} has no interpolation 'lanczos'; it has: bilinear"):
            resize(source, 4, kernel=kernel, interpolation="lanczos")


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize(
    ("images", "size", "says"),
    [
        (torch.zeros(48, 64, 3, dtype=torch.uint8), 32, "four channels at most"),
        (torch.zeros(48, 64, dtype=torch.uint8), 32, "four channels at most"),
        (torch.zeros(3, 48, 64, dtype=torch.int64), 32, "uint8"),
        (torch.zeros(3, 48, 64, dtype=torch.uint8), 0, "cannot resize"),
        (torch.zeros(3, 48, 64, dtype=torch.uint8), (16, 0), "cannot resize"),
        (torch.zeros(3, 0, 64, dtype=torch.uint8), 32, "cannot resize"),
    ],
)
def test_what_is_no_picture_is_refused(kernel: str, images: Tensor, size: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        resize(images, size, kernel=kernel)


@pytest.mark.parametrize("kernel", ["pil", "cv2", "torch"])
def test_floats_are_refused_where_they_would_be_rounded_away(kernel: str) -> None:
    with pytest.raises(RecipeError, match="uint8"):
        resize(torch.rand(3, 48, 64), 32, kernel=kernel)
