"""`gradiseg masks`: photos in, id maps out; interrupted and gone on with; what is said of what cannot be done."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gradiseg_ns import masks, sources
from gradiseg_ns.cli import entrypoint
from gradiseg_ns.cli.masks import Masks, check_settings, photos_below
from gradiseg_ns.data.id_maps import read_id_map
from gradiseg_ns.data.photos import PhotoError
from gradiseg_ns.masks.levels import Painted
from gradiseg_ns.masks.types import Mask, Picture
from gradiseg_ns.sources.capture import SourceError
from gradiseg_ns.tools.errors import WriteError
from gradiseg_ns.tools.weights import WeightsError

from ..scenes import write_scene
from .models import save_clip, save_grounding, save_sam2


class Truth:
    """Exact masks in the place of a model: the object with its upper half as a part, the floor, and what phrases name."""

    def __init__(self, scene: Path, stop_after: int | None = None) -> None:
        self.maps = {
            self._key(np.array(Image.open(path).convert("RGB"))): read_id_map(
                scene / "object_mask" / path.name
            )
            for path in (scene / "images").iterdir()
        }
        self.names = {
            name: int(i) for i, name in json.loads((scene / "object_names.json").read_text()).items()
        }
        self.asked, self.stop_after = 0, stop_after

    def _key(self, rgb: NDArray[np.uint8]) -> bytes:
        return rgb.tobytes()

    def _truth(self, picture: Picture) -> NDArray[np.int32]:
        if self.asked == self.stop_after:
            raise KeyboardInterrupt
        self.asked += 1
        return self.maps[self._key((picture.rgb * 255).round().byte().numpy())]

    def everything(self, picture: Picture) -> list[Mask]:
        truth = torch.from_numpy(self._truth(picture))
        rows = torch.arange(truth.shape[0])[:, None].expand_as(truth)
        found = []
        for i in truth.unique().tolist():
            own = truth == i
            found.append(Mask(own, 0.9 - 0.01 * i))
            if i:
                found.append(Mask(own & (rows <= rows[own].float().mean()), 0.5, 1))
        return found

    def phrases(self, picture: Picture, phrases: Sequence[str]) -> list[Mask]:
        truth = torch.from_numpy(self._truth(picture))
        found = [
            Mask(truth == self.names[phrase], 0.9, phrase=phrase)
            for phrase in phrases
            if phrase in self.names
        ]
        return [mask for mask in found if mask.pixels.any()]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("masks") / "balls", distortion=0.05)


@pytest.fixture
def truth(scene: Path, monkeypatch: pytest.MonkeyPatch) -> Truth:
    maker = Truth(scene)
    monkeypatch.setattr(masks, "load", lambda *_, **__: maker)
    return maker


def same_but_for_names(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two maps part the pixels alike."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return all(len(set(row.tolist())) == pairs.shape[1] for row in pairs)


def test_maps_of_a_scene_are_the_truth_but_for_the_ids(
    scene: Path, truth: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "maps"
    Masks(data=scene, output_dir=folder, device="cpu").main()
    assert truth.asked == 10
    for path in (scene / "object_mask").iterdir():
        found = read_id_map(folder / path.name)
        assert same_but_for_names(found, read_id_map(path)) and found.min() > 0
        painted = Painted.read(folder / "levels" / f"{path.stem}.npz")
        assert np.array_equal(painted.maps[0], found) and len(painted.maps) == 2
        for part, parent in enumerate(painted.parent, 1):
            if parent:
                assert (painted.maps[0][painted.maps[1] == part] == parent).all()
    # As training reads them: photos are undistorted, and maps with them.
    views = sources.load_capture(scene, masks_dir=str(folder)).train
    exact = sources.load_capture(scene).train
    for found, expected in zip(views.id_maps, exact.id_maps, strict=True):
        assert same_but_for_names(found.numpy(), expected.numpy())
    assert Image.open(folder / "overview.jpg").size == (3 * 64, 4 * 70)
    report = json.loads((folder / "masks.json").read_text())
    assert report["settings"]["model"] == "facebook/sam2.1-hiera-small"
    assert report["photos"]["view_00"] == {"objects": 3, "parts": 2}
    said = " ".join(capsys.readouterr().out.split())
    assert "3 whole objects a photo, and 2 parts" in said
    assert f"gradiseg associate --data {scene} --masks-dir {folder}" in said
    assert f"--pipeline.datamanager.masks-dir {folder} --pipeline.model.associate auto" in said


def test_an_interrupted_command_goes_on(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "maps"
    first, second = Truth(scene, stop_after=4), Truth(scene)
    monkeypatch.setattr(masks, "load", lambda *_, **__: first)
    with pytest.raises(SystemExit) as end:
        Masks(data=scene, output_dir=folder, device="cpu").main()
    assert end.value.code == 130 and "4 of 10 photos are done" in capsys.readouterr().out
    assert len(list(folder.glob("*.png"))) == 4 == len(list((folder / "levels").iterdir()))
    (folder / "levels" / "view_01.npz").unlink()  # lost, or never written
    Image.new("L", (5, 5)).save(folder / "view_02.png")  # of another photo
    monkeypatch.setattr(masks, "load", lambda *_, **__: second)
    with pytest.raises(WriteError, match=r"model was facebook/sam2\.1-hiera-small and is regions"):
        Masks(data=scene, output_dir=folder, model="regions").main()
    with pytest.raises(
        WriteError, match=r"phrases was not given and is mug; red ball; resolution was 1600 and is 80"
    ):
        Masks(data=scene, output_dir=folder, resolution=80, phrases="mug;red ball").main()
    assert second.asked == 0
    Masks(data=scene, output_dir=folder, device="cpu").main()
    assert second.asked == 8 and "2 of 10 photos are done already" in capsys.readouterr().out
    for path in (scene / "object_mask").iterdir():
        assert same_but_for_names(read_id_map(folder / path.name), read_id_map(path))
    monkeypatch.setattr(masks, "load", lambda *_, **__: pytest.fail("there is nothing left to do"))
    Masks(data=scene, output_dir=folder, device="cpu").main()


def test_a_folder_of_others_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    check_settings(tmp_path / "maps", {"model": "regions"})  # empty
    (tmp_path / "maps" / "a.png").write_bytes(b"mine")
    with pytest.raises(WriteError, match=r"was not made by `gradiseg masks`"):
        check_settings(tmp_path / "maps", {"model": "regions"})
    (tmp_path / "maps" / "masks.json").write_text("[]")
    with pytest.raises(WriteError, match=r"was not made by `gradiseg masks`"):
        check_settings(tmp_path / "maps", {"model": "regions"})
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        check_settings(tmp_path / "file", {})


def test_phrases_are_ids(
    scene: Path, truth: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "maps"
    Masks(data=scene, output_dir=folder, phrases=" blue ball;  spoon ;red ball; ", device="cpu").main()
    for path in (scene / "object_mask").iterdir():
        expected = read_id_map(path)
        found = read_id_map(folder / path.name)
        assert np.array_equal(found == 1, expected == 7) and np.array_equal(found == 3, expected == 1)
        assert set(np.unique(found)) <= {0, 1, 3}
    loaded = sources.load_capture(scene, masks_dir=str(folder))
    assert loaded.object_names == {0: "everything else", 1: "blue ball", 2: "spoon", 3: "red ball"}
    said = " ".join(capsys.readouterr().out.split())
    assert "red ball: in 10 of 10 photos" in said and "spoon: nothing in the photos is like it" in said
    assert "associate" not in said, "ids agree already"
    assert json.loads((folder / "masks.json").read_text())["photos"]["view_00"]["spoon"] == 0


def test_phrases_that_nothing_is_like(scene: Path, truth: Truth, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="did not find anything that is like the phrases"):
        Masks(data=scene, output_dir=tmp_path / "maps", phrases="spoon", device="cpu").main()
    assert not read_id_map(tmp_path / "maps" / "view_00.png").any()


# ------------------------------------------------------------------------------------------------- plain photos


def write_photos(folder: Path) -> Path:
    """A red disc before grey, in files of all kinds: 8 and 16 bits, transparent, turned by a tag, below folders."""
    (folder / "deep").mkdir(parents=True)
    rows, columns = np.mgrid[:60, :90]
    disc = (columns - 40) ** 2 + (rows - 30) ** 2 < 20**2
    rgb = np.where(disc[..., None], (200, 30, 30), (120, 120, 110)).astype(np.uint8)
    Image.fromarray(rgb).save(folder / "plain.jpg", quality=98)
    Image.fromarray(np.dstack([rgb, 255 * (columns < 70)]).astype(np.uint8)).save(folder / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgb).save(folder / "deep" / "turned.jpg", quality=98, exif=turned)
    Image.fromarray((disc * 40000 + 9000).astype(np.uint16)).save(folder / "deep" / "wide.png")
    (folder / "notes.txt").write_text("no photo")
    (folder / ".hidden").mkdir()
    Image.fromarray(rgb).save(folder / ".hidden" / "no.png")
    return folder


def test_a_plain_folder_of_photos_of_all_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "my photos")
    monkeypatch.setattr(
        sys, "argv", ["gradiseg", "masks", "--photos", str(photos), "--model", "regions", "--device", "cpu"]
    )
    entrypoint()
    folder = tmp_path / "sam_mask"
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert found == ["clear.png", "deep/turned.png", "deep/wide.png", "plain.png"]
    for name in found:
        ids = read_id_map(folder / name)
        assert ids.shape == (60, 90), "as the file lies, whatever its tag says"
        disc = ids[30, 40]
        assert disc > 0 and disc != ids[3, 3] and (ids == disc).sum() == pytest.approx(np.pi * 400, rel=0.08)
    assert not read_id_map(folder / "clear.png")[:, 72:].any(), "where nothing is, no object is"
    said = capsys.readouterr().out
    assert (
        "Where SCENE is these photos with their poses" in said and "gradiseg associate --data SCENE" in said
    )
    assert f"'{folder}'" in said or f" {folder}" in said
    # The results are no photos.
    inside = photos / "sam_mask"
    (inside / "levels").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(inside / "overview.jpg")
    assert len(photos_below(photos, inside)) == 4


def test_large_photos_are_made_smaller_and_their_maps_are_not(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    seen: list[tuple[int, ...]] = []

    class Left:
        def everything(self, picture: Picture) -> list[Mask]:
            seen.append(tuple(picture.rgb.shape))
            left = torch.zeros(picture.rgb.shape[:2], dtype=torch.bool)
            left[:, : left.shape[1] // 3] = True
            return [Mask(left)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "load", lambda *_, **__: Left())
        Masks(photos=tmp_path / "photos", resolution=45, device="cpu").main()
    assert seen == [(30, 45, 3)] * 4
    ids = read_id_map(tmp_path / "sam_mask" / "plain.png")
    assert ids.shape == (60, 90) and ids[:, :30].all() and not ids[:, 30:].any()


def test_one_photo_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, seen = write_photos(tmp_path / "photos"), []

    class Weak:
        def everything(self, picture: Picture) -> list[Mask]:
            assert [photo() for photo in seen] == [None] * len(seen)
            seen.append(weakref.ref(picture))
            return [Mask(torch.ones(picture.rgb.shape[:2], dtype=torch.bool))]

    monkeypatch.setattr(masks, "load", lambda *_, **__: Weak())
    Masks(photos=photos, device="cpu").main()
    assert len(seen) == 4


def test_a_photo_that_is_damaged_is_named_and_the_others_stay(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    (photos / "plain.jpg").write_bytes((photos / "plain.jpg").read_bytes()[:500])
    with pytest.raises(PhotoError, match=r"plain\.jpg cannot be read"):
        Masks(photos=photos, model="regions", device="cpu").main()
    assert (tmp_path / "sam_mask" / "deep" / "wide.png").is_file()
    assert not (tmp_path / "sam_mask" / "plain.png").exists()


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({}, "either --data .* or --photos"),
        ({"data": Path("a"), "photos": Path("b")}, "either --data .* or --photos"),
        ({"photos": Path("nowhere")}, "--photos nowhere: no such folder"),
        ({"data": Path("nowhere")}, "--data nowhere: no such folder"),
        ({"photos": Path(), "phrases": " ; "}, "--phrases is empty"),
        ({"photos": Path(), "phrases": "mug; Mug"}, "names .ug twice"),
        ({"photos": Path(), "resolution": 3}, "--resolution 3"),
        ({"photos": Path()}, "holds no photos"),
    ],
)
def test_flags_that_make_no_sense(
    flags: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=told):
        Masks(**flags).main()


def test_no_weights_and_no_network_is_one_sentence_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    photos, asked = write_photos(tmp_path / "photos"), []

    def unreachable(*_: object, **__: object) -> None:
        asked.append(1)
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    told = (
        r"example/sam cannot be loaded.*\(no route to host\).*hf download example/sam[\s\S]*--model regions"
    )
    with pytest.raises(WeightsError, match=told):
        Masks(photos=photos, model="example/sam", device="cpu").main()
    assert len(asked) == 1
    with pytest.raises(WeightsError, match=r"--offline forbids[\s\S]*--model regions"):
        Masks(photos=photos, model="example/sam", device="cpu", offline=True).main()
    assert len(asked) == 1 and not (tmp_path / "sam_mask").exists()


def test_models_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    clip, dino = save_clip(tmp_path / "clip"), save_grounding(tmp_path / "dino")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": str(clip)}, "of type clip, which makes no masks"),
        ({"model": str(dino)}, "takes phrases: add --phrases"),
        ({"model": "wand"}, "it takes clicks"),
        ({"model": "wand", "phrases": "mug", "phrase_model": "regions"}, "takes no phrases"),
        ({"model": "wand", "phrases": "mug", "phrase_model": str(clip)}, "of type clip"),
    ]
    for flags, told in cases:
        with pytest.raises(WeightsError, match=told):
            Masks(photos=photos, device="cpu", offline=True, **flags).main()


def test_real_networks_go_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM 2, and Grounding DINO with it, of random weights."""
    from gradiseg_ns.masks import grounding, sam

    photos = write_photos(tmp_path / "photos")
    model, dino = save_sam2(tmp_path / "sam"), save_grounding(tmp_path / "dino")
    with pytest.raises(SourceError, match="did not find any mask"):  # it doubts all of them, and rightly
        Masks(
            photos=photos, model=str(model), output_dir=tmp_path / "none", device="cpu", offline=True
        ).main()
    monkeypatch.setattr(sam, "_MIN_SCORE", -9.0)
    monkeypatch.setattr(sam, "MIN_STABILITY", 0.0)
    monkeypatch.setattr(grounding.Grounding.__init__, "__kwdefaults__", {"min_score": 0.0})
    Masks(photos=photos, model=str(model), output_dir=tmp_path / "all", device="cpu", offline=True).main()
    assert read_id_map(tmp_path / "all" / "plain.png").any()
    Masks(
        photos=photos, model=str(model), phrases="red ball; mug", phrase_model=str(dino), device="cpu", offline=True,
        output_dir=tmp_path / "phrases",
    ).main()  # fmt: skip
    ids = {int(i) for path in (tmp_path / "phrases").rglob("*.png") for i in np.unique(read_id_map(path))}
    assert ids <= {0, 1, 2} and len(ids) > 1
    report = json.loads((tmp_path / "phrases" / "masks.json").read_text())
    assert report["settings"]["phrase_model"] == str(dino.resolve())
