"""A million videos on a thousand GPUs, by a model that is fitted to small runs; ``benchmarks/results/simulation.json``.

python benchmarks/simulation.py                              # 2,000 and 10,000 videos measured, then the simulation
python benchmarks/simulation.py --fit 300 --predict 1000     # small

What is measured sleeps for as long as a video's size says. The model of a worker has two numbers, the time that a share
and that a video costs beside its own; they are fitted to runs of few videos on 4 workers, and must tell how long 10,000
videos take, on as many workers and, of another draw, on twice as many. Exits with 1 where it is more than 10 % off.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from measuring import deliver, machine, significant
from numpy.typing import NDArray
from own_cluster import cpu_seconds_of, end_cluster, start_cluster
from reading import RECIPE, SHA256, make_old, make_shard
from scheduling import environment, make_files
from scipy.optimize import minimize
from vadx_units import BYTES_A_SECOND, sleeping

from vadx.features.index import Index, load_index, write_index
from vadx.features.store import FeatureSet, Store
from vadx.pipelines import cluster
from vadx.pipelines.inputs import Entry, find_videos
from vadx.pipelines.worker_reports import report_seconds

RESULTS = Path(__file__).parent / "results"
SEED = 20261122
MAX_ERROR = 0.10
SHARES_A_WORKER = cluster._SHARES_A_WORKER

MEAN_SECONDS = 242.0
"""Of a video of UCF-Crime: 128 hours, 1,900 videos (Sultani et al., CVPR 2018, section 4)."""

SIGMA = 1.2
FPS = 30.0
SPEEDS = (300.0, 1_000.0, 3_000.0)
"""Frames a second of one GPU: assumed, for none was measured."""

MEASURED = ("measured_by", "load_average_before", "notes", "measured", "scheduler", "store", "wrong")
"""The parts of a result that `--again` takes over."""

MESSAGES_A_SHARE = 8
"""Through the scheduler: the order in and out, its end in and out, where its result is and the answer, its release."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds beside the work itself.

    ``share`` and ``video`` of a worker; ``client_share`` and ``client_video`` of the one client, which works them off
    one after another; ``scheduler_share`` likewise of the scheduler.
    """

    share: float
    video: float
    client_share: float = 0.0
    client_video: float = 0.0
    scheduler_share: float = 0.0


@dataclass(slots=True)
class Simulated:
    """What became of a simulated run, in seconds."""

    makespan: float
    client_busy: float
    scheduler_busy: float
    waited_for_shares: float
    num_shares: int


def draw(generator: np.random.Generator, count: int, mean: float) -> NDArray[np.float64]:
    """Give durations ``(video,)``: log-normal, cut off at a hundred means."""
    values = generator.lognormal(math.log(mean) - SIGMA**2 / 2, SIGMA, count)
    return np.minimum(values, 100 * mean)


def cut(sizes: NDArray[np.float64], num_workers: int, most: int) -> list[tuple[float, int]]:
    """Cut videos into shares as `cluster.shares_of` does: the total and the number of each."""
    enough = float(sizes.sum()) / (num_workers * SHARES_A_WORKER)
    shares: list[list[float]] = []
    for size in np.sort(sizes)[::-1].tolist():
        if not shares or shares[-1][0] + size > enough or shares[-1][1] == most:
            shares.append([0.0, 0])
        shares[-1][0] += size
        shares[-1][1] += 1
    return [(total, int(count)) for total, count in shares]


def simulate(shares: Sequence[tuple[float, int]], num_workers: int, costs: Costs) -> Simulated:
    """Let workers work off shares, of which the client has two a worker on their way at most.

    The client, and then the scheduler, take one thing after another; a worker that is free takes the share that was
    sent first.
    """
    waiting = deque(shares)
    sent: deque[tuple[float, float, int]] = deque()
    ends: list[tuple[float, int, int, int]] = []
    idle: list[tuple[float, int]] = [(0.0, worker) for worker in range(num_workers)]
    client_free = scheduler_free = client_busy = scheduler_busy = waited = last = 0.0
    order = 0

    def send() -> None:
        nonlocal client_free, scheduler_free, client_busy, scheduler_busy
        total, count = waiting.popleft()
        cost = costs.client_share / 2
        client_free += cost
        scheduler_free = max(scheduler_free, client_free) + costs.scheduler_share / 2
        client_busy += cost
        scheduler_busy += costs.scheduler_share / 2
        sent.append((scheduler_free, total, count))

    def begin() -> None:
        nonlocal waited, order
        while sent and idle:
            since, worker = heapq.heappop(idle)
            there, total, count = sent.popleft()
            start = max(since, there)
            waited += start - since
            order += 1
            heapq.heappush(ends, (start + costs.share + total + costs.video * count, order, worker, count))

    while waiting and len(sent) < 2 * num_workers:
        send()
    begin()
    while ends:
        now, _, worker, count = heapq.heappop(ends)
        last = max(last, now)
        heapq.heappush(idle, (now, worker))
        scheduler_free = max(scheduler_free, now) + costs.scheduler_share / 2
        scheduler_busy += costs.scheduler_share / 2
        cost = costs.client_share / 2 + costs.client_video * count
        client_free = max(client_free, scheduler_free) + cost
        client_busy += cost
        if waiting:
            send()
        begin()
    return Simulated(max(last, client_free), client_busy, scheduler_busy, waited, len(shares))


@dataclass(slots=True)
class Measured:
    """A run that was measured: how it was cut, and how long it took."""

    num_workers: int
    most: int
    shares: list[tuple[float, int]] = field(repr=False)
    seconds: float

    @property
    def num_videos(self) -> int:
        return sum(count for _, count in self.shares)

    def told(self, costs: Costs) -> dict[str, Any]:
        """Give what was measured beside what the model says."""
        modelled = simulate(self.shares, self.num_workers, costs).makespan
        return {
            "workers": self.num_workers,
            "videos": self.num_videos,
            "videos_in_a_share_at_most": self.most,
            "shares": len(self.shares),
            "work_seconds": significant(sum(total for total, _ in self.shares)),
            "seconds": significant(self.seconds),
            "model_seconds": significant(modelled),
            "error": round(modelled / self.seconds - 1, 4),
        }


def measure(workers: cluster.DaskWorkers, folder: Path, seconds: NDArray[np.float64], most: int) -> Measured:
    """Time a run over videos that take so long, of which at most ``most`` make a share."""
    make_files(folder, [max(1, round(one * BYTES_A_SECOND)) for one in seconds.tolist()])
    entries = [Entry(path.stem, path) for path in sorted(folder.iterdir())]
    before = cluster.MAX_SHARE_VIDEOS
    cluster.MAX_SHARE_VIDEOS = most
    try:
        given = cluster.shares_of(entries, workers.num_workers)
        begun = time.perf_counter()
        done = sum(1 for _ in workers(entries, [folder]))
        took = time.perf_counter() - begun
    finally:
        cluster.MAX_SHARE_VIDEOS = before
    shares = cut(np.round(seconds * BYTES_A_SECOND), workers.num_workers, most)
    if done != len(entries) or [count for _, count in shares] != [len(share.entries) for share in given]:
        sys.exit("the model cuts videos into other shares than vadx")
    found = Measured(workers.num_workers, most, [(total / BYTES_A_SECOND, count) for total, count in shares], took)
    print(f"{found.num_workers} workers, {done} videos, {len(shares)} shares: {took:.2f} s", file=sys.stderr)
    return found


def fit(runs: Sequence[Measured]) -> Costs:
    """Give the costs with which the model comes nearest to runs: least squares of relative errors."""

    def badness(values: NDArray[np.float64]) -> float:
        costs = Costs(*np.abs(values).tolist())
        return sum((simulate(run.shares, run.num_workers, costs).makespan / run.seconds - 1) ** 2 for run in runs)

    found = minimize(badness, np.array([0.01, 0.001]), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    return Costs(*np.abs(found.x).tolist())


def measured_runs(root: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Fit the model to small runs, and compare it with large ones."""
    generator = np.random.default_rng(arguments.seed)
    fitted: list[Measured] = []
    held: list[Measured] = []
    few = draw(generator, arguments.fit, arguments.mean)
    for num_workers in (4, 8):
        with cluster.local_workers(num_workers, sleeping) as workers:
            workers.client.wait_for_workers(num_workers, timeout=300)
            workers.client.run(lambda: __import__("vadx.pipelines.extraction") and __import__("torch") and None)

            def measure_few(when: str, workers: cluster.DaskWorkers = workers) -> None:
                fitted.extend(measure(workers, root / f"{when}{most}", few, most) for most in (32, 1))

            if num_workers == 4:
                measure_few("before")
            many = draw(generator, arguments.predict, arguments.mean)
            held.append(measure(workers, root / f"many{num_workers}", many, 32))
            if num_workers == 4:
                # What else runs on the machine changes meanwhile.
                measure_few("after")
    costs = fit(fitted)
    rows = [run.told(costs) for run in held]
    wrong = [f"{row['workers']} workers: off by {row['error']:.1%}" for row in rows if abs(row["error"]) > MAX_ERROR]
    model = {"seconds_a_share": significant(costs.share), "seconds_a_video": significant(costs.video)}
    return {"model": model, "fitted_to": [run.told(costs) for run in fitted], "predicted": rows}, wrong


