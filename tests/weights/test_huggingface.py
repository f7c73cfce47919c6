import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
)

from saccade.model import DetectorModel
from saccade.structures import Batch
from saccade.weights import from_huggingface, load_weights, save_huggingface, to_huggingface

PRESETS = [
    "deformable-detr-r50-single-scale",
    "deformable-detr-r50-single-scale-dc5",
    "deformable-detr-r50",
    "deformable-detr-r50-refine",
    "deformable-detr-r50-two-stage",
    "detr-r50",
    "detr-r50-dc5",
]
TINY = "test_resnet"
SMALL = {
    "backbone": TINY,
    "use_pretrained_backbone": False,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 5,
    "num_labels": 3,
}
OPTIONS = {
    "single-scale-dc5": {"num_feature_levels": 1, "dilation": True},
    "multi-scale": {},
    "refine": {"with_box_refine": True},
    "two-stage": {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 5},
    "detr": {},
}


def _theirs(variant: str, **changes) -> torch.nn.Module:
    options = {**SMALL, **OPTIONS[variant], **changes}
    torch.manual_seed(0)
    if variant == "detr":
        model = DetrForObjectDetection(DetrConfig(**options))
    else:
        model = DeformableDetrForObjectDetection(DeformableDetrConfig(**options))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.01)
    return model.eval()


def _load_theirs(folder, kind):
    model_class = DetrForObjectDetection if kind == "detr" else DeformableDetrForObjectDetection
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def _batch() -> Batch:
    torch.manual_seed(4)
    return Batch.from_images([torch.randn(3, 64, 96), torch.randn(3, 80, 64)])


@pytest.mark.parametrize("preset", PRESETS)
def test_ours_there_and_back_is_bitwise(preset, small_config, random_state, assert_same, tmp_path):
    config = small_config(preset, TINY)
    state = random_state(config)
    save_huggingface(tmp_path, config, state)
    loaded = load_weights(tmp_path)
    assert loaded.config == config
    assert_same(loaded.state, state)
    assert loaded.report.left_out == ()


@pytest.mark.parametrize("variant", OPTIONS)
def test_theirs_there_and_back_is_bitwise(variant, assert_same, tmp_path):
    theirs = _theirs(variant)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_weights(tmp_path / "theirs")
    assert loaded.report.left_out == ()
    save_huggingface(tmp_path / "back", loaded.config, loaded.state)
    back = _load_theirs(tmp_path / "back", theirs.config.model_type)
    assert_same(dict(back.state_dict()), dict(theirs.state_dict()))
    if variant != "refine":  # There ours has heads of its own where theirs are tied.
        assert_same(
            load_file(tmp_path / "back" / "model.safetensors"),
            load_file(tmp_path / "theirs" / "model.safetensors"),
        )


@pytest.mark.parametrize("preset", ["deformable-detr-r50-two-stage", "detr-r50-dc5"])
def test_transformers_reads_what_we_write(preset, small_config, tmp_path):
    config = small_config(preset, TINY)
    torch.manual_seed(0)
    ours = DetectorModel(config).eval()
    save_huggingface(tmp_path, config, ours.state_dict())
    theirs = _load_theirs(tmp_path, "detr" if preset.startswith("detr") else "deformable")
    assert tuple(theirs.config.id2label.values()) == config.class_names
    batch = _batch()
    with torch.no_grad():
        found, expected = ours(batch), theirs(batch.images, (~batch.mask).long())
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.pred_boxes, rtol=1e-4, atol=1e-5)


def test_the_image_processor_travels_along(small_config, random_state, tmp_path):
    config = small_config("detr-r50", TINY)
    config = replace(config, input=replace(config.input, short_side=320, max_side=500))
    save_huggingface(tmp_path, config, random_state(config))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert dict(processor.size) == {"shortest_edge": 320, "longest_edge": 500}
    assert load_weights(tmp_path).config.input == config.input


@pytest.mark.parametrize("variant", OPTIONS)
def test_names_of_version_5_with_every_tied_copy(variant, assert_same, tmp_path):
    theirs = _theirs(variant)
    state = dict(theirs.state_dict())
    assert any(".mlp.fc1." in key for key in state)
    assert any(key.startswith("model.backbone.model.") for key in state)
    config, found = from_huggingface(state, theirs.config.to_dict())
    theirs.save_pretrained(tmp_path)
    assert_same(found, load_weights(tmp_path).state)
    DetectorModel(config).load_state_dict(found)


