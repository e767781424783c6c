"""`samedge.load` on real graphs: what it opens, what it refuses, and that it needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Barrier
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.bundles import file_record, pack, write_any_bundle, write_small_bundle

import samedge
from samedge.api import load as loading
from samedge.api.load import load
from samedge.bundle.manifest import (
    MANIFEST_NAME,
    SPLIT_ROLES,
    GraphRole,
    Manifest,
    TensorRecord,
    encode_manifest,
    read_manifest,
)
from samedge.engines import registry
from samedge.engines.protocol import Engine
from samedge.errors import (
    BackendUnavailableError,
    BundleError,
    DeviceUnavailableError,
    EngineError,
    IntegrityError,
    ParityError,
)
from samedge.runtime.decoder.decoders import SPLIT_UP_TO_POINTS, SplitDecoder, SplitOutput
from samedge.types import FloatArray

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)

OPENING = (loading,)
"""Modules that open graphs."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "small-samedge")


def replace_graph(folder: Path, role: GraphRole, **changes: object) -> None:
    """Changes the manifest's record of a graph; the digest of its file is made to fit."""
    path = folder / MANIFEST_NAME
    manifest = read_manifest(path)
    graphs = []
    for record in manifest.graphs:
        new = record
        if record.role == role:
            data = (folder / record.graph.file).read_bytes()
            new = msgspec.structs.replace(record, graph=file_record(record.graph.file, data), **changes)
        graphs.append(new)
    path.write_bytes(encode_manifest(msgspec.structs.replace(manifest, graphs=tuple(graphs))))


def test_a_bundle_becomes_a_predictor(folder: Path) -> None:
    with load(folder) as predictor:
        assert (predictor.backend, predictor.device) == ("onnxruntime", "cpu")
        assert isinstance(predictor.info, Manifest)
        predictor.set_image(IMAGE)
        prediction = predictor.predict(points=[40, 30], boxes=[10, 10, 70, 50])
        assert prediction.masks.shape == (1, 60, 80)
    assert samedge.load is load


def test_one_file_gives_the_same_as_the_folder(folder: Path, tmp_path: Path) -> None:
    archive = pack(folder, tmp_path / "small.samedge")
    scores = []
    for path in (folder, archive, str(archive)):
        with load(path, "onnxruntime", "cpu", threads=1) as predictor:
            predictor.set_image(IMAGE)
            scores.append(predictor.predict(points=[40, 30]).scores)
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_a_failed_verdict_needs_force(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "failed-samedge", verdict="failed")
    with pytest.raises(ParityError):
        load(folder)
    load(folder, force=True).close()


def test_a_checkpoint_says_what_to_do() -> None:
    with pytest.raises(BundleError, match=r"samedge export sam_b\.pt, or use samedge\.SAM\('sam_b\.pt'\)"):
        load("sam_b.pt")


def test_an_unknown_backend_and_a_device_that_cannot_be_had_are_errors(folder: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"unknown backend 'abacus'"):
        load(folder, backend="abacus")
    with pytest.raises(DeviceUnavailableError, match=r"pip install onnxruntime-gpu"):
        load(folder, device="cuda")


def test_a_graph_that_is_cut_short_is_an_error(folder: Path) -> None:
    graph = next(folder.glob("*.decoder.onnx"))
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=r"small\.decoder\.onnx: this file has \d+ bytes"):
        load(folder)


def test_a_graph_that_is_cut_short_is_an_error_although_the_manifest_knows_it(folder: Path) -> None:
    graph = next(folder.glob("*.decoder.prompts.onnx"))
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
    replace_graph(folder, "decoder_prompts")
    with pytest.raises(EngineError, match=r"small\.decoder\.prompts\.onnx: onnxruntime .* cannot open this graph"):
        load(folder)


def test_files_that_are_no_graphs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"encoder\.onnx"):
        load(write_any_bundle(tmp_path / "any"))


def test_a_manifest_that_does_not_match_the_graph_is_an_error(folder: Path) -> None:
    record = read_manifest(folder / MANIFEST_NAME).graph("decoder_prompts")
    inputs = {**record.inputs, "point_labels": TensorRecord("int64", ("prompts", "points"))}
    replace_graph(folder, "decoder_prompts", inputs=inputs)
    with pytest.raises(IntegrityError, match=r"'point_labels' is int32\[prompts, points\] in the graph but int64"):
        load(folder)


