"""Tokens are those of the wanted block, a patch each; models come from folders, the cache, or one look at the hub."""

from __future__ import annotations

import json
import shutil
import socketserver
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gradiseg_ns.affordance import tokens as module
from gradiseg_ns.affordance.tokens import (
    CentredTokens,
    TokenModel,
    TokenModelError,
    default_layer,
    find_model,
)

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 14,
    "image_size": 70,
}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of random weights, as a folder that transformers loads."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    network = transformers.Dinov2Model(transformers.Dinov2Config(**TINY))
    torch.nn.init.zeros_(network.embeddings.position_embeddings)
    network.save_pretrained(folder)
    transformers.BitImageProcessor(image_mean=[0.5, 0.5, 0.5], image_std=[0.25, 0.25, 0.25]).save_pretrained(
        folder
    )
    return folder


def half_and_half(height: int = 60, width: int = 80) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = (255, 120, 30)
    return image


# ------------------------------------------------------------------------------------------------------ the network


def test_tokens_are_unit_vectors_of_a_grid_that_keeps_the_aspect(tiny_model: Path) -> None:
    model = TokenModel.load(tiny_model, resolution=112, offline=True)
    assert model.mean == (0.5, 0.5, 0.5) and model.patch == 14
    for size, grid in {(60, 80): (6, 8), (80, 60): (8, 6), (10, 400): (1, 8)}.items():
        tokens = model.tokens(half_and_half(*size))
        assert tokens.shape == (*grid, 32) == (*model.grid(*size), 32)
        torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(grid))


def test_tokens_are_those_of_the_wanted_block_without_the_image_s_own(tiny_model: Path) -> None:
    image = half_and_half()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, (84, 112), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    for layer, block in ((None, 2), (1, 1), (2, 2), (3, 3)):
        model = TokenModel.load(tiny_model, layer=layer, resolution=112, offline=True)
        assert model.layer == block
        seen: list[torch.Tensor] = []
        blocks = [m for m in model.network.modules() if type(m).__name__ == "Dinov2Layer"]

        def keep(_: Any, __: Any, out: Any, seen: list[torch.Tensor] = seen) -> None:
            seen.append(out[0] if isinstance(out, tuple) else out)

        hook = blocks[block - 1].register_forward_hook(keep)
        with torch.no_grad():
            model.network(pixel_values=(pixels - 0.5) / 0.25)
        hook.remove()
        expected = F.normalize(seen[0].reshape(-1, 32)[1:], dim=-1).view(6, 8, 32)
        torch.testing.assert_close(model.tokens(image), expected)


def test_the_layer_taken_by_itself_is_at_two_thirds_of_the_depth() -> None:
    assert [default_layer(depth) for depth in (1, 2, 3, 4, 12, 24, 40)] == [1, 1, 2, 3, 8, 16, 27]


@pytest.mark.parametrize("layer", [-1, 0, 4])
def test_a_layer_beyond_the_model_is_told_the_range(tiny_model: Path, layer: int) -> None:
    with pytest.raises(TokenModelError, match=f"--layer {layer}: expected 1 to 3, the blocks of "):
        TokenModel.load(tiny_model, layer=layer, offline=True)


