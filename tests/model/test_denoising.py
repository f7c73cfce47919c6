import torch

from saccade.boxes import centre_to_corners
from saccade.model import DetectorModel
from saccade.structures import Batch, Queries, Targets
from tests.conftest import small_config


def targets(*counts: int) -> list[Targets]:
    generator = torch.Generator().manual_seed(0)
    corners = [torch.rand(count, 2, 2, generator=generator).sort(1).values for count in counts]
    return [
        Targets(each.flatten(1) * 64, torch.arange(len(each)) % 2, (64, 64)) for each in corners
    ]


def noised(model: DetectorModel, objects: list[Targets]) -> tuple[Queries, Queries]:
    batch = Batch.from_images([torch.randn(3, 64, 64) for _ in objects])
    memory = model.encoder(model.positions(model.neck(model.backbone(batch.images)), batch))
    queries = model.queries(memory)
    assert model.denoising is not None
    return queries, model.denoising(queries, objects, model.queries.embed)


def test_the_detectors_own_queries_do_not_see_the_noised_ones() -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("two-stage")).eval()
    with torch.no_grad():
        own, all_queries = noised(model, targets(3, 2))
        memory_batch = Batch.from_images([torch.randn(3, 64, 64)] * 2)
        levels = model.neck(model.backbone(memory_batch.images))
        memory = model.encoder(model.positions(levels, memory_batch))
        alone = model.decoder(own, memory)
        together = model.decoder(all_queries, memory)
    rows = slice(all_queries.num_noised, None)
    torch.testing.assert_close(together.logits[:, rows], alone.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.boxes[:, rows], alone.boxes, atol=1e-5, rtol=1e-5)


def test_groups_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("two-stage")).eval()
    _, queries = noised(model, targets(3))
    size = 2 * 3
    assert queries.num_noised == queries.num_groups * size == 60
    assert queries.blocked is not None
    for group in range(queries.num_groups):
        inside = slice(group * size, (group + 1) * size)
        assert not queries.blocked[inside, inside].any()
        assert queries.blocked[inside, : group * size].all()
        assert queries.blocked[inside, (group + 1) * size : queries.num_noised].all()


def test_matches_name_the_positive_query_of_every_target() -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("two-stage")).eval()
    objects = targets(3, 0, 2)
    _, queries = noised(model, objects)
    assert queries.matches is not None
    for image, target in enumerate(objects):
        rows, indices = queries.matches[image]
        assert len(rows) == len(target.labels) * queries.num_groups
        assert queries.references is not None
        shift = (queries.references[image, rows] - target.fractions[indices]).abs()
        # A positive query's centre moves by less than half the box, its sides by less than all.
        assert (shift[:, :2] <= target.fractions[indices, 2:] / 2 + 1e-6).all()
        assert (shift[:, 2:] <= target.fractions[indices, 2:] + 1e-6).all()


def test_noised_boxes_are_boxes_inside_the_image() -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("two-stage")).eval()
    _, queries = noised(model, targets(9, 9, 9))
    assert queries.references is not None
    boxes = queries.references[:, : queries.num_noised]
    assert (boxes[..., 2:] >= 0).all()
    assert (boxes[..., :2] - boxes[..., 2:] / 2 >= -1e-6).all()
    assert (boxes[..., :2] + boxes[..., 2:] / 2 <= 1 + 1e-6).all()


def test_without_targets_there_is_no_denoising() -> None:
    model = DetectorModel(small_config("two-stage")).eval()
    batch = Batch.from_images([torch.randn(3, 64, 64)])
    with torch.inference_mode():
        assert model(batch).denoising is None
        predictions = model(batch, targets(2))
    assert predictions.denoising is not None
    assert predictions.logits.shape[1] == 12
    assert predictions.denoising.logits.shape[1] == 60
    assert len(predictions.denoising.auxiliary) == len(predictions.auxiliary) == 2


def test_positives_keep_within_half_an_extent_and_negatives_leave_it() -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("two-stage"))
    assert model.denoising is not None
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.1]).expand(1, 50, 2, 3, 4)
    noised = model.denoising.noise_boxes(boxes)
    shifts = (centre_to_corners(noised) - centre_to_corners(boxes)).abs() / torch.tensor(
        [0.1, 0.05, 0.1, 0.05]
    )
    assert (shifts[:, :, 0] < 1).all()
    # Sides that pass each other change places, which makes some shifts look longer still.
    assert (shifts[:, :, 1] >= 1 - 1e-5).float().mean().item() > 0.7
    assert shifts[:, :, 1].max().item() > 1.9


def test_a_share_of_the_labels_is_drawn_anew() -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("two-stage"))
    assert model.denoising is not None
    labels = torch.zeros(4, 50, 2, 25, dtype=torch.int64)
    changed = (model.denoising.noise_labels(labels) != 0).float().mean().item()
    # Of two classes, half of what is drawn is the class it was.
    assert abs(changed - 0.125) < 0.02
