"""The key of an engine: everything it depends on. Two engines with one key are the same engine.

An engine loaded on another GPU or by another TensorRT may crash or compute garbage, and is rejected only by luck. So
everything that matters is recorded when it is built, and compared before it is opened.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from samedge.engines.cuda.memory import Gpu
from samedge.engines.tensorrt.api import Flavour
from samedge.engines.tensorrt.build.failures import computes_zeros
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.errors import EngineError
from samedge.storage.files import sha256_file


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything an engine depends on.

    Attributes:
        graph_sha256: SHA-256 of the graph and its external weights.
        precision: Precision of the graph.
        profiles: Name of a free axis to its range, such as "1/16/64".
        settings: Result of `BuildOptions.settings`.
        flavour: "tensorrt" or "tensorrt-rtx".
        version: Full version of TensorRT.
        gpu: Name of the GPU that built it; empty if targets are named.
        compute_capability: That GPU's, such as "8.6"; empty if targets are named.
        multiprocessors: That GPU's count; 0 if targets are named.
        targets: Named compute capabilities, such as "sm86".
        system: Operating system.
        machine: Architecture of the CPU.
    """

    graph_sha256: str
    precision: str
    profiles: Mapping[str, str]
    settings: Mapping[str, Any]
    flavour: str
    version: str
    gpu: str
    compute_capability: str
    multiprocessors: int
    targets: tuple[str, ...]
    system: str
    machine: str

    def digest(self) -> str:
        """Return the key's name in the store, 32 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def differences(self, other: EngineKey) -> list[str]:
        """Return a sentence for each difference between this key and another."""
        found: list[str] = []
        for part in fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            if mine == theirs:
                continue
            label = part.name.replace("_", " ")
            if isinstance(mine, Mapping):
                for name in sorted({*mine, *theirs}):
                    if mine.get(name) != theirs.get(name):
                        found.append(f"{label}: {name} is {mine.get(name)} here and {theirs.get(name)} there")
            else:
                found.append(f"{label} is {_shown(mine)} here and {_shown(theirs)} there")
        return found

    def obstacles(self, flavour: Flavour, gpu: Gpu) -> list[str]:
        """Return the reasons not to open the engine with this TensorRT on this GPU; empty if there are none."""
        return [*self.tensorrt_obstacles(flavour), *self.gpu_obstacles(gpu), *self.system_obstacles()]

    def tensorrt_obstacles(self, flavour: Flavour) -> list[str]:
        """Return the obstacles posed by this TensorRT."""
        if self.flavour != flavour.name:
            return [f"it was built for {self.flavour}, but this is {flavour.name}"]
        if self.version != flavour.version and not self._allows_version(flavour.version):
            return [f"it was built by version {self.version}, but this is {flavour.version}"]
        return []

    def gpu_obstacles(self, gpu: Gpu) -> list[str]:
        """Return the obstacles posed by this GPU."""
        found: list[str] = []
        if self.targets and gpu.target not in self.targets:
            found.append(f"it was built for {', '.join(self.targets)}, but this GPU is {gpu.target}")
        if self.compute_capability and not self._runs_on(gpu):
            found.append(f"it was built on {self.gpu} ({self.compute_capability}), but this is {gpu}")
        if self.computes_zeros(gpu):
            found.append(f"{self.flavour} is known to compute zeros in fp32 with free axes on {gpu}")
        return found

    def computes_zeros(self, gpu: Gpu) -> bool:
        """Return True if the engine is known to compute zeros on a GPU, targeted explicitly or by default."""
        return computes_zeros(self.flavour, self.precision, (gpu.target,), free_axes=bool(self.profiles))

    def system_obstacles(self) -> list[str]:
        """Return the obstacles posed by the operating system and processor."""
        if (self.system, self.machine) == (platform.system(), platform.machine()):
            return []
        return [f"it was built on {self.system} {self.machine}, but this is {platform.system()} {platform.machine()}"]

    def _allows_version(self, version: str) -> bool:
        mine, theirs = _numbers(self.version), _numbers(version)
        return bool(self.settings.get("version_compatible")) and mine[:1] == theirs[:1] and mine <= theirs

    def _runs_on(self, gpu: Gpu) -> bool:
        compatible = self.settings.get("hardware_compatibility", "none")
        if compatible == "ampere_plus":
            return _numbers(gpu.compute_capability) >= (8, 0)
        same = gpu.compute_capability == self.compute_capability
        if compatible == "same_compute_capability":
            return same
        return same and (gpu.name, gpu.multiprocessors) == (self.gpu, self.multiprocessors)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `from_json`."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> EngineKey:
        """Return the key written by `to_json`."""
        try:
            return EngineKey(**{**values, "targets": tuple(values["targets"])})
        except (KeyError, TypeError) as error:
            raise EngineError("the key of an engine is damaged", cure="Build the engine again") from error


def make_key(
    graph_sha256: str, options: BuildOptions, flavour: Flavour, gpu: Gpu | None, *, axes: Collection[str] | None = None
) -> EngineKey:
    """Return the key of the engine that a build would produce.

    Args:
        graph_sha256: Result of `graph_digest`.
        options: Build options.
        flavour: The TensorRT that builds.
        gpu: The local GPU; None without one. Not part of the key if the options name targets.
        axes: Names of the graph's free axes: profiles of others are irrelevant. None if unknown.
    """
    on = None if options.targets else gpu
    return EngineKey(
        graph_sha256=graph_sha256,
        precision=options.precision,
        profiles={name: str(sizes) for name, sizes in options.profiles.items() if axes is None or name in axes},
        settings=options.settings(),
        flavour=flavour.name,
        version=flavour.version,
        gpu="" if on is None else on.name,
        compute_capability="" if on is None else on.compute_capability,
        multiprocessors=0 if on is None else on.multiprocessors,
        targets=options.targets,
        system=platform.system(),
        machine=platform.machine(),
    )


def graph_digest(graph: Path, *weights: Path) -> str:
    """Return one SHA-256 over a graph and its external weight files."""
    return joined_digest([sha256_file(graph), *(sha256_file(path) for path in sorted(weights))])


def joined_digest(parts: Sequence[str]) -> str:
    """Return `graph_digest` from known digests: the graph's, then its weights' by file name."""
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "nothing"
    return str(value)[:40] or "nothing"