def scheduler_costs(root: Path) -> dict[str, float]:
    """Give the processor time of a heartbeat, from a scheduler that has nothing else to do."""
    num_workers, seconds = 6, 15.0
    address, started = start_cluster(root, num_workers, environment())
    try:
        time.sleep(3)
        before = cpu_seconds_of(started[0].pid)
        time.sleep(seconds)
        busy = cpu_seconds_of(started[0].pid) - before
    finally:
        end_cluster(started)
    del address
    # Up to ten workers tell that they live twice a second.
    return {
        "heartbeats_measured": num_workers * seconds / 0.5,
        "cpu_seconds_a_heartbeat": busy / (2 * num_workers * seconds),
    }


def heartbeats_a_second(num_workers: int) -> float:
    """Give how many of Dask's workers tell that they live, by its own rule."""
    from distributed.scheduler import heartbeat_interval

    return num_workers / float(heartbeat_interval(num_workers))


def store_costs(root: Path, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Time the index of sets of so many videos: after all were stored anew, and again; and finding as many videos."""
    rows = []
    for count in counts:
        feature_set = Store(root / f"set{count}").create(RECIPE, slug="i3d")
        ids = [f"Class{n % 14:02d}/Class{n % 14:02d}_{n:07d}_x264" for n in range(count)]
        for identifier in ids:
            final = feature_set.shard_path(identifier)
            final.parent.mkdir(exist_ok=True)
            final.write_bytes(make_shard(identifier, feature_set.digest))
        make_old(feature_set, list(feature_set.shard_paths()))
        hints = {f"/data/videos/{name}.mp4": (n, n, SHA256) for n, name in enumerate(ids)}
        fresh = FeatureSet(feature_set.path)
        new = timed(lambda fresh=fresh, hints=hints: fresh.save_index(hints))
        fresh = FeatureSet(feature_set.path)
        again = timed(lambda fresh=fresh, hints=hints: fresh.save_index(dict(list(hints.items())[:1])))
        index = load_index(feature_set.index_path)
        only = timed(lambda index=index, fresh=fresh: write_index(index, fresh.index_path, fresh.tmp, hints={}))
        folder = make_files(root / f"found{count}", [1] * count)
        begun = time.perf_counter()
        found = find_videos([str(folder)]).entries
        finding = time.perf_counter() - begun
        sharing = timed(lambda found=found: cluster.shares_of(found, 1_000))
        if len(index.listing) != count or not isinstance(index, Index):
            sys.exit("the index does not list all shards")
        rows.append(
            {
                "videos": count,
                "index_bytes": fresh.index_path.stat().st_size,
                "seconds_to_index_all_anew": significant(new),
                "seconds_to_index_again": significant(again),
                "seconds_to_write_index": significant(only),
                "seconds_to_find_videos": significant(finding),
                "seconds_to_share_videos": significant(sharing),
            }
        )
        print(rows[-1], file=sys.stderr)
    return rows


def timed(way: Any) -> float:
    begun = time.perf_counter()
    way()
    return time.perf_counter() - begun


def at_scale(
    costs: Costs, scheduling: dict[str, Any], beat: float, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Simulate the large run, by how fast a GPU is."""
    generator = np.random.default_rng(arguments.seed + 1)
    footage = draw(generator, arguments.videos, MEAN_SECONDS)
    together, alone = (scheduling["overhead"][name] for name in ("scheduler", "scheduler_one_video_a_share"))
    video_seconds = together["client_cpu_milliseconds_a_video"] / 1e3
    share_seconds = max(0.0, alone["client_cpu_milliseconds_a_video"] / 1e3 - video_seconds)
    at_scheduler = alone["scheduler_cpu_milliseconds_a_video"] / 1e3
    rows = []
    for speed in SPEEDS:
        shares = cut(footage, arguments.gpus, 32)
        work = [(total * FPS / speed, count) for total, count in shares]
        all_costs = Costs(costs.share + arguments.share_start, costs.video, share_seconds, video_seconds, at_scheduler)
        run = simulate(work, arguments.gpus, all_costs)
        ideal = max(float(footage.max()), float(footage.sum()) / arguments.gpus) * FPS / speed
        beats = heartbeats_a_second(arguments.gpus)
        reports = arguments.gpus / report_seconds(arguments.gpus)
        tasks = run.num_shares / run.makespan
        rows.append(
            {
                "frames_a_second_of_a_gpu": speed,
                "hours": significant(run.makespan / 3600),
                "hours_of_the_ideal": significant(ideal / 3600),
                "ratio_to_ideal": round(run.makespan / ideal, 3),
                "shares": run.num_shares,
                "shares_a_second": significant(tasks),
                "scheduler_messages_a_second": significant(tasks * MESSAGES_A_SHARE + beats + reports),
                "of_these_heartbeats": significant(beats),
                "of_these_reports_of_progress": significant(reports),
                "scheduler_cpu_share": significant(
                    (run.scheduler_busy + (beats + reports) * beat * run.makespan) / run.makespan
                ),
                "client_cpu_share": significant(run.client_busy / run.makespan),
                "share_of_gpu_time_waiting_for_shares": significant(
                    run.waited_for_shares / (arguments.gpus * run.makespan)
                ),
            }
        )
    return rows


def breaking(
    store: Sequence[dict[str, Any]], scheduling: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Give what the large run costs where one process does it alone: from the largest measured set, in proportion."""
    largest = store[-1]
    times = arguments.videos / largest["videos"]
    client = max(scheduling["overhead"][name]["client_bytes_a_video"] for name in ("workers", "scheduler"))
    return {
        "extrapolated_from_videos": largest["videos"],
        "inodes_of_shards": arguments.videos,
        "shards_in_each_of_256_folders": round(arguments.videos / 256),
        "index_megabytes": significant(largest["index_bytes"] * times / 1e6),
        "minutes_to_index_all_anew": significant(largest["seconds_to_index_all_anew"] * times / 60),
        "minutes_to_write_the_index": significant(largest["seconds_to_write_index"] * times / 60),
        "minutes_to_find_videos": significant(largest["seconds_to_find_videos"] * times / 60),
        "minutes_to_share_videos": significant(largest["seconds_to_share_videos"] * times / 60),
        "client_memory_gigabytes": significant(client * arguments.videos / 1e9),
    }


def report(result: dict[str, Any]) -> Iterator[str]:
    """Give the result as lines for a person."""
    yield f"model: {result['measured']['model']}"
    for row in [*result["measured"]["fitted_to"], *result["measured"]["predicted"], *result["store"]]:
        yield str(row)
    yield from map(str, result["simulated"])
    yield str(result["alone"])
    yield f"wrong: {result['wrong'] or 'nothing'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=int, default=2_000, help="videos of the runs that the model is fitted to")
    parser.add_argument("--predict", type=int, default=10_000, help="videos of the runs that it must tell")
    parser.add_argument("--mean", type=float, default=0.02, help="mean seconds of a video in what is measured")
    parser.add_argument("--videos", type=int, default=1_000_000, help="videos of the simulation")
    parser.add_argument("--gpus", type=int, default=1_000, help="GPUs of the simulation, a worker each")
    parser.add_argument("--share-start", type=float, default=1.0, help="seconds until a share's decoders are there")
    parser.add_argument(
        "--store", type=int, nargs="+", default=[2_000, 10_000], help="videos of the sets whose index is timed"
    )
    parser.add_argument("--scheduling", type=Path, default=RESULTS / "scheduling.json", help="what the client costs")
    parser.add_argument("--again", type=Path, help="an earlier result whose measurements are taken")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=RESULTS / "simulation.json", help="where the result goes")
    parser.add_argument("--note", action="append", default=[], help="a remark for the result")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    arguments = parser.parse_args()
    os.environ.update(environment())
    load = os.getloadavg()[0]
    command = shlex.join(["python", "benchmarks/simulation.py", *sys.argv[1:]])
    if arguments.again is None:
        with tempfile.TemporaryDirectory(prefix="vadx-simulation-", ignore_cleanup_errors=True) as name:
            root = Path(name)
            measured, wrong = measured_runs(root, arguments)
            known = {
                "measured_by": command,
                "load_average_before": significant(load),
                "notes": arguments.note,
                "measured": measured,
                "scheduler": {name: significant(value) for name, value in scheduler_costs(root).items()},
                "store": store_costs(root, arguments.store),
                "wrong": wrong,
            }
    else:
        earlier = json.loads(arguments.again.read_text())
        known = {"measured_by": earlier["command"], **{name: earlier[name] for name in MEASURED if name in earlier}}
    model = known["measured"]["model"]
    costs = Costs(model["seconds_a_share"], model["seconds_a_video"])
    scheduling = json.loads(arguments.scheduling.read_text())
    result = {
        "command": command,
        "versions": {name: version(name) for name in ("vadx", "distributed", "dask")}
        | {"python": platform.python_version()},
        "machine": machine(),
        "seed": arguments.seed,
        "assumed": {
            "mean_seconds_of_a_video": MEAN_SECONDS,
            "sigma_of_log_seconds": SIGMA,
            "fps": FPS,
            "seconds_until_decoders_of_a_share_are_there": arguments.share_start,
            "messages_of_a_share": MESSAGES_A_SHARE,
        },
        **known,
        "simulated_videos": arguments.videos,
        "simulated_gpus": arguments.gpus,
        "simulated": at_scale(costs, scheduling, known["scheduler"]["cpu_seconds_a_heartbeat"], arguments),
        "alone": breaking(known["store"], scheduling, arguments),
    }
    deliver(result, arguments, report)
    return int(bool(result["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
