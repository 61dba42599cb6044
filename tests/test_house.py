"""The room rules: who may import whom, the exact public names, the package list, and what --help may load."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

ROOMS = ("features", "extract", "detectors", "pipelines")

# Room -> own rooms it may import (module prefixes), and heavy libraries it may not.
MAY_IMPORT = {
    "features": {"errors", "features"},
    "extract": {"errors", "extract", "features.timeline", "features.recipe", "features.plain_pickle"},
    "detectors": {
        "errors",
        "detectors",
        "features.timeline",
        "features.recipe",
        "extract.video",
        "extract.transforms",
        "extract.weights",
    },
    "pipelines": {"errors", "features", "extract", "detectors", "pipelines", ""},
}
FORBIDDEN_LIBRARIES = {
    "features": {"torch", "torchvision", "av", "click", "rich_click", "rich", "dask", "distributed", "msgspec"},
    "extract": {"h5py", "click", "rich_click", "rich", "dask", "distributed"},
    "detectors": {"h5py", "click", "rich_click", "rich", "dask", "distributed"},
    "pipelines": set(),
}


def modules_of(room: str) -> list[Path]:
    return sorted((REPOSITORY / room).rglob("*.py"))


def imports_of(path: Path) -> list[tuple[str, int]]:
    """Give what a module imports: absolute names, and vadx's own as paths below the package, with their level."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    package = list(parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                found.append((node.module or "", 0))
            else:
                base = package[: len(package) - (node.level - 1)]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found += [(".".join([*base, *filter(None, [name])]), node.level) for name in names]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_its_arrows_allow(room: str) -> None:
    broken = []
    for path in modules_of(room):
        for name, level in imports_of(path):
            if level and not any(name == a or name.startswith(f"{a}.") for a in MAY_IMPORT[room] if a):
                allowed_root = "" in MAY_IMPORT[room] and "." not in name
                if not allowed_root:
                    broken.append(f"{path.relative_to(REPOSITORY)} imports {name}")
    assert broken == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_loads_no_library_that_is_not_its_own(room: str) -> None:
    loads = {
        (path.name, name.split(".")[0]) for path in modules_of(room) for name, level in imports_of(path) if not level
    }
    assert {(file, name) for file, name in loads if name in FORBIDDEN_LIBRARIES[room]} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_imports_inside_the_package_are_relative(room: str) -> None:
    own = {"vadx", *ROOMS}
    absolute = [
        (p.name, n) for p in modules_of(room) for n, level in imports_of(p) if not level and n.split(".")[0] in own
    ]
    assert absolute == []


def test_only_pipelines_prints() -> None:
    printing = [
        path.relative_to(REPOSITORY).as_posix()
        for room in ROOMS
        if room != "pipelines"
        for path in modules_of(room)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


def test_only_one_module_opens_videos_and_listed_ones_open_hdf5() -> None:
    opens: dict[str, set[str]] = {"av.open": set(), "h5py.File": set(), "torch.load": set()}
    for room in ROOMS:
        for path in modules_of(room):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in opens:
                    opens[ast.unparse(node.func)].add(path.relative_to(REPOSITORY).as_posix())
    assert opens["av.open"] == {
        "extract/video.py",
        "pipelines/bench_video.py",
        "pipelines/demo.py",
        "pipelines/scene_files.py",
        "pipelines/tube_pictures.py",
    }  # all but the first encode
    assert opens["h5py.File"] == {
        "features/bag_file.py",
        "features/process_file.py",
        "features/layouts/hdf5.py",
        "features/pack_writer.py",
        "features/shard.py",
        "features/spool.py",
        "features/stage_shard.py",
        "pipelines/doctor.py",
    }
    assert opens["torch.load"] == {"extract/checkpoints.py"}


def test_hdf5_is_never_opened_for_changing() -> None:
    modes = [
        ast.unparse(node.args[1])
        for room in ROOMS
        for path in modules_of(room)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "h5py.File"
    ]
    assert modes
    assert set(modes) <= {"'r'", "'w'"}


PUBLIC = {
    "vadx": ["BagDataset", "__version__"],
    "vadx.features": [
        "Bag",
        "Clip",
        "ClipFeatures",
        "FeatureSet",
        "Recipe",
        "Store",
        "concatenate",
        "make_bag",
        "segment_spans",
    ],
    "vadx.extract": ["Backbone", "extract_video", "load_backbone", "probe_video"],
    "vadx.extract.transforms": ["five_crop", "resize", "ten_crop"],
    "vadx.detectors": ["Detections", "Tube", "load_detector", "multivariate_tubes", "unary_tubes"],
    "vadx.pipelines": [],
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_names_are_exactly_these(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == PUBLIC[name]
    assert all(getattr(module, public) is not None for public in PUBLIC[name])


def test_the_package_list_equals_the_disk() -> None:
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {"vadx"}
    for room in ROOMS:
        for init in (REPOSITORY / room).rglob("__init__.py"):
            on_disk.add("vadx." + ".".join(init.parent.relative_to(REPOSITORY).parts))
    assert sorted(listed) == sorted(on_disk)


def test_the_view_for_type_checkers_shows_every_room() -> None:
    links = {room: (REPOSITORY / "src" / "vadx" / room) for room in ROOMS}
    assert {room: link.readlink().as_posix() for room, link in links.items()} == {r: f"../../{r}" for r in ROOMS}


def loaded_after(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


HELP = "from vadx.pipelines.cli import run; run({arguments!r})"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["extract", "--help"], ["train", "--help"], ["ls", "--help"], ["--version"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_after(HELP.format(arguments=arguments))
    assert "vadx.pipelines.cli" in loaded
    assert {"torch", "torchvision", "av", "dask", "h5py", "numpy"} & loaded == set()


def test_reading_loads_neither_torch_nor_av() -> None:
    loaded = loaded_after("from vadx.features import Store, Clip, Recipe")
    assert "h5py" in loaded
    assert {"torch", "av", "msgspec", "click"} & loaded == set()


def test_linking_loads_neither_torch_nor_av() -> None:
    loaded = loaded_after("from vadx.detectors import Detections, Tube, multivariate_tubes, unary_tubes")
    assert "vadx.detectors.linking" in loaded
    assert {"torch", "torchvision", "av", "h5py", "msgspec", "click"} & loaded == set()


def test_extracting_loads_only_its_few_libraries() -> None:
    loaded = loaded_after("from vadx.extract import load_backbone, extract_video")
    assert {"torch", "av"} <= loaded
    assert {
        "dask",
        "pooch",
        "rich",
        "pytorchvideo",
        "platformdirs",
        "requests",
        "click",
        "rich_click",
    } & loaded == set()
