"""Bags at rest: what is written is read, by anyone; what is damaged or foreign is refused."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vadx.errors import FeatureError, StoreError, StoreWriteError, UsageError
from vadx.features import bag_file, spool
from vadx.features.bag_file import LABELS, Bag, BagFile, write_bags

from .samples import RECIPE_DIGEST

SEED = 20261122
SHAPE = (4, 2, 8)
CHANGES: dict[str, Any] = {"rule": "linspace-32", "recipe_digest": RECIPE_DIGEST, "provenance": {"vadx": "0.1.0"}}


def make_bag(number: int, *, shape: tuple[int, int, int] = SHAPE, **values: Any) -> Bag:
    random = np.random.default_rng(number)
    edges = np.linspace(0, 100 + number, shape[0] + 1).astype(np.int64)
    given = {
        "id": f"Abuse/影片 {number}",
        "features": random.standard_normal(shape).astype(np.float32),
        "frames": np.stack([edges[:-1], edges[1:]], axis=1),
        "num_frames": 100 + number,
        "label": sorted(LABELS)[number % 3],
        "class_name": "Missbrauch ä" if number % 3 == 2 else "",
    }
    return Bag(**{**given, **values})


BAGS = [make_bag(number) for number in range(7)]


def same(one: Bag, other: Bag) -> bool:
    return (
        (one.id, one.num_frames, one.label, one.class_name)
        == (other.id, other.num_frames, other.label, other.class_name)
        and np.array_equal(one.features, other.features)
        and np.array_equal(one.frames, other.frames)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_bags(tmp_path / "bags.h5", iter(BAGS), **CHANGES)
    return tmp_path / "bags.h5"


def test_what_was_written_is_read(path: Path) -> None:
    with BagFile(path) as file:
        assert len(file) == len(BAGS)
        assert file.ids == tuple(bag.id for bag in BAGS)
        assert (file.shape, file.rule, file.recipe_digest) == (SHAPE, "linspace-32", RECIPE_DIGEST)
        assert file.provenance == {"vadx": "0.1.0"}
        assert file.labels.tolist() == [bag.label for bag in BAGS]
        assert file.classes == tuple(bag.class_name for bag in BAGS)
        assert all(same(read, bag) for read, bag in zip(file, BAGS, strict=True))
        assert same(file[-1], BAGS[-1])
        everything = file.read_all()
        assert everything.dtype == np.float32
        assert np.array_equal(everything, np.stack([bag.features for bag in BAGS]))
    assert path.parent.joinpath("bags.h5") == path
    assert [p.name for p in path.parent.iterdir()] == ["bags.h5"]


def test_bags_come_in_the_order_asked_for(path: Path) -> None:
    file = BagFile(path)
    order = np.array([5, 0, 5, 6, 2])
    assert np.array_equal(file.read(order), np.stack([BAGS[at].features for at in order]))
    batches = list(file.batches(2, order=order.tolist()))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate(batches), file.read(order))
    assert np.array_equal(np.concatenate(list(file.batches(3))), file.read_all())
    for number in (7, -8):
        with pytest.raises(IndexError):
            file[number]
        with pytest.raises(IndexError):
            file.read([number])
    with pytest.raises(ValueError, match="at least one bag"):
        file.batches(0)


def test_the_documented_lines_read_a_file_with_numpy_and_h5py_alone(path: Path) -> None:
    documentation = bag_file.__doc__ or ""
    code = textwrap.dedent(documentation.split("::\n", 1)[1])
    assert len(code.strip().splitlines()) <= 16
    assert "vadx" not in code
    found: dict[str, Any] = {}
    exec(code.replace('"bags.h5"', repr(str(path))), found)
    assert found["ids"] == [bag.id for bag in BAGS]
    assert found["classes"] == [bag.class_name for bag in BAGS]
    assert found["labels"].tolist() == [bag.label for bag in BAGS]
    assert found["num_frames"].tolist() == [bag.num_frames for bag in BAGS]
    assert np.array_equal(found["frames"], np.stack([bag.frames for bag in BAGS]))
    assert np.array_equal(found["features"], np.stack([bag.features for bag in BAGS]))
    assert np.array_equal(found["one"], BAGS[0].features)
    assert np.array_equal(found["batch"], found["features"][[0, -1]])
    assert (found["rule"], found["recipe_digest"]) == ("linspace-32", RECIPE_DIGEST)


def test_a_bag_is_one_checksummed_chunk_and_axes_have_names(path: Path) -> None:
    with h5py.File(path, "r", locking=False) as file:
        features = file["features"]
        assert features.chunks == (1, *SHAPE)
        assert features.id.get_num_chunks() == len(BAGS)
        assert all(file[name].fletcher32 for name in file)
        assert [axis.label for axis in features.dims] == ["bag", "segment", "crop", "feature"]
        assert [axis.label for axis in file["frames"].dims] == ["bag", "segment", "bound"]


def test_the_same_bags_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_bags(tmp_path / "again.h5", BAGS, **CHANGES)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()


def test_a_large_file_is_written_by_a_child_and_is_the_same(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[Any] = []
    really = spool._run_child
    monkeypatch.setattr(spool, "_run_child", lambda order, *rest: (orders.append(order), really(order, *rest)))
    write_bags(tmp_path / "large.h5", iter(BAGS), memory_bytes=3 * BAGS[0].features.nbytes, **CHANGES)
    assert [order["kind"] for order in orders] == ["bags"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bags.h5", "large.h5"]
    large = BagFile(tmp_path / "large.h5")
    assert (large.rule, large.recipe_digest, large.provenance) == (
        "linspace-32",
        RECIPE_DIGEST,
        BagFile(path).provenance,
    )
    assert all(same(read, bag) for read, bag in zip(large, BAGS, strict=True))


def test_a_child_that_fails_is_a_write_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool.sys, "executable", "/bin/false")
    with pytest.raises(StoreWriteError, match=r"status 1; \d+ bytes were needed"):
        write_bags(tmp_path / "bags.h5", BAGS, memory_bytes=1, **CHANGES)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_write_error(path: Path) -> None:
    with pytest.raises(StoreWriteError, match=r"bags\.h5"):
        write_bags(path / "below.h5", BAGS, **CHANGES)


def test_a_file_is_replaced_unless_that_is_unwanted(path: Path) -> None:
    kept = write_bags(path, BAGS[:2], replace=False, **CHANGES)
    assert (kept.outcome, len(BagFile(path))) == ("first kept", 7)
    assert write_bags(path, BAGS[:2], **CHANGES).outcome == "replaced"
    assert len(BagFile(path)) == 2


@pytest.mark.parametrize(
    ("bags", "message"),
    [
        ([], "vadx ls SET"),
        ([make_bag(0), make_bag(1, shape=(5, 2, 8))], r"\(5, 2, 8\), those before it \(4, 2, 8\).*write two files"),
        ([make_bag(0), make_bag(1, shape=(4, 1, 8))], "one shape"),
        ([make_bag(0), make_bag(1), make_bag(0)], "two bags have the id"),
    ],
)
def test_bags_that_do_not_fit_one_file_are_refused(tmp_path: Path, bags: list[Bag], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_bags(tmp_path / "bags.h5", bags, memory_bytes=1, **CHANGES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"rule": ""}, {"recipe_digest": "abc"}])
def test_a_file_without_its_origin_is_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="digest"):
        write_bags(tmp_path / "bags.h5", BAGS, **{**CHANGES, **wrong})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": np.zeros((4, 8), np.float32)}, r"got \(4, 8\)"),
        ({"features": np.zeros((0, 2, 8), np.float32), "frames": np.zeros((0, 2), np.int64)}, r"got \(0, 2, 8\)"),
        ({"features": np.zeros(SHAPE, np.float64)}, "got float64"),
        ({"frames": np.zeros((3, 2), np.int64)}, r"\(3, 2\)"),
        ({"frames": np.full((4, 2), 101)}, "must lie in the video's 100 frames"),
        ({"frames": np.array([[0, 5], [5, 4], [4, 8], [8, 9]])}, "must lie"),
        ({"frames": np.array([[-1, 5], [5, 6], [6, 8], [8, 9]])}, "must lie"),
        ({"label": 2}, "1 .anomalous."),
        ({"id": ""}, "empty"),
        ({"id": "a\0"}, "NUL"),
        ({"class_name": "\udcff"}, "surrogates"),
    ],
)
def test_a_bag_refuses_nonsense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_bag(0, **values)


def test_a_bag_refuses_what_is_not_finite() -> None:
    with pytest.raises(FeatureError, match="1 of 64"):
        replace(BAGS[0], features=np.where(np.arange(64).reshape(SHAPE) == 3, np.float32("nan"), BAGS[0].features))


def test_an_empty_span_is_a_span() -> None:
    assert make_bag(0, frames=np.array([[0, 0], [0, 50], [50, 50], [50, 100]])).num_frames == 100


def test_a_flipped_bit_is_refused_or_changes_nothing(path: Path) -> None:
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    right = path.read_bytes()
    refused = 0
    for at in random.choice(len(right), size=400, replace=False):
        wrong = bytearray(right)
        wrong[at] ^= 1 << int(random.integers(8))
        # Another name each time: HDF5 tells files apart by inode.
        flipped = path.with_name(f"{at}.h5")
        flipped.write_bytes(wrong)
        try:
            file = BagFile(flipped)
            assert all(same(read, bag) for read, bag in zip(file, BAGS, strict=True)), at
            assert (file.rule, file.recipe_digest) == ("linspace-32", RECIPE_DIGEST), at
        except StoreError:
            refused += 1
    assert refused > 100


def rewrite(path: Path, change: Any) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def set_version(file: h5py.File) -> None:
    file.attrs["vadx_bags"] = bag_file.BAGS_VERSION + 1


def drop_labels(file: h5py.File) -> None:
    del file["labels"]


def link_features(file: h5py.File) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink("other.h5", "features")


def shorten_ids(file: h5py.File) -> None:
    ids = file["ids"][:3]
    del file["ids"]
    file["ids"] = ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_version, "update vadx"),
        (drop_labels, "labels is missing.*make the file again"),
        (link_features, "link to somewhere else"),
        (shorten_ids, "disagree"),
        # Texts of variable length lie in a heap that HDF5 may read for ever.
        (lambda file: file.attrs.__setitem__("rule", "linspace-32"), "rule is no single number or text"),
        (lambda file: file.attrs.__delitem__("rule"), "rule.*make the file again"),
        (lambda file: file.attrs.__delitem__("vadx_bags"), "not a bags file of vadx"),
    ],
)
def test_a_file_of_another_make_is_refused(path: Path, change: Any, message: str) -> None:
    rewrite(path, change)
    with pytest.raises(StoreError, match=message):
        BagFile(path)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n"])
def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(StoreError, match="not a bags file"):
        BagFile(tmp_path / "x.h5")


def test_a_file_that_is_not_there_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such bags file"):
        BagFile(tmp_path / "x.h5")


def test_a_pickled_file_reads_the_same_and_takes_no_handle_along(path: Path) -> None:
    file = BagFile(path)
    again = pickle.loads(pickle.dumps(file))  # noqa: S301  # its own bytes
    assert same(again[3], BAGS[3])
    file.close()
    assert same(file[3], BAGS[3])


def read_elsewhere(file: BagFile, queue: Any) -> None:
    inherited = file._file._opened
    queue.put((os.getpid(), [bag.features.sum() for bag in file], inherited is not file._file._opened))


def test_a_forked_process_opens_the_file_for_itself(path: Path) -> None:
    file = BagFile(path)
    sums = [bag.features.sum() for bag in file]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=read_elsewhere, args=(file, queue)) for _ in range(2)]
    for child in children:
        child.start()
    answers = [queue.get() for _ in children]
    for child in children:
        child.join(30)
    assert sorted(pid for pid, _, _ in answers) == sorted(child.pid or 0 for child in children)
    assert [(found, opened) for _, found, opened in answers] == [(sums, True)] * 2
    assert [bag.features.sum() for bag in file] == sums
