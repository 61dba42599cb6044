"""Bad videos, killed and stopped workers, and a scheduler that is gone: what they cost; ``results/chaos.json``.

python benchmarks/chaos.py                                        # 40 videos, 4 workers, 20 kills; some minutes
python benchmarks/chaos.py --videos 12 --workers 2 --kills 3      # small

Each run is `vadx extract` with the small network of the tests, in processes of their own, over short videos whose
decoding is drawn out by sleeping. Decoders append a line to a file for each video that they begin: what was decoded
twice is judged by that, not by what vadx says of itself. Exits with 1 where anything is not as promised.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import deliver, machine, significant
from own_cluster import end_cluster, start_cluster
from vadx_chaos import (
    MISHAPS,
    Strike,
    chaos_environment,
    decodes,
    shard_times,
    strike,
    too_often,
    workers_below,
)

import vadx
from support import make_video
from vadx.features.keys import key_of

RESULTS = Path(__file__).parent / "results"
SEED = 20261122
TINY = ("extract", "--backbone", "tiny", "--weights", "random", "--device", "cpu", "--batch", "3", "--json")
FAR = ("--decoders", "1", "--stall-timeout", "15s", "--decoder-memory", "500MB", "--max-failures", "100%")
TTL_SECONDS = 10
"""How long a worker may be silent: Dask's default is 5 minutes."""

EXIT_SECONDS = 60.0
"""In which a run must have ended once its scheduler is gone."""


@dataclass(slots=True)
class Part:
    """One part of it all: what was seen, and what of it was not as promised."""

    seen: dict[str, Any]
    violations: list[str] = field(default_factory=list)

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.violations.append(what)


