import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade import run as run_module
from saccade.model import DetectorModel
from saccade.run import train
from saccade.run_config import RunConfig
from saccade.structures import Batch, Targets
from saccade.training import loop
from saccade.training.checkpoint import load_checkpoint
from saccade.training.guards import Moment, NonFiniteGuard, find_non_finite
from saccade.training.step_images import StepImages
from saccade.training.watch import FIRST_STEPS, MATCH_STEPS, GradientTracker, Watch, has_fallen


def spoil(patch: pytest.MonkeyPatch, change: Any) -> None:
    """Change the model before it trains."""
    original = run_module.fit

    def fit(fabric: object, model: DetectorModel, *rest: object) -> None:
        change(model)
        original(fabric, model, *rest)

    patch.setattr(run_module, "fit", fit)


def fails_on_portraits(model: DetectorModel) -> None:
    """The neck, not the backbone before it, makes NaN of images that are higher than wide."""

    def hook(module: nn.Module, inputs: Any, levels: list[Tensor]) -> list[Tensor]:
        height, width = levels[0].shape[-2:]
        return [level * math.nan for level in levels] if height > width else levels

    model.neck.register_forward_hook(hook)


def test_a_loss_that_is_not_finite_names_module_and_image_file(
    run: RunConfig, tmp_path: Path
) -> None:
    place = r"first in the output of neck \(\w+\), \d+ of its \d+ numbers"
    images = rf"\(images here: {tmp_path}/images/3\.png; image ids here: 3\)"
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, fails_on_portraits)
        with pytest.raises(
            ValueError,
            match=rf"^the loss is not finite at step \d \(epoch 1, batch \d\): {place} {images}: "
            r"lower optimizer\.learning_rate",
        ):
            train(replace(run, batch_size=1), tmp_path / "run")


def test_a_step_is_left_out_with_what_it_spoils(
    run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = replace(run, batch_size=1, accumulate=2, on_nonfinite="skip")

    def and_its_statistics(model: DetectorModel) -> None:
        norm = next(each for each in model.modules() if isinstance(each, nn.BatchNorm2d))

        def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            height, width = inputs[0].shape[-2:]
            spoils = module.training and height > width
            return (inputs[0] * math.nan,) if spoils else inputs

        norm.register_forward_pre_hook(hook)

    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, and_its_statistics)
        detector = train(run, tmp_path / "run")
    progress = load_checkpoint(tmp_path / "run" / "last.ckpt")[0]
    assert (progress.step, progress.skipped) == (2, 2)
    said = capsys.readouterr().out
    assert said.count("3.png; image ids here: 3); the step is left out.") == 2
    assert "first in the output of backbone." in said
    assert all(value.isfinite().all() for value in detector.model.state_dict().values())


def test_a_loss_whose_terms_alone_are_not_finite_is_said(run: RunConfig, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.SetCriterion, "total", lambda self, losses: losses["loss_ce"] * math.nan)
        with pytest.raises(ValueError, match="every output of the detector is finite, the loss"):
            train(run, tmp_path / "run")


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_a_gradient_that_is_not_finite_names_its_parameter(
    clip_norm: float, run: RunConfig, tmp_path: Path
) -> None:
    def explode(model: DetectorModel) -> None:
        model.queries.box_projection[0].weight.register_hook(lambda grad: grad * math.inf)

    run = replace(run, optimizer=replace(run.optimizer, clip_norm=clip_norm))
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, explode)
        with pytest.raises(
            ValueError,
            match=r"the gradients are not finite although the loss is, at step 1 .*"
            r"first in the gradient of queries\.box_projection\.0\.weight",
        ):
            train(run, tmp_path / "run")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.second = nn.Conv2d(2, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images)).sqrt()


def moment() -> Moment:
    batch = Batch.from_images([torch.ones(3, 4, 4)])
    targets = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (4, 4), image_id=7)
    return Moment(batch, [targets], seed=1, name="step 1", images=StepImages((1,)))


