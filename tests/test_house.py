"""The rules of the house: who may import whom, and what a bare import costs."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import saccade

ROOT = Path(saccade.__file__).parent
ROOMS = {
    "boxes": set(),
    "structures": {"boxes"},
    "config_checks": set(),
    "config_parts": {"config_checks"},
    "config": {"config_checks", "config_parts"},
    "recipe_config": {"config_checks"},
    "run_config": {"config", "config_parts", "config_checks", "recipe_config"},
    "restricted_matching": {"boxes", "structures"},
    "coco_classes": set(),
    "presets": {"config", "config_parts", "coco_classes"},
    "recipes": {"config", "config_parts", "recipe_config", "run_config"},
    "ops": set(),
    "compat": {"ops"},
    "bench": {"ops", "analysis", "data", "engines", "export", "inference"},
    "attention": {"ops", "structures"},
    "model": {"attention", "boxes", "config", "config_parts", "restricted_matching", "structures"},
    "weights": {"model", "config", "config_parts", "config_json", "presets", "coco_classes"},
    "data": {"boxes", "config", "config_parts", "recipe_config", "run_config", "structures"},
    "training": {
        "boxes",
        "recipe_config",
        "run_config",
        "restricted_matching",
        "structures",
        "data",
    },
    "evaluation": {"boxes", "config", "config_parts", "structures", "data", "model"},
    "inference": {
        "boxes",
        "config",
        "config_parts",
        "structures",
        "data",
        "model",
        "weights",
        "presets",
    },
    "bulk": {"config", "data", "model", "inference"},
    "export": {
        "boxes",
        "config",
        "config_json",
        "data",
        "evaluation",
        "inference",
        "model",
        "ops",
        "structures",
    },
    "serve": {"boxes", "config", "data", "model", "inference"},
    "config_json": set(),
    "settings": {"run_config", "config_json"},
}
"""What each room may import. Rooms that are not listed (run, cli, analysis) may import all."""


def imported_rooms(source: str, package: str) -> set[str]:
    """The rooms that a module of `package` imports."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(name, package)
            modules = [module] + [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {m.split(".")[1] for m in modules if m.startswith("saccade.")}
    return {room for room in rooms if (ROOT / room).exists() or (ROOT / f"{room}.py").exists()}


@pytest.mark.parametrize("room", ROOMS)
def test_dependencies_point_one_way(room: str) -> None:
    place = ROOT / room
    files = list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert files
    for file in files:
        package = ".".join(file.relative_to(ROOT.parent).parent.parts)
        assert imported_rooms(file.read_text("utf-8"), package) <= ROOMS[room] | {room}, file


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import saccade.boxes, torch", {"boxes"}),
        ("from saccade import boxes, presets", {"boxes", "presets"}),
        ("from saccade.model.heads import Heads", {"model"}),
        ("def f():\n    from ...model import heads", {"model"}),
        ("from ... import boxes", {"boxes"}),
        ("from .dispatch import Backend\nfrom . import reference", {"ops"}),
        ("from torch import boxes", set()),
    ],
)
def test_imports_are_found_however_they_are_written(source: str, rooms: set[str]) -> None:
    assert imported_rooms(source, "saccade.ops.ms_deform_attn") == rooms


def test_a_bare_import_loads_nothing_heavy() -> None:
    heavy = "torchvision timm numba lightning supervision scipy matplotlib transformers tyro"
    script = (
        "import sys, saccade; saccade.presets(); "
        f"print(*[name for name in '{heavy}'.split() if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert output.stdout.split() == []


def test_the_public_names_are_there() -> None:
    assert saccade.presets()[0] == "deformable-detr-nano"
    assert saccade.Detector.__module__ == "saccade.inference.predictor"
    assert callable(saccade.ops.ms_deform_attn)
    assert callable(saccade.training.SetCriterion)
    with pytest.raises(AttributeError, match="no attribute 'Detectr'"):
        saccade.Detectr  # noqa: B018
