import math
from dataclasses import replace

import pytest
import torch

from saccade.analysis import attention_weights
from saccade.analysis.attention_weights import dense_log_weights, sampling_points, sampling_weights
from saccade.analysis.sparsity import attention_sparsity, negative_entropy
from saccade.attention import DeformableAttention, MultiheadAttention
from saccade.model import DetectorModel
from saccade.ops import ms_deform_attn
from saccade.presets import preset_config
from saccade.structures import Batch, Predictions, Tokens
from tests.conftest import small_config


def images(*sizes: tuple[int, int]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch.from_images([torch.randn(3, *size, generator=generator) for size in sizes])


def tokens(shapes: list[tuple[int, int]], ratios: list[list[float]]) -> Tokens:
    size = sum(height * width for height, width in shapes)
    features = torch.randn(1, size, 32)
    return Tokens(features, torch.randn(1, size, 32), None, tuple(shapes), torch.tensor([ratios]))


def test_uniform_one_hot_and_mixed_attention() -> None:
    uniform = torch.full((8,), 1 / 8)
    one_hot = torch.tensor([0.0, 1.0, 0.0])
    mixed = torch.tensor([0.5, 0.25, 0.25])
    assert negative_entropy(uniform.log()).item() == pytest.approx(-math.log(8))
    assert negative_entropy(one_hot.log()).item() == 0
    assert negative_entropy(mixed.log()).item() == pytest.approx(-1.5 * math.log(2))


def test_it_is_the_entropy_of_torch() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64) * 4
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(negative_entropy(logits.log_softmax(-1)), -entropy)


def test_dense_weights_are_those_that_the_layer_used() -> None:
    torch.manual_seed(0)
    layer = MultiheadAttention(32, 4, dropout=0.1).eval()
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 9, 32), torch.randn(2, 9, 32)
    blocked = torch.zeros(2, 1, 1, 9, dtype=torch.bool)
    blocked[1, ..., 6:] = True
    weights = dense_log_weights(layer, query, key, blocked).exp()
    values = layer.value_projection(value).unflatten(-1, (4, -1)).transpose(1, 2)
    again = layer.output_projection((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(again, layer(query, key, value, blocked))


@pytest.mark.parametrize("reference_size", [2, 4])
def test_points_and_their_weights_are_those_that_the_layer_used(reference_size: int) -> None:
    torch.manual_seed(0)
    layer = DeformableAttention(32, 4, num_levels=2, num_points=3)
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    torch.nn.init.normal_(layer.attention_weights.weight)
    memory = tokens([(6, 8), (3, 4)], [[0.75, 0.5], [0.75, 2 / 3]])
    query, references = torch.randn(1, 5, 32), torch.rand(1, 5, reference_size)
    weights = sampling_weights(layer, query)
    points = sampling_points(layer, query, references, memory).unflatten(3, (2, 3))
    gathered = ms_deform_attn(
        layer.value_projection(memory.features).unflatten(-1, (4, -1)),
        memory.spatial_shapes,
        # From fraction of image to fraction of the padded map.
        points * memory.valid_ratios[:, None, None, :, None],
        weights.unflatten(-1, (2, 3)),
    )
    expected = layer(query, references, memory)
    torch.testing.assert_close(layer.output_projection(gathered), expected, atol=1e-5, rtol=1e-4)


def test_every_layer_is_between_uniform_and_one_hot(model: DetectorModel) -> None:
    layers = attention_sparsity(model, [images((64, 96)), images((64, 64), (48, 80))])
    names = {f"encoder.layers.{index}.attention" for index in range(len(model.encoder.layers))}
    for index in range(len(model.decoder.layers)):
        names |= {f"decoder.layers.{index}.{part}_attention" for part in ("self", "cross")}
    assert {layer.name for layer in layers} == names
    for layer in layers:
        assert -math.log(layer.num_keys) * 1.01 < layer.negative_entropy < 0
        deformable = isinstance(model.get_submodule(layer.name), DeformableAttention)
        crossing = "cross" in layer.name
        assert (layer.spread is not None) == (layer.inside is not None) == (deformable and crossing)


def test_levels_by_themselves_and_no_decoder_at_all() -> None:
    config = small_config("learned")
    encoder = replace(config.encoder, across_levels=False)
    levelwise = DetectorModel(replace(config, encoder=encoder))
    layers = attention_sparsity(levelwise, [images((64, 96))])
    assert layers[0].name == "encoder.layers.0.attention"
    assert layers[0].num_keys == encoder.num_points
    tokens_predict = DetectorModel(preset_config("encoder-only-detr-nano"))
    layers = attention_sparsity(tokens_predict, [images((64, 96), (80, 64))])
    assert [layer.name for layer in layers] == [f"encoder.layers.{i}.attention" for i in (0, 1)]
    # The padded batch is 80 x 96: maps of 5 x 6 tokens, of which 4 x 6 and 5 x 4 are not padding.
    assert layers[0].num_keys == 22


def test_padding_is_neither_a_key_nor_a_query() -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("detr")).eval()
    picture = images((64, 96))
    mask = torch.ones(1, 128, 192, dtype=torch.bool)
    mask[:, :64, :96] = False
    padded = Batch(torch.zeros(1, 3, 128, 192), mask, ((64, 96),))
    padded.images[..., :64, :96] = picture.images
    with torch.no_grad():
        level = model.neck(model.backbone(picture.images))[0]
    filled = torch.full((1, level.shape[1], level.shape[2] * 2, level.shape[3] * 2), 7.0)
    filled[..., : level.shape[2], : level.shape[3]] = level
    plain = attention_sparsity(model, [picture])
    # The backbone sees beyond the edge of the image; what follows must not.
    model.neck.register_forward_hook(lambda *_: [filled])
    with_padding = attention_sparsity(model, [padded])
    for one, other in zip(plain, with_padding, strict=True):
        assert one.num_keys == other.num_keys
        assert one.negative_entropy == pytest.approx(other.negative_entropy, rel=1e-4)


def test_an_untrained_deformable_layer_weighs_its_points_alike() -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("learned")).eval()
    for layer in attention_sparsity(model, [images((64, 96))]):
        if "self" not in layer.name:
            points = model.get_submodule(layer.name)
            assert layer.num_keys == points.num_levels * points.num_points
            assert layer.negative_entropy == pytest.approx(-math.log(layer.num_keys), rel=1e-5)
            assert layer.sparsity == pytest.approx(layer.negative_entropy / layer.num_keys)


