"""Renders the demo scene: twelve objects on a table, photos with exact object ids, poses and sparse points.

Everything is made here, from code: geometry from profiles and boxes, surfaces from Blender's procedural
textures, photos by its path tracer Cycles on the CPU. Nothing is downloaded and the seed is fixed.

    pip install bpy==4.5.15 pillow          # Python 3.11, in an environment of its own
    python make_scene.py --out demo_scene   # about eight minutes on two cores
    python make_scene.py --out /tmp/look --views 3 --samples 8   # a quick look
    python make_scene.py --out demo_scene --parts     # the part maps alone, of the scene that is there
    python make_scene.py --out demo_scene --sides     # the masks of single objects from every side alone

What it writes is what nerfstudio's `nerfstudio-data` parser reads, plus the id maps that `gradiseg` reads:

    images/frame_00001.jpg       photos
    object_mask/frame_00001.png  8-bit ids: 1..12 the objects, 13 the table, 0 the rest (floor and walls)
    object_names.json            {"1": "mug", ...}
    part_mask/frame_00001.png    palette PNG: what the part is good for (1 grasp, 4 contain, ...), 0 nothing named
    part_names.json              {"0": "background", "1": "grasp", ...}
    every_side/mug_00.png        1-bit masks of three objects, each alone in its place, from 24 directions all around
    every_side/cameras.json      their cameras, as in transforms.json, with `object_id`
    sparse_pc.ply                points as structure from motion would leave them: noisy, with a few outliers
    transforms.json              pinhole intrinsics in pixels, OpenGL camera-to-world poses

Units: the table top is a disc of radius 1.85 at z = 0; z is up; cameras stand 2.2 to 4.3 from its middle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector
from mathutils.bvhtree import BVHTree
from PIL import Image

SEED = 7
FIELD_OF_VIEW = math.radians(50.0)  # horizontal
TABLE_RADIUS = 1.85
FLOOR = -1.9
WALL = 6.0  # the room is a square of twice this side
SIDES = ("mug", "ring", "red block")  # cut out by the benchmarks, from every side
DIRECTIONS, SIDE_SIZE = 24, 256
GAP = 0.002  # between surfaces that touch: thinner than any pixel, and neither pokes through the other

Vector3 = tuple[float, float, float]

# What a part is good for, by its id in the part maps: the classes of arXiv 2409.11681, of which the scene has five.
AFFORDANCES = ("background", "grasp", "cut", "scoop", "contain", "pound", "support", "wrap-grasp")
GRASP, CONTAIN, SUPPORT, WRAP_GRASP = 1, 4, 6, 7
# The palette of the part maps, for who opens one; the ids are its indices.
PART_COLORS = ("#000000", "#e6194b", "#f58231", "#ffe119", "#4363d8", "#911eb4", "#3cb44b", "#42d4f4")


# ---------------------------------------------------------------------------------------------------------
# Surfaces
# ---------------------------------------------------------------------------------------------------------


def _linear(hex_color: str) -> tuple[float, float, float, float]:
    """'#rrggbb' as a person picks it (sRGB) to the linear RGBA that Blender's nodes expect."""
    srgb = [int(hex_color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb)
    return r, g, b, 1.0


def surface(
    name: str,
    pattern: str,
    colors: Sequence[str],
    scale: float = 4.0,
    stretch: Vector3 = (1.0, 1.0, 1.0),
    roughness: float = 0.5,
    speckle: float = 0.25,
    bump: float = 0.0,
    sharp: bool = False,
) -> bpy.types.Material:
    """A procedural material in the object's own coordinates.

    Args:
        name: Name of the material.
        pattern: 'noise', 'wood', 'stripes' (along x), 'checker', 'bricks' or 'cells'.
        colors: The colours that the pattern runs through, '#rrggbb'.
        scale: Repeats of the pattern per unit of length.
        stretch: Extra factor on the scale along x, y and z.
        roughness: 0 is a mirror, 1 is chalk.
        speckle: Strength of the fine brightness noise over the pattern: no surface is quite without detail.
        bump: Strength of the noise in the shading normals (the geometry, and so the ids, stay as they are).
        sharp: Hard steps between the colours instead of gradients.
    """
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes, link = material.node_tree.nodes, material.node_tree.links.new
    shader = nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = roughness

    place = nodes.new("ShaderNodeMapping")
    place.inputs["Scale"].default_value = [scale * s for s in stretch]
    link(nodes.new("ShaderNodeTexCoord").outputs["Object"], place.inputs["Vector"])

    kind = {"wood": "Wave", "stripes": "Wave", "bricks": "Brick", "cells": "Voronoi"}.get(
        pattern, pattern.title()
    )
    texture = nodes.new(f"ShaderNodeTex{kind}")
    link(place.outputs["Vector"], texture.inputs["Vector"])
    texture.inputs["Scale"].default_value = 1.0
    if pattern in ("checker", "bricks"):
        for slot, color in zip(("Color1", "Color2", "Mortar"), colors, strict=False):
            texture.inputs[slot].default_value = _linear(color)
        color_out = texture.outputs["Color"]
        if pattern == "bricks":
            texture.inputs["Mortar Size"].default_value = 0.012
            texture.inputs["Brick Width"].default_value = 1.0
            texture.inputs["Row Height"].default_value = 0.25
    else:
        if pattern == "noise":
            texture.inputs["Detail"].default_value = 4.0
        elif pattern == "wood":
            texture.inputs["Distortion"].default_value = 9.0
            texture.inputs["Detail"].default_value = 3.0
            texture.inputs["Detail Scale"].default_value = 1.4
        elif pattern == "stripes":
            texture.inputs["Distortion"].default_value = 0.0
        ramp = nodes.new("ShaderNodeValToRGB")
        ramp.color_ramp.interpolation = "CONSTANT" if sharp else "LINEAR"
        # Noise seldom leaves [0.3, 0.7]: spread the colours over what it does reach.
        low, high = (0.32, 0.68) if pattern == "noise" else (0.0, 1.0)
        stops = ramp.color_ramp.elements
        while len(stops) < len(colors):
            stops.new(0.5)
        for i, color in enumerate(colors):
            stops[i].position = low + (high - low) * i / (len(colors) if sharp else max(len(colors) - 1, 1))
            stops[i].color = _linear(color)
        link(texture.outputs["Distance" if pattern == "cells" else "Fac"], ramp.inputs["Fac"])
        color_out = ramp.outputs["Color"]

    grain = nodes.new("ShaderNodeTexNoise")
    grain.inputs["Scale"].default_value = 14.0
    grain.inputs["Detail"].default_value = 3.0
    link(nodes["Mapping"].inputs["Vector"].links[0].from_socket, grain.inputs["Vector"])
    shade = nodes.new("ShaderNodeMapRange")
    shade.inputs["From Min"].default_value, shade.inputs["From Max"].default_value = 0.3, 0.7
    shade.inputs["To Min"].default_value, shade.inputs["To Max"].default_value = 1.0 - speckle, 1.0 + speckle
    link(grain.outputs["Fac"], shade.inputs["Value"])
    tint = nodes.new("ShaderNodeVectorMath")
    tint.operation = "SCALE"
    link(color_out, tint.inputs[0])
    link(shade.outputs["Result"], tint.inputs["Scale"])
    link(tint.outputs["Vector"], shader.inputs["Base Color"])
    if bump > 0:
        relief = nodes.new("ShaderNodeBump")
        relief.inputs["Strength"].default_value = bump
        relief.inputs["Distance"].default_value = 0.02
        link(grain.outputs["Fac"], relief.inputs["Height"])
        link(relief.outputs["Normal"], shader.inputs["Normal"])
    return material


# ---------------------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------------------


def mesh(
    name: str,
    vertices: Sequence[Sequence[float]],
    faces: Sequence[Sequence[int]],
    material: bpy.types.Material,
    at: Vector3 = (0.0, 0.0, 0.0),
    turn: float = 0.0,
    smooth: bool = True,
) -> bpy.types.Object:
    """A mesh object at `at`, turned by `turn` degrees about z."""
    data = bpy.data.meshes.new(name)
    data.from_pydata([tuple(v) for v in vertices], [], [tuple(f) for f in faces])
    data.polygons.foreach_set("use_smooth", [smooth] * len(data.polygons))
    data.materials.append(material)
    made = bpy.data.objects.new(name, data)
    made.matrix_world = Matrix.Translation(at) @ Matrix.Rotation(math.radians(turn), 4, "Z")
    bpy.context.scene.collection.objects.link(made)
    return made


def lathe(
    name: str,
    profile: Sequence[tuple[float, float]],
    material: bpy.types.Material,
    at: Vector3 = (0.0, 0.0, 0.0),
    turn: float = 0.0,
    sides: int = 64,
    smooth: bool = True,
) -> bpy.types.Object:
    """A solid of revolution about z; `profile` lists (radius, z) from the bottom round the outside up."""
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    vertices = [(r * math.cos(a), r * math.sin(a), z) for r, z in profile for a in angle]
    faces = []
    for ring in range(len(profile) - 1):
        for i in range(sides):
            j = (i + 1) % sides
            faces.append((ring * sides + i, ring * sides + j, (ring + 1) * sides + j, (ring + 1) * sides + i))
    return mesh(name, vertices, faces, material, at, turn, smooth)


def rounded(points: Sequence[tuple[float, float]], passes: int = 3) -> list[tuple[float, float]]:
    """Corner-cutting (Chaikin) of a profile; both ends stay where they are."""
    line = np.asarray(points, dtype=float)
    for _ in range(passes):
        a, b = line[:-1], line[1:]
        cut = np.stack((0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b), axis=1).reshape(-1, 2)
        line = np.concatenate((line[:1], cut, line[-1:]))
    return [(float(r), float(z)) for r, z in line]


def box(
    name: str,
    size: Vector3,
    material: bpy.types.Material,
    at: Vector3,
    turn: float = 0.0,
    edge: float = 0.02,
) -> bpy.types.Object:
    """A box of `size` with rounded edges, its middle at `at`."""
    x, y, z = (s / 2 for s in size)
    vertices = [(i * x, j * y, k * z) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    made = mesh(name, vertices, faces, material, at, turn, smooth=False)
    if edge > 0:
        bevel = made.modifiers.new("edge", "BEVEL")
        bevel.width, bevel.segments = edge, 3
    return made


def tube(
    name: str,
    points: Sequence[Vector3],
    radius: float,
    material: bpy.types.Material,
    at: Vector3 = (0.0, 0.0, 0.0),
    turn: float = 0.0,
) -> bpy.types.Object:
    """A round tube along a smooth curve through `points`."""
    curve = bpy.data.curves.new(name, "CURVE")
    curve.dimensions, curve.resolution_u = "3D", 10
    curve.bevel_depth, curve.bevel_resolution, curve.use_fill_caps = radius, 5, True
    spline = curve.splines.new("BEZIER")
    spline.bezier_points.add(len(points) - 1)
    for point, position in zip(spline.bezier_points, points, strict=True):
        point.co = position
        point.handle_left_type = point.handle_right_type = "AUTO"
    curve.materials.append(material)
    made = bpy.data.objects.new(name, curve)
    made.matrix_world = Matrix.Translation(at) @ Matrix.Rotation(math.radians(turn), 4, "Z")
    bpy.context.scene.collection.objects.link(made)
    return made


def torus(
    name: str, major: float, minor: float, material: bpy.types.Material, pose: Matrix
) -> bpy.types.Object:
    """A torus round its own z axis, at `pose`."""
    u, v = np.meshgrid(
        np.linspace(0, 2 * np.pi, 72, endpoint=False), np.linspace(0, 2 * np.pi, 24, endpoint=False)
    )
    r = major + minor * np.cos(v)
    vertices = np.stack((r * np.cos(u), r * np.sin(u), minor * np.sin(v)), axis=-1).reshape(-1, 3)
    index = np.arange(24 * 72).reshape(24, 72)
    right, up = np.roll(index, -1, axis=1), np.roll(index, -1, axis=0)
    faces = np.stack((index, right, np.roll(up, -1, axis=1), up), axis=-1).reshape(-1, 4)
    made = mesh(name, vertices.tolist(), faces.tolist(), material)
    made.matrix_world = pose
    return made


# ---------------------------------------------------------------------------------------------------------
# The objects. Each function makes one and returns its parts; the comments say what it touches.
# ---------------------------------------------------------------------------------------------------------

Parts = list[bpy.types.Object]


def good_for(affordance: int, *parts: bpy.types.Object) -> Parts:
    """Says what parts are good for (an id of AFFORDANCES); a part of which nothing is said is background."""
    for part in parts:
        part["affordance"] = affordance
    return list(parts)


def make_mug() -> Parts:
    """A mug with bands and a thin handle; stands against the end of the book.

    Its body is one mesh and two parts: the outside is what a hand goes round, the inside is what holds tea.
    """
    at, turn = (0.37, -0.8315, GAP), -40.0
    outside = [(0.0, 0.0), (0.19, 0.0), (0.235, 0.02), (0.24, 0.07), (0.24, 0.5), (0.235, 0.515)]
    inside = [(0.222, 0.515), (0.215, 0.5), (0.21, 0.08), (0.18, 0.045), (0.0, 0.04)]
    glaze = surface(
        "mug glaze", "stripes", ["#e9e2d0", "#2b6c8f", "#e9e2d0"], 1.0, (0, 0, 0), roughness=0.25, sharp=True
    )
    # Bands round the mug: turn the stripes from x to z.
    wave = glaze.node_tree.nodes["Wave Texture"]
    wave.bands_direction = "Z"
    glaze.node_tree.nodes["Mapping"].inputs["Scale"].default_value = (1.0, 1.0, 1.9)
    body = lathe("mug", outside + inside, glaze, at, turn)
    # The faces are in the order of the profile, as many for each of its pieces.
    pieces = len(outside) + len(inside) - 1
    of_face = np.repeat(
        [WRAP_GRASP] * (len(outside) - 1) + [CONTAIN] * len(inside), len(body.data.polygons) // pieces
    )
    body.data.attributes.new("affordance", "INT", "FACE").data.foreach_set("value", of_face.astype(np.int32))
    clay = surface("mug handle", "noise", ["#24597a", "#3580a6"], 5, roughness=0.25)
    arc = [
        (0.225, 0, 0.4),
        (0.33, 0, 0.42),
        (0.4, 0, 0.33),
        (0.39, 0, 0.2),
        (0.31, 0, 0.11),
        (0.225, 0, 0.11),
    ]
    return [body, *good_for(GRASP, tube("mug handle", arc, 0.027, clay, at, turn))]


def make_book() -> Parts:
    """A closed book lying flat: cover, spine, pages. Carries the pencil and touches the mug."""
    x, y, turn = -0.35, -0.75, -15.0
    cover = surface("book cover", "checker", ["#8c2f39", "#a8505a"], 9, speckle=0.2, roughness=0.6)
    paper = surface("book pages", "stripes", ["#efe6cf", "#c9bc9c"], 1.0, speckle=0.05, roughness=0.9)
    paper.node_tree.nodes["Wave Texture"].bands_direction = "Z"
    paper.node_tree.nodes["Mapping"].inputs["Scale"].default_value = (1, 1, 14)
    gold = surface("book label", "noise", ["#d9b45b", "#f1dc9b"], 6, roughness=0.4)
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))

    def put(u: float, v: float, z: float) -> Vector3:
        return (x + c * u - s * v, y + s * u + c * v, z + GAP)

    return good_for(
        SUPPORT,
        box("book bottom", (0.95, 0.7, 0.022), cover, put(0, 0, 0.011), turn, 0.006),
        box("book pages", (0.91, 0.65, 0.11), paper, put(0, 0.01, 0.077), turn, 0.0),
        box("book top", (0.95, 0.7, 0.022), cover, put(0, 0, 0.143), turn, 0.006),
        box("book spine", (0.95, 0.03, 0.154), cover, put(0, 0.34, 0.077), turn, 0.008),
        box("book label", (0.4, 0.13, 0.004), gold, put(-0.1, 0.17, 0.1555), turn, 0.0),
    )


