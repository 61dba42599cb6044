"""Files that earlier versions of vadx wrote are read for ever, and those of a newer one are refused as such.

``make_golden.py`` says what stands in ``format-1/``. What is expected is written down here, not computed again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from support import Ran
from vadx.errors import ShardError, StoreError
from vadx.features import Store
from vadx.features.bag_file import BagFile
from vadx.features.index import load_index
from vadx.features.pack import differences, unpack_set
from vadx.features.packed_set import PackedSet
from vadx.features.shard import _check as header_check
from vadx.features.shard import open_shard, read_header
from vadx.features.shard_set import FailureRecord
from vadx.features.stage_set import StageSet
from vadx.features.store import FeatureSet
from vadx.features.timeline import VideoFacts
from vadx.pipelines.model_folder import Mark, read_model, read_tensors

HERE = Path(__file__).parent
GENERATIONS = {
    "format-1": "b1e27591a7af237fbfae1ec97171495668271eba2536a880049876e60b014dd0",
    "format-1-checked": "2217c46149f3e2148ca5762309f485dabee239189a55b71039326ded7a6ca84c",
}
"""Folder -> sha256 of the paths and sha256 of its files as they were committed: they are never made again.

Since the second, recipes, records of failures, bags files and models also carry a check of what they hold.
"""

ABUSE, NORMAL = "Abuse/Abuse001_x264", "Normal/Normal 影片"
SET = "golden-03a791a1"
DIGEST = "03a791a1f1491be7cb4131fbfee9e651fa0087ce89216f820347401ecb6b001f"
VALUES = {
    ABUSE: {"values": "5e776d21d5cc8ab9", "frames": "2c17dd8f310ec997", "seconds": "32dc3f0fe2ddd1bb", "damaged": 6},
    NORMAL: {"values": "68b57aebdea35311", "frames": "3ba82b964156f91f", "seconds": "c76da4f21c4a0dc2", "damaged": 4},
}
"""Id -> the first 16 digits of the sha256 of each array's bytes; of ``damaged``, its length: only clip 1 is."""
STAGES = {
    "golden-detections-2ee5de38": {"box": "b002889b81d819b8", "score": "768a7b2326e12b51", "label": "d04468d46671f8bb"},
    "golden-tubes-46b9ae93": {"box": "be8393cdc6dfef9e", "score": "8ef2b2b385abb576", "member": "c571327cb01ac1de"},
    "golden-tube-features-74df0d2b": {
        "region": "a4ebfe99ad4f899c",
        "whole_frame": "50c03fe2bd35febb",
        "region_parts": "ccbf9de3706f9733",
        "whole_frame_clips": "510ae12ec916755a",
    },
}
FAILURE = FailureRecord(
    id="Abuse/Abuse002_x264",
    code="VIDEO_TRUNCATED",
    path="/videos/Abuse/Abuse002_x264.mp4",
    evidence="decoded 1 frame",
    source="2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
)


