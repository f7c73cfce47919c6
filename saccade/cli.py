"""The `saccade` command: one function per subcommand.

A subcommand returns the exit status: 0, or 2 for unusable input, which it explains in a sentence.
Heavy imports happen inside, so that `saccade --help` answers at once.
"""

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from saccade.cli_arguments import (
    AnalyseArguments,
    DoctorArguments,
    EvalArguments,
    PresetsArguments,
    TrainArguments,
)
from saccade.cli_starting_point import starting_point
from saccade.engines import load_detector, open_engine
from saccade.presets import PRESETS, presets
from saccade.run_config import RunConfig
from saccade.settings import free_folder


def train(arguments: Sequence[str]) -> int:
    """`saccade train`."""
    parsed = tyro.cli(
        TrainArguments,
        args=arguments,
        prog="saccade train",
        default=TrainArguments(run=starting_point(arguments)),
    )
    if not parsed.run.data:
        raise ValueError("no dataset: name its folder with --data.")
    if parsed.check:
        return _check(parsed.run)
    from torch import distributed

    from saccade.launch import EndedElsewhere, exit_status, may_restart
    from saccade.run import train as train_run
    from saccade.training.stopping import Stopped

    if parsed.out is None and (parsed.auto_resume or may_restart()):
        raise ValueError(
            "--auto-resume and torchrun --max-restarts repeat the command: name the run folder "
            "with --out, so that it is found again."
        )
    out = parsed.out or free_folder(Path("runs/train"))
    try:
        train_run(parsed.run, out, "auto" if parsed.auto_resume else parsed.resume)
    except EndedElsewhere as end:
        return exit_status(end.status)
    except Stopped as stopped:
        print(f"saccade train: {stopped}", file=sys.stderr)
        print(f"Go on with: saccade train --resume --out {out}", file=sys.stderr)
        return exit_status(stopped.status)
    if distributed.is_initialized() and distributed.get_rank() > 0:
        return 0
    print(f"\nThe run is in {out}: weights in best/ and last/, TensorBoard files in logs/.")
    if parsed.run.report:
        print(f"How it went, and what goes wrong: {out / 'report.html'}")
    print(f"Next: saccade eval --weights {out / 'best'} --data {parsed.run.data}")
    return 0


def _check(run: RunConfig) -> int:
    from saccade.check import check

    result = check(run)
    print(result)
    for problem in result.problems:
        print(f"saccade train --check: {problem}", file=sys.stderr)
    return 2 if result.problems else 0


def evaluate(arguments: Sequence[str]) -> int:
    """`saccade eval`."""
    parsed = tyro.cli(EvalArguments, args=arguments, prog="saccade eval")
    from rich.console import Console

    from saccade.evaluate import evaluate as evaluate_detector

    return evaluate_detector(parsed, ["saccade", "eval", *arguments], Console())


def predict(arguments: Sequence[str]) -> int:
    """`saccade predict`."""
    from saccade.predict.arguments import PredictArguments

    parsed = tyro.cli(PredictArguments, args=arguments, prog="saccade predict")
    from rich.console import Console

    from saccade.predict.command import predict as predict_files

    return predict_files(parsed, Console())


def export(arguments: Sequence[str]) -> int:
    """`saccade export`: the exit status is 1 if the file does not find the same."""
    from saccade.export.arguments import ExportArguments

    parsed = tyro.cli(ExportArguments, args=arguments, prog="saccade export")
    from rich.console import Console

    from saccade.export.command import export as export_detector

    out = parsed.out or free_folder(Path("runs/export"))
    detector = load_detector(parsed.weights, parsed.preset, "cpu")
    return export_detector(detector, parsed, out, Console())


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
        detector = load_detector(weights, parsed.preset, parsed.device)
        images = FewImages(parsed.data, parsed.split, detector.config, parsed.images)
        analyses[weights] = analyse_one(detector, images, parsed.seconds)
    print_analyses(analyses, Console())
    if parsed.json is not None:
        write_analyses(analyses, parsed.json)
    return 0


def doctor(arguments: Sequence[str]) -> int:
    """`saccade doctor`: the exit status is 1 if something is sure to hurt."""
    parsed = tyro.cli(
        DoctorArguments,
        args=arguments,
        prog="saccade doctor",
        # Any folder: tyro asks for the one that is meant.
        default=DoctorArguments(folder=tyro.MISSING, run=starting_point(arguments)),
    )
    from rich.console import Console

    from saccade.doctor.command import examine_and_report

    return examine_and_report(parsed, ["saccade", "doctor", *arguments], Console())


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
    from rich.console import Console

    if arguments[:1] == ["model"]:
        from saccade.bench.model_arguments import ModelBenchArguments

        of_model = tyro.cli(ModelBenchArguments, args=arguments, prog="saccade bench")
        from saccade.bench.model import run_model_benchmark

        file = of_model.json or free_folder(Path("runs/bench")) / "model.json"
        run_model_benchmark(of_model, ["saccade", "bench", *arguments], file, Console())
        return 0
    from saccade.bench.arguments import BenchArguments

    parsed = tyro.cli(BenchArguments, args=arguments, prog="saccade bench")
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


def serve(arguments: Sequence[str]) -> int:
    """`saccade serve`."""
    from saccade.serve.arguments import ServeArguments

    parsed = tyro.cli(ServeArguments, args=arguments, prog="saccade serve")
    from saccade.analysis.sampling_points import look, look_from_pixel
    from saccade.serve.command import serve as serve_models
    from saccade.serve.served import Served

    def open_model(name: str, weights: str) -> Served:
        if parsed.runtime != "torch":
            engine = open_engine(weights, parsed.preset, parsed.device, parsed.runtime)
            return Served(name, engine)
        detector = load_detector(weights, parsed.preset, parsed.device)
        return Served(name, detector.engine, detector)

    return serve_models(parsed, open_model, look, look_from_pixel)


def explain(arguments: Sequence[str]) -> int:
    """`saccade explain`."""
    from saccade.analysis.explain_arguments import ExplainArguments

    parsed = tyro.cli(ExplainArguments, args=arguments, prog="saccade explain")
    from rich.console import Console

    from saccade.analysis.explain import explain as explain_image

    return explain_image(parsed, ["saccade", "explain", *arguments], Console())


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "explain": explain,
    "analyse": analyse,
    "doctor": doctor,
    "presets": list_presets,
    "bench": bench,
    "study": study,
    "serve": serve,
}

USAGE = """\
usage: saccade COMMAND [options]

  train     train a detector on your images
  eval      COCO's numbers of a detector on a dataset
  predict   find objects in images
  explain   show where a detector looked in an image
  export    write a detector for onnxruntime, OpenVINO or torch, and check the file
  analyse   how sparse a detector's attention is, and what it costs
  doctor    say what will hurt before training on a dataset
  presets   list the named detectors
  bench     measure the operator beside grid_sample, or a detector in several runtimes
  study     train the detectors of a published comparison on your images
  serve     answer over HTTP, with a page that shows where a detector looks

saccade COMMAND --help tells the options, with their units and defaults.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; unusable input becomes one sentence and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Where Windows writes to a file, there is no letter for many a class name.
        sys.stdout.reconfigure(errors="replace")
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