def make_pencil() -> Parts:
    """A hexagonal pencil with a sharpened tip, lying on the book: thin, and all its boundary is contact."""
    radius, length = 0.034, 0.72
    paint = surface(
        "pencil paint", "stripes", ["#2f8f4e", "#f2c230"], 1.0, roughness=0.35, sharp=True, speckle=0.1
    )
    paint.node_tree.nodes["Wave Texture"].bands_direction = "Z"
    paint.node_tree.nodes["Mapping"].inputs["Scale"].default_value = (1, 1, 1.6)
    wood = surface("pencil wood", "noise", ["#d9a76a", "#efcb98"], 30)
    lead = surface("pencil lead", "noise", ["#202020", "#3a3a3a"], 30)
    parts = [
        lathe("pencil", [(0.0, 0.0), (radius, 0.0), (radius, length)], paint, sides=6, smooth=False),
        lathe(
            "pencil wood", [(radius * math.cos(math.pi / 6), length), (0.011, length + 0.1)], wood, sides=24
        ),
        lathe("pencil lead", [(0.011, length + 0.1), (0.0, length + 0.14)], lead, sides=24),
    ]
    lay = (
        Matrix.Translation((-0.72, -0.83, 0.156 + 2 * GAP + radius * math.cos(math.pi / 6)))
        @ Matrix.Rotation(math.radians(-6), 4, "Z")
        @ Matrix.Rotation(math.radians(90), 4, "Y")
        @ Matrix.Rotation(math.radians(30), 4, "Z")  # on a face, not on an edge
    )
    for part in parts:
        part.matrix_world = lay
    return good_for(GRASP, *parts)


