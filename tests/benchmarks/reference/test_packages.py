"""The reference packages where they are missing, and built from a source."""

from __future__ import annotations

import pytest

from samedge.benchmarks.reference import packages as references
from samedge.errors import MissingExtraError, UsageError


def test_a_package_that_is_missing_is_a_sentence_with_the_cure() -> None:
    with pytest.raises(MissingExtraError) as caught:
        references.quiet_import("no_such_package")
    assert str(caught.value) == (
        "Measuring against no_such_package needs the package 'no_such_package', which is not installed. "
        "Install it with: pip install 'samedge[bench]'"
    )


def test_what_a_package_needs_and_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_torchvision() -> None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    monkeypatch.setattr(references, "torchvision", no_torchvision)
    with pytest.raises(MissingExtraError, match="Measuring against mobile_sam needs the package 'torchvision'"):
        references.quiet_import("mobile_sam")


@pytest.mark.parametrize(("source", "size"), [("seeded:sam_vit_tiny", 128), ("sam_demo", 512)])
def test_a_reference_is_built_for_the_sizes_of_its_source(source: str, size: int) -> None:
    sam, config = references.reference_of(source)
    assert sam.image_encoder.img_size == config.encoder.image_size == size
    assert not sam.training
    assert references.reference_package(config).package().__name__ == "segment_anything"


def test_random_weights_that_nobody_knows() -> None:
    with pytest.raises(UsageError, match="no seeded weights"):
        references.reference_of("seeded:nothing")
