"""Kinds 10 to 29: clean videos that were cut off, damaged, thinned out or joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from support import make_video

from ..extract.clips import cut, damage
from ..extract.encodings import NUM_FRAMES, boxes_of, frame_starts, lose_packets
from .items import STREAMS, Expected, Item, Make, Workshop

CONTAINERS = (
    "mp4, index last",
    "mp4, index first",
    "mp4, fragmented",
    "mkv",
    "ts",
    "avi",
    "flv",
    "h264",
    "mjpeg avi",
    "webm",
)
NUM_SEEDS, NUM_SEEDS_IN_SAMPLE = 20, 3

_TRUNCATED, _NOT_VIDEO = Expected("VIDEO_TRUNCATED"), Expected("VIDEO_NOT_VIDEO")
_WHOLE = Expected(None, NUM_FRAMES)
_CUTS: Mapping[tuple[str, float], Expected] = {
    # Of its mark, one every 188 bytes, less than two are left; of the other, no picture.
    ("ts", 0.001): _NOT_VIDEO,
    ("h264", 0.001): _NOT_VIDEO,
    # Only an index that nobody needs is cut through.
    ("mp4, fragmented", 0.999): _WHOLE,
    ("avi", 0.999): _WHOLE,
    ("mjpeg avi", 0.999): _WHOLE,
    # Without their last frame they still cover 98 % of the duration that they state.
    ("mkv", 0.999): Expected(None, range(NUM_FRAMES - 1, NUM_FRAMES + 1)),
    ("webm", 0.999): Expected(None, range(NUM_FRAMES - 1, NUM_FRAMES + 1)),
}
"""Cuts that nothing in the file tells of, and those that leave nothing of the container's marks."""

_ANY_DAMAGE = Expected(
    frozenset({None, "VIDEO_DAMAGED", "VIDEO_TRUNCATED"}),
    range(2 * NUM_FRAMES),
    range(2 * NUM_FRAMES),
    range(2 * NUM_FRAMES),
)


