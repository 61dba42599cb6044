"""Calls that would let a stranger's file run code, open something else or harm a store: banned, or in listed modules.

`test_house` lists who may open HDF5 files, videos and torch's checkpoints; here is how, and what nobody may call.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
ROOMS = ("features", "extract", "detectors", "pipelines", "src/vadx")


def _anyhow(_call: ast.Call) -> bool:
    return True


def _with(name: str, value: object) -> Callable[[ast.Call], bool]:
    """Give the rule that an argument is stated as this constant."""
    return lambda call: any(
        word.arg == name and isinstance(word.value, ast.Constant) and word.value.value is value
        for word in call.keywords
    )


def _without_shell(call: ast.Call) -> bool:
    stated = {word.arg for word in call.keywords}
    # A command as one text would be split, or taken by a shell.
    is_text = bool(call.args) and isinstance(call.args[0], ast.Constant | ast.JoinedStr)
    return "shell" not in stated and None not in stated and not is_text


def _read_or_written_whole(call: ast.Call) -> bool:
    mode = call.args[1] if len(call.args) > 1 else next((w.value for w in call.keywords if w.arg == "mode"), None)
    return isinstance(mode, ast.Constant) and mode.value in ("r", "w")


@dataclass(frozen=True)
class Gate:
    """Where a call may stand, None for anywhere, and how."""

    modules: frozenset[str] | None = frozenset()
    how: Callable[[ast.Call], bool] = _anyhow


def _in(*modules: str) -> frozenset[str]:
    return frozenset(modules)


NOWHERE = Gate()
GATES: Mapping[str, Gate] = {
    # Runs what a file says.
    "pickle.load": NOWHERE,
    "pickle.loads": NOWHERE,
    "pickle.Unpickler": NOWHERE,
    "marshal.load": NOWHERE,
    "marshal.loads": NOWHERE,
    "shelve.open": NOWHERE,
    "dill.load": NOWHERE,
    "dill.loads": NOWHERE,
    "joblib.load": NOWHERE,
    "cloudpickle.load": NOWHERE,
    "cloudpickle.loads": NOWHERE,
    "pandas.read_pickle": NOWHERE,
    "yaml.load": NOWHERE,
    "yaml.unsafe_load": NOWHERE,
    "yaml.full_load": NOWHERE,
    "eval": NOWHERE,
    "exec": NOWHERE,
    "compile": NOWHERE,
    "__import__": NOWHERE,
    "torch.load": Gate(_in("extract/checkpoints.py"), _with("weights_only", value=True)),
    "torch.jit.load": Gate(_in("extract/checkpoints.py")),
    "torch.hub.load": NOWHERE,
    "torch.serialization.add_safe_globals": NOWHERE,
    "numpy.load": Gate(None, _with("allow_pickle", value=False)),
    # Runs a shell.
    "os.system": NOWHERE,
    "os.popen": NOWHERE,
    "subprocess.getoutput": NOWHERE,
    "subprocess.getstatusoutput": NOWHERE,
    "subprocess.run": Gate(None, _without_shell),
    "subprocess.Popen": Gate(None, _without_shell),
    "subprocess.call": NOWHERE,
    "subprocess.check_call": NOWHERE,
    "subprocess.check_output": NOWHERE,
    # Writes where an archive says.
    "tarfile.TarFile.extractall": NOWHERE,
    "shutil.unpack_archive": NOWHERE,
    "tempfile.mktemp": NOWHERE,
    # Opens what a file names, or another format than was meant.
    "PIL.Image.open": Gate(_in("extract/jpeg.py")),
    "scipy.io.loadmat": NOWHERE,
    "xml.etree.ElementTree.parse": NOWHERE,
    "xml.etree.ElementTree.fromstring": NOWHERE,
    "urllib.request.urlopen": NOWHERE,
    "requests.get": Gate(_in("extract/download.py")),
    "h5py.File": Gate(None, _read_or_written_whole),
}
"""Call -> where and how it may stand. A name is what it was imported as, whatever a module calls it."""

OWN_TABLES = {("features/spool.py", "numpy.load")}
"""What the process that writes an HDF5 image is handed by its parent; `numpy.load` takes no pickle there by itself."""

UNPICKLERS = _in("extract/checkpoints.py", "features/plain_pickle.py", "features/layouts/video_folders.py")
"""Where `pickle.Unpickler` is restricted, by a class that says what it admits."""

METHODS = _in("extractall", "add_safe_globals", "unsafe_load")
"""Names that are banned on whatever object they are called."""


def _names(tree: ast.AST) -> dict[str, str]:
    """Map the names that a module's imports made to what they stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                short = alias.asname or alias.name.split(".")[0]
                found[short] = alias.name if alias.asname else short
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def findings(source: str, module: str) -> Iterator[str]:
    """Say what in a module's source passes a gate that is closed to it."""
    tree = ast.parse(source)
    names = _names(tree)

    def meant(node: ast.expr) -> str:
        first, dot, rest = ast.unparse(node).partition(".")
        return f"{names.get(first, first)}{dot}{rest}"

    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{module}:{node.lineno}: a bare except"
        if isinstance(node, ast.ClassDef) and module not in UNPICKLERS:
            yield from (f"{module}: {base}" for base in map(meant, node.bases) if base == "pickle.Unpickler")
        if not isinstance(node, ast.Call):
            continue
        name = meant(node.func)
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield f"{module}:{node.lineno}: {name}"
        gate = GATES.get(name)
        if gate is None or (module, name) in OWN_TABLES:
            continue
        if (gate.modules is not None and module not in gate.modules) or not gate.how(node):
            yield f"{module}:{node.lineno}: {name}"


