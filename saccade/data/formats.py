"""The formats that datasets come in, told apart by what is in the folder.

All are read to the same `Annotations`, in COCO's terms. What differs:

- **COCO** (`saccade.data.coco`): annotation files as they are.
- **YOLO** (`saccade.data.yolo`): images are numbered in the order of their paths, from 1.
- **Pascal VOC** (`saccade.data.voc`): classes are numbered in the order of their names, from 1.

Boxes lie in the image of the size that the annotations state: the stored one, or the one turned by
the camera's orientation (EXIF), whichever has that size, and the turned one if both have. YOLO
states no size; its boxes lie in the turned image, which is what people see when they mark them.
"""

from pathlib import Path

from saccade.data.coco import COCO
from saccade.data.split import Split
from saccade.data.voc import VOC
from saccade.data.yolo import YOLO

FORMATS = (COCO, YOLO, VOC)


def find_split(folder: Path, split: str) -> Split:
    """Find one split of a dataset.

    Looked for, in this order:

    - COCO: ``annotations/{split}.json`` with ``images/``; COCO's own
      ``annotations/instances_{split}2017.json`` with ``{split}2017/``, or the exact name
      (``split="val2017"``); Roboflow's ``{split}/_annotations.coco.json``.
    - YOLO: ``data.yaml``, ``dataset.yaml`` or another YAML file that lists splits and names.
    - Pascal VOC: ``ImageSets/Main/{split}.txt`` with ``Annotations/`` and ``JPEGImages/``, also one
      or two folders down (``VOCdevkit/VOC2012``); Roboflow's ``{split}/*.xml``.

    Where a split is usually called so, ``valid`` answers to ``val``.

    Args:
        folder: Of the dataset; a YAML file of YOLO's format will do too.
        split: The name of the part.

    Raises:
        ValueError: If no layout fits, with what was looked for and the splits there; if more than
            one does, or a YAML file is unusable.
    """
    for form in FORMATS:
        found = form.find(folder, split)
        if found is not None:
            return found
    sought = "; ".join(each for form in FORMATS for each in form.sought(split))
    splits = ", ".join(sorted({name for form in FORMATS for name in form.splits(folder)}))
    raise ValueError(
        f'{folder} has no split "{split}": looked for {sought}. Splits there: {splits or "none"}.'
    )
