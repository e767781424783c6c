"""LoRA merged into the weights, proved against the model of the package that trained it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import reference
from torch import Tensor, nn

from samedge.errors import CheckpointError
from samedge.models.checkpoints.read import ReadOptions, read_checkpoint
from samedge.models.sam.configs import SMALL_VIT
from samedge.models.sam.load import model_of
from samedge.models.sam.seeded import seeded_state

IMAGE = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(5))
WIDTH, DEPTH = 64, 4


def meta_sam() -> Any:
    return reference.reference_sam(seeded_state(SMALL_VIT), SMALL_VIT)


def encoded(path: Path, options: ReadOptions) -> Tensor:
    with torch.no_grad():
        return model_of(read_checkpoint(path, options)).model.encode(IMAGE)


class TestPeft:
    @staticmethod
    def adapted(**options: Any) -> Any:
        reference.torchvision()  # which its own imports look for
        peft = importlib.import_module("peft")
        model = peft.get_peft_model(meta_sam(), peft.LoraConfig(**{"r": 4, "lora_alpha": 12, **options})).eval()
        generator = torch.Generator().manual_seed(7)
        for key, value in model.named_parameters():
            if "lora_" in key:
                value.data = torch.randn(value.shape, generator=generator) * 0.2
        return model

    @pytest.mark.parametrize(
        "options",
        [
            {"target_modules": ["qkv"]},
            {"target_modules": ["qkv", "proj", "lin1", "lin2", "q_proj"], "use_rslora": True},
            {"target_modules": ["qkv", "lin1"], "rank_pattern": {"lin1": 2}, "alpha_pattern": {"lin1": 3}},
            {"target_modules": r".*neck\.[02]|.*\.qkv"},
            {"target_modules": ["qkv"], "modules_to_save": ["mask_decoder"]},
        ],
        ids=["qkv", "rslora", "patterns", "convolutions", "trained decoder"],
    )
    @pytest.mark.parametrize("form", ["whole", "adapter"])
    def test_is_peft_s_own_answer(self, tmp_path: Path, options: Any, form: str) -> None:
        model = self.adapted(**options)
        model.save_pretrained(tmp_path)
        with torch.no_grad():
            wanted = model.base_model.model.image_encoder(IMAGE)
        if form == "whole":
            path, given = tmp_path / "whole.pt", ReadOptions()
            torch.save({"model": model.state_dict(), "epoch": 2}, path)
        else:
            base = tmp_path / "base.pt"
            torch.save(seeded_state(SMALL_VIT), base)
            path, given = tmp_path / "adapter_model.safetensors", ReadOptions(base=base)
        assert (encoded(path, given) - wanted).abs().max() < 1e-4
        assert (encoded(path, given) - meta_sam().image_encoder(IMAGE)).abs().max() > 1e-2
        merged = model.merge_and_unload().state_dict()
        loaded = model_of(read_checkpoint(path, given))
        for key, value in loaded.model.state_dict().items():
            torch.testing.assert_close(value, merged[key], rtol=1e-5, atol=1e-6)
        assert "LoRA merged into" in loaded.notes[-1]

    def test_an_option_is_the_scale(self, tmp_path: Path) -> None:
        model, path = self.adapted(target_modules=["qkv"]), tmp_path / "whole.pt"
        torch.save(model.state_dict(), path)
        with torch.no_grad():
            wanted = model.base_model.model.image_encoder(IMAGE)
        assert (encoded(path, ReadOptions(lora_scale=3.0)) - wanted).abs().max() < 1e-4

    def test_without_a_scale_it_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "whole.pt"
        torch.save(self.adapted(target_modules=["qkv"]).state_dict(), path)
        with pytest.raises(CheckpointError, match="scale of these LoRA layers is not known") as caught:
            read_checkpoint(path)
        assert "--lora-scale" in str(caught.value)
        assert "merge_and_unload" in str(caught.value)

    def test_an_adapter_without_its_base_is_named(self, tmp_path: Path) -> None:
        self.adapted(target_modules=["qkv"]).save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="without the model that they add to") as caught:
            read_checkpoint(tmp_path / "adapter_model.safetensors")
        assert "--base" in str(caught.value)

    def test_another_form_is_refused_by_name(self, tmp_path: Path) -> None:
        model = self.adapted(target_modules=["qkv"], use_dora=True)
        torch.save(model.state_dict(), tmp_path / "whole.pt")
        model.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="DoRA"):
            read_checkpoint(tmp_path / "whole.pt")


class QueryValueLora(nn.Module):
    """SAMed's projection, as its ``sam_lora_image_encoder.py`` has it."""

    def __init__(self, qkv: nn.Module, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.qkv = qkv
        for name in ("q", "v"):
            down, up = nn.Linear(WIDTH, rank, bias=False), nn.Linear(rank, WIDTH, bias=False)
            for layer in (down, up):
                layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 0.2
            self.add_module(f"linear_a_{name}", down)
            self.add_module(f"linear_b_{name}", up)

    def forward(self, x: Tensor) -> Tensor:
        qkv: Tensor = self.qkv(x)
        qkv[..., :WIDTH] += self.get_submodule("linear_b_q")(self.get_submodule("linear_a_q")(x))
        qkv[..., -WIDTH:] += self.get_submodule("linear_b_v")(self.get_submodule("linear_a_v")(x))
        return qkv


def samed() -> tuple[Any, dict[str, Tensor]]:
    """A model of that form, and the lists that it saves: ``w_a_000``, ``w_b_000`` and so on."""
    sam, generator = meta_sam(), torch.Generator().manual_seed(3)
    lists: dict[str, Tensor] = {}
    for block in sam.image_encoder.blocks:
        block.attn.qkv = QueryValueLora(block.attn.qkv, 3, generator)
        for name in ("q", "v"):
            place = f"{len(lists) // 2:03d}"
            lists[f"w_a_{place}"] = getattr(block.attn.qkv, f"linear_a_{name}").weight
            lists[f"w_b_{place}"] = getattr(block.attn.qkv, f"linear_b_{name}").weight
    return sam, lists


class TestQueryAndValue:
    @pytest.mark.parametrize("form", ["state dict", "lists", "lists beside all weights", "in a wrapper"])
    def test_is_the_model_s_own_answer(self, tmp_path: Path, form: str) -> None:
        sam, lists = samed()
        path, base, given = tmp_path / "epoch_9.pth", tmp_path / "base.pt", ReadOptions()
        plain = seeded_state(SMALL_VIT)
        if form == "state dict":
            torch.save(sam.state_dict(), path)
        elif form == "in a wrapper":
            torch.save({f"sam.{key}": value for key, value in sam.state_dict().items()}, path)
        elif form == "lists":
            own = {key: value for key, value in plain.items() if not key.startswith("image_encoder.")}
            torch.save({**lists, **own}, path)
            torch.save(plain, base)
            given = ReadOptions(base=base)
        else:
            torch.save({**lists, **{f"sam.{key}": value for key, value in plain.items()}}, path)
        with torch.no_grad():
            wanted = sam.image_encoder(IMAGE)
        assert (encoded(path, given) - wanted).abs().max() < 1e-4
        assert (meta_sam().image_encoder(IMAGE) - wanted).abs().max() > 1e-2
        loaded = model_of(read_checkpoint(path, given))
        assert loaded.notes[-1] == f"LoRA merged into {DEPTH} weights, with a scale of 1"

    def test_lists_of_some_blocks_are_refused(self, tmp_path: Path) -> None:
        lists = {key: value for key, value in samed()[1].items() if key.endswith(("000", "001"))}
        path = tmp_path / "some.pth"
        torch.save({**lists, **seeded_state(SMALL_VIT)}, path)
        with pytest.raises(CheckpointError, match="for 2 of 8 projections"):
            read_checkpoint(path)

    @pytest.mark.parametrize("lost", ["linear_b_v", "linear_a_q"])
    def test_half_a_pair_is_refused(self, tmp_path: Path, lost: str) -> None:
        state = {key: value for key, value in samed()[0].state_dict().items() if f"0.attn.qkv.{lost}" not in key}
        path = tmp_path / "half.pth"
        torch.save(state, path)
        with pytest.raises(CheckpointError, match="not a pair"):
            read_checkpoint(path)

    def test_another_shape_is_refused(self, tmp_path: Path) -> None:
        state = dict(samed()[0].state_dict())
        key = "image_encoder.blocks.1.attn.qkv.linear_b_q.weight"
        state[key] = torch.ones(WIDTH + 1, 3)
        path = tmp_path / "odd.pth"
        torch.save(state, path)
        with pytest.raises(CheckpointError, match="do not fit its shape"):
            read_checkpoint(path)

    def test_another_form_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "other.pth"
        torch.save({**seeded_state(SMALL_VIT), "image_encoder.blocks.0.mlp.lora_C": torch.ones(2)}, path)
        with pytest.raises(CheckpointError, match=r"form that is not read \(image_encoder\.blocks\.0\.mlp\.lora_C\)"):
            read_checkpoint(path)


def test_a_configuration_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    path = tmp_path / "plain.pt"
    torch.save({**seeded_state(SMALL_VIT), "image_encoder.blocks.0.attn.qkv.lora_A.x.weight": torch.ones(2, 64),
                "image_encoder.blocks.0.attn.qkv.lora_B.x.weight": torch.ones(192, 2)}, path)  # fmt: skip
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: this is not the JSON that belongs here"):
        read_checkpoint(path)
    for pattern in ("(a+)+x", "(a|aa)*x", ".*.*.*x", "a" * 300, r"(a)\1"):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "alpha_pattern": {pattern: 1}}))
        with pytest.raises(CheckpointError, match="is too complicated"):
            read_checkpoint(path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "alpha_pattern": {"(": 1}}))
    assert "scale of 1" in read_checkpoint(path).notes[-1]
