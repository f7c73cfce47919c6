"""Parts of a model that compute the same in another way for a while."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]


@contextmanager
def replaced(
    parts: Iterable[nn.Module], change: Callable[[nn.Module, Forward], Forward]
) -> Iterator[None]:
    """Inside, parts have the forward that `change` makes of theirs; such contexts may be nested.

    Hooks and the names of weights stay.

    Args:
        parts: Not inside of each other. Those of a single operation stay as they are.
        change: Given a part and its forward.
    """
    before: list[tuple[nn.Module, Forward | None]] = []
    try:
        for part in parts:
            if next(part.children(), None) is not None:
                before.append((part, vars(part).get("forward")))
                part.forward = change(part, part.forward)
        yield
    finally:
        for part, forward in before:
            if forward is None:
                # That of its class shows again.
                vars(part).pop("forward", None)
            else:
                part.forward = forward
