"""Profiles: shares, speeds and roofs by hand, and whole profiles of small graphs on the backends that are here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from support.bundles import write_small_bundle
from support.onnx_graphs import write_onnx, zeros

from samedge.benchmarks.profile import profile_model as module
from samedge.benchmarks.profile.graph_work import GraphWork
from samedge.benchmarks.profile.onnx_work import read_graph_work
from samedge.benchmarks.profile.peaks import COPIED, SIDES, Peaks, measure_peaks
from samedge.benchmarks.profile.plot import plot_profile
from samedge.benchmarks.profile.profile import Profile, kind_rows, layer_rows
from samedge.benchmarks.profile.profile_model import ProfileOptions, profile_model
from samedge.engines.layer_times import LayerProfile, LayerTime
from samedge.errors import BundleError, EngineError, MissingExtraError, UsageError

ROOF = Peaks({"fp32": 100.0, "int8": 400.0}, 10.0, "by hand")


def measured(*layers: LayerTime) -> LayerProfile:
    return LayerProfile("onnxruntime", "cpu", {"threads": "1"}, layers, 3.0, 5, {"x": (100, 200)})


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A large product, a small one, an activation."""
    return write_onnx(
        tmp_path / "two.onnx",
        [("MatMul", ["x", "a"], ["y"]), ("Relu", ["y"], ["r"]), ("MatMul", ["r", "b"], ["z"])],
        {"x": ["rows", 200]},
        ["z"],
        {"a": zeros(200, 300), "b": zeros(300, 10)},
    )


@pytest.fixture
def work(graph: Path) -> GraphWork:
    return read_graph_work(graph, {"x": (100, 200)})


class TestRows:
    def test_speeds_and_roofs(self, work: GraphWork) -> None:
        big, copy, small, relu = layer_rows(
            measured(
                LayerTime("/MatMul_y", "MatMul", 0.4, sources=("/MatMul_y",)),
                LayerTime("reorder", "Reorder", 0.1, nbytes=500_000),
                LayerTime("/MatMul_z", "MatMul", 0.3, kernel="brgemm_avx512_i8", sources=("/MatMul_z",)),
                LayerTime("/Relu_r", "Relu", 0.2, sources=("/Relu_r",)),
            ),
            work,
            ROOF,
        )
        assert (big.kind, copy.kind, small.kind, relu.kind) == ("linear", "copies", "linear", "activation")
        assert sum(row.share for row in (big, copy, small, relu)) == pytest.approx(1)
        assert big.gflop == pytest.approx(2 * 100 * 200 * 300 / 1e9)
        assert big.gflops == pytest.approx(30.0)
        assert big.megabytes == pytest.approx(4 * (100 * 200 + 200 * 300 + 100 * 300) / 1e6)
        assert big.intensity == pytest.approx(12e6 / 440e3)
        assert big.reached == pytest.approx(0.3), "of 100, as its intensity is above the ridge at 10"
        # 0.6 MFLOP over 136 kB: memory allows 10 GB/s x 4.41 = 44.1 GFLOP/s, and the kernel computes in int8.
        assert (small.precision, big.precision) == ("int8", "fp32")
        assert small.reached == pytest.approx(2.0 / (10 * 6e5 / 136e3))
        assert copy.gigabytes == pytest.approx(5.0)
        assert copy.reached == pytest.approx(0.5)
        assert copy.nodes == ()
        assert relu.reached == pytest.approx(2 * 100 * 300 * 4 / 0.2e-3 / 1e9 / 10)

    def test_kinds(self, work: GraphWork) -> None:
        layers = layer_rows(
            measured(
                LayerTime("/MatMul_y", "MatMul", 0.4, sources=("/MatMul_y",)),
                LayerTime("/MatMul_z", "MatMul", 0.1, sources=("/MatMul_z",)),
                LayerTime("/Relu_r", "Relu", 0.75, sources=("/Relu_r",)),
            ),
            work,
            ROOF,
        )
        activation, linear = kind_rows(layers)
        assert (activation.kind, activation.layers) == ("activation", 1)
        assert (linear.kind, linear.layers) == ("linear", 2)
        assert (activation.share, linear.share) == pytest.approx((0.6, 0.4))
        assert linear.gflop == pytest.approx(12.6e-3)
        assert linear.gflops == pytest.approx(12.6e-3 / 0.5e-3)
        assert linear.reached == pytest.approx((0.4 * layers[0].reached + 0.1 * layers[1].reached) / 0.5)  # type: ignore[operator]

    def test_without_a_graph_and_without_a_roof(self) -> None:
        (row,) = layer_rows(measured(LayerTime("a", "CaskConvolution", 0.0)), None, None)
        assert (row.kind, row.gflop, row.megabytes, row.gigabytes, row.reached) == ("convolution", 0, None, None, None)
        assert row.intensity is None
        assert kind_rows([row])[0].reached is None
        assert kind_rows([]) == ()

    def test_a_precision_that_nobody_measured_has_no_roof(self, work: GraphWork) -> None:
        layer = LayerTime("/MatMul_y", "MatMul", 0.4, kernel="gemm_bf16", sources=("/MatMul_y",))
        (row,) = layer_rows(measured(layer), work, ROOF)
        assert (row.precision, row.reached) == ("bf16", None)

    def test_the_roof(self) -> None:
        assert ROOF.attainable("fp32", 1.0) == 10
        assert ROOF.attainable("fp32", 10.0) == 100
        assert ROOF.attainable("fp32", None) == 100
        assert ROOF.attainable("int8", 20.0) == 200
        assert ROOF.attainable("fp16", 20.0) is None


