"""Several batches make the step that one large batch would make."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade.data import collate
from saccade.model import DetectorModel
from saccade.recipe_config import LossConfig
from saccade.run import train
from saccade.run_config import RunConfig
from saccade.structures import Batch, Sample, Targets
from saccade.training import SetCriterion, loop
from saccade.training.loss_model import LossModel
from saccade.training.step_images import StepImages, images_of, with_steps
from tests.conftest import small_config

NUM_OBJECTS = (0, 7, 1, 20, 2)
"""Of five images; the fourth has more than there are queries."""


def samples() -> list[tuple[Tensor, Targets]]:
    torch.manual_seed(3)
    found = []
    for count in NUM_OBJECTS:
        corners = torch.rand(count, 2) * 40
        boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2) * 20], -1)
        labels = torch.randint(2, (count,))
        found.append((torch.randn(3, 64, 64), Targets(boxes, labels, size=(64, 64))))
    return found


def batches_of(size: int) -> list[tuple[Batch, list[Targets]]]:
    found = samples()
    groups = [found[start : start + size] for start in range(0, len(found), size)]
    batches = [collate([Sample(*each) for each in group]) for group in groups]
    return [(replace(batch, images=batch.images.double()), rest) for batch, rest in batches]


def gradients(kind: str, batch_size: int, batches_per_step: int) -> list[Tensor]:
    """Of all parameters, and the sums of all losses, for each of the steps."""
    config = small_config(kind)
    config = replace(config, denoising=replace(config.denoising, num_queries=0))
    torch.manual_seed(0)
    model = DetectorModel(config).double()
    # The statistics of a batch are its own.
    model.backbone.eval()
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    losses_of = LossModel(model, criterion)
    steps = []
    summed: dict[str, Tensor] = {}
    for batch, targets, images, complete in with_steps(batches_of(batch_size), batches_per_step):
        losses = losses_of(batch, targets, images)
        criterion.total(losses).backward()
        for name, loss in losses.items():
            summed[name] = summed.get(name, 0) + loss.detach()
        if complete:
            gradients = [each.grad.flatten() for each in model.parameters()]
            steps.append(torch.cat([*gradients, torch.stack(list(summed.values()))]))
            model.zero_grad()
            summed = {}
    return steps


@pytest.mark.parametrize("kind", ["learned", "two-stage", "detr", "encoder-only"])
def test_gradients_are_those_of_one_large_batch(kind: str) -> None:
    (whole,) = gradients(kind, batch_size=5, batches_per_step=1)
    assert whole.abs().max() > 0.1
    # The last batch is smaller.
    for batch_size, batches_per_step in ((1, 5), (2, 3)):
        (step,) = gradients(kind, batch_size, batches_per_step)
        assert (step - whole).abs().max() < 1e-10
    # So is the last step: of one batch instead of two, of one image.
    several = gradients(kind, batch_size=2, batches_per_step=2)
    one_by_one = gradients(kind, batch_size=1, batches_per_step=4)
    for pair in zip(several, one_by_one, strict=True):
        assert (pair[0] - pair[1]).abs().max() < 1e-10
    assert len(several) == 2


def test_a_batch_is_told_which_step_it_belongs_to() -> None:
    told = [(images.num_objects, last) for _, _, images, last in with_steps(batches_of(1), 2)]
    first, second, third = (0, 7), (1, 20), (2,)
    assert told == [
        (first, False),
        (first, True),
        (second, False),
        (second, True),
        (third, True),
    ]


@pytest.mark.parametrize(("batches_per_step", "most"), [(1, 1), (3, 3)])
def test_no_more_is_read_ahead_than_a_step_has(batches_per_step: int, most: int) -> None:
    read = 0

    def reading() -> Any:
        nonlocal read
        for batch in batches_of(1):
            read += 1
            yield batch

    ahead = []
    for number, _ in enumerate(with_steps(reading(), batches_per_step), start=1):
        ahead.append(read - number + 1)
    assert ahead == [min(most, left) for left in (5, 4, 3, 2, 1)]


def test_what_is_divided_by_counts_all_processes() -> None:
    images = StepImages((0, 7, 1, 20), num_processes=2)
    assert (images.num_boxes, images.num_images) == (14.0, 2.0)
    assert images.num_matched(12) == (7 + 1 + 12) / 2
    assert images.num_matched(12, repeats=2) == (12 + 2 + 12) / 2
    # Without objects, as in one process that has all images.
    assert StepImages((0, 0), num_processes=2).num_boxes == 0.5
    assert images_of(batches_of(2)[0][1]) == StepImages((0, 7))


def test_a_run_divides_by_the_objects_of_its_steps(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches of one image each make a step of two and a step of one."""
    seen: list[tuple[int, ...]] = []
    original = loop.SetCriterion.forward

    def look(self: nn.Module, predictions: Any, targets: Any, images: StepImages) -> Any:
        assert len(targets) == 1
        seen.append(images.num_objects)
        return original(self, predictions, targets, images)

    monkeypatch.setattr(loop.SetCriterion, "forward", look)
    train(replace(run, epochs=1, batch_size=1, accumulate=3), tmp_path / "run")
    assert [len(each) for each in seen] == [3, 3, 3, 1]
    # One of the four images has no object, the others one.
    assert sorted(seen[0] + seen[3]) == [0, 1, 1, 1]
    assert all(one == other for one, other in pairwise(seen[:3]))
