"""What two sets of arrays tell of their difference: one change is planted, and must be named alone and first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vadx.features.compare import Knowledge, compare
from vadx.features.value_changes import HALF_TOLERANCE, KINDS, TOLERANCE, Finding, is_half, relative_l2

Arrays = dict[str, NDArray[Any]]

PLACES = ("top left", "top right", "bottom left", "bottom right", "center")


def features(num_clips: tuple[int, ...] = (5, 9, 3), crops: int = 1, dim: int = 12, seed: int = 0) -> Arrays:
    """Give features as a ReLU leaves them: some are zero, none negative."""
    random = np.random.default_rng(seed)
    return {
        f"v{i}": np.maximum(random.standard_normal((n, crops, dim)) + 0.5, 0).astype(np.float32)
        for i, n in enumerate(num_clips)
    }


def only_cause(a: Arrays, b: Arrays, known: Knowledge | None = None) -> Finding:
    """Give the one finding that explains B, which must stand first."""
    found = compare(a, b, known=known)
    assert found.differs
    assert found.findings[0] is found.causes[0]
    assert len(found.causes) == 1, [f.sentence for f in found.causes]
    return found.causes[0]


class TestSame:
    def test_equal_arrays_are_the_same_bit_for_bit(self) -> None:
        found = compare(features(), features())
        assert not found.differs
        assert (found.findings, found.num_identical, found.max_relative_l2) == ((), 3, 0.0)

    def test_the_noise_of_another_engine_is_no_difference(self) -> None:
        random = np.random.default_rng(1)
        noisy = {k: v + 1e-5 * random.standard_normal(v.shape).astype(np.float32) for k, v in features().items()}
        found = compare(features(), noisy)
        assert not found.differs
        assert found.num_identical == 0
        assert 1e-6 < found.max_relative_l2 < TOLERANCE

    def test_ten_times_that_noise_is_one(self) -> None:
        random = np.random.default_rng(1)
        a = features()
        noisy = {k: v + 1e-3 * random.standard_normal(v.shape).astype(np.float32) for k, v in a.items()}
        found = compare(a, noisy)
        assert [f.kind for f in found.findings] == ["values"]
        assert found.causes == ()

    def test_one_clip_of_one_video_is_enough(self) -> None:
        a, b = features(), features()
        b["v1"][7] += 0.1
        found = compare(a, b)
        assert found.videos["v1"].first_clip == 7
        assert [f.kind for f in found.findings] == ["values"]
        assert found.findings[0].evidence["worst"] == "v1"
        assert found.findings[0].evidence["videos"] == 1

    def test_empty_sides_and_videos_without_clips(self) -> None:
        nothing = {"v": np.zeros((0, 1, 4), np.float32)}
        assert not compare({}, {}).differs
        assert not compare(nothing, nothing).differs

    def test_an_array_of_other_dimensions_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"B, v: expected \(clip, crop, feature\), got shape \(3, 4\)"):
            compare({"v": np.zeros((3, 1, 4))}, {"v": np.zeros((3, 4))})


class TestVideos:
    def test_missing_and_extra_ids(self) -> None:
        a, b = features(), features()
        b["other"] = b.pop("v1")
        found = compare(a, b)
        assert (found.only_a, found.only_b) == (("v1",), ("other",))
        assert [f.kind for f in found.findings] == ["missing", "extra"]
        assert "v1" in found.findings[0].sentence

    def test_values_that_are_not_finite(self) -> None:
        a, b = features(), features()
        b["v0"][2, 0, :3] = np.nan
        found = compare(a, b)
        assert found.findings[0].kind == "nonfinite"
        assert found.findings[0].evidence == {"B": 3}
        assert found.videos["v0"].first_clip == 2


COUNTS = {"drop": lambda n: n // 16, "repeat_last": lambda n: -(-n // 16), "plus_one": lambda n: n // 16 + 1}
FRAMES = {"v0": 16 * 5, "v1": 16 * 8 + 3, "v2": 16 * 3 + 1}


class TestLengths:
    known = Knowledge(num_frames=FRAMES, tails=COUNTS, tail="repeat_last")

    def clips(self, rule: str) -> Arrays:
        whole = features((6, 10, 5))
        return {name: whole[name][: COUNTS[rule](n)] for name, n in FRAMES.items()}

    @pytest.mark.parametrize("rule", ["drop", "plus_one"])
    def test_the_tail_rule_that_gives_the_counts_is_named(self, rule: str) -> None:
        cause = only_cause(self.clips("repeat_last"), self.clips(rule), self.known)
        assert cause.kind == "tail"
        assert cause.evidence["rules"] == [rule]
        assert f"the tail rule {rule}, A's rule is repeat_last" in cause.sentence

    def test_it_is_no_cause_where_values_differ_too(self) -> None:
        b = {name: values + 1 for name, values in self.clips("drop").items()}
        found = compare(self.clips("repeat_last"), b, known=self.known)
        assert found.causes == ()
        assert {f.kind for f in found.findings} == {"tail", "values"}

    def test_rules_that_these_videos_do_not_tell_apart_are_all_named(self) -> None:
        frames = {name: n for name, n in FRAMES.items() if n % 16}
        a, b = ({k: v for k, v in self.clips(rule).items() if k in frames} for rule in ("drop", "repeat_last"))
        cause = only_cause(a, b, Knowledge(num_frames=frames, tails=COUNTS, tail="drop"))
        assert cause.evidence["rules"] == ["repeat_last", "plus_one"]

    def test_a_count_that_no_rule_gives_is_told_with_its_ratio(self) -> None:
        a = features((30, 60, 90))
        b = {name: np.roll(values, 1, axis=2)[: len(values) * 5 // 6] for name, values in a.items()}
        length = next(f for f in compare(a, b, known=self.known).findings if f.kind == "length")
        assert length.evidence["ratio"] == pytest.approx(25 / 30)
        assert "0.833 times as many" in length.sentence

    def test_only_last_clips_differ(self) -> None:
        a, b = features(), features()
        for values in b.values():
            values[-1] *= 0.5
        assert compare(a, b).differs_at_ends_only
        b["v1"][2] *= 0.5
        assert not compare(a, b).differs_at_ends_only


def labels(places: tuple[str, ...], *, turned: bool) -> list[tuple[str, bool]]:
    swap = {"left": "right", "right": "left"}
    mirrored = [" ".join(swap.get(w, w) for w in place.split()) if turned else place for place in places]
    return [*((place, False) for place in places), *((place, True) for place in mirrored)]


SHUFFLED = ("top left", "top right", "center", "bottom left", "bottom right")
ORDERS = {
    "tv": labels(PLACES, turned=True),
    "oversample": labels(SHUFFLED, turned=True),
    "caffe": labels(PLACES, turned=False),
}


class TestCrops:
    known = Knowledge(crop_orders=ORDERS, crop_order="tv")

    def test_oversample_for_tv(self) -> None:
        a = features(crops=10)
        # By hand: TL TR C BL BR out of TL TR BL BR C, and the same of the mirrored frame.
        b = {k: v[:, [0, 1, 4, 2, 3, 5, 6, 9, 7, 8]] for k, v in a.items()}
        cause = only_cause(a, b, self.known)
        assert (cause.kind, cause.left) == ("crop order", 0.0)
        assert (cause.evidence["order_a"], cause.evidence["order_b"]) == ("tv", "oversample")

    def test_mirrored_crops_for_crops_of_the_mirrored_frame(self) -> None:
        a = features(crops=10)
        b = {k: v[:, [0, 1, 2, 3, 4, 6, 5, 8, 7, 9]] for k, v in a.items()}
        assert only_cause(a, b, self.known).evidence["order_b"] == "caffe"

    def test_the_mirrored_half_first(self) -> None:
        a = features(crops=10)
        cause = only_cause(a, {k: np.roll(v, 5, axis=1) for k, v in a.items()}, self.known)
        assert cause.evidence["order_b"] == "mirrored half first"

    def test_an_order_without_a_name(self) -> None:
        a = features(crops=10)
        assert "without a name: 9, 8, 7" in only_cause(a, {k: v[:, ::-1] for k, v in a.items()}, self.known).sentence

    def test_equal_crops_are_no_permutation(self) -> None:
        a = {k: np.repeat(v, 10, axis=1) for k, v in features().items()}
        b = {k: v * 2 for k, v in a.items()}
        assert only_cause(a, b, self.known).kind == "scale"

    def test_one_crop_of_ten_and_the_mean_of_ten(self) -> None:
        a = features(crops=10)
        assert only_cause(a, {k: v[:, 4:5] for k, v in a.items()}).evidence["crops_of_a"] == [4]
        assert only_cause(a, {k: v.mean(axis=1, keepdims=True) for k, v in a.items()}).evidence == {"mean_of": 10}

    def test_one_crop_in_half_precision(self) -> None:
        a = features(crops=10)
        found = compare(a, {k: v[:, 4:5].astype(np.float16) for k, v in a.items()})
        assert [(f.kind, f.explains) for f in found.findings] == [("crops", True), ("float16", False)]

    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 0), (np.float16, 1e-3)])
    def test_the_side_with_fewer_crops_is_a_part_of_the_other_whichever_it_is(
        self, dtype: type, tolerance: float
    ) -> None:
        a = features(crops=10)
        centre = {k: v[:, 4:5].astype(dtype) for k, v in a.items()}
        found = compare(centre, a)
        assert found.causes[0].sentence == "A holds crop 4 of B's 10, counted from 0"
        assert found.causes[0].evidence == {"crops_of_b": [4], "before": 1.0}
        assert found.causes[0].left <= tolerance
        assert compare(a, centre).causes[0].sentence == "B holds crop 4 of A's 10, counted from 0"
        two = {k: v[:, [7, 2]] for k, v in a.items()}
        assert only_cause(two, a).sentence == "A holds crops 7, 2 of B's 10, counted from 0"
        mean = {k: v.mean(axis=1, keepdims=True) for k, v in a.items()}
        assert only_cause(mean, a).sentence == "A is the mean over B's 10 crops"

    def test_other_crops_are_told(self) -> None:
        found = compare(features(crops=10), features(crops=5, seed=1))
        assert [f.sentence for f in found.findings] == ["A has 10 crops, B 5"]
        assert not found.is_comparable


class TestFeatures:
    def test_a_permutation(self) -> None:
        order = np.random.default_rng(3).permutation(12)
        a = features()
        cause = only_cause(a, {k: v[..., order] for k, v in a.items()})
        assert cause.kind == "feature order"
        assert cause.evidence["first_of_b"] == order[:8].tolist()

    def test_flow_before_rgb(self) -> None:
        a = features()
        assert "halves exchanged" in only_cause(a, {k: np.roll(v, 6, axis=2) for k, v in a.items()}).sentence

    def test_dead_features_stay_where_they_are(self) -> None:
        a = features()
        for values in a.values():
            values[..., [1, 5, 7]] = 0
        order = [2, 1, 0, *range(3, 12)]
        assert only_cause(a, {k: v[..., order] for k, v in a.items()}).evidence["moved"] == 2

    @pytest.mark.parametrize(("place", "part"), [("first", np.s_[..., :7]), ("last", np.s_[..., 5:])])
    def test_a_part_of_the_features(self, place: str, part: Any) -> None:
        a = features()
        assert only_cause(a, {k: v[part] for k, v in a.items()}).evidence["place"] == place
        assert only_cause({k: v[part] for k, v in a.items()}, a).evidence["place"] == place

    def test_the_length_that_mgfn_adds(self) -> None:
        a = features()
        b = {k: np.concatenate([v, np.linalg.norm(v, axis=2, keepdims=True)], axis=2) for k, v in a.items()}
        assert "their length (L2)" in only_cause(a, b).sentence

    def test_other_widths_are_told(self) -> None:
        (found,) = compare(features(), features(dim=20, seed=2)).findings
        assert (found.kind, found.explains) == ("dim", False)


class TestValues:
    def test_one_factor(self) -> None:
        a = features()
        assert only_cause(a, {k: v * 255 for k, v in a.items()}).evidence["factor"] == pytest.approx(255)

    def test_rows_of_unit_length_either_way(self) -> None:
        a = features()
        b = {k: v / np.linalg.norm(v, axis=2, keepdims=True) for k, v in a.items()}
        assert only_cause(a, b).evidence == {"side": "B"}
        assert only_cause(b, a).evidence == {"side": "A"}

    def test_a_relu(self) -> None:
        a = {k: v - 0.7 for k, v in features().items()}
        assert only_cause(a, {k: np.maximum(v, 0) for k, v in a.items()}).kind == "relu"

    @pytest.mark.parametrize("shift", [2, -1])
    def test_a_shift_by_whole_clips(self, shift: int) -> None:
        whole = features((12, 14, 16))
        a = {k: v[3:-3] for k, v in whole.items()}
        b = {k: v[3 + shift : len(v) - 3 + shift] for k, v in whole.items()}
        cause = only_cause(a, b)
        assert (cause.kind, cause.evidence["clips"]) == ("time shift", shift)

    def test_unrelated_values_have_the_distance_and_cosine_that_the_formula_gives(self) -> None:
        a = {"v": np.tile(np.float32([3, 0]), (4, 1, 1)).reshape(4, 1, 2)}
        b = {"v": np.tile(np.float32([0, 4]), (4, 1, 1)).reshape(4, 1, 2)}
        found = compare(a, b)
        # |(3, -4)| over the longer of the two: 5 / 4.
        assert found.max_relative_l2 == pytest.approx(1.25)
        values = next(f for f in found.findings if f.kind == "values")
        assert values.evidence["cosine_median"] == 0.0


class TestRounding:
    def test_half_precision_shows_and_lies_between_the_tolerances(self) -> None:
        a = features((40, 40))
        b = {k: v.astype(np.float16) for k, v in a.items()}
        cause = only_cause(a, b)
        assert (cause.kind, cause.evidence) == ("float16", {"side": "B", "equal": 1.0})
        # A step is 2**-10 of a power of two, its error uniform up to half of it either way: about 2e-4 in the mean.
        assert TOLERANCE < relative_l2(a["v0"], b["v0"]) < 3e-4 < HALF_TOLERANCE
        assert only_cause(a, {k: v.astype(np.float32) for k, v in b.items()}).kind == "float16"
        assert only_cause(b, a).evidence["side"] == "A"

    def test_other_noise_of_that_size_is_not_called_so(self) -> None:
        random = np.random.default_rng(5)
        a = features((40, 40))
        b = {k: (v * (1 + 4e-4 * random.standard_normal(v.shape))).astype(np.float16) for k, v in a.items()}
        found = compare(a, b)
        assert found.causes == ()
        assert "float16" in {f.kind for f in found.findings}

    def test_a_change_is_found_under_the_rounding(self) -> None:
        a = features((40, 40))
        found = compare(a, {k: (v * 255).astype(np.float16) for k, v in a.items()})
        assert [(f.kind, f.explains) for f in found.findings] == [("scale", True), ("float16", False)]

    def test_equal_half_precision_is_the_same(self) -> None:
        b = {k: v.astype(np.float16) for k, v in features().items()}
        assert not compare(b, {k: v.copy() for k, v in b.items()}).differs
        assert is_half(b["v0"])
        assert not is_half(features()["v0"])

    def test_six_decimals_are_told_and_harmless(self) -> None:
        a = features()
        b = {k: np.round(v.astype(np.float64), 6).astype(np.float32) for k, v in a.items()}
        found = compare(a, b)
        assert not found.differs
        assert [(f.kind, f.evidence) for f in found.findings] == [("decimals", {"side": "B", "places": 6})]

    def test_three_decimals_are_a_difference(self) -> None:
        a = {k: v / 10 for k, v in features().items()}
        cause = only_cause(a, {k: np.round(v.astype(np.float64), 3) for k, v in a.items()})
        assert (cause.kind, cause.evidence["places"]) == ("decimals", 3)


def test_a_finding_has_a_kind_of_the_table() -> None:
    with pytest.raises(ValueError, match="got 'colour'"):
        Finding(kind="colour", sentence="")
    assert "tail" in KINDS


def test_each_array_is_read_once() -> None:
    class Counted(dict[str, NDArray[Any]]):
        reads = 0

        def __getitem__(self, name: str) -> NDArray[Any]:
            Counted.reads += 1
            return super().__getitem__(name)

    assert not compare(Counted(features()), Counted(features())).differs
    assert Counted.reads == 6