def make_apple() -> Parts:
    """An apple with a stalk; touches the orange."""
    at = (0.85, -0.15, GAP)
    profile = [
        (0.0, 0.05),
        (0.09, 0.0),
        (0.17, 0.02),
        (0.225, 0.17),
        (0.23, 0.31),
        (0.13, 0.42),
        (0.05, 0.38),
        (0.0, 0.33),
    ]
    skin = surface(
        "apple skin", "noise", ["#7d1016", "#b8222a", "#c94a35", "#d9b04a"], 3.2, (1, 1, 0.5), roughness=0.3
    )
    stalk = surface("apple stalk", "noise", ["#4a3219", "#6e4f2a"], 20)
    body = lathe("apple", rounded(profile, 4), skin, at)
    stem = tube("apple stalk", [(0, 0, 0.33), (0.012, 0, 0.42), (0.05, 0.01, 0.5)], 0.014, stalk, at)
    return good_for(WRAP_GRASP, body, stem)


def make_orange() -> Parts:
    """An orange with a dimpled skin; touches the apple."""
    radius = 0.2
    profile = [(radius * math.sin(t), -radius * math.cos(t)) for t in np.linspace(0, math.pi, 40)]
    skin = surface("orange skin", "noise", ["#d2660c", "#f08a1c", "#f5a63a"], 4, roughness=0.45, bump=0.6)
    # The apple's widest ring and the orange's meet at 70 degrees.
    reach = 0.2 + 0.227 + GAP
    x, y = 0.85 + reach * math.cos(math.radians(70)), -0.15 + reach * math.sin(math.radians(70))
    body = lathe("orange", profile, skin, (x, y, radius + GAP))
    navel = surface("orange navel", "noise", ["#4f5a1c", "#7a7a35"], 20)
    return good_for(
        WRAP_GRASP,
        body,
        lathe(
            "orange navel",
            [(0.0, 0.0), (0.022, 0.0), (0.014, 0.012), (0.0, 0.014)],
            navel,
            (x, y, 2 * radius),
        ),
    )


