import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from saccade.analysis import attention_calls
from saccade.analysis.attention_calls import AttentionCall, points_looked_at, watch_attention
from saccade.attention import LevelwiseDeformableAttention
from saccade.model import DetectorModel
from saccade.ops import ms_deform_attn
from saccade.structures import Batch
from tests.conftest import small_config


def picture() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch.from_images([torch.randn(3, 64, 96, generator=generator)])


def shaken(model: DetectorModel) -> DetectorModel:
    """Random everywhere: untrained attention looks alike from every query."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


def calls_and_outputs(model: DetectorModel) -> list[tuple[AttentionCall, Tensor]]:
    outputs = []
    layers = [layer.attention for layer in model.encoder.layers]
    layers += [layer.cross_attention for layer in model.decoder.layers]
    handles = [
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        for layer in layers
    ]
    with torch.no_grad(), watch_attention(model) as calls:
        model(picture())
    for handle in handles:
        handle.remove()
    return list(zip([*calls.encoder, *calls.decoder], outputs, strict=True))


def attended(call: AttentionCall) -> Tensor:
    """What the layer's values give at the points, by the kernel or as a weighted sum of keys."""
    points = points_looked_at(call, torch.arange(call.query.shape[1]))[None]
    attention: nn.Module = call.attention
    if isinstance(attention, LevelwiseDeformableAttention):
        attention = attention.attention
    layer = getattr(attention, "attention", attention)
    heads = layer.num_heads
    points = points.unflatten(2, (heads, -1))
    assert torch.equal(points[..., 4], torch.arange(heads)[:, None].expand(points.shape[:-1]))
    torch.testing.assert_close(points[..., 2].sum(-1), torch.ones(points.shape[:-2]))
    value = layer.value_projection(call.memory.features).unflatten(-1, (heads, -1))
    shapes = call.memory.spatial_shapes
    if not call.deformable:
        # A key read at its centre, where nothing else has a share in it, is the key itself.
        locations, weights = points[..., None, :, :2], points[..., None, :, 2]
    else:
        level = points[..., 3]
        # A point of one level weighs nothing on the others.
        of_level = [(level == index).to(points.dtype) for index in range(len(shapes))]
        weights = torch.stack([points[..., 2] * each for each in of_level], 3)
        locations = points[..., None, :, :2].expand(*weights.shape, 2)
    gathered = ms_deform_attn(value, shapes, locations.contiguous(), weights.contiguous())
    return layer.output_projection(gathered)


def test_the_points_and_weights_are_those_that_every_layer_used(
    model: DetectorModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_calls, "KEYS_PER_HEAD", 10_000)
    found = calls_and_outputs(model)
    assert len(found) == len(model.encoder.layers) + len(model.decoder.layers)
    for call, output in found:
        if call.memory.origins is None:
            torch.testing.assert_close(attended(call), output, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("refined", [True, False])
@pytest.mark.parametrize("across_levels", [True, False])
def test_so_they_are_with_points_as_references_and_without_other_levels(
    refined: bool, across_levels: bool
) -> None:
    config = small_config("learned")
    torch.manual_seed(0)
    model = DetectorModel(
        replace(
            config,
            encoder=replace(config.encoder, across_levels=across_levels),
            decoder=replace(config.decoder, refined=refined),
        )
    )
    for call, output in calls_and_outputs(shaken(model)):
        torch.testing.assert_close(attended(call), output, atol=1e-4, rtol=1e-3)


def test_of_keys_the_strongest_of_each_head_come_first() -> None:
    torch.manual_seed(0)
    model = shaken(DetectorModel(small_config("detr")))
    call, _ = calls_and_outputs(model)[-1]
    points = points_looked_at(call, torch.tensor([3, 5]))
    heads = model.decoder.layers[0].cross_attention.attention.num_heads
    weights = points[..., 2].unflatten(1, (heads, attention_calls.KEYS_PER_HEAD))
    assert torch.equal(weights, weights.sort(-1, descending=True).values)
    assert (points[..., 3] == 0).all()


def test_calls_of_other_threads_are_not_noted_and_nothing_stays_behind() -> None:
    model = shaken(DetectorModel(small_config("two-stage")))
    with torch.no_grad(), watch_attention(model) as calls:
        other = threading.Thread(target=lambda: model(picture()))
        other.start()
        other.join()
        assert calls.tokens is None
        assert calls.encoder == calls.decoder == []
        model(picture())
    assert len(calls.decoder) == len(model.decoder.layers)
    assert not any(module._forward_pre_hooks for module in model.modules())
