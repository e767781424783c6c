"""Rows of single graphs against those of the reference packages in onnxruntime.

Encoder: samedge on each backend and in each precision, against the plain export.

Decoder: several single-point prompts on one image, against Meta's graph prompt by prompt. Meta's graph also draws masks
at image size. It is compared without that part, cut off after the low-resolution masks, which are the output of
samedge's decoder; a note gives the time of the whole graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from samedge.benchmarks.measure.agreement import largest_difference
from samedge.benchmarks.measure.artefacts import graph_bytes
from samedge.benchmarks.measure.child import call_in_child
from samedge.benchmarks.measure.rounds import Contender
from samedge.benchmarks.targets.context import Bench, cpu_backends, missing_backend
from samedge.benchmarks.targets.results import Row
from samedge.benchmarks.targets.variants import Variant
from samedge.bundle.archive import open_bundle
from samedge.bundle.manifest import SPLIT_ROLES, Manifest

PLAIN_EXPORT: Final = "plain export in onnxruntime"
META_DECODER: Final = "Meta's decoder in onnxruntime, prompt by prompt"
PROMPTS: Final = {"decoder-1": 1, "decoder-8": 8, "decoder-16": 16}
"""Number of prompts of each decoder row."""

_META_GRAPH: Final = "decoder_low_res.onnx"


@dataclass(frozen=True, slots=True)
class EncoderRow:
    """A row with one of samedge's encoders.

    Attributes:
        backends: Its backends, of which the fastest counts; empty for all available ones.
        calibrated: Use ranges measured on images.
    """

    row: str
    backends: tuple[str, ...] = ()
    precision: str = "fp32"
    calibrated: bool = False


ENCODER_ROWS: Final = (
    EncoderRow("encoder", ("onnxruntime",)),
    EncoderRow("encoder-int8", ("onnxruntime",), "int8"),
    EncoderRow("encoder-openvino", ("openvino",)),
    EncoderRow("encoder-openvino-int8", ("openvino",), "int8", calibrated=True),
    EncoderRow("encoder-best"),
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row ready to be measured: its bundle, and a variant per backend."""

    row: EncoderRow
    bundle: Path
    variants: tuple[Variant, ...]


def encoder_rows(bench: Bench, model: str, wanted: Sequence[str]) -> Iterator[Row]:
    """Yield the wanted rows for a model, all timed in one process, in turn with one baseline."""
    entries: list[_Entry] = []
    for row in ENCODER_ROWS:
        if row.row in wanted:
            entry = _prepare(bench, model, row)
            if isinstance(entry, str):
                yield Row(row=row.row, model=model, ours="", skipped=entry)
            else:
                entries.append(entry)
    if not entries:
        return
    size = _manifest(entries[0].bundle).input.image_size
    plain = bench.artefacts.plain_encoder(model, size)
    yield from _measured(bench, model, entries, plain, str(bench.artefacts.encoder_input(size)))


def _prepare(bench: Bench, model: str, row: EncoderRow) -> _Entry | str:
    """Return the prepared row, or the reason to skip it."""
    backends = row.backends or tuple(cpu_backends())
    for backend in backends:
        why = missing_backend(backend)
        if why:
            return why
    bundle = bench.artefacts.bundle(model, precision=row.precision, calibrated=row.calibrated, form=bench.settings.form)
    manifest = _manifest(bundle)
    if manifest.graph("encoder").precision != row.precision:
        return "; ".join(manifest.notes) or f"the encoder is not {row.precision}"
    image = str(bench.artefacts.encoder_input(manifest.input.image_size))
    variants = tuple(
        Variant(
            f"{row.precision} in {backend}",
            "encoder",
            {"bundle": str(bundle), "image": image, "backend": backend, "threads": bench.settings.threads},
        )
        for backend in backends
    )
    return _Entry(row, bundle, variants)


