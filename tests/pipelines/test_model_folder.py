"""A model's folder that somebody edited, cut off or made by hand: what is wrong is said, and nothing is tried."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from vadx.errors import StoreError, VadxError
from vadx.pipelines.model_folder import MODEL_JSON, read_model, read_tensors

from .scoring_samples import write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, **changes: Any) -> None:
    facts = {name: value for name, value in json.loads((folder / MODEL_JSON).read_text()).items() if name != "check"}
    (folder / MODEL_JSON).write_text(json.dumps({**facts, **changes}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vadx_model", "1"),
        ("vadx_model", None),
        ("method", ["deepmil"]),
        ("settings", []),
        ("settings", None),
        ("dim", "8"),
        ("dim", True),
        ("dim", -1),
        ("dim", 10**12),
        ("num_crops", 0),
        ("num_segments", 0),
        ("num_segments", 10**9),
        ("rule", 5),
        ("recipe_digest", None),
        ("crop_pool", -1),
        ("bags_seed", "x"),
        ("classes", "ab"),
        ("classes", [1, 2]),
        ("set_name", {}),
        ("inputs", []),
    ],
)
def test_a_fact_that_cannot_be_is_refused_by_name(folder: Path, name: str, value: object) -> None:
    edit(folder, **{name: value})
    with pytest.raises(StoreError, match=rf"model\.json: .*{name}"):
        read_model(folder)


@pytest.mark.parametrize("name", ["method", "settings", "dim", "num_crops", "rule", "recipe_digest"])
def test_a_fact_that_is_needed_is_missed_by_name(folder: Path, name: str) -> None:
    facts = json.loads((folder / MODEL_JSON).read_text())
    del facts[name], facts["check"]
    (folder / MODEL_JSON).write_text(json.dumps(facts))
    with pytest.raises(StoreError, match=name):
        read_model(folder)


def test_a_network_larger_than_any_memory_is_refused(folder: Path) -> None:
    settings = json.loads((folder / MODEL_JSON).read_text())["settings"]
    edit(folder, settings={**settings, "first_units": 10**14})
    with pytest.raises(VadxError, match=r"model\.json"):
        read_model(folder)


@pytest.mark.parametrize("value", ["[" * 100_000, "[]", "3", '{"vadx_model": NaN}'])
def test_what_is_no_table_of_facts_is_no_model(folder: Path, value: str) -> None:
    (folder / MODEL_JSON).write_text(value)
    with pytest.raises(StoreError, match="no model of vadx"):
        read_model(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", [MODEL_JSON, "last.safetensors"])
def test_a_named_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(StoreError, match=name):
        read_model(folder)


@pytest.mark.parametrize("name", ["method", "dim", "crop_pool"])
def test_a_fact_that_was_changed_is_noticed_unless_the_check_is_gone(folder: Path, name: str) -> None:
    facts = json.loads((folder / MODEL_JSON).read_text())
    (folder / MODEL_JSON).write_text(json.dumps({**facts, "check": facts["check"]}))
    read_model(folder)
    (folder / MODEL_JSON).write_text(json.dumps({**facts, name: facts["method"] if name != "method" else "lad"}))
    with pytest.raises(StoreError, match=r"model\.json: it was changed after it was written"):
        read_model(folder)
    (folder / MODEL_JSON).write_text(json.dumps({key: value for key, value in facts.items() if key != "check"}))
    read_model(folder)


def test_a_flipped_bit_of_a_network_is_noticed_and_an_older_file_is_read(folder: Path) -> None:
    path = folder / "last.safetensors"
    content = path.read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    for at in range(8 + header_bytes, len(content), len(content) // 50):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(StoreError, match=r"last\.safetensors: .*damaged"):
            read_model(folder)
    path.write_bytes(content)
    tensors, header = read_tensors(path)
    save_file(tensors, path, {"vadx": json.dumps(header)})
    read_model(folder)
