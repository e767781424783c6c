"""The rungs of a bundle: which there are, what is written on them, and what is remembered of them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx
import pytest
from onnx import TensorProto
from support.bundles import write_any_bundle, write_small_bundle

from samedge.bundle.archive import Bundle, open_bundle
from samedge.errors import UsageError
from samedge.export.engines.rungs import (
    RungKey,
    precision_rungs,
    remember_rungs,
    remembered_rungs,
    rung_graph,
    written_in,
)
from samedge.export.precision.half import HALF_RUNGS
from samedge.types import Precision

KEY = RungKey("c" * 64, "mask", "fp16", "tensorrt", "10.3.0.26", "Orin (nvgpu)", "8.7")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rungs"


def bundle_of(folder: Path, precision: Precision, variant: str = "mask") -> Bundle:
    """Returns a bundle whose encoder says that it is so."""
    opened = open_bundle(write_any_bundle(folder))
    graphs = tuple(
        msgspec.structs.replace(graph, precision=precision, variant=variant) if graph.role == "encoder" else graph
        for graph in opened.manifest.graphs
    )
    return replace(opened, manifest=msgspec.structs.replace(opened.manifest, graphs=graphs))


@pytest.mark.parametrize(
    ("exported", "asked", "precision", "rungs"),
    [
        ("fp32", None, "fp16", HALF_RUNGS),
        ("fp32", "fp16", "fp16", HALF_RUNGS),
        ("fp32", "fp32", "fp32", ("fp32",)),
        ("fp16", None, "fp16", ("fp16 as exported",)),
        ("int8", None, "int8", ("int8 as exported",)),
        ("int8", "int8", "int8", ("int8 as exported",)),
        ("fp8", None, "fp8", ("fp8 as exported",)),
    ],
)
def test_the_rungs_of_a_precision(
    tmp_path: Path, exported: Precision, asked: Precision | None, precision: Precision, rungs: tuple[str, ...]
) -> None:
    assert precision_rungs(bundle_of(tmp_path / "bundle", exported), asked) == (precision, tuple(rungs))


@pytest.mark.parametrize(
    ("exported", "variant", "asked", "message"),
    [
        ("fp32", "mask", "int8", "Export again with --precision int8 --calib IMAGES"),
        ("int8", "mask", "fp32", "the bundle's encoder is int8, not fp32. Export again without"),
        ("fp16", "mask", "fp32", "Export again without --precision"),
        ("int8", "chunked, int8 dynamic, every linear layer", None, "at run time, which TensorRT does not support"),
    ],
)
def test_what_the_graphs_do_not_give_is_refused(
    tmp_path: Path, exported: Precision, variant: str, asked: Precision | None, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        precision_rungs(bundle_of(tmp_path / "bundle", exported, variant), asked)
    assert message in str(caught.value)


def test_float16_is_written_into_a_file_that_goes_again(tmp_path: Path, cache: Path) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "bundle"))
    with rung_graph(bundle, "encoder", "fp16") as (path, weights):
        model = onnx.load(str(path))
        kinds = {tensor.data_type for tensor in model.graph.initializer}
        assert TensorProto.FLOAT16 in kinds
        ports = [*model.graph.input, *model.graph.output]
        assert {port.type.tensor_type.elem_type for port in ports} == {TensorProto.FLOAT}
        assert (path.parent.parent, weights) == (cache, ())
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("rung", ["fp32", "int8 as exported"])
def test_what_needs_no_writing_is_the_bundle_s_own_file(tmp_path: Path, rung: str) -> None:
    bundle = open_bundle(write_any_bundle(tmp_path / "bundle"))
    with rung_graph(bundle, "encoder", rung) as (path, weights):
        assert path == bundle.graph_path("encoder")
        assert weights == (bundle.folder / "encoder.data",)


def test_a_graph_that_is_float16_already_is_the_same_on_every_rung(tmp_path: Path) -> None:
    """An export may have found that one half takes float16 and the other does not."""
    bundle = bundle_of(tmp_path / "bundle", "fp16")
    for rung in HALF_RUNGS:
        assert (written_in(bundle, "encoder", rung), written_in(bundle, "decoder", rung)) == (
            "fp16", "fp32" if rung == "fp32" else "fp16",
        )  # fmt: skip
        with rung_graph(bundle, "encoder", rung) as (path, _weights):
            assert path == bundle.graph_path("encoder")


def test_what_a_killed_build_left_is_removed_after_a_day(tmp_path: Path, cache: Path) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "bundle"))
    old, new = cache / "rung-old", cache / "rung-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    day_before = time.time() - 90_000
    os.utime(old, (day_before, day_before))
    with rung_graph(bundle, "decoder", "fp16-norms"):
        assert not old.exists()
    assert [path.name for path in cache.iterdir()] == ["rung-new"]


def test_rungs_are_remembered_for_model_tensorrt_and_gpu() -> None:
    assert remembered_rungs(KEY) is None
    remember_rungs(KEY, ("fp16-norms", "fp32"), ["fp16: failed"])
    assert remembered_rungs(KEY) == ("fp16-norms", "fp32")
    others = (
        replace(KEY, checkpoint_sha256="d" * 64),
        replace(KEY, version="10.7.0.23"),
        replace(KEY, gpu="AGX Orin (nvgpu)"),
        replace(KEY, precision="int8"),
        replace(KEY, variant="concat"),
    )
    assert [remembered_rungs(other) for other in others] == [None] * len(others)
    remember_rungs(KEY, ("fp16", "fp16"), [])
    assert remembered_rungs(KEY) == ("fp16", "fp16")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": {}}'])
def test_a_damaged_memory_is_none(text: str) -> None:
    remember_rungs(KEY, ("fp16", "fp16"), [])
    KEY.path.write_text(text)
    assert remembered_rungs(KEY) is None
