"""`vadx pack`: one file of a set, its check, and shards again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from vadx.errors import NoInputError, ShardError, StoreError, UsageError
from vadx.features import Store
from vadx.features.recipe import Network, Recipe, Sampling, Transform
from vadx.features.shard import build_shard
from vadx.features.shard_set import FailureRecord
from vadx.features.store import FeatureSet
from vadx.features.timeline import ClipFeatures, VideoFacts
from vadx.pipelines.cli.pack import pack

SOURCE = hashlib.sha256(b"the video's bytes").hexdigest()
IDS = ("Abuse/Abuse001_x264", "Normal/a", "b")


def make_recipe(clip_length: int = 16) -> Recipe:
    return Recipe(
        sampling=Sampling(clip_length=clip_length, clip_stride=16, tail="drop"),
        transform=Transform(kernel="pil", resize=256, crop=224, crops="center", center_rounding="round"),
        network=Network(name="i3d", layer="mixed_5c"),
        weights="random:0",
    )


def publish(feature_set: FeatureSet, identifier: str, num_clips: int = 3) -> None:
    starts = np.arange(num_clips, dtype=np.int64) * 16
    frames = np.stack([starts, starts + 16], axis=1)
    values = np.random.default_rng(num_clips).standard_normal((num_clips, 1, 8)).astype(np.float32)
    facts = VideoFacts(25.0, 16 * num_clips, 320, 240)
    features = ClipFeatures(values, frames, frames / 25.0, np.zeros(num_clips, np.bool_), facts)
    key = feature_set.shard_path(identifier).stem
    feature_set.publish(identifier, build_shard(identifier, key, features, feature_set.digest, SOURCE), replace=True)


@dataclass(frozen=True)
class Place:
    """A store with one set, and what `vadx pack` says there."""

    feature_set: FeatureSet
    store: Path
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: str | Path, store: Path | None = None) -> tuple[int, str, str]:
        self.capture.readouterr()
        words = [*map(str, arguments), "--store", str(store or self.store)]
        code = pack.main(words, prog_name="vadx pack", standalone_mode=False)
        captured = self.capture.readouterr()
        return code, captured.out, captured.err


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    feature_set = Store(tmp_path / "store").create(make_recipe(), slug="i3d-k400", preset="rtfm")
    for number, identifier in enumerate(IDS):
        publish(feature_set, identifier, number + 1)
    feature_set.record_failure(FailureRecord("c", "VIDEO_EMPTY", "/videos/c.mp4", "no bytes", SOURCE))
    return Place(feature_set, tmp_path / "store", capsys)


def test_a_set_is_packed_checked_and_unpacked(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "i3d.h5"
    code, out, err = place.run("i3d", "--to", target)
    assert (code, out) == (0, f"{target}\n")
    assert err.startswith("packed: 3 videos, 1 failures, ")
    with h5py.File(target, "r") as file:
        np.testing.assert_array_equal(
            file["Abuse/Abuse001_x264/features"][:], place.feature_set["Abuse/Abuse001_x264"].values
        )
    again = json.loads(place.run("rtfm", "--to", target, "--json")[1])
    size = target.stat().st_size
    assert again == {"path": str(target), "status": "current", "videos": 3, "failed": 1, "bytes": size}
    assert place.run("i3d", "--to", target, "--check")[:2] == (0, "")
    assert json.loads(place.run(target, "--check", "--json")[1]) == {"path": str(target), "videos": 3, "findings": []}

    other = tmp_path / "other"
    code, out, err = place.run("--unpack", target, store=other)
    made = Store(other)["i3d"]
    assert (code, out, err) == (0, f"{made.path}\n", "3 shards unpacked, 0 were there\n")
    for identifier in IDS:
        assert made.shard_path(identifier).read_bytes() == place.feature_set.shard_path(identifier).read_bytes()
    report = json.loads(place.run("--unpack", target, "--json", store=other)[1])
    assert report == {"path": str(made.path), "new": 0, "current": 3, "kept": [], "rebuilt": []}
    publish(made, "b", 9)
    assert "b: another shard of this video is stored, and stays\n" in place.run("--unpack", target, store=other)[2]


def test_without_to_the_file_lies_beside_the_set(place: Place) -> None:
    path = place.store / f"{place.feature_set.name}.h5"
    assert place.run("i3d")[1] == f"{path}\n"
    assert place.run("i3d", "--check")[0] == 0
    assert Store(place.store).names() == [place.feature_set.name]


def test_a_check_that_finds_something_exits_with_4(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "i3d.h5"
    place.run("i3d", "--to", target)
    publish(place.feature_set, "new")
    code, out, err = place.run("i3d", "--to", target, "--check")
    assert (code, out) == (4, "new: is not in the file\n")
    assert f"1 findings; to write it again: vadx pack SET --to {target}" in err
    with h5py.File(target, "r+") as file:
        file["b/features"][0, 0, 0] += 1
    code, out, _ = place.run(target, "--check")
    assert code == 4
    assert out.startswith("b: what it holds is not what was packed; copy the file again")
    findings = json.loads(place.run(target, "--check", "--json")[1])["findings"]
    assert len(findings) == 1
    with pytest.raises(ShardError, match="b: what it holds"):
        place.run("--unpack", target, store=tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["i3d", "--to", "x.h5", "--unpack"], UsageError, "neither --to nor --check"),
        (["x.h5", "--check", "--unpack"], UsageError, "neither --to nor --check"),
        (["mine.h5"], UsageError, "mine.h5 is a file.*vadx pack --unpack mine.h5"),
        (["mine.h5", "--check", "--to", "x.h5"], UsageError, "vadx pack SET --to mine.h5 --check"),
        (["mine.h5", "--check"], StoreError, "not a packed feature set"),
        (["mine.txt", "--unpack"], StoreError, "not a packed feature set"),
        (["none.h5", "--unpack"], StoreError, "there is no such file"),
        (["i3d", "--check"], StoreError, "there is no such file"),
        (["i3d", "--to", "mine.txt"], UsageError, "mine.txt holds no packed feature set.*stays as it is"),
        (["empty"], NoInputError, "holds no video to pack"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    place: Place, tmp_path: Path, arguments: list[str], error: type[Exception], message: str
) -> None:
    for name in ("mine.txt", "mine.h5", "rtfm"):
        (tmp_path / name).write_text("my own work")
    Store(place.store).create(make_recipe(32), slug="empty")
    with pytest.raises(error, match=message):
        place.run(*arguments)
    assert (tmp_path / "mine.txt").read_text() == "my own work"
    assert place.run("rtfm")[0] == 0
    assert not (tmp_path / "other").exists()
