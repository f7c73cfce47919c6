"""How much memory an attention map may take."""

import math
from collections.abc import Sequence

MAP_LIMIT_MIB = 2048
"""The largest map that is stored, in MiB; with its gradient and its optimiser state, or with the
maps of the other layers, several times that is needed."""


def check_map_memory(what: str, shape: Sequence[int], remedy: str, bytes_each: int = 4) -> None:
    """Refuse a map that is too large to be stored.

    Args:
        what: What the map is, as the subject of the message.
        shape: The map's shape.
        remedy: What to do instead, as the end of the message.
        bytes_each: Bytes of a number.

    Raises:
        ValueError: If the map takes more than `MAP_LIMIT_MIB`.
    """
    needed = math.prod(shape) * bytes_each / 2**20
    if needed > MAP_LIMIT_MIB:
        sizes = " x ".join(str(size) for size in shape)
        raise ValueError(
            f"{what} takes {needed:,.0f} MiB ({sizes} numbers of {bytes_each} bytes): expected at "
            f"most {MAP_LIMIT_MIB:,} MiB; {remedy}."
        )
