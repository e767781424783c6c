"""The engines of a bundle: found beside it or in the store by what they were made from, and chosen by key and verdict.

Nothing is opened here. An engine whose key does not fit this TensorRT and this GPU is never given out, and why is said.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from samedge.engines.build_options import AxisRange
from samedge.engines.cuda_memory import Gpu
from samedge.engines.engine_key import joined_digest
from samedge.engines.registry import require_backend
from samedge.engines.sidecar import write_sidecar
from samedge.engines.store import EngineStore, StoredEngine
from samedge.engines.stored_builds import find_gpu
from samedge.engines.tensorrt_api import Flavour, FlavourName, find_flavour
from samedge.errors import EngineError, ParityError, SamedgeError
from samedge.runtime.bundle import ARCHIVE_SUFFIX, Bundle
from samedge.runtime.engine_notes import EngineNotes, engine_notes
from samedge.runtime.manifest import GraphRole, Manifest, ParityRecord
from samedge.types import Verdict

ENGINE_BACKENDS: Final[dict[str, FlavourName]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
"""Backends that run engines and not graphs, and their TensorRT."""

ENGINE_ROLES: Final[tuple[GraphRole, ...]] = ("encoder", "decoder")

_SHORT: Final[dict[FlavourName, str]] = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
_ORDER: Final[tuple[Verdict, ...]] = ("passed", "unchecked", "failed")


@dataclass(frozen=True, slots=True)
class EnginePair:
    """Encoder and decoder of a bundle that belong together.

    Attributes:
        encoder: The encoder's engine.
        decoder: The decoder's.
        parity: What both together were judged to be.
    """

    encoder: StoredEngine
    decoder: StoredEngine
    parity: ParityRecord

    @property
    def verdict(self) -> Verdict:
        """Whether their masks are the checkpoint's."""
        return self.parity.verdict

    @property
    def prompts_per_call(self) -> int | None:
        """The most prompts that the decoder takes at once; None if it is not known."""
        sizes = self.decoder.key.profiles.get("prompts", "").rpartition("/")[2]
        return int(sizes) if sizes.isdecimal() else None

    @property
    def takes_probes(self) -> bool:
        """Whether the decoder takes the probes, so that the two can be judged."""
        profiles = self.decoder.key.profiles
        return takes_probes(*(AxisRange.parse(profiles[name], name) for name in ("prompts", "points")))

    def obstacles(self, flavour: Flavour, gpu: Gpu) -> list[str]:
        """Returns why they must not be opened by this TensorRT on this GPU; empty if they may be."""
        found = [*self.encoder.key.obstacles(flavour, gpu), *self.decoder.key.obstacles(flavour, gpu)]
        return list(dict.fromkeys(found))

    def judged(self, parity: ParityRecord) -> EnginePair:
        """Returns the pair with a verdict, written into both sidecars where that can be done."""
        halves = (self.encoder, self.decoder)
        written = [
            _judged(half, other.sidecar.sha256, parity) for half, other in zip(halves, reversed(halves), strict=True)
        ]
        return EnginePair(written[0], written[1], parity)


def _judged(entry: StoredEngine, partner: str, parity: ParityRecord) -> StoredEngine:
    notes = engine_notes(entry.sidecar)
    if notes is None:
        return entry
    noted = msgspec.structs.replace(notes, partner_sha256=partner, parity=parity)
    sidecar = replace(entry.sidecar, notes={**entry.sidecar.notes, **noted.to_notes()})
    with suppress(SamedgeError):  # in a folder that cannot be written to it is judged each time
        write_sidecar(entry.plan, sidecar)
    return replace(entry, sidecar=sidecar)


def takes_probes(prompts: AxisRange, points: AxisRange) -> bool:
    """Whether a decoder for so many prompts and points takes the probes: single prompts of two to four points."""
    return prompts.minimum == 1 and points.minimum <= 2 and points.maximum >= 4


def engines_folder(bundle: Path) -> Path:
    """Returns where the engines of a bundle lie: ``NAME-engines`` beside it."""
    path = bundle.resolve()
    return path.with_name(f"{path.name.removesuffix(ARCHIVE_SUFFIX)}-engines")


def source_digest(manifest: Manifest, role: GraphRole) -> str:
    """Returns the SHA-256 of a graph of a bundle with its weights, as `samedge.engines.engine_key.graph_digest` does.

    Raises:
        BundleError: The bundle has no such graph.
    """
    graph = manifest.graph(role)
    weights = sorted(graph.external_data, key=lambda file: file.file)
    return joined_digest([graph.graph.sha256, *(file.sha256 for file in weights)])


