"""A run that an older version wrote (tests/stored_run: 30 steps of gradiseg-lite on tests/scenes.py's scene) opens in everything.

The folder was made before the package had its present rooms. Nothing may be added to it: what it lacks, users' runs lack too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup

from gradiseg_ns import cli, runs, sources
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.model import GradisegModel
from gradiseg_ns.runs.writing import labels_of_run

from .scenes import write_scene

pytestmark = pytest.mark.slow

STORED = Path(__file__).parent / "stored_run"
PSNR = 17.4784
"""Of its held-out views, as the version that trained it said."""
COUNT = 1907


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run beside its scene, which its config.yml names by a relative path."""
    folder = tmp_path_factory.mktemp("stored")
    write_scene(folder / "balls", views=11, width=32, height=24)
    run = folder / "outputs" / "balls" / "gradiseg-lite" / "stored"
    shutil.copytree(STORED, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield run


def test_nerfstudios_commands_open_it(run: Path) -> None:
    """What ns-eval, ns-render and ns-viewer call."""
    _, pipeline, path, step = eval_setup(run / "config.yml", test_mode="test")
    assert isinstance(pipeline.model, GradisegModel) and pipeline.model.num_points == COUNT
    assert (path.name, step) == ("step-000000029.ckpt", 29)
    with torch.no_grad():
        metrics = pipeline.get_average_eval_image_metrics(get_std=True)
    assert metrics["psnr"] == pytest.approx(PSNR, abs=0.01)


def test_it_is_resumed(run: Path, tmp_path: Path) -> None:
    options = {"sh_degree": 1, "num_downscales": 0, "densify_grad_thresh": 1.0}
    options = {f"pipeline.model.{name}": value for name, value in options.items()}
    config = runs.make_config(
        "gradiseg-lite", Path("balls"), tmp_path, steps=3, device="cpu", options=options
    )
    config.load_dir = run / "nerfstudio_models"
    trainer, _ = runs.train(config)
    assert trainer._start_step == 30 and trainer.pipeline.model.step == 32


def test_its_gaussians_and_labels(run: Path) -> None:
    opened = sources.load_run(run, "cpu")
    assert opened.is_gradiseg and len(opened.splat) == COUNT and opened.step == 29
    assert set(labels_of_run(opened).unique().tolist()) <= {-1, 0, 1, 7}


@pytest.mark.parametrize("verb", ["export", "edit", "prune", "lift", "associate", "import"])
def test_a_verb_opens_it(run: Path, tmp_path: Path, verb: str) -> None:
    if verb == "export":
        cli.Export(run, output_dir=tmp_path, device="cpu").main()
        assert len(read_ply(next(tmp_path.glob("*.ply")))) == COUNT
    elif verb == "edit":
        cli.Edit(run, hide=("red ball",), output=tmp_path / "edits.json").main()
        assert "hide" in (tmp_path / "edits.json").read_text()
    elif verb == "prune":
        cli.Prune(load_config=run, output=tmp_path / "pruned.ply", device="cpu").main()
        assert 0 < len(read_ply(tmp_path / "pruned.ply")) <= COUNT
    elif verb == "lift":
        cli.Lift(load_config=run, output_dir=tmp_path, device="cpu").main()
        assert (tmp_path / "lifted.ply").is_file()
    elif verb == "associate":
        cli.Associate(load_config=run, output_dir=tmp_path / "maps", ids="keep", device="cpu").main()
        # ten training views, and the held-out one with the new ids
        assert len(list((tmp_path / "maps").glob("*.png"))) == 11
    else:
        cli.Export(run, output_dir=tmp_path, device="cpu").main()
        ply = next(tmp_path.glob("*.ply"))
        cli.Import(ply, data=Path("balls"), output_dir=tmp_path, device="cpu").main()
        assert list(tmp_path.rglob("config.yml"))
