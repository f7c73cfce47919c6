import re
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from saccade.recipe_config import LossConfig
from saccade.structures import Origins, Predictions, Targets
from saccade.training import SetCriterion

NUM_CLASSES = 5
TERMS = ("loss_ce", "loss_bbox", "loss_giou")


def prediction(num_images=2, num_queries=12, num_columns=NUM_CLASSES, **more):
    corners = torch.rand(num_images, num_queries, 2)
    sides = 0.05 + torch.rand(num_images, num_queries, 2) * 0.4
    return Predictions(
        (2 * torch.randn(num_images, num_queries, num_columns)).requires_grad_(),
        torch.cat([corners, sides], -1).requires_grad_(),
        **more,
    )


def targets(*num_objects):
    found = []
    for index, count in enumerate(num_objects):
        corners = torch.rand(count, 2) * torch.tensor([120.0, 60.0])
        boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2) * 36], -1)
        labels = torch.randint(NUM_CLASSES, (count,))
        found.append(Targets(boxes, labels, size=(100, 160), image_id=40 + index))
    return found


def layers_of(predictions):
    return (*predictions.auxiliary, predictions)


def gradients(total, predictions):
    leaves = [leaf for layer in layers_of(predictions) for leaf in (layer.logits, layer.boxes)]
    return torch.autograd.grad(total, leaves)


def transformers_loss(classification, predictions, found):
    from transformers.loss.loss_deformable_detr import DeformableDetrForObjectDetectionLoss
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    loss = {"sigmoid": DeformableDetrForObjectDetectionLoss, "softmax": ForObjectDetectionLoss}
    layers = layers_of(predictions)
    config = SimpleNamespace(
        class_cost=2,
        bbox_cost=5,
        giou_cost=2,
        num_labels=NUM_CLASSES,
        focal_alpha=0.25,
        eos_coefficient=0.1,
        auxiliary_loss=True,
        decoder_layers=len(layers),
        bbox_loss_coefficient=5,
        giou_loss_coefficient=2,
    )
    total, losses, _ = loss[classification](
        predictions.logits,
        [{"class_labels": each.labels, "boxes": each.fractions} for each in found],
        torch.device("cpu"),
        predictions.boxes,
        config,
        torch.stack([layer.logits for layer in layers]),
        torch.stack([layer.boxes for layer in layers]),
    )
    return total, {name: loss for name, loss in losses.items() if "cardinality" not in name}


@pytest.mark.parametrize("num_objects", [(4, 7), (0, 3), (20, 1)])
@pytest.mark.parametrize("classification", ["sigmoid", "softmax"])
def test_losses_and_gradients_are_those_of_transformers(classification, num_objects):
    torch.manual_seed(0)
    num_columns = NUM_CLASSES + (classification == "softmax")
    auxiliary = tuple(prediction(num_columns=num_columns) for _ in range(2))
    out = prediction(num_columns=num_columns, auxiliary=auxiliary)
    found = targets(*num_objects)
    # transformers weighs the class loss by 1 where the official code weighs it by 2.
    criterion = SetCriterion(LossConfig(class_weight=1.0), NUM_CLASSES, classification)

    losses = criterion(out, found)
    total = criterion.total(losses)

    their_total, theirs = transformers_loss(classification, out, found)
    assert losses.keys() == theirs.keys()
    torch.testing.assert_close(losses, theirs)
    torch.testing.assert_close(total, their_total)
    torch.testing.assert_close(gradients(total, out), gradients(their_total, out))


def test_total_weighs_every_set_alike():
    losses = {
        f"{term}{suffix}": torch.tensor(value)
        for suffix in ("", "_0", "_enc", "_dn", "_dn_3")
        for term, value in zip(TERMS, (1.0, 10.0, 100.0), strict=True)
    }
    total = SetCriterion(LossConfig(), NUM_CLASSES).total(losses)
    assert total.item() == 5 * (2 * 1 + 5 * 10 + 2 * 100)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.5), (0.5, 0.0)])
def test_focal_loss_in_float64(alpha, gamma):
    torch.manual_seed(1)
    config = LossConfig(focal_alpha=alpha, focal_gamma=gamma)
    out = prediction()
    with torch.no_grad():
        out.logits[0, :4] *= 10  # Sure answers, right and wrong.
    found = targets(4, 2)
    criterion = SetCriterion(config, NUM_CLASSES)
    losses = criterion(out, found)

    truth = torch.zeros(out.logits.shape, dtype=torch.float64)
    for image, (queries, objects) in enumerate(criterion.matcher(out.logits, out.boxes, found)):
        truth[image, queries, found[image].labels[objects]] = 1
    logits = out.logits.detach().double().requires_grad_()
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * p.log()
    negative = -(1 - alpha) * p**gamma * (1 - p).log()
    expected = torch.where(truth == 1, positive, negative).sum() / 6
    torch.testing.assert_close(losses["loss_ce"], expected.float())
    torch.testing.assert_close(
        torch.autograd.grad(losses["loss_ce"], out.logits)[0],
        torch.autograd.grad(expected, logits)[0].float(),
    )


