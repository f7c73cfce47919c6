from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.coco_classes import COCO_CLASSES
from saccade.config import InputConfig
from saccade.model import DetectorModel
from saccade.presets import preset_config
from saccade.weights import (
    from_official,
    load_weights,
    recognise_official,
    save_official,
    to_huggingface,
    to_official,
)
from saccade.weights.official import official_args

DEFORMABLE = [
    "deformable-detr-r50-single-scale",
    "deformable-detr-r50-single-scale-dc5",
    "deformable-detr-r50",
    "deformable-detr-r50-refine",
    "deformable-detr-r50-two-stage",
]
ALL = [*DEFORMABLE, "detr-r50", "detr-r50-dc5"]


@pytest.mark.parametrize("preset", ALL)
def test_a_round_trip_is_bitwise(preset, small_config, random_state, assert_same):
    config = small_config(preset)
    state = random_state(config)
    official = to_official(state, config)
    assert_same(from_official(official, config), state)
    assert_same(to_official(from_official(official, config), config), official)


@pytest.mark.parametrize("preset", ALL)
def test_names_are_the_official_ones(preset, small_config, random_state):
    config = small_config(preset)
    written = to_official(random_state(config), config)
    expected = _detr_names() if preset.startswith("detr") else _deformable_names(preset)
    assert {key for key in written if not key.startswith("backbone.")} == expected
    backbone = {key for key in written if key.startswith("backbone.")}
    assert "backbone.0.body.conv1.weight" in backbone
    assert "backbone.0.body.bn1.running_var" in backbone
    assert "backbone.0.body.layer2.0.downsample.1.running_mean" in backbone
    assert not any("num_batches_tracked" in key or "fc" in key for key in backbone)
    assert len(backbone) == 20 * 5  # Each of ResNet-18's convolutions has a frozen norm.


def _leaves(*modules: str) -> set[str]:
    return {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}


def _dense(prefix: str) -> set[str]:
    joined = {f"{prefix}.in_proj_weight", f"{prefix}.in_proj_bias"}
    return joined | _leaves(f"{prefix}.out_proj")


def _deformable_attention(prefix: str) -> set[str]:
    parts = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    return _leaves(*(f"{prefix}.{part}" for part in parts))


def _rest_of_layer(prefix: str, num_norms: int) -> set[str]:
    norms = [f"{prefix}.norm{i + 1}" for i in range(num_norms)]
    return _leaves(f"{prefix}.linear1", f"{prefix}.linear2", *norms)


def _box_head(prefix: str) -> set[str]:
    return _leaves(*(f"{prefix}.layers.{i}" for i in range(3)))


def _deformable_names(preset: str) -> set[str]:
    single, two_stage = "single-scale" in preset, preset.endswith("two-stage")
    names = {"transformer.level_embed"}
    for level in range(1 if single else 4):
        names |= _leaves(f"input_proj.{level}.0", f"input_proj.{level}.1")
    for i in range(2):
        prefix = f"transformer.encoder.layers.{i}"
        names |= _deformable_attention(f"{prefix}.self_attn") | _rest_of_layer(prefix, 2)
    for i in range(3):
        prefix = f"transformer.decoder.layers.{i}"
        names |= _deformable_attention(f"{prefix}.cross_attn") | _rest_of_layer(prefix, 3)
        names |= _dense(f"{prefix}.self_attn")
    for i in range(4 if two_stage else 3):
        names |= _leaves(f"class_embed.{i}") | _box_head(f"bbox_embed.{i}")
        if two_stage:
            names |= _leaves(f"transformer.decoder.class_embed.{i}")
        if two_stage or preset.endswith("refine"):
            names |= _box_head(f"transformer.decoder.bbox_embed.{i}")
    if two_stage:
        parts = ("enc_output", "enc_output_norm", "pos_trans", "pos_trans_norm")
        return names | _leaves(*(f"transformer.{part}" for part in parts))
    return names | {"query_embed.weight"} | _leaves("transformer.reference_points")


