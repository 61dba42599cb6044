from __future__ import annotations

import builtins
import io
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from vadx.errors import WeightsError
from vadx.extract.checkpoints import load_state, read_array_pickle, read_checkpoint

SEED = 20261122


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


class Built:
    """Pickles as an object that is given a state."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any) -> None:
        self._parts = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self._parts


REBUILD: Any = np.empty(0).__reduce__()[0]
EMPTY = (np.ndarray, (0,), b"b")


def flagged_type(code: str, flags: int) -> Built:
    """Pickle a dtype whose state claims other flags than its kind has."""
    return Built(np.dtype, (code, False, True), (3, "|", None, None, None, -1, -1, flags))


EVIL: dict[str, Callable[[str], Any]] = {
    "os.system": lambda canary: Calls(os.system, f"touch {canary}"),
    "builtins.eval": lambda canary: Calls(eval, f"open({canary!r}, 'w')"),
    "builtins.getattr": lambda _: Calls(getattr, "", "join"),
    "open": lambda canary: Calls(open, canary, "w"),
    "nested": lambda canary: {"params": [({"a": Calls(os.system, f"touch {canary}")},)], "batch_stats": {}},
    "in an array of objects": lambda canary: np.array([Calls(os.system, f"touch {canary}"), 1], dtype=object),
    "as an array's shape": lambda canary: Calls(REBUILD, np.ndarray, Calls(os.system, f"touch {canary}"), b"b"),
    "as an array's state": lambda canary: Built(REBUILD, EMPTY, Calls(os.system, f"touch {canary}")),
    "numpy.load": lambda canary: Calls(np.load, canary),
    "numpy.memmap": lambda canary: Calls(np.memmap, canary, "u1", "w+", 0, (1,)),
    "numpy.fromfile": lambda _: Calls(np.fromfile, "/etc/hostname", "u1"),
    "torch.load": lambda canary: Calls(torch.load, canary),
    "array of objects": lambda _: np.array([{}, []], dtype=object),
    "structured array": lambda _: np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
    "array of texts": lambda _: np.array(["a", "b"]),
    "objects out of bytes": lambda _: Built(REBUILD, EMPTY, (1, (1,), flagged_type("O8", 0), False, b"A" * 8)),
    "numbers as objects": lambda _: Built(REBUILD, EMPTY, (1, (1,), flagged_type("f8", 63), False, b"A" * 8)),
    "more elements than bytes": lambda _: Built(REBUILD, EMPTY, (1, (1 << 20,), np.dtype("f4"), False, b"A" * 8)),
    "no bytes": lambda _: Built(REBUILD, EMPTY, (1, (1,), np.dtype("f4"), False, [1.0])),
    "an array without a state": lambda _: Calls(REBUILD, np.ndarray, (1 << 40,), b"b"),
    "a memory bomb": lambda _: Calls(np.ndarray, (1 << 45,)),
}
HARMLESS = {"numbers as objects"}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", EVIL)
def test_a_pickle_that_is_no_tree_of_numbers_is_refused_and_runs_nothing(
    tmp_path: Path, name: str, protocol: int
) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps(EVIL[name](str(canary)), protocol)
    if name in HARMLESS:
        # What the pickle claims of its types is not looked at.
        np.testing.assert_array_equal(read_array_pickle(data), np.frombuffer(b"A" * 8, "f8"))
    else:
        with pytest.raises(WeightsError):
            read_array_pickle(data)
    assert not canary.exists()


def test_the_canary_would_have_appeared(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(EVIL["nested"](str(canary))))  # noqa: S301
    assert canary.exists()


def global_of(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        global_of("os", "system") + b".",
        global_of("builtins", "eval") + b".",
        global_of("numpy", "ndarray") + b".",
        global_of("numpy", "dtype") + b".",
        global_of("numpy.core.multiarray", "__loader__.exec_module") + b".",
        b"\x80\x04Pname\n.",
        b"\x80\x04K\x01Q.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04]\x94h\x00a.",
        b"",
        b"\x80",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x63.",
        b"(" * 1000 + b".",
    ],
    ids=repr,
)
def test_odd_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(WeightsError):
        read_array_pickle(data)


def test_a_tree_of_arrays_is_read_back() -> None:
    random = np.random.default_rng(SEED)
    kernel = random.normal(size=(2, 3, 4))
    tree = {
        "little": kernel.astype("<f4"),
        "big": kernel.astype(">f8"),
        "fortran": np.asfortranarray(kernel),
        "half": kernel.astype(np.float16),
        "whole": np.arange(-3, 3, dtype=np.int64),
        "truth": np.array([True, False]),
        "scalar": np.array(2.5),
        "none": np.zeros((0, 3), np.float32),
        "plain": [1, 2.5, "x", None, (b"y", True)],
    }
    for protocol in (3, 4):
        got = read_array_pickle(pickle.dumps(tree, protocol))
        assert list(got) == list(tree)
        assert got["plain"] == tree["plain"]
        for name, array in tree.items():
            if isinstance(array, np.ndarray):
                np.testing.assert_array_equal(got[name], array)
                assert got[name].dtype == array.dtype.newbyteorder("=")
                assert got[name].flags.writeable


def mutants(data: bytes, number: int) -> list[bytes]:
    random = np.random.default_rng(SEED)
    made = []
    for _ in range(number):
        mutant = bytearray(data)
        for _ in range(int(random.integers(1, 5))):
            byte = int(random.integers(256))
            # CPython prints a complaint of its own about a broken BYTEARRAY8.
            mutant[int(random.integers(len(mutant)))] = byte if byte != 0x96 else 0
        made.append(bytes(mutant))
    return made


def test_broken_pickles_raise_nothing_else() -> None:
    tree = {"params": {"a": {"k": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}}, "n": [1, (3, "x")]}
    refused = 0
    for mutant in mutants(pickle.dumps(tree, 4), 1500):
        try:
            read_array_pickle(mutant)
        except WeightsError:
            refused += 1
    assert refused > 1000


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_broken_torch_files_raise_nothing_else(tmp_path: Path, network: nn.Module, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    broken = mutants(whole, 300) + [whole[: len(whole) * i // 40] for i in range(40)]
    if not legacy:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        (listed,) = [name for name in parts if name.endswith("data.pkl")]
        for mutant in mutants(parts[listed], 300):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in parts.items():
                    archive.writestr(name, mutant if name == listed else content)
            broken.append(file.getvalue())
    refused = 0
    for content in broken:
        path.write_bytes(content)
        try:
            load_state(network, read_checkpoint(path), "a.pt")
        except WeightsError:
            refused += 1
    assert refused > len(broken) // 2


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("environment", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "nested", "open"])
def test_an_evil_torch_file_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, environment: str | None, legacy: bool
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "a.pt"
    torch.save({"x": EVIL[name](str(canary))}, path, _use_new_zipfile_serialization=not legacy)
    if environment:
        monkeypatch.setenv(environment, "1")
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert not canary.exists()
    assert "weights_only" not in str(caught.value)
    if environment:
        assert "unset it" in str(caught.value)


def test_a_good_file_is_not_read_where_the_environment_lets_files_run_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: nn.Module
) -> None:
    torch.save(network.state_dict(), tmp_path / "a.pt")
    assert set(read_checkpoint(tmp_path / "a.pt")) == set(network.state_dict())
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(WeightsError, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set; unset it"):
        read_checkpoint(tmp_path / "a.pt")


NO_CHECKPOINT = {
    "page": (b"<!DOCTYPE html>\n<html><title>404</title></html>", "is a web page, not a checkpoint"),
    "shy page": (b"\n  <HTML><BODY>moved</BODY></HTML>", "is a web page, not a checkpoint"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 50830672\n",
        "is a git-lfs pointer, not a checkpoint",
    ),
    "empty": (b"", ""),
    "text": (b"hello\n" * 10, ""),
}


@pytest.mark.parametrize("extension", ["pt", "pth", "ckpt", "safetensors"])
@pytest.mark.parametrize("name", NO_CHECKPOINT)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, name: str, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    content, says = NO_CHECKPOINT[name]
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert says in message
    assert "weights_only" not in message


@pytest.mark.parametrize("extension", ["pt", "safetensors", "ckpt"])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, network: nn.Module, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    if extension == "safetensors":
        safetensors.torch.save_file(network.state_dict(), path)
    elif extension == "ckpt":
        path.write_bytes(pickle.dumps({"params": {"a": np.zeros(1000)}, "batch_stats": {}}))
    else:
        torch.save(network.state_dict(), path)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(WeightsError) as caught:
            read_checkpoint(path)
        assert str(path) in str(caught.value)
        assert "weights_only" not in str(caught.value)


def test_every_format_gives_the_same_tensors(tmp_path: Path, network: nn.Module) -> None:
    state = network.state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tmp_path / "c.safetensors")
    for name in ("a.pt", "b.pth", "c.safetensors"):
        got = read_checkpoint(tmp_path / name)
        assert set(got) == set(state)
        assert all(torch.equal(got[key], state[key]) for key in state)


def python2_pickle(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """Write what Python 2's cPickle wrote of a dict of blobs under protocol 2: bytes are text, names of numpy 1."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    out = b"\x80\x02}(" + text(b"blobs") + b"}("
    for name, array in arrays.items():
        kind = array.dtype.str.lstrip("<|").encode()
        out += text(name.encode()) + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b")
        out += b"tR(K\x01(" + b"".join(b"J" + n.to_bytes(4, "little") for n in array.shape) + b"t"
        out += (
            b"cnumpy\ndtype\n("
            + text(kind)
            + b"K\x00K\x01tR(K\x03"
            + text(b"<")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        out += b"\x89" + text(array.tobytes()) + b"tb"
    return out + b"uu."


def test_the_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    random = np.random.default_rng(SEED)
    blobs = {"conv1_w": random.normal(size=(2, 3, 4)).astype(np.float32), "pred_b": np.arange(5, dtype=np.float64)}
    (tmp_path / "a.pkl").write_bytes(python2_pickle(blobs))
    got = read_checkpoint(tmp_path / "a.pkl")
    assert set(got) == set(blobs)
    for name, array in blobs.items():
        np.testing.assert_array_equal(got[name].numpy(), array)


def test_a_file_of_plain_arrays_is_read_and_one_of_objects_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.arange(3.0))
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "a.npz")["w"].numpy(), np.arange(3.0))
    np.savez(tmp_path / "b.npz", w=np.array([{}, 1], dtype=object))
    with pytest.raises(WeightsError, match="plain numpy arrays"):
        read_checkpoint(tmp_path / "b.npz")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_program_is_run_only_where_its_hash_was_checked(tmp_path: Path, network: nn.Module) -> None:
    torch.jit.save(torch.jit.script(network), tmp_path / "a.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(WeightsError, match="a TorchScript program"):
        read_checkpoint(tmp_path / "a.pt")
    got = read_checkpoint(tmp_path / "a.pt", trusted_torchscript=True)
    assert all(torch.equal(got[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {f"module.{k}": s[k] for k in s}])
def test_what_training_scripts_put_around_a_state_is_taken_off(
    tmp_path: Path, network: nn.Module, wrap: Callable[[Any], Any]
) -> None:
    torch.save(wrap(dict(network.state_dict())), tmp_path / "a.pt")
    assert set(read_checkpoint(tmp_path / "a.pt")) == set(network.state_dict())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("0.weight"), "missing: 0.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "unknown: extra"),
        (lambda s: s.update({"0.weight": torch.zeros(3, 4)}), "0.weight is (3, 4), expected (4, 3)"),
        (lambda s: s.update({"0.weight": [1.0]}), "0.weight is no tensor but list, expected (4, 3)"),
        (lambda s: s.update({7: torch.zeros(1)}), "unknown: 7"),
        (lambda s: s.clear(), "missing: 0.weight, 0.bias, 1.weight and 3 more"),
        (lambda s: s.update({str(i): 0 for i in range(10, 15)}), "unknown: 10, 11, 12 and 2 more"),
    ],
)
def test_a_state_that_does_not_fit_is_described(
    network: nn.Module, change: Callable[[dict[Any, Any]], object], says: str
) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state: dict[Any, Any] = {key: value + 1 for key, value in before.items()}
    change(state)
    with pytest.raises(WeightsError) as caught:
        load_state(network, state, "a.pt")
    assert str(caught.value).startswith("a.pt does not fit Sequential: ")
    assert says in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_counters_of_training_steps_may_be_missing(network: nn.Module) -> None:
    state = {k: v + 1 for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_state(network, state, "a.pt")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


def test_the_published_pickle_needs_only_what_is_admitted() -> None:
    arrays = pickle.dumps({"a": np.zeros(3, np.float32)}, 4)
    names = {argument for code, argument, _ in pickletools.genops(arrays) if code.name == "SHORT_BINUNICODE"}
    assert {"_reconstruct", "ndarray", "dtype"} <= names
    assert not names & set(dir(builtins))
