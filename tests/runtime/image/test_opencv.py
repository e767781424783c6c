"""An OpenCV that cannot be imported is said in one line, with the command that mends it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from samedge.errors import MissingExtraError
from samedge.runtime.image import read as module
from samedge.runtime.image.read import read_image


@pytest.mark.parametrize(
    ("cause", "wheels", "said"),
    [
        (
            "libGL.so.1: cannot open shared object file", ("opencv-python",),
            "libGL.so.1.*pip uninstall -y opencv-python && pip install opencv-python-headless",
        ),
        (
            "cannot import name", ("opencv-python", "opencv-python-headless"),
            "opencv-python and opencv-python-headless are installed together and overwrite each other.*"
            "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless",
        ),
        ("No module named 'cv2'", (), "No module named 'cv2'. Run: pip install opencv-python-headless"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_what_mends_it(
    cause: str, wheels: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.zeros((4, 5, 3), np.uint8))

    def refuse(name: str) -> Any:
        raise ImportError(f"{cause}\nand more lines")

    monkeypatch.setattr(module, "import_module", refuse)
    monkeypatch.setattr(module, "installed", lambda wheel: wheel in wheels)
    with pytest.raises(MissingExtraError, match=said) as caught:
        read_image(path)
    assert "more lines" not in str(caught.value)


def test_no_module_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match="OpenCV cannot be imported"):
        module.opencv()
