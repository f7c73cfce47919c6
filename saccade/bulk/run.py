"""Shards on Ray Data."""

import re
from collections.abc import Callable, Sequence

from saccade.bulk.actors import Job, ShardActor
from saccade.bulk.arguments import BulkArguments
from saccade.bulk.cluster import connected, num_actors
from saccade.bulk.folder import Folder
from saccade.bulk.parts import Summary
from saccade.bulk.shards import Shard


def look_at_shards(
    job: Job,
    shards: Sequence[tuple[int, Shard]],
    folder: Folder,
    fingerprint: str,
    options: BulkArguments,
    advance: Callable[[Summary], None],
) -> None:
    """Look at shards and write a file of results for each.

    A process that is lost is replaced by Ray, and its shard looked at again: results get their
    name when they are complete, so that they are there once.

    Args:
        job: What is done with every image.
        shards: With their numbers.
        folder: For the results.
        fingerprint: Of the manifest.
        options: Where Ray is, and what it may use.
        advance: Is called for each shard that is done, in whatever order.

    Raises:
        ValueError: If there is no such cluster, or it cannot do this.
    """
    import ray
    from ray.data.exceptions import SystemException
    from ray.exceptions import RayError

    with connected(options.ray_address) as room:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        items = [{"number": number, "shard": shard.to_json()} for number, shard in shards]
        # In blocks of one, which Ray distributes and, if need be, repeats one by one.
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardActor,
            fn_constructor_args=(job, folder, fingerprint),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(
                size=num_actors(options, room, len(items)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=options.cpus_per_actor,
            num_gpus=options.gpus_per_actor,
        )
        try:
            batches = dataset.iter_batches(
                batch_size=None, batch_format="numpy", prefetch_batches=0
            )
            for batch in batches:
                names = ("images", "unreadable", "objects", "error")
                for *counts, why in zip(*(batch[name].tolist() for name in names), strict=True):
                    if why:
                        raise ValueError(_stopped(why, folder))
                    advance(Summary(*counts))
        except (RayError, SystemException) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # A traceback ends with what was raised first, before Ray's own errors.
            raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
            why = [*raised, *lines[-1:], type(error).__name__][0]
            raise ValueError(_stopped(f"Ray could not go on ({why})", folder)) from error


def _stopped(why: str, folder: Folder) -> str:
    return f"{why}; what is finished stays in {folder.root}: repeat the command to go on."
