"""``vadx bags`` and `vadx.BagDataset`: made once, stale when anything behind them changed, read in any process."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from support import Ran
from vadx import BagDataset
from vadx.errors import UsageError
from vadx.features import Store, make_bag
from vadx.features.bag_rules import SEGMENTATIONS
from vadx.features.manifest import SPLITS
from vadx.pipelines.cli.bags import bags

from .forking import IDS, TINY

Vadx = Callable[..., Ran]

MANIFEST = """id,label,class,split
Abuse/clip001_x264,1,Abuse,train
Abuse/clip003_x264,1,Abuse,test
clip000_x264,0,,train
Normal/clip002_x264,0,,train
Nowhere/clip099_x264,0,,train
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def made(store: Path, manifest: Path, vadx_here: Vadx) -> Path:
    ran = vadx_here("bags", "tiny", "--store", store, "--rule", "rtfm", "--manifest", manifest)
    assert ran.code == 0, ran.err
    return Path(ran.out.strip())


def test_every_stored_video_gives_a_bag(store: Path, vadx_here: Vadx) -> None:
    ran = vadx_here("bags", "tiny", "--store", store, "--rule", "rtfm", "--json")
    report = json.loads(ran.out)
    assert (report["status"], report["bags"], report["shape"]) == ("made", 6, [32, 1, 8])
    assert report["labels"] == {"anomalous": 0, "normal": 0, "unknown": 6}
    feature_set = Store(store)["tiny"]
    with h5py.File(report["path"], locking=False) as file:
        assert file["ids"].asstr()[:].tolist() == IDS
        for number, identifier in enumerate(IDS):
            bag = make_bag(feature_set[identifier], "rtfm")
            np.testing.assert_array_equal(file["features"][number], bag.features)
            np.testing.assert_array_equal(file["frames"][number], bag.frames)


def test_labels_come_from_the_manifest_and_what_does_not_fit_is_told(
    store: Path, manifest: Path, vadx_here: Vadx
) -> None:
    ran = vadx_here("bags", "tiny", "--store", store, "--rule", "rtfm", "--manifest", manifest, "--json")
    report = json.loads(ran.out)
    assert report["labels"] == {"anomalous": 2, "normal": 2, "unknown": 0}
    assert report["unlisted"] == ["Abuse/clip005_x264", "Normal/clip004_x264"]
    assert report["not_stored"] == ["Nowhere/clip099_x264"]
    told = vadx_here("bags", "tiny", "--store", store, "--rule", "rtfm", "--manifest", manifest, "--split", "train")
    assert "3 bags of 32 x 1 x 8" in told.err
    assert "1 anomalous, 2 normal" in told.err


def test_bags_are_made_again_only_when_something_behind_them_changed(
    store: Path, manifest: Path, vadx_here: Vadx, own_videos: Path
) -> None:
    def status(*arguments: str) -> str:
        ran = vadx_here("bags", "tiny", "--store", store, "--rule", "rtfm", "--to", "b.h5", *arguments, "--json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)["status"]

    assert [status(), status()] == ["made", "current"]
    assert [status("--manifest", str(manifest)), status("--manifest", str(manifest))] == ["made", "current"]
    manifest.write_text(MANIFEST.replace("clip003_x264,1,Abuse", "clip003_x264,0,"))
    assert status("--manifest", str(manifest)) == "made"
    assert status("--segments", "16") == "made"
    assert status("--crop-pool", "0", "--segments", "16") == "made"
    assert status("--crop-pool", "0", "--segments", "16") == "current"
    (own_videos / "Abuse" / "clip001_x264.mp4").write_bytes((own_videos / "Abuse" / "clip003_x264.mp4").read_bytes())
    assert vadx_here(*TINY, own_videos, "--out", store).code == 0
    assert status("--crop-pool", "0", "--segments", "16") == "made"


def test_equal_choices_give_equal_bytes(store: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    for name in ("1.h5", "2.h5"):
        assert vadx_here("bags", "tiny", "--store", store, "--rule", "rtfm", "--to", name).code == 0
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rule", "rtfn"), "rtfm"),
        (("--crop-pool", "max"), "keep, mean or the number of a crop"),
        (("--crop-pool", "3"), "below 1"),
        (("--split", "train"), "--manifest FILE"),
    ],
)
def test_what_cannot_be_meant_is_refused(store: Path, vadx_here: Vadx, arguments: tuple[str, ...], words: str) -> None:
    ran = vadx_here("bags", "tiny", "--store", store, *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert not list(store.rglob("bags/*"))


def test_another_file_is_not_written_over(store: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    ran = vadx_here("bags", "tiny", "--store", store, "--rule", "rtfm", "--to", "thesis.tex")
    assert ran.code == 1
    assert "not a bags file" in ran.err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_rules_are_listed(vadx_here: Vadx) -> None:
    assert vadx_here("bags").code == 2
    shown = vadx_here("bags", "--rules").out
    assert all(name in shown for name in SEGMENTATIONS)
    splits = next(option.type.choices for option in bags.params if option.name == "split")
    assert set(splits) == {split for split in SPLITS if split}


def test_a_dataset_gives_what_the_file_holds(made: Path) -> None:
    dataset = BagDataset(made)
    assert (len(dataset), dataset.shape) == (4, (32, 1, 8))
    item = dataset[1]
    assert (item["id"], item["label"], item["class_name"]) == ("Abuse/clip003_x264", 1, "Abuse")
    assert item["features"].dtype == torch.float32
    np.testing.assert_array_equal(item["features"].numpy(), dataset.file[1].features)
    assert [BagDataset(made, label=0)[n]["id"] for n in range(2)] == ["Normal/clip000_x264", "Normal/clip002_x264"]
    assert BagDataset(made, ids=["Normal/clip002_x264"])[0]["id"] == "Normal/clip002_x264"


def test_a_dataset_refuses_what_is_not_there(made: Path, store: Path, vadx_here: Vadx) -> None:
    with pytest.raises(UsageError, match="has no bag of 'x'"):
        BagDataset(made, ids=["x"])
    with pytest.raises(UsageError, match="no bag has the label -1"):
        BagDataset(made, label=-1)
    with pytest.raises(UsageError, match="a label is one of"):
        BagDataset(made, label=2)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_for_themselves(made: Path, start: str) -> None:
    dataset = BagDataset(made)
    # An open handle must not cross into a worker.
    first = dataset[0]["features"]
    loader = DataLoader(dataset, batch_size=3, num_workers=2, multiprocessing_context=start)
    batches = list(loader)
    assert [len(batch["id"]) for batch in batches] == [3, 1]
    torch.testing.assert_close(torch.cat([batch["features"] for batch in batches])[0], first, rtol=0, atol=0)
    np.testing.assert_array_equal(torch.cat([batch["features"] for batch in batches]).numpy(), dataset.file.read_all())
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # what was just pickled here
    assert again[2]["id"] == dataset[2]["id"]


def test_a_packed_file_stands_for_its_set(store: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    assert vadx_here("pack", "tiny", "--store", store, "--to", "tiny.h5").code == 0
    assert vadx_here("ls", "tiny.h5", "-q").out == vadx_here("ls", "tiny", "--store", store, "-q").out
    for source in (("tiny", "--store", store), ("tiny.h5",)):
        assert vadx_here("bags", *source, "--rule", "rtfm", "--to", f"{len(source)}.h5").code == 0
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "3.h5").read_bytes()
    assert vadx_here("bags", "tiny.h5", "--rule", "rtfm").out.strip().endswith("tiny-bags/rtfm-keep.h5")
    assert vadx_here("gc", "tiny.h5", "--yes").code == 2
