"""What giving out videos costs their client, and how long a skewed mix takes; ``benchmarks/results/scheduling.json``.

python benchmarks/scheduling.py                                   # 1,000 and 10,000 videos; the mix on 4 and 8 workers
python benchmarks/scheduling.py --videos 100 1000 --scale 10000   # small

Videos are files of the right size that nobody opens: a worker sleeps for as long as the size says, or does nothing.
Overhead is that of the whole command, `vadx extract --json`, in a process of its own: what 9,000 videos more cost it.
Of ``--workers`` that process is the scheduler too; of ``--scheduler`` it is the client alone. Exits with 1 where a
bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measuring import PLUGINS, deliver, machine, significant
from own_cluster import cpu_seconds_of, end_cluster, start_cluster
from vadx_units import BYTES_A_SECOND, sleeping

RESULTS = Path(__file__).parent / "results"
SEED = 20261122
TINY = ("extract", "--backbone", "tiny", "--weights", "random", "--device", "cpu", "--batch", "3", "--json")

MAX_CLIENT_MILLISECONDS = 2.0
MAX_RATIO_TO_IDEAL = 1.10
MAX_GROWTH = 1.10
"""Peak memory with the larger number of videos over that with the smaller: what counts as flat."""

PROGRAM = """
import json, re, sys, time
import vadx_units
from vadx.pipelines import cluster, extraction
cluster.MAX_SHARE_VIDEOS = int(sys.argv[1])
extraction.process_videos = vadx_units.sleeping
from vadx.pipelines.cli import run
begun, cpu = time.perf_counter(), time.process_time()
code = run(sys.argv[2:])
peak = int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
row = [code, time.perf_counter() - begun, time.process_time() - cpu, peak / 1024]
print(json.dumps(row), file=sys.stderr)
"""


def make_files(folder: Path, sizes: Sequence[int]) -> Path:
    """Make files of so many bytes each, that take up no room."""
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        with (folder / f"video{number:06d}.mp4").open("wb") as file:
            file.truncate(size)
    return folder


def run_command(folder: Path, out: Path, share: int, *where: str) -> dict[str, float]:
    """Run `vadx extract` over a folder, with nothing done to its videos."""
    words = [sys.executable, "-c", PROGRAM, str(share), *TINY, str(folder), "--out", str(out), *where]
    done = subprocess.run(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    rows = [line for line in done.stderr.splitlines() if re.fullmatch(r"\[[-0-9.e+, ]+\]", line)]
    if done.returncode or not rows or (row := json.loads(rows[-1]))[0]:
        sys.exit(f"the run failed: {done.stderr}")
    return {"seconds": row[1], "cpu_seconds": row[2], "peak_mebibytes": row[3]}


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "VADX_EXTRACT_ENGINE": "torch-eager"}


def overhead(root: Path, together: Sequence[int], alone: Sequence[int], num_workers: int) -> dict[str, Any]:
    """Give what videos cost the client, by where it works and how many go together: so many each, few and many."""
    folders = {count: make_files(root / f"videos{count}", [0] * count) for count in {*together, *alone}}
    ways: dict[str, Any] = {}

    def measure(name: str, share: int, *where: str, scheduler: int | None = None) -> None:
        rows: dict[int, dict[str, float]] = {}
        few, many = sorted(alone if share == 1 else together)
        for count in (few, many):
            before = 0.0 if scheduler is None else cpu_seconds_of(scheduler)
            rows[count] = run_command(folders[count], root / f"{name}-{count}", share, *where)
            if scheduler is not None:
                rows[count]["scheduler_cpu_seconds"] = cpu_seconds_of(scheduler) - before
            print(name, count, rows[count], file=sys.stderr)
        slopes = {key: (rows[many][key] - rows[few][key]) / (many - few) for key in rows[many]}
        ways[name] = {
            "videos_in_a_share_at_most": share,
            "runs": {
                str(count): {key: significant(value) for key, value in row.items()} for count, row in rows.items()
            },
            "client_cpu_milliseconds_a_video": significant(1e3 * slopes["cpu_seconds"]),
            "wall_milliseconds_a_video": significant(1e3 * slopes["seconds"]),
            "client_bytes_a_video": significant(2**20 * slopes["peak_mebibytes"]),
            "peak_memory_ratio": significant(rows[many]["peak_mebibytes"] / rows[few]["peak_mebibytes"]),
        }
        if scheduler is not None:
            cost = significant(1e3 * slopes["scheduler_cpu_seconds"])
            ways[name]["scheduler_cpu_milliseconds_a_video"] = cost

    measure("workers", 32, "--workers", str(num_workers))
    address, started = start_cluster(root, num_workers, environment())
    try:
        measure("scheduler", 32, "--scheduler", address, scheduler=started[0].pid)
        measure("scheduler_one_video_a_share", 1, "--scheduler", address, scheduler=started[0].pid)
    finally:
        end_cluster(started)
    measure("workers_one_video_a_share", 1, "--workers", str(num_workers))
    return ways


def makespan(root: Path, num_workers: int, scale: float, seed: int) -> dict[str, Any]:
    """Time a mix of one video of ten hours and 1,000 short ones, ``scale`` times as fast as they would be."""
    from vadx.pipelines.cluster import local_workers
    from vadx.pipelines.inputs import Entry

    generator = random.Random(seed)
    seconds = [36_000.0, *(generator.uniform(30, 210) for _ in range(1_000))]
    folder = make_files(root / f"mix{num_workers}", [round(one / scale * BYTES_A_SECOND) for one in seconds])
    entries = [Entry(path.stem, path) for path in sorted(folder.iterdir())]
    with local_workers(num_workers, sleeping) as workers:
        workers.client.wait_for_workers(num_workers, timeout=120)
        workers.client.run(lambda: __import__("vadx.pipelines.extraction") and __import__("torch") and None)
        begun = time.perf_counter()
        done = list(workers(entries, [root]))
        took = time.perf_counter() - begun
    if len(done) != len(entries):
        sys.exit(f"{len(done)} of {len(entries)} videos were settled")
    ideal = max(max(seconds), sum(seconds) / num_workers) / scale
    print(f"{num_workers} workers: {took:.2f} s, ideal {ideal:.2f} s", file=sys.stderr)
    return {
        "workers": num_workers,
        "seconds": significant(took),
        "ideal_seconds": significant(ideal),
        "longest_over_fair_part": significant(max(seconds) / (sum(seconds) / num_workers)),
        "ratio_to_ideal": round(took / ideal, 4),
    }


def missed(result: dict[str, Any]) -> list[str]:
    """Name the bounds that a result misses."""
    found = []
    for name in ("workers", "scheduler"):
        way = result["overhead"].get(name, {})
        if way.get("client_cpu_milliseconds_a_video", 0) > MAX_CLIENT_MILLISECONDS:
            found.append(f"{name}: {way['client_cpu_milliseconds_a_video']} ms of client time a video")
        if way.get("peak_memory_ratio", 0) > MAX_GROWTH:
            found.append(f"{name}: memory grew {way['peak_memory_ratio']} times")
    slow = [row for row in result["makespan"] if row["ratio_to_ideal"] > MAX_RATIO_TO_IDEAL]
    return [*found, *(f"{row['workers']} workers: {row['ratio_to_ideal']} times the ideal" for row in slow)]


def report(result: dict[str, Any]) -> Iterator[str]:
    """Give the result as lines for a person."""
    for name, way in result["overhead"].items():
        yield f"{name}: " + ", ".join(f"{key} {value}" for key, value in way.items() if key != "runs")
    for row in result["makespan"]:
        yield ", ".join(f"{key} {value}" for key, value in row.items())
    yield f"missed: {result['missed'] or 'nothing'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, nargs=2, default=[1_000, 10_000], help="few and many videos of no work")
    parser.add_argument("--alone", type=int, nargs=2, default=[1_000, 10_000], help="likewise, where each is a share")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8], help="workers of the skewed mix")
    parser.add_argument("--scale", type=float, default=1_000, help="how many times faster than the clock the mix is")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=RESULTS / "scheduling.json", help="where the result goes")
    parser.add_argument("--note", action="append", default=[], help="a remark for the result")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    arguments = parser.parse_args()
    os.environ.update(environment())
    with tempfile.TemporaryDirectory(prefix="vadx-scheduling-", ignore_cleanup_errors=True) as name:
        root = Path(name)
        result: dict[str, Any] = {
            "command": shlex.join(["python", "benchmarks/scheduling.py", *sys.argv[1:]]),
            "versions": {name: version(name) for name in ("vadx", "distributed", "dask")}
            | {"python": platform.python_version()},
            "machine": machine(),
            "seed": arguments.seed,
            "notes": arguments.note,
            "load_average_before": significant(os.getloadavg()[0]),
            "makespan_scale": arguments.scale,
            "makespan": [makespan(root, count, arguments.scale, arguments.seed) for count in arguments.workers],
            "overhead_workers": 2,
            "overhead": overhead(root, arguments.videos, arguments.alone, 2),
        }
    result["missed"] = missed(result)
    deliver(result, arguments, report)
    return int(bool(result["missed"]))


if __name__ == "__main__":
    sys.exit(main())
