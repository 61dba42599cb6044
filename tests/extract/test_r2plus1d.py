from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.video import R2Plus1D_18_Weights, r2plus1d_18

from support import make_video
from vadx.extract import extract_video, load_backbone
from vadx.extract.video import VideoReader


def randomised_torchvision(seed: int) -> nn.Module:
    """Make torchvision's own network with random weights and BatchNorm statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    network = r2plus1d_18(weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
    return network


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_features_and_scores_equal_torchvisions_network() -> None:
    theirs = randomised_torchvision(3)
    ours = load_backbone("r2plus1d", theirs.state_dict())
    clip = torch.randn(2, 3, 16, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = ours.network(clip)
        scores = ours.head(features)
        expected_scores = theirs(clip)
        theirs.fc = nn.Identity()
        expected = theirs(clip)
    assert scores is not None
    assert features.shape == (2, 512)
    assert torch.equal(features, expected)
    assert torch.equal(scores, expected_scores)


def test_a_video_equals_torchvisions_transforms_and_network(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=32, width=160, height=120)
    theirs = randomised_torchvision(5)
    ours = load_backbone("r2plus1d", theirs.state_dict())
    theirs.fc = nn.Identity()
    with VideoReader(path) as reader:
        frames = torch.from_numpy(np.concatenate([block.frames for block in reader])).permute(0, 3, 1, 2)
    prepare = R2Plus1D_18_Weights.KINETICS400_V1.transforms()
    with torch.inference_mode():
        expected = torch.cat([theirs(prepare(frames[start : start + 16])[None]) for start in (0, 16)])
    features = extract_video(path, ours, batch=1)
    assert features.values.shape == (2, 1, 512)
    # Same pixels; x / 255 is x * (1 / 255) here, which rounds differently in the last bit.
    assert relative(torch.from_numpy(features.values[:, 0]), expected) <= 1e-5


def test_the_sizes_of_the_preset_matter(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=16, width=160, height=120)
    backbone = load_backbone("r2plus1d", "random:1")
    recipe = backbone.recipe
    floored = replace(recipe, transform=replace(recipe.transform, center_rounding="floor"))
    shifted = extract_video(path, backbone, recipe=floored, batch=1).values
    assert not np.allclose(extract_video(path, backbone, batch=1).values, shifted, rtol=1e-5)
