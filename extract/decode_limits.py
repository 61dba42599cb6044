"""What a process that decodes may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """Limits of one process. A video that wants more fails alone.

    ``memory_bytes`` of address space beside the frames that it shares, of which H.264 of 4096x2160 pixels takes a
    third; ``num_files`` open files; ``stall_seconds`` without a word while it could go on; ``video_seconds`` of
    decoding for one video, None for no end.

    Raises
    ------
    ValueError
        if one of them is not positive.
    """

    memory_bytes: int = 2 << 30
    num_files: int = 64
    stall_seconds: float = 30.0
    video_seconds: float | None = None

    def __post_init__(self) -> None:
        seconds = 1.0 if self.video_seconds is None else self.video_seconds
        if min(self.memory_bytes, self.num_files, self.stall_seconds, seconds) <= 0:
            msg = f"limits of a decoder are positive; got {self}"
            raise ValueError(msg)
