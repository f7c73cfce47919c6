"""How the CPU kernels are compiled and cached."""

import functools
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.compiler_lock import global_compiler_lock

# No nnan or ninf: non-finite numbers are part of the contract.
_FLAGS = {"contract", "nsz"}

# No folder to write to, a full disk, a file that was cut off anywhere.
_UNUSABLE_CACHE = (
    RuntimeError,
    OSError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    MemoryError,
)

Kernel = Callable[..., None]


if hasattr(os, "register_at_fork"):
    # A child forked while another thread compiles would wait for the lock that thread holds.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


def compiled(function: Kernel, signature: str) -> Kernel:
    """Compiled now, or read from the cache where an earlier process left it."""
    compiler: Any = functools.partial(
        njit, signature, nogil=True, fastmath=_FLAGS, error_model="numpy"
    )
    try:
        return compiler(cache=True)(function)
    except _UNUSABLE_CACHE:
        # Every process compiles for itself. What is wrong with the function is raised again.
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
