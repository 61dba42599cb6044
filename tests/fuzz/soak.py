"""Extract for hours while processes are killed and readers read: `make soak`, or

python tests/fuzz/soak.py                                   # 10 minutes
python tests/fuzz/soak.py --hours 24 --seed 7 --out soak.json

In the first half of the time the same videos, 1 in 20 of them broken, are extracted into one store after another with
the plug-in network ``tiny``. Every ``--kill-every`` seconds the running command is killed and started again, or its
decoder is. Each shard of a finished store is verified and compared with the first store's.

In the second half one command, of which only the decoders are killed, works on more videos than it can finish; then it
is told to stop, and what it stored is held against the first store. Its cost for a video, memory and descriptors are
followed.

Two readers read whatever is stored all the while; their memory is judged in the first half, where stores end. Exit 1 if
anything was violated. Half an hour, or a third of the half, is warming up.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import psutil
from fuzz.rotten import of_features

from support import PLUGINS, make_video, vadx_environment
from vadx.errors import VadxError
from vadx.features.store import FeatureSet, Store

SAMPLE_SECONDS = 2.0
NUM_DISTINCT = 60
BROKEN = 20
"""One video in so many is broken."""

COST_SECONDS = 30.0
"""How often the shards of the second half are counted."""

CHECKED_AT_THE_END = 5000

STOPPED = 128 + signal.SIGTERM


@dataclass(slots=True)
class Followed:
    """The memory and the open descriptors of one process over time."""

    pid: int
    started: float
    warm_up_seconds: float
    seconds: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self) -> None:
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            count = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        except (OSError, IndexError):
            return
        if not pages:
            # It has ended, and nobody has waited for it yet.
            return
        self.seconds.append(time.monotonic() - self.started)
        self.resident_bytes.append(pages * os.sysconf("SC_PAGESIZE"))
        self.descriptors.append(count)

    def summary(self) -> dict[str, Any] | None:
        """Give the slope of its memory once it has warmed up, None for one that lived too short for that."""
        seconds = np.array(self.seconds)
        warm = seconds > self.warm_up_seconds
        if warm.sum() < 10:
            return None
        resident = np.array(self.resident_bytes)[warm]
        slope = float(np.polyfit(seconds[warm], resident, 1)[0])
        descriptors = np.array(self.descriptors)[warm]
        return {
            "lived_seconds": round(float(seconds[-1])),
            "judged_from_second": round(self.warm_up_seconds),
            "resident_mb": round(float(resident[-1]) / 1e6, 1),
            "mb_per_hour": round(slope * 3600 / 1e6, 1),
            "descriptors": [int(descriptors.min()), int(descriptors.max())],
        }


@dataclass(slots=True)
class Cost:
    """Processor time of a command and its decoders, dead ones too, against the shards of its store, over time."""

    store: Path
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    shards: list[int] = field(default_factory=list)

    def sample(self, pid: int, elapsed: float) -> None:
        try:
            command = psutil.Process(pid)
            times = [command.cpu_times(), *(child.cpu_times() for child in command.children())]
        except psutil.Error:
            return
        own = times[0]
        self.seconds.append(elapsed)
        self.cpu_seconds.append(own.children_user + own.children_system + sum(t.user + t.system for t in times))
        self.shards.append(sum(1 for _ in shards_in(self.store)))

    def summary(self, warm_up_seconds: float) -> dict[str, Any]:
        """Give the processor time and the time of a video in each quarter of what followed the warming up."""
        first = next((n for n, at in enumerate(self.seconds) if at > warm_up_seconds), len(self.seconds))
        edges = np.linspace(first, len(self.seconds) - 1, 5).astype(int) if len(self.seconds) - first > 4 else []
        quarters = [
            (
                self.cpu_seconds[stop] - self.cpu_seconds[start],
                self.seconds[stop] - self.seconds[start],
                max(1, self.shards[stop] - self.shards[start]),
            )
            for start, stop in itertools.pairwise(edges)
        ]
        return {
            "judged_from_second": round(warm_up_seconds),
            "shards": self.shards[-1] if self.shards else 0,
            "cpu_ms_of_a_video_by_quarter": [round(1000 * cpu / num, 2) for cpu, _, num in quarters],
            "ms_of_a_video_by_quarter": [round(1000 * elapsed / num, 2) for _, elapsed, num in quarters],
        }


@dataclass(slots=True)
class Soak:
    """What happened so far. ``digests`` are those of the footage, by its number."""

    seed: int
    num_videos: int
    warm_up_seconds: float
    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    videos: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    first: dict[str, str] | None = None
    digests: dict[int, str] = field(default_factory=dict)
    readers: list[Followed] = field(default_factory=list)


def make_originals(folder: Path, seed: int) -> list[Path]:
    return [make_video(folder / f"{n}.mp4", num_frames=12 + n % 20, seed=seed % 1000 + n) for n in range(NUM_DISTINCT)]


def make_inputs(folder: Path, originals: list[Path], num_videos: int) -> int:
    """Put videos there, most of them under several names; gives how many of them are broken."""
    folder.mkdir()
    broken = 0
    for number in range(num_videos):
        path = folder / f"cam{number % 7}" / f"{number:06d}.mp4"
        path.parent.mkdir(exist_ok=True)
        original = originals[number % NUM_DISTINCT]
        if number % BROKEN == 0:
            broken += 1
            path.write_bytes(b"" if number % (2 * BROKEN) else original.read_bytes()[:400])
        else:
            path.hardlink_to(original)
    return broken


def number_of(identifier: str) -> int:
    """Give the number under which `make_inputs` made the video of this id."""
    return int(identifier.rsplit("/", 1)[-1])


def footage_of(identifier: str) -> int:
    """Give the number of the original that a video of this id shows."""
    return number_of(identifier) % NUM_DISTINCT


def shards_in(store: Path) -> Iterator[Path]:
    """Walk the shards of a store's only set."""
    return store.glob("*/shards/*/*.h5")


