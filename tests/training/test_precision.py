import pytest
import torch
from torch import Tensor

from saccade.attention import deformable
from saccade.model import DetectorModel
from saccade.ops import ms_deform_attn_fused
from saccade.recipe_config import LossConfig
from saccade.structures import Batch, Targets
from saccade.training import SetCriterion
from saccade.training.loop import LossModel
from tests.conftest import small_config


def test_bf16_trains_like_fp32(kind: str) -> None:
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
    for bf16 in (False, True):
        torch.manual_seed(1)
        losses = LossModel(model, criterion, bf16)(batch, targets)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        total = criterion.total(losses)
        model.zero_grad()
        total.backward()
        totals.append(total.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert totals[1] == pytest.approx(totals[0], rel=0.02)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.95


def test_locations_stay_in_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded to bf16, a location at the right end of a wide map is off by a third of a pixel."""
    references = []

    def record(
        value: Tensor, spatial_shapes: object, reference_points: Tensor, *rest: Tensor
    ) -> Tensor:
        references.append(reference_points)
        return ms_deform_attn_fused(value, spatial_shapes, reference_points, *rest)

    monkeypatch.setattr(deformable, "ms_deform_attn_fused", record)
    model = DetectorModel(small_config("learned")).eval()
    with torch.autocast("cpu", torch.bfloat16):
        predictions = model(Batch.from_images([torch.randn(3, 64, 64)]))
    # Points of the encoder's tokens and of learned queries, then boxes.
    assert {x.shape[-1] for x in references} == {2, 4}
    assert {x.dtype for x in references} == {torch.float32}
    assert predictions.boxes.dtype == torch.float32