class TestPeaks:
    def test_the_best_run_of_the_best_size_counts(self) -> None:
        seen: dict[str, onnx.ModelProto] = {}
        # Milliseconds of the graphs, as they come: products of 256, 512, 1024, the copy.
        best = iter([1.0, 2.0, 100.0, 50.0])

        def run(path: Path) -> LayerProfile:
            seen[path.stem] = onnx.load(str(path))
            onnx.checker.check_model(seen[path.stem], full_check=True)
            return measured(
                LayerTime("feed", "Reorder", 0.1, best=0.1), LayerTime("a", "MatMul", 500.0, best=next(best))
            )

        peaks = measure_peaks({"fp32"}, backend="onnxruntime", run=run)
        assert peaks.gflops == {"fp32": pytest.approx(2 * 512**3 / 2e6)}
        assert peaks.gigabytes == pytest.approx(2 * 4 * COPIED / 50e6)
        assert list(seen) == [*(f"product-fp32-{side}" for side in SIDES), "copy"]

    @pytest.mark.parametrize("dynamic", [True, False])
    def test_every_precision_has_a_product_of_its_own(self, dynamic: bool) -> None:
        operators: dict[str, list[str]] = {}

        def run(path: Path) -> LayerProfile:
            operators[path.stem] = [node.op_type for node in onnx.load(str(path)).graph.node]
            return measured(LayerTime("a", "MatMul", 1.0))

        peaks = measure_peaks({"int8", "fp16"}, backend="onnxruntime", dynamic=dynamic, run=run)
        assert peaks.gflops.keys() == {"fp32", "fp16", "int8"}
        assert operators["product-fp16-512"] == ["MatMul"]
        assert ("DynamicQuantizeMatMul" in operators["product-int8-512"]) == dynamic
        assert ("DequantizeLinear" in operators["product-int8-512"]) != dynamic

    def test_nothing_ran(self) -> None:
        """A backend that tells no layers: the run counts."""
        peaks = measure_peaks(set(), backend="onnxruntime", run=lambda _: measured())
        assert peaks.gflops["fp32"] == pytest.approx(2 * 1024**3 / 3e6)


def whole(path: Path, **options: Any) -> Profile:
    return profile_model(str(path), ProfileOptions(threads=1, runs=1, **options))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
