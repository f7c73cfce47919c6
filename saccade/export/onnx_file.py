"""ONNX files: standard operators only, for every runtime."""

import ast
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.export import ExportedProgram

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 18
"""GridSample appeared in 16 and changed the names of its modes in 20; runtimes know 18 well."""


def needed(package: str) -> Any:
    """A package of the extra "export".

    Raises:
        ValueError: If it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"{package} cannot be imported ({error}): pip install 'saccade[export]'."
        ) from error


def write_onnx(
    program: ExportedProgram,
    file: Path,
    held: Mapping[str, str],
    outputs: Sequence[str] = ("logits", "boxes"),
    translations: Mapping[Any, Any] | None = None,
) -> None:
    """Write a graph.

    Args:
        program: Of operators of torch's alone.
        file: Overwritten.
        held: Goes into the file's ``metadata_props``.
        outputs: Names of the graph's outputs.
        translations: What operators become that are not torch's, for `torch.onnx.export`.
    """
    needed("onnxscript")
    import torch

    with _quiet():
        written = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(outputs),
            optimize=False,
            verbose=False,
            custom_translation_table=dict(translations) if translations else None,
        )
    assert written is not None
    _tidy(written.model)
    _name_nodes(written.model)
    _name_sizes(written.model)
    written.model.metadata_props.clear()
    written.model.metadata_props.update(held)
    written.save(file, external_data=False)


def _tidy(model: "ir.Model") -> None:
    """Fold what is constant and drop what is unused.

    Runtimes find all else by themselves, in a hundredth of the time that onnxscript's patterns
    would take.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.InlinePass()(model)
    optimizer.fold_constants(model, onnx_shape_inference=False)
    for each in (
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.RemoveUnusedNodesPass(),
    ):
        each(model)


def _name_nodes(model: "ir.Model") -> None:
    """Call each node after the module that it calculates for."""
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        modules = [scope for scope in scopes[:-1] if scope]
        module = modules[-1].removeprefix("model.") if modules else ""
        node.name = f"{module}/{node.name}" if module else node.name
        node.metadata_props.clear()


def _name_sizes(model: "ir.Model") -> None:
    """Call the open sides batch, height and width instead of s34, s14 and s54."""
    import onnx_ir as ir

    (images,) = model.graph.inputs
    assert images.shape is not None
    pairs = zip(images.shape, ("batch", "", "height", "width"), strict=True)
    names = {str(side.value): name for side, name in pairs if isinstance(side, ir.SymbolicDim)}
    for value in _values(model):
        if value.shape is None:
            continue
        value.shape = ir.Shape(
            re.sub(r"\bs\d+\b", lambda match: names.get(match[0], match[0]), str(side.value))
            if isinstance(side, ir.SymbolicDim)
            else side
            for side in value.shape
        )


def _values(model: "ir.Model") -> Iterator["ir.Value"]:
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own insides."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
