"""The exponential moving average of a detector's weights over the steps of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from saccade.training.guards import running_statistics
from saccade.training.sharding import divided, local


class WeightAverage:
    """The average that is evaluated and saved in place of the weights that train.

    After step t it is ``d * average + (1 - d) * weights`` with ``d = min(decay, (1 + t) / (10 +
    t))``, so that the random weights of the beginning are forgotten soon. The running statistics
    of batch norms are averaged like the weights that they belong to; what is frozen stays itself.
    It costs one more copy of the trained weights, and a pass over them in each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the present weights.

        Args:
            model: On its device, set up for its processes.
            decay: Below 1; 0 averages nothing, and the weights themselves take its place.
        """
        self.decay = decay
        self.updates = 0
        """Steps that are part of the average."""
        averaged = _averaged(model) if decay else {}
        self._names = list(averaged)
        self._weights = list(averaged.values())
        self._averages = [each.detach().clone() for each in self._weights]

    @property
    def present_decay(self) -> float:
        """What the next update keeps of the average."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    def update(self) -> None:
        """Take the weights after a step into the average."""
        if not self._weights:
            return
        blend = get_ema_multi_avg_fn(self.present_decay)  # type: ignore[no-untyped-call]
        # Of divided weights each process averages its part.
        blend(
            *([local(each) for each in tensors] for tensors in (self._averages, self._weights)),
            None,
        )
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, and the same weights as before again afterwards."""
        kept = [each.detach().clone() for each in self._weights]
        try:
            self.apply()
            yield
        finally:
            _copy(kept, self._weights)

    def apply(self) -> None:
        """Leave the average in the model, which then trains no further."""
        _copy(self._averages, self._weights)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        averages = dict(zip(self._names, self._averages, strict=True))
        return {"updates": self.updates, "averages": averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        A state without averages, of a run that made none, leaves the present weights as the start.

        Raises:
            ValueError: If it averages other weights than these.
        """
        averages = state["averages"]
        if not self._weights or not averages:
            return
        if averages.keys() != set(self._names):
            other = sorted(averages.keys() ^ set(self._names))[0]
            raise ValueError(
                f"the averaged weights in the checkpoint are not those that train now ({other} is "
                "only in one of them): resume the run with the same frozen parts."
            )
        self.updates = state["updates"]
        places = dict(zip(self._names, self._averages, strict=True))
        _copy([divided(averages[name], place) for name, place in places.items()], self._averages)


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and the statistics of batch norms, by name; no tensor twice."""
    statistics = {id(each) for each in running_statistics(model) if each.is_floating_point()}
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    return trained | {name: each for name, each in model.named_buffers() if id(each) in statistics}


@torch.no_grad()
def _copy(sources: list[Tensor], destinations: list[Tensor]) -> None:
    for source, destination in zip(sources, destinations, strict=True):
        local(destination).copy_(local(source))
