"""float16 written into a graph, so that one file means the same on every backend.

Inputs and outputs stay float32; the body and its weights become float16, except for what float16 cannot represent,
which stays float32 between casts (half_islands.py). Types are propagated so that the operands of every node have one
type, as strongly typed networks of TensorRT require. Lower rungs keep more in float32. Needs only onnx and numpy,
because a board that builds engines has no torch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from samedge.errors import UsageError
from samedge.export.graphs.graph_view import GraphView, drop_unused_constants, replace_nodes
from samedge.export.precision.half_islands import HALF_MAX, MOVES, islands

HALF_RUNGS: Final[tuple[str, ...]] = ("fp16", "fp16-norms", "fp16-attention", "fp32")
"""All float16; LayerNorm and softmax in float32; attention in float32 too; unchanged."""

_SINGLE_INPUTS: Final = {"Resize": (1, 2)}
"""Inputs that stay float32 whatever the type of the node."""


@dataclass(frozen=True, slots=True)
class HalfReport:
    """Outcome of `to_half`.

    Attributes:
        rung: The rung.
        fp16_nodes: Nodes with float16 inputs or outputs.
        fp32_nodes: Nodes with float32 inputs or outputs, not counting casts.
        casts: Casts added between the two.
        clipped_constants: Weights clipped to float16's range.
        islands: Reasons why nodes stayed float32, with the number of nodes.
    """

    rung: str
    fp16_nodes: int
    fp32_nodes: int
    casts: int
    clipped_constants: int
    islands: tuple[tuple[str, int], ...] = ()


def to_half(model: onnx.ModelProto, rung: str) -> HalfReport:
    """Convert a float32 graph to float16 as far as a rung says, in place.

    Args:
        model: The graph with its weights.
        rung: One of `HALF_RUNGS`.

    Raises:
        UsageError: The rung is unknown.
        ExportError: The graph has branches or loops.
    """
    if rung not in HALF_RUNGS:
        raise UsageError(f"unknown rung {rung!r}", cure=f"Choose one of: {', '.join(HALF_RUNGS)}")
    view = GraphView(model)
    if rung == "fp32":
        return HalfReport(rung, 0, sum(_has_floats(view, index) for index in range(len(view.nodes))), 0, 0)
    single = islands(view, rung)
    plan = _Plan(view, single)
    rewritten = _Rewriting(view, plan)
    rewritten.convert_constants()
    replace_nodes(model.graph, rewritten.nodes)
    drop_unused_constants(model.graph)
    del model.graph.value_info[:]  # of the old types
    reasons = Counter(why for index, why in single.items() if _has_floats(view, index))
    return HalfReport(
        rung=rung,
        fp16_nodes=sum(kind is True for kind in plan.half_nodes),
        fp32_nodes=sum(kind is False and _has_floats(view, i) for i, kind in enumerate(plan.half_nodes)),
        casts=rewritten.casts,
        clipped_constants=rewritten.clipped,
        islands=tuple(sorted(reasons.items())),
    )


def _has_floats(view: GraphView, index: int) -> bool:
    node = view.nodes[index]
    return any(view.is_float(name) for name in (*node.input, *node.output))


class _Plan:
    """The type of every node and tensor.

    Attributes:
        half_nodes: For each node, True for float16.
        half: Names of the tensors produced in float16.
    """

    def __init__(self, view: GraphView, single: dict[int, str]) -> None:
        self._view = view
        self._single = single
        self.half: set[str] = set()
        self.half_nodes = [False] * len(view.nodes)
        for index in range(len(view.nodes)):
            self._place(index)
        self._place_sources()

    def _place(self, index: int) -> None:
        node, view = self._view.nodes[index], self._view
        if index in self._single or not _has_floats(view, index):
            return
        if node.op_type in ("Cast", "Shape", "Size"):  # accept any float; their result's type is fixed elsewhere
            return
        self.half_nodes[index] = node.op_type not in MOVES or any(name in self.half for name in view.floats_in(index))
        if self.half_nodes[index]:
            self.half.update(name for name in node.output if view.is_float(name))

    def _place_sources(self) -> None:
        """Give tensors made of integers or constants the type that their users expect, from the last node back."""
        view = self._view
        for index in reversed(range(len(view.nodes))):
            node = view.nodes[index]
            if index in self._single or view.floats_in(index) or not any(map(view.is_float, node.output)):
                continue
            if (node.op_type in MOVES or node.op_type == "Cast") and self._wanted_half(node):
                self.half_nodes[index] = True
                self.half.update(name for name in node.output if view.is_float(name))

    def _wanted_half(self, node: onnx.NodeProto) -> bool:
        users = [user for name in node.output for user in self._view.consumers(name)]
        return any(self.half_nodes[user] for user in users)


class _Rewriting:
    """The nodes with operands of one type, and the conversions of constants still to do.

    Attributes:
        nodes: The new nodes.
        casts: Number of added casts.
        clipped: Number of clipped constants, after `convert_constants`.
    """

    def __init__(self, view: GraphView, plan: _Plan) -> None:
        self._view, self._plan = view, plan
        self.nodes: list[onnx.NodeProto] = []
        self.casts = 0
        self.clipped = 0
        self._names = {name for node in view.nodes for name in (*node.input, *node.output)} | set(view.constants)
        self._as: dict[tuple[str, bool], str] = {}  # (tensor, in float16) to its name in this type
        self._constants: dict[str, dict[bool, list[tuple[onnx.NodeProto, int]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        outputs = {name for name in view.outputs if name in plan.half}
        for index, original in enumerate(view.nodes):
            node = onnx.NodeProto.FromString(original.SerializeToString())
            self._place_inputs(index, node)
            if plan.half_nodes[index]:
                _cast_to_half(node)
            renamed = self._rename_outputs(node, outputs)
            self.nodes.append(node)
            for name in renamed:
                self._cast(self._as[name, True], name, TensorProto.FLOAT)

    def _place_inputs(self, index: int, node: onnx.NodeProto) -> None:
        half, view = self._plan.half_nodes[index], self._view
        for place, name in enumerate(node.input):
            if not name or not view.is_float(name):
                continue
            wanted = half and place not in _SINGLE_INPUTS.get(node.op_type, ())
            if name in view.constants:
                self._constants[name][wanted].append((node, place))
            elif node.op_type not in ("Cast", "Shape", "Size"):  # these accept both types
                node.input[place] = self._in_type(name, wanted)
            else:
                node.input[place] = self._as.get((name, name in self._plan.half), name)

    def _in_type(self, name: str, half: bool) -> str:
        """Return the name of a tensor in a type, adding a cast if needed."""
        made_half = name in self._plan.half
        if half == made_half:
            return self._as.get((name, half), name)
        if (name, half) not in self._as:
            new = self._unused(f"{name}_{'fp16' if half else 'fp32'}")
            source = self._as.get((name, made_half), name)
            producer = self._view.producer(name)
            if producer is not None and self._view.nodes[producer].op_type == "Cast":
                source = self._view.nodes[producer].input[0]  # cast the integers directly, once
            self._cast(source, new, TensorProto.FLOAT16 if half else TensorProto.FLOAT)
            self._as[name, half] = new
        return self._as[name, half]

    def _rename_outputs(self, node: onnx.NodeProto, outputs: set[str]) -> list[str]:
        """Rename float16 results that are outputs of the graph: the name belongs to the float32 output."""
        renamed = []
        for place, name in enumerate(node.output):
            if name in outputs:
                node.output[place] = self._as[name, True] = self._unused(f"{name}_fp16")
                self._as[name, False] = name
                renamed.append(name)
        return renamed

    def _cast(self, source: str, target: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], name=self._unused(f"cast_{target}"), to=kind))
        self.casts += 1

    def _unused(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def convert_constants(self) -> None:
        """Convert the constants that are used in float16."""
        for name, uses in self._constants.items():
            if not uses[True]:
                continue
            tensor = self._view.constants[name]
            half, clipped = _half_tensor(tensor)
            self.clipped += clipped
            if uses[False]:  # keep both
                half.name = self._unused(f"{name}_fp16")
                for node, place in uses[True]:
                    node.input[place] = half.name
                self._view.graph.initializer.append(half)
            else:
                tensor.CopyFrom(half)


def _cast_to_half(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            attribute.i = TensorProto.FLOAT16


def _half_tensor(tensor: TensorProto) -> tuple[TensorProto, bool]:
    """Return a float32 initializer in float16, and whether numbers were clipped."""
    values = numpy_helper.to_array(tensor)
    beyond = np.isfinite(values) & (np.abs(values) > HALF_MAX)
    clipped = bool(beyond.any())
    if clipped:
        values = np.where(beyond, np.copysign(np.float32(HALF_MAX), values), values)
    return numpy_helper.from_array(values.astype(np.float16), tensor.name), clipped
