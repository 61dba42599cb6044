"""Recipe: every input that changes a feature's value. Its digest is the cache key of a feature set.

Plain dataclasses and the standard library's JSON, so that a store can be read with numpy and h5py alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import RecipeError

NUMERICS = 2
"""Raised when a bug fix changes values, so that features made before and after never share a set.

2: the resize kernel ``pil`` goes along rows first, as Pillow did up to 12; Pillow 13 turns for portrait videos."""

MAX_FPS = 1000
"""Highest frame rate that resampling makes: where an hour without frames is bridged, that is 3.6 million of them."""

RAFT_MIN_SIDE = 121
"""Smallest side in pixels that RAFT takes: it is padded to 128, and its pyramid of correlations breaks below."""

Kernel = Literal["pil", "cv2", "torch", "torch_float"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
CropSet = Literal["center", "five", "ten"]
CropOrder = Literal["tv", "oversample", "roc", "caffe", "tsn"]
Tail = Literal["drop", "repeat_last", "loop", "zero", "clamp", "wrap", "plus_one", "minus_one", "partial_mean"]
Temporal = Literal["clip", "mean", "first", "middle"]
FlowMethod = Literal["tvl1", "raft", "farneback"]
Quantization = Literal["none", "round_128", "round_255"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
StoredDtype = Literal["float32", "float16"]
NoiseKind = Literal["wsal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """How a file becomes RGB frames. ``rotation``: honour the container's display matrix, or not."""

    rotation: Literal["apply", "ignore"] = "apply"
    device: Literal["cpu"] = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which frames make a clip: ``clip_length`` frames, ``frame_step`` apart, a new clip every ``clip_stride``.

    Lengths and strides count source frames, or, with ``fps``, the frames that resampling to that rate selects.
    ``tail`` names the rule for the frames that fill no whole clip.
    """

    clip_length: int
    clip_stride: int
    tail: Tail
    frame_step: int = 1
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None:
            if not 0 < self.fps <= MAX_FPS:
                msg = f"sampling.fps must be positive and at most {MAX_FPS}, got {self.fps}"
                raise RecipeError(msg)
            object.__setattr__(self, "fps", float(self.fps))
        for name in ("clip_length", "clip_stride", "frame_step"):
            if getattr(self, name) < 1:
                msg = f"sampling.{name} must be at least 1, got {getattr(self, name)}"
                raise RecipeError(msg)

    @property
    def clip_span(self) -> int:
        """Number of frames from a clip's first frame to its last, both counted."""
        return (self.clip_length - 1) * self.frame_step + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """How frames become the network's input.

    ``resize`` is the short side in pixels (aspect kept, long side floored), or ``(height, width)``.
    ``crop`` is the side of the square crops; ``crop_order`` names their published order, None for one crop.
    ``center_rounding`` says how an odd margin around the centre is halved. Pixels become
    ``(x * scale + offset - mean) / std`` on 0-255 input, per channel in ``channel_order``.

    Steps that some extractors take before: frames are brought to ``pre_resize`` (height, width), then through a
    ``jpeg`` file: ``"ffmpeg"`` as its image files are by default, or a libjpeg quality. ``mean_cube`` is the sha256
    of a mean for each pixel of a clip, subtracted where the crops are cut. ``crop_mean`` averages the crops' features.
    """

    kernel: Kernel
    resize: int | tuple[int, int]
    crop: int
    crops: CropSet = "center"
    crop_order: CropOrder | None = None
    center_rounding: Literal["floor", "ceil", "round"]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    offset: float = 0.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: Interpolation = "bilinear"
    pre_resize: tuple[int, int] | None = None
    jpeg: Literal["ffmpeg"] | int | None = None
    mean_cube: str | None = None
    crop_mean: bool = False

    @property
    def takes_native(self) -> bool:
        """Whether it takes the decoder's own pictures: FFmpeg's JPEG files are made from them."""
        return self.jpeg == "ffmpeg" and self.pre_resize is None

    def __post_init__(self) -> None:
        sides = (self.resize,) if isinstance(self.resize, int) else self.resize
        if min(sides) < self.crop or self.crop < 1:
            msg = f"transform.crop {self.crop} must be at least 1 and fit into transform.resize {self.resize}"
            raise RecipeError(msg)
        if (self.crops == "center") != (self.crop_order is None):
            msg = f"transform.crop_order orders several crops: got {self.crop_order!r} for {self.crops!r}"
            raise RecipeError(msg)
        if self.crop_mean and self.crops == "center":
            msg = "transform.crop_mean averages several crops: transform.crops is center, which is one"
            raise RecipeError(msg)
        if self.pre_resize is not None and min(self.pre_resize) < 1:
            msg = f"transform.pre_resize must be at least 1 x 1, got {self.pre_resize}"
            raise RecipeError(msg)
        if isinstance(self.jpeg, int) and not 1 <= self.jpeg <= 100:
            msg = f"transform.jpeg is a quality from 1 to 100, or ffmpeg; got {self.jpeg}"
            raise RecipeError(msg)
        if self.kernel != "pil" and self.interpolation != "bilinear":
            msg = f"transform.kernel {self.kernel} is bilinear; {self.interpolation} is Pillow's: kernel pil"
            raise RecipeError(msg)
        for name in ("scale", "offset", "mean", "std"):
            value = getattr(self, name)
            if not all(map(math.isfinite, value if isinstance(value, tuple) else (value,))):
                msg = f"transform.{name} must be finite, got {value}"
                raise RecipeError(msg)
        if min(self.std) <= 0:
            msg = f"transform.std must be positive, got {self.std}"
            raise RecipeError(msg)
        # 1 and 1.0, or 0.0 and -0.0, are one number but two JSON texts, and the digest is taken of the text.
        for name in ("scale", "offset"):
            object.__setattr__(self, name, float(getattr(self, name)) + 0.0)
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(x) + 0.0 for x in getattr(self, name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Which network, which of its layers, and the switches that select a published variant of it.

    ``temporal`` says how a clip becomes one vector: the network maps whole clips (``clip``), or single frames, of
    which the ``first`` or the ``middle`` one (position ``clip_length // 2``) stands for the clip, or the ``mean``.
    """

    name: str
    layer: str
    switches: dict[str, str | float | int | bool] = field(default_factory=dict)
    temporal: Temporal = "clip"

    def __post_init__(self) -> None:
        for name, value in self.switches.items():
            if isinstance(value, float) and not math.isfinite(value):
                msg = f"network.switches.{name} must be finite, got {value}"
                raise RecipeError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Optical flow between neighbouring resized frames, in the place of their pixels.

    Flow i leads from frame i to frame i + 1 and is counted as frame i. ``last``: the last frame, which has none,
    gets the one before (``repeat``: as many flows as frames) or nothing (``drop``: one less). Displacements in pixels
    are clipped to ``bound`` and put on the 0-255 scale of pictures by ``quantization``: ``none`` (127.5 is no motion,
    nothing rounded), ``round_128`` (128 + 255 / (2 bound) x, rounded) or ``round_255`` (255 (x + bound) / (2 bound),
    rounded). ``stack`` flows from i on make one input of ``2 * stack`` channels, x before y. ``weights`` is the sha256
    of a network that computes flow.
    """

    method: FlowMethod
    bound: float = 20.0
    quantization: Quantization = "none"
    last: Literal["repeat", "drop"] = "repeat"
    stack: int = 1
    weights: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.bound < math.inf or self.stack < 1:
            msg = f"flow.bound must be positive and flow.stack at least 1, got {self.bound} and {self.stack}"
            raise RecipeError(msg)
        if self.method != "raft" and self.weights is not None:
            msg = f"flow.weights are those of raft, got {self.weights!r} for {self.method}"
            raise RecipeError(msg)
        object.__setattr__(self, "bound", float(self.bound))

    @property
    def channels(self) -> int:
        """Number of the network's input channels."""
        return 2 * self.stack


UNKNOWN = "unknown"
"""What stands where nobody said what a recipe is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Noise on decoded frames, drawn from ``seed`` and a video's id anew for every ``span_frames`` source frames.

    ``kind``: ``wsal`` is what H. Lv et al. 2021, section III.C, put on normal videos (`vadx.pipelines.noise`).
    """

    kind: NoiseKind = "wsal"
    seed: int = 0
    span_frames: int = 32

    def __post_init__(self) -> None:
        if self.seed < 0 or self.span_frames < 1:
            msg = f"noise.seed is 0 or more and noise.span_frames 1 or more, got {self.seed} and {self.span_frames}"
            raise RecipeError(msg)

    def __str__(self) -> str:
        return f"{self.kind}:{self.seed}:{self.span_frames}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Where features come from that vadx did not compute, and what is known of how they were made.

    ``layout`` is one of `features.layouts.LAYOUTS`; ``release`` the name that a person gave. ``known`` are facts of
    `RECIPE_FACTS`, kept sorted, None for all of them: what the recipe holds in the places of others stands in for them
    and says nothing. ``crop`` is the one crop kept of those that the recipe makes, a number or ``mean``, "" for all;
    ``segmentation`` the rule of `bag_rules.SEGMENTATIONS` under which clips became the rows, "" where rows are clips.
    """

    # Not the unknown ones: a fact that recipes learn to state later is unknown of what was imported before, and the
    # digest stays.
    layout: str
    release: str
    known: tuple[str, ...] | None = None
    crop: str = ""
    segmentation: str = ""

    def __post_init__(self) -> None:
        if self.known is None:
            return
        strange = [fact for fact in self.known if fact not in RECIPE_FACTS]
        if strange:
            msg = f"imported.known names {strange[0]!r}, and a recipe states {', '.join(RECIPE_FACTS)}"
            raise RecipeError(msg)
        object.__setattr__(self, "known", tuple(sorted(set(self.known))))

    @property
    def unknown(self) -> tuple[str, ...]:
        """The facts of `RECIPE_FACTS` that nobody knows."""
        return () if self.known is None else tuple(fact for fact in RECIPE_FACTS if fact not in self.known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that changes a feature's value. Two runs with equal `digest` make the same feature set.

    ``weights`` is the sha256 of the published file, or ``random:SEED``. Names of presets and weights, device,
    engine, batch and software versions are provenance, not recipe. ``imported`` is None for what vadx computes.

    Raises
    ------
    RecipeError
        for values that contradict each other.
    """

    sampling: Sampling
    transform: Transform
    network: Network
    weights: str
    decode: Decode = Decode()
    precision: Precision = "fp32"
    dtype: StoredDtype = "float32"
    numerics: int = NUMERICS
    flow: Flow | None = None
    imported: Imported | None = None
    noise: Noise | None = None

    def __post_init__(self) -> None:
        transform = self.transform
        if self.noise is not None and transform.takes_native:
            msg = "transform.jpeg ffmpeg takes the decoder's own pictures, which noise does not reach: leave one out"
            raise RecipeError(msg)
        plain = transform.channel_order == "rgb" and not any(transform.mean) and set(transform.std) == {1.0}
        if self.flow is not None and not (plain and transform.mean_cube is None and transform.jpeg is None):
            msg = "a flow recipe has no colour channels: leave channel_order, mean, std, mean_cube and jpeg alone"
            raise RecipeError(msg)
        sides = (transform.resize,) if isinstance(transform.resize, int) else transform.resize
        if self.flow is not None and self.flow.method == "raft" and min(sides) < RAFT_MIN_SIDE:
            msg = f"flow by raft needs sides of {RAFT_MIN_SIDE} pixels or more, got transform.resize {transform.resize}"
            raise RecipeError(msg)
        if self.sampling.tail == "partial_mean" and self.network.temporal != "mean":
            msg = "sampling.tail partial_mean averages the frames there are: it needs network.temporal mean"
            raise RecipeError(msg)

    def to_mapping(self) -> dict[str, Any]:
        """Give the canonical mapping: plain JSON types, and no field added later that has its implied value."""
        return typing.cast("dict[str, Any]", _plain(self))

    @property
    def unknown(self) -> tuple[str, ...]:
        """The facts of `RECIPE_FACTS` that nobody knows; what the recipe holds in their places means nothing."""
        return () if self.imported is None else self.imported.unknown

    def stated(self) -> dict[str, Any]:
        """Give the canonical mapping for people and comparisons: ``"unknown"`` in the place of each unknown fact."""
        mapping = self.to_mapping()
        for fact in self.unknown:
            part, _, name = fact.rpartition(".")
            (mapping[part] if part else mapping)[name] = UNKNOWN
        return mapping

    def computed(self) -> Recipe:
        """Give the recipe under which vadx itself computes features like these, where all of it is known.

        Raises
        ------
        RecipeError
            for imported features of which something is unknown, or that are no longer all crops of clips.
        """
        if self.imported is None:
            return self
        name = f"{self.imported.release}, imported as {self.imported.layout}"
        if self.unknown:
            msg = (
                f"no video can be made into features like those of {name}: {', '.join(self.unknown)} unknown. Say how "
                f"they are made: vadx import --preset NAME, or --known FILE.json"
            )
            raise RecipeError(msg)
        if self.imported.crop or self.imported.segmentation:
            rule = self.imported.segmentation
            what = f"its rows are segments by {rule}" if rule else f"crop {self.imported.crop} alone was kept"
            msg = (
                f"no video can be made into features like those of {name}: {what}. Import an export that keeps all "
                f"clips and crops"
            )
            raise RecipeError(msg)
        return dataclasses.replace(self, imported=None, numerics=NUMERICS)

    def canonical_json(self) -> str:
        """Give the text that the digest is taken of: sorted keys, no spaces, ASCII."""
        return json.dumps(self.to_mapping(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def digest(self) -> str:
        """The sha256 of `canonical_json`, in hex: the feature set's identity."""
        return hashlib.sha256(self.canonical_json().encode("ascii")).hexdigest()

    @classmethod
    def from_mapping(cls, mapping: Any) -> Recipe:
        """Rebuild a recipe from `to_mapping`'s result.

        Raises
        ------
        RecipeError
            naming the field, if one is unknown, missing or of another type.
        """
        return typing.cast("Recipe", _build(cls, mapping, "recipe"))


# Fields younger than the first recipes: (class name, field) -> the value that older versions implied. Such a
# field is left out of the canonical mapping while it has that value, so that old digests stay what they were.
_IMPLIED: dict[tuple[str, str], object] = {
    ("Sampling", "fps"): None,
    ("Transform", "interpolation"): "bilinear",
    ("Transform", "pre_resize"): None,
    ("Transform", "jpeg"): None,
    ("Transform", "mean_cube"): None,
    ("Transform", "crop_mean"): False,
    ("Network", "temporal"): "clip",
    ("Recipe", "flow"): None,
    ("Recipe", "imported"): None,
    ("Recipe", "noise"): None,
}


def _facts() -> tuple[str, ...]:
    parts = {"sampling": Sampling, "transform": Transform, "network": Network}
    names = [f"{part}.{one.name}" for part, kind in parts.items() for one in dataclasses.fields(kind)]
    return (*names, *(one.name for one in dataclasses.fields(Recipe) if one.name not in {*parts, "imported"}))


RECIPE_FACTS = _facts()
"""Everything that a recipe states of how features are made, in dotted names: ``sampling.clip_length``, ``weights``."""


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {k: _plain(v) for k, v in pairs if (name, k) not in _IMPLIED or _IMPLIED[name, k] != v}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _build(kind: Any, value: Any, where: str) -> Any:
    """Convert plain JSON ``value`` into type ``kind`` strictly: no coercion but int -> float."""
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast("type[Any]", kind), value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal and value in arguments:
        return value
    if origin in (typing.Union, types.UnionType):
        return _build_union(arguments, value, where)
    if origin is tuple and isinstance(value, list) and arguments[-1] is Ellipsis:
        return tuple(_build(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        pairs = zip(arguments, value, strict=True)
        return tuple(_build(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(pairs))
    if origin is dict and isinstance(value, dict):
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) in (int, float):
        with suppress(OverflowError):
            return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    msg = f"{where}: expected {getattr(kind, '__name__', kind)}, got {value!r}"
    raise RecipeError(msg)


def _build_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    # An exact type first: a switch that is an int must not become a float on its way back.
    for option in options:
        if option is type(value):
            return value
    # An object can only be meant for the one dataclass among them, and its errors name the field.
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return _build(option, value, where)
    for option in options:
        try:
            return _build(option, value, where)
        except RecipeError:
            continue
    msg = f"{where}: {value!r} fits none of {', '.join(map(str, options))}"
    raise RecipeError(msg)


def _build_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        msg = f"{where}: expected an object, got {value!r}"
        raise RecipeError(msg)
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        msg = f"{where}: unknown field {unknown[0]!r}; this store may come from a newer vadx"
        raise RecipeError(msg)
    try:
        return kind(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    except TypeError as error:
        msg = f"{where}: {error}"
        raise RecipeError(msg) from error
