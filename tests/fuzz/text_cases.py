"""Lists, tables, notes, arrays and checkpoints that an accident or an enemy changed, through their readers."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vadx.detectors.detection_files import read_detections
from vadx.features.annotations import read_annotations, read_own_list
from vadx.features.box_annotations import read_box_truth
from vadx.features.index import load_index
from vadx.features.layouts.files import npy_bytes, read_npy
from vadx.features.layouts.marker import read_marker
from vadx.features.manifest import ManifestEntry, manifest_text, read_manifest
from vadx.features.plain_json import load_json
from vadx.features.store import FeatureSet, open_shard_set
from vadx.features.truth_readers import read_counts, read_masks, read_shares

from .mutations import Random, change_bytes, change_text
from .rotten import FAILED, make_store


@dataclass(frozen=True, slots=True)
class Subject:
    """A file's sound content, where it lies, and what reads it."""

    name: str
    right: bytes
    path: Path
    read: Callable[[], object]
    is_text: bool = True


ENTRIES = (
    ManifestEntry(id="Abuse/Abuse028_x264", label=1, split="test", spans=[(165, 240)], num_frames=1412),
    ManifestEntry(id="Normal/Normal_Videos_003_x264", label=0, split="train"),
)
UCF = b"Abuse028_x264.mp4  Abuse  165  240  -1  -1\nNormal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n"
XD = b"v=38GQ9L2meyE__#1_label_B6-0-0 90 500 600 700\nBad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6 0 195\n"
SHARES = json.dumps([{"video_path": "a/b.mp4", "anomaly_span": [[0.1, 0.5]]}, {"path": "c.mp4", "anomaly_span": []}])
VATIC = b'0 10 20 30 40 0 0 0 0 "person"\n0 11 21 31 41 1 0 1 0 "person"\n'
MOT = b"1,1,10,20,30,40,0.9,1,1\n2,1,11,21,30,40,0.8,1,1\n"
COCO = b'[{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]'
CSV = b"frame,x1,y1,x2,y2,score,label\n0,1,2,3,4,0.5,1\n1,1,2,3,4,0.5,1\n"
COUNTS = b"Abuse028_x264 1412\nNormal_Videos_003_x264 2820\n"
TOML = b'[extract]\nbackbone = ["tiny"]\nbatch = 3\n[cluster.a]\npartition = "gpu"\ngpus = 1\ntime = "1:00:00"\n'
MARKER = json.dumps({"vadx_export": 1, "layout": "rtfm", "videos": [{"name": "a", "spans": [[0, 3]]}], "recipe": {}})
BOXES = {"Abuse028": [["x/image_0861.jpg", 1, 2, 30, 40], ["x/image_0877.jpg", 1, 2, 30, 40]]}


