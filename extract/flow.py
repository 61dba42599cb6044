"""Optical flow in the place of pixels: who computes it, how it becomes numbers from 0 to 255, and which goes where.

Imported without OpenCV: only building an estimator that needs it does.
"""

from __future__ import annotations

import importlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import UsageError, WeightsError
from ..features.recipe import RAFT_MIN_SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ..features.recipe import Flow


class FlowEstimator(Protocol):
    """Computes the flow between two pictures of one size."""

    def __call__(self, previous: Tensor, image: Tensor, /) -> Tensor:
        """Give displacements in pixels, float32 ``(2, H, W)`` on the CPU, x (to the right) before y (downward).

        ``previous`` and ``image`` are uint8 RGB ``(3, H, W)``. Where a point of ``previous`` at (x, y) has moved
        by (dx, dy) in ``image``, that is what stands there.
        """


def _opencv(method: str) -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        msg = f"flow by {method} needs OpenCV, which cannot be imported ({error}): pip install 'vadx[flow]'"
        raise UsageError(msg) from error


@contextmanager
def _one_thread(cv2: Any) -> Iterator[None]:
    # Workers share the cores already. More threads changed no value in what was measured (1 to 8 of them).
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class _OnGrey:
    """Flow by OpenCV between grey pictures, of its own weights for red, green and blue."""

    def __init__(self, cv2: Any, calculate: Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]):
        self._cv2 = cv2
        self._calculate = calculate

    def __call__(self, previous: Tensor, image: Tensor, /) -> Tensor:
        with _one_thread(self._cv2):
            flow = self._calculate(self._grey(previous), self._grey(image))
        return torch.from_numpy(flow).permute(2, 0, 1).contiguous()

    def _grey(self, image: Tensor) -> NDArray[np.uint8]:
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        grey: NDArray[np.uint8] = self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2GRAY)
        return grey


def tvl1() -> FlowEstimator:
    """Build TV-L1 as OpenCV's contrib modules have it, with their own settings, on the CPU.

    C. Zach, T. Pock and H. Bischof, "A duality based approach for realtime TV-L1 optical flow", 2007; in
    opencv/opencv_contrib modules/optflow/src/tvl1flow.cpp. What the releases of TSN and I3D computed was an older
    version of it or, for TSN, its version for GPUs, so their flow is near to this one and not equal.

    Raises
    ------
    UsageError
        if OpenCV or its contrib modules are missing.
    """
    cv2 = _opencv("tvl1")
    try:
        solver = cv2.optflow.DualTVL1OpticalFlow_create()
    except AttributeError as error:
        msg = (
            "flow by tvl1 needs OpenCV's contrib modules, and this OpenCV has none: pip uninstall every other "
            "opencv-python package, then pip install 'vadx[flow]'"
        )
        raise UsageError(msg) from error
    return _OnGrey(cv2, lambda previous, image: solver.calc(previous, image, None))


def farneback() -> FlowEstimator:
    """Build Farnebäck's method with the settings of OpenCV's own examples.

    G. Farnebäck, "Two-frame motion estimation based on polynomial expansion", 2003; pyramid scale 0.5, 3 levels,
    window 15, 3 iterations, polynomials over 5 pixels with sigma 1.2.

    Raises
    ------
    UsageError
        if OpenCV is missing.
    """
    cv2 = _opencv("farneback")
    return _OnGrey(cv2, lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0))


RAFT_UPDATES = 20
"""Number of RAFT's refinements, as v-iashin/video_features has them (models/raft/raft_src/raft.py, ``iters=20``)."""


def _raft_large() -> Any:
    # Imported late: no other method needs torchvision.
    from torchvision.models.optical_flow import raft_large

    return raft_large(weights=None, progress=False)


