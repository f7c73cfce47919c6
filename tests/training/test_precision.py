import pytest
import torch
from torch import Tensor

from saccade.attention import deformable
from saccade.model import DetectorModel
from saccade.ops import ms_deform_attn_fused
from saccade.recipe_config import LossConfig
from saccade.run_config import Precision
from saccade.structures import Batch, Predictions, Targets
from saccade.training import SetCriterion
from saccade.training.loss_model import LossModel
from tests.conftest import small_config

BATCH = Batch.from_images([torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))])


def test_bf16_trains_like_fp32(kind: str) -> None:
    assert_like_float32(kind, "bf16")


@pytest.mark.parametrize("kind", ["learned", "two-stage", "detr", "tsp-fcos"])
def test_fp16_trains_like_fp32(kind: str) -> None:
    """Its gradients vanish unless the loss is multiplied, and overflow if by much."""
    assert_like_float32(kind, "fp16")


def assert_like_float32(kind: str, precision: Precision) -> None:
    torch.manual_seed(0)
    config = small_config(kind)
    model = DetectorModel(config)
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    batch = Batch.from_images([torch.randn(3, 64, 96), torch.randn(3, 64, 64)])
    targets = [
        Targets(torch.tensor([[4.0, 8.0, 40.0, 50.0]]), torch.tensor([1]), size)
        for size in batch.sizes
    ]
    totals, gradients = [], []
    scales: dict[Precision, float] = {"32": 1.0, precision: 16.0}
    for each, scale in scales.items():
        torch.manual_seed(1)
        losses = LossModel(model, criterion, each)(batch, targets)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        total = criterion.total(losses)
        model.zero_grad()
        (scale * total).backward()
        totals.append(total.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]) / scale)
    assert totals[1] == pytest.approx(totals[0], rel=0.02)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_locations_stay_in_float32_under_autocast(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Rounded to bf16, a location at the right end of a wide map is off by a third of a pixel."""
    references = []

    def record(
        value: Tensor, spatial_shapes: object, reference_points: Tensor, *rest: Tensor
    ) -> Tensor:
        references.append(reference_points)
        return ms_deform_attn_fused(value, spatial_shapes, reference_points, *rest)

    monkeypatch.setattr(deformable, "ms_deform_attn_fused", record)
    model = DetectorModel(small_config("learned")).eval()
    with torch.autocast("cpu", dtype):
        predictions = model(Batch.from_images([torch.randn(3, 64, 64)]))
    # Points of the encoder's tokens and of learned queries, then boxes.
    assert {x.shape[-1] for x in references} == {2, 4}
    assert {x.dtype for x in references} == {torch.float32}
    assert predictions.boxes.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["learned", "two-stage"])
def test_boxes_and_what_they_start_from_are_float32(kind: str, dtype: torch.dtype) -> None:
    """Learned points are those of float32 to the last bit; boxes come out in it."""
    model = DetectorModel(small_config(kind)).eval()
    memory = model.encoder(model.tokens(model.neck(model.backbone(images := BATCH.images)), BATCH))
    plain = model.queries(memory)
    with torch.autocast("cpu", dtype):
        queries = model.queries(memory)
        predictions = model(BATCH)
    assert images.dtype == queries.references.dtype == torch.float32
    if kind == "learned":
        assert torch.equal(queries.references, plain.references)
    found = [predictions, *predictions.auxiliary]
    found += [] if predictions.proposals is None else [predictions.proposals]
    assert {each.boxes.dtype for each in found} == {torch.float32}
    assert {each.logits.dtype for each in found} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_and_matching_are_computed_in_float32(dtype: torch.dtype) -> None:
    """Even inside of autocast, and from logits in half precision."""
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 12, 2, dtype=dtype), 0.2 + 0.5 * torch.rand(2, 12, 4)
    targets = [Targets(torch.tensor([[4.0, 8.0, 40.0, 50.0]]), torch.tensor([1]), (64, 64))] * 2
    criterion = SetCriterion(LossConfig(), 2)
    exact = criterion(Predictions(logits.float(), boxes), targets)
    costs = criterion.matcher.cost(logits[0].float(), boxes[0], targets[0])
    with torch.autocast("cpu", dtype):
        losses = criterion(Predictions(logits, boxes), targets)
        assert torch.equal(criterion.matcher.cost(logits[0], boxes[0], targets[0]), costs)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert torch.equal(loss, exact[name])
