"""TSP-FCOS: the points that a classifier deems inside of objects become tokens (section 4.1)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from saccade.config import DetectorConfig
from saccade.model.encoder import token_centres
from saccade.model.positions import TokenPositions
from saccade.model.sparse_proposals import (
    as_set,
    draw_kept,
    gather_tokens,
    to_train_on,
    tower,
)
from saccade.restricted_matching import may_answer
from saccade.structures import Batch, Origins, Targets, Tokens

STRIDES_OF_REACH = 8
"""A level answers for objects whose farthest edge is at most so many of its strides away, and
more than half as many (FCOS, section 3.2: 64 pixels at stride 8, 128 at stride 16)."""


class FeaturesOfInterest(nn.Module):
    """Two towers over every level, a classifier on the first, and the best points as tokens.

    A token is what both towers say of its point. The classifier learns FCOS's assignment by the
    focal loss, every class alike.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config.selection
        self.class_tower = tower(config)
        self.box_tower = tower(config)
        self.classifier = nn.Conv2d(config.neck.width, 1, 3, padding=1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        assert self.classifier.bias is not None
        # Every point starts as background with probability 0.99 (focal loss, section 4.1 there).
        nn.init.constant_(self.classifier.bias, -math.log(99))
        self.positions = TokenPositions(config.positions, config.width, config.num_levels)
        self.projection = nn.Sequential(
            nn.Linear(config.width, config.width), nn.LayerNorm(config.width)
        )

    def forward(
        self,
        levels: Sequence[Float[Tensor, "B _ _ _"]],
        batch: Batch,
        targets: Sequence[Targets] | None = None,
    ) -> Tokens:
        """The tokens that look most like objects, and in training those that are.

        Args:
            levels: A pyramid, finest first.
            batch: What it was made from.
            targets: In training, which needs them: for the loss, and to favour points inside of
                objects while the classifier does not know them yet.

        Raises:
            ValueError: If there are no targets in training.
        """
        class_maps = [self.class_tower(level) for level in levels]
        pairs = zip(class_maps, levels, strict=True)
        joint = [torch.cat([class_map, self.box_tower(level)], 1) for class_map, level in pairs]
        points = self.positions(joint, batch)
        logits = torch.cat([self.classifier(each).flatten(1) for each in class_maps], 1).float()
        origins = point_origins(points)
        scores, losses = logits.detach().sigmoid(), {}
        if self.training:
            allowed = may_answer(origins, to_train_on(targets))
            inside = torch.stack([pairs.any(1) for pairs in allowed])
            scores = torch.where(inside, (1 + scores) / 2, scores)
            losses["loss_proposal_class"] = _classification_loss(logits, inside, points.mask)
        return self._select(points, origins, scores, losses)

    def _select(
        self,
        points: Tokens,
        origins: Origins,
        scores: Float[Tensor, "B S"],
        losses: dict[str, Tensor],
    ) -> Tokens:
        if points.mask is not None:
            scores = scores.masked_fill(points.mask, -1.0)
        rows = scores.topk(min(self.config.num_tokens, scores.shape[1])).indices
        if self.training:
            rows = rows[:, draw_kept(rows.shape[1], self.config.keep).to(rows.device)]
        assert origins.reach is not None
        return as_set(
            self.projection(gather_tokens(points.features, rows)),
            gather_tokens(points.positions, rows),
            None if points.mask is None else points.mask.gather(1, rows),
            Origins(gather_tokens(origins.boxes, rows), gather_tokens(origins.reach, rows), losses),
        )


def point_origins(points: Tokens) -> Origins:
    """Squares of eight strides around the tokens of a pyramid, each with the reach of its level.

    The finest level also answers for all smaller objects, the coarsest for all larger ones.
    """
    centres = token_centres(points.spatial_shapes, points.valid_ratios)
    sides, reach = [], []
    last = len(points.spatial_shapes) - 1
    for level, (height, width) in enumerate(points.spatial_shapes):
        counted = points.valid_ratios[:, level] * centres.new_tensor([width, height])
        sides.append((STRIDES_OF_REACH / counted)[:, None].expand(-1, height * width, -1))
        limits = centres.new_tensor([0.5 if level else 0.0, math.inf if level == last else 1.0])
        reach.append(limits.expand(len(centres), height * width, -1))
    return Origins(torch.cat([centres, torch.cat(sides, 1)], -1), torch.cat(reach, 1))


def _classification_loss(
    logits: Float[Tensor, "B S"], inside: Bool[Tensor, "B S"], mask: Bool[Tensor, "B S"] | None
) -> Float[Tensor, ""]:
    """Focal loss over all points but the padding's, divided by the points in objects.

    Those are counted in this process alone, as torchvision's proposal network does.
    """
    losses: Tensor = sigmoid_focal_loss(logits, inside.to(logits.dtype))
    if mask is not None:
        losses = losses.masked_fill(mask, 0.0)
    return losses.sum() / inside.sum().clamp(min=1)
