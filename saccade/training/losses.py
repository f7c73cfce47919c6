"""The set loss: classes, boxes and overlap of matched queries (DETR, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from saccade.boxes import centre_to_corners, paired_iou
from saccade.recipe_config import LossConfig
from saccade.restricted_matching import may_answer
from saccade.structures import Predictions, Targets
from saccade.training.classification import focal, matchability, varifocal
from saccade.training.matcher import HungarianMatcher, Match
from saccade.training.step_images import StepImages, images_of

# Keeps two boxes without area from 0/0. Areas are squared fractions of an image, a pixel's about
# 1e-6, so torchvision's own 1e-7 would bend the loss of small objects.
_SMALLEST_AREA = 1e-12


@dataclass(frozen=True)
class _Pairs:
    """The matched pairs of several layers, laid end to end: layer, image, pair."""

    rows: Int64[Tensor, " M"]
    """Rows of the flattened [layers, B, Q]."""
    boxes: Float[Tensor, "M 4"]
    """The matched object: ``cx, cy, w, h``, fraction of image."""
    labels: Int64[Tensor, " M"]


class SetCriterion(nn.Module):
    """The losses of DETR and Deformable DETR over every set of boxes that a detector predicts.

    A sigmoid detector learns its classes by the focal loss (RetinaNet, section 3) or by one that
    asks for the quality of boxes (`saccade.training.classification`), a softmax detector by cross
    entropy with a "no object" class (DETR, section 3.1).
    """

    def __init__(
        self,
        config: LossConfig,
        num_classes: int,
        classification: Literal["sigmoid", "softmax"] = "sigmoid",
    ) -> None:
        """Describe the losses.

        Args:
            config: Weights, matching costs and the shape of the focal loss.
            num_classes: K, without the "no object" class.
            classification: As in the detector's configuration.

        Raises:
            ValueError: If a softmax detector is to learn the quality of boxes.
        """
        super().__init__()
        if config.quality != "none" and classification == "softmax":
            raise ValueError(
                f'loss.quality is "{config.quality}", but the detector classifies by a softmax, '
                'whose scores add up to one: expected "none"; leave it out.'
            )
        self.config = config
        self.num_classes = num_classes
        self.classification = classification
        self.matcher = HungarianMatcher(config, classification)

    def forward(
        self,
        predictions: Predictions,
        targets: Sequence[Targets],
        images: StepImages | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """The unweighted losses, computed in float32 or wider.

        Every layer is matched by itself; proposals are matched as if every object were of class
        0, because the first stage only tells objects from background (Deformable DETR, appendix
        A.4). Sums are divided by the number of objects in the step, averaged over processes: the
        losses of the step's batches add up to those of one large batch. Tokens that were selected
        are matched with the objects that they may answer for alone.

        Args:
            predictions: Boxes are ``cx, cy, w, h``, fraction of image.
            targets: One per image, on the device of `predictions`.
            images: Of the step that the batch belongs to; by default this batch, with those of the
                other processes, is all of it.

        Returns:
            ``loss_ce``, ``loss_bbox`` and ``loss_giou``; the same with ``_0``, ``_1``... for
            ``predictions.auxiliary``, ``_enc`` for ``.proposals``, and ``_dn``, ``_dn_0``... for
            ``.denoising``; ``_many``, ``_many_0``... for ``.one_to_many``; ``loss_proposal_...`` of
            what selected the tokens.

        Raises:
            ValueError: If the logits have another number of columns than the classes ask for, the
                targets are not one per image, or a prediction is not finite.
        """
        images = images_of(targets) if images is None else images
        losses = self._losses(predictions, targets, images, suffix="")
        if predictions.origins is not None:
            share = len(targets) / images.num_images
            losses |= {name: loss * share for name, loss in predictions.origins.losses.items()}
        if predictions.proposals is not None:
            binary = [replace(each, labels=torch.zeros_like(each.labels)) for each in targets]
            losses |= self._losses(predictions.proposals, binary, images, suffix="_enc")
        if predictions.denoising is not None:
            # Every object is restored once per group (DINO, section 3.3).
            repeats = predictions.denoising.num_groups
            losses |= self._losses(predictions.denoising, targets, images, "_dn", repeats)
        if predictions.one_to_many is not None:
            repeats = predictions.one_to_many.num_groups
            several = [_repeat(each, repeats) for each in targets]
            losses |= self._losses(predictions.one_to_many, several, images, "_many", repeats)
        return losses

    def total(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum of what `forward` returned: the number to minimise."""
        weights = {
            "ce": self.config.class_weight,
            "bbox": self.config.box_weight,
            "giou": self.config.giou_weight,
            "proposal": self.config.proposal_weight,
        }
        terms = [
            weights[name.split("_")[1]]
            * loss
            * (self.config.one_to_many_weight if "_many" in name else 1.0)
            for name, loss in losses.items()
        ]
        return torch.stack(terms).sum()

    def _losses(
        self,
        predictions: Predictions,
        targets: Sequence[Targets],
        images: StepImages,
        suffix: str,
        repeats: int = 1,
    ) -> dict[str, Tensor]:
        """The losses of one prediction and of its auxiliary ones, all layers at once.

        Every object is to be found `repeats` times.
        """
        num_boxes = images.num_boxes * repeats
        layers = (*predictions.auxiliary, predictions)
        logits = torch.stack([layer.logits for layer in layers])
        boxes = torch.stack([layer.boxes for layer in layers])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
        self._check_columns(logits.shape[-1])
        if predictions.matches is None:
            origins = predictions.origins
            allowed = None if origins is None else may_answer(origins, targets)
            layer_matches = self.matcher.match_layers(logits, boxes, targets, allowed)
        else:
            layer_matches = [list(predictions.matches)] * len(layers)
        pairs = _pair(layer_matches, targets, boxes)
        terms = {
            "loss_ce": (
                self._sigmoid_loss(logits, boxes, pairs) / num_boxes
                if self.classification == "sigmoid"
                else self._cross_entropy(logits, pairs, images, repeats)
            ),
            "loss_bbox": _distance(boxes, pairs) / num_boxes,
            "loss_giou": _overlap(boxes, pairs) / num_boxes,
        }
        suffixes = [*(f"{suffix}_{i}" for i in range(len(layers) - 1)), suffix]
        return {
            f"{name}{ending}": loss
            for name, values in terms.items()
            for ending, loss in zip(suffixes, values.unbind(), strict=True)
        }

    def _check_columns(self, num_columns: int) -> None:
        expected = self.num_classes + (self.classification == "softmax")
        if num_columns != expected:
            extra = ' + 1 for "no object"' if self.classification == "softmax" else ""
            raise ValueError(
                f"logits have {num_columns} columns, but {self.num_classes} classes{extra} make "
                f"{expected}: build the criterion with the num_classes of the detector."
            )

    def _sigmoid_loss(
        self,
        logits: Float[Tensor, "layers B Q K"],
        boxes: Float[Tensor, "layers B Q 4"],
        pairs: _Pairs,
    ) -> Float[Tensor, " layers"]:
        """The loss of every query and class, summed."""
        config = self.config
        if config.quality == "none":
            return focal(logits, pairs.rows, pairs.labels, config.focal_alpha, config.focal_gamma)
        matched = centre_to_corners(boxes.detach().flatten(0, 2)[pairs.rows])
        quality = paired_iou(matched, centre_to_corners(pairs.boxes))
        loss = varifocal if config.quality == "varifocal" else matchability
        return loss(logits, pairs.rows, pairs.labels, quality)

    def _cross_entropy(
        self,
        logits: Float[Tensor, "layers B Q K"],
        pairs: _Pairs,
        images: StepImages,
        repeats: int,
    ) -> Float[Tensor, " layers"]:
        """Cross entropy, divided by the weights of the classes that the step's queries learn."""
        weights = logits.new_ones(logits.shape[-1])
        weights[-1] = self.config.no_object_weight
        labels = torch.full_like(logits[..., 0], self.num_classes, dtype=torch.int64)
        labels.view(-1)[pairs.rows] = pairs.labels
        losses = F.cross_entropy(logits.movedim(-1, 1), labels, weights, reduction="none")
        num_queries = logits.shape[2]
        matched = images.num_matched(num_queries, repeats)
        others = images.num_images * num_queries - matched
        return losses.flatten(1).sum(1) / (matched + others * self.config.no_object_weight)


