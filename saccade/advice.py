"""What a run on few images should be told before it starts."""

import math
import shlex

from saccade.config import DetectorConfig
from saccade.presets import preset_config
from saccade.recipes import with_mixed_queries
from saccade.run_config import RunConfig
from saccade.weights.fit import conflicts

FEW_IMAGES = 500
VERY_FEW_IMAGES = 100
FEW_OBJECTS = 20
"""Of each class, on average."""
FEW_STEPS = 300

_PUBLISHED = {
    "deformable-detr-r50": "SenseTime/deformable-detr",
    "deformable-detr-r50-refine": "SenseTime/deformable-detr-with-box-refine",
    "deformable-detr-r50-two-stage": "SenseTime/deformable-detr-with-box-refine-two-stage",
    "deformable-detr-r50-single-scale": "SenseTime/deformable-detr-single-scale",
    "deformable-detr-r50-single-scale-dc5": "SenseTime/deformable-detr-single-scale-dc5",
    "detr-r50": "facebook/detr-resnet-50",
    "detr-r50-dc5": "facebook/detr-resnet-50-dc5",
    "detr-r101": "facebook/detr-resnet-101",
    "detr-r101-dc5": "facebook/detr-resnet-101-dc5",
}
"""The ids of published weights on the Hugging Face hub, by preset."""


def advice(config: RunConfig, num_images: int, num_objects: int) -> list[str]:
    """Sentences with the command or the options that would help; none where nothing is to be said.

    Args:
        config: The run, with the classes of its dataset.
        num_images: Of the split that is trained on.
        num_objects: In all of its images.
    """
    found = []
    trained = config.weights is not None
    small = config.model.backbone.name == "small-resnet"
    if num_images < FEW_IMAGES and not trained and not small:
        found.append(
            f"{num_images} images are few for a {config.model.backbone.name} detector from "
            f"{'ImageNet' if config.pretrained_backbone else 'random'} weights. Start from one "
            f"that knows objects: saccade train --data {shlex.quote(config.data)} "
            f"--weights {_published(config.model) or 'FILE'}"
        )
    elif num_images < FEW_IMAGES and not trained:
        found.append(
            f"{num_images} images are few to start from random weights with. If you have any run "
            "of this preset, on whatever objects, start from it: --weights RUN/best"
        )
    if trained and num_images < VERY_FEW_IMAGES and not config.freeze and not small:
        found.append(
            f"{num_images} images can hardly better a {config.model.backbone.name} that has seen "
            "images like them: try --freeze backbone too, which takes less time and memory. Where "
            "they look otherwise it costs AP."
        )
    found += few_steps(config, num_images)
    per_class = num_objects / config.model.num_classes
    if num_objects and per_class < FEW_OBJECTS:
        found.append(
            f"There are {per_class:.1f} objects a class to learn from ({num_objects} of "
            f"{config.model.num_classes} classes): some more marked images are worth more than "
            "any option."
        )
    return found


def few_steps(config: RunConfig, num_images: int) -> list[str]:
    """A sentence where a run is short, as `advice` says it."""
    steps = num_steps(config, num_images)
    if steps is None or steps >= FEW_STEPS or not num_images:
        return []
    longer = math.ceil(config.epochs * FEW_STEPS / steps)
    return [
        f"The run has {steps} steps of {_images_per_step(config)} images: expected some "
        f"hundreds at least. Add epochs (--epochs {longer})"
        + (", or take fewer images a step (--accumulate 1)." if config.accumulate > 1 else ".")
    ]


def num_steps(config: RunConfig, num_images: int) -> int | None:
    """How many steps a run takes; None for one that is bound by minutes."""
    if config.minutes is not None:
        return None
    processes = config.launch.devices * config.launch.num_nodes
    batches = max(1, num_images // (config.batch_size * processes))
    return config.epochs * math.ceil(batches / config.accumulate)


def _images_per_step(config: RunConfig) -> int:
    launch = config.launch
    return config.batch_size * config.accumulate * launch.devices * launch.num_nodes


def _published(model: DetectorConfig) -> str | None:
    """The id of published weights for a detector on the Hugging Face hub, if they fit it."""
    for preset, weights in _PUBLISHED.items():
        plain = preset_config(preset)
        # Mixed queries are the fast recipe's; a run from weights has the contents of these.
        for stored in (plain, with_mixed_queries(plain)):
            if not any(conflicts(stored, model)):
                return weights
    return None
