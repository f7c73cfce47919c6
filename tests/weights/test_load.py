import json
import math
import os
import pickle
import random
from argparse import Namespace
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from saccade.model import DetectorModel
from saccade.presets import preset_config
from saccade.weights import (
    files,
    load,
    load_weights,
    save,
    save_huggingface,
    save_official,
    save_weights,
)
from saccade.weights.files import read_checkpoint


@pytest.fixture
def nano():
    """Two-stage with learned contents, trained norms and denoising: only our layout holds it."""
    config = preset_config("deformable-detr-nano", ["cat", "dog", "bird"])
    torch.manual_seed(5)
    return config, DetectorModel(config).state_dict()


def test_our_layout_keeps_everything(nano, assert_same, tmp_path):
    config, state = nano
    save_weights(tmp_path / "deep" / "folder", config, state)
    loaded = load_weights(tmp_path / "deep" / "folder")
    assert loaded.config == config
    assert_same(loaded.state, state)
    assert loaded.report.layout == "saccade"
    expected = f"(saccade layout): {len(state)} tensors loaded, 3.2 M parameters."
    assert str(loaded.report).endswith(expected)
    assert load_weights(tmp_path / "deep" / "folder" / "model.safetensors").config == config


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_and_widened(dtype, nano, tmp_path):
    config, state = nano
    save_weights(tmp_path / "half", config, state, dtype)
    save_weights(tmp_path / "full", config, state)
    half, full = (tmp_path / name / "model.safetensors" for name in ("half", "full"))
    assert half.stat().st_size < 0.55 * full.stat().st_size
    loaded = load_weights(tmp_path / "half").state
    for key, tensor in state.items():
        expected = tensor.to(dtype).float() if tensor.is_floating_point() else tensor
        assert loaded[key].dtype == tensor.dtype
        assert torch.equal(loaded[key], expected)


def test_saving_leaves_channels_last_weights_alone(nano, tmp_path):
    config, _ = nano
    model = DetectorModel(config)
    before = {key: tensor.stride() for key, tensor in model.state_dict().items()}
    save_weights(tmp_path, config, model.state_dict())
    assert {key: tensor.stride() for key, tensor in model.state_dict().items()} == before


def test_other_classes_keep_rows_by_name(nano, tmp_path):
    config, state = nano
    save_weights(tmp_path, config, state)
    loaded = load_weights(tmp_path, class_names=["bird", "bolt", "cat", "nut"])
    assert loaded.config == replace(config, class_names=("bird", "bolt", "cat", "nut"))
    for index in range(config.decoder.num_layers):
        head = f"decoder.heads.class_heads.{index}"
        weight, bias = loaded.state[f"{head}.weight"], loaded.state[f"{head}.bias"]
        assert torch.equal(weight[0], state[f"{head}.weight"][2])
        assert torch.equal(weight[2], state[f"{head}.weight"][0])
        assert torch.equal(bias[[0, 2]], state[f"{head}.bias"][[2, 0]])
        assert torch.allclose(bias[[1, 3]], torch.tensor(-math.log(99)))
        bound = config.neck.width**-0.5
        assert 0 < weight[[1, 3]].abs().max() <= bound
        assert not torch.equal(weight[1], weight[3])
    labels = loaded.state["denoising.labels.weight"]
    assert torch.equal(labels[0], state["denoising.labels.weight"][2])
    assert len(labels) == 4
    DetectorModel(loaded.config).load_state_dict(loaded.state)
    assert loaded.report.kept == ("bird", "cat")
    assert loaded.report.adapted == ("bird: kept", "cat: kept", "bolt: new", "nut: new")
    assert "2 of 4 kept by name: bird, cat; new, to be trained: bolt, nut; dropped: dog." in str(
        loaded.report
    )


def test_the_first_stage_still_ranks_by_its_channel_0(nano, tmp_path):
    config, state = nano
    save_weights(tmp_path, config, state)
    adapted = load_weights(tmp_path, class_names=["bolt", "cat"]).state
    stored = state["queries.class_head.weight"]
    assert torch.equal(adapted["queries.class_head.weight"][0], stored[0])
    assert not torch.equal(adapted["queries.class_head.weight"][1], stored[0])


def test_no_object_is_kept_in_a_softmax_detector(small_config, random_state, tmp_path):
    config = small_config("detr-r50")
    state = random_state(config)
    save_weights(tmp_path, config, state)
    adapted = load_weights(tmp_path, class_names=["bolt", "fish"]).state
    head = "decoder.heads.class_heads.0.weight"
    assert torch.equal(adapted[head][1:], state[head][[3, 5]])