def _repeat(target: Targets, times: int) -> Targets:
    """Every object several times."""
    return replace(target, boxes=target.boxes.repeat(times, 1), labels=target.labels.repeat(times))


def _pair(
    layer_matches: Sequence[Sequence[Match]],
    targets: Sequence[Targets],
    boxes: Float[Tensor, "layers B Q 4"],
) -> _Pairs:
    num_queries = boxes.shape[2]
    first_objects = [0]
    for target in targets:
        first_objects.append(first_objects[-1] + len(target.labels))
    rows, objects = [], []
    for layer, matches in enumerate(layer_matches):
        for image, (queries, targets_matched) in enumerate(matches):
            rows.append(queries + (layer * len(targets) + image) * num_queries)
            objects.append(targets_matched + first_objects[image])
    index = torch.stack([torch.cat(rows), torch.cat(objects)]).to(boxes.device)
    all_boxes = torch.cat([target.fractions for target in targets]).to(boxes.dtype)
    all_labels = torch.cat([target.labels for target in targets])
    return _Pairs(index[0], all_boxes[index[1]], all_labels[index[1]])


def _distance(boxes: Float[Tensor, "layers B Q 4"], pairs: _Pairs) -> Float[Tensor, " layers"]:
    """L1 between matched boxes, summed in each layer."""
    matched = boxes.flatten(0, 2)[pairs.rows]
    return _sum_layers((matched - pairs.boxes).abs().sum(1), len(boxes))


def _overlap(boxes: Float[Tensor, "layers B Q 4"], pairs: _Pairs) -> Float[Tensor, " layers"]:
    """1 - GIoU of matched boxes, summed in each layer."""
    matched = centre_to_corners(boxes.flatten(0, 2)[pairs.rows])
    objects = centre_to_corners(pairs.boxes)
    return _sum_layers(generalized_box_iou_loss(matched, objects, eps=_SMALLEST_AREA), len(boxes))


def _sum_layers(values: Float[Tensor, " M"], num_layers: int) -> Float[Tensor, " layers"]:
    """Sums of the equal shares that the layers have of the pairs."""
    return values.view(num_layers, len(values) // num_layers).sum(1)
