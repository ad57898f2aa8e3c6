"""The package as pip and nerfstudio see it."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import gradiseg_ns
from gradiseg_ns.sources import dataparsers
from gradiseg_ns.tools import choices, extras

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


SLOW = ("torch", "numpy", "nerfstudio", "cv2", "numba", "scipy", "viser", "PIL")
"""No help text and no wrong flag waits for these."""
WIDTH, SCREEN = 100, 50
"""Columns and lines of a terminal."""


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ("--help", 0, "import "),
        ("doctor --help", 0, "doctor"),
        ("lift --help", 0, "--foreground OBJECT"),
        ("prune --help", 0, "--max-error"),
        ("associate --help", 0, "--unlabelled ID"),
        ("affordance --help", 0, "--exemplars"),
        ("edit --help", 0, "--duplicate"),
        ("export --help", 0, "--format {ply,compressed-ply,spz}"),
        ("masks --help", 0, "--phrases"),
        ("segment --help", 0, "--cameras-only"),
        ("new --help", 0, "--least-registered"),
        ("new photos --output out --only nothing", 2, "nothing"),
        ("import --help", 0, "--frame {auto,nerfstudio,original}"),
        ("lift --wrong 3", 2, "--wrong"),
        ("lift --frame sideways", 2, "sideways"),
        ("nope", 2, "nope"),
        ("", 2, "lift"),
    ],
)
def test_help_and_wrong_flags_wait_for_nothing(words: str, status: int, told: str) -> None:
    code = f"""
import sys
sys.argv = ["gradiseg", *{words.split()!r}]
from gradiseg_ns.cli import entrypoint
try:
    entrypoint()
finally:
    print([m for m in {SLOW!r} if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, "COLUMNS": str(WIDTH)},
    )  # fmt: skip
    assert done.returncode == status and told in done.stdout + done.stderr, done.stdout + done.stderr
    *lines, imported = done.stdout.splitlines()
    assert imported == "[]", "imported for nothing"
    assert sum(max(1, -(-len(line) // WIDTH)) for line in lines) <= SCREEN, "a help text is one screen"


def test_help_texts_are_not_broken_in_odd_places() -> None:
    """tyro keeps the line breaks of a field's help, and those of a class before what is no letter."""
    for path in sorted((ROOT / "gradiseg_ns" / "cli").glob("*.py")):
        for verb in [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]:
            for field, text in itertools.pairwise(verb.body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    assert isinstance(text.value, ast.Constant)
                    assert "\n" not in str(text.value.value), f"{path.name}: {ast.unparse(field.target)}"
            for paragraph in (ast.get_docstring(verb) or "").split("\n\n"):
                for line in paragraph.splitlines()[1:]:
                    assert line[0].isalpha() or line.startswith("`gradiseg edit RUN"), f"{path.name}: {line}"


def test_hints_name_the_packages_of_the_extras() -> None:
    """Never this project's own name with an extra: on PyPI it may be a stranger's."""
    section = (
        (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    )
    for extra, package in extras.PACKAGES.items():
        assert re.search(rf'^{extra} = \["(.+)"\]', section, flags=re.MULTILINE)[1] == package  # type: ignore[index]
        assert extras.install_command(extra) == f"pip install '{package}'"
    texts = [*(ROOT / "gradiseg_ns").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    assert [str(path) for path in texts if "gradiseg-ns[" in path.read_text("utf-8")] == []


def test_flags_take_what_the_rooms_take() -> None:
    """The values are written down where nothing heavy is imported."""
    from gradiseg_ns import cli
    from gradiseg_ns.data.id_maps import MAX_OBJECTS

    assert f"else {MAX_OBJECTS}." in inspect.getsource(cli.Lift)
    assert set(typing.get_args(choices.DataParser)) < set(dataparsers.NAMES)


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


def test_the_script_is_where_installed_ones_look_for_it() -> None:
    target = re.search(r'^gradiseg = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert target is not None and target[1] == "gradiseg_ns.cli:entrypoint"
    assert callable(importlib.import_module("gradiseg_ns.cli").entrypoint)
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        _ = importlib.import_module("gradiseg_ns.cli").Nope


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
