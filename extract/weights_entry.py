"""What a row of the table of weights says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .package_source import PackageMember


@dataclass(frozen=True, slots=True)
class WeightsEntry:
    """One published checkpoint.

    ``sources`` are tried in order: a URL as text, or a `PackageMember`. ``sha256`` is None where the publisher states
    none: then the first one fetched is recorded and held from then on. ``sha256_prefix`` is a part that the publisher
    put into the file's name. ``trained_for`` is a preset; ``label`` names what it was trained on in a feature set's
    folder. ``caution`` is told to whoever extracts with it. ``kind`` says what the file holds: a network of
    ``backbone``, a mean for every pixel of a clip, a network that computes flow, or a detector, which then is what
    ``backbone`` names. ``torchscript``: the file is a TorchScript program, run to get at its tensors once its hash is
    checked.
    """

    name: str
    backbone: str
    file_name: str
    sources: tuple[str | PackageMember, ...]
    num_bytes: int | None
    licence: str
    trained_for: str
    label: str
    sha256: str | None = None
    sha256_prefix: str = ""
    caution: str = ""
    kind: Literal["network", "mean_cube", "flow", "detector"] = "network"
    torchscript: bool = False

    def __post_init__(self) -> None:
        if self.torchscript and self.sha256 is None:
            msg = f"weights {self.name}: a program is run only with a known sha256"
            raise ValueError(msg)
