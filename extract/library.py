"""The room's face: a network by name, and one video's features without a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import UsageError, VideoError, WeightsError
from . import weights as weights_cache
from .backbones import BackboneSpec, find_backbone, find_preset
from .checkpoints import load_state, read_checkpoint
from .engine import DEFAULT_BATCH, Engine, pick_device
from .extractor import VideoExtraction, collect
from .package_source import file_sha256
from .presets import Preset, recipe_of
from .video import VideoInfo, VideoReader

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..features.recipe import Recipe
    from ..features.timeline import ClipFeatures, VideoFacts


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A network with weights, ready to run.

    ``network`` maps normalised float clips ``(B, 3, T, H, W)`` to ``(B, dim)``. ``weights_sha256`` is that of the
    published file, or ``random:SEED``; ``weights_name`` is None for a user's own file.
    """

    spec: BackboneSpec
    preset: Preset
    network: nn.Module
    weights_sha256: str
    weights_name: str | None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def dim(self) -> int:
        return self.spec.dim

    @property
    def recipe(self) -> Recipe:
        """The preset's recipe under these weights."""
        return recipe_of(self.preset, self.weights_sha256)

    def head(self, features: Tensor) -> Tensor | None:
        """Map features ``(B, dim)`` to class scores before softmax; None if the network has no classifier."""
        head = getattr(self.network, "head", None)
        return None if head is None else head(features)


def load_backbone(
    name: str,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    preset: str | None = None,
    device: str = "cpu",
    switches: Mapping[str, str | float | int | bool] | None = None,
    **options: str | float | int | bool,
) -> Backbone:
    """Load a network of the table by name.

    ``weights`` is a name of the weights table, a checkpoint file, ``"random"`` or ``"random:SEED"``, or a state dict;
    None means those that the preset was made for. ``preset`` defaults to the network's first. ``switches`` and
    ``options`` select a published variant of the network.

    Raises
    ------
    UsageError
        for an unknown name, preset, switch or device.
    WeightsError
        if the weights are missing or do not fit. There is no fallback to other weights.
    """
    spec = find_backbone(name)
    chosen = find_preset(preset) if preset else spec.default_preset
    if chosen.backbone != spec.name:
        msg = f"preset {chosen.name} is for backbone {chosen.backbone}, not {spec.name}"
        raise UsageError(msg)
    changed = {**(switches or {}), **options}
    if changed:
        network_recipe = replace(chosen.network, switches={**chosen.network.switches, **changed})
        chosen = replace(chosen, network=network_recipe)
    source = weights if weights is not None else chosen.weights
    if source is None:
        msg = f"no trained weights are known for {spec.name}; give --weights FILE, or --weights random"
        raise WeightsError(msg)
    network, digest, weights_name = _network(spec, chosen, source)
    network = network.eval().requires_grad_(False).to(pick_device(device))
    return Backbone(spec, chosen, network, digest, weights_name)


def weights_digest(source: str | Path) -> tuple[str, str | None]:
    """Give the recipe's weights field and the table's name for ``--weights``, without building a network.

    Raises
    ------
    WeightsError
        if they are missing.
    """
    text = str(source)
    if text == "random" or text.startswith("random:"):
        return f"random:{_seed(text)}", None
    if text in weights_cache.WEIGHTS:
        return weights_cache.require(text).published_sha256, text
    path = Path(source)
    if not path.is_file():
        msg = f"{text!r} is neither a file nor one of the weights {', '.join(weights_cache.WEIGHTS)}, nor random[:SEED]"
        raise WeightsError(msg)
    return file_sha256(path), None


def _network(
    spec: BackboneSpec, preset: Preset, source: str | Path | Mapping[str, Tensor]
) -> tuple[nn.Module, str, str | None]:
    switches = preset.network.switches
    if isinstance(source, Mapping):
        network = spec.build(switches)
        load_state(network, source, "the state dict")
        return network, _state_digest(source), None
    digest, name = weights_digest(source)
    if digest.startswith("random:"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(digest))
            return spec.build(switches), digest, None
    network = spec.build(switches)
    state = weights_cache.load(name) if name else read_checkpoint(Path(source))
    load_state(network, state, name or str(source))
    return network, digest, name


def _seed(text: str) -> int:
    _, _, seed = text.partition(":")
    try:
        number = int(seed or 0)
        if not 0 <= number < 1 << 63:
            raise ValueError
        return number
    except ValueError as error:
        msg = f"{text!r}: the seed of random weights is a whole number, as in random:7"
        raise UsageError(msg) from error


def _state_digest(state: Mapping[str, Tensor]) -> str:
    import hashlib

    import safetensors.torch

    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in sorted(state.items())}
    return hashlib.sha256(safetensors.torch.save(plain)).hexdigest()


def extract_video(
    path: str | Path,
    backbone: Backbone,
    *,
    recipe: Recipe | None = None,
    device: str = "cpu",
    batch: int | None = None,
    strict: bool = False,
    allow_partial: bool = False,
) -> ClipFeatures:
    """Compute one video's features, without a store.

    ``recipe`` defaults to the backbone's own. Memory holds the features and one batch of clips.

    Raises
    ------
    VideoError
        if the video cannot be used; its ``code`` says why.
    """
    chosen = recipe or backbone.recipe
    where = pick_device(device)
    engine = Engine(
        backbone.network,
        chosen.transform,
        device=where,
        precision=chosen.precision,
        batch=batch or DEFAULT_BATCH[where.type],
    )
    with VideoReader(path, rotation=chosen.decode.rotation, strict=strict, allow_partial=allow_partial) as reader:
        try:
            return collect(VideoExtraction(reader, chosen, engine), engine.provenance)
        except VideoError as error:
            raise type(error)(error.code, str(path), error.evidence) from error


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file is: its header's claims, what decoding showed, and why it would fail, if it would."""

    path: str
    info: VideoInfo | None
    facts: VideoFacts | None
    variable_rate: bool | None
    code: str | None
    message: str | None


def probe_video(path: str | Path, *, strict: bool = False) -> Probe:
    """Decode a file to its end and report. Raises nothing for a bad file: ``code`` and ``message`` say what it is."""
    reader: VideoReader | None = None
    gaps: set[int] = set()
    last: float | None = None
    try:
        reader = VideoReader(path, strict=strict)
        for block in reader:
            for pts in block.pts_seconds.tolist():
                if last is not None:
                    gaps.add(round((pts - last) * 1000))
                last = pts
    except VideoError as error:
        return Probe(
            str(path),
            reader.info if reader else None,
            reader.facts() if reader else None,
            None,
            error.code,
            str(error),
        )
    finally:
        if reader is not None:
            reader.close()
    # Time bases round: gaps of 33 and 34 ms are one rate.
    variable = bool(gaps) and max(gaps) - min(gaps) > 1
    return Probe(str(path), reader.info, reader.facts(), variable, None, None)
