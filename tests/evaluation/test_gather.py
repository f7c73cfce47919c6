"""Detections of several processes count as those of one."""

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from saccade.data.annotations import Annotations, ImageEntry, ObjectEntry
from saccade.evaluation import CocoEvaluator, evaluate
from saccade.evaluation import gather as gathering
from saccade.evaluation.gather import to_rows, to_state
from saccade.model import Found
from saccade.structures import Batch, Targets

# Beyond what a float holds exactly.
IDS = [3, 2**60 + 1, 2, 11, 7]


def annotations() -> Annotations:
    """Five images with objects, the last without."""
    images = tuple(ImageEntry(id, f"{id}.jpg", (100, 200)) for id in IDS)
    objects = tuple(
        ObjectEntry(id, 1 + k % 2, (10.0 * k, 10.0, 30.0, 40.0), 1200.0, False)
        for id in IDS[:4]
        for k in range(3)
    )
    return Annotations(images, objects, {1: "cat", 2: "dog"}, Path("here"))


def found_in(image_id: int) -> Found:
    """Detections of an image, in one none and in one many, nearly where the objects are."""
    count = {2: 0, 11: 40}.get(image_id, 3)
    generator = torch.Generator().manual_seed(image_id % 1000)
    corner = torch.arange(count)[:, None] * torch.tensor([10.0, 0.0]) + torch.tensor([0.0, 10.0])
    corner = corner + torch.rand(count, 2, generator=generator)
    size = torch.tensor([200.0, 100.0])
    boxes = torch.cat(
        [
            (corner + torch.tensor([15.0, 20.0])) / size,
            size.new_tensor([[0.15, 0.4]]).expand(count, 2),
        ],
        1,
    )
    labels = torch.arange(count) % 2
    return Found(boxes, torch.rand(count, generator=generator), labels, torch.arange(count))


def evaluate_images(evaluator: CocoEvaluator, image_ids: list[int]) -> Any:
    batches = [
        (
            Batch.from_images([torch.zeros(3, 8, 16)]),
            [Targets(torch.zeros(0, 4), torch.zeros(0).long(), (8, 16), id)],
        )
        for id in image_ids
    ]
    ids = iter(image_ids)
    return evaluate(lambda _: [found_in(next(ids))], batches, evaluator)


def share(rank: int, count: int, images: list[int], folder: Path) -> None:
    """One process's part of an evaluation."""
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=count)
    # Several rounds, and a process that has nothing to send in the last one.
    gathering.ROWS_AT_ONCE = 7
    evaluator = CocoEvaluator(annotations(), ["cat", "dog"])
    result = evaluate_images(evaluator, images)
    again = evaluate_images(evaluator, images)
    distributed.destroy_process_group()
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps((result, again)))


# More processes than images; an image that two of them saw.
@pytest.mark.parametrize(
    "shares", [[IDS[:3], IDS[3:]], [[3], [2**60 + 1, 2], [2, 11], [7], [], []]]
)
def test_processes_with_shares_of_any_size_get_the_numbers_of_one(
    shares: list[list[int]], tmp_path: Path
) -> None:
    alone = evaluate_images(CocoEvaluator(annotations(), ["cat", "dog"]), IDS)
    assert 0.1 < alone.AP < 0.9
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["saccade.run"])
    processes = [
        context.Process(target=share, args=(rank, len(shares), images, tmp_path))
        for rank, images in enumerate(shares)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(200)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert [process.exitcode for process in processes] == [0] * len(shares)
    for rank in range(len(shares)):
        results = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert results == (alone, alone)


def test_rows_are_the_detections_themselves() -> None:
    evaluator = CocoEvaluator(annotations(), ["cat", "dog"])
    evaluate_images(evaluator, IDS)
    state = evaluator.state()
    rows = to_rows(state, IDS)
    assert rows.dtype == np.float64
    assert rows.shape == (3 + 3 + 0 + 40 + 3, 7)
    back = to_state(rows, IDS)
    assert back.keys() == set(IDS) - {2}
    for image_id, arrays in back.items():
        for ours, theirs in zip(arrays, state[image_id], strict=True):
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)
    assert to_state(to_rows({}, IDS), IDS) == {}