def _measured(bench: Bench, model: str, entries: list[_Entry], plain: Path, image: str) -> Iterator[Row]:
    graph = str(plain / "encoder.onnx")
    baseline = Variant(
        PLAIN_EXPORT, "plain_encoder", {"graph": graph, "image": image, "threads": bench.settings.threads}
    )
    # Rows may share variants: "best" is one of the others.
    variants = {variant.name: variant for entry in entries for variant in entry.variants}
    memory = {variant.name: bench.memory(variant) for variant in (baseline, *variants.values())}
    wanted = np.load(plain / "embedding.npy")
    contenders, errors = [], {}
    for variant in (baseline, *variants.values()):
        bench.say(f"Opening {variant.name}")
        call = variant.open()
        contenders.append(Contender(variant.name, call))
        errors[variant.name] = largest_difference(call(), wanted)
    timings = bench.interleave(contenders)
    contenders.clear()  # releases the sessions before anything else is measured
    del call
    for entry in entries:
        best = min(entry.variants, key=lambda variant: timings[variant.name].wall.median)
        others = [variant.name for variant in entry.variants if variant is not best]
        masks = _masks(bench, entry.row, str(best.arguments["backend"]))
        yield Row(
            row=entry.row.row,
            model=model,
            ours=best.name,
            baseline_timing=timings[PLAIN_EXPORT],
            timing=timings[best.name],
            baseline_memory=memory[PLAIN_EXPORT],
            memory=memory[best.name],
            baseline_bytes=graph_bytes(plain),
            bytes=_encoder_bytes(entry.bundle),
            error=errors[best.name],
            mask_iou=masks["mean"],
            figures={
                "baseline_error": errors[PLAIN_EXPORT],
                "mask_iou_decile": masks["decile"],
                "mask_iou_worst": masks["worst"],
                "nodes": _manifest(entry.bundle).graph("encoder").nodes,
            },
            notes=(
                f"masks of {bench.settings.masks_of}, against torch; worst tenth {masks['decile']:.3f}",
                *(f"{name}: {timings[name].ratio.median:.2f}x" for name in others),
            ),
        )


def _masks(bench: Bench, row: EncoderRow, backend: str) -> dict[str, Any]:
    """Return the mask agreement with torch of trained weights, exported like this row's."""
    source = bench.settings.masks_of
    bundle = bench.artefacts.bundle(
        source, precision=row.precision, calibrated=row.calibrated, form=bench.settings.form
    )
    bench.say(f"Comparing the masks of {source}, {row.precision} in {backend}")
    arguments = {"source": source, "artefact": str(bundle), "backend": backend, "threads": bench.settings.threads}
    agreement: dict[str, Any] = call_in_child("samedge.benchmarks.measure.agreement:prompted_masks", arguments)
    return agreement


def _manifest(bundle: Path) -> Manifest:
    return open_bundle(bundle, force=True, verify=False).manifest


def _encoder_bytes(bundle: Path) -> int:
    return sum(file.size for file in _manifest(bundle).graph("encoder").files)


def decoder_rows(bench: Bench, model: str, wanted: Sequence[str]) -> Iterator[Row]:
    """Yield the wanted rows for a model."""
    rows = [name for name in PROMPTS if name in wanted]
    if not rows:
        return
    bundle = bench.artefacts.bundle(model, form=bench.settings.form)
    manifest = _manifest(bundle)
    meta = bench.artefacts.meta_decoder(model)
    embedding = bench.artefacts.plain_encoder(model, manifest.input.image_size) / "embedding.npy"
    for name in rows:
        shared: dict[str, Any] = {
            "embedding": str(embedding),
            "prompts": PROMPTS[name],
            "threads": bench.settings.threads,
        }
        theirs = Variant(META_DECODER, "meta_decoder", {**shared, "graph": str(meta / _META_GRAPH)})
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
            baseline_timing=timings[META_DECODER],
            timing=timings[split.name],
            baseline_memory=memory[META_DECODER],
            memory=memory[split.name],
            baseline_bytes=(meta / _META_GRAPH).stat().st_size,
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
