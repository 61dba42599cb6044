"""``vadx export`` of features: another repository's files with its lists and ground truth, read again by its rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support import Ran
from vadx.features import Store
from vadx.features.layouts import FITS, LAYOUTS
from vadx.pipelines.cli.export import export

Vadx = Callable[..., Ran]

MANIFEST = """id,label,class,split,spans
Abuse/clip001_x264,1,Abuse,train,
Abuse/clip003_x264,1,Abuse,test,4:12
Abuse/clip005_x264,1,Abuse,train,
Normal/clip000_x264,0,,train,
Normal/clip002_x264,0,,test,
Normal/clip004_x264,0,,train,
"""


@pytest.fixture
def command(tmp_path: Path, store: Path) -> tuple[str | Path, ...]:
    (tmp_path / "labels.csv").write_text(MANIFEST)
    return ("export", "tiny", "--store", store, "--manifest", "labels.csv")


def test_features_are_exported_and_fit(tmp_path: Path, store: Path, command: tuple[str, ...], vadx_here: Vadx) -> None:
    ran = vadx_here(*command, "--format", "npy", "--to", "out")
    assert ran.code == 0, ran.err
    found = sorted((tmp_path / "out").rglob("*.npy"))
    assert found
    values = Store(store)["tiny"]["Abuse/clip001_x264"].values
    exported = next(path for path in found if "clip001" in path.name)
    np.testing.assert_array_equal(np.load(exported).reshape(values.shape), values)
    checked = vadx_here("export", "--format", "npy", "--to", "out", "--check")
    assert checked.code == 0, checked.out


def test_a_check_finds_what_no_longer_fits(tmp_path: Path, command: tuple[str, ...], vadx_here: Vadx) -> None:
    assert vadx_here(*command, "--format", "ekosman", "--to", "out").code == 0
    victim = next(path for path in (tmp_path / "out").rglob("*clip001*") if path.is_file())
    victim.unlink()
    ran = vadx_here("export", "--format", "ekosman", "--to", "out", "--check", "--json")
    assert ran.code == 4
    assert any("clip001" in problem for problem in json.loads(ran.out)["problems"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "rtfn", "--to", "out"), "rtfm"),
        (("--format", "npy"), "--to FOLDER"),
        (("Abuse/clip001_x264", "--format", "npy", "--to", "out"), "are for tubes"),
        (("--to", "out"), "--formats"),
        (("--format", "rtfm", "--to", "out", "--data-set", "ucf"), "ucf-crime"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, command: tuple[str, ...], vadx_here: Vadx, arguments: tuple[str, ...], words: str
) -> None:
    ran = vadx_here(*command, *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert not (tmp_path / "out").exists()


def test_formats_are_listed(vadx_here: Vadx) -> None:
    shown = vadx_here("export", "--formats").out
    assert all(name in shown for name in (*LAYOUTS, "mot, coco, csv"))
    fits = next(option.type.choices for option in export.params if option.name == "fit")
    assert list(fits) == list(FITS)
