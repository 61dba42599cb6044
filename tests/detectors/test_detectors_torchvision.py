"""torchvision's detectors, beside torchvision's own way of making them with published weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models.detection as zoo
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from vadx.detectors import load_detector
from vadx.detectors.coco_names import COCO_NAMES
from vadx.detectors.detector import FrameBoxes
from vadx.detectors.faster_rcnn import TorchvisionNetwork
from vadx.detectors.loading import NetworkDetector
from vadx.errors import WeightsError
from vadx.extract import weights as cache

pytestmark = pytest.mark.usefixtures("one_thread")

State = dict[str, Tensor]

# Name -> torchvision's function and weights, its name for the threshold, and whether it takes a size and proposals.
ENUM_ROUTE: dict[str, tuple[Callable[..., nn.Module], Any, str, bool, bool]] = {
    "frcnn": (
        zoo.fasterrcnn_resnet50_fpn,
        zoo.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
        "box_score_thresh",
        True,
        True,
    ),
    "frcnn-v2": (
        zoo.fasterrcnn_resnet50_fpn_v2,
        zoo.FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
        "box_score_thresh",
        True,
        True,
    ),
    "frcnn-mobile": (
        zoo.fasterrcnn_mobilenet_v3_large_fpn,
        zoo.FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1,
        "box_score_thresh",
        True,
        True,
    ),
    "fcos": (zoo.fcos_resnet50_fpn, zoo.FCOS_ResNet50_FPN_Weights.COCO_V1, "score_thresh", True, False),
    "retinanet": (
        zoo.retinanet_resnet50_fpn,
        zoo.RetinaNet_ResNet50_FPN_Weights.COCO_V1,
        "score_thresh",
        True,
        False,
    ),
    "ssdlite": (
        zoo.ssdlite320_mobilenet_v3_large,
        zoo.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1,
        "score_thresh",
        False,
        False,
    ),
}

CONTRAST = {"frcnn": 1.0, "frcnn-v2": 1.0, "frcnn-mobile": 300.0, "fcos": 10.0, "retinanet": 3.0, "ssdlite": 1.0}
"""Makes scores of arbitrary weights differ, and not all 1."""

THRESHOLD = 0.015
MIN_SIZE, PROPOSALS = 96, 40


@pytest.fixture(scope="module")
def frames() -> Any:
    """Make three frames ``(3, 72, 96, 3)`` of blocks, as different as can be."""
    blocks = np.random.default_rng(0).integers(0, 256, (3, 9, 12, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("VADX_WEIGHTS", raising=False)
    monkeypatch.setenv("VADX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    yield tmp_path
    # pytest keeps the folders of the last runs, and these checkpoints are large.
    for file in tmp_path.rglob("*"):
        if file.suffix in (".pth", ".safetensors"):
            file.unlink()


def options_of(name: str) -> dict[str, Any]:
    _, _, _, sized, proposes = ENUM_ROUTE[name]
    return ({"min_size": MIN_SIZE} if sized else {}) | ({"proposals": PROPOSALS} if proposes else {})


def ours(name: str, weights: str | Path | None = "random:1", **changes: Any) -> NetworkDetector:
    return load_detector(name, weights, score_threshold=THRESHOLD, **options_of(name), **changes)


def theirs(name: str, **weights: Any) -> nn.Module:
    make, enum, threshold, sized, proposes = ENUM_ROUTE[name]
    options: dict[str, Any] = {threshold: THRESHOLD}
    options |= {"min_size": MIN_SIZE, "max_size": 160} if sized else {}
    options |= {"rpn_post_nms_top_n_test": PROPOSALS} if proposes else {}
    return make(**(weights or {"weights": enum}), **options, progress=False).eval()


def model_of(detector: NetworkDetector) -> nn.Module:
    assert isinstance(detector.network, TorchvisionNetwork)
    return detector.network.model


def lively(model: nn.Module, contrast: float) -> State:
    """Give weights like those of a trained network, and put them into an arbitrary one: channels that hardly vary, for
    which the epsilon of a BatchNorm matters, and with more ``contrast`` scores that are farther apart.
    """
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, zoo.ssd.SSD):
        measure_statistics(model, torch.rand((2, 3, 320, 320), generator=generator))
    made = {key: value.clone() for key, value in model.state_dict().items()}
    for key, value in made.items():
        if key.endswith("running_var") and not isinstance(model, zoo.ssd.SSD):
            made[key] = (torch.rand(value.shape, generator=generator) + 0.5) * 1e-4
            made[key.replace("running_var", "weight")] *= 1e-2
        elif re.search(r"(cls_logits|cls_score|classification_head\.module_list\.\d\.1)\.weight$", key):
            made[key] *= contrast
    model.load_state_dict(made)
    return made


def measure_statistics(model: Any, images: Tensor) -> None:
    """Give the BatchNorms of an arbitrary network the statistics of images: without them nothing reaches the end."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        model.head(list(model.backbone(images).values()))
    model.eval()