def bundle_pairs(bundle: Bundle, store: EngineStore | None = None) -> list[EnginePair]:
    """Returns every pair of engines that was built from a bundle, on whatever machine: beside it first, newest first.

    Args:
        bundle: The bundle.
        store: The engine store; None for the user's.
    """
    if not bundle.manifest.has(*ENGINE_ROLES):
        return []
    pairs: list[EnginePair] = []
    for shelf in (EngineStore(engines_folder(bundle.path)), store or EngineStore()):
        halves: dict[GraphRole, list[tuple[StoredEngine, EngineNotes]]] = {}
        entries = shelf.entries()
        for role in ENGINE_ROLES:
            digest = source_digest(bundle.manifest, role)
            noted = [(entry, notes) for entry in entries if (notes := engine_notes(entry.sidecar)) is not None]
            halves[role] = [half for half in noted if half[1].role == role and half[1].source_sha256 == digest]
        pairs += [
            EnginePair(encoder, decoder, mine.parity)
            for encoder, mine in halves["encoder"]
            for decoder, theirs in halves["decoder"]
            if mine.partner_sha256 == decoder.sidecar.sha256 and theirs.partner_sha256 == encoder.sidecar.sha256
        ]  # both must say so: a half that was judged anew with another one belongs to that one
    return pairs


def require_pair(
    bundle: Bundle, name: FlavourName, device: str | None, *, force: bool, store: EngineStore | None = None
) -> EnginePair:
    """Returns the engines of a bundle that a TensorRT may open here.

    Args:
        bundle: The bundle.
        name: Which TensorRT.
        device: The GPU; None for the first.
        force: Those that failed as well.
        store: The engine store; None for the user's.

    Raises:
        BackendUnavailableError: It does not work here.
        DeviceUnavailableError: There is no such GPU.
        EngineError: There are none, or none whose key fits: with the reasons and the command that builds them.
        ParityError: Theirs are not the checkpoint's masks.
    """
    require_backend(name)
    flavour, gpu = find_flavour(name), find_gpu(device)
    build = f"samedge build {bundle.path} --flavour {_SHORT[name]}"
    pairs = [pair for pair in bundle_pairs(bundle, store) if pair.encoder.key.flavour == name]
    if not pairs:
        raise EngineError(
            f"there is no engine of this bundle for {flavour} on {gpu}", where=bundle.path, cure=f"Build it: {build}"
        )
    fitting = [pair for pair in pairs if not pair.obstacles(flavour, gpu)]
    if not fitting:
        reasons = pairs[0].obstacles(flavour, gpu)
        raise EngineError(
            f"its engine must not be opened here: {'; '.join(reasons)}",
            where=pairs[0].encoder.plan,
            cure=f"Build it for this machine: {build}",
            reasons=tuple(reasons),
        )
    best = min(fitting, key=lambda pair: _ORDER.index(pair.verdict))
    if best.verdict == "failed" and not force:
        raise failed_pair(bundle, best)
    return best


def automatic_pair(
    bundle: Bundle, device: str | None, store: EngineStore | None = None
) -> tuple[FlavourName, EnginePair] | None:
    """Returns the engines of a bundle that "auto" takes: there, fitting this machine, and not failed; None without.

    Args:
        bundle: The bundle.
        device: The device that was asked for; engines are no answer to one that is not a GPU of CUDA's.
        store: The engine store; None for the user's.
    """
    if device is not None and device.lower().partition(":")[0] != "cuda":
        return None
    pairs = bundle_pairs(bundle, store)
    for name in ENGINE_BACKENDS.values():
        built = [pair for pair in pairs if pair.encoder.key.flavour == name and pair.verdict != "failed"]
        if not built:
            continue  # TensorRT is not even imported then
        with suppress(SamedgeError):
            require_backend(name)
            flavour, gpu = find_flavour(name), find_gpu(device)
            fitting = [pair for pair in built if not pair.obstacles(flavour, gpu)]
            if fitting:
                return name, min(fitting, key=lambda pair: _ORDER.index(pair.verdict))
    return None


def failed_pair(bundle: Bundle, pair: EnginePair) -> ParityError:
    """Returns the error for engines whose masks are not the checkpoint's."""
    return ParityError(
        f"the engines of this bundle do not give the checkpoint's masks (mask IoU {pair.parity.mask_iou_mean:.4f} on "
        f"average, {pair.parity.mask_iou_min:.4f} at worst), so they are not loaded",
        where=bundle.path,
        cure=f"Build them on this machine, where other precisions are tried: samedge build {bundle.path}; "
        "or load them with force=True (--force)",
        parity=pair.parity,
    )
