"""The `saccade` command: one function per subcommand.

A subcommand returns the exit status: 0, or 2 for unusable input, which it explains in a sentence.
Heavy imports happen inside, so that `saccade --help` answers at once.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from saccade.presets import PRESETS, preset_config, presets
from saccade.recipes import for_detector
from saccade.run_config import OnBrokenImage, RunConfig
from saccade.settings import free_folder, read_yaml

if TYPE_CHECKING:
    from saccade.inference import Detector


DEFAULT_PRESET = "deformable-detr-r50-two-stage"


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train a detector on a dataset in COCO's, YOLO's or Pascal VOC's format.

    The run folder then holds everything about it.

    Example: saccade train --data examples/blood-cells --preset deformable-detr-nano --minutes 5
    """

    preset: str | None = None
    """Which detector, and its recipe: see `saccade presets`. The two-stage Deformable DETR with
    ResNet-50 if neither this nor --config nor --weights says otherwise."""
    config: Path | None = None
    """A run's YAML file instead of a preset, such as the config.yaml of a run folder."""
    out: Path | None = None
    """The run folder; by default runs/train, runs/train-2 and so on."""
    resume: bool = False
    """Go on with the run that --out holds, with the configuration it holds."""
    check: bool = False
    """Do not train: say within a minute whether the detector learns one batch of the dataset by
    heart, and whether gradients reach all of it. Leaves no files; the exit status is 2 if not."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    """Everything else about the run; defaults are those of the preset or of the YAML file."""


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """Print COCO's twelve numbers and the AP of every class.

    Example: saccade eval --weights runs/train/best --data examples/blood-cells
    """

    weights: str
    """A run's best/ or last/, an official .pth file, a transformers folder, or a hub id."""
    data: Path
    """The folder of a dataset in COCO's, YOLO's or Pascal VOC's format."""
    split: str = "val"
    preset: str | None = None
    """Settles what an official file does not tell; see `saccade presets`."""
    batch_size: int = 1
    """Images per batch; more than one pads images of different sizes, as the official code does."""
    num_workers: int = 0
    """Processes that read images."""
    max_detections: int = 100
    """Detections counted per image; COCO counts 100."""
    on_broken_image: OnBrokenImage = "fail"
    """Refuse images that are missing or broken, or "skip" them and evaluate on the others."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best there is."""
    json: Path | None = None
    """Write the numbers to this file too."""
    report: Path | None = None
    """Write an HTML report to this file: curves, kinds of errors, confusion, worst images."""


@dataclass(frozen=True, kw_only=True)
class PredictArguments:
    """Find objects in images: annotated pictures and predictions.json in the output folder.

    Example: saccade predict examples/blood-cells/test --weights examples/blood-cells/nano
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files and folders of images."""
    weights: str
    """A run's best/ or last/, an official .pth file, a transformers folder, or a hub id."""
    out: Path | None = None
    """Where the pictures and predictions.json go; by default runs/predict, runs/predict-2..."""
    threshold: float = 0.3
    """Lowest score reported, 0 to 1."""
    top_k: int = 100
    """Most detections per image."""
    preset: str | None = None
    """Settles what an official file does not tell; see `saccade presets`."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best there is."""


@dataclass(frozen=True, kw_only=True)
class AnalyseArguments:
    """How sparse a detector's attention is, layer by layer, and what the detector costs.

    Negative entropy is in nats, sparsity divides it by the number of keys (TSP, section 3.2).
    Spread is how far the points of deformable cross-attention lie from the centre of the predicted
    box, in half sides; inside is the share of attention in the box.

    Example: saccade analyse --weights runs/train/best runs/train/last --data examples/blood-cells
    """

    weights: tuple[str, ...]
    """One or more, each a run's best/ or last/, an official .pth file, a transformers folder, or a
    hub id. From each to the next of the same configuration, it is told how much the matching of
    queries changes: that means something between checkpoints of one run."""
    data: Path
    """The folder of a dataset in COCO's, YOLO's or Pascal VOC's format."""
    split: str = "val"
    images: int = 16
    """How many images, spread evenly over the split."""
    preset: str | None = None
    """Settles what an official file does not tell; see `saccade presets`."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best there is."""
    seconds: float = 5.0
    """How long to measure the speed of each detector."""
    json: Path | None = None
    """Write the numbers to this file too."""


@dataclass(frozen=True, kw_only=True)
class PresetsArguments:
    """List the named detectors."""


