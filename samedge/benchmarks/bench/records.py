"""Report of ``samedge bench``: one record per model or peer, with its results and the reasons for missing ones."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from samedge.benchmarks.measure.rounds import Spread
from samedge.errors import BenchmarkError
from samedge.storage.files import storage_errors
from samedge.types import Verdict

SCHEMA: Final = 1
KIND: Final = "samedge bench"
_CURE: Final = "Give the bench.json of samedge bench --output"

Stage: TypeAlias = Literal["preprocess", "encode", "prompt", "boxes", "everything"]
"""Timed stages, each starting from the result of the previous one in memory:

* ``preprocess``: from BGR pixels to the network's input;
* ``encode``: the image encoder; for YOLO and FastSAM the whole network;
* ``prompt``: the mask of one click at image size, including all work done once per image after encoding;
* ``boxes``: the same for 32 boxes at once;
* ``everything``: from BGR pixels to all masks, without a prompt.
"""
SET_IMAGE: Final = "set_image"
"""``preprocess`` and ``encode`` together, for peers that cannot separate them."""
BOXES: Final = 32

Family: TypeAlias = str
"""Name that a row gives the family of its model: "sam", "yolo", "fastsam", or the name of another."""


class StageResult(msgspec.Struct, frozen=True, kw_only=True):
    """Results of one stage.

    Attributes:
        includes: Description of the work that the time includes.
        wall: Seconds per image.
        cpu: CPU seconds per image over all threads; None if unknown.
        figures: Counts of one call on all images: prompts, masks, decoder calls.
        peak_bytes: Peak resident memory of the process up to the end of the first call; None if unavailable.
        rounds: Seconds per image of each round, in order; ratios are computed from these.
    """

    includes: str
    wall: Spread
    cpu: Spread | None = None
    figures: dict[str, float] = {}
    peak_bytes: int | None = None
    rounds: tuple[float, ...] = ()


class Energy(msgspec.Struct, frozen=True):
    """Energy per image, J, including idle power; mean power, W; number of images processed while the meter ran."""

    joules: float
    watts: float
    pictures: int
    meter: str


class MaskAgreement(msgspec.Struct, frozen=True):
    """IoU of masks with those of the same weights in torch, float32.

    Attributes:
        mean: None if only the lowest was kept.
        judged: The masks, the backend and the time of the comparison.
    """

    worst: float
    mean: float | None
    judged: str


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Attributes:
        source: The weights: a path, a known name, or "seeded:NAME".
        family: "sam", "fastsam" or "yolo"; empty if unknown.
        seeded: The weights are random, of the same architecture: the masks mean nothing.
        skipped: Reason why nothing was measured; empty if something was.
        peer_of: Name of the row that this peer is compared with; empty for a model of samedge.
        own_verdict: Parity of that row.
        version: Version of a peer.
        size_bytes: Bytes of the files that run.
        parameters: Number of parameters in the checkpoint, as its own code counts them.
        gflops: 1e9 floating point operations (2 per multiply-add) of the network on one image.
        prompt_gflops: The same for one prompt.
        images_per_second: Rate of whole images, processed one after another.
        image_stages: The stages that a whole image consists of.
        ratios: By stage, and "set_image": time of this peer divided by samedge's, per round; 2 means that samedge takes
            half the time.
        device_memory: Bytes on the device.
        backend: The backend actually used, like `device`.
        details: Versions, providers and threads reported by the backend.
        verdict: Parity; empty for a peer, which is itself the reference.
        outputs: Path of the graphs.
        empty: Reasons for empty columns, by column.
    """

    name: str
    source: str
    family: Family | Literal[""] = ""
    seeded: bool = False
    skipped: str = ""
    peer_of: str = ""
    own_verdict: Verdict | Literal[""] = ""
    version: str = ""
    size_bytes: int | None = None
    parameters: int | None = None
    gflops: float | None = None
    prompt_gflops: float | None = None
    stages: dict[Stage, StageResult] = {}
    images_per_second: Spread | None = None
    image_stages: tuple[Stage, ...] = ()
    ratios: dict[str, Spread] = {}
    device_memory: int | None = None
    energy: Energy | None = None
    mask_agreement: MaskAgreement | None = None
    backend: str = ""
    device: str = ""
    details: dict[str, str] = {}
    precision: str = ""
    verdict: Verdict | Literal[""] = ""
    outputs: str = ""
    empty: dict[str, str] = {}
    notes: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int | None:
        """Peak resident memory of the process over all stages; None if unavailable."""
        peaks = [stage.peak_bytes for stage in self.stages.values() if stage.peak_bytes is not None]
        return max(peaks, default=None)


class BenchReport(msgspec.Struct, frozen=True):
    """The table, and the conditions of the measurement.

    Attributes:
        kind: Distinguishes this file from other reports.
        schema: Version of this format.
        power: Clocks, power mode and temperatures; "NAME, after" holds a value that differs at the end.
        settings: Options by name.
        rows: Each model followed by its peers, in the requested order.
    """

    kind: str
    schema: int
    machine: dict[str, str]
    power: dict[str, str]
    settings: dict[str, str]
    rows: tuple[ModelRow, ...]


def read_bench(path: Path) -> BenchReport:
    """Read a JSON report of ``samedge bench``.

    Raises:
        BenchmarkError: The file is not a report, or has another schema.
        StorageError: The file cannot be read.
    """
    with storage_errors(path, "read"):
        data = path.read_bytes()
    try:
        head = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        kind = msgspec.json.decode(head.get("kind", b'""'))
        schema = msgspec.json.decode(head.get("schema", b"null"))
        if kind != KIND or schema != SCHEMA:
            raise BenchmarkError(
                f"this is a {kind or 'file without kind'} of schema {schema}, and this samedge reads {KIND} of schema "
                f"{SCHEMA}",
                where=path,
                cure=_CURE,
            )
        return msgspec.json.decode(data, type=BenchReport)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BenchmarkError(f"not a report of samedge bench: {error}", where=path, cure=_CURE) from error
