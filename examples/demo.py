"""What `make demo` does: learn blood cells from 205 photographs, and show what was learned.

Uses nothing but what any user of the library has: a recipe, `saccade.run.train`, the evaluator,
`Detector.predict` and the pictures.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from saccade.analysis.draw import draw_beside_truth, draw_boxes, draw_curve, save_image
from saccade.data import SplitDataset, find_split, read_image
from saccade.evaluation import print_table, write_json
from saccade.inference import Detector
from saccade.inference.detections import supervision
from saccade.inference.sources import find_images
from saccade.presets import preset_config
from saccade.recipes import for_detector
from saccade.run import train
from saccade.settings import free_folder
from saccade.split_evaluation import SplitEvaluation
from saccade.structures import Targets

CELLS = Path(os.path.relpath(Path(__file__).parent / "blood-cells"))
PICTURES = 6
SHOWN_ABOVE = 0.4


def main() -> None:
    """Train, evaluate, draw, predict, and say what to do next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="of training (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="of weights and order (default 1)")
    parser.add_argument("--out", type=Path, help="the run folder (default runs/demo, -2, ...)")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    out = arguments.out or free_folder(Path("runs/demo"))

    config = replace(
        for_detector(preset_config("deformable-detr-nano")),
        data=str(CELLS),
        minutes=arguments.minutes,
        seed=arguments.seed,
        # It draws its own, with a heading.
        pictures=0,
    )
    console.print(
        f"[bold]Training[/] a two-stage Deformable DETR from random weights on 205 photographs of "
        f"blood cells, for {arguments.minutes:g} minutes."
    )
    detector = train(config, out)

    console.print("\n[bold]Evaluating[/] on the 87 photographs held out (percent):\n")
    result = SplitEvaluation(detector, CELLS)()
    print_table(result, console)
    write_json(result, out / "result.json")
    draw_curve(out / "evaluations.jsonl", out / "curve.png")

    pictures = out / "pictures"
    pictures.mkdir(exist_ok=True)
    draw_held_out(detector, pictures)
    draw_unseen(detector, pictures)
    console.print(
        f"""
[bold]Look[/] in {pictures}:
  found-beside-marked-*.jpg   what was found beside what people marked
  unseen-*.jpg                photographs that nothing here has read before
at {out / "curve.png"}, the AP over time, and at {out / "report.html"}, what goes wrong and
where. The weights are in {out / "best"}.

[bold]Next[/], type for example:
  .venv/bin/saccade predict {CELLS / "test"} --weights {out / "best"}
  .venv/bin/saccade eval --data {CELLS} --weights {out / "best"}
  .venv/bin/saccade train --data YOUR-FOLDER --preset deformable-detr-nano --minutes 30"""
    )


def draw_held_out(detector: Detector, folder: Path) -> None:
    """What was found beside what people marked, on photographs that training never saw."""
    dataset = SplitDataset(find_split(CELLS, "val"))
    for number in range(PICTURES):
        sample = dataset[number * len(dataset) // PICTURES]
        found = detector.predict(sample.image, threshold=SHOWN_ABOVE)
        truth = marked(sample.targets, detector.class_names)
        picture = draw_beside_truth(sample.image, found, truth)
        save_image(picture, folder / f"found-beside-marked-{number + 1}.jpg")


def draw_unseen(detector: Detector, folder: Path) -> None:
    """What is found on photographs of the test split, which nothing here has read before."""
    for file in find_images([CELLS / "test"]):
        image = read_image(file)
        found = detector.predict(image, threshold=SHOWN_ABOVE)
        save_image(draw_boxes(image, found), folder / f"unseen-{file.name}")


def marked(targets: Targets, class_names: tuple[str, ...]) -> Any:
    """The marks of an annotation file in the type of detections."""
    labels = targets.labels.numpy()
    return supervision().Detections(
        xyxy=targets.boxes.numpy(),
        class_id=labels,
        data={"class_name": np.array(class_names)[labels]},
    )


if __name__ == "__main__":
    main()
