from dataclasses import replace

import pytest
import torch

from saccade.model import DetectorModel
from saccade.recipe_config import LossConfig
from saccade.structures import Batch, Predictions, Targets, Tokens
from saccade.training import SetCriterion
from tests.conftest import SMALL, small_config


def images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, height, width, generator=generator) for height, width in sizes]


def assert_same(left: Predictions, right: Predictions, atol: float = 1e-4) -> None:
    torch.testing.assert_close(left.logits, right.logits, atol=atol, rtol=1e-4)
    torch.testing.assert_close(left.boxes, right.boxes, atol=atol, rtol=1e-4)


@torch.inference_mode()
def test_images_of_one_size_give_the_same_in_a_batch_as_alone(model: DetectorModel) -> None:
    pictures = images((64, 96), (64, 96), (64, 96))
    together = model(Batch.from_images(pictures))
    for index, picture in enumerate(pictures):
        alone = model(Batch.from_images([picture]))
        one = Predictions(together.logits[[index]], together.boxes[[index]])
        assert_same(one, alone)


# Selected tokens are no maps: test_sparse_proposals.py pads them.
@pytest.mark.parametrize("kind", [kind for kind in SMALL if not kind.startswith("tsp")])
@torch.inference_mode()
def test_padding_by_whole_tokens_changes_nothing(model: DetectorModel) -> None:
    """The transformer alone: feature maps padded with their mask, as without the padding."""
    picture = images((64, 96))[0]
    batch = Batch.from_images([picture])
    plain = transform(model, model.neck(model.backbone(batch.images)), batch)
    padded_levels = []
    for level in model.neck(model.backbone(batch.images)):
        padded = torch.full((1, level.shape[1], level.shape[2] * 2, level.shape[3] * 2), 7.0)
        padded[:, :, : level.shape[2], : level.shape[3]] = level
        padded_levels.append(padded)
    mask = torch.ones(1, 128, 192, dtype=torch.bool)
    mask[:, :64, :96] = False
    padded_batch = Batch(torch.zeros(1, 3, 128, 192), mask, ((64, 96),))
    found = transform(model, padded_levels, padded_batch)
    if found.logits.shape != plain.logits.shape:
        # Where every token predicts, those of the padding see nothing at all.
        padding = model.positions(padded_levels, padded_batch).mask[0]
        assert found.logits[:, padding, :2].max() < -1000
        found = Predictions(found.logits[:, ~padding], found.boxes[:, ~padding])
    assert_same(found, plain)


def transform(model: DetectorModel, levels: list[torch.Tensor], batch: Batch) -> Predictions:
    memory: Tokens = model.encoder(model.tokens(levels, batch))
    predictions: Predictions = model.decoder(model.queries(memory), memory)
    return predictions


@torch.inference_mode()
def test_permuting_queries_permutes_outputs(model: DetectorModel) -> None:
    batch = Batch.from_images(images((64, 64)))
    levels = model.neck(model.backbone(batch.images))
    memory = model.encoder(model.tokens(levels, batch))
    queries = model.queries(memory)
    order = torch.randperm(queries.content.shape[1], generator=torch.Generator().manual_seed(2))
    permuted = replace(
        queries,
        content=queries.content[:, order],
        positions=queries.positions[:, order],
        references=None if queries.references is None else queries.references[:, order],
    )
    before, after = model.decoder(queries, memory), model.decoder(permuted, memory)
    assert_same(Predictions(before.logits[:, order], before.boxes[:, order]), after)


def test_an_image_without_objects_trains(kind: str) -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config(kind)).train()
    config = small_config(kind)
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (64, 64))
    losses = criterion(
        model(Batch.from_images(images((64, 64), (64, 64))), [empty, empty]), [empty, empty]
    )
    criterion.total(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_every_parameter_gets_a_gradient(kind: str) -> None:
    """A head without gradient, as in transformers' two-stage model, would stay random for ever."""
    torch.manual_seed(0)
    config = small_config(kind)
    model = DetectorModel(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    target = Targets(torch.tensor([[4.0, 8.0, 40.0, 50.0]]), torch.tensor([1]), (64, 64))
    predictions = model(Batch.from_images(images((64, 64))), [target])
    criterion.total(criterion(predictions, [target])).backward()
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    # A bias added to every key moves all scores of a query alike: the softmax cannot see it. And
    # DETR's queries begin as zeros: their first self-attention has nothing to gather.
    expected = {"key_projection.bias"}
    if config.queries.content == "zeros":
        expected.add("decoder.layers.0.self_attention.value_projection.weight")
    assert [name for name in silent if not any(each in name for each in expected)] == []


@pytest.mark.parametrize("seed", [0, 1])
def test_forward_is_deterministic(kind: str, seed: int) -> None:
    outputs = []
    for _ in range(2):
        torch.manual_seed(seed)
        with torch.inference_mode():
            outputs.append(
                DetectorModel(small_config(kind)).eval()(Batch.from_images(images((64, 80))))
            )
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].boxes, outputs[1].boxes)


def test_auxiliary_outputs_come_from_every_layer_but_the_last(model: DetectorModel) -> None:
    with torch.inference_mode():
        predictions = model(Batch.from_images(images((64, 64))))
    assert len(predictions.auxiliary) == max(0, len(model.decoder.layers) - 1)


def test_too_few_tokens_for_the_proposals_is_said_in_one_sentence() -> None:
    model = DetectorModel(small_config("two-stage", num_queries=500)).eval()
    with pytest.raises(ValueError, match=r"has 84 tokens but .* takes 500 proposals: use a larger"):
        model(Batch.from_images(images((64, 64))))
