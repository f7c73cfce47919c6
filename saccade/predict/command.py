"""What the command `saccade predict` does."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from saccade.config import InputConfig
from saccade.data import read_image
from saccade.engines import open_engine
from saccade.inference.augmented import make_views
from saccade.inference.coco_ids import CocoIds, ids_of, numbered
from saccade.inference.detections import check_thresholds
from saccade.inference.looking import Looking, SeveralViews, Shown, WholeImage, show
from saccade.inference.reading import image_limit, read_ahead
from saccade.inference.sources import find_images
from saccade.inference.stream import look_at_all
from saccade.inference.tiles import Tiles
from saccade.inference.wanted import Wanted, labels_of
from saccade.predict.arguments import PredictArguments
from saccade.predict.on_ray import predict_on_ray, refuse_what_needs_ray
from saccade.predict.progress import Bar
from saccade.predict.results import Results
from saccade.settings import free_folder

AHEAD = 2
"""Images that are read before they are needed, beside those of the next batch."""


def predict(arguments: PredictArguments, console: Console) -> int:
    """Find objects and write them.

    Returns:
        The exit status: 2 if an image could not be read, otherwise 0.

    Raises:
        ValueError: If an argument makes no sense, or the detector cannot be used.
        OSError: If results cannot be written.
        KeyboardInterrupt: If interrupted: it says what is written.
    """
    if not arguments.sources:
        raise ValueError("no images: name image files, folders of images, patterns or lists.")
    looking = way_of_looking(arguments)
    if arguments.engine == "ray":
        return predict_on_ray(arguments, looking, console)
    refuse_what_needs_ray(arguments)
    files = find_images([Path(source) for source in arguments.sources], arguments.recursive)
    out = free_folder(Path("runs/predict")) if arguments.out is None else Path(arguments.out)
    if out.is_file():
        raise ValueError(f"--out {out} is a file: name a folder for the results.")
    if out.resolve() in _homes(files):
        raise ValueError(f"--out {out} holds the images themselves: name another folder.")
    if not (arguments.formats or arguments.pictures or arguments.coco):
        raise ValueError("nothing would be written: leave out --no-pictures, or name --formats.")
    check_thresholds(arguments.threshold, arguments.top_k, arguments.batch_size)
    with image_limit(arguments.max_megapixels), ExitStack() as stack:
        engine = open_engine(
            arguments.weights,
            arguments.preset,
            arguments.device,
            arguments.runtime,
            arguments.precision,
            arguments.calibration,
        )
        names = engine.config.class_names
        wanted = Wanted(arguments.threshold, arguments.top_k, labels_of(arguments.classes, names))
        ids = coco_ids(arguments, files, names)
        out.mkdir(parents=True, exist_ok=True)
        results = stack.enter_context(Results(arguments, out, files, names, ids))
        bar = stack.enter_context(Bar(len(files), console))
        read = reader(arguments, files, engine.config.input, looking, ids)
        images = read_ahead(range(len(files)), read, arguments.batch_size + AHEAD)
        try:
            for answer in look_at_all(engine, images, looking, wanted, arguments.batch_size):
                results.write(answer)
                bar.advance()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted after {bar.done} of {len(files)} images: what was found is in {out}."
            ) from None
        finally:
            images.close()
        rate = bar.rate
    console.print(
        f"{results.num_objects} objects in {results.num_images} images, {rate}: "
        f"{', '.join(results.written)} in {out}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return name_unreadable(results, out)


def _homes(files: list[Path]) -> set[Path]:
    """The folders that hold images, those to which links point too."""
    linked = {file.resolve().parent for file in files if file.is_symlink()}
    # Each folder once: of millions of files every question to the disk counts.
    return linked | {folder.resolve() for folder in {file.parent for file in files}}


def way_of_looking(arguments: PredictArguments) -> Looking:
    """As a whole, in tiles or in several views, as was asked.

    Raises:
        ValueError: If that makes no sense.
    """
    if arguments.tile is not None and arguments.tta:
        raise ValueError("--tile and --tta exclude each other: give one of them.")
    if arguments.tile is not None:
        return Tiles(arguments.tile, arguments.tile_overlap, arguments.tile_whole)
    if arguments.tta:
        flipped = ("horizontal" in arguments.tta_flips, "vertical" in arguments.tta_flips)
        return SeveralViews(tuple(make_views(arguments.tta_scales, *flipped)), arguments.top_k)
    return WholeImage()


def coco_ids(
    arguments: PredictArguments, files: list[Path], class_names: tuple[str, ...]
) -> CocoIds | None:
    """The numbers of images and categories in COCO results, if these are wanted.

    Raises:
        OSError: If --coco cannot be opened.
        ValueError: If it does not describe these images.
    """
    if arguments.coco is not None:
        return ids_of(arguments.coco, files, class_names)
    return numbered(len(files), len(class_names)) if "coco" in arguments.formats else None


def reader(
    arguments: PredictArguments,
    files: list[Path],
    config: InputConfig,
    looking: Looking,
    ids: CocoIds | None,
) -> Callable[[int], Shown]:
    """What reads and prepares the image of a number."""
    sizes = None if ids is None else ids.sizes

    def read(number: int) -> Shown:
        pixels = read_image(files[number], None if sizes is None else sizes[number])
        try:
            return show(pixels, config, looking, arguments.pictures)
        except ValueError as error:
            raise ValueError(f"{files[number]}: {error}") from error

    return read


def name_unreadable(results: Results, out: Path) -> int:
    """Name what could not be read; returns the exit status."""
    for error in results.unreadable:
        print(f"saccade predict: {error}", file=sys.stderr)
    if results.num_unreadable:
        print(
            f"saccade predict: {results.num_unreadable} of "
            f"{results.num_images + results.num_unreadable} images could not be read and were "
            f"skipped: see {out / 'unreadable.jsonl'}",
            file=sys.stderr,
        )
    return 2 if results.num_unreadable else 0
