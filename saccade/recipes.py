"""How each family of detectors is trained: functions that return one complete run.

There are two recipes: `paper`, what was published for a detector, and `fast`, what has been found
since. docs/log.md says what each part of the latter does on small datasets.
"""

from dataclasses import replace
from typing import Literal

from saccade.config import DetectorConfig
from saccade.recipe_config import AugmentationConfig, LossConfig, OptimizerConfig, ScheduleConfig
from saccade.run_config import RunConfig

RecipeName = Literal["fast", "paper"]


def for_detector(model: DetectorConfig, recipe: RecipeName = "fast") -> RunConfig:
    """The recipe of that name for a detector."""
    return paper(model) if recipe == "paper" else fast(model)


def paper(model: DetectorConfig) -> RunConfig:
    """What was published for a detector: DETR's recipe, Deformable DETR's, or TSP's.

    The model trains without what later papers add to training.
    """
    model = replace(
        model,
        decoder=replace(model.decoder, look_forward_twice=False),
        denoising=replace(model.denoising, num_queries=0),
        one_to_many=replace(model.one_to_many, num_queries=0),
    )
    if model.selection.kind != "none":
        return tsp(model)
    return detr(model) if model.classification == "softmax" else deformable_detr(model)


def fast(model: DetectorConfig) -> RunConfig:
    """What trains in less time: `modern` for Deformable DETR, `small` for the smallest detectors.

    DETR with its softmax and the sparse detectors keep what was published for them: the parts of
    the modern recipe start from boxes, which their queries have not.
    """
    if model.backbone.name == "small-resnet":
        return small(model)
    deformable = model.decoder.num_layers > 0 and model.decoder.attention == "deformable"
    sigmoid = model.classification == "sigmoid"
    return modern(model) if deformable and sigmoid else paper(model)


def with_mixed_queries(model: DetectorConfig) -> DetectorConfig:
    """Of a two-stage detector, queries with learned contents at their proposals (DINO, section
    3.4); other detectors as they are. Weights of the one do not fit the other."""
    if model.queries.source != "two-stage":
        return model
    return replace(model, queries=replace(model.queries, content="learned"))


def modern(model: DetectorConfig) -> RunConfig:
    """24 epochs of 16 images a step with what DINO and its successors added.

    Denoising queries and losses that look forward twice (DINO, sections 3.3 and 3.5) where the
    detector starts from boxes, scores that are to tell the quality of a box (DEIM, section 3.3),
    averaged weights, and a learning rate that stays until the last part of the run. On one device
    eight batches of two are added up.
    """
    refined = model.decoder.refined
    denoising = 200 if model.queries.source == "two-stage" else 0
    return RunConfig(
        model=replace(
            model,
            decoder=replace(model.decoder, look_forward_twice=refined),
            denoising=replace(model.denoising, num_queries=denoising),
        ),
        accumulate=8,
        epochs=24,
        ema=0.9995,
        loss=LossConfig(quality="matchability"),
        optimizer=OptimizerConfig(learning_rate=1e-4, sampling_factor=1.0),
        schedule=ScheduleConfig(kind="flat-cosine", warmup=0.01, flat_until=0.6),
    )


def deformable_detr(model: DetectorConfig) -> RunConfig:
    """50 epochs, the rate dropped at 40 (Deformable DETR, appendix A.4; official repository).

    On one device 16 batches of two are added up to the official 32 images a step.
    """
    return RunConfig(model=model, accumulate=16)


def detr(model: DetectorConfig) -> RunConfig:
    """300 epochs, the rate dropped at 200 (DETR, appendix A.4; official repository).

    On one device eight batches of two are added up to the official 16 images a step.
    """
    return RunConfig(
        model=model,
        accumulate=8,
        loss=LossConfig(class_weight=1.0, class_cost=1.0),
        optimizer=OptimizerConfig(learning_rate=1e-4, sampling_factor=1.0),
        schedule=ScheduleConfig(drop_at=2 / 3),
        epochs=300,
    )


def tsp(model: DetectorConfig) -> RunConfig:
    """36 epochs of 16 images a step, the rate dropped after 24 (TSP, section 5; its repository).

    Theirs trains convolutions by SGD at 0.01 or 0.02, the encoder by AdamW at 1e-4, and drops the
    rate once more after 32 epochs; here AdamW trains all, at DETR's rates and with the weights of
    Deformable DETR's set loss. The clipping, ten times harder than DETR's, is theirs.

    Other differences: theirs weighs the box loss of TSP-RCNN's proposal network by 2, where
    `LossConfig.proposal_weight` weighs both of its losses alike. Theirs matches object by object,
    each to the cheapest of the tokens that are assigned to it alone; here all objects of an image
    share one assignment of least cost. Theirs divides TSP-FCOS's class loss by matched and assigned
    points together, and weighs its box loss by how central a point is.
    """
    return RunConfig(
        model=model,
        accumulate=8,
        augmentation=AugmentationConfig(short_sides=tuple(range(640, 801, 32)), crop=0.0),
        optimizer=OptimizerConfig(learning_rate=1e-4, sampling_factor=1.0, clip_norm=0.01),
        schedule=ScheduleConfig(drop_at=2 / 3),
        epochs=36,
    )


def small(model: DetectorConfig) -> RunConfig:
    """From random weights on a small machine: one learning rate, a cosine, the input's own size,
    and scores that learn the quality of boxes."""
    base = detr(model) if model.classification == "softmax" else deformable_detr(model)
    sigmoid = model.classification == "sigmoid"
    # Queries of zeros reach their first normalisation as a tiny bias alone, whose gradient is then
    # a hundred times all others': clipping by the norm of all would scale the others away.
    zeros = model.queries.source == "learned" and model.queries.content == "zeros"
    return replace(
        base,
        num_workers=1,
        loss=replace(base.loss, quality="matchability" if sigmoid else "none"),
        augmentation=AugmentationConfig(
            vertical_flip=0.5,
            short_sides=(model.input.short_side,),
            max_side=model.input.max_side,
            crop=0.0,
            zoom=0.2,
            brightness=0.15,
        ),
        optimizer=OptimizerConfig(
            learning_rate=8e-4,
            backbone_factor=1.0,
            sampling_factor=1.0,
            decay_vectors=False,
            clip_norm=0.0 if zeros else 0.5,
        ),
        schedule=ScheduleConfig(kind="cosine", warmup=0.03),
        batch_size=8,
        accumulate=1,
        pretrained_backbone=False,
    )
