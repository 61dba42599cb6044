"""Run ``vadx bench`` for one network of each kind, and keep what it says: ``benchmarks/results/NAME.json``.

python benchmarks/end_to_end.py                              # everything, 3,000 frames, 5 repetitions
python benchmarks/end_to_end.py i3d --frames 640 --quick     # one, short; further words go to `vadx bench`
python benchmarks/end_to_end.py --note "nothing else ran"    # a remark for each result's `notes`
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

RUNS = {
    "i3d": ["--backbone", "i3d", "--baseline", "plain"],
    # Without the mean cube, which is fetched and not made up; one mean a channel costs the same.
    "c3d": ["--preset", "sports1m-c3d-channel-mean", "--baseline", "plain"],
    "r2plus1d": ["--backbone", "r2plus1d", "--baseline", "plain"],
    "tsn-bninception": ["--backbone", "tsn-bninception", "--baseline", "plain"],
}
"""Result's name -> what `vadx bench` is asked for."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(RUNS)}; all if left out")
    parser.add_argument("--note", action="append", default=[], help="a remark for the results")
    parser.add_argument("--label", help="put into the files' names, as in i3d-LABEL.json")
    arguments, rest = parser.parse_known_args()
    unknown = [name for name in arguments.names if name not in RUNS]
    if unknown:
        parser.error(f"there is no run {unknown[0]!r}; there are: {', '.join(RUNS)}")
    worst = 0
    RESULTS.mkdir(exist_ok=True)
    for name in arguments.names or RUNS:
        command = [sys.executable, "-m", "vadx", "bench", *RUNS[name], *rest, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        worst = max(worst, done.returncode)
        # 4: measured, but the baseline's features differ, which the result says.
        if done.returncode not in (0, 4):
            print(f"{name}: vadx bench ended with {done.returncode}", file=sys.stderr)
            continue
        result = json.loads(done.stdout)
        result["notes"] += arguments.note
        path = RESULTS / f"{name}{f'-{arguments.label}' if arguments.label else ''}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(path)
    return worst


if __name__ == "__main__":
    sys.exit(main())
