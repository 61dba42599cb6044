"""Many writers of the same few videos among many readers, while writers are killed:

python tests/fuzz/crowd.py                                  # 8 writers, 8 readers, 16 videos, 60 s, 10 kills
python tests/fuzz/crowd.py --seconds 600 --kills 100 --seed 7

Writers publish the features of one of three contents of a video, in place of whatever is there. Readers read a video
and hold every value against that of the content whose sha256 the shard names. Exit 1 if anything else was read, if a
writer or a reader ended with an error, or if what is left in the end is not whole.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from numbered_videos import RECIPE, Source, shard_of, values_of

from vadx.errors import VadxError
from vadx.features.shard import open_shard
from vadx.features.store import FeatureSet, Store

CONTENTS = {Source(number).sha256(): number for number in range(3)}
"""sha256 of a video's bytes -> the number that they are."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many of what, for how long."""

    writers: int = 8
    readers: int = 8
    names: int = 16
    seconds: float = 60.0
    kills: int = 10
    seed: int = 0

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"camera {number % 4}/{number:02d}" for number in range(self.names))


def write(path: Path, crowd: Crowd, seed: int, is_over: Any) -> None:
    generator = random.Random(seed)
    feature_set = FeatureSet(path)
    while not is_over.value:
        identifier, content = generator.choice(crowd.ids), generator.choice(tuple(CONTENTS.values()))
        feature_set.publish(identifier, shard_of(identifier, content), replace=True)


def read(path: Path, crowd: Crowd, seed: int, is_over: Any, told: Any) -> None:
    generator = random.Random(seed)
    feature_set = FeatureSet(path)
    num_reads, wrong = 0, []
    while not is_over.value:
        identifier = generator.choice(crowd.ids)
        try:
            shard = open_shard(feature_set.shard_path(identifier))
            np.testing.assert_array_equal(
                shard.features.values, values_of(identifier, CONTENTS[shard.header.source_sha256])
            )
        except FileNotFoundError:
            continue
        except (VadxError, AssertionError, KeyError) as error:
            wrong.append(f"{identifier}: {type(error).__name__}: {error}")
        num_reads += 1
    told.put((num_reads, wrong[:3], len(wrong)))


def run(crowd: Crowd, folder: Path) -> dict[str, Any]:
    """Let a crowd loose on a set in an empty folder; gives what was seen."""
    path = Store(folder / "store").create(RECIPE, slug="crowd").path
    context = multiprocessing.get_context("fork")
    # A flag without a lock: whoever is killed while it holds one stops all the others.
    is_over, told = context.RawValue("b", 0), context.SimpleQueue()
    generator = random.Random(crowd.seed)

    def writer() -> BaseProcess:
        process = context.Process(target=write, args=(path, crowd, generator.randrange(1 << 31), is_over))
        process.start()
        return process

    writers = [writer() for _ in range(crowd.writers)]
    readers = [
        context.Process(target=read, args=(path, crowd, generator.randrange(1 << 31), is_over, told))
        for _ in range(crowd.readers)
    ]
    for process in readers:
        process.start()
    for _ in range(crowd.kills):
        time.sleep(crowd.seconds / (crowd.kills + 1))
        place = generator.randrange(len(writers))
        writers[place].kill()
        writers[place].join()
        writers[place] = writer()
    time.sleep(crowd.seconds / (crowd.kills + 1))
    is_over.value = 1
    for process in [*writers, *readers]:
        process.join()
    # A reader that died told nothing, but its exit code does.
    seen = []
    while not told.empty():
        seen.append(told.get())
    codes = [process.exitcode for process in [*writers, *readers] if process.exitcode]
    damaged = [f"{one}: {error}" for one, error in FeatureSet(path).verify() if error is not None]
    return {
        **{name: getattr(crowd, name) for name in crowd.__slots__},
        "verified_reads": sum(count for count, _, _ in seen),
        "wrong_reads": sum(count for _, _, count in seen),
        "left_by_kills": len(list((path / "tmp").iterdir())),
        "violations": [*(text for _, some, _ in seen for text in some), *map(str, codes), *damaged],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Write and read the same few videos at once.")
    for one in fields(Crowd):
        default = secrets.randbelow(1 << 31) if one.name == "seed" else one.default
        parser.add_argument(f"--{one.name}", type=type(one.default), default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        result = run(Crowd(**vars(options)), Path(folder))
    print(json.dumps(result, indent=1))
    return int(bool(result["violations"]))


if __name__ == "__main__":
    sys.exit(main())
