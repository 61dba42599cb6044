"""Time reading: a set of 100,000 videos opened and listed, and an epoch of bags; ``benchmarks/results/reading.json``.

python benchmarks/reading.py                            # everything, 5 repetitions
python benchmarks/reading.py --videos 1000 --bags 200   # small
python benchmarks/reading.py --json                     # the document on stdout as well

Every file was written just before, so all of it is in the page cache: this times software, not disks. The ways that are
compared take turns, so that what else runs on the machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measuring import deliver, machine, significant, spread

import vadx
from vadx.features import Bag, ClipFeatures, Recipe, Store
from vadx.features.bag_file import BagFile, write_bags
from vadx.features.index import Hint, Index, Listing, load_index, summarize, write_index
from vadx.features.keys import key_of
from vadx.features.recipe import Network, Sampling, Transform
from vadx.features.shard import build_shard
from vadx.features.store import FeatureSet
from vadx.features.timeline import VideoFacts

RESULTS = Path(__file__).parent / "results"
SEED = 0
BAG_SHAPE = (32, 1, 1024)
BATCH = 60
NUM_CHANGED = 10
LONG_AGO_NS = 10**18
SHA256 = "0" * 64
RECIPE = Recipe(
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop"),
    transform=Transform(
        kernel="pil",
        resize=256,
        crop=224,
        crops="center",
        crop_order=None,
        center_rounding="round",
        scale=1 / 127.5,
        offset=-1,
    ),
    network=Network(name="i3d", layer="mixed_5c", switches={}),
    weights="random:0",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=100_000, help="videos of the large set; the small one has 1,000")
    parser.add_argument("--opened", type=int, default=500, help="shards that the naive listing opens")
    parser.add_argument("--bags", type=int, default=1_610, help="bags of an epoch")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions, at least 5 for a result that is kept")
    parser.add_argument("--folder", type=Path, help="where the files are made for the time being")
    parser.add_argument("--out", type=Path, default=RESULTS / "reading.json", help="where the result goes")
    parser.add_argument("--note", action="append", default=[], help="a remark for the result")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        sizes = sorted({min(1_000, arguments.videos), arguments.videos})
        sets = [time_set(root / f"store-{size}", size, arguments) for size in sizes]
        epoch = time_epoch(root / "bags", arguments)
    result = {
        "command": shlex.join(["python", "benchmarks/reading.py", *sys.argv[1:]]),
        "versions": {
            "vadx": vadx.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "h5py": h5py.__version__,
            "hdf5": h5py.version.hdf5_version,
        },
        "machine": machine(),
        "seed": SEED,
        "repetitions": arguments.repeat,
        "notes": ["every file was in the page cache", *arguments.note],
        "sets": sets,
        "epoch": epoch,
    }
    deliver(result, arguments, report)
    return 0


def time_set(path: Path, num_videos: int, arguments: argparse.Namespace) -> dict[str, Any]:
    say(f"a set of {num_videos} videos")
    feature_set, ids = make_set(path, num_videos, min(arguments.opened, num_videos))
    shards = [feature_set.shard_path(identifier) for identifier in ids[: arguments.opened]]
    some = ids[len(ids) // 2]
    hints = load_index(feature_set.index_path).sources
    fresh = Store(path)

    def listed() -> None:
        assert len(fresh["i3d"].summaries().ids) == num_videos

    ways: dict[str, Callable[[], Any]] = {
        "open": lambda: fresh["i3d"],
        "open_and_list_ids": listed,
        "open_and_list": lambda: list(fresh["i3d"].summaries().values()),
        "list_ids_again": lambda: feature_set.summaries().ids,
        "hints": lambda: load_index(feature_set.index_path).sources,
        "membership": lambda: some in feature_set,
        "decision": lambda: feature_set.action(ids[0], Source()),
        "opening_every_shard": lambda: [summarize(shard) for shard in shards],
    }
    seconds = in_turns(ways, arguments.repeat)
    seconds |= time_changes(feature_set, hints, arguments.repeat)
    naive = seconds["opening_every_shard"]["median"] / len(shards)
    return {
        "videos": num_videos,
        "made": f"{len(shards)} whole shards, the others links to one of another id; the index was written for all",
        "index_bytes": feature_set.index_path.stat().st_size,
        "hints": len(hints),
        "seconds": seconds,
        "shards_opened_by_the_naive_way": len(shards),
        "naive_seconds_per_video": significant(naive),
        "ratio_to_naive": significant(naive * num_videos / seconds["open_and_list_ids"]["median"]),
    }


def time_changes(feature_set: FeatureSet, hints: dict[str, Hint], repeat: int) -> dict[str, Any]:
    """Time what comes after a run that stored a few videos: a listing, and the index made anew."""
    times: dict[str, list[float]] = {"list_ids_after_change": [], "save_index_after_change": []}
    num_videos = len(feature_set)
    for turn in range(repeat):
        new = []
        for number in range(NUM_CHANGED):
            identifier = f"New/{turn}-{number}"
            new.append(feature_set.publish(identifier, make_shard(identifier, feature_set.digest), replace=False).path)
        times["list_ids_after_change"].append(timed(lambda: feature_set.summaries().ids))
        times["save_index_after_change"].append(timed(lambda: feature_set.save_index(hints)))
        # What was just stored is too young to be recorded; now it looks as it would a few seconds later.
        make_old(feature_set, new)
        feature_set.save_index({})
    assert len(load_index(feature_set.index_path).listing) == num_videos + repeat * NUM_CHANGED
    return {name: spread(values) for name, values in times.items()}


def make_set(path: Path, num_videos: int, num_whole: int) -> tuple[FeatureSet, list[str]]:
    """Make a set whose first ``num_whole`` shards are whole; the others are hard links to one with another id."""
    feature_set = Store(path).create(RECIPE, slug="i3d")
    ids = [f"Class{n % 14:02d}/Class{n % 14:02d}_{n:06d}_x264" for n in range(num_videos)]
    for number in range(256):
        (feature_set.path / "shards" / f"{number:02x}").mkdir()
    template = path / "template.h5"
    listed: list[tuple[str, tuple[Any, ...]]] = []
    for number, identifier in enumerate(ids):
        final = feature_set.shard_path(identifier)
        if number < num_whole:
            final.write_bytes(make_shard(identifier, feature_set.digest))
            os.utime(final, ns=(LONG_AGO_NS, LONG_AGO_NS))
        else:
            # One file takes 65,000 links at most.
            if (number - num_whole) % 50_000 == 0:
                template.unlink(missing_ok=True)
                template.write_bytes(make_shard(identifier, feature_set.digest))
                os.utime(template, ns=(LONG_AGO_NS, LONG_AGO_NS))
            os.link(template, final)
        clips = 1 + number % 1000
        size = final.stat().st_size
        row = (int(final.parent.name, 16), LONG_AGO_NS, size, clips, 1, 1024, 16 * clips, clips * 16 / 30, False)
        listed.append((identifier, row))
    make_old(feature_set, [])
    listed.sort()
    rows = np.array([row for _, row in listed], Index().listing.rows.dtype)
    folders = {f"{number:02x}": LONG_AGO_NS for number in range(256)}
    hints = {f"/data/videos/{name}.mp4": (number, LONG_AGO_NS + number, SHA256) for number, name in enumerate(ids)}
    index = Index(folders, Listing([name for name, _ in listed], rows))
    write_index(index, feature_set.index_path, feature_set.tmp, hints=hints)
    return FeatureSet(feature_set.path), ids


def make_old(feature_set: FeatureSet, shards: list[Path]) -> None:
    for path in [*shards, *(feature_set.path / "shards").iterdir()]:
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


def make_shard(identifier: str, digest: str) -> bytes:
    frames = np.array([[0, 16]])
    features = ClipFeatures(
        values=np.ones((1, 1, 16), np.float32),
        frames=frames,
        seconds=frames / 30,
        damaged=np.zeros(1, np.bool_),
        facts=VideoFacts(fps=30.0, num_frames_decoded=16, width=320, height=240),
    )
    return build_shard(identifier, key_of(identifier), features, digest, SHA256)


class Source:
    """A video of which the sha256 is known already."""

    def sha256(self) -> str:
        return SHA256


def time_epoch(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    say(f"an epoch of {arguments.bags} bags")
    root.mkdir()
    random = np.random.default_rng(SEED)
    edges = np.linspace(0, 3200, BAG_SHAPE[0] + 1).astype(np.int64)
    frames = np.stack([edges[:-1], edges[1:]], axis=1)
    bags = [
        Bag(f"{n:05d}", random.standard_normal(BAG_SHAPE, np.float32), frames, 3200, n % 2)
        for n in range(arguments.bags)
    ]
    path = root / "bags.h5"
    write = timed(lambda: write_bags(path, bags, rule="benchmark", recipe_digest=RECIPE.digest))
    for bag in bags:
        np.save(root / f"{bag.id}.npy", bag.features)
        with h5py.File(root / f"{bag.id}.h5", "w") as file:
            file["features"] = bag.features
    order = random.permutation(len(bags)).tolist()
    truth = float(sum(bag.features[0, 0, 0] for bag in bags))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def read_hdf5(name: str) -> Any:
        with h5py.File(root / f"{name}.h5", "r") as file:
            return file["features"][()]

    def epoch(read: Callable[[list[int]], Any]) -> None:
        found = sum(float(read(numbers)[:, 0, 0, 0].sum(dtype=np.float64)) for numbers in batches)
        assert abs(found - truth) < 1e-2

    ways: dict[str, Callable[[], Any]] = {
        "bags_file": lambda: epoch(BagFile(path).read),
        "bags_file_all_at_once": lambda: BagFile(path).read_all(),
        "npy_per_video": lambda: epoch(
            lambda numbers: np.stack([np.load(root / f"{bags[n].id}.npy") for n in numbers])
        ),
        "hdf5_per_video": lambda: epoch(lambda numbers: np.stack([read_hdf5(bags[n].id) for n in numbers])),
    }
    seconds = in_turns(ways, arguments.repeat)
    one = seconds["bags_file"]["median"]
    num_bytes = sum(bag.features.nbytes for bag in bags)
    return {
        "bags": len(bags),
        "shape": BAG_SHAPE,
        "batch": BATCH,
        "bytes": num_bytes,
        "file_bytes": path.stat().st_size,
        "order": "random; the file is opened again for each epoch",
        "write_seconds": significant(write),
        "seconds": seconds,
        "gigabytes_per_second": significant(num_bytes / one / 1e9),
        "ratio_to_npy_per_video": significant(seconds["npy_per_video"]["median"] / one),
        "ratio_to_hdf5_per_video": significant(seconds["hdf5_per_video"]["median"] / one),
    }


def in_turns(ways: dict[str, Callable[[], Any]], repeat: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name, way in ways.items():
            seconds = timed(way)
            # The first time loads modules and fills caches.
            if turn:
                times[name].append(seconds)
    return {name: spread(values) for name, values in times.items()}


def timed(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def report(result: dict[str, Any]) -> Iterator[str]:
    """Give the result as lines for a person: medians in milliseconds, with the lowest and the highest."""
    for part, title in [
        *((item, f"{item['videos']} videos") for item in result["sets"]),
        (result["epoch"], f"{result['epoch']['bags']} bags of {' x '.join(map(str, result['epoch']['shape']))}"),
    ]:
        yield title
        for name, values in part["seconds"].items():
            median, low, high = (1e3 * values[key] for key in ("median", "min", "max"))
            yield f"  {name:26} {median:10.3f} ms  ({low:.3f} to {high:.3f})"
        for name, value in part.items():
            if name.startswith("ratio"):
                yield f"  {name:26} {value:10.3g}"


def say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
