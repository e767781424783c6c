"""LiteMedSAM in small: its patch embedding against MobileSAM's package, its normalisation against MedSAM's formula."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.reference import mobile_sam
from torch import nn

import samedge
from samedge.bundle.manifest import MANIFEST_NAME, read_manifest
from samedge.errors import UsageError
from samedge.export.exporter import export_model
from samedge.models.checkpoints.read import Checkpoint
from samedge.models.sam.configs import IMAGE_RANGE, KNOWN_CONFIGS, TinyViTConfig
from samedge.models.sam.registry import build_model, recognise
from samedge.models.sam.seeded import seeded_state
from samedge.parity.verify import verify_bundle
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.types import FloatArray, ImageArray

SMALL = KNOWN_CONFIGS["lite_medsam_tiny"]
SOURCE = "seeded:lite_medsam_tiny"


def test_the_encoder_equals_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL.encoder
    assert isinstance(config, TinyViTConfig)
    package = import_module(f"{mobile_sam().__name__}.modeling.tiny_vit_sam")

    class PointEmbed(nn.Module):
        """The patch embedding of LiteMedSAM's repository: two convolutions of 1 x 1."""

        def __init__(self, in_chans: int, embed_dim: int, resolution: int, activation: type[nn.Module]) -> None:
            super().__init__()
            self.patches_resolution = (resolution, resolution)
            first, second = ((in_chans, embed_dim // 2), (embed_dim // 2, embed_dim))
            make = package.Conv2d_BN
            self.seq = nn.Sequential(make(*first, 1, 1, 0), activation(), make(*second, 1, 1, 0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.seq(x)
            return out

    monkeypatch.setattr(package, "PatchEmbed", PointEmbed)
    theirs = package.TinyViT(
        img_size=config.image_size, num_classes=1000, embed_dims=[*config.embed_dims], depths=[*config.depths],
        num_heads=[1, *config.num_heads[1:]], window_sizes=[1, *config.window_sizes[1:]], mlp_ratio=2.0,
    )  # fmt: skip
    state, prefix = seeded_state(SMALL), "image_encoder."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    theirs.load_state_dict(own, strict=False)
    images = torch.randn(2, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(3))
    sam = build_model(Checkpoint(state, "", Path("seeded")), config.image_size)
    with torch.no_grad():
        x = theirs.eval().patch_embed(images)
        for layer in theirs.layers:
            x = layer(x)
        wanted = theirs.neck(x.transpose(1, 2).reshape(2, -1, 8, 8))
    ours = sam.encode(images)
    assert ours.shape == (2, 256, 8, 8) == wanted.shape
    assert wanted.std() > 0.05
    assert (ours - wanted).abs().max() < 1e-4
    assert sam.normalisation == IMAGE_RANGE


def test_it_is_told_by_its_kernels() -> None:
    found = recognise(Checkpoint(seeded_state("lite_medsam"), "", Path("lite_medsam.pth")))
    assert found.name == "lite_medsam"
    assert found.config.encoder.grid == 64
    assert found.notes == ("input 256 px assumed: the weights do not determine it; --image-size changes it",)
    with pytest.raises(UsageError, match=r"258 px is not possible.*multiple of 4"):
        recognise(Checkpoint(seeded_state("lite_medsam"), "", Path("lite_medsam.pth")), 258)


def reference_input(bgr: ImageArray, size: int) -> FloatArray:
    """Return MedSAM's preprocessing: resize the longest side, stretch to 0..1, pad with zeros below and right."""
    resized = ImageGeometry.of(bgr.shape[0], bgr.shape[1], size).resize(bgr)[..., ::-1].astype(np.float32)
    stretched = (resized - resized.min()) / np.clip(resized.max() - resized.min(), 1e-8, None)
    padded = np.zeros((size, size, 3), np.float32)
    padded[: stretched.shape[0], : stretched.shape[1]] = stretched
    return padded.transpose(2, 0, 1)[None]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 255), st.integers(0, 255), st.integers(0, 9))
def test_images_are_stretched_as_medsam_does(height: int, width: int, low: int, high: int, seed: int) -> None:
    low, high = min(low, high), max(low, high)
    bgr = np.random.default_rng(seed).integers(low, high + 1, (height, width, 3), dtype=np.uint8)
    ours = normalised_input(bgr, ImageGeometry.of(height, width, 32), IMAGE_RANGE)
    np.testing.assert_allclose(ours, reference_input(bgr, 32), atol=1e-6)


@pytest.mark.parametrize("io", ["native", "samexporter"])
def test_a_bundle_stretches_in_the_host_or_in_the_graph(io: str, tmp_path: Path) -> None:
    folder = export_model(SOURCE, output=tmp_path / io, io=io)  # type: ignore[arg-type]
    manifest = read_manifest(folder / MANIFEST_NAME)
    assert manifest.input.stretched is True
    assert manifest.parity.verdict == "passed"
    dark = np.random.default_rng(0).integers(20, 60, (40, 30, 3), dtype=np.uint8)
    with samedge.load(folder, "onnxruntime", threads=1) as predictor:
        predictor.set_image(dark)
        embedding = predictor.image_embedding
        predictor.set_image((dark - np.uint8(20)) * np.uint8(4))
        assert np.abs(embedding - predictor.image_embedding).max() < 0.05  # but for the rounding as it is resized
        (mask,) = predictor.predict(points=[10, 10]).masks
        assert mask.shape == (40, 30)
    with samedge.load(export_model("seeded:tiny_vit_tiny", output=tmp_path / "mobile")) as other:
        assert "stretched" not in (tmp_path / "mobile" / MANIFEST_NAME).read_text()
        assert other.info.input.stretched is not True


def test_masks_as_large_as_the_input_go_through_everything(tmp_path: Path) -> None:
    """In other SAMs a mask has a quarter of the input's side, and the embedding a sixteenth."""
    folder = export_model(SOURCE, output=tmp_path / "bundle")
    picture = np.random.default_rng(1).integers(0, 255, (48, 20, 3), dtype=np.uint8)
    with samedge.load(folder, "onnxruntime", threads=1) as predictor:
        predictor.set_image(picture)
        assert predictor.image_embedding.shape == (1, 256, 8, 8)
        first = predictor.predict(points=[[10, 10], [5, 40]], multimask=True)
        assert first.low_res_logits.shape == (6, 32, 32)
        assert first.masks.shape == (6, 48, 20)
        again = predictor.predict(boxes=[[1, 1, 18, 40]], masks=first.low_res_logits[:1])
        drawn = predictor.predict(masks=first.masks[:1])
        assert again.masks.shape == drawn.masks.shape == (1, 48, 20)
        options: Any = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
        found = predictor.everything(**options).records()
        assert found
        assert {np.asarray(record["segmentation"]).shape for record in found} == {(48, 20)}
    assert verify_bundle(folder, backend="onnxruntime").verdict == "passed"
