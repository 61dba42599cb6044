"""What a kind of the corpus is: how its files are made, and what vadx must say of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import av

from vadx.extract.decode_limits import DecodeLimits
from vadx.features.timeline import VideoFacts

from ..extract.encodings import ENCODINGS, Encoding

# Looking ahead, x264 makes other bytes now and then, in a process that used other encoders before.
STEADY = {"mbtree": "0", "rc-lookahead": "0"}
H264 = {"g": "12", "crf": "8", "preset": "veryfast"}
INDEX_FIRST = {"movflags": "faststart"}
STREAMS = {
    "h264 cavlc": Encoding(".mp4", container_options=INDEX_FIRST, codec_options={**H264, "coder": "0"}),
    "h264 cabac": Encoding(".mp4", container_options=INDEX_FIRST, codec_options=H264),
    "h264 of 4 slices": Encoding(".mp4", container_options=INDEX_FIRST, codec_options={**H264, "slices": "4"}),
    "hevc": Encoding(
        ".mp4",
        "libx265",
        INDEX_FIRST,
        # Its bytes depend on the number of its threads.
        {"crf": "8", "preset": "veryfast", "x265-params": "keyint=12:frame-threads=1:pools=none:log-level=none"},
    ),
    "mpeg4": Encoding(".avi", "mpeg4", codec_options={"g": "12"}),
    "mjpeg": ENCODINGS["mjpeg avi"],
}
"""The streams whose bytes are damaged. An mp4's index stands before the part that is."""

TWINS: Mapping[str, Encoding] = {
    **STREAMS,
    **{name: encoding for name, encoding in ENCODINGS.items() if encoding != STREAMS["mjpeg"]},
    "mjpeg avi": ENCODINGS["mjpeg avi"],
    "ts, one key frame in 30": Encoding(".ts", codec_options={**H264, "g": "30"}),
}
"""Everything that is cut, damaged or thinned out, before that."""

Count: TypeAlias = int | range
Code: TypeAlias = str | frozenset[str | None] | None


@dataclass(frozen=True, slots=True)
class Expected:
    """What must be said of a file: a code (None: it is accepted), counts or their bounds, and other facts."""

    code: Code = None
    frames: Count = 0
    damaged: Count = 0
    bad_packets: Count = 0
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Item:
    """One file. ``label`` names it within its kind, and holds the seed that it was drawn with.

    ``twin`` is what it was made of, where its pixels are to be compared. ``limits`` are its decoder's.
    """

    label: str
    path: Path
    expected: Expected
    twin: str | None = None
    limits: DecodeLimits | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What reading a file gave. ``pixels`` is a digest of all frames; ``peak_bytes`` the decoder's peak of memory."""

    code: str | None
    evidence: str
    frames: int
    facts: VideoFacts | None
    pixels: str
    peak_bytes: int

    @property
    def damaged(self) -> int:
        return self.facts.num_damaged_frames if self.facts else 0

    @property
    def bad_packets(self) -> int:
        return self.facts.num_bad_packets if self.facts else 0

    @property
    def is_flagged(self) -> bool:
        """Whether anything tells that the file is not what was recorded."""
        return self.code is not None or (self.facts is not None and self.facts.is_degraded)


class Workshop:
    """A folder in which the corpus is made. Clean twins are made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ends: dict[str, list[int]] = {}

    def twin(self, name: str, seed: int = 0) -> Path:
        """Give a clean video of `TWINS`."""
        encoding = TWINS[name]
        path = self.folder / "twins" / f"{name}-{seed}{encoding.extension}"
        if path.is_file():
            return path
        if encoding.codec == "libx264":
            encoding = replace(encoding, codec_options={**encoding.codec_options, **STEADY})
        return encoding.make(path, seed=seed)

    def num_whole_packets(self, name: str, num_bytes: int) -> int:
        """Give how many packets of a clean video lie in its first bytes, as far as the next one's start tells."""
        if name not in self._ends:
            with av.open(str(self.twin(name))) as container:
                places = [packet.pos or 0 for packet in container.demux(video=0) if packet.size]
            self._ends[name] = [*places[1:], self.twin(name).stat().st_size]
        return sum(end <= num_bytes for end in self._ends[name])


Make: TypeAlias = Callable[[Workshop, Path, bool], Iterator[Item]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the corpus. ``make`` writes its files into a folder, all of them or a sample."""

    number: int
    what: str
    make: Make


def files(*rows: tuple[str, Callable[[Path], object], Expected]) -> Make:
    """Make files of given names."""

    def make(_workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
        for name, write, expected in rows:
            write(folder / name)
            yield Item(name, folder / name, expected)

    return make


def complaints(expected: Expected, outcome: Outcome) -> list[str]:
    """Say in what an outcome is not the one expected."""
    found = []
    codes = expected.code if isinstance(expected.code, frozenset) else frozenset({expected.code})
    if outcome.code not in codes:
        found.append(f"code {outcome.code} ({outcome.evidence}), not {expected.code}")
    for name in ("frames", "damaged", "bad_packets"):
        got, wanted = getattr(outcome, name), getattr(expected, name)
        if got != wanted if isinstance(wanted, int) else got not in wanted:
            found.append(f"{name} {got}, not {wanted}")
    for name, wanted in expected.facts.items():
        got = getattr(outcome.facts, name, "no facts")
        if got != wanted:
            found.append(f"{name} {got}, not {wanted}")
    return found
