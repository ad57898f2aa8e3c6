"""`gradiseg segment` on the tiny scene: a bare PLY, a run, and what is wrong with flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gradiseg_ns import masks
from gradiseg_ns.cli.segment import Segment
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.masks import Mask, Picture
from gradiseg_ns.runs.writing import labels_of_run, objects_of_run
from gradiseg_ns.segment.loop import Found, SegmentError, find_object
from gradiseg_ns.sources.run import load_run

from ..scenes import write_scene
from ..splats import traced_splat, write_plain_run


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("verb") / "tiny", views=8, width=96, height=72)


@pytest.fixture(scope="module")
def ply(scene: Path) -> Path:
    return write_ply(scene.parent / "bare.ply", traced_splat(scene, every=2))


def red_pixel(run_or_ply: Path, view: int = 0) -> tuple[int, int, int]:
    """A click on the red ball in a view that the verb would show."""
    from gradiseg_ns.segment.loop import see

    _, _, splat, cameras, background = Segment(run_or_ply)._open()
    rgb = see(splat, cameras[view], background).picture.rgb
    red = (rgb[..., 0] > 0.5) & (rgb[..., 1] < 0.35)
    y, x = (red.nonzero().float().median(dim=0).values).int().tolist()
    return view, x, y


def test_cameras_of_a_bare_splat_can_be_looked_at(ply: Path, tmp_path: Path) -> None:
    Segment(ply, cameras_only=True, output_dir=tmp_path).main()
    with Image.open(tmp_path / "cameras.png") as sheet:
        assert sheet.width == 6 * 320
    assert not (tmp_path / "segmented.ply").exists()


def test_a_click_on_a_bare_splat(ply: Path, tmp_path: Path) -> None:
    view, x, y = red_pixel(ply)
    Segment(
        ply, click=((str(view), str(x), str(y), "red", "ball"),), views=8, height=96, output_dir=tmp_path
    ).main()
    splat = read_ply(tmp_path / "segmented.ply")
    objects = read_objects(tmp_path / "segmented.ply")
    assert objects is not None and objects.names == ("rest", "red ball")
    assert splat.labels is not None
    color = splat.features_dc * 0.2821 + 0.5
    red = (color[:, 0] > 0.5) & (color[:, 1] < 0.3)
    found = splat.labels == 1
    assert float((found & red).sum() / (found | red).sum()) > 0.75
    confidence = splat.extra["label_confidence"]
    assert float(confidence.min()) >= 0 and float(confidence[found].mean()) > 0.5
    assert (tmp_path / "overview.png").is_file()


def test_a_larger_thing_or_a_sentence(ply: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found first is made a small set, so that there is a larger one; and after that there is none."""
    view, x, y = red_pixel(ply)
    click = ((str(view), str(x), str(y), "ball"),)
    started: list[int | None] = []

    def find(gaussians: Any, views: Any, maker: Any, clicks: Any, *, start: Any = None, **more: Any) -> Found:
        found = find_object(gaussians, views, maker, clicks, start=start, **more)
        every = torch.arange(len(gaussians))
        found.proposed, found.start = [every < 50, every < 100], every < 50 if start is None else start
        started.append(None if start is None else int(start.sum()))
        return found

    monkeypatch.setattr("gradiseg_ns.segment.loop.find_object", find)
    Segment(ply, click=click, larger=("ball",), views=2, height=96, output_dir=tmp_path).main()
    assert started == [None, 100] and (tmp_path / "segmented.ply").is_file()
    with pytest.raises(SegmentError, match="--larger ball: nothing larger hangs together"):
        Segment(
            ply, click=click, larger=("ball", "ball"), views=2, height=96, output_dir=tmp_path / "no"
        ).main()
    assert not (tmp_path / "no" / "segmented.ply").exists()


def test_a_run_becomes_a_gradiseg_run(scene: Path, tmp_path: Path) -> None:
    run = write_plain_run(scene, tmp_path / "runs")
    view, x, y = red_pixel(run)
    Segment(run, click=((str(view), str(x), str(y)),), views=4).main()
    written = load_run(next(run.parent.glob("*-segmented")))
    assert written.is_gradiseg and objects_of_run(written).names == ("rest", "object")
    labels = read_ply(run / "segmented" / "segmented.ply").labels
    assert labels is not None and torch.equal(labels_of_run(written), labels)


def test_everything_without_weights(ply: Path, tmp_path: Path) -> None:
    Segment(ply, everything=True, views=5, output_dir=tmp_path).main()
    labels = read_ply(tmp_path / "segmented.ply").labels
    assert labels is not None and int(labels.max()) >= 2 and int((labels >= 0).sum()) > 0.3 * len(labels)


def test_a_phrase(ply: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Words:
        def phrases(self, picture: Picture, phrases: list[str]) -> list[Mask]:
            red = (picture.rgb[..., 0] > 0.5) & (picture.rgb[..., 1] < 0.35)
            return [Mask(red, phrase=p) for p in phrases if p == "red ball"]

    load = masks.load
    monkeypatch.setattr(masks, "load", lambda name, *rest, **more: load(name) if name == "wand" else Words())
    Segment(ply, phrase=("red ball",), views=8, output_dir=tmp_path).main()
    objects = read_objects(tmp_path / "segmented.ply")
    assert objects is not None and objects.names == ("rest", "red ball")
    with pytest.raises(SegmentError, match="nothing is like the phrase 'ghost'"):
        Segment(ply, phrase=("ghost",), output_dir=tmp_path / "none").main()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        ({}, "give one of --click, --phrase, --everything and --cameras-only"),
        ({"everything": True, "phrase": ("x",)}, "give one of"),
        ({"click": (("0", "3"),)}, "--click 0 3: expected the number of a view, x, y"),
        ({"click": (("a", "3", "4"),)}, "--click a 3 4: expected"),
        ({"click": (("0", "3", "4", "mug"),), "beside": (("0", "3", "4", "cup"),)}, "no --click on 'cup'"),
        ({"click": (("0", "3", "4", "mug"),), "larger": ("cup",)}, "--larger cup: there is no --click on 'cup'"),
        ({"beside": (("0", "3", "4"),)}, "give one of"),
        ({"click": (("77", "3", "4"),)}, "there is no view 77"),
        ({"click": (("0", "3000", "4"),)}, "outside of view 0"),
        ({"everything": True, "views": 0}, "--views 0"),
        ({"click": (("0", "3", "4"),), "maker": "regions"}, "--maker regions takes no clicks"),
        ({"everything": True, "maker": "wand"}, "--maker wand cannot find everything"),
        ({"phrase": ("x",), "maker": "wand"}, "--maker wand takes no phrases"),
    ],
)  # fmt: skip
def test_wrong_flags_are_told(ply: Path, tmp_path: Path, flags: dict, said: str) -> None:
    with pytest.raises(SegmentError, match=said):
        Segment(ply, output_dir=tmp_path / "out", **flags).main()
    assert not (tmp_path / "out" / "segmented.ply").exists()


def test_flags_are_read_from_the_command_line(ply: Path) -> None:
    import tyro

    read = tyro.cli(
        Segment, args=[str(ply), "--click", "0", "3", "4", "red", "mug", "--click", "2", "5", "6.5"]
    )
    assert read.click == (("0", "3", "4", "red", "mug"), ("2", "5", "6.5"))