def _detr_names() -> set[str]:
    names = {"query_embed.weight"} | _leaves("input_proj", "transformer.decoder.norm")
    names |= _leaves("class_embed") | _box_head("bbox_embed")
    for i in range(2):
        prefix = f"transformer.encoder.layers.{i}"
        names |= _dense(f"{prefix}.self_attn") | _rest_of_layer(prefix, 2)
    for i in range(3):
        prefix = f"transformer.decoder.layers.{i}"
        names |= _dense(f"{prefix}.self_attn") | _dense(f"{prefix}.multihead_attn")
        names |= _rest_of_layer(prefix, 3)
    return names


def test_projections_queries_and_norms_go_where_they_belong(small_config, random_state):
    config = small_config("deformable-detr-r50")
    state = random_state(config)
    official = to_official(state, config)
    joined = official["transformer.decoder.layers.1.self_attn.in_proj_weight"]
    ours = "decoder.layers.1.self_attention"
    assert torch.equal(joined[:32], state[f"{ours}.query_projection.weight"])
    assert torch.equal(joined[32:64], state[f"{ours}.key_projection.weight"])
    assert torch.equal(joined[64:], state[f"{ours}.value_projection.weight"])
    assert torch.equal(official["query_embed.weight"][:, :32], state["queries.positions.weight"])
    assert torch.equal(official["query_embed.weight"][:, 32:], state["queries.content.weight"])
    layer = "transformer.decoder.layers.0"
    for norm, ours in (("norm1", "cross_norm"), ("norm2", "self_norm"), ("norm3", "ffn.norm")):
        assert torch.equal(
            official[f"{layer}.{norm}.weight"], state[f"decoder.layers.0.{ours}.weight"]
        )
    assert official["class_embed.2.weight"] is official["class_embed.0.weight"]


def test_detr_counts_its_norms_in_the_order_of_use(small_config, random_state):
    config = small_config("detr-r50")
    state = random_state(config)
    official = to_official(state, config)
    layer = "transformer.decoder.layers.0"
    for norm, ours in (("norm1", "self_norm"), ("norm2", "cross_norm"), ("norm3", "ffn.norm")):
        assert torch.equal(
            official[f"{layer}.{norm}.weight"], state[f"decoder.layers.0.{ours}.weight"]
        )


def test_the_last_of_the_two_stage_heads_is_the_first_stage(small_config, random_state):
    config = small_config("deformable-detr-r50-two-stage")
    state = random_state(config)
    official = to_official(state, config)
    assert torch.equal(official["class_embed.3.weight"], state["queries.class_head.weight"])
    assert torch.equal(
        official["transformer.decoder.bbox_embed.3.layers.2.bias"],
        state["queries.box_head.layers.2.bias"],
    )


@pytest.mark.parametrize("preset", ALL)
def test_a_written_file_is_recognised(preset, small_config, random_state, assert_same, tmp_path):
    config = small_config(preset)
    state = random_state(config)
    save_official(tmp_path / "run" / "weights.pth", config, state)
    loaded = load_weights(tmp_path / "run" / "weights.pth")
    assert loaded.config == config
    assert_same(loaded.state, state)
    assert loaded.report.loaded == len(state)
    assert loaded.report.left_out == loaded.report.adapted == ()


@pytest.mark.parametrize(
    "preset", ["deformable-detr-r50", "deformable-detr-r101-two-stage", "detr-r101-dc5"]
)
def test_published_shapes_are_recognised_as_their_preset(preset):
    config = preset_config(preset)
    with torch.device("meta"):
        official = to_official(DetectorModel(config).state_dict(), config)
    args = official_args(config)
    del args.class_names
    assert recognise_official(official, args) == config


def test_91_classes_without_names_are_coco_others_are_numbered(small_config, random_state):
    small = small_config("deformable-detr-r50")
    small = replace(
        small,
        encoder=replace(small.encoder, num_heads=8),
        decoder=replace(small.decoder, num_heads=8),
    )
    config = replace(small, class_names=COCO_CLASSES)
    official = to_official(random_state(config), config)
    assert recognise_official(official).class_names == COCO_CLASSES
    official = to_official(random_state(small), small)
    assert recognise_official(official).class_names[:2] == ("class 0", "class 1")


def test_a_multi_scale_file_needs_no_args(small_config, random_state):
    config = small_config("deformable-detr-r50-refine")
    config = replace(
        config,
        encoder=replace(config.encoder, num_heads=8, num_points=1),
        decoder=replace(config.decoder, num_heads=8),
    )
    found = recognise_official(to_official(random_state(config), config))
    assert replace(found, class_names=config.class_names) == config


