"""Extract for hours while processes are killed and readers read: `make soak`, or

python tests/fuzz/soak.py                                   # 10 minutes
python tests/fuzz/soak.py --hours 24 --seed 7 --out soak.json

The same videos, 1 in 20 of them broken, are extracted into one store after another with the plug-in network ``tiny``.
The running command is killed every ``--kill-every`` seconds, but for the last third of the time, and started again; two
readers read whatever is stored all the while. Of every finished store each shard is verified and compared with the
first store's, and the memory and descriptors of long-lived processes are followed. Exit 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import hashlib
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from fuzz.rotten import of_features

from support import PLUGINS, make_video, vadx_environment
from vadx.errors import VadxError
from vadx.features.store import FeatureSet, Store

SAMPLE_SECONDS = 2.0
NUM_DISTINCT = 60
BROKEN = 20
"""One video in so many is broken."""

_WARM_UP_SECONDS = 20.0


@dataclass(slots=True)
class Followed:
    """The memory and the open descriptors of one process over time."""

    pid: int
    started: float
    seconds: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self) -> None:
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            count = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        except (OSError, IndexError):
            return
        self.seconds.append(time.monotonic() - self.started)
        self.resident_bytes.append(pages * os.sysconf("SC_PAGESIZE"))
        self.descriptors.append(count)

    def summary(self) -> dict[str, Any] | None:
        """Give the slope of its memory once it has warmed up, None for one that lived too short for that."""
        seconds = np.array(self.seconds)
        warm = seconds > _WARM_UP_SECONDS
        if warm.sum() < 10:
            return None
        resident = np.array(self.resident_bytes)[warm]
        slope = float(np.polyfit(seconds[warm], resident, 1)[0])
        descriptors = np.array(self.descriptors)[warm]
        return {
            "lived_seconds": round(float(seconds[-1])),
            "resident_mb": round(float(resident[-1]) / 1e6, 1),
            "mb_per_hour": round(slope * 3600 / 1e6, 1),
            "descriptors": [int(descriptors.min()), int(descriptors.max())],
        }


@dataclass(slots=True)
class Soak:
    """What happened so far."""

    seed: int
    num_videos: int
    rounds: int = 0
    kills: int = 0
    commands: int = 0
    videos: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    first: dict[str, str] | None = None
    readers: list[Followed] = field(default_factory=list)


def make_inputs(folder: Path, num_videos: int, seed: int) -> int:
    """Make videos, most of them under several names; gives how many of them are broken."""
    originals = [
        make_video(folder.parent / "originals" / f"{n}.mp4", num_frames=12 + n % 20, seed=seed % 1000 + n)
        for n in range(NUM_DISTINCT)
    ]
    folder.mkdir()
    broken = 0
    for number in range(num_videos):
        path = folder / f"cam{number % 7}" / f"{number:05d}.mp4"
        path.parent.mkdir(exist_ok=True)
        original = originals[number % NUM_DISTINCT]
        if number % BROKEN == 0:
            broken += 1
            path.write_bytes(b"" if number % (2 * BROKEN) else original.read_bytes()[:400])
        else:
            path.hardlink_to(original)
    return broken


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


def one_store(soak: Soak, videos: Path, store: Path, *, kill_every: float, calm_after: float, until: float) -> bool:
    """Extract into a store, killed again and again; False if the time is over first."""
    generator = random.Random(soak.seed + soak.rounds)
    while True:
        with (store.parent / "stderr").open("w+") as errors:
            process = subprocess.Popen(
                command(videos, store), stdout=subprocess.DEVNULL, stderr=errors, env=vadx_environment()
            )
            soak.commands += 1
            code = follow(soak, process, generator, kill_every=kill_every, calm_after=calm_after, until=until)
            errors.seek(0)
            text = errors.read()
        soak.codes[code] += 1
        if "Traceback (most recent" in text:
            soak.violations.append(f"a traceback: {text[-1500:]}")
        if code in (0, 3):
            return True
        if code != -signal.SIGKILL:
            soak.violations.append(f"exit code {code}: {text[-500:]}")
            return True
        if time.monotonic() > until:
            return False


def follow(
    soak: Soak,
    process: subprocess.Popen[bytes],
    generator: random.Random,
    *,
    kill_every: float,
    calm_after: float,
    until: float,
) -> int:
    followed = Followed(process.pid, time.monotonic())
    kill_at = time.monotonic() + kill_every * generator.uniform(0.2, 1.8)
    while process.poll() is None:
        time.sleep(SAMPLE_SECONDS / 4)
        if len(followed.seconds) < (time.monotonic() - followed.started) / SAMPLE_SECONDS:
            for one in (followed, *soak.readers):
                one.sample()
        now = time.monotonic()
        if now > until or (now > kill_at and now < calm_after):
            soak.kills += now <= until
            process.kill()
            process.wait()
    if (summary := followed.summary()) is not None:
        soak.processes.append({"process": "extract", **summary})
    return process.returncode


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
    elif hashes != soak.first:
        soak.violations.append(f"round {soak.rounds}: its shards are not those of the first round")
    soak.videos += len(hashes)


def read_forever(folder: Path, seed: int) -> None:
    """Read random videos of whatever set is there until stdin ends, and tell what was seen."""
    import select

    generator = random.Random(seed)
    seen: dict[str, str] = {}
    told = {"reads": 0, "bad": 0, "changed": 0, "errors": []}
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            sets = [FeatureSet(path.parent) for path in folder.glob("store-*/*/recipe.json")]
            ids = list(sets[-1]) if sets else []
        except (VadxError, OSError):
            # A finished store is removed under its readers.
            continue
        if not ids:
            time.sleep(0.1)
        for identifier in generator.sample(ids, min(40, len(ids))):
            try:
                digest = of_features(sets[-1][identifier])
            except KeyError:
                break
            except VadxError as error:
                if sets[-1].path.exists():
                    told["bad"] += 1
                    told["errors"] = [*told["errors"], str(error)][:5]
                break
            told["reads"] += 1
            told["changed"] += seen.setdefault(identifier, digest) != digest
    print(json.dumps(told), flush=True)


def start_reader(folder: Path, seed: int) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(PLUGINS)])
    return subprocess.Popen(
        [sys.executable, __file__, "--read", str(folder), "--seed", str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    soak = Soak(seed, options.videos)
    start = time.monotonic()
    until = start + 60 * options.minutes + 3600 * options.hours
    calm_after = start + (until - start) * 2 / 3
    num_broken = make_inputs(folder / "videos", options.videos, seed)
    readers = [start_reader(folder, seed + n) for n in range(2)]
    soak.readers = [Followed(reader.pid, time.monotonic()) for reader in readers]
    while time.monotonic() < until:
        store, began = folder / f"store-{soak.rounds}", time.monotonic()
        done = one_store(
            soak, folder / "videos", store, kill_every=options.kill_every, calm_after=calm_after, until=until
        )
        if not done:
            break
        soak.rates.append(round(options.videos / (time.monotonic() - began), 1))
        check_store(soak, store, num_broken)
        soak.rounds += 1
        shutil.rmtree(store)
    told = [reader.communicate("\n", timeout=120)[0] for reader in readers]
    seen = [json.loads(text) for text in told]
    soak.violations += [f"a reader: {one}" for one in seen if one["bad"] or one["changed"]]
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - start),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "videos_of_a_round": options.videos,
        "broken_of_a_round": num_broken,
        "rounds": soak.rounds,
        "shards_verified": soak.videos,
        "commands": soak.commands,
        "kills": soak.kills,
        "exit_codes": {str(code): number for code, number in sorted(soak.codes.items())},
        "videos_per_second": soak.rates,
        "reads": sum(one["reads"] for one in seen),
        "readers": [one.summary() for one in soak.readers],
        "processes": soak.processes[-20:],
        "violations": soak.violations,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Soak vadx.")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--videos", type=int, default=600, help="Videos of a round.")
    parser.add_argument("--kill-every", type=float, default=30.0, help="Seconds between kills, on average.")
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
