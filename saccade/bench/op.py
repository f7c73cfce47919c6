"""`saccade bench op`: who is measured, on what, and what becomes of the figures."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn, TimeElapsedColumn

from .arguments import BenchArguments, parse_levels
from .contenders import Contender, of_backend
from .machine import machine, versions
from .measure import measure_times
from .memory import measure_memory
from .op_cases import SAMPLINGS, SHAPES, OpCase, OpShape, default_cases, named_cases
from .op_report import print_heading, print_memory, print_times
from .peers import load_peer, supported

# The reference takes a hundred times as long as the others.
_MOST_SAMPLES_OF_REFERENCE = 200_000


def run_op_benchmark(
    arguments: BenchArguments, command: Sequence[str], file: Path, console: Console
) -> None:
    """Measure, print a table per case, and write all figures to ``file`` as they come.

    Args:
        arguments: What to measure.
        command: The words that asked for it, kept with the figures.
        file: Where the figures go, as JSON.
        console: Where the tables go.

    Raises:
        ValueError: If the arguments name what there is not.
        OSError: If the file cannot be written.
    """
    device = _device(arguments.device)
    cases = _cases(arguments, device.type)
    peers = _peers(arguments, device)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(arguments.threads or threads)
        record: dict[str, Any] = {
            "command": shlex.join(command),
            "machine": machine(device),
            "versions": versions(),
            "cases": [],
        }
        _write(record, file)
        print_heading(record["machine"], record["versions"], console)
        with _progress(console) as progress:
            task = progress.add_task("", total=len(cases))
            for number, case in enumerate(cases, 1):
                place = f"{number}/{len(cases)} {case.name}, {case.sampling}"
                contenders = _ours(arguments, case, device.type) + peers
                advance = _announcer(progress, task, place)
                found = _measure(arguments, case, contenders, device, advance, console)
                record["cases"].append(found)
                # After every case, so that an interrupted run keeps what it found.
                _write(record, file)
    finally:
        torch.set_num_threads(threads)
    console.print(f"\nEvery figure is in {file}.", highlight=False, markup=False)


def _measure(
    arguments: BenchArguments,
    case: OpCase,
    contenders: Sequence[Contender],
    device: torch.device,
    advance: Callable[[str], None],
    console: Console,
) -> dict[str, Any]:
    """Measure one case and print its table; all its figures."""
    dtype = getattr(torch, arguments.dtype)
    if arguments.memory:
        memory = measure_memory(case, contenders, dtype, device, advance)
        print_memory(memory, console)
        return dataclasses.asdict(memory)
    times = measure_times(case, contenders, dtype, device, arguments.rounds, advance)
    print_times(times, console)
    return dataclasses.asdict(times)


def _progress(console: Console) -> Progress:
    # Drawn only when told, between two turns: drawing takes time that would be measured.
    return Progress(
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_terminal,
    )


def _announcer(progress: Progress, task: TaskID, place: str) -> Callable[[str], None]:
    return lambda step: progress.update(task, description=f"{place}: {step}", refresh=True)


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f'--device is "{name}": expected cpu, cuda or auto.')
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError('--device is "cuda", but torch finds no GPU: choose cpu or auto.')
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _cases(arguments: BenchArguments, device: str) -> list[OpCase]:
    samplings = arguments.sampling or SAMPLINGS
    if arguments.levels:
        shape = OpShape(
            levels=parse_levels(arguments.levels),
            num_images=arguments.images,
            num_queries=arguments.queries,
            num_heads=arguments.heads,
            num_channels=arguments.channels,
            num_points=arguments.points,
        )
        return [OpCase("your own", shape, sampling) for sampling in samplings]
    if arguments.all:
        return named_cases(list(SHAPES), samplings)
    if arguments.shapes:
        return named_cases(arguments.shapes, samplings)
    return [case for case in default_cases(device) if case.sampling in samplings]


def _ours(arguments: BenchArguments, case: OpCase, device: str) -> list[Contender]:
    if arguments.backends:
        return [c for backend in arguments.backends for c in of_backend(backend)]
    fast = of_backend("triton" if device == "cuda" else "cpu")
    quick = case.shape.num_samples <= _MOST_SAMPLES_OF_REFERENCE
    return [*fast, *of_backend("reference")] if quick else fast


def _peers(arguments: BenchArguments, device: torch.device) -> list[Contender]:
    if arguments.peer and device.type != "cuda":
        raise ValueError(
            "--peer needs a GPU, on which the modules of peers run, and this is the CPU: "
            "leave it out."
        )
    peers = [load_peer(peer) for peer in arguments.peer]
    for peer in arguments.peer:
        if not supported(peer, getattr(torch, arguments.dtype)):
            raise ValueError(
                f"--peer {peer} does not calculate in {arguments.dtype}: leave it out, or choose "
                "another --dtype."
            )
    return peers


def _write(record: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
