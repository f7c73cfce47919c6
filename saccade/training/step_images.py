"""What a loss is divided by: a step's images, over all its batches and in all processes."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import distributed

from saccade.structures import Batch, Targets

Item = tuple[Batch, list[Targets]]


@dataclass(frozen=True)
class StepImages:
    """How many objects the images of one step have.

    Gradients are added up over a process's batches and averaged over processes. What is divided by
    these numbers then adds up to the loss of one large batch, whatever the batches are.
    """

    num_objects: tuple[int, ...]
    """Of each image."""
    num_processes: int = 1

    @property
    def num_boxes(self) -> float:
        """Objects per process, on average; at least one for all of them."""
        return max(1, sum(self.num_objects)) / self.num_processes

    def num_matched(self, num_queries: int, repeats: int = 1) -> float:
        """Queries per process, on average, that have an object to learn, of `num_queries` each."""
        matched = sum(min(count * repeats, num_queries) for count in self.num_objects)
        return matched / self.num_processes

    @property
    def num_images(self) -> float:
        """Images per process, on average."""
        return len(self.num_objects) / self.num_processes


def images_of(targets: Iterable[Targets]) -> StepImages:
    """The images of this process and of those that train with it; all must call it."""
    here = tuple(len(each.labels) for each in targets)
    if not (distributed.is_available() and distributed.is_initialized()):
        return StepImages(here)
    num_processes = distributed.get_world_size()
    everywhere: list[tuple[int, ...]] = [()] * num_processes
    distributed.all_gather_object(everywhere, here)
    return StepImages(tuple(count for each in everywhere for count in each), num_processes)


def with_steps(
    items: Iterable[Item], batches_per_step: int
) -> Iterator[tuple[Batch, list[Targets], StepImages, bool]]:
    """Each batch with the images of the step it belongs to, and whether it is the step's last one.

    So many batches are read ahead as a step has: their images wait in memory. The last step takes
    what is left.
    """
    source = iter(items)
    ahead = deque(islice(source, batches_per_step))
    while ahead:
        images = images_of(_targets(ahead))
        for left in reversed(range(len(ahead))):
            batch, targets = ahead.popleft()
            yield batch, targets, images, left == 0
            # After the batch was used, so that a process's only batch is not held twice.
            ahead.extend(islice(source, 1))


def _targets(items: Iterable[Item]) -> Sequence[Targets]:
    return [each for _, targets in items for each in targets]
