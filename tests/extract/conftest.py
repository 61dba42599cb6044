from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from support import skip_or_fail

settings.register_profile("vadx", deadline=None, database=None, print_blob=True)
settings.load_profile("vadx")

OPENCV_DOC_SHA256 = "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a"
OPENCV_DOC_FOLDER = "usr/share/doc/opencv-doc/examples/data"
OPENCV_CLIPS = {
    "vtest.avi": "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
    "tree.avi": "4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc",
    "apple.jpg": "e86879de3d9a807dedc742a8f464f39e6b74bbb531a1fba3583155d94997d1cd",
    "orange.jpg": "152c20d2f380ac985de25e474e1a5f06ed34b932191342099b8272a63a15a079",
    "baboon.jpg": "1a1dd18d78eec44420af3b0b7f08ee3d41c982916cae3ce203d7ff35d754cc0f",
}


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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty cache, and an environment that reaches no registry."""
    for name in ("VADX_WEIGHTS", "VADX_OFFLINE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VADX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "home"
