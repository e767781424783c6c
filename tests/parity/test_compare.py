"""The verdict: what passes, what fails, and that a wrong graph cannot slip through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samedge.bundle.manifest import GraphRole
from samedge.parity.compare import Decoded, compare, mask_iou
from samedge.parity.probes import PROBE_SIZES, Probe, ProbePrompt, probe_set
from samedge.types import BoolArray, FloatArray

PROBES = probe_set(image_size=1024, grid=64)


class Scripted:
    """A runner that answers with numbers made from the probe, off by what a test asks for."""

    def __init__(self, *, embedding: float = 0.0, iou: float = 0.0, shift: int = 0, only: str | None = None) -> None:
        self.off = (embedding, iou, shift)
        self.only = only

    def embed(self, probe: Probe) -> FloatArray:
        self.probe = probe
        return np.full((1, 2, 4, 4), 0.5 + self.off[0], np.float32)

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        _, iou, shift = self.off if self.only in (None, self.probe.name) else (0.0, 0.0, 0)
        low_res = np.full((4, 8, 8), -1, np.float32)
        low_res[:, 2:6, 2 + shift : 6 + shift] = 1
        return {"decoder": Decoded(low_res, np.full(4, 0.9 + iou, np.float32), low_res > 0)}


def test_equal_runners_pass_with_all_rows() -> None:
    record = compare(Scripted(), Scripted(), PROBES, backend="test cpu")
    assert record.verdict == "passed"
    assert (record.mask_iou_mean, record.mask_iou_min, record.iou_error_max) == (1.0, 1.0, 0.0)
    assert len(record.rows) == len(PROBE_SIZES) * 5
    assert {row.prompt for row in record.rows} == {"point", "points", "box", "box+point", "mask+point"}
    assert record.rows[0].image == "1000x250"


@pytest.mark.parametrize(
    "wrong",
    [
        Scripted(embedding=0.01),
        Scripted(iou=0.01),
        Scripted(shift=1),
        Scripted(shift=1, only="250x1000"),  # wrong on one aspect ratio only, as the frozen crop is
        Scripted(embedding=float("nan")),
        Scripted(iou=float("nan")),
    ],
)
def test_a_wrong_graph_fails(wrong: Scripted) -> None:
    record = compare(Scripted(), wrong, PROBES, backend="test cpu")
    assert record.verdict == "failed"
    assert np.isfinite([record.embedding_error_max, record.iou_error_max, record.low_res_error_max]).all()


def test_a_mask_of_another_shape_fails() -> None:
    class Cropped(Scripted):
        def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
            decoded = super().decode(prompt)["decoder"]
            return {"decoder": replace(decoded, masks=decoded.masks[..., 1:])}

    record = compare(Scripted(), Cropped(), PROBES, backend="test cpu")
    assert (record.verdict, record.mask_iou_min) == ("failed", 0.0)


masks = hnp.arrays(np.bool_, (5, 7))


@given(masks, masks)
def test_mask_iou_is_that_of_sets(a: BoolArray, b: BoolArray) -> None:
    one, two = set(np.flatnonzero(a)), set(np.flatnonzero(b))
    assert mask_iou(a, b) == (len(one & two) / len(one | two) if one | two else 1.0)


@given(st.sampled_from([64, 128, 1024]))
def test_probe_prompts_lie_in_the_resized_image(size: int) -> None:
    for probe in probe_set(size, size // 16):
        height, width = probe.image.shape[:2]
        frame = np.array([width, height]) * size / max(height, width)
        for prompt in probe.prompts:
            real = prompt.coords[prompt.labels >= 0]
            assert (real >= 0).all()
            assert (real <= frame).all()
            # as the torch reference: a padding point where there is no box, none where there is one
            assert (prompt.labels[-1] == -1) != (3 in prompt.labels)
            assert prompt.mask is None or prompt.mask.shape == (size // 4, size // 4)


def test_probe_set_spans_the_aspect_ratios_and_is_always_the_same() -> None:
    ratios = [width / height for height, width in PROBE_SIZES]
    assert (max(ratios), min(ratios), len(ratios)) == (4.0, 0.25, 5)
    again = probe_set(1024, 64)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(PROBES, again, strict=True))
    assert len({probe.image.tobytes() for probe in PROBES}) == 5
