from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support import picture
from vadx.extract.backbones import find_backbone, find_preset
from vadx.extract.backbones.pytorchvideo_nets import pack_pathways
from vadx.extract.weights import WEIGHTS

from .foreign_nets import check_features, clips, load, preprocess, random_network, relative_l2


@pytest.fixture(scope="module")
def hub() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from pytorchvideo.models import hub
    return hub  # type: ignore[no-any-return]


def only_features(network: Any, *, whole: bool = False) -> Any:
    """Take the classifier and what follows it out of pytorchvideo's network, as its users do.

    ``whole``: its fixed pools become averages over everything, so that it takes inputs smaller than its own.
    """
    head = network.blocks[-1]
    head.proj, head.activation = nn.Identity(), None
    if whole:
        for parent in (head, getattr(head, "pool", None), network.blocks[-2]):
            if isinstance(getattr(parent, "pool", None), nn.AvgPool3d):
                parent.pool = nn.AdaptiveAvgPool3d(1)  # type: ignore[union-attr]
            elif isinstance(getattr(parent, "pool", None), nn.ModuleList):
                parent.pool = nn.ModuleList(nn.AdaptiveAvgPool3d(1) for _ in parent.pool)  # type: ignore[union-attr]
    return network


def packed(batch: Tensor) -> list[Tensor]:
    """PackPathway of pytorch/hub's slowfast example, with its index written out for the clips used here."""
    index = {32: [0, 4, 8, 13, 17, 22, 26, 31], 8: [0, 7]}[batch.shape[2]]
    return [batch[:, :, index].clone(), batch.clone()]


# Backbone, builder, shape of the clips, whether these are smaller than the network's own. 193 is the least that gives
# the last block the 7 x 7 positions of 224.
NETWORKS = [
    ("slowfast-r50", "slowfast_r50", (1, 3, 32, 193, 193), False),
    ("slow-r50", "slow_r50", (1, 3, 8, 193, 193), False),
    ("i3d-r50-pytorchvideo", "i3d_r50", (1, 3, 8, 193, 193), False),
    ("x3d-xs", "x3d_xs", (2, 3, 4, 160, 160), False),
    ("x3d-s", "x3d_s", (2, 3, 13, 160, 160), False),
    ("x3d-m", "x3d_m", (1, 3, 16, 193, 193), False),
    ("x3d-l", "x3d_l", (2, 3, 4, 64, 64), True),
    ("csn-r101", "csn_r101", (2, 3, 8, 64, 64), True),
    ("slowfast-r50", "slowfast_r50", (2, 3, 8, 64, 64), True),
    ("slow-r50", "slow_r50", (2, 3, 3, 64, 64), True),
    ("i3d-r50-pytorchvideo", "i3d_r50", (2, 3, 5, 64, 64), True),
]


@pytest.mark.parametrize(
    ("backbone", "builder", "shape", "smaller"), NETWORKS, ids=[f"{row[0]}-{row[2][-1]}" for row in NETWORKS]
)
def test_features_and_head_are_pytorchvideos(
    hub: ModuleType, tmp_path: Path, backbone: str, builder: str, shape: tuple[int, ...], smaller: bool
) -> None:
    reference = random_network(lambda: getattr(hub, builder)(pretrained=False))
    published = reference.state_dict()
    ours = load(backbone, {"model_state": published}, tmp_path)
    assert set(ours.state_dict()) == set(published)
    batch = clips(*shape)
    classifier = reference.blocks[-1].proj
    only_features(reference, whole=smaller)
    with torch.inference_mode():
        expected = reference(packed(batch) if builder == "slowfast_r50" else batch)
        features = ours(batch)
        check_features(features, expected, find_backbone(backbone).dim)
        scores = ours.head(features)
        assert scores.shape == (len(batch), 400) == (len(batch), ours.num_classes)
        assert relative_l2(scores, classifier(expected)) <= 1e-5


@pytest.mark.parametrize(
    ("backbone", "builder", "size"), [("x3d-xs", "x3d_xs", (4, 182)), ("x3d-xs", "x3d_xs", (6, 160))]
)
def test_inputs_larger_than_the_heads_pool_are_averaged_as_published(
    hub: ModuleType, tmp_path: Path, backbone: str, builder: str, size: tuple[int, int]
) -> None:
    reference = random_network(lambda: getattr(hub, builder)(pretrained=False))
    ours = load(backbone, {"model_state": reference.state_dict()}, tmp_path)
    # The order in which the published head works matters here: what it averages are several positions.
    batch = clips(2, 3, size[0], size[1], size[1])
    with torch.inference_mode():
        check_features(ours(batch), only_features(reference)(batch), 2048)