def train(arguments: Sequence[str]) -> int:
    """`saccade train`."""
    parsed = tyro.cli(
        TrainArguments,
        args=arguments,
        prog="saccade train",
        default=TrainArguments(run=_starting_point(arguments)),
    )
    if not parsed.run.data:
        raise ValueError("no dataset: name its folder with --data.")
    if parsed.check:
        return _check(parsed.run)
    from torch import distributed

    from saccade.run import train as train_run
    from saccade.training.stopping import Stopped

    out = parsed.out or free_folder(Path("runs/train"))
    stopped = None
    try:
        train_run(parsed.run, out, parsed.resume)
    except Stopped as request:
        stopped = request
    if distributed.is_initialized() and distributed.get_rank() > 0:
        return 0
    if stopped is not None:
        print(f"saccade train: {stopped}", file=sys.stderr)
        print(f"Go on with: saccade train --resume --out {out}", file=sys.stderr)
        return stopped.status
    print(f"\nThe run is in {out}: weights in best/ and last/, TensorBoard files in logs/.")
    print(f"Next: saccade eval --weights {out / 'best'} --data {parsed.run.data}")
    return 0


def _check(run: RunConfig) -> int:
    from saccade.check import check

    result = check(run)
    print(result)
    for problem in result.problems:
        print(f"saccade train --check: {problem}", file=sys.stderr)
    return 2 if result.problems else 0


