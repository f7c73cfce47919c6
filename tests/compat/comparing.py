"""Run a model of transformers forward and backward, and compare two runs."""

import re
from typing import Any

import torch
from torch import Tensor, nn

Results = tuple[dict[str, Tensor], dict[str, Tensor]]

_FEEDS_THE_OPERATOR = re.compile(
    r"\.(sampling_offsets|attention_weights|value_proj|output_proj)\.(weight|bias)$"
)


def run(model: nn.Module, given: dict[str, Tensor]) -> Results:
    """All outputs, and the gradients of all weights from a random weighting of the outputs."""
    for cache in ("language_cache_class", "language_cache_prompt"):
        if hasattr(model, cache):  # OmDet-Turbo keeps texts with their graph from call to call
            getattr(model, cache).cache.clear()
    model.zero_grad()
    outputs = dict(floats_of("", model(**given)))
    torch.manual_seed(2)
    loss = torch.zeros(())
    for output in outputs.values():
        # What stands for minus infinity in the logits of padding is not an output.
        output = torch.where(output.abs() < 1e4, output, 0)
        loss = loss + (output * torch.randn(output.shape).to(output)).sum()
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: output.detach() for name, output in outputs.items()}, grads


def floats_of(name: str, output: Any) -> list[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        return [(name, output)] if output.is_floating_point() else []
    if isinstance(output, dict):
        parts = list(output.items())
    else:
        parts = list(enumerate(output)) if isinstance(output, list | tuple) else []
    return [leaf for key, part in parts for leaf in floats_of(f"{name}.{key}", part)]


def assert_equal(ours: Results, theirs: Results, tolerance: float) -> None:
    """Within ``tolerance`` relative, each tensor by its norm.

    So are gradients of what the operator is fed by, however small. Others may be zero but for
    rounding, as that of a key's bias: they are held to a thousandth of the largest.
    """
    for mine, others in zip(ours, theirs, strict=True):
        assert mine.keys() == others.keys()
        norms = {name: other.norm() for name, other in others.items()}
        floor = 1e-3 * max((norm for norm in norms.values() if norm.isfinite()), default=0)
        for name, other in others.items():
            error = (mine[name] - other).norm()
            if _FEEDS_THE_OPERATOR.search(name):
                assert 0 < norms[name] < torch.inf, (name, norms[name])
                assert error <= tolerance * norms[name], (name, error, norms[name])
            elif norms[name] > 1e6:
                torch.testing.assert_close(mine[name], other)
            else:
                assert error <= tolerance * max(norms[name], floor), (name, error, norms[name])
