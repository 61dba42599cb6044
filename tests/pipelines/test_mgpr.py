"""WSSTAD against its equations: J. Wu et al., "Weakly-Supervised Spatio-Temporal Anomaly Detection in Surveillance
Video", IJCAI 2021.

Losses are compared with numpy written from the paper, with weights and inputs that are sines of their places, so that
the numbers in here do not depend on torch's random numbers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vadx.pipelines.methods import Batch, Losses
from vadx.pipelines.methods.mgpr import (
    CHOICES,
    Branch,
    Mgpr,
    MgprNetwork,
    MgprSettings,
    Relation,
    guide_scores,
    guided_ranking,
    phase_bags,
    worst_cross_entropy,
)

from .mgpr_samples import (
    CLOSE,
    DIM,
    HEADS,
    mgpr,
    network_of,
    numpy_logits,
    relation_by_columns,
    sigmoid,
    video_batch,
    waves,
)


def numpy_losses(network: MgprNetwork, batch: Batch, phase: str) -> tuple[float, float]:
    """Equations 4, 5 and 7, pair by pair: the ranking and the cross entropy of a phase."""
    own, guide = network.branches[phase], network.branches["tube" if phase == "temporal" else "temporal"]
    seen = batch.features[:, :, 0] if phase == "temporal" else batch.more["region"]
    guide_sees = batch.features[:, :, 0] if phase == "temporal" else batch.more["whole_frame"]
    num_pairs = len(seen) // 2
    ranking = entropy = 0.0
    for normal, anomalous in zip(range(num_pairs), range(num_pairs, 2 * num_pairs), strict=True):
        scores = sigmoid(numpy_logits(own, seen[anomalous]))
        a, b = scores.max(), sigmoid(numpy_logits(own, seen[normal])).max()
        w = sigmoid(numpy_logits(guide, guide_sees[anomalous]))[scores.argmax()]
        ranking += max(0.0, w * (1 - a + b)) / num_pairs
        entropy += -(np.log(a) + np.log(1 - b)) / num_pairs
    return ranking, entropy


# ---- the relation module and the branches ----


def test_the_relation_module_is_equations_1_to_3() -> None:
    relation = Relation(DIM, HEADS).double()
    with torch.no_grad():
        for number, weight in enumerate(relation.parameters()):
            weight.copy_(waves(DIM, DIM, phase=number))
    instances = waves(1, 5, DIM, phase=7)
    weights = {name.removesuffix(".weight"): one.detach().numpy() for name, one in relation.named_parameters()}
    found = relation(instances, torch.ones(1, 5, dtype=torch.bool))[0].detach().numpy()
    np.testing.assert_allclose(found.T, relation_by_columns(weights, instances[0].numpy().T, DIM / HEADS), atol=CLOSE)
    # d_q as the width of all heads together is another module.
    assert np.abs(found.T - relation_by_columns(weights, instances[0].numpy().T, DIM)).max() > 0.01


def test_torch_s_attention_is_the_relation_module_only_without_its_output_projection() -> None:
    relation = Relation(DIM, HEADS).double()
    peer = nn.MultiheadAttention(DIM, HEADS, bias=False, batch_first=True).double()
    instances = waves(2, 5, DIM, phase=7)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([relation.query.weight, relation.key.weight, relation.value.weight]))
        peer.out_proj.weight.copy_(torch.eye(DIM))
        found = relation(instances, mask)
        same, _ = peer(instances, instances, instances, key_padding_mask=~mask)
        peer.out_proj.weight.copy_(waves(DIM, DIM))
        other, _ = peer(instances, instances, instances, key_padding_mask=~mask)
    torch.testing.assert_close(found, same + instances, rtol=0, atol=CLOSE)
    assert (found - (other + instances)).abs().max() > 0.01


def test_a_bag_of_one_has_nothing_to_relate() -> None:
    relation = Relation(DIM, HEADS).double()
    one = waves(1, 1, DIM)
    expected = one @ relation.value.weight.T + one
    torch.testing.assert_close(relation(one, torch.ones(1, 1, dtype=torch.bool)), expected, rtol=0, atol=CLOSE)


def test_the_published_sizes_hold() -> None:
    with torch.device("meta"):
        network = Mgpr().network(4096)
    for branch in network.branches.values():
        assert isinstance(branch, Branch)
        assert sum(p.numel() for p in branch.relation.parameters()) == 3 * 4096**2 == 50_331_648
        assert sum(p.numel() for p in branch.predictor.parameters()) == 2_114_113
        shapes = [tuple(p.shape) for p in branch.predictor.parameters()]
        assert shapes == [(512, 4096), (512,), (32, 512), (32,), (1, 32), (1,)]
        assert [layer.p for layer in branch.predictor if isinstance(layer, nn.Dropout)] == [0.6, 0.6]
    assert sum(p.numel() for p in network.parameters()) == 104_891_522
    # 512 numbers a head.
    assert 4096 // MgprSettings().num_heads == 512


def test_the_order_of_instances_does_not_matter() -> None:
    branch = network_of(mgpr()).branches["tube"]
    instances, mask = waves(1, 6, DIM), torch.ones(1, 6, dtype=torch.bool)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(branch(instances[:, order], mask), branch(instances, mask)[:, order], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("phase", ["temporal", "tube"])
def test_padded_instances_change_nothing(phase: str) -> None:
    method = mgpr()
    network = network_of(method)
    plain = video_batch()
    losses = method.loss(network, plain, phase)
    losses.total.backward()
    gradients = [p.grad for p in network.branches[phase].parameters()]
    network.zero_grad()

    def padded(values: Tensor) -> Tensor:
        # Garbage as large as would be the maximum of any bag and most of any attention.
        return torch.cat([values, 50 + torch.zeros_like(values[:, :3])], dim=1)

    more = {name: padded(values) for name, values in plain.more.items() if name != "tube_mask"}
    masks = [torch.cat([m, torch.zeros(4, 3, dtype=torch.bool)], dim=1) for m in (plain.mask, plain.more["tube_mask"])]
    batch = Batch(padded(plain.features), plain.labels, masks[0], more={**more, "tube_mask": masks[1]})
    again = method.loss(network, batch, phase)
    again.total.backward()
    torch.testing.assert_close(again.total, losses.total, rtol=0, atol=CLOSE)
    for before, parameter in zip(gradients, network.branches[phase].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, before, rtol=0, atol=CLOSE)


def test_rows_of_unit_length_are_an_option() -> None:
    branch = network_of(mgpr(normalize="l2")).branches["tube"]
    plain = network_of(mgpr()).branches["tube"]
    instances, mask = waves(1, 4, DIM), torch.ones(1, 4, dtype=torch.bool)
    expected = plain(instances / instances.norm(dim=-1, keepdim=True), mask)
    torch.testing.assert_close(branch(3 * instances, mask), expected, rtol=0, atol=CLOSE)
    assert (plain(3 * instances, mask) - expected).abs().max() > 0.01


# ---- losses ----


def test_the_ranking_of_one_pair_by_hand() -> None:
    guide, anomalous, normal = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.6, 0.7, 0.4))
    loss = guided_ranking(guide, anomalous, normal)
    assert loss.item() == pytest.approx(0.6 * (1 - 0.7 + 0.4), abs=CLOSE)
    loss.sum().backward()
    assert anomalous.grad is not None
    assert normal.grad is not None
    assert (anomalous.grad.item(), normal.grad.item()) == (-0.6, 0.6)
    # Otherwise 1 - a + b > 0 would be pushed into the guide, whose score of the abnormal instance would fall.
    assert guide.grad is None


def test_the_hinge_never_acts_so_a_guide_of_0_is_a_minimum_that_only_cross_entropy_leaves() -> None:
    grid = torch.linspace(0, 1, 11, dtype=torch.float64)
    w, a, b = (one.ravel() for one in torch.meshgrid(grid, grid, grid, indexing="ij"))
    torch.testing.assert_close(guided_ranking(w, a, b), w * (1 - a + b), rtol=0, atol=0)
    wrong = torch.tensor([-3.0], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    assert guided_ranking(torch.zeros(1), *wrong).item() == 0
    assert sum(worst_cross_entropy(*wrong)).item() == pytest.approx(6.0971747, abs=1e-6)


def test_cross_entropy_by_hand() -> None:
    logits = torch.logit(torch.tensor([0.7, 0.4], dtype=torch.float64))
    terms = worst_cross_entropy(logits[:1], logits[1:])
    assert [term.item() for term in terms] == pytest.approx([-np.log(0.7), -np.log(0.6)], abs=CLOSE)
    # Of a probability in float32 the logarithm would be infinite here.
    far = worst_cross_entropy(torch.tensor([-200.0]), torch.tensor([200.0]))
    assert [term.item() for term in far] == [200, 200]


# Made with the numpy above; they would change with either.
KNOWN = {"temporal": (0.1474671560, 2.1188109126), "tube": (0.3363382469, 1.2909193664)}


@pytest.mark.parametrize("phase", Mgpr.phases)
def test_losses_are_those_of_numpy(phase: str) -> None:
    method = mgpr()
    network = network_of(method)
    batch = video_batch()
    losses = method.loss(network, batch, phase)
    found = losses.parts["ranking"].item(), losses.parts["cross_entropy"].item()
    assert found == pytest.approx(numpy_losses(network, batch, phase), abs=CLOSE)
    assert found == pytest.approx(KNOWN[phase], abs=1e-9)
    assert losses.total.item() == pytest.approx(sum(found), abs=CLOSE)


@pytest.mark.parametrize("phase", Mgpr.phases)
def test_gradients_are_finite_differences(phase: str) -> None:
    method = mgpr()
    network = network_of(method)
    batch = video_batch()
    names = [name for name, _ in network.branches[phase].named_parameters()]

    def total(*weights: Tensor) -> Tensor:
        # The guide is left out: what it gives is a constant.
        fixed = {f"branches.{phase}.{name}": one for name, one in zip(names, weights, strict=True)}

        def run(part: str) -> Tensor:
            return torch.func.functional_call(_LossOf(method, network, batch, part), _prefixed(fixed), ())

        return run(phase)

    weights = tuple(p.detach().clone().requires_grad_() for p in network.branches[phase].parameters())
    assert torch.autograd.gradcheck(total, weights, fast_mode=True)


class _LossOf(nn.Module):
    """A loss as a module, for `functional_call`."""

    def __init__(self, method: Mgpr, network: MgprNetwork, batch: Batch, phase: str) -> None:
        super().__init__()
        self.network = network
        self.method, self.batch, self.phase = method, batch, phase

    def forward(self) -> Tensor:
        return self.method.loss(self.network, self.batch, self.phase).total


def _prefixed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"network.{name}": one for name, one in weights.items()}


@pytest.mark.parametrize("phase", Mgpr.phases)
def test_the_guide_gets_no_gradient_and_drops_nothing(phase: str) -> None:
    method = mgpr(dropout=0.6)
    network = network_of(method).train()
    batch = video_batch()
    guide = network.branches["tube" if phase == "temporal" else "temporal"]
    bags = phase_bags(batch, phase)
    first = guide_scores(guide, bags.guide, bags.mask, torch.zeros(4, dtype=torch.int64))
    second = guide_scores(guide, bags.guide, bags.mask, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    method.loss(network, batch, phase).total.backward()
    assert all(p.grad is None for p in guide.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.branches[phase].parameters())
    assert guide.training


def test_the_worst_instance_is_that_of_the_branch_that_learns() -> None:
    method = mgpr()
    network = network_of(method)
    bag = slice(2, 3)
    batch = video_batch()
    mask = batch.more["tube_mask"][bag]
    at = network.branches["tube"](batch.more["region"][bag], mask).argmax(dim=1)
    guide_of_all = network.branches["temporal"](batch.more["whole_frame"][bag], mask).sigmoid()[0]
    found = guide_scores(network.branches["temporal"], batch.more["whole_frame"][bag], mask, at)
    assert found.item() == guide_of_all[at].item()
    # The guide thinks worse of another.
    assert found.item() < guide_of_all.max().item() - 0.01


def test_the_guide_of_tubes_sees_the_whole_frames_of_the_same_tube() -> None:
    method = mgpr()
    network = network_of(method)
    batch = video_batch()
    before = method.loss(network, batch, "tube").parts
    turned = batch.more["whole_frame"].flip(1)
    other = Batch(batch.features, batch.labels, batch.mask, more={**batch.more, "whole_frame": turned})
    after = method.loss(network, other, "tube").parts
    assert after["cross_entropy"].item() == before["cross_entropy"].item()
    assert abs(after["ranking"].item() - before["ranking"].item()) > 1e-3


def test_the_guide_may_see_one_instance_alone() -> None:
    branch = network_of(mgpr()).branches["temporal"]
    instances, mask = waves(2, 4, DIM), torch.ones(2, 4, dtype=torch.bool)
    at = torch.tensor([1, 3])
    alone = [sigmoid(numpy_logits(branch, instances[i, at[i]][None]))[0] for i in range(2)]
    in_bag = [sigmoid(numpy_logits(branch, instances[i]))[at[i]] for i in range(2)]
    np.testing.assert_allclose(guide_scores(branch, instances, mask, at, "single").numpy(), alone, atol=CLOSE)
    np.testing.assert_allclose(guide_scores(branch, instances, mask, at, "bag").numpy(), in_bag, atol=CLOSE)
    assert np.abs(np.subtract(alone, in_bag)).max() > 1e-3
    batch = video_batch()
    losses = [
        method.loss(network_of(method), batch, "tube").parts["ranking"].item()
        for method in (mgpr(), mgpr(guide_context="single"))
    ]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_an_iteration_updates_the_temporal_branch_first_and_is_guided_by_what_came_out() -> None:
    assert Mgpr.phases == ("temporal", "tube")
    method = mgpr()
    network, stale = network_of(method), network_of(method)
    batch = video_batch()
    optimisers = method.optimisers(network)
    seen: dict[str, Losses] = {}
    for phase in method.phases:
        before = {name: [p.clone() for p in branch.parameters()] for name, branch in network.branches.items()}
        seen[phase] = method.loss(network, batch, phase)
        network.zero_grad()
        seen[phase].total.backward()
        optimisers[phase].step()
        for name, branch in network.branches.items():
            same = all(torch.equal(p, old) for p, old in zip(branch.parameters(), before[name], strict=True))
            assert same == (name != phase)
    assert seen["tube"].parts["ranking"].item() != method.loss(stale, batch, "tube").parts["ranking"].item()
    assert {type(one) for one in optimisers.values()} == {torch.optim.Adam}


def test_bags_without_tubes_count_nowhere() -> None:
    method = mgpr()
    network = network_of(method)
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[2] = False  # a normal video, whose partner is bag 5
    batch = video_batch(3, tube_mask=mask)
    whole = method.loss(network, batch, "tube")
    rest = [0, 1, 3, 4]
    fewer = Batch(
        batch.features[rest],
        batch.labels[rest],
        batch.mask[rest],
        more={name: values[rest] for name, values in batch.more.items()},
    )
    expected = method.loss(network, fewer, "tube")
    torch.testing.assert_close(whole.parts["ranking"], expected.parts["ranking"], rtol=0, atol=CLOSE)
    whole.total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.branches["tube"].parameters() if p.grad is not None)
    none = video_batch(3, tube_mask=torch.zeros(6, 4, dtype=torch.bool))
    assert method.loss(network, none, "tube").parts == {}
    assert set(method.loss(network, none, "temporal").parts) == {"ranking", "cross_entropy"}


def test_plain_bags_have_videolets_stand_in_for_tubes() -> None:
    method = mgpr()
    network = network_of(method)
    batch = video_batch()
    plain = Batch(batch.features, batch.labels, batch.mask)
    videolets = batch.features[:, :, 0]
    spelled = {"region": videolets, "whole_frame": videolets, "tube_mask": batch.mask}
    as_tubes = Batch(batch.features, batch.labels, batch.mask, more=spelled)
    found, expected = (method.loss(network, one, "tube").total.item() for one in (plain, as_tubes))
    assert found == expected


def test_the_rows_of_table_3_are_options() -> None:
    batch = video_batch()
    parts = {
        ranking: mgpr(ranking=ranking).loss(network_of(mgpr()), batch, "tube").parts for ranking in CHOICES["ranking"]
    }
    assert list(parts["none"]) == ["cross_entropy"]
    no_entropy = mgpr(cross_entropy=False).loss(network_of(mgpr()), batch, "tube").parts
    assert list(no_entropy) == ["ranking"]
    logits = network_of(mgpr()).branches["tube"](batch.more["region"], batch.more["tube_mask"]).amax(dim=1)
    hinge = (1 - logits[2:].sigmoid() + logits[:2].sigmoid()).mean().item()
    assert parts["plain"]["ranking"].item() == pytest.approx(hinge, abs=CLOSE)
    assert parts["guided"]["ranking"].item() < hinge
    no_relation = network_of(mgpr(relation="none"))
    assert not any("relation" in name for name, _ in no_relation.named_parameters())
