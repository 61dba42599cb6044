from __future__ import annotations

import hashlib
import io
import json
import math
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vadx.errors import ShardError, StoreError
from vadx.features import shard as shard_module
from vadx.features.keys import key_of
from vadx.features.shard import (
    DAMAGE,
    HEADER_BYTES,
    ClipBlock,
    make_header,
    open_shard,
    parse_header,
    read_frames_from,
    read_header,
    read_outline,
    verify_shard,
    write_image,
)
from vadx.features.timeline import ClipFeatures

from .samples import RECIPE_DIGEST, SOURCE, VIDEO, forge, make_features, make_shard, write

SEED = 20261122
DATASETS = ("features", "frames", "seconds", "damaged")
PAGE = 4096


def same(a: ClipFeatures, b: ClipFeatures) -> bool:
    return all(
        left.dtype == right.dtype and np.array_equal(left, right)
        for left, right in (
            (a.values, b.values),
            (a.frames, b.frames),
            (a.seconds, b.seconds),
            (a.damaged, b.damaged),
        )
    )


def damage_of(path: Path, *, full: bool = True) -> str | None:
    try:
        verify_shard(path, full=full)
    except ShardError as error:
        return error.damage if error.path == str(path) and str(path) in str(error) else "the wrong file"
    return None


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "small.h5", make_shard())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    features = make_features(num_clips=140, num_crops=2, dim=2048, seed=SEED)
    return write(tmp_path_factory.mktemp("large") / "large.h5", make_shard(features=features))


@contextmanager
def overwritten(path: Path, at: int, content: bytes) -> Iterator[None]:
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        before = file.read(len(content))
        file.seek(at)
        file.write(content)
        try:
            yield
        finally:
            file.seek(at)
            file.write(before)


def flipped(path: Path, at: int, bit: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return bytes([file.read(1)[0] ^ 1 << bit])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("num_clips", "num_crops", "dim"), [(1, 1, 1), (3, 10, 7), (200, 1, 1024)])
def test_what_goes_in_comes_out(tmp_path: Path, num_clips: int, num_crops: int, dim: int, dtype: str) -> None:
    given_features = make_features(num_clips, num_crops, dim, dtype=dtype, seed=SEED)
    path = write(tmp_path / "x.h5", make_shard(features=given_features))
    content = open_shard(path)
    assert content.id == VIDEO
    assert same(content.features, given_features)
    assert content.features.facts == given_features.facts
    assert content.features.num_padded_frames == 2
    assert content.features.provenance == given_features.provenance
    header = content.header
    assert (header.key, header.recipe_digest, header.source_sha256) == (key_of(VIDEO), RECIPE_DIGEST, SOURCE)
    verify_shard(path, recipe_digest=RECIPE_DIGEST, key=key_of(VIDEO))


def test_facts_that_are_unknown_stay_unknown(tmp_path: Path) -> None:
    features = make_features()
    facts = type(features.facts)(fps=25.0, num_frames_decoded=48, width=1, height=1)
    bare = ClipFeatures(features.values, features.frames, features.seconds, features.damaged, facts)
    assert open_shard(write(tmp_path / "x.h5", make_shard(features=bare))).features.facts == facts


def test_two_builds_a_clock_tick_apart_are_the_same_bytes() -> None:
    first = make_shard()
    time.sleep(1.1)
    assert make_shard() == first


def test_plain_h5py_reads_it_with_dimension_names(small: Path) -> None:
    with h5py.File(small, "r") as file:
        assert set(file) == set(DATASETS)
        assert np.array_equal(file["features"][()], make_features().values)
        assert [d.label for d in file["features"].dims] == ["clip", "crop", "feature"]
        assert [d.label for d in file["frames"].dims] == ["clip", "bound"]
        assert [d.label for d in file["seconds"].dims] == ["clip", "bound"]
        assert [d.label for d in file["damaged"].dims] == ["clip"]
        assert all(file[name].fletcher32 for name in DATASETS)
        assert file.attrs["id"] == VIDEO
        assert file.userblock_size == HEADER_BYTES


def test_chunks_of_a_large_shard_hold_a_quarter_to_one_megabyte(large: Path) -> None:
    with h5py.File(large, "r") as file:
        assert 1 << 18 <= np.prod(file["features"].chunks) * 4 <= 1 << 20


