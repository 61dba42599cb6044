"""Sixty kinds of broken and odd videos, each with what must be said of it.

A sample of the seeds, or all of them with VADX_CORPUS=all; VADX_CORPUS=count writes down what was counted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from support import Ran, make_video
from vadx.errors import CODES, VideoError
from vadx.extract.decode_limits import DecodeLimits
from vadx.extract.isolate import DecodePool
from vadx.extract.library import probe_video

from ..extract.encodings import NUM_FRAMES
from .counts import COUNTED, Counts, Row, read_counts, write_counts
from .items import STREAMS, TWINS, Item, Outcome, Workshop, complaints
from .make_corpus import KINDS
from .odd import NAMES

MODE = os.environ.get("VADX_CORPUS", "")
EVERYTHING = MODE in ("all", "count")
LIMITS = DecodeLimits(video_seconds=300)
"""A decoder that takes longer hangs, and its video gets VIDEO_TIMEOUT, which nothing here expects."""

HOSTILE = range(50, 54)
DAMAGED = range(21, 28)
SMALL = range(21, 23)
"""Damage that costs few frames: whoever counts frames alone would not see it."""

MIN_SHARE_FLAGGED = 0.85
"""Of the files whose pixels changed. Measured: see docs/corpus.md."""

NUM_CLEAN_SEEDS = 12 if EVERYTHING else 1

pytestmark = pytest.mark.timeout(3600 if EVERYTHING else 300)


class Corpus:
    """What was read of each kind: each file once, in a process of its own, under limits."""

    def __init__(self, folder: Path, pool: DecodePool) -> None:
        self.workshop = Workshop(folder)
        self._pool = pool
        self._read: dict[int, list[tuple[Item, Outcome]]] = {}
        self._twins: dict[str, Outcome] = {}

    def kind(self, number: int) -> list[tuple[Item, Outcome]]:
        if number not in self._read:
            folder = self.workshop.folder / str(number)
            folder.mkdir()
            items = KINDS[number - 1].make(self.workshop, folder, EVERYTHING)
            self._read[number] = [(item, self._outcome(item)) for item in items]
        return self._read[number]

    def twin(self, name: str) -> Outcome:
        if name not in self._twins:
            self._twins[name] = read_in(self._pool, self.workshop.twin(name))
        return self._twins[name]

    def clean(self, name: str, seed: int) -> Outcome:
        return read_in(self._pool, self.workshop.twin(name, seed))

    def changed(self, number: int, name: str) -> list[Outcome]:
        """Give what was read of a kind's files that were made of a clean video, where the pixels are not its own."""
        clean = self.twin(name).pixels
        return [outcome for item, outcome in self.kind(number) if item.twin == name and outcome.pixels != clean]

    def _outcome(self, item: Item) -> Outcome:
        if item.limits is None:
            return read_in(self._pool, item.path)
        with DecodePool(1, limits=item.limits) as pool:
            return read_in(pool, item.path)


def read_in(pool: DecodePool, path: Path) -> Outcome:
    """Read a file to its end or its error."""
    digest, num_frames, code, evidence, facts = hashlib.sha256(), 0, None, "", None
    with pool.open(path) as source:
        try:
            for block in source:
                digest.update(str(block.frames.shape).encode())
                digest.update(block.frames)
                num_frames += len(block.frames)
        except VideoError as error:
            code, evidence = error.code, error.evidence
        try:
            facts = source.facts()
        except VideoError:
            facts = None
        peaks = [peak_bytes(pid) for pid in pool.process_ids]
    return Outcome(code, evidence, num_frames, facts, digest.hexdigest(), max(peaks, default=0))


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with DecodePool(1, limits=LIMITS) as pool:
        yield Corpus(tmp_path_factory.mktemp("corpus"), pool)


def test_there_are_sixty_kinds() -> None:
    assert [kind.number for kind in KINDS] == list(range(1, 61))
    assert len({kind.what for kind in KINDS}) == 60


@pytest.mark.parametrize("number", [kind.number for kind in KINDS], ids=[f"{k.number}-{k.what}" for k in KINDS])
def test_a_kind_is_what_it_must_be(corpus: Corpus, number: int) -> None:
    wrong = []
    for index, (item, outcome) in enumerate(corpus.kind(number)):
        found = complaints(item.expected, outcome)
        if outcome.code is not None and (outcome.code not in CODES or not outcome.evidence):
            found.append(f"{outcome.code} is no code, or there is no evidence")
        limits = item.limits or LIMITS
        if outcome.peak_bytes > limits.memory_bytes:
            found.append(f"its decoder took {outcome.peak_bytes} bytes")
        # Hostile files are read in processes of their own alone; of damaged ones, one for each stream is enough.
        if number not in HOSTILE and (number not in DAMAGED or "seed 0" in item.label or not index):
            probe = probe_video(item.path)
            if (probe.code, probe.facts) != (outcome.code, outcome.facts):
                found.append(f"a probe says {probe.code}, {probe.facts}; its decoder {outcome.code}, {outcome.facts}")
        wrong += [f"kind {number}, {item.label}: {complaint}" for complaint in found]
    assert corpus.kind(number)
    assert wrong == [], "\n".join(wrong)


