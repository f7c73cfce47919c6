"""Weights divided among processes, a layer at a time (FSDP2: torch's ``fully_shard``)."""

import warnings
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree as pytree

from saccade.structures import Origins, Predictions, Queries, Tokens


def shard(losses: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Divide the weights of a detector among processes: each of its parts by itself, then the rest.

    A part's weights are gathered while it computes, forward and backward. Only `losses` itself can
    be called afterwards, in all processes together.

    Args:
        losses: Holds the detector as ``model`` and no weights besides.
        mesh: The processes in its first dimension; others have size 1.
    """
    # No layer writes into what another one returned, of which this warns in every run.
    warnings.filterwarnings("ignore", r"\s*FSDP2-wrapped module .* returned a view tensor")
    for structure in (Tokens, Origins, Queries, Predictions):
        _show_tensors(structure)
    # The only order of a tensor's numbers that can be divided.
    losses.to(memory_format=torch.contiguous_format)
    processes = mesh[mesh.mesh_dim_names[0]] if mesh.mesh_dim_names else mesh
    for part in parts(losses.model):
        fully_shard(part, mesh=processes)
    fully_shard(losses, mesh=processes)
    return losses


def parts(model: Any) -> list[nn.Module]:
    """Stages of a detector's backbone and layers of its encoder and decoder."""
    body = model.backbone.body
    # Backbones of other kinds call what is inside of their stages.
    stages = body.children() if isinstance(body, nn.ModuleDict) else getattr(body, "stages", ())
    found = [*stages, *model.encoder.layers, *model.decoder.layers]
    return [part for part in found if any(True for _ in part.parameters())]


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are divided."""
    return any(isinstance(each, DTensor) for each in model.parameters())


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def whole(state: Any, keep: bool = True) -> Any:
    """The same nested dictionaries and lists with complete tensors in place of parts.

    Called in every process, one tensor is complete at a time.

    Args:
        state: Of a model or an optimiser.
        keep: Whether this process wants it; what was divided is None where it does not.

    Returns:
        The state itself where nothing is divided. What was divided comes on the CPU.
    """
    if isinstance(state, DTensor):
        complete = state.full_tensor().detach()
        return complete.cpu() if keep else None
    if isinstance(state, dict):
        return {name: whole(each, keep) for name, each in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(each, keep) for each in state)
    return state


def divided(complete: Tensor, like: Tensor) -> Tensor:
    """A complete tensor, the same in every process, divided as another is."""
    if not isinstance(like, DTensor) or isinstance(complete, DTensor):
        return complete
    whole_like = complete.to(like.device, memory_format=torch.contiguous_format)
    return distribute_tensor(whole_like, like.device_mesh, like.placements)


def divided_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    """The complete state of an optimiser, divided and laid out as `optimizer`'s parameters are.

    A fused optimiser walks through memory: the numbers of a state must be in a parameter's order,
    which need not be that of the run that saved them.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    of_parameters = {
        index: {
            name: _laid_out(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return state | {"state": of_parameters}


def _laid_out(complete: Tensor, parameter: Tensor) -> Tensor:
    if isinstance(parameter, DTensor):
        return divided(complete, parameter)
    return torch.empty_like(parameter, dtype=complete.dtype).copy_(complete)


def _show_tensors(structure: type[Any]) -> None:
    """Let torch, whose hooks look for gradients in what a layer returns, see into a dataclass."""
    if structure in pytree.SUPPORTED_NODES:
        return
    names = [field.name for field in fields(structure)]
    pytree.register_pytree_node(
        structure,
        lambda value: ([getattr(value, name) for name in names], None),
        lambda values, _: structure(*values),
    )
