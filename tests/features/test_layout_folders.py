"""Folders of layouts: whole or resumed, never mixed; what was changed since is found, what was made to harm refused."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vadx.errors import NoInputError, UsageError
from vadx.features.layouts import OWN, check_layout, export_layout, import_layout, video_folders
from vadx.features.layouts.marker import MARKER
from vadx.features.timeline import ClipFeatures

from .layout_samples import UCF, features_of, manifest_of

MANIFEST = manifest_of(UCF)


pytestmark = pytest.mark.usefixtures("no_power_loss")


def export(name: str, folder: Path, **more: Any) -> Mapping[str, ClipFeatures]:
    crops = 1 if name in {"wsal", "sultani", "ekosman", "mist", "arnet", "lad"} else 10
    tail = "floor" if name in {"arnet", "lad", "mist"} else "ceil"
    features = features_of(UCF, num_crops=crops, tail=tail)
    export_layout(name, MANIFEST, features, folder, **more)
    return features


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()}


def read_all(name: str, folder: Path) -> list[Any]:
    return list(import_layout(name, folder))


# ---- one folder holds one export, whole ----


class Interrupted(Mapping[str, ClipFeatures]):
    """Features of which the last cannot be read."""

    def __init__(self, features: Mapping[str, ClipFeatures], *, reads: int) -> None:
        self._features, self._left = features, reads

    def __getitem__(self, key: str) -> ClipFeatures:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._features[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


@pytest.mark.parametrize("name", ["rtfm", "wsal", "urdmu"])
def test_an_interrupted_export_is_resumed_by_the_same_call(name: str, tmp_path: Path) -> None:
    features = export(name, tmp_path / "whole", prefix="x")
    with pytest.raises(KeyboardInterrupt):
        export_layout(name, MANIFEST, Interrupted(features, reads=9), tmp_path / "out", prefix="x")
    problems = check_layout(name, tmp_path / "out").problems
    assert any("interrupted" in problem for problem in problems)
    assert len(problems) > 1
    left_over = tmp_path / "out/.vadx-tmp/killed.part"
    left_over.write_bytes(b"half a file")
    export_layout(name, MANIFEST, features, tmp_path / "out", prefix="x")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert check_layout(name, tmp_path / "out").is_clean


def test_the_same_export_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    export("rtfm", tmp_path)
    before = contents(tmp_path)
    export("rtfm", tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    export("rtfm", tmp_path / "out", prefix="x")
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match="another export, with layout 'rtfm' and not 'urdmu'"):
        export("urdmu", tmp_path / "out", prefix="x")
    with pytest.raises(UsageError, match="another export, of other videos or labels"):
        export_layout("rtfm", manifest_of(UCF[:-1]), features_of(UCF), tmp_path / "out", prefix="x")
    assert contents(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds what no vadx exported"):
        export("rtfm", tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"notes.txt": b"mine"}
    with pytest.raises(UsageError, match="is a file; name a folder"):
        export("rtfm", tmp_path / "mine/notes.txt")


def test_features_that_change_under_way_end_the_export(tmp_path: Path) -> None:
    class Changing(dict[str, ClipFeatures]):
        reads = 0

        def __getitem__(self, key: str) -> ClipFeatures:
            self.reads += 1
            return super().__getitem__(key) if self.reads <= len(self) else shorter[key]

    shorter = features_of(UCF, dim=5)
    with pytest.raises(UsageError, match="leave the feature set alone"):
        export_layout("rtfm", MANIFEST, Changing(features_of(UCF)), tmp_path)


def test_an_export_may_be_moved(tmp_path: Path) -> None:
    features = export("rtfm", tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert check_layout("rtfm", tmp_path / "there").is_clean
    assert {found.id for found in import_layout("rtfm", tmp_path / "there")} == features.keys()


# ---- what a check finds ----


def edit(relative: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / relative
        path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))

    return act


def save(relative: str, values: Any) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / relative, values)


def remove(relative: str) -> Callable[[Path], None]:
    return lambda folder: (folder / relative).unlink()


TRAIN, TEST = "list/train.list", "list/test.list"

FOUND: Mapping[str, tuple[str, Callable[[Path], None], str]] = {
    "lines in another order": ("rtfm", edit(TRAIN, lambda lines: lines[::-1]), "entry 0 is 'Normal_Videos001_x264'"),
    "a line twice": ("rtfm", edit(TEST, lambda lines: [*lines, lines[0]]), "would find 4 videos, and 3 were exported"),
    "a missing file": ("rtfm", remove("features/train/Abuse001_x264_i3d.npy"), "would stop after 0 videos"),
    "other clips": (
        "rtfm",
        save("features/test/Abuse028_x264_i3d.npy", np.ones((5, 10, 6), "f4")),
        "has 192 labels, and the scores of the test videos would be 176",
    ),
    "labels cut off": ("rtfm", save("list/gt.npy", np.zeros(100, "f4")), "has 100 labels, and .* would be 192"),
    "labels of another video": ("rtfm", save("list/gt.npy", np.ones(192, "f4")), "48 of 48 labels of 'Normal_Videos_0"),
    "no labels": ("rtfm", remove("list/gt.npy"), "cannot be read"),
    "crops in another order": (
        "urdmu",
        edit("list/UCF_Train.list", lambda lines: [lines[1], lines[0], *lines[2:]]),
        "the crops of .* do not follow each other",
    ),
    "a crop left out": ("urdmu", edit("list/UCF_Test.list", lambda lines: lines[1:]), "29 lines are no multiple of 10"),
    "a file that no export wrote": (
        "sultani",
        lambda folder: shutil.copy(
            folder / "train/Normal/Normal_Videos001_x264_C.txt", folder / "train/Normal/more_C.txt"
        ),
        "would find 4 videos, and 3",
    ),
    "a third folder": ("sultani", lambda folder: (folder / "train/A").mkdir(), "takes the first two folders"),
    "a label changed": (
        "mist",
        edit("SH_Train_new.txt", lambda lines: [line.replace(",1", ",0") for line in lines]),
        "'Abuse001_x264' would be labelled 0, and is 1",
    ),
    "a line of something else": ("mist", edit("SH_Train_new.txt", lambda _: ["hello"]), "would stop after 0 videos"),
    "a class changed": (
        "vadclip",
        edit("list/ucf_CLIP_rgb.csv", lambda lines: [line.replace(",Abuse", ",Normal") for line in lines]),
        "would be labelled 0",
    ),
    "a header missing": ("vadclip", edit("list/ucf_CLIP_rgb.csv", lambda lines: lines[1:]), "expected the columns"),
    "a mask file missing": ("wsal", remove("gcn_mask.hdf5"), "gcn_mask.hdf5"),
}


@pytest.mark.parametrize("case", FOUND)
def test_a_check_finds(case: str, tmp_path: Path) -> None:
    name, change, message = FOUND[case]
    export(name, tmp_path)
    assert check_layout(name, tmp_path).is_clean
    change(tmp_path)
    checked = check_layout(name, tmp_path)
    assert not checked.is_clean
    assert re.search(message, "\n".join(checked.problems)), checked.problems


def test_only_an_export_can_be_checked(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="holds no export of vadx"):
        check_layout("rtfm", tmp_path)
    export("rtfm", tmp_path)
    with pytest.raises(UsageError, match="an export of the layout rtfm, not urdmu"):
        check_layout("urdmu", tmp_path)
    with pytest.raises(UsageError, match="import it as rtfm"):
        import_layout("urdmu", tmp_path)


# ---- what was made to harm ----


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_pickle_is_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    attack = pickle.dumps({"Abuse001_x264": Canary(canary)})
    export("arnet", tmp_path / "arnet")
    for which in ("frame_label", "video_label"):
        folder = tmp_path / which
        shutil.copytree(tmp_path / "arnet", folder)
        (folder / f"shanghaitech/GT/{which}.pickle").write_bytes(attack)
        assert any("no other is unpickled" in problem for problem in check_layout("arnet", folder).problems)
    export("gcn", tmp_path / "gcn", data_set="ucf-crime")
    (tmp_path / "gcn/pygcn/ucf_crime_train.pkl").write_bytes(attack)
    assert any("nothing else is unpickled" in problem for problem in check_layout("gcn", tmp_path / "gcn").problems)
    release = tmp_path / "release"
    release.mkdir()
    np.save(release / "a_i3d.npy", np.array([Canary(canary)], object), allow_pickle=True)
    with pytest.raises(UsageError, match="features are numbers"):
        read_all("rtfm", release)
    assert not canary.exists()
    # The attack works where a pickle is trusted.
    pickle.loads(attack)  # noqa: S301  # made above
    assert canary.exists()


def test_each_guard_of_label_pickles_holds_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    attack = pickle.dumps({"a": Canary(canary)}, protocol=2)
    with pytest.raises(ValueError, match="it holds the opcode"):
        video_folders._check_opcodes(attack)
    with pytest.raises(ValueError, match="at place 2147483647 of its memo"):
        video_folders._check_opcodes(b"\x80\x02}r\xff\xff\xff\x7f.")
    monkeypatch.setattr(video_folders, "_check_opcodes", lambda _data: None)
    (tmp_path / "labels.pickle").write_bytes(attack)
    with pytest.raises(UsageError, match="it names "):
        video_folders.read_label_pickle(tmp_path / "labels.pickle")
    assert not canary.exists()


@pytest.mark.parametrize(
    "hostile",
    [
        b"cnumpy\narray\n(\x85R.",
        b"\x80\x02}X\x01\x00\x00\x00acnumpy\narray\n\x85Rs.",
        b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00a\x85R.",
        b"\x80\x02r\xff\xff\xff\x7f}.",
        b"\x80\x02]\x85\x85.",
        b"",
    ],
)
def test_label_pickles_hold_rows_and_nothing_else(hostile: bytes, tmp_path: Path) -> None:
    export("lad", tmp_path)
    (tmp_path / "LAD2000/GT/frame_label_IET.pickle").write_bytes(hostile)
    assert not check_layout("lad", tmp_path).is_clean


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


ARRAYS: Mapping[str, tuple[bytes, str]] = {
    "claims a terabyte": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 250000)}"),
        "it is cut off",
    ),
    "negative": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1, 4)}", b"0" * 16), "features are num"),
    "a record": (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", b"0" * 4), "are numbers"),
    "whole numbers": (npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 1, 1)}", b"0" * 4), "are floating"),
    "one axis": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"0" * 4), "with 2 or 3 axes"),
    "no clip": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1, 4)}"), "holds no clips"),
    "an expression": (npy("__import__('os').getcwd()"), "is no array of numpy"),
    "text": (b"hello", "is no array of numpy"),
    "nothing": (b"", "is no array of numpy"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_are_none_are_refused(case: str, tmp_path: Path) -> None:
    content, message = ARRAYS[case]
    (tmp_path / "a_i3d.npy").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_all("rtfm", tmp_path)


def test_arrays_in_fortran_order_and_double_precision_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 10, 4))
    np.save(tmp_path / "a_i3d.npy", np.asfortranarray(values))
    np.testing.assert_array_equal(read_all("rtfm", tmp_path)[0].values, values.astype(np.float32))


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret_i3d.npy"
    np.save(secret, np.ones((2, 10, 6), np.float32))
    export("rtfm", tmp_path / "out", prefix="x")
    path = tmp_path / "out" / TRAIN
    for line in (str(secret), "x/../secret_i3d.npy", "x//secret_i3d.npy"):
        path.write_text(f"{line}\n")
        problems = check_layout("rtfm", tmp_path / "out").problems
        assert any("nothing outside" in problem for problem in problems)
    marker = json.loads((tmp_path / "out" / MARKER).read_text())
    for name, value in (
        ("id", "../secret"),
        ("name", "../../../secret"),
        ("name", "/etc/x"),
        ("name", ".."),
        ("id", "a/../../b"),
    ):
        changed = json.loads(json.dumps(marker))
        changed["videos"][0][name] = value
        (tmp_path / "out" / MARKER).write_text(json.dumps(changed))
        with pytest.raises(UsageError, match="cannot be read"):
            import_layout("rtfm", tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"vadx_export": 2}', '{"vadx_export": 1, "videos": []}', '{"vadx_export": 1, "videos": [3]}'],
)
def test_notes_that_cannot_be_meant_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(UsageError, match=f"{MARKER} cannot be read"):
        import_layout("rtfm", tmp_path)


def test_hdf5_links_to_elsewhere_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "elsewhere.bin", "w") as file:
        file["a"] = np.ones((2, 4), np.float32)
    for number, link in enumerate((h5py.ExternalLink("../elsewhere.bin", "a"), h5py.SoftLink("/nowhere"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        with h5py.File(folder / "gcn_feas.hdf5", "w") as file:
            file["a"] = link
        with pytest.raises(UsageError, match="a link to somewhere else"):
            read_all("wsal", folder)
    folder = tmp_path / "external"
    folder.mkdir()
    with h5py.File(folder / "gcn_feas.hdf5", "w") as file:
        file.create_dataset("a", (2, 4), "f4", external=[("../elsewhere.bin", 0, 32)])
    with pytest.raises(UsageError, match="stored outside the file"):
        read_all("wsal", folder)
    (folder / "gcn_feas.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(UsageError, match="is no HDF5 file of features"):
        read_all("wsal", folder)


def test_archives_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    image = io.BytesIO()
    np.save(image, np.zeros((2000, 10, 1024), np.float32))
    with zipfile.ZipFile(tmp_path / "a_rgb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.npy", image.getvalue())
    with pytest.raises(UsageError, match="scores claims 81920128 bytes"):
        read_all("gcn", tmp_path)
    np.savez(tmp_path / "a_rgb.npz", scores=np.ones((3, 10, 4), "f4"))
    with pytest.raises(UsageError, match="no archive with the arrays"):
        read_all("gcn", tmp_path)
    np.savez(tmp_path / "a_rgb.npz", scores=np.ones((3, 10, 4), "f4"), begin_idx=np.arange(2))
    with pytest.raises(UsageError, match="scores of 3 clips"):
        read_all("gcn", tmp_path)


@pytest.mark.parametrize("text", ["1 2\n3\n", "1 x\n", "nan 1\n", "1e99 1\n", ""])
def test_rows_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a_C.txt").write_text(text)
    with pytest.raises(UsageError, match="Nothing of this folder was read further"):
        read_all("sultani", tmp_path)


def test_crops_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    for crop, num_clips in ((0, 3), (1, 3), (2, 2)):
        np.save(tmp_path / f"a__{crop}.npy", np.ones((num_clips, 4), np.float32))
    with pytest.raises(UsageError, match="differ in shape"):
        read_all("urdmu", tmp_path)
    (tmp_path / "a__1.npy").unlink()
    with pytest.raises(UsageError, match="between the first and the last is missing"):
        read_all("urdmu", tmp_path)


def test_a_folder_without_files_of_the_layout_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt.bak").write_text("hello")
    for name in ("rtfm", "urdmu", "wsal", "gcn", "mist", "arnet", "npy", "sultani"):
        with pytest.raises(NoInputError, match=f"holds no file of the layout {name}"):
            read_all(name, tmp_path)


def test_a_published_bag_is_read(field_data: Path) -> None:
    found = {one.id: one.values for one in import_layout("sultani", field_data / "features")}
    assert {values.shape for values in found.values()} == {(32, 1, 4096)}
    # Six decimals: each length is off by less than 1e-6.
    assert all(abs(np.linalg.norm(rows, axis=2) - 1).max() < 1e-6 for rows in found.values())
    assert OWN not in found
