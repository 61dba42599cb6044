"""HDF5 files of strangers, at each place where vadx opens one: refused before any of their data is read."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np
import pytest

from vadx.errors import StoreError, UsageError
from vadx.features.bag_file import Bag, BagFile, write_bags
from vadx.features.keys import key_of
from vadx.features.layouts.hdf5 import read_video
from vadx.features.pack import pack_set
from vadx.features.packed_set import PackedSet
from vadx.features.shard import HEADER_BYTES, make_header, open_shard, read_outline
from vadx.features.stage_shard import build_stage_shard, open_stage_shard, read_stage_outline
from vadx.features.store import Store

from ..features.samples import RECIPE, RECIPE_DIGEST, SOURCE, VIDEO, make_shard, publish
from .hostile_hdf5 import ATTACKS, plug_in_filter
from .traps import Canary

pytestmark = pytest.mark.usefixtures("no_power_loss")


@dataclass(frozen=True)
class Place:
    """One kind of file: how a sound one is made, which of its data sets is replaced, and what reads it."""

    make: Callable[[Path], object]
    dataset: str
    shape: tuple[int, ...]
    read: tuple[Callable[[Path], object], ...]
    seal: Callable[[Path], object] = lambda _: None


def _reseal(path: Path) -> None:
    """Give a shard the header that its maker would have given it."""
    body = path.read_bytes()[HEADER_BYTES:]
    header = make_header(len(body), hashlib.sha256(body).hexdigest(), key_of(VIDEO), RECIPE_DIGEST, SOURCE)
    path.write_bytes(header.to_bytes() + body)


def _stage(path: Path) -> None:
    arrays = {
        "frame": np.arange(3),
        "offset": np.array([0, 1, 2, 3]),
        "box": np.zeros((3, 4), np.float32),
        "score": np.ones(3, np.float32),
        "label": np.ones(3, np.int64),
    }
    facts = {"video": {"num_frames_decoded": 3}}
    path.write_bytes(build_stage_shard(VIDEO, key_of(VIDEO), "detections", arrays, facts, RECIPE_DIGEST, SOURCE))


def _bags(path: Path) -> None:
    frames = np.stack([np.arange(4), np.arange(1, 5)], axis=1)
    bags = [Bag(name, np.ones((4, 1, 8), np.float32), frames, 4) for name in ("a", "b", "c")]
    write_bags(path, bags, rule="linspace-4", recipe_digest=RECIPE_DIGEST)


def _foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["Abuse001"] = np.ones((3, 8), np.float32)


def _read_bags(path: Path) -> object:
    with BagFile(path) as file:
        return file.read_all()


def _read_packed(path: Path) -> object:
    with PackedSet(path) as file:
        return file["b"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    made = Store(folder / "store").create(RECIPE, slug="i3d")
    for identifier in ("a", "b"):
        publish(made, identifier)
    return pack_set(made, folder / "packed.h5").path


PLACES: Mapping[str, Place] = {
    "shard": Place(
        lambda path: path.write_bytes(make_shard()), "features", (3, 1, 8), (open_shard, read_outline), _reseal
    ),
    "stage": Place(
        _stage,
        "box",
        (3, 4),
        (lambda path: open_stage_shard(path, "detections"), lambda path: read_stage_outline(path, "detections")),
        _reseal,
    ),
    "bags": Place(_bags, "features", (3, 4, 8), (_read_bags,)),
    "import": Place(_foreign, "Abuse001", (3, 8), (lambda path: read_video(path, "Abuse001"),)),
    "packed": Place(lambda _: None, "b/features", (3, 1, 8), (_read_packed,)),
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    with h5py.File(tmp_path / "canary.h5", "w") as file:
        file["stolen"] = np.full(4096, 7, np.float32)
    with Canary(tmp_path / "canary.h5", (tmp_path / "canary.h5").read_bytes()) as canary:
        yield canary


def attacked(place: Place, attack: str, path: Path, canary: Canary, packed: Path) -> Path:
    """Make a file of a kind, and replace one of its data sets."""
    if place is PLACES["packed"]:
        shutil.copy(packed, path)
    place.make(path)
    with h5py.File(path, "r+") as file:
        del file[place.dataset]
        folder, _, name = place.dataset.rpartition("/")
        shape = (3, 4, 1, 8) if place is PLACES["bags"] else place.shape
        ATTACKS[attack](file[folder] if folder else file, name, shape, "f4", canary.path)
    place.seal(path)
    return path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", PLACES)
def test_it_is_refused_before_its_data_is_read(
    kind: str, attack: str, tmp_path: Path, canary: Canary, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = PLACES[kind]
    path = attacked(place, attack, tmp_path / "hostile.h5", canary, packed)
    reads = h5py.Dataset.__getitem__

    def look(dataset: h5py.Dataset, *key: object, **more: object) -> object:
        if dataset.name in (f"/{place.dataset}", "/decoy", "/b/decoy", "/stolen"):
            pytest.fail(f"{dataset.name} was read before it was refused")
        return reads(dataset, *key, **more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", look)
    monkeypatch.setattr(h5py.Dataset, "read_direct", _never)
    assert not canary.was_touched
    for read in place.read:
        with pytest.raises((StoreError, UsageError)) as caught:
            read(path)
        assert place.dataset.rpartition("/")[2] in str(caught.value)
        assert str(path) in str(caught.value)
    assert not canary.was_touched


def _never(*_: object) -> NoReturn:
    pytest.fail("data was read before it was refused")


@pytest.mark.parametrize("kind", PLACES)
def test_a_sound_file_of_each_kind_is_read(kind: str, tmp_path: Path, packed: Path) -> None:
    if kind == "packed":
        shutil.copy(packed, tmp_path / "sound.h5")
    PLACES[kind].make(tmp_path / "sound.h5")
    for read in PLACES[kind].read:
        read(tmp_path / "sound.h5")


@pytest.mark.parametrize("attack", ["external storage", "external link", "virtual data set"])
def test_hdf5_itself_would_reach_the_canary(attack: str, tmp_path: Path, canary: Canary) -> None:
    with h5py.File(tmp_path / "hostile.h5", "w") as file:
        ATTACKS[attack](file, "features", (3, 8), "f4", canary.path)
    assert not canary.was_touched
    with h5py.File(tmp_path / "hostile.h5", "r") as file:
        file["features"][:]
    assert canary.was_touched


def test_no_name_leads_through_a_link(tmp_path: Path, canary: Canary) -> None:
    with h5py.File(tmp_path / "hostile.h5", "w") as file:
        file["group"] = h5py.ExternalLink(str(canary.path), "/")
    assert not canary.was_touched
    with pytest.raises(UsageError, match="link to somewhere else"):
        read_video(tmp_path / "hostile.h5", "group/stolen")
    assert not canary.was_touched


def test_a_packed_videos_group_is_no_link(tmp_path: Path, packed: Path) -> None:
    shutil.copy(packed, tmp_path / "hostile.h5")
    with h5py.File(tmp_path / "hostile.h5", "r+") as file:
        del file["b"]
        file["b"] = h5py.ExternalLink(str(tmp_path / "canary.h5"), "/b")
    with Canary(tmp_path / "canary.h5", packed.read_bytes()) as canary:
        with pytest.raises(StoreError, match="link to somewhere else"):
            _read_packed(tmp_path / "hostile.h5")
        assert not canary.was_touched


def test_a_packed_video_that_was_changed_is_found(tmp_path: Path, packed: Path) -> None:
    shutil.copy(packed, tmp_path / "changed.h5")
    with h5py.File(tmp_path / "changed.h5", "r+") as file:
        # HDF5 makes its own checksum anew.
        file["b/features"][0, 0, 0] += 1
    with PackedSet(tmp_path / "changed.h5") as found:
        assert [error is None for _, error in found.verify()] == [True, False]


def test_no_plug_in_is_loaded(tmp_path: Path) -> None:
    for name in ("hostile.h5", "proof.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            plug_in_filter(file, "Abuse001", (3, 8), "f4", tmp_path)
    with Canary(tmp_path / "plugins" / "libtrap.so") as plug_in:
        h5py.h5pl.prepend(bytes(tmp_path / "plugins"))
        try:
            with pytest.raises(UsageError, match="unknown filters"):
                read_video(tmp_path / "hostile.h5", "Abuse001")
            assert not plug_in.was_touched
            # The trap is one: HDF5 tries every library there as soon as the data is read.
            with h5py.File(tmp_path / "proof.h5", "r") as file, pytest.raises(OSError, match="dlopen"):
                file["Abuse001"][:]
            assert plug_in.was_touched
        finally:
            h5py.h5pl.remove(0)


def _object_attribute(file: h5py.File) -> None:
    file.attrs.create("notes", data=np.array(["x"] * 3, object), dtype=h5py.string_dtype())


def _large_attribute(file: h5py.File) -> None:
    file.attrs["notes"] = np.zeros(4096)


def _reference_attribute(file: h5py.File) -> None:
    file.attrs.create("notes", data=file.ref, dtype=h5py.ref_dtype)


@pytest.mark.parametrize("change", [_object_attribute, _large_attribute, _reference_attribute])
@pytest.mark.parametrize("kind", ["shard", "stage", "bags"])
def test_attributes_are_numbers_and_texts(kind: str, change: Callable[[h5py.File], None], tmp_path: Path) -> None:
    place, path = PLACES[kind], tmp_path / "hostile.h5"
    place.make(path)
    with h5py.File(path, "r+") as file:
        change(file)
    place.seal(path)
    for read in place.read:
        with pytest.raises(StoreError, match="attribute notes is no single number or text"):
            read(path)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", PLACES)
def test_nobody_waits_for_a_fifo(kind: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.h5")
    for read in PLACES[kind].read:
        with pytest.raises((StoreError, UsageError)):
            read(tmp_path / "fifo.h5")
