"""A bundle judged without torch, by what the export kept in it: the same verdict as the export's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import write_small_bundle
from support.exported import exported_bundle

from samedge.bundle.archive import Bundle, open_bundle
from samedge.bundle.manifest import MANIFEST_NAME, GraphRole, encode_manifest, parse_manifest, read_manifest
from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.errors import BundleError, IntegrityError
from samedge.parity.compare import FP32_THRESHOLDS, HALF_THRESHOLDS, INT8_THRESHOLDS, thresholds_for
from samedge.parity.probes import probe_set
from samedge.parity.sam_verify import verify_engines
from samedge.parity.stored_reference import PROBES_NAME, StoredReference, probes_digest
from samedge.parity.verify import verify_bundle
from samedge.runtime.image.geometry import ImageGeometry
from samedge.testing.engine import fake_engine
from samedge.types import Array, Precision


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_bundle(tmp_path_factory.mktemp("exported") / "bundle")


def test_what_is_kept_is_small(bundle: Path) -> None:
    record = read_manifest(bundle / MANIFEST_NAME).probes
    assert record is not None
    assert record.file == PROBES_NAME
    assert record.size < 1_500_000


class Altered:
    """Encoder and decoder of a bundle, with outputs changed on the way."""

    def __init__(self, bundle: Bundle, **changes: Any) -> None:
        self.changes = changes
        self.engines: dict[GraphRole, Engine] = {role: self._open(bundle, role) for role in ("encoder", "decoder")}

    def _open(self, bundle: Bundle, role: GraphRole) -> Engine:
        real = open_engine(bundle.graph_path(role), backend="onnxruntime", device="cpu")

        def run(feeds: dict[str, Array]) -> dict[str, Array]:
            outputs = real.run(feeds)
            return {name: self.changes.get(name, lambda array: array)(array) for name, array in outputs.items()}

        return fake_engine(real.inputs, real.outputs, run)


def one_nan(array: Array) -> Array:
    changed = array.copy()
    changed.reshape(-1)[1] = np.nan  # beside the grid on which values are kept
    return changed


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "passed"),
        ({"image_embeddings": lambda array: array.astype(np.float16).astype(np.float32)}, "passed"),
        ({"low_res_masks": lambda array: np.roll(array, 16, axis=-1)}, "failed"),
        ({"image_embeddings": lambda array: array * 0}, "failed"),
        ({"iou_predictions": lambda array: array + np.float32(0.2)}, "failed"),
        ({"iou_predictions": one_nan}, "failed"),
        ({"low_res_masks": lambda array: np.full_like(array, np.nan)}, "failed"),
    ],
)
def test_engines_are_judged_by_the_masks_that_a_user_is_shown(
    bundle: Path, changes: dict[str, Any], verdict: str
) -> None:
    opened = open_bundle(bundle)
    record = verify_engines(opened, Altered(opened, **changes).engines, "fp16")
    assert (record.verdict, record.backend) == (verdict, "fake cpu")


def test_a_value_that_is_not_a_number_does_not_hide_between_those_that_are_kept(bundle: Path) -> None:
    opened = open_bundle(bundle)
    record = verify_engines(opened, Altered(opened, image_embeddings=one_nan).engines, "fp32")
    assert (record.verdict, record.embedding_error_max > 1e30) == ("failed", True)


def test_progress_counts_the_images(bundle: Path) -> None:
    steps: list[tuple[str, float]] = []
    verify_bundle(bundle, backend="onnxruntime", progress=lambda step, share: steps.append((step, share)))
    assert steps[-1] == ("Comparing with the checkpoint: image 5 of 5", 1.0)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", (FP32_THRESHOLDS, False)),
        ("fp16", (HALF_THRESHOLDS, True)),
        ("int8", (INT8_THRESHOLDS, True)),
        ("fp8", (INT8_THRESHOLDS, True)),
    ],
)
def test_a_precision_has_its_thresholds(precision: Precision, expected: tuple[object, bool]) -> None:
    assert thresholds_for(precision) == expected


def test_a_bundle_that_keeps_no_answers_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"has no stored reference .* Export the checkpoint again, without --no-check"
    ):
        verify_bundle(write_small_bundle(tmp_path / "bundle"))


def test_answers_to_other_probes_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "samedge.parity.stored_reference.probe_set", lambda size, grid, **order: probe_set(size, grid, **order)[::-1]
    )
    with pytest.raises(BundleError, match="was checked with other probe images"):
        StoredReference(open_bundle(bundle), ("decoder",))


def test_answers_that_were_changed_are_noticed_like_any_file(tmp_path: Path) -> None:
    bundle = exported_bundle(tmp_path / "bundle")
    with (bundle / PROBES_NAME).open("r+b") as file:
        file.write(b"x")
    with pytest.raises(IntegrityError, match=PROBES_NAME):
        open_bundle(bundle)
    with pytest.raises(BundleError, match="the stored reference is damaged"):
        StoredReference(open_bundle(bundle, verify=False), ("decoder",))


def test_manifests_from_before_there_were_answers_are_read(bundle: Path) -> None:
    values = json.loads(encode_manifest(read_manifest(bundle / MANIFEST_NAME)))
    del values["probes"]
    manifest = parse_manifest(json.dumps(values).encode(), "manifest.json")
    assert manifest.probes is None
    assert PROBES_NAME not in [file.file for file in manifest.files]


def test_a_last_digit_of_a_prompt_is_no_other_prompt() -> None:
    probes = probe_set(1024, 64)
    before = probes_digest(probes)
    probes[0].prompts[0].coords[0, 0] += np.float32(1e-4)
    assert probes_digest(probes) == before
    probes[0].prompts[0].coords[0, 0] += np.float32(1)
    assert probes_digest(probes) != before


def test_probes_are_resized_alike_by_every_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow 13 resizes the rows of tall images first, earlier versions the columns: both orders are tried here."""
    from PIL import Image

    whole = Image.Image.resize

    def rows_first(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
        return whole(whole(image, (image.width, size[1]), resample), size, resample)

    def columns_first(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
        return whole(whole(image, (size[0], image.height), resample), size, resample)

    seen = []
    for order in (rows_first, columns_first):
        monkeypatch.setattr(Image.Image, "resize", order)
        inputs = []
        for probe in probe_set(256, 16):
            height, width = probe.image.shape[:2]
            geometry = ImageGeometry.of(height, width, 256)
            inputs.append(geometry.resize(probe.pixels(geometry)))
        seen.append(inputs)
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, other)
