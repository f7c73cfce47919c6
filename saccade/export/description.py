"""What a file holds beside the graph, so that it can be used without this package."""

import json
from dataclasses import dataclass
from typing import Any

from saccade.config import DetectorConfig
from saccade.config_json import from_dict, to_dict

VERSION = 1


@dataclass(frozen=True)
class Description:
    """Of an exported detector."""

    config: DetectorConfig
    target: str
    precision: str
    size: str
    """Of the images it takes, such as "any batch x 3 x 800 x 1066"."""
    threshold: float = 0.3
    """The lowest score that `saccade predict` reports by default."""

    def to_strings(self) -> dict[str, str]:
        """As formats hold it whose values are strings; what is nested is JSON."""
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.to_dict().items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything a user of the file needs to know; ``config`` is for this package."""
        given = self.config.input
        return {
            "format": "saccade",
            "version": VERSION,
            "target": self.target,
            "precision": self.precision,
            "images": f"uint8 RGB, {self.size}, resized to short_side and max_side",
            "outputs": "logits [B, Q, K] before the activation; boxes [B, Q, 4] cx cy w h, "
            "fraction of image",
            "class_names": list(self.config.class_names),
            "classification": self.config.classification,
            "threshold": self.threshold,
            "short_side": given.short_side,
            "max_side": given.max_side,
            "mean": list(given.mean),
            "std": list(given.std),
            "normalised": "inside the graph",
            "config": to_dict(self.config),
        }


def config_of(held: dict[str, Any], source: object) -> DetectorConfig:
    """The detector's configuration from what a file holds.

    Raises:
        ValueError: If it holds none, or that of another version.
    """
    config = held.get("config")
    if config is None:
        raise ValueError(f"{source} does not say which detector it is: was it made by saccade?")
    return from_dict(DetectorConfig, json.loads(config) if isinstance(config, str) else config)
