"""Engine files before they are opened."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from samedge.engines.tensorrt.api import Flavour
from samedge.engines.tensorrt.plan_file import inspect_plan
from samedge.errors import EngineError, StorageError


def plan(magic: bytes = b"ftrt", version: tuple[int, ...] = (10, 3, 0, 30)) -> bytes:
    return magic + bytes(20) + bytes(version) + b"the rest"


def flavour(name: str, version: str) -> Flavour:
    return cast("Flavour", SimpleNamespace(name=name, version=version, __str__=None))


@pytest.mark.parametrize("header", [None, {"task": "segment", "imgsz": [640, 640], "names": {"0": "person"}}])
def test_raw_plans_and_those_with_ultralytics_header(tmp_path: Path, header: dict[str, object] | None) -> None:
    path = tmp_path / "model.engine"
    text = b"" if header is None else json.dumps(header).encode()
    path.write_bytes((len(text).to_bytes(4, "little") + text if text else b"") + plan())
    found = inspect_plan(path)
    assert found.metadata == (header or {})
    assert found.read() == plan()
    assert (found.flavour, found.version_text) == ("tensorrt", "10.3.0.30")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a TensorRT plan"),
        (b"\x08\x07:7\n\x10\n\x01x", "not a TensorRT plan"),
        (plan()[:20], "truncated"),
        (b"\x10\x00\x00\x00{not json at all", "header of this engine file is damaged"),
        (b"\x02\x00\x00\x00[]" + plan(), "not a TensorRT plan"),
        (b"\x02\x00\x00\x00{}", "not a TensorRT plan"),
        (b"\x02\x00\x00\x00{}" + plan()[:9], "truncated"),
    ],
)
def test_what_is_no_plan_is_refused_with_a_cure(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=message) as caught:
        inspect_plan(path)
    assert caught.value.cure
    assert str(caught.value).startswith("model.engine: ")


def test_a_missing_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        inspect_plan(tmp_path / "nothing.engine")


@pytest.mark.parametrize(
    ("magic", "version", "here", "compatible", "fits"),
    [
        (b"ftrt", (10, 3, 0, 30), flavour("tensorrt", "10.3.0.30"), False, True),
        (b"ftrt", (10, 3, 0, 30), flavour("tensorrt", "10.3.0"), False, True),
        (b"ftrt", (10, 3, 0, 30), flavour("tensorrt", "10.13.0.35"), False, False),
        (b"ftrt", (10, 3, 0, 30), flavour("tensorrt", "10.13.0.35"), True, True),
        (b"ftrt", (8, 6, 1, 6), flavour("tensorrt", "10.3.0.30"), True, False),
        (b"vtrt", (1, 7, 1, 116), flavour("tensorrt-rtx", "1.7.1.116"), False, True),
        (b"vtrt", (1, 7, 1, 1), flavour("tensorrt-rtx", "1.7.1.257"), False, True),
        (b"vtrt", (1, 7, 1, 116), flavour("tensorrt", "10.3.0.30"), False, False),
    ],
)
def test_a_plan_of_another_tensorrt_is_known_before_it_is_opened(
    tmp_path: Path, magic: bytes, version: tuple[int, ...], here: Flavour, compatible: bool, fits: bool
) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(plan(magic, version))
    reason = inspect_plan(path).mismatch(here, version_compatible=compatible)
    assert (reason is None) is fits


def test_a_plan_of_a_layout_that_is_not_known_is_as_good_as_its_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(b"ftrt" + b"\x01" + bytes(19) + bytes((7, 7, 7, 7)) + b"the rest")
    found = inspect_plan(path)
    assert (found.version, found.version_text) == (None, "(version unknown)")
    here = flavour("tensorrt", "12.0.0.1")
    assert found.mismatch(here, keyed=True) is None
    assert "its layout is unknown" in str(found.mismatch(here))
