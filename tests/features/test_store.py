from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from vadx.errors import ShardError, StoreError, VideoError
from vadx.features import Store
from vadx.features import store as store_module
from vadx.features.checked_json import with_check, without_check
from vadx.features.index import ShardSummary
from vadx.features.keys import folder_of, key_of
from vadx.features.shard import ShardHeader
from vadx.features.shard_set import Decision, FailureRecord, decide, failure_of
from vadx.features.store import FeatureSet

from .samples import IDS, RECIPE, SOURCE, make_features, make_recipe, publish, shard_of, write

SEED = 20261122
OTHER_RECIPE = make_recipe(clip_length=32)
OTHER_SOURCE = "f" * 64


@dataclass
class FakeSource:
    digest: str = SOURCE
    times_hashed: int = 0

    def sha256(self) -> str:
        self.times_hashed += 1
        return self.digest


def failure(**changes: Any) -> FailureRecord:
    record = FailureRecord("x", "VIDEO_TRUNCATED", "/videos/x.mp4", "36 of 120 frames", SOURCE)
    return replace(record, **changes)


def changed_record(**changes: object) -> bytes:
    return json.dumps({"vadx": 1, **asdict(failure()), **changes}).encode()


HEADER = ShardHeader(10, SOURCE, "x", RECIPE.digest, SOURCE)
DAMAGED = ShardError("x.h5", "body", "its sha256 differs")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Decision("extract", "new")),
        ({"source_sha256": None}, Decision("extract", "new")),
        ({"force": True}, Decision("extract", "forced")),
        ({"force": True, "shard": HEADER}, Decision("refresh", "forced")),
        ({"force": True, "shard": DAMAGED}, Decision("refresh", "forced")),
        ({"force": True, "failure": failure()}, Decision("extract", "forced")),
        ({"shard": HEADER}, Decision("current", "stored before")),
        ({"shard": HEADER, "failure": failure()}, Decision("current", "stored before")),
        (
            {"shard": HEADER, "retry_failed": True, "strict": True, "allow_partial": True},
            Decision("current", "stored before"),
        ),
        ({"shard": DAMAGED}, Decision("refresh", "its shard is damaged (body)")),
        (
            {"shard": replace(HEADER, recipe_digest=OTHER_RECIPE.digest)},
            Decision("refresh", "its shard was made under another recipe"),
        ),
        ({"shard": replace(HEADER, source_sha256=OTHER_SOURCE)}, Decision("refresh", "the video changed")),
        ({"failure": failure()}, Decision("failed before", "VIDEO_TRUNCATED")),
        ({"failure": failure(), "strict": True}, Decision("failed before", "VIDEO_TRUNCATED")),
        ({"failure": failure(strict=True), "strict": True}, Decision("failed before", "VIDEO_TRUNCATED")),
        ({"failure": failure(strict=True)}, Decision("extract", "VIDEO_TRUNCATED was found under --strict")),
        ({"failure": failure(), "retry_failed": True}, Decision("extract", "retry of VIDEO_TRUNCATED")),
        ({"failure": failure(), "allow_partial": True}, Decision("extract", "VIDEO_TRUNCATED is now allowed")),
        (
            {"failure": failure(code="VIDEO_DAMAGED"), "allow_partial": True},
            Decision("extract", "VIDEO_DAMAGED is now allowed"),
        ),
        (
            {"failure": failure(code="VIDEO_NO_STREAM"), "allow_partial": True},
            Decision("failed before", "VIDEO_NO_STREAM"),
        ),
        ({"failure": failure(source=OTHER_SOURCE)}, Decision("extract", "new")),
        ({"failure": failure(source=None)}, Decision("extract", "new")),
        ({"failure": failure(source=None), "source_sha256": None}, Decision("extract", "new")),
        (
            {"failure": failure(), "shard": replace(HEADER, source_sha256=OTHER_SOURCE)},
            Decision("failed before", "VIDEO_TRUNCATED"),
        ),
        (
            {"failure": failure(source=OTHER_SOURCE), "shard": DAMAGED},
            Decision("refresh", "its shard is damaged (body)"),
        ),
    ],
)
def test_what_a_video_needs(given: dict[str, Any], expected: Decision) -> None:
    situation: dict[str, Any] = {
        "shard": None,
        "failure": None,
        "source_sha256": SOURCE,
        "recipe_digest": RECIPE.digest,
    } | given
    assert decide(**situation) == expected


