"""report.html of a training run."""

import shlex
from pathlib import Path

from saccade.analysis.evaluation_report import write_report
from saccade.analysis.evaluation_subject import Subject
from saccade.doctor.findings import counted
from saccade.evaluation import CocoResult
from saccade.run_config import RunConfig
from saccade.split_evaluation import SplitEvaluation


def write_run_report(
    folder: Path,
    config: RunConfig,
    evaluation: SplitEvaluation,
    result: CocoResult,
    num_processes: int,
) -> None:
    """Write ``report.html`` about a run and its last weights.

    Args:
        folder: The run folder.
        config: The run.
        evaluation: Holds what the last weights found.
        result: What it computed.
        num_processes: That trained.

    Raises:
        OSError: If the file cannot be written, or one of the worst images not be read.
    """
    repeat = ["saccade", "train", "--config", str(folder / "config.yaml")]
    evaluate = ["saccade", "eval", "--weights", str(folder / "last"), "--data", config.data]
    if config.val_split != "val":
        evaluate += ["--split", config.val_split]
    if config.max_detections != 100:
        evaluate += ["--max-detections", str(config.max_detections)]
    if config.batch_size != 1:
        # Images of different sizes are padded as the run padded them.
        evaluate += ["--batch-size", str(config.batch_size)]
    if config.on_broken_image != "fail":
        evaluate += ["--on-broken-image", config.on_broken_image]
    precision = {"32": "float32", "bf16": "bfloat16", "fp16": "float16"}[config.launch.precision]
    images = config.batch_size * config.accumulate * num_processes
    facts = (
        f"Trained by {counted(num_processes, 'process', 'processes')} in {precision}, "
        f"{counted(images, 'image')} a step, {counted(config.num_workers, 'worker')} reading "
        f"images for each, seed {config.seed}.",
    )
    data = f"{Path(config.data).resolve().name}, {config.val_split}"
    commands = "\n".join(
        [
            f"{shlex.join(repeat)}   # the same run again",
            f"{shlex.join(evaluate)} --report report.html   # this evaluation alone",
        ]
    )
    subject = Subject(
        evaluation.detector, str(folder / "last"), evaluation.dataset, data, commands, facts
    )
    write_report(folder / "report.html", subject, evaluation.evaluator, result)
