"""A run's configuration as YAML and back, and the folder it lives in."""

import os
from pathlib import Path

import yaml

from saccade.config_json import from_dict, to_dict
from saccade.run_config import RunConfig


def write_yaml(config: RunConfig, file: Path) -> None:
    """Write every value of a run, defaults included; what was there is replaced at once."""
    partial = file.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), "utf-8")
    os.replace(partial, file)


def read_yaml(file: Path) -> RunConfig:
    """Read a run; values that the file leaves out take their defaults.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, or holds an unknown field or a wrong value.
    """
    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return from_dict(RunConfig, values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def free_folder(folder: Path) -> Path:
    """The folder itself, or the first of ``NAME-2``, ``NAME-3``... that does not exist.

    >>> free_folder(Path("no-such-folder")).name
    'no-such-folder'
    """
    number = 1
    free = folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free
