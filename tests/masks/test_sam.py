"""Masks from clicks by SAM models of random weights: shapes, what is reused, and what is said when there is no model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradiseg_ns.masks import Picture, sam
from gradiseg_ns.masks.levels import small

from .models import save_sam1, save_sam2, save_sam3_tracker

HEIGHT, WIDTH = 30, 44


SAVERS = {"sam": save_sam1, "sam2": save_sam2, "sam3_tracker": save_sam3_tracker}


@pytest.fixture(scope="module", params=list(SAVERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, as a folder that transformers loads."""
    return SAVERS[request.param](tmp_path_factory.mktemp(request.param))


def picture(seed: int = 0) -> Tensor:
    return torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed))


def test_a_mask_has_the_size_of_the_picture_and_depends_on_the_clicks(folder: Path) -> None:
    model = sam.PromptModel.load(folder, offline=True)
    rgb = picture()
    masks = [
        model.mask(rgb, positive, negative)
        for positive, negative in (
            ([(5, 5)], []),
            ([(35, 20)], []),
            ([(5, 5), (35, 20)], []),
            ([(5, 5)], [(35, 20)]),
        )
    ]
    for mask in masks:
        assert mask.shape == (HEIGHT, WIDTH) and mask.dtype == torch.bool
        assert 0 < mask.sum() < mask.numel()
    assert len({mask.numpy().tobytes() for mask in masks}) == len(masks)
    assert torch.equal(model.mask(rgb, [(5, 5)]), masks[0])


def test_a_mask_is_the_one_that_the_model_trusts_most(folder: Path) -> None:
    model = sam.PromptModel.load(folder, offline=True)
    rgb, points = picture(1), [(10, 12), (30, 3)]
    inputs = model.processor(
        images=(rgb * 255).round().byte().numpy(),
        input_points=[[[list(map(float, point)) for point in points]]],
        input_labels=[[[1, 0]]],
        return_tensors="pt",
    )
    inputs["input_points"] = inputs["input_points"].float()
    rest = {key: inputs.pop(key) for key in ("original_sizes", "reshaped_input_sizes") if key in inputs}
    with torch.no_grad():
        output = model.network(**inputs)
    assert output.iou_scores.shape == (1, 1, 3)
    (masks,) = model.processor.post_process_masks(output.pred_masks, *rest.values())
    expected = masks[0, int(output.iou_scores.flatten().argmax())]
    assert torch.equal(model.mask(rgb, points[:1], points[1:]), expected)


def test_a_picture_is_encoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sam.PromptModel.load(folder, offline=True)
    encode, encoded = model.network.get_image_embeddings, []
    monkeypatch.setattr(model.network, "get_image_embeddings", lambda x: (encoded.append(1), encode(x))[1])
    rgb = picture()
    first = model.mask(rgb, [(3, 4)])
    model.mask(rgb.clone(), [(20, 4)], [(2, 2)])
    assert len(encoded) == 1
    other = model.mask(picture(1), [(3, 4)])
    assert len(encoded) == 2
    assert torch.equal(model.mask(rgb, [(3, 4)]), first) and len(encoded) == 3
    assert torch.equal(sam.PromptModel.load(folder, offline=True).mask(picture(1), [(3, 4)]), other)


def test_bad_clicks_and_pictures_are_refused(folder: Path) -> None:
    model = sam.PromptModel.load(folder, offline=True)
    for pixel in ((-1, 0), (WIDTH, 0), (0, HEIGHT)):
        with pytest.raises(ValueError, match="outside"):
            model.mask(picture(), [pixel])
        with pytest.raises(ValueError, match="outside"):
            model.mask(picture(), [(0, 0)], [pixel])
    with pytest.raises(ValueError, match="at least one positive click"):
        model.mask(picture(), [], [(0, 0)])
    with pytest.raises(ValueError, match=r"expected \[H, W, 3\]"):
        model.mask(picture()[..., 0], [(0, 0)])


