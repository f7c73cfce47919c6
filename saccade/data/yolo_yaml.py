"""YOLO's data.yaml: which splits and classes there are."""

from pathlib import Path
from typing import Any

import yaml

from saccade.data.annotations import check_names

USUAL_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
SPLITS = ("train", "val", "valid", "validation", "test")


def find_yaml(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The file that describes a dataset, and its values: None if the folder is of another format.

    Args:
        folder: Of the dataset, or the file itself.

    Raises:
        ValueError: If the file of the usual name is not YAML, or several others could be it.
    """
    if folder.is_file():
        return _described(folder) if folder.suffix in (".yaml", ".yml") else None
    for name in USUAL_NAMES:
        if (folder / name).is_file():
            return _described(folder / name)
    found = []
    for file in sorted(folder.glob("*.y*ml")):
        try:
            described = _described(file)
        except ValueError:
            # Some other tool's, and not ours to judge.
            continue
        if described is not None:
            found.append(described)
    if len(found) > 1:
        names = " and ".join(file.name for file, _ in found)
        raise ValueError(f"{folder} has {names}: name one of the files instead of the folder.")
    return found[0] if found else None


def split_names(values: dict[str, Any]) -> list[str]:
    """The splits that a description has."""
    return [name for name in SPLITS if values.get(name)]


def class_names(file: Path, values: dict[str, Any]) -> dict[int, str]:
    """Name by class, in rising order: "names" may be a list or say the number of each.

    Raises:
        ValueError: If names are missing, unusable, or two are equal.
    """
    names = values.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise ValueError(
            f'{file} has no "names": expected a list of the classes\' names, counted from 0.'
        )
    found = {}
    for key, name in names.items():
        if not str(key).isdecimal():
            raise ValueError(f'{file}: "names" has the key {key!r}: expected whole numbers.')
        if isinstance(name, bool) or not isinstance(name, str | int | float) or name == "":
            # YAML takes an unquoted "no" for a truth value.
            raise ValueError(f"{file}: class {key} is named {name!r}: write the name in quotes.")
        found[int(key)] = str(name)
    count = values.get("nc", len(found))
    if count != len(found):
        raise ValueError(
            f'{file} has {len(found)} "names", but "nc" is {count}: correct one or the other.'
        )
    check_names(file, found)
    return dict(sorted(found.items()))


def keypoint_numbers(values: dict[str, Any]) -> int:
    """How many numbers of keypoints follow each box: the product of "kpt_shape", if it is there."""
    match values.get("kpt_shape"):
        case [int(points), int(dimensions)]:
            return points * dimensions
    return 0


def _described(file: Path) -> tuple[Path, dict[str, Any]] | None:
    try:
        values = yaml.safe_load(file.read_text("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not (split_names(values) and {"names", "nc"} & set(values)):
        return None
    return file, values