def test_the_search_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = Small()
    with torch.no_grad():
        model.second.bias.fill_(-100)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def losses(batch: Batch, targets: list[Targets]) -> Tensor:
        return model(batch.images).sum()

    found = find_non_finite(model, losses, moment(), backward=True)
    assert found == "first in the output of the detector (Small), 16 of its 16 numbers"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_weights_images_and_boxes_are_looked_at_first() -> None:
    model = Small()
    at = moment()

    def losses(batch: Batch, targets: list[Targets]) -> Tensor:
        return model(batch.images).sum()

    labels = torch.zeros(1, dtype=torch.int64)
    boxes = replace(at, targets=[Targets(torch.full((1, 4), math.nan), labels, (4, 4), 7)])
    assert find_non_finite(model, losses, boxes, False) == "the boxes of image 7 are not"
    at.batch.images[0, 0, 0, 0] = math.inf
    assert find_non_finite(model, losses, at, False) == "the images themselves are not"
    with torch.no_grad():
        model.first[0].weight[0] = math.nan
    assert "first.0.weight the first" in find_non_finite(model, losses, at, False)


def test_ten_steps_left_out_in_a_row_end_the_run() -> None:
    model = Small()
    with torch.no_grad():
        model.second.bias.fill_(-100)
    guard = NonFiniteGuard(
        model, lambda batch, targets: model(batch.images).sum(), "skip", lambda image: None
    )
    for _ in range(9):
        guard.before()
        assert guard.handle("loss", moment()).endswith("the step is left out.")
    guard.before()
    with pytest.raises(ValueError, match="10th step in a row to be left out"):
        guard.handle("loss", moment())


def test_only_whole_modules_are_said_to_have_no_gradient() -> None:
    model = nn.Module()
    model.head = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.body = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tracker = GradientTracker(model)
    model.head[0].weight.grad = torch.full((2, 2), 1e-13)
    model.body[0].weight.grad = torch.ones(2, 2)
    tracker.look()
    assert tracker.vanished() == ["head", "body.1"]
    model.body[1].bias.grad = torch.ones(2)
    tracker.look()
    model.body[1].bias.grad = None
    tracker.look()
    assert tracker.vanished() == ["head"]


@pytest.mark.parametrize(
    ("num_objects", "sentence"),
    [
        (1, f"none of the {MATCH_STEPS} objects in the first {MATCH_STEPS} steps was matched"),
        (0, f"no image of the first {MATCH_STEPS} steps has an object"),
    ],
)
def test_what_does_not_learn_is_said_once(num_objects: int, sentence: str) -> None:
    said: list[str] = []
    watch = Watch(nn.Linear(2, 2), said.append)
    zeros = torch.zeros(num_objects, 4)
    targets = Targets(zeros, torch.zeros(num_objects, dtype=torch.int64), (4, 4))
    for step in range(2 * FIRST_STEPS):
        losses = {"loss_bbox": torch.tensor(0.0)}
        watch.batch(torch.tensor(3.0 + step % 2), losses, [targets], steady=True)
        watch.step()
    assert len(said) == 3
    assert said[0].startswith(sentence)
    assert "no gradient has reached the detector" in said[1]
    assert "the loss has not fallen in 200 steps (3.5 at first, 3.5 now)" in said[2]


def test_a_run_that_learns_or_was_resumed_is_not_warned() -> None:
    said: list[str] = []
    model = nn.Linear(2, 2)
    model(torch.ones(2)).sum().backward()
    targets = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (4, 4))
    for first_step, box_loss in ((0, 1.0), (5, 0.0)):
        watch = Watch(model, said.append, first_step)
        for step in range(FIRST_STEPS):
            total = torch.tensor(3.0 + step % 2 - 0.01 * step)
            watch.batch(total, {"loss_bbox": torch.tensor(box_loss)}, [targets], steady=True)
            watch.step()
    assert said == []


def test_noise_is_no_fall() -> None:
    torch.manual_seed(0)
    noise = torch.randn(20).tolist()
    assert not has_fallen(noise, [value - 0.1 for value in noise])
    assert has_fallen(noise, [value - 2 for value in noise])
