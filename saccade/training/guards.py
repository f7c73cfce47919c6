"""The first number that is not finite: where it arises, and what becomes of its step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from saccade.structures import Batch, Targets
from saccade.training.sharding import is_sharded, local
from saccade.training.step_images import StepImages

MOST_IN_A_ROW = 10
"""A run that skips stops after so many steps that were left out one after another."""
REMEDY = "lower optimizer.learning_rate, and look at the annotations of these images."

What = Literal["loss", "gradients"]
SENTENCES: dict[What, str] = {
    "loss": "the loss is not finite",
    "gradients": "the gradients are not finite although the loss is,",
}

NOT_HERE = "not in this process's last batch, which is finite when it is repeated"

Losses = Callable[[Batch, list[Targets]], Tensor]
"""The total loss of a batch."""
FileOf = Callable[[int], Path | None]
"""The file of an image by its id, None if it has none."""


@dataclass(frozen=True)
class Moment:
    """One process's batch, and what is needed to repeat it."""

    batch: Batch
    targets: list[Targets]
    seed: int
    """Of torch's generators, set before the forward pass."""
    name: str
    """Such as "step 3 (epoch 1, batch 3)"."""
    images: StepImages
    """Of the step that the batch belongs to."""


class NonFiniteGuard:
    """Explains a loss or gradient that is not finite, then stops the run or leaves the step out.

    Nothing is watched while all is finite: the batch is repeated with hooks once it is not.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Losses,
        policy: Literal["stop", "skip"],
        file_of: FileOf,
    ) -> None:
        """Watch nothing.

        Args:
            model: The detector that `losses` runs.
            losses: Repeats the forward pass as in training; called in every process.
            policy: What to do about it.
            file_of: Names the images.
        """
        self.model = model
        self.losses = losses
        self.policy = policy
        self.file_of = file_of
        self.in_a_row = 0
        self._running = running_statistics(model) if policy == "skip" else []
        self._kept: list[Tensor] = []

    def before(self) -> None:
        """Keep what a forward pass changes for good, if a step may be left out."""
        self._kept = [statistic.clone() for statistic in self._running]

    def handle(self, what: What, moment: Moment) -> str:
        """Apply the policy, in every process; torch's generators are changed.

        Returns:
            What to warn of; the caller takes no step.

        Raises:
            ValueError: If the policy is to stop, or too many steps were left out in a row.
        """
        if self.policy == "skip" and what == "loss":
            for statistic, kept in zip(self._running, self._kept, strict=True):
                statistic.copy_(kept)
        if what == "gradients" and is_sharded(self.model):
            # Its weights are not those that a backward pass by hand would reach.
            culprit = "of which module is not told where launch.strategy is fsdp"
        else:
            culprit = find_non_finite(self.model, self.losses, moment, what == "gradients")
        files = [str(self.file_of(each.image_id) or "no file") for each in moment.targets]
        ids = ", ".join(str(each.image_id) for each in moment.targets)
        place = f"{culprit} (images here: {', '.join(files)}; image ids here: {ids})"
        message = f"{SENTENCES[what]} at {moment.name}: {_first_to_know(place)}"
        if self.policy == "stop":
            raise ValueError(f"{message}: {REMEDY}")
        self.in_a_row += 1
        if self.in_a_row >= MOST_IN_A_ROW:
            raise ValueError(
                f"{message}: this was the {MOST_IN_A_ROW}th step in a row to be left out: {REMEDY}"
            )
        return f"{message}; the step is left out."


def find_non_finite(model: nn.Module, losses: Losses, moment: Moment, backward: bool) -> str:
    """Repeat a batch with hooks on every module; the model is left as it was.

    Every process repeats its own, whatever it finds: they wait for each other in the loss.

    Returns:
        The first place, in the order of computation, that holds a number that is not finite.
    """
    given = _given(model, moment)
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trained = [each for each in model.parameters() if each.requires_grad]
    torch.manual_seed(moment.seed)
    try:
        # Compiled graphs pass the hooks inside of them by.
        with torch.compiler.set_stance("force_eager"), _hooks(model, backward) as found:
            try:
                total = losses(moment.batch, moment.targets)
                if backward and total.isfinite():
                    # Not backward(), which would wake the hooks of distributed training.
                    torch.autograd.grad(total, trained, allow_unused=True)
            except ValueError as error:
                # The matcher's, which says what is wrong with the predictions.
                found.append(str(error))
    finally:
        for name, buffer in model.named_buffers():
            buffer.data.copy_(kept[name])
    if given or found:
        return given or found[0]
    if not total.isfinite():
        return "every output of the detector is finite, the loss terms are not"
    return NOT_HERE


def _first_to_know(place: str) -> str:
    """What the first process tells whose batch it was, the same sentence in all of them."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return place
    places = [""] * distributed.get_world_size()
    distributed.all_gather_object(places, place)
    known = [number for number, each in enumerate(places) if not each.startswith(NOT_HERE)]
    number = known[0] if known else 0
    return f"in process {number}, {places[number]}"


def _given(model: nn.Module, moment: Moment) -> str:
    """What is not finite before anything is computed, or nothing."""
    # Not the statistics of a normalisation, which this batch may have spoiled already.
    for name, value in model.named_parameters():
        if not _is_finite(value):
            return f"the weights themselves are not, {name} the first, since a step before"
    if not _is_finite(moment.batch.images):
        return "the images themselves are not"
    for target in moment.targets:
        if not _is_finite(target.boxes):
            return f"the boxes of image {target.image_id} are not"
    return ""


@contextmanager
def _hooks(model: nn.Module, backward: bool) -> Iterator[list[str]]:
    found: list[str] = []
    handles: list[Any] = []

    def watch_gradient(tensor: Tensor, place: str) -> None:
        def look(gradient: Tensor) -> None:
            if not found and not _is_finite(gradient):
                found.append(f"first in the gradient of {place}, {_amount(gradient)}")

        handles.append(tensor.register_hook(look))  # type: ignore[no-untyped-call]

    def watch(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, _: Any, outputs: Any) -> None:
            # A structure may hold an infinite limit on purpose.
            allowed = not isinstance(outputs, Tensor)
            for tensor in _tensors(outputs):
                if not found and not _is_finite(tensor, infinity=allowed):
                    kind = type(module).__name__
                    found.append(f"first in the output of {path} ({kind}), {_amount(tensor)}")
                if backward and tensor.requires_grad:
                    watch_gradient(tensor, f"the output of {path}")

        return look

    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_hook(watch(path or "the detector")))
        if backward:
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    watch_gradient(parameter, name)
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            yield from _tensors(each)


def _is_finite(tensor: Tensor, infinity: bool = False) -> bool:
    if not tensor.is_floating_point():
        return True
    tensor = local(tensor)
    return not (tensor.isnan() if infinity else ~tensor.isfinite()).any().item()


def _amount(tensor: Tensor) -> str:
    wrong = int((~tensor.isfinite()).sum())
    return f"{wrong} of its {tensor.numel()} numbers"


def running_statistics(model: nn.Module) -> list[Tensor]:
    """What batch normalisation counts along: a forward pass alone spoils it."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        for buffer in module.buffers(recurse=False)
    ]
