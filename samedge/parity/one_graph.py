"""Parity of models with a single graph, on the probe images without prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from samedge.bundle.archive import Bundle
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import GraphRole, InputRecord, ParityRecord
from samedge.engines.protocol import Engine
from samedge.parity.compare import Decoded, compare, no_progress, thresholds_for
from samedge.parity.probes import Probe, ProbePrompt, probe_set
from samedge.parity.stored_reference import NO_ANSWERS, GridRunner, StoredReference
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.runtime.one_graph import draw_masks, read_outputs
from samedge.types import Array, FloatArray, Precision, Progress

Run = Callable[[FloatArray], Mapping[str, Array]]
"""Maps a prepared image ``[1, 3, S, S]`` to the graph's outputs, by name and in order."""

_NOTHING = ProbePrompt("image", np.zeros((1, 2), np.float32), np.full(1, -1, np.int32))


def image_probes(image_size: int) -> tuple[Probe, ...]:
    """Return the probe images, each with one empty prompt."""
    return tuple(replace(probe, prompts=(_NOTHING,)) for probe in probe_set(image_size, max(1, image_size // 16)))


def run_of(engine: Engine) -> Run:
    """Return a function that runs an opened graph or engine."""
    (name, spec), *_ = engine.inputs.items()
    return lambda image: engine.run({name: image.astype(spec.dtype, copy=False)})


class OneGraphRunner:
    """The `samedge.parity.compare.ProbeRunner` of one graph, in torch or in an engine."""

    def __init__(self, role: GraphRole, run: Run, source: InputRecord) -> None:
        self._role = role
        self._run = run
        self._source = source

    def embed(self, probe: Probe) -> FloatArray:
        """Run the graph on an image and return its mask logits ``[1, M, h, w]``."""
        height, width = probe.image.shape[:2]
        source = self._source
        self._geometry = ImageGeometry.of(height, width, source.image_size)
        image = normalised_input(probe.pixels(self._geometry), self._geometry, source)
        self._maps, self._scores = read_outputs(self._run(image))
        return self._maps[None]

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Return the masks of the last image."""
        masks = draw_masks(self._maps, self._geometry, self._source.mask_threshold)
        return {self._role: Decoded(self._maps, self._scores, masks)}


class OneGraphParity:
    """The `samedge.parity.verify.FamilyParity` of models with a single graph."""

    def why_not(self, bundle: Bundle, backend: str, found: EngineSet | None = None) -> str | None:
        """Require the stored output of the checkpoint."""
        return NO_ANSWERS if bundle.manifest.probes is None else None

    def verify_graphs(
        self, bundle: Bundle, engines: Mapping[GraphRole, Engine], progress: Progress = no_progress
    ) -> ParityRecord:
        """Compare with the thresholds of the graph's precision."""
        role = bundle.manifest.model_family.main
        return _verify(bundle, engines[role], bundle.manifest.graph(role).precision, progress)

    def verify_engines(
        self, bundle: Bundle, found: EngineSet, engines: Mapping[GraphRole, Engine], progress: Progress = no_progress
    ) -> ParityRecord:
        """Compare with the thresholds of the engine's precision."""
        return _verify(bundle, engines[bundle.manifest.model_family.main], found.judged_as, progress)


def _verify(bundle: Bundle, engine: Engine, precision: Precision, progress: Progress) -> ParityRecord:
    source, role = bundle.manifest.input, bundle.manifest.model_family.main
    probes = image_probes(source.image_size)
    return compare(
        StoredReference(bundle, (role,), probes),
        GridRunner(OneGraphRunner(role, run_of(engine), source)),
        probes,
        backend=f"{engine.backend} {engine.device}",
        thresholds=thresholds_for(precision)[0],
        progress=progress,
    )