def test_rules_that_hold_in_every_situation() -> None:
    shards = (None, DAMAGED, HEADER, replace(HEADER, source_sha256=OTHER_SOURCE))
    codes = ("VIDEO_DAMAGED", "VIDEO_EMPTY")
    sources = (None, SOURCE, OTHER_SOURCE)
    failures = [failure(code=c, source=s, strict=x) for c, s, x in itertools.product(codes, sources, (False, True))]
    names = ("force", "retry_failed", "strict", "allow_partial")
    choices = [dict(zip(names, options, strict=True)) for options in itertools.product((False, True), repeat=4)]
    verbs: Counter[str] = Counter()
    for shard, failed, chosen in itertools.product(shards, (None, *failures), choices):
        verb = decide(shard=shard, failure=failed, source_sha256=SOURCE, recipe_digest=RECIPE.digest, **chosen).verb
        verbs[verb] += 1
        if verb == "current":
            assert shard is HEADER
            assert not chosen["force"]
        if verb == "failed before":
            assert failed is not None
            assert failed.source == SOURCE
            assert not chosen["retry_failed"]
        if verb == "refresh":
            assert shard is not None
        if shard is None:
            assert verb != "current"
    assert set(verbs) == {"current", "extract", "refresh", "failed before"}


def test_the_life_of_a_video_in_a_set(feature_set: FeatureSet) -> None:
    source = FakeSource()

    def verb(**options: bool) -> str:
        return feature_set.action("cam/1", source, **options).verb

    assert verb() == "extract"
    assert source.times_hashed == 0
    feature_set.record_failure(failure(id="cam/1"))
    assert (verb(), verb(retry_failed=True), verb(allow_partial=True)) == ("failed before", "extract", "extract")
    assert source.times_hashed == 3
    path = publish(feature_set, "cam/1")
    assert feature_set.failure("cam/1") is None
    assert verb() == "current"
    hashed = source.times_hashed
    assert verb(force=True) == "refresh"
    assert source.times_hashed == hashed
    source.digest = OTHER_SOURCE
    assert verb() == "refresh"
    again = feature_set.publish("cam/1", shard_of("cam/1", source=OTHER_SOURCE), replace=False)
    assert again.outcome == "first kept"
    assert verb() == "refresh"
    again = feature_set.publish("cam/1", shard_of("cam/1", source=OTHER_SOURCE), replace=True)
    assert (again.outcome, again.path) == ("replaced", path)
    assert verb() == "current"
    os.truncate(path, 1000)
    assert feature_set.action("cam/1", source).reason == "its shard is damaged (truncated)"
    path.unlink()
    assert verb() == "extract"
    assert list(feature_set.tmp.iterdir()) == []


def test_a_shard_in_a_file_is_published_like_bytes(feature_set: FeatureSet) -> None:
    shard = shard_of("x")
    temporary = write(feature_set.tmp / "x.part", shard)
    assert feature_set.publish("x", temporary, replace=False).outcome == "new"
    assert feature_set.shard_path("x").read_bytes() == shard
    assert not temporary.exists()


def test_a_set_is_a_mapping_from_id_to_features(full: FeatureSet) -> None:
    assert list(full) == sorted(IDS)
    assert len(full) == len(IDS)
    assert [len(features) for features in full.values()] == [IDS.index(i) + 1 for i in sorted(IDS)]
    assert np.array_equal(full["b"].values, make_features(3, seed=1).values)
    assert "b" in full
    assert "c" not in full
    assert cast("object", 7) not in full


def test_files_lie_where_the_plan_says(feature_set: FeatureSet) -> None:
    identifier = IDS[0]
    key = key_of(identifier)
    path = publish(feature_set, identifier)
    feature_set.record_failure(failure(id=identifier))
    assert path == feature_set.path / "shards" / folder_of(key) / f"{key}.h5"
    assert (feature_set.path / "failed" / folder_of(key) / f"{key}.json").is_file()
    assert feature_set.name == f"i3d-k400-{RECIPE.digest[:8]}"
    assert sorted(p.name for p in feature_set.path.iterdir()) == ["failed", "recipe.json", "runs", "shards", "tmp"]


def test_an_absent_video_is_a_key_error_that_names_its_like(full: FeatureSet) -> None:
    with pytest.raises(KeyError, match=r"no video 'Normal/Normal_002' in i3d-k400-.*similar: Normal/Normal_001"):
        full["Normal/Normal_002"]
    with pytest.raises(KeyError) as caught:
        full["something else entirely"]
    assert "similar" not in str(caught.value)