def cut_at(share: float) -> Make:
    """Cut each container at a share of its bytes."""

    def make(workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
        for name in CONTAINERS:
            whole = workshop.twin(name)
            num_bytes = int(whole.stat().st_size * share)
            path = cut(whole, folder / f"{name}{whole.suffix}", num_bytes)
            yield Item(name, path, _CUTS.get((name, share)) or _part(workshop, name, num_bytes), name)

    return make


def _part(workshop: Workshop, name: str, num_bytes: int) -> Expected:
    """Give what is left of a video: its whole packets' frames, the last of which may be broken off."""
    if name == "mp4, index last":
        return _TRUNCATED
    whole = workshop.num_whole_packets(name, num_bytes)
    code = "VIDEO_TRUNCATED"
    if name == "ts" and _ends_with_a_frame(workshop.twin(name).read_bytes(), num_bytes):
        code = None
    return Expected(code, range(max(0, whole - 1), whole + 2), range(3), range(3))


def _ends_with_a_frame(data: bytes, num_bytes: int) -> bool:
    """Whether the next packet of the picture's stream, after the last whole one, begins another frame."""
    rest = range(num_bytes // 188 * 188, len(data), 188)
    following = next(data[at + 1] for at in rest if data[at + 1] & 0x1F == 1 and data[at + 2] == 0)
    return bool(following & 0x40)


def cut_inside_the_index(workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Cut an mp4 inside its index, ten times."""
    whole = workshop.twin("mp4, index first")
    boxes = boxes_of(whole.read_bytes())
    (begin,) = [at for at, box in boxes if box == b"moov"]
    end = next(at for at, _ in boxes if at > begin)
    for num_bytes in np.linspace(begin + 4, end - 1, 10, dtype=int).tolist():
        yield Item(f"byte {num_bytes}", cut(whole, folder / f"{num_bytes}.mp4", num_bytes), _TRUNCATED)


def cut_inside_the_first_frame(workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Cut an mp4 at each fourth byte around the start of its first frame."""
    whole = workshop.twin("mp4, index first")
    (begin,) = [at for at, box in boxes_of(whole.read_bytes()) if box == b"mdat"]
    for offset in range(-8, 61, 4):
        path = cut(whole, folder / f"{offset}.mp4", begin + 8 + offset)
        yield Item(f"{offset} bytes", path, _TRUNCATED)


def cut_between_transport_packets(workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Cut a transport stream between two frames, where nothing tells, and between two packets of one frame."""
    whole = workshop.twin("ts")
    data = whole.read_bytes()
    starts = frame_starts(data)
    for index in (1, 12, 30, 47, 59):
        path = cut(whole, folder / f"between{index}.ts", starts[index])
        yield Item(f"before frame {index}", path, Expected(None, index))
    for index in (1, 12, 30, 47, 59):
        num_packets = ((starts[index + 1] if index < 59 else len(data)) - starts[index]) // 188
        path = cut(whole, folder / f"inside{index}.ts", starts[index] + num_packets // 2 * 188)
        yield Item(f"inside frame {index}", path, Expected("VIDEO_TRUNCATED", range(index, index + 2), range(3)))


_LAST_BYTE: Mapping[str, Expected] = {
    "mp4, index first": Expected("VIDEO_TRUNCATED", NUM_FRAMES - 1, 1, 1),
    "ts": Expected("VIDEO_TRUNCATED", NUM_FRAMES, 1),
}
"""The others end with an index, or with a byte that their last frame does without."""


def without_the_last_byte(workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Leave out each container's last byte."""
    for name in CONTAINERS:
        whole = workshop.twin(name)
        path = cut(whole, folder / f"{name}{whole.suffix}", whole.stat().st_size - 1)
        yield Item(name, path, _LAST_BYTE.get(name, _WHOLE), name)


def cut_inside_a_fragments_header(workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Cut an mp4 inside the header of its third fragment, and before it, where nothing tells."""
    whole = workshop.twin("mp4, fragmented")
    fragments = [at for at, box in boxes_of(whole.read_bytes()) if box == b"moof"]
    # With 40 bytes of it FFmpeg refuses to open the file.
    for num_bytes, num_frames in ((0, 24), (8, 24), (40, 0), (100, 24)):
        path = cut(whole, folder / f"{num_bytes}.mp4", fragments[2] + num_bytes)
        yield Item(f"{num_bytes} bytes of it", path, Expected("VIDEO_TRUNCATED" if num_bytes else None, num_frames))


def flip_bits(data: bytearray, random: np.random.Generator) -> None:
    """Flip 5 bits."""
    for place in random.integers(len(data) // 10, len(data) * 9 // 10, 5).tolist():
        data[place] ^= 1 << int(random.integers(8))


def zero(data: bytearray, random: np.random.Generator) -> None:
    """Zero 4 KiB."""
    start = _start(data, random, 4096)
    data[start : start + 4096] = bytes(4096)


def delete(data: bytearray, random: np.random.Generator) -> None:
    """Delete 2,000 bytes."""
    start = _start(data, random, 2000)
    del data[start : start + 2000]


def duplicate(data: bytearray, random: np.random.Generator) -> None:
    """Write 2,000 bytes twice."""
    start = _start(data, random, 2000)
    data[start:start] = data[start : start + 2000]


def swap(data: bytearray, random: np.random.Generator) -> None:
    """Swap the two halves of a tenth to eight tenths of the file."""
    length = int(random.integers(len(data) // 20, len(data) * 4 // 10))
    start = _start(data, random, 2 * length)
    middle, end = start + length, start + 2 * length
    data[start:end] = data[middle:end] + data[start:middle]


def _start(data: bytearray, random: np.random.Generator, num_bytes: int) -> int:
    """Draw the start of a part between a tenth and nine tenths of a file."""
    return int(random.integers(len(data) // 10, len(data) * 9 // 10 - num_bytes + 1))


def damaged_by(change: Callable[[bytearray, np.random.Generator], None] | None) -> Make:
    """Damage each stream, once for each seed; None: by 188 random bytes."""

    def make(workshop: Workshop, folder: Path, everything: bool) -> Iterator[Item]:
        for name in STREAMS:
            whole = workshop.twin(name)
            for seed in range(NUM_SEEDS if everything else NUM_SEEDS_IN_SAMPLE):
                path = folder / f"{name}-{seed}{whole.suffix}"
                if change is None:
                    damage(whole, path, seed)
                else:
                    data = bytearray(whole.read_bytes())
                    change(data, np.random.default_rng(seed))
                    path.write_bytes(data)
                yield Item(f"{name}, seed {seed}", path, _ANY_DAMAGE, name)

    return make


def lose_transport_packets(workshop: Workshop, folder: Path, everything: bool) -> Iterator[Item]:
    """Lose 1 % and 10 % of a transport stream's packets, but none of its first ten: without tables it is nothing."""
    data = workshop.twin("ts").read_bytes()
    num_packets = len(data) // 188
    for percent in (1, 10):
        for seed in range(NUM_SEEDS if everything else NUM_SEEDS_IN_SAMPLE):
            places = np.random.default_rng(seed).permutation(np.arange(10, num_packets))
            path = folder / f"{percent}-{seed}.ts"
            path.write_bytes(lose_packets(data, set(places[: num_packets * percent // 100].tolist())))
            yield Item(f"{percent} %, seed {seed}", path, _ANY_DAMAGE, "ts")


def begin_late(workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Begin a transport stream between two key frames, at packets far apart."""
    data = workshop.twin("ts, one key frame in 30").read_bytes()
    starts = frame_starts(data)
    for index in (1, 8, 15, 22, 29):
        path = folder / f"{index}.ts"
        path.write_bytes(data[starts[index] :])
        # The second key frame and all that follows it; before it at most what needs no key frame.
        yield Item(f"from frame {index}", path, Expected(None, range(30, 31 + 30 - index), range(2), 0))


def joined(workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Join transport streams: the clock goes back, and the pictures of the second pair have two sizes."""
    data = workshop.twin("ts").read_bytes()
    (folder / "twice.ts").write_bytes(data + data)
    yield Item(
        "the same twice",
        folder / "twice.ts",
        Expected(None, 2 * NUM_FRAMES, range(1, 3), 0, {"num_backward_pts": 1}),
    )
    small = make_video(folder / "small.ts", num_frames=10, codec="mpeg2video")
    large = make_video(folder / "large.ts", num_frames=10, width=96, height=64, codec="mpeg2video")
    (folder / "sizes.ts").write_bytes(small.read_bytes() + large.read_bytes())
    # The decoder lets go of the frame that it holds when the size changes.
    yield Item(
        "of two sizes",
        folder / "sizes.ts",
        Expected(frozenset({None, "VIDEO_DAMAGED"}), range(19, 21), range(3), 0, {"num_size_changes": 1}),
    )