def test_attributes_are_those_listed_and_hold_no_place_or_time(small: Path) -> None:
    features = make_features()
    # Of frames that were decoded nothing more is said.
    listed = {*asdict(features.facts), "id", "num_padded_frames", "provenance", "recipe_digest"} - {"frames_from"}
    with h5py.File(small, "r") as file:
        assert set(file.attrs) == listed
        assert json.loads(file.attrs["provenance"]) == features.provenance
        assert not [v for v in file.attrs.values() if str(v).startswith(("/", "\\", "~"))]
        assert [dict(file[name].attrs) for name in DATASETS if set(file[name].attrs) - {"DIMENSION_LABELS"}] == []


def test_times_that_nobody_knows_are_kept_as_such(tmp_path: Path) -> None:
    features = make_features()
    facts = replace(features.facts, time_source="unknown", frames_from="rows")
    untimed = replace(features, seconds=np.full_like(features.seconds, np.nan), facts=facts)
    path = write(tmp_path / "untimed.h5", make_shard(features=untimed))
    assert np.isnan(open_shard(path).features.seconds).all()
    assert open_shard(path).features.facts == facts
    assert math.isnan(read_outline(path).video_seconds)
    assert read_frames_from(path) == "rows"
    verify_shard(path)
    with pytest.raises(ValueError, match="the times are said to be known, from pts"):
        replace(untimed, facts=features.facts)


def test_the_header_certifies_what_tail_and_sha256sum_see(small: Path) -> None:
    body = subprocess.run(["tail", "-c", "+513", str(small)], capture_output=True, check=True).stdout
    header = json.loads(small.read_bytes()[:HEADER_BYTES])
    assert header["sha256"] == hashlib.sha256(body).hexdigest()
    assert header["len"] == len(body)
    assert small.read_bytes()[HEADER_BYTES - 1 : HEADER_BYTES] == b"\n"
    assert body.startswith(b"\x89HDF\r\n\x1a\n")


def test_every_flipped_bit_is_found(large: Path) -> None:
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    line = len(large.read_bytes()[:HEADER_BYTES].rstrip())
    size = large.stat().st_size
    regions = {"header line": (0, line, 500), "padding": (line, HEADER_BYTES, 200), "body": (HEADER_BYTES, size, 1300)}
    found: dict[str, set[str | None]] = {}
    for region, (start, stop, count) in regions.items():
        for at in random.integers(start, stop, size=count):
            with overwritten(large, int(at), flipped(large, int(at), int(random.integers(8)))):
                found.setdefault(region, set()).add(damage_of(large))
    assert found.pop("header line") <= {"header", "format"}
    assert found == {"padding": {"header"}, "body": {"body"}}
    assert damage_of(large) is None


def test_every_zeroed_page_is_found(large: Path) -> None:
    content = large.read_bytes()
    pages = [at for at in range(0, len(content), PAGE) if any(content[at : at + PAGE])]
    assert len(pages) >= 500
    for at in pages:
        with overwritten(large, at, bytes(min(PAGE, len(content) - at))):
            assert damage_of(large) == ("header" if at == 0 else "body")


def test_every_truncation_and_every_extension_is_found_without_hashing(tmp_path: Path, large: Path) -> None:
    print(f"seed {SEED}")
    content = large.read_bytes()
    path = write(tmp_path / "x.h5", content)
    lengths = np.random.default_rng(SEED).integers(0, len(content), size=200)
    for length in [*sorted(map(int, lengths), reverse=True), 512, 511, 1, 0]:
        os.truncate(path, length)
        assert damage_of(path, full=False) == "truncated"
    assert damage_of(write(path, content + b"\0"), full=False) == "truncated"


def test_the_quick_check_finds_a_damaged_header(small: Path) -> None:
    for at in range(HEADER_BYTES):
        for bit in range(8):
            with overwritten(small, at, flipped(small, at, bit)):
                assert damage_of(small, full=False) in {"header", "format"}


def test_the_loader_gives_the_right_data_or_an_error(large: Path) -> None:
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    right = open_shard(large)
    size = large.stat().st_size
    metadata = random.integers(HEADER_BYTES, HEADER_BYTES + 2 * PAGE, 200)
    anywhere = random.integers(HEADER_BYTES, size, 200)
    damages: list[str] = []
    for at in map(int, [*metadata, *anywhere]):
        with overwritten(large, at, flipped(large, at, int(random.integers(8)))):
            try:
                content = open_shard(large)
            except ShardError as error:
                damages.append(error.damage)
            else:
                assert content.id == right.id, at
                assert same(content.features, right.features), at
    assert damages == ["body"] * 400


