"""Proof that the graph of a family of one graph gives its checkpoint's masks: on the probe images, without prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from samedge.bundle.archive import Bundle
from samedge.bundle.engines import EngineSet
from samedge.bundle.manifest import GraphRole, InputRecord, ParityRecord
from samedge.engines.protocol import Engine
from samedge.parity.compare import Decoded, compare
from samedge.parity.probes import Probe, ProbePrompt, probe_set
from samedge.parity.sam_verify import thresholds_for
from samedge.parity.stored_reference import NO_ANSWERS, GridRunner, StoredReference
from samedge.runtime.image.geometry import ImageGeometry, normalised_input
from samedge.runtime.one_graph import draw_masks, read_outputs
from samedge.types import Array, FloatArray, Precision

Run = Callable[[FloatArray], Mapping[str, Array]]
"""Runs a model on a prepared image ``[1, 3, S, S]``: its outputs by name, in the order of the graph's."""

_NOTHING = ProbePrompt("image", np.zeros((1, 2), np.float32), np.full(1, -1, np.int32))


def image_probes(image_size: int) -> tuple[Probe, ...]:
    """Return the probe images, each asked once, without a prompt."""
    return tuple(replace(probe, prompts=(_NOTHING,)) for probe in probe_set(image_size, max(1, image_size // 16)))


def run_of(engine: Engine) -> Run:
    """Return what runs an opened graph or engine."""
    (name, spec), *_ = engine.inputs.items()
    return lambda image: engine.run({name: image.astype(spec.dtype, copy=False)})


class OneGraphRunner:
    """The `samedge.parity.compare.ProbeRunner` of one graph, in torch or in an engine.

    Args:
        role: Of the graph.
        run: What runs it.
        source: How an image becomes its input, and a logit a mask.
    """

    def __init__(self, role: GraphRole, run: Run, source: InputRecord) -> None:
        self._role = role
        self._run = run
        self._source = source

    def embed(self, probe: Probe) -> FloatArray:
        """Run the graph on an image, and return the logits of its masks ``[1, M, h, w]``."""
        height, width = probe.image.shape[:2]
        source = self._source
        self._geometry = ImageGeometry.of(height, width, source.image_size)
        image = normalised_input(probe.pixels(self._geometry), self._geometry, source.pixel_mean, source.pixel_std)
        self._maps, self._scores = read_outputs(self._run(image))
        return self._maps[None]

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Return the masks of that image."""
        masks = draw_masks(self._maps, self._geometry, self._source.mask_threshold)
        return {self._role: Decoded(self._maps, self._scores, masks)}


class OneGraphParity:
    """The `samedge.parity.verify.FamilyParity` of families of one graph."""

    def why_not(self, bundle: Bundle, backend: str, found: EngineSet | None = None) -> str | None:
        """See `FamilyParity`."""
        return NO_ANSWERS if bundle.manifest.probes is None else None

    def verify_graphs(
        self, bundle: Bundle, engines: Mapping[GraphRole, Engine], progress: Callable[[str, float], None] | None = None
    ) -> ParityRecord:
        """See `FamilyParity`."""
        role = bundle.manifest.model_family.main
        return _verify(bundle, engines[role], bundle.manifest.graph(role).precision, progress)

    def verify_engines(
        self,
        bundle: Bundle,
        found: EngineSet,
        engines: Mapping[GraphRole, Engine],
        progress: Callable[[str, float], None] | None = None,
    ) -> ParityRecord:
        """See `FamilyParity`."""
        return _verify(bundle, engines[bundle.manifest.model_family.main], found.judged_as, progress)


def _verify(
    bundle: Bundle, engine: Engine, precision: Precision, progress: Callable[[str, float], None] | None
) -> ParityRecord:
    source, role = bundle.manifest.input, bundle.manifest.model_family.main
    probes = image_probes(source.image_size)
    thresholds, _ = thresholds_for(precision)

    def probed(done: int) -> None:
        if progress is not None:
            progress(f"Comparing with the checkpoint: image {done} of {len(probes)}", done / len(probes))

    return compare(
        StoredReference(bundle, (role,), probes),
        GridRunner(OneGraphRunner(role, run_of(engine), source)),
        probes,
        backend=f"{engine.backend} {engine.device}",
        thresholds=thresholds,
        progress=probed,
    )
