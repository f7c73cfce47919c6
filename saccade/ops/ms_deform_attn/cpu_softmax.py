"""The compiled softmax of the CPU backward's fused form, and its gradient.

Arrays are given by their addresses and hold a row of K samples for each query and head.
"""

import functools
from typing import Any, no_type_check

import numpy as np

from .cpu_compile import Kernel, compiled, sources
from .cpu_rows import load, store
from .cpu_samples import read_attention, softmax

# Rows that are worked on together: loops over them become vector instructions.
_BLOCK = 64


@functools.cache
def softmax_kernel(number: type[np.floating[Any]], backward: bool) -> Kernel:
    """Compiled for this dtype; writes the softmax, or if ``backward`` replaces its gradient."""
    size = np.dtype(number).itemsize
    stamp = sources()

    @no_type_check
    def rows_of_softmax(logits, result, start, stop, num_samples):
        """Rows ``start`` to ``stop``. In a backward ``result`` holds the softmax's gradient.

        The softmax is calculated twice, since to keep it would take as much memory as a gradient.
        """
        _ = stamp
        attention = np.empty((num_samples, _BLOCK), number)
        scratch = np.empty((2, _BLOCK), number)
        rows = np.arange(start, stop)
        for begin in range(0, len(rows), _BLOCK):
            part = rows[begin : begin + _BLOCK]
            read_attention(attention, logits, part, num_samples * size)
            softmax(attention, scratch[0], scratch[1], len(part))
            for i in range(len(part)):
                row = result + part[i] * num_samples * size
                if backward:
                    mean = number(0)
                    for k in range(num_samples):
                        mean += attention[k, i] * load(mean, row + k * size)
                    for k in range(num_samples):
                        slope = load(mean, row + k * size) - mean
                        store(row + k * size, attention[k, i] * slope)
                else:
                    for k in range(num_samples):
                        store(row + k * size, attention[k, i])

    return compiled(rows_of_softmax, "void(intp, intp, int64, int64, int64)")
