"""Data: annotated images on disk to augmented, padded batches."""

from saccade.data.annotations import Annotations
from saccade.data.batching import collate, evaluation_loader, training_loader
from saccade.data.broken_images import check_images, without_broken
from saccade.data.coco import CocoSplit
from saccade.data.dataset import DetectionDataset, random_seed
from saccade.data.formats import find_split
from saccade.data.images import image_suffixes, image_to_tensor, read_image
from saccade.data.mixing import training_mix
from saccade.data.split import Split
from saccade.data.split_dataset import SplitDataset
from saccade.data.transforms import (
    evaluation_transform,
    normalise,
    prepare_image,
    resize_image,
    training_transform,
)

__all__ = [
    "Annotations",
    "CocoSplit",
    "DetectionDataset",
    "Split",
    "SplitDataset",
    "check_images",
    "collate",
    "evaluation_loader",
    "evaluation_transform",
    "find_split",
    "image_suffixes",
    "image_to_tensor",
    "normalise",
    "prepare_image",
    "random_seed",
    "read_image",
    "resize_image",
    "training_loader",
    "training_mix",
    "training_transform",
    "without_broken",
]
