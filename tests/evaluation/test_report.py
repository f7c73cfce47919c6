import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from saccade.evaluation import CocoResult, print_table, write_json

RESULT = CocoResult(
    **{f"AP{suffix}": 0.1 * k for k, suffix in enumerate(["", "50", "75", "s", "m"], start=1)},
    APl=-1.0,
    **{f"AR{suffix}": 0.05 * k for k, suffix in enumerate(["1", "10", "100", "s", "m", "l"])},
    per_class={"red blood cell": 0.4375, "[bold]": 0.0},
    per_class_ap50={"red blood cell": 1.0, "[bold]": -1.0},
    undetected=("[bold]",),
)


def test_prints_percents_and_every_class() -> None:
    console = Console(file=io.StringIO(), width=60)
    print_table(RESULT, console)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines == [
        ["AP", "AP50", "AP75", "APs", "APm", "APl"],
        ["10.0", "20.0", "30.0", "40.0", "50.0", "-"],
        ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"],
        ["0.0", "5.0", "10.0", "15.0", "20.0", "25.0"],
        [],
        ["class", "AP", "AP50"],
        ["red", "blood", "cell", "43.8", "100.0"],
        ["[bold]", "0.0", "-"],
        [],
        ["Unknown", "to", "the", "detector:", "[bold]."],
    ]


def test_another_limit_of_detections_is_said() -> None:
    console = Console(file=io.StringIO(), width=100)
    print_table(replace(RESULT, max_detections=500), console)
    said = console.file.getvalue()
    assert "AR10  AR500" in said
    assert "AR100" not in said
    assert "Up to 500 detections of an image and class count, in AP and AR (COCO: 100)." in said


def test_writes_every_number_as_json(tmp_path: Path) -> None:
    write_json(RESULT, tmp_path / "result.json")
    content = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert content == RESULT.numbers | {
        "per_class": RESULT.per_class,
        "per_class_ap50": RESULT.per_class_ap50,
        "undetected": ["[bold]"],
        "max_detections": 100,
    }
    assert len(RESULT.numbers) == 12
