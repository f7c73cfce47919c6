"""Detections of all processes, brought to the first one."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed

from saccade.evaluation.coco_ap import CocoEvaluator, CocoResult, State

ROWS_AT_ONCE = 2**16
"""Detections that each process sends together, 56 bytes each."""
COLUMNS = 7
"""The image's position among the annotations', four of the box, score, label."""

Rows = npt.NDArray[np.float64]


def compute_together(evaluator: CocoEvaluator, device: torch.device | str) -> CocoResult:
    """COCO's numbers of what all processes have collected, in each of them.

    The first process receives arrays and computes; an image that several processes saw counts
    once.

    Args:
        evaluator: Of the same annotations in every process.
        device: Of this process, which sends from there if the processes talk through their GPUs.
    """
    place = torch.device(device if distributed.get_backend() == "nccl" else "cpu")
    first = distributed.get_rank() == 0
    ids = [image.id for image in evaluator.annotations.images]
    for number, rows in enumerate(_gather(to_rows(evaluator.state(), ids), place)):
        if first and number:
            evaluator.merge([to_state(rows, ids)])
    result = [evaluator.compute() if first else None]
    distributed.broadcast_object_list(result, src=0)
    assert result[0] is not None
    return result[0]


def to_rows(state: State, ids: list[int]) -> Rows:
    """[N, 7] detections by rising image.

    Args:
        state: An evaluator's.
        ids: Of the images, in the annotations' order.
    """
    parts = [
        np.column_stack([np.full(len(labels), position), boxes_and_scores, labels])
        for position, image_id in enumerate(ids)
        if image_id in state
        for boxes_and_scores, labels in [state[image_id]]
    ]
    return np.concatenate([np.zeros((0, COLUMNS)), *parts])


def to_state(rows: Rows, ids: list[int]) -> State:
    """What `to_rows` was made of, without images in which nothing was found."""
    positions, starts = np.unique(rows[:, 0].astype(np.int64), return_index=True)
    parts = np.split(rows, starts[1:])
    return {
        ids[position]: (part[:, 1:6], part[:, 6].astype(np.int32))
        for position, part in zip(positions, parts, strict=False)
    }


def _gather(rows: Rows, place: torch.device) -> list[Rows]:
    """The rows of every process, in the first one; nothing in the others."""
    num_processes = distributed.get_world_size()
    first = distributed.get_rank() == 0
    counts = [torch.zeros(1, dtype=torch.int64, device=place) for _ in range(num_processes)]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=place))
    lengths = [int(count) for count in counts]
    parts: list[list[Tensor]] = [[] for _ in range(num_processes)]
    for start in range(0, max(lengths), ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, max(lengths) - start)
        sent = torch.zeros(size, COLUMNS, dtype=torch.float64, device=place)
        mine = rows[start : start + size]
        sent[: len(mine)] = torch.from_numpy(mine)
        received = [torch.empty_like(sent) for _ in range(num_processes)] if first else None
        distributed.gather(sent, received)
        for part, each, length in zip(parts, received or (), lengths, strict=False):
            part.append(each[: max(0, length - start)].cpu())
    if not first:
        return []
    nothing = torch.zeros(0, COLUMNS, dtype=torch.float64)
    return [torch.cat([nothing, *part]).numpy() for part in parts]
