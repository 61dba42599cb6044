from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video import R2Plus1D_18_Weights, r2plus1d_18

from support import picture
from vadx.extract.backbones import class_names, find_backbone
from vadx.extract.backbones.r2plus1d import R2Plus1D18
from vadx.extract.engine import Engine
from vadx.extract.presets import PRESETS
from vadx.extract.transforms import crop_frames, normalize, resize

PRESET = PRESETS["kinetics-r2plus1d"]


def relative_l2(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """Give torchvision's network with random weights, and BatchNorm statistics of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = r2plus1d_18(weights=None).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def ours(reference: nn.Module) -> R2Plus1D18:
    network = R2Plus1D18()
    network.load_state_dict(reference.state_dict(), strict=True)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """Give a clip of 16 frames, uint8 ``(T, 3, H, W)``: drawn, with noise, in the size of a street camera's."""
    random = np.random.default_rng(0)
    drawn = np.stack([picture(i, 320, 240) for i in range(16)])
    noisy = np.clip(drawn.astype(int) + random.integers(-20, 21, drawn.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(noisy).permute(0, 3, 1, 2)


def feature_of(network: nn.Module, clips: Tensor) -> Tensor:
    """Run torchvision's network up to its pool."""
    classifier, network.fc = network.fc, nn.Identity()
    try:
        return network(clips)  # type: ignore[no-any-return]
    finally:
        network.fc = classifier


def test_the_names_are_torchvisions(reference: nn.Module) -> None:
    with torch.device("meta"):
        names = R2Plus1D18().state_dict().keys()
    assert set(names) == set(reference.state_dict())
    assert {"stem.0.weight", "layer1.0.conv1.0.0.weight", "fc.bias"} <= set(names)
    assert find_backbone("r2plus1d").dim == 512


@pytest.mark.parametrize("num_frames", [1, 8])
def test_features_and_head_are_torchvisions(reference: nn.Module, ours: R2Plus1D18, num_frames: int) -> None:
    clips = torch.randn((2, 3, num_frames, 112, 112), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        feature, theirs = ours(clips), feature_of(reference, clips)
        assert feature.shape == (2, 512)
        # The same operators on the same machine.
        assert relative_l2(feature, theirs) <= 1e-6
        assert relative_l2(ours.head(feature), reference.fc(theirs)) <= 1e-6  # type: ignore[operator]
    assert relative_l2(feature[0], feature[1]) > 1e-3


def preprocess(frames: Tensor) -> Tensor:
    transform = PRESET.transform
    resized = resize(frames, transform.resize, kernel=transform.kernel)
    crops = torch.stack([crop_frames(frame, transform) for frame in resized], dim=2)
    return normalize(crops, transform)


def test_preprocessing_is_that_of_the_weights(frames: Tensor) -> None:
    theirs = R2Plus1D_18_Weights.KINETICS400_V1.transforms()(frames)[None]
    got = preprocess(frames)
    assert got.shape == theirs.shape == (1, 3, 16, 112, 112)
    # x * (1 / 255) here, x / 255 there: they differ in the last bit of numbers below 3.
    torch.testing.assert_close(got, theirs, rtol=0, atol=1e-6)


def test_uint8_frames_to_features_end_to_end(reference: nn.Module, ours: R2Plus1D18, frames: Tensor) -> None:
    transform = PRESET.transform
    resized = resize(frames, transform.resize, kernel=transform.kernel)
    crops = torch.stack([crop_frames(frame, transform) for frame in resized], dim=2)
    engine = Engine(ours, transform, device=torch.device("cpu"), precision="fp32", batch=1)
    with torch.inference_mode():
        theirs = feature_of(reference, R2Plus1D_18_Weights.KINETICS400_V1.transforms()(frames)[None])
    # Channels last in memory sums in another order.
    assert relative_l2(torch.from_numpy(engine.run(crops)), theirs) <= 1e-5


def test_the_preset_takes_the_clips_that_the_weights_were_made_for() -> None:
    assert (PRESET.sampling.clip_length, PRESET.sampling.frame_step) == (16, 1)
    assert PRESET.weights == "r2plus1d-18-k400-torchvision"


def test_class_names_are_those_of_kinetics_in_order() -> None:
    names = class_names("kinetics400")
    assert len(names) == len(set(names)) == 400
    assert (names[0], names[399]) == ("abseiling", "zumba")
    assert names == sorted(names)
