"""Decoder rows: several single-point prompts on one image, samedge against Meta's graph prompt by prompt.

Meta's graph also draws masks at image size. It is compared without that part, cut off after the low-resolution masks,
which are the output of samedge's decoder; a note gives the time of the whole graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from samedge.benchmarks.measure.agreement import largest_difference
from samedge.benchmarks.measure.rounds import Contender
from samedge.benchmarks.targets.context import Bench
from samedge.benchmarks.targets.results import Row
from samedge.benchmarks.targets.variants import Variant
from samedge.bundle.archive import open_bundle
from samedge.bundle.manifest import SPLIT_ROLES

BASELINE: Final = "Meta's decoder in onnxruntime, prompt by prompt"
PROMPTS: Final = {"decoder-1": 1, "decoder-8": 8, "decoder-16": 16}
"""Number of prompts of each row."""

_FILES: Final = "decoder_low_res.onnx"


def decoder_rows(bench: Bench, model: str, wanted: Sequence[str]) -> Iterator[Row]:
    """Yield the wanted rows for a model."""
    rows = [name for name in PROMPTS if name in wanted]
    if not rows:
        return
    bundle = bench.artefacts.bundle(model, form=bench.settings.form)
    manifest = open_bundle(bundle, force=True, verify=False).manifest
    meta = bench.artefacts.meta_decoder(model)
    embedding = bench.artefacts.plain_encoder(model, manifest.input.image_size) / "embedding.npy"
    for name in rows:
        shared: dict[str, Any] = {
            "embedding": str(embedding), "prompts": PROMPTS[name], "threads": bench.settings.threads,
        }  # fmt: skip
        theirs = Variant(BASELINE, "meta_decoder", {**shared, "graph": str(meta / _FILES)})
        whole = Variant(
            "Meta's whole decoder graph, masks at image size",
            "meta_decoder",
            {**shared, "graph": str(meta / "decoder.onnx")},
        )
        ours = {**shared, "bundle": str(bundle), "backend": "onnxruntime"}
        split = Variant("split decoder in onnxruntime", "decoder", ours)
        once = Variant("split decoder with its work once an image", "decoder", {**ours, "whole_image": True})
        memory = {variant.name: bench.memory(variant) for variant in (theirs, split)}
        calls = {variant.name: variant.open() for variant in (theirs, split, whole, once)}
        error = largest_difference(calls[split.name](), calls[theirs.name]()[:, 1:])
        timings = bench.interleave([Contender(variant, call) for variant, call in calls.items()])
        yield Row(
            row=name,
            model=model,
            ours=split.name,
            baseline_timing=timings[BASELINE],
            timing=timings[split.name],
            baseline_memory=memory[BASELINE],
            memory=memory[split.name],
            baseline_bytes=(meta / _FILES).stat().st_size,
            bytes=sum(file.size for role in SPLIT_ROLES for file in manifest.graph(role).files),
            error=error,
            figures={
                "speed_to_whole_graph": timings[whole.name].wall.median / timings[split.name].wall.median,
                "speed_once_an_image": timings[once.name].ratio.median,
            },
            notes=(
                f"{once.name}: {timings[once.name].ratio.median:.2f}x",
                f"{whole.name}: {timings[whole.name].wall.median * 1e3:.1f} ms",
                "ours is timed through Predictor.predict, theirs is the session alone",
            ),
        )
