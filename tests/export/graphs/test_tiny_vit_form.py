"""The exported form of MobileSAM's encoder gives the numbers of mobile_sam, and never has its widest maps whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference

from samedge.export.graphs import tiny_vit_form
from samedge.export.graphs.plans import GraphPlan, encoder_module
from samedge.export.graphs.tiny_vit_form import FoldedTinyViT, Strips
from samedge.export.graphs.trace import trace
from samedge.models.checkpoints.read import Checkpoint
from samedge.models.sam.configs import KNOWN_CONFIGS, SMALL_TINY_VIT, SamConfig, TinyViTConfig
from samedge.models.sam.encoders.tiny_vit import MBConv, PatchMerging, TinyViT
from samedge.models.sam.registry import build_model
from samedge.models.sam.sam import Sam
from samedge.models.sam.seeded import seeded_state


def built(config: SamConfig) -> Sam:
    return build_model(Checkpoint(seeded_state(config), "", Path("seeded")), config.encoder.image_size)


def random_images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("kind", ["block", "passage"])
@settings(max_examples=25, deadline=None)
@given(side=st.integers(1, 23), rows=st.integers(1, 30), seed=st.integers(0, 99))
def test_strips_are_the_block(kind: str, side: int, rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    block = MBConv(4, 8) if kind == "block" else PatchMerging(4, 8, 2)
    block.requires_grad_(requires_grad=False)
    x = torch.randn(2, 4, side, side)
    with pytest.MonkeyPatch.context() as patch:
        stride = 1 if kind == "block" else 2
        patch.setattr(tiny_vit_form, "STRIP_NUMBERS", rows * 8 * side * stride)
        strips = Strips(block, side)
    assert len(strips.starts) == -(-strips.out_side // rows)
    assert (strips(x) - block(x)).abs().max() < 1e-6


@settings(max_examples=12, deadline=None)
@given(sixteenths=st.integers(1, 7), windows=st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 7)))
def test_the_numbers_are_mobile_sam_s(sixteenths: int, windows: tuple[int, int, int]) -> None:
    sizes = SMALL_TINY_VIT.encoder
    assert isinstance(sizes, TinyViTConfig)
    size = 16 * sixteenths
    config = SamConfig(replace(sizes, image_size=size, window_sizes=(0, *windows)))
    theirs = reference.reference_mobile_sam(seeded_state(config), config)
    images = random_images(2, size)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_vit_form, "STRIP_NUMBERS", 1 << 10)
        patch.setattr(tiny_vit_form, "CHUNK_TOKENS", 30)
        encoder = built(config).image_encoder
        assert isinstance(encoder, TinyViT)
        ours = FoldedTinyViT(encoder)(images)
        wanted = reference.reference_tiny_vit(theirs.image_encoder, images)
    assert (ours - wanted).abs().max() < 2e-5


def test_gpus_get_the_encoder_as_it_is() -> None:
    sam = built(SamConfig(SMALL_TINY_VIT.encoder))
    assert encoder_module(sam, "mask") == (sam.image_encoder, "default")


def test_what_it_needs_at_true_size() -> None:
    config = KNOWN_CONFIGS["mobile_sam"]
    sam = built(config)
    module, name = encoder_module(sam, "chunked")
    assert name == "strips"
    plan = GraphPlan(
        role="encoder",
        module=module,
        example=(torch.zeros(1, 3, 1024, 1024),),
        inputs=("image",),
        outputs=("image_embeddings",),
        dynamic_axes={"image": {0: "batch"}, "image_embeddings": {0: "batch"}},
    )
    model = trace(plan, 17)
    kinds = [node.op_type for node in model.graph.node]
    assert {"Einsum", "If", "Loop"}.isdisjoint(kinds)
    assert kinds.count("Split") == 10  # a feed-forward part each
    assert kinds.count("Gather") == 4 * 10  # of ten blocks
    assert len(kinds) <= 1271
    biases = [node.input[2] for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    assert len(set(biases)) == len(biases)  # each its own, or OpenVINO fuses none that are shared
    del model.graph.value_info[:]
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    sizes = [
        4 * int(np.prod([axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim]))
        for value in inferred.graph.value_info
    ]
    assert max(sizes) == 32 * 512 * 512 * 4  # of the patches: the widest map of the blocks has 67 MB