def test_the_graphs_of_another_scheme_are_an_error(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(path.read_text().replace('"io": "native"', '"io": "meta"'))
    with pytest.raises(BundleError, match=r"I/O scheme 'meta'"):
        load(folder)


@pytest.mark.parametrize(
    ("broken", "device", "count"),
    [("encoder", None, 4), ("decoder_context", None, 2), ("encoder", "cpu", 4), ("decoder_masks", "cpu", 4)],
)
def test_what_was_opened_is_closed_when_the_rest_fails(
    folder: Path, broken: GraphRole, device: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Engine] = []

    def open_engine(*args: object, **kwargs: object) -> Engine:
        engine = registry.open_engine(*args, **kwargs)  # type: ignore[arg-type]
        opened.append(engine)
        return engine

    for module in OPENING:
        monkeypatch.setattr(module, "open_engine", open_engine)
    replace_graph(folder, broken, inputs={})
    with pytest.raises(IntegrityError):
        load(folder, "onnxruntime", device)
    assert len(opened) == count
    assert all(engine.closed for engine in opened)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_encoder_and_decoder_are_opened_at_the_same_time(
    folder: Path, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_there = Barrier(2, timeout=60)

    def open_engine(path: Path, **kwargs: Any) -> Engine:
        if path.name in ("small.encoder.onnx", "small.decoder.context.onnx"):
            both_there.wait()  # breaks where one is opened after the other
        return registry.open_engine(path, **kwargs)

    for module in OPENING:
        monkeypatch.setattr(module, "open_engine", open_engine)
    load(folder, "onnxruntime", device).close()
    assert not both_there.broken


def test_a_decoder_that_got_another_device_than_the_encoder_is_opened_again_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Engine] = []

    def open_engine(path: Path, *, device: str | None, **kwargs: Any) -> Engine:
        engine = registry.open_engine(path, device="cpu", **kwargs)
        if path.name != "small.encoder.onnx":
            opened.append(engine)
            if device is None:
                engine.device = "cuda:1"
        return engine

    for module in OPENING:
        monkeypatch.setattr(module, "open_engine", open_engine)
    with load(folder, "onnxruntime") as predictor:
        assert predictor.device == "cpu"
        assert [engine.closed for engine in opened] == [True] * 3 + [False] * 3


class TestWeightsBeside:
    """Their digest is compared while the graphs are opened: a loaded bundle is a whole one all the same."""

    @pytest.fixture
    def weights(self, folder: Path) -> Path:
        path = folder / "small.encoder.onnx"
        weights = folder / "small.encoder.onnx.data"
        onnx.save(onnx.load(path), path, save_as_external_data=True, location=weights.name, size_threshold=1024)
        replace_graph(folder, "encoder", external_data=(file_record(weights.name, weights.read_bytes()),))
        return weights

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
        opened: list[Engine] = []

        def open_engine(path: Path, **kwargs: Any) -> Engine:
            opened.append(registry.open_engine(path, **kwargs))
            return opened[-1]

        for module in OPENING:
            monkeypatch.setattr(module, "open_engine", open_engine)
        return opened

    def test_they_are_used(self, folder: Path, weights: Path, tmp_path: Path) -> None:
        answers = []
        for path in (folder, write_small_bundle(tmp_path / "whole-samedge")):
            with load(path, "onnxruntime", threads=1) as predictor:
                predictor.set_image(IMAGE)
                answers.append(predictor.predict(points=[40, 30]).scores)
        np.testing.assert_array_equal(answers[0], answers[1])
        assert weights.stat().st_size > 10_000

    def test_a_changed_bit_is_an_error_and_nothing_stays_open(
        self, folder: Path, weights: Path, opened: list[Engine]
    ) -> None:
        data = bytearray(weights.read_bytes())
        data[5000] ^= 1
        weights.write_bytes(data)
        with pytest.raises(IntegrityError, match=r"small\.encoder\.onnx\.data: .*SHA-256"):
            load(folder, "onnxruntime", "cpu")
        assert len(opened) == 4
        assert all(engine.closed for engine in opened)

    def test_weights_that_are_cut_short_are_never_opened(
        self, folder: Path, weights: Path, opened: list[Engine]
    ) -> None:
        weights.write_bytes(weights.read_bytes()[:-4])
        with pytest.raises(IntegrityError, match=r"small\.encoder\.onnx\.data: this file has"):
            load(folder, "onnxruntime", "cpu")
        assert not opened

    def test_a_damaged_file_says_more_than_an_engine_that_fails(
        self, folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def open_engine(path: Path, **_: Any) -> Engine:
            raise EngineError("cannot open this", where=path)

        for module in OPENING:
            monkeypatch.setattr(module, "open_engine", open_engine)
        with pytest.raises(EngineError, match="cannot open this"):
            load(folder, "onnxruntime", "cpu")
        weights.write_bytes(bytes(weights.stat().st_size))
        with pytest.raises(IntegrityError, match="SHA-256"):
            load(folder, "onnxruntime", "cpu")


class TestSplitDecoder:
    """A native bundle's decoder runs split; the whole graph is for what has very many points."""

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        opened: list[str] = []

        def open_engine(path: Path, **kwargs: Any) -> Engine:
            opened.append(path.name)
            return registry.open_engine(path, **kwargs)

        for module in OPENING:
            monkeypatch.setattr(module, "open_engine", open_engine)
        return opened

    def test_the_whole_graph_is_opened_for_many_points_only(self, folder: Path, opened: list[str]) -> None:
        split = [f"small.decoder.{name}.onnx" for name in ("context", "prompts", "masks")]
        random = np.random.default_rng(1)
        with load(folder, "onnxruntime", threads=1) as predictor:
            predictor.set_image(IMAGE)
            few = SPLIT_UP_TO_POINTS - 1  # one padding point is added
            predictor.predict(points=random.uniform(0, 50, (1, few, 2)))
            assert sorted(opened) == sorted(["small.encoder.onnx", *split])
            for _ in range(2):
                predictor.predict(points=random.uniform(0, 50, (1, few + 1, 2)))
            assert sorted(opened[:4]) == sorted(["small.encoder.onnx", *split])
            assert opened[4:] == ["small.decoder.onnx"]
            decoder = predictor._graphs.decoder
        assert isinstance(decoder, SplitDecoder)
        assert decoder.whole.engine.closed

    @pytest.mark.parametrize("masked", [False, True])
    def test_it_answers_as_the_whole_graph(self, folder: Path, tmp_path: Path, masked: bool) -> None:
        other = write_small_bundle(tmp_path / "whole-samedge")
        path = other / MANIFEST_NAME
        manifest = read_manifest(path)
        kept = tuple(graph for graph in manifest.graphs if graph.role not in SPLIT_ROLES)
        path.write_bytes(encode_manifest(msgspec.structs.replace(manifest, graphs=kept)))
        random = np.random.default_rng(2)
        points = random.uniform(0, 60, (19, 3, 2))
        masks = [random.normal(0, 4, (32, 32)).astype(np.float32) if i % 3 else None for i in range(19)]
        predictions = []
        for bundle in (folder, other):
            with load(bundle, threads=1) as predictor:
                predictor.set_image(IMAGE)
                predictions.append(predictor.predict(points=points, masks=masks if masked else None, multimask=True))
        split, whole = predictions
        assert np.ptp(whole.low_res_logits) > 1
        np.testing.assert_allclose(split.low_res_logits, whole.low_res_logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(split.scores, whole.scores, atol=1e-6)

    def test_masks_below_conf_are_never_drawn(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[int] = []
        draw = SplitOutput.draw

        def counted(self: SplitOutput, prompts: NDArray[np.intp]) -> FloatArray:
            drawn.append(len(prompts))
            return draw(self, prompts)

        monkeypatch.setattr(SplitOutput, "draw", counted)
        with load(folder, threads=1) as predictor:
            drawn.clear()  # loading draws a mask of nothing
            predictor.set_image(IMAGE)
            points = np.random.default_rng(3).uniform(0, 60, (12, 2))
            scores = predictor.predict(points).scores
            assert drawn == [12]
            kept = predictor.predict(points, conf=float(np.median(scores)))
            assert drawn == [12, 6]
            assert len(kept) == 6
            assert len(predictor.predict(points, conf=2.0)) == 0
            assert drawn == [12, 6]


def test_loading_and_predicting_needs_neither_torch_nor_onnx_nor_cv2(folder: Path) -> None:
    code = f"""
import sys, json
for name in ("torch", "onnx", "cv2"):
    sys.modules[name] = None
import numpy as np, samedge
predictor = samedge.load({str(folder)!r}, threads=1)
predictor.set_image(np.zeros((40, 60, 3), np.uint8))
prediction = predictor.predict(points=[[10, 10], [20, 20]], masks=np.zeros((2, 40, 60), bool))
print(json.dumps([prediction.masks.shape, predictor.device]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[2, 40, 60], "cpu"]
    assert done.stderr == ""
