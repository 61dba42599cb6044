"""A feature set lives through anything in any order, held against a model that is a dict: Hypothesis draws the lives.

`VADX_TEST_LIVES=5000` draws others, as many.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from numbered_videos import RECIPE, Source, shard_of, values_of, write_here

from vadx.errors import NoInputError, ShardError, VideoError
from vadx.features import listed_set, pack, publish, store
from vadx.features.pack import pack_set, unpack_set
from vadx.features.packed_set import PackedSet
from vadx.features.shard import HEADER_BYTES
from vadx.features.shard_set import ShardSet, failure_of
from vadx.features.store import FeatureSet, Store
from vadx.pipelines.sweep import find_leftovers, sweep

LIVES = int(os.environ.get("VADX_TEST_LIVES", 0))
LIVES_A_CHANGE, LIVES_TO_BE_FOUND_OUT = 200, 8
STEPS = 50
IDS = ("a", "a/b", "Normal/x 1", "é")
CALLS = frozenset({"open", "posix_fallocate", "write", "fsync", "close", "link", "replace", "unlink"})


class Killed(BaseException):
    """What a process that is killed would have done next is not done."""


class DyingOs:
    """Stands in for `os` in `publish`: from the given call on, nothing is done any more."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        return self._counted(name, call) if name in CALLS else call

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                if name == "close":
                    # The system would: here it must be done, for this process lives on.
                    call(*arguments)
                raise Killed
            return call(*arguments, **options)

        return act


@dataclass(frozen=True)
class Stored:
    """What stands at a video's place: of which content, and whether it is whole, or damaged in its body or header."""

    content: int
    state: str = "whole"


