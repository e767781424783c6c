"""What ``samedge bench`` says: one record a model or peer, with what was measured, and why what is empty is empty."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from samedge.benchmarks.measure.rounds import Spread
from samedge.errors import BenchmarkError, storage_errors
from samedge.types import Verdict

SCHEMA: Final = 1
KIND: Final = "samedge bench"

Stage: TypeAlias = Literal["preprocess", "encode", "prompt", "boxes", "everything"]
"""What is timed, each from what the step before left in memory:

* ``preprocess``: from BGR pixels to the network's input;
* ``encode``: the image encoder; for YOLO and FastSAM the whole network;
* ``prompt``: the mask of one click at the size of the image, with all that is done once an image after encoding;
* ``boxes``: the same for 32 boxes at once;
* ``everything``: from BGR pixels to all masks, without a prompt.
"""
STAGES: Final[tuple[Stage, ...]] = ("preprocess", "encode", "prompt", "boxes", "everything")
SET_IMAGE: Final = "set_image"
"""``preprocess`` and ``encode`` together, which is all that some peers can be asked for."""
BOXES: Final = 32

Family: TypeAlias = str
"""Name that a row gives the family of its model: "sam", "yolo", "fastsam", or the name of another."""


class StageResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one stage.

    Attributes:
        includes: What the time includes.
        wall: Seconds a picture.
        cpu: Seconds of processor time a picture, all threads together; None where it is not known.
        figures: Counts of one call on all pictures: prompts, masks, calls of the decoder.
        peak_bytes: The most resident bytes of the process until this stage had been called once; None where the system
            does not tell.
        rounds: Seconds a picture of each round, in their order: what ratios are taken from.
    """

    includes: str
    wall: Spread
    cpu: Spread | None = None
    figures: dict[str, float] = {}
    peak_bytes: int | None = None
    rounds: tuple[float, ...] = ()


class Energy(msgspec.Struct, frozen=True):
    """Energy for one picture.

    Attributes:
        joules: A picture, idle power included.
        watts: Mean power while it was measured.
        pictures: How many were worked on meanwhile.
        meter: What was read.
    """

    joules: float
    watts: float
    pictures: int
    meter: str


class MaskAgreement(msgspec.Struct, frozen=True):
    """IoU of masks with those of the same weights in torch, float32.

    Attributes:
        worst: The lowest.
        mean: Their mean; None where only the lowest was kept.
        judged: Which masks, on which backend, and when.
    """

    worst: float
    mean: float | None
    judged: str


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Attributes:
        name: What it is called.
        source: What was given or found: a path, a known name, or "seeded:NAME".
        family: "sam", "fastsam" or "yolo"; empty where it is not known.
        seeded: The weights are random numbers of the true architecture: what masks say means nothing.
        skipped: Why nothing was measured; empty if it was.
        peer_of: Name of the row that this peer is compared with; empty for a model of samedge.
        own_verdict: Parity of that row.
        version: Of a peer.
        size_bytes: Bytes of the files that run.
        parameters: Numbers in the checkpoint's tensors, as its own code counts them.
        gflops: 1e9 floating point operations, 2 a multiply-add, of the network on one picture.
        prompt_gflops: The same of one prompt.
        stages: Results by stage.
        images_per_second: Of whole pictures, one after the other.
        image_stages: Which stages such a picture is the sum of.
        ratios: By stage, and "set_image": time of this peer over that of samedge, round by round; 2 means that samedge
            needs half.
        device_memory: Bytes on the device.
        energy: Of one picture.
        mask_agreement: With torch.
        backend: The backend really used.
        device: The device really used.
        details: What it says about itself: versions, providers, threads.
        precision: Of the network.
        verdict: Parity; empty for a peer, which is what others are compared with.
        outputs: Where the graphs of the row lie.
        empty: Why a column is empty, by column.
        notes: Sentences.
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
        """The most resident bytes of the process, all stages included; None where they are not known."""
        peaks = [stage.peak_bytes for stage in self.stages.values() if stage.peak_bytes is not None]
        return max(peaks, default=None)


class BenchReport(msgspec.Struct, frozen=True):
    """The table, and where and how it was measured.

    Attributes:
        kind: Tells this file from other reports.
        schema: Version of this format.
        machine: Facts by name.
        power: Clocks, power mode and temperatures, by name; what differs at the end is there as "NAME, after".
        settings: Options by name.
        rows: A model, then its peers, in the order that was asked for.
    """

    kind: str
    schema: int
    machine: dict[str, str]
    power: dict[str, str]
    settings: dict[str, str]
    rows: tuple[ModelRow, ...]


def read_bench(path: Path) -> BenchReport:
    """Read a report that ``samedge bench`` wrote as JSON.

    Raises:
        BenchmarkError: It is none, or of another schema.
        StorageError: It cannot be read.
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
                cure="Give the bench.json of samedge bench --output",
            )
        return msgspec.json.decode(data, type=BenchReport)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BenchmarkError(f"this is no report of samedge bench: {error}", where=path) from error