def test_sam2_s_checkpoints_for_videos_do_as_well(tmp_path: Path) -> None:
    save_sam2(tmp_path)
    model = sam.PromptModel.load(tmp_path, offline=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
    again = sam.PromptModel.load(tmp_path, offline=True)
    assert torch.equal(again.mask(picture(), [(3, 4)]), model.mask(picture(), [(3, 4)]))


def test_boxes_and_masks_are_prompts_too(folder: Path) -> None:
    model = sam.Sam.load(folder, offline=True)
    seen = Picture(picture())
    known = torch.zeros(HEIGHT, WIDTH)
    known[5:15, 8:20] = 0.9
    asked = [
        model.prompted(seen, box=(8, 5, 20, 15)), model.prompted(seen, box=(2, 5, 20, 29)), model.prompted(seen, mask=known),
        model.prompted(seen, [(10, 10)], [(30, 20)], box=(8, 5, 20, 15)),
        model.prompted(seen, [(30, 20)], mask=known), model.prompted(seen, box=(2, 5, 20, 29), mask=known),
    ]  # fmt: skip
    for mask in asked:
        assert mask.pixels.shape == (HEIGHT, WIDTH) and mask.pixels.dtype == torch.bool
        assert 0 <= mask.score <= 1
    assert len({mask.pixels.numpy().tobytes() for mask in asked}) == len(asked), "each is another question"
    # the mask itself is told, not only its box: another one of the same box gets another answer
    known[7:12, 10:18] = 0.0
    assert not torch.equal(model.prompted(seen, mask=known).pixels, asked[2].pixels)
    nothing = model.prompted(seen, mask=torch.zeros(HEIGHT, WIDTH))
    assert not nothing.pixels.any() and nothing.score == 0
    wrong: list[dict[str, Any]] = [
        {"box": (5, 5, 5, 9)},
        {"box": (0, 0, WIDTH + 1, 9)},
        {"mask": known[:5]},
        {},
    ]
    for bad in wrong:
        with pytest.raises(ValueError, match="box|mask|positive click"):
            model.prompted(seen, **bad)


def test_everything_is_what_the_grid_s_points_give(folder: Path) -> None:
    """Every mask that is returned is the model's own answer to one of the points, at full size."""
    model = sam.Sam.load(folder, offline=True)
    model.grid, model.batch, model.min_score, model.min_stability = 3, 4, -9.0, 0.0
    seen = Picture(picture(2))
    found = model.everything(seen)
    assert 0 < len(found) <= 27
    answers = []
    for y in (5, 15, 25):
        for x in (44 / 6, 22, 44 * 5 / 6):
            inputs = model.processor(
                images=(seen.rgb * 255).round().byte().numpy(),
                input_points=[[[[x, float(y)]]]],
                return_tensors="pt",
            )
            inputs["input_points"] = inputs["input_points"].float()
            sizes = [inputs.pop(k) for k in ("original_sizes", "reshaped_input_sizes") if k in inputs]
            with torch.no_grad():
                output = model.network(**inputs)
            answers += list(model.processor.post_process_masks(output.pred_masks, *sizes)[0][0])
    for mask in found:
        best = max(float((mask.pixels & a).sum() / (mask.pixels | a).sum()) for a in answers)
        assert best > 0.97, "half-precision logits, and SAM 1's padding cut off before"
    assert [mask.score for mask in found] == sorted((mask.score for mask in found), reverse=True)
    bits = small([mask.pixels for mask in found])
    shared = bits @ bits.T
    overlap = shared / (bits.sum(1)[:, None] + bits.sum(1)[None] - shared)
    assert float((overlap - 2 * torch.eye(len(found))).max()) < sam.ALIKE + 0.15
    inside = shared / bits.sum(1)[:, None] - 2 * torch.eye(len(found))
    for k, mask in enumerate(found):
        assert mask.level == 0 or float(inside[k].max()) > 0.8, "a part lies in another mask"
    model.batch = 9
    again = model.everything(seen)
    assert [m.score for m in again] == pytest.approx([m.score for m in found], abs=1e-5)


def test_everything_leaves_out_what_the_model_doubts(folder: Path) -> None:
    model = sam.Sam.load(folder, offline=True)
    model.grid, model.min_score, model.min_stability = 3, -9.0, 0.0
    seen = Picture(picture(2))
    scores = [mask.score for mask in model.everything(seen)]
    model.min_score = 1e3
    assert model.everything(seen) == []
    model.min_score, model.min_stability = -9.0, 1.01
    assert model.everything(seen) == [] and len(scores) > 0
    model.min_stability = 0.0
    alpha = torch.zeros(HEIGHT, WIDTH)
    alpha[:, :20] = 1
    for mask in model.everything(Picture(picture(2), alpha)):
        assert not mask.pixels[:, 20:].any()


def test_a_batch_that_does_not_fit_is_halved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sam.Sam.load(folder, offline=True)
    model.grid, model.batch, model.min_score, model.min_stability = 3, 8, -9.0, 0.0
    whole = model.everything(Picture(picture()))
    ask, asked = model._asked, []

    def short_of_memory(encoded: object, inputs: object, part: slice) -> tuple[Tensor, Tensor]:
        asked.append(part.stop - part.start)
        if asked[-1] > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return ask(encoded, inputs, part)

    monkeypatch.setattr(model, "_asked", short_of_memory)
    again = model.everything(Picture(picture()))
    assert asked == [8, 4, 2, 2, 2, 2, 2] and len(again) == len(whole)


# ------------------------------------------------------------------------------------------------- no model


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(
        sam.PromptModelError,
        match=r"model .*nothing cannot be loaded: no such folder, and no name of the hub",
    ):
        sam.PromptModel.load(tmp_path / "nothing", offline=True)
    with pytest.raises(
        sam.PromptModelError, match=r"example/sam cannot be loaded[\s\S]*hf download example/sam"
    ):
        sam.PromptModel.load("example/sam", offline=True)
    with pytest.raises(sam.PromptModelError, match="cannot be loaded"):
        sam.PromptModel.load(tmp_path)  # an empty folder is no reason to ask the hub
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(sam.PromptModelError, match="cannot be loaded"):
        sam.PromptModel.load(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    with pytest.raises(sam.PromptModelError, match=r"of type dinov2: expected .*sam, sam2"):
        sam.PromptModel.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    monkeypatch.setitem(sam.KINDS, "sam2", ("NoSuchModel", "Sam2Processor"))
    with pytest.raises(
        sam.PromptModelError, match=rf"of type sam2, which transformers {transformers.__version__}"
    ):
        sam.PromptModel.load(tmp_path)


def test_weights_that_are_missing_or_could_run_code_are_refused(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    save_sam1(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = safetensors.load_file(path)
    kept = {name: value for name, value in weights.items() if "iou_token" not in name}
    safetensors.save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(
        sam.PromptModelError, match=r"not complete: 1 are missing, such as mask_decoder\.iou_token"
    ):
        sam.PromptModel.load(tmp_path)
    wrong = {**weights, "mask_decoder.iou_token.weight": torch.zeros(1, 5)}
    safetensors.save_file(wrong, path, metadata={"format": "pt"})
    with pytest.raises(sam.PromptModelError, match="cannot be loaded"):
        sam.PromptModel.load(tmp_path)
    path.write_bytes(np.arange(100).tobytes())
    with pytest.raises(sam.PromptModelError, match="cannot be loaded"):
        sam.PromptModel.load(tmp_path)
    path.unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(sam.PromptModelError, match=r"cannot be loaded[\s\S]*model\.safetensors"):
        sam.PromptModel.load(tmp_path)


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    save_sam1(tmp_path)
    with pytest.raises(sam.PromptModelError, match="cannot be used on device cuda"):
        sam.PromptModel.load(tmp_path, device="cuda")


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(sam.PromptModelError, match=r"facebook/sam2.*pip install 'transformers>=") as info:
        sam.PromptModel.load("facebook/sam2.1-hiera-tiny")
    assert isinstance(info.value, ValueError)
