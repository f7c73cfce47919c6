"""TSP-RCNN: the regions that a proposal network finds become tokens (section 4.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou, roi_align
from torchvision.ops.poolers import LevelMapper

from saccade.boxes import fractions_to_pixels, pixels_to_fractions
from saccade.config import DetectorConfig
from saccade.model.positions import box_embedding
from saccade.model.sparse_proposals import as_set, draw_kept, to_train_on, tower
from saccade.restricted_matching import LEAST_OVERLAP
from saccade.structures import Batch, Origins, Targets, Tokens

ANCHOR_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sides of the anchors, in four strides of their level."""
ASPECT_RATIOS = (0.5, 1.0, 2.0)


class RegionProposals(nn.Module):
    """A region proposal network, and what RoIAlign reads of the levels in its best boxes.

    The network looks at all levels but the finest, which is only read.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config.selection
        self.width = config.width
        strides = _strides(config)
        self.network = _proposal_network(config, strides[1:])
        self.align = RegionAlign(strides[: len(config.backbone.levels)], self.config.region_size)
        self.projection = nn.Linear(config.neck.width * self.config.region_size**2, self.width)
        self.box_projection = nn.Linear(self.width, self.width)
        self.norm = nn.LayerNorm(self.width)
        for linear in (self.projection, self.box_projection):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        levels: Sequence[Float[Tensor, "B _ _ _"]],
        batch: Batch,
        targets: Sequence[Targets] | None = None,
    ) -> Tokens:
        """One token per proposal.

        Args:
            levels: A pyramid, finest first.
            batch: What it was made from.
            targets: In training, which needs them: what the network should propose.

        Raises:
            ValueError: If there are no targets in training.
        """
        objects = self._objects(batch, targets)
        found, losses = self.network(
            ImageList(batch.images, list(batch.sizes)),
            # Its anchors take the dtype of the levels: pixels are not to be rounded to bfloat16.
            {str(index): level.float() for index, level in enumerate(levels[1:])},
            None if objects is None else [{"boxes": boxes} for boxes in objects],
        )
        if objects is not None:
            found = [ensure_overlap(*pair) for pair in zip(found, objects, strict=True)]
        corners, mask = _stack(found, self.config.num_tokens)
        if self.training:
            kept = draw_kept(self.config.num_tokens, self.config.keep).to(corners.device)
            corners, mask = corners[:, kept], mask[:, kept]
        boxes = torch.stack(
            [pixels_to_fractions(*pair) for pair in zip(corners, batch.sizes, strict=True)]
        )
        positions = box_embedding(boxes, self.width // 2)
        regions = self.projection(self.align(levels, corners))
        features = self.norm(regions + self.box_projection(positions))
        return as_set(features, positions, mask, Origins(boxes, losses=_renamed(losses)))

    def _objects(
        self, batch: Batch, targets: Sequence[Targets] | None
    ) -> list[Float[Tensor, "_ 4"]] | None:
        """The boxes to learn from, in pixels of the batch's images; None outside of training."""
        if not self.training:
            return None
        pairs = zip(to_train_on(targets), batch.sizes, strict=True)
        return [fractions_to_pixels(target.fractions, size) for target, size in pairs]


