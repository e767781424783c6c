"""Engines of a bundle: built on the device, compared with the bundle's stored output, and put beside it.

    built = samedge.build_engines("sam_b-samedge")
    built.verdict, built.rungs, built.folder

Needs no torch; writing float16 into graphs needs onnx.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from typing_extensions import Unpack

from samedge.bundle.archive import Bundle, engines_folder, open_bundle
from samedge.bundle.engine_notes import EngineNotes, engine_notes
from samedge.bundle.engines import EngineSet, engine_roles, source_digest
from samedge.bundle.manifest import GraphRole, ParityRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import open_engine
from samedge.engines.tensorrt.build.options import BuildOptions
from samedge.engines.tensorrt.store.builds import copy_engine, slug, stored_engine
from samedge.engines.tensorrt.store.store import PLAN_SUFFIX, EngineStore, StoredEngine
from samedge.errors import StorageError, UsageError
from samedge.export.engines.family import engines_of
from samedge.export.engines.ladder import Attempt, Descent, Ladder
from samedge.export.engines.rungs import (
    RungKey,
    precision_rungs,
    remember_rungs,
    remembered_rungs,
    rung_graph,
    written_in,
)
from samedge.export.engines.target import EngineTarget, build_options, find_target
from samedge.export.family import part_of
from samedge.options import EngineBuildOptions, EngineKeywords, with_keywords
from samedge.parity.verify import parity_of
from samedge.types import Precision, Progress, Verdict

Opener: TypeAlias = Callable[[Path, EngineTarget], Engine]
"""Opens a plan on the device it was built for."""

_MAIN_BUILT: Final = 0.7
_BUILT: Final = 0.85


@dataclass(frozen=True, slots=True)
class BuiltEngines:
    """The engines of a bundle.

    Attributes:
        plans: Engine files by role, beside the bundle, each with a sidecar: encoder and decoder of a SAM, or a YOLO's
            one.
        target: TensorRT and GPU that they are for, as a sentence.
        precision: The requested precision.
        rungs: The rung of each.
        parity: Comparison with the checkpoint; "unchecked" if they could not be opened.
        attempts: What the ladder tried.
        notes: Sentences for the user.
        answers: Name of their output in messages.
    """

    plans: Mapping[GraphRole, Path]
    target: str
    precision: Precision
    rungs: tuple[str, ...]
    parity: ParityRecord
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]
    answers: str = "masks"

    @property
    def encoder(self) -> Path:
        """The plan of a SAM's encoder."""
        return self.plans["encoder"]

    @property
    def decoder(self) -> Path:
        """The plan of a SAM's decoder."""
        return self.plans["decoder"]

    @property
    def folder(self) -> Path:
        """Folder of the engines."""
        return next(iter(self.plans.values())).parent

    @property
    def verdict(self) -> Verdict:
        """The parity verdict."""
        return self.parity.verdict


