from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vadx.extract import extract_video, load_backbone
from vadx.extract.backbones import class_names
from vadx.extract.library import Backbone

pytestmark = [pytest.mark.weights, pytest.mark.clips]


@pytest.fixture(scope="module")
def i3d(real_weights: Path) -> Backbone:
    return load_backbone("i3d")


def opencv_clips(path: Path, length: int) -> torch.Tensor:
    """Decode with OpenCV, resize with Pillow, crop and scale with numpy; the last clip repeats its last frame."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, bgr = capture.read()
        if not there:
            break
        image = Image.fromarray(bgr[..., ::-1].copy())
        width = int(256 * image.width / image.height)
        small = np.asarray(image.resize((width, 256), Image.Resampling.BILINEAR))
        left, top = (width - 224) // 2, (256 - 224) // 2
        frames.append(small[top : top + 224, left : left + 224].astype(np.float32) * 2 / 255 - 1)
    frames += [frames[-1]] * (-len(frames) % length)
    stacked = np.stack(frames).reshape(-1, length, 224, 224, 3)
    return torch.from_numpy(stacked).permute(0, 4, 1, 2, 3)


def test_features_equal_a_plain_computation_on_opencvs_frames(i3d: Backbone, real_clips: Path) -> None:
    path = real_clips / "bikes.mp4"
    ours = extract_video(path, i3d).values[:, 0]
    network = i3d.network
    with torch.inference_mode():
        plain = torch.cat([network(clip[None].contiguous()) for clip in opencv_clips(path, 16)]).numpy()
    assert ours.shape == plain.shape == (16, 1024)
    # The same pixels; the batch of two and memory layout round differently.
    assert np.linalg.norm(ours - plain) <= 1e-4 * np.linalg.norm(plain)


def test_class_names_stand_in_the_networks_order(i3d: Backbone, real_clips: Path) -> None:
    recipe = i3d.recipe
    long = replace(recipe, sampling=replace(recipe.sampling, clip_length=32, clip_stride=16))
    features = extract_video(real_clips / "bikes.mp4", i3d, recipe=long, batch=1)
    # Frames 96 to 128 show a man on a bicycle between cars.
    assert features.frames[6].tolist() == [96, 128]
    scores = i3d.head(torch.from_numpy(features.values[6]))
    assert scores is not None
    names = [class_names("kinetics400")[index] for index in scores[0].topk(5).indices.tolist()]
    assert {"riding mountain bike", "biking through snow", "motorcycling"} <= set(names)