def reference(model: nn.Module, frames: Any) -> list[FrameBoxes]:
    """Give what torchvision finds, one frame at a time, without the labels that no category has."""
    found = []
    for image in torch.from_numpy(frames).permute(0, 3, 1, 2):
        with torch.inference_mode():
            one = model([image / 255])[0]
        named = torch.isin(one["labels"], torch.tensor(list(COCO_NAMES)))
        boxes = one["boxes"][named]
        wide = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        values = (boxes[wide], one["scores"][named][wide], one["labels"][named][wide])
        found.append(FrameBoxes(*(value.numpy() for value in values)))
    return found


def assert_equal(found: list[FrameBoxes], expected: list[FrameBoxes]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("name", ENUM_ROUTE)
def test_boxes_scores_and_labels_are_torchvisions(name: str, frames: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = ours(name)
    state = lively(model_of(detector), CONTRAST[name])
    enum = ENUM_ROUTE[name][1]
    monkeypatch.setattr(type(enum), "get_state_dict", lambda *_, **__: dict(state))
    model = theirs(name)
    found = detector.detect(frames)
    assert sum(len(one.scores) for one in found) >= 20
    assert_equal(found, reference(model, frames))
    kinds = [[type(module) for module in one.modules()] for one in (model_of(detector), model)]
    assert kinds[0] == kinds[1]
    assert eps_of(model_of(detector)) == eps_of(model)


def eps_of(model: nn.Module) -> list[float]:
    return [module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)]


OLD_NAMES = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1."),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
)
"""The published file is older than the names of today: torchvision, _load_from_state_dict of feature_pyramid_network.py
and rpn.py."""


