"""Our detectors against transformers' with the same random weights."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
)

from saccade.config import DetectorConfig
from saccade.model import DetectorModel
from saccade.recipe_config import LossConfig
from saccade.structures import Batch, Predictions, Targets
from saccade.training import SetCriterion
from saccade.weights import from_huggingface
from saccade.weights.huggingface import translate_huggingface

TOLERANCE = 1e-4
NUM_CLASSES = 7
SMALL = {
    "backbone": "resnet18",
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 12,
    "two_stage_num_proposals": 12,
}
VARIANTS = {
    "single-scale": {"num_feature_levels": 1},
    "single-scale-dc5": {"num_feature_levels": 1, "dilation": True},
    "multi-scale": {},
    "refine": {"with_box_refine": True},
    "two-stage": {"with_box_refine": True, "two_stage": True},
    "detr": {},
    "detr-dc5": {"dilation": True},
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, DetectorModel, DetectorConfig]:
    """Their model and ours, with the same weights."""
    torch.manual_seed(1)
    return _pair(request.param, {**SMALL, **VARIANTS[request.param]})


def test_every_output_agrees(pair):
    theirs, ours, config = pair
    batch = _images()
    expected = _their_predictions(theirs, batch)
    with torch.no_grad():
        found = ours(batch)
    for layer, their_layer in zip(_layers(found), _layers(expected), strict=True):
        _assert_close(layer.logits, their_layer.logits)
        _assert_close(layer.boxes, their_layer.boxes)
    assert len(found.auxiliary) == 2
    assert found.logits.std(1).mean() > 5e-3, "all queries say the same, which proves little"
    assert (found.proposals is None) == (config.queries.source == "learned")
    if found.proposals is not None:
        assert expected.proposals is not None
        _assert_close(found.proposals.logits, expected.proposals.logits)
        _assert_close(found.proposals.boxes, expected.proposals.boxes)


def test_every_loss_agrees(pair):
    theirs, ours, config = pair
    batch, targets = _images(), _targets()
    expected = _their_losses(theirs, _their_predictions(theirs, batch), targets)
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    with torch.no_grad():
        found = criterion(ours(batch), targets)
    # transformers has no loss of the first stage.
    assert expected.keys() == {name for name in found if not name.endswith("_enc")}
    assert len(expected) == 3 * 3
    for name, loss in expected.items():
        _assert_close(found[name], loss, what=name)


def test_every_gradient_agrees(pair):
    """In float64: in float32 a backbone's gradients already differ by the order of their sums."""
    theirs, ours, config = pair
    theirs, ours = copy.deepcopy(theirs).double(), copy.deepcopy(ours).double()
    batch = _images()
    batch = replace(batch, images=batch.images.double())
    found, expected = ours(batch), theirs(**_inputs(batch))
    on_logits, on_boxes = torch.randn_like(found.logits), torch.randn_like(found.boxes)
    for model, logits, boxes in (
        (ours, found.logits, found.boxes),
        (theirs, expected.logits, expected.pred_boxes),
    ):
        model.zero_grad()
        ((logits.sigmoid() * on_logits).sum() + (boxes * on_boxes).sum()).backward()
    our_gradients = {key: p.grad for key, p in ours.named_parameters() if p.grad is not None}
    their_gradients = translate_huggingface(
        {
            key: torch.zeros_like(p) if p.grad is None else p.grad
            for key, p in theirs.named_parameters(remove_duplicate=False)
        },
        config,
    ).state
    largest = max(gradient.abs().max() for gradient in our_gradients.values())
    assert len(our_gradients) > 100
    for key, gradient in our_gradients.items():
        _assert_close(gradient, their_gradients[key], largest * 1e-2, key)


@pytest.mark.slow
def test_a_full_detector_agrees():
    theirs, ours, _ = _pair("two-stage", VARIANTS["two-stage"])
    batch = _images(scale=2)
    expected = _their_predictions(theirs, batch)
    with torch.no_grad():
        found = ours(batch)
    assert found.logits.shape == (2, 300, NUM_CLASSES)
    assert len(found.auxiliary) == 5
    for layer, their_layer in zip(_layers(found), _layers(expected), strict=True):
        _assert_close(_by_token(layer.logits, found), _by_token(their_layer.logits, expected))
        _assert_close(_by_token(layer.boxes, found), _by_token(their_layer.boxes, expected))


def _by_token(queries: Tensor, predictions: Predictions) -> Tensor:
    """Queries in the order of the tokens they start from, not of scores that may nearly tie."""
    assert predictions.proposals is not None
    order = predictions.proposals.logits[..., 0].topk(queries.shape[1]).indices.argsort(1)
    return queries.gather(1, order[..., None].expand(-1, -1, queries.shape[-1]))


