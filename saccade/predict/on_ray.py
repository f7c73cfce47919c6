"""`saccade predict --engine ray`: what is found in any number of images, as Parquet files."""

import os
import sys
from functools import partial
from itertools import islice

from rich.console import Console

from saccade.bulk.actors import Job
from saccade.bulk.arguments import BulkArguments
from saccade.bulk.cluster import check_options, require_extra
from saccade.bulk.folder import Folder
from saccade.bulk.listing import Listed, find_files, kind_of
from saccade.bulk.manifest import Manifest, digest_of_shards, digest_of_weights
from saccade.bulk.parts import Summary, errors_in, finished
from saccade.bulk.places import is_uri
from saccade.bulk.run import look_at_shards
from saccade.bulk.shards import Shard, make_shards
from saccade.engines import open_engine
from saccade.inference.detections import check_thresholds
from saccade.inference.looking import Looking
from saccade.inference.reading import check_image_limit
from saccade.inference.wanted import Wanted, labels_of
from saccade.predict.arguments import PredictArguments
from saccade.predict.progress import Bar
from saccade.predict.results import REMEMBERED

DECIDING = (
    "threshold",
    "top_k",
    "classes",
    "tile",
    "tile_overlap",
    "tile_whole",
    "tta",
    "tta_scales",
    "tta_flips",
    "max_megapixels",
    "runtime",
    "precision",
    "preset",
)
"""The options on which results depend, beside images and weights."""


def predict_on_ray(arguments: PredictArguments, looking: Looking, console: Console) -> int:
    """Find objects and write them, or go on with that.

    Args:
        arguments: The command's.
        looking: What they say of it.
        console: For progress.

    Returns:
        The exit status: 2 if an image could not be read, otherwise 0.

    Raises:
        ValueError: If an argument makes no sense, or the detector or the cluster cannot be used.
        OSError: If images cannot be listed, or results cannot be written.
        KeyboardInterrupt: If interrupted: it says how far it came.
    """
    if arguments.out is None:
        raise ValueError(
            "--engine ray needs --out, so that the command can be repeated to go on after an "
            "interruption: name a folder for its Parquet files."
        )
    if arguments.coco is not None or arguments.formats != ("jsonl",):
        raise ValueError("--engine ray writes Parquet files: leave out --formats and --coco.")
    check_thresholds(arguments.threshold, arguments.top_k, arguments.batch_size)
    check_options(arguments.bulk)
    check_image_limit(arguments.max_megapixels)
    require_extra()
    folder = Folder.at(arguments.out)
    files = [
        file
        for file in find_files(arguments.sources, arguments.recursive)
        if not _is_result(file, folder)
    ]
    bulk = arguments.bulk
    shards = make_shards(files, bulk.shard_size, bulk.image_column, bulk.key_column)
    job = _job(arguments, looking)
    manifest = Manifest(
        {name: getattr(arguments, name) for name in DECIDING},
        digest_of_weights(arguments.weights),
        digest_of_shards(shards),
        len(shards),
    )
    manifest.hold(folder)
    folder.remove_partial()
    _look(job, shards, folder, manifest.fingerprint, bulk, console)
    folder.remove_partial()
    return _report(folder, shards, manifest.fingerprint, console)


def refuse_what_needs_ray(arguments: PredictArguments) -> None:
    """For the local engine.

    Raises:
        ValueError: If a source or an option is of Ray's.
    """
    for source in arguments.sources:
        if is_uri(source) or kind_of(source) in ("tar", "parquet"):
            raise ValueError(
                f"{source} is no local image file or folder: add --engine ray and --out, which "
                "read tar and Parquet files and buckets too."
            )
    if arguments.bulk != BulkArguments():
        raise ValueError(
            "--ray-address, --actors, --gpus-per-actor, --cpus-per-actor, --shard-size, "
            "--image-column and --key-column need --engine ray."
        )


def _job(arguments: PredictArguments, looking: Looking) -> Job:
    # Here it is only asked for its classes: there may be no GPU where the command is given.
    names = open_engine(
        arguments.weights, arguments.preset, "cpu", arguments.runtime
    ).config.class_names
    labels = labels_of(arguments.classes, names)
    return Job(
        open_engine=partial(
            open_engine,
            _absolute(arguments.weights),
            arguments.preset,
            arguments.device,
            arguments.runtime,
            arguments.precision,
            arguments.calibration,
        ),
        looking=looking,
        wanted=Wanted(arguments.threshold, arguments.top_k, labels),
        batch_size=arguments.batch_size,
        max_megapixels=arguments.max_megapixels,
        num_threads=max(1, int(arguments.bulk.cpus_per_actor)),
    )


def _look(
    job: Job,
    shards: list[Shard],
    folder: Folder,
    fingerprint: str,
    options: BulkArguments,
    console: Console,
) -> None:
    done = finished(folder, len(shards), fingerprint)
    left = [(number, shard) for number, shard in enumerate(shards) if number not in done]
    if done:
        console.print(f"{len(done)} of {len(shards)} shards were done before.", highlight=False)
    if not left:
        return
    counts = [shard.num_images for _, shard in left]
    known = [count for count in counts if count is not None]
    total = sum(known) if len(known) == len(counts) else None
    with Bar(total, console) as bar:

        def advance(summary: Summary) -> None:
            bar.advance(summary.images)

        try:
            look_at_shards(job, left, folder, fingerprint, options, advance)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted after {bar.done} images: repeat the command to go on."
            ) from None
        rate = bar.rate
    console.print(f"{rate} on Ray", highlight=False)


def _report(folder: Folder, shards: list[Shard], fingerprint: str, console: Console) -> int:
    """Say what is in the folder, all of it; returns the exit status."""
    done = finished(folder, len(shards), fingerprint)
    if len(done) < len(shards):
        raise ValueError(
            f"{len(shards) - len(done)} of {len(shards)} files of results are not in "
            f"{folder.root}: do all machines of the cluster see this folder? Repeat the command "
            "to make what is missing."
        )
    whole = sum(done.values(), Summary())
    console.print(
        f"{whole.objects} objects in {whole.images - whole.unreadable} images: "
        f"{len(done)} Parquet files in {folder.root}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    bad = [number for number, summary in sorted(done.items()) if summary.unreadable]
    for error in islice(errors_in(folder, bad), REMEMBERED):
        print(f"saccade predict: {error}", file=sys.stderr)
    if whole.unreadable:
        print(
            f"saccade predict: {whole.unreadable} of {whole.images} images could not be read: see "
            f"the column error in {folder.root}",
            file=sys.stderr,
        )
    return 2 if whole.unreadable else 0


def _is_result(file: Listed, folder: Folder) -> bool:
    """Whether a folder of sources holds the folder of results too."""
    path = file.place.path(file.name)
    return file.kind == "parquet" and path.startswith(f"{folder.root}/")


def _absolute(weights: str) -> str:
    """Weights that are here by a path that is right for processes that stand elsewhere."""
    return os.path.abspath(weights) if os.path.exists(weights) else weights