@pytest.mark.parametrize("num_clips_after", [1, 900])
@pytest.mark.parametrize("read", [open_shard, read_outline], ids=["open_shard", "read_outline"])
def test_a_shard_that_is_replaced_while_it_is_read_is_read_as_it_was(
    read: Callable[[Path], Any], num_clips_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = (
        write(tmp_path / name, make_shard(features=make_features(num_clips), source=source))
        for name, num_clips, source in (("shard.h5", 800, SOURCE), ("another.h5", num_clips_after, "f" * 64))
    )
    expected = read(before)
    really = shard_module._header_of

    def slowly(path: Path, descriptor: int) -> Any:
        header = really(path, descriptor)
        after.replace(path)
        return header

    monkeypatch.setattr(shard_module, "_header_of", slowly)
    assert repr(read(before)) == repr(expected)
    assert not after.exists()


def test_a_changed_id_is_not_handed_out(small: Path) -> None:
    at = small.read_bytes().index(VIDEO.encode())
    for offset in range(len(VIDEO)):
        with overwritten(small, at + offset, flipped(small, at + offset, 0)), pytest.raises(ShardError) as caught:
            read_outline(small)
        assert caught.value.damage in {"structure", "stranger"}


def test_a_stranger_is_named(small: Path) -> None:
    for expected in ({"recipe_digest": SOURCE}, {"key": "another"}):
        with pytest.raises(ShardError) as caught:
            verify_shard(small, full=False, **expected)
        assert caught.value.damage == "stranger"


def header_line(fields: dict[str, Any]) -> bytes:
    line = json.dumps(fields, separators=(",", ":"))
    signed = f'{line[:-1]},"check":"{shard_module._check(line)}"}}'
    return signed.ljust(HEADER_BYTES - 1).encode() + b"\n"


def header_fields() -> dict[str, Any]:
    return {"vadx": 1, "len": 10, "sha256": SOURCE, "key": "k", "recipe": RECIPE_DIGEST, "source": SOURCE}


def test_the_forged_header_of_these_tests_is_a_real_one() -> None:
    assert parse_header(Path("x"), header_line(header_fields())) == make_header(10, SOURCE, "k", RECIPE_DIGEST, SOURCE)


@pytest.mark.parametrize("version", [2, 10**6])
def test_a_newer_format_is_refused_as_such_whatever_else_it_holds(tmp_path: Path, version: int) -> None:
    for line in (header_line(header_fields() | {"vadx": version}), header_line({"vadx": version})):
        path = write(tmp_path / "x.h5", line + b"anything")
        with pytest.raises(ShardError, match="update vadx") as caught:
            read_header(path)
        assert caught.value.damage == "format"


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=3)
)


@given(field=st.sampled_from(["vadx", "len", "sha256", "key", "recipe", "source"]), value=values)
def test_a_signed_header_with_a_field_of_the_wrong_kind_is_damaged(field: str, value: Any) -> None:
    fields = header_fields()
    assume(type(value) is not type(fields[field]))
    with pytest.raises(ShardError) as caught:
        parse_header(Path("x"), header_line(fields | {field: value}))
    assert caught.value.damage == "header"


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES) | st.text(max_size=400).map(lambda t: t.encode()))
def test_noise_is_no_header(block: bytes) -> None:
    with pytest.raises(ShardError):
        parse_header(Path("x"), block)


@pytest.mark.parametrize(
    "text", ["[" * 511, '{"vadx":' * 60, '{"vadx":1,"len":1e999', '{"vadx":1}', "[1]", "1", '"vadx"', "null", ""]
)
def test_adverse_json_is_no_header(text: str) -> None:
    with pytest.raises(ShardError) as caught:
        parse_header(Path("x"), text.ljust(HEADER_BYTES).encode())
    assert caught.value.damage == "header"


def test_a_header_that_rewrites_longer_than_itself_is_damaged() -> None:
    fields = header_fields() | {"key": "k" * 172}
    text = json.dumps(fields, separators=(",", ":")).replace('"len":10', '"len":1E999')
    assert len(text) < HEADER_BYTES
    with pytest.raises(ShardError) as caught:
        parse_header(Path("x"), text.ljust(HEADER_BYTES).encode())
    assert caught.value.damage == "header"


