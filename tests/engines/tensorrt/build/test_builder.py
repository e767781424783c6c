"""The builder: the exact calls for each generation, and real plans from the real TensorRT for RTX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import write_small_bundle
from support.fake_tensorrt import VERSIONS, FakeTensorRt, write_graph
from support.rtx_graphs import write_affine, write_attention

from samedge.engines.tensorrt.api import find_flavour
from samedge.engines.tensorrt.build import memory as build_memory
from samedge.engines.tensorrt.build.builder import build_plan
from samedge.engines.tensorrt.build.guarded import build_in_child
from samedge.engines.tensorrt.build.memory import DeviceMemory, check_memory, free_host_bytes
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.engines.tensorrt.build.progress import PhaseTree
from samedge.engines.tensorrt.plan_file import inspect_plan
from samedge.errors import EngineError, SamedgeError, UsageError
from samedge.options import AxisRange
from samedge.types import TensorSpec

GENERATIONS = tuple(VERSIONS)
F32 = np.dtype(np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(
        tmp_path / "graph.onnx",
        {"coords": ("float32", ["prompts", "points", 2]), "image": ("float32", [1, 3, 8, 8])},
        {"masks": ("float32", ["prompts", 4])},
    )


def build(fake: FakeTensorRt, graph: Path, options: BuildOptions, **others: Any) -> tuple[memoryview, BuildReport]:
    return build_plan(fake.flavour, graph, options, **others)


@pytest.mark.parametrize(
    ("generation", "network", "flags"),
    [
        ("8.6", ["EXPLICIT_BATCH"], [("FP16",)]),
        ("10.3", ["EXPLICIT_BATCH", "STRONGLY_TYPED"], []),
        ("10.13", ["EXPLICIT_BATCH", "STRONGLY_TYPED"], []),
        ("11", ["STRONGLY_TYPED"], []),
        ("rtx", ["STRONGLY_TYPED"], []),
    ],
)
def test_the_calls_of_each_generation(generation: str, network: list[str], flags: list[Any], graph: Path) -> None:
    fake = FakeTensorRt(generation)
    device = DeviceMemory(free=8_000_000_000, total=16_000_000_000)
    plan, report = build(
        fake, graph, BuildOptions(precision="fp16", optimisation_level=4, workspace_share=0.25), device=device
    )
    assert fake.called("create_network") == [tuple(network)]
    assert fake.called("set_flag") == flags
    assert fake.called("set_memory_pool_limit") == [("WORKSPACE", 2_000_000_000)]
    assert fake.called("profiling_verbosity") == [("DETAILED",)]
    assert fake.called("builder_optimization_level") == [(4,)]
    assert fake.called("set_shape") == [("coords", (1, 2, 2), (16, 3, 2), (64, 16, 2))]
    assert fake.calls[-1] == ("build_serialized_network",)
    assert report.strongly_typed == (generation != "8.6")
    assert (report.flavour, report.version) == (fake.name, VERSIONS[generation])
    assert report.inputs == {
        "coords": TensorSpec(("prompts", "points", 2), F32),
        "image": TensorSpec((1, 3, 8, 8), F32),
    }
    assert report.profiles == {"coords": ((1, 2, 2), (16, 3, 2), (64, 16, 2))}
    assert report.plan_bytes == len(plan)


@pytest.mark.parametrize("generation", ["8.6", "10.3", "10.13"])
def test_weak_typing_where_there_is_a_choice(generation: str, graph: Path) -> None:
    fake = FakeTensorRt(generation)
    _, report = build(fake, graph, BuildOptions(precision="int8", typing="weak"))
    assert fake.called("create_network") == [("EXPLICIT_BATCH",)]
    assert fake.called("set_flag") == [("FP16",), ("INT8",)]
    assert not report.strongly_typed


def test_fp32_sets_no_flag_on_the_oldest(graph: Path) -> None:
    fake = FakeTensorRt("8.6")
    build(fake, graph, BuildOptions())
    assert fake.called("set_flag") == []


def test_compatibility_options_go_to_generations_that_have_them(graph: Path) -> None:
    fake = FakeTensorRt("10.13")
    options = BuildOptions(version_compatible=True, hardware_compatibility="same_compute_capability")
    build(fake, graph, options)
    assert fake.called("set_flag") == [("VERSION_COMPATIBLE",)]
    assert fake.called("hardware_compatibility_level") == [("SAME_COMPUTE_CAPABILITY",)]


def test_several_targets_for_rtx(graph: Path) -> None:
    fake = FakeTensorRt("rtx")
    _, report = build(fake, graph, BuildOptions(targets=("12.0", "sm_86", "89", "8.6")))
    assert fake.called("num_compute_capabilities") == [(3,)]
    assert fake.called("set_compute_capability") == [("SM86", 0), ("SM89", 1), ("SM120", 2)]
    assert report.targets == ("sm86", "sm89", "sm120")


@pytest.mark.parametrize(
    ("generation", "options", "message"),
    [
        ("10.3", BuildOptions(targets=("8.6",)), "the local GPU only.*format 'rtx'"),
        ("rtx", BuildOptions(targets=("8.7",)), "does not build for sm87.*format 'trt'"),
        ("rtx", BuildOptions(version_compatible=True), "no version-compatible plans"),
        ("rtx", BuildOptions(hardware_compatibility="ampere_plus"), "Name several targets instead"),
        ("10.3", BuildOptions(hardware_compatibility="same_compute_capability"), "no hardware compatibility"),
        ("8.6", BuildOptions(typing="strong"), "no strong typing"),
        ("11", BuildOptions(typing="weak"), "only strong typing"),
        ("8.6", BuildOptions(precision="fp8"), "no fp8"),
        ("rtx", BuildOptions(targets=("7.5",)), "zeros in fp32 with free axes on compute capability 7.5"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    generation: str, options: BuildOptions, message: str, graph: Path
) -> None:
    fake = FakeTensorRt(generation)
    with pytest.raises(UsageError, match=message) as caught:
        build(fake, graph, options)
    assert caught.value.cure
    assert not fake.called("build_serialized_network")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_error_line_fails_the_build_though_nothing_else_does(generation: str, graph: Path) -> None:
    fake = FakeTensorRt(generation)
    fake.log = [("WARNING", "never mind"), ("ERROR", "setMemoryPoolLimit: requested\nsize was too large")]
    with pytest.raises(EngineError, match=r"cannot configure this graph: setMemoryPoolLimit: requested size") as caught:
        build(fake, graph, BuildOptions())
    assert not fake.called("build_serialized_network")
    assert caught.value.doing == "configure"


@pytest.mark.parametrize(
    "line",
    [
        "[virtualMemoryBuffer.cpp] Error Code 2: OutOfMemory (no further information)",
        "[optimizer.cpp] Error Code 10: Internal Error (Could not find any implementation for node X.)",
        "Error Code: 9: Skipping tactic 0x0000000000000000 due to exception autotuning",
    ],
)
def test_an_error_beside_a_plan_is_a_tactic_that_was_skipped(
    line: str, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRt("10.3")
    say = fake.say
    monkeypatch.setattr(fake, "say", lambda logger: say(logger) if fake.called("build_serialized_network") else None)
    fake.log = [("ERROR", line)]
    _, report = build(fake, graph, BuildOptions())
    assert report.warnings == (line,)
    fake.build_fails = True
    fake.calls.clear()
    with pytest.raises(EngineError, match="cannot build this graph"):
        build(fake, graph, BuildOptions())


def test_what_a_build_logs_is_in_the_report(graph: Path) -> None:
    fake = FakeTensorRt("10.3")
    layers = (
        "Layers:\n"
        "Name: __myl_Cast_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Size: [1] }], TacticName: __myl_Cast, X\n"
        "Name: _gemm_mha_v2_myl0_1, LayerType: kgen, Inputs: [], TacticName: _gemm_mha_v2_0x12, StreamId: 0\n"
        "Name: /blocks.0/mlp/MatMul, LayerType: gemm, Inputs: [], Outputs: []\n"
        "\nI/O Tensors:\n Name: x, IOMode: Input\n"
    )
    fake.log = [
        ("INFO", "Total Activation Memory: 8545280 bytes"),
        ("INFO", "Total Weights Memory: 3622144 bytes"),
        ("WARNING", "twice"),
        ("WARNING", "twice"),
        ("VERBOSE", layers),
    ]
    _, report = build(fake, graph, BuildOptions())
    assert [(layer.name, layer.kind) for layer in report.layers] == [
        ("__myl_Cast_myl0_0", "kgen"),
        ("_gemm_mha_v2_myl0_1", "kgen"),
        ("/blocks.0/mlp/MatMul", "gemm"),
    ]
    assert report.fused_attentions == 1
    assert (report.activation_bytes, report.weight_bytes) == (8545280, 3622144)
    assert report.warnings == ("twice",)
    fake.log = [
        ("VERBOSE", "Engine Layer Information:\nLayer(Myelin): {ForeignNode[a...b]}, Tactic: 0x0, in (Half[1]) -> out")
    ]
    _, report = build(fake, graph, BuildOptions())
    assert [(layer.name, layer.kind, layer.tactic) for layer in report.layers] == [
        ("{ForeignNode[a...b]}", "Myelin", "0x0")
    ]


def test_a_build_without_a_plan_says_why_and_what_to_do(graph: Path) -> None:
    fake = FakeTensorRt("10.13")
    fake.build_fails = True
    with pytest.raises(EngineError, match="no reason given"):
        build(fake, graph, BuildOptions())
    fake.log = [("ERROR", "Error Code 2: OutOfMemory (Requested size was 4248 bytes.)")]
    with pytest.raises(EngineError, match=r"OutOfMemory.*smaller profile") as caught:
        build(fake, graph, BuildOptions(), device=DeviceMemory(1 << 40, 1 << 40))
    assert caught.value.causes


def test_axes_without_sizes_are_named(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "g.onnx", {"x": ("float32", ["height", 3])}, {"y": ("float32", ["height"])})
    with pytest.raises(UsageError, match=r"axis 'height' of input 'x'.*AxisRange") as caught:
        build(FakeTensorRt("11"), graph, BuildOptions())
    assert caught.value.axis == "height"
    _, report = build(FakeTensorRt("11"), graph, BuildOptions(profiles={"height": AxisRange(1, 2, 3)}))
    assert report.profiles == {"x": ((1, 3), (2, 3), (3, 3))}


def test_names_of_axes_can_be_given_where_tensorrt_forgets_them(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.fake_tensorrt.Tensor.get_dimension_name", lambda *_: None)
    axes = {"coords": ("prompts", "points", 2), "masks": ("prompts", 4)}
    _, report = build(FakeTensorRt("8.6"), graph, BuildOptions(), axes=axes)
    assert report.inputs["coords"].shape == ("prompts", "points", 2)
    assert report.outputs["masks"].shape == ("prompts", 4)
    with pytest.raises(UsageError, match=r"axis 'coords\.0'"):
        build(FakeTensorRt("8.6"), graph, BuildOptions())


def test_the_timing_cache_is_kept_and_a_damaged_one_is_started_anew(graph: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "timing.bin"
    fake = FakeTensorRt("10.3")
    build(fake, graph, BuildOptions(), timing_cache=cache)
    assert cache.read_bytes() == b"+times"
    build(fake, graph, BuildOptions(), timing_cache=cache)
    assert cache.read_bytes() == b"+times+times"
    cache.write_bytes(b"damaged")
    build(fake, graph, BuildOptions(), timing_cache=cache)
    assert cache.read_bytes() == b"+times"
    assert fake.called("create_timing_cache") == [(b"",), (b"+times",), (b"damaged",), (b"",)]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_progress_comes_where_there_is_a_monitor(generation: str, graph: Path) -> None:
    seen: list[tuple[str, float]] = []
    build(FakeTensorRt(generation), graph, BuildOptions(), progress=lambda step, share: seen.append((step, share)))
    steps = [] if generation == "8.6" else [("Building", 0.0), ("Building", 0.5)]
    assert seen == [*steps, ("Built", 1.0)]


def test_a_build_can_be_cancelled(graph: Path) -> None:
    with pytest.raises(EngineError, match="cancelled"):
        build(FakeTensorRt("11"), graph, BuildOptions(), cancelled=lambda: True)


def test_nested_phases_add_up_and_never_go_back() -> None:
    shares: list[float] = []
    tree = PhaseTree(lambda _step, share: shares.append(round(share, 3)))
    tree.start("all", None, 2)
    tree.start("first", "all", 4)
    assert tree.step("first", 1)
    tree.finish("first")
    tree.step("all", 0)
    tree.start("second", "all", 0)
    tree.start("inner", "second", 2)
    tree.step("inner", 0)
    tree.step("unknown", 5)
    tree.step("all", 1)
    assert shares == [0.0, 0.0, 0.25, 0.5, 0.5, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workspace_share": 0.0}, "invalid workspace_share 0"),
        ({"workspace_share": 1.5}, "invalid workspace_share 1.5"),
        ({"workspace_bytes": 0}, "invalid workspace_bytes 0"),
        ({"optimisation_level": 6}, "invalid optimisation_level 6"),
        ({"precision": "fp64"}, "invalid precision 'fp64'.*fp16"),
        ({"typing": "loose"}, "invalid typing 'loose'"),
        ({"hardware_compatibility": "all"}, "invalid hardware_compatibility 'all'"),
        ({"targets": ("ampere",)}, "invalid compute capability 'ampere'"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        BuildOptions(**change)
    assert caught.value.cure


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 3), (1, 4, 3)])
def test_ranges_ascend(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="/".join(map(str, sizes))):
        AxisRange(*sizes)


def test_options_survive_json() -> None:
    options = BuildOptions(
        precision="fp16", profiles={"prompts": AxisRange(1, 2, 3)}, targets=("8.6",), workspace_bytes=5
    )
    assert BuildOptions.from_json(options.to_json()) == options


# Memory


def test_too_little_memory_is_refused_with_both_numbers(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_memory, "free_host_bytes", lambda: 100_000_000)
    fake = FakeTensorRt("10.3")
    with pytest.raises(EngineError, match=r"needs about 300 MB of memory, but only 100 MB are free.*swap") as caught:
        build(fake, graph, BuildOptions())
    assert (caught.value.free, fake.calls) == (100_000_000, [])
    build(fake, graph, BuildOptions(check_memory=False))


def test_weights_beside_the_graph_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tmp_path / "big.onnx"
    graph.write_bytes(b"x")
    (tmp_path / "big.onnx.data").write_bytes(bytes(1_000_000))
    monkeypatch.setattr(build_memory, "free_host_bytes", lambda: 303_000_000)
    with pytest.raises(EngineError, match="about 304 MB"):
        check_memory(graph, device=None, workspace=None)


def test_a_gpu_needs_memory_as_well(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_memory, "free_host_bytes", lambda: 600_000_000)
    device = DeviceMemory(free=1_000_000_000, total=2_000_000_000)
    check_memory(graph, device=device, workspace=None)
    with pytest.raises(EngineError, match="needs about 400 MB of GPU memory"):
        check_memory(graph, device=replace(device, free=100_000_000), workspace=None)
    with pytest.raises(EngineError, match="needs about 700 MB of memory"):  # a board has one memory for both
        check_memory(graph, device=replace(device, shared=True), workspace=None)
    with pytest.raises(EngineError, match="workspace of 3000 MB exceeds"):
        check_memory(graph, device=device, workspace=3_000_000_000)


def test_free_memory_respects_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, limit, usage = (tmp_path / name for name in ("meminfo", "max", "current"))
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    2000 kB\nSwapFree:  1000 kB\n", encoding="ascii")
    monkeypatch.setattr(build_memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(build_memory, "_CGROUPS", ((limit, usage),))
    assert free_host_bytes() == 3000 * 1024
    usage.write_text("1000\n", encoding="ascii")
    limit.write_text("max\n", encoding="ascii")
    assert free_host_bytes() == 3000 * 1024
    limit.write_text("1500\n", encoding="ascii")
    assert free_host_bytes() == 500
    meminfo.unlink()
    assert free_host_bytes() is None


# The real builder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt_rtx")
    return write_small_bundle(tmp_path_factory.mktemp("rtx") / "bundle")


def test_rtx_compiles_an_encoder_for_two_targets_in_a_child(bundle: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, float]] = []
    output = tmp_path / "encoder.engine"
    report = build_in_child(
        "tensorrt-rtx",
        bundle / "small.encoder.onnx",
        output,
        BuildOptions(targets=("8.6", "12.0")),
        axes={"image_embeddings": ("batch", 256, 8, 8)},
        progress=lambda step, share: steps.append((step, share)),
    )
    assert report.inputs == {"image": TensorSpec(("batch", 3, 128, 128), F32)}
    assert report.outputs == {"image_embeddings": TensorSpec(("batch", 256, 8, 8), F32)}
    assert report.targets == ("sm86", "sm120")
    assert report.plan_bytes == output.stat().st_size > 3_000_000
    assert len(report.layers) > 20
    assert report.activation_bytes is not None
    assert report.activation_bytes > 0
    assert report.weight_bytes is not None
    assert report.weight_bytes > 3_000_000
    assert not any("Error" in warning for warning in report.warnings)
    plan = inspect_plan(output)
    assert (plan.flavour, plan.version_text) == ("tensorrt-rtx", report.version)
    shares = [share for _, share in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len({step for step, _ in steps}) > 5


def test_rtx_compiles_a_decoder_with_prompts_and_points(bundle: Path) -> None:
    options = BuildOptions(targets=("8.6", "12.0"), profiles={"prompts": AxisRange(1, 2, 8)})
    plan, report = build_plan(find_flavour("tensorrt-rtx"), bundle / "small.decoder.onnx", options)
    assert len(plan) > 10_000_000
    assert {name: str(spec) for name, spec in report.inputs.items()} == {
        "image_embeddings": "float32[1, 256, 8, 8]",
        "point_coords": "float32[prompts, points, 2]",
        "point_labels": "int32[prompts, points]",
        "mask_input": "float32[prompts, 1, 32, 32]",
        "has_mask_input": "float32[prompts]",
    }
    assert [spec.shape[1:] for spec in report.outputs.values()] == [(4, 32, 32), (4,)]
    assert list(report.outputs) == ["low_res_masks", "iou_predictions"]
    assert report.profiles["point_coords"] == ((1, 2, 2), (2, 3, 2), (8, 16, 2))
    assert "image_embeddings" not in report.profiles
    assert report.fused_attentions == 0  # in fp32 nothing fuses


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"not a graph", "not an ONNX graph"),
        (lambda data: data[: len(data) // 2], "truncated or not an ONNX graph"),
        (lambda data: b"", "not an ONNX graph"),
    ],
)
def test_rtx_refuses_what_is_no_graph(bundle: Path, tmp_path: Path, damage: Any, message: str) -> None:
    graph = tmp_path / "damaged.onnx"
    graph.write_bytes(damage((bundle / "small.encoder.onnx").read_bytes()))
    with pytest.raises(SamedgeError, match=message) as caught:
        build_plan(find_flavour("tensorrt-rtx"), graph, BuildOptions(targets=("8.6",)))
    assert str(caught.value).startswith("damaged.onnx: ")


def test_rtx_fuses_attention_in_fp16_and_the_report_counts_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    flavour = find_flavour("tensorrt-rtx")
    graph = write_attention(tmp_path / "half.onnx", np.float16)
    options = BuildOptions(precision="fp16", targets=("7.5", "8.6", "8.9", "12.0"))
    plan, report = build_plan(flavour, graph, options)
    assert report.fused_attentions == 1
    assert report.inputs["q"] == TensorSpec((1, 2, 64, 32), np.dtype(np.float16))
    assert report.profiles == {}
    assert report.plan_bytes == len(plan) > 0
    graph = write_attention(tmp_path / "single.onnx", np.float32)
    _, report = build_plan(flavour, graph, BuildOptions(targets=("8.6",)))
    assert report.fused_attentions == 0
    with pytest.raises(EngineError, match=r"SM75.*FP32 GEMM is not supported.*precision fp16, or omit the target 7\.5"):
        build_plan(flavour, graph, BuildOptions(targets=("7.5",)))


def test_rtx_finds_weights_beside_the_graph_and_misses_them(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    graph = write_affine(tmp_path / "g.onnx", beside=True)
    options = BuildOptions(targets=("8.6",), profiles={"batch": AxisRange(1, 2, 8)})
    _, report = build_plan(find_flavour("tensorrt-rtx"), graph, options)
    assert report.weight_bytes is not None
    assert report.weight_bytes >= 48
    (tmp_path / "g.onnx.data").unlink()
    with pytest.raises(EngineError, match="weight file beside the graph is missing"):
        build_plan(find_flavour("tensorrt-rtx"), graph, options)


def test_rtx_with_too_small_a_workspace_says_so(bundle: Path) -> None:
    options = BuildOptions(targets=("8.6",), workspace_bytes=1 << 20)
    with pytest.raises(EngineError, match=r"workspace limit.*give more workspace"):
        build_plan(find_flavour("tensorrt-rtx"), bundle / "small.encoder.onnx", options)
