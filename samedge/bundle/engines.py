"""The engines of a bundle: found beside it or in the store by what they were made from, and chosen by key and verdict.

Nothing is opened here. An engine whose key does not fit this TensorRT and this GPU is never given out, and why is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import msgspec

from samedge.bundle.archive import Bundle
from samedge.bundle.engine_notes import EngineNotes, engine_notes
from samedge.bundle.manifest import GraphRole, Manifest, ParityRecord
from samedge.engines.cuda.memory import Gpu
from samedge.engines.registry import require_backend
from samedge.engines.tensorrt.api import Flavour, FlavourName, find_flavour
from samedge.engines.tensorrt.store.builds import find_gpu
from samedge.engines.tensorrt.store.key import joined_digest
from samedge.engines.tensorrt.store.sidecar import write_sidecar
from samedge.engines.tensorrt.store.store import EngineStore, StoredEngine
from samedge.errors import EngineError, ParityError, SamedgeError
from samedge.types import Precision, Verdict

ENGINE_BACKENDS: Final[dict[str, FlavourName]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
"""Backends that run engines and not graphs, and their TensorRT."""


_SHORT: Final[dict[FlavourName, str]] = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
_ORDER: Final[tuple[Verdict, ...]] = ("passed", "unchecked", "failed")


@dataclass(frozen=True, slots=True)
class EngineSet:
    """The engines of a bundle that belong together: such as encoder and decoder of a SAM.

    Attributes:
        engines: By role, the one that takes most of the time first.
        parity: What all of them together were judged to be.
    """

    engines: Mapping[GraphRole, StoredEngine]
    parity: ParityRecord

    @property
    def main(self) -> StoredEngine:
        """The engine that takes most of the time."""
        return next(iter(self.engines.values()))

    @property
    def encoder(self) -> StoredEngine:
        """The encoder of a SAM."""
        return self.engines["encoder"]

    @property
    def decoder(self) -> StoredEngine:
        """The decoder of a SAM."""
        return self.engines["decoder"]

    @property
    def verdict(self) -> Verdict:
        """The parity verdict."""
        return self.parity.verdict

    @property
    def judged_as(self) -> Precision:
        """Precision whose thresholds count: a GPU may round the factors of a float32 product."""
        precision = self.main.key.precision
        return "int8" if precision in ("int8", "fp8") else "fp16"

    def obstacles(self, flavour: Flavour, gpu: Gpu) -> list[str]:
        """Return why they must not be opened by this TensorRT on this GPU; empty if they may be."""
        found = [why for entry in self.engines.values() for why in entry.key.obstacles(flavour, gpu)]
        return list(dict.fromkeys(found))

    def judged(self, parity: ParityRecord) -> EngineSet:
        """Return the engines with a verdict, written into their sidecars where that can be done."""
        written = {role: _judged(entry, self.partner_of(role), parity) for role, entry in self.engines.items()}
        return EngineSet(written, parity)

    def partner_of(self, role: GraphRole) -> str:
        """Return the SHA-256 of the other engine; an empty text where there is none."""
        return next((entry.sidecar.sha256 for other, entry in self.engines.items() if other != role), "")

    @property
    def agreed(self) -> bool:
        """True if each engine was judged together with the other."""
        notes = {role: engine_notes(entry.sidecar) for role, entry in self.engines.items()}
        return all(each is not None and each.partner_sha256 == self.partner_of(role) for role, each in notes.items())


def _judged(entry: StoredEngine, partner: str, parity: ParityRecord) -> StoredEngine:
    notes = engine_notes(entry.sidecar)
    if notes is None:
        return entry
    noted = msgspec.structs.replace(notes, partner_sha256=partner, parity=parity)
    sidecar = replace(entry.sidecar, notes={**entry.sidecar.notes, **noted.to_notes()})
    with suppress(SamedgeError):  # in a folder that cannot be written to it is judged each time
        write_sidecar(entry.plan, sidecar)
    return replace(entry, sidecar=sidecar)


def source_digest(manifest: Manifest, role: GraphRole) -> str:
    """Return the SHA-256 of a graph of a bundle with its weights.

    The same as `samedge.engines.tensorrt.store.key.graph_digest` returns.

    Raises:
        BundleError: The bundle has no such graph.
    """
    graph = manifest.graph(role)
    weights = sorted(graph.external_data, key=lambda file: file.file)
    return joined_digest([graph.graph.sha256, *(file.sha256 for file in weights)])


def engine_roles(manifest: Manifest) -> tuple[GraphRole, ...]:
    """Return the roles of the graphs of a bundle that become engines; empty where there are none for it."""
    roles = manifest.model_family.built_roles
    return roles if manifest.has(*roles) else ()


def bundle_pairs(bundle: Bundle) -> list[EngineSet]:
    """Return the engines built from a bundle, on any machine: those beside it first, most recently used first."""
    roles = engine_roles(bundle.manifest)
    if not roles:
        return []
    sets: list[EngineSet] = []
    for folder in bundle.engine_folders():
        entries = EngineStore(folder).entries()
        noted = [(entry, notes) for entry in entries if (notes := engine_notes(entry.sidecar)) is not None]
        if not noted:
            continue
        found: list[list[tuple[StoredEngine, EngineNotes]]] = []
        for role in roles:
            digest = source_digest(bundle.manifest, role)
            found.append([each for each in noted if each[1].role == role and each[1].source_sha256 == digest])
        for together in product(*found):
            engines = {role: entry for role, (entry, _) in zip(roles, together, strict=True)}
            sets.append(EngineSet(engines, together[0][1].parity))
    # All must say so: a half that was judged anew with another one belongs to that one.
    return [each for each in sets if each.agreed]


def require_engines(bundle: Bundle, name: FlavourName, device: str | None, *, force: bool) -> EngineSet:
    """Return the engines of a bundle that a TensorRT may open here.

    Args:
        bundle: The bundle.
        name: Which TensorRT.
        device: The GPU; None for the first.
        force: Those that failed as well.

    Raises:
        BackendUnavailableError: It does not work here.
        DeviceUnavailableError: There is no such GPU.
        UsageError: The graph has an operator that this TensorRT has not.
        EngineError: There are none, or none whose key fits: with the reasons and the command that builds them.
        ParityError: Theirs are not the checkpoint's masks.
    """
    bundle.manifest.model_family.refuse(bundle, name)
    require_backend(name)
    flavour, gpu = find_flavour(name), find_gpu(device)
    build = f"samedge build {bundle.path} --flavour {_SHORT[name]}"
    pairs = [pair for pair in bundle_pairs(bundle) if pair.main.key.flavour == name]
    if not pairs:
        raise EngineError(
            f"there is no engine of this bundle for {flavour} on {gpu}", where=bundle.path, cure=f"Build it: {build}"
        )
    fitting = [pair for pair in pairs if not pair.obstacles(flavour, gpu)]
    if not fitting:
        reasons = pairs[0].obstacles(flavour, gpu)
        raise EngineError(
            f"its engine must not be opened here: {'; '.join(reasons)}",
            where=pairs[0].main.plan,
            cure=f"Build it for this machine: {build}",
            reasons=tuple(reasons),
        )
    best = min(fitting, key=lambda pair: _ORDER.index(pair.verdict))
    if best.verdict == "failed" and not force:
        raise failed_pair(bundle, best)
    return best


def automatic_pair(bundle: Bundle, device: str | None) -> tuple[FlavourName, EngineSet] | None:
    """Return the engines of a bundle that "auto" takes: there, fitting this machine, and not failed; None without.

    Args:
        bundle: The bundle.
        device: The device that was asked for; engines are no answer to one that is not a GPU of CUDA's.
    """
    if device is not None and device.lower().partition(":")[0] != "cuda":
        return None
    pairs = bundle_pairs(bundle)
    for name in ENGINE_BACKENDS.values():
        built = [pair for pair in pairs if pair.main.key.flavour == name and pair.verdict != "failed"]
        if not built:
            continue  # TensorRT is not even imported then
        with suppress(SamedgeError):
            require_backend(name)
            flavour, gpu = find_flavour(name), find_gpu(device)
            fitting = [pair for pair in built if not pair.obstacles(flavour, gpu)]
            if fitting:
                return name, min(fitting, key=lambda pair: _ORDER.index(pair.verdict))
    return None


def failed_pair(bundle: Bundle, pair: EngineSet) -> ParityError:
    """Return the error for engines that do not give what the checkpoint gives."""
    what = bundle.manifest.model_family.answers
    return ParityError(
        f"the engines of this bundle do not give the checkpoint's {what} (mask IoU {pair.parity.mask_iou_mean:.4f} on "
        f"average, {pair.parity.mask_iou_min:.4f} at worst), so they are not loaded",
        where=bundle.path,
        cure=f"Build them on this machine, where other precisions are tried: samedge build {bundle.path}; "
        "or load them with force=True (--force)",
        parity=pair.parity,
    )
