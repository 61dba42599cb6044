"""A model: the folder that a training writes, resumes from, and that scoring needs nothing beside.

====================  ==================================================================================================
``model.json``        what does not change while it trains: method, settings, bags, recipe, seed, choice rule; see below
``last.safetensors``  the network at the last checkpoint
``best.safetensors``  the network at the best checkpoint by the choice rule; absent where nothing was measured
``state.safetensors`` network and optimisers at the last checkpoint: what a training resumes from
``metrics.jsonl``     one JSON line for each logged iteration and each measurement
====================  ==================================================================================================

How a new video becomes what the network sees stands in ``model.json``: ``recipe`` as `Recipe.to_mapping` gives it,
with ``recipe_digest`` and ``weights_sha256``, and names, ``set_name``, ``preset`` and ``weights_name``; then ``rule``,
``num_segments`` (None: as many as the video has clips), ``crop_pool``, ``bags_seed``, ``num_crops`` and ``dim``.
So do ``method``, ``variant`` and ``settings``; ``classes``, names in the order of the network's; ``measure`` and
``choice``, what was measured while it trained and which checkpoint is best; ``training``; and what a training that
resumes knows its bags by, ``videos_sha256``, ``bags_sha256`` and ``inputs``. Older models lack some of these.

The network's files carry their iteration and measurement in the JSON of their header, under ``vadx``, and the sha256 of
that and of their tensors; ``model.json`` carries a check of its own, which an older one lacks. Each file appears
whole or not at all. No clock time, machine or path stands in them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import StoreError, UsageError, WeightsError
from ..extract.checkpoints import check_header_length
from ..features.checked_json import CHECK, with_check, without_check
from ..features.plain_json import load_json, parse_json
from ..features.publish import publish_bytes
from .methods import Method, find_method

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL_VERSION = 1
Which = Literal["last", "best"]

OPTION = "--to"
"""What names a model's folder on the command line while it is trained."""

MODEL_JSON = "model.json"
METRICS = "metrics.jsonl"
STATE = "state.safetensors"