def test_spread_and_inside_of_points_at_known_places() -> None:
    """Two heads look from the box's centre one half width to the right, and three upwards."""
    torch.manual_seed(0)
    config = small_config("two-stage")
    decoder = replace(config.decoder, num_heads=2, num_points=1, num_layers=1)
    model = DetectorModel(replace(config, decoder=decoder)).eval()
    cross = model.decoder.layers[0].cross_attention
    with torch.no_grad():
        cross.sampling_offsets.weight.zero_()
        offsets = cross.sampling_offsets.bias.view(2, -1, 1, 2)
        offsets[0], offsets[1] = torch.tensor([0.99, 0.0]), torch.tensor([0.0, -3.0])
        # A head whose last layer says nothing leaves the reference, the proposal, as it is.
        model.decoder.heads.box_heads[0].last.weight.zero_()
        model.decoder.heads.box_heads[0].last.bias.zero_()
    (layer,) = [each for each in attention_sparsity(model, [images((96, 96))]) if each.spread]
    assert layer.name == "decoder.layers.0.cross_attention"
    assert layer.inside == pytest.approx(0.5)
    assert layer.spread == pytest.approx(((0.99**2 + 3**2) / 2 / 2) ** 0.5, rel=1e-3)


def test_large_maps_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("detr")).eval()
    whole = attention_sparsity(model, [images((64, 96))])
    monkeypatch.setattr(attention_weights, "MOST_WEIGHTS", 1000)
    in_parts = attention_sparsity(model, [images((64, 96))])
    for one, other in zip(whole, in_parts, strict=True):
        assert one.negative_entropy == pytest.approx(other.negative_entropy, rel=1e-5)


def test_the_model_is_left_as_it_was(model: DetectorModel) -> None:
    batch = images((64, 64))
    before: Predictions = model(batch)
    model.train()
    attention_sparsity(model, [batch])
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model.eval()(batch).logits, before.logits)


def test_no_batches_are_refused(model: DetectorModel) -> None:
    with pytest.raises(ValueError, match="no batches to look at"):
        attention_sparsity(model, [])
