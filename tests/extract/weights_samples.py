"""Weights of the network `tiny`, and packages that carry them."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from vadx.extract import weights
from vadx.extract.backbones import find_backbone
from vadx.extract.package_source import PackageMember
from vadx.extract.weights import WeightsEntry

MEMBER = "tinyweights/data/tiny.pt"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def checkpoint(seed: int = 0) -> bytes:
    """Give a torch checkpoint of the network `tiny`."""
    generator = torch.Generator().manual_seed(seed)
    state = find_backbone("tiny").build({}).state_dict()
    file = io.BytesIO()
    torch.save({key: torch.randn(value.shape, generator=generator) for key, value in state.items()}, file)
    return file.getvalue()


CHECKPOINT = checkpoint()
OTHER = checkpoint(1)


def entry(**changes: Any) -> WeightsEntry:
    plain = WeightsEntry(
        name="tiny-weights",
        backbone="tiny",
        file_name="tiny.pt",
        sources=(),
        num_bytes=len(CHECKPOINT),
        licence="Apache-2.0",
        trained_for="tiny-default",
        label="test",
        sha256=sha256(CHECKPOINT),
    )
    return replace(plain, **changes)


def use(monkeypatch: pytest.MonkeyPatch, *entries: WeightsEntry) -> None:
    monkeypatch.setattr(weights, "WEIGHTS", MappingProxyType({e.name: e for e in entries}))


def tensors(data: bytes) -> dict[str, Tensor]:
    return torch.load(io.BytesIO(data), weights_only=True)  # type: ignore[no-any-return]


def assert_loads(expected: bytes = CHECKPOINT) -> None:
    got, state = weights.load("tiny-weights"), tensors(expected)
    assert set(got) == set(state)
    assert all(torch.equal(got[key], state[key]) for key in state)


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def known_as(path: Path, member: bytes, **changes: Any) -> PackageMember:
    plain = PackageMember(
        requirement="tinyweights==1.0",
        archive_sha256=sha256(path.read_bytes()),
        member=MEMBER,
        member_sha256=sha256(member),
        member_bytes=len(member),
    )
    return replace(plain, **changes)


def make_wheel(folder: Path, member: bytes = CHECKPOINT, name: str = MEMBER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    info = "tinyweights-1.0.dist-info"
    contents = {
        name: member,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    listed = [
        f"{key},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for key, data in contents.items()
    ]
    contents[f"{info}/RECORD"] = "\n".join([*listed, f"{info}/RECORD,,", ""]).encode()
    path = folder / "tinyweights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for key, data in contents.items():
            archive.writestr(key, data)
    return path


def make_sdist(folder: Path, entries: list[tuple[str, bytes | None, str]]) -> Path:
    """Write an archive of ``(name, content, link target)``; a content of None makes a link."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tinyweights-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content, target in entries:
            info = tarfile.TarInfo(name)
            if content is None:
                kind, _, info.linkname = target.partition(":")
                info.type = {"symbolic": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}[kind]
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path