def test_names_for_a_file_that_has_none(small_config, random_state, assert_same, tmp_path):
    config = small_config("deformable-detr-r50")
    unnamed = replace(config, class_names=tuple(f"LABEL_{i}" for i in range(5)))
    state = random_state(config)
    save_huggingface(tmp_path, unnamed, state)
    loaded = load_weights(tmp_path, class_names=["a", "b", "c", "d", "e"])
    assert loaded.config.class_names == ("a", "b", "c", "d", "e")
    assert_same(loaded.state, state)
    assert loaded.report.new == ()
    assert load_weights(tmp_path, class_names=["a", "b"]).report.new == ("a", "b")


def test_the_same_names_adapt_nothing(nano, assert_same, tmp_path):
    config, state = nano
    save_weights(tmp_path, config, state)
    loaded = load_weights(tmp_path, class_names=list(config.class_names))
    assert_same(loaded.state, state)
    assert loaded.report.adapted == ()


@pytest.mark.parametrize("source", ["runs/best.pth", "nowhere", "a/b/c"])
def test_a_missing_source_is_named(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"^{source} does not exist: expected a \.pth file, a"):
        load_weights(source)


def test_a_hub_id_is_fetched_at_its_revision(nano, tmp_path, monkeypatch):
    config, state = nano
    save_weights(tmp_path / "copy", config, state)
    asked = []

    def snapshot_download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(tmp_path / "copy")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded = load_weights("owner/name", revision="v2")
    assert asked == [("owner/name", "v2", ["*.json", "*.safetensors"])]
    assert loaded.report.source == "owner/name"


def test_a_repository_from_before_safetensors_is_read_without_its_pickle(
    small_config, random_state, assert_same, tmp_path, monkeypatch
):
    config = small_config("deformable-detr-r50")
    state = random_state(config)
    save_huggingface(tmp_path, config, state)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    asked = []

    def snapshot_download(repository, *, revision, allow_patterns):
        asked.append(allow_patterns)
        if "pytorch_model.bin" in allow_patterns:
            torch.save(tensors, tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded = load_weights("owner/name")
    assert asked == [["*.json", "*.safetensors"], ["*.json", "pytorch_model.bin"]]
    assert_same(loaded.state, state)
    torch.save(_Malicious(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin holds the Python object"):
        load_weights(tmp_path)


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    def snapshot_download(*_arguments, **_options):
        raise ConnectionError("No route to host.\nAnd more\nlines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match=r"^owner/name is no local path .*\(No route to host\.\)"):
        load_weights("owner/name")


@pytest.mark.parametrize("keep", [0.5, 0.999, 0.0])
def test_a_truncated_official_file(keep, small_config, random_state, tmp_path):
    config = small_config("detr-r50")
    file = tmp_path / "weights.pth"
    save_official(file, config, random_state(config))
    os.truncate(file, int(file.stat().st_size * keep))
    with pytest.raises(ValueError, match=r"weights\.pth cannot be read as a PyTorch checkpoint"):
        load_weights(file)


def test_the_file_format_of_2020(small_config, random_state, assert_same, tmp_path):
    config = small_config("detr-r50")
    state = random_state(config)
    save_official(tmp_path / "new.pth", config, state)
    content = torch.load(tmp_path / "new.pth", weights_only=False)
    old = tmp_path / "old.pth"
    extras = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "epoch": 49}
    torch.save({**content, **extras}, old, _use_new_zipfile_serialization=False)
    loaded = load_weights(old)
    assert loaded.config == config
    assert_same(loaded.state, state)
    os.truncate(old, old.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"old\.pth cannot be read as a PyTorch checkpoint"):
        load_weights(old)


def test_text_is_no_checkpoint(tmp_path):
    (tmp_path / "weights.pth").write_text("hello world\n" * 50)
    with pytest.raises(ValueError, match="cannot be read as a PyTorch checkpoint: it is truncated"):
        load_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_a_truncated_safetensors_file(keep, nano, tmp_path):
    save_weights(tmp_path, *nano)
    file = tmp_path / "model.safetensors"
    os.truncate(file, int(file.stat().st_size * keep))
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read .*: it is truncated"):
        load_weights(tmp_path)


class _Malicious:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_no_pickle_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.zeros(1)}, "args": _Malicious()}, "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"model": _Malicious()}))
    with pytest.raises(ValueError, match=r"new\.pth holds the Python object posix\.system beside"):
        load_weights(tmp_path / "new.pth")
    with pytest.raises(ValueError, match=r"old\.pth"):
        load_weights(tmp_path / "old.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nn.Linear(2, 2).state_dict(), "neither Deformable DETR nor DETR: it begins with weight, "),
        ({"model": {"a": 1}}, 'holds no state dict: expected tensors by name, alone or under "mo'),
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
    ],
)
def test_another_content_is_named(content, message, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "weights.pth")


