"""The OpenVINO engine against torch: how near, how constant, and what happens where it cannot run."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from support import Ran, make_video
from vadx.errors import UsageError
from vadx.extract import engines, openvino_network
from vadx.extract.engine import PRECISIONS, Engine, check_engine
from vadx.extract.engines import DEFAULT_ENGINE, ENGINES, PREFERENCE, choose_engine
from vadx.extract.library import Backbone, extract_video, load_backbone
from vadx.extract.openvino_network import ModelCache
from vadx.extract.transforms import Normalizer
from vadx.extract.video import VideoReader
from vadx.features import Store
from vadx.features.recipe import Transform

openvino = pytest.importorskip("openvino")

Vadx = Callable[..., Ran]
CPU = torch.device("cpu")
SCALE = Transform(kernel="pil", resize=256, crop=224, center_rounding="floor", scale=2 / 255, offset=-1.0)
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
# I3D is there below with its real weights, on real frames.
NETWORKS = {
    "c3d": (3, 16, 112, 112),
    "r2plus1d": (3, 8, 56, 56),
    "tsn-bninception": (3, 224, 224),
    "i3d-resnet50": (3, 16, 96, 96),
}


def relative_l2(got: Any, expected: Any) -> float:
    difference = np.linalg.norm(np.asarray(got, np.float64) - np.asarray(expected, np.float64))
    return float(difference / np.linalg.norm(np.asarray(expected, np.float64)))


def smallest_cosine(got: Any, expected: Any) -> float:
    a, b = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def calibrate(network: nn.Module, inputs: Tensor) -> None:
    """Give BatchNorm layers statistics as of a trained network, else the signal dies out and errors with it."""
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.train()
        layer.momentum = 1.0
    with torch.no_grad():
        network(inputs)
    generator = torch.Generator().manual_seed(1)
    for layer in layers:
        layer.eval()
        assert layer.running_mean is not None
        assert layer.running_var is not None
        noise = torch.randn(layer.running_mean.shape, generator=generator)
        layer.running_mean += 0.1 * noise * layer.running_var.sqrt()
        layer.running_var *= 0.8 + 0.4 * torch.rand(noise.shape, generator=generator)


def engine_of(network: nn.Module, **changes: Any) -> Engine:
    options = {"device": CPU, "precision": "fp32", "batch": 2, "engine": "openvino", **changes}
    return Engine(network, SCALE, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_equal_torchs(name: str) -> None:
    network = load_backbone(name, "random:1").network
    inputs = torch.randint(0, 256, (3, *NETWORKS[name]), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    calibrate(network, Normalizer(SCALE, None)(inputs, torch.zeros(3, dtype=torch.int64)))
    expected = engine_of(network, engine="torch-eager").run(inputs[:2])
    engine = engine_of(network)
    together = engine.run(inputs[:2])
    assert together.dtype == np.float32
    # Measured: C3D 2.9e-7, BN-Inception 4.8e-6, R(2+1)D 1.1e-5, I3D-ResNet50 3.9e-5.
    assert relative_l2(together, expected) <= 1e-4
    assert relative_l2(together[0], expected[1]) > 1e-3
    # Neither neighbours, nor the place, nor what fills up a short batch changes a value.
    np.testing.assert_array_equal(engine.run(inputs[[2, 0]])[1], together[0])
    np.testing.assert_array_equal(engine.run(inputs[:1])[0], together[0])
    if HAS_BF16:
        rough = engine_of(network, precision="bf16").run(inputs[:2])
        assert rough.dtype == np.float32
        assert relative_l2(rough, expected) > 1e-4
        # Measured: from .9932 (I3D-ResNet50) to 1.0000 (C3D); relative L2 from .001 to .12.
        assert smallest_cosine(rough, expected) >= 0.99


def test_real_features_of_real_frames_equal_torchs(
    real_weights: Path, real_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = real_weights / "weights/i3d-rgb-k400-tfhub.safetensors"
    monkeypatch.setenv("VADX_WEIGHTS", str(real_weights / "weights"))
    monkeypatch.setenv("VADX_HOME", str(tmp_path))
    assert weights.is_file()
    backbone = load_backbone("i3d")
    with VideoReader(real_clips / "bikes.mp4") as reader:
        frames = np.concatenate([block.frames for block in reader])[:64, :224, 100:324]
    clips = torch.from_numpy(frames).reshape(4, 16, 224, 224, 3).permute(0, 4, 1, 2, 3)
    cache = ModelCache(tmp_path / "openvino", "i3d")
    ours = engine_of(backbone.network, batch=4, cache=cache)
    expected = engine_of(backbone.network, batch=4, engine="torch-eager").run(clips)
    got = ours.run(clips)
    # 2.4e-6 was measured.
    assert relative_l2(got, expected) <= 1e-4
    # What comes out of the cache computes the same.
    assert len(list((tmp_path / "openvino").iterdir())) == 1
    np.testing.assert_array_equal(engine_of(backbone.network, batch=4, cache=cache).run(clips), got)
    if HAS_BF16:
        rough = engine_of(backbone.network, batch=4, precision="bf16", cache=cache).run(clips)
        assert smallest_cosine(rough, expected) >= 0.99


@pytest.fixture(autouse=True)
def _table_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PREFERENCE", PREFERENCE)


@pytest.fixture
def tiny() -> Backbone:
    return load_backbone("tiny", "random:3")


@pytest.fixture
def clips() -> Tensor:
    return torch.randint(0, 256, (2, 3, 4, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Give the shapes that networks were converted for."""
    shapes: list[tuple[int, ...]] = []
    original = openvino_network._convert

    def spy(network: nn.Module, shape: tuple[int, ...]) -> Any:
        shapes.append(shape)
        return original(network, shape)

    monkeypatch.setattr(openvino_network, "_convert", spy)
    return shapes


