"""Comparison of two backends on graphs without a checkpoint, from other tools.

Nothing proves such graphs, but two backends can be shown to compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import numpy as np

from samedge.bundle.archive import Bundle
from samedge.bundle.manifest import GraphRole, Manifest, ParityRecord
from samedge.engines.protocol import Engine
from samedge.engines.registry import availability, open_engine
from samedge.errors import BackendUnavailableError
from samedge.parity.compare import FP32_THRESHOLDS, HALF_THRESHOLDS, Decoded, compare, no_progress
from samedge.parity.probes import Probe, ProbePrompt, probe_set
from samedge.runtime.decoder.decoders import WholeDecoder
from samedge.runtime.decoder.schemes import SamGraphs
from samedge.runtime.masks.masks import draw_mask, empty_masks
from samedge.runtime.prompts.tokens import PromptGroup
from samedge.types import FloatArray, Progress

_REFERENCES: Final = ("onnxruntime", "openvino")
"""Backends that run a graph on the CPU in its own precision."""


class PairRunner:
    """A pair of opened graphs in any dialect as a `samedge.parity.compare.ProbeRunner`; they stay open."""

    def __init__(self, manifest: Manifest, engines: Mapping[GraphRole, Engine]) -> None:
        self._threshold = manifest.input.mask_threshold
        self.decoder = WholeDecoder(engines["decoder"], manifest.io, manifest.input.image_size)
        self._graphs = SamGraphs(manifest, engines["encoder"], self.decoder)

    def embed(self, probe: Probe) -> FloatArray:
        """Return the embedding of an image, float32 ``[1, C, g, g]``."""
        self._geometry = self._graphs.geometry(*probe.image.shape[:2])
        values, features = self._graphs.encode(self._graphs.prepare(probe.image, self._geometry))
        self._context = self.decoder.context(values, features)
        return values if isinstance(values, np.ndarray) else values.numpy().astype(np.float32, copy=False)

    def decode(self, prompt: ProbePrompt) -> dict[GraphRole, Decoded]:
        """Decode a prompt."""
        output = self.decoder.decode_prompts(self._context, as_group(prompt))
        low_res = output.draw(np.zeros(1, np.intp))[0]
        masks = empty_masks(len(low_res), self._geometry.height, self._geometry.width)
        for logits, mask in zip(low_res, masks, strict=True):
            draw_mask(logits, self._geometry, self._threshold, mask)
        return {"decoder": Decoded(low_res, output.scores[0], masks)}


def as_group(prompt: ProbePrompt) -> PromptGroup:
    """Return a probe's prompt as a group of one."""
    masks = None if prompt.mask is None else prompt.mask[None]
    has_mask = np.array([prompt.mask is not None], np.float32)
    return PromptGroup(np.zeros(1, np.intp), prompt.coords[None], prompt.labels[None], masks, has_mask)


def verify_pair(bundle: Bundle, engines: Mapping[GraphRole, Engine], progress: Progress = no_progress) -> ParityRecord:
    """Compare opened graphs with the same graphs on another backend, on the prompts that they accept.

    Raises:
        BackendUnavailableError: There is no other backend.
        EngineError: A graph failed.
    """
    manifest, judged = bundle.manifest, engines["encoder"]
    itself = judged.backend if judged.device.partition(":")[0].lower() == "cpu" else ""
    name = next((name for name in _REFERENCES if name != itself and availability(name).ok), None)
    if name is None:
        raise BackendUnavailableError(
            "these graphs have no stored output, and no other backend is installed to compare with",
            where=bundle.path,
            cure="pip install openvino or onnxruntime; or export the checkpoint with samedge, which compares them",
        )
    candidate = PairRunner(manifest, engines)
    drawn = probe_set(manifest.input.image_size, candidate.decoder.prompt_side // 4)
    probes = [
        replace(probe, prompts=tuple(each for each in probe.prompts if not candidate.decoder.refusal(as_group(each))))
        for probe in drawn
    ]

    with ExitStack() as stack:
        others = {
            role: stack.enter_context(open_engine(bundle.graph_path(role), backend=name, device="cpu"))
            for role in ("encoder", "decoder")
        }
        exact = manifest.graph("encoder").precision == "fp32" and itself != ""
        return compare(
            PairRunner(manifest, others),
            candidate,
            probes,
            backend=f"{judged.backend} {judged.device}, as {name} cpu",
            thresholds=FP32_THRESHOLDS if exact else HALF_THRESHOLDS,
            shown_only=not exact,
            against=name,
            progress=progress,
        )
