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
from .backbones.loading import network_from_file, network_from_state
from .engine import DEFAULT_BATCH, Engine, check_precision, pick_device
from .engines import choose_engine
from .extractor import VideoExtraction, collect
from .flow import flow_estimator
from .key_maps import unwrap
from .package_source import file_sha256
from .presets import Preset, recipe_of
from .video import VideoInfo, VideoReader

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..features.recipe import Recipe
    from ..features.timeline import ClipFeatures, VideoFacts
    from .openvino_network import ModelCache


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A network with weights, ready to run.

    ``network`` maps normalised float clips ``(B, channels, T, H, W)``, or, if ``frame_wise``, frames
    ``(B, channels, H, W)``, to ``(B, dim)``. ``preset`` holds the preprocessing that the weights were made for.
    ``weights_sha256`` is that of the published file, or ``random:SEED``; ``weights_name`` is None for a user's own
    file.
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
    def frame_wise(self) -> bool:
        """Whether the network maps single frames: ``preset.network.temporal`` says how they become a clip's vector."""
        return self.spec.frame_wise

    @property
    def recipe(self) -> Recipe:
        """The preset's recipe under these weights.

        Raises
        ------
        WeightsError
            if the recipe needs a mean or a flow network that is not on this machine.
        """
        return complete_recipe(self.preset, self.weights_sha256)

    def head(self, features: Tensor) -> Tensor | None:
        """Map features ``(B, dim)`` to class scores before softmax; None if the network has no classifier."""
        head = getattr(self.network, "head", None)
        return None if head is None or getattr(self.network, "num_classes", None) == 0 else head(features)


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


def complete_recipe(preset: Preset, weights_sha256: str) -> Recipe:
    """Give a preset's recipe, with the hashes of the mean and the flow network that it names.

    Random weights get a flow network with random weights too; a mean is never made up.

    Raises
    ------
    WeightsError
        if one of them is not on this machine.
    """
    recipe = recipe_of(preset, weights_sha256)
    switches = find_backbone(preset.backbone).chosen_switches(recipe.network.switches)
    recipe = replace(recipe, network=replace(recipe.network, switches=switches))
    if preset.mean_cube is not None:
        digest = weights_cache.require(preset.mean_cube).published_sha256
        recipe = replace(recipe, transform=replace(recipe.transform, mean_cube=digest))
    if recipe.flow is not None and preset.flow_weights is not None:
        is_random = weights_sha256.startswith("random:")
        digest = weights_sha256 if is_random else weights_cache.require(preset.flow_weights).published_sha256
        recipe = replace(recipe, flow=replace(recipe.flow, weights=digest))
    return recipe


def make_engine(
    backbone: Backbone,
    recipe: Recipe,
    *,
    device: str,
    batch: int | None = None,
    engine: str | None = None,
    fall_back: bool | None = None,
) -> Engine:
    """Give the engine of a recipe, with the mean and the flow network that its hashes stand for.

    ``engine`` is a name of the table ENGINES, None for the table's choice; ``fall_back`` as for `Engine`. A network
    that it converts is kept in the cache folder.

    Raises
    ------
    UsageError
        for a precision that the device does not have, an engine that is not installed or cannot run it, or a recipe
        that the network cannot eat.
    WeightsError
        if a mean or a flow network is not on this machine.
    """
    if recipe.imported is not None:
        msg = (
            f"features of {recipe.imported.release} were imported: no video is extracted into their set, whatever is "
            f"known of them; extract under a preset of your own: vadx presets"
        )
        raise UsageError(msg)
    where = pick_device(device)
    backbone.spec.check(recipe)
    cube = None
    if recipe.transform.mean_cube is not None:
        cube = weights_cache.load_by_digest("mean_cube", recipe.transform.mean_cube)["mean"]
    estimator = None
    if recipe.flow is not None:
        digest = recipe.flow.weights
        is_known = digest is not None and not digest.startswith("random:")
        state = weights_cache.load_by_digest("flow", str(digest)) if is_known else None
        estimator = flow_estimator(recipe.flow, device=where, state=state)
    check_precision(recipe.precision, where)
    chosen = engine or choose_engine(None, where.type, recipe.precision, network=recipe.network.name)
    return Engine(
        backbone.network,
        recipe.transform,
        device=where,
        precision=recipe.precision,
        batch=batch or DEFAULT_BATCH[where.type, backbone.spec.frame_wise],
        mean_cube=cube,
        estimate_flow=estimator,
        engine=chosen,
        fall_back=engine is None if fall_back is None else fall_back,
        cache=_model_cache(backbone),
    )


def _model_cache(backbone: Backbone) -> ModelCache:
    from .openvino_network import ModelCache

    switches = sorted(backbone.preset.network.switches.items())
    return ModelCache(weights_cache.cache_home() / "openvino", f"{backbone.name} {switches}")


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
        kind = weights_cache.WEIGHTS[text].kind
        if kind != "network":
            msg = f"{text} is a {kind.replace('_', ' ')}, not a network's weights: recipes name it themselves"
            raise UsageError(msg)
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
        state = unwrap(source)
        if not all(isinstance(key, str) for key in state):
            msg = "a state dict's keys are names, got others"
            raise WeightsError(msg)
        return network_from_state(spec, switches, state, "the state dict"), _state_digest(state), None
    given: object = source
    if not isinstance(given, str | Path):
        msg = f"weights are a name, a file, random[:SEED] or a state dict, got {type(given).__name__}"
        raise WeightsError(msg)
    digest, name = weights_digest(source)
    if digest.startswith("random:"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(digest))
            return spec.build(switches), digest, None
    if name is not None:
        return network_from_state(spec, switches, weights_cache.load(name), name), digest, name
    return network_from_file(spec, switches, Path(source)), digest, None


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

    plain = {key: torch.as_tensor(value).detach().cpu().clone().contiguous() for key, value in sorted(state.items())}
    return hashlib.sha256(safetensors.torch.save(plain)).hexdigest()


def extract_video(
    path: str | Path,
    backbone: Backbone,
    *,
    recipe: Recipe | None = None,
    device: str = "cpu",
    batch: int | None = None,
    engine: str | None = None,
    strict: bool = False,
    allow_partial: bool = False,
) -> ClipFeatures:
    """Compute one video's features, without a store.

    ``recipe`` defaults to the backbone's own, ``engine`` to the choice of `engines.PREFERENCE`. Memory
    holds the features and one batch of clips.

    Raises
    ------
    UsageError
        for a device, precision or engine that is not there.
    VideoError
        if the video cannot be used; its ``code`` says why.
    """
    chosen = recipe or backbone.recipe
    runner = make_engine(backbone, chosen, device=device, batch=batch, engine=engine)
    with VideoReader(
        path,
        rotation=chosen.decode.rotation,
        strict=strict,
        allow_partial=allow_partial,
        keep_native=chosen.transform.takes_native,
    ) as reader:
        try:
            return collect(VideoExtraction(reader, chosen, runner), runner.provenance)
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
