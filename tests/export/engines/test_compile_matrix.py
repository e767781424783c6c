"""Every kind of graph in every precision, compiled by the real TensorRT for RTX for every generation of cards.

No GPU is needed, and none is asked: what the compiler says of the finished engine is what is checked. Four compute
capabilities are compiled for at once, which takes hardly longer than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import pytest
from onnx import helper
from support.traced_graphs import DEMO, SMALL_GRAPHS, TINY_VIT, VIT, YOLO, loaded, traced

from samedge.engines.tensorrt import log as build_log
from samedge.engines.tensorrt.api import find_flavour
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.engines.tensorrt.log import LayerRecord
from samedge.errors import EngineError, UsageError
from samedge.export.graphs.plans import plan_graphs
from samedge.export.graphs.trace import trace
from samedge.export.precision import int8
from samedge.export.precision.gpu_linears import FORMATS, quantise_linears
from samedge.export.precision.half import to_half
from samedge.models.sam.build import empty_sam
from samedge.models.sam.configs import KNOWN_CONFIGS, SamConfig, ViTConfig, vit_config
from samedge.models.sam.sam import Sam
from samedge.models.sam.seeded import seeded_state
from samedge.options import AxisRange
from samedge.types import EncoderForm, Precision

pytest.importorskip("tensorrt_rtx")

ALL = ("7.5", "8.6", "8.9", "12.0")
ONE_CONTEXT = {"contexts": AxisRange(1, 1, 1)}

ATTENTIONS = {
    (VIT, "encoder"): 4,
    (TINY_VIT, "encoder"): 4,
    (DEMO, "encoder"): 8,
    (VIT, "decoder"): 7,
    (VIT, "decoder_prompts"): 3,  # the others are written in the space of tokens: no attention that compilers know
    (VIT, "decoder_context"): 0,
    (VIT, "decoder_masks"): 0,
    (YOLO, "yolo"): 0,
}
"""Of each graph, all of which must be fused."""


def build(
    model: onnx.ModelProto, precision: Precision, targets: tuple[str, ...], profiles: dict[str, AxisRange] | None = None
) -> BuildReport:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        onnx.save(model, path)
        options = BuildOptions(precision=precision, targets=targets, profiles=ONE_CONTEXT | (profiles or {}))
        plan, report = build_plan(find_flavour("tensorrt-rtx"), path, options)
        assert report.plan_bytes == len(plan)
        return report


@cache
def half_report(source: str, role: str, form: EncoderForm, rung: str, targets: tuple[str, ...] = ALL) -> BuildReport:
    model = traced(source, role, form)
    to_half(model, rung)
    return build(model, "fp16", targets)


def ports(values: Any) -> dict[str, tuple[str, list[int | str]]]:
    return {
        value.name: (
            str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def fixed(shape: Sequence[int | str]) -> list[int]:
    return [size for size in shape if isinstance(size, int)]


@pytest.mark.parametrize("rung", ["fp16", "fp16-norms"])
@pytest.mark.parametrize(("source", "role", "form"), [*SMALL_GRAPHS, (DEMO, "encoder", "mask")])
def test_compiles_for_every_card_with_every_attention_fused(
    source: str, role: str, form: EncoderForm, rung: str
) -> None:
    report = half_report(source, role, form, rung)
    graph = traced(source, role, form).graph
    assert {name: (spec.dtype.name, list(spec.shape)) for name, spec in report.inputs.items()} == ports(graph.input)
    outputs = ports(graph.output)
    assert list(report.outputs) == list(outputs)
    for name, spec in report.outputs.items():
        dtype, shape = outputs[name]
        assert spec.dtype.name == dtype
        assert [size for size in spec.shape if isinstance(size, int)] == [
            size for size in shape if isinstance(size, int)
        ]
    assert report.fused_attentions == ATTENTIONS[source, role]
    assert report.targets == ("sm75", "sm86", "sm89", "sm120")
    assert report.strongly_typed
    assert report.warnings == ()  # an error would have failed the build
    weights = sum(len(tensor.raw_data) for tensor in graph.initializer) / 2
    assert 0.7 * weights < report.plan_bytes < 3 * weights + 4_000_000  # several cards may have one form each
    assert report.activation_bytes is not None
    assert report.activation_bytes < 64_000_000


@pytest.mark.parametrize(
    ("role", "profiles", "shapes"),
    [
        ("decoder", {}, ((1, 2, 2), (16, 3, 2), (64, 16, 2))),
        ("decoder", {"prompts": AxisRange(1, 1, 1), "points": AxisRange(2, 2, 2)}, ((1, 2, 2),) * 3),
        ("decoder", {"prompts": AxisRange(1, 4, 8), "points": AxisRange(2, 5, 9)}, ((1, 2, 2), (4, 5, 2), (8, 9, 2))),
        ("decoder_prompts", {"prompts": AxisRange(1, 4, 8)}, ((1, 2, 2), (4, 3, 2), (8, 16, 2))),
    ],
)
def test_profiles_are_the_user_s(
    role: str, profiles: dict[str, AxisRange], shapes: tuple[tuple[int, ...], ...]
) -> None:
    model = traced(VIT, role)
    to_half(model, "fp16")
    report = half_report(VIT, role, "mask", "fp16") if not profiles else build(model, "fp16", ("8.6",), profiles)
    assert report.profiles["point_coords"] == shapes
    assert report.profiles["point_labels"] == tuple(shape[:2] for shape in shapes)
    assert report.fused_attentions == ATTENTIONS[VIT, role]
    largest = half_report(VIT, role, "mask", "fp16").activation_bytes
    assert report.activation_bytes is not None
    assert largest is not None
    assert report.activation_bytes <= largest


@pytest.mark.parametrize(
    ("precision", "opset", "targets", "named"),
    [("int8", 17, ALL, "Int8"), ("int8", 19, ALL, "Int8"), ("fp8", 19, ("8.9", "12.0"), "FP8")],
)
def test_quantised_layers_are_computed_as_such(
    precision: Precision, opset: int, targets: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "SMALLEST_LINEAR", 1024)
    model = traced(VIT, "encoder", "mask", opset)
    ranges = {linear.activation: 4.0 for linear in int8.linears(model.graph)}
    assert quantise_linears(model, ranges, FORMATS[precision]) == 16
    to_half(model, "fp16")
    layers: list[str] = []
    read = build_log.read_layers

    def kept(text: str) -> tuple[LayerRecord, ...]:
        layers.extend(text.splitlines())
        return read(text)

    monkeypatch.setattr(build_log, "read_layers", kept)
    report = build(model, precision, targets)
    assert report.fused_attentions == 4
    assert report.warnings == ()
    products = [line for line in layers if "LayerType: gemm" in line]
    assert sum(f"Datatype: {named}" in line.partition("Constants:")[0] for line in products) == 16


def test_fp8_is_refused_where_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "SMALLEST_LINEAR", 1024)
    model = traced(VIT, "encoder", "mask", 19)
    quantise_linears(model, {linear.activation: 4.0 for linear in int8.linears(model.graph)}, FORMATS["fp8"])
    to_half(model, "fp16")
    with pytest.raises(EngineError, match=r"sm86.*fp8.*8\.9 or newer"):
        build(model, "fp8", ("8.6", "8.9"))


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_float32_compiles_without_fusion_and_not_for_the_oldest(role: str) -> None:
    report = build(traced(VIT, role), "fp32", ("8.6", "12.0"))
    assert report.fused_attentions == 0  # which is why there is float16
    with pytest.raises(UsageError, match=r"zeros in fp32.*fp16, or omit the target 7\.5"):
        build(traced(VIT, role), "fp32", ("7.5",))


def test_attention_in_float32_compiles_without_fusion_and_not_for_the_oldest() -> None:
    report = half_report(VIT, "encoder", "mask", "fp16-attention", ("8.6", "12.0"))
    assert (report.fused_attentions, report.warnings) == (0, ())
    with pytest.raises(EngineError, match=r"FP32 GEMM is not supported.*omit the target 7\.5"):
        half_report(VIT, "encoder", "mask", "fp16-attention", ("7.5",))


@pytest.mark.parametrize("form", ["mask", "concat"])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_attention_over_all_tokens_of_a_large_image_fuses(head_dim: int, form: EncoderForm) -> None:
    """Two heads of ViT-B and ViT-L (64) and of ViT-H (80), in windows and over all 4096 tokens of 1024 px."""
    config = SamConfig(vit_config(embed_dim=2 * head_dim, depth=2, num_heads=2, global_blocks=(1,)))
    sam = empty_sam(config)
    sam.load_state_dict(seeded_state(config))
    model = trace(plan_graphs(sam, "native", form)[0], 17)
    to_half(model, "fp16")
    report = build(model, "fp16", ALL)
    assert report.fused_attentions == 2
    assert report.warnings == ()


def two_blocks(name: str) -> Sam:
    """The encoder of this name at its full size but for its depth: a block in windows, and one over all tokens."""
    config = KNOWN_CONFIGS[name]
    assert isinstance(config.encoder, ViTConfig)
    windows = (max(config.encoder.window_sizes), 0)
    config = replace(config, encoder=replace(config.encoder, depth=2, window_sizes=windows))
    sam = empty_sam(config)
    sam.load_state_dict(seeded_state(config))
    return sam


@pytest.mark.parametrize(
    ("name", "form", "attentions", "megabytes"),
    [
        ("mobile_sam", "mask", 10, 100),
        ("sam_vit_b", "mask", 2, 550),
        pytest.param("sam_vit_b", "mask", 12, 550, marks=pytest.mark.full_size),
        ("sam_vit_b", "concat", 2, 220),
        ("sam_vit_l", "mask", 2, 700),
    ],
)
def test_full_size_encoders_fuse_every_attention(name: str, form: EncoderForm, attentions: int, megabytes: int) -> None:
    sam = loaded(f"seeded:{name}") if attentions > 2 else two_blocks(name)
    model = trace(plan_graphs(sam, "native", form)[0], 17)
    to_half(model, "fp16")
    report = build(model, "fp16", ("8.6",))
    assert report.fused_attentions == attentions
    assert report.activation_bytes is not None
    assert report.activation_bytes <= megabytes * 1e6
    assert report.warnings == ()
