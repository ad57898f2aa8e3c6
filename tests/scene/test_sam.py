"""Masks from clicks by SAM models of random weights: shapes, what is reused, and what is said when there is no model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gradiseg_ns.scene import sam

HEIGHT, WIDTH = 30, 44


def save_sam1(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
            "patch_size": 8, "window_size": 4, "global_attn_indexes": [0], "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    transformers.SamModel(config).save_pretrained(folder)
    size = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    transformers.SamProcessor(transformers.SamImageProcessor(**size)).save_pretrained(folder)
    return folder


def save_sam2(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Sam2Model"):
        pytest.skip("this transformers has no SAM 2")
    torch.manual_seed(0)
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [128, 128],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 1, 1],
        "blocks_per_stage": [1, 1, 2, 1], "window_size_per_stage": [8, 4, 8, 4], "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    }  # fmt: skip
    config = transformers.Sam2Config(
        vision_config={
            "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    transformers.Sam2Model(config).save_pretrained(folder)
    processor = transformers.Sam2ImageProcessor(size={"height": 128, "width": 128})
    transformers.Sam2Processor(processor).save_pretrained(folder)
    return folder


SAVERS = {"sam": save_sam1, "sam2": save_sam2}


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


# ------------------------------------------------------------------------------------------------- no model


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(sam.PromptModelError, match=r"model .*nothing cannot be loaded[\s\S]*hf download"):
        sam.PromptModel.load(tmp_path / "nothing", offline=True)
    with pytest.raises(sam.PromptModelError, match=r"example/sam cannot be loaded[\s\S]*sam2\.1-hiera-tiny"):
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
    with pytest.raises(
        sam.PromptModelError, match=r"facebook/sam2.*pip install 'gradiseg-ns\[masks\]'"
    ) as info:
        sam.PromptModel.load("facebook/sam2.1-hiera-tiny")
    assert isinstance(info.value, ValueError)
