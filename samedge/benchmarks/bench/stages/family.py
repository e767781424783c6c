"""A family's side of ``samedge bench``, and the loader of samedge's own models for `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from samedge.benchmarks.bench.records import Family as Kind
from samedge.benchmarks.bench.records import MaskAgreement
from samedge.benchmarks.bench.stages.peer_protocol import PROTOCOL, Capabilities, OpenRequest
from samedge.bundle.archive import model_family
from samedge.bundle.manifest import Manifest
from samedge.errors import UsageError
from samedge.families import Family, families
from samedge.runtime.image.read import as_bgr
from samedge.types import ImageArray, Verdict
from samedge.version import __version__

if TYPE_CHECKING:
    from samedge.benchmarks.bench.stages.serve import LoadedModel


class PreparedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be measured.

    Attributes:
        family: Name of the family in the row.
        architecture: For example "sam_vit_b" or "yolov8n-seg".
        artefact: Path of the bundle or graph.
        image_size: Side of the input, px.
        size_bytes: Bytes of its files.
        parameters: None if unknown, like the operations.
        gflops: 1e9 operations of the encoder, or of the whole network, on one image.
        prompt_gflops: 1e9 operations of one prompt.
        precision: Precision of the encoder.
        seeded: The weights are random.
        verdict: Parity at the export.
        recorded: Agreement of masks measured at the export; None if it was not.
        checkpoint: Checkpoint to compare with in torch; empty for a bundle or graph.
        grid: Segment everything runs a grid of prompts.
        empty: Reasons for unknown figures, by column.
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
    """Stages of a family's models, and the facts that their rows show."""

    @property
    def grid(self) -> bool:
        """True if segment everything runs a grid of prompts, whose parameters can be set."""
        ...

    @property
    def agreement(self) -> str:
        """The "module:function" that compares a model with its checkpoint in torch; empty if there is none.

        It takes ``source``, ``artefact``, ``backend``, ``threads`` and ``device``, and returns a dictionary: ``worst``
        and, if known, ``mean`` of the masks' IoUs, and ``passed``.
        """
        ...

    @property
    def judged(self) -> str:
        """Description of the masks that it compares."""
        ...

    def kind(self, manifest: Manifest) -> str:
        """Return the name that a row gives the family of a model."""
        ...

    def recorded(self, manifest: Manifest) -> MaskAgreement | None:
        """Return the agreement of masks measured at the export; None if it was not."""
        ...

    def prepare_graph(self, path: Path) -> PreparedModel:
        """Describe a graph file without a bundle.

        Raises:
            SamedgeError: The file cannot be read, or the family needs a bundle.
        """
        ...

    def open(self, opening: OpenRequest, images: list[ImageArray]) -> LoadedModel:
        """Load a model, and return its stages.

        Raises:
            SamedgeError: The model cannot be loaded.
        """
        ...


class BundleBench:
    """Defaults of a `FamilyBench` without its stages, for families that run bundles only."""

    grid = False
    agreement = ""
    judged = ""
    probes = "probe images"
    """Description of the masks compared at the export."""

    def kind(self, manifest: Manifest) -> str:
        """Return the name of the family."""
        return manifest.model_family.name

    def recorded(self, manifest: Manifest) -> MaskAgreement | None:
        """Return the agreement in the manifest; None if parity was not checked."""
        parity = manifest.parity
        if parity.verdict == "unchecked":
            return None
        judged = f"{self.probes}, {parity.backend}, at the export"
        return MaskAgreement(parity.mask_iou_min, parity.mask_iou_mean, judged)

    def prepare_graph(self, path: Path) -> PreparedModel:
        """Refuse a graph file, which does not say what it is."""
        raise UsageError("this is one graph, and a bundle is needed", where=path, cure="Give the bundle it belongs to")


def bench_of(family: Family) -> FamilyBench:
    """Return the benchmark's class for a family."""
    return cast("FamilyBench", family.make(family.bench))


def grid_families() -> frozenset[str]:
    """Return the families whose segment everything runs a grid of prompts, which takes many times as long."""
    return frozenset(family.name for family in families() if bench_of(family).grid)


def hello() -> Capabilities:
    """Report that this package is available."""
    return Capabilities(PROTOCOL, "samedge", __version__)


def open_model(opening: OpenRequest) -> LoadedModel:
    """Load a bundle or a graph of samedge."""
    images = [as_bgr(path) for path in opening.images]
    return bench_of(model_family(opening.artefact)).open(opening, images)