class LifeOfASet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="life"))
        self.feature_set = Store(self.folder / "store").create(RECIPE, slug="life", preset="tiny-default")
        self.stored: dict[str, Stored] = {}
        self.failed: dict[str, int] = {}
        self.noted: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def expected(self, identifier: str, content: int) -> str:
        one = self.stored.get(identifier)
        seems_whole = one is not None and one.state != "header" and identifier not in self.noted
        if one is not None and seems_whole and one.content == content:
            return "current"
        if self.failed.get(identifier) == content:
            return "failed before"
        return "extract" if one is None else "refresh"

    def damaged(self) -> set[str]:
        return {identifier for identifier, one in self.stored.items() if one.state != "whole"}

    @rule(identifier=st.sampled_from(IDS), content=st.integers(0, 2))
    def extract(self, identifier: str, content: int) -> None:
        decision = self.feature_set.action(identifier, Source(content))
        assert decision.verb == self.expected(identifier, content), decision
        if decision.verb in ("extract", "refresh"):
            made = self.feature_set.publish(
                identifier, shard_of(identifier, content), replace=decision.verb == "refresh"
            )
            assert made.outcome in ("new", "replaced")
            self.stored[identifier] = Stored(content)
            self.failed.pop(identifier, None)
            self.noted.discard(identifier)

    @rule(identifier=st.sampled_from(IDS), content=st.integers(0, 2), at=st.integers(0, 12))
    def extract_and_be_killed(self, identifier: str, content: int, at: int) -> None:
        verb = self.expected(identifier, content)
        if verb not in ("extract", "refresh"):
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publish, "os", DyingOs(at))
            try:
                self.feature_set.publish(identifier, shard_of(identifier, content), replace=verb == "refresh")
            except Killed:
                path = self.feature_set.shard_path(identifier)
                if path.exists() and path.read_bytes() == shard_of(identifier, content):
                    # Killed after the commit: what a finished publish would have forgotten is still remembered.
                    self.stored[identifier] = Stored(content)
            else:
                self.stored[identifier] = Stored(content)
                self.failed.pop(identifier, None)
                self.noted.discard(identifier)

    @rule(identifier=st.sampled_from(IDS), content=st.integers(0, 2))
    def fail(self, identifier: str, content: int) -> None:
        if self.expected(identifier, content) in ("extract", "refresh"):
            error = VideoError("VIDEO_TRUNCATED", f"/v/{identifier}.mp4", "it was seen")
            self.feature_set.record_failure(failure_of(identifier, error, Source(content).sha256(), strict=False))
            self.failed[identifier] = content

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), at=st.integers(0, 10**9), how=st.sampled_from(["header", "body", "page", "cut"]))
    def rot(self, data: st.DataObject, at: int, how: str) -> None:
        identifier = data.draw(st.sampled_from(sorted(self.stored)))
        path = self.feature_set.shard_path(identifier)
        whole = path.read_bytes()
        if len(whole) <= HEADER_BYTES:
            # It was cut before: there is nothing left to rot.
            return
        if how == "cut":
            rotten = whole[: at % len(whole)]
        else:
            start = at % (100 if how == "header" else len(whole) - HEADER_BYTES)
            start += 0 if how == "header" else HEADER_BYTES
            width = 512 if how == "page" else 1
            torn = bytes(width) if how == "page" else bytes([whole[start] ^ 1])
            rotten = (whole[:start] + torn + whole[start + width :])[: len(whole)]
        path.write_bytes(rotten)
        one = self.stored[identifier]
        sound = shard_of(identifier, one.content)
        if rotten == sound:
            self.stored[identifier] = Stored(one.content)
            return
        in_header = len(rotten) != len(sound) or rotten[:HEADER_BYTES] != sound[:HEADER_BYTES]
        self.stored[identifier] = replace(one, state="header" if in_header else "body")

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        identifier = data.draw(st.sampled_from(sorted(self.stored)))
        self.feature_set.shard_path(identifier).unlink()
        del self.stored[identifier]

    @rule()
    def verify(self) -> None:
        found = {path: error for path, error in self.feature_set.verify() if path.suffix == ".h5"}
        places = {self.feature_set.shard_path(identifier): identifier for identifier in self.stored}
        assert set(found) == set(places)
        assert {places[path] for path, error in found.items() if error is not None} == self.damaged()
        self.noted = (self.noted - set(self.stored)) | self.damaged()

    @rule()
    def collect_garbage(self) -> None:
        for leftover in find_leftovers(self.feature_set, time.time() + 60):
            assert leftover.may_go
            assert sweep(self.feature_set, leftover)
        assert list(self.feature_set.tmp.iterdir()) == []
        for identifier, content in list(self.failed.items()):
            one = self.stored.get(identifier)
            if one is not None and one.state != "header" and identifier not in self.noted and one.content == content:
                del self.failed[identifier]

    @rule(how=st.sampled_from(["save", "delete", "ruin"]))
    def reindex(self, how: str) -> None:
        path = self.feature_set.index_path
        if how == "save" or not path.exists():
            self.feature_set.save_index({})
        elif how == "delete":
            path.unlink()
        else:
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2] + b"\0" + data[len(data) // 2 + 1 :])

    @rule()
    def reopen(self) -> None:
        self.feature_set = FeatureSet(self.feature_set.path)

    @rule()
    def pack_and_unpack(self) -> None:
        place = self.folder / "packed.h5"
        before = place.read_bytes() if place.exists() else None
        refused = self.noted & self.stored.keys() | {i for i, one in self.stored.items() if one.state == "header"}
        if refused or not self.stored:
            with pytest.raises(ShardError if self.stored else NoInputError):
                pack_set(self.feature_set, place)
            return
        try:
            report = pack_set(self.feature_set, place)
        except ShardError:
            assert self.damaged()
            assert before == (place.read_bytes() if place.exists() else None)
            return
        # What is damaged is read only if the file does not hold what the headers say.
        assert report.status == "current" or not self.damaged()
        assert (report.status == "current") == (before == place.read_bytes())
        with tempfile.TemporaryDirectory(dir=self.folder) as name, PackedSet(place) as packed:
            again = unpack_set(packed, Store(name)).feature_set
            for one in (packed, again):
                assert list(one) == sorted(self.stored)
                assert {record.id for record in one.failures()} >= set(self.failed) - set(self.stored)
                for identifier, stored in self.stored.items():
                    np.testing.assert_array_equal(one[identifier].values, values_of(identifier, stored.content))

    @invariant()
    def what_is_whole_is_read_and_what_is_not_is_refused(self) -> None:
        listed = set(self.feature_set)
        whole = set(self.stored) - self.damaged()
        assert whole <= listed <= set(self.stored)
        for identifier in IDS:
            if identifier in whole:
                values = self.feature_set[identifier].values
                np.testing.assert_array_equal(values, values_of(identifier, self.stored[identifier].content))
            else:
                with pytest.raises(ShardError if identifier in self.stored else KeyError):
                    self.feature_set[identifier]
        assert {record.id for record in self.feature_set.failures()} == set(self.failed)


def live(lives: int, *, derandomize: bool = True, **options: Any) -> None:
    run_state_machine_as_test(
        LifeOfASet,
        settings=settings(
            max_examples=lives,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=derandomize,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def remembering(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Read the same bytes at the same place once. Every step reads every video, and most have not changed."""
    known: dict[tuple[Path, bytes], Any] = {}

    def reading(path: Path) -> Any:
        key = path, hashlib.sha256(path.read_bytes()).digest()
        if key not in known:
            try:
                known[key] = read(path)
            except ShardError as error:
                known[key] = error
        found = known[key]
        if isinstance(found, ShardError):
            raise ShardError(found.path, found.damage, found.evidence, found.cure)
        return found

    return reading


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a life would do again and again: a process for each pack, and reading what was read."""
    monkeypatch.setattr(pack, "write_in_child", write_here)
    for name in ("open_shard", "row_of_clips"):
        monkeypatch.setattr(store, name, remembering(getattr(store, name)))


@pytest.mark.usefixtures("no_power_loss", "quick")
def test_no_life_of_a_set_loses_or_invents_anything() -> None:
    live(LIVES or LIVES_A_CHANGE, derandomize=not LIVES, phases=[Phase.generate, Phase.shrink])


SABOTAGES = {
    "a stored video's failure is kept": (ShardSet, "forget_failure", lambda self, identifier: None),
    "verify finds nothing": (ShardSet, "verify", lambda self: iter(())),
    "a listing is what it was": (listed_set, "refresh", lambda index, shards, read: index),
}


@pytest.mark.usefixtures("no_power_loss", "quick")
@pytest.mark.parametrize("name", SABOTAGES)
def test_a_set_that_does_not_keep_to_it_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*SABOTAGES[name])
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        live(LIVES_TO_BE_FOUND_OUT, phases=[Phase.generate], report_multiple_bugs=False)