class TestWholeProfiles:
    def test_an_encoder(self, tmp_path: Path, backend: str) -> None:
        pytest.importorskip(backend)
        found = whole(write_small_bundle(tmp_path / "bundle"), backend=backend, peaks=False)
        assert (found.backend, found.device, found.graph) == (backend, "cpu", "encoder")
        assert found.gflop == pytest.approx(sum(layer.gflop for layer in found.layers), rel=1e-6)
        assert found.attributed == pytest.approx(1, abs=1e-6), "every product is found in some layer"
        assert sum(layer.share for layer in found.layers) == pytest.approx(1)
        assert sum(kind.share for kind in found.kinds) == pytest.approx(1)
        assert sum(kind.layers for kind in found.kinds) == len(found.layers)
        kinds = {kind.kind: kind for kind in found.kinds}
        assert kinds.keys() >= {"attention", "linear", "convolution", "normalisation", "copies"}
        assert all(kinds[kind].gflop > 0 for kind in ("attention", "linear", "convolution"))
        assert found.peaks is None
        assert {"cpu", "date"} & found.facts.keys()
        assert [layer.ms for layer in found.top(3)] == sorted((layer.ms for layer in found.layers), reverse=True)[:3]
        assert msgspec.json.decode(msgspec.json.encode(found), type=Profile) == found

    @pytest.mark.parametrize("role", ["decoder", "decoder_prompts", "decoder_masks", "decoder_context"])
    def test_decoders(self, tmp_path: Path, backend: str, role: str) -> None:
        pytest.importorskip(backend)
        bundle = write_small_bundle(tmp_path / "bundle")
        found = whole(bundle, backend=backend, graph=role, sizes={"prompts": 3, "points": 2}, peaks=False)
        assert found.attributed is not None
        assert found.attributed > 0.97
        assert sum(layer.share for layer in found.layers) == pytest.approx(1)
        assert found.expected_gflop is None, "the manifest tells of one prompt"

    def test_int8(self, tmp_path: Path, backend: str) -> None:
        pytest.importorskip(backend)
        rng = np.random.default_rng(0)
        weights: dict[str, Any] = {
            "w": rng.integers(-127, 128, (64, 64)).astype(np.int8),
            "s": np.float32(0.02),
            "z": np.int8(0),
            "v": rng.standard_normal((64, 64), np.float32),
        }
        if backend == "onnxruntime":
            product = [("com.microsoft:DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"])]
        else:
            product = [
                ("QuantizeLinear", ["x", "s", "z"], ["q"]),
                ("DequantizeLinear", ["q", "s", "z"], ["dx"]),
                ("DequantizeLinear", ["w", "s", "z"], ["dw"]),
                ("MatMul", ["dx", "dw"], ["y"]),
            ]
        path = write_onnx(
            tmp_path / "a.onnx", [*product, ("MatMul", ["y", "v"], ["out"])], {"x": [256, 64]}, ["out"], weights
        )
        found = whole(path, backend=backend, peaks=False)
        flops = 2 * 256 * 64 * 64 / 1e9
        assert found.gflop == pytest.approx(2 * flops)
        assert found.attributed == pytest.approx(1)
        products = [layer for layer in found.layers if layer.gflop]
        assert [layer.kind for layer in products] == ["linear", "linear"]
        assert [layer.precision for layer in products] == ["int8", "fp32"]
        assert [layer.gflop for layer in products] == pytest.approx([flops, flops])

    def test_the_roof(self, graph: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip(backend)
        found = whole(graph, backend=backend, sizes={"rows": 64})
        assert found.peaks is not None
        assert found.peaks.gflops.keys() == {"fp32"}
        assert found.peaks.gflops["fp32"] > 0.01
        assert found.peaks.gigabytes > 0.01
        assert all(layer.reached is not None for layer in found.layers if layer.gflop)

        def refuse(*_: object, **__: object) -> Peaks:
            raise EngineError("no room")

        monkeypatch.setattr(module, "measure_peaks", refuse)
        without = whole(graph, backend=backend)
        assert without.peaks is None
        assert any("no room" in note for note in without.notes)


class TestModels:
    def test_the_manifest_agrees(self, tmp_path: Path) -> None:
        """The record of a manifest is scaled to the images, and left out where it tells of other work."""
        bundle = write_small_bundle(tmp_path / "bundle")
        assert whole(bundle, peaks=False, backend="onnxruntime").expected_gflop == 0.0  # this record was never counted
        prompts = {"prompts": 1, "points": 2}
        assert whole(bundle, graph="decoder", sizes=prompts, peaks=False, backend="onnxruntime").expected_gflop == 0.0

    def test_graph_files(self, graph: Path) -> None:
        found = whole(graph, peaks=False)
        assert (found.graph, found.backend) == ("two.onnx", "onnxruntime")
        assert found.expected_gflop is None
        assert found.gflops == pytest.approx((found.gflop or 0) / found.run_ms * 1e3)

    def test_openvino_s_own_format(self, graph: Path, tmp_path: Path) -> None:
        openvino = pytest.importorskip("openvino")
        openvino.save_model(openvino.convert_model(str(graph)), str(tmp_path / "two.xml"), compress_to_fp16=False)
        found = whole(tmp_path / "two.xml", peaks=False)
        assert (found.backend, found.gflop, found.attributed) == ("openvino", None, None)
        assert any("--source" in note for note in found.notes)
        counted = whole(tmp_path / "two.xml", peaks=False, source=graph)
        assert counted.gflop == pytest.approx(2 * (200 * 300 + 300 * 10) / 1e9)
        assert counted.attributed == pytest.approx(1)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        bundle = write_small_bundle(tmp_path / "bundle")
        with pytest.raises(UsageError, match="unknown graph 'head'"):
            whole(bundle, graph="head")
        with pytest.raises(BundleError, match="has no yolo graph"):
            whole(bundle, graph="yolo")
        with pytest.raises(EngineError):
            whole(tmp_path / "none.onnx")
        with pytest.raises(UsageError, match=r"tensorrt opens only \.engine and \.plan files"):
            whole(bundle, backend="trt")

    def test_times_of_the_host_are_called_that(self, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = LayerProfile("onnxruntime", "cuda:0", {}, (LayerTime("a", "MatMul", 1.0),), 3.0, 1, {"x": (4, 200)})
        monkeypatch.setattr(module, "profile_layers", lambda *_, **__: found)
        assert any("on the host" in note for note in whole(graph, peaks=False, backend="onnxruntime").notes)

    def test_checkpoints_become_bundles(self, tmp_path: Path) -> None:
        bundle = write_small_bundle(tmp_path / "bundle")
        options = ProfileOptions(runs=1, threads=1, peaks=False, backend="onnxruntime")
        found = profile_model("sam_x.pt", options, resolve=lambda name: str(bundle) if name == "sam_x.pt" else "")
        assert found.model == "sam_x.pt"
        assert found.layers


class TestPlot:
    @pytest.fixture
    def profile(self, work: GraphWork, graph: Path) -> Profile:
        layers = layer_rows(
            measured(
                LayerTime("/MatMul_y", "MatMul", 0.4, sources=("/MatMul_y",)),
                LayerTime("/Relu_r", "Relu", 0.5, sources=("/Relu_r",)),
            ),
            work,
            ROOF,
        )
        plain = whole(graph, peaks=False)
        return msgspec.structs.replace(plain, layers=layers, kinds=kind_rows(layers), peaks=ROOF)

    def test_a_picture(self, profile: Profile, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        plot_profile(profile, tmp_path / "deep" / "a.png")
        assert (tmp_path / "deep" / "a.png").read_bytes().startswith(b"\x89PNG")
        plot_profile(profile, tmp_path / "a.svg")
        assert "<svg" in (tmp_path / "a.svg").read_text()

    def test_without_roof_and_products(self, profile: Profile, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        plot_profile(msgspec.structs.replace(profile, peaks=None), tmp_path / "a.png")
        plot_profile(msgspec.structs.replace(profile, layers=profile.layers[1:]), tmp_path / "b.png")
        plot_profile(msgspec.structs.replace(profile, layers=(), kinds=()), tmp_path / "c.png")
        assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in "abc")

    def test_without_matplotlib(self, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
        with pytest.raises(MissingExtraError, match=r"samedge\[bench\]"):
            plot_profile(profile, tmp_path / "a.png")
