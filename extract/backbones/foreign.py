"""Networks that other libraries carry: features out, and the library's own names in the state dict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn import functional as F

from ...errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_TRUNK, _CLASSIFIER = "trunk.", "classifier."


class FeatureNetwork(nn.Module):
    """A network up to its classifier, and the classifier beside it.

    ``trunk`` is the library's network with an identity where its classifier was; it maps what ``prepare`` makes of
    clips ``(B, 3, T, H, W)``, or of images ``(B, 3, H, W)``, to features ``(B, dim)``. ``classifier`` was at
    ``place`` in it, and has its names there in the state dict; None if there is none. A classifier that is a
    convolution wants ``axes`` axes of length one after the features.
    """

    def __init__(
        self,
        trunk: nn.Module,
        classifier: nn.Module | None,
        place: str,
        *,
        num_classes: int,
        axes: int = 0,
        prepare: Callable[[Tensor], Any] | None = None,
    ) -> None:
        super().__init__()
        self.trunk, self.classifier = trunk, classifier
        self.num_classes = num_classes
        self._place, self._axes, self._prepare = f"{place}.", axes, prepare
        self.register_state_dict_post_hook(_to_the_librarys_names)  # type: ignore[no-untyped-call]  # torch's is untyped
        self.register_load_state_dict_pre_hook(_from_the_librarys_names)  # type: ignore[no-untyped-call]  # as above

    def forward(self, clips: Tensor) -> Tensor:
        features: Tensor = self.trunk(clips if self._prepare is None else self._prepare(clips))
        return features

    def head(self, features: Tensor) -> Tensor:
        """Give class scores ``(B, num_classes)``, before softmax, for features ``(B, dim)``.

        Raises
        ------
        UsageError
            if the network was built, or its checkpoint published, without a classifier.
        """
        if self.classifier is None:
            msg = "this network has no classifier: it was built, or its weights were published, without one"
            raise UsageError(msg)
        scores: Tensor = self.classifier(features[(..., *(None,) * self._axes)])
        return scores.flatten(1)


def _to_the_librarys_names(module: FeatureNetwork, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    own = list(state.items())
    state.clear()
    for key, value in own:
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and name.startswith(_TRUNK):
            key = prefix + name.removeprefix(_TRUNK)
        elif key.startswith(prefix) and name.startswith(_CLASSIFIER):
            key = prefix + module._place + name.removeprefix(_CLASSIFIER)
        state[key] = value


def _from_the_librarys_names(module: FeatureNetwork, state: dict[str, Any], prefix: str, *_: Any) -> None:
    theirs = list(state.items())
    state.clear()
    for key, value in theirs:
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and module.classifier is not None and name.startswith(module._place):
            key = prefix + _CLASSIFIER + name.removeprefix(module._place)
        elif key.startswith(prefix):
            key = prefix + _TRUNK + name
        state[key] = value


class FittingAvgPool3d(nn.Module):
    """Average pooling with stride one, whose kernel is cut to what there is.

    The published heads pool with a kernel as large as the last block's output for their own clips. For larger inputs
    this is the same pool; smaller ones, which they refuse, are averaged as a whole.
    """

    def __init__(self, published: nn.AvgPool3d) -> None:
        super().__init__()
        size = published.kernel_size
        self._kernel = (size,) * 3 if isinstance(size, int) else size

    def forward(self, x: Tensor) -> Tensor:
        kernel = [min(k, side) for k, side in zip(self._kernel, x.shape[-3:], strict=True)]
        # CPUs have no such pool in bfloat16; the sum is better taken in single precision anyway.
        return F.avg_pool3d(x.float(), kernel, stride=1).to(x.dtype)
