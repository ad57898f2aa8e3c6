"""Where a model's files come from: the folder, the cache, or one look at the hub, which is told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gradiseg_ns.tools import weights
from gradiseg_ns.tools.weights import WeightsError, find_model

hub = pytest.importorskip("huggingface_hub")

FILES = {
    "config.json": 700, "model.safetensors": 184_000_000, "pytorch_model.bin": 184_000_000, "merges.txt": 5, "README.md": 9,
    "code.py": 8, "onnx/model.safetensors": 3,
}  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub with one model, and what was asked of it."""
    seen: dict[str, Any] = {"asked": [], "fetched": [], "files": FILES}

    def model_info(_: Any, name: str, **options: Any) -> Any:
        seen["asked"].append(options)
        return SimpleNamespace(
            siblings=[SimpleNamespace(rfilename=k, size=v) for k, v in seen["files"].items()]
        )

    def download(name: str, allow_patterns: list[str]) -> str:
        seen["fetched"].append((name, sorted(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: seen.get("cached"))
    return seen


def test_what_is_fetched_is_told_with_its_size_and_is_only_data(
    fake: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_model("some/sam") == tmp_path
    assert fake["fetched"] == [("some/sam", ["config.json", "merges.txt", "model.safetensors"])]
    assert "Fetching the model some/sam from the Hugging Face hub, 184 MB." in capsys.readouterr().out
    assert fake["asked"] == [{"timeout": weights.HUB_TIMEOUT, "files_metadata": True}]
    fake["files"] = dict.fromkeys(FILES)
    find_model("some/sam")
    assert "of a size that the hub does not tell" in capsys.readouterr().out


def test_weights_that_could_run_code_are_not_fetched(fake: dict[str, Any]) -> None:
    fake["files"] = {"config.json": 1, "pytorch_model.bin": 5}
    with pytest.raises(WeightsError, match=r"some/sam cannot be loaded.*has no weights as model"):
        find_model("some/sam")
    assert fake["fetched"] == []


def test_a_folder_and_the_cache_need_no_hub(fake: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert find_model(folder) == folder
    (folder / "config.json").write_text("{}")
    fake["cached"] = str(folder / "config.json")
    (folder / "model-00001-of-00002.safetensors").touch()
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(WeightsError, match="--offline forbids"):
        find_model("some/sam", offline=True)  # half of it
    (folder / "model-00002-of-00002.safetensors").touch()
    assert find_model("some/sam") == folder == find_model("some/sam", offline=True)
    assert fake["asked"] == []


@pytest.mark.parametrize("name", ["a/b/c", "no such folder", "../up", "https://example.org/sam"])
def test_what_is_no_name_of_the_hub_is_not_asked_for(name: str, fake: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be loaded"):
        find_model(name)
    assert fake["asked"] == []
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(WeightsError, match="is a file: expected the folder"):
        find_model(file)


def test_a_hub_that_cannot_be_reached_is_asked_once(
    fake: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def unreachable(*_: Any, **__: Any) -> None:
        asked.append(1)
        raise ConnectionError("[Errno 101] no network\nmore")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    with pytest.raises(
        WeightsError, match=r"did not give it \(\[Errno 101\] no network\)\. Where there is a network"
    ):
        find_model("some/sam")
    assert len(asked) == 1
