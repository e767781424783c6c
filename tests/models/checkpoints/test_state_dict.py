"""Weights found in what training scripts save."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samedge.errors import CheckpointError
from samedge.models.checkpoints.state_dict import WRAPPERS, bare_name, extract_state

WHERE = Path("tune.pt")
KEY = "image_encoder.neck.0.weight"


def weights() -> dict[str, object]:
    return {KEY: torch.ones(2, 2), "mask_decoder.iou_token.weight": torch.ones(1, 4)}


class TestUnwrapping:
    @given(
        wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=3),
        prefixes=st.lists(st.sampled_from(["module", "model", "sam", "_orig_mod", "net"]), max_size=4),
    )
    def test_any_wrapping_with_any_prefix(self, wrappers: list[str], prefixes: list[str]) -> None:
        content: object = {".".join([*prefixes, key]): value for key, value in weights().items()}
        for wrapper in wrappers:
            content = {"epoch": 7, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, wrapper: content}
        assert extract_state(content, WHERE).state.keys() == weights().keys()

    def test_a_wrapper_without_tensors_is_passed_over(self) -> None:
        content = {"model": {"type": "vit_b"}, "net": None, "state_dict": weights()}
        assert extract_state(content, WHERE).state.keys() == weights().keys()

    def test_tensors_beside_a_wrapper_do_not_count(self) -> None:
        content = {"loss": torch.tensor(0.5), "model": weights()}
        assert extract_state(content, WHERE).state.keys() == weights().keys()

    @pytest.mark.parametrize(
        ("key", "wanted"),
        [
            ("module.image_encoder.blocks.0.norm1.weight", "image_encoder.blocks.0.norm1.weight"),
            ("image_encoder._orig_mod.blocks.0.norm1.weight", "image_encoder.blocks.0.norm1.weight"),
            ("_orig_mod.image_encoder.module.neck.0.weight", "image_encoder.neck.0.weight"),
            ("sam.mask_decoder.iou_token.weight", "mask_decoder.iou_token.weight"),
            ("model.0.conv.weight", "model.0.conv.weight"),
            ("ema.image_encoder.neck.0.weight", "ema.image_encoder.neck.0.weight"),
            ("module.features.weight", "module.features.weight"),
        ],
    )
    def test_bare_name(self, key: str, wanted: str) -> None:
        assert bare_name(key) == wanted

    def test_a_dictionary_that_holds_itself(self) -> None:
        content: dict[str, object] = {}
        content["model"] = content
        with pytest.raises(CheckpointError, match="no weights"):
            extract_state(content, WHERE)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ({}, "an empty dictionary"),
            ({"epoch": 1, "lr": 0.1}, "'epoch', 'lr'"),
            ([torch.ones(1)], "'list'"),
            (torch.ones(1), "'Tensor'"),
            (None, "'NoneType'"),
            ({1: torch.ones(1)}, "a dictionary with 1"),
        ],
    )
    def test_without_weights_the_message_says_what_is_there(self, content: object, says: str) -> None:
        with pytest.raises(CheckpointError, match=r"torch\.save") as caught:
            extract_state(content, WHERE)
        assert says in str(caught.value)
        assert "tune.pt" in str(caught.value)

    def test_two_models_in_one_file(self) -> None:
        content = {f"{prefix}{key}": value for prefix in ("", "module.") for key, value in weights().items()}
        with pytest.raises(CheckpointError, match="more than one model"):
            extract_state(content, WHERE)


class TestTensors:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
    def test_floating_point_becomes_float32(self, dtype: torch.dtype) -> None:
        value = extract_state({KEY: torch.full((2,), 0.5, dtype=dtype)}, WHERE).state[KEY]
        assert value.dtype == torch.float32
        assert value.tolist() == [0.5, 0.5]

    def test_counters_stay_integers(self) -> None:
        assert (
            extract_state({"bn.num_batches_tracked": torch.tensor(3)}, WHERE).state["bn.num_batches_tracked"].item()
            == 3
        )

    def test_parameters_become_plain_tensors(self) -> None:
        value = extract_state({KEY: torch.nn.Parameter(torch.ones(2))}, WHERE).state[KEY]
        assert not value.requires_grad

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_values_that_are_not_finite_are_refused_by_name(self, bad: float, dtype: torch.dtype) -> None:
        value = torch.ones(4, 4, dtype=dtype)
        value[1, 2] = bad
        with pytest.raises(CheckpointError, match="not finite") as caught:
            extract_state({"fine": torch.ones(1), KEY: value}, WHERE)
        assert caught.value.key == KEY
        assert KEY in str(caught.value)

    @pytest.mark.parametrize(
        "value",
        [
            torch.eye(3).to_sparse(),
            torch.empty(2, device="meta"),
            torch.ones(2, dtype=torch.complex64),
            torch.ones(1).expand(1 << 20, 1 << 20),
        ],
        ids=["sparse", "meta", "complex", "expanded"],
    )
    def test_tensors_that_are_no_plain_numbers_are_refused(self, value: torch.Tensor) -> None:
        with pytest.raises(CheckpointError, match="neck"):
            extract_state({KEY: value}, WHERE)
