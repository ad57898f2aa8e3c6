"""Models of random weights, each as a folder that transformers loads: what the real ones go through, in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = ["mug", "red", "block", "ball", "blue", "floor", "photo", "of", "this", "is", "a", ".", ","]


def transformers(*needed: str) -> Any:
    """The package, if it has some classes."""
    found = pytest.importorskip("transformers")
    for name in needed:
        if not hasattr(found, name):
            pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    return found


def save_sam1(folder: Path) -> Path:
    hub = transformers("SamModel")
    config = hub.SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
            "patch_size": 8, "window_size": 4, "global_attn_indexes": [0], "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    hub.SamModel(config).save_pretrained(folder)
    size = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    hub.SamProcessor(hub.SamImageProcessor(**size)).save_pretrained(folder)
    return folder


def save_sam2(folder: Path) -> Path:
    hub = transformers("Sam2Model")
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [128, 128],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 1, 1],
        "blocks_per_stage": [1, 1, 2, 1], "window_size_per_stage": [8, 4, 8, 4], "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    }  # fmt: skip
    config = hub.Sam2Config(
        vision_config={
            "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    hub.Sam2Model(config).save_pretrained(folder)
    processor = hub.Sam2ImageProcessor(size={"height": 128, "width": 128})
    hub.Sam2Processor(processor).save_pretrained(folder)
    return folder


def _sam3_vision() -> dict[str, Any]:
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 112, "pretrain_image_size": 56, "patch_size": 14, "window_size": 4,
        "global_attn_indexes": [1],
    }  # fmt: skip
    return {
        "model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }  # fmt: skip


def _sam3_detector() -> dict[str, Any]:
    small = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return {
        "vision_config": _sam3_vision(),
        "text_config": {
            "model_type": "clip_text_model", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32,
            "projection_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
        },
        "geometry_encoder_config": small, "detr_encoder_config": small,
        "detr_decoder_config": {**small, "num_queries": 10},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
    }  # fmt: skip


def _sam3_tracker() -> dict[str, Any]:
    return {
        "vision_config": _sam3_vision(),
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 112, "patch_size": 14, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    }  # fmt: skip


def save_sam3(folder: Path) -> Path:
    """The detector alone, which takes phrases."""
    hub = transformers("Sam3Model")
    hub.Sam3Model(hub.Sam3Config(**_sam3_detector())).save_pretrained(folder)
    images = hub.Sam3ImageProcessor(size={"height": 112, "width": 112})
    hub.Sam3Processor(images, _tokenizer(hub)).save_pretrained(folder)
    return folder


def save_sam3_tracker(folder: Path) -> Path:
    """The half that takes clicks, alone."""
    hub = transformers("Sam3TrackerModel")
    hub.Sam3TrackerModel(hub.Sam3TrackerConfig(**_sam3_tracker())).save_pretrained(folder)
    images = hub.Sam3ImageProcessor(size={"height": 112, "width": 112})
    hub.Sam3TrackerProcessor(images).save_pretrained(folder)
    return folder


def save_sam3_video(folder: Path) -> Path:
    """Both, as the checkpoints hold them."""
    hub = transformers("Sam3VideoModel")
    tracker = {
        **_sam3_tracker(), "model_type": "sam3_tracker_video", "image_size": 112,
        "memory_attention_hidden_size": 32, "memory_attention_num_layers": 1, "memory_attention_feed_forward_hidden_size": 32,
        "memory_encoder_hidden_size": 32, "memory_encoder_output_channels": 16, "mask_downsampler_embed_dim": 32,
        "memory_fuser_embed_dim": 32, "memory_fuser_intermediate_dim": 32, "memory_fuser_num_layers": 1,
    }  # fmt: skip
    config = hub.Sam3VideoConfig(
        detector_config={"model_type": "sam3", **_sam3_detector()}, tracker_config=tracker
    )
    hub.Sam3VideoModel(config).save_pretrained(folder)
    # transformers 5.23 writes a prefix twice, which the published checkpoints do not have
    safetensors = pytest.importorskip("safetensors.torch")
    weights = safetensors.load_file(folder / "model.safetensors")
    weights = {k.replace("tracker_model.tracker_model.", "tracker_model."): v for k, v in weights.items()}
    safetensors.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    images = hub.Sam3ImageProcessor(size={"height": 112, "width": 112})
    hub.Sam3Processor(images, _tokenizer(hub)).save_pretrained(folder)
    return folder


def save_grounding(folder: Path) -> Path:
    hub = transformers("GroundingDinoForObjectDetection")
    config = hub.GroundingDinoConfig(
        backbone_config={
            "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
            "image_size": 64, "out_indices": [2, 3, 4],
        },
        text_config={
            "model_type": "bert", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 64,
        },
        num_queries=12, encoder_layers=1, encoder_ffn_dim=32, encoder_attention_heads=2, decoder_layers=2,
        decoder_ffn_dim=32, decoder_attention_heads=2, d_model=32, max_text_len=16,
    )  # fmt: skip
    hub.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = hub.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary = {word: place for place, word in enumerate(words)}
    hub.GroundingDinoProcessor(images, hub.BertTokenizer(vocab=vocabulary)).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    hub = transformers("CLIPModel")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hub.CLIPConfig(
        text_config={**small, "vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0},
        vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16,
    )  # fmt: skip
    hub.CLIPModel(config).save_pretrained(folder)
    images = hub.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    hub.CLIPProcessor(images, _tokenizer(hub)).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    hub = transformers("SiglipModel")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hub.SiglipConfig(
        text_config={**small, "vocab_size": 64, "max_position_embeddings": 16, "projection_size": 32},
        vision_config={**small, "image_size": 32, "patch_size": 8},
    )
    hub.SiglipModel(config).save_pretrained(folder)
    images = hub.SiglipImageProcessor(size={"height": 32, "width": 32})
    hub.SiglipProcessor(images, _tokenizer(hub)).save_pretrained(folder)
    return folder


def _tokenizer(hub: Any) -> Any:
    """A tokenizer of whole words, in place of those that cut words up."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<|startoftext|>", "<|endoftext|>", "<unk>", *WORDS]
    model = tokenizers.models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)],
    )
    return hub.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<|startoftext|>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )  # fmt: skip