def test_no_module_passes_a_closed_gate() -> None:
    found = []
    num_modules = 0
    for room in ROOMS:
        top = REPOSITORY / room
        # The rooms stand in src/vadx once more, as links.
        for path in top.glob("*.py") if room == "src/vadx" else top.rglob("*.py"):
            num_modules += 1
            found += findings(path.read_text(), path.relative_to(REPOSITORY).as_posix())
    assert found == []
    assert num_modules > 150


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(data)",
        "import pickle as p\np.load(file)",
        "from pickle import loads as read\nread(data)",
        "import pickle\nclass Mine(pickle.Unpickler): pass",
        "import torch\ntorch.load(path, weights_only=True)",
        "eval(text)",
        "exec(text)",
        "import os\nos.system('x')",
        "import subprocess\nsubprocess.run(words, shell=True)",
        "import subprocess\nsubprocess.run(words, shell=False)",
        "import subprocess\nsubprocess.run(words, **options)",
        "import subprocess\nsubprocess.run('ls -l')",
        "from subprocess import Popen\nPopen(f'rm {x}')",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import h5py\nh5py.File(path, 'a')",
        "import h5py\nh5py.File(path, 'r+')",
        "import h5py\nh5py.File(path)",
        "import h5py\nh5py.File(path, mode)",
        "import yaml\nyaml.load(text)",
        "archive.extractall(folder)",
        "from PIL import Image\nImage.open(path)",
        "import requests\nrequests.get(url)",
        "try:\n    x()\nexcept:\n    pass",
    ],
)
def test_the_gates_close(source: str) -> None:
    assert len(list(findings(source, "features/some.py"))) == 1


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import torch\ntorch.load(path, weights_only=True, map_location='cpu')", "extract/checkpoints.py"),
        ("import subprocess\nsubprocess.run([a, b], check=False)", "features/some.py"),
        ("import numpy as np\nnp.load(path, allow_pickle=False)", "features/some.py"),
        ("import h5py\nh5py.File(path, 'r', locking=False)\nh5py.File(path, mode='w')", "features/some.py"),
        ("network.eval()", "features/some.py"),
        ("import pickle\nclass Mine(pickle.Unpickler): pass", "features/plain_pickle.py"),
    ],
)
def test_the_gates_open(source: str, module: str) -> None:
    assert list(findings(source, module)) == []


@pytest.mark.parametrize("source", ["torch.load(path)", "torch.load(path, weights_only=False)"])
def test_the_one_place_of_torch_load_says_how(source: str) -> None:
    assert list(findings(f"import torch\n{source}", "extract/checkpoints.py")) == [
        "extract/checkpoints.py:2: torch.load"
    ]
