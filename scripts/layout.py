#!/usr/bin/env python3
"""The rooms of the package, from the ground up, and who imports whom: the table of docs/architecture.md.

    python scripts/layout.py            # print the table
    python scripts/layout.py --write    # put it into docs/architecture.md

A room may import the rooms before it in `ROOMS`, never one after it. tests/test_layout.py holds that.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "gradiseg_ns"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: begin (scripts/layout.py --write) -->", "<!-- rooms: end -->"

ROOMS = (
    "tools", "rendering", "losses", "data", "grouping", "poses", "masks", "scene", "votes", "affordance", "boundary", "evaluation",
    "formats", "editing", "drawing", "segment", "words", "ns_callers", "doctor", "sources", "model", "viewer", "pipeline", "trainer",
    "config", "runs", "demo", "cli",
)  # fmt: skip
"""Folders, and files of the package's root, from the ground up."""


def modules() -> dict[str, Path]:
    """All modules of the package by their dotted names."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path], *, annotations: bool = False) -> Iterator[str]:
    """The package's modules that a module imports, at its top or inside of functions; those for type checkers alone only with
    ``annotations``."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if not annotations and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                    package = package[: len(package) - child.level + 1]
                    base = ".".join([*package, *([child.module] if child.module else [])])
                for alias in child.names:
                    whole = f"{base}.{alias.name}"
                    yield whole if whole in known else base
            elif isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            yield from walk(child)

    for found in walk(ast.parse(path.read_text("utf8"))):
        if found.split(".")[0] == PACKAGE:
            yield found


def room(module: str) -> str:
    """The room of a module: the folder, or the file of the package's root."""
    return module.split(".")[1] if "." in module else PACKAGE


def arrows() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Which room imports which, with the modules that do."""
    known = modules()
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, path in known.items():
        for other in imports(name, path, known):
            if room(name) != room(other) and room(other) != PACKAGE:
                found.setdefault((room(name), room(other)), []).append((name, other))
    return found


def summary(name: str) -> str:
    """The first sentence of a room's docstring."""
    path = ROOT / PACKAGE / name
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text("utf8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def table() -> str:
    """The rooms from the top down, as Markdown."""
    knows: dict[str, set[str]] = {name: set() for name in ROOMS}
    for one, other in arrows():
        knows[one].add(other)
    lines = ["| room | what it is | knows |", "|---|---|---|"]
    for name in reversed(ROOMS):
        shown = f"`{name}/`" if (ROOT / PACKAGE / name).is_dir() else f"`{name}.py`"
        others = ", ".join(other for other in ROOMS if other in knows[name]) or "nobody"
        lines.append(f"| {shown} | {summary(name)} | {others} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its table as it is now.

    Raises:
        ValueError: the page has no place for it.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(
            f"{PAGE} lacks the lines {BEGIN!r} and {END!r}, between which the table of rooms stands."
        )
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The rooms of the package, and who imports whom.")
    parser.add_argument("--write", action="store_true", help="put the table into docs/architecture.md")
    if parser.parse_args().write:
        PAGE.write_text(page(PAGE.read_text("utf8")), "utf8")
    else:
        sys.stdout.write(table() + "\n")
