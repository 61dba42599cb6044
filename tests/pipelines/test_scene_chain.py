"""What the benchmark of methods claims is held against its numbers, without any training."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from support import REPOSITORY


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("methods_benchmark", REPOSITORY / "benchmarks" / "methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # As Python does for a script that is run.
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        spec.loader.exec_module(module)
    return module


def row(auc: float, gain: float = 0.1, low: float = 0.05) -> dict[str, Any]:
    return {"frame_auc": {"value": auc}, "above_baseline": {"value": gain, "low": low, "high": gain + 0.1}}


def tubes(method: float, random: float) -> dict[str, Any]:
    found = {name: {"miou": value} for name, value in (("method", method), ("random", random), ("best", 1.0))}
    return {"tubes": {"localisation": {"detector": found}}}


def test_claims_hold_only_by_their_own_numbers(benchmark: ModuleType) -> None:
    rows = {"svm": {"frame_auc": {"value": 0.5}}, "a": row(0.61), "b": row(0.60), "c": row(0.9, 0.019, -0.1)}
    claims = benchmark.judge_claims(rows)
    assert claims["auc"]["missed_by"] == ["b"]
    assert claims["gain"]["missed_by"] == ["c"]
    assert not claims["clear"]["holds"]
    assert claims["clear"]["of"] == ["a", "b"]
    assert claims["tubes"]["holds"] is None
    rows["mgpr"] = row(0.7) | tubes(0.2, 0.1)
    claims = benchmark.judge_claims(rows)
    assert claims["clear"]["holds"]
    assert claims["tubes"]["holds"]
    rows["mgpr"] |= tubes(0.19, 0.1)
    assert not benchmark.judge_claims(rows)["tubes"]["holds"]


def test_an_interval_that_is_missing_is_no_proof(benchmark: ModuleType) -> None:
    lone = row(0.7)
    lone["above_baseline"] |= {"low": None, "high": None}
    assert benchmark.judge_claims({"svm": {}, "a": lone})["clear"]["of"] == []