class TextCases:
    """Makes and reads changed files of every kind that people, other tools and strangers hand to vadx."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self._subjects = [*self._lists(), *self._boxes(), *self._arrays(), *self._notes(), *self._networks()]

    def run(self, random: Random) -> str:
        subject = self._subjects[int(random.integers(len(self._subjects)))]
        changed = (change_text if subject.is_text else change_bytes)(subject.right, random)
        subject.path.write_bytes(changed)
        try:
            subject.read()
        finally:
            subject.path.write_bytes(subject.right)
        return f"{subject.name}; read"

    def _subject(self, name: str, right: bytes, read: Callable[[Path], object], *, is_text: bool = True) -> Subject:
        path = self._folder / name.replace(" ", "-") / Path(name.split(" ")[-1])
        path.parent.mkdir()
        path.write_bytes(right)
        return Subject(name, right, path, lambda: read(path), is_text)

    def _lists(self) -> list[Subject]:
        return [
            *(
                self._subject(f"manifest m.{kind}", manifest_text(ENTRIES, kind).encode(), read_manifest)
                for kind in ("csv", "jsonl")
            ),
            *(
                self._subject(
                    f"annotations {name} list.txt", content, lambda path, name=name: read_annotations(name, [path])
                )
                for name, content in (("ucf-crime", UCF), ("xd-violence", XD))
            ),
            self._subject("own list.txt", UCF, read_own_list),
            self._subject("shares list.json", SHARES.encode(), read_shares),
            self._subject("counts counts.txt", COUNTS, read_counts),
        ]

    def _boxes(self) -> list[Subject]:
        boxes = pickle.dumps(BOXES, protocol=2)
        return [
            self._subject("boxes vatic.txt", VATIC, read_box_truth),
            self._subject("boxes mot.txt", MOT, lambda path: read_box_truth(path, format="mot")),
            self._subject("boxes pickle.pkl", boxes, read_box_truth, is_text=False),
            self._subject("detections det.txt", MOT, read_detections),
            self._subject("detections det.json", COCO, read_detections),
            self._subject("detections det.csv", CSV, read_detections),
        ]

    def _arrays(self) -> list[Subject]:
        from vadx.pipelines.score_files import read_score_folder

        scores = npy_bytes(np.linspace(0, 1, 50, dtype=np.float32))
        rows = b"frame,score\n" + b"".join(b"%d,%.2f\n" % (n, n / 50) for n in range(50))
        return [
            self._subject("array a.npy", npy_bytes(np.ones((3, 2, 4), np.float32)), read_npy, is_text=False),
            self._subject("masks 01_0014.npy", npy_bytes(np.ones(9, np.uint8)), _masks, is_text=False),
            self._subject("scores s.npy", scores, lambda path: read_score_folder(path.parent), is_text=False),
            self._subject("score table s.csv", rows, lambda path: read_score_folder(path.parent)),
        ]

    def _notes(self) -> list[Subject]:
        made = make_store(self._folder / "set")

        def note(name: str, path: Path, read: Callable[[], object]) -> Subject:
            return Subject(name, path.read_bytes(), path, read)

        return [
            note("recipe.json", made.path / "recipe.json", lambda: open_shard_set(made.path)),
            note("failed.json", made.failure_path(FAILED.id), made.failures),
            note(
                "index.json", made.index_path, lambda: (load_index(made.index_path).sources, len(FeatureSet(made.path)))
            ),
            self._subject("any json.json", b'{"a": [1, 2.5, null], "b": {"c": "d"}}', _json),
            self._subject("marker vadx_export.json", MARKER.encode(), lambda path: read_marker(path.parent)),
            self._subject("settings vadx.toml", TOML, _settings),
        ]

    def _networks(self) -> list[Subject]:
        import torch

        from vadx.extract.checkpoints import read_checkpoint
        from vadx.pipelines.model_folder import STATE, read_facts, read_tensors, write_facts, write_tensors

        state = {"conv.weight": torch.arange(60.0).reshape(3, 4, 5), "conv.bias": torch.zeros(3)}
        images = {name: io.BytesIO() for name in ("zip.pt", "old.pth", "a.npz", "b.pkl")}
        torch.save({"state_dict": state, "epoch": 3}, images["zip.pt"])
        torch.save(state, images["old.pth"], _use_new_zipfile_serialization=False)
        np.savez(images["a.npz"], **{name: tensor.numpy() for name, tensor in state.items()})
        pickle.dump({"blobs": {name: tensor.numpy() for name, tensor in state.items()}}, images["b.pkl"], protocol=2)
        model = self._folder / "model"
        model.mkdir()
        write_facts(model, {"method": "deepmil", "dim": 8, "settings": {}})
        write_tensors(model / STATE, state, {"last": {"iteration": 3, "measured": 0.5}, "best": None})
        tensors, facts = model / STATE, model / "model.json"
        return [
            *(
                self._subject(f"checkpoint {name}", image.getvalue(), read_checkpoint, is_text=False)
                for name, image in images.items()
            ),
            Subject("model.json", facts.read_bytes(), facts, lambda: read_facts(model)),
            Subject("state.safetensors", tensors.read_bytes(), tensors, lambda: read_tensors(tensors), is_text=False),
        ]


def _masks(path: Path) -> object:
    return read_masks(path.parent)


def _json(path: Path) -> object:
    try:
        return load_json(path)
    except ValueError:
        # What it says it raises: each of its callers names the file.
        return None


def _settings(path: Path) -> object:
    from vadx.pipelines.cli import COMMANDS
    from vadx.pipelines.config import cluster_tables, default_map

    os.environ["VADX_CONFIG"] = str(path)
    try:
        return default_map(COMMANDS), cluster_tables()
    finally:
        del os.environ["VADX_CONFIG"]