@pytest.mark.parametrize("preset", ["deformable-detr-r50-single-scale", "detr-r50"])
def test_dilation_is_asked_for_where_nothing_tells_it(preset, small_config, random_state, tmp_path):
    config = small_config(preset)
    file = tmp_path / "weights.pth"
    torch.save({"model": to_official(random_state(config), config)}, file)
    with pytest.raises(
        ValueError, match=r"does not say whether its C5 is dilated.*pass the preset"
    ):
        load_weights(file)


def test_a_preset_settles_what_a_file_does_not_tell(random_state, tmp_path):
    small = replace(
        preset_config("detr-r50"),
        encoder=replace(preset_config("detr-r50").encoder, num_layers=1, ffn_width=8),
        decoder=replace(preset_config("detr-r50").decoder, num_layers=1, ffn_width=8),
    )
    file = tmp_path / "weights.pth"
    torch.save(to_official(random_state(small), small), file)
    for preset, dilated in (("detr-r50", False), ("detr-r50-dc5", True)):
        assert load_weights(file, preset=preset).config.backbone.dilated is dilated
    with pytest.raises(ValueError, match=r"backbone.name 'resnet50', but preset .detr-r101. has"):
        load_weights(file, preset="detr-r101")


def test_args_outweigh_a_preset_and_a_contradiction_is_named(small_config, random_state):
    config = small_config("detr-r50-dc5")
    official = to_official(random_state(config), config)
    found = recognise_official(official, Namespace(dilation=True), preset_config("detr-r50"))
    assert found.backbone.dilated


def test_repetitions_that_differ_are_left_out_by_name(small_config, random_state, tmp_path):
    config = small_config("deformable-detr-r50")
    official = to_official(random_state(config), config)
    official["class_embed.1.bias"] = official["class_embed.0.bias"] + 1
    official["aux.weight"] = torch.zeros(1)
    official["transformer.total_ops"] = torch.zeros(1)
    file = tmp_path / "weights.pth"
    torch.save({"model": official, "args": official_args(config)}, file)
    report = load_weights(file).report
    assert report.left_out == ("class_embed.1.bias", "aux.weight")
    assert str(report).endswith("Left out: class_embed.1.bias, aux.weight.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, positions=replace(c.positions, centred=False)), "positions.centred"),
        (lambda c: replace(c, decoder=replace(c.decoder, final_norm=True)), "decoder.final_norm"),
        (
            lambda c: replace(c, encoder=replace(c.encoder, pre_norm=True)),
            r"^encoder\.pre_norm is True, which the foreign layouts of deformable_detr cannot hold",
        ),
        (lambda c: replace(c, backbone=replace(c.backbone, name="resnext50_32x4d")), "resnext50"),
        (
            lambda c: replace(c, decoder=replace(c.decoder, num_heads=8)),
            r"^encoder\.num_heads is 4 but decoder\.num_heads is 8, and the official layout stores",
        ),
        (lambda c: replace(c, decoder=replace(c.decoder, ffn_width=8)), r"decoder\.ffn_width is 8"),
        (
            lambda c: replace(c, encoder=replace(c.encoder, dropout=0.0)),
            r"encoder\.dropout is 0\.0",
        ),
        (
            lambda c: replace(c, backbone=replace(c.backbone, levels=(4, 5))),
            r"^backbone\.levels is \(4, 5\), but the official models use \(3, 4, 5\) for 3 levels",
        ),
    ],
)
def test_what_the_layout_cannot_hold_is_named(change, message, small_config):
    config = change(small_config("deformable-detr-r50"))
    with pytest.raises(ValueError, match=message):
        to_official({}, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: replace(c, encoder=replace(c.encoder, pre_norm=True)),
            r"^encoder\.pre_norm is True, which the foreign layouts of detr cannot hold: expected "
            r"False; save the detector in its own layout instead\.$",
        ),
        (
            lambda c: preset_config("tsp-fcos-nano"),
            r"^selection\.kind is 'fcos', which the foreign layouts of detr cannot hold: expected "
            r"'none'",
        ),
    ],
)
@pytest.mark.parametrize("write", [to_official, to_huggingface])
def test_what_no_detr_of_theirs_has_is_named(write, change, message, small_config):
    config = change(small_config("detr-r50"))
    with pytest.raises(ValueError, match=message):
        write({}, config)


