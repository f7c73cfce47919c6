"""Exchange the operator inside a transformers model for ours, and back."""

from types import TracebackType
from typing import Any

from torch import nn

from .operators import Carrier, bring_back, find_carrier, is_accelerated


class Acceleration:
    """What ``accelerate`` did to a model, and the way back.

    As a context manager it undoes itself at the end.

    Attributes:
        names: The modules whose operator was replaced, as in ``model.named_modules()``.
        left: The modules whose operator had to be left, each with the reason.
    """

    def __init__(self, carriers: dict[str, Carrier]) -> None:
        served = {name: c for name, c in carriers.items() if c.obstacle is None}
        self.names = tuple(served)
        self.left = {name: c.obstacle for name, c in carriers.items() if c.obstacle is not None}
        self._modules = [carrier.module for carrier in served.values()]
        for carrier in served.values():
            carrier.exchange()

    @property
    def replaced(self) -> int:
        """How many operators were replaced."""
        return len(self.names)

    def undo(self) -> None:
        """Put the model's own operators back, except where something else has replaced ours."""
        for module in self._modules:
            bring_back(module)

    def __repr__(self) -> str:
        return f"Acceleration(replaced={self.replaced}, left={len(self.left)})"

    def __enter__(self) -> "Acceleration":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


def accelerate(model: nn.Module) -> Acceleration:
    """Let a transformers model compute with this library's operator.

    Replaces multi-scale deformable attention in this one model: other models, the classes of
    transformers, the weights and the names in the state dict stay as they are. The model then
    returns and learns the same up to rounding, on every device, also compiled; its copies and
    pickles are accelerated too (``restore`` undoes it in them), ``save_pretrained`` writes what it
    always wrote.

    Serves every model of transformers 5.23 that carries the operator: Deformable DETR, RT-DETR and
    RT-DETRv2, D-FINE, DEIMv2, LW-DETR, RF-DETR, Grounding DINO, MM Grounding DINO, OmDet-Turbo,
    PP-DocLayoutV2, V3 and V4, Mask2Former, OneFormer; and models of your own that contain their
    parts. Two kinds are left as they are: ``decoder_method="discrete"`` of RT-DETRv2, D-FINE and
    DEIMv2, which is another operator, and modules whose forward a hook or a hub kernel has set.

    Args:
        model: A model of transformers, or any module that contains parts of one.

    Returns:
        How many operators were replaced, which, and ``undo()``.

    Raises:
        ValueError: If there is nothing to replace: the model carries no such operator, only ones
            that must be left, or has been accelerated before.
    """
    found = {name: find_carrier(module) for name, module in model.named_modules()}
    carriers = {name: carrier for name, carrier in found.items() if carrier is not None}
    acceleration = Acceleration(carriers)
    if not acceleration.replaced:
        raise ValueError(_why_nothing(model, acceleration.left))
    return acceleration


def restore(model: nn.Module) -> int:
    """Put a model's own operators back, whoever accelerated it, or what it is a copy of.

    ``Acceleration.undo`` does so in the model that it was returned for, and only there.

    Args:
        model: As for ``accelerate``.

    Returns:
        How many operators were put back; 0 if the model was not accelerated.
    """
    return sum(bring_back(module) for module in model.modules())


def _why_nothing(model: nn.Module, left: dict[str, Any]) -> str:
    kind = type(model).__name__
    before = sum(is_accelerated(module) for module in model.modules())
    if before:
        return (
            f"{kind} was accelerated before, all {before} operators of it; "
            "call saccade.compat.restore(model) first, or use it as it is."
        )
    if left:
        name, reason = next(iter(left.items()))
        return f"{kind} has {len(left)} operators but none can be replaced; in {name}, {reason}."
    return (
        f"{kind} has no multi-scale deformable attention in a form that transformers writes; "
        "pass a model such as DeformableDetrForObjectDetection."
    )
