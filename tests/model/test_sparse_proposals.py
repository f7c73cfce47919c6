"""TSP: which tokens are selected, where they come from, and what learns from them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.fcos import FCOS
from torchvision.ops import MultiScaleRoIAlign

from saccade.boxes import fractions_to_pixels
from saccade.data import SplitDataset, evaluation_transform, find_split
from saccade.data.batching import collate
from saccade.data.shapes import write_shapes
from saccade.model import DetectorModel
from saccade.model.features_of_interest import point_origins
from saccade.model.positions import TokenPositions
from saccade.model.refinement import move_boxes
from saccade.model.region_proposals import RegionAlign, ensure_overlap
from saccade.model.sparse_proposals import as_set, draw_kept
from saccade.presets import preset_config
from saccade.recipe_config import LossConfig
from saccade.restricted_matching import may_answer
from saccade.structures import Batch, Origins, Predictions, Targets, Tokens
from saccade.training import SetCriterion
from tests.conftest import small_config

KINDS = ("tsp-fcos", "tsp-rcnn")
SIZES = ((64, 96), (96, 64))


def batch_of(*sizes: tuple[int, int]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch.from_images([torch.randn(3, *size, generator=generator) for size in sizes])


def targets_of(batch: Batch, *boxes: Sequence[float]) -> list[Targets]:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(corners), dtype=torch.int64)
    return [Targets(corners, labels, size) for size in batch.sizes]


def detector(kind: str, seed: int = 0) -> DetectorModel:
    torch.manual_seed(seed)
    model = DetectorModel(small_config(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def tokens_of(
    model: DetectorModel, batch: Batch, targets: Sequence[Targets] | None = None
) -> Tokens:
    return model.tokens(model.neck(model.backbone(batch.images)), batch, targets)


def test_a_share_of_the_tokens_between_the_two_limits_stays() -> None:
    torch.manual_seed(0)
    drawn = [draw_kept(200, (0.7, 1.0)) for _ in range(200)]
    for rows in drawn:
        assert 140 <= len(rows) <= 200
        assert (rows.diff() > 0).all()
        assert 0 <= rows[0]
        assert rows[-1] < 200
    counts = torch.tensor([len(rows) for rows in drawn]).float()
    assert counts.min() < 145
    assert counts.max() > 195
    assert abs(counts.mean() - 170) < 5
    # Every token is dropped at times, and none more often than others.
    kept = torch.stack([F.one_hot(rows, 200).sum(0) for rows in drawn]).float().mean(0)
    assert kept.min() > 0.6
    assert kept.max() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_only_training_drops_tokens_and_as_the_seed_says(kind: str) -> None:
    model = detector(kind)
    model.selection.config = replace(model.selection.config, keep=(0.5, 0.5))
    batch = batch_of((64, 64))
    targets = targets_of(batch, (4, 8, 40, 50))
    boxes = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        boxes.append(tokens_of(model.train(), batch, targets).origins.boxes)
    assert boxes[0].shape[1] == 12
    assert torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[0], boxes[2])
    assert tokens_of(model.eval(), batch).features.shape[1] == 24


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_hidden_tokens_change_nothing(kind: str) -> None:
    """As the padding of a batch leaves them: after the others, masked."""
    model = detector(kind).eval()
    tokens = tokens_of(model, batch_of((64, 64), (64, 64)))
    hidden = 5
    mask = torch.zeros(tokens.features.shape[:2], dtype=torch.bool)
    padded = replace(
        tokens,
        features=F.pad(tokens.features, (0, 0, 0, hidden), value=7.0),
        positions=F.pad(tokens.positions, (0, 0, 0, hidden), value=7.0),
        mask=F.pad(mask if tokens.mask is None else tokens.mask, (0, hidden), value=True),
        origins=Origins(F.pad(tokens.origins.boxes, (0, 0, 0, hidden), value=0.5)),
    )
    plain, found = (
        model.decoder(model.queries(memory), memory)
        for memory in (model.encoder(tokens), model.encoder(padded))
    )
    torch.testing.assert_close(found.logits[:, :-hidden], plain.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes[:, :-hidden], plain.boxes, atol=1e-4, rtol=1e-4)
    assert (found.logits[:, -hidden:] < -1000).all()


def test_an_image_of_hidden_tokens_alone_keeps_them() -> None:
    mask = torch.tensor([[True, True], [False, True]])
    values = torch.zeros(2, 2, 8)
    tokens = as_set(values, values, mask, Origins(torch.zeros(2, 2, 4)))
    assert tokens.mask.tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_no_token_comes_from_the_padding(kind: str) -> None:
    model = detector(kind).eval()
    tokens = tokens_of(model, batch_of((64, 64), (64, 160), (160, 32)))
    centres = tokens.origins.boxes[..., :2][~tokens.mask]
    # There are points enough in each image; regions may be suppressed.
    assert len(centres) == 3 * 24 if kind == "tsp-fcos" else len(centres) > 30
    assert ((centres > 0) & (centres < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_an_image_with_fewer_candidates_than_tokens(kind: str) -> None:
    config = small_config(kind)
    config = replace(config, selection=replace(config.selection, num_tokens=3000))
    torch.manual_seed(0)
    model = DetectorModel(config).eval()
    out = model(batch_of((33, 40), (64, 64)))
    assert out.logits.isfinite().all()
    assert out.boxes.isfinite().all()
    shown = (out.logits > -1000).all(-1).sum(1)
    assert shown[0] < shown[1] < 3000


def test_points_know_what_their_level_answers_for() -> None:
    """Levels of strides 8, 16 and 32 of an image of 64 x 128 pixels, as FCOS has them."""
    config = preset_config("tsp-fcos-nano")
    batch = batch_of((64, 128))
    levels = [torch.zeros(1, config.width, 64 // stride, 128 // stride) for stride in (8, 16, 32)]
    points = TokenPositions(config.positions, config.width, 3)(levels, batch)
    origins = point_origins(points)
    torch.testing.assert_close(
        origins.boxes[0, [0, 1, 128, 160]],
        torch.tensor(
            [
                [4 / 128, 4 / 64, 64 / 128, 64 / 64],
                [12 / 128, 4 / 64, 64 / 128, 64 / 64],
                [8 / 128, 8 / 64, 128 / 128, 128 / 64],
                [16 / 128, 16 / 64, 256 / 128, 256 / 64],
            ]
        ),
    )
    assert origins.reach[0, [0, 128, 160]].tolist() == [[0, 1], [0.5, 1], [0.5, math.inf]]


def test_points_answer_for_the_objects_that_fcos_assigns() -> None:
    """torchvision's assignment, which keeps the smallest of several objects for a point."""
    config = preset_config("tsp-fcos-nano")
    strides = (8, 16, 32)
    batch = batch_of((192, 256))
    levels = [torch.zeros(1, config.width, 192 // s, 256 // s) for s in strides]
    origins = point_origins(TokenPositions(config.positions, config.width, 3)(levels, batch))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        # Not on the grid: no edge goes through a point. Not so large that only a fourth level,
        # which torchvision would give them to, answers for them.
        first = torch.rand(1, 2, generator=generator) * torch.tensor([160.0, 120.0])
        corners = torch.cat([first, first + 8 + 60 * torch.rand(1, 2, generator=generator)], 1)
        found = may_answer(origins, targets_of(batch, *corners.tolist()))[0][:, 0]
        assert torch.equal(found, fcos_assignment(corners[0], batch.sizes[0], strides))


def fcos_assignment(
    box: torch.Tensor, size: tuple[int, int], strides: Sequence[int]
) -> torch.Tensor:
    """What `FCOS.compute_loss` calls foreground, where every point of a box is near its centre."""
    anchors = []
    for stride in strides:
        y, x = torch.meshgrid(
            torch.arange(size[0] // stride) * stride + stride / 2,
            torch.arange(size[1] // stride) * stride + stride / 2,
            indexing="ij",
        )
        centres = torch.stack([x.flatten(), y.flatten()], 1)
        anchors.append(torch.cat([centres - stride / 2, centres + stride / 2], 1))
    assigned = []

    class Recorder:
        def compute_loss(self, targets: object, outputs: object, anchors: object, matched: list):  # type: ignore[no-untyped-def,type-arg]
            assigned.extend(matched)
            return {}

    model = FCOS.__new__(FCOS)
    torch.nn.Module.__init__(model)
    model.center_sampling_radius = 1000
    model.head = Recorder()
    counts = [len(each) for each in anchors]
    model.compute_loss([{"boxes": box[None]}], {}, [torch.cat(anchors)], counts)
    return assigned[0] >= 0


def test_a_point_inside_of_an_object_is_selected_while_training() -> None:
    """Also before the classifier knows anything, so that there is something to match."""
    model = detector("tsp-fcos").train()
    model.selection.config = replace(model.selection.config, num_tokens=3, keep=(1.0, 1.0))
    batch = batch_of((128, 128))
    targets = targets_of(batch, (8, 8, 20, 20), (60, 20, 120, 90))
    origins = tokens_of(model, batch, targets).origins
    assert may_answer(origins, targets)[0].any(1).all()


def test_training_leaves_room_for_background(tmp_path: Path) -> None:
    """Points inside of objects are selected first: the small preset has tokens for more."""
    write_shapes(tmp_path, num_train=6, num_val=1)
    config = preset_config("tsp-fcos-nano")
    dataset = SplitDataset(
        find_split(tmp_path, "train"), transform=evaluation_transform(config.input)
    )
    for index in range(len(dataset)):
        batch, targets = collate([dataset[index]])
        height, width = batch.sizes[0]
        levels = [
            torch.zeros(1, config.width, -(-height // stride), -(-width // stride))
            for stride in (8, 16, 32)
        ]
        points = TokenPositions(config.positions, config.width, 3)(levels, batch)
        inside = may_answer(point_origins(points), targets)[0].any(1).sum()
        assert inside < 0.9 * config.selection.num_tokens


def test_the_classifiers_loss_by_hand() -> None:
    model = detector("tsp-fcos").train()
    batch = batch_of(*SIZES)
    targets = targets_of(batch, (4, 8, 40, 50))
    logits, points = [], []
    model.selection.classifier.register_forward_hook(lambda *call: logits.append(call[-1]))
    model.selection.positions.register_forward_hook(lambda *call: points.append(call[-1]))
    loss = tokens_of(model, batch, targets).origins.losses["loss_proposal_class"]
    inside = torch.stack([each.any(1) for each in may_answer(point_origins(points[0]), targets)])
    p = torch.cat([each.flatten(1) for each in logits], 1).sigmoid()
    positive, negative = -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
    each = torch.where(inside, positive, negative)[~points[0].mask]
    assert 0 < inside.sum() < points[0].mask.numel()
    torch.testing.assert_close(loss, each.sum() / inside.sum())


def test_regions_are_read_as_torchvision_reads_them() -> None:
    torch.manual_seed(0)
    strides, names = (4, 8, 16), ["a", "b", "c"]
    levels = [torch.randn(2, 8, 512 // stride, 640 // stride) for stride in strides]
    corners = torch.rand(2, 20, 2) * 400
    sides = 20 * (20 ** torch.rand(2, 20, 2))
    boxes = torch.cat([corners, corners + sides], -1)
    reader = RegionAlign(strides, 5)
    used = reader.rows_of(F.pad(boxes.flatten(0, 1), (1, 0)))
    assert all(len(rows) > 0 for rows in used)
    theirs = MultiScaleRoIAlign(names, 5, 2)
    # theirs shifts by half a token, which `aligned` repairs.
    half = [torch.tensor([stride / 2]) for stride in strides]
    expected = torch.zeros(40, 8, 5, 5)
    for rows, shift in zip(used, half, strict=True):
        moved = (boxes.flatten(0, 1) - shift).view(2, 20, 4)
        everything = dict(zip(names, levels, strict=True))
        expected[rows] = theirs(everything, list(moved), [(512, 640)] * 2)[rows]
    torch.testing.assert_close(reader(levels, boxes), expected.flatten(1).view(2, 20, -1))


def test_objects_join_proposals_that_miss_them_all() -> None:
    torch.manual_seed(0)
    proposals = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 70.0, 70.0]])
    missed = torch.tensor([[20.0, 20.0, 40.0, 45.0], [30.0, 60.0, 36.0, 64.0]])
    joined = ensure_overlap(proposals, missed)
    assert torch.equal(joined[2:], proposals)
    centres = ((joined - missed.repeat(2, 1))[:2].view(2, 2, 2).sum(1) / 2).abs()
    sides = missed[:, 2:] - missed[:, :2]
    assert (centres <= 0.1 * sides).all()
    stretched = (joined[:2, 2:] - joined[:2, :2]) / sides
    assert ((stretched >= 0.8) & (stretched <= 1.25)).all()
    assert not torch.equal(joined[:2], missed)
    found = torch.cat([missed, torch.tensor([[49.0, 49.0, 70.0, 71.0]])])
    assert torch.equal(ensure_overlap(proposals, found), proposals)
    assert torch.equal(ensure_overlap(proposals, missed[:0]), proposals)


def test_boxes_move_by_their_sides_and_stretch_by_exponentials() -> None:
    origins = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]])
    delta = torch.tensor([[[0.5, -0.25, math.log(2), math.log(0.5)]]])
    torch.testing.assert_close(move_boxes(delta, origins), torch.tensor([[[0.6, 0.4, 0.4, 0.2]]]))
    huge = move_boxes(torch.tensor([[[0.0, 0.0, 100.0, 4.0]]]), origins)
    assert huge[0, 0, 2] == pytest.approx(0.2 * 1000 / 16)
    assert move_boxes(delta.bfloat16(), origins).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_detector_says_that_objects_are_where_its_tokens_come_from(kind: str) -> None:
    torch.manual_seed(0)
    out = DetectorModel(small_config(kind)).eval()(batch_of((64, 64)))
    torch.testing.assert_close(out.boxes, out.origins.boxes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of_proposals", [True, False])
def test_both_losses_reach_the_pyramid(kind: str, of_proposals: bool) -> None:
    torch.manual_seed(0)
    config = small_config(kind)
    model = detector(kind).train()
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    batch = batch_of(*SIZES)
    targets = targets_of(batch, (4, 8, 40, 50), (10, 10, 22, 24))
    losses = criterion(model(batch, targets), targets)
    chosen = {name: each for name, each in losses.items() if ("proposal" in name) == of_proposals}
    expected = {"tsp-fcos": 1, "tsp-rcnn": 2}[kind] if of_proposals else 3
    assert len(chosen) == expected
    for name, loss in chosen.items():
        (gradient,) = torch.autograd.grad(loss, model.neck.levels[-1][0].weight, retain_graph=True)
        assert gradient.any(), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_matched_may_be_matched(kind: str) -> None:
    config = small_config(kind)
    model = detector(kind).train()
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    batch = batch_of(*SIZES)
    targets = targets_of(batch, (4, 8, 40, 50), (10, 10, 22, 24), (1, 1, 2, 2))
    out = model(batch, targets)
    allowed = may_answer(out.origins, targets)
    matches = criterion.matcher(out.logits, out.boxes, targets, allowed)
    for (queries, objects), pairs in zip(matches, allowed, strict=True):
        assert pairs[queries, objects].all()
    assert sum(len(queries) for queries, _ in matches) >= 2
    # The criterion does the same: the box loss is that of these pairs alone.
    expected = sum(
        (out.boxes[image, queries] - targets[image].fractions[objects]).abs().sum()
        for image, (queries, objects) in enumerate(matches)
    )
    torch.testing.assert_close(criterion(out, targets)["loss_bbox"], expected / 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_selection_needs_targets_to_train(kind: str) -> None:
    model = detector(kind).train()
    with pytest.raises(ValueError, match=r"trains on targets, but got none: pass them"):
        model(batch_of((64, 64)))


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_needs_no_targets_and_has_no_proposal_losses(kind: str) -> None:
    model = detector(kind).eval()
    batch = batch_of((64, 64))
    out: Predictions = model(batch, targets_of(batch, (4, 8, 40, 50)))
    assert dict(out.origins.losses) == {}
    torch.testing.assert_close(out.logits, model(batch).logits)


def test_proposals_are_those_of_the_network_in_fractions_of_each_image() -> None:
    model = detector("tsp-rcnn").eval()
    batch = batch_of(*SIZES)
    found = []
    model.selection.network.register_forward_hook(lambda *call: found.append(call[-1][0]))
    tokens = tokens_of(model, batch)
    for image, (boxes, size) in enumerate(zip(found[0], batch.sizes, strict=True)):
        shown = ~tokens.mask[image]
        assert len(boxes) == shown.sum()
        pixels = fractions_to_pixels(tokens.origins.boxes[image, shown], size)
        torch.testing.assert_close(pixels, boxes)


@torch.inference_mode()
def test_anchors_lie_at_whole_strides_whatever_the_padding() -> None:
    """100 pixels are 13 tokens of stride 8, which is not 100 // 13."""
    model = detector("tsp-rcnn").eval()
    calls = []
    generator = model.selection.network.anchor_generator
    generator.register_forward_hook(lambda _, given, made: calls.append((given[1], made)))
    model(batch_of((100, 133)))
    model(batch_of((100, 133), (100, 300)))
    grids = []
    for levels, anchors in calls:
        shapes = [level.shape[-2:] for level in levels]
        counts = [9 * height * width for height, width in shapes]
        of_image = anchors[0].split(counts)
        grids.append([each.view(*s, 9, 4) for each, s in zip(of_image, shapes, strict=True)])
    for stride, alone, beside in zip((8, 16, 32), *grids, strict=True):
        rows, columns = -(-100 // stride), -(-133 // stride)
        assert alone.shape[:2] == (rows, columns)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres = (alone[..., :2] + alone[..., 2:]) / 2
        expected = (stride * torch.stack([x, y], -1)[:, :, None]).expand_as(centres)
        assert torch.equal(centres, expected.float())
        assert beside.shape[1] > columns
        assert torch.equal(beside[:, :columns], alone)


def test_anchors_stay_in_float32_under_autocast() -> None:
    """Rounded to bf16, the edge of a region at the right of a wide image is off by four pixels."""
    torch.manual_seed(0)
    config = small_config("tsp-rcnn")
    model = DetectorModel(replace(config, neck=replace(config.neck, norm="none"))).eval()
    anchors = []
    network = model.selection.network
    network.anchor_generator.register_forward_hook(lambda *call: anchors.extend(call[-1]))
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        out = model(batch_of((64, 64)))
    assert anchors[0].dtype == torch.float32
    assert out.origins.boxes.dtype == out.boxes.dtype == torch.float32