def test_a_plain_file_with_only_the_first_of_tied_heads(tmp_path):
    theirs = _theirs("refine")
    theirs.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "class_embed.1.weight" not in stored
    state = load_weights(tmp_path).state
    for index in range(2):
        assert torch.equal(
            state[f"decoder.heads.class_heads.{index}.weight"], stored["class_embed.0.weight"]
        )


def test_refined_heads_that_differ_stay_different(small_config, random_state, tmp_path):
    config = small_config("deformable-detr-r50-refine", TINY)
    state = random_state(config)
    save_huggingface(tmp_path, config, state)
    theirs = _load_theirs(tmp_path, "deformable")
    for index in range(3):
        expected = state[f"decoder.heads.class_heads.{index}.weight"]
        assert torch.equal(theirs.class_embed[index].weight, expected)


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_transformers_own_resnet(layer_type, tmp_path):
    wide = layer_type == "bottleneck"
    backbone = ResNetConfig(
        depths=[2, 2, 2, 2],
        layer_type=layer_type,
        hidden_sizes=[256, 512, 1024, 2048] if wide else [64, 128, 256, 512],
        out_features=["stage2", "stage3", "stage4"],
    )
    theirs = _theirs("multi-scale", backbone_config=backbone, backbone=None)
    theirs.save_pretrained(tmp_path)
    loaded = load_weights(tmp_path)
    assert loaded.config.backbone.name == ("resnet26" if wide else "resnet18")
    assert loaded.config.backbone.levels == (3, 4, 5)
    assert loaded.report.left_out == ()
    ours = DetectorModel(loaded.config).eval()
    ours.load_state_dict(loaded.state)
    batch = _batch()
    with torch.no_grad():
        found, expected = ours(batch), theirs(batch.images, (~batch.mask).long())
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_one_map_and_three_extra_levels(small_config, random_state, assert_same, tmp_path):
    config = small_config("deformable-detr-r50", TINY)
    config = replace(
        config,
        backbone=replace(config.backbone, levels=(5,), dilated=True),
        neck=replace(config.neck, num_extra_levels=3),
    )
    state = random_state(config)
    save_huggingface(tmp_path, config, state)
    loaded = load_weights(tmp_path)
    assert loaded.config == config
    assert_same(loaded.state, state)
    _load_theirs(tmp_path, "deformable")


def test_shards(small_config, random_state, assert_same, tmp_path):
    config = small_config("detr-r50", TINY)
    state = random_state(config)
    tensors, hf_config = to_huggingface(state, config)
    keys = list(tensors)
    shards = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for name, part in shards.items():
        save_file({key: tensors[key].contiguous() for key in part}, tmp_path / name)
    weight_map = {key: name for name, part in shards.items() for key in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps(hf_config))
    assert_same(load_weights(tmp_path).state, state)
    index = tmp_path / "model.safetensors.index.json"
    for name in ("../b.safetensors", str(tmp_path / "b.safetensors"), "..", "b.bin", 3):
        index.write_text(json.dumps({"weight_map": weight_map | {"x": name}}))
        with pytest.raises(ValueError, match=r"expected a \.safetensors file of the same folder"):
            load_weights(tmp_path)
    index.write_text(json.dumps({"weight_map": [1]}))
    with pytest.raises(ValueError, match=r"says weight_map \[1\]: expected the file of every tens"):
        load_weights(tmp_path)
    index.write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no b\.safetensors: expected the weights beside"):
        load_weights(tmp_path)


