"""The range of a model holds for every image that it reads, once."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from support.bundles import write_small_bundle
from support.yolo_models import bundle as yolo_bundle

import samedge
from samedge.api.sam import SAM
from samedge.api.sam_predictor import SAMPredictor
from samedge.api.yolo import YOLO
from samedge.cli.app import run
from samedge.errors import SamedgeWarning
from samedge.runtime.image.value_range import to_uint8


class TestWhereImagesAreRead:
    """The range of a model holds for every image that it reads, once."""

    VALUES = np.rint(np.linspace(0, 1000, 60 * 80)).astype(np.uint16).reshape(60, 80)

    def embedding(self, model: SAM, image: Any) -> Any:
        model.predict(image, points=[[40, 30]])
        return model.predictor.image_embedding

    @pytest.mark.parametrize("value_range", [(0, 2000), "full", "image"])
    def test_sam(self, value_range: Any, tmp_path: Path) -> None:
        bundle = write_small_bundle(tmp_path / "small-samedge")
        path = tmp_path / "image.png"
        assert cv2.imwrite(str(path), self.VALUES)
        eight = np.repeat(to_uint8(self.VALUES, value_range)[..., None], 3, axis=2)
        plain, ranged = SAM(bundle, backend="onnxruntime"), SAM(bundle, backend="onnxruntime", value_range=value_range)
        wanted = self.embedding(plain, eight)
        for image in (self.VALUES, path, Image.fromarray(self.VALUES)):
            np.testing.assert_array_equal(self.embedding(ranged, image), wanted)
        with samedge.load(bundle, "onnxruntime", value_range=value_range) as predictor:
            predictor.set_image(self.VALUES)
            np.testing.assert_array_equal(predictor.image_embedding, wanted)
            (item,) = predictor.stream([path], {"points": [40, 30]}, keep_images=True)
            np.testing.assert_array_equal(item.image, eight)
        other = SAMPredictor({"model": str(bundle), "backend": "onnxruntime"})
        other.model.value_range = value_range
        other.set_image(self.VALUES)
        np.testing.assert_array_equal(other.features, wanted)
        plain.close()
        ranged.close()

    def test_yolo(self) -> None:
        eight = np.repeat(to_uint8(self.VALUES, (0, 2000))[..., None], 3, axis=2)
        graph = yolo_bundle()
        found = [YOLO(graph, value_range=(0, 2000))(image, conf=0.01)[0] for image in (self.VALUES, eight)]
        assert found[0].boxes is not None and found[1].boxes is not None  # noqa: PT018
        np.testing.assert_array_equal(found[0].boxes.data, found[1].boxes.data)

    def test_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        bundle = write_small_bundle(tmp_path / "small-samedge")
        path = tmp_path / "image.png"
        assert cv2.imwrite(str(path), self.VALUES)
        call = ["predict", str(bundle), str(path), "--point", "40,30", "--backend", "onnxruntime"]
        with warnings.catch_warnings():
            warnings.simplefilter("always", SamedgeWarning)
            assert run([*call, "--value-range", "0,2000", "--json", str(tmp_path / "a.json")]) == 0
        assert run([*call, "--value-range", "2000,0"]) == 1
        assert "invalid value range '2000,0'. Give LOW,HIGH such as 0,4095" in capsys.readouterr().err
        done = subprocess.run(
            [sys.executable, "-m", "samedge", *call],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": ""},
        )
        (warning,) = [line for line in done.stderr.splitlines() if "warning" in line]
        assert warning.startswith("warning: an image of uint16 whose values end at or below 1023 was read as 10-bit")
        assert done.returncode == 0
