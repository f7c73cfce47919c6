"""A process of our own that may take neither more memory than is free nor more than its time."""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

MOST_SECONDS = 45.0
"""From the first line that the process writes; then it is ended."""
START_SECONDS = 120.0
"""Until that first line: most of it are imports, which a busy machine takes long for."""
SPARE = 0.92
"""Of the memory that is free: a process that takes more is ended, before the system does so."""
_LOOK_EVERY = 0.1
_SIGKILL = 9
# Not "-m", which would look for modules in the present folder first: that may be the dataset's.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; import runpy; "
    "runpy.run_module(sys.argv[1], run_name='__main__', alter_sys=True)"
)
_GROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Files of control groups, version 2 and 1: the limit, what is used, and of what."""


def run_module(
    module: str, task: dict[str, Any], free: int, tick: Callable[[], None]
) -> tuple[list[dict[str, Any]], str]:
    """Run ``python -m module``, its task as JSON on the standard input.

    Args:
        module: It writes lines of JSON.
        task: What it is given.
        free: Bytes that it may take; see `free_memory`.
        tick: Called now and then while it goes on.

    Returns:
        The lines that it wrote, and why it was ended: "memory", "time", an error's last line, or
        nothing.
    """
    with (
        TemporaryFile("w+") as source,
        TemporaryFile("w+", errors="replace") as out,
        TemporaryFile("w+", errors="replace") as err,
    ):
        json.dump(task, source)
        source.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-c", _START, module, *sys.path],
            stdin=source,
            stdout=out,
            stderr=err,
        )
        why = ""
        try:
            why = _watch(process, out, free, tick)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        lines = [json.loads(line) for line in _read(out) if line.startswith("{")]
        if not why and process.returncode == -_SIGKILL:
            # Whoever kills a process that did nothing wrong does so for want of memory.
            why = "memory"
        elif not why and process.returncode < 0:
            why = f"the process was ended by signal {-process.returncode}"
        elif not why and process.returncode:
            why = (_read(err) or ["no message"])[-1].strip()
    return lines, why


def _watch(
    process: subprocess.Popen[bytes], out: IO[str], free: int, tick: Callable[[], None]
) -> str:
    ends, built = time.perf_counter() + START_SECONDS, False
    while process.poll() is None:
        if not built and os.fstat(out.fileno()).st_size:
            ends, built = time.perf_counter() + MOST_SECONDS, True
        if time.perf_counter() > ends:
            return "time" if built else f"nothing was ready within {START_SECONDS:.0f} seconds"
        if _resident(process.pid) > SPARE * free:
            return "memory"
        tick()
        time.sleep(_LOOK_EVERY)
    return ""


def _resident(pid: int, processes: Path = Path("/proc")) -> int:
    """Bytes of memory of a process; 0 where the system does not tell, as Windows."""
    try:
        status = (processes / f"{pid}/status").read_text()
    except OSError:
        return _resident_by_command(pid)
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return 1024 * int(sizes[0]) if sizes else 0


def _resident_by_command(pid: int) -> int:
    """The same on macOS, which has no such files."""
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return 0
    return 1024 * int(found) if found.isdecimal() else 0


def _read(stream: IO[str]) -> list[str]:
    stream.seek(0)
    return stream.read().splitlines()


def free_memory() -> int:
    """Bytes that a process may still take on this machine, or in this container."""
    free = _memory_of_windows()
    if hasattr(os, "sysconf"):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable"):
                free = 1024 * int(line.split()[1])
    return min([free, *left_in_groups(Path("/sys/fs/cgroup"))])


def left_in_groups(root: Path) -> list[int]:
    """Bytes that the control groups of a container leave, for each that has a limit."""
    found = []
    for names in _GROUPS:
        try:
            limit, used, stat = ((root / name).read_text() for name in names)
        except OSError:
            continue
        if limit.strip().isdecimal():
            # Files that were read, such as all images, are kept until memory is needed.
            of_files = ("active_file ", "inactive_file ")
            kept = [int(line.split()[1]) for line in stat.splitlines() if line.startswith(of_files)]
            found.append(max(0, int(limit) - int(used) + sum(kept)))
    return found


def _memory_of_windows() -> int:
    """Bytes that are free there; 0 elsewhere."""
    if sys.platform == "win32":
        # MEMORYSTATUSEX: two numbers of 32 bits, its length first, then seven of 64, the second of
        # which is what is free.
        status = (ctypes.c_uint64 * 8)(ctypes.sizeof(ctypes.c_uint64) * 8)
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status[2])
    return 0
