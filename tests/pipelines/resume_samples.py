"""A long video whose network is watched, and ended as by a kill."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import Ran

Vadx = Callable[..., Ran]

BLOCK = 5
NUM_CLIPS = 30


class KilledError(BaseException):
    """Ends a run as a kill does, as far as what stands on disk goes: nothing is written on the way out."""


@dataclass(slots=True)
class Network:
    """What the network is given, padding left out; ``at`` says what happens before which of its inputs."""

    num_inputs: int = 0
    at: dict[int, Callable[[], object]] = field(default_factory=dict)
    outputs: Callable[[Any], Any] = lambda values: values

    def restart(self, **at: Callable[[], object]) -> None:
        self.num_inputs = 0
        self.at = {int(number.removeprefix("i")): what for number, what in at.items()}


def kill() -> None:
    raise KilledError


def tmp_of(store: Path) -> list[str]:
    """Give the names in ``tmp``, without what tells one kind of work from another."""
    return sorted(re.sub(r"\.[0-9a-f]{8}\.", ".", path.name) for path in store.glob("*/tmp/*"))


def file_of(store: Path) -> Path:
    (path,) = store.glob("*/tmp/*.resume")
    return path


def killed(vadx_here: Vadx, network: Network, at: int, *arguments: str | Path) -> None:
    network.restart(**{f"i{at}": kill})
    with pytest.raises(KilledError):
        vadx_here(*arguments)
