"""What `saccade explain` can be asked."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class ExplainArguments:
    """Show where a detector looked: pictures, and one HTML page that holds them all.

    For each object: the sampling points of every decoder layer by attention weight and level, the
    box from layer to layer, and the pixels that move x, y, w, h and the class score (Deformable
    DETR, appendix A.5); besides, first-stage proposals, the encoder's sampling points at a pixel,
    and how concentrated each layer's attention is.

    Example: saccade explain examples/blood-cells/test/BloodImage_00007.jpg
    --weights examples/blood-cells/nano
    """

    image: tyro.conf.Positional[Path]
    """The image file."""
    weights: str
    """A run's best/ or last/, an official .pth file, a transformers folder, or a hub id."""
    out: Path | None = None
    """The folder of the pictures and index.html; by default runs/explain, runs/explain-2..."""
    threshold: float = 0.3
    """Lowest score of an object, 0 to 1."""
    top_k: int = 100
    """Most objects in the overview."""
    objects: int = 3
    """How many objects are explained: the surest of each class first, then the others."""
    pixel: tuple[tuple[float, float], ...] = ()
    """X Y of one or more places whose encoder tokens are shown, in pixels of the image; by default
    the centre of the surest object."""
    gradients: bool = True
    """Whether to make the gradient maps, which take five backward passes for each object."""
    preset: str | None = None
    """Settles what an official file does not tell; see `saccade presets`."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best there is."""