@with_keywords(EngineKeywords)
def build_engines(
    bundle: str | os.PathLike[str],
    *,
    flavour: str = "auto",
    precision: Precision | None = None,
    output: str | os.PathLike[str] | None = None,
    check: bool = True,
    options: EngineBuildOptions | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    opener: Opener | None = None,
    **keywords: Unpack[EngineKeywords],
) -> BuiltEngines:
    """Build the graphs of a bundle as engines, in the fastest precision that preserves the masks.

    Each build runs in a child process, so that being killed by the system is an error with a cure. Engines are kept in
    the engine store: repeating a call builds nothing.

    Args:
        bundle: Folder or ``.samedge`` file written by ``samedge export``.
        flavour: "trt", "rtx", or "auto" for the installed one.
        precision: "fp32", "fp16", or that of the bundle's graph; None for fp16. Where fp16 does not preserve the masks,
            LayerNorm and softmax become float32, then attention, then everything.
        output: Folder of the engines; None for ``NAME-engines`` beside the bundle, where `samedge.load` finds them.
        check: Compare the engines' masks with the checkpoint's, which the bundle stores; a YOLO's output with that of
            the bundle's graph on the CPU. Otherwise, or without a GPU, the verdict is "unchecked", and the engines are
            checked when they are first loaded on a GPU.
        options: A record of options; the defaults if None.
        progress: Called as the work on the current rung proceeds.
        cancelled: Called now and then; True ends the build.
        opener: Opens plans, instead of the backend.
        keywords: Single options, which override those of the record: the fields of `samedge.options.EngineBuildOptions`
            (`prompts`, `points`, `batch`, `height`, `width`, `targets`, `workspace`, `optimisation_level`,
            `version_compatible`, `hardware_compatibility`, `device`, `restart`), where they are documented.

    Returns:
        The engines and their verdict. Engines that failed are kept, and refused when they are loaded.

    Raises:
        TypeError: A keyword is unknown.
        BundleError: It is not a bundle, or its verdict is "failed".
        UsageError: An option is invalid or does not apply.
        BackendUnavailableError: TensorRT is not installed; the cure says what to install.
        DeviceUnavailableError: TensorRT needs a GPU to build, and there is none.
        EngineError: No rung could be built, or memory is insufficient.
        StorageError: A file cannot be read or written.
    """
    chosen = (options or EngineBuildOptions()).updated(**keywords)
    build = build_options(chosen)
    target = find_target(flavour, build, chosen.device)
    opened = open_bundle(bundle)
    _refuse_other_schemes(opened)
    family = opened.manifest.model_family
    engines = engines_of(family)
    family.refuse(opened, target.flavour.name)
    build = replace(build, profiles=engines.profiles(opened.manifest, chosen))
    wanted, rungs = precision_rungs(opened, precision)
    report = progress or (lambda _step, _share: None)
    work = _Work(opened, target, build, wanted, chosen.device, report, cancelled, opener or _open)
    notes = _advice(opened, target, wanted)
    obstacle = _why_unchecked(opened, target, check=check)
    if obstacle is None:
        engines.require_judged(build.profiles)
        found = _descend(work, rungs, restart=chosen.restart)
    else:
        notes += (obstacle,)
        found = work.unchecked(rungs[0])
    folder = engines_folder(opened.path) if output is None else Path(output)
    plans = {
        role: copy_engine(entry, folder / _file_name(role, target))
        for role, entry in zip(engine_roles(opened.manifest), found.engines, strict=True)
    }
    report("Done", 1.0)
    return BuiltEngines(plans, str(target), wanted, found.rungs, found.parity, found.attempts, notes, family.answers)


@dataclass(slots=True)
class _Work:
    """One call of `build_engines`."""

    bundle: Bundle
    target: EngineTarget
    options: BuildOptions
    precision: Precision
    device: str | None
    report: Progress
    cancelled: Callable[[], bool]
    opener: Opener

    def share(self, role: GraphRole) -> tuple[float, float]:
        """Return the shares of a rung's progress between which an engine is built; judging takes the rest."""
        first, *others = engine_roles(self.bundle.manifest)
        if not others:
            return 0.0, _BUILT
        if role == first:
            return 0.0, _MAIN_BUILT
        at, length = others.index(role), (_BUILT - _MAIN_BUILT) / len(others)
        return _MAIN_BUILT + at * length, _MAIN_BUILT + (at + 1) * length

    def build(self, role: GraphRole, rung: str) -> StoredEngine:
        """Return the engine of a graph on a rung, from the store or newly built."""
        manifest = self.bundle.manifest
        ports = manifest.graph(role)
        start, end = self.share(role)
        label = f"Building the {role} ({rung})"
        self.report(f"Preparing the {role} ({rung})", start)
        with rung_graph(self.bundle, role, rung) as (graph, weights):
            entry = stored_engine(
                graph,
                _with_precision(self.options, written_in(self.bundle, role, rung)),
                flavour=self.target.flavour.name,
                device=self.device,
                weights=weights,
                axes={name: port.shape for name, port in {**ports.inputs, **ports.outputs}.items()},
                progress=lambda _step, share: self.report(label, start + share * (end - start)),
                cancelled=self.cancelled,
            )
        notes = EngineNotes(manifest.model.name, role, source_digest(manifest, role), self.precision, rung)
        known = engine_notes(entry.sidecar)
        same = known is not None and (known.role, known.source_sha256) == (notes.role, notes.source_sha256)
        return entry if same else EngineStore().annotate(entry, notes.to_notes())

    def judge(self, *entries: StoredEngine) -> ParityRecord:
        """Return the verdict of engines, from their sidecars or by running them on the probes."""
        found = self.together(entries)
        if found.verdict == "passed":
            return found.parity

        with ExitStack() as stack:
            engines = {
                role: stack.enter_context(self.opener(entry.plan, self.target)) for role, entry in found.engines.items()
            }
            family, progress = self.bundle.manifest.model_family, part_of(self.report, _BUILT, 1 - _BUILT)
            parity = parity_of(family).verify_engines(self.bundle, found, engines, progress)
        found.judged(parity)
        return parity

    def together(self, entries: Sequence[StoredEngine]) -> EngineSet:
        """Return engines with the joint verdict in their sidecars, if any."""
        engines = dict(zip(engine_roles(self.bundle.manifest), entries, strict=True))
        found = EngineSet(engines, ParityRecord(verdict="unchecked"))
        notes = engine_notes(found.main.sidecar)
        return EngineSet(engines, notes.parity) if notes is not None and found.agreed else found

    def unchecked(self, rung: str) -> Descent[StoredEngine]:
        """Build the engines on one rung, with a verdict only if it is known already."""
        found = self.together([self.build(role, rung) for role in engine_roles(self.bundle.manifest)])
        if not found.agreed:
            found = found.judged(found.parity)
        entries = tuple(found.engines.values())
        return Descent(entries, (rung,) * len(entries), found.parity, ())


