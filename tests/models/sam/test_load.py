"""From what the user names to a model: the files that people have, known names, seeds."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support import reference
from support.file_server import FileServer, serve
from torch import Tensor

from samedge.errors import SamedgeError, StorageError, UnknownArchitectureError, UsageError
from samedge.models.checkpoints import weights
from samedge.models.checkpoints.weights import KnownWeights, find_checkpoint
from samedge.models.sam.configs import SMALL_TINY_VIT, SMALL_VIT, SamConfig, TinyViTConfig, vit_config
from samedge.models.sam.load import load_model
from samedge.models.sam.seeded import seeded_state

State = dict[str, Tensor]


@cache
def written_by_the_reference(config: SamConfig) -> State:
    """The state dict of a model of the reference package, with seeded weights."""
    tiny = isinstance(config.encoder, TinyViTConfig)
    build = reference.reference_mobile_sam if tiny else reference.reference_sam
    return dict(build(seeded_state(config), config).state_dict())


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


FILES: dict[str, tuple[str, Callable[[State, Path], None]]] = {
    "Meta's": ("sam_vit_b_01ec64.pth", lambda state, path: torch.save(OrderedDict(state), path)),
    "Ultralytics'": ("sam_b.pt", torch.save),
    "before torch 1.6": ("old.pth", save_legacy),
    "safetensors": ("model.safetensors", safetensors.torch.save_file),
    "wrapped in model": ("best.pt", lambda state, path: torch.save({"model": state, "epoch": 3}, path)),
    "of DataParallel": ("ddp.pth", lambda state, path: torch.save({"state_dict": prefixed(state, "module.")}, path)),
    "of Lightning": ("last.ckpt", lambda state, path: torch.save({"state_dict": prefixed(state, "model.")}, path)),
    "compiled": ("c.pt", lambda state, path: torch.save({"net": prefixed(state, "_orig_mod.module.")}, path)),
    "nested": ("n.pt", lambda state, path: torch.save({"state_dict": {"model": prefixed(state, "sam.")}}, path)),
}


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_TINY_VIT], ids=["vit", "tiny_vit"])
@pytest.mark.parametrize("kind", list(FILES))
def test_files_that_people_have_give_the_references_model(tmp_path: Path, kind: str, config: SamConfig) -> None:
    name, save = FILES[kind]
    path = tmp_path / name
    save(written_by_the_reference(config), path)
    size = None if config is SMALL_VIT else 128
    loaded = load_model(path, image_size=size)
    assert loaded.name == ("sam_vit_tiny" if config is SMALL_VIT else "tiny_vit_tiny")
    assert loaded.checkpoint == name
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not loaded.seeded
    assert "not known" in loaded.licence
    wanted = load_model(f"seeded:{loaded.name}").model.state_dict()
    state = loaded.model.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in state.items())


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "half.pt"
    half = {key: value.half() for key, value in written_by_the_reference(SMALL_VIT).items()}
    torch.save(half, path)
    state = load_model(path).model.state_dict()
    for key, value in half.items():
        assert state[key].dtype == torch.float32
        assert torch.equal(state[key], value.float())


def test_the_file_may_change_after_it_was_loaded(tmp_path: Path) -> None:
    # A training goes on and writes the next epoch over it.
    path = tmp_path / "last.pt"
    torch.save(written_by_the_reference(SMALL_VIT), path)
    sam = load_model(path).model
    before = {key: value.clone() for key, value in sam.state_dict().items()}
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(value, before[key]) for key, value in sam.state_dict().items())


def test_a_foreign_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sam_b.pt"
    torch.save({"sam_mask_decoder.iou_token.weight": torch.ones(1), "memory_attention.norm.bias": torch.ones(1)}, path)
    with pytest.raises(UnknownArchitectureError, match="SAM 2"):
        load_model(path)


class TestAssumptions:
    def test_the_input_of_a_tiny_vit_is_said_to_be_assumed(self, tmp_path: Path) -> None:
        path = tmp_path / "tiny.pt"
        torch.save(written_by_the_reference(SMALL_TINY_VIT), path)
        assert load_model(path).notes[0].startswith("input 1024 px assumed")
        assert "--image-size" in load_model(path).notes[0]
        assert load_model(path, image_size=128).notes == ()

    def test_relative_positions_that_are_not_used(self, tmp_path: Path) -> None:
        path = tmp_path / "plain.pt"
        state = {key: value for key, value in seeded_state(SMALL_VIT).items() if ".rel_pos_" not in key}
        theirs = reference.reference_sam(seeded_state(SMALL_VIT), SMALL_VIT)
        for block in theirs.image_encoder.blocks:
            block.attn.use_rel_pos = False
        torch.save(state, path)
        loaded = load_model(path)
        image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert (loaded.model.encode(image) - theirs.image_encoder(image)).abs().max() < 1e-4
        assert loaded.notes[0].startswith("heads and windows assumed")

    def test_without_them_an_unknown_width_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "plain.pt"
        config = SamConfig(vit_config(embed_dim=32, depth=2, num_heads=2, global_blocks=(1,), image_size=64))
        torch.save({key: value for key, value in seeded_state(config).items() if ".rel_pos_" not in key}, path)
        with pytest.raises(UnknownArchitectureError, match="no relative positions"):
            load_model(path)


class TestSeeded:
    @pytest.mark.parametrize(("name", "size"), [("sam_vit_tiny", 128), ("tiny_vit_tiny", 128)])
    def test_by_name(self, name: str, size: int) -> None:
        loaded = load_model(f"seeded:{name}")
        assert loaded.seeded
        assert loaded.name == name
        assert loaded.checkpoint == f"seeded:{name}"
        assert len(bytes.fromhex(loaded.sha256)) == 32
        assert loaded.model.image_size == size

    def test_image_size_of_a_tiny_vit(self) -> None:
        loaded = load_model("seeded:tiny_vit_tiny", image_size=64)
        assert loaded.model.embedding_size == 4
        assert loaded.name == "tiny_vit_sam"

    def test_unknown_name(self) -> None:
        with pytest.raises(UsageError, match="sam_vit_b"):
            load_model("seeded:nothing")


class TestNames:
    @pytest.fixture
    def mirror(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
        saved = tmp_path / "saved.pt"
        torch.save(written_by_the_reference(SMALL_VIT), saved)
        monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.chdir(tmp_path)
        with serve(FileServer(saved.read_bytes())) as server:
            monkeypatch.setenv("SAMEDGE_MIRROR", server.address)
            yield server

    def test_a_known_name_that_is_not_on_disk_is_fetched(self, mirror: FileServer, tmp_path: Path) -> None:
        seen: list[Any] = []
        loaded = load_model("sam_b.pt", progress=lambda done, total: seen.append((done, total)))
        assert loaded.checkpoint == "sam_b.pt"
        assert loaded.licence.startswith("Apache-2.0")
        assert seen[-1] == (len(mirror.content), len(mirror.content))
        assert find_checkpoint("sam_b.pt") == tmp_path / "cache" / "weights" / "sam_b.pt"

    def test_a_file_of_that_name_comes_first(self, mirror: FileServer, tmp_path: Path) -> None:
        torch.save(written_by_the_reference(SMALL_VIT), tmp_path / "sam_b.pt")
        assert find_checkpoint("sam_b.pt") == Path("sam_b.pt")
        assert "not known" in load_model("sam_b.pt").licence
        assert not mirror.requests

    def test_the_released_file_has_its_licence_under_any_name(
        self, mirror: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = hashlib.sha256(mirror.content).hexdigest()
        monkeypatch.setitem(weights.KNOWN_WEIGHTS, "sam_h.pt", KnownWeights("h.pth", "https://x.invalid", digest))
        assert load_model(tmp_path / "saved.pt").licence == "Apache-2.0"

    @pytest.mark.parametrize("name", ["absent.pt", "folder/sam_b.pt", "sam_b", "SAM_B.PT", ""])
    def test_anything_else_is_a_missing_file(self, mirror: FileServer, name: str) -> None:
        with pytest.raises(SamedgeError) as caught:
            load_model(name)
        assert isinstance(caught.value, StorageError) or name == ""
        assert not mirror.requests

    def test_the_message_lists_the_known_names(self, mirror: FileServer) -> None:
        with pytest.raises(StorageError, match=r"mobile_sam\.pt"):
            load_model("absent.pt")

    def test_a_name_that_is_too_long(self, mirror: FileServer) -> None:
        with pytest.raises(StorageError):
            load_model("x" * 5000)
