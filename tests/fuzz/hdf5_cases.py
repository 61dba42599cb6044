"""Images of HDF5 that an enemy changed, header and checksum made to fit, through every reader of such files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import h5py

from vadx.errors import VadxError
from vadx.features.bag_file import BagFile
from vadx.features.layouts.hdf5 import read_video, video_names
from vadx.features.packed_set import PackedSet
from vadx.features.shard import (
    HEADER_BYTES,
    make_header,
    open_shard,
    parse_header,
    read_frames_from,
    read_header,
    read_outline,
    verify_shard,
)
from vadx.features.stage_shard import open_stage_shard, read_stage_outline

from .mutations import Random, change_bytes, pick
from .rotten import FILES

_STAGES = {"detections": "detections", "tubes": "tubes", "tube features": "tube-features"}
_KINDS = ("shard", *_STAGES, "packed file", "bags file")


def _in_old_format(content: bytes, userblock_bytes: int) -> bytes:
    """Write an image again as HDF5 1.6 did: without the checksums that would stop most changes at the door."""
    image = io.BytesIO()
    with h5py.File(io.BytesIO(content), "r") as old, h5py.File(image, "w", userblock_size=userblock_bytes) as new:
        for name in old:
            old.copy(name, new)
        for name, value in old.attrs.items():
            new.attrs[name] = value
    return content[:userblock_bytes] + image.getvalue()[userblock_bytes:]


def _resealed(content: bytes, right: bytes) -> bytes:
    """Give changed bytes the header that certifies them."""
    header = parse_header(Path("x"), right[:HEADER_BYTES])
    body = content[HEADER_BYTES:]
    digest = hashlib.sha256(body).hexdigest()
    made = make_header(len(body), digest, header.key, header.recipe_digest, header.source_sha256)
    return made.to_bytes() + body


class Hdf5Cases:
    """Makes and reads changed images."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "case.h5"
        self._right: dict[tuple[str, bool], bytes] = {}
        for kind in _KINDS:
            (folder / kind).mkdir(parents=True)
            content = FILES[kind](folder / kind).path.read_bytes()
            userblock_bytes = 0 if kind in ("packed file", "bags file") else HEADER_BYTES
            self._right[kind, False] = content
            self._right[kind, True] = _in_old_format(content, userblock_bytes)

    def run(self, random: Random) -> str:
        kind = pick(random, _KINDS)
        content = self._right[kind, bool(random.random() < 0.7)]
        changed = change_bytes(content, random)
        if kind not in ("packed file", "bags file"):
            changed = _resealed(changed, content)
        self._path.unlink(missing_ok=True)
        self._path.write_bytes(changed)
        told = []
        for name, read in self._readers(kind).items():
            try:
                read(self._path)
                told.append(f"{name}: read")
            except VadxError as error:
                told.append(f"{name}: {type(error).__name__}")
        return f"{kind}; {', '.join(told)}"

    def _readers(self, kind: str) -> Mapping[str, Callable[[Path], object]]:
        own: dict[str, Callable[[Path], object]]
        if kind == "packed file":
            own = {"packed": _read_packed}
        elif kind == "bags file":
            own = {"bags": _read_bags}
        elif kind == "shard":
            own = {
                "outline": read_outline,
                "frames from": read_frames_from,
                "shard": open_shard,
                "verify": verify_shard,
            }
        else:
            stage = _STAGES[kind]
            own = {
                "outline": lambda path: read_stage_outline(path, stage),
                "stage": lambda path: open_stage_shard(path, stage),
            }
        return {"header": read_header, **own, "foreign": _read_foreign} if kind == "shard" else own


def _read_packed(path: Path) -> None:
    with PackedSet(path) as packed:
        list(packed.verify())
        _all(packed[one] for one in packed)


def _read_bags(path: Path) -> None:
    with BagFile(path) as file:
        list(file.verify())
        _all(file)


def _read_foreign(path: Path) -> None:
    for name in video_names(path):
        read_video(path, name)


def _all(found: Iterator[object]) -> None:
    for _ in found:
        pass