def _descend(work: _Work, rungs: Sequence[str], *, restart: bool) -> Descent[StoredEngine]:
    """Descend the ladder from where the last build of this model on this device ended, and remember the end."""
    manifest, target = work.bundle.manifest, work.target
    roles = engine_roles(manifest)
    key = RungKey(
        checkpoint_sha256=manifest.model.checkpoint_sha256,
        variant=manifest.graph(roles[0]).variant,
        precision=work.precision,
        flavour=target.flavour.name,
        version=target.flavour.version,
        gpu="" if target.gpu is None else target.gpu.name,
        compute_capability="" if target.gpu is None else target.gpu.compute_capability,
    )
    start = None if restart else remembered_rungs(key)
    found = Ladder(rungs, work.build, work.judge, roles).descend(start)
    if found.parity.verdict == "passed":
        with suppress(StorageError):  # only costs time at the next build
            remember_rungs(key, found.rungs, [str(attempt) for attempt in found.attempts])
    # The returned engines carry the verdict, like their sidecars.
    judged = EngineSet(dict(zip(roles, found.engines, strict=True)), found.parity).judged(found.parity)
    return replace(found, engines=tuple(judged.engines.values()))


def _open(plan: Path, target: EngineTarget) -> Engine:
    device = None if target.gpu is None else f"cuda:{target.gpu.index}"
    return open_engine(plan, backend=target.flavour.name, device=device)


def _with_precision(options: BuildOptions, precision: Precision) -> BuildOptions:
    return BuildOptions.from_json({**options.to_json(), "precision": precision})


def _refuse_other_schemes(bundle: Bundle) -> None:
    if bundle.manifest.io != "native" or not engine_roles(bundle.manifest):
        raise UsageError(
            f"engines are built from native bundles, but this one is {bundle.manifest.io}: TensorRT does not support "
            "the image size as an input of the decoder",
            where=bundle.path,
            cure="Export the checkpoint with --io native",
        )


def _advice(bundle: Bundle, target: EngineTarget, precision: Precision) -> tuple[str, ...]:
    """Return advice for faster engines, and a warning if engines for any GPU will be refused."""
    notes: tuple[str, ...] = ()
    if target.flavour.is_rtx and target.gpu is None and not target.targets and precision == "fp32":
        notes = ("these engines are refused on compute capability 7.5 (Turing), where fp32 returns zeros",)
    return notes + engines_of(bundle.manifest.model_family).advice(bundle, target, precision)


def _why_unchecked(bundle: Bundle, target: EngineTarget, *, check: bool) -> str | None:
    """Return why the engines cannot be judged here; None if they can."""
    if not check:
        return "the engines were not checked, as requested"
    family = bundle.manifest.model_family
    why = parity_of(family).why_not(bundle, target.flavour.name)
    if why is not None:
        return f"{'the engines were' if len(family.built_roles) > 1 else 'the engine was'} not checked: {why}"
    if target.runs_here:
        return None
    where = "without a GPU" if target.gpu is None else f"on {target.gpu}"
    return f"the engines cannot be run {where}: they will be checked on the device when they are first loaded there"


def _file_name(role: GraphRole, target: EngineTarget) -> str:
    return f"{role}.{target.flavour.name}.{slug(target.name)}{PLAN_SUFFIX}"
