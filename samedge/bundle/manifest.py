"""The manifest of a bundle, `manifest.json`, as typed records. Written last when a bundle is made, read first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

import msgspec

from samedge.bundle.dialects import DIALECTS
from samedge.bundle.ranges import Count, Deviation, Level, Side
from samedge.bundle.yolo_record import YoloRecord
from samedge.errors import BundleError
from samedge.families import DEFAULT, Family, families, find_family
from samedge.storage.files import storage_errors
from samedge.types import Precision, Verdict

MANIFEST_NAME: Final = "manifest.json"
SCHEMA_VERSION: Final = 1

GraphRole: TypeAlias = str
"""Role of a graph in its bundle; each family has its own, see `samedge.families`. A SAM's ``decoder`` is whole, from
prompts to masks; `SPLIT_ROLES` are the same decoder in three parts."""
SPLIT_ROLES: Final[tuple[GraphRole, ...]] = ("decoder_context", "decoder_prompts", "decoder_masks")

DEFAULT_VARIANT: Final = "default"
"""Variant of graphs that exist in one form."""


MOST_BYTES: Final = 1 << 24
"""Of a manifest; its probes and graphs make some ten kilobytes."""


class TensorRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a graph: numpy dtype name, and a size or an axis name for each axis."""

    dtype: str
    shape: tuple[int | str, ...]


ANY_SHAPE: Final = ("*",)
"""Of a tensor whose number of axes a graph of another tool does not tell."""


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle: path relative to the manifest, SHA-256 in hex, size in bytes."""

    file: str
    sha256: str
    size: Count


class GraphRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graph: its role, files, inputs and outputs, and how it was made."""

    role: GraphRole
    graph: FileRecord
    precision: Precision
    opset: int
    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]
    nodes: Count
    variant: str = DEFAULT_VARIANT
    external_data: tuple[FileRecord, ...] = ()

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file that this graph needs."""
        return (self.graph, *self.external_data)


class ModelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The exported model.

    Attributes:
        name: Architecture: "sam_vit_b", "sam_vit_l", "sam_vit_h", "mobile_sam", or "sam_vit" for other sizes;
            "yolov8n-seg", "fastsam-s" and the like.
        licence: SPDX name of the weights' licence, or a sentence on why it is unknown.
        checkpoint: File name of the checkpoint.
        checkpoint_sha256: Its SHA-256 in hex.
        seeded: The weights are random: masks are meaningless.
        layers: Leaf modules of the torch model.
        parameters: Parameters of the torch model.
        encoder_gflops: 1e9 floating-point operations (2 per multiply-add) for one image.
        decoder_gflops: The same for one prompt of one point; 0 without a decoder.
        notes: Sentences about what was assumed, left out or merged as the checkpoint was read; omitted if there are
            none.
    """

    name: str
    licence: str
    checkpoint: str
    checkpoint_sha256: str
    seeded: bool
    layers: Count
    parameters: Count
    encoder_gflops: float
    decoder_gflops: float
    notes: tuple[str, ...] = ()


class InputRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Preprocessing of images, and the threshold of masks.

    Attributes:
        image_size: Side of the square input, px; the long side of the image is resized to it.
        pixel_mean: Subtracted from each channel, RGB, 0..255.
        pixel_std: Divisor of each channel, RGB, 0..255.
        mask_threshold: A pixel belongs to the mask if its logit is greater.
        stretched: The values of each image are first stretched to 0..255, from the least to the greatest of all its
            channels; left out where they are not.
    """

    image_size: Side
    pixel_mean: tuple[Level, Level, Level]
    pixel_std: tuple[Deviation, Deviation, Deviation]
    mask_threshold: Level
    stretched: bool | msgspec.UnsetType = msgspec.UNSET


class ParityRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One probe: image size, kind of prompt, and the deviation of the graphs from the torch model."""

    image: str
    prompt: str
    mask_iou: float
    iou_error: float


class ObjectsRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Agreement of two graphs of a YOLO on the same images.

    Attributes:
        images: Number of images.
        objects: Objects found by either.
        found: Share of objects that both find, in the same place and of the same class.
        box_iou: Mean intersection over union of the boxes that both find.
        mask_iou: The same for masks; None for a detector.
    """

    images: int
    objects: int
    found: float
    box_iou: float
    mask_iou: float | None

    @property
    def sentence(self) -> str:
        """The figures as a sentence."""
        if not self.objects:
            return f"no objects in the {self.images} images to compare"
        masks = "" if self.mask_iou is None else f" and a mean mask IoU of {self.mask_iou:.3f}"
        return (
            f"{self.found:.1%} of {self.objects} objects in {self.images} images are found with float32 and with "
            f"int8, with a mean box IoU of {self.box_iou:.3f}{masks}"
        )


class ParityRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The verdict of the comparison with the fp32 torch model on the probe set.

    Attributes:
        verdict: "passed", "failed", or "unchecked" where the comparison was skipped.
        backend: The backend and device that ran the graphs.
        mask_iou_mean: Mean over probes of the intersection over union of the binary masks.
        mask_iou_decile: First decile of them; 0 in bundles of older versions.
        mask_iou_min: Minimum of them.
        iou_error_max: Largest absolute difference of the predicted IoUs.
        embedding_error_max: Largest absolute difference of the image embeddings.
        low_res_error_max: Largest absolute difference of the low-resolution mask logits.
        box_error_max: Largest difference of a box side, px of the input; YOLO only.
        score_error_max: Largest absolute difference of a class score; YOLO only.
        objects: Agreement with float32 on the user's images; YOLO in int8 only.
        thresholds: The limits of the verdict.
        rows: One row per probe.
    """

    verdict: Verdict
    backend: str = ""
    mask_iou_mean: float = 0.0
    mask_iou_decile: float = 0.0
    mask_iou_min: float = 0.0
    iou_error_max: float = 0.0
    embedding_error_max: float = 0.0
    low_res_error_max: float = 0.0
    box_error_max: float = 0.0
    score_error_max: float = 0.0
    objects: ObjectsRecord | None = None
    thresholds: dict[str, float] = {}
    rows: tuple[ParityRow, ...] = ()


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of a bundle.

    Attributes:
        io: Name of the I/O scheme in `samedge.bundle.dialects.DIALECTS`.
        notes: Sentences about rejected attempts, such as a precision that changed the masks too much.
        probes: The checkpoint's output for the probe set; None if not kept.
        yolo: Present for YOLOv8 and FastSAM, whose single graph has the role "yolo" and Ultralytics' names.
        family: Name of the family of models other than SAM and YOLO; use `model_family`.
    """

    schema: int
    model: ModelRecord
    input: InputRecord
    io: str
    graphs: tuple[GraphRecord, ...]
    parity: ParityRecord
    created: str
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    probes: FileRecord | None = None
    yolo: YoloRecord | None = None
    family: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def model_family(self) -> Family:
        """The model's family; raise BundleError if it is unknown here."""
        if self.family is not msgspec.UNSET:
            return find_family(self.family)
        marked = (family for family in families() if family.record and getattr(self, family.record, None) is not None)
        return next(marked, DEFAULT)

    def has(self, *roles: GraphRole) -> bool:
        """Return True if the bundle has a graph for each of the roles."""
        return set(roles) <= {graph.role for graph in self.graphs}

    def graph(self, role: GraphRole) -> GraphRecord:
        """Return the graph with this role; raise BundleError if there is none."""
        for graph in self.graphs:
            if graph.role == role:
                return graph
        roles = ", ".join(graph.role for graph in self.graphs) or "none"
        raise BundleError(f"the bundle has no {role} graph (it has: {roles})", cure="Export the checkpoint again")

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of the bundle except the manifest."""
        graphs = tuple(file for graph in self.graphs for file in graph.files)
        return graphs if self.probes is None else (*graphs, self.probes)

    @property
    def weights(self) -> tuple[FileRecord, ...]:
        """Files of external weights."""
        return tuple(file for graph in self.graphs for file in graph.external_data)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON, UTF-8, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest file, as `parse_manifest`; raise StorageError if it cannot be read."""
    with storage_errors(path, "read"), path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    return parse_manifest(data, path)


def parse_manifest(data: bytes, where: object) -> Manifest:
    """Check the contents of a manifest file, named `where` in errors.

    Raises:
        BundleError: It is not JSON, has another schema, or a field is missing or of the wrong type.
    """
    cure = "The bundle is damaged or was not made by samedge: export the checkpoint again"
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")  # noqa: TRY301
        head: object = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the manifest is not valid JSON ({error})", where=where, cure=cure) from error
    schema = head.get("schema") if isinstance(head, Mapping) else None
    if schema != SCHEMA_VERSION:
        newer = isinstance(schema, int) and schema > SCHEMA_VERSION
        raise BundleError(
            f"the manifest has schema {schema!r}, and this samedge reads schema {SCHEMA_VERSION}",
            where=where,
            cure="Update samedge, or export the checkpoint again" if newer else cure,
        )
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:  # NaN is JSON to Python
        raise BundleError(f"the manifest is not valid: {error}", where=where, cure=cure) from error
    try:
        family = manifest.model_family
    except BundleError as error:
        raise BundleError(error.what, where=where, cure=error.cure) from error
    if manifest.io not in DIALECTS:
        raise BundleError(
            f"the manifest is not valid: there is no I/O scheme {manifest.io!r} (at $.io)",
            where=where,
            cure=f"Update samedge. {cure}",
        )
    for graph in manifest.graphs:
        if graph.role not in family.roles:
            known = ", ".join(family.roles)
            raise BundleError(
                f"the manifest is not valid: a graph has the role {graph.role!r}, and {family.title} has {known}",
                where=where,
                cure=cure,
            )
    for record in manifest.files:
        # Includes paths that only Windows recognises: bundles are copied between systems.
        name = PurePosixPath(record.file.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in record.file or not record.file:
            raise BundleError(f"the manifest names a file outside the bundle: {record.file!r}", where=where, cure=cure)
    return manifest
