"""A recipe with a mean cube: refused without it, exact with it, and told apart by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from support import Ran, make_video
from vadx.extract.library import load_backbone
from vadx.extract.video import VideoReader
from vadx.features import Store

Vadx = Callable[..., Ran]
C3D = ("extract", "--backbone", "c3d", "--weights", "random", "--crops", "ten", "--crop-order", "caffe")


def write_cube(path: Path, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Write a mean as C3D-v1.0's BlobProto: num, channels, length, height, width, packed data."""
    cube = np.random.default_rng(seed).uniform(80, 120, (3, 16, 128, 171)).astype(np.float32)
    head = bytes([8, 1, 16, 3, 24, 16, 32, 128, 1, 40, 171, 1])
    body = cube.astype("<f4").tobytes()
    length, number = bytearray(), len(body)
    while number >= 0x80:
        length.append(number & 0x7F | 0x80)
        number >>= 7
    path.write_bytes(head + bytes([6 << 3 | 2, *length, number]) + body)
    return cube


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "a.mp4", num_frames=16, width=96, height=72)


def test_a_missing_mean_is_never_made_up(vadx_here: Vadx, video: Path, tmp_path: Path) -> None:
    done = vadx_here(*C3D, video, "-o", "s")
    assert done.code == 6
    assert "vadx weights fetch c3d-mean-cube" in done.err
    assert not (tmp_path / "s").exists()


def test_a_mean_is_subtracted_where_the_crops_are_cut(vadx_here: Vadx, video: Path, tmp_path: Path) -> None:
    cube = write_cube(tmp_path / "mean.binaryproto", seed=0)
    assert vadx_here("weights", "add", "mean.binaryproto", "--as", "c3d-mean-cube").code == 0
    done = vadx_here(*C3D, video, "-o", "s")
    assert done.code == 0, done.err
    (feature_set,) = Store(tmp_path / "s").sets()
    digest = hashlib.sha256((tmp_path / "mean.binaryproto").read_bytes()).hexdigest()
    assert feature_set.recipe.transform.mean_cube == digest
    values = feature_set["a"].values
    assert values.shape == (1, 10, 4096)

    with VideoReader(video) as reader:
        frames = np.concatenate([block.frames for block in reader])
    small = np.stack([cv2.resize(image, (171, 128), interpolation=cv2.INTER_LINEAR) for image in frames])
    centred = small[..., ::-1].transpose(3, 0, 1, 2).astype(np.float32) - cube
    network = load_backbone("c3d", "random:0").network
    places = [(0, 0), (0, 59), (16, 0), (16, 59), (8, 29)]
    for number, (top, left) in enumerate(places):
        crop = centred[:, :, top : top + 112, left : left + 112]
        for mirrored in (False, True):
            clip = np.ascontiguousarray(crop[..., ::-1] if mirrored else crop)
            with torch.inference_mode():
                expected = network(torch.from_numpy(clip)[None])[0].numpy()
            got = values[0, number + 5 * mirrored]
            # Another batch shape and memory layout sum in another order.
            assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


def test_another_mean_is_refused_under_the_name_and_makes_another_set(
    vadx_here: Vadx, video: Path, tmp_path: Path
) -> None:
    write_cube(tmp_path / "one.binaryproto", seed=1)
    write_cube(tmp_path / "two.binaryproto", seed=2)
    assert vadx_here("weights", "add", "one.binaryproto", "--as", "c3d-mean-cube").code == 0
    refused = vadx_here("weights", "add", "two.binaryproto", "--as", "c3d-mean-cube")
    assert refused.code == 6
    assert "expected" in refused.err
    (tmp_path / "bad.binaryproto").write_bytes(b"\x08\x01")
    assert vadx_here("weights", "add", "bad.binaryproto", "--as", "c3d-mean-cube").code == 6
    as_network = vadx_here("extract", "--backbone", "c3d", "--weights", "c3d-mean-cube", video, "-o", "s")
    assert as_network.code == 2
    assert "mean cube" in as_network.err
