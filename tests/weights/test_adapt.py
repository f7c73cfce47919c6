"""Weights in a detector with other classes, queries, or parts that only train."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from saccade.coco_classes import COCO_CLASSES
from saccade.config import DenoisingConfig, DetectorConfig, OneToManyConfig
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.structures import Batch
from saccade.weights import load_into, load_weights, save_official, save_weights
from saccade.weights.adapt import adapt
from saccade.weights.classes import match_classes
from saccade.weights.fit import expected_shapes
from tests.conftest import SMALL
from tests.conftest import small_config as small

FILE = ("cat", "dog", "traffic light", "bird")


def random_model(config: DetectorConfig) -> DetectorModel:
    """Random everywhere, so that no two rows are alike."""
    torch.manual_seed(1)
    model = DetectorModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    return Batch.from_images([torch.randn(3, 96, 128, generator=generator)])


SUPERSET = ("kite", "bird", "dog", "cat", "traffic light", "fox")
OTHERS = {
    "permuted": ("bird", "cat", "traffic light", "dog"),
    "subset": ("dog", "cat"),
    "renamed": ("Bird", "TRAFFIC_LIGHT", "kite"),
    "others": ("nut", "bolt"),
}


@pytest.mark.parametrize(
    ("kind", "names"),
    [(kind, SUPERSET) for kind in SMALL]
    + [(kind, names) for kind in ("two-stage", "detr") for names in OTHERS.values()],
)
def test_logits_and_boxes_of_kept_classes_stay_bit_by_bit(
    kind: str, names: tuple[str, ...], batch: Batch
) -> None:
    """Matrix products of other heights may round otherwise: single products are compared."""
    config = replace(small(kind), class_names=FILE)
    wanted = replace(config, class_names=names)
    model, new = random_model(config), DetectorModel(wanted).eval()
    adapted = adapt(config, model.state_dict(), wanted)
    new.load_state_dict(adapted.state)
    rows = match_classes(FILE, names).rows
    heads = zip(model.decoder.heads.class_heads, new.decoder.heads.class_heads, strict=True)
    for head, new_head in heads:
        for row, source in enumerate(rows):
            if source is not None:
                assert torch.equal(new_head.weight[row], head.weight[source])
                assert torch.equal(new_head.bias[row], head.bias[source])
        if config.classification == "softmax":
            assert torch.equal(new_head.weight[-1], head.weight[-1])
            assert torch.equal(new_head.bias[-1], head.bias[-1])
        elif None in rows:
            assert new_head.bias[rows.index(None)] == torch.tensor(-math.log(99))
    with torch.no_grad():
        before, after = model(batch), new(batch)
    assert torch.equal(before.boxes, after.boxes)
    pairs = [(row, source) for row, source in enumerate(rows) if source is not None]
    for row, source in pairs:
        torch.testing.assert_close(
            after.logits[..., row], before.logits[..., source], rtol=1e-6, atol=1e-6
        )


def test_every_tensor_that_counts_classes_is_adapted(kind: str) -> None:
    """A head that a new part brings and that this does not know would keep rows of others."""
    few = small(kind)
    few = replace(few, one_to_many=OneToManyConfig(num_queries=0))
    more = replace(few, class_names=(*few.class_names, "bird"))
    shapes = expected_shapes(few)
    counting = {key for key, shape in expected_shapes(more).items() if shape != shapes[key]}
    assert counting
    swapped = replace(few, class_names=few.class_names[::-1])
    state = random_model(few).state_dict()
    adapted = adapt(few, state, swapped)
    changed = {key for key in state if not torch.equal(adapted.state[key], state[key])}
    assert changed == counting
    assert {key for key in counting if not key.startswith("queries.")} & set(
        adapted.random
    ) == set()


def test_the_labels_of_denoising_and_the_first_stage_follow() -> None:
    config = replace(small("two-stage"), class_names=FILE)
    state = random_model(config).state_dict()
    adapted = adapt(config, state, replace(config, class_names=("bird", "kite", "dog")))
    labels, stored = adapted.state["denoising.labels.weight"], state["denoising.labels.weight"]
    assert torch.equal(labels[[0, 2]], stored[[3, 1]])
    assert not (labels[1] == stored).all(1).any()
    head, stored = (each["queries.class_head.weight"] for each in (adapted.state, state))
    assert torch.equal(head[[0, 2]], stored[[0, 1]])
    assert not (head[1] == stored).all(1).any()


@pytest.mark.parametrize(
    ("stored", "wanted", "rows"),
    [
        (["a", "b"], ["b", "a"], (1, 0)),
        (["Cat", "cat"], ["cat", "CAT"], (1, None)),
        (["cat"], ["Cat", "CAT"], (None, None)),
        (["cat", "dog"], ["cat", "Cat", "dog"], (0, None, 1)),
        (["traffic light"], ["Traffic_Light"], (0,)),
        (["traffic-light", "traffic light"], ["trafficlight"], (None,)),
        (["class 0", "class 1"], ["x", "y"], (0, 1)),
        (["class 0", "class 1", "class 2"], ["x", "y"], (None, None)),
        (["LABEL_0"], ["-", "cat"], (None, None)),
        (["_", "cat"], ["-", "cat"], (None, 1)),
        (["-"], ["-"], (0,)),
    ],
)
def test_classes_are_matched_by_name(
    stored: list[str], wanted: list[str], rows: tuple[int | None, ...]
) -> None:
    assert match_classes(stored, wanted).rows == rows


def test_gaps_in_the_ids_of_coco_are_no_classes() -> None:
    match = match_classes(COCO_CLASSES, ["person", "forklift", "toothbrush"])
    assert match.rows == (1, None, 90)
    assert len(match.dropped) == 78
    assert not any(name.startswith("unused") for name in match.dropped)


def test_an_official_file_of_91_outputs_keeps_its_rows(tmp_path: Any, small_config: Any) -> None:
    config = replace(small_config("deformable-detr-r50"), class_names=COCO_CLASSES)
    state = random_model(config).state_dict()
    save_official(tmp_path / "r50.pth", config, state)
    loaded = load_weights(tmp_path / "r50.pth", class_names=["forklift", "person"])
    head = "decoder.heads.class_heads.0.weight"
    assert torch.equal(loaded.state[head][1], state[head][1])
    assert "1 of 2 kept by name: person; new, to be trained: forklift" in str(loaded.report)


def test_queries_are_kept_from_the_first(tmp_path: Any) -> None:
    config = small("learned", num_queries=12)
    model = random_model(config)
    save_weights(tmp_path, config, model.state_dict())
    for count in (5, 20):
        wanted = replace(config, queries=replace(config.queries, num_queries=count))
        fresh = DetectorModel(wanted).state_dict()
        loaded = load_into(tmp_path, wanted, fresh)
        for key in ("queries.positions.weight", "queries.content.weight"):
            kept = min(count, 12)
            assert torch.equal(loaded.state[key][:kept], model.state_dict()[key][:kept])
            assert torch.equal(loaded.state[key][kept:], fresh[key][kept:])
        said = {
            5: "Queries: the first 5 of 12 kept, the others dropped.",
            20: "Queries: all 12 kept, 8 are new.",
        }
        assert said[count] in str(loaded.report)
        DetectorModel(wanted).load_state_dict(loaded.state)


def test_what_only_training_has_comes_and_goes(tmp_path: Any) -> None:
    config = small("two-stage")
    without = replace(config, denoising=DenoisingConfig(), one_to_many=OneToManyConfig())
    more = replace(config, one_to_many=OneToManyConfig(num_queries=6))
    save_weights(tmp_path / "with", config, random_model(config).state_dict())
    save_weights(tmp_path / "without", without, random_model(without).state_dict())
    loaded = load_into(tmp_path / "with", without)
    assert loaded.report.left_out == ("denoising.labels.weight",)
    DetectorModel(without).load_state_dict(loaded.state)
    loaded = load_into(tmp_path / "without", more)
    assert set(loaded.report.added) == {"denoising.labels.weight", "one_to_many.content.weight"}
    assert "Not in the file, 2 tensors: denoising.labels.weight" in str(loaded.report)
    DetectorModel(more).load_state_dict(loaded.state)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("encoder", "num_heads", 4, "--model.encoder.num-heads is 4, but .* trained with 8"),
        ("decoder", "num_layers", 2, "--model.decoder.num-layers is 2, but .* with 3: leave"),
        ("backbone", "levels", (4, 5), "--model.backbone.levels is 4 5, but .* with 3 4 5"),
        ("queries", "content", "proposal", "--model.queries.content is proposal, but"),
        ("neck", "kind", "fpn", "--model.neck.kind is fpn, but .* with projection"),
    ],
)
def test_an_option_that_was_trained_otherwise_is_named(
    part: str, field: str, value: Any, message: str, tmp_path: Any
) -> None:
    """Also one that no shape tells, such as the number of heads."""
    config = small("two-stage")
    save_weights(tmp_path, config, DetectorModel(config).state_dict())
    changed: Any = replace(getattr(config, part), **{field: value})
    with pytest.raises(ValueError, match=message):
        load_into(tmp_path, replace(config, **{part: changed}))


def test_a_run_says_what_an_official_file_does_not_tell(
    tmp_path: Any, small_config: Any, random_state: Any
) -> None:
    config = small_config("detr-r50-dc5")
    save_official(tmp_path / "dc5.pth", config, random_state(config))
    content = torch.load(tmp_path / "dc5.pth", weights_only=False)
    torch.save({"model": content["model"]}, tmp_path / "dc5.pth")
    five = tuple(f"class {index}" for index in range(5))
    loaded = load_into(tmp_path / "dc5.pth", replace(config, class_names=five))
    assert loaded.config.backbone.dilated


def test_the_report_counts_tensors_and_numbers(tmp_path: Any) -> None:
    config = replace(small("two-stage"), class_names=FILE)
    model = random_model(config)
    Detector(config, model).save_pretrained(tmp_path)
    report = load_weights(tmp_path, class_names=["kite", "CAT"]).report
    decoder, state = report.parts["decoder"], model.state_dict()
    heads = [key for key in state if key.startswith("decoder.heads.class_heads.")]
    assert decoder.adapted.tensors == len(heads)
    assert decoder.adapted.numbers == sum(state[key].numel() for key in heads) // 2
    loaded = [each for key, each in state.items() if key.startswith("decoder") and key not in heads]
    assert decoder.loaded.tensors == len(loaded)
    assert decoder.loaded.numbers == sum(each.numel() for each in loaded)
    assert report.parts["encoder"].adapted.tensors == 0
    lines = str(report).splitlines()
    assert lines[1].split() == ["tensors", "(parameters)", "loaded", "adapted", "new"]
    assert lines[-1] == (
        "Classes: 1 of 2 kept by name: CAT; new, to be trained: kite; dropped: dog, traffic light, "
        'bird; spelled otherwise: "CAT" is "cat" in the file.'
    )


def test_the_first_line_of_the_report_leaves_out_what_is_new(tmp_path: Any) -> None:
    config = replace(small("two-stage"), class_names=FILE)
    state = random_model(config).state_dict()
    save_weights(tmp_path, config, state)
    report = load_weights(tmp_path, class_names=["nut", "bolt"]).report
    new = ("decoder.heads.class_heads.", "denoising.labels.")
    kept = {key: each.numel() for key, each in state.items() if not key.startswith(new)}
    first_stage = {key: kept[key] // len(FILE) for key in kept if "queries.class_head." in key}
    assert len(first_stage) == 2
    assert report.loaded == len(kept)
    numbers = sum((kept | first_stage).values())
    assert sum(part.from_file for part in report.parts.values()) == numbers
    assert f": {len(kept)} tensors loaded, {numbers / 1e6:.1f} M parameters." in str(report)


def test_counters_of_batch_norms_that_the_file_lacks_are_new_but_nothing_to_train(
    tmp_path: Any,
) -> None:
    config = small("two-stage")
    frozen = replace(config, backbone=replace(config.backbone, norm="frozen"))
    save_weights(tmp_path, frozen, random_model(frozen).state_dict())
    report = load_into(tmp_path, config).report
    assert report.loaded == len(expected_shapes(frozen)) < len(expected_shapes(config))
    assert report.random == ()


def test_rows_in_the_order_of_a_file_without_names_are_told(
    small_config: Any, tmp_path: Any
) -> None:
    config = small_config("deformable-detr-r50")
    save_official(tmp_path / "a.pth", config, random_model(config).state_dict())
    content = torch.load(tmp_path / "a.pth", weights_only=False)
    del content["args"].class_names
    torch.save(content, tmp_path / "a.pth")
    report = load_weights(tmp_path / "a.pth", class_names=["a", "b", "c", "d", "e"]).report
    assert "the file does not name its 5; they are taken in this order: a, b, c, d, e." in str(
        report
    )