BOTTLE_AT, BOTTLE_RADIUS = (0.42, 0.62), 0.2


def make_bottle() -> Parts:
    """A glazed bottle with a printed label and a cork; the ring leans on it."""
    at = (*BOTTLE_AT, GAP)
    r = BOTTLE_RADIUS
    lower = rounded([(0.0, 0.0), (r, 0.0), (r, 0.06)], 2)
    upper = rounded([(r, 0.62), (r, 0.74), (0.075, 0.8), (0.07, 0.98)], 3)
    rim = [(0.088, 0.985), (0.088, 1.03), (0.05, 1.03), (0.0, 1.03)]
    glass = surface("bottle glaze", "noise", ["#0e4a38", "#1c6e50", "#2c8a63"], 3, roughness=0.2)
    label = surface("bottle label", "checker", ["#efe8d2", "#c8452f"], 7, roughness=0.7)
    cork = surface("bottle cork", "cells", ["#7c5836", "#c79a66"], 28, roughness=0.9)
    print_at = [(r, 0.2), (r + 0.003, 0.2), (r + 0.003, 0.52), (r, 0.52)]
    return [
        *good_for(
            WRAP_GRASP,
            lathe("bottle", lower + upper + rim, glass, at),
            lathe("bottle label", print_at, label, at, turn=20),
        ),
        *good_for(
            GRASP, lathe("bottle cork", [(0.045, 1.03), (0.05, 1.1), (0.04, 1.11), (0.0, 1.11)], cork, at)
        ),
    ]


def make_ring() -> Parts:
    """A toy ring on its edge, leaning against the bottle: one sees the bottle and the table through it."""
    major, minor, lean = 0.27, 0.06, math.radians(20)
    # Lowest point on the table; the point nearest to the bottle's axis just meets its wall.
    z = major * math.cos(lean) + minor + GAP
    back = BOTTLE_RADIUS + 0.003 + minor + major * math.sin(lean) + GAP
    around = math.radians(-110)  # the side of the bottle that it leans on
    x, y = BOTTLE_AT[0] + back * math.cos(around), BOTTLE_AT[1] + back * math.sin(around)
    # Local frame of the torus: its axis points at the bottle, tipped down by the lean.
    pose = (
        Matrix.Translation((x, y, z))
        @ Matrix.Rotation(around + math.pi, 4, "Z")
        @ Matrix.Rotation(math.pi / 2 + lean, 4, "Y")
    )
    paint = surface("ring paint", "noise", ["#7a3fa0", "#a864cf", "#d9a9ea"], 4, roughness=0.35)
    return good_for(GRASP, torus("ring", major, minor, paint, pose))


BLOCK = 0.42


def _block(name: str, material: bpy.types.Material, along: float, layer: int, twist: float = 0.0) -> Parts:
    """A toy block in the pile: `along` blocks along the pile's row, in `layer` 0 or 1."""
    row = math.radians(25)
    x, y = -0.85 + along * BLOCK * math.cos(row), 0.22 + along * BLOCK * math.sin(row)
    z = (layer + 0.5) * BLOCK + (layer + 1) * GAP
    size = BLOCK - GAP
    return good_for(GRASP, box(name, (size, size, size), material, (x, y, z), 25 + twist, 0.018))


def make_red_block() -> Parts:
    """Bottom left of the pile: touches the yellow one along a whole face and carries the blue one."""
    return _block(
        "red block", surface("red block", "wood", ["#a81e1e", "#d3433b", "#e0705c"], 3, speckle=0.15), -0.5, 0
    )


def make_yellow_block() -> Parts:
    """Bottom right of the pile: checkered."""
    return _block(
        "yellow block", surface("yellow block", "checker", ["#e8b92a", "#8a5a14"], 7.2, speckle=0.12), 0.5, 0
    )


def make_blue_block() -> Parts:
    """On top of the two others, twisted."""
    paint = surface("blue block", "stripes", ["#1f4fa8", "#dfe7f2"], 1.6, (1, 1, 1), sharp=True, speckle=0.12)
    return _block("blue block", paint, 0.08, 1, twist=17)


