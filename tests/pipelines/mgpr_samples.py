"""A small WSSTAD whose weights and inputs are sines of their places, and its branches in numpy, from the paper: J. Wu
et al., "Weakly-Supervised Spatio-Temporal Anomaly Detection in Surveillance Video", IJCAI 2021.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vadx.pipelines.methods import Batch
from vadx.pipelines.methods.mgpr import Mgpr, MgprNetwork, MgprSettings

DIM, HEADS = 8, 2

# Sums of a few hundred products in float64, in two orders.
CLOSE = 1e-12


def waves(*shape: int, phase: float = 0.0) -> Tensor:
    """Sines of places: fixed numbers in [-1, 1], float64."""
    places = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return torch.sin(1.7 * places + phase).reshape(shape)


def mgpr(**changes: Any) -> Mgpr:
    return Mgpr(MgprSettings(**{"num_heads": HEADS, "hidden_widths": (6, 3), "dropout": 0.0, **changes}))


def network_of(method: Mgpr, dim: int = DIM) -> MgprNetwork:
    network = method.network(dim).double()
    with torch.no_grad():
        for number, weights in enumerate(network.parameters()):
            weights.copy_(0.6 * waves(*weights.shape, phase=number))
    return network


def video_batch(num_pairs: int = 2, *, videolets: int = 5, tubes: int = 4, **masks: Any) -> Batch:
    num_bags = 2 * num_pairs
    return Batch(
        features=waves(num_bags, videolets, 1, DIM, phase=0.1),
        labels=torch.tensor([0] * num_pairs + [1] * num_pairs),
        mask=masks.get("mask", torch.ones(num_bags, videolets, dtype=torch.bool)),
        more={
            "region": waves(num_bags, tubes, DIM, phase=0.2),
            "whole_frame": waves(num_bags, tubes, DIM, phase=0.3),
            "tube_mask": masks.get("tube_mask", torch.ones(num_bags, tubes, dtype=torch.bool)),
        },
    )


# ---- the paper in numpy ----


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))


def relation_by_columns(
    weights: dict[str, NDArray[np.float64]], columns: NDArray[np.float64], d_q: float
) -> NDArray[np.float64]:
    """Equations 1 to 3 as printed: instances are columns of F, of which there are n."""
    heads = []
    for block in np.split(np.arange(len(columns)), HEADS):
        q, k, v = (weights[name][block] @ columns for name in ("query", "key", "value"))
        similar = np.exp(q.T @ k / np.sqrt(d_q))
        heads.append((similar / similar.sum(axis=1, keepdims=True)) @ v.T)
    return np.concatenate(heads, axis=1).T + columns


def numpy_logits(branch: nn.Module, instances: Tensor) -> NDArray[np.float64]:
    """Logits of one bag without padding, ``(instance, feature)`` -> ``(instance,)``."""
    state = {name: values.detach().numpy() for name, values in branch.state_dict().items()}
    weights = {name: state[f"relation.{name}.weight"] for name in ("query", "key", "value")}
    rows = relation_by_columns(weights, instances.numpy().T, DIM / HEADS).T
    rows = np.maximum(rows @ state["predictor.0.weight"].T + state["predictor.0.bias"], 0)
    rows = rows @ state["predictor.3.weight"].T + state["predictor.3.bias"]
    return (rows @ state["predictor.5.weight"].T + state["predictor.5.bias"])[:, 0]