def flagged(corpus: Corpus, numbers: range, names: tuple[str, ...]) -> tuple[int, int]:
    """Give how many files whose pixels changed there are, and how many of them are flagged."""
    outcomes = [outcome for number in numbers for name in names for outcome in corpus.changed(number, name)]
    return len(outcomes), sum(outcome.is_flagged for outcome in outcomes)


H264_AND_MPEG4 = ("h264 cavlc", "h264 cabac", "h264 of 4 slices", "mpeg4", "ts")


@pytest.mark.parametrize(("numbers", "min_changed"), [(DAMAGED, 60), (SMALL, 20)], ids=["all", "small"])
def test_damage_that_changed_h264_or_mpeg4_is_flagged(corpus: Corpus, numbers: range, min_changed: int) -> None:
    num_changed, num_flagged = flagged(corpus, numbers, H264_AND_MPEG4)
    assert num_changed >= min_changed
    assert num_flagged >= MIN_SHARE_FLAGGED * num_changed, f"{num_flagged} of {num_changed} flagged; seeds from 0 on"


def test_damage_of_188_bytes_and_more_that_changed_mjpeg_is_flagged(corpus: Corpus) -> None:
    num_changed, num_flagged = flagged(corpus, range(22, 27), ("mjpeg",))
    assert num_changed >= 12
    assert num_flagged >= MIN_SHARE_FLAGGED * num_changed, f"{num_flagged} of {num_changed} flagged; seeds from 0 on"


def test_small_damage_in_hevc_is_not_seen_as_the_docs_say(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    num_changed, num_flagged = flagged(corpus, SMALL, ("hevc",))
    assert num_changed >= 6
    assert num_flagged <= 0.2 * num_changed, f"{num_flagged} of {num_changed} flagged: docs/corpus.md says they are not"
    if EVERYTHING:
        with capsys.disabled():
            print("\n" + table_of_flags(corpus))


def table_of_flags(corpus: Corpus) -> str:
    """Write the table of docs/corpus.md: flagged of those changed, for each kind of damage and each stream."""
    lines = [f"| damage | {' | '.join(STREAMS)} |", "|---|" + "---|" * len(STREAMS)]
    for number in range(21, 27):
        cells = [flagged(corpus, range(number, number + 1), (name,)) for name in STREAMS]
        told = " | ".join(f"{num_flagged} of {num_changed}" for num_changed, num_flagged in cells)
        lines.append(f"| {KINDS[number - 1].what} | {told} |")
    num_changed, num_flagged = flagged(corpus, range(27, 28), ("ts",))
    return "\n".join([*lines, f"{KINDS[26].what}: {num_flagged} of {num_changed}"])


def test_no_clean_video_is_flagged(corpus: Corpus) -> None:
    false_alarms = []
    for name in TWINS:
        for seed in range(NUM_CLEAN_SEEDS):
            outcome = corpus.clean(name, seed)
            if outcome.is_flagged or outcome.frames != NUM_FRAMES:
                false_alarms.append(f"{name}, seed {seed}: {outcome}")
    assert false_alarms == []
    assert not EVERYTHING or len(TWINS) * NUM_CLEAN_SEEDS >= 200


def test_what_is_counted_is_what_was_counted(corpus: Corpus) -> None:
    rows: dict[tuple[int, str], Row] = {}
    for number in COUNTED:
        for item, outcome in corpus.kind(number):
            rows[number, item.label] = (outcome.code or "-", outcome.frames, outcome.damaged, outcome.bad_packets)
    twins = {name: hashlib.sha256(corpus.workshop.twin(name).read_bytes()).hexdigest() for name in TWINS}
    if MODE == "count":
        write_counts(Counts(av.__version__, twins, rows))
    known = read_counts()
    if known.made_by != av.__version__:
        pytest.skip(f"the counts are those of PyAV {known.made_by}; another FFmpeg may conceal otherwise")
    if known.twins != twins:
        other = sorted(name for name in TWINS if known.twins.get(name) != twins[name])
        pytest.skip(f"the encoders of this machine made other bytes than those that were counted: {other}")
    assert {key: known.rows.get(key) for key in rows} == rows


def test_names_are_only_names_to_the_commands(
    vadx_here: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, content = tmp_path / "in", make_video(tmp_path / "source.mp4", num_frames=8).read_bytes()
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(content)

    ran = vadx_here("probe", "in", "--json")
    assert (ran.code, [json.loads(line)["code"] for line in ran.out.splitlines()]) == (0, [None] * len(NAMES))
    assert len(vadx_here("probe", "in").out.splitlines()) == len(NAMES)
    ran = vadx_here(
        "extract", "--backbone", "tiny", "--weights", "random", "--device", "cpu", "in", "--out", "store", "--json"
    )
    lines = [line for line in map(json.loads, ran.out.splitlines()) if line["event"] == "video"]
    assert ran.code == 3, ran.err
    # Two of the names are one id.
    assert [line["id"] for line in lines if line.get("code") == "KEY_COLLISION"] == ["\u00e9", "\u00e9"]
    assert [line["status"] for line in lines if "code" not in line] == ["done"] * (len(NAMES) - 2)
    assert vadx_here("verify", "--store", "store").code == 0

    monkeypatch.chdir(folder)
    ran = vadx_here("probe", "--json", "--", *NAMES)
    assert (ran.code, len(ran.out.splitlines())) == (0, len(NAMES))
