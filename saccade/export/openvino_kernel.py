"""Deformable attention inside of OpenVINO, by this library's own CPU kernels.

A file for others has GridSample, of which OpenVINO's takes six times as long as our kernels. Where
this library runs the model itself, it keeps the operator whole: OpenVINO calls back for it, and
does everything else. Such a file cannot be read without this library.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch

_NAME = "saccade.ms_deform_attn_fused.default"
"""What OpenVINO's converter calls ``torch.ops.saccade.ms_deform_attn_fused``."""

# The operator's arguments: value, sides, points, references, offsets, logits, box_scale, backend.
_TENSORS = (0, 1, 3, 4, 5)
_POINTS, _BOX_SCALE = 2, 6


@functools.cache
def operation() -> Any:
    """The operator as an OpenVINO operation class, to be given to ``Core.add_extension``."""
    import openvino

    from saccade.ops.ms_deform_attn import cpu

    class MsDeformAttnFused(openvino.Op):  # type: ignore[misc]
        """Inputs: value [B,S,M,D], sides [2L], references, offsets [B,Q,M,K,2], logits."""

        def __init__(
            self, inputs: Any = None, points: Sequence[int] = (0,), box_scale: float = 0.5
        ) -> None:
            super().__init__(self)
            self.points = list(points)
            self.box_scale = box_scale
            if inputs is not None:
                self.set_arguments(inputs)
                self.constructor_validate_and_infer_types()

        def validate_and_infer_types(self) -> None:
            """[B, Q, M*D] of the value's dtype."""
            value, offsets = self.get_input_partial_shape(0), self.get_input_partial_shape(3)
            known = value[2].is_static and value[3].is_static
            width = value[2].get_length() * value[3].get_length() if known else -1
            shape = [offsets[0], offsets[1], openvino.Dimension(width)]
            self.set_output_type(0, self.get_input_element_type(0), openvino.PartialShape(shape))

        def clone_with_new_inputs(self, inputs: Any) -> "MsDeformAttnFused":
            """The same with other inputs."""
            return MsDeformAttnFused(inputs, self.points, self.box_scale)

        def visit_attributes(self, visitor: Any) -> bool:
            """What a file holds of the operation."""
            attributes = {"points": self.points, "box_scale": self.box_scale}
            visitor.on_attributes(attributes)
            self.points = [int(count) for count in attributes["points"]]  # type: ignore[attr-defined]
            self.box_scale = float(attributes["box_scale"])  # type: ignore[arg-type]
            return True

        def has_evaluate(self) -> bool:
            """OpenVINO has no kernel of its own for it."""
            return True

        def evaluate(self, outputs: Any, inputs: Any) -> bool:
            """Calculate; inputs are read where they lie."""
            value, sides, references, offsets, logits = (
                torch.from_numpy(each.data) for each in inputs
            )
            lengths = sides.tolist()
            shapes = list(zip(lengths[::2], lengths[1::2], strict=True))
            result = cpu.fused_forward(
                value, shapes, self.points, references, offsets, logits, self.box_scale
            )
            outputs[0].shape = list(result.shape)
            outputs[0].data[...] = result.numpy()
            return True

    return MsDeformAttnFused


def convert_with_kernel(program: torch.export.ExportedProgram) -> Any:
    """An ``openvino.Model`` of an exported detector that keeps the operator whole."""
    import openvino
    from openvino.frontend.pytorch import ConversionExtension

    def convert(context: Any) -> Any:
        inputs = [context.get_input(index) for index in _TENSORS]
        points = context.get_values_from_const_input(_POINTS)
        box_scale = context.get_values_from_const_input(_BOX_SCALE)
        return operation()(inputs, points, box_scale).outputs()

    return openvino.convert_model(program, extension=[ConversionExtension(_NAME, convert)])
