"""Several at one set at once: three that extract, one that sweeps, one that packs, and one that reads."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_videos import RECIPE, Source, shard_of, values_of, write_here

from vadx.errors import NoInputError, StoreError
from vadx.features import pack
from vadx.features.pack import pack_set
from vadx.features.packed_set import PackedSet
from vadx.features.store import FeatureSet, Store
from vadx.pipelines.sweep import find_leftovers, sweep

WRITERS = 3
IDS = tuple(f"camera {number % 7}/{number:03d}" for number in range(45))
DAY_SECONDS = 86_400.0

pytestmark = pytest.mark.timeout(120)


def assert_as_made(feature_set: FeatureSet, identifier: str) -> None:
    np.testing.assert_array_equal(feature_set[identifier].values, values_of(identifier, 1))


def extract(path: Path, barrier: Barrier, told: Any) -> None:
    feature_set = FeatureSet(path)
    for number, identifier in enumerate(IDS):
        if number % 3 == 0:
            barrier.wait()
        decision = feature_set.action(identifier, Source(1))
        if decision.verb == "current":
            told.put("current")
            continue
        told.put(feature_set.publish(identifier, shard_of(identifier, 1), replace=False).outcome)
    feature_set.save_index({})
    told.put("done")


def collect(path: Path, is_over: Event, told: Any) -> None:
    feature_set, num_swept, num_looks = FeatureSet(path), 0, 0
    while not is_over.is_set() or num_looks == 0:
        num_looks += 1
        for leftover in find_leftovers(feature_set, time.time() - DAY_SECONDS):
            num_swept += leftover.may_go and sweep(feature_set, leftover)
    told.put(num_swept)


def pack_again_and_again(path: Path, target: Path, is_over: Event, told: Any) -> None:
    pack.write_in_child = write_here
    sizes = []
    while not is_over.is_set() or len(sizes) < 2:
        try:
            pack_set(FeatureSet(path), target)
        except (NoInputError, StoreError):
            # Nothing is there yet, or the set changed while it was packed: then nothing is written.
            continue
        with PackedSet(target) as packed:
            for identifier in packed:
                assert_as_made(packed, identifier)
            sizes.append(len(packed))
    told.put(sizes)


@pytest.mark.usefixtures("no_power_loss")
def test_nothing_is_lost_made_twice_or_seen_in_part(tmp_path: Path) -> None:
    path = Store(tmp_path / "store").create(RECIPE, slug="shared").path
    context = multiprocessing.get_context("fork")
    is_over, barrier = context.Event(), context.Barrier(WRITERS)
    outcomes, swept, packed = context.SimpleQueue(), context.SimpleQueue(), context.SimpleQueue()
    old = path / "tmp" / "left by a kill.part"
    old.write_bytes(b"half")
    os.utime(old, (1, 1))
    others = [
        context.Process(target=collect, args=(path, is_over, swept)),
        context.Process(target=pack_again_and_again, args=(path, tmp_path / "packed.h5", is_over, packed)),
    ]
    writers = [context.Process(target=extract, args=(path, barrier, outcomes)) for _ in range(WRITERS)]
    for process in [*others, *writers]:
        process.start()
    told: list[str] = []
    reader, num_reads = FeatureSet(path), 0
    while told.count("done") < WRITERS:
        while not outcomes.empty():
            told.append(outcomes.get())
        for identifier in IDS[num_reads % 7 :: 7]:
            if identifier in reader:
                assert_as_made(reader, identifier)
                num_reads += 1
    is_over.set()
    assert swept.get() == 1
    sizes = packed.get()
    for process in [*others, *writers]:
        process.join()
        assert process.exitcode == 0
    counts = Counter(told)
    assert counts["new"] == len(IDS)
    assert counts["new"] + counts["already there"] + counts["current"] == WRITERS * len(IDS)
    assert set(counts) <= {"new", "already there", "current", "done"}
    assert num_reads
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(IDS)
    feature_set = FeatureSet(path)
    assert feature_set.all_ids() == sorted(IDS)
    assert all(error is None for _, error in feature_set.verify())
    assert list((path / "tmp").iterdir()) == []