def test_tokens_lie_where_their_patches_do(tiny_model: Path) -> None:
    # Without positions, tokens before the first block know nothing but their patch.
    model = replace(TokenModel.load(tiny_model, resolution=112, offline=True), layer=0)
    tokens = model.tokens(half_and_half())
    left, right = tokens[:, :3].reshape(-1, 32), tokens[:, 5:].reshape(-1, 32)
    assert (left - left[0]).abs().max() < 1e-5 and (right - right[0]).abs().max() < 1e-5
    assert left[0] @ right[0] < 0.99


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Dinov2WithRegisters", {"num_register_tokens": 4}),
        ("DINOv3ViT", {"num_register_tokens": 4}),
        ("ViT", {}),
        ("DeiT", {}),  # two tokens of the whole picture
        ("CLIPVision", {}),
        ("SiglipVision", {}),  # none
    ],
)
def test_other_transformers_give_a_token_a_patch(tmp_path: Path, kind: str, more: dict[str, int]) -> None:
    """Tokens of the patches are those at the end, whatever stands before them: changing a patch changes its token most."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, f"{kind}Model"):
        pytest.skip(f"this transformers has no {kind}")
    torch.manual_seed(1)
    config = getattr(transformers, f"{kind}Config")(**{**TINY, "patch_size": 8, "image_size": 64, **more})
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    model = TokenModel.load(tmp_path, resolution=80, layer=1, offline=True)
    image = np.full((60, 80, 3), 90, np.uint8)
    before = model.tokens(image)
    assert before.shape == (8, 10, 32)  # 7.5 rows, rounded
    image[23:30, 40:48] = (250, 20, 20)
    change = (model.tokens(image) - before).norm(dim=-1)
    assert divmod(int(change.argmax()), 10) == (3, 5)


def test_of_a_model_for_pictures_and_text_the_pictures_half_is_taken(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    half = {**TINY, "patch_size": 8, "image_size": 64}
    text = {
        key: half[key]
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    config = transformers.CLIPConfig(text_config={**text, "num_hidden_layers": 1}, vision_config=half)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    model = TokenModel.load(tmp_path, resolution=80, offline=True)
    assert model.layer == 2 and model.tokens(half_and_half()).shape == (8, 10, 32)


def test_without_what_pictures_have_in_common_only_their_own_is_left() -> None:
    """Tokens that are a picture's own colour and a part of the position: the latter goes."""
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(3, 4, 6, generator=generator)

    class Positional:
        def tokens(self, image: np.ndarray) -> torch.Tensor:
            own = torch.zeros(6)
            own[int(image[0, 0, 0])] = 0.2
            grid = F.interpolate(position.permute(2, 0, 1)[None], image.shape[:2], mode="bilinear")[
                0
            ].permute(1, 2, 0)
            return grid + own

    pictures = [np.full((3, 4, 3), value, np.uint8) for value in range(6)]
    done: list[int] = []
    centred = CentredTokens.over(pictures, Positional(), done.append)
    assert done == list(range(6))
    for value, picture in enumerate(pictures):
        tokens = centred.tokens(picture)
        expected = -torch.ones(6) / 6
        expected[value] += 1
        torch.testing.assert_close(tokens, F.normalize(expected, dim=0).expand(3, 4, 6), atol=1e-4, rtol=0)
    # A picture of another size gets the means at its own grid.
    assert centred.tokens(np.full((6, 8, 3), 1, np.uint8)).argmax(dim=-1).unique().tolist() == [1]
    with pytest.raises(ValueError, match="no pictures"):
        CentredTokens.over([], Positional())


# -------------------------------------------------------------------------------------------------------- its files


