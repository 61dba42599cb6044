"""BatchNorm folded into the convolution before it: fewer passes through memory, and nearly the same values."""

from __future__ import annotations

import copy
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""The largest relative L2 between a network's float32 features before and after a change; docs/numerics.md has what was
measured. A network that lies further off stays as it is."""

# Exact types: a subclass may compute something else, and a parametrized module is one.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batchnorm(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give a network that computes the same with BatchNorm folded into convolutions, as far as that is the same.

    Parameters
    ----------
    network
        in eval mode and float32. It is left as it is; what is returned shares the tensors that did not change. Where
        nothing can be folded it is returned itself.
    shape
        of one input batch, such as ``(1, 3, 16, 224, 224)``. The network runs twice on noise of this shape: to see
        which BatchNorm is fed by which convolution, and to compare the result within `TOLERANCE`.
    """
    if not any(type(module) in _NORMS for module in network.modules()):
        return network

    def change(noise: Tensor) -> tuple[Tensor, nn.Module]:
        expected, pairs = _observe(network, noise)
        return expected, _folded(network, pairs) if pairs else network

    return keep_if_same(network, shape, change)


def keep_if_same(
    network: nn.Module,
    shape: tuple[int, ...],
    change: Callable[[Tensor], tuple[Tensor, nn.Module]],
    *,
    tolerance: float = TOLERANCE,
) -> nn.Module:
    """Give the network that ``change`` makes of one, if it computes the same within ``tolerance``; else the network.

    ``change`` takes a float32 batch of noise of this shape, and gives the network's own output and the changed one.
    """
    device = next(network.parameters()).device
    noise = torch.randn(shape, dtype=torch.float32, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        # Without inference mode: in it, tensors do not count what is written into them.
        with torch.inference_mode(False), torch.no_grad():
            expected, changed = change(noise)
            if changed is network:
                return network
            distance = float((changed(noise) - expected).double().norm() / expected.double().norm())
    except Exception as error:  # noqa: BLE001  # the network's own code, which may need the modules that were replaced
        _log.debug("%s stays as it is: %s", type(network).__name__, error)
        return network
    if not distance <= tolerance:  # so that NaN counts as far
        _log.debug("%s stays as it is: relative L2 %.1e", type(network).__name__, distance)
        return network
    return changed


def share_tensors(network: nn.Module) -> nn.Module:
    """Give a copy of a network's structure that holds the very same parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def _observe(network: nn.Module, inputs: Tensor) -> tuple[Tensor, dict[str, str]]:
    """Run a network once; give its output and {BatchNorm's name: name of the convolution that feeds it alone}."""
    made: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
    calls: Counter[str] = Counter()
    feeds: list[tuple[str, str]] = []

    def after_convolution(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            calls[name] += 1
            made[id(output)] = (weakref.ref(output), output._version, name)

        return hook

    def before_norm(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            maker, version, source = made.get(id(args[0]), (None, 0, ""))
            # The same memory is not the same values: something may have been computed in place.
            if maker is not None and maker() is args[0] and args[0]._version == version:
                feeds.append((name, source))

        return hook

    candidates = plain_layers(network)
    handles = [
        module.register_forward_pre_hook(before_norm(name))
        if type(module) in _NORMS
        else module.register_forward_hook(after_convolution(name))
        for name, module in candidates.items()
    ]
    try:
        output = network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    fed = Counter(source for _, source in feeds)
    once = {name for name, number in calls.items() if number == 1}
    return output, {norm: source for norm, source in feeds if {norm, source} <= once and fed[source] == 1}


def plain_layers(network: nn.Module) -> Mapping[str, Any]:
    """Give the convolutions and BatchNorms that nothing but their own forward and their one place makes special."""
    places = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    owners = Counter(id(tensor) for module in network.modules() for tensor in module._parameters.values())
    return {
        name: module
        for name, module in network.named_modules()
        if type(module) in (*_CONVOLUTIONS, *_NORMS)
        and places[id(module)] == 1
        and all(owners[id(tensor)] == 1 for tensor in module._parameters.values() if tensor is not None)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (type(module) in _NORMS and module.running_mean is None)
    }


def _folded(network: nn.Module, pairs: Mapping[str, str]) -> nn.Module:
    folded = share_tensors(network)
    for norm, source in pairs.items():
        convolution: Any = folded.get_submodule(source)
        folded.set_submodule(source, fuse_conv_bn_eval(convolution, folded.get_submodule(norm)))  # type: ignore[arg-type]  # a pair is a convolution and a BatchNorm
        folded.set_submodule(norm, nn.Identity())
    return folded
