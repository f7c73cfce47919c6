"""What `saccade predict` can be asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from saccade.bulk.arguments import BulkArguments
from saccade.engines import Runtime


@dataclass(frozen=True, kw_only=True)
class PredictArguments:
    """Find objects in images: predictions.jsonl, a line for each image, and annotated pictures.

    Images that cannot be read are named at the end and in unreadable.jsonl; the exit status is
    then 2.

    Example: saccade predict examples/blood-cells/test --weights examples/blood-cells/nano
    """

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders of images or video frames (frame2 before frame10), patterns such as
    "photos/**/*.jpg", and .txt files with a path per line. Results keep their order. With --engine
    ray also tar files (WebDataset), Parquet files, and URIs such as s3://bucket/photos."""
    weights: str
    """A run's best/ or last/, an official .pth file, a transformers folder, or a hub id."""
    recursive: bool = False
    """Look into the folders within folders too."""
    out: str | None = None
    """Where results go; by default runs/predict, runs/predict-2 and so on. --engine ray needs it,
    may be given a URI, and goes on with what is there."""
    engine: Literal["local", "ray"] = "local"
    """"local", this process; "ray", Ray Data with many processes or machines, which writes Parquet
    files and needs the extra bulk."""
    formats: tuple[Literal["jsonl", "coco"], ...] = ("jsonl",)
    """What is written: "jsonl", predictions.jsonl with boxes as x0, y0, x1, y1 in pixels; "coco",
    predictions.json with COCO results, and images.json, which says how it numbers images and
    categories; or both."""
    coco: Path | None = None
    """A COCO annotation file: COCO results take its ids, of images by file name and of categories
    by name, and are written even if --formats does not say so."""
    pictures: bool = True
    """Write each image with its boxes."""
    threshold: float = 0.3
    """Lowest score reported, 0 to 1."""
    top_k: int = 100
    """Most detections per image; with --tile per tile."""
    classes: tuple[str, ...] = ()
    """Names of the classes to report; by default all."""
    batch_size: int = 1
    """Most images that are run together, those only that are resized to the same size: what is
    found does not depend on it."""
    tile: int | None = None
    """Look at large images in tiles of this side, in pixels of the image, so that small objects
    are not shrunk away; such as 800."""
    tile_overlap: float = 0.2
    """Least share of its side that a tile shares with the next: best as wide as most objects."""
    tile_whole: bool = True
    """With --tile, look at the whole image too, for objects that are larger than a tile."""
    tta: bool = False
    """Test-time augmentation: look at every image at each of --tta-scales, as it is and flipped,
    and fuse what is found. Takes a forward pass for each."""
    tta_scales: tuple[float, ...] = (1.0,)
    """Of the sides to which images are resized otherwise."""
    tta_flips: tuple[Literal["horizontal", "vertical"], ...] = ("horizontal",)
    """Directions in which the objects may as well be turned."""
    max_megapixels: float = 179.0
    """Larger images count as unreadable: a small file may unpack to any size."""
    runtime: Runtime = "torch"
    """What runs the detector; the others convert it first, once."""
    precision: Literal["fp32", "int8"] = "fp32"
    """int8, for openvino, is twice as fast and finds nearly the same; it needs --calibration."""
    calibration: Path | None = None
    """For int8: a folder of images like those of the sources, a few hundred at best."""
    preset: str | None = None
    """Settles what an official file does not tell; see `saccade presets`."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best there is."""
    bulk: tyro.conf.OmitArgPrefixes[BulkArguments] = field(default_factory=BulkArguments)

    def __post_init__(self) -> None:
        if self.precision == "int8" and self.calibration is None:
            raise ValueError("--precision int8 needs --calibration: name a folder of images.")
