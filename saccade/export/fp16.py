"""ONNX files in half precision: what is large and sturdy in float16, places in float32."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from saccade.export.onnx_file import needed
from saccade.export.onnx_graph import Graph, fold_norms, module_of
from saccade.export.quantise import is_fragile

PRODUCTS = ("Conv", "MatMul", "Gemm")
"""Nearly all of the time, and nearly all of the weights."""
FOLLOWERS = ("Add", "Relu", "MaxPool")
"""What may be done to a half before it is widened: sums with weights or other halves, mostly."""


def halve_onnx(file: Path) -> None:
    """Write convolutions and matrix products in float16, in place; inputs and outputs stay.

    Everything else stays float32: sums, norms, softmax and logits, and above all places. A float16
    between 0.5 and 1 has steps of 1/2048, more than half a pixel of an image 1,333 wide.

    Raises:
        ValueError: If onnx is not installed.
    """
    onnx = needed("onnx")
    model = onnx.load(file)
    graph = Graph(model.graph)
    fold_norms(graph)
    _Halving(graph).run()
    onnx.save(model, file)


class _Halving:
    """Of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.halves: set[str] = set()
        """Names of what nodes in float16 write."""
        self.narrowed: set[str] = set()
        """Names of what is cast from float32 already."""

    def run(self) -> None:
        nodes = list(self.graph.graph.node)
        chosen = [self._choose(node) for node in nodes]
        wide = {each.name for each in self.graph.graph.output}
        for node, half in zip(nodes, chosen, strict=True):
            wide.update(() if half else node.input)
        result: list[Any] = []
        for node, half in zip(nodes, chosen, strict=True):
            if half:
                result.extend(self._halved(node, wide))
            else:
                result.append(node)
        self.graph.replace_nodes(result)

    def _choose(self, node: Any) -> bool:
        """Whether it is for float16; nodes come in the order of calculation."""
        module = module_of(node.name)
        half = bool(module) and not is_fragile(module) and len(node.output) == 1
        if node.op_type in PRODUCTS:
            half = half and any(self._is_weight(name) for name in node.input)
        elif node.op_type in FOLLOWERS and module not in self.graph.sampling:
            known = [name in self.halves or self._is_weight(name) for name in node.input]
            half = half and all(known) and any(name in self.halves for name in node.input)
        else:
            half = False
        if half:
            self.halves.update(node.output)
        return half

    def _is_weight(self, name: str) -> bool:
        """Whether it is of numbers that float16 can hold."""
        if name not in self.graph.numbers:
            return False
        array = self.graph.array(name)
        largest = np.finfo(np.float16).max
        return array.dtype == np.float32 and bool((np.abs(array) <= largest).all())

    def _halved(self, node: Any, wide: set[str]) -> Iterator[Any]:
        from onnx import TensorProto, helper

        for index, name in enumerate(node.input):
            half = _half(name)
            if name in self.graph.numbers:
                self.graph.add(half, self.graph.array(name).astype(np.float16))
            elif name not in self.halves | self.narrowed:
                self.narrowed.add(name)
                yield helper.make_node(
                    "Cast", [name], [half], f"{node.name}/narrow", to=TensorProto.FLOAT16
                )
            node.input[index] = half
        (name,) = node.output
        node.output[0] = _half(name)
        yield node
        if name in wide:
            yield helper.make_node(
                "Cast", [_half(name)], [name], f"{node.name}/widen", to=TensorProto.FLOAT
            )


def _half(name: str) -> str:
    return f"{name}/half"
