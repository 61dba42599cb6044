"""The straightforward way from a video to features, to measure vadx against: one thing after another, one clip a time.

This is how the popular extractors work: OpenCV reads frames, each becomes a PIL image, is resized and made a float
tensor, a clip's frames are stacked, cropped and normalised, the eager fp32 network maps one clip without gradients,
and `numpy.save` writes the array at the end. The code is our own.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ..errors import UsageError, VideoError
from ..extract.crops import CENTER_ROUNDING
from ..extract.engine import TensorFloat32
from ..extract.resize import resized_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ..features.recipe import Recipe

_TAILS = ("repeat_last", "drop")


def check_plain(recipe: Recipe) -> None:
    """Raise `UsageError` if the plain way does not cover a recipe."""
    sampling, transform = recipe.sampling, recipe.transform
    limits = {
        "one crop, the centre": transform.crops == "center",
        "pixels, not flow": recipe.flow is None,
        "no mean cube": transform.mean_cube is None,
        "no JPEG round trip": transform.jpeg is None,
        "one resize": transform.pre_resize is None,
        "bilinear": transform.interpolation == "bilinear",
        "the video's own frame rate": sampling.fps is None,
        "neighbouring frames": sampling.frame_step == 1,
        "clips without gaps and overlaps": sampling.clip_stride == sampling.clip_length,
        f"tail {' or '.join(_TAILS)}": sampling.tail in _TAILS,
        "whole clips, or the mean of frames": recipe.network.temporal in ("clip", "mean"),
    }
    broken = [name for name, holds in limits.items() if not holds]
    if broken:
        msg = (
            f"--baseline plain does recipes like kinetics-i3d, kinetics-r2plus1d and sports1m-c3d-channel-mean: "
            f"{', '.join(broken)}; leave --baseline out, or choose another --preset"
        )
        raise UsageError(msg)


class PlainExtractor:
    """The plain way for one recipe.

    ``network`` is eager, fp32, in evaluation, on ``device``, and its weights lie in memory as they were loaded.

    Raises
    ------
    UsageError
        if the recipe is not one that the plain way covers, or OpenCV is missing.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, *, device: torch.device) -> None:
        check_plain(recipe)
        try:
            self._cv2: Any = importlib.import_module("cv2")
        except ImportError as error:
            msg = f"--baseline plain needs OpenCV, which cannot be imported ({error}): pip install 'vadx[flow]'"
            raise UsageError(msg) from error
        self._network = network
        self._recipe = recipe
        self._device = device

    def extract(self, video: Path, out: Path) -> tuple[NDArray[np.float32], int]:
        """Give features ``(clip, feature)`` and the number of frames read, and save the features to ``out``.

        Raises
        ------
        VideoError
            with code ``VIDEO_NOT_VIDEO`` if OpenCV reads no frame.
        """
        sampling = self._recipe.sampling
        features: list[NDArray[np.float32]] = []
        frames: list[Tensor] = []
        num_frames = 0
        for picture in self._pictures(video):
            num_frames += 1
            frames.append(self._to_float(picture))
            if len(frames) == sampling.clip_length:
                features.append(self._features(frames))
                frames = []
        if not num_frames:
            raise VideoError("VIDEO_NOT_VIDEO", str(video), "OpenCV reads no frame of it")
        if sampling.tail == "repeat_last" and frames:
            features.append(self._features(frames + frames[-1:] * (sampling.clip_length - len(frames))))
        values = np.stack(features) if features else np.empty((0, 0), dtype=np.float32)
        np.save(out, values)
        return values, num_frames

    def network_frames_per_second(self, video: Path, seconds: float, frames_per_clip: float) -> float:
        """Time the eager network alone on one prepared clip, again and again for ``seconds``."""
        frames: list[Tensor] = []
        for picture in self._pictures(video):
            frames.append(self._to_float(picture))
            if len(frames) == self._recipe.sampling.clip_length:
                break
        clip = self._normalized(frames + frames[-1:] * (self._recipe.sampling.clip_length - len(frames)))
        self._map(clip)
        started, count, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < seconds or not count:
            self._map(clip)
            count += 1
            elapsed = time.perf_counter() - started
        return count * frames_per_clip / elapsed

    def _pictures(self, video: Path) -> Iterator[NDArray[np.uint8]]:
        cv2 = self._cv2
        capture = cv2.VideoCapture(str(video))
        try:
            while True:
                there, picture = capture.read()
                if not there:
                    return
                yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    def _to_float(self, picture: NDArray[np.uint8]) -> Tensor:
        """Resize one frame by the recipe's library and make it float32 ``(3, H, W)`` on the 0-255 scale."""
        transform = self._recipe.transform
        image = Image.fromarray(picture)
        height, width = resized_size(image.height, image.width, transform.resize)
        if transform.kernel == "pil":
            resized = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
        elif transform.kernel == "cv2":
            resized = self._cv2.resize(np.array(image), (width, height), interpolation=self._cv2.INTER_LINEAR)
        else:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
            scaled = F.interpolate(pixels[None], size=(height, width), mode="bilinear", align_corners=False)[0]
            return scaled.round() if transform.kernel == "torch" else scaled
        return torch.from_numpy(resized).permute(2, 0, 1).float()

    def _normalized(self, frames: list[Tensor]) -> Tensor:
        """Stack, crop and normalise: ``(1, 3, T, size, size)``, or ``(T, 3, size, size)`` for networks of frames."""
        transform = self._recipe.transform
        clip = torch.stack(frames)
        margins = (clip.shape[-2] - transform.crop, clip.shape[-1] - transform.crop)
        top, left = (CENTER_ROUNDING[transform.center_rounding](margin) for margin in margins)
        clip = clip[..., top : top + transform.crop, left : left + transform.crop]
        if transform.channel_order == "bgr":
            clip = clip.flip(1)
        mean, std = (torch.tensor(values)[:, None, None] for values in (transform.mean, transform.std))
        clip = (clip * transform.scale + transform.offset - mean) / std
        if self._recipe.network.temporal == "clip":
            clip = clip.permute(1, 0, 2, 3)[None]
        return clip.contiguous()

    def _map(self, clip: Tensor) -> NDArray[np.float32]:
        with torch.no_grad(), TensorFloat32(allowed=False):
            values: NDArray[np.float32] = self._network(clip.to(self._device)).cpu().numpy()
        return values

    def _features(self, frames: list[Tensor]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._map(self._normalized(frames)).mean(axis=0)
        return values
