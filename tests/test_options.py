"""Records of options: each keyword has one place, and an unknown one is told with the nearest that is known."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

import samedge
from samedge import SAM, YOLO
from samedge.bundle.archive import bundle_manifest
from samedge.errors import UsageError
from samedge.export.yolo.export import export_yolo
from samedge.options import (
    AxisRange,
    EngineBuildOptions,
    EngineKeywords,
    ExportKeywords,
    ExportOptions,
    SamExportOptions,
    YoloExportOptions,
    changed_fields,
    unknown_keyword,
)

TINY = "seeded:sam_vit_tiny"
PARTS = {"sam": SamExportOptions, "yolo": YoloExportOptions, "engines": EngineBuildOptions}


def names(*records: type) -> list[str]:
    return [field.name for record in records for field in fields(record)]


def test_each_field_is_a_keyword_of_one_place() -> None:
    own = [name for name in names(ExportOptions) if name not in (*PARTS, "format")]
    everything = own + names(*PARTS.values())
    assert sorted(everything) == sorted(set(everything)) == sorted(inspect.get_annotations(ExportKeywords))
    assert sorted(names(EngineBuildOptions)) == sorted(inspect.get_annotations(EngineKeywords))


@pytest.mark.parametrize("record", [ExportOptions, *PARTS.values()])
def test_records_are_frozen_and_each_field_is_described(record: type) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(record(), fields(record)[0].name, None)
    described = (record.__doc__ or "").partition("Attributes:")[2]
    assert [name for name in names(record) if f" {name}: " not in described] == []


def test_keywords_reach_the_part_that_they_belong_to() -> None:
    options = ExportOptions().updated("trt", precision="fp16", form="concat", conf=0.5, prompts="1/4/8", batch=2)
    assert options == ExportOptions(
        format="trt",
        precision="fp16",
        sam=SamExportOptions(form="concat"),
        yolo=YoloExportOptions(conf=0.5),
        engines=EngineBuildOptions(prompts=AxisRange(1, 4, 8), batch=AxisRange(2, 2, 2)),
    )
    again = options.updated(conf=0.25, opset=18)
    assert again == replace(options, yolo=YoloExportOptions(), opset=18)
    assert changed_fields(options.engines) == ("prompts", "batch")
    assert changed_fields(EngineBuildOptions()) == ()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"format": "tflite"}, "--format: unknown format 'tflite'"),
        ({"precision": "fp4"}, "--precision: unknown precision 'fp4'"),
        ({"io": "onnx"}, "--io: unknown io 'onnx'"),
        ({"form": "flash"}, "--form: unknown form 'flash'"),
        ({"conf": 2.0}, "invalid conf 2.0"),
        ({"max_det": 0}, "invalid max_det 0"),
        ({"prompts": "4/1"}, "--prompts: invalid range '4/1'"),
        ({"height": "64/32/128"}, "invalid profile 64/32/128"),
    ],
)
def test_values_that_mean_nothing(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ExportOptions().updated(**keywords)
    assert message in str(caught.value)
    assert caught.value.cure


@pytest.mark.parametrize(
    "call",
    [
        lambda **given: samedge.export_model(TINY, **given),
        lambda **given: samedge.build_engines("a-samedge", **given),
        lambda **given: SAM(TINY).export(**given),
        lambda **given: YOLO("seeded:yolov8n").export(**given),
        lambda **given: export_yolo("seeded:yolov8n", **given),
        lambda **given: ExportOptions().updated(**given),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(call: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="argument 'optimisation_levle': did you mean 'optimisation_level'"):
        call(optimisation_levle=1)


def test_a_name_that_is_like_no_other() -> None:
    assert str(unknown_keyword("zzz", ["opset", "form"])).endswith("known: opset, form")


@pytest.mark.parametrize(
    ("function", "own", "defaults"),
    [
        (samedge.export_model, ExportKeywords, {"conf": 0.25, "io": "native", "dynamic": True, "precision": None}),
        (samedge.build_engines, EngineKeywords, {"prompts": AxisRange(1, 16, 64), "workspace": 0.5, "batch": None}),
        (SAM.export, ExportKeywords, {"check": True, "targets": ()}),
        (YOLO.export, ExportKeywords, {"dynamic": False, "batch": 1}),
    ],
)
def test_signatures_spell_the_keywords_out(function: Any, own: type, defaults: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters
    assert set(inspect.get_annotations(own)) <= set(parameters)
    assert {name: parameters[name].default for name in defaults} == defaults
    assert all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def test_a_record_serves_every_function_and_keywords_change_it(tmp_path: Path) -> None:
    options = ExportOptions(check=False, opset=18, output=tmp_path / "a", sam=SamExportOptions(io="meta"))
    manifest = bundle_manifest(samedge.export_model(TINY, options=options))
    assert (manifest.io, manifest.graph("encoder").opset, manifest.parity.verdict) == ("meta", 18, "unchecked")
    path = SAM(TINY).export(options=options, io="native", output=tmp_path / "b")
    assert (path, bundle_manifest(path).io) == (str(tmp_path / "b"), "native")
    sizes = ExportOptions(check=False, output=tmp_path / "a.onnx", image_size=64)
    graph = YOLO(YOLO("seeded:yolov8n").export(options=sizes)).predictor.graph
    assert (graph.image_size, graph.fixed_size) == ((64, 64), False)
    fixed = YOLO(YOLO("seeded:yolov8n").export(imgsz=64, output=tmp_path / "b.onnx", check=False)).predictor.graph
    assert fixed.fixed_size


def test_options_of_engines_are_for_engines(tmp_path: Path) -> None:
    options = ExportOptions(output=tmp_path / "a", engines=EngineBuildOptions(points=AxisRange(2, 2, 4)))
    with pytest.raises(UsageError, match=r"--points: this option is for engines. Add --format trt or rtx"):
        samedge.export_model(TINY, options=options)
    with pytest.raises(UsageError, match=r"points: not supported for an ONNX file"):
        YOLO("seeded:yolov8n").export(options=options)
    with pytest.raises(UsageError, match=r"invalid batch 1/2/4. Give one number of images"):
        YOLO("seeded:yolov8n").export(batch="1/2/4")