def random_raft(seed: int) -> Mapping[str, Tensor]:
    """Give weights of RAFT that were never trained, always the same for one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state: Mapping[str, Tensor] = _raft_large().state_dict()
    return state


class Raft:
    """RAFT (large), the last of ``num_updates`` refinements.

    Z. Teed and J. Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", 2020, as torchvision has it
    (`torchvision.models.optical_flow.raft_large`, whose names of tensors ``state`` has; its weights
    ``C_T_SKHT_V1`` are the authors' raft-sintel). Pictures are RGB in [-1, 1], padded to multiples of 8 by
    repeating their edges as the authors' ``InputPadder`` does for Sintel: half of it left and above, an odd pixel
    right and below (v-iashin/video_features, models/raft/raft_src/raft.py). The padding is cut off the flow.

    Raises
    ------
    WeightsError
        if ``state`` is another network's.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        num_updates: int = RAFT_UPDATES,
    ) -> None:
        network = _raft_large()
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            msg = f"these are no weights of torchvision's raft_large: {error}"
            raise WeightsError(msg) from error
        self._network = network.to(device).eval()
        self._device = device
        self._num_updates = num_updates

    @torch.no_grad()
    def __call__(self, previous: Tensor, image: Tensor, /) -> Tensor:
        height, width = image.shape[-2:]
        if min(height, width) < RAFT_MIN_SIDE:
            msg = f"flow by raft needs sides of {RAFT_MIN_SIDE} pixels or more, got {width}x{height}"
            raise UsageError(msg)
        left, top = -width % 8 // 2, -height % 8 // 2
        padding = (left, -width % 8 - left, top, -height % 8 - top)
        pair = torch.stack([previous, image]).to(self._device).float()
        pair = F.pad(2 * (pair / 255.0) - 1.0, padding, mode="replicate")
        flow: Tensor = self._network(pair[:1], pair[1:], num_flow_updates=self._num_updates)[-1][0]
        return flow[:, top : top + height, left : left + width].cpu().contiguous()


def _raft(flow: Flow, state: Mapping[str, Tensor] | None, device: torch.device | str) -> FlowEstimator:
    if state is None:
        kind, _, seed = str(flow.weights).partition(":")
        if kind != "random" or not seed.isdecimal():
            named = "" if flow.weights is None else f" with sha256 {flow.weights}"
            msg = f"flow by raft needs the weights of its network{named}, and was given none"
            raise WeightsError(msg)
        state = random_raft(int(seed))
    return Raft(state, device=device)


FlowBuilder = Callable[["Flow", "Mapping[str, Tensor] | None", "torch.device | str"], FlowEstimator]

FLOW_METHODS: Mapping[str, FlowBuilder] = MappingProxyType(
    {"tvl1": lambda *_: tvl1(), "farneback": lambda *_: farneback(), "raft": _raft}
)
"""Name -> what builds its estimator from the recipe's flow and, where it is a network, weights and a torch device."""


def flow_estimator(
    flow: Flow, *, device: torch.device | str = "cpu", state: Mapping[str, Tensor] | None = None
) -> FlowEstimator:
    """Build what computes a recipe's flow. Holds OpenCV's objects or a network: build it where it is used.

    ``state`` are the tensors that ``flow.weights`` stands for; ``random:SEED`` needs none.

    Raises
    ------
    UsageError
        if OpenCV is missing, and the method needs it.
    WeightsError
        if the method is a network, and the weights are missing or another network's.
    """
    return FLOW_METHODS[flow.method](flow, state, device)


def _exact(flow: Tensor, bound: float) -> Tensor:
    return 127.5 + flow * (127.5 / bound)


def _round_128(flow: Tensor, bound: float) -> Tensor:
    return (128 + 255 / (2 * bound) * flow).round()


def _round_255(flow: Tensor, bound: float) -> Tensor:
    # C++ promotes to double there: float32 would round some values near a half to the other side.
    return ((flow.double() + bound) * 255 / (2 * bound)).round().clamp(0, 255).float()