def _pair(variant: str, options: dict) -> tuple[nn.Module, DetectorModel, DetectorConfig]:
    options = {
        **options,
        "use_pretrained_backbone": False,
        "num_labels": NUM_CLASSES,
        # In DETR this option would normalise the queries between layers, which DETR does not.
        "auxiliary_loss": not variant.startswith("detr"),
        "class_cost": 2,
    }
    theirs: nn.Module
    if variant.startswith("detr"):
        theirs = DetrForObjectDetection(DetrConfig(**options))
    else:
        theirs = DeformableDetrForObjectDetection(DeformableDetrConfig(**options))
    if options.get("with_box_refine") and not options.get("two_stage"):
        # transformers ties these class heads; the official detector does not.
        for index, head in enumerate(theirs.class_embed):
            theirs.class_embed[index] = nn.Linear(head.in_features, head.out_features)
    _perturb(theirs)
    config, state = from_huggingface(theirs.state_dict(), theirs.config.to_dict())
    ours = DetectorModel(config)
    ours.load_state_dict(state)
    return theirs.eval(), ours.eval(), config


@torch.no_grad()
def _perturb(model: nn.Module) -> None:
    """Noise large enough that every part matters, and queries and layers differ."""
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and "embed" not in name
        scale = parameter.shape[1] ** -0.5 if matrix else 0.05
        parameter.add_(torch.randn_like(parameter) * (1.0 if "query_position" in name else scale))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif buffer.is_floating_point():
            buffer.add_(torch.randn_like(buffer) * 0.05)


def _images(scale: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(2)
    sizes = ((96 * scale, 128 * scale), (128 * scale, 80 * scale))
    return Batch.from_images([torch.randn(3, h, w, generator=generator) for h, w in sizes])


def _inputs(batch: Batch) -> dict[str, Tensor]:
    return {"pixel_values": batch.images, "pixel_mask": (~batch.mask).long()}


def _targets() -> list[Targets]:
    return [
        Targets(
            torch.tensor([[4.0, 8.0, 60.0, 90.0], [70.0, 10.0, 120.0, 50.0]]),
            torch.tensor([2, 5]),
            (96, 128),
        ),
        Targets(torch.tensor([[10.0, 20.0, 64.0, 100.0]]), torch.tensor([0]), (128, 80)),
    ]


def _layers(predictions: Predictions) -> list[Predictions]:
    return [*predictions.auxiliary, predictions]


@torch.no_grad()
def _their_predictions(theirs: nn.Module, batch: Batch) -> Predictions:
    contents: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output: contents.append(output))
        for layer in theirs.model.decoder.layers
    ]
    out = theirs(**_inputs(batch), labels=_labels(_targets()))
    for hook in hooks:
        hook.remove()
    if isinstance(theirs, DetrForObjectDetection):
        normed = [theirs.model.decoder.layernorm(content) for content in contents[:-1]]
        auxiliary = tuple(
            Predictions(theirs.class_labels_classifier(each), theirs.bbox_predictor(each).sigmoid())
            for each in normed
        )
        return Predictions(out.logits, out.pred_boxes, auxiliary)
    proposals = None
    if out.enc_outputs_class is not None:
        proposals = Predictions(out.enc_outputs_class, out.enc_outputs_coord_logits.sigmoid())
    auxiliary = tuple(
        Predictions(each["logits"], each["pred_boxes"]) for each in out.auxiliary_outputs
    )
    return Predictions(out.logits, out.pred_boxes, auxiliary, proposals)


def _their_losses(
    theirs: nn.Module, predictions: Predictions, targets: list[Targets]
) -> dict[str, Tensor]:
    options = copy.deepcopy(theirs.config)
    options.auxiliary_loss = True
    _, losses, _ = theirs.loss_function(
        predictions.logits,
        _labels(targets),
        torch.device("cpu"),
        predictions.boxes,
        options,
        torch.stack([layer.logits for layer in _layers(predictions)]),
        torch.stack([layer.boxes for layer in _layers(predictions)]),
    )
    return {name: loss for name, loss in losses.items() if not name.startswith("cardinality")}


def _labels(targets: list[Targets]) -> list[dict[str, Tensor]]:
    return [{"class_labels": each.labels, "boxes": each.fractions} for each in targets]


def _assert_close(
    found: Tensor, expected: Tensor, floor: Tensor | float = 0.0, what: str = ""
) -> None:
    """Within TOLERANCE of the largest expected magnitude, or of a floor if that is larger."""
    assert found.shape == expected.shape, what
    error = (found - expected).abs().max()
    magnitude = max(float(expected.abs().max()), float(floor))
    assert error <= TOLERANCE * magnitude, f"{what} differs by {error:.1e} of {magnitude:.1e}"
