"""deploy/Dockerfile without Docker: what it builds, in a clean virtual environment.

Nothing is downloaded. The distributions that the wheel asks for, with the extras that the
Dockerfile names, are linked from the environment that runs the tests; so what is not declared,
or not copied into the image, is missing here too.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.acceptance.markdown import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@dataclass(frozen=True)
class Image:
    """app: the folder that its commands run in. programs: the one that they are found in."""

    app: Path
    programs: Path


def stages() -> list[str]:
    """The Dockerfile's stages, each from its FROM on."""
    return re.findall(r"^FROM .*\n(?:(?!FROM ).*\n)*", DOCKERFILE.read_text(), re.MULTILINE)


def build(folder: Path) -> Image:
    """The stages in order, below `folder`."""
    sources, app, venv = folder / "src", folder / "app", folder / "venv"
    first, last = stages()
    _copy(first, sources)
    _copy(last, app)
    (extras,) = re.findall(r'^RUN pip install .*"\.\[([\w,]+)\]"$', first, re.MULTILINE)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    _run(*pip, "wheel", "--no-build-isolation", *offline, "-w", str(folder), str(sources))
    (wheel,) = folder.glob("headrace-*.whl")
    _run(sys.executable, "-m", "venv", "--without-pip", str(venv))
    python = venv / "bin" / "python"
    _run(*pip, "--python", str(python), "install", *offline, str(wheel))
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    (ours,) = Distribution.discover(name="headrace", path=[str(packages)])
    for found in _needed(ours, extras.split(",")):
        _link(found, packages, python)
    return Image(app, venv / "bin")


def _copy(stage: str, target: Path) -> None:
    for words in re.findall(r"^COPY (?!--)(.+)$", stage, re.MULTILINE):
        *names, to = words.split()
        for name in names:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, target / to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (target / to).mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target / to)


def _needed(root: Distribution, extras: list[str]) -> list[Distribution]:
    """What `root` with these extras depends on, without itself."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(root, extra) for extra in ("", *extras)]
    while todo:
        wanting, extra = todo.pop()
        if (wanting.name, extra) in seen:
            continue
        seen.add((wanting.name, extra))
        for requirement in map(Requirement, wanting.requires or ()):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            wanted = root if name == root.name else found.setdefault(name, distribution(name))
            todo += [(wanted, extra) for extra in ("", *requirement.extras)]
    return list(found.values())


def _link(found: Distribution, packages: Path, python: Path) -> None:
    """Make `found` importable, and its programs callable, as an installation would."""
    for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not (packages / top).exists():
            (packages / top).symlink_to(Path(str(found.locate_file(top))))
    for entry in found.entry_points.select(group="console_scripts"):
        script = python.with_name(entry.name)
        script.write_text(f"#!{python}\nfrom {entry.module} import {entry.attr}\n{entry.attr}()\n")
        script.chmod(0o755)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
