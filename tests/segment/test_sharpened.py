"""`gradiseg segment --sharpen`: masks of several objects as maps, and everything behind a splat of more Gaussians."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradiseg_ns.boundary import cutting
from gradiseg_ns.cli import segment
from gradiseg_ns.cli.segment import Segment
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.rendering import Camera
from gradiseg_ns.runs.writing import labels_of_run
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.segment.loop import Found, SegmentError, Views, see
from gradiseg_ns.sources.run import load_run

from ..scenes import write_scene
from ..splats import traced_splat, write_plain_run
from .test_verb import red_pixel


def test_a_run_of_more_gaussians_holds_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_scene(tmp_path / "tiny", views=8, width=96, height=72)
    run = write_plain_run(scene, tmp_path / "runs")
    view, x, y = red_pixel(run)
    monkeypatch.setattr(cutting, "SHARP", (9.0, 0.0))  # a wand's masks on 72 lines
    Segment(run, click=((str(view), str(x), str(y)),), views=4, sharpen=True).main()
    told = capsys.readouterr().out
    assert "Sharpened:" in told and "dB" in told
    splat = read_ply(run / "segmented" / "segmented.ply")
    written = load_run(next(run.parent.glob("*-segmented")))
    assert len(written.splat) == len(splat) >= len(load_run(run).splat)
    assert splat.labels is not None and torch.equal(labels_of_run(written), splat.labels)
    assert float(splat.extra["label_confidence"].min()) >= 0
    color = splat.features_dc * 0.2821 + 0.5
    red, found = (color[:, 0] > 0.5) & (color[:, 1] < 0.3), splat.labels == 1
    assert int(found.sum()) > 50 and float((found & red).sum() / found.sum()) > 0.8


def test_masks_of_several_objects_become_maps(tmp_path: Path) -> None:
    splat = traced_splat(write_scene(tmp_path / "tiny", views=2, width=48, height=36), every=3)
    eye = torch.eye(4)
    eye[2, 3] = 3
    camera = Camera(eye, torch.tensor([[40.0, 0, 24], [0, 40, 18], [0, 0, 1]]), 48, 36)
    views = Views(lambda one: see(splat, one), [camera, camera], 36)
    splat.labels = torch.full((len(splat),), 2, dtype=torch.int32)  # all is said to be the second object
    mask = torch.zeros(36, 48, dtype=torch.bool)
    mask[:, :20] = True
    first, second = Found.empty(splat.gaussians()), Found.empty(splat.gaussians())
    first.views, first.masks = [0], [mask]
    second.views, second.masks = [1], [~mask]
    table = ObjectTable.create([0, 1, 2], {1: "one", 2: "two"})
    (_, one), (_, two) = segment._mapped(splat, {"one": first, "two": second}, views, table)
    shown = segment._classes(splat, table, views.sight(0).projection) >= 0
    assert bool((one[shown & mask] == 1).all()), "the first object's mask"
    assert bool((one[shown & ~mask] == 2).all()), "nobody asked for the second here: what the labels show"
    assert bool((two[shown & ~mask] == 2).all())
    assert bool((two[shown & mask] == 0).all()), "its mask says that it is not there"
    assert bool((one[~shown] == -1).all()) and bool((two[~shown] == -1).all()), (
        "nothing is known of empty pixels"
    )


def test_sharpening_needs_masks(tmp_path: Path) -> None:
    with pytest.raises(SegmentError, match="--sharpen goes with --click or --phrase"):
        Segment(tmp_path / "splat.ply", everything=True, sharpen=True).main()
