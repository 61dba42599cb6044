from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vadx.features import Store

from .samples import make_features, make_recipe, make_shard

FOREIGN = (
    "torch",
    "torchvision",
    "av",
    "msgspec",
    "click",
    "rich_click",
    "rich",
    "pooch",
    "safetensors",
    "dask",
    "cv2",
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    recipe = make_recipe()
    made = Store(tmp_path / "store").create(recipe, slug="i3d")
    made.publish("Abuse/1", make_shard("Abuse/1", make_features(4, 2, 5), recipe_digest=recipe.digest), replace=False)
    return tmp_path / "store"


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_store_is_read_with_numpy_and_h5py_alone(store: Path) -> None:
    program = f"""
import json, sys
for name in {FOREIGN!r}:
    sys.modules[name] = None
from vadx.features import Store
found = Store(sys.argv[1])["i3d"]
video = found["Abuse/1"]
damage = [error for _, error in found.verify()]
print(json.dumps([list(found), video.values.tolist(), video.facts.width, found.recipe.digest, damage]))
"""
    ids, values, width, digest, damage = json.loads(run(program, str(store)))
    assert ids == ["Abuse/1"]
    assert values == make_features(4, 2, 5).values.tolist()
    assert (width, digest, damage) == (320, make_recipe().digest, [None])


LOAD_ALL = """
import sys, vadx.features
faces = [getattr(vadx.features, name) for name in vadx.features.__all__]
print(*sys.modules)
"""


def test_using_the_room_loads_no_other_rooms_library() -> None:
    loaded = {name.split(".")[0] for name in run(LOAD_ALL).split()}
    assert {"numpy", "h5py", "vadx"} <= loaded
    assert loaded & set(FOREIGN) == set()


def test_using_the_room_loads_none_of_the_other_rooms() -> None:
    rooms = {name.split(".")[1] for name in run(LOAD_ALL).split() if name.startswith("vadx.")}
    assert rooms == {"errors", "features"}
