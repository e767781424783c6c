"""Files that samedge 0.1.0 wrote before its modules moved: bundles, an archive, engines in the store, and its masks.

The archive was written by that version from small seeded weights; ``answers.npz`` holds what it gave for `photo`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import samedge
from samedge.engines.tensorrt.store import builds
from samedge.engines.tensorrt.store.store import EngineStore
from samedge.types import Array

WRITTEN = Path(__file__).parent / "data" / "written-by-0.1.0.zip"
SAMS = ("sam.samedge", "sam-meta", "sam-engines")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    with zipfile.ZipFile(WRITTEN) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def answers(written: Path) -> dict[str, Array]:
    with np.load(written / "answers.npz") as arrays:
        return dict(arrays)


def photo() -> Array:
    slope = np.add.outer(np.arange(96), np.arange(120))[..., None]
    image: Array = np.clip(slope + np.array([0, 40, 80]), 0, 255).astype(np.uint8)
    return image


@pytest.mark.parametrize("name", SAMS)
def test_a_sam_gives_its_masks(written: Path, answers: dict[str, Array], name: str) -> None:
    key = "sam-meta" if name == "sam-meta" else "sam"  # sam-engines are the graphs of sam.samedge in another form
    with samedge.load(written / name, backend="onnxruntime", device="cpu") as predictor:
        predictor.set_image(photo())
        prediction = predictor.predict(points=[[60, 40]], labels=[1])
    shape = tuple(answers[f"{key}.shape"])
    wanted = np.unpackbits(answers[f"{key}.masks"], count=int(np.prod(shape))).reshape(shape) > 0
    assert wanted.any()
    assert not wanted.all()
    assert prediction.masks.shape == wanted.shape
    assert (prediction.masks != wanted).sum() <= 2  # pixels at the threshold: rounding differs between processors
    np.testing.assert_allclose(prediction.scores, answers[f"{key}.ious"], atol=1e-5)


@pytest.mark.parametrize("name", [*SAMS, "yolo"])
def test_it_verifies(written: Path, name: str) -> None:
    assert samedge.verify_bundle(written / name, backend="onnxruntime").verdict == "passed"


def test_a_yolo_gives_its_boxes(written: Path, answers: dict[str, Array]) -> None:
    (result,) = samedge.YOLO(str(written / "yolo"))(photo(), conf=0.02, retina_masks=True)
    assert result.boxes is not None
    np.testing.assert_allclose(result.boxes.data, answers["yolo.boxes"], atol=1e-2)


def test_engines_in_the_store_are_taken(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    if tensorrt_rtx.__version__ != "1.7.1.116":
        pytest.skip(f"the engines were built by TensorRT-RTX 1.7.1.116, and {tensorrt_rtx.__version__} is installed")
    monkeypatch.setenv("SAMEDGE_CACHE", str(written / "cache"))
    stored = {path.name: path.read_bytes() for path in (written / "cache" / "engines").glob("*.engine")}
    assert len(EngineStore(written / "cache" / "engines").entries()) == len(stored) == 2

    def no_build(*_: Any, **__: Any) -> None:
        raise AssertionError("an engine was built again")

    monkeypatch.setattr(builds, "build_in_child", no_build)
    built = samedge.build_engines(written / "sam-engines", flavour="rtx", targets=("8.6",))
    assert sorted(path.read_bytes() for path in built.plans.values()) == sorted(stored.values())