def test_a_damaged_video_is_a_shard_error_and_left_out_of_the_listing(full: FeatureSet) -> None:
    os.truncate(full.shard_path("b"), 700)
    with pytest.raises(ShardError, match="truncated"):
        full["b"]
    assert list(full) == sorted(set(IDS) - {"b"})


def test_a_set_survives_being_reopened(full: FeatureSet) -> None:
    again = FeatureSet(full.path)
    assert again.recipe == RECIPE
    assert (again.digest, again.preset, again.weights_name) == (RECIPE.digest, "rtfm", "i3d.safetensors")
    assert dict(again.summaries()) == dict(full.summaries())


def test_making_a_set_twice_gives_the_first(tmp_path: Path, feature_set: FeatureSet) -> None:
    store = Store(tmp_path / "store")
    before = (feature_set.path / "recipe.json").read_bytes()
    feature_set.tmp.rmdir()
    again = store.create(RECIPE, slug="another-name", preset="another")
    assert (again.path, again.preset) == (feature_set.path, "rtfm")
    assert again.tmp.is_dir()
    assert (feature_set.path / "recipe.json").read_bytes() == before
    assert store.names() == [feature_set.name]


def test_a_set_whose_making_was_killed_is_no_set_and_is_finished_later(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = tmp_path / f"slug-{RECIPE.digest[:8]}"
    (path / "shards").mkdir(parents=True)
    assert store.names() == []
    with pytest.raises(StoreError, match=r"recipe\.json is missing"):
        FeatureSet(path)
    assert store.create(RECIPE, slug="slug").path == path
    assert store.names() == [path.name]


@pytest.mark.parametrize("slug", ["", ".", "..", "../x", "a/b", "-a", ".a", "A", "a b", "a\n", "é", "x" * 102])
def test_a_slug_that_is_no_folder_name_is_refused(tmp_path: Path, slug: str) -> None:
    with pytest.raises(StoreError, match="folder's name"):
        Store(tmp_path / "store").create(RECIPE, slug=slug)
    assert not (tmp_path / "store").exists()


def test_a_set_is_found_by_its_recipe_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = {recipe.digest: store.create(recipe, slug="same").path for recipe in (RECIPE, OTHER_RECIPE)}
    assert {r.digest: store.find(r).path for r in (RECIPE, OTHER_RECIPE)} == made  # type: ignore[union-attr]
    assert store.find(make_recipe(weights="random:9")) is None


def test_a_set_is_named_by_prefix_or_preset(tmp_path: Path) -> None:
    store = Store(tmp_path)
    i3d = store.create(RECIPE, slug="i3d-k400", preset="rtfm")
    c3d = store.create(OTHER_RECIPE, slug="c3d-s1m", preset="sultani")
    for name in (i3d.name, "i3d", "i", "i3d-k400", "rtfm"):
        assert store[name].path == i3d.path
    assert store["sultani"].path == c3d.path
    assert list(store) == [c3d.name, i3d.name]
    assert len(store) == 2
    assert [s.path for s in store.sets()] == [c3d.path, i3d.path]


def test_an_ambiguous_or_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyError, match=r"'i3d' fits no feature set .*there are: none"):
        store["i3d"]
    sets = [
        store.create(recipe, slug="i3d-k400", preset=preset)
        for recipe, preset in ((RECIPE, "same"), (OTHER_RECIPE, "same"), (make_recipe(weights="random:1"), "single"))
    ]
    names = sorted(s.name for s in sets)
    with pytest.raises(KeyError) as prefix:
        store["i3d"]
    assert "fits several feature sets" in str(prefix.value)
    assert all(name in str(prefix.value) for name in names)
    with pytest.raises(KeyError) as preset:
        store["same"]
    assert "fits several feature sets" in str(preset.value)
    assert [name in str(preset.value) for name in (sets[0].name, sets[1].name, sets[2].name)] == [True, True, False]
    with pytest.raises(KeyError) as absent:
        store["c3d"]
    assert "fits no feature set" in str(absent.value)
    assert all(name in str(absent.value) for name in names)


def test_a_whole_name_wins_over_longer_names_that_begin_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    short = store.create(RECIPE, slug="a")
    longer = tmp_path / f"{short.name}-copy"
    longer.mkdir()
    (longer / "recipe.json").write_bytes((short.path / "recipe.json").read_bytes())
    assert store[short.name].path == short.path