def test_an_official_file_without_one_tensor(small_config, random_state, tmp_path):
    config = small_config("detr-r50")
    state = random_state(config)
    file = tmp_path / "weights.pth"
    save_official(file, config, state)
    content = torch.load(file, weights_only=False)
    del content["model"]["bbox_embed.layers.1.bias"]
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ tensors, decoder.heads.box_heads.0.laye"):
        load_weights(file)
    del content["model"]["query_embed.weight"]
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"lacks the tensor query_embed\.weight, which every"):
        load_weights(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"its version is 2: expected 1; install the saccade that wrote it"),
        ({"format": "other"}, r"model_type None: expected 'deformable_detr' or 'detr'"),
        ({"detector": {}}, r"config\.json: detector\.class_names is missing"),
    ],
)
def test_an_unusable_description(change, message, nano, tmp_path):
    save_weights(tmp_path, *nano)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path)


def test_a_class_count_that_does_not_fit_is_named(nano, tmp_path):
    config, state = nano
    save_weights(tmp_path, replace(config, class_names=("a", "b")), state)
    message = r"queries.class_head.weight of shape \[3, 128\].*\(with 2 classes\).*\[2, 128\]"
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path)


def test_a_folder_without_description_or_with_a_broken_one(nano, tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json: expected it beside model\.safet"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json holds a list: expected an object"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        load_weights(tmp_path)


def test_surplus_tensors_are_left_out_by_name(nano, assert_same, tmp_path):
    config, state = nano
    save_weights(tmp_path, config, {**state, "extra.weight": torch.zeros(1)})
    loaded = load_weights(tmp_path)
    assert_same(loaded.state, state)
    assert loaded.report.left_out == ("extra.weight",)


def test_what_may_not_be_read_is_not_called_damaged(nano, tmp_path, monkeypatch):
    with pytest.raises(IsADirectoryError):
        read_checkpoint(tmp_path)
    save_weights(tmp_path, *nano)

    def refused(path):
        raise PermissionError(f"Permission denied: {path}")

    monkeypatch.setattr(files, "load_file", refused)
    with pytest.raises(PermissionError, match="Permission denied"):
        load_weights(tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_never_give_a_traceback(seed, tmp_path):
    generator = random.Random(seed)
    file = tmp_path / "weights.pth"
    content = {"model": {"a": torch.zeros(2, 2)}, "args": Namespace(nheads=8)}
    torch.save(content, file, _use_new_zipfile_serialization=seed % 2 == 0)
    damaged = bytearray(file.read_bytes())
    for _ in range(20):
        damaged[generator.randrange(min(len(damaged), 600))] = generator.randrange(256)
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"weights\.pth"):
        load_weights(file)


def test_an_unforeseen_defect_is_one_sentence(nano, tmp_path, monkeypatch):
    save_weights(tmp_path, *nano)

    def broken(_description):
        return {}["colour"]

    monkeypatch.setattr(load, "_own_config", broken)
    with pytest.raises(ValueError, match=r"config\.json is malformed \(KeyError: 'colour'\): exp"):
        load_weights(tmp_path)


def test_a_single_string_is_no_list_of_classes(nano, tmp_path):
    save_weights(tmp_path, *nano)
    with pytest.raises(ValueError, match=r"^class_names is the string 'cat': expected a sequence"):
        load_weights(tmp_path, class_names="cat")


def test_a_failed_write_leaves_the_old_folder(nano, tmp_path, monkeypatch):
    config, state = nano
    save_weights(tmp_path, config, state)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert before.keys() == {"model.safetensors", "config.json"}

    def broken_save(*_arguments, **_options):
        raise OSError("no space left")

    monkeypatch.setattr(save, "save_file", broken_save)
    other = replace(config, class_names=("a", "b", "c"))
    with pytest.raises(OSError, match="no space left"):
        save_weights(tmp_path, other, state)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_description_is_not_newer_than_its_weights(nano, tmp_path):
    save_weights(tmp_path, *nano)
    description, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    assert description.stat().st_mtime_ns <= weights.stat().st_mtime_ns
