"""What decoding showed of a video's soundness, and whether that is sound enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fractions import Fraction

    import av
    import numpy as np
    from numpy.typing import NDArray

    from ..features.timeline import VideoFacts

MIN_COVERAGE = 0.98
"""Share of the stated duration below which a video counts as truncated."""

MAX_DAMAGED_SHARE = 0.01
"""Share of damaged frames above which a video counts as damaged."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a video is refused: a stable code and the evidence."""

    code: str
    evidence: str


def judge(
    facts: VideoFacts,
    *,
    ended_badly: bool,
    num_leading_bad_packets: int = 0,
    num_doubtful_frames: int = 0,
    strict: bool = False,
) -> Verdict | None:
    """Decide whether a decoded video is whole and sound enough. Pure.

    ``ended_badly``: the last thing read was an error or a damaged frame. Packets that could not be decoded before
    the first frame do not count: a recording may legally begin between two key frames. Nor do, of the damaged
    frames, the doubtful ones: those beside a gap between packets, which is also where recordings were joined. A
    declared frame count alone never refuses a video.
    """
    decoded = facts.num_frames_decoded
    if decoded == 0:
        bad = facts.num_bad_packets + num_leading_bad_packets
        if bad and ended_badly:
            return Verdict("VIDEO_TRUNCATED", f"none of its {bad} packets could be decoded; the last one is broken off")
        if bad:
            return Verdict("VIDEO_DAMAGED", f"none of its {bad} packets could be decoded")
        # A container without frames covers nothing of a duration that it states.
        is_cut = ended_badly or facts.coverage is not None
        return Verdict("VIDEO_TRUNCATED" if is_cut else "VIDEO_TOO_SHORT", "it holds no frame")
    seen = f"decoded {decoded} frames"
    if facts.num_frames_declared:
        seen = f"decoded {decoded} of {facts.num_frames_declared} declared frames"
    if facts.coverage is not None and facts.coverage < MIN_COVERAGE:
        return Verdict("VIDEO_TRUNCATED", f"{seen}, which cover {facts.coverage:.0%} of its stated duration")
    if ended_badly:
        return Verdict("VIDEO_TRUNCATED", f"{seen}; the last one is broken off")
    num_damaged = facts.num_damaged_frames - num_doubtful_frames
    if num_damaged > MAX_DAMAGED_SHARE * decoded:
        return Verdict("VIDEO_DAMAGED", f"{num_damaged} of {decoded} decoded frames are damaged")
    if facts.num_bad_packets > MAX_DAMAGED_SHARE * (decoded + facts.num_bad_packets):
        return Verdict("VIDEO_DAMAGED", f"{seen}, and {facts.num_bad_packets} packets could not be decoded")
    if strict and facts.num_bad_packets + facts.num_damaged_frames + num_leading_bad_packets:
        counts = f"{facts.num_damaged_frames} damaged frames, {facts.num_bad_packets} undecodable packets"
        return Verdict("VIDEO_DAMAGED", f"{seen}, with {counts}, and --strict allows none")
    if strict and facts.num_frames_declared is not None and facts.num_frames_declared != decoded:
        return Verdict("VIDEO_DAMAGED", f"{seen}, and --strict allows no difference")
    return None


class DecodeProgress:
    """Counts of one pass through a file."""

    def __init__(self) -> None:
        self.num_frames = 0
        self.num_damaged = 0
        self.num_doubtful = 0
        self.num_bad_packets = 0
        self.num_leading_bad_packets = 0
        self.num_backward_pts = 0
        self.num_size_changes = 0
        self.num_without_pts = 0
        self.rotation_degrees = 0
        self.first_size: tuple[int, int] | None = None
        self.last_damaged = False
        self.ended_badly = False
        self.partial = False
        self._last_size: tuple[int, int] | None = None
        self._first_pts: float | None = None
        self._last_pts: float | None = None
        self._last_gap: float | None = None
        self._largest_packet_end: float | None = None

    def note_time(self, frame: av.VideoFrame, stream_time_base: Fraction | None, fps: float) -> float:
        # Frames that drain out of the decoder at the end carry no time base of their own.
        time_base = frame.time_base or stream_time_base
        if frame.pts is None or time_base is None:
            self.num_without_pts += 1
            pts = self.num_frames / (fps or 25.0)
        else:
            pts = float(frame.pts * time_base)
        if self._last_pts is not None:
            self.num_backward_pts += pts < self._last_pts
            self._last_gap = pts - self._last_pts
        else:
            self._first_pts = pts
        self._last_pts = pts
        return pts

    def note_frame(self, image: NDArray[np.uint8], quarter_turns: int, *, damaged: bool, beside_gap: bool) -> None:
        size = (image.shape[1], image.shape[0])
        if self._last_size is None:
            self.first_size = size
            self.rotation_degrees = -90 * quarter_turns % 360
        else:
            self.num_size_changes += size != self._last_size
        self._last_size = size
        self.num_frames += 1
        self.num_doubtful += beside_gap and not damaged
        self.last_damaged = damaged or beside_gap
        self.num_damaged += self.last_damaged
        if damaged:
            self.ended_badly = True

    def note_bad_packet(self, packet: av.Packet[Any] | None) -> None:
        """Count a packet that cannot be decoded; None drained the decoder."""
        if self.num_frames:
            self.num_bad_packets += 1
            self.ended_badly = True
        elif packet is not None:
            self.num_leading_bad_packets += 1
            # Before the first frame a packet may be refused by right, but not one that the file's end cuts through.
            self.ended_badly = bool(packet.is_corrupt)

    def note_packet_end(self, seconds: float) -> None:
        if self._largest_packet_end is None or seconds > self._largest_packet_end:
            self._largest_packet_end = seconds

    def coverage(self, duration_seconds: float | None) -> float | None:
        """Give the share of the stated duration that was reached, at most 1; None where none is stated."""
        if not duration_seconds:
            return None
        if self._last_pts is None or self._first_pts is None:
            return 0.0
        if self.num_frames > 1 and self._last_pts == self._first_pts:
            # A clock that stands still tells nothing of the end.
            return None
        ends = [self._last_pts + (self._last_gap or 0.0), self._largest_packet_end or 0.0]
        # Some containers count their duration from 0, some from the first frame.
        return min(1.0, max(max(ends), max(ends) - self._first_pts) / duration_seconds)
