"""Peak memory does not grow with a video's length."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from .forking import TINY, ForkServer

FPS = 10
FRAME_BYTES = 64 * 48 * 3


def make_long_video(path: Path, minutes: int) -> Path:
    noise = np.random.default_rng(minutes).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
    frames = [av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p") for image in noise // 8 * 4]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(minutes * 60 * FPS):
            frame = frames[index % len(frames)]
            frame.pts = None
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_thirty_minutes_take_the_memory_of_three(forked: ForkServer, tmp_path: Path) -> None:
    peaks = {}
    for minutes in (3, 30):
        video = make_long_video(tmp_path / f"{minutes}.mp4", minutes)
        report = forked(*TINY, "--batch", "32", video, "--out", f"store{minutes}", "--json", folder=tmp_path)
        assert report.code == 0, report.err
        assert f'"num_frames":{minutes * 60 * FPS}' in report.out
        peaks[minutes] = report.peak_bytes
    assert peaks[30] <= 1.1 * peaks[3]
    assert peaks[30] - peaks[3] < 27 * 60 * FPS * FRAME_BYTES / 10