def test_overlap_of_small_objects_is_not_bent_by_its_epsilon():
    pixel = Targets(torch.tensor([[10.0, 10.0, 11.0, 11.0]]), torch.tensor([0]), size=(1000, 1000))
    box = torch.tensor([[[0.0105, 0.0105, 0.002, 0.002]]])
    out = Predictions(torch.zeros(1, 1, NUM_CLASSES), box)
    loss = SetCriterion(LossConfig(), NUM_CLASSES)(out, [pixel])["loss_giou"]
    assert loss.item() == pytest.approx(1 - 1 / 4, abs=1e-4)


def test_proposals_only_tell_objects_from_background():
    torch.manual_seed(2)
    proposals = prediction(num_queries=40)
    found = targets(3, 6)
    criterion = SetCriterion(LossConfig(), NUM_CLASSES)

    losses = criterion(prediction(proposals=proposals), found)

    binary = [replace(each, labels=torch.zeros_like(each.labels)) for each in found]
    alone = criterion(proposals, binary)
    assert set(losses) == {*TERMS, *(f"{term}_enc" for term in TERMS)}
    for term in TERMS:
        torch.testing.assert_close(losses[f"{term}_enc"], alone[term])
    (gradient,) = torch.autograd.grad(losses["loss_ce_enc"], proposals.logits)
    # Only matched tokens are pushed up, and only in channel 0.
    assert (gradient < 0).sum() == 9
    assert (gradient[..., 0] < 0).sum() == 9


@pytest.mark.parametrize("classification", ["sigmoid", "softmax"])
def test_batch_without_objects(classification):
    num_columns = NUM_CLASSES + (classification == "softmax")
    auxiliary = (prediction(num_columns=num_columns),)
    proposals = prediction(num_columns=num_columns)
    out = prediction(num_columns=num_columns, auxiliary=auxiliary, proposals=proposals)
    criterion = SetCriterion(LossConfig(), NUM_CLASSES, classification)

    losses = criterion(out, targets(0, 0))
    criterion.total(losses).backward()

    for name, loss in losses.items():
        assert loss.isfinite()
        assert (loss > 0) == name.startswith("loss_ce"), name
    for each in (out, auxiliary[0], proposals):
        assert each.logits.grad.abs().min() > 0
        assert torch.equal(each.boxes.grad, torch.zeros_like(each.boxes))


@pytest.mark.parametrize("classification", ["sigmoid", "softmax"])
def test_order_of_queries_does_not_matter(classification):
    torch.manual_seed(3)
    num_columns = NUM_CLASSES + (classification == "softmax")
    out = prediction(num_columns=num_columns)
    found = targets(5, 3)
    order = torch.randperm(12)
    shuffled = Predictions(out.logits[:, order], out.boxes[:, order])
    criterion = SetCriterion(LossConfig(), NUM_CLASSES, classification)
    torch.testing.assert_close(criterion(shuffled, found), criterion(out, found))


