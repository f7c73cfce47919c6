"""To be written."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor


def quantise_onnx(file: Path, images: Sequence[Tensor]) -> None:
    """Not yet."""
    raise ValueError("not yet")