def test_a_network_is_converted_once_for_one_shape(
    tiny: Backbone, clips: Tensor, tmp_path: Path, conversions: list[tuple[int, ...]]
) -> None:
    cache = ModelCache(tmp_path / "openvino", "tiny")
    engine = engine_of(tiny.network, cache=cache)
    first = engine.run(clips)
    engine.run(clips[:1])
    assert conversions == [(2, 3, 4, 24, 24)]
    np.testing.assert_array_equal(engine_of(tiny.network, cache=cache).run(clips), first)
    # Both precisions are compiled from one converted network.
    if HAS_BF16:
        engine_of(tiny.network, cache=cache, precision="bf16").run(clips)
    assert len(conversions) == 1
    engine.run(clips[..., :20])
    assert conversions[1:] == [(2, 3, 4, 24, 20)]
    assert len(list(cache.folder.iterdir())) == 2
    assert engine_of(tiny.network).run(clips).tolist() == first.tolist()
    assert len(conversions) == 3


def test_another_network_is_another_entry(
    tiny: Backbone, clips: Tensor, tmp_path: Path, conversions: list[tuple[int, ...]]
) -> None:
    cache = ModelCache(tmp_path / "openvino", "tiny")
    before = engine_of(tiny.network, cache=cache).run(clips)
    with torch.no_grad():
        next(tiny.network.parameters()).view(-1)[0] += 1
    changed = engine_of(tiny.network, cache=cache).run(clips)
    assert relative_l2(changed, before) > 1e-6
    engine_of(tiny.network, cache=replace(cache, identity="tiny [('pool5', 'ports')]")).run(clips)
    engine_of(tiny.network, cache=cache, batch=1).run(clips[:1])
    assert len(conversions) == len(list(cache.folder.iterdir())) == 4


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "weights": lambda entry: flip(entry / "model.bin"),
    "structure": lambda entry: flip(entry / "model.xml"),
    "cut": lambda entry: (entry / "model.bin").write_bytes(b""),
    "gone": lambda entry: (entry / "model.bin").unlink(),
    "record": lambda entry: (entry / "sha256.json").write_text("{"),
    "no record": lambda entry: (entry / "sha256.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_again(
    tiny: Backbone,
    clips: Tensor,
    tmp_path: Path,
    conversions: list[tuple[int, ...]],
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = ModelCache(tmp_path / "openvino", "tiny")
    expected = engine_of(tiny.network, cache=cache).run(clips)
    (entry,) = cache.folder.iterdir()
    DAMAGES[damage](entry)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(engine_of(tiny.network, cache=cache).run(clips), expected)
    assert "the network is converted again" in caplog.text
    assert len(conversions) == 2
    engine_of(tiny.network, cache=cache).run(clips)
    assert len(conversions) == 2
    assert list(cache.folder.iterdir()) == [entry]


def test_a_cache_that_cannot_be_written_fails_nothing(
    tiny: Backbone, clips: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "openvino").write_text("a file")
    cache = ModelCache(tmp_path / "openvino", "tiny")
    expected = engine_of(tiny.network).run(clips)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(engine_of(tiny.network, cache=cache).run(clips), expected)
    assert "cannot be kept" in caplog.text


def test_a_converted_network_is_kept_under_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VADX_HOME", str(tmp_path / "home"))
    path = make_video(tmp_path / "a.mp4")
    for seed, kept in ((3, 1), (3, 1), (4, 2)):
        extract_video(path, load_backbone("tiny", f"random:{seed}"), engine="openvino")
        assert len(list((tmp_path / "home/openvino").iterdir())) == kept


class Unconvertible(nn.Module):
    """Leaves torch for numpy inside, where no tracer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, clips: Tensor) -> Tensor:
        return torch.fft.fft(clips).real.mean((2, 3, 4)) * torch.linalg.eigvals(torch.eye(3)).real


def test_the_tables_choice_falls_back_and_says_so(clips: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(Unconvertible(), engine=None)
    assert engine.name == "openvino"
    with caplog.at_level(logging.WARNING):
        assert engine.probe(tuple(clips.shape[1:])) == 2
        got = engine.run(clips)
    (message,) = caplog.messages
    assert message.startswith("torch-eager runs this network instead of openvino: openvino cannot convert")
    assert engine.provenance == {"engine": "torch-eager", "device": "cpu", "batch": 2}
    np.testing.assert_array_equal(got, engine_of(Unconvertible(), engine="torch-eager").run(clips))


def test_what_has_run_does_not_change_its_engine(
    tiny: Backbone, clips: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny.network, engine=None)
    engine.run(clips)

    def fail(network: nn.Module, shape: tuple[int, ...]) -> Any:
        raise UsageError("openvino cannot convert it")

    monkeypatch.setattr(openvino_network, "_convert", fail)
    with pytest.raises(UsageError, match="cannot convert"):
        engine.run(clips[..., :20])
    assert engine.name == "openvino"


def test_a_named_engine_may_be_allowed_to_fall_back(clips: Tensor) -> None:
    engine = engine_of(Unconvertible(), fall_back=True)
    engine.run(clips)
    assert engine.name == "torch-eager"
    with pytest.raises(UsageError, match="cannot convert"):
        engine_of(Unconvertible(), engine=None, fall_back=False).run(clips)


def test_the_table_passes_over_a_cpu_that_openvino_has_no_bf16_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(precision: str) -> None:
        raise UsageError("this CPU has no bf16 arithmetic")

    monkeypatch.setattr(engines, "cpu_has", lambda *flags: True)
    monkeypatch.setattr(openvino_network, "check_openvino", refuse)
    assert check_engine(None, "bf16", CPU) == "torch-eager"
    assert engine_of(Unconvertible(), engine=None, precision="bf16").name == "torch-eager"
    with pytest.raises(UsageError, match="no bf16"):
        check_engine("openvino", "bf16", CPU)


def test_a_network_that_cannot_be_converted_is_not_run_by_another_engine(clips: Tensor) -> None:
    with pytest.raises(UsageError, match=r"openvino cannot convert Unconvertible: .*; use --engine torch-eager"):
        engine_of(Unconvertible()).run(clips)


def test_a_missing_package_says_what_to_type(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"--engine openvino needs the package openvino: pip install 'vadx\[cpu\]'"):
        engine_of(tiny.network)
    with pytest.raises(UsageError, match=r"pip install 'vadx\[cpu\]'"):
        openvino_network.check_openvino("fp32")
    assert engine_of(tiny.network, engine=None).name == "torch-eager"


def test_a_cpu_without_bf16_says_so(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    class OldCore:
        def get_property(self, _device: str, _name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino_network, "openvino_core", OldCore)
    with pytest.raises(UsageError, match="no bf16 arithmetic"):
        engine_of(tiny.network, precision="bf16")


def test_the_table_of_engines() -> None:
    assert DEFAULT_ENGINE in ENGINES
    assert {precision for row in ENGINES.values() for _, precision in row.runs} == set(PRECISIONS)
    on_cpu = {("cpu", name) for name, mode in PRECISIONS.items() if mode.on_cpu}
    assert ENGINES["openvino"].runs == on_cpu
    assert ENGINES["torch-winograd"].runs == {("cpu", "fp32")}
    assert ENGINES["torch-eager"].runs == on_cpu | {("cuda", name) for name in PRECISIONS}


@pytest.mark.parametrize(
    ("device", "precision", "installed", "flags", "chosen"),
    [
        ("cpu", "fp32", ("openvino",), (), "openvino"),
        ("cpu", "fp32", (), ("avx512_bf16",), "torch-eager"),
        ("cpu", "bf16", ("openvino",), ("avx512f",), "torch-eager"),
        ("cpu", "bf16", ("openvino",), ("avx512f", "avx512_bf16"), "openvino"),
        ("cpu", "bf16", ("openvino",), ("amx_bf16",), "openvino"),
        ("cuda", "fp32", ("openvino",), (), "torch-eager"),
        ("cuda", "fp16", ("openvino",), (), "torch-eager"),
    ],
)
def test_the_table_chooses_the_engine(
    device: str, precision: str, installed: tuple[str, ...], flags: tuple[str, ...], chosen: str
) -> None:
    assert choose_engine(None, device, precision, installed=installed, cpu_flags=flags) == chosen
    assert choose_engine("torch-eager", device, precision, installed=installed, cpu_flags=flags) == "torch-eager"


@pytest.mark.parametrize(
    ("network", "device", "precision", "chosen"),
    [
        ("c3d", "cpu", "fp32", "torch-winograd"),
        ("r2plus1d", "cpu", "fp32", "openvino"),
        ("i3d", "cpu", "fp32", "openvino"),
        (None, "cpu", "fp32", "openvino"),
        ("c3d", "cpu", "bf16", "openvino"),
        ("c3d", "cuda", "fp32", "torch-eager"),
    ],
)
def test_networks_of_3x3_pixels_are_convolved_by_winograds_way(
    network: str | None, device: str, precision: str, chosen: str
) -> None:
    found = {"installed": ("openvino",), "cpu_flags": ("amx_bf16",)}
    assert choose_engine(None, device, precision, network=network, **found) == chosen


def test_the_last_engine_of_the_table_runs_everywhere() -> None:
    assert set(PREFERENCE) == set(ENGINES)
    assert PREFERENCE[-1] == DEFAULT_ENGINE
    assert ENGINES[DEFAULT_ENGINE].package is None
    assert all(row.runs <= ENGINES[DEFAULT_ENGINE].runs for row in ENGINES.values())


@pytest.mark.parametrize(
    ("name", "device", "precision", "installed", "says"),
    [
        ("openvino", "cuda", "fp32", ("openvino",), "runs bf16 on cpu, fp32 on cpu, not fp32 on cuda"),
        ("openvino", "cpu", "fp16", ("openvino",), "not fp16 on cpu; use --engine torch-eager"),
        ("openvino", "cpu", "fp32", (), r"pip install 'vadx\[cpu\]'"),
        ("tensorrt", "cpu", "fp32", (), "unknown engine 'tensorrt'; there are torch-eager, torch-winograd, openvino"),
    ],
)
def test_an_engine_that_cannot_run_is_refused(
    name: str, device: str, precision: str, installed: tuple[str, ...], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        choose_engine(name, device, precision, installed=installed)


def test_the_callers_network_stays_as_it_was(tiny: Backbone, clips: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.network.state_dict().items()}
    expected = engine_of(tiny.network, engine="torch-eager").run(clips)
    if HAS_BF16:
        engine_of(tiny.network, precision="bf16").run(clips)
    engine_of(tiny.network).run(clips)
    for name, tensor in tiny.network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])
    np.testing.assert_array_equal(engine_of(tiny.network, engine="torch-eager").run(clips), expected)


def test_a_run_under_openvino_says_so_and_is_the_same_again(vadx: Vadx, tmp_path: Path) -> None:
    make_video(tmp_path / "videos/a.mp4", num_frames=11)
    command = ("extract", "--backbone", "tiny", "--weights", "random", "videos")
    assert vadx(*command, "-o", "torch", "--engine", "torch-eager").code == 0
    assert vadx(*command, "-o", "one", "--engine", "openvino").code == 0
    ran = vadx(*command, "-o", "two", "--json", VADX_EXTRACT_ENGINE="openvino")
    assert ran.code == 0, ran.err
    plain, one, two = (next(iter(Store(tmp_path / name).sets())) for name in ("torch", "one", "two"))
    assert plain.name == one.name == two.name
    # Another process: the same bytes.
    assert one.shard_path("a").read_bytes() == two.shard_path("a").read_bytes()
    assert plain["a"].provenance["engine"] == "torch-eager"
    assert "openvino" not in plain["a"].provenance
    assert one["a"].provenance["engine"] == "openvino"
    assert one["a"].provenance["openvino"] == openvino_network.version("openvino")
    assert relative_l2(one["a"].values, plain["a"].values) <= 1e-5
    # What is stored under another engine is done: the engine is not part of a recipe.
    again = vadx(*command, "-o", "torch", "--engine", "openvino", "--json")
    assert [json.loads(line).get("status") for line in again.out.splitlines()][1] == "current"


def test_a_run_that_cannot_use_openvino_leaves_nothing_behind(vadx_here: Vadx, tmp_path: Path) -> None:
    make_video(tmp_path / "videos/a.mp4")
    command = ("extract", "--backbone", "tiny", "--weights", "random", "videos", "--engine", "openvino")
    ran = vadx_here(*command, "--precision", "fp16")
    assert ran.code == 2
    assert not (tmp_path / "vadx-store").exists()


def test_nothing_is_reported_over_the_network(tmp_path: Path) -> None:
    code = (
        "import sys; from vadx.extract.openvino_network import _openvino; ov = _openvino();"
        "from openvino.tools.ovc import convert_impl, telemetry_utils;"
        "print(convert_impl.tm.__name__, telemetry_utils.tm.__name__, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    stub = "openvino.tools.ovc.telemetry_stub"
    assert done.stdout.split() == [stub, stub, "False"]


def test_doctor_names_it(vadx_here: Vadx) -> None:
    lines = [line.split() for line in vadx_here("doctor").out.splitlines()]
    (found,) = [line for line in lines if "openvino" in line[:2]]
    assert openvino.__version__.split("-")[0] in " ".join(found)


def test_a_signal_after_many_networks_is_only_a_signal(tiny: Backbone, clips: Tensor, tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "openvino", "tiny")
    first = engine_of(tiny.network, cache=cache)
    first.run(clips)
    for _ in range(2):
        engine_of(tiny.network, cache=cache).run(clips)
    del first
    gc.collect()
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        # With a core for each network this killed the process.
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
