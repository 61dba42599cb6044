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

NUMERICS = 1
"""Raised when a bug fix changes values, so that features made before and after never share a set."""

Kernel = Literal["pil", "torch"]
CropSet = Literal["center", "five", "ten"]
CropOrder = Literal["tv", "oversample", "roc", "caffe"]
Tail = Literal["drop", "repeat_last", "loop", "zero", "clamp", "wrap", "plus_one", "minus_one"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
StoredDtype = Literal["float32", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """How a file becomes RGB frames. ``rotation``: honour the container's display matrix, or not."""

    rotation: Literal["apply", "ignore"] = "apply"
    device: Literal["cpu"] = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which frames make a clip: ``clip_length`` frames, ``frame_step`` apart, a new clip every ``clip_stride``.

    Lengths and strides count source frames. ``tail`` names the rule for the frames that fill no whole clip.
    """

    clip_length: int
    clip_stride: int
    tail: Tail
    frame_step: int = 1

    def __post_init__(self) -> None:
        for name in ("clip_length", "clip_stride", "frame_step"):
            if getattr(self, name) < 1:
                msg = f"sampling.{name} must be at least 1, got {getattr(self, name)}"
                raise RecipeError(msg)

    @property
    def clip_span(self) -> int:
        """Number of source frames from a clip's first frame to its last, both counted."""
        return (self.clip_length - 1) * self.frame_step + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """How frames become the network's input.

    ``resize`` is the short side in pixels (aspect kept, long side floored), or ``(height, width)``.
    ``crop`` is the side of the square crops; ``crop_order`` names their published order, None for one crop.
    ``center_rounding`` says how an odd margin around the centre is halved. Pixels become
    ``(x * scale + offset - mean) / std`` on 0-255 input, per channel in ``channel_order``.
    """

    kernel: Kernel
    resize: int | tuple[int, int]
    crop: int
    crops: CropSet = "center"
    crop_order: CropOrder | None = None
    center_rounding: Literal["floor", "round"]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    offset: float = 0.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        sides = (self.resize,) if isinstance(self.resize, int) else self.resize
        if min(sides) < self.crop or self.crop < 1:
            msg = f"transform.crop {self.crop} must be at least 1 and fit into transform.resize {self.resize}"
            raise RecipeError(msg)
        if (self.crops == "center") != (self.crop_order is None):
            msg = f"transform.crop_order orders several crops: got {self.crop_order!r} for {self.crops!r}"
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
    """Which network, which of its layers, and the switches that select a published variant of it."""

    name: str
    layer: str
    switches: dict[str, str | float | int | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.switches.items():
            if isinstance(value, float) and not math.isfinite(value):
                msg = f"network.switches.{name} must be finite, got {value}"
                raise RecipeError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that changes a feature's value. Two runs with equal `digest` make the same feature set.

    ``weights`` is the sha256 of the published file, or ``random:SEED``. Names of presets and weights, device,
    engine, batch and software versions are provenance, not recipe.

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

    def to_mapping(self) -> dict[str, Any]:
        """Give the canonical mapping: plain JSON types, and no field added later that has its implied value."""
        return typing.cast("dict[str, Any]", _plain(self))

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
_IMPLIED: dict[tuple[str, str], object] = {}


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