def test_boxes_without_area_have_finite_losses_and_gradients():
    points = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.2, 0.2, 0.0, 0.1]]], requires_grad=True)
    corners = torch.tensor([[50.0, 50.0, 50.0, 50.0], [20.0, 10.0, 20.0, 30.0]])
    found = Targets(corners, torch.tensor([0, 1]), size=(100, 100))
    criterion = SetCriterion(LossConfig(), NUM_CLASSES)
    losses = criterion(Predictions(torch.zeros(1, 2, NUM_CLASSES), points), [found])
    criterion.total(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("classification", ["sigmoid", "softmax"])
def test_half_precision_under_autocast_is_computed_in_float32(classification):
    torch.manual_seed(4)
    out = prediction(num_columns=NUM_CLASSES + (classification == "softmax"))
    half = Predictions(out.logits.bfloat16(), out.boxes.bfloat16())
    found = targets(4, 4)
    criterion = SetCriterion(LossConfig(), NUM_CLASSES, classification)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion(half, found)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    exact = criterion(Predictions(half.logits.double(), half.boxes.double()), found)
    torch.testing.assert_close(losses, {name: loss.float() for name, loss in exact.items()})


def test_denoising_queries_answer_for_the_objects_they_were_made_from():
    torch.manual_seed(5)
    found = targets(2, 1)
    # Two groups of two; queries 2, 3, 6 and 7 are negative, as is the padding of image 1.
    matches = (
        (torch.tensor([0, 1, 4, 5]), torch.tensor([0, 1, 0, 1])),
        (torch.tensor([0, 4]), torch.tensor([0, 0])),
    )
    auxiliary = (prediction(num_queries=8),)
    denoising = prediction(num_queries=8, auxiliary=auxiliary, matches=matches, num_groups=2)
    criterion = SetCriterion(LossConfig(), NUM_CLASSES)

    losses = criterion(prediction(denoising=denoising), found)

    assert set(losses) == {f"{term}{end}" for term in TERMS for end in ("", "_dn", "_dn_0")}
    for layer, end in ((denoising, "_dn"), (denoising.auxiliary[0], "_dn_0")):
        truth = torch.zeros_like(layer.logits)
        distance = torch.zeros(())
        for image, (queries, objects) in enumerate(matches):
            truth[image, queries, found[image].labels[objects]] = 1
            distance += (layer.boxes[image, queries] - found[image].fractions[objects]).abs().sum()
        p = layer.logits.sigmoid()
        positive = 0.25 * (1 - p) ** 2 * -p.log()
        negative = 0.75 * p**2 * -(1 - p).log()
        focal = torch.where(truth == 1, positive, negative).sum()
        torch.testing.assert_close(losses[f"loss_ce{end}"], focal / (3 * 2))
        torch.testing.assert_close(losses[f"loss_bbox{end}"], distance / (3 * 2))


def test_tokens_only_learn_objects_that_they_may_answer_for():
    """Two proposals on object 0, none near object 1: it is left out, and counts all the same."""
    corners = torch.tensor([[10.0, 10.0, 50.0, 50.0], [100.0, 60.0, 140.0, 90.0]])
    found = Targets(corners, torch.tensor([2, 3]), size=(100, 160))
    near = found.fractions[0] * torch.tensor([1.05, 1.0, 1.0, 1.0])
    origins = Origins(
        torch.stack([near, found.fractions[0], near + 0.3])[None],
        losses={"loss_proposal_class": torch.tensor(7.0), "loss_proposal_box": torch.tensor(11.0)},
    )
    boxes = torch.stack([found.fractions[1], near, found.fractions[1]])[None]
    out = Predictions(torch.zeros(1, 3, NUM_CLASSES, requires_grad=True), boxes, origins=origins)
    criterion = SetCriterion(LossConfig(proposal_weight=3.0), NUM_CLASSES)

    losses = criterion(out, [found])

    distance = (near - found.fractions[0]).abs().sum()
    torch.testing.assert_close(losses["loss_bbox"], distance / 2)
    (gradient,) = torch.autograd.grad(losses["loss_ce"], out.logits)
    assert (gradient < 0).nonzero().tolist() == [[0, 1, 2]]
    rest = sum(
        weight * losses[name]
        for name, weight in (("loss_ce", 2), ("loss_bbox", 5), ("loss_giou", 2))
    )
    torch.testing.assert_close(criterion.total(losses), rest + 3 * (7 + 11))


@pytest.mark.parametrize(
    ("classification", "arithmetic"),
    [("sigmoid", "7 classes make 7"), ("softmax", '7 classes + 1 for "no object" make 8')],
)
def test_logits_of_another_number_of_classes(classification, arithmetic):
    message = (
        f"logits have 5 columns, but {arithmetic}: build the criterion with the num_classes of "
        "the detector."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        SetCriterion(LossConfig(), 7, classification)(prediction(), targets(1, 1))


def test_prediction_that_is_not_finite_names_its_image():
    out = prediction()
    with torch.no_grad():
        out.boxes[1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"image 41: .* 4 of 48 predicted boxes are not"):
        SetCriterion(LossConfig(), NUM_CLASSES)(out, targets(1, 1))


# Imports torch alone, to start quickly: a process whose batch has four objects.
OTHER_PROCESS = """
import sys
from torch import distributed
distributed.init_process_group("gloo", sys.argv[1], rank=1, world_size=2)
distributed.all_gather_object([None, None], (3, 1))
distributed.destroy_process_group()
"""


def test_two_processes_divide_by_their_mean_number_of_objects(tmp_path):
    torch.manual_seed(6)
    out, found = prediction(num_images=1), targets(1)
    criterion = SetCriterion(LossConfig(), NUM_CLASSES)
    alone = criterion(out, found)

    store = (tmp_path / "store").as_uri()
    other = subprocess.Popen([sys.executable, "-c", OTHER_PROCESS, store])
    distributed.init_process_group(
        "gloo", store, rank=0, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        together = criterion(out, found)
    finally:
        distributed.destroy_process_group()
        other.wait(timeout=60)

    assert other.returncode == 0
    torch.testing.assert_close(together, {name: loss / 2.5 for name, loss in alone.items()})