def sha(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


@pytest.fixture(scope="module", params=GENERATIONS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files: nothing that reads them may write there, and the copy would show it."""
    return shutil.copytree(HERE / request.param, tmp_path_factory.mktemp("golden") / request.param)


@pytest.fixture
def own(golden: Path, tmp_path: Path) -> Path:
    """Copy them once more, for tests that change them."""
    return shutil.copytree(golden, tmp_path / "own")


def digest_of(folder: Path) -> str:
    """Give the sha256 of what `sha256sum` prints of a folder's files, in the order of their paths."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = (f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n" for p in found)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", GENERATIONS)
def test_the_files_are_those_that_were_committed(name: str) -> None:
    assert digest_of(HERE / name) == GENERATIONS[name]
    assert sum(path.stat().st_size for path in (HERE / name).rglob("*") if path.is_file()) < 120_000


def assert_features(feature_set: FeatureSet) -> None:
    assert feature_set.digest == feature_set.recipe.digest == DIGEST
    assert feature_set.preset == "tiny-default"
    assert list(feature_set) == [ABUSE, NORMAL]
    for identifier, expected in VALUES.items():
        features = feature_set[identifier]
        assert {name: sha(getattr(features, name)) for name in ("values", "frames", "seconds")} == {
            name: expected[name] for name in ("values", "frames", "seconds")
        }
        assert features.damaged.tolist() == [False, True, *[False] * (int(expected["damaged"]) - 2)]
        assert features.num_padded_frames == 3
        assert features.provenance == {"engine": "golden", "threads": 1}
    # A few values as such: integers over 64.
    assert (64 * feature_set[ABUSE].values[0, 0, :4]).tolist() == [179.0, 70.0, 5.0, -118.0]
    assert feature_set.failures() == [FAILURE]
    assert all(error is None for _, error in feature_set.verify())


def test_a_set_of_features_is_read_and_verified(golden: Path) -> None:
    store = Store(golden / "store")
    assert store.names() == sorted([SET, *STAGES])
    assert_features(store[SET])
    assert store[SET][ABUSE].facts == VideoFacts(
        fps=25.0,
        num_frames_decoded=96,
        width=64,
        height=48,
        num_frames_declared=97,
        rotation_degrees=90,
        codec="h264",
        container="mov",
        num_damaged_frames=1,
        coverage=1.0,
    )


def test_its_index_and_its_hints_are_read(golden: Path) -> None:
    index = load_index(golden / "store" / SET / "index.json")
    assert index.listing.ids == [ABUSE, NORMAL]
    assert [(one.num_clips, one.num_frames, one.degraded) for one in index.listing.values()] == [
        (6, 96, True),
        (4, 64, True),
    ]
    assert index.sources["/videos/Abuse/Abuse001_x264.mp4"][:2] == (1000, 10**18)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_of_tubes_is_read_and_verified(name: str, golden: Path) -> None:
    stage = Store(golden / "store").open(name)
    assert isinstance(stage, StageSet)
    assert name == f"golden-{stage.kind}-{stage.digest[:8]}"
    content = stage.open(ABUSE)
    assert {array: sha(content.arrays[array]) for array in STAGES[name]} == STAGES[name]
    assert content.facts["video"]["num_frames_decoded"] == 2
    assert [error for _, error in stage.verify()] == [None]


def test_a_packed_file_is_read_and_verified_and_unpacked(golden: Path, tmp_path: Path) -> None:
    with PackedSet(golden / "packed.h5") as packed:
        assert packed.name == SET
        assert_features(packed)
        assert list(differences(packed, Store(golden / "store")[SET])) == []
        report = unpack_set(packed, Store(tmp_path / "store"))
    assert (report.num_new, report.kept) == (2, ())
    assert_features(report.feature_set)


def test_a_bags_file_is_read_by_vadx_and_by_h5py(golden: Path) -> None:
    with BagFile(golden / "bags.h5") as file:
        assert file.ids == (ABUSE, NORMAL)
        assert (file.labels.tolist(), file.classes, file.num_frames.tolist()) == ([1, 0], ("Abuse", ""), [96, 64])
        assert (file.rule, file.recipe_digest, file.shape) == ("sultani", DIGEST, (4, 2, 8))
        assert (sha(file.read_all()), sha(file.frames)) == ("8f83e1571b684db9", "3a2ee620de5bdf17")
    with h5py.File(golden / "bags.h5", "r", locking=False) as plain:
        assert sha(plain["features"][()]) == "8f83e1571b684db9"


def test_a_model_is_read_and_scores_as_it_did(golden: Path) -> None:
    model = read_model(golden / "model")
    assert (model.facts["method"], model.mark, model.facts["dim"]) == ("deepmil", Mark(2, None), 8)
    assert model.facts["recipe_digest"] == DIGEST
    steps = torch.arange(64, dtype=torch.float32).reshape(4, 2, 8) / 64
    with torch.no_grad():
        scores = model.method.score(model.network, steps).segments
    # float32 sums in another order differ in the 7th digit.
    assert scores.tolist() == pytest.approx([0.51827973, 0.55586952, 0.59283048, 0.6287697], rel=1e-5)
    tensors, header = read_tensors(golden / "model" / "state.safetensors")
    assert header == {"best": None, "last": {"iteration": 2, "measured": None}}
    assert tensors


def test_the_command_line_finds_nothing_wrong_and_writes_nothing(golden: Path, vadx_here: Callable[..., Ran]) -> None:
    ran = vadx_here("verify", "--store", golden / "store")
    assert (ran.code, ran.out) == (0, "")
    assert "5 shards, 0 damaged" in ran.err
    assert vadx_here("info", golden / "store" / SET, ABUSE).code == 0
    assert digest_of(golden) == GENERATIONS[golden.name]


def newer_shard(path: Path) -> None:
    """Raise the version in a header, which is made valid again."""
    data = path.read_bytes()
    fields = {**json.loads(data[:512]), "vadx": 2}
    del fields["check"]
    line = json.dumps(fields, separators=(",", ":"))
    line = f'{line[:-1]},"check":"{header_check(line)}"}}'
    path.write_bytes(line.ljust(511).encode() + b"\n" + data[512:])


def newer_json(name: str, version: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), name: version, "of a later time": 1}))

    return change


