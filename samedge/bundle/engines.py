"""Engines built from a bundle: found by the graph's digest, and chosen by key and verdict.

No engine is opened here, and none is returned whose key does not fit this TensorRT and GPU.
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
"""Backends that run engines instead of graphs, and their TensorRT."""
_SHORT: Final[dict[FlavourName, str]] = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
_ORDER: Final[tuple[Verdict, ...]] = ("passed", "unchecked", "failed")


@dataclass(frozen=True, slots=True)
class EngineSet:
    """The engines of a bundle that belong together, such as encoder and decoder of a SAM.

    Attributes:
        engines: Role to engine, the slowest first.
        parity: The verdict on all of them together.
    """

    engines: Mapping[GraphRole, StoredEngine]
    parity: ParityRecord

    @property
    def main(self) -> StoredEngine:
        """The slowest engine."""
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
        """Precision whose thresholds apply; fp16 for float32, whose factors a GPU may round."""
        precision = self.main.key.precision
        return "int8" if precision in ("int8", "fp8") else "fp16"

    def obstacles(self, flavour: Flavour, gpu: Gpu) -> list[str]:
        """Return the reasons not to open them with this TensorRT on this GPU; empty if there are none."""
        found = [why for entry in self.engines.values() for why in entry.key.obstacles(flavour, gpu)]
        return list(dict.fromkeys(found))

    def judged(self, parity: ParityRecord) -> EngineSet:
        """Return the engines with a verdict, which is also written to their sidecars if possible."""
        written = {role: _judged(entry, self.partner_of(role), parity) for role, entry in self.engines.items()}
        return EngineSet(written, parity)

    def partner_of(self, role: GraphRole) -> str:
        """Return the SHA-256 of the other engine, or an empty string."""
        return next((entry.sidecar.sha256 for other, entry in self.engines.items() if other != role), "")

    @property
    def agreed(self) -> bool:
        """True if the verdict of each engine was reached together with the other."""
        notes = {role: engine_notes(entry.sidecar) for role, entry in self.engines.items()}
        return all(each is not None and each.partner_sha256 == self.partner_of(role) for role, each in notes.items())


def _judged(entry: StoredEngine, partner: str, parity: ParityRecord) -> StoredEngine:
    notes = engine_notes(entry.sidecar)
    if notes is None:
        return entry
    noted = msgspec.structs.replace(notes, partner_sha256=partner, parity=parity)
    sidecar = replace(entry.sidecar, notes={**entry.sidecar.notes, **noted.to_notes()})
    with suppress(SamedgeError):  # in a read-only folder, they are verified at every load
        write_sidecar(entry.plan, sidecar)
    return replace(entry, sidecar=sidecar)


def source_digest(manifest: Manifest, role: GraphRole) -> str:
    """Return the SHA-256 of a bundle's graph with its weights, as `graph_digest` would compute it."""
    graph = manifest.graph(role)
    weights = sorted(graph.external_data, key=lambda file: file.file)
    return joined_digest([graph.graph.sha256, *(file.sha256 for file in weights)])


def engine_roles(manifest: Manifest) -> tuple[GraphRole, ...]:
    """Return the roles of a bundle's graphs that become engines; empty if it lacks one of them."""
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
    # An engine verified again with another partner belongs to that one.
    return [each for each in sets if each.agreed]


def require_engines(bundle: Bundle, name: FlavourName, device: str | None, *, force: bool) -> EngineSet:
    """Return a bundle's engines for one TensorRT on a GPU, the first if `device` is None.

    Raises:
        BackendUnavailableError: TensorRT is unavailable.
        DeviceUnavailableError: There is no such GPU.
        UsageError: This TensorRT lacks an operator of the graph.
        EngineError: There are none, or none whose key fits; with the reasons and the command that builds them.
        ParityError: They do not reproduce the checkpoint's masks, and `force` is False.
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
            f"its engine cannot be opened safely here: {'; '.join(reasons)}",
            where=pairs[0].main.plan,
            cure=f"Build it for this machine: {build}",
            reasons=tuple(reasons),
        )
    best = min(fitting, key=lambda pair: _ORDER.index(pair.verdict))
    if best.verdict == "failed" and not force:
        raise failed_pair(bundle, best)
    return best


def automatic_pair(bundle: Bundle, device: str | None) -> tuple[FlavourName, EngineSet] | None:
    """Return the engines that backend "auto" selects on a device: fitting and not failed; None if there are none."""
    if device is not None and device.lower().partition(":")[0] != "cuda":
        return None
    pairs = bundle_pairs(bundle)
    for name in ENGINE_BACKENDS.values():
        built = [pair for pair in pairs if pair.main.key.flavour == name and pair.verdict != "failed"]
        if not built:
            continue  # without importing TensorRT
        with suppress(SamedgeError):
            require_backend(name)
            flavour, gpu = find_flavour(name), find_gpu(device)
            fitting = [pair for pair in built if not pair.obstacles(flavour, gpu)]
            if fitting:
                return name, min(fitting, key=lambda pair: _ORDER.index(pair.verdict))
    return None


def failed_pair(bundle: Bundle, pair: EngineSet) -> ParityError:
    """Return the error for engines that do not reproduce the checkpoint's output."""
    return ParityError(
        f"the engines of this bundle do not reproduce the checkpoint's {bundle.manifest.model_family.answers} "
        f"(mask IoU {pair.parity.mask_iou_mean:.4f} on average, {pair.parity.mask_iou_min:.4f} at worst), so they are "
        "not loaded",
        where=bundle.path,
        cure=f"Build them on this machine, which tries other precisions: samedge build {bundle.path}; "
        "or load them with force=True (--force)",
        parity=pair.parity,
    )
