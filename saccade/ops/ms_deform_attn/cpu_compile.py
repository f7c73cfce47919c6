"""How the CPU kernels are compiled and cached."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

# No nnan or ninf: non-finite numbers are part of the contract.
_FLAGS = {"contract", "nsz"}

Kernel = Callable[..., None]


def compiled(function: Kernel) -> Kernel:
    """Compiled at its first call, or read from the cache where an earlier process left it."""
    compiler: Any = functools.partial(njit, nogil=True, fastmath=_FLAGS, error_model="numpy")
    try:
        return compiler(cache=True)(function)
    except RuntimeError:
        # numba found no folder to write its cache to: every process compiles for itself.
        return compiler()(function)


@functools.cache
def sources() -> int:
    """A number that changes with the code the kernels share.

    numba's cache looks at the file of the kernel itself only, but also at the values its closure
    holds: a kernel that mentions this one is compiled anew when a file beside it has changed.
    """
    digest = hashlib.sha256()
    for name in ("cpu_compile.py", "cpu_rows.py", "cpu_samples.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return int.from_bytes(digest.digest()[:4], "big")
