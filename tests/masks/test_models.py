"""Models that take phrases, and the factory: random weights go through all of it, and told answers become the right masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gradiseg_ns import masks
from gradiseg_ns.masks import EverythingMaker, PhraseMaker, Picture, PromptMaker
from gradiseg_ns.masks.grounding import Grounding, _box, _sentence
from gradiseg_ns.masks.likeness import Likeness
from gradiseg_ns.masks.sam import Sam
from gradiseg_ns.masks.sam3 import Sam3
from gradiseg_ns.masks.wand import Wand
from gradiseg_ns.tools.weights import WeightsError

from . import models

HEIGHT, WIDTH = 30, 44


def picture(seed: int = 0) -> Picture:
    return Picture(torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed)))


# --------------------------------------------------------------------------------------------------- the factory


@pytest.mark.parametrize(
    ("save", "kind", "can"),
    [
        (models.save_sam1, Sam, (EverythingMaker, PromptMaker)),
        (models.save_sam2, Sam, (EverythingMaker, PromptMaker)),
        (models.save_sam3_tracker, Sam, (EverythingMaker, PromptMaker)),
        (models.save_sam3_video, Sam3, (EverythingMaker, PromptMaker, PhraseMaker)),
        (models.save_grounding, Grounding, (PhraseMaker,)),
    ],
)
def test_a_maker_is_what_its_config_says(
    save: Callable[[Path], Path], kind: type, can: tuple[type, ...], tmp_path: Path
) -> None:
    maker = masks.load(save(tmp_path), offline=True)
    assert isinstance(maker, kind) and all(isinstance(maker, each) for each in can)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(WeightsError, match=r"of type bert, which makes no masks: expected sam, .*regions"):
        masks.load(tmp_path, offline=True)


# --------------------------------------------------------------------------------------------------------- SAM 3


def test_sam_3_finds_what_phrases_name(tmp_path: Path) -> None:
    model = Sam3.load(models.save_sam3(tmp_path), offline=True)
    assert model.phrases(picture(), ["mug"]) == [], "it is not sure of anything"
    model.min_score = 0.0
    found = model.phrases(picture(), ["red ball", "mug"])
    assert {mask.phrase for mask in found} == {"red ball", "mug"} and len(found) > 2
    assert [mask.score for mask in found] == sorted((mask.score for mask in found), reverse=True)
    for mask in found:
        assert mask.pixels.shape == (HEIGHT, WIDTH) and mask.pixels.dtype == torch.bool
    # As the network says when it is asked for one phrase from the start.
    image = (picture().rgb * 255).round().byte().numpy()
    inputs = model.processor(images=image, text="mug", return_tensors="pt")
    sizes = inputs.pop("original_sizes")
    with torch.no_grad():
        output = model.network(**inputs)
    (told,) = model.processor.post_process_instance_segmentation(
        output, threshold=0.0, target_sizes=sizes.tolist()
    )
    own = sorted((mask for mask in found if mask.phrase == "mug"), key=lambda mask: mask.score)
    assert [m.score for m in own] == pytest.approx(
        sorted(s for s, m in zip(told["scores"].tolist(), told["masks"], strict=True) if m.any()), abs=1e-4
    )
    with pytest.raises(WeightsError, match=r"detector alone .*facebook/sam3"):
        model.everything(picture())


def test_a_whole_sam_3_takes_clicks_too(tmp_path: Path) -> None:
    model = Sam3.load(models.save_sam3_video(tmp_path), offline=True)
    assert model._clicks is None, "the second half waits until it is needed"
    mask = model.prompted(picture(), [(3, 4)], [(30, 20)])
    assert mask.pixels.shape == (HEIGHT, WIDTH)
    clicks = model.clicks
    assert clicks.network.config.model_type.startswith("sam3_tracker") and model.clicks is clicks
    clicks.grid, clicks.min_score, clicks.min_stability = 2, -9.0, 0.0
    assert len(model.everything(picture())) > 0
    model.min_score = 0.0
    assert len(model.phrases(picture(), ["mug"])) > 0


# ------------------------------------------------------------------------------------------------ Grounding DINO


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_grounding(tmp_path_factory.mktemp("dino"))


class Boxes:
    """Takes the box for the mask."""

    def prompted(self, picture: Picture, *_: Any, box: Any = None, **__: Any) -> masks.Mask:
        bits = torch.zeros(picture.rgb.shape[:2], dtype=torch.bool)
        bits[box[1] : box[3], box[0] : box[2]] = True
        return masks.Mask(bits, 0.1)


def test_a_box_belongs_to_the_phrase_whose_words_it_is_like(dino: Path) -> None:
    model = Grounding.load(dino, Boxes(), offline=True)
    tokens = model.processor(images=None, text=_sentence(["Red ball", "mug"]))["input_ids"]
    assert model.processor.tokenizer.convert_ids_to_tokens(tokens) == [
        "[CLS]", "red", "ball", ".", "mug", ".", "[SEP]",
    ]  # fmt: skip
    assert model._words(tokens, 2) == [[1, 2], [4]]
    logits = torch.full((1, 4, 16), -9.0)
    boxes = torch.tensor(
        [[[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.5, 1.0], [0.26, 0.5, 0.5, 1.0], [2.0, 2.0, 0.1, 0.1]]]
    )
    logits[0, 0, 4] = 2.0  # the first is like the mug
    logits[0, 1, 2] = logits[0, 2, 1] = 1.0  # the others like the ball, by one of its words
    logits[0, 2, 1] = 3.0
    logits[0, 3, 4] = 5.0  # outside of the picture
    told = SimpleNamespace(logits=logits, pred_boxes=boxes)
    network = model.network

    class Told(torch.nn.Module):
        config = network.config

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, **inputs: Any) -> Any:
            assert inputs["input_ids"].tolist() == [tokens] and "pixel_values" in inputs
            return told

    model.network = Told()
    found = model.phrases(picture(), ["Red ball", "mug"])
    assert [(mask.phrase, round(mask.score, 3)) for mask in found] == [("Red ball", 0.953), ("mug", 0.881)]
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[8:22, 11:33] = True
    assert torch.equal(found[1].pixels, expected)
    assert float(found[0].pixels.float().mean()) == pytest.approx(0.5, abs=0.03), "one of the two alike"
    model.min_score = 0.99
    assert model.phrases(picture(), ["Red ball", "mug"]) == []


def test_the_network_is_asked_with_the_picture(dino: Path) -> None:
    model = Grounding.load(dino, Wand(), offline=True)
    model.min_score = 0.0
    one, other = (model.boxes(picture(seed), ["red ball", "mug"]) for seed in (0, 1))
    assert len(one) > 0 and one != other
    for phrase, box, score in one:
        assert phrase in ("red ball", "mug") and 0 <= score <= 1
        assert 0 <= box[0] < box[2] <= WIDTH and 0 <= box[1] < box[3] <= HEIGHT


def test_more_phrases_than_fit_a_sentence_are_asked_in_several(dino: Path) -> None:
    model = Grounding.load(dino, Boxes(), offline=True)
    phrases = ["red mug", "blue mug", "red block", "blue block", "red ball", "blue ball"]
    parts = model._sentences(phrases)
    assert [len(part) for part in parts] == [4, 2] and [p for part in parts for p in part] == phrases
    assert model._sentences([]) == []
    model.min_score = 0.0
    found = model.phrases(picture(), phrases)
    assert len({mask.phrase for mask in found}) > 1
    assert _sentence(["St. Mary", " Mug "]) == "st  mary. mug."
    assert _box(torch.tensor([0.5, 0.5, 3.0, 3.0]), 10, 20) == (0, 0, 10, 20)
    assert _box(torch.tensor([-0.5, 0.5, 0.5, 0.5]), 10, 20) is None


# ------------------------------------------------------------------------------------------------ words and crops


@pytest.mark.parametrize("save", [models.save_clip, models.save_siglip])
def test_likeness_of_crops_and_phrases(save: Callable[[Path], Path], tmp_path: Path) -> None:
    model = Likeness.load(save(tmp_path), offline=True)
    sizes = ((20, 30), (3, 9), (1, 1), (64, 40))
    generator = torch.Generator().manual_seed(0)
    crops = [torch.rand(*size, 3, generator=generator) for size in sizes]
    phrases = ["red ball", "mug", "blue block of this photo of this photo of this photo of this"]
    found = model.likeness(crops, phrases)
    assert found.shape == (4, 3) and float(found.abs().max()) <= 1.0 + 1e-5
    assert len(set(found.flatten().tolist())) == 12
    # one by one, the same: batches and padding change nothing
    alone = torch.tensor([[float(model.likeness([crop], [phrase])) for phrase in phrases] for crop in crops])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    # as the whole model sees it
    inputs = model.processor.image_processor(images=[_pil(crops[0])], return_tensors="pt")
    with torch.no_grad():
        output = model.network(
            **inputs,
            input_ids=model.processor.tokenizer(
                [model.template.format("mug")], return_tensors="pt",
                padding="longest" if model.kind == "clip" else "max_length", max_length=16,
            )["input_ids"],
        )  # fmt: skip
    cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
    assert float(found[0, 1]) == pytest.approx(float(cosine), abs=1e-5)
    assert model.likeness([], phrases).shape == (0, 3) and model.likeness(crops, []).shape == (4, 0)
    with pytest.raises(ValueError, match=r"a crop has shape \[0, 5, 3\]"):
        model.likeness([torch.zeros(0, 5, 3)], phrases)
    with pytest.raises(WeightsError, match=r"of type (clip|siglip), which makes no masks"):
        masks.load(tmp_path, offline=True)


def test_many_crops_go_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradiseg_ns.masks import likeness

    model = Likeness.load(models.save_clip(tmp_path), offline=True)
    crops = [torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(k)) for k in range(7)]
    whole = model.likeness(crops, ["mug"])
    monkeypatch.setattr(likeness, "BATCH", 3)
    torch.testing.assert_close(model.likeness(crops, ["mug"]), whole, atol=1e-5, rtol=0)


def test_another_model_takes_no_words(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"of type sam: expected one that compares pictures and words"):
        Likeness.load(models.save_sam1(tmp_path), offline=True)


def _pil(crop: Tensor) -> Any:
    from gradiseg_ns.tools.pictures import to_image

    return to_image(crop)