_HEADER, _DIGEST = "vadx", "sha256"
"""Name of the JSON in a file's header, and in that of the sha256 of its other members and of the tensors."""
_HEADER_MEMBERS = frozenset({"iteration", "measured", "last", "best"})


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a training: iterations done, and what was measured then, None where nothing was."""

    iteration: int
    measured: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A trained network in evaluation mode, its method, which one it is, and what ``model.json`` says."""

    method: Method
    network: nn.Module
    which: Which
    mark: Mark
    facts: Mapping[str, Any]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header as one safetensors file, which replaces another at once.

    Raises
    ------
    StoreWriteError
        if the disk refused.
    """
    # Without a copy of its own, a tensor that shares memory with another is refused.
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    # One text, because the library writes several in no fixed order.
    content = save(own, {_HEADER: json.dumps({**header, _DIGEST: _digest(own, header)}, sort_keys=True)})
    publish_bytes(content, path, path.parent, replace=True, option=OPTION)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote. Raises `StoreError` for another file or a damaged one."""
    try:
        _refuse_special(path)
        check_header_length(path)
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = dict(parse_json((file.metadata() or {})[_HEADER]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except (OSError, SafetensorError, WeightsError, KeyError, ValueError, TypeError) as error:
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        msg = f"{path}: not a file of a vadx model, or a damaged one{reason}; {_cure(path)}"
        raise StoreError(msg) from error
    digest = header.pop(_DIGEST, None)
    # Files of an older vadx hold no digest.
    if not header.keys() <= _HEADER_MEMBERS or (digest is not None and digest != _digest(tensors, header)):
        msg = f"{path}: its tensors are not those that were written, so it is damaged; {_cure(path)}"
        raise StoreError(msg)
    return tensors, header


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _cure(path: Path) -> str:
    """Say what to do about a file that cannot be used: another of the folder may be sound."""
    if path.name == STATE:
        return "remove it, and the same command trains from the beginning"
    others = (path.with_name(f"{which}.safetensors") for which in ("best", "last"))
    other = next(
        (f"try the other network, --which {one.stem}; or " for one in others if one != path and one.exists()), ""
    )
    return f"{other}train again, into another folder: vadx train {OPTION} FOLDER"


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    wrong = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if wrong:
        msg = (
            f"{path}: {len(wrong)} of its {len(tensors)} tensors hold NaN or infinity, {wrong[0]} the first, and so "
            f"would all scores; {_cure(path)}"
        )
        raise StoreError(msg)


def write_network(folder: Path, which: Which, network: nn.Module, mark: Mark) -> None:
    """Write the network as ``last`` or ``best``. Raises `StoreWriteError`."""
    write_tensors(folder / f"{which}.safetensors", network.state_dict(), dataclasses.asdict(mark))


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``model.json``. Raises `StoreWriteError`."""
    text = json.dumps(with_check({"vadx_model": MODEL_VERSION, **facts}), indent=2, sort_keys=True) + "\n"
    publish_bytes(text.encode(), folder / MODEL_JSON, folder, replace=True, option=OPTION)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read ``model.json``.

    Raises
    ------
    StoreError
        if there is none, it is damaged, or a newer vadx wrote it.
    """
    path = folder / MODEL_JSON
    try:
        facts: dict[str, Any] = load_json(path)
        version = facts.pop("vadx_model")
        if type(version) is not int:
            msg = f"vadx_model is {version!r}"
            raise ValueError(msg)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"{path}: this is no model of vadx ({reason}); name the folder that vadx train wrote"
        raise StoreError(msg) from error
    if version > MODEL_VERSION:
        msg = f"{path}: a newer vadx wrote it (model format {version}); update vadx"
        raise StoreError(msg)
    try:
        facts = without_check({"vadx_model": version, **facts})
    except ValueError as error:
        msg = f"{path}: {error}; restore it from a copy, or take its {CHECK!r} out if the change is meant"
        raise StoreError(msg) from error
    del facts["vadx_model"]
    return facts


def _refuse_special(path: Path) -> None:
    # Opening a named pipe waits for a writer, for ever.
    if path.exists() and not path.is_file():
        msg = f"{path.name} is no file"
        raise OSError(msg)


_LARGEST_DIM = 1_000_000
_MOST_SEGMENTS = 100_000


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


_FACTS: Mapping[str, tuple[str, Callable[[object], bool]]] = MappingProxyType(
    {
        "method": ("a name", lambda value: isinstance(value, str)),
        "settings": ("a table", lambda value: isinstance(value, dict)),
        "dim": (f"from 1 to {_LARGEST_DIM}", lambda value: _is_count(value, _LARGEST_DIM)),
        "num_crops": ("1 or more", lambda value: _is_count(value, _LARGEST_DIM)),
        "num_segments": (
            f"null, or from 1 to {_MOST_SEGMENTS}",
            lambda value: value is None or _is_count(value, _MOST_SEGMENTS),
        ),
        "rule": ("a name", lambda value: isinstance(value, str)),
        "recipe_digest": ("a digest", lambda value: isinstance(value, str)),
    }
)
"""What scoring reads of ``model.json`` and cannot do without: what each must be, in words and as a check."""

_OTHER_FACTS: Mapping[str, tuple[str, Callable[[object], bool]]] = MappingProxyType(
    {
        "crop_pool": ("a text, or a crop's number", lambda v: isinstance(v, str) or (type(v) is int and v >= 0)),
        "bags_seed": ("0 or more", lambda value: type(value) is int and value >= 0),
        "classes": ("names", lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value)),
        "set_name": ("null or a name", lambda value: value is None or isinstance(value, str)),
        "inputs": ("a table", lambda value: isinstance(value, dict)),
    }
)
"""What it reads where it is there."""


def _check_facts(path: Path, facts: Mapping[str, Any]) -> None:
    missing = [name for name in _FACTS if name not in facts]
    if missing:
        msg = f"{path}: this is no model of vadx (it lacks {', '.join(missing)}); name the folder that vadx train wrote"
        raise StoreError(msg)
    for name, (what, holds) in {**_FACTS, **_OTHER_FACTS}.items():
        if name in facts and not holds(facts[name]):
            msg = f"{path}: its {name} is {_shortened(facts[name])}, not {what}; restore it from a copy, or train again"
            raise StoreError(msg)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def read_model(folder: Path, which: Which = "last") -> Model:
    """Read a trained model, ready to score.

    Raises
    ------
    StoreError
        if the folder is no model, or the file asked for is missing or damaged, or holds numbers that are none.
    UsageError
        if its method or a setting of it is unknown here, or no best was chosen.
    """
    facts = read_facts(folder)
    _check_facts(folder / MODEL_JSON, facts)
    path = folder / f"{which}.safetensors"
    if which == "best" and not path.exists():
        msg = f"{folder} has no best network ({facts['choice']}); ask for the last one"
        raise UsageError(msg)
    if not path.exists():
        msg = f"{folder} has no {path.name}: its training came to no checkpoint yet; repeat the command that trains it"
        raise StoreError(msg)
    tensors, header = read_tensors(path)
    _check_finite(path, tensors)
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in facts["settings"].items()}
    method = find_method(facts["method"]).make(**settings)
    try:
        network = method.network(facts["dim"])
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{folder / MODEL_JSON}: no network can be made by its settings ({reason}); restore it from a copy"
        raise StoreError(msg) from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        msg = f"{path}: its tensors do not fit {MODEL_JSON} beside it ({error}); {_cure(path)}"
        raise StoreError(msg) from error
    return Model(method, network.eval(), which, Mark(**header), facts)
