"""Which query answers for which object: the assignment of least cost (DETR, section 3.1)."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou

from saccade.boxes import centre_to_corners
from saccade.recipe_config import LossConfig
from saccade.structures import Targets

Match: TypeAlias = tuple[Int64[Tensor, " _"], Int64[Tensor, " _"]]
"""(query indices, target indices) of one image: entry m of the one answers entry m of the other."""


class NotFiniteError(ValueError):
    """A matching cost is not finite, because a prediction or a target is not."""


class HungarianMatcher:
    """The one-to-one assignment of queries to objects that costs least.

    The cost of a pair is ``class_cost * class + box_cost * L1 + giou_cost * -GIoU``, with L1 on
    ``cx, cy, w, h`` as fraction of image. The class term is minus the probability of the object's
    class in a softmax detector (DETR, section 3.1), and the change that the match would make to
    the focal loss in a sigmoid detector (Deformable DETR, appendix A.4).
    """

    def __init__(
        self, config: LossConfig, classification: Literal["sigmoid", "softmax"] = "sigmoid"
    ) -> None:
        self.config = config
        self.classification = classification

    def __call__(
        self,
        logits: Float[Tensor, "B Q K"],
        boxes: Float[Tensor, "B Q 4"],
        targets: Sequence[Targets],
        allowed: Sequence[Bool[Tensor, "Q _"]] | None = None,
    ) -> list[Match]:
        """Match the queries of every image to its objects.

        Args:
            logits: Any float type and device; in a softmax detector the last column is "no object".
            boxes: ``cx, cy, w, h``, fraction of image.
            targets: One per image, on the device of `logits`.
            allowed: For each image, which query may answer for which object
                (`saccade.restricted_matching`); None where all may.

        Returns:
            (query indices, target indices) for each image, on the CPU, min(Q, N) of each, queries
            rising; fewer where not enough pairs are allowed.

        Raises:
            ValueError: If `targets` are not one per image.
            NotFiniteError: If a cost is not finite; a ValueError too.
        """
        return self.match_layers(logits[None], boxes[None], targets, allowed)[0]

    @torch.no_grad()
    def match_layers(
        self,
        logits: Float[Tensor, "layers B Q K"],
        boxes: Float[Tensor, "layers B Q 4"],
        targets: Sequence[Targets],
        allowed: Sequence[Bool[Tensor, "Q _"]] | None = None,
    ) -> list[list[Match]]:
        """Match several decoder layers, each by itself, in one device transfer.

        Returns:
            What `__call__` returns, for each layer.
        """
        num_layers, num_images, num_queries = logits.shape[:3]
        if len(targets) != num_images:
            raise ValueError(
                f"{len(targets)} targets for a batch of {num_images} images: pass one Targets per "
                "image, an empty one where the image has no objects."
            )
        blocks = [
            self.cost(logits[:, image].flatten(0, 1), boxes[:, image].flatten(0, 1), target)
            for image, target in enumerate(targets)
        ]
        sizes = [block.numel() for block in blocks]
        flat = torch.cat([block.flatten() for block in blocks]).cpu().numpy()
        matches: list[list[Match]] = [[] for _ in range(num_layers)]
        for image, costs in enumerate(np.split(flat, np.cumsum(sizes)[:-1])):
            if not np.isfinite(costs).all():
                raise NotFiniteError(_blame(logits[:, image], boxes[:, image], targets[image]))
            num_objects = len(targets[image].labels)
            pairs = None if allowed is None else allowed[image].cpu().numpy()
            for layer, layer_costs in enumerate(
                costs.reshape(num_layers, num_queries, num_objects)
            ):
                matches[layer].append(_assign(layer_costs, pairs))
        return matches

    def cost(
        self, logits: Float[Tensor, "Q K"], boxes: Float[Tensor, "Q 4"], target: Targets
    ) -> Float[Tensor, "Q N"]:
        """What matching each query to each object of one image would cost, in float32 or wider.

        Args:
            logits: Of the queries of one image.
            boxes: ``cx, cy, w, h``, fraction of image.
            target: The objects of the image.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
        objects = target.fractions.to(boxes.dtype)
        distance = torch.cdist(boxes, objects, p=1)
        giou: Tensor = generalized_box_iou(centre_to_corners(boxes), centre_to_corners(objects))
        return (
            self.config.class_cost * self._class_cost(logits, target.labels)
            + self.config.box_cost * distance
            # Two boxes without area are 0/0: they share nothing.
            - self.config.giou_cost * giou.nan_to_num(nan=-1.0)
        )

    def _class_cost(
        self, logits: Float[Tensor, "Q K"], labels: Int64[Tensor, " N"]
    ) -> Float[Tensor, "Q N"]:
        if self.classification == "softmax":
            return -F.softmax(logits, dim=-1).index_select(1, labels)
        alpha, gamma = self.config.focal_alpha, self.config.focal_gamma
        probability = logits.index_select(1, labels).sigmoid()
        rest = 1 - probability
        matched = -alpha * rest**gamma * (probability + 1e-8).log()
        unmatched = -(1 - alpha) * probability**gamma * (rest + 1e-8).log()
        return matched - unmatched


def _assign(costs: NDArray[np.floating[Any]], allowed: NDArray[np.bool_] | None) -> Match:
    """The cheapest assignment with the most allowed pairs, if only some are."""
    if allowed is None:
        queries, objects = linear_sum_assignment(costs)
    else:
        costs = costs.astype(np.float64)
        # One forbidden pair costs more than all that could be saved by it.
        forbidden = costs.max(initial=0) + min(costs.shape) * np.ptp(costs) + 1 if costs.size else 0
        queries, objects = linear_sum_assignment(np.where(allowed, costs, forbidden))
        kept = allowed[queries, objects]
        queries, objects = queries[kept], objects[kept]
    return torch.from_numpy(queries), torch.from_numpy(objects)


def _blame(logits: Tensor, boxes: Tensor, target: Targets) -> str:
    """The message for an image whose costs are not finite."""
    where = f"image {target.image_id}: the matching cost is not finite"
    if not target.boxes.isfinite().all():
        return f"{where} because its target boxes are not; correct its annotation."
    culprits = [
        f"{(~values.isfinite()).sum().item()} of {values.numel()} predicted {name} are not"
        for name, values in (("logits", logits), ("boxes", boxes))
        if not values.isfinite().all()
    ]
    reason = " and ".join(culprits) or "the finite predicted boxes are too large to compare"
    return (
        f"{where} because {reason}; the training diverged: resume from an earlier checkpoint with "
        "a lower learning rate."
    )
