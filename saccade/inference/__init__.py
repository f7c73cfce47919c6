"""From images to detections."""

from saccade.inference.predictor import Detector

__all__ = ["Detector"]
