"""A run's configuration as YAML and back."""

from dataclasses import asdict
from pathlib import Path

import yaml

from saccade.config import RunConfig


def write_yaml(config: RunConfig, file: Path) -> None:
    """Write every value of a run, defaults included."""
    file.write_text(yaml.safe_dump(_lists(asdict(config)), sort_keys=False), "utf-8")
    
def _lists(v):
    if isinstance(v, dict): return {k:_lists(x) for k,x in v.items()}
    if isinstance(v,(list,tuple)): return [_lists(x) for x in v]
    return v