def _starting_point(arguments: Sequence[str]) -> RunConfig:
    """The run whose values the other options change: of a preset, a file, or given weights."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--config", type=Path)
    first.add_argument("--weights")
    first.add_argument("--out", type=Path)
    first.add_argument("--resume", action="store_true")
    chosen, _ = first.parse_known_args(arguments)
    if chosen.preset and (chosen.config or chosen.resume or chosen.weights):
        raise ValueError(
            "--preset cannot be given with --config, --resume or --weights: these say already "
            "what the detector is."
        )
    if chosen.resume:
        if chosen.out is None:
            raise ValueError("--resume needs the folder of the run: name it with --out.")
        return read_yaml(chosen.out / "config.yaml")
    if chosen.config is not None:
        return read_yaml(chosen.config)
    if chosen.weights is not None:
        from saccade.weights import load_weights

        return for_detector(load_weights(chosen.weights, class_names=["object"]).config)
    # The dataset brings the classes; COCO's would only fill the help.
    return for_detector(preset_config(chosen.preset or DEFAULT_PRESET, class_names=["object"]))


def evaluate(arguments: Sequence[str]) -> int:
    """`saccade eval`."""
    parsed = tyro.cli(EvalArguments, args=arguments, prog="saccade eval")
    from rich.console import Console

    from saccade.evaluation import print_table, write_json
    from saccade.run import SplitEvaluation

    if parsed.report is not None and parsed.report.is_dir():
        raise ValueError(f"--report {parsed.report} is a folder: name the file to be written.")

    evaluation = SplitEvaluation(
        _load(parsed.weights, parsed.preset, parsed.device),
        parsed.data,
        parsed.split,
        batch_size=parsed.batch_size,
        num_workers=parsed.num_workers,
        max_detections=parsed.max_detections,
        on_broken_image=parsed.on_broken_image,
        progress=True,
    )
    result = evaluation()
    print_table(result, Console())
    if parsed.json is not None:
        write_json(result, parsed.json)
    if parsed.report is not None:
        from saccade.analysis.evaluation_report import write_report
        from saccade.analysis.evaluation_subject import Subject

        subject = Subject(
            evaluation.detector,
            parsed.weights,
            evaluation.dataset,
            f"{parsed.data.resolve().name}, {parsed.split}",
            shlex.join(["saccade", "eval", *arguments]),
        )
        write_report(parsed.report, subject, evaluation.evaluator, result)
        print(f"\nThe report is {parsed.report}.")
    return 0


def predict(arguments: Sequence[str]) -> int:
    """`saccade predict`."""
    parsed = tyro.cli(PredictArguments, args=arguments, prog="saccade predict")
    if not parsed.images:
        raise ValueError("no images: name image files or folders of images.")
    from rich.progress import track

    from saccade.analysis.draw import draw_boxes, save_image
    from saccade.inference.folder import (
        find_images,
        free_name,
        read_images,
        to_record,
        write_records,
    )

    files = find_images(parsed.images)
    out = parsed.out or free_folder(Path("runs/predict"))
    if out.resolve() in {file.resolve().parent for file in files}:
        raise ValueError(f"--out {out} holds the images themselves: name another folder.")
    detector = _load(parsed.weights, parsed.preset, parsed.device)
    detector.check_thresholds(parsed.threshold, parsed.top_k)
    out.mkdir(parents=True, exist_ok=True)
    records, broken, taken = [], [], set[str]()
    try:
        for file, image in track(read_images(files), "predicting", total=len(files)):
            if isinstance(image, ValueError):
                broken.append(image)
                continue
            detections = detector.predict(image, parsed.threshold, parsed.top_k)
            picture = free_name(f"{file.stem}.jpg", taken)
            save_image(draw_boxes(image, detections), out / picture)
            records.append(to_record(file, picture, detections))
    finally:
        # An interrupted run keeps what it found.
        write_records(records, out / "predictions.json")
    total = sum(len(record["detections"]) for record in records)
    print(f"{total} objects in {len(records)} images: pictures and predictions.json in {out}")
    for error in broken:
        print(f"saccade predict: {error}", file=sys.stderr)
    return 2 if broken else 0


def analyse(arguments: Sequence[str]) -> int:
    """`saccade analyse`."""
    parsed = tyro.cli(AnalyseArguments, args=arguments, prog="saccade analyse")
    if not parsed.weights:
        raise ValueError("no weights: name one or more with --weights.")
    from rich.console import Console

    from saccade.analysis.images import FewImages
    from saccade.analysis.trained import analyse as analyse_one
    from saccade.analysis.trained import print_analyses, write_analyses

    analyses = {}
    for weights in parsed.weights:
        detector = _load(weights, parsed.preset, parsed.device)
        images = FewImages(parsed.data, parsed.split, detector.config, parsed.images)
        analyses[weights] = analyse_one(detector, images, parsed.seconds)
    print_analyses(analyses, Console())
    if parsed.json is not None:
        write_analyses(analyses, parsed.json)
    return 0


def list_presets(arguments: Sequence[str]) -> int:
    """`saccade presets`."""
    tyro.cli(PresetsArguments, args=arguments, prog="saccade presets")
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("preset", no_wrap=True)
    table.add_column("what it is, and its published AP on COCO val2017")
    for name in presets():
        table.add_row(name, (PRESETS[name].__doc__ or "").splitlines()[0])
    Console().print(table)
    return 0


def bench(arguments: Sequence[str]) -> int:
    """`saccade bench`."""
    from saccade.bench.arguments import BenchArguments

    parsed = tyro.cli(BenchArguments, args=arguments, prog="saccade bench")
    from rich.console import Console

    from saccade.bench.op import run_op_benchmark

    file = parsed.json or free_folder(Path("runs/bench")) / "op.json"
    run_op_benchmark(parsed, ["saccade", "bench", *arguments], file, Console())
    return 0


def study(arguments: Sequence[str]) -> int:
    """`saccade study`."""
    from saccade.analysis.study.arguments import StudyArguments

    parsed = tyro.cli(StudyArguments, args=arguments, prog="saccade study")
    from saccade.analysis.study.turns import join

    # Before Lightning is imported, which reads then who is the first process.
    turns = join()
    from saccade.analysis.study.runner import run_study

    return run_study(parsed, turns)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "analyse": analyse,
    "presets": list_presets,
    "bench": bench,
    "study": study,
}

USAGE = """\
usage: saccade COMMAND [options]

  train     train a detector on your images
  eval      COCO's numbers of a detector on a dataset
  predict   find objects in images
  analyse   how sparse a detector's attention is, and what it costs
  presets   list the named detectors
  bench     measure multi-scale deformable attention beside grid_sample
  study     train the detectors of a published comparison on your images

saccade COMMAND --help tells the options, with their units and defaults.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; unusable input becomes one sentence and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(
            f'saccade: there is no command "{name}": expected one of {", ".join(COMMANDS)}.',
            file=sys.stderr,
        )
        return 2
    try:
        return COMMANDS[name](rest)
    except (ValueError, OSError) as error:
        print(f"saccade {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        # A run that was asked to stop says that it is saved, and with which status to end.
        print(f"saccade {name}: {stop if stop.args else 'interrupted.'}", file=sys.stderr)
        return int(getattr(stop, "status", 130))


def _load(weights: str, preset: str | None, device: str) -> "Detector":
    """The detector on its device; what was adapted or left out is said."""
    import torch

    from saccade.inference import Detector

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        device = "mps" if torch.backends.mps.is_available() else device
    detector = Detector.from_pretrained(weights, preset=preset)
    report = detector.report
    if report is not None and (report.adapted or report.left_out or report.added):
        print(report, file=sys.stderr)
    try:
        return detector.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'--device is "{device}", which torch cannot use here '
            f"({str(error).splitlines()[0]}): choose cpu, cuda, mps or auto."
        ) from error
