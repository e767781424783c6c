"""The side of a family that ``samedge bench`` sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from samedge.benchmarks.bench.records import Family as Kind
from samedge.benchmarks.bench.records import MaskAgreement
from samedge.bundle.manifest import Manifest
from samedge.families import Family, families
from samedge.types import ImageArray, Verdict

if TYPE_CHECKING:
    from samedge.benchmarks.bench.stages.peer_protocol import OpenRequest
    from samedge.benchmarks.bench.stages.serve import LoadedModel


class PreparedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be measured.

    Attributes:
        family: As a row calls it.
        architecture: Such as "sam_vit_b" or "yolov8n-seg".
        artefact: Path of the bundle or graph.
        image_size: Side of the input, px.
        size_bytes: Bytes of its files.
        parameters: None where nothing tells them.
        gflops: Of the encoder, or the whole network, on one image.
        prompt_gflops: Of one prompt.
        precision: Of the encoder.
        seeded: The weights are random.
        verdict: Of the export.
        recorded: Agreement of masks as the export found it; None where it did not look.
        checkpoint: What to compare with in torch; empty for a bundle or graph.
        grid: Everything is segmented by a grid of prompts.
        empty: Why something is not known, by column.
    """

    family: Kind
    architecture: str
    artefact: str
    image_size: int
    size_bytes: int
    parameters: int | None = None
    gflops: float | None = None
    prompt_gflops: float | None = None
    precision: str = "fp32"
    seeded: bool = False
    verdict: Verdict = "unchecked"
    recorded: MaskAgreement | None = None
    checkpoint: str = ""
    grid: bool = False
    empty: dict[str, str] = {}


class FamilyBench(Protocol):
    """The benchmark's side of a family."""

    @property
    def grid(self) -> bool:
        """True if everything is segmented by a grid of prompts, whose parameters can be set."""
        ...

    @property
    def agreement(self) -> str:
        """The "module:function" that compares a model with its checkpoint in torch; empty where there is none.

        It takes ``source``, ``artefact``, ``backend``, ``threads`` and ``device``, and returns ``worst`` and, where it
        is known, ``mean`` of the IoUs of masks, and whether they ``passed``.
        """
        ...

    @property
    def judged(self) -> str:
        """The masks that it compares."""
        ...

    def kind(self, manifest: Manifest) -> str:
        """Return what a row calls the family of a model."""
        ...

    def recorded(self, manifest: Manifest) -> MaskAgreement | None:
        """Return the agreement of masks as the export found it; None where it did not look."""
        ...

    def prepare_graph(self, path: Path) -> PreparedModel:
        """Return what is known of a graph file without a bundle.

        Raises:
            SamedgeError: It cannot be read, or the family runs no such files.
        """
        ...

    def open(self, opening: OpenRequest, images: list[ImageArray]) -> LoadedModel:
        """Load a model, and return its stages.

        Args:
            opening: What was asked for.
            images: The images.

        Raises:
            SamedgeError: It cannot be loaded.
        """
        ...


def bench_of(family: Family) -> FamilyBench:
    """Import the benchmark's side of a family."""
    return cast("FamilyBench", family.make(family.bench))


def grid_families() -> frozenset[str]:
    """Return the names of the families whose "everything" is a grid of prompts, which takes many times as long."""
    return frozenset(family.name for family in families() if bench_of(family).grid)


def probed_agreement(manifest: Manifest, what: str) -> MaskAgreement | None:
    """Return the agreement of masks that the manifest has.

    Args:
        manifest: Of the bundle.
        what: Which masks were compared.
    """
    parity = manifest.parity
    if parity.verdict == "unchecked":
        return None
    return MaskAgreement(parity.mask_iou_min, parity.mask_iou_mean, f"{what}, {parity.backend}, at the export")
