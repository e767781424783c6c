"""Export of models with a single graph: traced, saved, and compared with the torch model on the probe images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from samedge.bundle.manifest import GraphRecord, InputRecord, Manifest, ModelRecord, ParityRecord
from samedge.engines.registry import open_engine
from samedge.errors import UsageError
from samedge.export.describe import count_image_gflops, model_record, provenance
from samedge.export.family import part_of
from samedge.export.graphs.onnx_file import file_record, save_graph
from samedge.export.graphs.trace import trace
from samedge.families import find_family
from samedge.options import ExportOptions, changed_fields, refuse_foreign
from samedge.parity.compare import FP32_THRESHOLDS, compare
from samedge.parity.one_graph import OneGraphRunner, image_probes, run_of
from samedge.parity.stored_reference import PROBES_NAME, RecordedReference
from samedge.types import Array, FloatArray, Progress

if TYPE_CHECKING:
    from samedge.export.graphs.plans import GraphPlan
    from samedge.models.load import Loaded

_IMAGENET_MEAN: Final = (123.675, 116.28, 103.53)
_IMAGENET_STD: Final = (58.395, 57.12, 57.375)


class OneGraphExporter:
    """A `samedge.export.family.FamilyExporter` of one graph from images to masks; a family overrides `plan`.

    `samedge.runtime.one_graph` describes the graph's input and outputs.
    """

    options = ExportOptions()
    """Options of the current export; `options.part(YourRecord)` are the family's own."""

    def plan(self, loaded: Any) -> GraphPlan:
        """Return the graph to trace: the family's first role, an image input, masks and their scores."""
        raise NotImplementedError

    def source(self, loaded: Any) -> InputRecord:
        """Return the preprocessing of images; normalised as ImageNet's by default."""
        size = int(self.plan(loaded).example[0].shape[-1])
        return InputRecord(image_size=size, pixel_mean=_IMAGENET_MEAN, pixel_std=_IMAGENET_STD, mask_threshold=0.0)

    def describe(self, loaded: Loaded, image_size: int | tuple[int, int] | None = None) -> ModelRecord:
        """Describe the model; its input has one size."""
        size = self.source(loaded).image_size
        return model_record(loaded, count_image_gflops(loaded.model, (size, size)), 0.0)

    def write(self, loaded: Loaded, stage: Path, stem: str, options: ExportOptions, report: Progress) -> Manifest:
        """Write, compare and describe the graph."""
        self.options = options
        family = find_family(loaded.family)
        changed = (*changed_fields(options.yolo), *(name for name in changed_fields(options.sam) if name in _FOR_SAM))
        refuse_foreign(family.title, {f"--{name.replace('_', '-')}": True for name in changed})
        if options.graph_precision != "fp32":
            raise UsageError(
                f"the graph of {family.title} is exported in fp32, not {options.precision}",
                where="--precision",
                cure="Omit it: samedge build writes float16 into the graph when it builds engines",
            )
        plan, source = self.plan(loaded), self.source(loaded)
        report(f"Writing the {plan.role}", 0.05)
        opset = options.graph_opset
        graph = save_graph(trace(plan, opset), plan, stage, stem, precision="fp32", opset=opset)
        parity = ParityRecord(verdict="unchecked")
        if options.check:
            parity = _check_parity(plan, graph, source, stage, report)
        return Manifest(
            **provenance(),
            model=self.describe(loaded),
            input=source,
            io="native",
            graphs=(graph,),
            parity=parity,
            probes=file_record(stage / PROBES_NAME, stage) if options.check else None,
            family=family.name,
        )


_FOR_SAM: Final = ("io", "form")
"""Fields of `SamExportOptions` that users set themselves."""


def _check_parity(
    plan: GraphPlan, graph: GraphRecord, source: InputRecord, stage: Path, report: Progress
) -> ParityRecord:
    probes = image_probes(source.image_size)

    def in_torch(image: FloatArray) -> dict[str, Array]:
        with torch.no_grad():
            outputs = plan.module(torch.from_numpy(image))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: output.numpy() for name, output in zip(plan.outputs, outputs, strict=True)}

    recorded = RecordedReference(OneGraphRunner(plan.role, in_torch, source), probes)
    report("Opening the graph", 0.4)
    with open_engine(stage / graph.graph.file, backend="onnxruntime", device="cpu") as engine:
        parity = compare(
            recorded,
            OneGraphRunner(plan.role, run_of(engine), source),
            probes,
            backend=f"{engine.backend} {engine.device}",
            thresholds=FP32_THRESHOLDS,
            progress=part_of(report, 0.4, 0.6),
        )
    recorded.save(stage)
    return parity
