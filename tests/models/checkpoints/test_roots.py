"""The model found by its structure: under any prefix, beside anything, and one of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from samedge.errors import CheckpointError, UnknownArchitectureError, UsageError
from samedge.models.checkpoints.read import ReadOptions, read_checkpoint
from samedge.models.checkpoints.roots import tensors_in
from samedge.models.checkpoints.state_dict import extract_state
from samedge.models.load import load_any
from samedge.models.sam.configs import SMALL_VIT
from samedge.models.sam.load import load_model
from samedge.models.sam.seeded import seeded_state

WHERE = Path("tune.pt")
State = dict[str, Tensor]


def weights(value: float = 1.0) -> State:
    return {
        "image_encoder.neck.0.weight": torch.full((2, 2), value),
        "prompt_encoder.no_mask_embed.weight": torch.full((1, 4), value),
        "mask_decoder.iou_token.weight": torch.full((1, 4), value),
    }


def under(prefix: str, state: State | None = None) -> State:
    return {f"{prefix}{key}": value for key, value in (state or weights()).items()}


class TestPrefixes:
    @pytest.mark.parametrize(
        "prefix",
        [
            "base_model.model.",
            "medsam_model.",
            "backbone.",
            "student.",
            "model.net.sam_model.",
            "ema_model.module.",
            "0.",
        ],
    )
    def test_any_prefix(self, prefix: str) -> None:
        assert extract_state(under(prefix), WHERE).state.keys() == weights().keys()

    @given(names=st.lists(st.one_of(st.sampled_from(["trainer", "best", "ema.shadow"]), st.integers(0, 3)), max_size=6))
    def test_any_nesting(self, names: list[str | int]) -> None:
        content: Any = weights()
        for name in names:
            content = {name: content} if isinstance(name, str) else ([torch.ones(1)] * name + [content], name)
        assert extract_state(content, WHERE).state.keys() == weights().keys()

    def test_parts_in_dictionaries_of_their_own(self) -> None:
        content: dict[str, dict[str, Tensor]] = {}
        for key, value in weights().items():
            part, _, name = key.partition(".")
            content.setdefault(part, {})[name] = value
        assert extract_state(content, WHERE).state.keys() == weights().keys()

    def test_a_container_that_holds_itself(self) -> None:
        content: list[Any] = [weights()]
        content.append(content)
        assert extract_state(content, WHERE).state.keys() == weights().keys()

    def test_containers_named_many_times_are_walked_once(self) -> None:
        content: Any = [torch.ones(1)]
        for _ in range(60):
            content = [content, content]
        assert len(tensors_in(content)) == 1


class TestLeftovers:
    def test_are_left_out_and_named(self) -> None:
        content = {
            "epoch": 3,
            "model": {**under("net."), "criterion.weight": torch.ones(3), "net.head.bias": torch.ones(1)},
            "metrics": [{"iou": torch.tensor(0.5)}],
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
        }
        extracted = extract_state(content, WHERE)
        assert extracted.state.keys() == weights().keys()
        assert set(extracted.left_out) == {"model.criterion", "model.net.head", "metrics", "optimizer"}

    def test_values_of_leftovers_do_not_matter(self) -> None:
        content = {**weights(), "criterion.weight": torch.tensor([float("nan")])}
        assert extract_state(content, WHERE).left_out == ("criterion",)

    def test_state_of_an_optimizer_by_names_is_no_second_model(self) -> None:
        content = {"model": weights(), "optimizer": {key: {"exp_avg": value} for key, value in weights().items()}}
        assert extract_state(content, WHERE).left_out == ("optimizer",)

    def test_a_decoder_beside_the_model_is_no_second_model(self) -> None:
        content = {**under("sam."), "old.mask_decoder.iou_token.weight": torch.zeros(1, 4)}
        extracted = extract_state(content, WHERE)
        assert extracted.state["mask_decoder.iou_token.weight"].sum() == 4
        assert extracted.left_out == ("old",)

    def test_a_note_names_them(self, tmp_path: Path) -> None:
        path = tmp_path / "tune.pt"
        torch.save({**seeded_state(SMALL_VIT), "criterion.weight": torch.ones(3)}, path)
        assert load_any(path).model.state_dict().keys() == seeded_state(SMALL_VIT).keys()
        assert load_model(path).notes == ("left out of the checkpoint, as no part of the model: criterion",)

    def test_a_plain_file_has_no_note(self, tmp_path: Path) -> None:
        path = tmp_path / "plain.pt"
        torch.save(seeded_state(SMALL_VIT), path)
        assert load_model(path).notes == ()

    @pytest.mark.parametrize("part", ["image_encoder", "prompt_encoder", "mask_decoder"])
    def test_foreign_tensors_inside_the_model_are_an_error(self, tmp_path: Path, part: str) -> None:
        path = tmp_path / "tune.pt"
        torch.save({**under("x.", seeded_state(SMALL_VIT)), f"x.{part}.extra.weight": torch.ones(3)}, path)
        with pytest.raises(UnknownArchitectureError, match=rf"unexpected: {part}\.extra\.weight"):
            load_any(path)


TWO = {
    "student and teacher": ({**under("student."), **under("teacher.", weights(2))}, ["student", "teacher"]),
    "averaged weights": ({"state_dict": weights(), "state_dict_ema": weights(2)}, ["state_dict", "state_dict_ema"]),
    "without a prefix": ({**weights(), **under("ema.", weights(2))}, [".", "ema"]),
    "in a list": ([weights(), weights(2)], ["0", "1"]),
}


class TestTwoModels:
    @pytest.mark.parametrize("name", list(TWO))
    def test_are_named_with_the_way_to_choose(self, name: str) -> None:
        content, names = TWO[name]
        with pytest.raises(CheckpointError, match="there are 2 models in this file") as caught:
            extract_state(content, WHERE)
        assert caught.value.models == tuple(names)
        assert all(repr(each) in str(caught.value) for each in names)
        assert f"--weights-key {names[0]}" in str(caught.value)

    @pytest.mark.parametrize("name", list(TWO))
    def test_the_chosen_one_is_read(self, name: str) -> None:
        content, names = TWO[name]
        for value, key in enumerate(names, start=1):
            state = extract_state(content, WHERE, key).state
            assert all(torch.equal(state[key], wanted) for key, wanted in weights(value).items())

    def test_the_other_is_named(self) -> None:
        content, names = TWO["student and teacher"]
        assert extract_state(content, WHERE, "teacher").left_out == ("student",)
        assert names == ["student", "teacher"]

    def test_a_name_in_the_middle(self) -> None:
        content = {"state_dict": {**under("student.net."), **under("teacher.net.", weights(2))}}
        for key in ("state_dict.teacher.net", "state_dict.teacher", "teacher.net"):
            assert extract_state(content, WHERE, key).state["mask_decoder.iou_token.weight"].sum() == 8

    @pytest.mark.parametrize("key", ["nothing", "state_dict", ""])
    def test_a_name_of_none_or_both(self, key: str) -> None:
        content = {"state_dict": {**under("student."), **under("teacher.", weights(2))}}
        with pytest.raises(UsageError, match=r"state_dict\.student, state_dict\.teacher"):
            extract_state(content, WHERE, key)

    def test_the_same_weights_twice_are_one_model(self) -> None:
        assert extract_state({**under("sam."), **under("model.")}, WHERE).state.keys() == weights().keys()

    def test_a_name_in_a_file_of_another_family(self) -> None:
        content = {"a": {"stem.weight": torch.ones(1)}, "b": {"stem.weight": torch.zeros(1)}}
        assert extract_state(content, WHERE, "b").state["stem.weight"].sum() == 0
        with pytest.raises(UsageError, match="It has: a, b"):
            extract_state(content, WHERE, "c")


class TestParts:
    @staticmethod
    def save_decoder(path: Path, prefix: str = "") -> State:
        state = {
            key: value + 0.25
            for key, value in seeded_state(SMALL_VIT).items()
            if key.startswith(("mask_decoder.", "prompt_encoder."))
        }
        torch.save(under(prefix, state), path)
        return state

    @pytest.mark.parametrize("prefix", ["", "my_model."])
    def test_a_decoder_alone_is_named(self, tmp_path: Path, prefix: str) -> None:
        path = tmp_path / "decoder.pt"
        self.save_decoder(path, prefix)
        with pytest.raises(UnknownArchitectureError, match="mask decoder of a SAM without its image encoder") as caught:
            load_any(path)
        assert "--base" in str(caught.value)

    def test_a_decoder_over_its_base(self, tmp_path: Path) -> None:
        path, base = tmp_path / "decoder.pt", tmp_path / "base.pt"
        decoder = self.save_decoder(path, "my_model.")
        torch.save(seeded_state(SMALL_VIT), base)
        loaded: Any = load_any(path, reading=ReadOptions(base=base))
        for key, value in loaded.model.state_dict().items():
            assert torch.equal(value, decoder.get(key, seeded_state(SMALL_VIT)[key]))
        assert "base.pt" in loaded.notes[0]
        assert loaded.checkpoint == "decoder.pt"

    def test_a_base_for_something_else(self, tmp_path: Path) -> None:
        path, base = tmp_path / "other.pt", tmp_path / "base.pt"
        torch.save({"stem.weight": torch.ones(2)}, path)
        torch.save(seeded_state(SMALL_VIT), base)
        with pytest.raises(CheckpointError, match="no part of a SAM"):
            read_checkpoint(path, ReadOptions(base=base))

    def test_an_encoder_alone_and_adapters_have_a_cure(self, tmp_path: Path) -> None:
        encoder, adapted = tmp_path / "encoder.pt", tmp_path / "adapted.pt"
        state = seeded_state(SMALL_VIT)
        torch.save(
            {k.removeprefix("image_encoder."): v for k, v in state.items() if k.startswith("image_enc")}, encoder
        )
        torch.save({**state, "image_encoder.blocks.0.MLP_Adapter.D_fc1.weight": torch.ones(2)}, adapted)
        with pytest.raises(UnknownArchitectureError, match="Save the whole model"):
            load_any(encoder)
        with pytest.raises(UnknownArchitectureError, match="layers are code of their own"):
            load_any(adapted)
