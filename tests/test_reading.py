"""How many files a reader opens who follows `samedge.load` and `Predictor.predict` through the package.

Counted are the files of the package of which a function runs between a call and its return, in whatever thread: on the
CPU with onnxruntime, for a bundle with a split decoder. Bodies of modules, which run when they are imported, are not.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

import numpy as np
import pytest
from support.bundles import write_small_bundle

import samedge
from samedge.runtime.predictor import Predictor

PACKAGE = Path(samedge.__file__).parent
R = TypeVar("R")


def opened_by(call: Callable[[], R]) -> tuple[R, set[str]]:
    """Returns the result of a call, and the files of the package of which functions ran."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            files.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        result = call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return result, {Path(file).relative_to(PACKAGE).as_posix() for file in files if Path(file).is_relative_to(PACKAGE)}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = write_small_bundle(tmp_path / "small-samedge")
    samedge.load(path, "onnxruntime", "cpu").close()  # what is imported and kept at the first use is not reading
    return path


@pytest.mark.parametrize(
    "prompts", [{"points": [[40, 30]]}, {"boxes": [10, 10, 70, 50]}, {"points": [40, 30], "boxes": [10, 10, 70, 50]}]
)
def test_at_most_ten_files_from_a_prompt_to_its_mask(bundle: Path, prompts: dict[str, list[int]]) -> None:
    with samedge.load(bundle, "onnxruntime", "cpu") as predictor:
        assert isinstance(predictor, Predictor)
        predictor.set_image(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
        masks, files = opened_by(lambda: predictor.predict(**prompts, multimask=True).masks)  # type: ignore[arg-type]
        _, refined = opened_by(lambda: predictor.predict(masks=masks[:1]).masks)
    assert masks.shape == (3, 60, 80)
    assert "runtime/decoder/decoders.py" in files
    assert len(files) <= 10, sorted(files)
    assert len(refined) <= 10, sorted(refined)


def test_at_most_fifteen_files_from_a_bundle_to_its_predictor(bundle: Path) -> None:
    predictor, files = opened_by(lambda: samedge.load(bundle, "onnxruntime", "cpu"))
    predictor.close()
    assert "bundle/archive.py" in files
    assert len(files) <= 15, sorted(files)


def test_choosing_the_backend_and_looking_for_engines_add_few(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, files = opened_by(lambda: samedge.load(bundle))
    predictor.close()
    assert len(files) <= 15, sorted(files)
    monkeypatch.setenv("SAMEDGE_AUTO", "1")
    samedge.load(bundle).close()  # measures, and keeps what it found
    predictor, files = opened_by(lambda: samedge.load(bundle))
    predictor.close()
    assert "engines/selection.py" in files
    assert len(files) <= 15, sorted(files)
