"""What `saccade bench` can be asked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Measure multi-scale deformable attention beside grid_sample as transformers writes it.

    Everyone who is measured takes turns in one run. Outputs and gradients are compared first:
    who calculates something else gets no figure.

    Example: saccade bench op --shapes encoder decoder --sampling local
    """

    target: tyro.conf.Positional[Literal["op"]]
    """What to measure: op, the operator. Of "model", a whole detector, saccade bench model --help
    tells more."""
    shapes: tuple[str, ...] = ()
    """Which of the shapes in docs/performance.md; by default some, two minutes on two cores."""
    all: bool = False
    """Every named shape: takes tens of gigabytes of memory and, on a CPU, an hour."""
    levels: tuple[str, ...] = ()
    """A shape of your own: HEIGHTxWIDTH of its levels in tokens, such as 64x96 32x48."""
    images: int = 1
    """Images of your own shape."""
    queries: int = 0
    """Queries of your own shape; 0 for one at every token, as an encoder has."""
    heads: int = 8
    """Attention heads of your own shape."""
    channels: int = 32
    """Channels per head of your own shape."""
    points: int = 4
    """Points per level of your own shape."""
    sampling: tuple[Literal["local", "uniform"], ...] = ()
    """Where samples fall: around their query, or anywhere on the map."""
    backends: tuple[Literal["reference", "cpu", "triton"], ...] = ()
    """Ours to measure; by default the device's, and the reference where it takes no time."""
    peer: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=FOLDER of another project's operator, on a GPU: see docs/performance.md."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of values, offsets, logits and outputs; locations and attention weights are float32."""
    device: str = "auto"
    """cpu, cuda, or auto for the GPU if there is one."""
    threads: int | None = None
    """CPU threads; by default as many as torch takes."""
    rounds: int = 5
    """Turns of everyone; take more on a machine whose clock wanders."""
    memory: bool = False
    """Measure peak extra memory instead of time (Linux or a GPU)."""
    json: Path | None = None
    """Where all figures go; by default runs/bench/op.json, runs/bench-2/op.json and so on."""

    def __post_init__(self) -> None:
        for name in ("rounds", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}: expected at least 1.")
        if sum(map(bool, (self.shapes, self.all, self.levels))) > 1:
            raise ValueError("--shapes, --all and --levels exclude each other: give one of them.")


def parse_levels(levels: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Heights and widths.

    Raises:
        ValueError: If one is not written as HEIGHTxWIDTH.

    >>> parse_levels(["64x96", "32x48"])
    ((64, 96), (32, 48))
    """
    pairs = [re.fullmatch(r"(\d+)x(\d+)", level) for level in levels]
    for level, pair in zip(levels, pairs, strict=True):
        if pair is None:
            raise ValueError(
                f'--levels has "{level}": expected HEIGHTxWIDTH in tokens, such as 64x96.'
            )
    return tuple((int(pair[1]), int(pair[2])) for pair in pairs if pair is not None)
