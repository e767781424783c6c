"""Comparison of an engine's key with this machine, field by field, without opening the engine."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samedge.engines.cuda.memory import Gpu
from samedge.engines.tensorrt.api import Flavour, find_flavour
from samedge.engines.tensorrt.plan_file import PlanFile, inspect_plan
from samedge.engines.tensorrt.store.builds import find_gpu
from samedge.engines.tensorrt.store.sidecar import Sidecar, read_sidecar, verify_plan
from samedge.engines.tensorrt.store.store import EngineStore
from samedge.errors import EngineError, IntegrityError, SamedgeError

UNKNOWN: Final = "unknown"
NO_GPU: Final = "none"
_NO_GPU_HERE: Final = "there is no GPU here, or no driver for it"


@dataclass(frozen=True, slots=True)
class Finding:
    """Comparison of one part of an engine's key with this machine.

    Attributes:
        part: The part compared.
        engine: The engine's value.
        here: This machine's value; empty if there is none.
        fits: False if it is an obstacle; None if irrelevant or unknown.
        why: The obstacle as a sentence, or an empty string.
    """

    part: str
    engine: str
    here: str
    fits: bool | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything known about an engine without opening it.

    Attributes:
        plan: The engine file.
        sidecar: Its sidecar; None for an engine of another tool.
        findings: Its key, part by part.
    """

    plan: PlanFile
    sidecar: Sidecar | None
    findings: tuple[Finding, ...]

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Reasons not to open it here; empty if there are none."""
        return tuple(finding.why for finding in self.findings if finding.fits is False)

    @property
    def cure(self) -> str:
        """The cure for the obstacles."""
        if any(finding.part == "GPU" and finding.here == NO_GPU for finding in self.findings):
            return "Open it on a machine with an NVIDIA GPU and its driver"
        return "Build it for this machine: samedge build BUNDLE"


def find_plan(name: str, store: EngineStore | None = None) -> Path:
    """Return the plan for a path or a name.

    Args:
        name: Path of a plan, or the beginning of its name in the store.
        store: The engine store; None for the user's.

    Raises:
        EngineError: Nothing matches, or several engines do.
        StorageError: The store cannot be read.
    """
    path = Path(name)
    if path.is_file():
        return path
    shelf = store or EngineStore()
    found = [entry.plan for entry in shelf.entries() if entry.plan.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    raise EngineError(
        f"{len(found)} engines in the store begin with this" if found else "no such engine on disk or in the store",
        where=name,
        cure="Give a path, or more of a name listed by: samedge engines ls",
    )


def explain_plan(path: Path) -> Explanation:
    """Compare an engine with this machine."""
    plan = inspect_plan(path)
    sidecar = read_sidecar(path)
    flavour, gpu, missing = _machine(plan)
    findings = [_file(plan, sidecar), _flavour(plan, flavour, missing), _version(plan, sidecar, flavour)]
    if sidecar is None:
        why = _NO_GPU_HERE if gpu is None else "another tool built it without a key"
        findings.append(Finding("GPU", UNKNOWN, _gpu_here(gpu), None if gpu is not None else False, why))
        return Explanation(plan, None, tuple(findings))
    key = sidecar.key
    findings += [_gpu(sidecar, flavour, gpu), _system(sidecar)]
    findings += [Finding(f"profile of {name}", sizes, "", None) for name, sizes in key.profiles.items()]
    findings += [Finding(name.replace("_", " "), str(value), "", None) for name, value in key.settings.items()]
    findings += [Finding("precision", key.precision, "", None), Finding("graph", key.graph_sha256[:16], "", None)]
    return Explanation(plan, sidecar, tuple(findings))


def _machine(plan: PlanFile) -> tuple[Flavour | None, Gpu | None, str]:
    """Return the plan's TensorRT and the GPU, if present, and the reason for a missing one."""
    flavour: Flavour | None = None
    gpu: Gpu | None = None
    missing = ""
    try:
        flavour = find_flavour(plan.flavour)
    except SamedgeError as error:
        missing = error.what
    try:
        gpu = find_gpu()
    except SamedgeError as error:
        missing = missing or error.what
    return flavour, gpu, missing


def _file(plan: PlanFile, sidecar: Sidecar | None) -> Finding:
    if sidecar is None:
        return Finding("file", "without a sidecar", "", None)
    try:
        verify_plan(plan.path, sidecar)
    except IntegrityError as error:
        return Finding("file", f"SHA-256 {sidecar.sha256[:16]}", "different", False, error.what)
    return Finding("file", f"SHA-256 {sidecar.sha256[:16]}", "the same", True)


def _flavour(plan: PlanFile, flavour: Flavour | None, missing: str) -> Finding:
    if flavour is None:
        return Finding("TensorRT", plan.flavour, "not installed", False, missing)
    return Finding("TensorRT", plan.flavour, flavour.name, True)


def _version(plan: PlanFile, sidecar: Sidecar | None, flavour: Flavour | None) -> Finding:
    made = plan.version_text if sidecar is None else sidecar.key.version
    if flavour is None:
        return Finding("version", made, UNKNOWN, None)
    compatible = bool(sidecar and sidecar.key.settings.get("version_compatible"))
    why = plan.mismatch(flavour, version_compatible=compatible, keyed=sidecar is not None)
    if sidecar is not None and why is None:
        why = next((text for text in sidecar.key.tensorrt_obstacles(flavour)), None)
    return Finding("version", made, flavour.version, why is None, why or "")


def _gpu(sidecar: Sidecar, flavour: Flavour | None, gpu: Gpu | None) -> Finding:
    key = sidecar.key
    built = f"{key.gpu} ({key.compute_capability}, {key.multiprocessors} multiprocessors)" if key.gpu else "any"
    wanted = ", ".join(key.targets) or built
    if gpu is None:
        return Finding("GPU", wanted, NO_GPU, False, _NO_GPU_HERE)
    obstacles = key.gpu_obstacles(gpu)
    known = () if flavour is None else flavour.features.compute_capabilities
    if not obstacles and known and gpu.target not in known:
        obstacles = [f"{flavour} does not run on {gpu}"]
    return Finding("GPU", wanted, _gpu_here(gpu), not obstacles, "; ".join(obstacles))


def _gpu_here(gpu: Gpu | None) -> str:
    if gpu is None:
        return NO_GPU
    return f"{gpu.name} ({gpu.compute_capability}, {gpu.multiprocessors} multiprocessors)"


def _system(sidecar: Sidecar) -> Finding:
    made = f"{sidecar.key.system} {sidecar.key.machine}"
    here = f"{platform.system()} {platform.machine()}"
    why = "; ".join(sidecar.key.system_obstacles())
    return Finding("system", made, here, not why, why)