def test_a_store_that_is_not_there_is_empty_and_one_that_is_a_file_is_refused(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").names() == []
    assert Store(tmp_path / "none").find(RECIPE) is None
    with pytest.raises(StoreError, match="this is a file"):
        Store(write(tmp_path / "file", b""))


def test_what_is_made_of_a_whole_set_is_not_made_of_a_part_that_can_be_read(feature_set: FeatureSet) -> None:
    publish(feature_set, "a")
    path = publish(feature_set, "b")
    assert feature_set.all_ids() == ["a", "b"]
    whole = path.read_bytes()
    path.write_bytes(b"x" + whole[1:])
    assert list(feature_set) == ["a"]
    with pytest.raises(ShardError, match=f"{path.name}: header"):
        feature_set.all_ids()
    path.write_bytes(whole)
    assert feature_set.all_ids() == ["a", "b"]


def test_a_set_of_a_newer_vadx_is_refused_as_such(feature_set: FeatureSet) -> None:
    path = feature_set.path / "recipe.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"vadx": 2, "recipe": "of a new kind"}))
    with pytest.raises(StoreError, match=r"newer vadx.*format 2.*update vadx"):
        FeatureSet(feature_set.path)


@pytest.mark.parametrize(
    "change",
    [
        {"vadx": "1"},
        {"vadx": None},
        {"recipe": None},
        {"recipe": {}},
        {"digest": OTHER_SOURCE},
        {"digest": [1]},
        {"recipe": OTHER_RECIPE.to_mapping()},
        {"recipe": RECIPE.to_mapping() | {"shutter": 1}},
        {"preset": 1},
        {"weights_name": []},
    ],
)
def test_a_recipe_file_that_was_changed_is_a_store_error(feature_set: FeatureSet, change: dict[str, Any]) -> None:
    path = feature_set.path / "recipe.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(StoreError, match=r"recipe\.json"):
        FeatureSet(feature_set.path)


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"{", b"[" * 100_000, b"\xff", b'{"vadx": 1}'])
def test_a_recipe_file_that_is_no_recipe_is_a_store_error(feature_set: FeatureSet, content: bytes) -> None:
    (feature_set.path / "recipe.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"recipe\.json"):
        FeatureSet(feature_set.path)


@pytest.mark.parametrize("is_flipped", [False, True])
def test_a_version_that_a_flipped_bit_made_newer_is_told_from_a_newer_one(
    is_flipped: bool, feature_set: FeatureSet
) -> None:
    path = feature_set.path / "recipe.json"
    raw = json.loads(path.read_text())
    newer = {**raw, "vadx": 3} if is_flipped else with_check({**without_check(raw), "vadx": 3})
    path.write_text(json.dumps(newer))
    with pytest.raises(StoreError, match=r"newer vadx.*format 3") as caught:
        FeatureSet(feature_set.path)
    assert str(path) in str(caught.value)
    assert ("its own check does not fit" in str(caught.value)) == is_flipped


def test_a_flipped_bit_in_the_recipe_file_never_gives_another_recipe(feature_set: FeatureSet) -> None:
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    path = feature_set.path / "recipe.json"
    right = path.read_bytes()
    refused = 0
    for at in range(len(right)):
        wrong = bytearray(right)
        wrong[at] ^= 1 << int(random.integers(8))
        path.write_bytes(wrong)
        try:
            opened = FeatureSet(feature_set.path)
        except StoreError:
            refused += 1
        else:
            assert (opened.recipe, opened.digest) == (RECIPE, RECIPE.digest)
    assert refused > 0.8 * len(right)


@pytest.mark.parametrize(
    "record",
    [
        failure(),
        failure(id="影片 1", source=None, strict=True),
        failure(path="/videos/\udcff.mp4", evidence='"quoted"\n'),
        failure_of("x", VideoError("VIDEO_EMPTY", "/videos/x.mp4", "it holds 0 bytes"), None, strict=False),
    ],
)
def test_a_failure_is_remembered(feature_set: FeatureSet, record: FailureRecord) -> None:
    feature_set.record_failure(record)
    assert feature_set.failure(record.id) == record
    assert feature_set.failures() == [record]
    newer = replace(record, code="VIDEO_NO_STREAM")
    feature_set.record_failure(newer)
    assert feature_set.failures() == [newer]


def test_failures_are_listed_in_the_order_of_ids(feature_set: FeatureSet) -> None:
    for identifier in IDS:
        feature_set.record_failure(failure(id=identifier))
    assert [record.id for record in feature_set.failures()] == sorted(IDS)
    assert feature_set.failure("never seen") is None


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"vadx": 1}'),
        json.dumps(asdict(failure())).encode(),
        changed_record(code="VIDEO_TRUNCATEE"),
        changed_record(code=[]),
        changed_record(code=None),
        changed_record(id=7),
        changed_record(path=None),
        changed_record(evidence={}),
        changed_record(source=7),
        changed_record(source=0),
        changed_record(strict="no"),
        changed_record(shutter=1),
    ],
)
def test_a_damaged_failure_record_is_none(feature_set: FeatureSet, content: bytes) -> None:
    feature_set.record_failure(failure(id="y"))
    write(feature_set.failure_path("x"), content)
    assert feature_set.failure("x") is None
    assert feature_set.failures() == [failure(id="y")]
    assert feature_set.action("x", FakeSource()).verb == "extract"


