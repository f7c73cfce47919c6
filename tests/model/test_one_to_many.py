from dataclasses import replace

import pytest
import torch

from saccade.config import DetectorConfig, OneToManyConfig
from saccade.model import DetectorModel
from saccade.recipe_config import LossConfig
from saccade.structures import Batch, Predictions, Targets
from saccade.training import SetCriterion
from tests.conftest import small_config

OBJECTS = [
    Targets(torch.tensor([[5.0, 5, 30, 30], [20, 30, 60, 60]]), torch.tensor([0, 1]), (64, 64)),
    Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (64, 64)),
]


def one_to_many(kind: str, num_queries: int = 9) -> DetectorConfig:
    return replace(
        small_config(kind), one_to_many=OneToManyConfig(num_queries=num_queries, repeats=3)
    )


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch.from_images([torch.randn(3, 64, 64, generator=generator) for _ in OBJECTS])


@pytest.mark.parametrize(
    ("kind", "num_noised"), [("two-stage", 0), ("two-stage", 20), ("learned", 0), ("detr", 0)]
)
def test_further_queries_change_nothing_for_the_detectors_own(kind: str, num_noised: int) -> None:
    config = one_to_many(kind)
    config = replace(config, denoising=replace(config.denoising, num_queries=num_noised))
    torch.manual_seed(0)
    model = DetectorModel(config).eval()
    with torch.no_grad():
        alone, together = model(batch()), model(batch(), OBJECTS)
    assert alone.one_to_many is None
    assert together.one_to_many is not None
    assert together.one_to_many.boxes.shape[1] == 9
    assert len(together.one_to_many.auxiliary) == len(together.auxiliary)
    torch.testing.assert_close(together.boxes, alone.boxes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.logits, alone.logits, atol=1e-5, rtol=1e-4)


def test_own_noised_and_further_queries_come_apart() -> None:
    torch.manual_seed(0)
    config = one_to_many("two-stage")
    predictions = DetectorModel(config)(batch(), OBJECTS)
    assert predictions.denoising is not None
    assert predictions.one_to_many is not None
    assert predictions.boxes.shape[1] == config.queries.num_queries
    assert predictions.denoising.matches is not None
    assert predictions.one_to_many.matches is None
    assert predictions.one_to_many.num_groups == 3


def test_the_next_best_proposals_are_taken_as_far_as_there_are_tokens() -> None:
    torch.manual_seed(0)
    model = DetectorModel(one_to_many("two-stage", num_queries=10_000)).eval()
    predictions = model(batch(), OBJECTS)
    assert predictions.proposals is not None
    assert predictions.one_to_many is not None
    num_tokens = predictions.proposals.logits.shape[1]
    own = predictions.logits.shape[1]
    assert predictions.one_to_many.logits.shape[1] == num_tokens - own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_proposal_is_taken_twice(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    source = DetectorModel(small_config("two-stage")).queries
    # Few different scores, as bfloat16 has.
    logits = torch.randint(4, (3, 500, 2)).to(dtype)
    proposals = Predictions(logits, torch.rand(3, 500, 4))
    own = source.start_from(proposals, range(100), None).references
    more = source.start_from(proposals, range(100, 300), None).references
    for image in range(3):
        taken = torch.cat([own[image], more[image]])
        assert len(taken.unique(dim=0)) == 300
        scores = dict(
            zip(
                map(tuple, proposals.boxes[image].tolist()),
                logits[image, :, 0].tolist(),
                strict=True,
            )
        )
        found = [scores[tuple(box)] for box in taken.tolist()]
        assert found == sorted(found, reverse=True)


def test_several_queries_learn_each_object_and_their_loss_has_a_weight() -> None:
    torch.manual_seed(0)
    predictions = DetectorModel(one_to_many("learned"))(batch(), OBJECTS)
    criterion = SetCriterion(LossConfig(one_to_many_weight=0.5), 2)
    losses = criterion(predictions, OBJECTS)
    assert predictions.one_to_many is not None
    thrice = [
        replace(each, boxes=each.boxes.repeat(3, 1), labels=each.labels.repeat(3))
        for each in OBJECTS
    ]
    expected = criterion(replace(predictions.one_to_many, num_groups=0), thrice)
    for name, loss in expected.items():
        kind, layer = name.split("_")[1], "_".join(["many", *name.split("_")[2:]])
        torch.testing.assert_close(losses[f"loss_{kind}_{layer}"], loss)
    without = criterion(replace(predictions, one_to_many=None), OBJECTS)
    more = criterion.total(losses) - criterion.total(without)
    torch.testing.assert_close(more, 0.5 * criterion.total(expected))


def test_every_parameter_learns_also_from_images_without_objects() -> None:
    torch.manual_seed(0)
    model = DetectorModel(one_to_many("two-stage"))
    nothing = [OBJECTS[1], OBJECTS[1]]
    criterion = SetCriterion(LossConfig(), 2)
    criterion.total(criterion(model(batch(), nothing), nothing)).backward()
    assert model.one_to_many is not None
    assert all(each.grad is not None for each in model.one_to_many.parameters())


def test_a_detector_without_a_decoder_refuses_them() -> None:
    with pytest.raises(ValueError, match=r"one_to_many\.num_queries is 9, but there is no decoder"):
        one_to_many("encoder-only")