def command(videos: Path, store: Path) -> list[str]:
    words = [
        "extract",
        "--backbone",
        "tiny",
        "--weights",
        "random",
        "--device",
        "cpu",
        "--batch",
        "16",
        "--decoders",
        "1",
    ]
    # A quarter of these videos may be broken, and 20 % fail a run by default.
    return [sys.executable, "-m", "vadx", *words, "--max-failures", "50%", "--quiet", str(videos), "--out", str(store)]


def one_store(soak: Soak, videos: Path, store: Path, *, kill_every: float, until: float) -> bool:
    """Extract into a store, killed again and again; False if the time is over first."""
    generator = random.Random(soak.seed + soak.rounds)
    while True:
        code = one_command(soak, videos, store, generator, kill_every=kill_every, until=until, kill="either")
        if code in (0, 3):
            return True
        if code != -signal.SIGKILL:
            return time.monotonic() < until
        if time.monotonic() > until:
            return False


def one_command(
    soak: Soak,
    videos: Path,
    store: Path,
    generator: random.Random,
    *,
    kill_every: float,
    until: float,
    kill: Literal["either", "decoder"],
    cost: Cost | None = None,
) -> int:
    """Run the command until it ends, is killed or has to stop; give its exit code."""
    with (store.parent / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            command(videos, store), stdout=subprocess.DEVNULL, stderr=errors, env=vadx_environment()
        )
        soak.commands += 1
        code = follow(soak, process, generator, kill_every=kill_every, until=until, kill=kill, cost=cost)
        errors.seek(0)
        text = errors.read()
    soak.codes[code] += 1
    if "Traceback (most recent" in text:
        soak.violations.append(f"a traceback: {text[-1500:]}")
    if code not in (0, 3, STOPPED, -signal.SIGKILL):
        soak.violations.append(f"exit code {code}: {text[-500:]}")
    return code


