"""Memory that is freed after one image and wanted again for the next."""

import ctypes
import sys

# Of glibc's malloc.h: mallopt's parameters.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**30
_MOST_MAPPED = (_MOST, 2**25)
"""For maps of their own; glibc before 2.35 takes no more than the second."""


def keep_freed_memory() -> bool:
    """Have the C library keep up to a gigabyte of freed memory, in this process from now on.

    It otherwise gives the memory of every large map back to the system, which hands it out anew,
    page by page, a moment later: a tenth of the time that a ResNet-50 detector takes on a CPU. The
    commands of `saccade` do this; a library has no business to, so `Detector.predict` does not.

    Returns:
        Whether the C library is one that can be told: glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    told = any(mallopt(_MMAP_THRESHOLD, most) for most in _MOST_MAPPED)
    return bool(mallopt(_TRIM_THRESHOLD, _MOST)) and told
