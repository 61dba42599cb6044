"""What a guard is that `sabotage` removes, and how the tests of attacks are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """``old`` stands once in ``file``; ``new`` in its place removes the guard, and ``test`` must then fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


def attack(module: str, test: str) -> str:
    """Name a test of ``tests/attacks``."""
    return f"tests/attacks/test_hostile_{module}.py::{test}"


def hdf5_attack(name: str, kind: str = "shard") -> str:
    """Name the test of one attack by an HDF5 file."""
    return attack("hdf5", f"test_it_is_refused_before_its_data_is_read[{kind}-{name}]")