def test_denoising_and_counters_of_norms_are_not_written(small_config, random_state):
    config = small_config("deformable-detr-r50-two-stage")
    training = replace(
        config,
        denoising=replace(config.denoising, num_queries=4),
        backbone=replace(config.backbone, norm="trained"),
    )
    state = random_state(training)
    assert "denoising.labels.weight" in state
    written = to_official(state, training)
    assert written.keys() == to_official(random_state(config), config).keys()


@pytest.mark.parametrize("preset", ["deformable-detr-r50-two-stage", "detr-r50"])
def test_the_input_travels_along(preset, small_config, random_state, tmp_path):
    config = small_config(preset)
    config = replace(
        config,
        input=InputConfig(short_side=320, max_side=500, mean=(0.0, 0.1, 0.2), std=(1.0, 1.1, 1.2)),
    )
    save_official(tmp_path / "weights.pth", config, random_state(config))
    assert load_weights(tmp_path / "weights.pth").config == config


def test_a_preset_tells_the_input_of_a_file_without_args(small_config, random_state):
    config = small_config("deformable-detr-r50")
    preset = replace(config, input=InputConfig(short_side=320))
    found = recognise_official(to_official(random_state(config), config), preset=preset)
    assert found.input.short_side == 320


def test_what_other_code_stores_under_our_names_is_ignored(small_config, random_state):
    config = small_config("deformable-detr-r50")
    args = Namespace(nheads=4, class_names="names.txt", input="images")
    found = recognise_official(to_official(random_state(config), config), args)
    assert found.input == InputConfig()
    assert found.class_names[0] == "class 0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nheads": 0}, r"^args\.nheads is 0: expected more than zero"),
        ({"nheads": None}, r"^args\.nheads is None: expected int"),
        ({"nheads": 5}, r"attention_weights\.weight has 32 rows: expected a multiple of 5 heads x"),
        ({"dropout": "nan"}, r"^encoder\.dropout is nan: expected 0 to 1"),
        ({"dilation": "yes"}, r"^args\.dilation is 'yes': expected"),
        ({"num_queries": 3.5}, r"^args\.num_queries is 3\.5: expected int"),
        ({"input": {"short_side": "big"}}, r"^args\.input\.short_side is 'big': expected int"),
        ({"class_names": [1, 2, 3, 4, 5]}, r"^args\.class_names\[0\] is 1: expected str"),
    ],
)
def test_malformed_args_are_named(change, message, small_config, random_state):
    config = small_config("deformable-detr-r50")
    official = to_official(random_state(config), config)
    args = Namespace(**vars(official_args(config)) | change)
    with pytest.raises(ValueError, match=message):
        recognise_official(official, args)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        (
            "backbone.0.body.layer5",
            (1,),
            r"the backbone has the tensor backbone\.0\.body\.layer5: ex",
        ),
        (
            "backbone.0.body.layerx.1",
            (1,),
            r"the backbone has the tensor backbone\.0\.body\.layerx",
        ),
        (
            "transformer.level_embed",
            (4,),
            r"level_embed has the shape \[4\]: expected 2 dimensions",
        ),
        ("class_embed.0.weight", (), r"class_embed\.0\.weight has the shape \[\]: expected 2 dime"),
        ("transformer.encoder.layers.x", (1,), r"lacks \d+ of \d+ tensors"),
        ("transformer.encoder.layers.", (1,), r"lacks \d+ of \d+ tensors"),
    ],
)
def test_malformed_tensors_are_named(key, shape, message, small_config, random_state, tmp_path):
    config = small_config("deformable-detr-r50")
    official = to_official(random_state(config), config) | {key: torch.zeros(shape)}
    torch.save({"model": official, "args": official_args(config)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "weights.pth")


def test_a_failed_write_leaves_the_old_file(small_config, random_state, tmp_path, monkeypatch):
    config = small_config("detr-r50")
    file = tmp_path / "weights.pth"
    save_official(file, config, random_state(config))
    before = file.read_bytes()

    def broken_save(content, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", broken_save)
    with pytest.raises(OSError, match="no space left"):
        save_official(file, config, random_state(config))
    assert file.read_bytes() == before
