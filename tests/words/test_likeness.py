"""The halves of `masks.likeness.Likeness`, which words for objects use one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradiseg_ns.masks import likeness
from gradiseg_ns.masks.likeness import Likeness

from ..masks import models


@pytest.mark.parametrize("save", [models.save_clip, models.save_siglip])
def test_pictures_and_phrases_apart(
    save: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Likeness.load(save(tmp_path), offline=True)
    assert model.scale == pytest.approx(float(model.network.logit_scale.detach().exp()))
    crops = [torch.rand(9, 12, 3, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    phrases = ["mug", "red ball", "blue block of this photo"]
    pictures, words = model.see(crops), model.read(phrases)
    torch.testing.assert_close(pictures.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(words.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(pictures @ words.T, model.likeness(crops, phrases))
    monkeypatch.setattr(likeness, "TEXTS", 2)
    torch.testing.assert_close(model.read(phrases), words, atol=1e-5, rtol=0)
    assert len(model.see([])) == len(model.read([])) == 0
