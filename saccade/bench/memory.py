"""Peak extra memory: what a call needs beyond its inputs, at the worst moment.

On a GPU it is what torch's allocator says. On a CPU it is the resident memory of a process of its
own, which Linux alone can tell exactly: elsewhere the highest mark cannot be reset.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .contenders import BASELINE, Contender, of_backend
from .op_cases import Inputs, OpCase, OpShape, build_inputs

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
# Arrays above this size are mapped and unmapped one by one: nothing freed stays in the process.
_GLIBC_BYTES = "131072"


@dataclass(frozen=True)
class ContenderMemory:
    """Bytes at the peak, beyond the inputs; outputs and gradients are counted."""

    contender: str
    forward: int
    forward_backward: int


@dataclass(frozen=True)
class CaseMemory:
    """Everyone on one case."""

    case: OpCase
    dtype: str
    forward_bar: int
    """The output."""
    forward_backward_bar: int
    """The gradients, and value's once more."""
    results: list[ContenderMemory]


def measure_memory(
    case: OpCase,
    contenders: Sequence[Contender],
    dtype: torch.dtype,
    device: torch.device,
    advance: Callable[[str], None],
) -> CaseMemory:
    """Run grid_sample and the ``contenders`` once each.

    Raises:
        ValueError: If this system does not tell.
    """
    if device.type == "cpu" and not _RESET.exists():
        raise ValueError(
            f"--memory cannot measure a CPU's memory on {sys.platform}: use Linux or a GPU."
        )
    results = []
    for contender in [BASELINE, *contenders]:
        advance(f"memory, {contender.name}")
        if device.type == "cpu":
            forward, both = _in_process_of_its_own(case, contender.name, dtype)
        else:
            inputs = contender.prepare(build_inputs(case, dtype, device), case.shape)
            contender.forward_backward(case.shape.levels, inputs)
            forward, both = _peaks(contender, case.shape, inputs, _cuda_peak)
        results.append(ContenderMemory(contender.name, forward, both))
    inputs = build_inputs(case, dtype, device)
    value = inputs["value"].nbytes
    gradients = value + inputs["sampling_locations"].nbytes + inputs["attention_weights"].nbytes
    name = str(dtype).removeprefix("torch.")
    return CaseMemory(case, name, inputs["grad_out"].nbytes, gradients + value, results)


def _peaks(
    contender: Contender,
    shape: OpShape,
    inputs: Inputs,
    peak: Callable[[Callable[[], object]], int],
) -> tuple[int, int]:
    return (
        peak(lambda: contender.forward(shape.levels, inputs)),
        peak(lambda: contender.forward_backward(shape.levels, inputs)),
    )


def _cuda_peak(run: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def forget_peak() -> None:
    """Make the highest mark of this process's memory the present one, where Linux can."""
    if _RESET.exists():
        _RESET.write_text("5")


def peak_of_process() -> int | None:
    """The most memory that this process has held since `forget_peak`, in bytes; Linux only."""
    return _kilobytes("VmHWM") * 1024 if _STATUS.exists() else None


def _resident_peak(run: Callable[[], object]) -> int:
    gc.collect()
    forget_peak()
    before = _kilobytes("VmRSS")
    run()
    return max(0, _kilobytes("VmHWM") - before) * 1024


def _kilobytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def _in_process_of_its_own(case: OpCase, contender: str, dtype: torch.dtype) -> tuple[int, int]:
    task = {
        "case": asdict(case),
        "contender": contender,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": _GLIBC_BYTES,
        "MALLOC_TRIM_THRESHOLD_": _GLIBC_BYTES,
    }
    done = subprocess.run(
        [sys.executable, "-m", "saccade.bench.memory", json.dumps(task)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{contender} failed in a process of its own: {last}")
    forward, both = json.loads(done.stdout)
    return forward, both


def _measure_here(task: dict[str, Any]) -> tuple[int, int]:
    """What the process started by ``_in_process_of_its_own`` does."""
    torch.set_num_threads(task["threads"])
    dtype = getattr(torch, task["dtype"])
    name = task["contender"]
    contenders = [BASELINE, *of_backend(name.split()[0])] if name != BASELINE.name else [BASELINE]
    contender = next(contender for contender in contenders if contender.name == name)
    levels = tuple((height, width) for height, width in task["case"]["shape"]["levels"])
    case = OpCase(
        **{**task["case"], "shape": OpShape(**{**task["case"]["shape"], "levels": levels})}
    )
    # Whatever is compiled and imported should not count.
    few = replace(case.shape, levels=((2, 2),) * len(levels), num_images=1, num_queries=2)
    cpu = torch.device("cpu")
    contender.forward_backward(few.levels, build_inputs(replace(case, shape=few), dtype, cpu))
    inputs = build_inputs(case, dtype, cpu)
    return _peaks(contender, case.shape, inputs, _resident_peak)


if __name__ == "__main__":
    print(json.dumps(_measure_here(json.loads(sys.argv[1]))))