def make_plant(rng: np.random.Generator) -> Parts:
    """A pot with earth and thin arching leaves."""
    at = (-0.2, 0.95, GAP)
    clay = surface("plant pot", "noise", ["#8a4a2b", "#b56a42", "#c98a62"], 5, (1, 1, 3), roughness=0.8)
    earth = surface("plant earth", "cells", ["#1c120b", "#4a3422"], 22, roughness=1.0)
    pot = [(0.0, 0.0), (0.17, 0.0), (0.235, 0.3), (0.26, 0.3), (0.265, 0.37), (0.235, 0.37), (0.23, 0.33)]
    parts = [
        *good_for(WRAP_GRASP, lathe("plant pot", pot, clay, at)),
        *good_for(CONTAIN, lathe("plant earth", [(0.23, 0.33), (0.12, 0.345), (0.0, 0.35)], earth, at)),
    ]
    greens = [
        surface(f"leaf {i}", "noise", colors, 6, roughness=0.45)
        for i, colors in enumerate((["#2c5a22", "#4b8a35"], ["#3f7a2a", "#7cab46"], ["#1f4d2c", "#3c7a4a"]))
    ]
    leaves = 13
    for i in range(leaves):
        length = rng.uniform(0.5, 0.85)
        reach = rng.uniform(0.35, 0.75)  # how far it bows out, as a part of its length
        width = rng.uniform(0.05, 0.075)
        vertices = []
        for t in np.linspace(0, 1, 15):
            half = width * math.sin(math.pi * min(0.06 + 0.94 * t, 1.0)) ** 0.7
            out = 0.05 + reach * length * t**1.6
            up = 0.34 + length * (t - 0.35 * reach * t**2.5)
            for side in (-1, 0, 1):  # folded along the middle
                vertices.append((out, side * half, up + abs(side) * 0.35 * half))
        faces = []
        for ring in range(14):
            for side in (0, 1):
                a = 3 * ring + side
                faces.append((a, a + 1, a + 4, a + 3))
        turn = 360 * i / leaves + rng.uniform(-12, 12)
        parts.append(mesh(f"leaf {i}", vertices, faces, greens[i % 3], at, turn))
    return parts


def make_cable() -> Parts:
    """A braided cable that winds between the other objects over the table."""
    radius = 0.036
    z = radius + GAP
    track = [
        (-1.5, 0.0),
        (-1.25, -0.35),
        (-0.75, -0.16),
        (-0.3, -0.2),
        (-0.02, 0.2),
        (0.12, 0.02),
        (0.38, -0.16),
    ]
    track += [(0.6, -0.42), (0.95, -0.55), (1.25, -0.35)]
    braid = surface("cable braid", "checker", ["#d8d4c8", "#33343a"], 16, roughness=0.8, speckle=0.1)
    plastic = surface("cable plug", "noise", ["#2c2d33", "#4a4c55"], 10, roughness=0.4)
    plug = tube("cable plug", [(1.245, -0.355, z), (1.31, -0.28, z), (1.36, -0.2, z)], 0.056, plastic)
    plug.location.z += 0.056 - radius
    return [tube("cable", [(x, y, z) for x, y in track], radius, braid), *good_for(GRASP, plug)]


def make_table() -> Parts:
    """A round wooden table on a pedestal."""
    wood = surface(
        "table wood",
        "wood",
        ["#704a29", "#94663b", "#a97a47", "#b88b55"],
        2.0,
        (1.0, 0.3, 1.0),
        roughness=0.5,
    )
    dark = surface("table leg", "noise", ["#3f2a19", "#5a3d25"], 6, (1, 1, 0.3))
    r = TABLE_RADIUS
    top = [
        (0.0, -0.11),
        (r - 0.04, -0.11),
        (r, -0.08),
        (r, -0.02),
        (r - 0.015, -0.004),
        (r - 0.03, 0.0),
        (0.0, 0.0),
    ]
    leg = [(0.16, -0.11), (0.12, -0.5), (0.14, FLOOR + 0.4), (0.5, FLOOR + 0.1), (0.7, FLOOR + GAP)]
    return [lathe("table", top, wood, sides=128), lathe("table leg", rounded(leg), dark)]


def make_room() -> Parts:
    """Floor and four walls, each its own pattern. There is no ceiling: light comes in from above."""
    boards = surface(
        "floor", "bricks", ["#8f8373", "#a89a86", "#5d5347"], 0.55, (1, 2.2, 1), roughness=0.7, speckle=0.18
    )
    parts = [box("floor", (2 * WALL, 2 * WALL, 0.1), boards, (0, 0, FLOOR - 0.05), 0, 0.0)]
    papers = [
        surface("wall x", "bricks", ["#a0614a", "#b87a5f", "#cfc3b2"], 0.7, (1, 1, 1), roughness=0.9),
        surface("wall y", "stripes", ["#7d98a1", "#b9c8c9"], 0.35, roughness=0.9, speckle=0.15),
        surface("wall -x", "noise", ["#8b9a6b", "#b7bf94", "#d8d3b0"], 0.9, roughness=0.9),
        surface("wall -y", "checker", ["#c9b79a", "#b09a7a"], 0.8, roughness=0.9),
    ]
    for i, paper in enumerate(papers):
        angle = math.pi / 2 * i
        at = ((WALL + 0.05) * math.cos(angle), (WALL + 0.05) * math.sin(angle), FLOOR + 2.2)
        wall = box(f"wall {i}", (2 * WALL + 0.2, 4.4, 0.1), paper, at, 0, 0.0)
        # Stand the slab up: its own x runs along the wall and its y upwards.
        wall.matrix_world = (
            Matrix.Translation(at)
            @ Matrix.Rotation(angle - math.pi / 2, 4, "Z")
            @ Matrix.Rotation(math.pi / 2, 4, "X")
        )
        parts.append(wall)
    return parts


