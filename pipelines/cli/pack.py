"""``vadx pack``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ...errors import UsageError
from .common import human_bytes, json_option, open_set, print_json, store_option

if TYPE_CHECKING:
    from ...features.packed_set import PackedSet


@click.command(context_settings={"show_default": True})
@click.argument("feature_set", metavar="SET|FILE")
@store_option
@click.option("--to", type=click.Path(path_type=Path), help="The file to write.  [default: beside the set's folder]")
@click.option("--check", is_flag=True, help="Write nothing: compare the file with the SET, or a FILE with itself.")
@click.option("--unpack", is_flag=True, help="Make shards of a packed FILE again, in --store.")
@json_option
def pack(feature_set: str, store: Path, to: Path | None, check: bool, unpack: bool, as_json: bool) -> int:
    """Put a feature set into one HDF5 file that any h5py reads. Exit code 4 if --check finds a difference.

    The file is compared with the shards, every value, before it gets its name; the shards stay.

    \b
    vadx pack i3d --to i3d.h5              f["Abuse/Abuse001_x264/features"] is (clip, crop, feature)
    vadx pack i3d --to i3d.h5 --check      does it hold what the set holds?
    vadx pack i3d.h5 --check               is it as it was written?
    vadx pack --unpack i3d.h5 -o store     shards again, the same bytes
    """
    if unpack and (check or to is not None):
        msg = "--unpack writes into --store, and takes neither --to nor --check: vadx pack --unpack FILE --store STORE"
        raise UsageError(msg)
    if unpack:
        return _unpack(_packed(feature_set), store, as_json=as_json)
    if check:
        return _check(feature_set, store, to, as_json=as_json)
    return _pack(feature_set, store, to, as_json=as_json)


def _pack(name: str, store: Path, to: Path | None, *, as_json: bool) -> int:
    from ...features.pack import pack_set
    from ...features.packed_set import means_packed

    if means_packed(Path(name)):
        msg = f"{name} is a file; name a set of the store, or make shards of a packed file: vadx pack --unpack {name}"
        raise UsageError(msg)
    report = pack_set(open_set(name, store), to)
    if as_json:
        print_json(
            {
                "path": str(report.path),
                "status": report.status,
                "videos": report.num_videos,
                "failed": report.num_failures,
                "bytes": report.num_bytes,
            }
        )
        return 0
    size = human_bytes(report.num_bytes)
    _say(f"{report.status}: {report.num_videos} videos, {report.num_failures} failures, {size}")
    click.echo(str(report.path))
    return 0


def _check(name: str, store: Path, to: Path | None, *, as_json: bool) -> int:
    from ...features.pack import default_path, differences
    from ...features.packed_set import means_packed

    if means_packed(Path(name)):
        if to is not None:
            msg = f"{name} is a file, compared with itself; to compare it with a set: vadx pack SET --to {name} --check"
            raise UsageError(msg)
        packed = _packed(name)
        findings = [("", error.evidence) for _, error in packed.verify() if error is not None]
    else:
        feature_set = open_set(name, store)
        packed = _packed(str(to or default_path(feature_set)))
        findings = list(differences(packed, feature_set))
    if as_json:
        print_json(
            {
                "path": str(packed.path),
                "videos": len(packed),
                "findings": [{"id": identifier, "what": what} for identifier, what in findings],
            }
        )
    else:
        from ..progress import printable

        for identifier, what in findings:
            click.echo(printable(f"{identifier}: {what}" if identifier else what))
        cure = f"; to write it again: vadx pack SET --to {packed.path}" if findings else ""
        _say(f"{packed.path}: {len(packed)} videos, {len(findings)} findings{cure}")
    return 4 if findings else 0


def _unpack(packed: PackedSet, store: Path, *, as_json: bool) -> int:
    from ...features.pack import unpack_set
    from ...features.store import Store

    report = unpack_set(packed, Store(store))
    if as_json:
        print_json(
            {
                "path": str(report.feature_set.path),
                "new": report.num_new,
                "current": report.num_current,
                "kept": report.kept,
                "rebuilt": report.rebuilt,
            }
        )
        return 0
    _say(f"{report.num_new} shards unpacked, {report.num_current} were there")
    for what, ids in (
        ("another shard of this video is stored, and stays", report.kept),
        ("the same values in other bytes than the shard that was packed", report.rebuilt),
    ):
        for identifier in ids:
            _say(f"{identifier}: {what}")
    click.echo(str(report.feature_set.path))
    return 0


def _packed(name: str) -> PackedSet:
    from ...features.packed_set import PackedSet

    return PackedSet(name)


def _say(text: str) -> None:
    from ..progress import printable

    click.echo(printable(text), err=True)
