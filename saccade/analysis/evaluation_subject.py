"""What an evaluation's report is about, and how to repeat it."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from saccade.analysis.study.document import Block, Bullets, Code, Folded, Heading
from saccade.bench.machine import machine, versions
from saccade.config_json import to_dict
from saccade.data import DetectionDataset
from saccade.doctor.findings import counted
from saccade.inference import Detector

ALSO = ("torchvision", "timm", "lightning", "faster-coco-eval")
"""Packages that decide on the figures too."""


@dataclass(frozen=True)
class Subject:
    """What was evaluated on what."""

    detector: Detector
    weights: str
    """Where its weights come from."""
    dataset: DetectionDataset
    data: str
    """The dataset's name and split."""
    command: str
    """What repeats it."""
    facts: tuple[str, ...] = ()
    """Sentences about how it came about."""


def conditions(subject: Subject) -> list[Block]:
    """Command, machine, versions and configuration: the last part of the report."""
    facts = machine(subject.detector.device)
    found = versions() | {name: version(name) for name in ALSO}
    packages = ", ".join(f"{name} {number}" for name, number in found.items())
    where = [f"{facts[key]}" for key in ("gpu", "processor", "system") if key in facts]
    cores, threads = (int(facts[key]) for key in ("cores", "threads"))
    config = yaml.safe_dump(to_dict(subject.detector.config), sort_keys=False, allow_unicode=True)
    blocks: list[Block] = [
        Heading("How to repeat it"),
        Code(subject.command),
        Bullets(
            [
                f"Machine: {', '.join(where)}; {counted(cores, 'processor')}, of which torch uses "
                f"{threads}.",
                f"Versions: {packages}.",
                *subject.facts,
            ]
        ),
        Folded("The detector's configuration", config),
    ]
    run = Path(subject.weights).parent / "config.yaml"
    if run.is_file():
        blocks.append(Folded("The configuration of its training run", run.read_text("utf-8")))
    return blocks