def test_a_key_that_cannot_fit_is_refused_when_written() -> None:
    with pytest.raises(ValueError, match="more than 511"):
        make_header(1, SOURCE, "k" * 400, RECIPE_DIGEST, SOURCE).to_bytes()


def test_the_longest_key_fits() -> None:
    for identifier in ("k" * 150, "a/" + "k" * 400, "ü" * 300):
        block = make_header(1 << 50, SOURCE, key_of(identifier), RECIPE_DIGEST, SOURCE).to_bytes()
        assert len(block) == HEADER_BYTES


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n"])
def test_only_sha256_goes_into_a_header(digest: str) -> None:
    for given_digests in ((digest, SOURCE, SOURCE), (SOURCE, digest, SOURCE), (SOURCE, SOURCE, digest)):
        body, recipe, source = given_digests
        with pytest.raises(StoreError, match="sha256"):
            make_header(1, body, "k", recipe, source)


def directory(path: Path) -> None:
    path.mkdir()


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def link_to_a_shard(path: Path) -> None:
    path.symlink_to(write(path.with_name("real.h5"), make_shard()))


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [directory, os.mkfifo, dangling_link, link_to_a_shard, bound_socket])
@pytest.mark.parametrize("look", [read_header, verify_shard, open_shard])
def test_what_is_no_regular_file_is_unreadable_and_hangs_nobody(
    tmp_path: Path, make: Callable[[Path], None], look: Callable[[Path], object]
) -> None:
    path = tmp_path / "x.h5"
    make(path)
    with pytest.raises(ShardError) as caught:
        look(path)
    assert caught.value.damage == "unreadable"


def test_looking_leaves_no_descriptor_open(tmp_path: Path) -> None:
    paths = [tmp_path / "directory", write(tmp_path / "noise", b"x" * 600), write(tmp_path / "good", make_shard())]
    directory(paths[0])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        for path in paths:
            damage_of(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("look", [read_header, verify_shard, open_shard])
def test_an_absent_shard_is_file_not_found(tmp_path: Path, look: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError):
        look(tmp_path / "x.h5")


SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "features": ((3, 1, 8), "f4"),
    "frames": ((3, 2), "i8"),
    "seconds": ((3, 2), "f8"),
    "damaged": ((3,), "?"),
}
HUGE = 1 << 40