def test_the_published_file_gives_torchvisions_network(
    frames: Any, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = lively(model_of(ours("frcnn")), CONTRAST["frcnn"])
    for pattern, old in OLD_NAMES:
        state = {re.sub(pattern, old, key): value for key, value in state.items()}
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.0.bias"} <= set(state)
    entry = cache.WEIGHTS["frcnn-coco-torchvision"]
    path = empty_cache / "torch/hub/checkpoints" / entry.file_name
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    # torchvision takes what lies in its cache; vadx looks at the hash as well.
    with pytest.raises(WeightsError, match="expected 258fb6c6"):
        ours("frcnn", None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    made_here = replace(entry, sha256_prefix=digest[:8])
    monkeypatch.setattr(cache, "WEIGHTS", MappingProxyType({entry.name: made_here}))
    detector, model = ours("frcnn", None), theirs("frcnn")
    assert (detector.weights_name, detector.weights_sha256) == (entry.name, digest)
    found = detector.detect(frames)
    assert sum(len(one.scores) for one in found) >= 20
    assert_equal(found, reference(model, frames))
    assert set(eps_of(model_of(detector))) == {0.0}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model_of(detector).modules())

    # The trap: the same file in a network that was built to be trained.
    trap = theirs("frcnn", weights=None, weights_backbone=None)
    trap.load_state_dict(dict(state))
    assert set(eps_of(trap)) == {1e-5}
    with pytest.raises(AssertionError):
        assert_equal(found, reference(trap, frames))


def test_old_names_of_retinanet_are_known(empty_cache: Path) -> None:
    state = model_of(ours("retinanet")).state_dict()
    made = {}
    for key, value in state.items():
        match = re.fullmatch(r"(head\.\w+\.conv)\.(\d)\.0\.(\w+)", key)
        made[f"{match[1]}.{2 * int(match[2])}.{match[3]}" if match else key] = value
    assert "head.regression_head.conv.6.weight" in made
    torch.save(made, empty_cache / "old.pth")
    loaded = model_of(ours("retinanet", empty_cache / "old.pth")).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.mark.parametrize("name", ["frcnn", "retinanet"])
def test_a_batch_finds_what_single_frames_find(name: str, frames: Any) -> None:
    single = ours(name)
    three = replace(single, batch=3)
    for found, expected in zip(three.detect(frames), single.detect(frames), strict=True):
        assert len(expected.scores) >= 5
        np.testing.assert_array_equal(found.labels, expected.labels)
        # 1/1000 of a pixel, and 1e-5: sums over another number of rows are ordered otherwise on some processors.
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_frames_that_fill_a_batch_up_change_nothing(frames: Any) -> None:
    detector = ours("ssdlite", batch=2)
    assert_equal(detector.detect(frames), [*detector.detect(frames[:2]), *detector.detect(frames[2:])])


def test_settings_reach_the_network() -> None:
    model: Any = model_of(ours("frcnn"))
    assert model.transform.min_size == (96,)
    assert model.transform.max_size == 160
    assert model.rpn.post_nms_top_n() == PROPOSALS
    assert model.roi_heads.score_thresh == THRESHOLD
    published: Any = model_of(load_detector("frcnn-mobile", "random"))
    assert (published.transform.min_size, published.transform.max_size) == ((800,), 1333)
    assert published.rpn.post_nms_top_n() == 1000
    assert published.roi_heads.score_thresh == 0.05
    small: Any = model_of(load_detector("retinanet", "random", min_size=480))
    assert (small.transform.min_size, small.transform.max_size) == ((480,), 800)


@pytest.mark.parametrize("name", ["frcnn", "fcos", "ssdlite"])
def test_in_fewer_bits_what_is_decoded_stays_float32(name: str, frames: Any, empty_cache: Path) -> None:
    full = ours(name)
    torch.save(lively(model_of(full), CONTRAST[name]), empty_cache / "own.pth")
    reduced = ours(name, empty_cache / "own.pth", precision="bf16")
    seen: list[torch.dtype] = []
    model: Any = model_of(reduced)
    anchors = model.rpn.anchor_generator if name == "frcnn" else model.anchor_generator
    anchors.register_forward_hook(lambda _, inputs, made: seen.extend([inputs[1][0].dtype, made[0].dtype]))
    found, expected = (np.concatenate([one.scores for one in run.detect(frames)]) for run in (reduced, full))
    assert set(seen) == {torch.float32}
    assert min(len(found), len(expected)) >= 20
    assert not np.array_equal(found, expected)
    # With scores of 8 bits, many would be the same.
    assert len(set(found)) > 0.8 * len(found)
    assert len(set(torch.from_numpy(found).bfloat16().tolist())) < len(set(found))


def test_weights_of_another_network_name_what_does_not_fit(empty_cache: Path) -> None:
    path = empty_cache / "own.pth"
    state = model_of(ours("ssdlite")).state_dict()
    torch.save({f"more.{key}": value for key, value in list(state.items())[:4]}, path)
    with pytest.raises(WeightsError, match=r"missing: \S+, \S+, \S+ and \d+ more; unknown: more\.\S+, .* and 1 more"):
        ours("ssdlite", path)
    torch.save(state | {"backbone.features.0.0.0.weight": torch.zeros(1, 3, 3, 3)}, path)
    with pytest.raises(WeightsError, match="size mismatch for backbone"):
        ours("ssdlite", path)
    torch.save({"weights": [1, 2]}, path)
    with pytest.raises(WeightsError, match="holds more than tensors"):
        ours("ssdlite", path)
