"""The package as pip and nerfstudio see it."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import gradiseg_ns

ROOT = Path(__file__).resolve().parents[1]

# Each costs a second or more, needs a system library, or starts a build. nerfstudio loads our config at the start of
# every command, and an error there breaks all of them.
HEAVY = ("numba", "scipy.spatial", "gsplat.cuda", "tinycudann", "transformers", "open3d")


def test_register_imports_nothing_heavy() -> None:
    """Compared with nerfstudio's own imports, which our register cannot help."""
    code = f"""
import json, sys
import nerfstudio.plugins.types, nerfstudio.engine.trainer, nerfstudio.models.splatfacto
import nerfstudio.data.datamanagers.full_images_datamanager, nerfstudio.data.dataparsers.nerfstudio_dataparser
before = set(sys.modules)
import gradiseg_ns.config
added = set(sys.modules) - before
heavy = [m for m in added for h in {HEAVY!r} if m == h or m.startswith(h + ".")]
print(json.dumps(sorted(heavy)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_package_itself_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import gradiseg_ns; print(len(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "1", done.stderr


def test_entry_points_name_methods_that_exist() -> None:
    """Read from pyproject.toml, so that it holds without an installed distribution too."""
    text = (ROOT / "pyproject.toml").read_text()
    section = text.split('[project.entry-points."nerfstudio.method_configs"]')[1].split("\n[")[0]
    entries = dict(re.findall(r'^([\w-]+) = "([\w.:]+)"$', section, flags=re.MULTILINE))
    assert set(entries) == {"gradiseg", "gradiseg-lite"}
    for name, target in entries.items():
        module, attribute = target.split(":")
        specification = getattr(importlib.import_module(module), attribute)
        # nerfstudio finds a method by this name, not by that of the entry point
        assert specification.config.method_name == name


def test_version_is_the_changelogs() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", gradiseg_ns.__version__)
    assert versions[0] == gradiseg_ns.__version__


def test_constraints_are_exact() -> None:
    """One version for every name and Python version, none from a local file or an address."""
    pins: dict[str, int] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r'([a-z0-9-]+)==[\w.]+( ; python_version (>=|<) "3\.11")?', line)
        assert found, f"constraints.txt: not an exact version: {line!r}"
        pins[found[1]] = pins.get(found[1], 0) + (1 if found[2] else 2)
    assert set(pins.values()) == {2}, [name for name, count in pins.items() if count != 2]
    assert {"torch", "torchvision", "nerfstudio", "gsplat", "numba"} <= set(pins)