def test_a_folder_without_preprocessor_has_imagenet_s_colours(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    model = TokenModel.load(folder, resolution=112, offline=True)
    assert model.mean == (0.485, 0.456, 0.406) and model.std == (0.229, 0.224, 0.225)
    assert model.tokens(half_and_half()).shape == (6, 8, 32)


@pytest.mark.parametrize(
    ("content", "colors"),
    [
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": 0.5}, ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))),
        ({"image_mean": None}, (module.IMAGENET_MEAN, module.IMAGENET_STD)),
        ({"do_normalize": False, "image_mean": [9]}, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        ({"image_std": [1, 0, 1]}, None),
        ({"image_mean": [1, 2]}, None),
        ({"image_mean": "grey"}, None),
        ([], None),
        ("{", None),
    ],
)
def test_colours_are_read_from_the_preprocessor(tmp_path: Path, content: Any, colors: Any) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if colors is None:
        with pytest.raises(TokenModelError, match=r"preprocessor_config.json cannot be used .*image_mean"):
            module._colors_of(tmp_path)
    else:
        assert module._colors_of(tmp_path) == colors


def test_what_is_wrong_with_a_model_is_said(tiny_model: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(
        TokenModelError, match=r"--model: .*nothing cannot be loaded: no such folder, and no name of the hub"
    ):
        TokenModel.load(tmp_path / "nothing", offline=True)
    with pytest.raises(TokenModelError, match=r"weights is a file: expected the folder"):
        (tmp_path / "weights").touch()
        TokenModel.load(tmp_path / "weights", offline=True)
    with pytest.raises(TokenModelError, match=r"cannot be loaded[\s\S]*Expected config.json"):
        TokenModel.load(tmp_path, offline=True)
    with pytest.raises(TokenModelError, match="--resolution 10"):
        TokenModel.load(tiny_model, resolution=10, offline=True)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(tmp_path / "resnet")
    with pytest.raises(TokenModelError, match="without a patch size"):
        TokenModel.load(tmp_path / "resnet", offline=True)
    swin = transformers.SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[2, 2], patch_size=4, image_size=64)
    transformers.SwinModel(swin).save_pretrained(tmp_path / "swin")
    with pytest.raises(TokenModelError, match="2 x 3 patches"):
        TokenModel.load(tmp_path / "swin", offline=True)
    transformers.ViTMAEModel(transformers.ViTMAEConfig(**TINY)).save_pretrained(tmp_path / "masked")
    with pytest.raises(TokenModelError, match="tokens for 2 x 3 patches"):
        TokenModel.load(tmp_path / "masked", offline=True)


def test_weights_that_lack_a_part_are_not_filled_with_random_numbers(
    tiny_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    left = {key: value for key, value in weights.items() if "layer.1." not in key}
    assert len(left) < len(weights)
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TokenModelError, match=rf"lack {len(weights) - len(left)} tensors"):
        TokenModel.load(folder, offline=True)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(TokenModelError, match="cannot be loaded"):
        TokenModel.load(folder, offline=True)


def test_code_of_a_model_is_never_run(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(TokenModelError, match="cannot be loaded"):
        TokenModel.load(folder, offline=True)
    assert not (tmp_path / "ran").exists()


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TokenModelError, match=r"pip install 'transformers>=4.45'"):
        TokenModel.load("facebook/dinov2-small")


# ---------------------------------------------------------------------------------------------------------- the hub


class Hub(socketserver.ThreadingTCPServer):
    """Something at the hub's address: counts who comes, and answers all with the same bytes, or hangs up."""

    daemon_threads = True

    def __init__(self) -> None:
        self.visits = 0
        self.answer = b""
        super().__init__(("127.0.0.1", 0), Visit)


class Visit(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Hub)
        self.server.visits += 1
        self.request.recv(1 << 16)
        self.request.sendall(self.server.answer)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of our own, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # it would ask for a list of its own
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield server
        server.shutdown()


def reply(status: str, body: bytes = b"{}") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("answer", [b"", reply("503 Busy"), reply("404 Not Found"), reply("401 No")])
def test_a_hub_that_gives_nothing_is_asked_once(hub: Hub, answer: bytes) -> None:
    hub.answer = answer
    with pytest.raises(
        TokenModelError,
        match=r"--model: The model somebody/some-model .*no such folder, .*hub did not give it .*--local-dir",
    ):
        TokenModel.load("somebody/some-model")
    assert hub.visits == 1


def test_no_network_is_tried_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(TokenModelError, match=r"hub did not give it \(.*--local-dir"):
        find_model("somebody/some-model")


def test_a_model_without_weights_is_not_downloaded(hub: Hub) -> None:
    hub.answer = reply(
        "200 OK",
        json.dumps({"id": "somebody/some-model", "siblings": [{"rfilename": "config.json"}]}).encode(),
    )
    with pytest.raises(TokenModelError, match="has no weights"):
        find_model("somebody/some-model")
    assert hub.visits == 1


def test_offline_asks_nobody(hub: Hub) -> None:
    with pytest.raises(TokenModelError, match="--offline"):
        TokenModel.load("somebody/some-model", offline=True)
    with pytest.raises(TokenModelError, match="no name of the hub"):
        find_model("../somewhere/else/", offline=False)
    assert hub.visits == 0


def test_what_the_cache_has_is_taken_from_there(hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "models--somebody--some-model"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    folder = shutil.copytree(tiny_model, root / "snapshots" / ("0" * 40))
    assert find_model("somebody/some-model") == folder
    assert TokenModel.load("somebody/some-model", resolution=112).layer == 2
    assert hub.visits == 0
    # A download that broke off: the weights come in parts, and one is not there.
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TokenModelError, match="hub did not give it"):
        find_model("somebody/some-model")
    assert hub.visits == 1
