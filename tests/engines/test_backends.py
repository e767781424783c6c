"""The backends at a glance."""

from __future__ import annotations

import pytest
from support.timed_backends import Clock, TimedBackend, install

import samedge
from samedge.engines.registry import BackendReport, backend_names, backends


def test_all_backends_in_the_order_of_the_table() -> None:
    assert samedge.backends is backends
    found = backends()
    assert tuple(one.name for one in found) == backend_names()
    for one in found:
        assert one.reason
        assert one.available == (one.cure is None)
        assert one.available == bool(one.devices)
    assert found[0].available
    assert found[0].version is not None


def test_why_not_and_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    here = TimedBackend("here", Clock(), {"gpu": [1], "cpu": [1]})
    install(monkeypatch, here, TimedBackend("absent", Clock(), {}, version=None))
    assert backends() == (
        BackendReport("here", (), (".onnx",), True, "1.0", ("gpu", "cpu"), "here 1.0", None),
        BackendReport(
            "absent",
            (),
            (".onnx",),
            False,
            None,
            (),
            "absent is not installed",
            "Install it with: pip install 'samedge[absent]'",
        ),
    )
    assert here.opened == []
