from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("vadx", deadline=None, database=None, print_blob=True)
settings.load_profile("vadx")


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
