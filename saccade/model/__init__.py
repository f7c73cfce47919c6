"""The detectors: every part in a file of its own, wired in `saccade.model.detector`."""

from saccade.model.detector import DetectorModel
from saccade.model.postprocess import Found, select

__all__ = ["DetectorModel", "Found", "select"]