def damages(feature_set: FeatureSet, *, whole: bool = True) -> dict[str, str | None]:
    return {path.name: error.damage if error else None for path, error in feature_set.verify(full=whole)}


def test_verify_finds_nothing_wrong_with_a_good_set(full: FeatureSet) -> None:
    assert damages(full) == {f"{key_of(i)}.h5": None for i in IDS}
    paths = [path for path, _ in full.verify()]
    assert paths == sorted(paths)


def test_verify_names_what_is_wrong_with_each_shard(full: FeatureSet) -> None:
    flipped = bytearray(full.shard_path("a").read_bytes())
    flipped[2000] ^= 4
    full.shard_path("a").write_bytes(flipped)
    os.truncate(full.shard_path("b"), 2000)
    write(full.shard_path("foreign"), shard_of("foreign", recipe=OTHER_RECIPE))
    write(full.shard_path("impostor"), shard_of("z.y.x"))
    write(full.path / "shards" / "zz" / "lost.h5", shard_of("lost"))
    full.shard_path("folder").mkdir(parents=True)
    full.shard_path("noise").parent.mkdir(parents=True, exist_ok=True)
    full.shard_path("noise").write_bytes(b"x" * 600)
    (full.shard_path("z.y.x").parent / "copié.h5").write_bytes(shard_of("z.y.x"))
    wrong = {name: damage for name, damage in damages(full).items() if damage is not None}
    assert wrong == {
        "a.h5": "body",
        "b.h5": "truncated",
        "foreign.h5": "stranger",
        "impostor.h5": "stranger",
        "lost.h5": "stranger",
        "folder.h5": "unreadable",
        "noise.h5": "header",
        "copié.h5": "stranger",
    }
    quick = damages(full, whole=False)
    assert {name: quick[name] for name in wrong} == wrong | {"a.h5": None}


def test_what_does_not_belong_is_not_listed(full: FeatureSet) -> None:
    before = full.summaries()
    write(full.path / "shards" / "zz" / "lost.h5", shard_of("lost"))
    for name in ("copié", f"{key_of('b')}.bak", "impostor"):
        (full.path / "shards" / folder_of(name)).mkdir(exist_ok=True)
        write(full.path / "shards" / folder_of(name) / f"{name}.h5", shard_of("b", num_clips=9))
    write(full.path / "shards" / "notes.txt", b"a person's notes")
    assert full.summaries() == before


def test_a_summary_says_what_a_listing_shows(feature_set: FeatureSet) -> None:
    path = publish(feature_set, "b", num_clips=5)
    assert feature_set.summaries() == {
        "b": ShardSummary("b", path.stat().st_size, 5, 1, 8, 80, 80 / 25, degraded=False)
    }


def test_a_set_without_shards_is_empty(feature_set: FeatureSet) -> None:
    assert feature_set.summaries() == {}
    assert damages(feature_set) == {}
    (feature_set.path / "shards").rmdir()
    assert feature_set.summaries() == {}


def test_a_set_made_under_a_colliding_short_digest_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    made = store.create(RECIPE, slug="slug")
    taken = tmp_path / f"slug-{OTHER_RECIPE.digest[:8]}"
    made.path.rename(taken)
    monkeypatch.setattr(store_module.Store, "find", lambda _self, _recipe: None)
    with pytest.raises(StoreError, match=OTHER_RECIPE.digest[:8]):
        store.create(OTHER_RECIPE, slug="slug")
