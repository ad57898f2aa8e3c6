"""The header of a PLY file: elements, properties, comments. Nothing of it is trusted."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np

from gradiseg_ns.formats import foreign
from gradiseg_ns.formats.ply_layout import FILTER, HIGH, LABELS, RESERVED, REST, PlyError

TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float": "f4", "double": "f8", "float32": "f4", "float64": "f8",
}  # fmt: skip
BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
HEADER_LINES = {
    "format": f"'format' with one of {', '.join(BYTE_ORDERS)} and 1.0",
    "element": "'element', a name and a number",
    "property": f"'property', a type and a name, below an element; types are {', '.join(TYPES)}, and list "
    "with an integer type and a type",
}
"""What the lines of a header look like, by their first word."""
MAX_HEADER = 1 << 20


@dataclass(frozen=True)
class Property:
    name: str
    type: str
    """numpy's code, without byte order."""
    length_type: str | None = None
    """For a list, the type of its length."""


@dataclass(frozen=True)
class Element:
    name: str
    count: int
    properties: list[Property] = field(default_factory=list)

    @property
    def row_bytes(self) -> int | None:
        """Bytes of a row in a binary file; None if lists make them differ."""
        if any(prop.length_type for prop in self.properties):
            return None
        return sum(np.dtype(prop.type).itemsize for prop in self.properties)


@dataclass(frozen=True)
class Header:
    format: str
    elements: list[Element]
    comments: list[str]

    @property
    def vertex(self) -> Element | None:
        return next((element for element in self.elements if element.name == "vertex"), None)


def read_header(file: IO[bytes], path: Path) -> Header:
    """Reads up to the first byte of data."""
    start = file.read(16)
    if not start:
        raise PlyError(f"{path} is empty. Expected a PLY file of Gaussians; export or download it again.")
    if not re.match(rb"ply\s", start):
        raise PlyError(foreign.refusal(path))
    file.seek(0)
    file_format: str | None = None
    elements: list[Element] = []
    comments: list[str] = []
    for number in itertools.count(1):
        line = file.readline(MAX_HEADER)
        if not line.endswith(b"\n") or file.tell() > MAX_HEADER:
            raise PlyError(
                f"The header of {path} has no end: expected a line 'end_header' within the first "
                f"{MAX_HEADER} bytes. The file is cut off or damaged; export or download it again."
            )
        text = line.decode("utf-8", "backslashreplace").strip()
        keyword, *words = text.split() or [""]
        if keyword == "end_header":
            break
        try:
            if keyword == "format":
                file_format, _ = words
                if file_format not in BYTE_ORDERS:
                    raise KeyError(file_format)
            elif keyword == "element":
                elements.append(_parse_element(words))
            elif keyword == "property":
                elements[-1].properties.append(_parse_property(words))
            elif keyword == "comment":
                comments.append(" ".join(words))
            elif keyword not in ("", "obj_info") and number > 1:
                raise KeyError(keyword)
        except (KeyError, ValueError, IndexError):
            expected = HEADER_LINES.get(keyword, f"one of {', '.join(HEADER_LINES)}, comment, end_header")
            raise PlyError(
                f"Line {number} of the header of {path} is {text[:80]!r}: expected {expected}. The file is "
                "damaged or of a kind that is not known; export it again as a standard PLY."
            ) from None
    if file_format is None:
        raise PlyError(
            f"The header of {path} has no line 'format', expected one of {', '.join(BYTE_ORDERS)}."
        )
    return Header(file_format, [_without_prefix(element) for element in elements], comments)


def _without_prefix(element: Element) -> Element:
    """The Gaussians with the names of 3DGS: some programs put a word before those of all properties but x, y, z.

    CloudCompare's `scalar_`, and any other one that opacity, scales and rotations have in common.
    """
    names = {prop.name for prop in element.properties}
    if element.name != "vertex":
        return element
    prefixes = {
        name.removesuffix("opacity")
        for name in names
        if name.endswith("opacity")
        and all(name.removesuffix("opacity") + other in names for other in ("scale_0", "rot_0"))
    }
    if "opacity" in names:
        prefixes = {"scalar_"}
    properties = []
    for prop in element.properties:
        prefix = next(
            (p for p in sorted(prefixes, key=len, reverse=True) if p and prop.name.startswith(p)), ""
        )
        plain = prop.name[len(prefix) :]
        known = plain in RESERVED or plain in (*LABELS, HIGH, FILTER) or REST.fullmatch(plain) is not None
        properties.append(replace(prop, name=plain) if prefix and known and plain not in names else prop)
    return replace(element, properties=properties)


def _parse_element(words: Sequence[str]) -> Element:
    """Raises ValueError for anything else than a name and a number."""
    name, count = words
    if not re.fullmatch("[0-9]{1,18}", count):
        raise ValueError(count)
    return Element(name, int(count))


def _parse_property(words: Sequence[str]) -> Property:
    """Raises KeyError for an unknown type, ValueError for a wrong number of words."""
    if words[0] != "list":
        kind, name = words
        return Property(name, TYPES[kind])
    _, length, kind, name = words
    if TYPES[length].startswith("f"):
        raise ValueError(length)
    return Property(name, TYPES[kind], TYPES[length])
