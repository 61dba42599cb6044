from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vadx.extract.backbones import class_names
from vadx.extract.crops import center_crop
from vadx.extract.engine import Engine
from vadx.extract.library import Backbone, extract_video, load_backbone
from vadx.extract.transforms import resize
from vadx.extract.video import VideoReader
from vadx.features.timeline import ClipFeatures

from .clips import opencv_frames

pytestmark = [pytest.mark.weights, pytest.mark.clips]

NUM_FRAMES = 250


@pytest.fixture(scope="module")
def backbone(real_weights: Path) -> Backbone:
    return load_backbone("i3d", "i3d-rgb-k400-tfhub")


@pytest.fixture(scope="module")
def bikes(real_clips: Path, backbone: Backbone) -> ClipFeatures:
    assert backbone.preset.name == "kinetics-i3d"
    return extract_video(real_clips / "bikes.mp4", backbone)


@pytest.fixture(scope="module")
def pillow_frames(real_clips: Path) -> Tensor:
    """Give frames ``(frame, 3, 224, 224)`` in [-1, 1]: decoded by OpenCV, resized by Pillow, cut out of the centre."""
    ready = []
    for frame in opencv_frames(real_clips / "bikes.mp4"):
        height, width = frame.shape[:2]
        assert height < width
        size = (256 * width // height, 256)
        small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
        top, left = (256 - 224) // 2, (size[0] - 224) // 2
        ready.append(small[top : top + 224, left : left + 224].astype(np.float32) * 2 / 255 - 1)
    return torch.from_numpy(np.stack(ready)).permute(0, 3, 1, 2)


def test_every_clip_knows_its_frames_and_seconds(bikes: ClipFeatures) -> None:
    starts = np.arange(0, NUM_FRAMES, 16)
    np.testing.assert_array_equal(bikes.frames, np.stack([starts, np.minimum(starts + 16, NUM_FRAMES)], axis=1))
    np.testing.assert_allclose(bikes.seconds, bikes.frames / 25, rtol=0, atol=1e-9)
    assert (bikes.values.shape, bikes.num_padded_frames) == ((16, 1, 1024), 6)
    assert not bikes.damaged.any()
    assert bikes.facts.degradations() == []


@pytest.mark.parametrize("clip", [0, 7, 15])
def test_features_equal_a_straightforward_computation(
    bikes: ClipFeatures, backbone: Backbone, pillow_frames: Tensor, clip: int
) -> None:
    assert len(pillow_frames) == NUM_FRAMES
    index = np.minimum(np.arange(clip * 16, clip * 16 + 16), NUM_FRAMES - 1)
    with torch.inference_mode():
        expected = backbone.network(pillow_frames[index].permute(1, 0, 2, 3)[None])[0].double().numpy()
    got = bikes.values[clip, 0].astype(np.float64)
    # One pixel in a thousand differs by 1 of 255 between the two resize kernels; the rest is the order of sums.
    assert np.linalg.norm(got - expected) <= 1e-4 * np.linalg.norm(expected)


def test_features_of_different_clips_differ(bikes: ClipFeatures) -> None:
    rows = bikes.values[:, 0].astype(np.float64)
    gaps = np.linalg.norm(np.diff(rows, axis=0), axis=1) / np.linalg.norm(rows[1:], axis=1)
    assert gaps.min() > 0.05


def test_the_classes_come_in_the_order_of_the_networks_scores(real_clips: Path, backbone: Backbone) -> None:
    transform = backbone.recipe.transform
    with VideoReader(real_clips / "bikes.mp4") as reader:
        images = torch.cat([torch.from_numpy(block.frames).permute(0, 3, 1, 2) for block in reader])[96:128]
    crops = center_crop(resize(images, transform.resize), transform.crop, rounding=transform.center_rounding)
    engine = Engine(backbone.network, transform, device=torch.device("cpu"), precision="fp32", batch=1)
    features = torch.from_numpy(engine.run(crops.permute(1, 0, 2, 3)[None]))
    scores = backbone.head(features)
    assert scores is not None
    names = class_names("kinetics400")
    likeliest = [names[index] for index in scores[0].topk(5).indices.tolist()]
    # A street with cyclists.
    assert {"riding mountain bike", "biking through snow", "motorcycling"} <= set(likeliest)
