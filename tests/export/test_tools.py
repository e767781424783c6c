"""What annotation tools need beside the graphs, and what they cannot take."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from support.traced_graphs import loaded

import samedge
from samedge.bundle.manifest import MANIFEST_NAME, read_manifest
from samedge.errors import SamedgeWarning
from samedge.export.exporter import export_model
from samedge.export.tools import CONFIG_NAME, tool_misfit
from samedge.types import IOScheme


@pytest.mark.parametrize(
    ("model", "io", "reason"),
    [
        ("seeded:sam_vit_tiny", "native", ""),
        ("seeded:sam_vit_tiny", "meta", ""),
        (
            "seeded:sam_vit_tiny",
            "samexporter",
            "an input of 1024 px, and this model's has 128 px; mask prompts of 256 px",
        ),
        ("seeded:sam_vit_tiny", "osam", "they have mask prompts of 256 px, and this model's have 32 px"),
        ("seeded:lite_medsam", "osam", "stretched to their own range"),
        ("seeded:mobile_sam", "osam", ""),
        ("seeded:mobile_sam", "samexporter", ""),
    ],
)
def test_models_that_tools_cannot_run(model: str, io: IOScheme, reason: str) -> None:
    misfit = tool_misfit(io, loaded(model))
    assert reason in misfit
    assert bool(reason) == bool(misfit)


def test_osam_is_the_native_encoder_under_another_name(tmp_path: Path) -> None:
    with pytest.warns(SamedgeWarning, match="osam and labelme will not run this"):
        folder = export_model("seeded:sam_vit_tiny", output=tmp_path / "osam", io="osam")
    manifest = read_manifest(folder / MANIFEST_NAME)
    assert (manifest.io, manifest.parity.verdict) == ("osam", "passed")
    encoder = onnx.load(folder / manifest.graph("encoder").graph.file).graph
    assert [value.name for value in encoder.input] == ["x"]
    assert len(encoder.output) == 1
    assert not (folder / CONFIG_NAME).exists()
    with samedge.load(folder) as predictor:
        predictor.set_image(Path(samedge.__file__).parent / "assets" / "coffee.jpg")
        assert len(predictor.predict(points=[100, 100]).masks) == 1


def test_anylabelings_configuration_names_the_graphs(tmp_path: Path) -> None:
    with pytest.warns(SamedgeWarning, match="AnyLabeling"):
        folder = export_model("seeded:sam_vit_tiny", output=tmp_path / "sx", io="samexporter", check=False)
    lines = dict(line.split(": ", 1) for line in (folder / CONFIG_NAME).read_text().splitlines())
    values = {name: json.loads(value) for name, value in lines.items()}
    assert values["type"] == "segment_anything"
    assert {(folder / values[f"{part}_model_path"]).is_file() for part in ("encoder", "decoder")} == {True}
    assert values["decoder_model_path"].endswith(".decoder.single.onnx")