def build_scene(rng: np.random.Generator) -> dict[int, str]:
    """Makes everything; each Blender object carries its object id as `pass_index`.

    Returns:
        The names of ids 1..n. The floor and the walls have id 0 and no name.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    things: dict[str, Parts] = {
        "mug": make_mug(),
        "book": make_book(),
        "pencil": make_pencil(),
        "apple": make_apple(),
        "orange": make_orange(),
        "bottle": make_bottle(),
        "ring": make_ring(),
        "red block": make_red_block(),
        "yellow block": make_yellow_block(),
        "blue block": make_blue_block(),
        "plant": make_plant(rng),
        "cable": make_cable(),
        "table": make_table(),
    }
    for object_id, parts in enumerate(things.values(), start=1):
        for part in parts:
            part.pass_index = object_id
    make_room()
    make_lights()
    bpy.context.view_layer.update()
    return dict(enumerate(things, start=1))


def make_lights() -> None:
    """A soft key light from one side, a weak fill from the other, an even sky above the open room."""
    for name, at, size, watts, color in (
        ("key", (3.4, -2.2, 4.2), 1.6, 480.0, (1.0, 0.93, 0.84)),
        ("fill", (-3.6, 2.8, 4.2), 3.0, 130.0, (0.84, 0.91, 1.0)),
    ):
        light = bpy.data.lights.new(name, "AREA")
        light.size, light.energy, light.color = size, watts, color
        lamp = bpy.data.objects.new(name, light)
        lamp.matrix_world = look_at(np.array(at), np.zeros(3))
        lamp.visible_camera = False
        bpy.context.scene.collection.objects.link(lamp)
    world = bpy.data.worlds.new("sky")
    world.use_nodes = True
    sky = world.node_tree.nodes["Background"]
    sky.inputs["Color"].default_value = (0.86, 0.92, 1.0, 1.0)
    sky.inputs["Strength"].default_value = 0.45
    bpy.context.scene.world = world


# ---------------------------------------------------------------------------------------------------------
# Cameras
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pinhole:
    """A centred pinhole camera; the middle of pixel (column i, row j) lies at (i + 0.5, j + 0.5)."""

    width: int
    height: int

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return 0.5 * self.width / math.tan(FIELD_OF_VIEW / 2)

    def rays(self, pose: np.ndarray) -> np.ndarray:
        """Unit directions [H, W, 3] through the pixel centres of a camera at `pose` [4, 4] (OpenGL axes)."""
        x = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        y = (np.arange(self.height) + 0.5 - self.height / 2) / self.focal
        local = np.stack(np.broadcast_arrays(x[None, :], -y[:, None], -1.0), axis=-1)
        world = local @ pose[:3, :3].T
        return world / np.linalg.norm(world, axis=-1, keepdims=True)

    def project(self, pose: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates [N, 2] and depths [N] of world points [N, 3]."""
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        depth = -local[:, 2]
        safe = np.where(depth > 1e-6, depth, np.inf)
        u = self.focal * local[:, 0] / safe + self.width / 2
        v = -self.focal * local[:, 1] / safe + self.height / 2
        return np.stack((u, v), axis=-1), depth


def look_at(eye: np.ndarray, target: np.ndarray) -> Matrix:
    """Camera-to-world of a level camera at `eye` facing `target` (OpenGL: x right, y up, -z ahead)."""
    back = Vector(eye - target).normalized()
    right = Vector((0, 0, 1)).cross(back).normalized()
    pose = Matrix((right, back.cross(right), back)).transposed().to_4x4()
    pose.translation = Vector(eye)
    return pose


def place_cameras(count: int, rng: np.random.Generator) -> list[Matrix]:
    """A bit over three turns round the table, in three steps of height; every sixth view steps closer."""
    poses = []
    for i in range(count):
        azimuth = 2 * math.pi * 3.4 * i / count + rng.uniform(-0.06, 0.06)
        level_index = 3 * i // count
        elevation = math.radians((23.0, 38.0, 55.0)[level_index] + rng.uniform(-3, 3))
        distance = (3.9, 3.6, 3.5)[level_index] * rng.uniform(0.93, 1.07)
        target = np.array([0.0, 0.0, 0.2]) + rng.uniform(-0.12, 0.12, 3)
        if i % 6 == 3:
            distance = rng.uniform(2.4, 2.7)
            elevation += math.radians(6)
            # Towards the near side, so that no object stands against the lens.
            target[:2] += 0.25 * np.array([math.cos(azimuth), math.sin(azimuth)])
        level = math.cos(elevation)
        direction = np.array([level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)])
        poses.append(look_at(target + distance * direction, target))
    return poses


# ---------------------------------------------------------------------------------------------------------
# What the cameras see
# ---------------------------------------------------------------------------------------------------------


def set_up_cycles(camera: Pinhole, samples: int) -> bpy.types.Object:
    """Sets the renderer up and returns the camera object whose matrix the views are taken from."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y = camera.width, camera.height
    scene.render.resolution_percentage = 100
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"
    scene.render.use_persistent_data = True  # the scene is uploaded to the renderer once, not once per view
    scene.view_settings.view_transform = "AgX"
    scene.view_settings.look = "AgX - Medium High Contrast"
    cycles = scene.cycles
    cycles.device = "CPU"
    cycles.samples = samples
    cycles.use_adaptive_sampling = False
    cycles.use_denoising = True
    cycles.denoiser = "OPENIMAGEDENOISE"
    cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 5, 4, 2
    cycles.caustics_reflective = cycles.caustics_refractive = False
    lens = bpy.data.cameras.new("camera")
    lens.sensor_fit, lens.angle = "HORIZONTAL", FIELD_OF_VIEW
    lens.clip_start, lens.clip_end = 0.05, 100.0
    made = bpy.data.objects.new("camera", lens)
    scene.collection.objects.link(made)
    scene.camera = made
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what Blender prints, two lines a sample, straight to the process's output."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def render_photo(pose: Matrix, camera_object: bpy.types.Object, path: Path, quality: int) -> np.ndarray:
    """Renders a view, writes it as JPEG and returns what the JPEG holds, uint8 [H, W, 3]."""
    camera_object.matrix_world = pose
    with tempfile.TemporaryDirectory() as folder:
        bpy.context.scene.render.filepath = str(Path(folder) / "view.png")
        with quiet():
            bpy.ops.render.render(write_still=True)
        # By way of Pillow: Blender would stamp date and render time into the file.
        with Image.open(Path(folder) / "view.png") as photo:
            photo.convert("RGB").save(path, quality=quality, optimize=True)
    with Image.open(path) as photo:
        return np.asarray(photo)


class Surfaces:
    """All triangles of the scene (or of one object) in one tree, each with its ids: exact answers to what a ray meets."""

    def __init__(self, only: int | None = None) -> None:
        depsgraph = bpy.context.evaluated_depsgraph_get()
        vertices: list[np.ndarray] = []
        faces: list[np.ndarray] = []
        ids: list[np.ndarray] = []
        parts: list[np.ndarray] = []
        total = 0
        for thing in bpy.context.scene.objects:
            if thing.type not in ("MESH", "CURVE") or only not in (None, thing.pass_index):
                continue
            evaluated = thing.evaluated_get(depsgraph)
            data = evaluated.to_mesh()
            data.calc_loop_triangles()
            points = np.empty(3 * len(data.vertices), dtype=np.float32)
            data.vertices.foreach_get("co", points)
            triangles = np.empty(3 * len(data.loop_triangles), dtype=np.int32)
            data.loop_triangles.foreach_get("vertices", triangles)
            to_world = np.asarray(thing.matrix_world)
            vertices.append(points.reshape(-1, 3) @ to_world[:3, :3].T + to_world[:3, 3])
            faces.append(triangles.reshape(-1, 3) + total)
            ids.append(np.full(len(data.loop_triangles), thing.pass_index))
            part = np.full(len(data.polygons), thing.get("affordance", 0), dtype=np.int32)
            if "affordance" in data.attributes:
                data.attributes["affordance"].data.foreach_get("value", part)
            polygon = np.empty(len(data.loop_triangles), dtype=np.int32)
            data.loop_triangles.foreach_get("polygon_index", polygon)
            parts.append(part[polygon])
            total += len(data.vertices)
            evaluated.to_mesh_clear()
        self.ids = np.concatenate(ids)
        self.parts = np.concatenate(parts)
        self.vertices = np.concatenate(vertices)
        self.tree = BVHTree.FromPolygons(
            self.vertices.tolist(), np.concatenate(faces).tolist(), all_triangles=True
        )

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What unit rays [..., 3] meet.

        Returns:
            Object ids and affordances, uint8 [...] (0 if nothing is met), and distances [...] (then inf).
        """
        start, cast = Vector(origin), self.tree.ray_cast
        flat = directions.reshape(-1, 3)
        hit = np.full(len(flat), -1, dtype=np.int64)
        distance = np.full(len(flat), np.inf)
        for i, direction in enumerate(flat.tolist()):
            _, _, face, length = cast(start, direction)
            if face is not None:
                hit[i], distance[i] = face, length
        ids = np.where(hit >= 0, self.ids[hit], 0).astype(np.uint8)
        parts = np.where(hit >= 0, self.parts[hit], 0).astype(np.uint8)
        shape = directions.shape[:-1]
        return ids.reshape(shape), parts.reshape(shape), distance.reshape(shape)


