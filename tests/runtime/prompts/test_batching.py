"""Prompts in one call of the decoder: few where each is long, many where each is short or there is an accelerator."""

from __future__ import annotations

import numpy as np
import pytest

from samedge.runtime.decoder.decoders import prompts_at_once
from samedge.testing.predictor import fake_predictor
from samedge.types import TensorSpec


@pytest.mark.parametrize(("device", "grid", "wanted"), [
    ("cpu", 64, 4), ("cpu", 16, 16), ("cpu", 8, 16), ("cpu", 32, 16), ("cpu", 256, 1),
    ("cuda:0", 64, 16), ("gpu", 64, 16), ("cpu", "g", 16),
])  # fmt: skip
def test_by_device_and_image_tokens(device: str, grid: int | str, wanted: int) -> None:
    assert prompts_at_once(device, TensorSpec((1, 256, grid, grid), np.dtype(np.float32))) == wanted


def test_a_predictor_takes_it_and_keeps_to_what_it_is_told() -> None:
    predictor = fake_predictor(image_size=1024)
    assert predictor.prompts_per_call == prompts_at_once("cpu", predictor._graphs.decoder.embedding_spec)
    predictor.prompts_per_call = 7
    found = predictor.everything(np.zeros((64, 64, 3), np.uint8), points_per_side=4)
    assert found.statistics.decoder_calls == 3
