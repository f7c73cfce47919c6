"""What the command `saccade export` does."""

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from saccade.data import find_split
from saccade.export.accuracy import average_precision
from saccade.export.arguments import ExportArguments
from saccade.export.calibration import calibration_images
from saccade.export.files import Order, fitting, write_file
from saccade.export.gate import TOLERANCES, Tolerance, Verdict, first_departure, judge, probes_of
from saccade.export.program import Sizes
from saccade.export.runtimes import DESCRIPTION, open_exported
from saccade.inference import Detector
from saccade.inference.engine import TorchEngine

NUM_CHECKED = 4
"""Images that an exported file is compared on."""


def export(detector: Detector, arguments: ExportArguments, out: Path, console: Console) -> int:
    """Write a detector, compare the file with it, and keep the file if both say the same.

    Args:
        detector: On the CPU.
        arguments: What to write.
        out: The folder for it; made if it is missing.
        console: Where the comparison is printed.

    Returns:
        The exit status: 1 if the file does not say the same, and is not kept.

    Raises:
        ValueError: If the detector cannot be written so, or a package is missing.
        OSError: If the folder cannot be written.
    """
    order = _order(detector, arguments)
    images = _images(detector, arguments, order.sizes)
    out.mkdir(parents=True, exist_ok=True)
    # In the same file system, so that what passes is moved in one step.
    with tempfile.TemporaryDirectory(dir=out, prefix=".unchecked-") as folder:
        with console.status(f"writing {order.target}, {order.precision}"):
            file, description = write_file(order, detector.config, detector.model, Path(folder))
        with console.status("comparing it with the original"):
            verdict = _judge(file, detector, images, arguments)
        _print(verdict, order, console)
        if not verdict.passed:
            with console.status("looking for where it departs"):
                place = _departure(order, detector, images[0], arguments)
            console.print(
                f"[red]Not kept:[/red] {verdict.reason}. It departs first at "
                f"{place or 'none of the layers by itself: differences add up'}.",
                highlight=False,
            )
            return 1
        record = {**description.to_dict(), "checked": asdict(verdict)}
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (Path(folder) / DESCRIPTION).write_text(text, "utf-8")
        for written in sorted(Path(folder).iterdir()):
            shutil.move(written, out / written.name)
    size = sum(each.stat().st_size for each in out.iterdir() if each.is_file())
    console.print(f"{out / file.name}, {size / 1e6:.1f} MB", highlight=False)
    return 0


def _order(detector: Detector, arguments: ExportArguments) -> Order:
    height, width = arguments.size or (None, None)
    calibration = (
        calibration_images(detector.config, arguments.calibration)
        if arguments.precision == "int8"
        else []
    )
    sizes = Sizes(arguments.batch, height, width)
    return Order(arguments.to, sizes, arguments.precision, calibration, arguments.threshold)


def _images(
    detector: Detector, arguments: ExportArguments, sizes: Sizes
) -> list[UInt8[Tensor, "B 3 _ _"]]:
    folder = arguments.images or arguments.calibration
    if folder is None and arguments.data is not None:
        folder = find_split(arguments.data, arguments.split).images
    every = calibration_images(detector.config, folder, NUM_CHECKED)
    return fitting(every, sizes)


def _judge(
    file: Path, detector: Detector, images: list[Tensor], arguments: ExportArguments
) -> Verdict:
    exported = open_exported(file)
    original = TorchEngine(detector.config, detector.model)
    ap = None
    if arguments.data is not None:
        if arguments.size is not None or (arguments.batch or 1) > 1:
            raise ValueError(
                "--data measures images of their own sizes, one by one: leave it out, or --size "
                "and --batch."
            )
        before, after = (
            average_precision(engine, arguments.data, arguments.split)
            for engine in (original, exported)
        )
        ap = (before, after)
    return judge(exported, original, images, _tolerance(arguments), ap)


def _tolerance(arguments: ExportArguments) -> Tolerance:
    if arguments.tolerance is None:
        return TOLERANCES[arguments.precision]
    share = TOLERANCES[arguments.precision].share
    return Tolerance(arguments.tolerance, arguments.tolerance, share)


def _departure(
    order: Order, detector: Detector, images: Tensor, arguments: ExportArguments
) -> str | None:
    """Which layer departs first, of the same file written with the layers' outputs."""
    probes = probes_of(detector.model)
    with tempfile.TemporaryDirectory() as folder:
        file, _ = write_file(order, detector.config, detector.model, Path(folder), probes)
        original = TorchEngine(detector.config, detector.model)
        run = open_exported(file).run
        share = _tolerance(arguments).difference
        return first_departure(run, detector.model, original, probes, images, share)


def _print(verdict: Verdict, order: Order, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    columns: tuple[str, ...] = (
        f"{order.target}, {order.precision}",
        "largest difference",
        "of 95 %",
        "median",
    )
    if order.precision == "fp32":
        columns = (columns[0], columns[1], columns[3])
    for column in columns:
        table.add_column(column, justify="left" if order.target in column else "right")
    for each in verdict.differences:
        found = {"largest difference": each.largest, "of 95 %": each.judged, "median": each.typical}
        table.add_row(each.output, *(f"{found[column]:.1e}" for column in columns[1:]))
    console.print(table)
    if verdict.ap is not None:
        before, after = verdict.ap
        console.print(
            f"AP {before:.1f} before, {after:.1f} after: {after - before:+.2f}", highlight=False
        )