def test_unused_ids_get_names_of_their_own():
    theirs = _theirs("detr", id2label={0: "N/A", 1: "cat", 2: "N/A"})
    config, _ = from_huggingface(theirs.state_dict(), theirs.config.to_dict())
    assert config.class_names == ("unused 0", "cat", "unused 2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "yolos"}, r"model_type 'yolos': expected 'deformable_detr' or 'detr'"),
        ({"position_embedding_type": "learned"}, "position_embedding_type 'learned': expected"),
        ({"auxiliary_loss": True}, "normalises DETR's queries between layers: expected false"),
        ({"id2label": {"0": "cat"}}, 'names 1 classes in id2label, but .* has 6 rows: .*"no obj'),
        ({"backbone": "nonsense"}, 'the backbone is "nonsense", which timm'),
        ({"backbone_config": {"model_type": "swin"}}, "backbone_config.model_type 'swin'"),
        ({"d_model": 64}, r"neck.levels.0.0.weight of shape \[32, 96, 1, 1\], .* \[64, 96, 1, 1\]"),
        ({"decoder_layers": 4}, r"lacks \d+ of \d+ tensors, decoder.layers.3.self_attention"),
        ({"decoder_layers": 0}, r"decoder\.num_layers is 0: expected no layers exactly where"),
        ({"encoder_attention_heads": 0}, r"encoder\.num_heads is 0: expected more than zero"),
        ({"num_feature_levels": "4"}, r"config\.json\.num_feature_levels is '4': expected int"),
        ({"d_model": None}, r"config\.json\.d_model is None: expected int"),
        ({"backbone": 5}, r"config\.json\.backbone is 5: expected str"),
        ({"backbone_config": 5}, r"config\.json\.backbone_config is 5: expected dict"),
        (
            {"backbone_config": {"out_indices": [9]}},
            r"takes the maps \(9,\) of .*: expected 0 to 4",
        ),
        (
            {"backbone_config": {"out_indices": 1}},
            r"backbone_config\.out_indices is 1: expected tup",
        ),
        ({"dropout": "much"}, r"config\.json\.dropout is 'much': expected float"),
        ({"id2label": ["a"]}, r"config\.json\.id2label is \['a'\]: expected dict"),
        (
            {"id2label": dict.fromkeys("abcde", "x")},
            r"expected the number of every class as its key",
        ),
        ({"id2label": dict.fromkeys("01234", "x")}, r'class_names\[1\] is "x" again'),
        (
            {"id2label": dict.fromkeys("01234")},
            r"config\.json\.id2label\['0'\] is None: expected str",
        ),
        ({"model_type": ["detr"]}, r"model_type \['detr'\]: expected 'deformable_detr' or 'detr'"),
    ],
)
def test_what_does_not_fit_is_named(change, message, small_config, random_state, tmp_path):
    config = small_config("detr-r50", TINY)
    save_huggingface(tmp_path, config, random_state(config))
    description = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(description | change))
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path)


def test_a_detector_that_transformers_lacks_is_named(small_config, random_state, tmp_path):
    config = small_config("deformable-detr-r50-two-stage", TINY)
    config = replace(config, queries=replace(config.queries, content="learned"))
    with pytest.raises(ValueError, match=r"queries.content is 'learned', which the foreign"):
        save_huggingface(tmp_path, config, random_state(config))


def test_what_the_layout_stores_once_must_agree(small_config, random_state, tmp_path):
    config = small_config("deformable-detr-r50", TINY)
    decoder = replace(config.decoder, num_heads=8, num_points=1, ffn_width=40)
    different = replace(config, decoder=decoder)
    save_huggingface(tmp_path, different, random_state(different))
    assert load_weights(tmp_path).config == different
    different = replace(config, decoder=replace(decoder, dropout=0.3))
    message = r"^encoder\.dropout is 0\.1 but decoder\.dropout is 0\.3, and the transformers layout"
    with pytest.raises(ValueError, match=message):
        save_huggingface(tmp_path, different, random_state(different))


def test_fewer_levels_than_maps_are_named():
    theirs = _theirs("multi-scale")
    with pytest.raises(ValueError, match=r"num_feature_levels 2, but its backbone gives 3 maps"):
        from_huggingface(theirs.state_dict(), theirs.config.to_dict() | {"num_feature_levels": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_mean": None}, r"preprocessor_config\.json\.image_mean is None: expected tuple"),
        (
            {"image_std": [1, 1]},
            r"preprocessor_config\.json\.image_std is \[1, 1\]: expected tuple",
        ),
        ({"image_std": [0, 1, 1]}, r"input\.std is .*: expected a number above 0"),
        ({"size": "800"}, r"preprocessor_config\.json\.size is '800': expected"),
        ({"size": {"height": 3}}, r"size {'height': 3}: expected shortest_edge and longest_edge"),
        (
            {"size": {"shortest_edge": None, "longest_edge": 9}},
            r"preprocessor_config\.json\.size\['shortest_edge'\] is None: expected int",
        ),
        ({"do_rescale": False}, r"says do_rescale false: expected true"),
        ({"do_resize": False}, r"says do_resize false: expected true"),
        ({"rescale_factor": 1.0}, r"says rescale_factor 1\.0: expected 1/255"),
    ],
)
def test_an_unusable_processor_is_named(change, message, small_config, random_state, tmp_path):
    config = small_config("detr-r50", TINY)
    save_huggingface(tmp_path, config, random_state(config))
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path)


def test_images_that_are_not_normalised(small_config, random_state, tmp_path):
    config = small_config("detr-r50", TINY)
    save_huggingface(tmp_path, config, random_state(config))
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"do_normalize": False, "size": 300, "max_size": 500}))
    found = load_weights(tmp_path).config.input
    assert (found.short_side, found.max_side) == (300, 500)
    assert (found.mean, found.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
