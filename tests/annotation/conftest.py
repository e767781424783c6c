"""A model that draws its prompts, and folders of pictures for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pictures import write_image

from samedge.api.sam import SAM
from samedge.testing.predictor import fake_predictor


@pytest.fixture
def sam() -> SAM:
    """Fills boxes, at 256 px: a cell of its masks is a pixel of images of 64 px."""
    model = SAM("fake")
    model._predictor = fake_predictor(image_size=256)
    return model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures: six here, four in two subfolders, of which two share their names with others."""
    root = tmp_path / "photos"
    for number in range(6):
        write_image(root / f"{number}.png", number)
    for seed, name in enumerate(("a/0.png", "a/x.png", "b/0.png", "b/y.png"), 6):
        write_image(root / name, seed)
    return root