def write_parts(path: Path, parts: np.ndarray) -> None:
    """Writes affordances uint8 [H, W] as a palette PNG of four bits."""
    image = Image.fromarray(parts, mode="P")
    image.putpalette([int(color[i : i + 2], 16) for color in PART_COLORS for i in (1, 3, 5)])
    image.save(path, optimize=True, bits=4)


def write_part_names(folder: Path) -> None:
    names = {str(affordance): name for affordance, name in enumerate(AFFORDANCES)}
    (folder / "part_names.json").write_text(json.dumps(names, indent=2) + "\n")


def make_part_maps(folder: Path) -> None:
    """Writes the part maps of a scene that is there already, seen by the cameras of its transforms.json.

    The geometry is made anew; if it is not what the scene's id maps show, nothing is written for that view.
    """
    contents = json.loads((folder / "transforms.json").read_text())
    (folder / "part_mask").mkdir(exist_ok=True)
    build_scene(np.random.default_rng(SEED))
    surfaces = Surfaces()
    camera = Pinhole(contents["w"], contents["h"])
    for frame in contents["frames"]:
        pose = np.asarray(frame["transform_matrix"])
        ids, parts, _ = surfaces.cast(pose[:3, 3], camera.rays(pose))
        name = f"{Path(frame['file_path']).stem}.png"
        with Image.open(folder / "object_mask" / name) as written:
            other = int((np.asarray(written) != ids).sum())
        if other:
            sys.exit(f"object_mask/{name} differs from the scene made here in {other} pixels: make it anew")
        write_parts(folder / "part_mask" / name, parts)
        print(f"part_mask/{name}", flush=True)
    write_part_names(folder)


def make_sides(folder: Path, names: dict[int, str]) -> None:
    """Writes masks of the objects in SIDES, each alone in its place, seen from all around, also from below.

    The directions are those of a Fibonacci lattice on the sphere. The object's bounding sphere fills most of the picture.
    """
    (folder / "every_side").mkdir(exist_ok=True)
    camera = Pinhole(SIDE_SIZE, SIDE_SIZE)
    height = 1 - (2 * np.arange(DIRECTIONS) + 1) / DIRECTIONS
    azimuth = math.pi * (3 - math.sqrt(5)) * np.arange(DIRECTIONS)
    level = np.sqrt(1 - height**2)
    directions = np.stack((level * np.cos(azimuth), level * np.sin(azimuth), height), axis=-1)
    frames = []
    for object_id, name in names.items():
        if name not in SIDES:
            continue
        alone = Surfaces(object_id)
        middle = (alone.vertices.min(axis=0) + alone.vertices.max(axis=0)) / 2
        radius = float(np.linalg.norm(alone.vertices - middle, axis=-1).max())
        distance = 1.15 * radius / math.sin(FIELD_OF_VIEW / 2)
        for i, direction in enumerate(directions):
            pose = np.asarray(look_at(middle + distance * direction, middle), dtype=np.float64)
            ids, _, _ = alone.cast(pose[:3, 3], camera.rays(pose))
            path = folder / "every_side" / f"{name.replace(' ', '_')}_{i:02d}.png"
            Image.fromarray(ids > 0).save(path, optimize=True)
            frames.append(
                {"file_path": path.name, "object_id": object_id, "transform_matrix": pose.round(7).tolist()}
            )
        print(f"every_side/{name}: {DIRECTIONS} masks", flush=True)
    contents = {**transforms(camera, [], []), "frames": frames}
    del contents["ply_file_path"]
    (folder / "every_side" / "cameras.json").write_text(json.dumps(contents, indent=1) + "\n")


@dataclass(frozen=True)
class View:
    """One view: `photo` uint8 [H, W, 3], `ids` uint8 [H, W], `points` [H, W, 3] in the world."""

    pose: np.ndarray
    photo: np.ndarray
    ids: np.ndarray
    points: np.ndarray


