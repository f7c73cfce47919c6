"""What the command `saccade eval` does."""

import shlex
from collections.abc import Sequence

from rich.console import Console

from saccade.cli_arguments import EvalArguments
from saccade.engines import load_detector
from saccade.evaluation import print_table, write_json
from saccade.inference.augmented import make_views
from saccade.split_evaluation import SplitEvaluation


def evaluate(arguments: EvalArguments, command: Sequence[str], console: Console) -> int:
    """Print COCO's numbers, and write them and a report where asked.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: If the weights or the dataset cannot be used.
        OSError: If a result cannot be written.
    """
    flips = arguments.tta_flips
    flipped = ("horizontal" in flips, "vertical" in flips)
    views = make_views(arguments.tta_scales, *flipped) if arguments.tta else []
    if arguments.report is not None and arguments.report.is_dir():
        raise ValueError(f"--report {arguments.report} is a folder: name the file to be written.")

    evaluation = SplitEvaluation(
        load_detector(arguments.weights, arguments.preset, arguments.device),
        arguments.data,
        arguments.split,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        max_detections=arguments.max_detections,
        on_broken_image=arguments.on_broken_image,
        progress=True,
        views=views,
    )
    result = evaluation()
    print_table(result, console)
    if arguments.json is not None:
        write_json(result, arguments.json)
    if arguments.report is not None:
        from saccade.analysis.evaluation_report import write_report
        from saccade.analysis.evaluation_subject import Subject

        subject = Subject(
            evaluation.detector,
            arguments.weights,
            evaluation.dataset,
            f"{arguments.data.resolve().name}, {arguments.split}",
            shlex.join(command),
        )
        write_report(arguments.report, subject, evaluation.evaluator, result)
        print(f"\nThe report is {arguments.report}.")
    return 0
