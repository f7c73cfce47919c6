"""The detector as people use it: an image in, detections out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.data import image_to_tensor, read_image
from saccade.inference.detections import check_thresholds, to_detections
from saccade.inference.engine import TorchEngine, detect
from saccade.model import DetectorModel
from saccade.presets import preset_config
from saccade.weights import (
    LoadReport,
    load_weights,
    save_huggingface,
    save_official,
    save_weights,
)

if TYPE_CHECKING:
    from supervision import Detections

ImageLike = str | Path | Image.Image | npt.NDArray[np.uint8] | Tensor


class Detector:
    """A detector with its classes, from a preset or from weights.

    ``detector.model`` is the torch module: it takes a `Batch` and returns `Predictions`.
    """

    def __init__(
        self, config: DetectorConfig, model: DetectorModel, report: LoadReport | None = None
    ) -> None:
        self.config = config
        self.model = model.eval()
        self.report = report
        """What was loaded, adapted and left out; None for a detector with random weights."""

    @classmethod
    def from_preset(
        cls,
        name: str,
        class_names: Sequence[str] | None = None,
        pretrained_backbone: bool = False,
    ) -> "Detector":
        """A new detector, to be trained.

        Args:
            name: One of `saccade.presets()`.
            class_names: What it is to find; by default COCO's classes.
            pretrained_backbone: Whether timm fetches ImageNet weights for the backbone; all other
                weights are random.

        Raises:
            ValueError: If there is no such preset.
        """
        config = preset_config(name, class_names)
        return cls(config, DetectorModel(config, pretrained_backbone))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        class_names: Sequence[str] | None = None,
        preset: str | None = None,
        revision: str | None = None,
    ) -> "Detector":
        """A detector from weights.

        Args:
            source: A folder that `save_pretrained` wrote; an official ``.pth`` file of Deformable
                DETR or DETR; a transformers folder; or the id of one on the Hugging Face hub.
            class_names: Other classes than the stored ones: class heads are adapted by name, and
                ``detector.report`` says so.
            preset: Settles what an official file does not tell, such as dilation.
            revision: A branch, tag or commit on the hub.

        Raises:
            ValueError: If the source is missing, broken, or of an unknown architecture.
        """
        loaded = load_weights(source, class_names, preset, revision)
        model = DetectorModel(loaded.config)
        model.load_state_dict(loaded.state)
        return cls(loaded.config, model, loaded.report)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels stand for."""
        return self.config.class_names

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> "Detector":
        """Move the weights to a device; returns the detector itself."""
        self.model.to(device)
        return self

    def save_pretrained(
        self,
        path: str | Path,
        layout: Literal["saccade", "official", "transformers"] = "saccade",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write the weights.

        Args:
            path: A folder, made if it is missing; with the official layout a ``.pth`` file.
            layout: Our own (``model.safetensors`` and ``config.json``), that of the official
                repositories, or that of transformers.
            dtype: In our own layout, store floating-point weights in another type, such as
                torch.float16.

        Raises:
            ValueError: If the layout cannot hold this detector.
        """
        if layout not in ("saccade", "official", "transformers"):
            raise ValueError(
                f'layout is "{layout}": expected "saccade", "official" or "transformers".'
            )
        if dtype is not None and layout != "saccade":
            raise ValueError(
                f"dtype is {dtype}, but the {layout} layout holds float32: leave it out."
            )
        state = self.model.state_dict()
        if layout == "official":
            save_official(Path(path), self.config, state)
        elif layout == "transformers":
            save_huggingface(Path(path), self.config, state)
        else:
            save_weights(Path(path), self.config, state, dtype)

    @property
    def engine(self) -> TorchEngine:
        """The detector for images that are resized already; see `saccade.inference.engine`."""
        return TorchEngine(self.config, self.model)

    @overload
    def predict(
        self, images: ImageLike, threshold: float = ..., top_k: int = ..., batch_size: int = ...
    ) -> "Detections": ...

    @overload
    def predict(
        self,
        images: Sequence[Any],
        threshold: float = ...,
        top_k: int = ...,
        batch_size: int = ...,
    ) -> "list[Detections]": ...

    def predict(
        self,
        images: ImageLike | Sequence[Any],
        threshold: float = 0.3,
        top_k: int = 100,
        batch_size: int = 1,
    ) -> "Detections | list[Detections]":
        """Find objects.

        Args:
            images: One image or a list: a file, a Pillow image, an array [H, W, 3] or a tensor
                [3, H, W], both uint8 RGB in [0, 255]. (OpenCV reads BGR: turn the channels.)
            threshold: Lowest score reported, 0 to 1.
            top_k: Most detections per image.
            batch_size: Most images of a list that are run together, those only that are of one
                size: what is found does not depend on it.

        Returns:
            `supervision.Detections`, or a list of them: ``xyxy`` in pixels of the image as given,
            ``confidence``, ``class_id``, and ``data["class_name"]``; best first.

        Raises:
            FileNotFoundError: If an image file does not exist.
            ValueError: If an image cannot be read or is not 8-bit RGB, or the threshold is not in
                [0, 1].
        """
        check_thresholds(threshold, top_k, batch_size)
        if isinstance(images, Sequence) and not isinstance(images, str):
            return self._predict_all(images, threshold, top_k, batch_size)
        return self._predict_all([images], threshold, top_k, 1)[0]

    def _predict_all(
        self, images: Sequence[Any], threshold: float, top_k: int, batch_size: int
    ) -> "list[Detections]":
        results: list[Detections] = []
        # No more images are held than share a batch at best.
        for start in range(0, len(images), batch_size):
            pixels = [as_tensor(image) for image in images[start : start + batch_size]]
            found = detect(self.engine, pixels, top_k, batch_size)
            for image, one in zip(pixels, found, strict=True):
                size = (image.shape[1], image.shape[2])
                results.append(to_detections(one, size, threshold, self.class_names))
        return results


def as_tensor(image: ImageLike) -> Tensor:
    """An image in any accepted form as a uint8 RGB tensor [3, H, W].

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If a Pillow image, which reads its file only now, is truncated.
        ValueError: If it cannot be read or is not 8-bit RGB.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return image_to_tensor(image)
    # A copy, since torch reads neither read-only arrays nor those that run backwards.
    tensor = (
        torch.from_numpy(np.array(image)).movedim(-1, 0) if isinstance(image, np.ndarray) else image
    )
    if tensor.dtype != torch.uint8 or tensor.ndim != 3 or tensor.shape[0] != 3:
        layout = "[H, W, 3] array" if isinstance(image, np.ndarray) else "[3, H, W] tensor"
        raise ValueError(
            f"the image is {image.dtype} of shape {list(image.shape)}: expected a uint8 RGB "
            f"{layout}, values 0 to 255."
        )
    return tensor
