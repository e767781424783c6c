"""How a backend is chosen: by name, or the first that works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from samedge.engines import registry
from samedge.engines.protocol import Availability, EngineOptions
from samedge.engines.registry import BACKENDS, Backend, availability, backend_names, find_backend, open_engine
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError, UsageError
from samedge.testing.engine import FakeEngine
from samedge.types import TensorSpec

SPEC = {"x": TensorSpec(("n",), np.dtype(np.float32))}


class Working(FakeEngine):
    """A backend that opens anything on the CPU."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        super().__init__(SPEC, SPEC, dict)
        self.path = path
        self.options = options

    @staticmethod
    def probe() -> Availability:
        return Availability(True, "fine", devices=("cpu",))


class Absent(Working):
    """A backend that is not installed."""

    @staticmethod
    def probe() -> Availability:
        return Availability(False, "absent is not installed", "Install it with: pip install absent")


class NoDevice(Working):
    """A backend that has no device."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        raise DeviceUnavailableError("the device is on holiday", where=path, cure="Wait", device=options.device)


class CannotRead(Working):
    """A backend that does not like the graph."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        raise EngineError("no kernel", where=path, cure="Export again")


def line(name: str, kind: type[Working]) -> Backend:
    # importlib import mode gives this module a name of its own, by which the registry can import it again.
    return Backend(name, f"{__name__}:{kind.__name__}", extra=name, suffixes=(".onnx",))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"anything")
    return path


def table(monkeypatch: pytest.MonkeyPatch, *kinds: type[Working]) -> None:
    monkeypatch.setattr(registry, "BACKENDS", tuple(line(kind.__name__.lower(), kind) for kind in kinds))


def test_every_line_of_the_table_leads_to_a_backend() -> None:
    for backend in BACKENDS:
        factory = backend.factory()
        assert callable(factory)
        assert isinstance(factory.probe(), Availability)
        assert availability(backend.name) == factory.probe()
        assert backend.suffixes


def test_names_and_aliases_are_unique() -> None:
    names = [name for backend in BACKENDS for name in (backend.name, *backend.aliases)]
    assert len(names) == len(set(names))
    assert "auto" not in names


def test_a_backend_is_found_by_name_and_alias_in_either_case() -> None:
    assert find_backend("ONNXRuntime") is find_backend("ort")
    assert backend_names()[0] == BACKENDS[0].name


def test_an_unknown_backend_lists_what_there_is(graph: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"unknown backend 'abacus'.*auto, onnxruntime"):
        open_engine(graph, backend="abacus")
    with pytest.raises(BackendUnavailableError, match=r"unknown backend 'abacus'"):
        availability("abacus")


def test_auto_takes_the_first_that_works_and_says_which(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(monkeypatch, Absent, NoDevice, CannotRead, Working)
    engine = open_engine(graph, device="cpu", threads=3)
    assert engine.backend == "working"
    assert engine.name == "graph.onnx"
    raw = engine._raw
    assert isinstance(raw, Working)
    assert raw.options == EngineOptions(device="cpu", threads=3)


def test_a_named_backend_is_used_though_another_comes_first(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(monkeypatch, Working, CannotRead)
    with pytest.raises(EngineError, match=r"no kernel"):
        open_engine(graph, backend="cannotread")


def test_a_named_backend_that_is_absent_is_an_error(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(monkeypatch, Working, Absent)
    with pytest.raises(BackendUnavailableError, match=r"'absent' is unavailable: absent is not .*pip install"):
        open_engine(graph, backend="absent")


def test_auto_without_any_backend_says_what_to_install(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(monkeypatch, Absent)
    with pytest.raises(BackendUnavailableError, match=r"no installed backend.*pip install absent"):
        open_engine(graph)


def test_one_failure_is_raised_as_it_is(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(monkeypatch, Absent, NoDevice)
    with pytest.raises(DeviceUnavailableError, match=r"on holiday"):
        open_engine(graph, device="cuda")


def test_several_failures_are_all_told(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(monkeypatch, NoDevice, CannotRead)
    with pytest.raises(DeviceUnavailableError, match=r"nodevice: the device is on holiday; cannotread: no kernel"):
        open_engine(graph, device="cuda")


def test_a_missing_file_is_an_error_before_any_backend_is_asked(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"graph file not found"):
        open_engine(tmp_path / "nothing.onnx")
    with pytest.raises(EngineError, match=r"graph file not found"):
        open_engine(tmp_path)


def test_a_file_of_no_known_kind_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"x")
    with pytest.raises(EngineError, match=r"no backend opens \.tflite files.*\.onnx"):
        open_engine(path)


@pytest.mark.parametrize("threads", [0, -4])
def test_threads_below_one_are_refused(graph: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=rf"invalid number of threads: {threads}"):
        open_engine(graph, threads=threads)
