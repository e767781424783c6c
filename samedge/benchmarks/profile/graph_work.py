"""Work of a graph's nodes, and of the layers that backends fuse them into.

Backends fuse nodes into layers and name these after one or some of the nodes: `GraphWork.of_layers` adds up the work of
a layer's nodes, and counts only the bytes that enter and leave the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

from samedge.benchmarks.profile.operators import KINDS, Kind, kind_of_operator
from samedge.engines.layer_times import LayerTime

ComputePrecision: TypeAlias = Literal["fp32", "fp16", "int8"]

_VIEWS: Final = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape"})
"""Operators that change a tensor's shape without moving values."""
_PRODUCT_KINDS: Final = ("linear", "convolution", "attention")
_LONGEST_WAY: Final = 4
"""Maximum number of nodes between a product and the layer that absorbs it."""


@dataclass(frozen=True, slots=True)
class NodeWork:
    """Work of one node: operations of products and convolutions (2 per multiply-add), and tensors with weights."""

    name: str
    operator: str
    kind: Kind
    flops: int
    precision: ComputePrecision
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerWork:
    """Work of a layer: the sum of its nodes."""

    kind: Kind
    flops: int
    nbytes: int
    precision: ComputePrecision
    nodes: tuple[str, ...]


class GraphWork:
    """The nodes of a graph.

    Args:
        nodes: The nodes, in the order of the graph.
        nbytes: Bytes of each tensor of known shape.
        results: Names of the graph's outputs.
    """

    def __init__(self, nodes: Iterable[NodeWork], nbytes: Mapping[str, int], results: Iterable[str]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self._nbytes = nbytes
        self._results = frozenset(results)

    @property
    def flops(self) -> int:
        """Operations of all nodes."""
        return sum(node.flops for node in self.nodes.values())

    @cached_property
    def _readers(self) -> dict[str, set[str]]:
        readers: dict[str, set[str]] = {}
        for node in self.nodes.values():
            for tensor in node.inputs:
                readers.setdefault(tensor, set()).add(node.name)
        return readers

    @cached_property
    def _makers(self) -> dict[str, str]:
        return {tensor: node.name for node in self.nodes.values() for tensor in node.outputs}

    def find(self, name: str) -> str | None:
        """Return the node that a backend's layer name derives from: by its name, by a tensor's, or by a prefix.

        For example, "/a/MatMul/MatmulTransposeFusion/" derives from "/a/MatMul", "/a/Conv_output_0_nchwc" from
        "/a/Conv".
        """
        while name:
            if name in self.nodes:
                return name
            if name in self._makers:
                return self._makers[name]
            name = name[: max(name.rfind("/"), name.rfind("_"), 0)]
        return None

    def of_layers(self, layers: Sequence[LayerTime]) -> list[LayerWork | None]:
        """Return the work of each layer; None for one without nodes of the graph, such as a change of layout.

        A backend may name a fused product and addition after the addition. A product that no layer claims is therefore
        assigned to the layer that its result leads to, if the backend describes that layer as a product.
        """
        nodes = [dict.fromkeys(name for name in map(self.find, layer.sources) if name is not None) for layer in layers]
        owner = {name: at for at, own in enumerate(nodes) for name in own}
        products = [kind_of_operator(layer.operator) in _PRODUCT_KINDS for layer in layers]
        for node in self.nodes.values():
            if node.flops and node.name not in owner:
                path = self._path_to_product(node, owner, products)
                if path is not None:
                    at, passed = path
                    nodes[at] |= dict.fromkeys(passed)
                    owner |= dict.fromkeys(passed, at)
        return [self._of_nodes(own) for own in nodes]

    def _path_to_product(
        self, node: NodeWork, owner: Mapping[str, int], products: Sequence[bool]
    ) -> tuple[int, tuple[str, ...]] | None:
        """Return the first product layer that a node leads to, and the unclaimed nodes on the path."""
        waiting: list[tuple[str, ...]] = [(node.name,)]
        while waiting:
            passed = waiting.pop(0)
            for tensor in self.nodes[passed[-1]].outputs:
                for reader in sorted(self._readers.get(tensor, ())):
                    if reader in owner:
                        if products[owner[reader]]:
                            return owner[reader], passed
                    elif len(passed) < _LONGEST_WAY and not self.nodes[reader].flops:
                        waiting.append((*passed, reader))
        return None

    def _of_nodes(self, names: Mapping[str, None]) -> LayerWork | None:
        if not names:
            return None
        nodes = [self.nodes[name] for name in names]
        moves = any(node.operator not in _VIEWS for node in nodes)
        read = {tensor for node in nodes for tensor in node.inputs}
        made = {tensor for node in nodes for tensor in node.outputs}
        kept = {tensor for tensor in made if tensor in self._results or self._readers.get(tensor, set()) - names.keys()}
        main = max(nodes, key=lambda node: (node.flops, -KINDS.index(node.kind)))
        return LayerWork(
            main.kind,
            sum(node.flops for node in nodes),
            sum(self._nbytes.get(tensor, 0) for tensor in (read - made) | kept) if moves else 0,
            main.precision,
            tuple(names),
        )
