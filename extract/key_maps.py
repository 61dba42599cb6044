"""Published layouts of checkpoints, recognised from their keys and converted to our networks' names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KeyMap:
    """One published layout of one network.

    ``matches`` is asked with the names at the top of the file, wrappers such as ``state_dict`` and ``module.`` taken
    off; it must not hold for a state dict of our own names, unless ``convert`` leaves such a one alone. ``convert``
    turns what they hold (tensors, or numpy arrays where the file was no torch file) into a state dict of our names,
    and leaves names that it does not know as they are, so that loading can name them. ``source`` is the repository
    whose layout it is.
    """

    name: str
    matches: Callable[[Collection[str]], bool]
    convert: Callable[[State], dict[str, Tensor]]
    source: str


def rename(state: State, rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename keys by regular expressions, each rule applied once to every key, in order."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        new = key
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new, count=1)
        renamed[new] = value
    return renamed


_WRAPPERS = ("state_dict", "model_state", "model", "net", "blobs")
_PREFIXES = ("module.", "backbone.module.")


def unwrap(tree: Any) -> Any:
    """Take off what training scripts put around a state dict: a named container, and DataParallel's ``module.``."""
    for name in _WRAPPERS:
        if isinstance(tree, Mapping) and isinstance(tree.get(name), Mapping):
            tree = tree[name]
    if not isinstance(tree, Mapping) or not tree:
        return tree
    for prefix in _PREFIXES:
        if all(isinstance(key, str) and key.startswith(prefix) for key in tree):
            tree = {key.removeprefix(prefix): value for key, value in tree.items()}
    return tree


def to_own_names(tree: State, maps: Sequence[KeyMap]) -> dict[str, Tensor]:
    """Convert an unwrapped checkpoint to our names, by the first layout that recognises it.

    What nobody recognises comes back as it is: it has our names already, or `checkpoints.load_state` refuses it with
    its own.
    """
    for layout in maps:
        if layout.matches(tree.keys()):
            return layout.convert(tree)
    return dict(tree)
