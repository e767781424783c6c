"""Engines of a bundle, finished on the device: built, judged by what the bundle knows, and put beside it.

    built = samedge.build_engines("sam_b-samedge")
    built.verdict, built.rungs, built.folder

The one call behind ``samedge build``. Needs no torch; writing float16 into the graphs needs onnx.
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
from samedge.export.engines.rung_memory import RungKey, remember_rungs, remembered_rungs
from samedge.export.engines.rungs import precision_rungs, rung_graph, written_in
from samedge.export.engines.target import EngineTarget, build_options, find_target
from samedge.options import EngineBuildOptions, EngineKeywords, with_keywords
from samedge.parity.verify import parity_of
from samedge.types import Precision, Progress, Verdict

Opener: TypeAlias = Callable[[Path, EngineTarget], Engine]
"""Opens a plan on the device that it was built for."""


_MAIN_BUILT: Final = 0.7
_BUILT: Final = 0.85


@dataclass(frozen=True, slots=True)
class BuiltEngines:
    """The engines of a bundle.

    Attributes:
        plans: By role, beside the bundle, each with a sidecar: encoder and decoder of a SAM, or the one of a YOLO.
        target: What they were built with and for, as a sentence.
        precision: What was asked for.
        rungs: What each of them is written in.
        parity: Whether they give what the checkpoint gives; "unchecked" where they could not be opened.
        attempts: What the ladder tried.
        notes: Sentences that a user should read.
        answers: What they give, as messages call it.
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
    """Build the graphs of a bundle as engines, and take the fastest precision whose masks hold.

    Each build runs in a child process, so that one that is killed by the system is an error with a cure. What was built
    is kept in the engine store: the same call again builds nothing.

    Args:
        bundle: The folder or ``.samedge`` file that ``samedge export`` wrote.
        flavour: "trt", "rtx", or "auto" for what is installed.
        precision: "fp32", "fp16", or that of the bundle's graph; None for fp16. fp16 is a wish: where the masks do
            not hold, LayerNorm and softmax become float32, then attention, then all of it.
        output: Folder of the engines; None for ``NAME-engines`` beside the bundle, where `samedge.load` finds them.
        check: Compare the engines' masks with the checkpoint's, as the bundle keeps them; those of a YOLO with what the
            bundle's graph gives on a processor. Without it, or without a GPU, the verdict is "unchecked"; the engines
            are then checked when they are first loaded on a GPU.
        options: A record of options, where they are kept; the defaults if it is left out.
        progress: Called with a sentence and the share of the present rung that is done.
        cancelled: Asked now and then; True ends the build.
        opener: Opens plans, in place of the backend.
        keywords: Single options, which change those of the record: the fields of `samedge.options.EngineBuildOptions`
            (`prompts`, `points`, `batch`, `height`, `width`, `targets`, `workspace`, `optimisation_level`,
            `version_compatible`, `hardware_compatibility`, `device`, `restart`). They are described there.

    Returns:
        The engines and their verdict. Engines that failed are kept, and refused when they are loaded.

    Raises:
        TypeError: A keyword that is not known.
        BundleError: It is not a bundle, or its verdict is "failed".
        UsageError: An option means nothing here.
        BackendUnavailableError: TensorRT is not installed; the cure says what to install.
        DeviceUnavailableError: TensorRT needs a GPU to build, and there is none.
        EngineError: No rung could be built, or the memory is not enough.
        StorageError: The file system said no.
    """
    asked = (options or EngineBuildOptions()).updated(**keywords)
    how = build_options(asked)
    target = find_target(flavour, how, asked.device)
    opened = open_bundle(bundle)
    _refuse_other_schemes(opened)
    family = opened.manifest.model_family
    known = engines_of(family)
    family.refuse(opened, target.flavour.name)
    how = replace(how, profiles=known.profiles(opened.manifest, asked))
    wanted, rungs = precision_rungs(opened, precision)
    work = _Work(opened, target, how, wanted, asked.device, progress, cancelled, opener or _open)
    notes = _advice(opened, target, wanted)
    why = _why_unchecked(opened, target, check=check)
    if why is None:
        known.require_judged(how.profiles)
        found = _descend(work, rungs, restart=asked.restart)
    else:
        notes += (why,)
        found = work.unchecked(rungs[0])
    folder = engines_folder(opened.path) if output is None else Path(output)
    plans = {
        role: copy_engine(entry, folder / _file_name(role, target))
        for role, entry in zip(engine_roles(opened.manifest), found.engines, strict=True)
    }
    work.report("Done", 1.0)
    return BuiltEngines(plans, str(target), wanted, found.rungs, found.parity, found.attempts, notes, family.answers)


