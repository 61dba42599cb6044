from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import PLUGINS, SERIAL, Ran, make_video
from vadx.features.checkpoint import Checkpoint
from vadx.features.store import FeatureSet
from vadx.pipelines import unfinished

from .forking import TINY, ForkServer
from .resume_samples import BLOCK, NUM_CLIPS, Network
from .training_store import make_store, manifest_text

Vadx = Callable[..., Ran]


@pytest.fixture(scope="session")
def six_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of the fixture `videos` once, for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("six") / "videos"
    for index in range(6):
        name = f"{'Abuse' if index % 2 else 'Normal'}/clip{index:03d}_x264.mp4"
        make_video(folder / name, num_frames=18 + 3 * index, seed=index)
    return folder


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory, six_videos: Path) -> Iterator[ForkServer]:
    """Give the command line as processes that cost next to nothing to start."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VADX_")}
    path = os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])])
    home = str(tmp_path_factory.mktemp("home"))
    environment = {**inherited, "PYTHONPATH": path, "COLUMNS": "200", "VADX_HOME": home, **SERIAL}
    video = next(six_videos.rglob("*.mp4"))
    with ForkServer(environment, [*TINY, str(video)]) as server:
        yield server


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the name of every file that a `VideoReader` is made for."""
    from vadx.extract import video

    seen: list[str] = []

    class Noting(video.VideoReader):
        def __init__(self, path: Path, **options: Any) -> None:
            seen.append(Path(path).name)
            super().__init__(path, **options)

    monkeypatch.setattr(video, "VideoReader", Noting)
    return seen


@pytest.fixture
def store(tmp_path: Path, six_videos: Path, vadx_here: Vadx) -> Path:
    """Make a store of the six videos."""
    ran = vadx_here(*TINY, six_videos, "--out", "store")
    assert ran.code == 0, ran.err
    return tmp_path / "store"


@pytest.fixture
def own_videos(tmp_path: Path, six_videos: Path) -> Path:
    """Copy the six videos, for tests that change them."""
    return shutil.copytree(six_videos, tmp_path / "videos")


@pytest.fixture(scope="session")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the feature set to train on once, for `tiny` to copy."""
    return make_store(tmp_path_factory.mktemp("training") / "vadx-store").path


@pytest.fixture
def tiny(tmp_path: Path, training_set: Path) -> FeatureSet:
    """Make ``vadx-store`` and ``labels.csv`` where the command line runs."""
    (tmp_path / "labels.csv").write_text(manifest_text())
    return FeatureSet(shutil.copytree(training_set, tmp_path / "vadx-store" / training_set.name))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Count the inputs of every engine's network."""
    from vadx.extract.engine import Engine

    seen = Network()
    really = Engine.run

    def noting(self: Engine, inputs: Any, crops: Any = None) -> Any:
        # A probe's are zeros.
        seen.num_inputs += int(inputs.flatten(1).any(1).sum())
        for number in [number for number in seen.at if number <= seen.num_inputs]:
            seen.at.pop(number)()
        return seen.outputs(really(self, inputs, crops))

    monkeypatch.setattr(Engine, "run", noting)
    return seen


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many clips are kept, after each block."""
    seen: list[int] = []
    really = Checkpoint.append

    def noting(self: Checkpoint, block: Any, so_far: int) -> None:
        really(self, block, so_far)
        seen.append(so_far)

    monkeypatch.setattr(Checkpoint, "append", noting)
    return seen


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep clips from the first on, in blocks of few."""
    monkeypatch.setattr(unfinished, "KEEP_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(unfinished, "BLOCK_CLIPS", BLOCK)
    monkeypatch.setattr(unfinished, "BLOCK_SECONDS", float("inf"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a video of 30 clips of 4 frames, the last of them padded."""
    return make_video(tmp_path_factory.mktemp("long") / "a.mp4", num_frames=4 * NUM_CLIPS - 1, codec="mpeg4")
