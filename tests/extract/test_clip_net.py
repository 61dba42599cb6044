from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from support import picture
from vadx.errors import UsageError
from vadx.extract.backbones import find_backbone, find_preset
from vadx.extract.backbones.clip import ClipViTB16
from vadx.extract.weights import WEIGHTS

from .foreign_nets import check_features, clips, load, preprocess, random_network


@pytest.fixture(scope="module")
def reference() -> Any:
    """Give the whole model as open_clip builds it, with random weights."""
    open_clip = pytest.importorskip("open_clip")
    logging.disable(logging.WARNING)  # open_clip warns of the random weights that are meant
    try:
        model = random_network(lambda: open_clip.create_model("ViT-B-16-quickgelu", pretrained=None))
    finally:
        logging.disable(logging.NOTSET)
    with torch.no_grad():
        for block in model.visual.transformer.resblocks:
            block.attn.in_proj_bias.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return clips(2, 3, 224, 224)


@pytest.fixture(scope="module")
def expected(reference: Any, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return reference.encode_image(images)  # type: ignore[no-any-return]


def with_openais_extras(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the names of OpenAI's file, which also holds three sizes."""
    sizes = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    return {**{name: torch.tensor(size) for name, size in sizes.items()}, **state}


def test_embeddings_are_open_clips(reference: Any, images: Tensor, expected: Tensor, tmp_path: Path) -> None:
    ours = load("clip-vitb16", with_openais_extras(reference.state_dict()), tmp_path)
    assert set(ours.state_dict()) == set(reference.visual.state_dict())
    assert len(ours.state_dict()) == 152
    with torch.inference_mode():
        check_features(ours(images), expected, 512)
    assert not torch.allclose(expected.norm(dim=1), torch.ones(2))


def test_the_tower_alone_loads_by_its_own_names(
    reference: Any, images: Tensor, expected: Tensor, tmp_path: Path
) -> None:
    ours = load("clip-vitb16", reference.visual.state_dict(), tmp_path)
    with torch.inference_mode():
        check_features(ours(images), expected, 512)


def test_half_precision_of_the_file_becomes_single(reference: Any, tmp_path: Path) -> None:
    halves = {name: value.half() for name, value in reference.state_dict().items()}
    ours = load("clip-vitb16", halves, tmp_path)
    assert {value.dtype for value in ours.state_dict().values()} == {torch.float32}
    for name, value in ours.state_dict().items():
        assert torch.equal(value, halves[f"visual.{name}"].float())


def test_there_is_no_classifier() -> None:
    spec = find_backbone("clip-vitb16")
    assert spec.head == ""
    with torch.device("meta"):
        assert ClipViTB16().num_classes == 0
        with pytest.raises(UsageError, match="no classifier"):
            ClipViTB16(num_classes=10)


def test_preprocessing_is_that_of_openai() -> None:
    from torchvision import transforms

    # openai/CLIP, clip/clip.py, _transform, with torchvision's own parts.
    theirs = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    drawn = picture(3, 331, 250)
    got = preprocess(torch.from_numpy(drawn).permute(2, 0, 1)[None], find_preset("openai-clip-vitb16").transform)
    # x * (1 / 255) here, x / 255 there: they differ in the last bit of numbers below 4.
    torch.testing.assert_close(got[0], theirs(Image.fromarray(drawn)), rtol=0, atol=1e-6)


def test_the_official_file_is_known_by_the_hash_in_its_address() -> None:
    row = WEIGHTS["clip-vitb16-openai"]
    assert row.sha256 is not None
    assert len(row.sha256) == 64
    assert f"/{row.sha256}/ViT-B-16.pt" in str(row.sources[0])
    assert row.torchscript
