"""What frames look like after a JPEG file, for extractors that read image files and not videos."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import av
import numpy as np
import torch
from av.codec.context import ThreadType
from av.video.reformatter import Interpolation
from PIL import Image

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["JpegRoundTrip"]


MIN_FPS, MAX_FPS = 0.01, 1000.0


class JpegRoundTrip:
    """Takes a video's frames in order, and gives them as a JPEG file would give them back, read by Pillow.

    ``setting`` is a quality of Pillow's, 1 to 100, with its default subsampling 4:2:0; or ``"ffmpeg"``: what
    ``ffmpeg -i video %05d.jpg`` writes where nothing is asked for, as GowthamGottimukkala/I3D_Feature_Extraction_resnet
    does (``main.py``). That is 200 kbit/s for the whole video at ``fps`` frames a second, so that a frame's quality
    hangs on all frames before it: the first are good, most are poor. ``fps`` is the video's own rate, also where its
    frames are resampled. Frames come back in the size of the first. One object serves one video.

    Each frame's bytes also count the name of the FFmpeg release, which the encoder writes into every file.
    """

    def __init__(self, setting: Literal["ffmpeg"] | int, fps: float) -> None:
        self._setting = setting
        # Where the container states no rate, or an absurd one, FFmpeg's own default.
        self._fps = Fraction(fps if MIN_FPS <= fps <= MAX_FPS else 25.0).limit_denominator(1001)
        self._encoder: VideoCodecContext | None = None
        self._count = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Give uint8 RGB ``images (n, 3, height, width)`` back as they come out of their files."""
        arrays = images.permute(0, 2, 3, 1).cpu().contiguous().numpy()
        pictures = np.stack([self.frame(av.VideoFrame.from_ndarray(array, format="rgb24")) for array in arrays])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).to(images.device)

    def frame(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Give one frame back as RGB ``(height, width, 3)``.

        ``"ffmpeg"`` on a decoder's own frames, YUV 4:2:0, makes the bytes that the command line tool of the same
        release makes. Frames that were RGB in between cannot: that conversion rounds.
        """
        data = self._ffmpeg(frame) if self._setting == "ffmpeg" else self._pillow(frame, int(self._setting))
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    def _pillow(self, frame: av.VideoFrame, quality: int) -> bytes:
        rgb = frame.reformat(format="rgb24", interpolation=Interpolation.BICUBIC, threads=1).to_ndarray()
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "JPEG", quality=quality)
        return file.getvalue()

    def _ffmpeg(self, frame: av.VideoFrame) -> bytes:
        if self._encoder is None:
            self._encoder = self._open(frame.width, frame.height)
        # AREA: the decoder gave each 2 x 2 pixels one colour; their mean is that colour again, a cubic's would not be.
        yuv = frame.reformat(
            width=self._encoder.width,
            height=self._encoder.height,
            format="yuvj420p",
            interpolation=Interpolation.AREA,
            threads=1,
        )
        yuv.pts, yuv.time_base = self._count, 1 / self._fps
        self._count += 1
        return b"".join(bytes(packet) for packet in self._encoder.encode(yuv))

    def _open(self, width: int, height: int) -> VideoCodecContext:
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
        encoder.time_base, encoder.framerate = 1 / self._fps, self._fps
        # More threads would each keep a rate of their own, and FFmpeg's tool takes one here.
        encoder.thread_count = 1
        encoder.thread_type = ThreadType.SLICE
        return encoder
