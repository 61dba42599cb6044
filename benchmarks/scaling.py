"""Memory and cost a frame, as videos get longer and more: the network of the tests, so that all else shows.

python benchmarks/scaling.py            # 10 and 100 minutes; 20 and 400 videos of 10 s; some 20 minutes on 2 cores
python benchmarks/scaling.py --minutes 1 10 --videos 5 50

Each run is a process of its own. Peak memory is the process's own and that of its largest decoder; cost is CPU seconds
of both, start-up left out by a run over one short video.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import torch
from measuring import PLUGINS

RESULT = Path(__file__).parent / "results" / "scaling.json"
TINY = ["--backbone", "tiny", "--weights", "random", "--device", "cpu", "--batch", "16", "--engine", "torch-eager"]
FPS = 30


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what it was given, and what it took."""

    videos: int
    frames: int
    decoders: int
    peak_mebibytes: float
    decoder_peak_mebibytes: float
    cpu_seconds: float


def repeat(source: Path, target: Path, times: int) -> Path:
    """Write a video that is ``source`` so many times over, packet for packet."""
    with av.open(str(target), "w") as out:
        stream, offset = None, 0
        for _ in range(times):
            with av.open(str(source)) as given:
                video = given.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                end = 0
                for packet in given.demux(video):
                    if packet.dts is None:
                        continue
                    end = max(end, packet.pts + packet.duration)
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    out.mux(packet)
                offset += end
    return target


def measure(folder: Path, out: Path, decoders: int) -> Run:
    """Run `vadx extract` over a folder in a new process."""
    program = (
        "import json, re, resource, sys; from vadx.pipelines.cli import run\n"
        "from vadx.extract.isolate import DecodePool; close, peaks = DecodePool.close, [0]\n"
        "def closing(pool):\n"
        "    texts = [open(f'/proc/{pid}/status').read() for pid in pool.process_ids]\n"
        "    peaks.extend(int(re.search(r'VmHWM:\\s*(\\d+)', text)[1]) for text in texts)\n"
        "    close(pool)\n"
        "DecodePool.close = closing\n"
        "code = run(sys.argv[1:])\n"
        "own, child = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))\n"
        "cpu = sum(use.ru_utime + use.ru_stime for use in (own, child))\n"
        "print(json.dumps([code, own.ru_maxrss, max(peaks), cpu]))"
    )
    words = ["extract", *TINY, "--decoders", str(decoders), "--out", str(out), "--json", str(folder)]
    path = os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or lines[-1][0]:
        sys.exit(f"the run failed: {done.stderr}")
    _, own, child, cpu = lines[-1]
    summary = lines[-2]
    return Run(summary["done"], summary["num_frames"], decoders, own / 1024, child / 1024, cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--videos", nargs="+", type=int, default=[20, 400])
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--note", action="append", default=[])
    arguments = parser.parse_args()
    from vadx.pipelines.bench_report import describe_machine
    from vadx.pipelines.bench_video import make_bench_video

    rows: list[Run] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        ten_seconds = make_bench_video(10 * FPS)
        work: list[Path] = []
        for minutes in arguments.minutes:
            (root / f"long{minutes}").mkdir()
            repeat(ten_seconds, root / f"long{minutes}" / "v.mp4", 6 * minutes)
            work.append(root / f"long{minutes}")
        for count in arguments.videos:
            folder = root / f"many{count}"
            folder.mkdir()
            for number in range(count):
                (folder / f"v{number}.mp4").write_bytes(ten_seconds.read_bytes())
            work.append(folder)
        (root / "one").mkdir()
        (root / "one" / "v.mp4").write_bytes(ten_seconds.read_bytes())
        base = measure(root / "one", root / "s-one", arguments.decoders)
        print(f"{'videos':>7} {'frames':>8} {'peak MiB':>9} {'decoder':>8} {'CPU ms a frame':>15}")
        for folder in work:
            row = measure(folder, root / f"s-{folder.name}", arguments.decoders)
            rows.append(row)
            cost = 1000 * (row.cpu_seconds - base.cpu_seconds) / (row.frames - base.frames)
            peaks = f"{row.peak_mebibytes:>9.0f} {row.decoder_peak_mebibytes:>8.0f}"
            print(f"{row.videos:>7} {row.frames:>8} {peaks} {cost:>15.3f}", flush=True)
    result = {
        "command": "python benchmarks/scaling.py " + " ".join(sys.argv[1:]),
        "machine": asdict(describe_machine(torch.device("cpu"), os.getloadavg()[0])),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "av": av.__version__},
        "notes": arguments.note,
        "start": asdict(base),
        "runs": [asdict(row) for row in rows],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(RESULT)


if __name__ == "__main__":
    main()