QUANTIZATIONS: Mapping[str, Callable[[Tensor, float], Tensor]] = MappingProxyType(
    {"none": _exact, "round_128": _round_128, "round_255": _round_255}
)
"""Name -> displacements within ``[-bound, bound]`` pixels to the scale of pictures, float32 to float32.

``none``: nothing rounded; ``2 x / 255 - 1`` then gives displacement / bound, as I3D was trained (deepmind/kinetics-i3d
README). ``round_128``: v-iashin/video_features (models/transforms.py, ``ToUInt8``), which rounds but never makes
bytes: +bound is 256. ``round_255``: yjxiong/dense_flow (src/common.cpp, ``convertFlowToImage``), which TSN used: 0 to
255. Halves are rounded to even in all of them."""


def quantize(displacements: Tensor, flow: Flow) -> Tensor:
    """Clip displacements in pixels to the recipe's bound and put them on the scale of pictures: float32."""
    return QUANTIZATIONS[flow.quantization](displacements.clamp(-flow.bound, flow.bound), flow.bound)


def still_flow(flow: Flow) -> float:
    """Give the value that stands for no motion."""
    return float(quantize(torch.zeros(1), flow))


class FlowStream:
    """Turns a stream of frames into a stream of flow pictures, float32 ``(2 * stack, H, W)``.

    `push` takes uint8 RGB ``(3, H, W)`` and gives the items that are certain by then; `flush` gives the rest. Item i
    holds the flows of the frames i to ``i + stack - 1``, x before y in each; where the video has no more of them,
    its last one is repeated (jx-zhong-for-academic-purpose/GCN-Anomaly-Detection,
    feature_extraction/extract_tsn/kinetics_extract_flow.py). N frames give N items under ``last="repeat"``, the
    last of them of the last flow, or N - 1 under ``drop``. A frame alone has a flow of no motion.

    Between pictures of different size there is no flow: the frame before such a change is treated as the last one
    under ``repeat``, so that items keep their numbers. At most ``stack`` flows and one frame are held.

    Nobody looks at the first ``num_unseen`` items: what only they need is not computed, and is NaN in them.

    Raises
    ------
    ValueError
        for a frame that is not uint8 ``(3, H, W)``.
    """

    def __init__(self, flow: Flow, estimator: FlowEstimator, *, num_unseen: int = 0) -> None:
        self._flow = flow
        self._estimator = estimator
        self._num_unseen = num_unseen
        self._num_frames = 0
        self._previous: Tensor | None = None
        self._last: Tensor | None = None
        self._waiting: deque[Tensor] = deque()

    def push(self, image: Tensor) -> list[Tensor]:
        """Take the next frame."""
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            msg = f"expected uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}"
            raise ValueError(msg)
        previous, self._previous = self._previous, image
        self._num_frames += 1
        if previous is None:
            return []
        if previous.shape != image.shape:
            return self._end(previous, with_last=True)
        # Items have their frames' numbers, and the one behind a flow may repeat it.
        if self._num_frames - 1 < self._num_unseen:
            self._last = torch.full((2, *image.shape[1:]), math.nan)
        else:
            self._last = quantize(self._estimator(previous, image), self._flow)
        self._waiting.append(self._last)
        if len(self._waiting) < self._flow.stack:
            return []
        item = torch.cat(list(self._waiting))
        self._waiting.popleft()
        return [item]

    def flush(self) -> list[Tensor]:
        """End the video."""
        image, self._previous = self._previous, None
        return [] if image is None else self._end(image, with_last=self._flow.last == "repeat")

    def _end(self, image: Tensor, *, with_last: bool) -> list[Tensor]:
        """Give the items that wait for flows which never come; ``image`` is the frame that has none of its own."""
        last = self._last
        if last is None:
            last = torch.full((2, *image.shape[1:]), still_flow(self._flow))
        num_items, stack = len(self._waiting) + with_last, self._flow.stack
        flows = [*self._waiting, *[last] * stack]
        self._waiting.clear()
        self._last = None
        return [torch.cat(flows[index : index + stack]) for index in range(num_items)]
