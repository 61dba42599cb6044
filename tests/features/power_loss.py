"""A model of power loss: what a disk may hold after any prefix of the operations of one publish.

Pages that no fsync followed may be old, new or zero, each 512 bytes on its own; directory entries that no fsync of
their directory followed may be there or not, each on its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Operation:
    """One change that publish asked the system for. ``file`` stands for an inode, ``name`` for a directory entry."""

    verb: str
    file: int = -1
    name: str = ""
    origin: str = ""
    offset: int = 0
    data: bytes = b""


@dataclass(slots=True)
class RecordingOs:
    """Stands in for the module ``os`` in `vadx.features.publish`: does what is asked and notes it."""

    root: Path
    operations: list[Operation] = field(default_factory=list)
    _files: dict[str, int] = field(default_factory=dict)
    _descriptors: dict[int, tuple[int, str]] = field(default_factory=dict)
    _offsets: dict[int, int] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        action = getattr(type(self), f"_{name}", None)
        return partial(action, self) if action is not None else getattr(os, name)

    def note_file(self, path: Path) -> int:
        """Make a file known that stands there already, as a file that is wholly written but not yet on disk."""
        name = self._name(path)
        file = self._files[name] = len(self._files)
        self.operations.append(Operation("create", file, name))
        self.operations.append(Operation("write", file, data=path.read_bytes()))
        return file

    def _name(self, path: Any) -> str:
        return str(Path(path).relative_to(self.root))

    def _open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        name = self._name(path)
        if flags & os.O_CREAT:
            self._files[name] = len(self._files)
            self.operations.append(Operation("create", self._files[name], name))
        self._descriptors[descriptor] = (self._files.get(name, -1), name)
        self._offsets[descriptor] = 0
        return descriptor

    def _write(self, descriptor: int, data: memoryview) -> int:
        written = os.write(descriptor, data[:2048])
        file, offset = self._descriptors[descriptor][0], self._offsets[descriptor]
        self.operations.append(Operation("write", file, offset=offset, data=bytes(data[:written])))
        self._offsets[descriptor] += written
        return written

    def _fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        file, name = self._descriptors[descriptor]
        self.operations.append(Operation("fsync", file) if file >= 0 else Operation("fsync directory", name=name))

    def _link(self, source: Any, target: Any) -> None:
        os.link(source, target)
        file = self._files[self._name(target)] = self._files[self._name(source)]
        self.operations.append(Operation("link", file, self._name(target)))

    def _replace(self, source: Any, target: Any) -> None:
        Path(source).replace(target)
        file = self._files[self._name(target)] = self._files.pop(self._name(source))
        self.operations.append(Operation("rename", file, self._name(target), self._name(source)))

    def _unlink(self, path: Any) -> None:
        Path(path).unlink()
        self.operations.append(Operation("unlink", name=self._name(path)))


@dataclass(slots=True)
class Disk:
    """What is surely on disk, and what may be."""

    names: dict[str, int] = field(default_factory=dict)
    durable: dict[int, bytes] = field(default_factory=dict)
    cached: dict[int, bytes] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)

    def do(self, operation: Operation) -> None:
        file = operation.file
        match operation.verb:
            case "write":
                old = self.cached.get(file, b"").ljust(operation.offset, b"\0")
                end = operation.offset + len(operation.data)
                self.cached[file] = old[: operation.offset] + operation.data + old[end:]
            case "fsync":
                self.durable[file] = self.cached.get(file, b"")
            case "fsync directory":
                self._settle(operation.name)
            case "create" | "link" | "rename" | "unlink":
                self.pending.append(operation)

    def after_power_loss(self, random: np.random.Generator) -> dict[str, bytes]:
        """Draw one of the states that the disk may come back in: name -> content."""
        names = dict(self.names)
        for operation in self.pending:
            if random.random() < 0.5:
                _apply(names, operation)
        return {name: self._content(file, random) for name, file in names.items()}

    def _settle(self, directory: str) -> None:
        here = [o for o in self.pending if directory in (str(Path(o.name).parent), str(Path(o.origin).parent))]
        for operation in here:
            _apply(self.names, operation)
        self.pending = [operation for operation in self.pending if operation not in here]

    def _content(self, file: int, random: np.random.Generator) -> bytes:
        old, new = self.durable.get(file, b""), self.cached.get(file, b"")
        if old == new:
            return new
        size = int(random.choice([len(old), len(new), int(random.integers(min(len(old), len(new)), len(new) + 1))]))
        versions = [content.ljust(size, b"\0")[:size] for content in (old, new, b"")]
        starts = range(0, size, SECTOR)
        picks = random.integers(len(versions), size=len(starts))
        return b"".join(versions[pick][at : at + SECTOR] for pick, at in zip(picks, starts, strict=True))


def _apply(names: dict[str, int], operation: Operation) -> None:
    if operation.verb == "unlink":
        names.pop(operation.name, None)
        return
    names[operation.name] = operation.file
    if operation.verb == "rename":
        names.pop(operation.origin, None)


def states(
    operations: Sequence[Operation], standing: bytes | None, final: str, random: np.random.Generator, *, each: int
) -> Iterator[tuple[int, bytes | None]]:
    """Give (operations done, content of ``final`` or None) for ``each`` power losses after every operation."""
    disk = Disk()
    if standing is not None:
        disk.names[final], disk.durable[-2], disk.cached[-2] = -2, standing, standing
    for done in range(len(operations) + 1):
        for _ in range(each):
            yield done, disk.after_power_loss(random).get(final)
        if done < len(operations):
            disk.do(operations[done])