def follow(
    soak: Soak,
    process: subprocess.Popen[bytes],
    generator: random.Random,
    *,
    kill_every: float,
    until: float,
    kill: Literal["either", "decoder"],
    cost: Cost | None,
) -> int:
    started = time.monotonic()
    followed = Followed(process.pid, started, soak.warm_up_seconds)
    kill_at = started + kill_every * generator.uniform(0.2, 1.8)
    told = False
    while process.poll() is None:
        time.sleep(SAMPLE_SECONDS / 4)
        now = time.monotonic()
        if len(followed.seconds) < (now - started) / SAMPLE_SECONDS:
            for one in (followed, *soak.readers):
                one.sample()
        if cost is not None and len(cost.seconds) < (now - started) / COST_SECONDS:
            cost.sample(process.pid, now - started)
        if now > until:
            if not told:
                process.send_signal(signal.SIGTERM)
                told = True
            elif now > until + 60:
                soak.violations.append("a command that was told to stop went on for a minute")
                process.kill()
        elif now > kill_at:
            kill_at = now + kill_every * generator.uniform(0.2, 1.8)
            decoders = decoders_of(process.pid)
            if kill == "either" and generator.random() < 0.5:
                soak.kills["command"] += 1
                process.kill()
                process.wait()
            elif decoders:
                soak.kills["decoder"] += 1
                os.kill(generator.choice(decoders), signal.SIGKILL)
    if (summary := followed.summary()) is not None:
        soak.processes.append({"process": "extract", **summary})
    return process.returncode


