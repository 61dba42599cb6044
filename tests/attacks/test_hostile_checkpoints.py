"""Checkpoints and models of strangers: nothing in them is run, and nothing larger than they are is taken in memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from vadx.errors import StoreError, VadxError, WeightsError
from vadx.extract import weights
from vadx.extract.checkpoints import MAX_HEADER_BYTES, load_state, read_checkpoint
from vadx.pipelines.model_folder import MODEL_JSON, read_facts, read_model, read_tensors

NUM_CLAIMED = 1 << 24
"""Numbers in a tensor that takes a few bytes in its file: 64 MiB of memory."""


class _Runs:
    """Runs a command where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._command = f"touch {canary}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self._command,))


def _zip(path: Path, canary: Path) -> None:
    torch.save({"weight": _Runs(canary)}, path)


def _legacy(path: Path, canary: Path) -> None:
    torch.save({"weight": _Runs(canary)}, path, _use_new_zipfile_serialization=False)


def _tar(path: Path, canary: Path) -> None:
    """Write torch's format before 0.1.10: a tar archive of pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            data = pickle.dumps(_Runs(canary))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _bare(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": _Runs(canary)}))


def _array_file(path: Path, canary: Path) -> None:
    np.savez(path.with_suffix(".npz"), weight=np.array([_Runs(canary)], dtype=object))
    path.with_suffix(".npz").replace(path)


EVIL: Mapping[str, tuple[str, Callable[[Path, Path], None]]] = {
    "zip": ("a.pt", _zip),
    "legacy": ("a.pth", _legacy),
    "tar": ("a.pt", _tar),
    "pickle": ("a.pkl", _bare),
    "pickle named safetensors": ("a.safetensors", _bare),
    "npz": ("a.npz", _array_file),
}


@pytest.mark.parametrize("environment", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}], ids=["plain", "forced"])
@pytest.mark.parametrize("kind", EVIL)
def test_nothing_in_a_checkpoint_is_run(
    kind: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, make = EVIL[kind]
    make(tmp_path / name, tmp_path / "canary")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    for read in (read_checkpoint, weights.read_own):
        with pytest.raises(WeightsError) as caught:
            read(tmp_path / name)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_have_appeared(tmp_path: Path) -> None:
    _zip(tmp_path / "a.pt", tmp_path / "canary")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "canary").exists()


def _expanded_view(path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(NUM_CLAIMED), "bias": torch.zeros(1)}, path)


def _deflated(path: Path) -> None:
    image = io.BytesIO()
    torch.save({"weight": torch.zeros(NUM_CLAIMED), "bias": torch.zeros(1)}, image)
    with zipfile.ZipFile(image) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small:
        for name in whole.namelist():
            small.writestr(name, whole.read(name))


def _deflated_arrays(path: Path) -> None:
    np.savez_compressed(path, weight=np.zeros(NUM_CLAIMED, np.float32))


def _long_header(path: Path) -> None:
    header = b'{"__metadata__":{"vadx":"{}"}' + b" " * MAX_HEADER_BYTES + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def _claimed_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def _claimed_values(path: Path) -> None:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def _far_memo(path: Path) -> None:
    # The memo of Python's reader becomes as long as this index says: 800 MB.
    path.write_bytes(b"\x80\x02}r" + struct.pack("<I", 50_000_000) + b".")


def _overlapping(path: Path) -> None:
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"weight": one, "bias": one}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


BOMBS: Mapping[str, tuple[str, Callable[[Path], None], str]] = {
    "a view of one number": ("a.pt", _expanded_view, "does not fit"),
    "deflated": ("a.pt", _deflated, "would unpack to"),
    "deflated arrays": ("a.npz", _deflated_arrays, "would unpack to"),
    "a long header": ("a.safetensors", _long_header, f"more than {MAX_HEADER_BYTES}"),
    "a header without end": ("a.safetensors", _claimed_header, f"more than {MAX_HEADER_BYTES}"),
    "values that are not there": ("a.safetensors", _claimed_values, "its layout is not one"),
    "a far place in a pickle's memo": ("a.pkl", _far_memo, "the pickle is broken"),
    "values that are there twice": ("a.safetensors", _overlapping, "its layout is not one"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_takes_little_memory(kind: str, tmp_path: Path) -> None:
    name, make, words = BOMBS[kind]
    make(tmp_path / name)
    # The most memory that this process had becomes what it has now, where the system lets it.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _most_memory_bytes()
    with pytest.raises(WeightsError, match=words):
        load_state(nn.Linear(1, 1), read_checkpoint(tmp_path / name), name)
    assert _most_memory_bytes() - before < 32 << 20


def _most_memory_bytes() -> int:
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) * 1024


@pytest.mark.parametrize("kind", ["a long header", "a header without end", "values that are not there"])
def test_a_models_tensors_are_refused_alike(kind: str, tmp_path: Path) -> None:
    _, make, _ = BOMBS[kind]
    make(tmp_path / "last.safetensors")
    with pytest.raises(StoreError, match="not a file of a vadx model"):
        read_tensors(tmp_path / "last.safetensors")


@pytest.mark.parametrize("kind", EVIL)
def test_nothing_in_a_model_is_run(kind: str, tmp_path: Path) -> None:
    facts = {
        "vadx_model": 1,
        "method": "deep-mil",
        "settings": {},
        "dim": 8,
        "num_crops": 1,
        "num_segments": 32,
        "rule": "linspace",
        "recipe_digest": "0" * 64,
    }
    (tmp_path / MODEL_JSON).write_text(json.dumps(facts))
    EVIL[kind][1](tmp_path / "last.safetensors", tmp_path / "canary")
    with pytest.raises(VadxError):
        read_model(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_a_models_method_is_a_row_of_a_table(tmp_path: Path) -> None:
    facts = {"vadx_model": 1, "settings": {}, "dim": 8, "num_crops": 1, "num_segments": 32, "rule": "linspace"}
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "last.safetensors", {"vadx": '{"iteration": 1}'})
    for method in ("os.system", "../evil", "builtins:eval", "a\x1b[2J"):
        (tmp_path / MODEL_JSON).write_text(json.dumps({**facts, "recipe_digest": "0" * 64, "method": method}))
        with pytest.raises(VadxError):
            read_model(tmp_path)
    assert read_facts(tmp_path)["method"] == "a\x1b[2J"