def external_storage(file: h5py.File, name: str) -> None:
    shape, dtype = SHAPES[name]
    file.create_dataset(name, shape, dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def external_link(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("/tmp/elsewhere.h5", name)


def soft_link(file: h5py.File, name: str) -> None:
    shape, dtype = SHAPES[name]
    file.create_dataset("decoy", shape, dtype)
    file[name] = h5py.SoftLink("/decoy")


def virtual(file: h5py.File, name: str) -> None:
    shape, dtype = SHAPES[name]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource("/tmp/elsewhere.h5", name, shape)
    file.create_virtual_dataset(name, layout)


def object_dtype(file: h5py.File, name: str) -> None:
    file.create_dataset(name, SHAPES[name][0], h5py.string_dtype())


def reference_dtype(file: h5py.File, name: str) -> None:
    file.create_dataset(name, SHAPES[name][0], h5py.ref_dtype)


def compound_dtype(file: h5py.File, name: str) -> None:
    file.create_dataset(name, SHAPES[name][0], np.dtype([("a", "f4"), ("b", "i4")]))


def four_tebibytes(file: h5py.File, name: str) -> None:
    shape, dtype = SHAPES[name]
    file.create_dataset(name, (HUGE, *shape[1:]), dtype, chunks=(1024, *shape[1:]))


def four_tebibytes_compressed(file: h5py.File, name: str) -> None:
    shape, dtype = SHAPES[name]
    file.create_dataset(name, (HUGE, *shape[1:]), dtype, chunks=(1024, *shape[1:]), compression="gzip")


def unknown_filter(file: h5py.File, name: str) -> None:
    shape, _ = SHAPES[name]
    file.create_dataset(name, shape, "i4", chunks=shape, scaleoffset=4)


def group(file: h5py.File, name: str) -> None:
    file.create_group(name)


def one_axis_too_many(file: h5py.File, name: str) -> None:
    shape, dtype = SHAPES[name]
    file.create_dataset(name, (*shape, 1), dtype)


def nothing(_file: h5py.File, _name: str) -> None:
    pass


ATTACKS = (
    external_storage,
    external_link,
    soft_link,
    virtual,
    object_dtype,
    reference_dtype,
    compound_dtype,
    four_tebibytes,
    four_tebibytes_compressed,
    unknown_filter,
    group,
    one_axis_too_many,
    nothing,
)


def refuse_to_read(*_: object) -> NoReturn:
    pytest.fail("data was read before the image was checked")


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_image_is_refused_before_any_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Callable[[h5py.File, str], None], name: str
) -> None:
    def change(file: h5py.File) -> None:
        del file[name]
        attack(file, name)

    path = write(tmp_path / "x.h5", forge(make_shard(), change))
    read_header(path)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", refuse_to_read)
    monkeypatch.setattr(h5py.Dataset, "read_direct", refuse_to_read)
    for look in (open_shard, verify_shard):
        with pytest.raises(ShardError) as caught:
            look(path)
        assert caught.value.damage == "structure"
        assert name in caught.value.evidence


def test_an_untouched_forgery_opens(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", forge(make_shard(), lambda file: file.attrs.create("extra", 1)))
    assert same(open_shard(path).features, make_features())


def lose(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file.attrs[name]

    return change


def put(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.create(name, value)


def nan(file: h5py.File) -> None:
    file["features"][0, 0, 0] = np.nan


def ragged(file: h5py.File) -> None:
    del file["damaged"]
    file.create_dataset("damaged", (2,), "?")


@pytest.mark.parametrize(
    "change",
    [
        *(lose(name) for name in ("id", "fps", "width", "num_frames_decoded", "num_padded_frames", "provenance")),
        put("provenance", "{"),
        put("provenance", "[" * 100_000),
        put("num_padded_frames", "many"),
        put("num_frames_declared", np.arange(3)),
        put("num_damaged_frames", h5py.Empty("f4")),
        nan,
        ragged,
    ],
)
def test_an_image_that_contradicts_itself_is_a_shard_error(tmp_path: Path, change: Callable[[h5py.File], None]) -> None:
    path = write(tmp_path / "x.h5", forge(make_shard(), change))
    assert damage_of(path) == "structure"


def test_the_image_of_another_video_is_a_stranger(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", forge(make_shard(), put("id", "Abuse/Abuse002_x264")))
    assert damage_of(path) == "stranger"


def test_every_kind_of_damage_that_is_raised_is_listed() -> None:
    kinds = {"truncated", "header", "body", "format", "structure", "stranger", "unreadable", "record"}
    assert set(DAMAGE) == kinds


def test_clips_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    features = make_features(3)
    block = ClipBlock(features.values[:2], features.frames[:2], features.seconds[:2], features.damaged[:2])
    with h5py.File(tmp_path / "x.h5", "w") as file, pytest.raises(ValueError, match="2 clips were given"):
        write_image(file, iter([block]), identifier=VIDEO, shape=(3, 1, 8), dtype="float32", attributes={})


def image_of_blocks(features: ClipFeatures, cuts: list[int], target: Path | io.BytesIO) -> bytes:
    attributes = shard_module.image_attributes(features.facts, 2, features.provenance, RECIPE_DIGEST)
    blocks = (
        ClipBlock(features.values[a:b], features.frames[a:b], features.seconds[a:b], features.damaged[a:b])
        for a, b in pairwise(cuts)
    )
    with h5py.File(target, "w", libver=("v110", "v110"), userblock_size=HEADER_BYTES) as file:
        shape = features.values.shape
        write_image(file, blocks, identifier=VIDEO, shape=shape, dtype="float32", attributes=attributes)
    return target.read_bytes() if isinstance(target, Path) else target.getvalue()


def test_where_a_video_is_cut_into_blocks_leaves_no_trace_in_its_image(tmp_path: Path) -> None:
    features = make_features(300, 1, 1024)
    cuts = ([0, 300], [0, 3, 130, 131, 290, 300], [*range(301)])
    in_memory = {image_of_blocks(features, cut, io.BytesIO())[HEADER_BYTES:] for cut in cuts}
    assert in_memory == {make_shard(features=features)[HEADER_BYTES:]}
    assert len({image_of_blocks(features, cut, tmp_path / "x.h5") for cut in cuts}) == 1