def decoders_of(pid: int) -> list[int]:
    try:
        children = psutil.Process(pid).children()
        return [child.pid for child in children if "vadx.extract.decode_child" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def check_store(soak: Soak, store: Path, num_broken: int) -> None:
    """Verify a finished store, and compare it with the first."""
    (made,) = Store(store).sets()
    found = {str(path.relative_to(made.path)): error for path, error in made.verify()}
    soak.violations += [f"round {soak.rounds}: {path}: {error}" for path, error in found.items() if error is not None]
    hashes = {path: hashlib.sha256((made.path / path).read_bytes()).hexdigest() for path in found}
    if len(hashes) != soak.num_videos - num_broken:
        soak.violations.append(f"round {soak.rounds}: {len(hashes)} shards of {soak.num_videos - num_broken}")
    if len(made.failures()) != num_broken:
        soak.violations.append(f"round {soak.rounds}: {len(made.failures())} failures of {num_broken}")
    if soak.first is None:
        soak.first = hashes
        for identifier in made:
            check_footage(soak, made, identifier)
    elif hashes != soak.first:
        soak.violations.append(f"round {soak.rounds}: its shards are not those of the first round")
    soak.videos += len(hashes)


def check_footage(soak: Soak, made: FeatureSet, identifier: str) -> None:
    """Compare a video's features with those of all others that show the same footage."""
    try:
        digest = of_features(made[identifier])
    except VadxError as error:
        soak.violations.append(str(error))
        return
    if soak.digests.setdefault(footage_of(identifier), digest) != digest:
        soak.violations.append(f"{identifier} is not what another video of the same footage is")


def check_stopped(soak: Soak, store: Path, generator: random.Random) -> int:
    """Hold shards of a store that was told to stop against what is known of their footage; gives how many it has."""
    (made,) = Store(store).sets()
    ids = list(made)
    for identifier in generator.sample(ids, min(CHECKED_AT_THE_END, len(ids))):
        check_footage(soak, made, identifier)
    # A video whose decoder was killed is tried again, and must not count as a bad one.
    for failure in made.failures():
        if number_of(failure.id) % BROKEN:
            soak.violations.append(f"the last store: {failure.id} failed: {failure.code}")
    return len(ids)


def read_forever(folder: Path, seed: int) -> None:
    """Read random videos of whatever set is there until stdin ends, and tell what was seen."""
    import select

    generator = random.Random(seed)
    seen: dict[int, str] = {}
    told = {"reads": 0, "bad": 0, "changed": 0, "errors": []}
    made: FeatureSet | None = None
    while not select.select([sys.stdin], [], [], 0.2)[0]:
        try:
            if made is None or not made.path.exists():
                made = next((FeatureSet(path.parent) for path in folder.glob("store-*/*/recipe.json")), None)
            ids = [] if made is None else made.summaries().ids
        except (VadxError, OSError):
            # A finished store is removed under its readers.
            continue
        for identifier in generator.sample(ids, min(40, len(ids))):
            try:
                digest = of_features(made[identifier])
            except KeyError:
                break
            except VadxError as error:
                if made.path.exists():
                    told["bad"] += 1
                    told["errors"] = [*told["errors"], str(error)][:5]
                break
            told["reads"] += 1
            told["changed"] += seen.setdefault(footage_of(identifier), digest) != digest
    print(json.dumps(told), flush=True)


def start_reader(folder: Path, seed: int) -> subprocess.Popen[str]:
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(PLUGINS), *inherited])
    return subprocess.Popen(
        [sys.executable, __file__, "--read", str(folder), "--seed", str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    total = 60 * options.minutes + 3600 * options.hours
    start = time.monotonic()
    soak = Soak(seed, options.videos, min(1800.0, total / 6))
    originals = make_originals(folder / "originals", seed)
    num_broken = make_inputs(folder / "videos", originals, options.videos)
    readers = [start_reader(folder, seed + n) for n in range(2)]
    soak.readers = [Followed(reader.pid, time.monotonic(), soak.warm_up_seconds) for reader in readers]
    load = [os.getloadavg()[0]]
    while (now := time.monotonic()) < start + total / 2:
        store = folder / f"store-{soak.rounds}"
        if not one_store(soak, folder / "videos", store, kill_every=options.kill_every, until=start + total / 2):
            break
        soak.rates.append(round(options.videos / (time.monotonic() - now), 1))
        check_store(soak, store, num_broken)
        soak.rounds += 1
        shutil.rmtree(store)
    judged = [one.summary() for one in soak.readers]
    load.append(os.getloadavg()[0])
    shutil.rmtree(folder / f"store-{soak.rounds}", ignore_errors=True)

    many = round(options.most_per_second * total / 2)
    make_inputs(folder / "many", originals, many)
    store = folder / "store-many"
    cost, generator = Cost(store), random.Random(seed)
    until = start + total
    one_command(
        soak, folder / "many", store, generator, kill_every=options.kill_every, until=until, kill="decoder", cost=cost
    )
    stored = check_stopped(soak, store, generator)
    load.append(os.getloadavg()[0])
    told = [reader.communicate("\n", timeout=120)[0] for reader in readers]
    seen = [json.loads(text) for text in told]
    soak.violations += [f"a reader: {one}" for one in seen if one["bad"] or one["changed"]]
    return {
        "command": " ".join(["python tests/fuzz/soak.py", *sys.argv[1:]]),
        "seed": seed,
        "seconds": round(time.monotonic() - start),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_at_start_middle_end": [round(one, 1) for one in load],
        "videos_of_a_round": options.videos,
        "broken_of_a_round": num_broken,
        "rounds": soak.rounds,
        "shards_verified": soak.videos,
        "videos_of_the_last_store": [stored, many],
        "commands": soak.commands,
        "kills": dict(soak.kills),
        "exit_codes": {str(code): number for code, number in sorted(soak.codes.items())},
        "videos_per_second_of_a_round": soak.rates,
        "reads": sum(one["reads"] for one in seen),
        "readers": judged,
        "processes": soak.processes[-20:],
        "cost": cost.summary(soak.warm_up_seconds),
        "violations": soak.violations,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Soak vadx.")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--videos", type=int, default=600, help="Videos of a round.")
    parser.add_argument("--kill-every", type=float, default=30.0, help="Seconds between kills, on average.")
    parser.add_argument(
        "--most-per-second", type=float, default=60.0, help="Videos of the last store, per second: more than are done."
    )
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--out", type=Path, help="Write the result here as well.")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read is not None:
        read_forever(options.read, options.seed)
        return 0
    options.minutes = options.minutes if options.minutes is not None else 0.0 if options.hours else 10.0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        result = run(options, Path(folder))
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    return int(bool(result["violations"]))


if __name__ == "__main__":
    sys.exit(main())
