"""A file as people have it, written by the reference package, goes in; the reference's masks come out."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.reference import mobile_sam, reference_mobile_sam, reference_sam, segment_anything
from support.shared import environment

import samedge
from samedge.bundle.manifest import MANIFEST_NAME, read_manifest
from samedge.models.sam.seeded import seeded_config, seeded_state
from samedge.parity import probes

State = dict[str, torch.Tensor]


def plain(state: State, path: Path) -> None:
    torch.save(state, path)


def legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def wrapped(state: State, path: Path) -> None:
    torch.save({"model": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}, path)


def parallel(state: State, path: Path) -> None:
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)


def safe(state: State, path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


FORMATS: list[tuple[str, Callable[[State, Path], None]]] = [
    ("sam_vit_b_01ec64.pth", plain),
    ("sam_b.pt", plain),
    ("old.pth", legacy),
    ("fine_tune.pt", wrapped),
    ("distributed.pt", parallel),
    ("model.safetensors", safe),
]


def draw(height: int, width: int) -> Any:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, 128 + 60 * np.sin(x / 9)], -1)
    return (image + random.normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)


def check_against(predictor_class: Any, reference: Any, bundle: Path) -> None:
    """Compares the bundle, run without torch, with the reference's own predictor on a portrait image."""
    assert read_manifest(bundle / MANIFEST_NAME).parity.verdict == "passed"
    image = draw(211, 130)
    theirs = predictor_class(reference)
    theirs.set_image(image, image_format="BGR")
    points, labels, box = np.array([[60, 90], [20, 180]]), np.array([1, 0]), np.array([12, 30, 110, 190])
    with samedge.load(bundle) as predictor:
        predictor.set_image(image)
        for multimask in (False, True):
            for ours, want in (
                (predictor.predict(points=[points], labels=[labels], multimask=multimask), (points, labels, None)),
                (predictor.predict(boxes=box, multimask=multimask), (None, None, box)),
            ):
                masks, scores, _ = theirs.predict(*want, multimask_output=multimask)
                assert ours.masks.shape == masks.shape == (3 if multimask else 1, 211, 130)
                for a, b in zip(ours.masks, masks, strict=True):
                    assert (a & b).sum() >= 0.999 * (a | b).sum()
                np.testing.assert_allclose(ours.scores, scores, atol=1e-4)


@pytest.mark.parametrize(("name", "write"), FORMATS, ids=[f"{write.__name__}-{name}" for name, write in FORMATS])
def test_a_file_by_the_reference_package_exports_passes_and_segments(
    tmp_path: Path, name: str, write: Callable[[State, Path], None]
) -> None:
    reference = reference_sam(seeded_state("sam_vit_tiny", seed=7), seeded_config("sam_vit_tiny"))
    write(reference.state_dict(), tmp_path / name)
    bundle = samedge.export_model(tmp_path / name, output=tmp_path / "bundle")
    check_against(segment_anything().SamPredictor, reference, bundle)


def test_mobile_sam_by_its_reference_package_exports_passes_and_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PROBE_SIZES", probes.PROBE_SIZES[:1])  # one image of the five: it runs at 1024 px
    reference = reference_mobile_sam(seeded_state("mobile_sam", seed=7), seeded_config("mobile_sam"))
    torch.save(reference.state_dict(), tmp_path / "mobile_sam.pt")
    bundle = samedge.export_model(tmp_path / "mobile_sam.pt", output=tmp_path / "bundle")
    assert read_manifest(bundle / MANIFEST_NAME).model.name == "mobile_sam"
    check_against(mobile_sam().SamPredictor, reference, bundle)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("name", "gigabytes", "parameters"),
    [("sam_vit_tiny", 1, None), pytest.param("sam_vit_b", 4, 93_735_472, marks=pytest.mark.full_size)],
)
def test_an_export_needs_little_memory(tmp_path: Path, name: str, gigabytes: int, parameters: int | None) -> None:
    reference = reference_sam(seeded_state(name, seed=7), seeded_config(name))
    torch.save(reference.state_dict(), tmp_path / "sam_b.pt")
    script = f"""
        import re
        from pathlib import Path
        from samedge.parity import probes
        probes.PROBE_SIZES = probes.PROBE_SIZES[:1]  # one image of the five: the same peak in a fifth of the time
        import samedge
        samedge.export_model({str(tmp_path / "sam_b.pt")!r}, output={str(tmp_path / "bundle")!r})
        # Not ru_maxrss: that begins with the peak of the process which started this one.
        print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, env=environment()
    )
    assert int(done.stdout) * 1024 < gigabytes * 1e9
    manifest = read_manifest(tmp_path / "bundle" / MANIFEST_NAME)
    assert (manifest.model.name, manifest.parity.verdict) == (name, "passed")
    total = sum(parameter.numel() for parameter in reference.parameters())
    assert manifest.model.parameters == total == (parameters or total)
    check_against(segment_anything().SamPredictor, reference, tmp_path / "bundle")
