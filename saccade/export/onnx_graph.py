"""Looking at an ONNX graph, and changing it, as fp16 and int8 need to."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from saccade.export.onnx_file import needed


def module_of(name: str) -> str:
    """The module that a node of this name calculates for; empty for the graph itself."""
    module, slash, _ = name.partition("/")
    return module if slash else ""


def sampling_modules(nodes: Iterable[tuple[str, str]]) -> set[str]:
    """Of nodes (type, name), the modules that sample: what they calculate is places."""
    return {module_of(name) for kind, name in nodes if kind == "GridSample"}


class Graph:
    """An ``onnx.GraphProto`` with its numbers by name."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.numbers = {each.name: each for each in graph.initializer}
        self.sampling = sampling_modules((node.op_type, node.name) for node in graph.node)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """An initializer."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.numbers[name])

    def add(self, name: str, array: np.ndarray[Any, Any]) -> str:
        """A new initializer, or the one of this name; its name."""
        from onnx import numpy_helper

        if name not in self.numbers:
            self.graph.initializer.append(numpy_helper.from_array(array, name))
            self.numbers[name] = self.graph.initializer[-1]
        return name

    def replace_nodes(self, nodes: Iterable[Any]) -> None:
        """Other nodes, in the order of calculation; what only the old ones used is dropped."""
        kept = list(nodes)
        del self.graph.node[:]
        self.graph.node.extend(kept)
        used = {name for node in kept for name in node.input}
        written = {name for node in kept for name in node.output}
        _keep(self.graph.initializer, lambda each: each.name in used)
        _keep(self.graph.value_info, lambda each: each.name in written)
        self.numbers = {each.name: each for each in self.graph.initializer}


def _keep(entries: Any, wanted: Callable[[Any], bool]) -> None:
    for index in reversed(range(len(entries))):
        if not wanted(entries[index]):
            del entries[index]


def fold_norms(graph: Graph) -> None:
    """Put batch norms into the convolutions before them, as runtimes do; but in float32."""
    needed("onnx")
    readers = Counter(name for node in graph.graph.node for name in node.input)
    makers = {node.output[0]: node for node in graph.graph.node if node.op_type == "Conv"}
    nodes = []
    for node in graph.graph.node:
        conv = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is None or readers[conv.output[0]] > 1:
            nodes.append(node)
            continue
        gain, shift, mean, variance = (graph.array(name) for name in node.input[1:5])
        (epsilon,) = [each.f for each in node.attribute if each.name == "epsilon"] or [1e-5]
        scale = gain / np.sqrt(variance + epsilon)
        weight = graph.array(conv.input[1])
        bias = graph.array(conv.input[2]) if len(conv.input) > 2 else np.zeros_like(mean)
        names = [f"{conv.name}/{kind}" for kind in ("weight", "bias")]
        folded = (weight * scale[:, None, None, None], (bias - mean) * scale + shift)
        read = [graph.add(name, each) for name, each in zip(names, folded, strict=True)]
        conv.input[:] = [conv.input[0], *read]
        conv.output[0] = node.output[0]
    graph.replace_nodes(nodes)
