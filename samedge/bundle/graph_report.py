"""Report on an ONNX graph of any tool: its exporter, its tensors, its known faults, and its obstacles for TensorRT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from samedge.bundle.dialects import DecoderDialect, EncoderDialect
from samedge.bundle.plain_graphs import PlainGraph, read_plain_graph
from samedge.engines.onnx_header import OnnxNode
from samedge.storage.files import storage_errors
from samedge.types import TensorSpec

_NOT_IN_TENSORRT: Final = frozenset({
    "ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul", "SequenceAt",
    "SequenceConstruct", "SequenceEmpty", "SplitToSequence", "Unique",
})  # fmt: skip
_TRACED_REPEAT: Final = "OneHot"
"""Operator that the tracer writes for ``repeat_interleave``."""


@dataclass(frozen=True, slots=True)
class GraphReport:
    """A graph as ``samedge inspect`` shows it.

    Attributes:
        path: The file.
        size: Bytes, with the weights beside it.
        part: "encoder", "decoder", "detector", "whole model", or "unknown".
        exporter: The tools whose convention it follows; "unknown".
        scheme: Its name in I/O schemes; empty if it is not run here as a half of a SAM.
        remark: A note on the convention.
        writer: The program that wrote the file.
        opset: Version of the operators.
        nodes: Number of nodes.
        inputs: Name to shape and dtype.
        outputs: Name to shape and dtype.
        metadata: ``metadata_props``.
        doc: ``doc_string``.
        faults: Known faults, as sentences.
        tensorrt: Reasons why TensorRT does not build it as it is; empty if none is known.
    """

    path: Path
    size: int
    part: str
    exporter: str
    scheme: str
    remark: str
    writer: str
    opset: int
    nodes: int
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    doc: str
    faults: tuple[str, ...]
    tensorrt: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""

        def ports(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
            return {name: {"dtype": spec.dtype.name, "shape": list(spec.shape)} for name, spec in specs.items()}

        return {
            "file": str(self.path), "size_bytes": self.size, "part": self.part, "exporter": self.exporter,
            "scheme": self.scheme, "remark": self.remark, "writer": self.writer, "opset": self.opset,
            "nodes": self.nodes, "inputs": ports(self.inputs), "outputs": ports(self.outputs),
            "metadata": dict(self.metadata), "doc": self.doc, "faults": list(self.faults),
            "tensorrt_obstacles": list(self.tensorrt),
        }  # fmt: skip


def report_graph(path: Path) -> GraphReport:
    """Report on an ONNX file.

    Raises:
        EngineError: It is not ONNX.
        StorageError: It cannot be read.
    """
    graph = read_plain_graph(path)
    contents, convention = graph.contents, graph.convention
    with storage_errors(path, "read"):
        files = [path, *(path.parent / name for name in contents.external)]
        size = sum(file.stat().st_size for file in files if file.is_file())
    return GraphReport(
        path=path,
        size=size,
        part="unknown" if convention is None else convention.part,
        exporter="unknown" if convention is None else convention.producer,
        scheme="" if convention is None or convention.record is None else convention.record.name,
        remark="" if convention is None else convention.remark,
        writer=contents.producer,
        opset=contents.opset,
        nodes=len(contents.nodes),
        inputs=graph.inputs,
        outputs=graph.outputs,
        metadata=contents.metadata,
        doc=contents.doc,
        faults=tuple(_faults(graph)),
        tensorrt=tuple(_obstacles(graph)),
    )


def _faults(graph: PlainGraph) -> Iterable[str]:
    record = None if graph.convention is None else graph.convention.record
    missing = [name for name in graph.contents.external if not (graph.path.parent / name).is_file()]
    if missing:
        yield f"its weights are missing: {', '.join(sorted(missing))}"
    if isinstance(record, EncoderDialect) and record.layout == "normalised":
        if graph.inputs[record.input].dtype.kind in "iu":
            yield "the image is of integers, and so 0..255: the graph normalises it"
        return
    if not isinstance(record, DecoderDialect):
        return
    if record.size and not record.scaled and crop_is_frozen(graph.contents.nodes, record.size):
        yield (
            "frozen crop: masks at image size are right for images of one aspect ratio only, that of the traced "
            "example (exporter of segment_anything 1.0); samedge uses the low-resolution masks, which are right"
        )
    if record.size and graph.inputs[record.size].dtype.kind == "f":
        yield f"{record.size} is {graph.inputs[record.size].dtype.name}, though it is a number of pixels"
    if record.pads:
        yield "it appends the padding point itself: clients must not give one"
    if record.padding_xy:
        yield f"it fills the points up to {record.most_points}, and leaves out any above without a word"
    if not record.boxes:
        yield "it knows no boxes: labels 2 and 3 are taken for unlabelled points"
    if not record.first_mask:
        yield "it leaves out the mask for unambiguous prompts"
    if graph.masks == 1:
        yield "it returns one mask, which Meta's exporter chooses by the number of points"


def crop_is_frozen(nodes: Sequence[OnnxNode], size: str) -> bool:
    """Return True if masks are cropped to a size that does not depend on the input of this name."""
    reached = {size}
    cropped = depends = False
    for node in nodes:  # in the order in which they run
        here = [name in reached for name in node.inputs]
        if node.operator == "Slice" and not here[0]:
            # A slice of masks, if its ends are computed; those of shapes are constants.
            depends = depends or any(here[1:])
        elif node.operator == "Resize":
            cropped = True
        if any(here):
            reached.update(node.outputs)
    return cropped and not depends


def _obstacles(graph: PlainGraph) -> Iterable[str]:
    contents = graph.contents
    foreign = sorted({node.operator for node in contents.nodes if node.domain not in ("", "ai.onnx")})
    if foreign:
        yield f"operators of another domain: {', '.join(foreign)}"
    unknown = sorted({node.operator for node in contents.nodes} & _NOT_IN_TENSORRT)
    if unknown:
        yield f"operators that TensorRT lacks: {', '.join(unknown)}"
    if any(node.operator == _TRACED_REPEAT for node in contents.nodes):
        yield "OneHot, from a traced repeat_interleave, as a shape: TensorRT up to 10.3 does not build it"
    doubles = [name for name, spec in {**graph.inputs, **graph.outputs}.items() if spec.dtype.name == "float64"]
    if doubles:
        yield f"float64: {', '.join(doubles)}"
    record = None if graph.convention is None else graph.convention.record
    if isinstance(record, DecoderDialect) and record.size and graph.inputs[record.size].dtype.kind == "f":
        yield f"{record.size} sets shapes and is a float: TensorRT takes integers for that"
    if isinstance(record, EncoderDialect) and record.layout == "hwc":
        yield "height and width of the image are free, and its attention is fixed: one engine for one size"