def test_the_head_gives_scores_before_softmax(hub: ModuleType, tmp_path: Path) -> None:
    reference = random_network(lambda: hub.x3d_xs(pretrained=False))
    ours = load("x3d-xs", {"model_state": reference.state_dict()}, tmp_path)
    batch = clips(2, 3, 4, 160, 160)
    with torch.inference_mode():
        scores, probabilities = ours.head(ours(batch)), reference(batch)
    assert relative_l2(scores.softmax(1), probabilities) <= 1e-5
    assert relative_l2(scores, probabilities) > 0.5


def test_a_copy_in_another_precision_keeps_the_librarys_names() -> None:
    network = find_backbone("slowfast-r50").build({}).eval()
    other = copy.deepcopy(network).to(torch.bfloat16)
    assert other.state_dict().keys() == network.state_dict().keys()
    assert {"blocks.0.multipathway_blocks.0.conv.weight", "blocks.6.proj.bias"} <= set(other.state_dict())
    batch = clips(1, 3, 8, 64, 64)
    with torch.inference_mode():
        # Eight bits of mantissa in some fifty layers.
        assert relative_l2(other(batch.bfloat16()), network(batch)) <= 0.1


@pytest.mark.parametrize("num_frames", [4, 16, 32, 64])
def test_the_slow_pathway_gets_the_frames_of_the_hub_example(num_frames: int) -> None:
    numbered = torch.arange(num_frames).reshape(1, 1, -1, 1, 1).expand(1, 3, -1, 2, 2)
    slow, fast = pack_pathways(numbered)
    assert torch.equal(fast, numbered)
    step = (num_frames - 1) / max(num_frames // 4 - 1, 1)
    expected = [int(position * step + 1e-9) for position in range(num_frames // 4)]
    assert slow[0, 0, :, 0, 0].tolist() == expected
    assert slow.shape == (1, 3, num_frames // 4, 2, 2)


@pytest.mark.parametrize("name", ["slowfast-r50", "slow-r50", "i3d-r50-pytorchvideo", "x3d-xs", "csn-r101"])
def test_the_shortest_clips_work(name: str) -> None:
    spec = find_backbone(name)
    network = spec.build({}, num_classes=0).eval()
    with torch.inference_mode():
        assert network(clips(1, 3, spec.min_clip_length, 64, 64)).shape == (1, spec.dim)


def test_slowfast_takes_the_clips_whose_pathways_agree() -> None:
    spec = find_backbone("slowfast-r50")
    assert spec.clip_lengths == (4, 8, 12, 16, 20, 24, 28, 32)
    preset = spec.default_preset
    assert (preset.sampling.clip_length, preset.sampling.frame_step, preset.sampling.clip_stride) == (32, 2, 64)


@pytest.mark.parametrize("name", ["kinetics-slowfast-r50", "kinetics-x3d-s"])
def test_preprocessing_is_that_of_the_hub_examples(name: str) -> None:
    transform = find_preset(name).transform
    side = transform.crop
    frames = torch.from_numpy(picture(3, 330, 250)).permute(2, 0, 1)[None].contiguous()
    got = preprocess(frames, transform)
    # Scaled, normalised, resized in floating point (pytorchvideo's ShortSideScale), cut (CenterCropVideo).
    normal = (frames / 255 - 0.45) / 0.225
    resized = F.interpolate(normal, size=(side, int(330 / 250 * side)), mode="bilinear", align_corners=False)
    left = round((resized.shape[-1] - side) / 2)
    # Resizing before or after a linear map is the same but for rounding of numbers below 3.
    torch.testing.assert_close(got, resized[..., left : left + side], rtol=0, atol=5e-6)


def test_addresses_are_those_of_the_library(hub: ModuleType) -> None:
    from pytorchvideo.models.hub import csn, resnet, slowfast, x3d

    paths = {k: v for module in (csn, resnet, slowfast, x3d) for k, v in module.checkpoint_paths.items()}
    rows = [row for row in WEIGHTS.values() if row.name.endswith("-pytorchvideo")]
    assert len(rows) == 8
    for row in rows:
        builder = find_backbone(row.backbone).factory.rpartition(":")[2]
        assert row.sources == (paths[builder],)
        assert find_preset(row.trained_for).weights == row.name


def test_the_library_is_imported_when_a_network_of_it_is_built() -> None:
    code = (
        "import sys\n"
        "from vadx.extract.backbones import find_backbone\n"
        "find_backbone('s3d').build({}, num_classes=0)\n"
        "print('pytorchvideo' in sys.modules)\n"
        "find_backbone('x3d-xs').build({}, num_classes=0)\n"
        "print('pytorchvideo' in sys.modules, 'pytorchvideo.transforms' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["False", "True", "False"]