@dataclass(slots=True)
class Ground:
    """A folder with videos, what a quiet run makes of the good ones, and how to run vadx over them."""

    root: Path
    good: list[str]
    quiet: dict[str, str] = field(default_factory=dict)

    def environment(self, name: str, seconds: float) -> dict[str, str]:
        """Give the environment of a run and its workers: decoders note what they do, and take ``seconds``."""
        return {
            **os.environ, **chaos_environment(self.notes(name), seconds), "OMP_NUM_THREADS": "1",
            "VADX_HOME": str(self.root / "home"), "VADX_EXTRACT_ENGINE": "torch-eager",
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{TTL_SECONDS}s",
        }  # fmt: skip

    def extract(self, name: str, inputs: Sequence[str], *where: str, seconds: float = 0.0) -> subprocess.Popen[bytes]:
        """Begin a run; its words go to files."""
        words = [sys.executable, "-m", "vadx", *TINY, *inputs, "--root", "v", "--out", f"{name}-store", *where]
        environment = self.environment(name, seconds)
        with (self.root / f"{name}.out").open("wb") as out, (self.root / f"{name}.err").open("ab") as err:
            return subprocess.Popen(
                words, cwd=self.root, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    def notes(self, name: str) -> Path:
        return self.root / f"{name}.notes"

    def shards(self, name: str) -> dict[str, str]:
        """Give key -> sha256 of every shard of a run."""
        return {
            path.stem: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((self.root / f"{name}-store").glob("*/shards/*/*.h5"))
        }

    def codes(self, name: str) -> dict[str, str]:
        """Give the code of each video that failed in a run, by its id."""
        lines = map(json.loads, (self.root / f"{name}.out").read_text().splitlines())
        return {line["id"]: line["code"] for line in lines if line["event"] == "video" and line["status"] == "failed"}

    def judge(self, name: str, part: Part, strikes: Sequence[Strike]) -> None:
        """Compare a run's store with the quiet one's, and its decodings with what its strikes explain."""
        times = shard_times(self.root / f"{name}-store")
        stored_at = {name: times[key_of(f"good/{name}")] for name in self.good if key_of(f"good/{name}") in times}
        found = [one for one in decodes(self.notes(name)) if one.name in self.good]
        counts = Counter(one.name for one in found)
        excess = too_often(found, strikes, stored_at)
        at_work = {one.worker for one in found}
        part.seen |= {
            "good_videos": len(self.good),
            "decodings_of_good_videos": len(found),
            "good_videos_by_how_often_decoded": dict(sorted(Counter(counts.values()).items())),
            "strikes": len(strikes),
            "strikes_at_workers_that_had_begun_a_video": sum(one.worker in at_work for one in strikes),
            "tree_hash": tree_hash(self.shards(name)),
        }
        part.expect(not excess, f"decoded more often than kills explain (times, allowed): {excess}")
        part.expect(self.shards(name) == self.quiet, "the store is not that of the quiet run")
        words = "".join((self.root / f"{name}.{end}").read_text() for end in ("out", "err"))
        part.expect("KilledWorker" not in words, "KilledWorker was said")
        part.expect("Traceback" not in words, f"a traceback was said: {words[-3000:]}")


def tree_hash(shards: Mapping[str, str]) -> str:
    """Give one sha256 of sorted keys and the sha256 of their shards."""
    return hashlib.sha256("".join(f"{key} {value}\n" for key, value in sorted(shards.items())).encode()).hexdigest()


def make_ground(root: Path, num_videos: int) -> Ground:
    """Encode short videos, one that is long, so that others are small beside it, and those that come to grief."""
    good = [f"v{number:02d}" for number in range(num_videos)]
    for number, name in enumerate(good):
        length = 2_000 if number == 0 else 20 + number % 17
        make_video(root / f"v/good/{name}.mp4", num_frames=length, seed=number)
    for number, name in enumerate(MISHAPS):
        make_video(root / f"v/bad/{name}.mp4", num_frames=24, seed=1000 + number)
    ground = Ground(root, good)
    code = ground.extract("quiet", ["v/good"], "--decoders", "0").wait()
    ground.quiet = ground.shards("quiet")
    if code or len(ground.quiet) != num_videos:
        sys.exit(f"the quiet run ended with {code}: {(root / 'quiet.err').read_text()}")
    return ground


def bad_videos(ground: Ground, num_workers: int) -> Part:
    """Let decoders crash, hang, starve and be killed; the same command again tries what may be better then."""
    begun = time.monotonic()
    run = ground.extract("bad", ["v/good", "v/bad"], "--workers", str(num_workers), *FAR, seconds=0.2)
    part = Part({"exit_code": run.wait(), "seconds": significant(time.monotonic() - begun)})
    codes = ground.codes("bad")
    part.seen["codes"] = codes
    part.expect(part.seen["exit_code"] == 3, "the exit code is not 3")
    expected = {f"bad/{name}": code for name, (_, code) in MISHAPS.items()}
    part.expect(codes == expected, f"the codes are not {expected}")
    ground.judge("bad", part, [])
    return part


def killed_workers(ground: Ground, num_workers: int, num_kills: int, seed: int, seconds: float) -> Part:
    """Kill workers at random, and stop one for longer than its scheduler allows."""
    begun = time.monotonic()
    run = ground.extract("killed", ["v/good"], "--workers", str(num_workers), *FAR, seconds=seconds)
    strikes = strike(
        run.pid, random.Random(seed), num_kills=num_kills, num_stops=1, pause=(0.5, 2.5),
        is_over=lambda: run.poll() is not None, notes=ground.notes("killed"),
    )  # fmt: skip
    part = Part({"exit_code": run.wait(), "seconds": significant(time.monotonic() - begun)})
    part.seen |= {
        "seconds_of_a_video": seconds,
        "worker_ttl_seconds": TTL_SECONDS,
        "kills": sum(one.number == signal.SIGKILL for one in strikes),
        "stops": sum(one.number == signal.SIGSTOP for one in strikes),
    }
    part.expect(len(strikes) == num_kills + 1, "the run was over before all strikes were made")
    part.expect(part.seen["exit_code"] == 0, f"the exit code is not 0; failed: {ground.codes('killed')}")
    ground.judge("killed", part, strikes)
    return part


def gone_scheduler(ground: Ground, num_workers: int, seconds: float) -> Part:
    """Kill the scheduler that a run reached; another at the same address, and the same command."""
    name = "gone"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("--scheduler", f"tcp://127.0.0.1:{port}", *FAR)
    environment = ground.environment(name, seconds)
    _, first = start_cluster(ground.root, num_workers, environment, port)
    run = ground.extract(name, ["v/good"], *where, seconds=seconds)
    while len(decodes(ground.notes(name))) < len(ground.good) // 4 and run.poll() is None:
        time.sleep(0.05)
    at = time.time()
    strikes = [Strike(worker, at) for worker in workers_below(first[1].pid)]
    first[0].kill()
    try:
        code = run.wait(2 * EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        run.kill()
        code = run.wait()
    part = Part({"exit_code": code, "seconds_to_exit": significant(time.time() - at)})
    part.seen["stored_by_then"] = len(ground.shards(name))
    part.expect(code == 6, "the exit code is not 6")
    part.expect(part.seen["seconds_to_exit"] <= EXIT_SECONDS, f"it took longer than {EXIT_SECONDS:g} s")
    part.expect(part.seen["stored_by_then"] < len(ground.good), "the run was over before its scheduler was gone")
    end_cluster(first)
    _, second = start_cluster(ground.root, num_workers, environment, port)
    part.seen["exit_code_of_the_same_command"] = ground.extract(name, ["v/good"], *where, seconds=seconds).wait()
    end_cluster(second)
    part.expect(part.seen["exit_code_of_the_same_command"] == 0, "the same command did not end with 0")
    ground.judge(name, part, strikes)
    return part


def report(result: dict[str, Any]) -> Iterator[str]:
    """Give the result as lines for a person."""
    for name, part in result["parts"].items():
        yield name
        yield from (f"  {key:45} {value}" for key, value in part.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=40, help="good videos")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20, help="workers that are killed; one more is stopped")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long a video takes where workers are killed")
    parser.add_argument("--seed", type=int, default=SEED, help="of who is struck when")
    parser.add_argument("--keep", type=Path, help="where stores and words are left to be looked at")
    parser.add_argument("--out", type=Path, default=RESULTS / "chaos.json", help="where the result goes")
    parser.add_argument("--note", action="append", default=[], help="a remark for the result")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="vadx-chaos-", ignore_cleanup_errors=True) as name:
        ground = make_ground(Path(name), arguments.videos)
        parts = {
            "bad_videos": bad_videos(ground, arguments.workers),
            "killed_workers": killed_workers(
                ground, arguments.workers, arguments.kills, arguments.seed, arguments.seconds
            ),
            "gone_scheduler": gone_scheduler(ground, arguments.workers, min(1.5, arguments.seconds)),
        }
        if arguments.keep is not None:
            shutil.copytree(name, arguments.keep, dirs_exist_ok=True)
    result = {
        "command": shlex.join(["python", "benchmarks/chaos.py", *sys.argv[1:]]),
        "versions": {"vadx": vadx.__version__, "python": platform.python_version()},
        "machine": machine(),
        "seed": arguments.seed,
        "workers": arguments.workers,
        "notes": arguments.note,
        "load_average": significant(os.getloadavg()[0]),
        "quiet_tree_hash": tree_hash(ground.quiet),
        "parts": {name: {**part.seen, "violations": part.violations} for name, part in parts.items()},
    }
    deliver(result, arguments, report)
    return int(any(part.violations for part in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
