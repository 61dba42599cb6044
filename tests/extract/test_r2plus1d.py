from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.video import R2Plus1D_18_Weights, r2plus1d_18

from support import picture
from vadx.errors import WeightsError
from vadx.extract.backbones import class_names, find_backbone
from vadx.extract.backbones.r2plus1d import R2Plus1D18
from vadx.extract.engine import Engine
from vadx.extract.presets import PRESETS
from vadx.extract.transforms import Normalizer, crop_frames, resize
from vadx.extract.weights import WEIGHTS

from .plain import conv, filled, loaded, norm, relative_l2

PRESET = PRESETS["kinetics-r2plus1d"]


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
    return Normalizer(transform)(crops, torch.zeros(len(crops), dtype=torch.int64))


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


# Layer -> blocks, channels, stride; and the channels between the two halves of each block's first and second
# convolution, first block apart: ig65m/models.py on torchvision's formula 27ab / (9a + 3b), rounded down.
LAYERS = {1: (3, 64, 1), 2: (4, 128, 2), 3: (6, 256, 2), 4: (3, 512, 2)}
BETWEEN = {1: ((144, 144), (144, 144)), 2: ((230, 288), (288, 288)), 3: ((460, 576), (576, 576))}
BETWEEN[4] = ((921, 1152), (1152, 1152))


def ig65m_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    shapes = conv("stem.0", 45, 3, 1, 7, 7) | norm("stem.1", 45) | conv("stem.3", 64, 45, 3, 1, 1) | norm("stem.4", 64)
    channels_in = 64
    for layer, (blocks, channels, stride) in LAYERS.items():
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            for number, between in enumerate(BETWEEN[layer][min(block, 1)], start=1):
                seen = channels_in if number == 1 else channels
                shapes |= conv(f"{at}.conv{number}.0.0", between, seen, 1, 3, 3) | norm(
                    f"{at}.conv{number}.0.1", between
                )
                shapes |= conv(f"{at}.conv{number}.0.3", channels, between, 3, 1, 1)
                shapes |= norm(f"{at}.conv{number}.1", channels)
            if stride == 2 and block == 0:
                shapes |= conv(f"{at}.downsample.0", channels, channels_in, 1, 1, 1)
                shapes |= norm(f"{at}.downsample.1", channels)
            channels_in = channels
    return shapes | conv("fc", num_classes, 512, bias=True)


class Plain34:
    """The 34-layer network as functions of a state dict."""

    def __init__(self, state: Mapping[str, Tensor], eps: float = 1e-3) -> None:
        self.state, self.eps = state, eps

    def norm(self, x: Tensor, name: str) -> Tensor:
        gain, bias, mean, var = (
            self.state[f"{name}.{part}"].reshape(-1, 1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) * (gain / (var + self.eps).sqrt()) + bias

    def pair(self, x: Tensor, names: tuple[str, str, str], stride: int) -> Tensor:
        """Convolve in space, normalise, convolve in time."""
        space, between, time = names
        kernel = self.state[f"{space}.weight"]
        side = kernel.shape[-1] // 2
        spatial = F.conv3d(x, kernel, stride=(1, stride, stride), padding=(0, side, side))
        step = stride if time != "stem.3" else 1
        return F.conv3d(
            self.norm(spatial, between).clamp(min=0),
            self.state[f"{time}.weight"],
            stride=(step, 1, 1),
            padding=(1, 0, 0),
        )

    def block(self, x: Tensor, at: str, stride: int) -> Tensor:
        def parts(number: int) -> tuple[str, str, str]:
            return (f"{at}.conv{number}.0.0", f"{at}.conv{number}.0.1", f"{at}.conv{number}.0.3")

        y = self.norm(self.pair(x, parts(1), stride), f"{at}.conv1.1").clamp(min=0)
        y = self.norm(self.pair(y, parts(2), 1), f"{at}.conv2.1")
        if f"{at}.downsample.0.weight" in self.state:
            shortcut = F.conv3d(x, self.state[f"{at}.downsample.0.weight"], stride=stride)
            x = self.norm(shortcut, f"{at}.downsample.1")
        return (x + y).clamp(min=0)

    def __call__(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Give features and class scores."""
        x = self.norm(self.pair(clips, ("stem.0", "stem.1", "stem.3"), 2), "stem.4").clamp(min=0)
        for layer, (blocks, _, stride) in LAYERS.items():
            for block in range(blocks):
                x = self.block(x, f"layer{layer}.{block}", stride if block == 0 else 1)
        pooled = x.flatten(2).mean(2)
        return pooled, pooled @ self.state["fc.weight"].T + self.state["fc.bias"]


def ig65m_state(num_classes: int) -> dict[str, Tensor]:
    return filled(ig65m_shapes(num_classes), seed=9)


@pytest.mark.parametrize("num_classes", [400, 359, 487])
def test_the_names_of_ig65m(num_classes: int) -> None:
    spec = find_backbone("r2plus1d-34")
    with torch.device("meta"):
        network = spec.build({}, num_classes=num_classes)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert len(shapes) == 416
    assert network.num_classes == num_classes
    uncounted = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert uncounted == ig65m_shapes(num_classes)
    firsts = [shapes[f"layer{layer}.0.conv2.0.0.weight"][0] for layer in (2, 3, 4)]
    assert firsts == [288, 576, 1152]


@pytest.mark.parametrize("num_frames", [8, 5])
def test_the_34_layers_equal_a_plain_computation(num_frames: int) -> None:
    state = ig65m_state(359)
    clips = torch.randn((2, 3, num_frames, 48, 56), generator=torch.Generator().manual_seed(num_frames))
    network = loaded("r2plus1d-34", state, num_classes=359)
    with torch.inference_mode():
        expected, scores = Plain34(state)(clips)
        features = network(clips)
        assert features.shape == (2, 512)
        assert relative_l2(features, expected) <= 1e-5
        assert relative_l2(network.head(features), scores) <= 1e-5  # type: ignore[operator]
        # PyTorch's own eps would be another network.
        assert relative_l2(Plain34(state, eps=1e-5)(clips)[0], expected) > 1e-4
    assert float(expected.std()) > 0.1 * float(expected.mean())
    assert relative_l2(expected[0], expected[1]) > 1e-3


def test_torchvisions_own_34_layers_do_not_take_ig65ms_weights() -> None:
    state = ig65m_state(400)
    del state["layer2.0.conv2.0.1.running_mean"]
    state["layer3.0.conv2.0.0.weight"] = torch.zeros((460, 256, 1, 3, 3))
    told = r"missing: layer2.0.conv2.0.1.running_mean; layer3.0.conv2.0.0.weight is \(460, 256, 1, 3, 3\), expected"
    with pytest.raises(WeightsError, match=told):
        loaded("r2plus1d-34", state)


@pytest.mark.parametrize("name", ["r2plus1d", "r2plus1d-34"])
def test_without_a_classifier_there_are_no_keys_of_one(name: str) -> None:
    with torch.device("meta"):
        network = find_backbone(name).build({}, num_classes=0)
    assert network.num_classes == 0
    assert not any(key.startswith("fc") for key in network.state_dict())


@pytest.mark.parametrize("frames", [8, 32])
def test_the_presets_of_ig65m_take_the_weights_own_clips(frames: int) -> None:
    preset = PRESETS[f"ig65m-r2plus1d-clip{frames}"]
    assert (preset.sampling.clip_length, preset.sampling.clip_stride) == (frames, frames)
    assert preset.transform == PRESET.transform
    assert f"clip{frames}" in WEIGHTS[preset.weights or ""].file_name
