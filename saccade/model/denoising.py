"""Contrastive denoising: queries that start from noised targets (DINO, section 3.3)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from saccade.boxes import centre_to_corners, corners_to_centre
from saccade.config import DetectorConfig
from saccade.structures import Queries, Targets


class Denoising(nn.Module):
    """Puts groups of noised targets in front of the queries while training.

    A group holds every target twice: once with its sides shifted by less than half its extent, to
    be restored, and once by more, to be called background. Groups do not see each other, and the
    detector's own queries see none of them.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config.denoising
        self.labels = nn.Embedding(config.num_classes, config.neck.width)

    def forward(
        self,
        queries: Queries,
        targets: Sequence[Targets],
        embed: Callable[[Tensor], Tensor],
    ) -> Queries:
        """The noised queries, then the given ones; `embed` gives the position of a box's query."""
        # An image without objects still gets noised queries, all background: every parameter
        # then has a gradient in every process.
        most = max(1, *(len(target.labels) for target in targets))
        num_groups = max(1, self.config.num_queries // (2 * most))
        labels = torch.zeros(len(targets), most, dtype=torch.int64, device=queries.content.device)
        boxes = torch.full((len(targets), most, 4), 0.5, device=queries.content.device)
        for image, target in enumerate(targets):
            labels[image, : len(target.labels)] = target.labels
            boxes[image, : len(target.labels)] = target.fractions
        noised_labels = self.noise_labels(labels[:, None, None].expand(-1, num_groups, 2, -1))
        noised_boxes = self.noise_boxes(boxes[:, None, None].expand(-1, num_groups, 2, -1, -1))
        references = noised_boxes.flatten(1, 3)
        positions = embed(references)[..., : queries.positions.shape[-1]]
        assert queries.references is not None
        return replace(
            queries,
            content=torch.cat([self.labels(noised_labels.flatten(1)), queries.content], 1),
            positions=torch.cat([positions, queries.positions], 1),
            references=torch.cat([references, queries.references], 1),
            blocked=_blocked(num_groups, 2 * most, queries),
            matches=tuple(_matches(target, num_groups, most) for target in targets),
            num_groups=num_groups,
            num_noised=references.shape[1],
        )

    def noise_labels(self, labels: Int64[Tensor, "B G 2 N"]) -> Int64[Tensor, "B G 2 N"]:
        """Some labels replaced by one drawn among all classes."""
        drawn = torch.randint_like(labels, self.labels.num_embeddings)
        replaced = torch.rand(labels.shape, device=labels.device) < self.config.label_noise
        return torch.where(replaced, drawn, labels)

    def noise_boxes(self, boxes: Float[Tensor, "B G 2 N 4"]) -> Float[Tensor, "B G 2 N 4"]:
        """Each side shifted by [0, 1) half extents, or in the second row by [1, 2), either way."""
        half_extents = boxes[..., 2:].repeat(1, 1, 1, 1, 2) / 2
        shifts = torch.rand_like(boxes)
        shifts[:, :, 1] += 1
        signs = torch.randint_like(boxes, 2) * 2 - 1
        moved = centre_to_corners(boxes) + signs * shifts * half_extents * self.config.box_noise
        # Sides that have passed each other change places.
        first, second = moved.clamp(0, 1).chunk(2, -1)
        corners = torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)
        return corners_to_centre(corners)


def _blocked(num_groups: int, group_size: int, queries: Queries) -> Bool[Tensor, "R R"]:
    noised = num_groups * group_size
    total = noised + queries.content.shape[1]
    blocked = torch.zeros(total, total, dtype=torch.bool)
    blocked[noised:, :noised] = True
    if queries.blocked is not None:
        blocked[noised:, noised:] = queries.blocked
    for start in range(0, noised, group_size):
        blocked[start : start + group_size, :noised] = True
        blocked[start : start + group_size, start : start + group_size] = False
    return blocked.to(queries.content.device)


def _matches(target: Targets, num_groups: int, most: int) -> tuple[Tensor, Tensor]:
    objects = torch.arange(len(target.labels))
    starts = torch.arange(num_groups)[:, None] * (2 * most)
    return (starts + objects).flatten(), objects.repeat(num_groups)