@dataclass(slots=True)
class _Work:
    """One call of `build_engines`."""

    bundle: Bundle
    target: EngineTarget
    options: BuildOptions
    precision: Precision
    device: str | None
    progress: Progress | None
    cancelled: Callable[[], bool]
    opener: Opener

    def report(self, step: str, share: float) -> None:
        if self.progress is not None:
            self.progress(step, share)

    def share(self, role: GraphRole) -> tuple[float, float]:
        """Return where the build of an engine begins and ends in the progress of one rung; judging is the rest."""
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

        def probed(step: str, share: float) -> None:
            self.report(step, 0.85 + 0.15 * share)

        with ExitStack() as stack:
            engines = {
                role: stack.enter_context(self.opener(entry.plan, self.target)) for role, entry in found.engines.items()
            }
            parity = parity_of(self.bundle.manifest.model_family).verify_engines(self.bundle, found, engines, probed)
        found.judged(parity)
        return parity

    def together(self, entries: Sequence[StoredEngine]) -> EngineSet:
        """Return engines with the verdict that their sidecars have of them together, if they have one."""
        engines = dict(zip(engine_roles(self.bundle.manifest), entries, strict=True))
        found = EngineSet(engines, ParityRecord(verdict="unchecked"))
        notes = engine_notes(found.main.sidecar)
        return EngineSet(engines, notes.parity) if notes is not None and found.agreed else found

    def unchecked(self, rung: str) -> Descent[StoredEngine]:
        """Build the engines on one rung and leaves open what they give, if it is not known."""
        found = self.together([self.build(role, rung) for role in engine_roles(self.bundle.manifest)])
        if not found.agreed:
            found = found.judged(found.parity)
        entries = tuple(found.engines.values())
        return Descent(entries, (rung,) * len(entries), found.parity, ())


def _descend(work: _Work, rungs: Sequence[str], *, restart: bool) -> Descent[StoredEngine]:
    """Walk the ladder from where the last build of this model on this device ended, and remember where it ends."""
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
        with suppress(StorageError):  # that costs time at the next build, and nothing else
            remember_rungs(key, found.rungs, [str(attempt) for attempt in found.attempts])
    # The verdict is in the sidecars by now: what is handed on must carry it.
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
            f"engines are built from native bundles, and this one is {bundle.manifest.io}: TensorRT does not take the "
            "size of the image among the inputs of its decoder",
            where=bundle.path,
            cure="Export the checkpoint with --io native",
        )


def _advice(bundle: Bundle, target: EngineTarget, precision: Precision) -> tuple[str, ...]:
    """Return what would make faster engines, and where engines for any GPU will be refused."""
    notes: tuple[str, ...] = ()
    if target.flavour.is_rtx and target.gpu is None and not target.targets and precision == "fp32":
        notes = ("these engines are refused on compute capability 7.5 (Turing), where fp32 is known to give zeros",)
    return notes + engines_of(bundle.manifest.model_family).advice(bundle, target, precision)


def _why_unchecked(bundle: Bundle, target: EngineTarget, *, check: bool) -> str | None:
    """Return why the engines cannot be judged here; None if they can."""
    if not check:
        return "the engines were not checked, because that was asked for"
    family = bundle.manifest.model_family
    why = parity_of(family).why_not(bundle, target.flavour.name)
    if why is not None:
        return f"{'the engines were' if len(family.built_roles) > 1 else 'the engine was'} not checked: {why}"
    if target.runs_here:
        return None
    where = "without a GPU" if target.gpu is None else f"on {target.gpu}"
    return (
        f"the engines cannot be run {where}: they are to be checked on the device, which happens when they are first "
        "loaded there"
    )


def _file_name(role: GraphRole, target: EngineTarget) -> str:
    return f"{role}.{target.flavour.name}.{slug(target.name)}{PLAN_SUFFIX}"