def newer_attribute(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[name] = 2

    return change


SHARD = f"store/{SET}/shards/dd/Abuse-Abuse001_x264-0d8607e95ef5.h5"
STAGE_SHARD = "store/golden-tubes-46b9ae93/shards/dd/Abuse-Abuse001_x264-0d8607e95ef5.h5"
NEWER: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], object]]] = {
    "shard": (SHARD, newer_shard, open_shard),
    "shard of a stage": (STAGE_SHARD, newer_shard, read_header),
    "set": (f"store/{SET}/recipe.json", newer_json("vadx", 2), lambda path: FeatureSet(path.parent)),
    "stage": (
        "store/golden-tubes-46b9ae93/recipe.json",
        newer_json("vadx", 2),
        lambda path: StageSet(path.parent),
    ),
    "packed file": ("packed.h5", newer_attribute("vadx_packed"), PackedSet),
    "bags file": ("bags.h5", newer_attribute("vadx_bags"), BagFile),
    "model": ("model/model.json", newer_json("vadx_model", 2), lambda path: read_model(path.parent)),
}


@pytest.mark.parametrize("kind", NEWER)
def test_a_file_of_a_newer_vadx_is_refused_as_such(kind: str, own: Path) -> None:
    place, change, read = NEWER[kind]
    path = own / place
    read(path)
    change(path)
    with pytest.raises(StoreError, match=r"newer vadx.*format 2.*update vadx") as caught:
        read(path)
    told = str(caught.value)
    assert told.startswith((str(path), str(path.parent)))


def test_an_index_of_a_newer_vadx_counts_as_none(own: Path) -> None:
    path = own / "store" / SET / "index.json"
    path.write_bytes(path.read_bytes().replace(b'{"vadx":2,', b'{"vadx":3,'))
    assert load_index(path).listing.ids == []
    assert list(Store(own / "store")[SET]) == [ABUSE, NORMAL]


class AnySource:
    """A video that nobody has seen."""

    def sha256(self) -> str:
        return "0" * 64


@pytest.mark.parametrize("force", [False, True])
def test_a_shard_of_a_newer_vadx_is_never_replaced(force: bool, own: Path, vadx_here: Callable[..., Ran]) -> None:
    newer_shard(own / SHARD)
    feature_set = Store(own / "store")[SET]
    with pytest.raises(ShardError, match="newer vadx"):
        feature_set.action(ABUSE, AnySource(), force=force)
    with PackedSet(own / "packed.h5") as packed, pytest.raises(ShardError, match="newer vadx"):
        unpack_set(packed, Store(own / "store"))
    ran = vadx_here("verify", "--store", own / "store", "--json")
    assert ran.code == 4
    assert [row["damage"] for row in json.loads(ran.out)["damaged"]] == ["format"]
    told = vadx_here("info", feature_set.path, ABUSE)
    assert told.code == 4
    assert "newer vadx" in told.err
    assert "update vadx" in told.err


def test_the_recipes_digests_stay(golden: Path) -> None:
    from .make_golden import DETECTIONS, RECIPE, TUBE_FEATURES, TUBES

    assert RECIPE.digest == DIGEST
    made = [f"golden-{recipe.kind}-{recipe.digest[:8]}" for recipe in (DETECTIONS, TUBES, TUBE_FEATURES)]
    assert sorted(made) == sorted(STAGES)


def test_what_is_made_today_is_the_same_format(golden: Path, tmp_path: Path) -> None:
    from .make_golden import make_set, make_stages

    store = Store(tmp_path / "store")
    made = make_set(store)
    assert_features(made)
    make_stages(store)
    assert store.names() == Store(golden / "store").names()
    for name in store.names():
        for path in store.open(name).shard_paths():
            before = read_header(golden / "store" / path.relative_to(tmp_path / "store"))
            now = read_header(path)
            # Another HDF5 may write other bytes of the same content.
            assert (now.key, now.recipe_digest, now.source_sha256) == (
                before.key,
                before.recipe_digest,
                before.source_sha256,
            )
