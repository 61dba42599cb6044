"""Execute a Dockerfile's steps, word for word, without a container engine.

    python tests/container/check_dockerfile.py --light

A private copy-on-write view of this machine stands in for the base image: an overlay whose upper layer is a
tmpfs that vanishes at the end, entered with chroot. In it RUN lines see their own absolute paths, ``useradd`` makes
a user, ``pip`` installs, and nothing on the machine changes. Three things differ from a real build, and the output
says so: a fresh virtual environment replaces the base image's Python, the machine's own programs replace its Debian,
and with ``--light`` empty wheels replace torch and torchvision (gigabytes, which would lie in memory here).

After the steps come probes (who runs it, what that user and any other can write, which packages were installed), then
ENTRYPOINT with CMD. Instructions outside the table INSTRUCTIONS are refused, never passed over.

Exit codes: 0 all ran, 1 a step or probe failed, 2 the Dockerfile uses what this script does not know, 77 this machine
cannot do it (it takes Linux, root, mount namespaces and overlayfs).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FAILED, UNKNOWN, CANNOT = 1, 2, 77
HEAVY = ("torch", "torchvision")
ANY_USER = "54321:54321"  # what --user may name: an id that the image does not know
STAND_IN_PYTHON = "/opt/base-image-python"
STAND_IN_WHEELS = "/opt/stand-in-wheels"
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# How this machine reaches a package registry; a build gets the same from its daemon.
NETWORK_ENV = re.compile(r"PIP_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE|(?:https?|all|no)_proxy", re.IGNORECASE)


class Stop(Exception):
    """Ends the check with an exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; ``line`` counts from 1, ``text`` has its continuation lines joined."""

    line: int
    word: str
    text: str

    def refuse(self, why: str) -> NoReturn:
        """Stop: this script does not know what the instruction means."""
        raise Stop(UNKNOWN, f"line {self.line}: {self.word} {self.text}: {why}; teach check_dockerfile.py or reword it")

    def exec_form(self) -> tuple[str, ...]:
        """The words of ``["a", "b"]``."""
        try:
            words = json.loads(self.text)
        except json.JSONDecodeError:
            self.refuse("only the form in brackets is known")
        return tuple(words)

    def literal(self) -> str:
        """The text, which must hold no variable."""
        return self.refuse("variables are not known") if "$" in self.text else self.text


def parse(source: str) -> list[Instruction]:
    """Instructions of a Dockerfile; comment lines are dropped, also inside a continued instruction."""
    instructions: list[Instruction] = []
    parts: list[str] = []
    first_line = 0
    for number, raw in enumerate(source.splitlines(), start=1):
        if raw.lstrip().startswith("#") or not raw.strip():
            continue
        first_line = first_line if parts else number
        parts.append(raw.strip().removesuffix("\\"))
        if not raw.rstrip().endswith("\\"):
            word, _, text = "".join(parts).strip().partition(" ")
            instructions.append(Instruction(first_line, word.upper(), text.strip()))
            parts = []
    return instructions


def ignore_rules(text: str) -> list[tuple[re.Pattern[str], bool]]:
    """(pattern, excludes) of each .dockerignore line. The last one that matches a path, or a folder above it, wins."""
    parts = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    rules = []
    for line in (raw.strip() for raw in text.splitlines()):
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").strip("/")
            tokens = re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern)
            regex = "".join(parts.get(token) or re.escape(token) for token in tokens)
            rules.append((re.compile(rf"{regex}(?:/.*)?"), not line.startswith("!")))
    return rules


def context_files(context: Path) -> list[PurePosixPath]:
    """Paths, below ``context``, of the files and symlinks that a build is sent. Symlinks are not followed."""
    ignore = context / ".dockerignore"
    text = ignore.read_text() if ignore.exists() else ""
    rules = ignore_rules(text)
    # Only an exception such as !docs/guide can bring back something inside an excluded folder.
    may_skip = not re.search(r"^!.*[^/\s]/[^/\s]", text, re.MULTILINE)

    def excluded(relative: str) -> bool:
        return next((excludes for regex, excludes in reversed(rules) if regex.fullmatch(relative)), False)

    found: list[PurePosixPath] = []
    pending = [context]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            relative = path.relative_to(context).as_posix()
            if path.is_dir() and not path.is_symlink():
                if not (may_skip and excluded(relative)):
                    pending.append(path)
            elif not excluded(relative):
                found.append(PurePosixPath(relative))
    return found


@dataclass(slots=True)
class Build:
    """What the instructions so far have made of the stand-in image, whose root folder is ``root``."""

    context: Path
    root: Path
    env: dict[str, str]
    network_env: dict[str, str]
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    files: list[PurePosixPath] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        """The place on this machine of the image's ``path``, which is taken from WORKDIR."""
        return self.root / os.path.normpath(PurePosixPath(self.workdir, path)).lstrip("/")

    def home(self) -> str:
        """The home of the current user, ``/`` where the image does not know it."""
        accounts = (line.split(":") for line in self.inside("/etc/passwd").read_text().splitlines())
        name = self.user.partition(":")[0]
        return next((account[5] for account in accounts if name in (account[0], account[2])), "/")

    def run(self, argv: Sequence[str], *, network: bool = False) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` in the image as its user, in its folder, with its environment and nothing else."""
        env = {"HOME": self.home(), **self.env, **(self.network_env if network else {})}
        settings = [f"{name}={value}" for name, value in env.items()]
        enter = ["chroot", f"--userspec={self.user}", str(self.root), "/usr/bin/env", "-i", f"--chdir={self.workdir}"]
        return subprocess.run(
            [*enter, *settings, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )


def do_from(build: Build, step: Instruction) -> None:
    """Check that one stage is all; the stand-in was set up beforehand."""
    if len(step.literal().split()) > 1 or build.entrypoint or build.workdir != "/":
        step.refuse("only one stage is known")


def do_env(build: Build, step: Instruction) -> None:
    """Set variables."""
    for word in shlex.split(step.literal()):
        name, equals, value = word.partition("=")
        if not equals:
            step.refuse("only NAME=VALUE is known")
        build.env[name] = value


def do_workdir(build: Build, step: Instruction) -> None:
    """Enter a folder; made as root when it is not there."""
    build.inside(step.literal()).mkdir(parents=True, exist_ok=True)
    build.workdir = os.path.normpath(PurePosixPath(build.workdir, step.text))


def do_copy(build: Build, step: Instruction) -> None:
    """Copy from the context: a file into a folder, or what a folder holds."""
    *sources, target = shlex.split(step.literal())
    if not sources or any(word.startswith("--") or "*" in word for word in sources):
        step.refuse("options and wildcards are not known")
    if not target.endswith(("/", ".")):
        step.refuse("end the target with a slash: only folders are known")
    num_copied = 0
    for source in sources:
        base = PurePosixPath(source)
        chosen = [path for path in build.files if path == base or path.is_relative_to(base)]
        if not chosen:
            raise Stop(FAILED, f"line {step.line}: COPY {source}: not in the context; see .dockerignore")
        for path in chosen:
            place = build.inside(target) / (path.name if path == base else path.relative_to(base))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(build.context / path, place, follow_symlinks=False)
            os.chown(place, 0, 0, follow_symlinks=False)
        num_copied += len(chosen)
    print(f"    {num_copied} files")


def do_run(build: Build, step: Instruction) -> None:
    """Execute a line with /bin/sh."""
    if step.text.startswith(("[", "--")) or "<<" in step.text:
        step.refuse("only the shell form without options and heredocs is known")
    done = build.run(["/bin/sh", "-c", step.text], network=True)
    if done.returncode:
        print(done.stdout)
        raise Stop(FAILED, f"line {step.line}: RUN ended with {done.returncode}")
    for line in done.stdout.splitlines()[-1:]:
        print(f"    {line}")


def do_user(build: Build, step: Instruction) -> None:
    """Change the user of the steps that follow."""
    build.user = step.literal()


def do_entrypoint(build: Build, step: Instruction) -> None:
    """Note what the container starts."""
    build.entrypoint = step.exec_form()


def do_cmd(build: Build, step: Instruction) -> None:
    """Note the default arguments."""
    build.command = step.exec_form()


INSTRUCTIONS: dict[str, Callable[[Build, Instruction], None]] = {
    "FROM": do_from,
    "ENV": do_env,
    "WORKDIR": do_workdir,
    "COPY": do_copy,
    "RUN": do_run,
    "USER": do_user,
    "ENTRYPOINT": do_entrypoint,
    "CMD": do_cmd,
}


def mount(*arguments: str | Path) -> None:
    """Call mount(8); a refusal means that this machine cannot do the check."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Stop(CANNOT, f"mount {shlex.join(map(str, arguments))}: {done.stderr.strip()}")


def overlay_of_this_machine(scratch: Path) -> Path:
    """Mount a copy-on-write view of / below ``scratch`` and return its root. Needs a private mount namespace."""
    # On a tmpfs, because overlayfs refuses an upper layer that lies inside the lower one.
    mount("-t", "tmpfs", "tmpfs", scratch)
    upper, work, root = (scratch / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", root)
    for name in ("proc", "sys", "dev"):
        mount("--rbind", f"/{name}", root / name)
    for name in ("etc/resolv.conf", "etc/hosts"):
        if Path("/", name).exists():  # often mounts of their own, which the overlay does not show
            text = Path("/", name).read_bytes()
            (root / name).unlink(missing_ok=True)
            (root / name).write_bytes(text)
    return root


def forget_local_accounts(root: Path) -> None:
    """Drop accounts with ids from 1000 to 59999, which a base image does not have."""
    for name in ("passwd", "shadow", "group", "gshadow"):
        path = root / "etc" / name
        if not path.exists():
            continue
        lines = path.read_text().splitlines()
        if name in ("passwd", "group"):
            local = {line.split(":")[0] for line in lines if 1000 <= int(line.split(":")[2]) < 60000}
            print(f"    /etc/{name}: {len(local)} local accounts hidden")
        path.write_text("".join(f"{line}\n" for line in lines if line.split(":")[0] not in local))


def find_python(wanted: str, given: str | None) -> str:
    """The real path of an interpreter of version ``wanted`` ("3.12"), else of the one that runs this script."""
    ask = "import sys, os, venv, ensurepip; print(os.path.realpath(getattr(sys, '_base_executable', sys.executable)))"
    candidates = [given] if given else [shutil.which(f"python{wanted}"), sys.executable]
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return answer.stdout.strip()
    raise Stop(CANNOT, f"no interpreter with venv among {candidates}")


def install_python(build: Build, image: str, given: str | None) -> None:
    """Make a fresh virtual environment in the image and put it first on its PATH."""
    match = re.search(r"python:(\d+\.\d+)", image)
    wanted = match[1] if match else ""
    python = find_python(wanted, given)
    # Its folders must be open to the image's user, as those of a base image are.
    for parent in Path(python).resolve().parents:
        place = build.inside(str(parent))
        place.chmod(place.stat().st_mode | 0o555)
    done = build.run([python, "-m", "venv", STAND_IN_PYTHON])
    if done.returncode:
        raise Stop(CANNOT, f"{python} -m venv: {done.stdout.strip()}")
    build.env["PATH"] = f"{STAND_IN_PYTHON}/bin:{BASE_PATH}"
    version = build.run(["python", "-c", "import platform; print(platform.python_version())"]).stdout.strip()
    note = "" if version.startswith(f"{wanted}.") else f" (NOT {wanted}: name one with --python)"
    print(f"REPLACED: {image} by a fresh virtual environment of Python {version}{note} on this machine's system")


def stand_in_wheels(build: Build) -> None:
    """Put empty wheels of HEAVY where pip finds them; their local version sorts above the real one of the same pin."""
    folder = build.inside(STAND_IN_WHEELS)
    folder.mkdir(parents=True)
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (build.context / "constraints.txt").read_text(), re.MULTILINE))
    for name in HEAVY:
        if name not in pins:
            raise Stop(UNKNOWN, f"constraints.txt pins no {name}, so --light cannot stand in for it")
        version = f"{pins[name]}+light"
        info = f"{name}-{version}.dist-info"
        files = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: check_dockerfile\nRoot-Is-Purelib: true\n"
            "Tag: py3-none-any\n",
        }
        record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in {**files, f"{info}/RECORD": record}.items():
                wheel.writestr(path, text)
        print(f"REPLACED: {name} {pins[name]} by an empty wheel (--light); every other package is the real one")
    links = build.network_env.get("PIP_FIND_LINKS", "")
    build.network_env["PIP_FIND_LINKS"] = f"{links} {STAND_IN_WHEELS}".strip()


def probe(build: Build) -> list[str]:
    """What is wrong with the finished image; empty when nothing is."""
    wrong = []
    if build.run(["id", "-u"]).stdout.strip() == "0":
        wrong.append("the container runs as root")
    folders = {"WORKDIR": build.workdir, "VADX_HOME": build.env.get("VADX_HOME", "unset")}
    for user, places in {build.user: {"HOME": build.home(), **folders}, ANY_USER: folders}.items():
        for what, path in places.items():
            if replace(build, user=user).run(["test", "-w", path]).returncode:
                wrong.append(f"{what} ({path}) is not writable for user {user}")
    project = tomllib.loads((build.context / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]
    listing = "import importlib.metadata as m; print(*m.files('vadx'), sep='\\n')"
    installed = set(build.run(["python", "-c", listing]).stdout.splitlines())
    wrong += [f"package {name} was not installed" for name in packages if _init_of(name) not in installed]
    twice = [path for path in installed if path.startswith("vadx/") and not _owned(path, packages)]
    wrong += [f"{path} was installed and belongs to no package" for path in sorted(twice)]
    return wrong


def _init_of(package: str) -> str:
    return f"{package.replace('.', '/')}/__init__.py"


def _owned(path: str, packages: Sequence[str]) -> bool:
    return "/__pycache__/" in path or str(PurePosixPath(path).parent).replace("/", ".") in packages


def check_inside(options: argparse.Namespace, scratch: Path) -> None:
    """Do everything, in the private mount namespace that `main` made."""
    steps = parse((options.context / "Dockerfile").read_text())
    for step in steps:
        if step.word not in INSTRUCTIONS:
            step.refuse(f"only {', '.join(INSTRUCTIONS)} are known")
    if not steps or steps[0].word != "FROM":
        raise Stop(UNKNOWN, "the first instruction is not FROM")
    network_env = {name: value for name, value in os.environ.items() if NETWORK_ENV.fullmatch(name)}
    build = Build(options.context, overlay_of_this_machine(scratch), {"PATH": BASE_PATH}, network_env)
    build.files = context_files(options.context)
    forget_local_accounts(build.root)
    for step in steps:
        if step.word == "WORKDIR" and build.inside(step.literal()).exists():
            mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", build.inside(step.text))  # this machine's own is hidden
    install_python(build, steps[0].text, options.python)
    if options.light:
        stand_in_wheels(build)
    for number, step in enumerate(steps, start=1):
        print(f"[{number}/{len(steps)}] {step.word} {step.text}", flush=True)
        started = time.monotonic()
        INSTRUCTIONS[step.word](build, step)
        if step.word == "RUN":
            print(f"    {time.monotonic() - started:.1f} s", flush=True)
    wrong = probe(build)
    if wrong:
        raise Stop(FAILED, "; ".join(wrong))
    start = [*build.entrypoint, *build.command]
    done = build.run(start)
    print(f"$ {shlex.join(start)}   (user {build.user}, in {build.workdir})\n{done.stdout}")
    if done.returncode or not start:
        raise Stop(FAILED, f"the container's command ended with {done.returncode}")
    print("OK: every step ran, and the container's command answered")


def main() -> int:
    """Parse options, enter a mount namespace, check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    repository = Path(__file__).resolve().parents[2]
    parser.add_argument("--context", type=Path, default=repository, help="folder of the Dockerfile (this repository)")
    parser.add_argument("--light", action="store_true", help=f"empty wheels stand in for {' and '.join(HEAVY)}")
    parser.add_argument("--python", help="the interpreter that stands in for the base image's")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)  # set: already in the namespace
    options = parser.parse_args()
    options.context = options.context.resolve()
    try:
        if options.scratch:
            check_inside(options, options.scratch)
            return 0
        if sys.platform != "linux" or os.geteuid() != 0:
            raise Stop(CANNOT, "needs Linux and root, for mounts and chroot")
        missing = [program for program in ("unshare", "mount", "chroot") if not shutil.which(program)]
        if missing:
            raise Stop(CANNOT, f"not installed: {', '.join(missing)}")
        namespace = ["unshare", "--mount", "--propagation", "private"]
        if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
            raise Stop(CANNOT, "this machine allows no private mount namespace")
        with tempfile.TemporaryDirectory(prefix="check-dockerfile-") as scratch:
            again = [sys.executable, __file__, *sys.argv[1:], "--scratch", scratch]
            return subprocess.run([*namespace, *again], check=False).returncode
    except Stop as stop:
        word = {CANNOT: "CANNOT CHECK HERE", UNKNOWN: "NOT KNOWN"}.get(stop.code, "FAILED")
        print(f"{word}: {stop}")
        return stop.code


if __name__ == "__main__":
    sys.exit(main())
