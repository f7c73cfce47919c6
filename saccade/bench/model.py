"""`saccade bench model`: one detector in several runtimes, turn by turn."""

import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from saccade.analysis.counts import count
from saccade.engines import load_detector
from saccade.inference import Detector

from .machine import machine, versions
from .model_arguments import ModelBenchArguments, Row
from .model_contenders import Task, serve_turns
from .model_report import print_model
from .timing import Spread, Turn, speedup, spread, take_turns

_BASELINE = "transformers"


@dataclass(frozen=True)
class RowResult:
    """What was seen of one contender."""

    row: Row
    seconds: Spread
    """Of a batch."""
    speed_up: Spread
    """Times as fast as the first row, by turns."""
    difference: float
    """The largest of the logits from those of the first row, relative to the largest logit."""
    box_difference: float
    """The largest of the boxes, fraction of image."""
    peak_bytes: int | None
    """The most memory of the process during the turns; None where the system does not tell."""
    ap: float | None
    """Percent, on the dataset that was named."""


def run_model_benchmark(
    arguments: ModelBenchArguments, command: Sequence[str], file: Path, console: Console
) -> None:
    """Measure, print a table, and write all figures to ``file``.

    Args:
        arguments: What to measure.
        command: The words that asked for it, kept with the figures.
        file: Where the figures go, as JSON.
        console: Where the table goes.

    Raises:
        ValueError: If the detector cannot be had, or a contender cannot run it.
    """
    detector = _detector(arguments)
    counts = count(detector.config, arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        weights = _save(detector, Path(folder), arguments.rows)
        images = _images(arguments)
        tasks = [
            Task(
                row,
                weights,
                images,
                arguments.threads,
                arguments.calibration,
                arguments.data,
                arguments.split,
            )
            for row in arguments.rows
        ]
        results = _measure(tasks, arguments.rounds, console)
    record: dict[str, Any] = {
        "command": shlex.join(command),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
        "size": arguments.size,
        "batch_size": arguments.batch_size,
        "counts": asdict(counts),
        "results": [asdict(result) for result in results],
    }
    print_model(record, counts, results, console)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    console.print(f"\nEvery figure is in {file}.", highlight=False, markup=False)


def _detector(arguments: ModelBenchArguments) -> Detector:
    if arguments.weights is not None:
        return load_detector(arguments.weights, device="cpu")
    torch.manual_seed(0)
    return Detector.from_preset(arguments.preset or "deformable-detr-r50")


def _save(detector: Detector, folder: Path, rows: Sequence[Row]) -> Path:
    detector.save_pretrained(folder)
    if _BASELINE in rows:
        try:
            detector.save_pretrained(folder / "transformers", layout="transformers")
        except ValueError as error:
            raise ValueError(
                f"transformers has no such detector ({error}): name others with --rows, such as "
                "torch openvino."
            ) from error
    return folder


def _images(arguments: ModelBenchArguments) -> np.ndarray:
    shape = (arguments.batch_size, 3, *arguments.size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _measure(tasks: Sequence[Task], rounds: int, console: Console) -> list[RowResult]:
    with console.status("getting ready") as status, _processes(tasks) as connections:
        outputs = {}
        for task in tasks:
            status.update(f"getting ready: {task.row}")
            # One after the other, since models are converted on all cores.
            connections[task.row].send(task)
            outputs[task.row] = _outputs(connections[task.row], task.row)
        turns: dict[str, Turn] = {
            row: partial(_turn, connection, row) for row, connection in connections.items()
        }
        seconds = take_turns(turns, rounds, status.update)
        status.update("looking at the last things")
        ends = {row: _ask(connection, row, False) for row, connection in connections.items()}
    first = tasks[0].row
    expected_logits, expected_boxes = outputs[first]
    return [
        RowResult(
            row=row,
            seconds=spread(seconds[row]),
            speed_up=speedup(seconds[first], seconds[row]),
            difference=_relative(logits, expected_logits),
            box_difference=float(np.abs(boxes - expected_boxes).max()),
            peak_bytes=ends[row][0],
            ap=ends[row][1],
        )
        for row, (logits, boxes) in outputs.items()
    ]


@contextmanager
def _processes(tasks: Sequence[Task]) -> Iterator[dict[Row, Connection]]:
    context = get_context("spawn")
    pipes = [context.Pipe() for _ in tasks]
    processes = [context.Process(target=_begin, args=(theirs,), daemon=True) for _, theirs in pipes]
    try:
        for process, (_, theirs) in zip(processes, pipes, strict=True):
            process.start()
            # Or the end of the process would not be seen here.
            theirs.close()
        yield {task.row: ours for task, (ours, _) in zip(tasks, pipes, strict=True)}
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()


def _begin(connection: Connection) -> None:
    serve_turns(connection.recv(), connection)


def _turn(connection: Connection, row: Row) -> float:
    return float(_ask(connection, row, True))


def _ask(connection: Connection, row: Row, again: bool) -> Any:
    connection.send(again)
    return _receive(connection, row)


def _outputs(connection: Connection, row: Row) -> tuple[np.ndarray, np.ndarray]:
    answer = _receive(connection, row)
    if isinstance(answer, str):
        raise ValueError(f"{row} cannot be measured: {answer}; leave it out of --rows.")
    return answer


def _receive(connection: Connection, row: Row) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise ValueError(
            f"{row} cannot be measured: its process ended, perhaps for want of memory; leave it "
            "out of --rows or take a smaller --size."
        ) from None


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