def sparse_points(
    views: Sequence[View], camera: Pinhole, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points as structure from motion would find them.

    Pixels are drawn where the photo has detail; a surface point stays if two more views see it in a like
    colour; its error grows with its distance from the camera (0.2 % of it); one in a hundred is an outlier.

    Returns:
        Positions float32 [N, 3] and colours uint8 [N, 3], N <= count.
    """
    grey = [view.photo.astype(np.float32).mean(axis=-1) for view in views]
    quota = math.ceil(1.6 * count / len(views))  # more than needed: some fail the test of the other views
    positions, colors = [], []
    for view, image in zip(views, grey, strict=True):
        gradient = np.hypot(*np.gradient(image))
        # A feature detector fires more on the objects than on the far walls.
        weight = (gradient + 0.5) * np.where(view.ids > 0, 2.0, 1.0) * np.isfinite(view.points[..., 0])
        picked = rng.choice(weight.size, quota, replace=False, p=(weight / weight.sum()).ravel())
        world = view.points.reshape(-1, 3)[picked]
        color = view.photo.reshape(-1, 3)[picked]
        distance = np.linalg.norm(world - view.pose[:3, 3], axis=-1)
        seen = np.zeros(len(picked), dtype=int)
        for other in views:
            pixel, depth = camera.project(other.pose, world)
            column, row = np.floor(pixel).astype(int).T
            inside = (
                (depth > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
            )
            column, row = np.where(inside, column, 0), np.where(inside, row, 0)
            same_place = np.linalg.norm(other.points[row, column] - world, axis=-1) < 0.01 * distance
            same_color = np.abs(other.photo[row, column].astype(int) - color).mean(axis=-1) < 40
            seen += inside & same_place & same_color
        keep = seen >= min(3, len(views))
        noise = rng.normal(0.0, 0.002, world.shape) * distance[:, None]
        positions.append((world + noise)[keep])
        colors.append(color[keep])
    position, color = np.concatenate(positions), np.concatenate(colors)
    chosen = np.sort(rng.permutation(len(position))[:count])
    position, color = position[chosen], color[chosen]
    outlier = rng.choice(len(position), len(position) // 100, replace=False)
    position[outlier] += rng.normal(0.0, 0.3, (len(outlier), 3))
    return position.astype(np.float32), color


def write_ply(path: Path, positions: np.ndarray, colors: np.ndarray) -> None:
    """Writes points float32 [N, 3] with colours uint8 [N, 3] as a binary PLY."""
    vertex = np.empty(len(positions), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    vertex["xyz"], vertex["rgb"] = positions, colors
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(positions)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    path.write_bytes("\n".join([*header, "end_header", ""]).encode("ascii") + vertex.tobytes())


def transforms(camera: Pinhole, names: Sequence[str], poses: Sequence[np.ndarray]) -> dict[str, object]:
    """The contents of transforms.json, in nerfstudio's format."""
    return {
        "camera_model": "OPENCV",
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.focal,
        "fl_y": camera.focal,
        "cx": camera.width / 2,
        "cy": camera.height / 2,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "ply_file_path": "sparse_pc.ply",
        "frames": [
            {"file_path": f"images/{name}.jpg", "transform_matrix": pose.tolist()}
            for name, pose in zip(names, poses, strict=True)
        ],
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the scene to")
    parser.add_argument("--views", type=int, default=48, help="number of photos")
    parser.add_argument("--size", type=int, nargs=2, default=(400, 300), metavar=("W", "H"), help="in pixels")
    parser.add_argument("--samples", type=int, default=24, help="paths per pixel, before denoising")
    parser.add_argument("--points", type=int, default=12_000, help="number of sparse points, at most")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality of the photos")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the renderer; 0 is all")
    parser.add_argument("--overwrite", action="store_true", help="replace a scene that is already in --out")
    parser.add_argument("--parts", action="store_true", help="write only the part maps of the scene in --out")
    parser.add_argument(
        "--sides", action="store_true", help="write only the masks of single objects from every side"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.parts:
        if not (args.out / "transforms.json").exists():
            sys.exit(f"--out {args.out} holds no scene (transforms.json): make one first, without --parts")
        make_part_maps(args.out)
        return
    if args.sides:
        make_sides(args.out, build_scene(np.random.default_rng(SEED)))
        return
    if (args.out / "transforms.json").exists() and not args.overwrite:
        sys.exit(
            f"--out {args.out} already holds a scene (transforms.json): name another folder or add --overwrite"
        )
    for name in ("images", "object_mask", "part_mask"):
        (args.out / name).mkdir(parents=True, exist_ok=True)

    started = time.time()
    names = build_scene(np.random.default_rng(SEED))
    camera = Pinhole(*args.size)
    camera_object = set_up_cycles(camera, args.samples)
    if args.threads:
        bpy.context.scene.render.threads_mode = "FIXED"
        bpy.context.scene.render.threads = args.threads
    surfaces = Surfaces()
    print(f"{len(names)} objects, {len(surfaces.ids)} triangles", flush=True)

    views, stems = [], []
    for i, matrix in enumerate(place_cameras(args.views, np.random.default_rng(SEED + 1)), start=1):
        stem = f"frame_{i:05d}"
        pose = np.asarray(matrix, dtype=np.float64)
        bpy.context.scene.cycles.seed = (
            SEED + i
        )  # what noise is left must not look like texture that moves along
        photo = render_photo(matrix, camera_object, args.out / "images" / f"{stem}.jpg", args.quality)
        rays = camera.rays(pose)
        ids, parts, distance = surfaces.cast(pose[:3, 3], rays)
        Image.fromarray(ids, mode="L").save(args.out / "object_mask" / f"{stem}.png", optimize=True)
        write_parts(args.out / "part_mask" / f"{stem}.png", parts)
        views.append(View(pose, photo, ids, pose[:3, 3] + rays * distance[..., None]))
        stems.append(stem)
        spent = time.time() - started
        print(f"view {i}/{args.views}  {spent:.0f} s, {spent / i * (args.views - i):.0f} s to go", flush=True)

    positions, colors = sparse_points(views, camera, args.points, np.random.default_rng(SEED + 2))
    write_ply(args.out / "sparse_pc.ply", positions, colors)
    named = {str(object_id): name for object_id, name in names.items()}
    (args.out / "object_names.json").write_text(json.dumps(named, indent=2) + "\n")
    write_part_names(args.out)
    make_sides(args.out, names)
    # Last, so that a folder with this file holds a whole scene.
    contents = transforms(camera, stems, [view.pose for view in views])
    (args.out / "transforms.json").write_text(json.dumps(contents, indent=1) + "\n")
    files = [path for path in args.out.rglob("*") if path.suffix in (".jpg", ".png", ".ply", ".json")]
    print(
        f"{args.out}: {len(views)} views, {len(positions)} points, "
        f"{sum(path.stat().st_size for path in files) / 1e6:.2f} MB, {time.time() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
