"""Small JSON objects that certify themselves: one member, ``check``, is taken from all the others.

A flipped bit in a name or a number is still JSON. Objects that an older vadx wrote have no ``check``.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECK = "check"
_IS_CHECK = re.compile(r"[0-9a-f]{16}")


def with_check(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Give the object to write."""
    return {**mapping, CHECK: _check_of(mapping)}


def without_check(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Give what `with_check` was given, from what was read.

    Raises
    ------
    ValueError
        if it is not what was written.
    """
    mapping = dict(raw)
    found = mapping.pop(CHECK, None)
    # A flipped bit in its name would make it a member like others.
    renamed = found is None and any(isinstance(one, str) and _IS_CHECK.fullmatch(one) for one in mapping.values())
    if renamed or (found is not None and found != _check_of(mapping)):
        msg = "it was changed after it was written"
        raise ValueError(msg)
    return mapping


def _check_of(mapping: Mapping[str, Any]) -> str:
    text = json.dumps(mapping, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