class ProposalHead(nn.Module):
    """Objectness and corrections of the anchors, each from a tower of its own."""

    def __init__(self, config: DetectorConfig, num_anchors: int) -> None:
        super().__init__()
        self.class_tower = tower(config)
        self.box_tower = tower(config)
        self.objectness = nn.Conv2d(config.neck.width, num_anchors, 1)
        self.deltas = nn.Conv2d(config.neck.width, 4 * num_anchors, 1)
        for layer in (self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(
        self, levels: Sequence[Float[Tensor, "B C _ _"]]
    ) -> tuple[list[Float[Tensor, "B A _ _"]], list[Float[Tensor, "B _ _ _"]]]:
        """Of every level, in float32 at least, since boxes in pixels are made of them."""
        objectness = [self.objectness(self.class_tower(level)).float() for level in levels]
        deltas = [self.deltas(self.box_tower(level)).float() for level in levels]
        return objectness, deltas


class PyramidAnchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchors, at strides that are given.

    It would divide the size of the batch by that of a level, which is only the stride where the
    padding ends at a multiple of it.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        sizes = tuple(tuple(4 * stride * scale for scale in ANCHOR_SCALES) for stride in strides)
        super().__init__(sizes, (ASPECT_RATIOS,) * len(sizes))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For each image ``x0, y0, x1, y1`` in pixels, level by level, row by row.

        Those of column i and row j are centred at i and j strides, the middle of what a token of a
        ResNet sees; torchvision's and Detectron2's are too.

        Args:
            image_list: Only its images are counted.
            feature_maps: As many levels as strides.
        """
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        sizes = [list(level.shape[-2:]) for level in feature_maps]
        anchors = torch.cat(self.grid_anchors(sizes, [[each, each] for each in self.strides]))
        return [anchors] * len(image_list.image_sizes)


class RegionAlign(nn.Module):
    """RoIAlign from the level whose stride fits a region (Feature Pyramid Networks, Eq. 1)."""

    def __init__(self, strides: Sequence[int], size: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.size = size
        logarithms = [stride.bit_length() - 1 for stride in self.strides]
        self.level_of = LevelMapper(logarithms[0], logarithms[-1])

    def forward(
        self, levels: Sequence[Float[Tensor, "B C _ _"]], boxes: Float[Tensor, "B S 4"]
    ) -> Float[Tensor, "B S _"]:
        """Size x size samples of each region, flattened.

        Args:
            levels: Finest first; those beyond the strides are not read.
            boxes: ``x0, y0, x1, y1`` in pixels of the batch's images.
        """
        num_images, num_regions = boxes.shape[:2]
        images = torch.arange(num_images, device=boxes.device).repeat_interleave(num_regions)
        regions = torch.cat([images[:, None].to(boxes.dtype), boxes.flatten(0, 1)], 1)
        first = levels[0]
        samples = first.new_zeros(len(regions), first.shape[1], self.size, self.size)
        for level, stride, rows in zip(levels, self.strides, self.rows_of(regions), strict=False):
            read = roi_align(
                level.to(boxes.dtype), regions[rows], self.size, 1 / stride, 2, aligned=True
            )
            samples[rows] = read.to(samples.dtype)
        return samples.view(num_images, num_regions, -1)

    def rows_of(self, regions: Float[Tensor, "R 5"]) -> list[Int64[Tensor, " _"]]:
        """For each level, the regions that are read from it: image, ``x0, y0, x1, y1``, pixels."""
        levels = self.level_of([regions[:, 1:]])
        return [torch.where(levels == index)[0] for index in range(len(self.strides))]


def ensure_overlap(
    proposals: Float[Tensor, "P 4"], objects: Float[Tensor, "N 4"]
) -> Float[Tensor, "_ 4"]:
    """The proposals, and before them noised objects if none of them overlaps any object enough.

    A network that has learned nothing yet would leave nothing to match. The centre is moved by up
    to a tenth of the sides, each side stretched by up to a quarter, as officially.

    Args:
        proposals: ``x0, y0, x1, y1`` in pixels.
        objects: The same of the objects.
    """
    if (box_iou(proposals, objects) > LEAST_OVERLAP).any():
        return proposals
    first, second = objects.chunk(2, -1)
    moves, stretches = (2 * torch.rand(2, len(objects), 2) - 1).to(objects.device)
    centres = (first + second) / 2 + 0.1 * moves * (second - first)
    sides = (second - first) * 0.8**stretches
    return torch.cat([torch.cat([centres - sides / 2, centres + sides / 2], -1), proposals])


def _proposal_network(config: DetectorConfig, strides: Sequence[int]) -> RegionProposalNetwork:
    """torchvision's, with the thresholds of Faster R-CNN.

    Of each level 2000 boxes, or 1000 after training, enter suppression where 700 become tokens,
    as officially, and in proportion where fewer do.
    """
    num_tokens = config.selection.num_tokens
    return RegionProposalNetwork(
        PyramidAnchors(strides),
        ProposalHead(config, len(ANCHOR_SCALES) * len(ASPECT_RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": num_tokens * 20 // 7, "testing": num_tokens * 10 // 7},
        post_nms_top_n={"training": num_tokens, "testing": num_tokens},
        nms_thresh=0.7,
    )


def _strides(config: DetectorConfig) -> list[int]:
    """Of every level, in pixels."""
    strides = [2**level for level in config.backbone.levels]
    if config.backbone.dilated:
        strides[-1] //= 2
    for _ in range(config.neck.num_extra_levels):
        strides.append(2 * strides[-1])
    return strides


def _stack(
    found: Sequence[Float[Tensor, "_ 4"]], count: int
) -> tuple[Float[Tensor, "B {count} 4"], Bool[Tensor, "B {count}"]]:
    """Boxes of every image, cut or filled up with empty ones, and which are these."""
    corners = torch.stack(
        [torch.cat([boxes, boxes.new_zeros(count, 4)])[:count] for boxes in found]
    )
    counts = torch.tensor([len(boxes) for boxes in found], device=corners.device)
    return corners, torch.arange(count, device=corners.device) >= counts[:, None]


def _renamed(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"loss_objectness": "loss_proposal_class", "loss_rpn_box_reg": "loss_proposal_box"}
    return {names[name]: loss for name, loss in losses.items()}
