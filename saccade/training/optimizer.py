"""AdamW with the learning rates of Deformable DETR."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from saccade.recipe_config import OptimizerConfig

_SAMPLING_PROJECTIONS = ("sampling_offsets", "reference_points")


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The trained parameters of a detector, grouped by the learning rate of their module.

    The groups are "backbone" (``model.backbone``), "sampling" (every `nn.Linear` elsewhere that a
    module holds as ``sampling_offsets`` or ``reference_points``), "backbone sampling" (the offsets
    of deformable convolutions, Deformable ConvNets v2, section 3.2) and "other"; the part of a
    group that does not decay is named "... vectors". Empty groups are left out.

    With a `layer_decay` below 1 each is divided by the layer of the detector, as its
    ``layers_from_image`` tells them ("... of encoder.layers.0"), and the rate of a layer is
    multiplied by the decay once for every layer above it: not at all for the heads, once for the
    last layer of the decoder, twice for the one before it.

    Returns:
        Groups for a torch optimiser, with ``name`` and the ``initial_lr`` that
        `saccade.training.schedule.set_learning_rate` starts from.

    Raises:
        ValueError: If the model has no module named "backbone", or layers are asked for that it
            does not tell.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(
            f'{type(model).__name__} has no module named "backbone": pass the detector itself, '
            "not a wrapper around it."
        )
    kinds = {id(each): "sampling" for each in _sampling_parameters(model, nn.Linear)}
    kinds |= {id(each): "backbone" for each in backbone.parameters()}
    kinds |= {id(each): "backbone sampling" for each in _sampling_parameters(backbone, nn.Conv2d)}
    factors = {
        "other": 1.0,
        "backbone": config.backbone_factor,
        "sampling": config.sampling_factor,
        "backbone sampling": config.backbone_factor * config.sampling_factor,
    }
    groups: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for layer, below, parameters in _layers(model, config.layer_decay):
        for kind, factor in factors.items():
            for decayed in (True, False):
                name = kind if decayed else f"{kind} vectors"
                rate = config.learning_rate * factor * config.layer_decay**below
                groups[kind, layer, decayed] = {
                    "name": f"{name} of {layer}" if layer else name,
                    "params": [],
                    "lr": rate,
                    "initial_lr": rate,
                    "weight_decay": config.weight_decay if decayed else 0.0,
                }
        for parameter in parameters:
            if parameter.requires_grad:
                kind = kinds.get(id(parameter), "other")
                decayed = config.decay_vectors or parameter.ndim != 1
                groups[kind, layer, decayed]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, in one kernel per group where the device has it.

    Move the model to its device first: the choice of kernel looks at the parameters.

    Raises:
        ValueError: If the model has no module named "backbone", or no parameter is trained.
    """
    groups = parameter_groups(model, config)
    if not groups:
        raise ValueError(
            f"no parameter of {type(model).__name__} is trained: set requires_grad on those to "
            "train before building the optimiser."
        )
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, fused=devices <= {"cpu", "cuda"})


def with_present_options(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's saved state, with learning rates and decays as `optimizer` was built with.

    Raises:
        ValueError: If the saved one trained other parameters, or grouped them otherwise.
    """
    saved, now = state["param_groups"], optimizer.state_dict()["param_groups"]
    trained = [[(each.get("name"), len(each["params"])) for each in some] for some in (saved, now)]
    if trained[0] != trained[1]:
        raise ValueError(
            "the optimiser in the checkpoint trains other parameters, or groups them otherwise: "
            "resume the run with its own freeze, optimizer.layer_decay and optimizer.decay_vectors."
        )
    # The present rate is the schedule's, which goes on from the saved one.
    groups = [new | {"lr": old["lr"]} for old, new in zip(saved, now, strict=True)]
    return state | {"param_groups": groups}


def _layers(model: nn.Module, decay: float) -> Iterator[tuple[str, int, list[nn.Parameter]]]:
    """From the heads down: the layer's name, its distance, its parameters; or all as one."""
    if decay == 1:
        yield "", 0, list(model.parameters())
        return
    layers_from_image = getattr(model, "layers_from_image", None)
    if layers_from_image is None:
        raise ValueError(
            f"optimizer.layer_decay is {decay}, but {type(model).__name__} does not tell its "
            "layers: pass a DetectorModel, or set layer_decay to 1."
        )
    for below, (name, parameters) in enumerate(reversed(layers_from_image().items())):
        yield name, below, parameters


def _sampling_parameters(model: nn.Module, kind: type[nn.Module]) -> list[nn.Parameter]:
    projections = (
        getattr(module, name, None) for module in model.modules() for name in _SAMPLING_PROJECTIONS
    )
    return [
        parameter
        for projection in projections
        if isinstance(projection, kind)
        for parameter in projection.parameters()
    ]
