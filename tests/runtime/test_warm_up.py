"""A decoder that was loaded has met the shapes of a click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import samedge
from samedge.engines.protocol import Engine
from samedge.runtime.decoder.decoders import first_click
from samedge.testing.predictor import fake_predictor


def test_each_graph_of_the_decoder_ran_with_the_shapes_of_the_first_click(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[str, dict[str, tuple[int, ...]]]] = []
    run = Engine.run

    def recorded(engine: Engine, feeds: Any, *more: Any) -> Any:
        runs.append((engine.name, {name: array.shape for name, array in feeds.items()}))
        return run(engine, feeds, *more)

    monkeypatch.setattr(Engine, "run", recorded)
    bundle = samedge.export_model("seeded:sam_vit_tiny", output=tmp_path / "bundle", check=False)
    runs.clear()
    with samedge.load(bundle, backend="onnxruntime", device="cpu", threads=1, force=True) as predictor:
        at_load = list(runs)
        runs.clear()
        predictor.set_image(np.zeros((64, 64, 3), np.uint8))
        predictor.predict(points=[10, 10])
    assert len(at_load) == 3
    assert runs[1:] == at_load


def test_whole_decoders_too() -> None:
    first_click(fake_predictor(image_size=64)._graphs.decoder)
