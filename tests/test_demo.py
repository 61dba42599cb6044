"""The demo: real clips through the real network, and the honest stand-in where no registry answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import pytest

from support import Ran
from vadx.features import Store
from vadx.pipelines.cli import run as run_cli
from vadx.pipelines.demo import synthesize
from vadx.pipelines.predictions import predict

# Of the stored features of bikes.mp4 (a street in Brussels, cut from several shots) through the network's own head,
# made on x86-64 with torch 2.15 in fp32. Other CPUs round differently; 1e-3 is far above that.
STREET_TOP_TEN = [
    ("pumping gas", 0.1272),
    ("garbage collecting", 0.10262),
    ("archery", 0.0915),
    ("driving car", 0.05154),
    ("motorcycling", 0.04347),
    ("bowling", 0.03845),
    ("unloading truck", 0.03661),
    ("checking tires", 0.03368),
    ("spray painting", 0.02565),
    ("pushing car", 0.02119),
]


@pytest.fixture(scope="session")
def demo_home(real_weights: Path, real_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demo once, in a folder of its own."""
    home = tmp_path_factory.mktemp("demo")
    (home / "clips").mkdir()
    for clip in real_clips.glob("*.mp4"):
        (home / "clips" / clip.name).symlink_to(clip)
    assert run_cli(["demo", "--out", str(home), "--device", "cpu"]) == 0
    return home


@pytest.mark.weights
@pytest.mark.clips
def test_the_street_clip_shows_a_cycling_class(demo_home: Path) -> None:
    feature_set = Store(demo_home / "store")["i3d"]
    ((_, classes),) = predict(feature_set, ["bikes"], "i3d", "i3d-rgb-k400-tfhub", top=10)
    assert any("cycling" in name or "biking" in name or "bike" in name for name, _ in classes[:5])
    assert [name for name, _ in classes] == [name for name, _ in STREET_TOP_TEN]
    assert [score for _, score in classes] == pytest.approx([score for _, score in STREET_TOP_TEN], abs=1e-3)


@pytest.mark.weights
@pytest.mark.clips
def test_the_features_open_with_plain_h5py(demo_home: Path) -> None:
    shapes = {}
    for path in (demo_home / "store").glob("*/shards/*/*.h5"):
        with h5py.File(path) as shard:
            shapes[shard.attrs["id"]] = shard["features"].shape
    assert shapes == {"bigbuckbunny": (6, 1, 1024), "bikes": (13, 1, 1024), "carphone_pristine": (5, 1, 1024)}


@pytest.mark.weights
@pytest.mark.clips
def test_a_second_demo_decodes_nothing_and_still_predicts(
    demo_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        pytest.fail("a second demo opened a video")

    monkeypatch.setattr("vadx.extract.video.VideoReader.__init__", refuse)
    assert run_cli(["demo", "--out", str(demo_home), "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "3 current" in printed.err
    assert "motorcycling" in printed.out


def test_without_a_registry_the_demo_says_that_nothing_is_real(vadx_here: Callable[..., Ran], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VADX_OFFLINE", "1")
        patch.setattr("vadx.pipelines.demo.CLIP_LENGTH", 16)
        # Two clips of each video: a clip costs the network half a second.
        patch.setattr("vadx.pipelines.demo.synthesize", partial(synthesize, num_frames=32))
        ran = vadx_here("demo", "--device", "cpu")
    assert ran.code == 0
    assert ran.err.count("NOT REAL") == 2
    assert "RANDOM WEIGHTS: meaningless" in ran.out
    assert "weights fetch i3d-rgb-k400-tfhub" in ran.out
    (feature_set,) = Store(tmp_path / ".demo" / "store").sets()
    assert feature_set.recipe.weights == "random:0"
    assert sorted(feature_set) == ["crossing", "falling"]
