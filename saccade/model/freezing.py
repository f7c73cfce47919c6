"""Parts of a detector that training leaves alone, named by their place in the module."""

from collections.abc import Iterable, Sequence

from torch import nn


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Take parts out of training: their parameters then have no gradients.

    The statistics of their batch norms are the matter of `statistics_of`.

    Args:
        model: A detector.
        parts: Attributes of its modules, such as "backbone" or "encoder.layers.0".

    Raises:
        ValueError: If there is no such part, or nothing would be left to train.
    """
    modules = [find_part(model, part) for part in parts]
    frozen = {id(each) for module in modules for each in module.parameters()}
    if parts and all(id(each) in frozen for each in model.parameters() if each.requires_grad):
        raise ValueError(
            f"freeze names {' '.join(parts)}, and nothing is left to train: leave out at least one."
        )
    for module in modules:
        module.requires_grad_(False)


def find_part(model: nn.Module, part: str) -> nn.Module:
    """The module at a path of attributes.

    Raises:
        ValueError: If there is none, or it has nothing to train; it tells which there are.
    """
    module, found = model, ""
    for name in part.split("."):
        inner = dict(module.named_children()).get(name)
        if inner is None or not _has_parameters(inner):
            known = " ".join(f"{found}{child}" for child in _parts(module)) or "none"
            raise ValueError(
                f'freeze names "{part}", which this detector does not have: expected some of '
                f"{known}"
                + (", or modules within these, such as encoder.layers.0." if not found else ".")
            )
        module, found = inner, f"{found}{name}."
    return module


def statistics_of(model: nn.Module, parts: Sequence[str]) -> Iterable[nn.Module]:
    """The batch norms of frozen parts: in evaluation mode they neither use nor count a batch."""
    for part in parts:
        for module in model.get_submodule(part).modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                yield module


def _parts(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_children() if _has_parameters(child)]


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
