import json
from dataclasses import dataclass, replace

import pytest

from saccade.config import DetectorConfig
from saccade.config_json import from_dict, to_dict
from saccade.presets import preset_config, presets


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Outer:
    name: str
    ratio: float = 0.5
    limit: float | None = None
    notes: dict[str, int] | None = None
    inner: Inner | None = None


@pytest.mark.parametrize("preset", presets())
def test_every_preset_survives_json(preset):
    config = preset_config(preset, ["Katze", "Hündin"])
    assert from_dict(DetectorConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_absent_fields_take_their_defaults():
    config = from_dict(DetectorConfig, {"class_names": ["cat"], "neck": {"width": 64}})
    expected = DetectorConfig(class_names=("cat",))
    assert config == replace(expected, neck=replace(expected.neck, width=64))


def test_optional_and_integer_valued_floats():
    values = {"name": "x", "ratio": 1, "limit": 2, "inner": {"size": 3}}
    found = from_dict(Outer, values)
    assert found == Outer("x", 1.0, 2.0, inner=Inner(3))
    assert type(found.ratio) is float
    assert from_dict(Outer, {"name": "x", "notes": {"a": 1}}).notes == {"a": 1}
    assert from_dict(Outer, {"name": "x", "limit": None, "inner": None}) == Outer("x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, r"^detector\.colour is not a field of DetectorConfig: expected some of cl"),
        ({"neck": {"widht": 1}}, r"^detector\.neck\.widht is not a field of NeckConfig"),
        ({"neck": {"width": "64"}}, r"^detector\.neck\.width is '64': expected int\.$"),
        ({"neck": {"width": True}}, r"^detector\.neck\.width is True: expected int\.$"),
        ({"neck": 3}, r"^detector\.neck is 3: expected its fields\.$"),
        ({"backbone": {"levels": [3, "4"]}}, r"^detector\.backbone\.levels\[1\] is '4': expec"),
        ({"input": {"mean": [0.5]}}, r"^detector\.input\.mean is \[0\.5\]: expected tuple"),
        (
            {"input": {"std": ["nan", 1, 1]}},
            r"^input\.std is \(nan, 1\.0, 1\.0\): expected a number",
        ),
        ({"encoder": {"dropout": "nan"}}, r"^encoder\.dropout is nan: expected 0 to 1"),
        ({"encoder": {"num_heads": 0}}, r"^encoder\.num_heads is 0: expected more than zero"),
        ({"classification": "maybe"}, r"'maybe': expected one of 'sigmoid', 'softmax'\.$"),
        ({"class_names": "cat"}, r"^detector\.class_names is 'cat': expected tuple"),
        ({"neck": {"width": 33}}, r"^neck\.width is 33: expected a multiple of 32"),
    ],
)
def test_errors_name_the_field(change, message):
    with pytest.raises(ValueError, match=message):
        from_dict(DetectorConfig, {"class_names": ["cat"], **change}, "detector")


def test_a_dictionary_is_expected_where_one_belongs():
    with pytest.raises(ValueError, match=r"^notes is \[1\]: expected dict\[str, int\] \| None\.$"):
        from_dict(Outer, {"name": "x", "notes": [1]})
    with pytest.raises(ValueError, match=r"^notes\['a'\] is '1': expected int\.$"):
        from_dict(Outer, {"name": "x", "notes": {"a": "1"}})


def test_a_missing_field_without_default_is_named():
    with pytest.raises(ValueError, match=r"^detector\.class_names is missing: it has no default"):
        from_dict(DetectorConfig, {}, "detector")
